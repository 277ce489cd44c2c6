"""The engine's own directories, lock, pidfile and listening sockets.

```
<data-root>/          0710  lock (flock), engine-id, state.db, layers/, volumes/, containers/, blobs/
<exec-root>/          0711  orlop.sock, orlop.pid, shims/ (0700)
```
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import uuid

from orlop.errors import ConflictError, InvalidParameterError, SystemFailureError
from orlop.primitives.owned_fd import OwnedFd

BACKLOG = 1024
_FIRST_PASSED_FD = 3


def make_directory(path: str, mode: int) -> None:
    """Make a directory of the engine with exactly this mode, or correct the mode of an existing one (threats.md H6)."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise SystemFailureError(f"directory belongs to another user: {path}")
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def lock_directory(path: str, what: str) -> OwnedFd:
    """Take the lock that one engine holds on its data-root and on its exec-root for as long as it lives.

    Args:
        path: the directory.
        what: ``data-root`` or ``exec-root``, for the message.

    Raises:
        ConflictError: another engine has it.
    """
    fd = OwnedFd(os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        fcntl.flock(fd.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd.fileno(), 32, 0).decode(errors="replace").strip()
        fd.close()
        raise ConflictError(
            f"{what} is in use: {path}: process with PID {owner or 'unknown'} is still running",
        ) from None
    os.ftruncate(fd.fileno(), 0)
    os.pwrite(fd.fileno(), f"{os.getpid()}\n".encode(), 0)
    return fd


def engine_id(data_root: str) -> str:
    """Return the id of this data-root's engine, made at its first start."""
    path = f"{data_root}/engine-id"
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return str(uuid.UUID(file.read(64).strip()))
    text = str(uuid.uuid4())
    scratch = f"{path}.new"
    with open(
        os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="ascii"
    ) as file:
        file.write(text + "\n")
    os.rename(scratch, path)
    return text


def write_pidfile(path: str) -> None:
    """Write the engine's pid.

    Raises:
        ConflictError: the file names another process that runs the engine.
    """
    with contextlib.suppress(OSError, ValueError):
        with open(path, encoding="ascii") as file:
            pid = int(file.read(32))
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(4096)
        if pid != os.getpid() and _runs_engine(command):
            raise ConflictError(f"process with PID {pid} is still running (pidfile {path})")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "w", encoding="ascii"
    ) as file:
        file.write(str(os.getpid()))


def _runs_engine(command: bytes) -> bool:
    """Whether a process' arguments are those of an engine: ``orlopd``, ``orlop daemon``, ``-m orlop.daemon``."""
    words = command.split(b"\0")
    names = [word.rpartition(b"/")[2] for word in words[:3]]  # of the interpreter, the script, its first argument
    told = b"orlop daemon" in command  # as the command line starts one
    return told or b"orlopd" in names or b"orlop.daemon" in names or (b"orlop" in names and b"daemon" in names)


def group_id(name: str) -> int | None:
    """Return the gid of a host group, by name or number; None when there is no such group."""
    if re.fullmatch("[0-9]{1,9}", name, re.ASCII):
        return int(name)
    try:
        with open("/etc/group", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.rstrip("\n").split(":")
                if len(fields) >= 3 and fields[0] == name and fields[2].isdigit():
                    return int(fields[2])
    except OSError:
        return None
    return None


def bind_unix(path: str, group: int | None) -> socket.socket:
    """Listen on a unix socket of mode 0660, root and ``group``, never wider at any moment (threats.md H1).

    Raises:
        ConflictError: somebody listens there.
        InvalidParameterError: something else than a socket has the name.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise InvalidParameterError(f"can't create unix socket {path}: file exists and is no socket")
        if _is_answered(path):
            raise ConflictError(f"can't create unix socket {path}: address already in use")
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # The mode of the name comes from the umask alone; chown comes first, so that widening lets in only the group.
        before = os.umask(0o177)
        try:
            sock.bind(path)
        except OSError as error:
            raise InvalidParameterError(f"can't create unix socket {path}: {error.strerror or error}") from None
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, 0, group, follow_symlinks=False)
            os.chmod(path, 0o660)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(path) in (0, errno.EAGAIN)


def bind_tcp(host: str) -> socket.socket:
    """Listen on ``address:port``; the name may be an address in brackets or a host name."""
    name, port = host.rsplit(":", 1)
    try:
        family, _, _, _, address = socket.getaddrinfo(name.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        sock = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise InvalidParameterError(f"failed to listen on tcp://{host}: {error}") from None
    sock.setblocking(False)
    return sock


def passed_sockets() -> list[socket.socket]:
    """Return the listening sockets that systemd passed (sd_listen_fds(3)) and forget about them."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or re.fullmatch("[0-9]{1,3}", count, re.ASCII) is None:
        return []
    sockets = []
    for fd in range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + int(count)):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)): ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``. Does nothing without NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), address)
