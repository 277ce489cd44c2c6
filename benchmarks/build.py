"""A build of 30 steps, cold and cached, beside dockerd's classic builder, BuildKit and buildah in one run.

``make bench BENCH=build`` runs it. Ten times ENV, COPY of a small file and RUN of ``echo``, on busybox. What the peers'
tree runs itself (buildx, buildah) pays for entering it: that is measured as well, and taken off. The rounds are
interleaved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from main import PEERS, STATE, report, timed  # noqa: E402

from harness import BIN, DOCKER, Engine, busybox_tar  # noqa: E402 - the path is set above

_NAME = "orlop-bench-build"
_REPEATS = 10


def context(into: Path) -> Path:
    """Write the Dockerfile and its files."""
    into.mkdir()
    lines = ["FROM busybox"]
    for number in range(_REPEATS):
        (into / f"f{number}").write_text(f"{number}\n")
        lines += [f"ENV A{number}={number}", f"COPY f{number} /f{number}", f"RUN echo {number} >/r{number}"]
    (into / "Dockerfile").write_text("\n".join(lines) + "\n")
    return into


class Builders:
    """Commands that build the context, by the builder's name; ``entering`` is the time that is not a build's."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        classic = {**engine.environment, "DOCKER_BUILDKIT": "0"}
        self.commands: dict[str, tuple[list[str | Path], dict[str, str]]] = {
            "orlop": ([DOCKER, "build", "-q", "-t", _NAME, directory], classic),
            "orlop cli": ([BIN / "orlop", "build", "-q", "-t", _NAME, directory], engine.environment),
        }
        self.entering: dict[str, float] = {}
        self.shared: Path | None = None
        self.host = ""
        archive = busybox_tar(directory.parent / "busybox.tar")
        self._import(classic, archive)
        if PEERS.exists():
            self._add_peers(directory, archive)

    def _add_peers(self, directory: Path, archive: Path) -> None:
        done = subprocess.run([PEERS, "up"], capture_output=True, text=True, check=True)
        self.host = done.stdout.strip().removeprefix("DOCKER_HOST=")
        self.shared = Path(self.host.removeprefix("unix://")).parent / _NAME
        shutil.rmtree(self.shared, ignore_errors=True)
        self.shared.mkdir()
        shutil.copytree(directory, self.shared / "c")
        shutil.copy(archive, self.shared / "busybox.tar")
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}
        self._import(environment, archive)
        self.commands["dockerd"] = ([DOCKER, "build", "-q", "-t", _NAME, directory], environment)
        inside, enter = f"/xchg/{_NAME}", [PEERS, "exec"]
        self._run([*enter, "podman", "import", f"{inside}/busybox.tar", "docker.io/library/busybox:latest"])
        buildx = ["docker", "buildx", "build", "--progress=quiet", "-t", _NAME]
        self.commands["buildkit"] = ([*enter, *buildx, f"{inside}/c"], dict(os.environ))
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]  # the tree may not raise its own
        buildah = ["buildah", "bud", "--layers", "--pull=never", *limits, "-q", "-t", _NAME]
        self.commands["buildah"] = ([*enter, *buildah, f"{inside}/c"], dict(os.environ))
        for name in ("buildkit", "buildah"):
            self.entering[name] = statistics.median(timed(lambda: self._run([*enter, "true"])) for _ in range(7))

    @staticmethod
    def _run(command: list[str | Path], environment: dict[str, str] | None = None) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")

    def _import(self, environment: dict[str, str], archive: Path) -> None:
        self._run([DOCKER, "import", "-c", 'CMD ["sh"]', archive, "busybox"], environment)

    def build(self, name: str, *options: str) -> float:
        """Build once; returns the milliseconds."""
        command, environment = self.commands[name]
        full = [*command[:-1], *options, command[-1]]
        return timed(lambda: self._run(full, environment)) - self.entering.get(name, 0.0)

    def close(self) -> None:
        """Remove what was made at the peers'; they stay up."""
        if self.shared is None:
            return
        environment = {**os.environ, "DOCKER_HOST": self.host}
        for command in ([DOCKER, "rmi", "-f", _NAME], [PEERS, "exec", "podman", "rmi", "-f", _NAME]):
            subprocess.run(command, env=environment, capture_output=True, check=False)
        shutil.rmtree(self.shared, ignore_errors=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that timeout(1) leaves nothing behind
    scratch = Path(tempfile.mkdtemp(prefix=f"{_NAME}-", dir="/var/tmp"))
    run = Path(tempfile.mkdtemp(prefix=f"{_NAME}-", dir=STATE))
    engine = Engine(scratch / "engine", f"{_NAME}-{os.getpid()}", run=run)
    builders: Builders | None = None
    try:
        engine.start()
        builders = Builders(engine, context(scratch / "c"))
        cold: dict[str, list[float]] = {name: [] for name in builders.commands}
        cached: dict[str, list[float]] = {name: [] for name in builders.commands}
        for number in range(options.rounds + 1):
            for name in builders.commands:
                first = builders.build(name, "--no-cache")
                builders.build(name)  # what --no-cache made is not everybody's cache
                again = builders.build(name)
                if number:
                    cold[name].append(first)
                    cached[name].append(again)
        report("30 steps, cold", cold)
        report("30 steps, cached", cached)
        for name, value in builders.entering.items():
            print(f"entering the peers' tree, taken off {name}: {value:.0f} ms")
    finally:
        if builders is not None:
            builders.close()
        engine.destroy()
        for directory in (run, scratch):
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
