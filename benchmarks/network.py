"""The network side by side in one run: orlop with both firewall backends, Docker and Podman.

``make bench BENCH=network``. The peers are used where the script named by ORLOP_PEERS (``../shared/tools/peers``) is
there; throughput and latency need ``iperf3`` (Debian's package, not installed by ``tools/setup``). Rounds are
interleaved, so that the machine's noise meets all alike. Podman is driven by its own command, which costs it a process;
where that would be the figure, it is left out. It publishes no port of a container with IPv4 only on [::1].
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from main import PEERS, STATE, UnixConnection, api_cycle, interleaved, report

from harness import DOCKER, Engine, busybox_tar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PYTHON = os.path.realpath(sys.executable)
DOTTED = r"\d+\.\d+\.\d+\.\d+"
ASK = """
import socket, sys, time
server, name, window = sys.argv[1], sys.argv[2], int(sys.argv[3])
question = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + bytes([len(name)]) + name.encode() + b"\\0\\0\\1\\0\\1"
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(window)]
for sock in socks:
    sock.connect((server, 53)); sock.settimeout(5); sock.send(question)
    assert len(sock.recv(512)) > len(question), "no address"
count, end = 0, time.monotonic() + 1.5
while time.monotonic() < end:
    for sock in socks: sock.send(question)
    for sock in socks: sock.recv(512)
    count += window
print(count / 1.5)
"""
ECHO = """
import socket
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", 7)); s.listen(); print("ready", flush=True)
while True:
    c, _ = s.accept(); c.setsockopt(6, 1, 1)
    while d := c.recv(64): c.send(d)
"""
PING = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); s.setsockopt(6, 1, 1); times = []
for _ in range(3000):
    a = time.perf_counter(); s.send(b"x"); s.recv(1); times.append(time.perf_counter() - a)
print(sorted(times)[len(times) // 2] * 1e6)
"""


class Subject:
    """An engine that is measured: how to run a container on it, and the namespaces to measure in."""

    def __init__(self, name: str, host: str, netns: Path) -> None:
        self.name, self.host, self.netns = name, host, netns
        self.connection = UnixConnection(host.removeprefix("unix://"))

    def command(self, *words: str, check: bool = True) -> str:
        """Run the client."""
        environment = {**os.environ, "DOCKER_HOST": self.host}
        done = subprocess.run([DOCKER, *words], env=environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {words}: {done.stderr}")
        return done.stdout.strip()

    def run(self, name: str, *options: str) -> Path:
        """Start a sleeping container and return its network namespace."""
        self.command("run", "-d", "--name", name, *options, "busybox", "sleep", "3600")
        return Path(f"/proc/{self.command('inspect', '-f', '{{.State.Pid}}', name)}/ns/net")

    def address(self, name: str, network: str) -> str:
        """Return a container's address."""
        return self.command("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', name)

    def name_server(self, netns: Path) -> str:
        """Return where the container's questions go."""
        del netns
        return "127.0.0.11"

    def let_through(self, network: str, stack: contextlib.ExitStack) -> None:
        """Do what a network needs besides its engine's own rules, for as long as the context lasts: nothing."""


class Podman(Subject):
    """Podman, by its command."""

    def __init__(self, netns: Path) -> None:
        self.name, self.host, self.netns = "podman", "", netns

    def command(self, *words: str, check: bool = True) -> str:
        """Run podman in the peers' tree."""
        done = subprocess.run([PEERS, "exec", "podman", *words], capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"podman: {words}: {done.stderr}")
        return done.stdout.strip()

    def name_server(self, netns: Path) -> str:
        """aardvark-dns answers at the bridge's address."""
        found = re.search(rf"default via ({DOTTED})", within(netns, "ip", "route"))
        if found is None:
            raise RuntimeError("podman's container has no way out")
        return found[1]

    def let_through(self, network: str, stack: contextlib.ExitStack) -> None:
        """Accept packets of a network in DOCKER-USER: netavark's table cannot overrule dockerd's policy, DROP."""
        bridge = self.command("network", "inspect", "-f", "{{.NetworkInterface}}", network)
        for way in ("-i", "-o"):
            for program in ("iptables", "ip6tables"):
                rule = ("DOCKER-USER", way, bridge, "-j", "ACCEPT")
                if within(self.netns, program, "-S").find("-N DOCKER-USER") < 0:
                    continue
                within(self.netns, program, "-I", *rule)
                stack.callback(within, self.netns, program, "-D", *rule)


def within(netns: Path, *command: str, timeout: float = 60) -> str:
    """Run a command in a network namespace and return what it wrote."""
    full = ["nsenter", f"--net={netns}", "--", *command]
    done = subprocess.run(full, capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return done.stdout


@contextlib.contextmanager
def serving(netns: Path, *command: str, ready: bytes) -> Iterator[None]:
    """Run a server in a namespace for as long as the context lasts."""
    full = ["nsenter", f"--net={netns}", "--", *command]
    with subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            while ready not in (line := process.stdout.readline()):
                if not line:
                    raise RuntimeError(f"{command[0]} ended")
            yield
        finally:
            process.kill()


def behind(sock_path: str) -> Path:
    """Return the network namespace of the process behind a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sock_path)
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Path(f"/proc/{pid}/ns/net")


def start_latency(subjects: Sequence[Subject], rounds: int) -> None:
    """Print what a bridge adds to a start: the default one, and one with a name server."""
    actions: dict[str, Callable[[], object]] = {}
    for subject in subjects:
        subject.command("network", "create", "nb-own")
        for network in ("bridge", "nb-own", "none"):
            actions[f"{subject.name} {network}"] = api_cycle(subject.connection, network)
    times = interleaved(actions, rounds * 5)  # what a bridge adds is less than what one start differs from the next
    report("API create+start+wait+delete", times)
    print("\nwhat a bridge adds (wanted: at most 2 ms)")
    for subject in subjects:
        subject.command("network", "rm", "nb-own")
        for network in ("bridge", "nb-own"):
            both = zip(times[f"{subject.name} {network}"], times[f"{subject.name} none"], strict=True)
            added = statistics.median(bridge - none for bridge, none in both)
            print(f"  {subject.name + ' ' + network:<20} {added:8.2f} ms")


def joining(subjects: Sequence[Subject], rounds: int) -> None:
    """Time connect and disconnect of a running container."""
    connects: dict[str, Callable[[], object]] = {}
    times: dict[str, list[float]] = {}
    for subject in subjects:
        subject.command("network", "create", "nb-join")
        subject.run("nb-box")

        def cycle(subject: Subject = subject) -> None:
            for verb in ("connect", "disconnect"):
                started = time.perf_counter()
                subject.connection.ask("POST", f"/networks/nb-join/{verb}", {"Container": "nb-box"})
                times.setdefault(f"{subject.name} {verb}", []).append((time.perf_counter() - started) * 1000)

        connects[subject.name] = cycle
    interleaved(connects, rounds)
    report("network connect, disconnect of a running container (API)", times)
    for subject in subjects:
        subject.command("rm", "-f", "nb-box")
        subject.command("network", "rm", "nb-join")


def publishing(subjects: Sequence[Subject], rounds: int, ports: int) -> None:
    """Time a start with one published port, beside none and beside many others."""
    times: dict[str, list[float]] = {}

    def one(subject: Subject, label: str) -> None:
        body = {"Image": "busybox", "Cmd": ["sleep", "60"],
                "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "9999"}]}}}  # fmt: skip
        identity = json.loads(subject.connection.ask("POST", "/containers/create", body))["Id"]
        started = time.perf_counter()
        subject.connection.ask("POST", f"/containers/{identity}/start")
        times.setdefault(f"{subject.name} {label}", []).append((time.perf_counter() - started) * 1000)
        subject.connection.ask("DELETE", f"/containers/{identity}?force=1")

    for subject in subjects:
        for _ in range(rounds):
            one(subject, "first")
        for block in range(0, ports, 50):
            first, last = 20000 + block, 20000 + min(block + 50, ports) - 1
            subject.run(f"nb-p{block}", "-p", f"{first}-{last}:1000-{1000 + last - first}")
        for _ in range(rounds):
            one(subject, f"after {ports}")
        subject.command("rm", "-f", *(f"nb-p{block}" for block in range(0, ports, 50)))
    report(f"start with one published port, with no other and with {ports} others", times)


def traffic(subjects: Sequence[Subject], rounds: int) -> None:
    """Measure names, throughput and round trips."""
    figures: dict[str, dict[str, list[float]]] = {}
    places: list[tuple[Subject, Path, Path, str]] = []
    with contextlib.ExitStack() as stack:
        for number, subject in enumerate(subjects):
            bulk, echo = published(number)
            subject.command("network", "create", "nb-net")
            stack.callback(subject.command, "network", "rm", "nb-net")
            subject.let_through("nb-net", stack)
            server = subject.run("nb-server", "--network", "nb-net", "-p", f"{bulk}:5201", "-p", f"{echo}:7")
            stack.callback(subject.command, "rm", "-f", "nb-server")
            client = subject.run("nb-client", "--network", "nb-net")
            stack.callback(subject.command, "rm", "-f", "nb-client")
            places.append((subject, server, client, subject.address("nb-server", "nb-net")))
            stack.enter_context(serving(server, PYTHON, "-I", "-S", "-c", ECHO, ready=b"ready"))
        far, holder = outside(stack)
        for number, (subject, *_) in enumerate(places):
            link(stack, subject, far, holder, number)
        stack.enter_context(serving(far, PYTHON, "-I", "-S", "-c", ECHO, ready=b"ready"))
        for _ in range(rounds):
            for number, (subject, server, client, address) in enumerate(places):
                ask(figures, subject, client)
                beyond = f"10.198.{number}.2"
                for way, (netns, end), where, ports in (
                    ("container to container", (client, server), address, (5201, 7)),
                    ("host to 127.0.0.1:published", (subject.netns, server), "127.0.0.1", published(number)),
                    ("host to [::1]:published", (subject.netns, server), "::1", published(number)),
                    ("container to outside", (client, far), beyond, (5201, 7)),
                    ("outside to published", (far, server), f"10.198.{number}.1", published(number)),
                ):
                    try:
                        with serving(end, "iperf3", "-s", "-1", "--forceflush", ready=b"listening"):
                            measure(figures, subject.name, way, (netns, where, ports))
                    except (RuntimeError, subprocess.TimeoutExpired) as error:
                        print(f"{subject.name}: {way}: {str(error)[-200:]}", file=sys.stderr)
    for title, times in figures.items():
        report(title, times, "Gbit/s" if "throughput" in title else "us" if "round" in title else "q/s")


def published(number: int) -> tuple[int, int]:
    """Return the host ports of a subject; the peers share a host."""
    return 15000 + number, 16000 + number


def ask(figures: dict[str, dict[str, list[float]]], subject: Subject, client: Path) -> None:
    """Ask the engine's name server."""
    for window in (1, 32):
        text = within(client, PYTHON, "-I", "-S", "-c", ASK, subject.name_server(client), "nb-server", str(window))
        title = f"DNS answers, {window} under way"
        figures.setdefault(title, {}).setdefault(subject.name, []).append(float(text))


def measure(
    figures: dict[str, dict[str, list[float]]], name: str, way: str, to: tuple[Path, str, tuple[int, int]]
) -> None:
    """Measure TCP one way."""
    netns, where, (bulk, echo) = to
    done = json.loads(within(netns, "iperf3", "-c", where, "-p", str(bulk), "-t", "2", "-J", timeout=8))
    if "error" in done:
        raise RuntimeError(done["error"])
    rate = done["end"]["sum_received"]["bits_per_second"] / 1e9
    figures.setdefault(f"{way}: TCP throughput", {}).setdefault(name, []).append(rate)
    median = float(within(netns, PYTHON, "-I", "-S", "-c", PING, where, str(echo)))
    figures.setdefault(f"{way}: round trip of one byte", {}).setdefault(name, []).append(median)


def outside(stack: contextlib.ExitStack) -> tuple[Path, str]:
    """Make a namespace beyond all hosts; returns it and the pid that holds it."""
    holder = stack.enter_context(
        subprocess.Popen(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 3600"], stdout=subprocess.PIPE)
    )
    stack.callback(holder.kill)
    assert holder.stdout is not None
    holder.stdout.readline()
    netns = Path(f"/proc/{holder.pid}/ns/net")
    within(netns, "ip", "link", "set", "lo", "up")
    return netns, str(holder.pid)


def link(stack: contextlib.ExitStack, subject: Subject, far: Path, holder: str, number: int) -> None:
    """Connect a host with the outside."""
    name = f"nbup{number}"
    within(subject.netns, *f"ip link add {name} type veth peer name nbfar{number} netns {holder}".split())
    stack.callback(within, subject.netns, "ip", "link", "del", name)
    for netns, device, end in ((subject.netns, name, 1), (far, f"nbfar{number}", 2)):
        within(netns, "ip", "addr", "add", f"10.198.{number}.{end}/24", "dev", device)
        within(netns, "ip", "link", "set", device, "up")


def main() -> int:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--ports", type=int, default=500)
    parser.add_argument("--only", choices=("start", "join", "ports", "traffic"))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        subjects: list[Subject] = []
        scratch = Path(tempfile.mkdtemp(prefix="orlop-bench-"))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        archive = busybox_tar(scratch / "busybox.tar")
        for backend, label in (("iptables", "orlop"), ("nftables", "orlop-nft")):
            run = Path(tempfile.mkdtemp(prefix="orlop-bench-", dir=STATE))
            stack.callback(shutil.rmtree, run, ignore_errors=True)
            engine = Engine(scratch / backend, f"{scratch.name}-{backend}", ("--firewall-backend", backend), run=run)
            stack.callback(engine.destroy)
            engine.start()
            engine.docker("import", archive, "busybox:latest")
            assert engine.netns_holder is not None
            subjects.append(Subject(label, engine.host, Path(f"/proc/{engine.netns_holder.pid}/ns/net")))
        by_command: list[Subject] = []
        if PEERS.exists():
            answer = subprocess.run([PEERS, "up"], check=True, capture_output=True, text=True).stdout
            host = answer.strip().partition("=")[2]
            path = host.removeprefix("unix://")
            subjects.append(Subject("dockerd", host, behind(path)))
            subjects[-1].command("import", str(archive), "busybox:latest")
            shutil.copy(archive, Path(path).parent / "nb-busybox.tar")
            stack.callback((Path(path).parent / "nb-busybox.tar").unlink)
            by_command.append(Podman(behind(path)))
            by_command[0].command("import", "/xchg/nb-busybox.tar", "busybox:latest")
        steps: dict[str, Callable[[], None]] = {
            "start": lambda: start_latency(subjects, options.rounds),
            "join": lambda: joining(subjects, options.rounds),
            "ports": lambda: publishing(subjects, max(3, options.rounds // 4), options.ports),
            "traffic": lambda: traffic([*subjects, *by_command], 3),
        }
        if shutil.which("iperf3") is None:
            print("iperf3 is not installed: no figures of throughput")
            del steps["traffic"]
        for name, step in steps.items():
            if options.only in (None, name):
                step()
    return 0


if __name__ == "__main__":
    sys.exit(main())
