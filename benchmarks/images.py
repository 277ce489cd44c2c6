"""Images beside dockerd and podman in one run: pull, load, import, save, export, commit of 10,000 files, about 150 MB.

``make bench BENCH=images`` runs it. No engine has seen what it unpacks: each round of each operation has trees with a
last file of their own, hence other layers, and an engine that has an image before it is asked for it, or does not have
it afterwards, ends the run. Each writes to a new ext4 of its own and none removes anything, since what was removed
slows down who comes next (without a journal, ext4 looks at each inode that was freed within a minute before it takes
another). They take turns; what one leaves to be written is written out (``sync``) before the next one's clock starts.
All pull from one docker-registry.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/integration"), str(ROOT / "benchmarks")]

from main import PEERS, report, timed  # noqa: E402
from registry_lab import Registry  # noqa: E402

from harness import DOCKER, Engine, wait_for  # noqa: E402 - the path is set above
from image_builder import BuiltImage, docker_archive, oci_archive  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = "orlop-bench"
_PORT = 5755
_CHANGE = 1_000_000  # bytes that a commit has to keep
_SECONDS = 600
_FILE_SYSTEM = 20 << 30  # bytes, of which little is ever written
_ON_EXT4 = 'mount --make-rprivate / && mount -o loop $0 $1 && shift && exec "$@"'
# The tree as root, with what dockerd and podman write on file systems of their own; $0 tree, $1 shared.
_IN_TREE = """
mount --make-rprivate /; mount --bind $0 $0; cd $0; mkdir -p oldroot xchg var/lib/docker var/lib/containers
for each in proc sys dev; do mount --rbind /$each $each; done
mount --bind $1 xchg; mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs dev/shm
mount -o loop $1/docker.img var/lib/docker; mount -o loop $1/podman.img var/lib/containers
pivot_root . oldroot; cd /; umount -l /oldroot
exec dockerd --bridge=none --iptables=false --ip6tables=false --data-root /var/lib/docker \\
    --host unix:///xchg/docker.sock --pidfile /run/docker.pid
"""
_OPERATIONS = ("pull and unpack", "load", "import", "save", "export", "commit of 1 MB")


def synthetic(files: int, seed: int) -> bytes:
    """Return a tar like that of a small distribution: directories of a dozen files, few large, half of it text."""
    generator = random.Random(seed)
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
        return buffer.getvalue()[: out.offset]


def tree_of(directory: Path) -> bytes:
    """Return a tar of a root file system, without the end that closes it.

    What is mounted in it is left out: debootstrap may leave /proc there, whose kcore has no end.
    """
    device = directory.stat().st_dev

    def own(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return info if os.lstat(directory / info.name).st_dev == device else None

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as out:
        for path in sorted(directory.iterdir()):
            out.add(path, path.name, filter=own)
        return buffer.getvalue()[: out.offset]


class Source:
    """Makes images whose layers nobody has seen, at the cost of one file each."""

    def __init__(self, trees: list[bytes]) -> None:
        self._trees = [(tree, gzip.compress(tree, 6, mtime=0)) for tree in trees]
        self._made = 0

    def image(self) -> BuiltImage:
        """Return another image."""
        self._made += 1
        end = io.BytesIO()
        with tarfile.open(fileobj=end, mode="w", format=tarfile.GNU_FORMAT) as out:
            info = tarfile.TarInfo("number")
            info.size = 8
            out.addfile(info, io.BytesIO(b"%8d" % self._made))
        tail = end.getvalue()
        packed = gzip.compress(tail, 6, mtime=0)  # a gzip file may have several members
        return BuiltImage([tree + tail for tree, _ in self._trees], [blob + packed for _, blob in self._trees])

    def __str__(self) -> str:
        """Tell how large they are."""
        plain, packed = (sum(len(pair[part]) for pair in self._trees) / 1e6 for part in (0, 1))
        return f"{plain:.0f} MB as tar, {packed:.0f} MB compressed, in {len(self._trees)} layer(s)"


class Side(Protocol):
    """One engine and its client."""

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the client."""
        ...

    def path(self, name: str) -> str:
        """Return how the client calls a file of the directory that all share."""
        ...


class Orlop:
    """Ours, with the docker client."""

    def __init__(self, engine: Engine, shared: Path) -> None:
        self._engine = engine
        self._shared = shared

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the docker client."""
        done: subprocess.CompletedProcess[str] = self._engine.docker(*arguments, check=check, timeout=_SECONDS)
        return done

    def path(self, name: str) -> str:
        """Return the file's path."""
        return str(self._shared / name)


class Peers:
    """dockerd and podman from the peers' tree, with file systems of their own, in the engine's network namespace.

    They end with their mount namespace; the peers that are up know nothing of them.
    """

    def __init__(self, tree: Path, shared: Path, engine: Engine) -> None:
        for name in ("docker", "podman"):
            make_file_system(shared / f"{name}.img")
        assert engine.netns_holder is not None
        enter = ["nsenter", f"--net=/proc/{engine.netns_holder.pid}/ns/net"]
        command = [*enter, "unshare", "-m", "sh", "-euc", _IN_TREE, str(tree), str(shared)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(shared / "dockerd.log").open("w"))
        self.socket = shared / "docker.sock"
        wait_for(lambda: self.process.poll() is not None or self.socket.exists(), what="dockerd", seconds=60)

    def close(self) -> None:
        """End dockerd and what it started."""
        self.process.terminate()
        self.process.wait()


class Docker:
    """dockerd, with the same docker client."""

    def __init__(self, peers: Peers, shared: Path) -> None:
        self._environment = {**os.environ, "DOCKER_HOST": f"unix://{peers.socket}"}
        self._shared = shared

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the docker client."""
        command = [str(DOCKER), *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=check)

    def path(self, name: str) -> str:
        """Return the file's path."""
        return str(self._shared / name)


class Podman:
    """podman, in dockerd's namespaces."""

    def __init__(self, peers: Peers) -> None:
        places = ["HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/var/lib/containers"]
        environment = ["env", "-i", *places, "PODMAN_IGNORE_CGROUPSV1_WARNING=1"]
        self._prefix = ["nsenter", "-t", str(peers.process.pid), "-m", "-n", "-r", "-w", *environment, "podman"]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman in the peers' tree."""
        if arguments[0] == "pull":
            arguments = ("pull", "--tls-verify=false", *arguments[1:])
        return subprocess.run([*self._prefix, *arguments], capture_output=True, text=True, check=check)

    def path(self, name: str) -> str:
        """Return the file's path in the tree."""
        return f"/xchg/{name}"


def make_file_system(image: Path) -> None:
    """Make an ext4 in a file."""
    with image.open("wb") as file:
        file.truncate(_FILE_SYSTEM)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)


class Bench:
    """Owns the files in ``shared``; what it makes in the engines goes with their file systems."""

    def __init__(self, source: Source, sides: dict[str, Side], shared: Path, engine: Engine) -> None:
        self._source = source
        self._sides = sides
        self._shared = shared
        self._engine = engine
        self._base: BuiltImage | None = None
        self._boxes = 0

    def run(self, operation: str, rounds: int, registry: Registry) -> dict[str, list[float]]:
        """Return what an operation took in each round but the first, which warms up, by engine."""
        times: dict[str, list[float]] = {name: [] for name in self._sides}
        for number in range(rounds + 1):
            if operation == "pull and unpack":
                turns = self._pulls(registry)
            elif operation in ("load", "import"):
                turns = self._reads(operation)
            else:
                turns = self._writes(operation)
            for name, action in turns:
                os.sync()
                taken = timed(action)
                if number:
                    times[name].append(taken)
        return times

    def _pulls(self, registry: Registry) -> Iterator[tuple[str, Callable[[], object]]]:
        image, archive = self._source.image(), self._shared / "oci.tar"
        archive.write_bytes(oci_archive(image, "1"))
        tag = f"{registry.host}/{_NAME}:{image.id[-12:]}"
        copy = ("copy", "--dest-tls-verify=false", f"oci-archive:{archive}", f"docker://{tag}")
        self._engine.in_network("skopeo", *copy)
        for name, side in self._sides.items():
            with self._new(name, side, image.id):
                yield name, partial(side.run, "pull", "-q", tag)

    def _reads(self, operation: str) -> Iterator[tuple[str, Callable[[], object]]]:
        image, tag = self._source.image(), f"{_NAME}:{operation}"
        (self._shared / "tree.tar").write_bytes(image.tars[0] + bytes(tarfile.RECORDSIZE))
        (self._shared / "archive.tar").write_bytes(docker_archive(image, tag))
        for name, side in self._sides.items():
            if operation == "load":
                with self._new(name, side, image.id):
                    yield name, partial(side.run, "load", "-q", "-i", side.path("archive.tar"))
            else:
                yield name, partial(side.run, "import", side.path("tree.tar"), tag)

    def _writes(self, operation: str) -> Iterator[tuple[str, Callable[[], object]]]:
        if self._base is None:
            self._base = self._source.image()
            (self._shared / "archive.tar").write_bytes(docker_archive(self._base, f"{_NAME}:base"))
            for name, side in self._sides.items():
                with self._new(name, side, self._base.id):
                    side.run("load", "-q", "-i", side.path("archive.tar"))
        self._boxes += 1
        box, out = f"{_NAME}-{self._boxes}", self._shared / "out"
        (self._shared / "change").write_bytes(os.urandom(_CHANGE))
        for name, side in self._sides.items():
            side.run("create", "--name", box, f"{_NAME}:base", "true")
            side.run("cp", side.path("change"), f"{box}:/change")
            out.unlink(missing_ok=True)
            arguments = {
                "save": ("save", "-o", side.path("out"), f"{_NAME}:base"),
                "export": ("export", "-o", side.path("out"), box),
                "commit of 1 MB": ("commit", box, f"{_NAME}:{box}"),
            }[operation]
            yield name, partial(side.run, *arguments)
            if operation != "commit of 1 MB" and out.stat().st_size < len(self._base.tars[0]) // 2:
                raise AssertionError(f"{name} wrote {out.stat().st_size} bytes")

    @contextlib.contextmanager
    def _new(self, name: str, side: Side, image: str) -> Iterator[None]:
        """See that an engine has the image afterwards, and not before."""
        if side.run("image", "inspect", image, check=False).returncode == 0:
            raise AssertionError(f"{name} has the image already")
        yield
        side.run("image", "inspect", image)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tree", type=Path, help="a root file system to use instead of made-up files")
    parser.add_argument("--only", choices=_OPERATIONS, action="append")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that timeout(1) leaves nothing behind
    scratch = Path(tempfile.mkdtemp(prefix=f"{_NAME}-", dir="/var/tmp"))
    home = scratch / "engine"
    data = home / "data"
    data.mkdir(parents=True)
    make_file_system(scratch / "orlop.img")
    within = ("unshare", "-m", "sh", "-c", _ON_EXT4, str(scratch / "orlop.img"), str(data))
    engine = Engine(home, f"{_NAME}-{os.getpid()}", within=within)
    peers: Peers | None = None
    try:
        count = options.layers
        trees = [synthetic(options.files // count, number) for number in range(count)]
        source = Source([tree_of(options.tree)] if options.tree else trees)
        print(f"{source}; medians of {options.rounds}")
        engine.start()
        sides: dict[str, Side] = {"orlop": Orlop(engine, scratch)}
        if PEERS.exists():
            done = subprocess.run([PEERS, "up"], capture_output=True, text=True, check=True)
            peers = Peers(
                Path(done.stdout.strip().removeprefix("DOCKER_HOST=unix://")).parents[1] / "tree", scratch, engine
            )
            sides |= {"docker": Docker(peers, scratch), "podman": Podman(peers)}
        bench = Bench(source, sides, scratch, engine)
        with Registry(engine, port=_PORT) as registry:
            for operation in options.only or _OPERATIONS:
                report(operation, bench.run(operation, options.rounds, registry))
    finally:
        if peers is not None:
            peers.close()
        engine.destroy()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
