"""Images beside dockerd and podman in one run: pull, load, import, save, export, commit of 10,000 files, about 150 MB.

``make bench BENCH=images`` runs it. Each engine pulls from a docker-registry in its own network namespace; both
hold the same blobs. The rounds are interleaved; the image is removed before each, which is not timed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/integration"), str(ROOT / "benchmarks")]

from main import PEERS, report, timed  # noqa: E402
from registry_lab import Registry  # noqa: E402

from harness import DOCKER, REGISTRY, Engine  # noqa: E402 - the path is set above
from image_builder import BuiltImage, docker_archive  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "orlop-bench"
_PORT = 5755


def tree_tar(files: int) -> bytes:
    """Return a tar like that of a small distribution: directories of a dozen files, few large, half of it text."""
    generator = random.Random(1)
    words = [generator.randbytes(6).hex().encode() for _ in range(500)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as out:
        for number in range(files):
            if number % 12 == 0:
                directory = f"usr/share/part-{number // 120}/group-{number // 12}"
                info = tarfile.TarInfo(directory)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                out.addfile(info)
            size = int(min(generator.lognormvariate(8.2, 1.6), 4_000_000))
            data = generator.randbytes(size) if number % 2 else b" ".join(generator.choices(words, k=size // 13 + 1))
            info = tarfile.TarInfo(f"{directory}/file-{number}")
            info.size, info.mode = len(data), 0o644
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Peers:
    """Docker and Podman, in their tree, with a registry of their own."""

    def __init__(self, registry_data: Path) -> None:
        done = subprocess.run([PEERS, "up"], capture_output=True, text=True, check=True)
        self.host = done.stdout.strip().removeprefix("DOCKER_HOST=")
        self.shared = Path(self.host.removeprefix("unix://")).parent / _NAME
        shutil.rmtree(self.shared, ignore_errors=True)
        self.shared.mkdir()
        shutil.copy(REGISTRY, self.shared / "docker-registry")
        shutil.copytree(registry_data, self.shared / "data")
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": f"/xchg/{_NAME}/data"}},
            "http": {"addr": f"127.0.0.1:{_PORT}"},
        }
        (self.shared / "config.yml").write_text(json.dumps(config))
        inside = f"/xchg/{_NAME}"
        self.registry = subprocess.Popen(
            [PEERS, "exec", f"{inside}/docker-registry", "serve", f"{inside}/config.yml"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def docker(self, *arguments: str | Path, check: bool = True) -> None:
        """Run the host's docker client against dockerd."""
        environment = {**os.environ, "DOCKER_HOST": self.host}
        subprocess.run(
            [DOCKER, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check
        )

    def podman(self, *arguments: str, check: bool = True) -> None:
        """Run podman in the tree."""
        subprocess.run(
            [PEERS, "exec", "podman", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check
        )

    def close(self) -> None:
        """End the registry and remove what was shared; the peers stay up."""
        for run in (self.docker, self.podman):
            run("rm", "-f", f"{_NAME}-box", check=False)
            run("rmi", "-f", f"{_NAME}:imported", f"{_NAME}:committed", check=False)
        self.docker("rmi", "-f", f"127.0.0.1:{_PORT}/{_NAME}:1", f"{_NAME}:1", check=False)
        for name in (f"127.0.0.1:{_PORT}/{_NAME}:1", f"docker.io/library/{_NAME}:1"):
            self.podman("rmi", "-f", name, check=False)
        self.registry.kill()
        self.registry.wait()
        shutil.rmtree(self.shared, ignore_errors=True)


def others(
    run: Callable[..., object], there: Callable[[Path], str], places: dict[str, Path]
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return what is done with an image that was loaded: by title what prepares it, and what is timed.

    Args:
        run: the engine's client; ``check=False`` lets it fail.
        there: how that client calls a path.
        places: the plain tar, a file of 1 MB, and where the outputs go.
    """
    out, box = places["out"], f"{_NAME}-box"
    run("rm", "-f", box, check=False)
    run("create", "--name", box, f"{_NAME}:1", "true")
    run("cp", there(places["change"]), f"{box}:/change")

    def forget(name: str) -> Callable[[], object]:
        return lambda: run("rmi", "-f", f"{_NAME}:{name}", check=False)

    def clear() -> None:
        out.unlink(missing_ok=True)

    return {
        "import": (forget("imported"), lambda: run("import", there(places["tree"]), f"{_NAME}:imported")),
        "save": (clear, lambda: run("save", "-o", there(out), f"{_NAME}:1")),
        "export": (clear, lambda: run("export", "-o", there(out), box)),
        "commit of 1 MB": (forget("committed"), lambda: run("commit", box, f"{_NAME}:committed")),
    }


def rounds_of(
    actions: dict[str, tuple[Callable[[], object], Callable[[], object]]], rounds: int
) -> dict[str, list[float]]:
    """Time the second of each pair after the first; one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, (prepare, action) in actions.items():
            prepare()
            taken = timed(action)
            if number:
                times[name].append(taken)
    return times


def report_others(engine: Engine, peers: Peers | None, tree: bytes, rounds: int) -> None:
    """Time what is done with the image that every engine has."""
    directory = engine.home if peers is None else peers.shared
    places = {name: directory / name for name in ("tree", "change", "out")}
    places["tree"].write_bytes(tree)
    places["change"].write_bytes(os.urandom(1_000_000))
    sides = {"orlop": others(engine.docker, str, places)}
    if peers is not None:
        sides["docker"] = others(peers.docker, str, places)
        sides["podman"] = others(peers.podman, lambda path: f"/xchg/{_NAME}/{path.name}", places)
    for title in sides["orlop"]:
        report(title, rounds_of({side: actions[title] for side, actions in sides.items()}, rounds))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--only", choices=("pull", "load", "others"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that timeout(1) leaves nothing behind
    scratch = Path(tempfile.mkdtemp(prefix=f"{_NAME}-", dir="/var/tmp"))
    engine = Engine(scratch / "engine", f"{_NAME}-{os.getpid()}")
    peers: Peers | None = None
    try:
        tars = [tree_tar(options.files // options.layers + number) for number in range(options.layers)]
        image = BuiltImage(tars, [gzip.compress(tar, 6, mtime=0) for tar in tars])
        archive = scratch / "archive.tar"
        archive.write_bytes(docker_archive(image, f"{_NAME}:1"))
        packed = scratch / "packed.tar"
        packed.write_bytes(docker_archive(image, f"{_NAME}:1", compressed=True))
        size = sum(map(len, tars)) / 1e6
        print(
            f"{options.files} files in {options.layers} layer(s), {size:.0f} MB as tar, "
            f"{sum(map(len, image.blobs)) / 1e6:.0f} MB compressed; medians of {options.rounds}"
        )
        engine.start()
        with Registry(engine, port=_PORT) as registry:
            name = f"{registry.host}/{_NAME}:1"
            engine.docker("load", "-i", packed, timeout=300)
            engine.docker("tag", f"{_NAME}:1", name)
            engine.docker("push", name, timeout=300)
            if PEERS.exists():
                peers = Peers(registry.home / "data")
                time.sleep(2)
            pulls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
                "orlop": (
                    lambda: engine.docker("rmi", "-f", image.id, check=False),
                    lambda: engine.docker("pull", "-q", name, timeout=300),
                )
            }
            loads: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
                "orlop": (
                    lambda: engine.docker("rmi", "-f", image.id, check=False),
                    lambda: engine.docker("load", "-q", "-i", archive, timeout=300),
                )
            }
            if peers is not None:
                known = peers
                shutil.copy(archive, known.shared / "archive.tar")
                inside = f"/xchg/{_NAME}/archive.tar"
                pulls["docker"] = (
                    lambda: known.docker("rmi", "-f", image.id, check=False),
                    lambda: known.docker("pull", "-q", name),
                )
                pulls["podman"] = (
                    lambda: known.podman("rmi", "-f", image.id, check=False),
                    lambda: known.podman("pull", "-q", "--tls-verify=false", name),
                )
                loads["docker"] = (pulls["docker"][0], lambda: known.docker("load", "-q", "-i", archive))
                loads["podman"] = (pulls["podman"][0], lambda: known.podman("load", "-q", "-i", inside))
            if options.only in (None, "pull"):
                report("pull and unpack", rounds_of(pulls, options.rounds))
            if options.only in (None, "load"):
                report("load", rounds_of(loads, options.rounds))
            if options.only in (None, "others"):
                for prepare, action in loads.values():
                    prepare()
                    action()
                report_others(engine, peers, tars[0], options.rounds)
    finally:
        if peers is not None:
            peers.close()
        engine.destroy()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
