"""Nobody listens on the default socket: start the engine, detached, and wait until it answers."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time

from orlop.cli.invocation import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.client.address import Address

DATA_ROOT = "/var/lib/orlop"
EXEC_ROOT = "/run/orlop"
LOG = f"{DATA_ROOT}/engine.log"
_PATIENCE = 20.0
_PAUSE = 0.02
_PROGRAM = "import sys; sys.argv[0] = 'orlop daemon'; from orlop.daemon.main import entry; entry()"


def ensure_engine(address: Address) -> None:
    """Start the engine of the default socket unless one listens there.

    Only root can; for others the connection fails later, with the reason. Two commands at once start one engine: the
    second waits for the lock and finds the first one's.

    Raises:
        CommandError: it ended before it answered; the end of its log is in the message.
    """
    path = address.path
    if path is None or _listens(path) or os.geteuid() != 0:
        return
    os.makedirs(EXEC_ROOT, 0o711, exist_ok=True)
    os.makedirs(DATA_ROOT, 0o710, exist_ok=True)
    lock = os.open(f"{EXEC_ROOT}/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _listens(path):
            _wait_answer(path, _spawn())
    finally:
        os.close(lock)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _spawn() -> int:
    """Run ``orlop daemon`` in a session of its own, writing to the log; return its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, LOG, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "PYTHON"))}
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-c", _PROGRAM],
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ),
    )


def _wait_answer(path: str, pid: int) -> None:
    from orlop.client.address import parse_address
    from orlop.client.client import Client
    from orlop.errors import OrlopError

    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            raise CommandError(f"the engine could not be started:\n{_log_end()}")
        try:
            with Client(parse_address(f"unix://{path}"), timeout=1.0) as client:
                client.system.ping()
        except OrlopError:
            time.sleep(_PAUSE)
        else:
            return
    raise CommandError(f"the engine did not answer within {_PATIENCE:.0f} seconds: {LOG}")


def _log_end() -> str:
    try:
        with open(LOG, "rb") as file:
            file.seek(max(os.path.getsize(LOG) - 2000, 0))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return LOG
