"""An engine of its own for a test: network namespace, data-root, exec-root, cgroup parent.

The engine's processes run in a network namespace of their own, so the host's links and rules are never touched and any
number of engines can run at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# how much longer everything takes: in the virtual machine of tests/vm each instruction is emulated
SLOWNESS = 10 if os.environ.get("ORLOP_VM") == "inside" else 1
# how much longer than usual a test waits for what must come, so that a busy machine fails none
PATIENCE = 3 * SLOWNESS
DOCKER = shutil.which("docker") or str(ROOT / ".make/bin/docker")

COMPOSE = str(ROOT / ".make/bin/docker-compose")  # 2.40: a docker-compose of the machine may be of version 1
REGISTRY = shutil.which("docker-registry") or str(ROOT / ".make/bin/docker-registry")


def client_version() -> tuple[int, int]:
    """Return the docker client's version: older ones have other words and exit codes of their own."""
    text = subprocess.run([DOCKER, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = text.split()[2].split(".")[:2]
    return int(major), int(minor)


def busybox_tree(into: Path) -> Path:
    """Make a root file system of Debian's busybox-static in ``into``."""
    for name in ("bin", "dev", "etc", "proc", "sys", "usr", "var", "tmp", "root"):
        (into / name).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox") or "/bin/busybox"
    shutil.copy(busybox, into / "bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        with contextlib.suppress(FileExistsError):
            (into / "bin" / applet).symlink_to("busybox")
    (into / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    (into / "etc/group").write_text("root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n")
    (into / "tmp").chmod(0o1777)
    return into


def busybox_tar(path: Path) -> Path:
    """Write the same tree as a tar archive."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)  # it becomes /, which every user enters
        tree = busybox_tree(Path(scratch))
        subprocess.run(["tar", "-C", tree, "--owner=0", "--group=0", "--numeric-owner", "-cf", path, "."], check=True)
    return path


@functools.cache
def _busybox_archive() -> bytes:
    """Return what each engine's first image is made of."""
    with tempfile.TemporaryDirectory() as scratch:
        return busybox_tar(Path(scratch) / "tar").read_bytes()


def wait_for(condition: Any, *, seconds: float = 10, what: str = "condition") -> Any:
    """Poll until ``condition()`` is true and return its value."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {seconds} s")
        time.sleep(0.02)


def has_ended(pid: int | str) -> bool:
    """Whether a process is gone, or dead until its parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: a shell's ``trap`` has been read."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> number - 1 & 1)


def held_devices() -> list[str]:
    """What device mapper and loop devices hold on the whole machine."""
    names = subprocess.run(["dmsetup", "ls"], capture_output=True, text=True, check=True).stdout
    loops = subprocess.run(["losetup", "-ln"], capture_output=True, text=True, check=True).stdout
    return [*(line for line in names.splitlines() if line != "No devices found"), *loops.splitlines()]


@dataclasses.dataclass
class Engine:
    """A running engine; ``docker()`` and ``orlop()`` talk to it."""

    home: Path
    name: str
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    netns_holder: subprocess.Popen[bytes] | None = None
    parent: str = ""  # of its cgroups; "" is one of its name
    within: tuple[str, ...] = ()  # a command that runs the engine as its last arguments say
    run: Path | None = None  # the exec-root, where that is not to be on the disk that the home is on

    @property
    def socket(self) -> Path:
        return self.exec_root / "orlop.sock"

    @property
    def data_root(self) -> Path:
        return self.home / "data"

    @property
    def exec_root(self) -> Path:
        return self.run or self.home / "run"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def cgroup_parent(self) -> str:
        return self.parent or f"/{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{BIN}:{Path(DOCKER).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.home / "config"),
            "LANG": "C.UTF-8",
        }

    def hold_network(self) -> None:
        """Keep the engine's network namespace alive across engine restarts."""
        if self.netns_holder is None:
            self.netns_holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
            pid = self.netns_holder.pid
            mine = os.readlink("/proc/self/ns/net")
            wait_for(lambda: os.readlink(f"/proc/{pid}/ns/net") != mine, what="namespace")
            wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", what="exec")
            self.in_network("ip", "link", "set", "lo", "up")

    def in_network(self, *command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the engine's network namespace."""
        assert self.netns_holder is not None
        full = ["nsenter", f"--net=/proc/{self.netns_holder.pid}/ns/net", "--", *map(str, command)]
        options.setdefault("timeout", 60 * PATIENCE)
        done = subprocess.run(full, capture_output=True, text=True, check=False, **options)
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def start(self, *, seconds: float = 20) -> Engine:
        """Start the engine (again) and wait until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.hold_network()
        assert self.netns_holder is not None
        configuration = self.home / "daemon.json"
        if not configuration.exists():
            configuration.write_text("{}")
        log = (self.home / "engine.log").open("ab")
        command = [
            *("nsenter", f"--net=/proc/{self.netns_holder.pid}/ns/net", "--", *self.within, str(BIN / "orlopd")),
            *("--data-root", str(self.data_root), "--exec-root", str(self.exec_root), "--host", self.host),
            *("--pidfile", str(self.home / "engine.pid"), "--cgroup-parent", self.cgroup_parent),
            *("--config-file", str(self.home / "daemon.json")),
            *self.options,
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
        )
        log.close()

        def answers() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"engine ended with {self.process.returncode}: {self.log_text()[-4000:]}")
            try:
                return self.http("GET", "/_ping", timeout=5)[0] == 200
            except TimeoutError:  # it listens, and waits for the kernel: the lock of all links is the whole machine's
                return False

        wait_for(answers, seconds=seconds, what="engine's answer to /_ping")
        return self

    def log_text(self) -> str:
        path = self.home / "engine.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def prune_volumes(self) -> None:
        """Remove every volume that nothing uses, also those with options, which ``volume prune -a`` leaves."""
        status, body = self.http("GET", "/v1.45/volumes?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D")
        assert status == 200, body
        for volume in json.loads(body)["Volumes"] or []:
            status, body = self.http("DELETE", f"/v1.45/volumes/{volume['Name']}")
            assert status == 204, body

    def http(self, method: str, path: str, body: Any = None, *, timeout: float = 30) -> tuple[int, bytes]:
        """Make one bare HTTP request; (0, b"") when nobody listens."""
        import http.client
        import socket

        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout * PATIENCE)
        try:
            sock.connect(str(self.socket))
        except OSError:
            sock.close()
            return 0, b""
        connection.sock = sock
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body))
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def kill(self) -> None:
        """``kill -9`` of the engine alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_while(self, condition: Any) -> bool:
        """``kill -9`` of the engine if the condition still holds when all its threads stand still; else it goes on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        states = lambda: {path.read_text().rpartition(")")[2].split()[0] for path in tasks.glob("*/stat")}  # noqa: E731
        wait_for(lambda: states() == {"T"}, what="an engine that stands still")
        if condition():
            self.kill()
            return True
        self.process.send_signal(signal.SIGCONT)
        return False

    def stop(self) -> int:
        """SIGTERM and its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20 * PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode

    def client(
        self, program: str | Path, *arguments: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        options.setdefault("timeout", 60 * PATIENCE)
        options.setdefault("text", True)
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        environment = {**self.environment, **options.pop("env", {})}
        done = subprocess.run(
            [str(program), *map(str, arguments)], capture_output=True, check=False, env=environment, **options
        )
        if check and done.returncode:
            raise AssertionError(
                f"{program} {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}\n"
                f"engine: {self.log_text()[-3000:]}"
            )
        return done

    def docker(self, *arguments: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the real docker client against the engine."""
        return self.client(DOCKER, *arguments, check=check, **options)

    def orlop(self, *arguments: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run orlop's own client against the engine."""
        return self.client(BIN / "orlop", *arguments, check=check, **options)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return ``docker inspect NAME``."""
        return json.loads(self.docker("inspect", name).stdout)[0]

    def import_busybox(self, tag: str = "busybox:latest") -> None:
        """Make the busybox image."""
        archive = self.home / "busybox.tar"
        if archive.exists():
            busybox_tar(archive)  # a layer of its own, by its times
        else:
            archive.write_bytes(_busybox_archive())
        self.docker("import", "--change", 'CMD ["sh"]', archive, tag)

    def remove_containers(self) -> None:
        """Remove every container by force."""
        wait_for(self._remove_containers, seconds=60, what="removal of all containers")

    def _remove_containers(self) -> bool:
        """Do it; False if some are being removed for somebody else (``--rm``, a build's step): they may need a moment."""
        status, body = self.http("GET", "/v1.45/containers/json?all=1")
        assert status == 200, f"{status} {body!r}\nengine: {self.log_text()[-3000:]}"
        ids = [document["Id"] for document in json.loads(body)]
        remove = functools.partial(self.http, "DELETE", timeout=60)
        with ThreadPoolExecutor(8) as pool:  # a client of docker would take the time of ten requests to start
            answers = list(pool.map(remove, (f"/v1.45/containers/{name}?force=1" for name in ids)))
        busy = [answer for answer in answers if answer[0] == 409 and b"is already in progress" in answer[1]]
        wrong = [answer for answer in answers if answer[0] not in {204, 404} and answer not in busy]
        assert not wrong, f"{wrong}\nengine: {self.log_text()[-3000:]}"
        return not busy

    def destroy(self) -> None:
        """End everything that belongs to this engine and remove its directory."""
        with contextlib.suppress(Exception):
            if self.process is not None and self.process.poll() is None:
                self.remove_containers()
        if self.process is not None:
            with contextlib.suppress(Exception):
                self.stop()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.netns_holder is not None:
            self.netns_holder.kill()
            self.netns_holder.wait()
        wait_for(lambda: not self.processes(), seconds=20, what="end of the engine's processes")
        remove_cgroups(self.name)
        shutil.rmtree(self.home, ignore_errors=True)

    def spawner(self) -> int:
        """Return the spawner's pid."""
        (pid,) = wait_for(lambda: (found := self.spawners()) and len(found) == 1 and found, what="one spawner")
        return pid

    def spawners(self) -> list[int]:
        """Return the engine's children with an empty environment: the spawner, or nobody while it is replaced."""
        assert self.process is not None
        found = []
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            children = ""
            with contextlib.suppress(OSError):  # the thread ended
                children = Path(f"/proc/{self.process.pid}/task/{task}/children").read_text()
            for child in children.split():
                with contextlib.suppress(OSError):
                    if os.path.exists(f"/proc/{child}/exe") and not Path(f"/proc/{child}/environ").read_bytes():
                        found.append(int(child))
        return found

    def processes(self) -> list[int]:
        """Return the pids of what this engine started: its shims, spawner and containers."""
        return [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if pid != os.getpid() and self._is_mine(pid)
        ]

    def _is_mine(self, pid: int) -> bool:
        if has_ended(pid):
            return False
        try:
            if self.name in Path(f"/proc/{pid}/cgroup").read_text():
                return True
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        places = (str(self.home).encode(), str(self.exec_root).encode())
        return any(place in command for place in places) and b"pytest" not in command


def remove_cgroups(name: str) -> None:
    """Remove the cgroup ``name`` below each hierarchy's root, deepest first."""
    for top in Path("/sys/fs/cgroup").glob("*/" + name):
        for directory, _, _ in sorted(os.walk(top), reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
    top = Path("/sys/fs/cgroup") / name
    if top.is_dir():
        for directory, _, _ in sorted(os.walk(top), reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
