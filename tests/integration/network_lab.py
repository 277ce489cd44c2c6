"""A laboratory for network tests: a "host" and an "outside" namespace, and containers made of nothing but a namespace."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from harness import PATIENCE
from orlop.kernel import rtnetlink
from orlop.kernel.rtnetlink import Rtnetlink
from orlop.kernel.syscall import libc
from orlop.network.options import NetworkOptions
from orlop.network.sandbox import Sandbox
from orlop.network.service import NetworkService
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.network_namespace import open_sockets, raise_loopback, write_settings, write_wished
from orlop.spec.ports import PortRequest, parse_publish

CLONE_NEWNET = 0x40000000
PYTHON = os.path.realpath(sys.executable)
OUTSIDE, HOST = "10.99.0.2", "10.99.0.1"
OUTSIDE6, HOST6 = "fd99::2", "fd99::1"
# seconds: what must come is waited for; what must not, no longer than a first packet that was lost is sent again
ANSWER, SILENCE = 5.0 * PATIENCE, 1.5

A, B, C = "a" * 64, "b" * 64, "c" * 64  # ids of containers


def publish(*texts: str) -> tuple[PortRequest, ...]:
    return tuple(request for text in texts for request in parse_publish(text))


def _unshare() -> None:
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError("unshare")


def in_thread(work: Callable[[], Any], *, fresh: bool = True) -> Any:
    """Run ``work`` in a thread with (if fresh) a network namespace of its own."""
    outcome: list[Any] = []

    def body() -> None:
        try:
            if fresh:
                _unshare()
            outcome.append((True, work()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    done, value = outcome[0]
    if not done:
        raise value
    return value


def open_namespace(path: str = "/proc/thread-self/ns/net") -> tuple[OwnedFd, socket.socket]:
    fd = OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    return fd, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


class ThreadFactory:
    """NamespaceFactory in place of the spawner."""

    def __init__(self, *, ipv6_off: bool = True) -> None:
        self.ipv6_off = ipv6_off
        self.made = 0

    def _make(self, sockets: Any) -> tuple[OwnedFd, list[socket.socket]]:
        if self.ipv6_off:
            for name, value in (("disable_ipv6", "1"), ("accept_ra", "0")):
                with open(f"/proc/sys/net/ipv6/conf/default/{name}", "w") as file:
                    file.write(value)
        raise_loopback()
        netns, route = open_namespace()
        route.close()
        return netns, [socket.socket(fileno=made.detach()) for made in open_sockets(sockets)]

    async def create_network_namespace(self, *sockets: str) -> tuple[OwnedFd, list[socket.socket]]:
        self.made += 1
        return in_thread(lambda: self._make(sockets))

    async def open_inside(
        self, namespace: int, *, sockets: Any = (), settings: Any = None, wished: Any = None
    ) -> list[socket.socket]:
        def join() -> list[socket.socket]:
            if libc.setns(namespace, CLONE_NEWNET) != 0:
                raise OSError("setns")
            write_settings(settings or {})
            write_wished(wished or {})
            return [socket.socket(fileno=made.detach()) for made in open_sockets(sockets)]

        return in_thread(join, fresh=False)

    async def network_namespace_of(self, pidfd: int) -> tuple[OwnedFd, socket.socket]:
        def join() -> tuple[OwnedFd, socket.socket]:
            if libc.setns(pidfd, CLONE_NEWNET) != 0:
                raise OSError("setns")
            return open_namespace()

        return in_thread(join, fresh=False)


def run_in(netns: OwnedFd | None, *command: str, check: bool = True, timeout: float = 20 * PATIENCE) -> str:
    """Run a command in a namespace (None: the caller's) and return what it wrote to both streams."""
    where = [] if netns is None else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns.fileno()}", "--"]
    done = subprocess.run(
        [*where, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False
    )
    text = done.stdout.decode(errors="replace")
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.returncode}: {text}")
    return text


@dataclass
class Lab:
    """The host's side of the laboratory; used in the thread that lives in the "host" namespace."""

    outside: OwnedFd
    host: Rtnetlink
    database: sqlite3.Connection = field(default_factory=lambda: sqlite3.connect(":memory:", isolation_level=None))
    factory: ThreadFactory = field(default_factory=ThreadFactory)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    services: list[NetworkService] = field(default_factory=list)

    def service(self, **options: Any) -> NetworkService:
        service = NetworkService(NetworkOptions(**options), database=self.database, namespaces=self.factory)
        self.services.append(service)
        return service

    def serve(
        self, netns: OwnedFd | None, port: int, answer: str, *, udp: bool = False, six: bool = False
    ) -> subprocess.Popen[bytes]:
        """Serve ``answer`` and the client's address on a port of a namespace, for any number of clients."""
        code = (
            "import socket,sys\n"
            "port,answer,udp=int(sys.argv[1]),sys.argv[2],sys.argv[3]=='udp'\n"
            "s=socket.socket(socket.AF_INET6 if sys.argv[4]=='6' else socket.AF_INET,socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)\n"
            "s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n"
            "s.bind(('::' if sys.argv[4]=='6' else '0.0.0.0',port))\n"
            "udp or s.listen(16)\n"
            "print('ready',flush=True)\n"
            "while True:\n"
            "  if udp:\n"
            "    _,peer=s.recvfrom(100); s.sendto(f'{answer} {peer[0]}'.encode(),peer)\n"
            "  else:\n"
            "    c,peer=s.accept(); c.sendall(f'{answer} {peer[0]}'.encode()); c.close()\n"
        )
        where = [] if netns is None else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns.fileno()}", "--"]
        process = subprocess.Popen(
            [*where, PYTHON, "-I", "-S", "-c", code, str(port), answer, "udp" if udp else "tcp", "6" if six else "4"],
            stdout=subprocess.PIPE,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def sleeper(self, sandbox: Sandbox) -> subprocess.Popen[bytes]:
        """Start a process in a sandbox, as a container's init."""
        assert sandbox.netns is not None
        process = subprocess.Popen(
            ["nsenter", f"--net=/proc/{os.getpid()}/fd/{sandbox.netns.fileno()}", "--", "sleep", "1000"]
        )
        self.processes.append(process)
        inode = os.stat(f"/proc/{os.getpid()}/fd/{sandbox.netns.fileno()}").st_ino
        while os.stat(f"/proc/{process.pid}/ns/net").st_ino != inode:
            os.sched_yield()
        return process

    def ask(self, netns: OwnedFd | None, address: str, port: int, *, udp: bool = False, seconds: float = ANSWER) -> str:
        """Return what a server answers to a client in a namespace; "" when it can't be reached."""
        code = (
            "import socket,sys\n"
            "where,udp,left=(sys.argv[1],int(sys.argv[2])),sys.argv[3]=='udp',float(sys.argv[4])\n"
            "family=socket.AF_INET6 if ':' in where[0] else socket.AF_INET\n"
            "s=socket.socket(family,socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)\n"
            "s.settimeout(left)\n"
            "try:\n"
            "  s.connect(where)\n"
            "  while udp and left>0:\n"  # as TCP sends what was lost again
            "    s.settimeout(min(left,1)); left-=1; s.send(b'?')\n"
            "    try: print(s.recv(100).decode()); break\n"
            "    except TimeoutError: pass\n"
            "  udp or (s.settimeout(30),print(s.recv(100).decode()))\n"  # the kernel has answered: the program will
            "except OSError: pass\n"
        )
        kind = "udp" if udp else "tcp"
        return run_in(netns, PYTHON, "-I", "-S", "-c", code, address, str(port), kind, str(seconds)).strip()

    def is_silent(self, netns: OwnedFd | None, address: str, port: int, *, udp: bool = False) -> bool:
        """Whether no answer comes."""
        return not self.ask(netns, address, port, udp=udp, seconds=SILENCE)

    def reached(self, *asked: tuple[OwnedFd | None, str, int]) -> list[tuple[OwnedFd | None, str, int]]:
        """Return those that are not silent; at the same time, since silence takes its time."""
        with ThreadPoolExecutor(len(asked)) as pool:  # of this thread's namespace
            answers = list(pool.map(lambda one: not self.is_silent(*one), asked))
        return [one for one, answer in zip(asked, answers, strict=True) if answer]

    def links(self) -> set[str]:
        return {link.name for link in self.host.links()}

    def rules(self) -> str:
        text = run_in(None, "iptables-save")
        return "\n".join(line.split(" [")[0] for line in text.splitlines() if not line.startswith("#"))

    async def wait_links(self, expected: set[str], *, seconds: float = 5) -> None:
        """Wait until exactly these links are left."""
        deadline = asyncio.get_running_loop().time() + seconds * PATIENCE
        while self.links() != expected:
            assert asyncio.get_running_loop().time() < deadline, f"{self.links()} instead of {expected}"
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def _laboratory() -> Iterator[Lab]:
    outside, sock = in_thread(open_namespace)
    host = Rtnetlink.open()
    with Rtnetlink(sock) as far:
        host.execute(
            rtnetlink.add_veth("uplink", "far", peer_netns=outside.fileno()),
            rtnetlink.set_link(1, up=True),
            rtnetlink.set_link(0, name="uplink", up=True),
        )
        for text in (f"{HOST}/24", f"{HOST6}/64"):
            host.execute(rtnetlink.add_address(host.link("uplink").index, ipaddress.ip_interface(text)))
        far.execute(rtnetlink.set_link(1, up=True), rtnetlink.set_link(0, name="far", up=True))
        for text in (f"{OUTSIDE}/24", f"{OUTSIDE6}/64"):
            far.execute(rtnetlink.add_address(far.link("far").index, ipaddress.ip_interface(text)))
    with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
        file.write("0")  # a new namespace has what the machine's first one has
    lab = Lab(outside, host)
    try:
        yield lab
    finally:
        for process in lab.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        lab.database.close()
        host.close()
        outside.close()


async def _and_close(body: Callable[[Lab], Awaitable[None]], lab: Lab) -> None:
    try:
        await body(lab)
    finally:
        for service in lab.services:
            await service.close()


def in_laboratory(body: Callable[[Lab], Awaitable[None]]) -> None:
    """Run ``body`` in a fresh laboratory, in an event loop of its own."""

    def work() -> None:
        with _laboratory() as lab:
            asyncio.run(_and_close(body, lab))

    in_thread(work)
