"""Contents of contexts and what is known of clients' files: kept, bounded, and never taken from under a build."""

import os

import pytest

from orlop.engine.builds import seen_files
from orlop.engine.builds.context_files import ContextFiles
from orlop.engine.builds.seen_files import SeenFile
from orlop.engine.builds.sessions import SessionRequest, Sessions
from orlop.errors import InvalidParameterError, NotFoundError


@pytest.fixture
def files(tmp_path):
    return ContextFiles(str(tmp_path))


def put(files, data, *, used=None):
    content = files.new_content()
    content.write(data)
    digest = content.finish()
    if used is not None:
        os.utime(f"{files._root}/{digest}", (used, used))
    return digest


def seen(path="a"):
    return SeenFile(path, 0o644, (0, 0), 3, 1, "0" * 64)


def test_a_content_has_the_name_of_what_came(files, tmp_path):
    digest = put(files, b"abc")
    assert (tmp_path / digest).read_bytes() == b"abc"
    assert (files.touch(digest, 3), files.touch(digest, 4), files.touch("0" * 64, 3)) == (True, False, False)
    content = files.new_content()
    content.write(b"abc")
    with pytest.raises(InvalidParameterError, match="changed while it was sent"):
        content.finish("0" * 64)
    content.close()
    assert sorted(os.listdir(tmp_path)) == sorted([digest, "boot"])


def test_what_a_build_uses_is_not_trimmed(files):
    old, needed = put(files, b"old", used=1), put(files, b"needed", used=2)
    with files.in_use():
        assert files.touch(needed, 6)
        new = put(files, b"new")
        assert files.trim(1) == 3
        assert files.trim(0) == 0
        assert (files.touch(old, 3), files.touch(needed, 6), files.touch(new, 3)) == (False, True, True)
    assert files.trim(0) == 9


async def test_a_session_uses_what_it_announced(tmp_path):
    sessions = Sessions(ContextFiles(str(tmp_path)))
    digest = put(sessions.files, b"abc")
    session = sessions.create(SessionRequest())
    assert await sessions.announce(session, "context", f'[["a","f",420,0,3,"{digest}"]]'.encode()) == []
    assert sessions.files.trim(0) == 0
    sessions.end(session)
    await sessions._trimming
    assert sessions.files.trim(0) == 3
    with pytest.raises(NotFoundError, match="No such build session"):
        await sessions.announce(session, "context", b"[]")


def test_what_is_known_is_kept_by_directory(files, tmp_path):
    assert files.seen.load("one") == {}
    files.seen.keep("one", [seen(), seen("b")])
    files.seen.keep("two", [seen("c")])
    assert files.seen.load("one") == {"a": seen(), "b": seen("b")}
    files.seen.keep("one", [seen("b")])
    assert files.seen.load("one") == {"b": seen("b")}
    files.seen.keep("two", [])
    assert len([name for name in os.listdir(tmp_path) if name.startswith("seen-")]) == 1
    for name in os.listdir(tmp_path):
        (tmp_path / name).write_bytes(b"\xc1 damaged")
    assert files.seen.load("one") == {}


@pytest.mark.parametrize("limit", ["_MOST", "_BYTES"])
def test_not_too_much_is_known(files, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(seen_files, limit, 3 if limit == "_MOST" else 300)
    for number in range(6):
        files.seen.keep(str(number), [seen()])
        os.utime(files.seen._path(str(number)), (number, number))
    assert [number for number in range(6) if files.seen.load(str(number))] == [3, 4, 5]


def test_what_is_known_goes_with_the_contents(files):
    put(files, b"abc", used=5)
    files.seen.keep("one", [seen()])
    known = files.usage()[1] - 3
    assert known > 0
    assert files.trim(0, before=10) == 3
    assert files.seen.load("one")
    assert files.trim(0) == known
    assert files.seen.load("one") == {}


@pytest.mark.parametrize(
    ("mtime", "settled"),
    [
        (10**18 + 1 - 10**9, True),
        (10**18 - 10**9, False),
        (10**18 - 3 * 10**9, True),
        (10**18 - 10_000_001, False),
        (10**18 + 5, False),
    ],
)
def test_a_file_without_fractions_of_a_second_settles_later(mtime, settled):
    assert SeenFile("a", 0o644, (0, 0), 3, mtime, "").is_settled(10**18) is settled


def test_another_boot_is_another_machine(tmp_path):
    files = ContextFiles(str(tmp_path))
    put(files, b"abc")
    files.seen.keep("one", [seen()])
    content = files.new_content()
    assert ContextFiles(str(tmp_path)).usage()[0] == 1
    content.close()
    (tmp_path / "boot").write_text("another")
    assert ContextFiles(str(tmp_path)).usage() == (0, 0, 0.0, 0.0)
    assert os.listdir(tmp_path) == ["boot"]
