"""A full disk stops containers, not the engine's records."""

import os
import sqlite3
import subprocess

import pytest

from orlop.errors import SystemFailureError
from orlop.primitives import sql

pytestmark = pytest.mark.privileged


@pytest.fixture
def small(tmp_path):
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture
def connection(small):
    connection = sqlite3.connect(small / "db", isolation_level=None, factory=sql.ReservedConnection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.keep_reserve(str(small / "db.reserve"))
    yield connection
    connection.close()


def fill(directory):
    with pytest.raises(OSError, match="No space left"), open(directory / "filler", "wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))


def test_records_go_on_when_the_disk_is_full(small, connection):
    assert os.stat(small / "db.reserve").st_blocks * 512 >= sql.RESERVE
    fill(small)
    for number in range(50):
        with sql.transaction(connection, "test"):
            connection.execute("INSERT INTO t VALUES (?)", ("x" * 2000 + str(number),))
    connection.execute("DELETE FROM t")
    assert not (small / "db.reserve").exists()


def test_without_reserve_it_is_an_error_that_leaves_nothing(small, connection):
    (small / "db.reserve").unlink()
    fill(small)
    with (
        pytest.raises(SystemFailureError, match="test: no space left on device"),
        sql.transaction(connection, "test"),
    ):
        for _ in range(100):
            connection.execute("INSERT INTO t VALUES (?)", ("x" * 4000,))
    assert connection.in_transaction is False
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_the_reserve_is_made_again(small, connection, monkeypatch):
    fill(small)
    for _ in range(5):
        connection.execute("INSERT INTO t VALUES (?)", ("x" * 4000,))
    (small / "filler").unlink()
    monkeypatch.setattr(sql, "_RETRY", 0)
    connection.execute("SELECT 1")
    assert (small / "db.reserve").exists()


def test_no_space_for_the_reserve_is_no_error(small, connection):
    (small / "db.reserve").unlink()
    fill(small)
    connection.keep_reserve(str(small / "db.reserve"))
    assert not (small / "db.reserve").exists()
