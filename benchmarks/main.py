"""Side by side in one run: orlop beside Docker, Podman's runtimes crun and runc. Medians and ratios.

``make bench`` runs it. The peers are used when the script named by ORLOP_PEERS (default: ``../shared/tools/peers``) is
there; without it orlop's own figures are printed. Rounds are interleaved, so that the machine's noise meets all alike.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from harness import BIN, DOCKER, Engine, busybox_tar, busybox_tree, remove_cgroups  # noqa: E402 - the path is set above

if TYPE_CHECKING:
    from collections.abc import Callable

_SEED = 20261126  # of the order of actions, which is the same in each run
PEERS = Path(os.environ.get("ORLOP_PEERS", ROOT.parent / "shared/tools/peers"))


class UnixConnection(http.client.HTTPConnection):
    """A kept connection to an engine's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self.path)

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """Make one request; raises on a status of 400 or more."""
        data = None if body is None else json.dumps(body)
        self.request(method, "/v1.45" + path, data, {"Content-Type": "application/json"} if data else {})
        answer = self.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
        return text


def timed(action: Callable[[], object]) -> float:
    """Return how many milliseconds ``action`` took."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def interleaved(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run every action once per round, after one warm-up round.

    Each round has another order, or what one leaves to be done behind its answer would always meet the same next one.
    """
    for action in actions.values():
        action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    order = list(actions)
    chance = random.Random(_SEED)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            times[name].append(timed(actions[name]))
    return times


def report(title: str, times: dict[str, list[float]], unit: str = "ms") -> dict[str, float]:
    """Print medians, spread, and each peer's ratio to orlop."""
    print(f"\n{title}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians.get("orlop")
    for name, values in times.items():
        low, high = min(values), max(values)
        ratio = "" if ours is None or name == "orlop" else f"   {medians[name] / ours:5.1f} x orlop"
        print(
            f"  {name:<10} median {medians[name]:8.2f} {unit}   min {low:8.2f}   max {high:8.2f}   "
            f"n={len(values)}{ratio}"
        )
    return medians


def docker_run(host: str, network: str) -> Callable[[], object]:
    """One ``docker run --rm`` with the same client."""
    environment = {**os.environ, "DOCKER_HOST": host}
    command = [DOCKER, "run", "--rm", "--network", network, "busybox", "true"]
    return lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def api_cycle(connection: UnixConnection, network: str) -> Callable[[], object]:
    """Create, start, wait, delete on a kept connection."""
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": network}}

    def cycle() -> None:
        identity = json.loads(connection.ask("POST", "/containers/create", body))["Id"]
        connection.ask("POST", f"/containers/{identity}/start")
        connection.ask("POST", f"/containers/{identity}/wait")
        connection.ask("DELETE", f"/containers/{identity}")

    return cycle


LOOP = """
set -eu
for i in $(seq $(($2 + 1))); do
  sleep "$1"
  a=$EPOCHREALTIME; "${@:3}" bench-$$-$i </dev/null; b=$EPOCHREALTIME
  echo $(( ${b/./} - ${a/./} ))
done | tail -n +2
"""
# Seconds between two starts. Who moves another process into a cgroup of v1 waits for a grace period of RCU, unless one
# was there just before (cgroup_threadgroup_rwsem): a user's start waits, one in a loop without a pause does not.
APART = 0.3
AT_ONCE = 0.0


def bundle(into: Path, cgroup: str) -> Path:
    """Make an OCI bundle of busybox that runs ``true`` in the usual namespaces, in the given cgroup."""
    busybox_tree(into / "rootfs")
    caps = ["CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"]
    usual = ["nosuid", "noexec", "nodev"]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*usual, "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": usual},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*usual, "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
    (into / "config.json").write_text(json.dumps(config))
    return into


# Where state is kept is a tmpfs: /run, as the peers have it in their tree, is none on every machine.
STATE = "/dev/shm"


def runtimes(scratch: Path, rounds: int, exchange: Path | None, pause: float) -> dict[str, list[float]]:
    """Time ``RUNTIME run`` of the same bundle, and the engine's spawner beside it, in blocks in turn.

    Each block is a bash inside the runtime's own namespaces, but for the spawner's.

    Args:
        scratch: a directory to work in; its name is that of the cgroup.
        rounds: how often each starts.
        exchange: a directory that the peers have as /xchg, or None without peers.
        pause: seconds before each start.
    """
    times: dict[str, list[float]] = {"orlop": [], "crun": [], "runc": [], "spawner": []}
    cgroup = f"/{scratch.name}/bench"
    ours = bundle(scratch / "bundle", cgroup)
    theirs = None
    if exchange is not None:
        theirs = exchange / "orlop-bench-bundle"
        shutil.rmtree(theirs, ignore_errors=True)
        bundle(theirs, cgroup)
    per_block = 5
    state = tempfile.mkdtemp(prefix="orlop-bench-", dir=STATE)
    spawner = Spawner(ours / "rootfs", scratch.name, Path(state) / "spawner")
    try:
        spawner.start()  # for nothing: its first
        for _ in range(max(1, rounds // per_block)):
            command = [BIN / "orlop-runtime", "--root", f"{state}/runtime", "run", "--bundle", ours]
            times["orlop"] += loop(["unshare", "-n"], command, per_block, pause)
            for _ in range(per_block):
                time.sleep(pause)
                times["spawner"].append(spawner.start())
            if theirs is None:
                continue
            for name in ("crun", "runc"):
                command = [name, "run", "--bundle", "/xchg/orlop-bench-bundle"]
                times[name] += loop([str(PEERS), "exec"], command, per_block, pause)
    finally:
        spawner.close()
        remove_cgroups(scratch.name)
        shutil.rmtree(state, ignore_errors=True)
        if theirs is not None:
            shutil.rmtree(theirs, ignore_errors=True)
    return {name: values for name, values in times.items() if values}


def loop(prefix: list[str], command: list[str | Path], rounds: int, pause: float) -> list[float]:
    """Run ``command`` ``rounds`` times in one bash after a warm-up and return each duration in milliseconds."""
    full = [*prefix, "bash", "-c", LOOP, "loop", str(pause), str(rounds), *map(str, command)]
    done = subprocess.run(full, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return [int(line) / 1000 for line in done.stdout.split()]


class Spawner:
    """The engine's spawner, asked for containers of a bundle as the engine asks for them."""

    def __init__(self, rootfs: Path, cgroup: str, state: Path) -> None:
        from orlop.primitives.channel import Channel
        from orlop.runtime.sealed import start_spawner

        state.mkdir()
        self._config = json.loads((rootfs.parent / "config.json").read_text())
        self._config["root"]["path"] = str(rootfs)
        self._config["linux"]["cgroupsPath"] = f"/{cgroup}/requested"
        self._state = state
        self._number = 0
        self._process = start_spawner()
        self._channel = Channel(self._process.socket)

    def start(self) -> float:
        """Return how many milliseconds pass from the request to the news of the container's end."""
        from orlop.primitives.channel import Channel
        from orlop.spec.launch import ContainerLaunch, to_message

        self._number += 1
        directory = self._state / str(self._number)
        directory.mkdir()
        launch = ContainerLaunch(id=f"{self._number:064x}", state_dir=str(directory), config=self._config)
        ours, theirs = Channel.pair()
        begun = time.perf_counter()
        self._channel.send({"op": "container", "launch": to_message(launch)}, [theirs.fileno()])
        theirs.close()
        event: object = None
        while event not in ("exit", "failed"):
            got = ours.receive()
            if got is None:
                raise RuntimeError("the shim died")
            event = got[0].get("event")
            for fd in got[1]:
                fd.close()
        elapsed = (time.perf_counter() - begun) * 1000
        ours.close()
        if event != "exit" or got[0].get("exit_code") != 0:
            raise RuntimeError(f"the container failed: {got[0]}")
        return elapsed

    def close(self) -> None:
        """End it and wait for its end."""
        self._channel.close()
        os.waitpid(self._process.pid, 0)
        self._process.pidfd.close()


def pss(pid: int) -> float:
    """Proportional set size of a process in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"no PSS of {pid}")


def idle(hosts: dict[str, str], count: int) -> dict[str, list[float]]:
    """Start ``count`` idle containers on each engine and return the PSS of each one's shim."""
    result = {}
    for name, host in hosts.items():
        environment = {**os.environ, "DOCKER_HOST": host}
        ids = [
            subprocess.run([DOCKER, "run", "-d", "--network", "none", "busybox", "sleep", "1000"],
                           env=environment, check=True, capture_output=True, text=True).stdout.strip()
            for _ in range(count)
        ]  # fmt: skip
        time.sleep(0.5)
        shims = []
        for identity in ids:
            text = subprocess.run([DOCKER, "inspect", "-f", "{{.State.Pid}}", identity],
                                  env=environment, check=True, capture_output=True, text=True).stdout  # fmt: skip
            shims.append(int(Path(f"/proc/{int(text)}/stat").read_text().rpartition(")")[2].split()[1]))
        result[name] = [pss(shim) for shim in shims]
        subprocess.run([DOCKER, "rm", "-f", *ids], env=environment, check=True, capture_output=True)
    return result


def main() -> int:
    """Run all and print; exit status 1 when a target of the README is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the medians here")
    options = parser.parse_args()
    hosts: dict[str, str] = {}
    exchange = None
    was_up = True
    if PEERS.exists():
        was_up = subprocess.run([PEERS, "status"], capture_output=True, text=True, check=False).stdout.startswith("up")
        subprocess.run([PEERS, "setup"], check=True)
        answer = subprocess.run([PEERS, "up"], check=True, capture_output=True, text=True).stdout
        hosts["dockerd"] = answer.strip().partition("=")[2]
        exchange = Path(hosts["dockerd"].removeprefix("unix://")).parent
    else:
        print(f"no peers at {PEERS}: orlop alone")
    scratch = Path(tempfile.mkdtemp(prefix="orlop-bench-"))
    engine = Engine(scratch / "engine", scratch.name, run=Path(tempfile.mkdtemp(prefix="orlop-bench-", dir=STATE)))
    try:
        engine.start()
        hosts = {"orlop": engine.host, **hosts}
        archive = busybox_tar(scratch / "busybox.tar")
        for host in hosts.values():
            subprocess.run([DOCKER, "import", archive, "busybox:latest"], env={**os.environ, "DOCKER_HOST": host},
                           check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        return measure(hosts, scratch, exchange, options)
    finally:
        engine.destroy()
        shutil.rmtree(engine.exec_root, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        if not was_up:
            subprocess.run([PEERS, "down"], check=False)


def measure(hosts: dict[str, str], scratch: Path, exchange: Path | None, options: argparse.Namespace) -> int:
    """Print every table; compare with the targets."""
    medians = {}
    for network in ("bridge", "none"):
        actions = {name: docker_run(host, network) for name, host in hosts.items()}
        title = f"docker run --rm --network {network} busybox true, same client"
        medians[f"run {network}"] = report(title, interleaved(actions, options.rounds))
    for network in ("bridge", "none"):
        connections = {name: UnixConnection(host.removeprefix("unix://")) for name, host in hosts.items()}
        actions = {name: api_cycle(connection, network) for name, connection in connections.items()}
        title = f"API create+start+wait+delete, {network}, kept connection"
        medians[f"api {network}"] = report(title, interleaved(actions, options.rounds))
        for connection in connections.values():
            connection.close()
    for words, name, pause in (
        (f"starts {APART} s apart", "apart", APART),
        ("one after the other", "at once", AT_ONCE),
    ):
        started = runtimes(scratch, 2 * options.rounds, exchange, pause)
        spawner = started.pop("spawner")
        medians[f"runtime {name}"] = report(f"RUNTIME run of one bundle, process start included, {words}", started)
        title = f"the same bundle through the engine's spawner, beside RUNTIME run, {words}"
        medians[f"spawner {name}"] = report(title, {**started, "orlop": spawner})
    medians["idle"] = report("PSS of the shim of an idle container", idle(hosts, 8), "MB")
    if options.json:
        options.json.write_text(json.dumps(medians, indent=2))
    missed = []
    if "dockerd" in hosts:
        for key, limit in (("api bridge", 8), ("run bridge", 4)):
            if medians[key]["dockerd"] < limit * medians[key]["orlop"]:
                missed.append(f"{key}: wanted at most 1/{limit} of dockerd's time")
        if medians["runtime apart"]["runc"] < medians["runtime apart"]["orlop"]:
            missed.append("runtime apart: wanted at most runc's time")
        if medians["spawner apart"]["crun"] < 2 * medians["spawner apart"]["orlop"]:
            missed.append("spawner apart: wanted at most half of crun's time")
    if medians["idle"]["orlop"] > 2.5:
        missed.append("idle: wanted at most 2.5 MB")
    print("\n" + ("\n".join(f"missed: {line}" for line in missed) or "all targets met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
