"""sd_notify(3) through orlop-runtime: what a program in a container says to the service manager that started it."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from hooks import shell
from hostile import python, python_mounts
from runtime import CONFIG

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox")]

PROGRAM = """
import os, socket, sys, time
said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
said.connect(os.environ['NOTIFY_SOCKET'])
said.send(b'STATUS=not yet\\nMAINPID=1')
said.send(b'STATUS=now\\nREADY=1\\nWATCHDOG=trigger')
open('/tmp/said', 'w').close()
time.sleep(float(sys.argv[1]))
"""


class Manager:
    """A service manager's socket; it answers barriers, as systemd does, by closing what came with them."""

    def __init__(self, path: str) -> None:
        self.messages: list[bytes] = []
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{path[1:]}" if path.startswith("@") else path)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            message, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            for fd in fds:
                os.close(fd)
            if message == b"end":
                return
            self.messages.append(message)

    def close(self) -> list[bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"end", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
        return self.messages


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    made = Manager(str(tmp_path / "manager") if request.param == "path" else f"@orlop-t-{os.urandom(6).hex()}")
    yield made
    if made.messages[-1:] != [b"end"] and made._thread.is_alive():
        made.close()


def bundle(runtime, seconds: str, **changes) -> tuple[str, str]:
    tmp = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
    return runtime.bundle(*python(PROGRAM), seconds, mounts=[*CONFIG["mounts"], tmp, *python_mounts()], **changes)


def test_run_returns_when_the_program_is_ready(runtime, manager) -> None:
    identity, directory = bundle(runtime, "100")
    runtime.expect("run", "--detach", "--bundle", directory, identity, setting=f"NOTIFY_SOCKET={manager.path}")
    pid = runtime.state(identity)["pid"]
    # of two messages one line, no pid but ours, and nothing else that a manager would do something for
    assert manager.close() == [b"READY=1\n", f"MAINPID={pid}\n".encode(), b"BARRIER=1"]
    runtime.expect("delete", "--force", identity)
    assert not (runtime.home / "state" / identity).exists()


def test_start_waits_after_create(runtime, manager) -> None:
    identity, directory = bundle(runtime, "100")
    setting = f"NOTIFY_SOCKET={manager.path}"
    runtime.expect("create", "--bundle", directory, identity, setting=setting)
    assert manager.messages == []
    runtime.expect("start", identity, setting=setting)
    pid = runtime.state(identity)["pid"]
    assert manager.close()[:2] == [b"READY=1\n", f"MAINPID={pid}\n".encode()]
    runtime.expect("delete", "--force", identity)


def test_start_hands_on_what_an_ended_program_said(runtime, manager) -> None:
    script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); while grep -q '^State:.[^ZX]' /proc/$pid/status; do sleep 0.05; done"
    identity, directory = bundle(runtime, "0", hooks={"poststart": [shell(script)]})
    setting = f"NOTIFY_SOCKET={manager.path}"
    runtime.expect("create", "--bundle", directory, identity, setting=setting)
    pid = runtime.state(identity)["pid"]
    runtime.expect("start", identity, setting=setting)
    assert manager.close()[:2] == [b"READY=1\n", f"MAINPID={pid}\n".encode()]
    runtime.expect("delete", "--force", identity)


def test_in_the_foreground_the_runtime_is_the_service(runtime, manager) -> None:
    identity, directory = bundle(runtime, "0.3")
    done = runtime("run", "--bundle", directory, identity, setting=f"export NOTIFY_SOCKET={manager.path}; echo $$;")
    assert done.returncode == 0, done.stderr
    ready, main, barrier = manager.close()
    assert (ready, barrier) == (b"READY=1\n", b"BARRIER=1")
    assert main == f"MAINPID={int(done.stdout)}\n".encode()


def test_a_program_that_ends_before_it_is_ready_holds_nobody(runtime, tmp_path) -> None:
    identity, directory = runtime.bundle("true")
    made = Manager(str(tmp_path / "manager"))
    runtime.expect("run", "--detach", "--bundle", directory, identity, setting=f"NOTIFY_SOCKET={made.path}")
    assert made.close() == []
    runtime.expect("delete", "--force", identity)


def test_without_a_manager_there_is_no_socket(runtime) -> None:
    identity, directory = runtime.bundle("sh", "-c", "echo -$NOTIFY_SOCKET-; ls /run/notify 2>/dev/null")
    assert runtime("run", "--bundle", directory, identity).stdout == "--\n"
