"""A context's manifest: which files are in it, and what is read again."""

import hashlib
import os

import pytest

from orlop.cli import context as module
from orlop.cli.context import Context, scan
from orlop.cli.invocation import CommandError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(top, **files):
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def test_rows(tmp_path):
    top = make(tmp_path / "c", **{"a": "1", "d/b": "22", b"\xff".decode("latin-1"): ""})
    (top / "l").symlink_to("d/b")
    os.mkfifo(top / "p")
    (top / os.fsdecode(b"\xfe")).write_text("")
    rows = {row[0]: row for row in scan(str(top)).rows}
    assert [(row[0], row[1]) for row in rows.values()] == [
        *(("a", "f"), ("d", "d"), ("d/b", "f"), ("l", "l"), ("p", "p"), ("Ã¿", "f"), ("þ", "f"))
    ]
    assert rows["d/b"][4:6] == [2, hashlib.sha256(b"22").hexdigest()]
    assert rows["l"][4:6] == [0, "d/b"]


def test_ignored(tmp_path):
    top = make(
        tmp_path / "c",
        Dockerfile="FROM x",
        **{".dockerignore": "d\n!d/keep\nDockerfile\nempty", "d/keep": "", "d/x": ""},
    )
    (top / "empty").mkdir()
    (top / "d/e").mkdir()
    made = Context(str(top), "")
    assert [row[0] for row in made.files().rows] == [".dockerignore", "d", "d/keep"]
    assert made.own is not None
    assert [row[0] for row in made.own.rows] == ["Dockerfile"]  # ignored, and needed
    assert b"".join(made.own.frames([hashlib.sha256(b"FROM x").hexdigest()]))[40:] == b"FROM x"


def test_large_files_are_read_once(tmp_path, monkeypatch):
    top = make(tmp_path / "c", big="x" * (1 << 20), small="y")
    read = []
    digest = module._digest
    monkeypatch.setattr(module, "_digest", lambda path: read.append(os.path.basename(path)) or digest(path))
    first, second = scan(str(top)), scan(str(top))
    assert read == ["big", "small", "small"]
    assert first.rows == second.rows
    (top / "big").write_text("z" * (1 << 20))
    assert scan(str(top)).rows != first.rows
    for damaged in ("{", "[]", '{"x": [1]}'):
        for path in (tmp_path / "cache/orlop/contexts").iterdir():
            path.write_text(damaged)
        scan(str(top))


def test_what_is_not_there(tmp_path):
    with pytest.raises(CommandError, match="not found"):
        Context(str(tmp_path / "none"), "")
    with pytest.raises(CommandError, match="no such file or directory"):
        Context(str(tmp_path), "")
