from __future__ import annotations

import errno
import os
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError
from orlop.kernel.statfs import PROC_SUPER_MAGIC
from orlop.primitives.rootpath import (
    components,
    create_file_in_root,
    is_char_device,
    is_on,
    is_proc,
    mkdir_all_in_root,
    open_directory_in_root,
    open_in_root,
)


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("host")
    return path


@pytest.fixture
def inside(tmp_path, outside):
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def root(inside):
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def real(owned):
    with owned:
        assert os.get_inheritable(owned.fileno()) is False
        return os.readlink(f"/proc/self/fd/{owned.fileno()}")


def test_components():
    assert components("/a//./b/../c/") == [b"a", b"c"]
    assert components("../../..") == []
    assert components(b"\xff/x") == [b"\xff", b"x"]
    for bad in ("a\0b", "x" * 256):
        with pytest.raises(InvalidParameterError):
            components(bad)


def test_links_resolve_inside(root, inside, outside):
    (inside / "run").mkdir()
    (inside / "var").mkdir()
    (inside / "var/run").symlink_to("/run")
    (inside / "up").symlink_to("../../../../run")
    (inside / "host").symlink_to(outside)
    assert real(open_in_root(root, "/var/run")) == str(inside / "run")
    assert real(open_in_root(root, "up")) == str(inside / "run")
    with pytest.raises(OSError) as caught:
        open_in_root(root, "host/secret")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(OSError) as caught:
        open_directory_in_root(root, "host")
    assert caught.value.errno == errno.ENOENT


def test_magic_links_are_refused():
    fd = os.open("/", os.O_PATH)
    try:
        with pytest.raises(OSError) as caught:
            open_in_root(fd, f"/proc/{os.getpid()}/cwd")
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(fd)


def test_mkdir_all(root, inside):
    assert real(mkdir_all_in_root(root, "/a/b/c", 0o711)) == str(inside / "a/b/c")
    assert (inside / "a/b/c").stat().st_mode & 0o777 == 0o711
    assert real(mkdir_all_in_root(root, "a/b/c")) == str(inside / "a/b/c")
    assert real(mkdir_all_in_root(root, "/")) == str(inside)
    assert real(mkdir_all_in_root(root, "../../x/../y")) == str(inside / "y")


def test_mkdir_all_follows_links_only_inside(root, inside, outside):
    (inside / "dangling").symlink_to(outside / "new")
    (inside / "relative").symlink_to("deep/er")
    made = real(mkdir_all_in_root(root, "dangling/x"))
    assert made == f"{inside}{outside}/new/x"
    assert not (outside / "new").exists()
    assert real(mkdir_all_in_root(root, "relative/x")) == str(inside / "deep/er/x")


def test_mkdir_all_refusals(root, inside):
    (inside / "file").write_text("")
    (inside / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        mkdir_all_in_root(root, "file/x")
    assert caught.value.errno == errno.ENOTDIR
    with pytest.raises(OSError) as caught:
        mkdir_all_in_root(root, "loop/x")
    assert caught.value.errno == errno.ELOOP


def test_create_file(root, inside, outside):
    assert real(create_file_in_root(root, "/etc/hosts", 0o644)) == str(inside / "etc/hosts")
    (inside / "etc/hosts").write_text("kept")
    assert real(create_file_in_root(root, "/etc/hosts")) == str(inside / "etc/hosts")
    assert (inside / "etc/hosts").read_text() == "kept"
    (inside / "link").symlink_to(outside / "made")
    assert real(create_file_in_root(root, "link")) == f"{inside}{outside}/made"
    assert not (outside / "made").exists()
    (inside / "self").symlink_to("self")
    for path, code in (("etc", errno.EISDIR), ("/", errno.EISDIR), ("self", errno.ELOOP), ("link/x", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            create_file_in_root(root, path)
        assert caught.value.errno == code, path


def test_nothing_is_made_outside_while_links_are_swapped(root, inside, outside):
    """CVE-2024-45310: a component flips between directory and link while the chain is made."""
    stop = threading.Event()

    def flip():
        while not stop.is_set():
            try:
                os.symlink(outside, inside / "a")
                os.unlink(inside / "a")
            except OSError:
                continue

    thread = threading.Thread(target=flip)
    thread.start()
    made = number = 0
    deadline = time.monotonic() + 60
    try:
        while number < 300 or (not made and time.monotonic() < deadline):
            number += 1
            try:
                mkdir_all_in_root(root, f"a/{number}/b").close()
                create_file_in_root(root, f"a/{number}/f").close()
                made += 1
            except OSError:
                continue
    finally:
        stop.set()
        thread.join()
    assert sorted(os.listdir(outside)) == ["secret"]
    assert made


def test_descriptors_do_not_leak(root, inside):
    (inside / "file").write_text("")
    (inside / "d").symlink_to("nowhere/at/all")
    before = {*os.listdir("/proc/self/fd")}
    for path in ("file/x", "d/x", "a/b", "loop"):
        for function in (mkdir_all_in_root, create_file_in_root):
            try:
                function(root, path).close()
            except OSError:
                continue
    assert {*os.listdir("/proc/self/fd")} <= before  # what other tests left may be closed meanwhile


def test_verification():
    with open("/dev/null") as null, open("/dev/zero") as zero, open("/proc/self/stat") as proc:
        assert is_char_device(null.fileno(), 1, 3)
        assert not is_char_device(zero.fileno(), 1, 3)
        assert not is_char_device(proc.fileno(), 1, 3)
        assert is_proc(proc.fileno())
        assert not is_proc(null.fileno())
        assert is_on(proc.fileno(), PROC_SUPER_MAGIC)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["a", "b", "c", "..", ".", "/", "out"]), max_size=8).map("/".join),
    st.sampled_from(["/", "..", "/b", "c/../..", "../../../outside", "a"]),
)
def test_every_path_stays_inside(tmp_path_factory, path, target):
    base = tmp_path_factory.mktemp("r")
    inside = base / "root"
    (inside / "b").mkdir(parents=True)
    (inside / "out").symlink_to(target)
    (base / "outside").mkdir()
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    try:
        for function in (mkdir_all_in_root, create_file_in_root):
            try:
                found = real(function(fd, path))
            except OSError:
                continue
            assert found == str(inside) or found.startswith(f"{inside}/")
    finally:
        os.close(fd)
    assert os.listdir(base / "outside") == []
    assert sorted(os.listdir(base)) == ["outside", "root"]
