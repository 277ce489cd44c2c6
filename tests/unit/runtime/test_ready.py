"""Children that wait for requests: who takes a packet, who is replaced, and that nobody outlives the spawner's end."""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import wait_for
from orlop.primitives.channel import receive_packet
from orlop.runtime import ready
from orlop.runtime.importing import Blocker


class Spawner:
    """A process that runs :class:`ReadyChildren`; its workers answer with their parent's pid."""

    def __init__(self, *, fork: Callable[..., int] | None = None) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(60)
        self.pid = os.fork()
        if self.pid == 0:
            self.channel.close()
            try:
                _serve(theirs, fork)
            finally:
                os._exit(0)
        theirs.close()

    def ask(self, packet: bytes = b"work") -> bytes:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.settimeout(60)
            with theirs:
                socket.send_fds(self.channel, [packet], [theirs.fileno()])
            return ours.recv(100)

    def children(self) -> set[int]:
        return {int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()}

    def end(self) -> None:
        self.channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _serve(channel: socket.socket, fork: Callable[..., int] | None) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    if fork is not None:
        ready.fork = fork

    rehearsed: list[int] = []

    def work(packet: bytes, fds: list, shim: socket.socket, _taken: Callable[[], None]) -> None:
        answer = str(rehearsed == [os.getpid()]) if packet == b"rehearsed?" else str(os.getppid())
        socket.socket(fileno=fds[0].release()).send(answer.encode())
        if packet == b"container":
            shim.send(b"yours")

    def serve(worker: socket.socket, pid: int) -> None:
        packet, _ = receive_packet(worker)
        if packet:
            os.waitpid(pid, 0)
            time.sleep(30)

    def refuse(_packet: bytes, fds: list, error: OSError) -> None:
        socket.socket(fileno=fds[0].release()).send(str(error.errno).encode())

    ready.ReadyChildren(channel, work, serve, lambda: rehearsed.append(os.getpid()), _Harmless()).serve(refuse, reading)


class _Harmless(Blocker):
    def install(self) -> None:
        """Pytest's process is not to be sealed; its fork is."""


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    made = Spawner()
    yield made
    made.end()


def test_requests_are_answered_by_children_that_wait_and_are_replaced(spawner: Spawner) -> None:
    first = wait_for(lambda: len(spawner.children()) == ready.COUNT and spawner.children())
    parents = {int(spawner.ask()) for _ in range(5)}
    assert len(parents) == 5
    assert parents & first
    wait_for(lambda: len(spawner.children()) == ready.COUNT and not spawner.children() & parents)


def test_a_worker_rehearses_when_nobody_asks(spawner: Spawner) -> None:
    def rehearsed_in_a_pause() -> bool:
        time.sleep(0.1)
        return spawner.ask(b"rehearsed?") == b"True"

    wait_for(rehearsed_in_a_pause)
    # a request does not wait for it; on a busy machine there may be a pause before each of them
    wait_for(lambda: b"False" in [spawner.ask(b"rehearsed?") for _ in range(5)])


def test_a_shim_stays_and_is_no_longer_counted(spawner: Spawner) -> None:
    shim = int(spawner.ask(b"container"))
    wait_for(lambda: len(spawner.children() - {shim}) == ready.COUNT)
    assert shim in spawner.children()
    os.kill(shim, signal.SIGKILL)


def test_a_killed_child_is_replaced(spawner: Spawner) -> None:
    victim = min(wait_for(lambda: len(spawner.children()) == ready.COUNT and spawner.children()))
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in spawner.children() and len(spawner.children()) == ready.COUNT)
    assert int(spawner.ask()) != victim


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_nobody_waits_for_a_spawner_that_ended(spawner: Spawner, how: str) -> None:
    parents = wait_for(lambda: len(spawner.children()) == ready.COUNT and spawner.children())
    workers = {int(wait_for(Path(f"/proc/{pid}/task/{pid}/children").read_text)) for pid in parents}
    if how == "killed":
        os.kill(spawner.pid, signal.SIGKILL)
        assert select.select([spawner.channel], [], [], 60)[0]  # the engine sees the end: no child holds the socket
        assert spawner.channel.recv(1) == b""
    spawner.end()
    wait_for(lambda: not any(map(alive, parents | workers)))


def test_without_processes_requests_are_refused_and_later_served(tmp_path: Path) -> None:
    plenty = tmp_path / "plenty"
    real = ready.fork

    def scarce(*arguments: object) -> int:
        if not os.path.exists(plenty):
            raise OSError(11, "no process")
        return real(*arguments)

    made = Spawner(fork=scarce)
    try:
        assert made.ask() == b"11"
        plenty.touch()
        wait_for(lambda: made.ask() != b"11", seconds=3)
    finally:
        made.end()
