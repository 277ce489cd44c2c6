import os

import pytest

from orlop.errors import InvalidParameterError, OrlopError, UnsupportedError
from orlop.kernel import mount as k
from orlop.runtime.mount_options import KNOWN_OPTIONS, MountOptions, parse_options
from orlop.runtime.operations import MountFilesystem
from orlop.runtime.rootfs import overlay_legacy_options, plan
from orlop.spec.launch import OverlayRoot
from orlop.spec.oci import parse_config


def configuration(mounts, **linux):
    return parse_config(
        {
            "ociVersion": "1.2.0",
            "root": {"path": "/r"},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "mounts": mounts,
            "linux": {"namespaces": [{"type": "mount"}], **linux},
        },
    )


def described(mounts, *, user_namespace=False, **linux):
    config = configuration(mounts, **linux)
    return [operation.describe() for operation in plan(config, {}, user_namespace=user_namespace)]


# no device nodes are made there
BOUND_DEV = {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}


def test_plan_is_in_order_and_masks_come_last():
    assert described(
        [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/data", "type": "bind", "source": "/host", "options": ["rbind", "ro"]},
            BOUND_DEV,
        ],
        readonlyPaths=["/proc/sys"],
        maskedPaths=["/proc/keys"],
    ) == [
        f"mount proc proc /proc attr={k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NOEXEC | k.MOUNT_ATTR_NODEV:#x}",
        f"rbind /host /data attr={k.MOUNT_ATTR_RDONLY:#x}",
        "rbind /dev /dev attr=0x0",
        "read-only /proc/sys",
        "mask /proc/keys",
    ]


def test_device_nodes_come_unless_dev_is_bound_and_are_bound_in_a_user_namespace():
    dev = [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}]
    made = described(dev)
    assert "node /dev/null c 1:3 666" in made
    assert "link /dev/ptmx -> pts/ptmx" in made
    assert "node /dev/null bound from /dev/null" in described(dev, user_namespace=True)
    assert "node /dev/null c 1:3 666" in described([])
    assert described([BOUND_DEV]) == ["rbind /dev /dev attr=0x0"]


def test_cgroups_of_the_host_are_read_only_in_a_user_namespace():
    """CVE-2023-25809: without a cgroup namespace a rootless container had its host's files writable."""
    mount = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["nosuid", "rw"]}]
    own = {"namespaces": [{"type": "mount"}, {"type": "cgroup"}]}
    read_only = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_RDONLY
    assert described(mount, user_namespace=True)[:1] == [f"cgroups /sys/fs/cgroup  attr={read_only:#x}"]
    for settings in ({"user_namespace": False}, {"user_namespace": True, **own}):
        assert described(mount, **settings)[:1] == [f"cgroups /sys/fs/cgroup  attr={k.MOUNT_ATTR_NOSUID:#x}"]


def test_options_of_a_cgroup_mount_that_are_none():
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nsdelegate", "memory_recursiveprot"]}
    assert described([mount])[0].startswith("cgroups /sys/fs/cgroup")
    with pytest.raises(InvalidParameterError, match="invalid option of a cgroup mount: sync"):
        described([{**mount, "options": ["ro", "sync"]}])


def test_mount_label_is_for_file_systems_without_labels_of_their_own():
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
        {"destination": "/data", "type": "bind", "source": "/host"},
    ]
    lines = described(mounts, mountLabel="system_u:object_r:container_file_t:s0:c1,c2")
    assert [line for line in lines if "context=" in line] == [
        "mount tmpfs tmpfs /run attr=0x0 size=1m,context=system_u:object_r:container_file_t:s0:c1,c2"
    ]


@pytest.mark.parametrize("destination", ["/", "/.", "/a/.."])
def test_nothing_is_mounted_on_the_root(destination):
    with pytest.raises(InvalidParameterError):
        described([{"destination": destination, "type": "tmpfs"}])


BELOW_PROC = ("/proc/self", "/proc/1/attr", "//proc/x/", "/a/../proc/self")


@pytest.mark.parametrize(
    ("kind", "destination"),
    [("tmpfs", "/proc"), *((kind, place) for kind in ("bind", "tmpfs") for place in BELOW_PROC)],
)
def test_nothing_hides_proc(kind, destination):  # CVE-2019-16884
    with pytest.raises(InvalidParameterError, match="inside /proc"):
        described([{"destination": destination, "type": kind, "source": "/x", "options": []}])


def test_known_files_of_proc_may_be_bound():
    assert described([{"destination": "/proc/cpuinfo", "type": "bind", "source": "/x"}])


def test_later_options_win_and_unknown_ones_are_parameters():
    options = parse_options(["ro", "nosuid", "rw", "noatime", "rprivate", "size=64k", "rro"])
    assert options.attr_set == k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NOATIME
    assert options.attr_clear & k.MOUNT_ATTR_RDONLY
    assert options.propagation == k.MS_PRIVATE | k.MS_REC
    assert options.recursive_set == k.MOUNT_ATTR_RDONLY
    assert options.parameters == ("size=64k",)


def test_recursive_options_are_of_the_tree():
    options = parse_options(["rro", "rnosuid", "rsuid", "rnoatime", "nosymfollow", "ridmap", "sync"])
    assert options.recursive_set == k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOATIME
    assert options.recursive_clear == k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR__ATIME
    assert options.attr_set == k.MOUNT_ATTR_NOSYMFOLLOW
    assert options.idmap
    assert options.recursive_idmap
    assert options.parameters == ("sync",)  # of the file system; a bind mount has none


def test_every_option_of_the_specification_is_known():
    assert len(KNOWN_OPTIONS) == len(set(KNOWN_OPTIONS))
    for option in KNOWN_OPTIONS:
        parse_options([option, "bind"])
    assert {"ro", "rro", "ratime", "rnostrictatime", "rsymfollow", "idmap", "tmpcopyup", "runbindable"} <= {
        *KNOWN_OPTIONS
    }


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("bind", ["bind", "idmap"], "no mappings and no user namespace"),
        ("tmpfs", ["idmap"], "for bind mounts only"),
        ("bind", ["bind", "tmpcopyup"], "tmpfs only"),
        ("bind", ["bind", "sync"], "invalid option of a bind mount"),
        ("Bind!", [], "invalid mount type"),
    ],
)
def test_options_that_do_not_go_together(kind, options, words):
    with pytest.raises(OrlopError, match=words):
        described([{"destination": "/m", "type": kind, "source": "/x", "options": options}])


def test_options_that_would_be_ignored_are_refused():
    with pytest.raises(UnsupportedError):
        parse_options(["remount", "ro"])
    with pytest.raises(InvalidParameterError):
        parse_options(["size=1\n2"])


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (["size=1m,mode=700", "", "uid=5"], "size=1m,mode=700,uid=5"),
        (["mpol=bind:0,2,size=1m"], "mpol=bind:0,2,size=1m"),
        (['context="a:b:c:s0:c1,c2"'], 'context="a:b:c:s0:c1,c2"'),
    ],
)
def test_parameters_in_one_word_are_several(options, parameters):
    mount = {"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options}
    operation = plan(configuration([mount, BOUND_DEV]), {}, user_namespace=False)[0]
    assert isinstance(operation, MountFilesystem)
    assert ",".join(operation.options.parameters) == parameters
    assert len(operation.options.parameters) == parameters.count("=")


def test_legacy_overlay_options_name_layers_in_order():
    root = OverlayRoot(("/a", "/b"), "/u", "/w", volatile=True)
    assert overlay_legacy_options(root, ["3", "4", "5", "6"]) == "lowerdir=3:4,upperdir=5,workdir=6,volatile"
    assert overlay_legacy_options(OverlayRoot(("/a", "/b")), ["3", "4"]) == "lowerdir=3:4"


def test_message_queues_take_their_label_as_an_attribute():
    """Their file system is mounted in the kernel already: an option would be refused (EINVAL)."""
    mounts = [{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}]
    assert described(mounts, mountLabel="u:r:t")[:1] == ["mount mqueue mqueue /dev/mqueue attr=0x0 label=u:r:t"]


@pytest.mark.privileged
@pytest.mark.requires("root", "mountns")
def test_what_is_read_only_is_labelled_before():
    options = MountOptions(attr_set=k.MOUNT_ATTR_RDONLY, parameters=("mode=755",))
    with MountFilesystem("tmpfs", "tmpfs", "/m", options, label="u:r:t").make() as tree:
        place = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree.fileno())
        try:
            assert os.getxattr(place, "security.selinux") == b"u:r:t\0"
        finally:
            os.close(place)
