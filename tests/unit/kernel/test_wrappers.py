"""Every wrapper reports what the kernel says, and no descriptor it makes survives an execve (threats.md J4, J5)."""

from __future__ import annotations

import ast
import ctypes
import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

import orlop
from orlop.kernel import mount, pty
from orlop.kernel import process as k
from orlop.kernel.openat2 import openat2
from orlop.kernel.statfs import file_system_type
from orlop.kernel.syscall import SyscallError
from orlop.runtime.forking import assert_single_threaded

SOURCE = Path(orlop.__file__).parent
BAD = 987_654


@pytest.mark.parametrize(
    "call",
    [
        lambda: k.setns(BAD, k.CLONE_NEWNET),
        lambda: k.pidfd_send_signal(BAD, 0),
        lambda: mount.fsmount(BAD),
        lambda: mount.move_mount(BAD, BAD),
        lambda: mount.open_tree(BAD, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH),
        lambda: mount.mount_setattr(BAD, "", attr_set=mount.MOUNT_ATTR_RDONLY),
        lambda: mount.fsconfig_create(BAD),
        lambda: mount.fsconfig_set_string(BAD, "key", "value"),
        lambda: mount.fsconfig_set_flag(BAD, "key"),
        lambda: mount.fsconfig_set_fd(BAD, "key", BAD),
        lambda: openat2(BAD, "x", os.O_RDONLY),
        lambda: file_system_type(BAD),
        lambda: pty.unlock(BAD),
        lambda: pty.open_peer(BAD),
        lambda: pty.set_window_size(BAD, 1, 1),
    ],
)
def test_a_bad_descriptor_is_told(call) -> None:
    with pytest.raises(OSError, match=r"(?i)bad file descriptor|not permitted") as caught:
        call()
    # as an ordinary user the kernel may ask for the capability first
    allowed = {errno.EBADF} if os.geteuid() == 0 else {errno.EBADF, errno.EPERM}
    assert caught.value.errno in allowed


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda: openat2(mount.AT_FDCWD, "/no/such/place", os.O_RDONLY), errno.ENOENT),
        (lambda: openat2(mount.AT_FDCWD, "/", os.O_RDONLY, resolve=1 << 40), errno.EINVAL),
        (lambda: k.pidfd_open(-1), errno.EINVAL),
        (lambda: k.pidfd_open(1 << 29), errno.ESRCH),
        (lambda: mount.umount2("/no/such/place"), errno.ENOENT),
    ],
)
def test_errno_is_not_lost(call, wanted) -> None:
    ctypes.set_errno(errno.EXFULL)  # an earlier one must not be taken for the call's
    with pytest.raises(SyscallError) as caught:
        call()
    assert caught.value.errno in ({wanted} if os.geteuid() == 0 else {wanted, errno.EPERM})
    assert caught.value.operation in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: k.pidfd_open(os.getpid()),
        lambda: mount.fsopen("tmpfs"),
        lambda: mount.open_tree(mount.AT_FDCWD, "/", 0),
        lambda: openat2(mount.AT_FDCWD, "/", os.O_PATH | os.O_CLOEXEC),
    ],
)
def test_descriptors_are_closed_by_execve(call) -> None:  # J4
    try:
        fd = call()
    except PermissionError:
        pytest.skip("needs root")
    try:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(fd)


def test_nothing_is_forked_beside_a_thread() -> None:  # J6
    assert_single_threaded_or_alone = threading.Event()
    thread = threading.Thread(target=assert_single_threaded_or_alone.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="threads"):
            assert_single_threaded()
    finally:
        assert_single_threaded_or_alone.set()
        thread.join()


# what makes code of bytes, or unpacks where an archive says (D8, CVE-2025-4517)
BANNED_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "yaml", "tarfile", "zipfile"}
BANNED_CALLS = {"eval", "exec", "__import__", "compile"}
# what the runtime may not ask: NSS loads the container's libraries (J2)
NAME_SERVICES = {"pwd", "grp", "spwd", "locale", "gettext"}


def test_no_code_is_made_from_bytes() -> None:  # J7, J2, D8
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE).parts[0] in {"runtime", "kernel", "primitives", "spec"}
        for node in ast.walk(ast.parse(path.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            banned = BANNED_MODULES | (NAME_SERVICES if inside else set())
            if names & banned:
                found.append((str(path.relative_to(SOURCE)), node.lineno, names & banned))
            if (
                inside
                and isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in BANNED_CALLS
            ):
                found.append((str(path.relative_to(SOURCE)), node.lineno, {node.func.id}))
    # classes made of the project's own text; a verb of a table
    allowed = {("spec/record.py", "exec"), ("spec/record.py", "compile"), ("runtime/oci/command.py", "__import__")}
    # an importer of the package's own modules, before anything of a container is open (ADR on one file of code)
    allowed |= {("runtime/oci/code_store.py", "marshal"), ("runtime/oci/code_store.py", "exec")}
    allowed |= {("runtime/oci/code_writing.py", "marshal")}
    assert [one for one in found if (one[0], *one[2]) not in allowed] == []
