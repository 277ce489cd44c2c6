"""Which storage driver an engine has: several in one data-root, with user namespaces, and those that cannot be."""

import subprocess
from pathlib import Path

import pytest
from driver_lab import ON_BTRFS, make, require_btrfs

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


@pytest.mark.parametrize("driver", ["vfs", "btrfs"])
def test_with_user_namespaces(driver):
    """The container's root owns the tree in its own eyes; what it makes is root's on disk, and goes into layers so."""
    if driver == "btrfs":
        require_btrfs()
    ids = 'for f in subuid subgid; do echo 54321:300000:65536 >"$0/$f"; mount --bind "$0/$f" /etc/$f || exit; done; '
    rest = ON_BTRFS.partition(" && ")[2] if driver == "btrfs" else 'exec "$@"'
    script = f"mount --make-rprivate / && {{ {ids} }} && {rest}"
    engine = make(
        "--storage-driver", driver, "--userns-remap", "54321", within=("unshare", "-m", "sh", "-c", script, "HOME")
    )
    try:
        engine.start()
        engine.import_busybox()
        look = "stat -c %u /own /etc/passwd /v/f; cat /own; tail -1 /proc/self/uid_map"
        made = engine.docker(
            "run", "--name", "box", "-v", "/v", "busybox", "sh", "-c", f"echo 1 >/own; touch /v/f; {look}"
        )
        assert made.stdout.split() == ["0", "0", "0", "1", "0", "300000", "65536"]
        assert engine.docker("diff", "box").stdout.splitlines().count("A /own") == 1
        listing = subprocess.run(
            ["tar", "tvf", "-", "--numeric-owner"],
            input=engine.docker("cp", "box:/own", "-", text=False).stdout,
            capture_output=True,
            check=True,
        )
        assert b" 0/0 " in listing.stdout
        engine.docker("commit", "box", "made")
        assert engine.docker("run", "--rm", "made", "stat", "-c", "%u %g", "/own").stdout == "0 0\n"
        engine.remove_containers()
    finally:
        engine.destroy()


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
