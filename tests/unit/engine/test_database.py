from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.engine import database
from orlop.engine.database import Database
from orlop.errors import DataLossError, UnsupportedError

SCHEMA = "CREATE TABLE IF NOT EXISTS thing (id TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "state.db")


def _rows(db):
    return db.connection.execute("SELECT id, value FROM thing ORDER BY id").fetchall()


def test_opens_private_and_remembers(path):
    db = Database(path, [SCHEMA])
    with db.transaction() as connection:
        connection.execute("INSERT INTO thing VALUES ('a', 1)")
    db.close()
    assert os.stat(path).st_mode & 0o777 == 0o600
    db = Database(path, [SCHEMA])
    assert _rows(db) == [("a", 1)]
    assert db.quarantined is None
    db.close()


def test_transaction_is_all_or_nothing_and_nests(path):
    db = Database(path, [SCHEMA])
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.connection.execute("INSERT INTO thing VALUES ('a', 1)")
        with db.transaction():
            db.connection.execute("INSERT INTO thing VALUES ('b', 2)")
        raise ZeroDivisionError
    assert _rows(db) == []
    with db.transaction(), db.transaction():
        db.connection.execute("INSERT INTO thing VALUES ('c', 3)")
    assert _rows(db) == [("c", 3)]
    db.close()


def test_commit_survives_kill(path):
    """What a transaction committed is there after SIGKILL at the next instruction, what it did not is not."""
    code = f"""
import os, signal
from orlop.engine.database import Database
db = Database({path!r}, [{SCHEMA!r}])
with db.transaction(): db.connection.execute("INSERT INTO thing VALUES ('kept', 1)")
db.connection.execute("BEGIN"); db.connection.execute("INSERT INTO thing VALUES ('lost', 2)")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    db = Database(path, [SCHEMA])
    assert _rows(db) == [("kept", 1)]
    db.close()


async def test_what_was_committed_is_synced_once(path, monkeypatch):
    synced, real = [], os.fdatasync

    def fdatasync(fd):
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    db = Database(path, [SCHEMA])
    await db.sync()
    synced.clear()
    db.connection.execute("INSERT INTO thing VALUES ('a', 1)")
    await db.sync()
    assert synced == [os.path.realpath(f"{path}-wal")]
    await db.sync()
    assert len(synced) == 1
    with db.transaction() as connection:
        connection.execute("INSERT INTO thing VALUES ('b', 1)")
    await db.sync()
    assert len(synced) == 2
    db.close()


def test_newer_schema_is_refused_and_untouched(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(UnsupportedError, match="written by a newer version of orlop"):
        Database(path, [SCHEMA])
    assert Path(path).read_bytes()[:16] == before[:16]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (999,)
    connection.close()


def test_migration_keeps_a_copy(path, monkeypatch):
    Database(path, [SCHEMA]).close()
    monkeypatch.setattr(database, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(database, "MIGRATIONS", {1: "ALTER TABLE thing ADD COLUMN extra TEXT"})
    db = Database(path, [SCHEMA])
    assert [row[1] for row in db.connection.execute("PRAGMA table_info(thing)")] == ["id", "value", "extra"]
    assert db.connection.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()
    assert os.path.exists(path + ".v1")


def test_failed_migration_changes_nothing(path, monkeypatch):
    Database(path, [SCHEMA]).close()
    monkeypatch.setattr(database, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(database, "MIGRATIONS", {1: "ALTER TABLE thing ADD COLUMN extra TEXT; SELECT nonsense"})
    with pytest.raises(DataLossError):
        Database(path, [SCHEMA])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert len(connection.execute("PRAGMA table_info(thing)").fetchall()) == 2
    connection.close()


def _fill(path):
    db = Database(path, [SCHEMA])
    with db.transaction():
        for number in range(2000):
            db.connection.execute("INSERT INTO thing VALUES (?, ?)", (f"{number:060d}", number))
    db.close()


def _truncate_half(data):
    return data[: len(data) // 2 // 4096 * 4096]


def _flip_page(data):
    middle = len(data) // 2 // 4096 * 4096
    return data[:middle] + b"\xaa" * 4096 + data[middle + 4096 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"garbage" * 1000,
        lambda data: data[:100],
        _truncate_half,
        _flip_page,
        lambda data: b"\0" * len(data),
    ],
    ids=["garbage", "head", "half", "page", "zeros"],
)
def test_damage_is_put_aside_and_rows_are_taken_over(path, damage):
    """R25: the engine starts, the file is quarantined, and what is readable or was good at the last start is there."""
    _fill(path)
    Database(path, [SCHEMA]).close()  # a good start keeps a copy
    data = Path(path).read_bytes()
    with open(path, "wb") as file:
        file.write(damage(data))
    db = Database(path, [SCHEMA])
    assert db.quarantined is not None
    assert os.path.exists(db.quarantined)
    assert len(_rows(db)) > 500
    with db.transaction():
        db.connection.execute("INSERT INTO thing VALUES ('new', 1)")
    db.close()
    db = Database(path, [SCHEMA])
    assert db.quarantined is None
    db.close()


@pytest.mark.parametrize("content", [b"", None], ids=["empty", "missing"])
def test_lost_file_is_taken_from_the_copy(path, content):
    """SQLite would begin a new database without a word, and every layer would be without a record."""
    _fill(path)
    db = Database(path, [SCHEMA])
    rows = _rows(db)
    db.close()
    os.unlink(path)
    if content is not None:
        open(path, "wb").close()
    db = Database(path, [SCHEMA])
    assert db.quarantined is not None
    assert _rows(db) == rows != []
    db.close()


def test_a_directory_in_its_place_is_put_aside(path):
    _fill(path)
    Database(path, [SCHEMA]).close()
    os.unlink(path)
    os.mkdir(path)
    db = Database(path, [SCHEMA])
    assert db.quarantined is not None
    assert _rows(db) != []
    db.close()


def test_closing_keeps_a_copy(path):
    db = Database(path, [SCHEMA])
    db.connection.execute("INSERT INTO thing VALUES ('late', 7)")
    db.close()
    os.unlink(path)
    db = Database(path, [SCHEMA])
    assert _rows(db) == [("late", 7)]
    db.close()


def test_symlink_is_not_followed(path, tmp_path):
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError):
        Database(path, [SCHEMA])
    assert not (tmp_path / "elsewhere").exists()
