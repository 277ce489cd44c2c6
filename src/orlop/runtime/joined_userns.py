"""A container in a user namespace that exists already; only for configurations that name one by its path.

Namespaces belong to the user namespace in which they are made, and there is no way back out of one. So init is made by
a process that enters it for that alone:

    parent                       door                                init
     │ clone3 ─────────────────▶ │ setns(user)                        .
     │                           │ clone3(CLONE_PARENT, NEW...) ────▶ │ waits for "go", as in a new one
     │ ◀──────── {"pid"} + pidfd │ ends                               │
"""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError, SystemFailureError, UnsupportedError
from orlop.kernel import process as k
from orlop.kernel.plain import signal
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.spec.oci import IdMapping
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.runtime.container import Creation


def with_its_mappings(creation: Creation, userns_fd: int) -> Creation:
    """Return the creation with the mappings of the namespace that it joins.

    Raises:
        InvalidParameterError: the configuration has others, or it is no user namespace.
        UnsupportedError: init is to be the child of somebody else, who could not collect the door.
    """
    if creation.for_parent:
        raise UnsupportedError("user namespace by path is not supported here")
    linux = creation.config.linux
    uids, gids = _read_mappings(userns_fd)
    for name, asked, found in (("uid", linux.uid_mappings, uids), ("gid", linux.gid_mappings, gids)):
        if asked and asked != found:
            raise InvalidParameterError(f"linux.{name}Mappings are not those of the user namespace that is joined")
    linux = replace(linux, uid_mappings=uids, gid_mappings=gids)
    return replace(creation, config=replace(creation.config, linux=linux))


def _read_mappings(userns_fd: int) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
    """Have a child enter and look at its mappings from here, where their host side is our own ids."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with OwnedFd(reading), OwnedFd(writing) as writer:
        pid, pidfd_number = k.clone3(0)
        if pid == 0:
            _enter_and_wait(userns_fd, writing)
        with OwnedFd(pidfd_number) as pidfd:
            writer.close()
            try:
                number = os.read(reading, 4)
                if number != b"ok":
                    reason = os.strerror(int.from_bytes(number, "little")).lower()
                    raise InvalidParameterError(f"unable to join the user namespace: {reason}")
                return _mappings(pid, "uid_map"), _mappings(pid, "gid_map")
            finally:
                k.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
                os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED)


def _enter_and_wait(userns_fd: int, writing: int) -> None:
    try:
        k.setns(userns_fd, k.CLONE_NEWUSER)
        os.write(writing, b"ok")
    except OSError as error:
        os.write(writing, (error.errno or 0).to_bytes(4, "little"))
    while True:
        signal.pause()


def _mappings(pid: int, name: str) -> tuple[IdMapping, ...]:
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 1 << 16)
    finally:
        os.close(fd)
    return tuple(IdMapping(*map(int, line.split())) for line in text.decode().splitlines())


def clone_inside(userns_fd: int, flags: int, cgroup_fd: int | None, run: Callable[[], None]) -> tuple[int, int]:
    """Make our child, with new namespaces, in a user namespace that exists; returns its pid and pidfd.

    Raises:
        SystemFailureError: it could not be made.
    """
    ours, theirs = Channel.pair()
    number, door_number = k.clone3(0)
    if number == 0:
        _be_the_door(userns_fd, flags, cgroup_fd, theirs, run)
    with OwnedFd(door_number) as door:
        theirs.close()
        try:
            got = ours.receive()
        finally:
            ours.close()
            os.waitid(os.P_PIDFD, door.fileno(), os.WEXITED)
    if got is None:
        raise SystemFailureError("container process was not made: its maker died")
    message, fds = got
    if len(fds) != 1:
        raise SystemFailureError(f"container process was not made: {message.get('error')}")
    pidfd = fds.pop().release()
    return k.pidfd_pid(pidfd), pidfd


def _be_the_door(userns_fd: int, flags: int, cgroup_fd: int | None, sync: Channel, run: Callable[[], None]) -> None:
    try:
        k.setns(userns_fd, k.CLONE_NEWUSER)
        pid, pidfd = k.clone3(flags | k.CLONE_PARENT, cgroup_fd=cgroup_fd)
        if pid == 0:
            run()
        sync.send({}, [pidfd])
    except OSError as error:
        sync.send({"error": str(error)})
    finally:
        os._exit(0)
