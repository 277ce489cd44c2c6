"""Secrets and SSH agents of a build (threat F9)."""

import hashlib
import os
import socket
import subprocess
from contextlib import ExitStack

import pytest
from build_lab import build, steps, write

from harness import BIN, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_secrets_leave_nothing(engine, images, tmp_path):
    """Threat F9: a secret is not in the image, the history, the cache's key, the log or on the disk."""
    script = 'FROM busybox\nRUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B sha256sum /run/secrets/a | cut -c1-8; test "$B" = second\n'
    context = write(tmp_path / "c", script)
    value = f"first-{os.urandom(8).hex()}"
    (tmp_path / "file").write_text(value)
    options = ["--secret", f"id=a,src={tmp_path}/file", "--secret", "id=b,env=SECOND"]
    done = build(engine, "-t", "outer:secret", *options, context, env={"SECOND": "second"})
    assert hashlib.sha256(value.encode()).hexdigest()[:8] in done.stderr
    (tmp_path / "file").write_text("another")
    again = build(engine, *options, context, env={"SECOND": "second"})
    assert steps(again)[2] == "CACHED"
    engine.docker("save", "-o", tmp_path / "saved.tar", "outer:secret")
    told = (
        engine.docker("history", "--no-trunc", "outer:secret").stdout + engine.docker("inspect", "outer:secret").stdout
    )
    assert value.encode() not in (tmp_path / "saved.tar").read_bytes()
    assert value not in told + engine.log_text()
    found = subprocess.run(
        ["grep", "-rlF", value, engine.data_root, engine.exec_root], capture_output=True, check=False
    )
    assert found.stdout == b""


def test_secrets_are_gone_when_their_step_has_ended(engine, images, tmp_path):
    """Threat F9: what a step was given is nowhere while the next one runs."""
    script = "FROM busybox\nRUN --mount=type=secret,id=a,required=true cat /run/secrets/a >/dev/null\nRUN sleep 1000\n"
    context = write(tmp_path / "c", script)
    (tmp_path / "file").write_text("value")
    client = subprocess.Popen(
        [BIN / "orlop", "build", "--secret", f"id=a,src={tmp_path}/file", context],
        env=engine.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: "sleep 1000" in engine.docker("ps", "--no-trunc").stdout, what="the second step")
        assert not list(engine.exec_root.glob("builds/*/*"))
    finally:
        client.kill()
        client.wait()
    wait_for(lambda: engine.docker("ps", "-aq").stdout == "")


def test_agent_is_forwarded(engine, images, tmp_path):
    """Each connection to a step's socket is one to the user's agent, at the same time as others."""
    place = tmp_path / "agent"
    context = write(tmp_path / "c", "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && sleep 1000\n")
    command = [BIN / "orlop", "build", "--ssh", f"default={place}", context]
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(place))
        agent.listen()
        agent.settimeout(20)
        client = subprocess.Popen(command, env=engine.environment, stderr=subprocess.DEVNULL)
        try:
            sockets = list(wait_for(lambda: find_sockets(engine.exec_root / "builds")))
            with ExitStack() as stack:
                ends = []
                for number in range(2):
                    step = stack.enter_context(socket.socket(socket.AF_UNIX))
                    step.settimeout(20)
                    step.connect(str(sockets[0]))
                    step.sendall(b"hello %d" % number)
                    ends.append((step, stack.enter_context(agent.accept()[0])))
                    ends[-1][1].settimeout(20)
                for number, (step, user) in enumerate(ends):
                    assert user.recv(100) == b"hello %d" % number
                    user.sendall(b"answer %d" % number)
                    assert step.recv(100) == b"answer %d" % number
                ends[0][0].close()
                assert ends[0][1].recv(100) == b""
                ends[1][1].close()
                assert ends[1][0].recv(100) == b""
        finally:
            client.terminate()
            client.wait()
    wait_for(lambda: find_sockets(engine.exec_root / "builds") == [])


def find_sockets(top):
    return [path for path in top.rglob("*") if path.is_socket()]
