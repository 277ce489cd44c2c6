"""Terminals through a real pty: size, detach and attach again, ctrl-C, signal proxy; docker's client and orlop's own.

What a shell is told is typed only at its prompt, and what is waited for is written by a program, never by an echo: what
is typed ahead the kernel shows at once, whenever the shell comes to read it, and busybox's shell draws its line anew, in
the middle of it, when a SIGWINCH comes, which docker's client sends once more as a signal.
"""

import json
import signal
import threading
import time

import pytest
from terminal_lab import Session

from harness import BIN, DOCKER, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
CLIENTS = [DOCKER, str(BIN / "orlop")]
UNTIL_SIZE = "until [ \"$(stty size)\" = '{} {}' ]; do sleep 0.05; done; "
TRAP = "trap 'echo caught; exit 5' INT TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def session(engine):
    """Make sessions that end with the test."""
    sessions = []

    def make(*command, **options):
        sessions.append(Session(engine, *command, **options))
        return sessions[-1]

    yield make
    for one in sessions:
        one.close()


@pytest.mark.parametrize("client", CLIENTS, ids=["docker", "orlop"])
def test_a_shell_follows_the_window_and_can_be_left_and_taken_up(engine, session, client):
    shell = session(client, "run", "-it", "--name", "shell", "busybox", "sh", size=(40, 120))
    shell.expect("# ")
    shell.type(UNTIL_SIZE.format(40, 120) + "tty; echo $TERM\n")
    shell.expect("/dev/pts/0\r\nxterm")
    shell.expect("# ")
    shell.type(UNTIL_SIZE.format(33, 99) + "echo follo''wed\n")
    if client == DOCKER:
        shell.resize_until(33, 99, "followed")
    else:
        shell.resize(33, 99)
        shell.expect("followed")
    shell.expect("# ")
    shell.type("sh -c 'echo rea\"\"dy; exec sleep 100'\n")  # what writes it has the terminal by then
    shell.expect("ready")
    shell.type("\x03")
    shell.expect("# ")
    shell.type("\x10\x11")
    assert shell.end() == 0
    assert engine.inspect("shell")["State"]["Running"]
    again = session(client, "attach", "shell", size=(20, 70))
    again.expect("# ")
    again.type(UNTIL_SIZE.format(20, 70) + "echo ba''ck\n")
    again.expect("back")
    again.type("exit 42\n")
    assert again.end() == 42


@pytest.mark.parametrize("client", CLIENTS, ids=["docker", "orlop"])
def test_exec_has_a_terminal_of_its_own(engine, session, client):
    engine.docker("run", "-d", "--name", "base", "busybox", "sleep", "100")
    shell = session(client, "exec", "-it", "base", "sh", size=(11, 22))
    shell.expect("# ")
    shell.type(UNTIL_SIZE.format(11, 22) + "tty; exit 9\n")
    shell.expect("/dev/pts/0")
    assert shell.end() == 9
    left = session(client, "exec", "-it", "--detach-keys", "ctrl-a,x", "base", "sh")
    left.expect("# ")
    left.type("\x01x")
    left.end()
    assert "sh" in engine.docker("exec", "base", "ps", "-o", "args").stdout.split()


def test_the_size_of_an_exec_waits_for_its_start(engine):
    """A client sends it when it has the head of the start's answer, before which nobody knows of the process."""
    engine.docker("run", "-d", "--name", "base", "busybox", "sleep", "100")
    command = ["timeout", "60", "sh", "-c", UNTIL_SIZE.format(20, 70)]
    status, body = engine.http("POST", "/v1.45/containers/base/exec", {"Tty": True, "Cmd": command})
    assert status == 201, body
    session = json.loads(body)["Id"]
    answers = []
    resize = threading.Thread(
        target=lambda: answers.append(engine.http("POST", f"/v1.45/exec/{session}/resize?h=20&w=70"))
    )
    resize.start()
    resize.join(0.5)
    assert answers == []
    assert engine.http("POST", f"/v1.45/exec/{session}/start", {"Detach": True, "Tty": True})[0] == 200
    resize.join()
    assert answers == [(200, b"")]

    def inspected():
        return json.loads(engine.http("GET", f"/v1.45/exec/{session}/json")[1])

    wait_for(lambda: not inspected()["Running"], what="end of the exec")
    assert inspected()["ExitCode"] == 0
    status, body = engine.http("POST", f"/v1.45/exec/{session}/resize?h=20&w=70")
    assert (status, json.loads(body)["message"]) == (409, f"exec process {session} is not running")


@pytest.mark.parametrize("client", CLIENTS, ids=["docker", "orlop"])
def test_signals_reach_the_container_or_not(engine, session, client):
    proxied = session(client, "run", "--name", "proxied", "busybox", "sh", "-c", TRAP)
    proxied.expect("ready")
    proxied.type("\x03")
    proxied.expect("caught")
    assert proxied.end() == 5
    alone = session(client, "run", "--sig-proxy=false", "--name", "alone", "busybox", "sh", "-c", TRAP)
    alone.expect("ready")
    alone.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert engine.inspect("alone")["State"]["Running"]


def test_end_of_input_ends_cat(session):
    cat = session(DOCKER, "run", "--rm", "-it", "busybox", "sh", "-c", "echo ready; exec cat")
    cat.expect("ready\r\n")  # the client's terminal echoes nothing from here on
    cat.type("abc\n")
    cat.expect("abc\r\nabc")
    cat.type("\x04")
    assert cat.end() == 0
