"""The bytes that device mapper and loop devices are spoken to with, against what <linux/dm-ioctl.h> makes of them."""

import os
from pathlib import Path

import pytest

from orlop.kernel import device_mapper as dm
from orlop.kernel import loop

HOME = Path(__file__).parents[2] / "golden/device_mapper"
GOLDEN = dict(line.split(" ", 1) for line in (HOME / "golden.txt").read_text().splitlines())


def golden(name):
    return bytes.fromhex(GOLDEN[name])


def sent(monkeypatch, call):
    """What a command gives to the kernel: its number and its bytes."""
    seen = []

    def ioctl(fd, number, buffer):
        seen.append((number, bytes(buffer)))

    monkeypatch.setattr(dm.fcntl, "ioctl", ioctl)
    control = dm.Control("/dev/null")
    try:
        call(control)
    finally:
        control.close()
    return seen[0]


def same(made, name):
    """Compare all but the size of the buffer, which is ours to choose."""
    wanted = golden(name)
    assert made[: len(wanted)][:12] == wanted[:12]
    assert made[16 : len(wanted)] == wanted[16:]
    assert int.from_bytes(made[12:16], "little") == len(made)
    assert not any(made[len(wanted) :])


def test_numbers_and_flags():
    numbers = [
        *(dm.LIST_DEVICES, dm.DEV_CREATE, dm.DEV_REMOVE, dm.DEV_SUSPEND, dm.DEV_STATUS),
        *(dm.TABLE_LOAD, dm.TABLE_STATUS, dm.LIST_VERSIONS, dm.TARGET_MSG),
    ]
    assert [f"{dm._IOCTL | number:x}" for number in numbers] == GOLDEN["numbers"].split()
    flags = (dm.READONLY, dm.SUSPEND, dm.STATUS_TABLE, dm.SKIP_LOCKFS, dm.NOFLUSH, dm.DEFERRED_REMOVE)
    assert [f"{flag:x}" for flag in flags] == GOLDEN["flags"].split()


def test_a_table(monkeypatch):
    lines = (dm.Target(0, 131072, "thin", "253:0 7"), dm.Target(131072, 8, "error", ""))
    number, made = sent(monkeypatch, lambda control: control.load("orlop-8:1-99-7", lines, read_only=True))
    assert number == 0xC138FD09
    same(made, "load")


def test_a_removal_that_is_deferred(monkeypatch):
    number, made = sent(monkeypatch, lambda control: control.remove("gone", deferred=True))
    assert number == 0xC138FD04
    same(made, "remove")


def test_a_message(monkeypatch):
    number, made = sent(monkeypatch, lambda control: control.message("pool", "create_snap 9 4"))
    assert number == 0xC138FD0E
    same(made, "message")


def test_a_status():
    device, count, data = dm.decode(golden("status"))
    assert (os.major(device.number), os.minor(device.number)) == (253, 1000)
    assert device.open_count == 3
    assert device.has_table
    text = "5 215/4096 12/16384 - rw discard_passdown error_if_no_space - 1024 "
    assert dm.decode_table(data, count) == [dm.Target(0, 2097152, "thin-pool", text)]


def test_targets_of_the_kernel():
    assert dm.decode_versions(golden("versions")) == {"thin": (1, 22, 0), "thin-pool": (1, 22, 0)}


def test_names():
    assert dm.decode_names(golden("names")) == ["one", "two"]
    assert dm.decode_names(golden("nothing")) == []


def test_an_answer_that_needs_more_room_is_asked_for_again(monkeypatch):
    sizes = []

    def ioctl(fd, number, buffer):
        sizes.append(len(buffer))
        if len(sizes) < 3:
            buffer[28:32] = (1 << 8).to_bytes(4, "little")

    monkeypatch.setattr(dm.fcntl, "ioctl", ioctl)
    control = dm.Control("/dev/null")
    assert control.names() == []
    control.close()
    assert sizes[1] > 3 * sizes[0]
    assert sizes[2] > 3 * sizes[1]


@pytest.mark.parametrize("name", ["a/b", "a\0b", "x" * 128])
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match="not a name of a device"):
        dm.encode(name)


def test_an_error_tells_the_command(monkeypatch):
    def ioctl(fd, number, buffer):
        raise OSError(17, "File exists")

    monkeypatch.setattr(dm.fcntl, "ioctl", ioctl)
    control = dm.Control("/dev/null")
    with pytest.raises(FileExistsError, match=r"DM_TARGET_MSG, pool, create_thin 1\): file exists"):
        control.message("pool", "create_thin 1")
    control.close()


def test_a_loop_device():
    assert loop._CONFIG.pack(7, 0, loop._FLAGS_AUTOCLEAR, b"/data") == golden("loop")
