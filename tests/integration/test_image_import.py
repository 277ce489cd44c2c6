"""Import of real archives into a real layer store, without an engine around it."""

import asyncio
import gzip
import io
import os
import sqlite3
import subprocess
import tarfile
import time

import pytest

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError
from orlop.image import SCHEMA as IMAGE_SCHEMA
from orlop.image import ImageStore
from orlop.image.content import ContentStore
from orlop.image.importer import Importer, ImportRequest
from orlop.image.removal import remove_image
from orlop.primitives.removal import remove_tree
from orlop.primitives.tar import unpack
from orlop.spec.digest import Digest
from orlop.storage import SCHEMA as LAYER_SCHEMA
from orlop.storage import LayerStore, overlay2

pytestmark = [pytest.mark.privileged, pytest.mark.requires("overlay")]


class ThreadOps:
    """Does in threads what the spawner's children do."""

    async def unpack(self, root, stream_fd, limits, *, apply=False, recipe_fd=None):
        stream = os.dup(stream_fd)

        def work():
            root_fd = os.open(root.upper, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return unpack(root_fd, stream, limits, recipe_fd=recipe_fd)
            finally:
                os.close(root_fd)
                os.close(stream)

        return await asyncio.to_thread(work)

    async def remove_tree(self, path):
        await asyncio.to_thread(remove_tree, path)


class World:
    def __init__(self, root):
        self.root = root
        self.database = sqlite3.connect(f"{root}/state.db", isolation_level=None)
        self.database.executescript(LAYER_SCHEMA + IMAGE_SCHEMA)
        self.start({})

    def start(self, containers):
        self.layers = LayerStore(self.database, overlay2.open_driver(f"{self.root}/layers"))
        self.layers.load(containers)
        self.images = ImageStore(self.database, ContentStore(f"{self.root}/blobs"), self.layers)
        self.images.load()
        self.graves = self.layers.collect()
        self.importer = Importer(self.images, self.layers, ThreadOps())

    def run(self, data, repository="box", **request):
        async def chunks():
            for start in range(0, len(data), 65536):
                yield data[start : start + 65536]

        return asyncio.run(self.importer.run(ImportRequest(repository, **request), chunks()))

    def left(self):
        found = [os.listdir(f"{self.root}/{part}") for part in ("layers/overlay2", "blobs/sha256")]
        rows = self.database.execute("SELECT count(*) FROM layers").fetchone()
        return (*found, *rows)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    fds = len(os.listdir("/proc/self/fd"))
    yield world
    assert len(os.listdir("/proc/self/fd")) <= fds, "descriptors leaked"
    world.database.close()


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            if content is None:
                info.type, info.mode, info.uid = tarfile.DIRTYPE, 0o700, 3
            else:
                info.size = len(content)
            out.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def test_the_diff_id_is_of_the_uncompressed_bytes(world):
    data = archive(bin=None, bin__sh=b"x" * 100_000)
    plain = world.run(data)
    packed = world.run(gzip.compress(data), "other", message="hello", changes=("CMD sh",))
    assert plain.config.diff_ids == packed.config.diff_ids == (Digest.of(data),)
    assert (plain.size, plain.tags, plain.config.comment) == (100_000, ("box:latest",), "Imported from -")
    assert (packed.config.config.cmd, packed.config.comment) == (("/bin/sh", "-c", "sh"), "hello")
    assert len(world.left()[0]) == 2  # one layer and its init layer, shared


def test_an_empty_archive_is_an_image(world):
    assert world.run(b"").size == 0


@pytest.mark.parametrize("keep", [600, 5000, 70_000])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_cut_short_leaves_nothing(world, keep, compress):
    data = compress(archive(a=os.urandom(200_000)))
    with pytest.raises(InvalidParameterError, match="unexpected EOF"):
        world.run(data[:keep])
    assert world.left() == ([], [], 0)


def test_garbage_and_hostile_names_leave_nothing(world):
    for data in (b"hello world" * 1000, archive(**{"..__evil": b"x"}), b"\x1f\x8b\x08garbage" * 100):
        with pytest.raises(InvalidParameterError):
            world.run(data)
    assert world.left() == ([], [], 0)


def test_a_bad_request_does_not_read_the_stream(world):
    for request in ({"changes": ("RUN x",)}, {"tag": "c_*t4"}, {"repository": "BAD"}, {"platform": "windows"}):
        with pytest.raises(InvalidParameterError):
            world.run(archive(a=b"1"), **{"repository": "box", **request})
    assert world.left() == ([], [], 0)


def test_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        world = World(small)
        with pytest.raises(SystemFailureError, match="no space left on device"):
            world.run(archive(big=bytes(8 << 20)))
        assert world.left() == ([], [], 0)
        assert world.run(archive(a=b"1")).size == 1
        world.database.close()
        world.layers.driver.close()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_full_database(world):
    (pages,) = world.database.execute("PRAGMA page_count").fetchone()
    world.database.execute(f"PRAGMA max_page_count = {pages}")
    failed = 0
    for number in range(200):  # rows fit until a page is full
        try:
            world.run(archive(a=b"%d" % number), f"box{number}")
        except SystemFailureError as error:
            assert "no space left on device" in str(error)
            failed += 1
            break
    assert failed
    assert len(world.left()[0]) == 2 * len(world.images.images())
    assert len(world.left()[1]) == len(world.images.images())
    assert all(image.tags for image in world.images.images())
    world.database.execute("PRAGMA max_page_count = 100000")
    world.run(archive(a=b"after"), "after")
    world.layers.driver.close()
    known = {image.id for image in world.images.images()}
    world.start({})
    for path in world.graves:
        remove_tree(path)
    assert {image.id for image in world.images.images()} == known
    layers = {key.removesuffix("-init") for key in world.left()[0]}
    assert layers == {image.chain.hex for image in world.images.images()}
    world.layers.driver.close()


def test_a_client_that_goes_away_leaves_nothing(world):
    async def chunks():
        yield archive(a=bytes(1 << 20))[:300_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(world.importer.run(ImportRequest("box"), chunks()))
    assert world.left() == ([], [], 0)


def test_cancelled_leaves_nothing(world):
    async def chunks():
        yield archive(a=bytes(1 << 20))[:300_000]
        await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(world.importer.run(ImportRequest("box"), chunks()))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert world.left() == ([], [], 0)


def test_a_dying_child_is_an_error_not_a_hang(world):
    class Dying(ThreadOps):
        async def unpack(self, root, stream_fd, limits, *, apply=False, recipe_fd=None):
            await asyncio.sleep(0.05)
            raise SystemFailureError("write /a: no space left on device")

    world.importer = Importer(world.images, world.layers, Dying())
    with pytest.raises(SystemFailureError, match="no space left on device"):
        world.run(bytes(archive(a=bytes(8 << 20))))
    assert world.left() == ([], [], 0)


class TestContainers:
    def test_init_layer_shows_what_docker_has(self, world):
        image = world.run(archive(bin=None, etc=None, etc__hosts=b"from the image", dev=None, etc__motd=b"m"))
        asyncio.run(world.layers.create_container("c" * 64, image.chain))
        init = world.layers.root("c" * 64).lower[0]
        found = subprocess.run(
            ["find", ".", "-mindepth", "1", "-printf", "%P %y %m %U\n"],
            cwd=init,
            capture_output=True,
            text=True,
            check=True,
        )
        assert sorted(found.stdout.splitlines()) == [
            ".dockerenv f 755 0",
            "dev d 700 3",  # as in the image
            "dev/console f 755 0",
            "dev/pts d 755 0",
            "dev/shm d 755 0",
            "etc d 700 3",
            "etc/hostname f 755 0",
            "etc/hosts f 755 0",
            "etc/mtab l 777 0",
            "etc/resolv.conf f 755 0",
            "proc d 755 0",
            "sys d 755 0",
        ]
        assert os.path.getsize(f"{init}/etc/hosts") == 0
        world.layers.remove_container("c" * 64)

    def test_an_image_whose_etc_is_a_link(self, world, tmp_path):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as out:
            for name in ("etc", "dev"):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path)
                out.addfile(info)
        image = world.run(buffer.getvalue())
        asyncio.run(world.layers.create_container("c" * 64, image.chain))
        assert os.path.isdir(f"{world.layers.root('c' * 64).lower[0]}/etc")
        assert not os.path.lexists(tmp_path / "hosts")
        world.layers.remove_container("c" * 64)

    def test_layers_stay_as_long_as_somebody_needs_them(self, world):
        image = world.run(archive(a=b"1"))
        asyncio.run(world.layers.create_container("c" * 64, image.chain))
        removal = remove_image(world.images, "box", [], force=True)
        assert removal.reclaimed == 0
        assert os.path.exists(f"{world.layers.view('c' * 64).lower[-1]}/a")
        for path in world.layers.remove_container("c" * 64):
            remove_tree(path)
        assert world.left()[0] == []
        assert world.left()[2] == 0

    def test_a_restart_removes_what_nobody_knows(self, world):
        image = world.run(archive(a=b"1"))
        asyncio.run(world.layers.create_container("c" * 64, image.chain))
        asyncio.run(world.layers.begin(None))  # a crash in the middle of an import
        world.database.execute("INSERT INTO layers VALUES (?, ?, NULL, 'overlay2', 1, 1)", ("1" * 64, "1" * 64))
        world.layers.driver.close()
        world.start({"c" * 64: image.chain})
        for path in world.graves:
            remove_tree(path)
        kept = {"c" * 64, image.chain.hex, image.chain.hex + "-init"}
        assert set(world.left()[0]) == kept
        assert world.left()[2] == 1
        assert world.layers.has_container("c" * 64)
        assert world.images.get("box").id == image.id
        world.layers.driver.close()

    def test_layers_of_containers_whose_records_were_lost_are_kept(self, world):
        """A record is there before its layer and goes after it: without one, it is the records that are damaged."""
        image = world.run(archive(a=b"1"))
        for digit in "cd":
            asyncio.run(world.layers.create_container(digit * 64, image.chain))
        before = set(world.left()[0])
        world.layers.driver.close()
        world.start({"c" * 64: image.chain})
        assert set(world.left()[0]) == before
        world.layers.driver.close()

    def test_creating_a_container_takes_no_longer_than_making_fifty_directories(self, world, tmp_path):
        """Some 0.2 ms on an idle machine; measured beside something of the same kind, on a busy one as well."""
        image = world.run(archive(a=b"1"))
        times, directories = [], []

        async def measure():
            for number in range(60):
                start = time.thread_time()
                for name in range(50):
                    (tmp_path / f"{number}-{name}").mkdir()
                middle = time.thread_time()
                await world.layers.create_container(f"{number:064x}", image.chain)
                directories.append(middle - start)
                times.append(time.thread_time() - middle)

        asyncio.run(measure())
        assert min(times) < min(directories), (min(times), min(directories))


def test_errors_are_orlops(world):
    with pytest.raises(OrlopError):
        world.layers.root("c" * 64)
    with pytest.raises(OrlopError):
        asyncio.run(world.layers.create_container("c" * 64, Digest("1" * 64)))
