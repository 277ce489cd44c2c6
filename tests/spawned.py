"""The engine's side of the spawner: launches containers without an engine (docs/concepts/processes.md)."""

import contextlib
import dataclasses
import os
import secrets
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from harness import PATIENCE, remove_cgroups
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.sealed import start_spawner
from orlop.spec.launch import AttachTarget, ContainerLaunch, ExecLaunch, to_message

NAMESPACES = ("mount", "pid", "network", "ipc", "uts")
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]
EIGHT_BYTES = 8


def unframed(data: bytes, number: int) -> bytes:
    """Return what one stream of Docker's framing carries."""
    out = b""
    while data:
        size = int.from_bytes(data[4:EIGHT_BYTES], "big")
        if data[0] == number:
            out += data[EIGHT_BYTES : EIGHT_BYTES + size]
        data = data[EIGHT_BYTES + size :]
    return out


def read_all(sock: socket.socket, *, seconds: float = 10) -> bytes:
    sock.settimeout(seconds * PATIENCE)
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def read_until(sock: socket.socket, wanted: bytes, *, seconds: float = 10) -> bytes:
    sock.settimeout(seconds * PATIENCE)
    data = b""
    while wanted not in data:
        chunk = sock.recv(65536)
        assert chunk, data
        data += chunk
    return data


@dataclasses.dataclass
class Process:
    """The engine's side of a shim."""

    id: str
    control: Channel
    state: Path
    config: dict
    pid: int = 0
    pidfd: int = -1
    sequence: int = 0
    clients: list[socket.socket] = dataclasses.field(default_factory=list)

    def event(self, name: str, *, seconds: float = 10) -> dict:
        """Wait for an event; answers are passed over."""
        deadline = time.monotonic() + seconds * PATIENCE
        while select.select([self.control], [], [], max(0, deadline - time.monotonic()))[0]:
            got = self.control.receive()
            assert got is not None, f"no {name}: shim is gone"
            message, fds = got
            if message.get("event") == "started" and fds:
                self.pid, self.pidfd = message["pid"], fds[0].release()
            for fd in fds:
                fd.close()
            if message.get("event") == name:
                return message
            assert message.get("event") != "failed", message
        pytest.fail(f"no event {name} in {seconds} s")

    def ask(self, fds: tuple[int, ...] = (), /, **message) -> dict:
        self.sequence += 1
        self.control.send({**message, "seq": self.sequence}, fds)
        while True:
            got = self.control.receive()
            assert got is not None
            for fd in got[1]:
                fd.close()
            if got[0].get("seq") == self.sequence:
                return got[0]

    def attach(self, target: AttachTarget) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            answer = self.ask((theirs.fileno(),), op="attach", target=to_message(target))
        assert answer["ok"] is True
        self.clients.append(ours)
        return ours

    def wait(self, **options) -> int:
        return self.event("exit", **options)["exit_code"]

    @property
    def shim(self) -> int:
        return int(Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


class Runtime:
    """A spawner, a root and directories."""

    def __init__(self, home: Path, root: Path) -> None:
        self.home, self.root = home, root
        self.parent = f"/orlop-t-rt-{secrets.token_hex(4)}"
        self.spawner = start_spawner()
        self.channel = Channel(self.spawner.socket)
        self.processes: list[Process] = []

    def config(self, *args: str, **process) -> dict:
        user = process.pop("user", {"uid": 0, "gid": 0})
        return {
            "ociVersion": "1.2.0",
            "root": {"path": str(self.root)},
            "process": {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], "user": user, **process},
            "mounts": list(MOUNTS),
            "linux": {"namespaces": [{"type": kind} for kind in NAMESPACES]},
        }

    def request(self, message: dict, fds: tuple[int, ...] = (), *, deaf: bool = False) -> Channel:
        """Ask for something; ``deaf``: and be gone before the answer can come."""
        ours, theirs = Channel.pair()
        if deaf:
            ours.close()
        self.channel.send(message, [theirs.fileno(), *fds])
        theirs.close()
        return ours

    def answer(self, message: dict, fds: tuple[int, ...] = ()) -> tuple[dict, list[OwnedFd]]:
        channel = self.request(message, fds)
        try:
            got = channel.receive()
            assert got is not None
            return got
        finally:
            channel.close()

    def launch(
        self,
        config: dict,
        clients: tuple[AttachTarget, ...] = (),
        *,
        narrow: bool = False,
        deaf: bool = False,
        **launch,
    ):
        """Launch a container; returns the process and the clients' sockets, which with ``narrow`` take little."""
        name = secrets.token_hex(32)
        config["linux"]["cgroupsPath"] = f"{self.parent}/{name}"
        state = self.home / name
        pairs = [socket.socketpair() for _ in clients]
        for _, theirs in pairs if narrow else ():
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        value = ContainerLaunch(id=name, state_dir=str(state), config=config, attach=clients, **launch)
        control = self.request(
            {"op": "container", "launch": to_message(value)}, tuple(theirs.fileno() for _, theirs in pairs), deaf=deaf
        )
        for _, theirs in pairs:
            theirs.close()
        process = Process(name, control, state, config, clients=[ours for ours, _ in pairs])
        self.processes.append(process)
        return process, process.clients

    def run(self, *args: str, **launch) -> Process:
        process, _ = self.launch(self.config(*args), **launch)
        process.event("started")
        return process

    def output(self, config: dict, **launch) -> tuple[int, str]:
        """Run to the end; returns exit code and both outputs."""
        process, (client,) = self.launch(config, (AttachTarget(multiplexed=False),), **launch)
        text = read_all(client).decode()
        return process.wait(), text

    def execute(self, inside: Process, *args: str, clients: tuple[AttachTarget, ...] = (), **process):
        name = secrets.token_hex(32)
        launch = {key: process.pop(key) for key in ("open_stdin", "console_size") if key in process}
        value = ExecLaunch(
            id=name,
            container_id=inside.id,
            state_dir=str(self.home / name),
            config=inside.config,
            process=self.config(*args, **process)["process"],
            attach=clients,
            **launch,
        )
        pairs = [socket.socketpair() for _ in clients]
        fds = (inside.pidfd, *(theirs.fileno() for _, theirs in pairs))
        control = self.request({"op": "exec", "launch": to_message(value)}, fds)
        for _, theirs in pairs:
            theirs.close()
        made = Process(name, control, self.home / name, inside.config, clients=[ours for ours, _ in pairs])
        self.processes.append(made)
        return made, made.clients

    def close(self) -> None:
        for process in self.processes:
            for client in process.clients:
                client.close()
            if process.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
                os.close(process.pidfd)
            while select.select([process.control], [], [], 5 * PATIENCE)[0]:  # until the shim has removed what it made
                got = process.control.receive()
                if got is None:
                    break
                for fd in got[1]:
                    fd.close()
            process.control.close()
        self.channel.close()
        os.waitpid(self.spawner.pid, 0)
        self.spawner.pidfd.close()
        remove_cgroups(self.parent.removeprefix("/"))


def failure(process: Process) -> dict:
    got = process.control.receive()
    assert got is not None
    assert got[0]["event"] == "failed", got[0]
    return got[0]["error"]
