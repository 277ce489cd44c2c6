"""The spawner: one warm, single-threaded process that forks whatever must be root near a container.

It is executed once from a sealed interpreter with an empty environment, imports everything that its children will
need, and then only forks: children wait for the engine's requests (``ready.py``) and answer them, each on its request's
own channel. What each container needs once more, and no container's data decides, is asked of the same child again
(:data:`REPEATED`). The operations are drawn in ``docs/concepts/processes.md``.
"""

from __future__ import annotations

import gc
import os

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel.plain import signal, socket
from orlop.kernel.prctl import set_child_subreaper, set_dumpable, set_name
from orlop.primitives.channel import Channel, ProtocolError, decode
from orlop.runtime import reaper, session
from orlop.runtime.archive import answer_archive
from orlop.runtime.cgroups import detect
from orlop.runtime.gathering import answer_gather
from orlop.runtime.importing import Blocker, refuse_loading
from orlop.runtime.init import report
from orlop.runtime.interpreter import is_sealed
from orlop.runtime.loading import load_all
from orlop.runtime.network_namespace import answer_namespace_of, answer_new_namespace
from orlop.runtime.ready import ReadyChildren
from orlop.runtime.rehearsal import Rehearsal
from orlop.runtime.security import apply
from orlop.runtime.trees import (
    answer_compare,
    answer_copy_up,
    answer_identify,
    answer_pack,
    answer_rebuild,
    answer_remove,
    answer_unpack,
)
from orlop.spec import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject, JsonValue

    Operation = Callable[[Channel, JsonObject, list[OwnedFd], Hierarchies], None]

# beside "container", which is a matter between a worker and its shim
WORK: dict[str, Operation] = {
    "exec": session.run_exec,
    "netns": answer_new_namespace,
    "netns-of": answer_namespace_of,
    "unpack": answer_unpack,
    "pack": answer_pack,
    "rebuild": answer_rebuild,
    "compare": answer_compare,
    "copy-up": answer_copy_up,
    "identify": answer_identify,
    "archive": answer_archive,
    "gather": answer_gather,
    "remove-tree": answer_remove,
}


# done again and again by one child, while the engine keeps the channel: two forks less for each container
REPEATED = frozenset({"netns", "remove-tree"})


def main(channel_fd: int) -> None:
    """Serve requests from ``channel_fd`` until its other end is closed; never returns an error to anybody.

    Raises:
        SystemFailureError: this interpreter is not sealed.
    """
    if not is_sealed():
        raise SystemFailureError("spawner does not run from a sealed interpreter")
    set_dumpable(0)
    set_name(b"orlop-spawner")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the engine decides; its end is the end of file
    set_child_subreaper(True)  # of workers whose parent had nothing to wait for
    channel = socket.socket(fileno=channel_fd)
    hierarchies = detect()
    load_all()
    apply.preload()
    reaper.preload()
    record.compile_all()
    rehearsal = Rehearsal(hierarchies)
    rehearsal.warm_up()
    # Everything is loaded: no import here either. Emptying the finders' caches in each child would cost it 0.7 MB.
    blocker = Blocker()
    blocker.install()
    refuse_loading()
    gc.collect()
    gc.freeze()
    children = _watch_children()
    ready = ReadyChildren(
        channel,
        lambda packet, fds, shim, taken: _work(packet, fds, hierarchies, shim, taken),
        lambda worker, pid: session.serve_container(worker, pid, hierarchies),
        rehearsal.once,
        blocker,
    )
    ready.serve(_refuse, children)


def _watch_children() -> int:
    """Return a descriptor that becomes readable when a child ended."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def _work(
    packet: bytes, fds: list[OwnedFd], hierarchies: Hierarchies, shim: socket.socket, taken: Callable[[], None]
) -> None:
    """Do what a request asks for, in a worker; ``shim`` leads to its parent, which waits for a container."""
    message, fds = decode(packet, fds)
    if not fds:
        return
    answer = Channel.from_fd(fds.pop(0))
    operation = message.get("op")
    if operation == "container":
        session.start_container(answer, message, fds, hierarchies, shim, taken)
        return
    taken()
    shim.close()
    _answer(answer, operation, message, fds, hierarchies)
    while operation in REPEATED:
        got = answer.receive()
        if got is None or got[0].get("op") != operation:
            return
        _answer(answer, operation, *got, hierarchies)


def _answer(
    answer: Channel, operation: JsonValue, message: JsonObject, fds: list[OwnedFd], hierarchies: Hierarchies
) -> None:
    try:
        work = WORK.get(str(operation))
        if work is None:
            raise InvalidParameterError(f"unknown operation: {operation}")
        work(answer, message, fds, hierarchies)
    except BaseException as error:  # noqa: BLE001 - the answer is the only way to tell
        report(answer, error)


def _refuse(packet: bytes, fds: list[OwnedFd], error: OSError) -> None:
    """Say that there is no process to be had."""
    try:
        _, rest = decode(packet, fds)
    except ProtocolError:
        return
    if rest:
        report(Channel.from_fd(rest.pop(0)), error)
