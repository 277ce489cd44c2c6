"""Engines on other storage drivers than overlay2, and several drivers in one data-root."""

import json
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import Engine, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
ON_BTRFS = (
    "mount --make-rprivate / && truncate -s 300M $0/image && mkfs.btrfs -q $0/image && mkdir -p $0/data"
    ' && mount -o loop $0/image $0/data && exec "$@"'
)
CHANGES = (
    "mkdir -p /d; echo hi >/d/f; ln /d/f /d/g; chown 7:8 /d/f; rm /bin/vi; rm -r /usr; mkdir /usr; echo n >/usr/new"
)


def make(*options, within=()):
    name = f"orlop-t-{secrets.token_hex(4)}"
    engine = Engine(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")), name, options)
    engine.within = tuple(word.replace("HOME", str(engine.home)) for word in within)
    return engine


@pytest.fixture(scope="module", params=["vfs", "btrfs"])
def engine(request):
    within = ()
    if request.param == "btrfs":
        if "btrfs" not in Path("/proc/filesystems").read_text() or shutil.which("mkfs.btrfs") is None:
            pytest.skip("needs btrfs and mkfs.btrfs")
        within = ("unshare", "-m", "sh", "-c", ON_BTRFS, "HOME")
    options = ("--storage-opt", "btrfs.min_space=8m") if request.param == "btrfs" else ()
    made = make("--storage-driver", request.param, *options, within=within)
    try:
        made.start()
        made.import_busybox()
        yield made
    finally:
        made.destroy()


@pytest.fixture(autouse=True)
def clean(request):
    yield
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine").remove_containers()


def test_containers_are_apart_and_info_names_the_driver(engine):
    assert engine.docker("info", "-f", "{{.Driver}}").stdout.strip() == engine.options[1]
    engine.docker("run", "--name", "one", "busybox", "sh", "-c", "echo 1 >/etc/passwd; touch /x")
    assert "alice" in engine.docker("run", "--rm", "busybox", "cat", "/etc/passwd").stdout
    assert engine.docker("diff", "one").stdout.splitlines() == ["C /etc", "C /etc/passwd", "A /x"] or set(
        engine.docker("diff", "one").stdout.splitlines()
    ) == {"C /etc/passwd", "A /x"}
    mounted = engine.docker("run", "--rm", "busybox", "sh", "-c", "cat /etc/hostname /proc/mounts; ls -l /etc/mtab")
    assert " / overlay " not in mounted.stdout
    assert json.loads(engine.docker("inspect", "-s", "one").stdout)[0]["SizeRw"] == 2


def test_a_size_is_refused_where_nothing_could_hold_it(engine):
    if engine.options[1] == "btrfs":
        pytest.skip("it can")
    refused = engine.docker("create", "--storage-opt", "size=1G", "busybox", check=False)
    assert "--storage-opt is supported only for overlay over xfs or ext4 with project quotas" in refused.stderr
    assert engine.docker("ps", "-aq").stdout == ""


def test_a_size_on_btrfs_holds(engine):
    """By quota groups, which are the file system's own affair: what the container has from its image counts as well."""
    if engine.options[1] != "btrfs":
        pytest.skip("it is for btrfs")
    small = engine.docker("create", "--storage-opt", "size=7M", "busybox", check=False)
    assert "btrfs: storage size cannot be less than 8.389MB" in small.stderr
    script = "dd if=/dev/zero of=/f bs=1M count=40; sync; du -m /f | cut -f1"
    limited = engine.docker("run", "--rm", "--storage-opt", "size=20M", "busybox", "sh", "-c", script, check=False)
    assert "Disk quota exceeded" in limited.stderr
    assert int(limited.stdout.split()[-1]) < 20
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", script).stdout.split()[-1] == "40"


def test_commit_makes_whiteouts_and_the_layer_is_applied(engine):
    engine.docker("run", "--name", "one", "busybox", "sh", "-c", CHANGES)
    engine.docker("commit", "one", "made")
    script = "stat -c '%h %u:%g' /d/g; cat /usr/new; ls /usr /bin/vi 2>/dev/null; test -e /bin/sh"
    assert engine.docker("run", "--rm", "made", "sh", "-c", script).stdout.split() == ["2", "7:8", "n", "/usr:", "new"]
    engine.docker("run", "--name", "two", "made", "sh", "-c", "rm -r /d; echo again >/bin/vi")
    engine.docker("commit", "two", "again")
    assert engine.docker("run", "--rm", "again", "sh", "-c", "ls -d /d; cat /bin/vi", check=False).stdout == "again\n"
    # the same tree is the same layer, by whichever driver
    engine.docker("commit", "two", "twice")
    layers = [engine.docker("inspect", "-f", "{{.RootFS.Layers}}", name).stdout for name in ("again", "twice")]
    assert layers[0] == layers[1]
    engine.docker("rmi", "-f", "twice", "again", "made")


def test_copies_and_exports(engine, tmp_path):
    file = tmp_path / "f"
    file.write_text("x")
    engine.docker("create", "--name", "still", "-v", "/vol", "busybox", "cat", "/f", "/vol/f")
    engine.docker("cp", file, "still:/f")
    engine.docker("cp", file, "still:/vol/f")
    assert engine.docker("start", "-a", "still").stdout == "xx"
    assert engine.docker("cp", "still:/f", "-").stdout.count("x")
    listing = subprocess.run(
        ["tar", "tf", "-"], input=engine.docker("export", "still", text=False).stdout, capture_output=True, check=True
    )
    assert {"f", "bin/busybox"} <= set(listing.stdout.decode().split())
    engine.docker("rm", "-v", "still")


def test_nothing_stays_after_a_kill(engine):
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    engine.docker("create", "--name", "other", "busybox")
    if engine.within:
        pytest.skip("the mount goes with the engine")
    engine.kill()
    engine.start()
    assert engine.inspect("box")["State"]["Status"] == "running"
    engine.remove_containers()
    engine.docker("rmi", "busybox")
    layers = engine.data_root / "layers" / engine.options[1]
    wait_for(lambda: [path.name for path in layers.iterdir()] in ([], ["scratch-init"]), seconds=5)
    engine.import_busybox()


def test_drivers_side_by_side_lose_nothing(tmp_path):
    """Each driver has its own images and containers; volumes are shared, and none goes that the others use."""
    engine = make()
    try:
        engine.start()
        engine.import_busybox()
        engine.docker("run", "--name", "first", "-v", "shared:/v", "busybox", "sh", "-c", "echo 1 >/v/x")
        image = engine.docker("inspect", "-f", "{{.Id}}", "busybox").stdout
        engine.stop()
        engine.options = ("--storage-driver", "vfs")
        engine.start()
        assert engine.docker("ps", "-aq").stdout == engine.docker("images", "-q").stdout == ""
        engine.import_busybox()
        assert (
            engine.docker("run", "--rm", "--name", "first", "-v", "shared:/v", "busybox", "cat", "/v/x").stdout == "1\n"
        )
        engine.prune_volumes()
        assert engine.docker("volume", "ls", "-q").stdout == "shared\n"
        engine.docker("rmi", "busybox")
        engine.stop()
        engine.options = ()  # what was used before, and overlay2 first
        engine.start()
        assert engine.docker("info", "-f", "{{.Driver}}").stdout == "overlay2\n"
        assert engine.docker("inspect", "-f", "{{.Id}}", "busybox").stdout == image
        assert engine.docker("diff", "first").returncode == 0
        assert engine.docker("ps", "-a", "--format", "{{.Names}} {{.Image}}").stdout == "first busybox\n"
        engine.docker("rm", "first")
    finally:
        engine.destroy()


def test_what_cannot_be_is_refused_by_name():
    engine = make("--storage-driver", "btrfs")
    try:
        if (
            subprocess.run(["stat", "-fc", "%T", engine.home], capture_output=True, text=True, check=True).stdout
            == "btrfs\n"
        ):
            pytest.skip("it can be here")
        with pytest.raises(AssertionError, match="prerequisites for driver not satisfied"):
            engine.start()
        engine.options = ("--storage-driver", "aufs")
        with pytest.raises(AssertionError, match="storage driver is not supported: aufs"):
            engine.start()
        engine.options = ("--storage-opt", "overlay2.size=1g")
        with pytest.raises(AssertionError, match=r"overlay2\.size not supported"):
            engine.start()
        if "device-mapper" not in Path("/proc/misc").read_text():
            engine.options = ("--storage-driver", "devicemapper")
            with pytest.raises(AssertionError, match="devicemapper: there is no device mapper in this kernel"):
                engine.start()
    finally:
        engine.destroy()
