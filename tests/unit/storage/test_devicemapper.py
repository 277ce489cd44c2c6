"""How thin devices are recorded, activated and deleted, against a device mapper made of a dictionary."""

import errno
import os
import threading

import pytest

from harness import wait_for
from orlop.errors import SystemFailureError
from orlop.kernel import device_mapper as dm
from orlop.storage.devicemapper import devices as module
from orlop.storage.devicemapper.devices import Devices, Record, read_record
from orlop.storage.devicemapper.options import Settings
from orlop.storage.devicemapper.pool import Pool, PoolStatus
from orlop.storage.devicemapper.reaper import Reaper


class Kernel:
    """What outlives a process: devices by name with their open counts, and what the pool has."""

    def __init__(self):
        self.active = {}
        self.pool = set()
        self.calls = []
        self.busy = set()

    # of Control

    def names(self):
        return list(self.active)

    def _need(self, name):
        if name not in self.active:
            raise OSError(errno.ENXIO, "no such device")

    def status(self, name):
        self._need(name)
        device = self.active[name]
        return dm.Device(1, device["open"], 1 << 5 if device["table"] else 0)

    def create(self, name):
        self.calls.append(("create", name))
        if name in self.active:
            raise OSError(errno.EBUSY, "busy")
        self.active[name] = {"open": 0, "table": None, "read_only": False, "deferred": False}
        return dm.Device(1, 0, 0)

    def load(self, name, lines, *, read_only=False):
        number = int(lines[0].text.split()[1])
        if number not in self.pool:
            raise OSError(errno.ENODATA, "no data available")
        self.active[name].update(table=lines, read_only=read_only)

    def resume(self, name):
        self.calls.append(("resume", name))
        return dm.Device(1, 0, 0)

    def suspend(self, name, *, flags=0):
        self._need(name)
        self.calls.append(("suspend", name))

    def remove(self, name, *, deferred=False):
        self._need(name)
        if deferred:
            self.active[name]["deferred"] = True
            return
        if name in self.busy:
            raise OSError(errno.EBUSY, "busy")
        del self.active[name]


class FakePool:
    """The pool's messages."""

    number = os.makedev(253, 0)

    def __init__(self, kernel):
        self.kernel = kernel
        self.transaction = 7

    def create_thin(self, device):
        self.kernel.calls.append(("create_thin", device))
        if device in self.kernel.pool:
            raise FileExistsError(errno.EEXIST, "exists")
        self.kernel.pool.add(device)

    def create_snapshot(self, device, origin):
        self.create_thin(device)

    def delete(self, device):
        if device not in self.kernel.pool:
            raise OSError(errno.ENODATA, "no data")
        self.kernel.pool.remove(device)

    def advance(self):
        self.transaction += 1


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def make(kernel, tmp_path, monkeypatch):
    node = tmp_path / "node"
    node.touch()
    monkeypatch.setattr(module, "find_node", lambda root, number: str(node))
    made = []

    def make():
        made.append(Devices(kernel, FakePool(kernel), str(tmp_path), "orlop"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def recorded(tmp_path):
    return sorted(os.listdir(tmp_path / ".devices"))


def test_a_record_is_there_before_its_device(kernel, make, tmp_path, monkeypatch):
    devices = make()
    seen = []

    def create_thin(device):
        seen.append(read_record(f"{tmp_path}/.devices/{device}"))
        kernel.pool.add(device)

    monkeypatch.setattr(devices._pool, "create_thin", create_thin)
    link = f"{tmp_path}/draft"
    record = devices.create(None, 128, link=link)
    assert seen == [record] == [Record(1, 8, 128)]
    assert read_record(link) == record
    assert devices._pool.transaction == record.transaction


def test_a_number_that_is_taken_is_passed_over(kernel, make, tmp_path):
    kernel.pool = {1, 2}
    assert make().create(None, 128).number == 3
    assert recorded(tmp_path) == ["3"]


@pytest.mark.parametrize("fails", ["create_thin", "advance"])
def test_a_failure_leaves_neither_device_nor_record(kernel, make, tmp_path, monkeypatch, fails):
    devices = make()

    def failing(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(devices._pool, fails, failing)
    with pytest.raises(OSError, match="no space"):
        devices.create(None, 128, link=f"{tmp_path}/draft")
    assert kernel.pool == set()
    assert recorded(tmp_path) == []
    assert devices.records == {}


def test_what_a_crash_left_is_known_and_let_go(kernel, make, tmp_path):
    devices = make()
    record = devices.create(None, 128)
    devices.activate(record)
    kernel.active["orlop-1"]["deferred"] = False  # killed before it was marked
    kernel.active["other-1"] = {"open": 0, "table": None, "read_only": False, "deferred": False}
    (tmp_path / ".devices/.5.abc").write_text("half a record")
    (tmp_path / ".devices/6").write_text("")
    again = make()
    assert kernel.active["orlop-1"]["deferred"]
    assert not kernel.active["other-1"]["deferred"]
    assert again.records.keys() == {1, 6}
    assert recorded(tmp_path) == ["1", "6"]
    assert again.create(None, 128).number == 7
    assert again.delete(6, discard=True)
    assert recorded(tmp_path) == ["1", "7"]


def test_an_active_origin_is_suspended_for_its_snapshot(kernel, make):
    devices = make()
    origin = devices.create(None, 128)
    devices.create(origin, 128)
    assert ("suspend", "orlop-1") not in kernel.calls
    devices.activate(origin, read_only=True)
    kernel.calls.clear()
    devices.create(origin, 128)
    assert kernel.calls == [("suspend", "orlop-1"), ("create_thin", 3), ("resume", "orlop-1")]


def test_a_device_is_marked_for_removal_while_it_is_open(kernel, make):
    devices = make()
    record = devices.create(None, 128)
    devices.activate(record, read_only=True)
    assert kernel.active["orlop-1"]["deferred"]
    assert kernel.active["orlop-1"]["read_only"]
    assert kernel.active["orlop-1"]["table"] == (dm.Target(0, 128, "thin", "253:0 1"),)


def test_one_that_somebody_was_killed_while_making_is_made_anew(kernel, make):
    devices = make()
    record = devices.create(None, 128)
    kernel.create("orlop-1")
    devices.activate(record)
    assert kernel.active["orlop-1"]["table"]


def test_a_device_that_the_pool_has_lost(make, kernel):
    devices = make()
    record = devices.create(None, 128)
    kernel.pool.clear()
    with pytest.raises(SystemFailureError, match="orlop-1: no data available"):
        devices.activate(record)
    assert kernel.active == {}


def test_descriptors_are_given_back_when_somebody_has_it_mounted(kernel, make, monkeypatch):
    devices = make()
    records = [devices.create(None, 128) for _ in range(3)]
    for record in records:
        devices.activate(record)
    kernel.active["orlop-1"]["open"] = 2
    later = module.time.monotonic() + 60
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    devices.activate(records[2])
    assert devices._active.keys() == {2, 3}  # the second one may still be about to be mounted
    latest = later + 3600
    monkeypatch.setattr(module.time, "monotonic", lambda: latest)
    devices.activate(records[2])
    assert devices._active.keys() == {3}


def test_who_keeps_a_device_keeps_it_from_being_deleted_or_retired(kernel, make, monkeypatch, tmp_path):
    devices = make()
    record = devices.create(None, 128)
    devices.activate(record)
    kernel.busy.add("orlop-1")
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    assert not devices.delete(1, discard=False)
    with pytest.raises(SystemFailureError, match="orlop-1: device or resource busy"):
        devices.retire(1)
    assert recorded(tmp_path) == ["1"]
    kernel.busy.clear()
    assert devices.delete(1, discard=False)
    assert kernel.pool == set()
    assert recorded(tmp_path) == []


def test_a_record_of_a_device_that_was_never_made_goes(make, kernel, tmp_path):
    devices = make()
    devices.create(None, 128)
    kernel.pool.clear()  # killed between the record and the device
    again = make()
    reaper = Reaper(lambda number: again.delete(number, discard=True))
    reaper.add(1)
    wait_for(lambda: recorded(tmp_path) == [])
    wait_for(lambda: reaper.pending == 0)
    reaper.close()


def pool_with(status, percent):
    pool = object.__new__(Pool)
    pool._settings = Settings(least_free=percent)
    pool.status = lambda *, exact: status
    return pool


def test_too_little_space_is_told_as_by_dockerd():
    status = PoolStatus(1, 900, 1000, 950, 1000, "rw")
    pool_with(status, 5).require_space()
    pool_with(status, 0).require_space()
    with pytest.raises(SystemFailureError) as caught:
        pool_with(status, 10).require_space()
    assert str(caught.value) == (
        "devmapper: Thin Pool has 50 free data blocks which is less than minimum required 100 free data blocks."
        " Create more free space in thin pool or use dm.min_free_space option to change behavior"
    )
    with pytest.raises(
        SystemFailureError, match="has 100 free metadata blocks which is less than minimum required 110"
    ):
        pool_with(PoolStatus(1, 900, 1000, 0, 1000, "rw"), 11).require_space()


class TestReaper:
    def test_it_tries_again_until_nobody_uses_the_device(self):
        tries, free = [], threading.Event()

        def delete(number):
            tries.append(number)
            return number == 1 or free.is_set()

        reaper = Reaper(delete)
        reaper.add(1)
        reaper.add(2)
        wait_for(lambda: tries.count(2) > 2)
        assert tries.count(1) == 1
        assert reaper.pending == 1
        free.set()
        wait_for(lambda: reaper.pending == 0)
        wait_for(lambda: reaper._thread is None)
        reaper.close()

    def test_it_ends_with_something_left(self):
        reaper = Reaper(lambda _: False)
        read, write = os.pipe()
        reaper.add(1)
        reaper.close()
        reaper.add(2, write)
        assert reaper.pending == 1
        assert os.read(read, 1) == b""  # closed all the same
        os.close(read)

    def test_a_failure_is_logged_and_left_to_the_next_start(self, caplog):
        def delete(number):
            raise OSError(errno.EIO, "input/output error")

        reaper = Reaper(delete)
        reaper.add(5)
        wait_for(lambda: reaper.pending == 0)
        reaper.close()
        assert "cannot delete thin device 5" in caplog.text
