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


@pytest.mark.timeout(20)
def test_a_client_that_never_reads_is_cut_off_and_the_program_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "STUCK_SECONDS", 0.3)
    size = 3 << 20  # more than its buffer, its socket and a pipe hold
    engine, shim = Channel.pair()
    ours, theirs = socket.socketpair()
    with Streams(terminal=False, open_stdin=False) as streams:
        stdin, stdout, stderr = streams.theirs
        command = ["head", "-c", str(size), "/dev/zero"]
        child = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr)
        pidfd = OwnedFd(pidfd_open(child.pid))
        streams.started(None)
    loop = Loop(
        shim,
        SimpleNamespace(pid=child.pid, pidfd=pidfd, cgroup=None),
        streams,
        state_dir=str(tmp_path),
        clients=[Client(theirs, AttachTarget(multiplexed=False), terminal=False)],
        log=JsonLog(LogTarget(str(tmp_path / "log"), max_size=0)),
        stdin_once=False,
        started_at=1,
        owns_cgroup=False,
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
