import gzip
import json
import os
import resource
import signal

import pytest

from harness import wait_for
from orlop.runtime.json_log import LINE_LIMIT, JsonLog, LineSplitter, rfc3339_nano
from orlop.runtime.log_compression import finish_compression
from orlop.spec.launch import LogTarget


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("step", [1, 7, LINE_LIMIT, 10 * LINE_LIMIT])
def test_splitter_loses_nothing_and_cuts_at_the_limit(step):
    data = b"a\n\n" + b"b" * (2 * LINE_LIMIT + 5) + b"\ntail"
    splitter = LineSplitter()
    out = [line for start in range(0, len(data), step) for line in splitter.feed(data[start : start + step])]
    assert out == [b"a\n", b"\n", b"b" * LINE_LIMIT, b"b" * LINE_LIMIT, b"bbbbb\n"]
    assert splitter.flush() == [b"tail"]
    assert splitter.flush() == []


def test_time_has_nine_digits():
    assert rfc3339_nano(1_767_323_045_678_901_234) == "2026-01-02T03:04:05.678901234Z"
    assert rfc3339_nano(5) == "1970-01-01T00:00:00.000000005Z"


def test_records_of_two_streams_and_odd_bytes(tmp_path):
    log = JsonLog(LogTarget(str(tmp_path / "log"), attributes={"label": 'a"b'}))
    log.write("stdout", b"half")
    log.write("stderr", b"\xff\x00\x1b\n")
    log.write("stdout", b" line\n")
    log.close()
    records = lines(tmp_path / "log")
    assert [(record["stream"], record["log"]) for record in records] == [
        ("stderr", "\ufffd\x00\x1b\n"),
        ("stdout", "half line\n"),
    ]
    assert records[0]["attrs"] == {"label": 'a"b'}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_rotation_keeps_so_many_files_of_that_size(tmp_path, keep):
    log = JsonLog(LogTarget(str(tmp_path / "log"), max_size=500, max_files=keep))
    for number in range(50):
        log.write("stdout", b"line %d\n" % number)
    log.close()
    files = sorted(os.listdir(tmp_path))
    assert files == ["log", "log.1", "log.2"][:keep]
    assert all((tmp_path / name).stat().st_size <= 500 for name in files)
    kept = [record["log"] for name in reversed(files) for record in lines(tmp_path / name)]
    assert kept == [f"line {number}\n" for number in range(50 - len(kept), 50)]


@pytest.mark.parametrize("keep", [2, 4])
def test_rotated_files_are_compressed(tmp_path, keep):
    log = JsonLog(LogTarget(str(tmp_path / "log"), max_size=500, max_files=keep, compress=True))
    for number in range(50):
        log.write("stdout", b"line %d\n" % number)
    log.close()
    wait_for(lambda: not [*tmp_path.glob("*-unfinished"), *tmp_path.glob("log.1")], what="the last compression")
    rotated = [f"log.{number}.gz" for number in range(1, keep)]
    assert sorted(os.listdir(tmp_path)) == ["log", *rotated]
    records = [json.loads(line) for name in reversed(rotated) for line in gzip.open(tmp_path / name).readlines()]
    kept = [record["log"] for record in records + lines(tmp_path / "log")]
    assert kept == [f"line {number}\n" for number in range(50 - len(kept), 50)]
    assert len(kept) > 6 * (keep - 1)


def test_a_file_that_cannot_be_compressed_stays_and_moves_on(tmp_path):
    """What an engine before this one left, too: both forms of one file, and one that never got ready."""
    (tmp_path / "log.1").write_text('{"log":"old\\n"}\n')
    (tmp_path / "log.1.gz").write_bytes(gzip.compress((tmp_path / "log.1").read_bytes()))
    (tmp_path / "log.2").write_text("older")
    (tmp_path / "log.1.gz-unfinished").mkdir()  # no file can be written there
    log = JsonLog(LogTarget(str(tmp_path / "log"), max_size=100, max_files=3, compress=True))
    log.write("stdout", b"a\n")
    log.write("stdout", b"b\n")
    log.close()
    finish_compression(log._compressing)
    assert {*os.listdir(tmp_path)} == {"log", "log.1", "log.1.gz-unfinished", "log.2", "log.2.gz"}
    assert [record["log"] for name in ("log.2", "log.1", "log") for record in lines(tmp_path / name)] == [
        "old\n",
        "a\n",
        "b\n",
    ]


def test_a_link_in_place_of_the_log_is_refused(tmp_path):  # H12
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        JsonLog(LogTarget(str(tmp_path / "log")))
    assert not (tmp_path / "elsewhere").exists()


def test_without_space_whole_records_are_dropped_and_counted(tmp_path):
    log = JsonLog(LogTarget(str(tmp_path / "log"), max_size=0))
    log.write("stdout", b"first\n")
    size = (tmp_path / "log").stat().st_size
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, old[1]))
    try:
        log.write("stdout", b"second\nthird\n")
        assert log.dropped == 2
        assert (tmp_path / "log").stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    log.write("stdout", b"fourth\n")
    log.close()
    assert [record["log"] for record in lines(tmp_path / "log")] == ["first\n", "fourth\n"]
