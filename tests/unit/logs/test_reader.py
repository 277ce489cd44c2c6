import asyncio
import contextlib
import gzip
import json
import os
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.logs import files
from orlop.logs.entry import frame, parse_entry, render
from orlop.logs.files import LogFile, tail_offset
from orlop.logs.reader import LogQuery, read_log


def line(text, *, stream="stdout", second=0, attrs=None):
    document = {"log": text, "stream": stream, "time": f"2026-01-02T03:04:{second:02d}.5Z"}
    if attrs:
        document["attrs"] = attrs
    return json.dumps(document) + "\n"


def opened_in(directory):
    """Return the files below a directory that this process has open, removed ones too."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # os.listdir's own
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(f"{directory}/")]


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


EVERYTHING = LogQuery()


async def texts(path, query=EVERYTHING, follow=None):
    return [entry.text.decode() async for entry in read_log(str(path), query, follow=follow)]


async def test_missing_log_is_empty(tmp_path):
    assert await texts(tmp_path / "x.log") == []


async def test_a_link_in_place_of_a_log_is_not_read(tmp_path):  # H12, CVE-2026-53489
    (tmp_path / "secret").write_text(line("of the host\n"))
    for name in ("y.log", "y.log.1"):
        (tmp_path / name).write_text(line("its own\n"))
    for name in ("x.log", "y.log.2"):
        (tmp_path / name).symlink_to(tmp_path / "secret")
        with pytest.raises(OSError, match="symbolic links"):
            await texts(tmp_path / name[:5])
    assert opened_in(tmp_path) == []


async def test_reads_rotated_files_oldest_first(tmp_path):
    (tmp_path / "x.log.2").write_text(line("a\n"))
    (tmp_path / "x.log.1").write_text(line("b\n"))
    (tmp_path / "x.log").write_text(line("c\n"))
    assert await texts(tmp_path / "x.log") == ["a\n", "b\n", "c\n"]


async def test_compressed_files_are_read_as_the_others(tmp_path):
    (tmp_path / "x.log.3.gz").write_bytes(gzip.compress(line("a\n").encode())[:-9])  # what is there of it
    (tmp_path / "x.log.2.gz").write_bytes(gzip.compress((line("b\n") + line("c\n")).encode()))
    (tmp_path / "x.log.1.gz").write_bytes(b"not whole")
    (tmp_path / "x.log.1").write_text(line("d\n"))
    (tmp_path / "x.log").write_text(line("e\n"))
    before = {*os.listdir(tmp_path)}
    assert await texts(tmp_path / "x.log") == ["a\n", "b\n", "c\n", "d\n", "e\n"]
    assert await texts(tmp_path / "x.log", LogQuery(tail=3)) == ["c\n", "d\n", "e\n"]
    assert (opened_in(tmp_path), {*os.listdir(tmp_path)}) == ([], before)


async def test_what_is_not_wanted_is_not_expanded(tmp_path, monkeypatch):
    (tmp_path / "x.log.1.gz").write_bytes(gzip.compress(line("a\n").encode()))
    (tmp_path / "x.log").write_text(line("b\n"))
    monkeypatch.delattr(LogFile, "expand")
    assert await texts(tmp_path / "x.log", LogQuery(tail=1)) == ["b\n"]
    with pytest.raises(AttributeError):
        await texts(tmp_path / "x.log")


async def test_a_client_that_leaves_does_not_close_what_is_being_expanded(tmp_path, monkeypatch):
    (tmp_path / "x.log.1.gz").write_bytes(gzip.compress(line("a\n").encode()))
    began, ended = threading.Event(), []

    def expand(file, directory):
        began.set()
        time.sleep(0.2)
        os.fstat(file.fd)
        ended.append(True)

    monkeypatch.setattr(LogFile, "expand", expand)
    reading = asyncio.create_task(texts(tmp_path / "x.log"))
    await asyncio.to_thread(began.wait, 60)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended == [True]


async def test_tail_goes_over_files(tmp_path):
    (tmp_path / "x.log.1").write_text(line("a\n") + line("b\n"))
    (tmp_path / "x.log").write_text(line("c\n"))
    assert await texts(tmp_path / "x.log", LogQuery(tail=2)) == ["b\n", "c\n"]
    assert await texts(tmp_path / "x.log", LogQuery(tail=0)) == []
    assert await texts(tmp_path / "x.log", LogQuery(tail=9)) == ["a\n", "b\n", "c\n"]


async def test_damaged_lines_are_skipped(tmp_path):
    (tmp_path / "x.log").write_text(line("a\n") + '{"log": "half\n' + "\0\0\n" + line("b\n") + '{"log":"unfin')
    assert await texts(tmp_path / "x.log") == ["a\n", "b\n"]


async def test_streams_and_times_select(tmp_path):
    (tmp_path / "x.log").write_text(
        line("a\n", second=1) + line("b\n", second=2, stream="stderr") + line("c\n", second=3)
    )
    path = tmp_path / "x.log"
    assert await texts(path, LogQuery(stdout=False)) == ["b\n"]
    second = parse_entry(line("", second=2).encode()).time
    assert await texts(path, LogQuery(since=second)) == ["b\n", "c\n"]
    assert await texts(path, LogQuery(until=second)) == ["a\n", "b\n"]


async def test_follow_sees_later_lines_and_rotation_and_ends(tmp_path):
    path = tmp_path / "x.log"
    path.write_text(line("a\n"))
    ended = asyncio.Event()
    seen = []

    async def reader():
        async for entry in read_log(str(path), LogQuery(), follow=ended):
            seen.append(entry.text)

    task = asyncio.create_task(reader())
    await until(lambda: seen == [b"a\n"])
    with path.open("a") as file:
        file.write(line("b\n"))
    await until(lambda: seen == [b"a\n", b"b\n"])
    os.rename(path, f"{path}.1")
    path.write_text(line("c\n"))
    await until(lambda: len(seen) == 3)
    with path.open("a") as file:
        file.write(line("d\n"))
    ended.set()
    await asyncio.wait_for(task, 60)
    assert seen == [b"a\n", b"b\n", b"c\n", b"d\n"]


def rotate(path, *, compressed=False):
    """Do what the shim does: each file gets the next one's name."""
    for number in range(5, 0, -1):
        for ending in ("", ".gz"):
            if os.path.exists(f"{path}.{number}{ending}"):
                os.rename(f"{path}.{number}{ending}", f"{path}.{number + 1}{ending}")
    os.rename(path, f"{path}.1")
    if compressed:
        with open(f"{path}.1", "rb") as plain, gzip.open(f"{path}.1.gz", "wb") as file:
            file.write(plain.read())
        os.unlink(f"{path}.1")


@pytest.mark.parametrize("compressed", [False, True])
async def test_follow_sees_files_that_came_and_went_while_it_did_not_look(tmp_path, compressed):
    path = tmp_path / "x.log"
    path.write_text(line("older\n"))
    rotate(path, compressed=compressed)
    path.write_text(line("0\n"))
    ended, seen = asyncio.Event(), []

    async def reader():
        async for entry in read_log(str(path), LogQuery(), follow=ended):
            seen.append(entry.text)

    task = asyncio.create_task(reader())
    await until(lambda: len(seen) == 2)
    for number in range(1, 4):  # the loop has no turn meanwhile
        with path.open("a") as file:
            file.write(line("more\n"))
        rotate(path, compressed=compressed)
        path.write_text(line(f"{number}\n"))
    await until(lambda: len(seen) == 8)
    assert len(opened_in(tmp_path)) == 1  # nobody's disk is filled by who follows
    ended.set()
    await asyncio.wait_for(task, 60)
    assert seen == [b"older\n", b"0\n", b"more\n", b"1\n", b"more\n", b"2\n", b"more\n", b"3\n"]
    assert opened_in(tmp_path) == []


async def test_files_that_are_rotated_while_they_are_opened_are_read_once(tmp_path, monkeypatch):
    path = tmp_path / "x.log"
    for name, text in (("x.log.2", "a\n"), ("x.log.1", "b\n"), ("x.log", "c\n")):
        (tmp_path / name).write_text(line(text))
    opened, real = [], files.open_log

    def open_and_rotate(name):
        opened.append(name)
        found = real(name)
        if len(opened) == 2:  # the one that is written, and the one before
            rotate(path)
            path.write_text(line("d\n"))
        return found

    monkeypatch.setattr(files, "open_log", open_and_rotate)
    assert await texts(path) == ["a\n", "b\n", "c\n"]


async def test_follow_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / "x.log"
    whole = line("abc\n")
    path.write_text(whole[:10])
    ended = asyncio.Event()
    task = asyncio.create_task(texts(path, LogQuery(), ended))
    await asyncio.sleep(0.05)
    with path.open("a") as file:
        file.write(whole[10:])
    ended.set()
    assert await asyncio.wait_for(task, 60) == ["abc\n"]


def test_frame_and_render():
    assert frame("stderr", b"hi") == b"\x02\0\0\0\0\0\0\x02hi"
    entry = parse_entry(line("hi\n", attrs={"b": "2", "a": "x y"}).encode())
    assert render(entry, timestamps=True, details=False) == b"2026-01-02T03:04:00.500000000Z hi\n"
    assert render(entry, timestamps=False, details=True) == b"a=x+y,b=2 hi\n"  # as Go escapes (dockerd 26)


@settings(max_examples=40)
@given(st.lists(st.text("ab", max_size=5), max_size=12), st.integers(1, 14))
def test_tail_offset_counts_lines(tmp_path_factory, lines, wanted):
    path = tmp_path_factory.mktemp("tail") / "f"
    path.write_text("".join(f"{text}\n" for text in lines))
    with path.open("rb") as file:
        offset, found = tail_offset(file.fileno(), wanted)
        file.seek(offset)
        assert file.read().decode() == "".join(f"{text}\n" for text in lines[-wanted:])
    assert found == min(wanted, len(lines))
