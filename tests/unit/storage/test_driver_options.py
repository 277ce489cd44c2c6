"""``--storage-opt`` of the daemon: what each driver knows, and in which words the rest is refused."""

import pytest

from orlop.errors import InvalidParameterError, OrlopError, UnsupportedError
from orlop.storage.choice import check_driver
from orlop.storage.devicemapper.options import Settings, parse_options
from orlop.storage.devicemapper.pool import PoolStatus, parse_status
from orlop.storage.limits import human_size
from orlop.storage.options import btrfs_min_space, overlay2_size, parse_pairs


@pytest.mark.parametrize(
    ("driver", "option"),
    [
        ("overlay2", "overlay2.size=1g"),
        ("overlay2", "Overlay2.Override_Kernel_Check=true"),
        ("btrfs", "btrfs.min_space=1g"),
        ("devicemapper", "dm.basesize=20G"),
        ("", "dm.basesize=20G"),
        ("", "btrfs.min_space=1g"),
    ],
)
def test_known(driver, option):
    check_driver(driver, [option])


@pytest.mark.parametrize(
    ("driver", "option", "message"),
    [
        ("overlay2", "overlay2.colour=red", "overlay2: unknown option overlay2.colour"),
        ("overlay2", "dm.basesize=1g", "overlay2: unknown option dm.basesize"),
        ("overlay2", "overlay2.size=x", "invalid size: 'x'"),
        ("overlay2", "overlay2.size", "unable to parse key/value option: overlay2.size"),
        ("btrfs", "btrfs.max_space=1g", "Unknown option btrfs.max_space"),
        ("btrfs", "btrfs.min_space=much", "invalid size: 'much'"),
        ("vfs", "vfs.xattrs=x", "unknown option vfs.xattrs for vfs"),
        ("devicemapper", "dm.colour=red", "devmapper: Unknown option dm.colour"),
        ("devicemapper", "dm.fs=btrfs", "devmapper: Unsupported filesystem btrfs"),
        ("devicemapper", "dm.basesize=0", "invalid size: '0'"),
        ("devicemapper", "dm.blocksize=100k", "dm.blocksize must be a multiple of 64K and at most 1G: 100k"),
        ("devicemapper", "dm.min_free_space=10", "devmapper: Option dm.min_free_space requires % suffix"),
        ("devicemapper", "dm.min_free_space=100%", "devmapper: Invalid value 100% for option dm.min_free_space"),
        ("devicemapper", "dm.blkdiscard=perhaps", 'strconv.ParseBool: parsing "perhaps": invalid syntax'),
        ("devicemapper", "dm.datadev=sdb", "dm.datadev must be an absolute path: sdb"),
        ("devicemapper", "dm.thinpooldev=/dev/sdb", "not a device mapper device: /dev/sdb"),
        ("", "dm.colour=red", "overlay2: unknown option dm.colour"),
    ],
)
def test_refused(driver, option, message):
    with pytest.raises(InvalidParameterError) as caught:
        check_driver(driver, [option])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("dm.directlvm_device=/dev/sdb", "make a thin pool with lvm2"),
        ("dm.use_deferred_removal=false", "devices always go when the last user does"),
        ("dm.mountopt=discard,noatime", "not those of a mount: noatime"),
        ("dm.xfs_nospace_max_retries=0", "use dm.fs=ext4"),
    ],
)
def test_what_dockerd_had_and_orlop_has_not(option, message):
    with pytest.raises(UnsupportedError, match=message):
        check_driver("devicemapper", [option])


def test_an_unknown_driver():
    with pytest.raises(OrlopError, match="storage driver is not supported: aufs"):
        check_driver("aufs", [])


def test_values():
    assert overlay2_size(parse_pairs(["overlay2.size=1g", "overlay2.size=2g"])) == 2 << 30
    assert btrfs_min_space({"btrfs.min_space": "512m"}) == 512 << 20
    assert parse_options({}) == Settings()
    given = [
        *("dm.loopdatasize=1g", "dm.loopmetadatasize=16m", "dm.blocksize=128k", "dm.basesize=64m", "dm.fs=xfs"),
        *("dm.mkfsarg=-m reflink=0", "dm.mountopt=logbufs=8,,inode64", "dm.blkdiscard=false", "dm.min_free_space=0%"),
        *("dm.use_deferred_removal=true", "dm.use_deferred_deletion=1", "dm.override_udev_sync_check=true"),
    ]
    assert parse_options(parse_pairs(given)) == Settings(
        loop_data_size=1 << 30,
        loop_metadata_size=16 << 20,
        block_size=128 << 10,
        base_size=64 << 20,
        kind="xfs",
        mkfs_arguments=("-m", "reflink=0"),
        mount_options=("logbufs=8", "inode64"),
        discard=False,
        least_free=0,
    )


def test_discards_are_for_sparse_files_unless_asked_for():
    assert parse_options({"dm.thinpooldev": "/dev/mapper/vg-pool"}) == Settings(thin_pool="vg-pool", discard=False)
    assert parse_options({"dm.datadev": "/dev/sdb", "dm.blkdiscard": "true"}).discard
    with pytest.raises(InvalidParameterError, match="excludes"):
        parse_options({"dm.thinpooldev": "p", "dm.datadev": "/dev/sdb"})


def test_the_status_of_a_pool():
    text = "7 215/4096 12/16384 - out_of_data_space discard_passdown error_if_no_space - 1024"
    assert parse_status(text) == PoolStatus(7, 215, 4096, 12, 16384, "out_of_data_space")
    for broken in ("Fail", "Error", "", "1 2"):
        with pytest.raises(OrlopError, match="the thin pool is broken"):
            parse_status(broken)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (65536, "65.54kB"), (10737418240, "10.74GB"), (10**16, "10PB")]
)
def test_sizes_as_dockerd_writes_them(size, text):
    assert human_size(size) == text
