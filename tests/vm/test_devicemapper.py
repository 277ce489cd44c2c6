"""The storage driver ``devicemapper``, where there is a device mapper: the suite of all drivers, and what is its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback

import pytest
from snapshot_lab import SMALL_POOL, inside, layer, write
from test_snapshotters import (  # noqa: F401 - the suite
    TestCrash,
    TestDiff,
    TestLife,
    TestReplace,
    TestRules,
    driver,
)

from harness import held_devices, wait_for
from orlop.errors import InvalidParameterError, SystemFailureError, UnsupportedError
from orlop.kernel.device_mapper import Control
from orlop.primitives.removal import remove_tree
from orlop.storage.devicemapper import open_driver

pytestmark = pytest.mark.vm(long=True)


@pytest.fixture(autouse=True)
def nothing_left(request):
    """Each test leaves no device behind, without anybody having removed one."""
    yield
    wait_for(lambda: held_devices() == [], seconds=3)


@pytest.fixture
def opener(tmp_path):
    return lambda: open_driver(str(tmp_path / "layers"), SMALL_POOL)


def kept(opened):
    """Numbers of the devices that the pool has."""
    name = opened._pool.name
    subprocess.run(["dmsetup", "message", name, "0", "reserve_metadata_snap"], check=True)
    try:
        command = ["thin_ls", "--no-headers", "-m", "-o", "DEV", opened._pool.metadata_device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        subprocess.run(["dmsetup", "message", name, "0", "release_metadata_snap"], check=True)
    return {int(number) for number in done.stdout.split()}


def settle(opened):
    """Wait until everything that is to be deleted is."""
    wait_for(lambda: opened._reaper.pending == 0, seconds=30)
    for path in opened.tombstones():
        remove_tree(path)


class TestKills:
    """``kill -9`` before each thing that is done to device mapper or to the records."""

    def life(self, opened):
        layer(opened, "bottom", None, lambda top: write(f"{top}/a", "bottom"))
        opened.prepare("c", "bottom")
        write(f"{opened.directory('c')}/b", "c")
        opened.prepare("large", "bottom", size=80 << 20)
        opened.remove("large")
        settle(opened)
        opened.commit("c", "top")
        opened.remove("top")
        opened.remove("bottom")
        settle(opened)

    def child(self, opener, step, *, opening):
        """Fork a process that lives a life and is killed at a step; tell whether it came so far."""
        pid = os.fork()
        if pid == 0:
            try:
                if opening:
                    self.kill_at(step)
                opened = opener()
                if not opening:
                    self.kill_at(step)
                    self.life(opened)
                opened.close()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert status in {0, signal.SIGKILL}, f"step {step}"
        return status != 0

    def kill_at(self, step):
        left = [step]

        def watched(real):
            def call(*args, **kwargs):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return real(*args, **kwargs)

            return call

        for name in ("create", "load", "resume", "remove", "message"):
            setattr(Control, name, watched(getattr(Control, name)))
        for name in ("rename", "link", "unlink"):
            setattr(os, name, watched(getattr(os, name)))

    def check(self, opened):
        """What is there can be used, and the pool has nothing else."""
        wait_for(lambda: opened._reaper.pending == 0, seconds=30)
        used = {record.number for record in opened._records.values()}
        assert kept(opened) == used | {opened._base.device}
        assert {int(name) for name in os.listdir(f"{opened._root}/.devices")} == used | {opened._base.device}
        assert set(opened.keys()) == opened._records.keys()
        for key in opened.keys():
            opened.diff(key)
        if "bottom" in opened.keys():
            opened.prepare("probe", "bottom")
            with open(f"{opened.directory('probe')}/a") as file:
                assert file.read() == "bottom"
            opened.remove("probe")

    def clear(self, opened):
        while keys := opened.keys():
            for key in keys:
                if not opened._snapshots._children.get(key):
                    opened.remove(key)
        settle(opened)

    def test_while_it_is_used(self, opener):
        opened = opener()
        opened.close()
        step = 0
        while self.child(opener, step, opening=False):
            opened = opener()
            self.check(opened)
            self.clear(opened)
            opened.close()
            step += 1
        assert step > 40

    def test_while_it_is_opened_for_the_first_time(self, tmp_path):
        step = 0
        while True:
            root = tmp_path / str(step)
            root.mkdir()

            def opener(root=root):
                return open_driver(str(root / "layers"), SMALL_POOL)

            killed = self.child(opener, step, opening=True)
            opened = opener()
            self.check(opened)
            opened.close()
            if not killed:
                break
            step += 1
        assert step > 8


class TestPool:
    def test_a_full_pool_fails_what_is_new_and_nothing_else(self, tmp_path):
        small = {**SMALL_POOL, "dm.loopdatasize": "64m", "dm.basesize": "48m", "dm.min_free_space": "0%"}
        opened = open_driver(str(tmp_path / "layers"), small)
        layer(opened, "good", None, lambda top: write(f"{top}/a", "x" * 100_000))
        opened.prepare("lives", "good")
        write(f"{opened.directory('lives')}/b", "y" * 100_000)
        os.sync()
        opened.prepare("first", None)
        opened.prepare("second", None)
        # more than the pool has, and less than each file system
        for key in ("first", "second"):
            with open(f"{opened.directory(key)}/big", "wb") as file:
                file.write(os.urandom(36 << 20))
        with pytest.raises(SystemFailureError, match="no space left on device: the thin pool is full"):
            for key in ("first", "second"):
                opened.commit(key, f"{key}-done")
        assert not {"first-done", "second-done"} <= set(opened.keys())
        # what was there lives: it reads, and writes where it has written
        with open(f"{opened.directory('lives')}/b", "r+") as file:
            assert file.read() == "y" * 100_000
            file.seek(0)
            file.write("z")
            os.fsync(file.fileno())
        assert opened.usage("good").size == 100_000
        for key in ("first", "second", "first-done", "second-done"):
            opened.remove(key)
        settle(opened)
        opened.prepare("again", "good")
        with open(f"{opened.directory('again')}/big", "wb") as file:
            file.write(os.urandom(20 << 20))
        opened.commit("again", "done")
        opened.close()
        # with the default the pool never comes so far
        del small["dm.min_free_space"]
        opened = open_driver(str(tmp_path / "layers"), {**small, "dm.min_free_space": "75%"})
        with pytest.raises(SystemFailureError) as caught:
            opened.prepare("new", "good")
        assert "free data blocks which is less than minimum required 768 free data blocks" in str(caught.value)
        opened.remove("done")
        settle(opened)
        opened.prepare("new", "good")
        opened.close()

    def test_sparse_files_shrink_when_something_is_removed(self, tmp_path):
        opened = open_driver(str(tmp_path / "layers"), SMALL_POOL)
        data = f"{opened._root}/.pool/data"
        layer(opened, "big", None, lambda top: write(f"{top}/a", "x" * (30 << 20)))
        held = os.stat(data).st_blocks * 512
        assert held > 30 << 20
        opened.remove("big")
        settle(opened)
        assert os.stat(data).st_blocks * 512 < held - (25 << 20)
        opened.close()

    def test_a_pool_of_somebody_else(self, tmp_path):
        """``dm.thinpooldev``: taken if it is unused, and noticed when it is another one than before."""
        made = []

        def pool(name):
            for part, size in (("data", 256), ("metadata", 8)):
                path = tmp_path / f"{name}-{part}"
                with path.open("wb") as file:
                    file.truncate(size << 20)
                done = subprocess.run(["losetup", "-f", "--show", path], capture_output=True, text=True, check=True)
                made.append(done.stdout.strip())
            table = f"0 {256 << 11} thin-pool {made[-1]} {made[-2]} 128 0"
            subprocess.run(["dmsetup", "create", name, "--table", table], check=True)

        def opened(name):
            options = {"dm.thinpooldev": f"/dev/mapper/{name}", "dm.basesize": "64m"}
            return open_driver(str(tmp_path / "layers"), options)

        try:
            pool("one")
            pool("two")
            subprocess.run(["dmsetup", "message", "two", "0", "create_thin 1"], check=True)
            subprocess.run(["dmsetup", "message", "two", "0", "set_transaction_id 0 1"], check=True)
            with pytest.raises(SystemFailureError, match="non-zero transaction ID"):
                opened("two")
            driver = opened("one")
            assert not driver._settings.discard
            layer(driver, "a", None, lambda top: write(f"{top}/a"))
            assert dict(driver.status())["Pool Name"] == "one"
            driver.close()
            with pytest.raises(SystemFailureError, match="Possibly using a different thin pool than last invocation"):
                opened("two")
            with pytest.raises(SystemFailureError, match="thin pool three: no such device"):
                opened("three")
            driver = opened("one")
            assert driver.keys() == ["a"]
            driver.close()
        finally:
            for name in ("one", "two"):
                wait_for(lambda name=name: subprocess.run(["dmsetup", "remove", name], check=False).returncode == 0)
            for device in made:
                subprocess.run(["losetup", "-d", device], check=True)

    def test_devices_instead_of_files(self, tmp_path):
        made = []
        try:
            for part, size in (("data", 256), ("metadata", 8)):
                with (tmp_path / part).open("wb") as file:
                    file.truncate(size << 20)
                command = ["losetup", "-f", "--show", tmp_path / part]
                made.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
            options = {"dm.datadev": made[0], "dm.metadatadev": made[1], "dm.basesize": "64m", "dm.blocksize": "128k"}
            opened = open_driver(str(tmp_path / "layers"), options)
            status = dict(opened.status())
            assert (status["Data file"], status["Metadata file"]) == (made[0], made[1])
            assert status["Pool Blocksize"] == "131.1kB"
            layer(opened, "a", None, lambda top: write(f"{top}/a"))
            opened.close()
        finally:
            wait_for(
                lambda: (
                    not subprocess.run(["dmsetup", "ls"], capture_output=True, check=True).stdout.startswith(b"orlop")
                )
            )
            for device in made:
                subprocess.run(["losetup", "-d", device], check=True)
        with pytest.raises(UnsupportedError, match="not a block device"):
            open_driver(str(tmp_path / "other"), {"dm.datadev": "/dev/null", "dm.metadatadev": "/dev/null"})


class TestBase:
    def test_xfs(self, tmp_path):
        options = {**SMALL_POOL, "dm.fs": "xfs", "dm.basesize": "320m", "dm.mountopt": "inode64"}
        opened = open_driver(str(tmp_path / "layers"), options)
        layer(opened, "bottom", None, lambda top: write(f"{top}/a", "bottom"))
        opened.prepare("c", "bottom")
        assert inside(opened, "c", tmp_path, "open('b','w').write('c'); print(open('a').read())") == "bottom\n"
        opened.prepare("large", "bottom", size=640 << 20)
        assert os.statvfs(opened.directory("large")).f_blocks * 4096 > 500 << 20
        assert dict(opened.status())["Backing Filesystem"] == "xfs"
        assert [change.path for change in opened.diff("c")] == [b"/b"]
        opened.close()

    def test_it_grows_and_does_not_shrink(self, tmp_path):
        opened = open_driver(str(tmp_path / "layers"), SMALL_POOL)
        layer(opened, "old", None, lambda top: write(f"{top}/a"))
        opened.close()
        with pytest.raises(InvalidParameterError, match=r"Base device size cannot be smaller than 67\.11MB"):
            open_driver(str(tmp_path / "layers"), {**SMALL_POOL, "dm.basesize": "32m"})
        opened = open_driver(str(tmp_path / "layers"), {**SMALL_POOL, "dm.basesize": "200m"})
        opened.prepare("new", None)
        opened.prepare("child", "old")
        assert os.statvfs(opened.directory("new")).f_blocks << 10 > 150 << 20
        assert os.statvfs(opened.directory("child")).f_blocks << 10 < 64 << 20
        opened.close()

    def test_a_pool_that_is_older_than_its_layers(self, tmp_path):
        opened = open_driver(str(tmp_path / "layers"), SMALL_POOL)
        layer(opened, "a", None, lambda top: write(f"{top}/a"))
        record = f"{opened._root}/a/device"
        opened.close()
        with open(record, "r+") as file:
            text = file.read()
            file.seek(0)
            file.write(text.replace('"transaction": 2', '"transaction": 9'))
        with pytest.raises(SystemFailureError, match="older than its layers"):
            open_driver(str(tmp_path / "layers"), SMALL_POOL)
