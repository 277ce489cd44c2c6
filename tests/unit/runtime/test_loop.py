import os
import socket
import subprocess
from types import SimpleNamespace

import pytest

from orlop.kernel.process import pidfd_open
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime import clients
from orlop.runtime.clients import Client
from orlop.runtime.json_log import JsonLog
from orlop.runtime.loop import Loop
from orlop.runtime.streams import Streams
from orlop.spec.launch import AttachTarget, LogTarget


def loop_of(command: list[str], shim, state_dir, *, client: Client, stdin: int | None = None, log=None):
    """Return the loop of a started program with one client, the program, and its pidfd."""
    with Streams(terminal=False, open_stdin=False) as streams:
        null, stdout, stderr = streams.theirs
        child = subprocess.Popen(command, stdin=null if stdin is None else stdin, stdout=stdout, stderr=stderr)
        pidfd = OwnedFd(pidfd_open(child.pid))
        streams.started(None)
    loop = Loop(
        shim,
        SimpleNamespace(pid=child.pid, pidfd=pidfd, cgroup=None),
        streams,
        state_dir=str(state_dir),
        clients=[client],
        log=log,
        stdin_once=False,
        started_at=1,
        owns_cgroup=False,
    )
    return loop, child, pidfd


@pytest.mark.timeout(60)
def test_a_client_that_left_is_forgotten_while_the_engine_still_holds_its_socket(tmp_path, monkeypatch):
    """As after ``docker exec -it`` and the detach keys, when the engine has not heard of the start yet."""
    engine, shim = Channel.pair()
    ours, theirs = socket.socketpair()
    engines = theirs.dup()
    until, told = os.pipe()
    close = Client.close

    def close_and_tell(client: Client) -> None:
        close(client)
        os.write(told, b"left\n")

    monkeypatch.setattr(Client, "close", close_and_tell)
    ours.close()
    client = Client(theirs, AttachTarget())
    command = ["sh", "-c", "read line; echo $line; exit 7"]
    loop, child, pidfd = loop_of(command, shim, tmp_path, client=client, stdin=until)
    loop.run()
    child.wait()
    pidfd.close()
    _, fds = engine.receive()
    for fd in fds:
        fd.close()
    ended, _ = engine.receive()
    assert (ended["event"], ended["exit_code"]) == ("exit", 7)
    engine.close()
    engines.close()
    os.close(until)
    os.close(told)


@pytest.mark.timeout(60)
def test_a_client_that_never_reads_is_cut_off_and_the_program_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "STUCK_SECONDS", 0.3)
    size = 3 << 20  # more than its buffer, its socket and a pipe hold
    engine, shim = Channel.pair()
    ours, theirs = socket.socketpair()
    loop, child, pidfd = loop_of(
        ["head", "-c", str(size), "/dev/zero"],
        shim,
        tmp_path,
        client=Client(theirs, AttachTarget(multiplexed=False)),
        log=JsonLog(LogTarget(str(tmp_path / "log"), max_size=0)),
    )
    loop.run()
    child.wait()
    pidfd.close()
    started, fds = engine.receive()
    assert (started["event"], started["pid"]) == ("started", child.pid)
    for fd in fds:
        fd.close()
    ended, _ = engine.receive()
    assert (ended["event"], ended["exit_code"]) == ("exit", 0)
    assert (tmp_path / "log").read_bytes().count(b"\\u0000") == size
    assert sorted(os.listdir(tmp_path)) == ["exit", "log", "pid"]
    engine.close()
    ours.close()
