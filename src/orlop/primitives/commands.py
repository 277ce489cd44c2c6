"""The one module that runs programs of the host.

A program is found in a fixed list of directories, never through the caller's PATH or the current directory; it gets
exactly the environment named here, and no descriptor beyond its standard streams (threats.md G10). There is
no shell. The call blocks: the engine makes it in a worker thread.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError, UnavailableError
from orlop.kernel.syscall import SyscallError, call
from orlop.primitives.owned_fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
OUTPUT_LIMIT = 16 * 1024 * 1024
ENVIRONMENT = {"PATH": ":".join(DIRECTORIES), "LC_ALL": "C", "HOME": "/"}
_CHUNK = 65536
_MAX_FD = 0xFFFFFFFF
_CLOSE_RANGE_CLOEXEC = 1 << 2
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended.

    Attributes:
        arguments: what was run.
        returncode: its exit status; -n when signal n ended it.
        stdout: what it wrote, at most the limit.
        stderr: likewise.
    """

    arguments: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    def check(self) -> Completed:
        """Return self. Raises SystemFailureError with the program's own words if it failed."""
        if self.returncode:
            words = self.stderr.decode("utf-8", "replace").strip()[:2000] or f"exit status {self.returncode}"
            raise SystemFailureError(f"{os.path.basename(self.arguments[0])}: {words}")
        return self


def find(name: str) -> str:
    """Return the absolute path of a program.

    Raises:
        UnavailableError: it is in none of the directories.
    """
    if "/" in name:
        raise ValueError(f"not a program's name: {name}")
    for directory in DIRECTORIES:
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise UnavailableError(f"{name}: executable file not found in {', '.join(DIRECTORIES)}")


def run(
    arguments: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
    limit: int = OUTPUT_LIMIT,
) -> Completed:
    """Run a program to its end and return what it wrote.

    Args:
        arguments: the program's name (looked up by :func:`find`) or absolute path, then its arguments.
        stdin: what it reads.
        timeout: seconds after which it is killed.
        env: variables beyond :data:`ENVIRONMENT`.
        limit: bytes of each output stream after which it is killed.

    Raises:
        UnavailableError: there is no such program.
        SystemFailureError: it could not be started, took too long or wrote too much.
    """
    path = arguments[0] if arguments[0].startswith("/") else find(arguments[0])
    pipes = _Pipes()
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, pipes.stdin[0].fileno(), 0),
            (os.POSIX_SPAWN_DUP2, pipes.stdout[1].fileno(), 1),
            (os.POSIX_SPAWN_DUP2, pipes.stderr[1].fileno(), 2),
        ]
        _seal_descriptors()
        try:
            pid = os.posix_spawn(
                path,
                list(arguments),
                {**ENVIRONMENT, **(env or {})},
                file_actions=actions,
                setsigdef=_DEFAULT_SIGNALS,
                setsigmask=(),
                setpgroup=0,
            )
        except OSError as error:
            raise SystemFailureError(f"{path}: {(error.strerror or '').lower()}") from error
        pipes.close_far_ends()
        try:
            failure = pipes.exchange(stdin, time.monotonic() + timeout, limit)
        except BaseException:
            _kill(pid)
            raise
        status = _kill(pid) if failure else _wait(pid)
        if failure:
            raise SystemFailureError(f"{os.path.basename(path)}: {failure}")
        return Completed(tuple(arguments), os.waitstatus_to_exitcode(status), bytes(pipes.out), bytes(pipes.err))
    finally:
        pipes.close()


def _seal_descriptors() -> None:
    """Set close-on-exec on every descriptor beyond the standard streams: some may come from whoever started us."""
    with contextlib.suppress(SyscallError):  # CLOSE_RANGE_CLOEXEC needs Linux 5.11; Python's own have it anyway
        call("close_range", 3, _MAX_FD, _CLOSE_RANGE_CLOEXEC)


def _wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _kill(pid: int) -> int:
    """Kill the program's process group. It is our unreaped child, so the number can't be another's."""
    os.killpg(pid, signal.SIGKILL)
    return _wait(pid)


def _pipe() -> tuple[OwnedFd, OwnedFd]:
    read, write = os.pipe2(os.O_CLOEXEC)
    return OwnedFd(read), OwnedFd(write)


@dataclass(slots=True)
class _Pipes:
    """The three standard streams of a program; ours are non-blocking."""

    stdin: tuple[OwnedFd, OwnedFd] = field(default_factory=_pipe)
    stdout: tuple[OwnedFd, OwnedFd] = field(default_factory=_pipe)
    stderr: tuple[OwnedFd, OwnedFd] = field(default_factory=_pipe)
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)

    def close_far_ends(self) -> None:
        for end in (self.stdin[0], self.stdout[1], self.stderr[1]):
            end.close()

    def close(self) -> None:
        for end in (*self.stdin, *self.stdout, *self.stderr):
            end.close()

    def exchange(self, data: bytes, deadline: float, limit: int) -> str:
        """Feed and read until both outputs are closed; return "" or why it was given up."""
        view = memoryview(data)
        outputs = {self.stdout[0]: self.out, self.stderr[0]: self.err}
        with selectors.DefaultSelector() as selector:
            for end in (self.stdin[1], *outputs):
                os.set_blocking(end.fileno(), False)
            for end in outputs:
                selector.register(end.fileno(), selectors.EVENT_READ, end)
            if view:
                selector.register(self.stdin[1].fileno(), selectors.EVENT_WRITE, self.stdin[1])
            else:
                self.stdin[1].close()
            while any(not end.closed for end in outputs):
                left = deadline - time.monotonic()
                if left <= 0:
                    return "took too long"
                for key, _ in selector.select(left):
                    ready: OwnedFd = key.data
                    if ready is self.stdin[1]:
                        view = _feed(ready, view)
                        done = not view
                    else:
                        done = not _drain(ready, outputs[ready])
                        if len(outputs[ready]) > limit:
                            return f"wrote more than {limit} bytes"
                    if done:
                        selector.unregister(ready.fileno())
                        ready.close()
        return ""


def _feed(end: OwnedFd, view: memoryview) -> memoryview:
    try:
        return view[os.write(end.fileno(), view[:_CHUNK]) :]
    except BlockingIOError:
        return view
    except BrokenPipeError:
        return view[:0]  # it did not want to read all: its exit status tells


def _drain(end: OwnedFd, into: bytearray) -> bool:
    try:
        chunk = os.read(end.fileno(), _CHUNK)
    except BlockingIOError:
        return True
    into += chunk
    return bool(chunk)
