"""A container that ends within milliseconds is served by the worker that started it; any other is handed over."""

import os
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from orlop.kernel.process import pidfd_open
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime import handover
from orlop.runtime.control import listen
from orlop.runtime.streams import Streams
from orlop.spec.launch import AttachTarget, ContainerLaunch


class Case:
    """A process that stands for init; this process is its shim, a thread its worker."""

    def __init__(self, tmp_path, script: str, *clients: AttachTarget) -> None:
        self.shim, self.worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.engine, self.control = Channel.pair()
        self.launch = ContainerLaunch(id="a", state_dir=str(tmp_path), config={}, attach=clients)
        self.sockets = [socket.socketpair() for _ in clients]
        with Streams(terminal=False, open_stdin=False) as streams:
            stdin, stdout, stderr = streams.theirs
            self.child = subprocess.Popen(["sh", "-c", script], stdin=stdin, stdout=stdout, stderr=stderr)
            streams.started(None)
        running = SimpleNamespace(
            pid=self.child.pid, pidfd=OwnedFd(pidfd_open(self.child.pid)), cgroup=SimpleNamespace(**CGROUP)
        )
        theirs = [OwnedFd(theirs.detach()) for _, theirs in self.sockets]
        self.started = handover.Started(running, streams, 1, theirs, None, listen(str(tmp_path)))

    def ends_at_once(self) -> tuple[bool, float]:
        begun = time.monotonic()
        ended = handover.ends_at_once(self.worker, self.control, self.started, self.launch)
        return ended, time.monotonic() - begun

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        self.engine.close()
        self.control.close()
        self.shim.close()
        self.worker.close()
        for ours, _ in self.sockets:
            ours.close()
        for fd in self.started.clients:
            fd.close()
        self.started.listener.close()
        self.started.streams.close()
        self.started.running.pidfd.close()


def _no_events():
    raise OSError


CGROUP = {"oom_events": _no_events, "pids": list, "remove": lambda: None}


@pytest.fixture
def case(request, tmp_path):
    made = []

    def make(script: str, *clients: AttachTarget) -> Case:
        made.append(Case(tmp_path, script, *clients))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_end_is_waited_for_and_no_longer_than_a_moment(case, monkeypatch) -> None:
    with monkeypatch.context() as patient:
        patient.setattr(handover, "_SHORT_LIFE_MS", 60_000)
        assert case("sleep 0.02").ends_at_once()[0]
    ended, seconds = case("exec sleep 100").ends_at_once()
    assert not ended
    assert seconds >= 0.09


def test_output_of_a_container_that_goes_on_is_not_held_back(case, monkeypatch) -> None:
    monkeypatch.setattr(handover, "_SHORT_LIFE_MS", 60_000)
    ended, seconds = case("echo hello; exec sleep 100").ends_at_once()
    assert not ended
    assert seconds < 30


def test_the_end_of_a_program_that_hung_up_is_waited_for(case, monkeypatch) -> None:
    monkeypatch.setattr(handover, "_SHORT_LIFE_MS", 60_000)
    monkeypatch.setattr(handover, "_AFTER_HANG_UP_MS", 60_000)
    assert case("exec >&- 2>&-; sleep 0.1").ends_at_once()[0]


@pytest.mark.parametrize("who", ["engine", "another engine", "client", "shim"])
def test_whoever_wants_something_is_not_kept_waiting(case, monkeypatch, tmp_path, who) -> None:
    monkeypatch.setattr(handover, "_SHORT_LIFE_MS", 60_000)
    one = case("exec sleep 100", AttachTarget(stdin=True))
    if who == "engine":
        one.engine.send({"op": "status", "seq": 1})
    elif who == "client":
        one.sockets[0][0].send(b"input")
    elif who == "shim":
        one.shim.close()
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if who == "another engine":
        other.connect(str(tmp_path / "attach.sock"))
    ended, seconds = one.ends_at_once()
    other.close()
    assert not ended
    assert seconds < 30


def test_a_client_without_input_wants_nothing_by_ending_its_half(case, monkeypatch) -> None:
    monkeypatch.setattr(handover, "_SHORT_LIFE_MS", 60_000)
    one = case("sleep 0.05", AttachTarget(stdin=False))
    one.sockets[0][0].shutdown(socket.SHUT_WR)
    assert one.ends_at_once()[0]


def test_a_client_whose_first_bytes_came_with_the_request_is_handed_over(case, monkeypatch) -> None:
    monkeypatch.setattr(handover, "_SHORT_LIFE_MS", 60_000)
    ended, seconds = case("exec sleep 100", AttachTarget(preface="00")).ends_at_once()
    assert not ended
    assert seconds < 30


@pytest.mark.parametrize(("script", "code"), [("echo text; exit 3", 3), ("kill -TERM $$", 143)])
def test_the_worker_tells_the_end_and_the_shim_collects_init(case, monkeypatch, script, code) -> None:
    one = case(script, AttachTarget(multiplexed=False))
    for patience in ("_SHORT_LIFE_MS", "_AFTER_NEWS_MS", "_AFTER_HANG_UP_MS"):
        monkeypatch.setattr(handover, patience, 60_000)
    assert one.ends_at_once()[0]
    os.waitid(os.P_PID, one.child.pid, os.WEXITED | os.WNOWAIT)

    def work() -> None:
        handover.own_loop(one.worker, one.control, one.started, one.launch).run()
        one.worker.close()

    worker = threading.Thread(target=work)
    worker.start()
    assert handover.receive(one.shim) is None
    worker.join()
    with pytest.raises(ChildProcessError):
        os.waitpid(one.child.pid, 0)
    ended, _ = one.engine.receive()
    assert (ended["event"], ended["exit_code"]) == ("exit", code)
    assert one.sockets[0][0].recv(100) == (b"text\n" if code == 3 else b"")


def test_without_a_shim_init_counts_as_killed(case) -> None:
    one = case("exit 3")
    one.shim.close()
    os.waitid(os.P_PID, one.child.pid, os.WEXITED | os.WNOWAIT)
    handover.own_loop(one.worker, one.control, one.started, one.launch).run()
    ended, _ = one.engine.receive()
    assert (ended["event"], ended["exit_code"]) == ("exit", 137)
