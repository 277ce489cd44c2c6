"""Talking to criu: ``criu swrk`` on a socket pair, one request, notifications, one answer (criu.org/RPC).

::

    us                              criu swrk 3
    criu_req(DUMP|RESTORE, opts) ->
                                 <- criu_resp(NOTIFY, script)      any number of times
    criu_req(NOTIFY, success)    ->
                                 <- criu_resp(DUMP|RESTORE, success, restored pid)

Names and numbers of fields are those of criu's ``images/rpc.proto``.
"""

from __future__ import annotations

import os
import socket
from array import array

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError, UnavailableError
from orlop.primitives.commands import ENVIRONMENT, find
from orlop.primitives.protobuf.wire import decode, encode, signed
from orlop.primitives.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from orlop.primitives.protobuf.wire import Fields

    Notified = Callable[[str, int, list[int]], None]

DUMP, RESTORE, PRE_DUMP, NOTIFY = 1, 2, 4, 6
NAMES = {DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP"}
# criu_opts
IMAGES_DIR_FD, PID, LEAVE_RUNNING, EXT_UNIX_SK, TCP_ESTABLISHED, EVASIVE_DEVICES = 1, 2, 3, 4, 5, 6
SHELL_JOB, FILE_LOCKS, LOG_LEVEL, LOG_FILE, PAGE_SERVER, NOTIFY_SCRIPTS, ROOT, PARENT_IMG = 7, 8, 9, 10, 11, 12, 13, 14
TRACK_MEM, AUTO_DEDUP, WORK_DIR_FD, CG_ROOT, RST_SIBLING, INHERIT_FD = 15, 16, 17, 25, 26, 27
MANAGE_CGROUPS_MODE, EXTERNAL, EMPTY_NS, FREEZE_CGROUP, LAZY_PAGES, ORPHAN_PTS_MASTER = 34, 37, 38, 44, 48, 50
LSM_PROFILE, LSM_MOUNT_CONTEXT = 53, 63
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5}
# criu_req and criu_resp
_TYPE, _OPTS, _NOTIFY_SUCCESS = 1, 2, 3
_SUCCESS, _RESTORED, _NOTIFY, _ERRNO = 2, 4, 5, 7
SOCKET_FD = 3
_LARGEST = 1 << 20


class Criu:
    """One ``criu swrk``, a child; leaving the block collects it.

    Args:
        path: an absolute path, or the name of a program of the host.

    Raises:
        UnavailableError: there is no criu.
    """

    def __init__(self, path: str) -> None:
        program = path if path.startswith("/") else find(path)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            # duplicated above 3 first: a descriptor that is duplicated onto itself would stay close-on-exec
            spare = os.dup(theirs.fileno())
            try:
                actions = [(os.POSIX_SPAWN_DUP2, spare, SOCKET_FD)] if spare != SOCKET_FD else []
                os.set_inheritable(spare, spare == SOCKET_FD)
                self.pid = os.posix_spawn(
                    program, [program, "swrk", str(SOCKET_FD)], ENVIRONMENT, file_actions=actions, setsigmask=()
                )
            except OSError as error:
                self._ours.close()
                raise UnavailableError(f"{program}: {(error.strerror or '').lower()}") from error
            finally:
                os.close(spare)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ours.close()  # which ends it
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def request(self, kind: int, options: Fields, notified: Notified, *, log: str = "") -> int:
        """Make a request and return the pid of what was restored, 0 for a dump.

        Args:
            kind: DUMP, PRE_DUMP or RESTORE.
            options: criu_opts.
            notified: called with each notification's name, the pid of the container's init as far as there is one, and
                the descriptors that came with it, which it closes.
            log: where criu logs, for the error.

        Raises:
            SystemFailureError: criu failed; its log tells why.
        """
        self._ours.send(encode([(_TYPE, kind), (_OPTS, options)]))
        while True:
            data, ancillary, _, _ = self._ours.recvmsg(_LARGEST, socket.CMSG_SPACE(4 * 4))
            if not data:
                raise SystemFailureError(f"criu failed: type {NAMES[kind]}: it ended without an answer")
            answer = _decode(data)
            if answer.get(_TYPE) == NOTIFY:
                self._notified(answer, _descriptors(ancillary), notified)
                continue
            if not answer.get(_SUCCESS):
                errno = _signed(answer.get(_ERRNO, 0))
                raise SystemFailureError(f"criu failed: type {NAMES[kind]} errno {errno}: see {log}")
            restored = answer.get(_RESTORED, b"")
            pid = _decode(restored).get(1, 0) if isinstance(restored, bytes) else 0
            return pid if isinstance(pid, int) else 0

    def _notified(self, answer: dict[int, int | bytes], fds: list[int], notified: Notified) -> None:
        nested = answer.get(_NOTIFY, b"")
        told = _decode(nested) if isinstance(nested, bytes) else {}
        script, pid = told.get(1, b""), told.get(2, 0)
        try:
            notified(
                script.decode("utf-8", "replace") if isinstance(script, bytes) else "",
                pid if isinstance(pid, int) else 0,
                fds,
            )
        except (OrlopError, OSError):
            self._ours.send(encode([(_TYPE, NOTIFY), (_NOTIFY_SUCCESS, 0)]))
            raise
        self._ours.send(encode([(_TYPE, NOTIFY), (_NOTIFY_SUCCESS, 1)]))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _decode(data: bytes) -> dict[int, int | bytes]:
    try:
        return decode(data)
    except InvalidParameterError as error:
        raise SystemFailureError(f"criu failed: {error}") from None


def _signed(value: int | bytes) -> int:
    return 0 if isinstance(value, bytes) else signed(value)
