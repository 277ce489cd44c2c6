"""Finding the hierarchies, and where a container's cgroup goes."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError, UnavailableError, UnsupportedError
from orlop.runtime.cgroups import detect, normalise_path

V1_CGROUP = "3:cpu,cpuacct:/user\n2:memory:/\n1:name=systemd:/x\n0::/init.scope\n"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/mem\\040ory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
50 31 0:32 / /elsewhere rw,relatime - cgroup cgroup rw,memory
"""
V2_MOUNT = "41 31 0:38 / {} rw,relatime - cgroup2 cgroup2 rw\n"


def proc(tmp_path, cgroup: str, mountinfo: str) -> str:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text(cgroup)
    (tmp_path / "self/mountinfo").write_text(mountinfo)
    return str(tmp_path)


def test_legacy(tmp_path):
    found = detect(proc=proc(tmp_path, V1_CGROUP, V1_MOUNTS))
    assert (found.version, found.mode, found.unified) == (1, "legacy", None)
    assert found.directory("cpuacct") == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.directory("memory") == "/sys/fs/cgroup/mem ory"
    assert found.directory("pids") is None
    assert found.controllers == {"cpu", "cpuacct", "memory"}


def test_hybrid(tmp_path):
    found = detect(proc=proc(tmp_path, V1_CGROUP, V1_MOUNTS + V2_MOUNT.format("/sys/fs/cgroup/unified")))
    assert (found.version, found.mode, found.unified) == (1, "hybrid", "/sys/fs/cgroup/unified")


def test_unified(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    found = detect(proc=proc(tmp_path, "0::/\n", V2_MOUNT.format(tmp_path)))
    assert (found.version, found.mode, found.unified) == (2, "unified", str(tmp_path))
    assert found.controllers == {"cpu", "io", "memory", "pids"}


def test_none(tmp_path):
    with pytest.raises(UnavailableError, match="no cgroup"):
        detect(proc=proc(tmp_path, "0::/\n", "31 23 0:28 / / rw - ext4 /dev/sda rw\n"))


@pytest.mark.parametrize(
    ("given", "path"),
    [("", "/orlop/abc"), ("/docker/abc", "/docker/abc"), ("docker//./abc/", "/docker/abc"), ("/a", "/a")],
)
def test_path(given, path):
    assert normalise_path(given, container_id="abc") == path


@pytest.mark.parametrize(
    "given",
    ["/", "..", "/../x", "/a/../../b", "/a/..", "a\nb", "/a b", "a\0", "/" + "x" * 256, "/x" * 1100, "a:b", ".", "//"],
)
def test_paths_that_lead_elsewhere(given):
    with pytest.raises(InvalidParameterError, match="invalid cgroup path"):
        normalise_path(given, container_id="abc")


def test_systemd_path():
    scope = "system.slice:docker:abc"
    with pytest.raises(UnsupportedError, match="systemd cgroup driver"):
        normalise_path(scope, container_id="abc", systemd=False)
    assert normalise_path(scope, container_id="abc", systemd=True) == scope
    assert normalise_path(scope, container_id="abc") == scope
    assert normalise_path("", container_id="abc", systemd=True) == "system.slice:orlop:abc"
    with pytest.raises(InvalidParameterError, match='expected cgroupsPath to be of format "slice:prefix:name"'):
        normalise_path("/docker/abc", container_id="abc", systemd=True)


@pytest.mark.parametrize("identity", ["", "..", ".", "a/b", "a:b", "a" * 256, "a\n"])
def test_bad_ids(identity):
    with pytest.raises(InvalidParameterError, match="invalid container id"):
        normalise_path("", container_id=identity)
