"""The engine's records: one SQLite file with write-ahead log.

```
<data-root>/state.db        records of every package, each with its own tables; ``user_version`` is SCHEMA_VERSION
            state.db-wal    what was committed since the last checkpoint: part of the database, never to be removed
            state.db.damaged-<time>   a file that SQLite could not read, put aside at start
            state.db.good             copy made at the last good start or stop: what is not readable is taken from here
            state.db.v<n>   copy made before a migration from schema n
```

One process opens the file (the data-root is locked by the daemon), one thread uses it. A commit survives the death of
the process at any instruction, and that of the machine from :meth:`Database.sync` on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from typing import TYPE_CHECKING

from orlop.errors import DataLossError, UnsupportedError
from orlop.primitives.sql import ReservedConnection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA_VERSION = 1

# From version n (the index) to n + 1; SQL scripts that run inside one transaction.
MIGRATIONS: dict[int, str] = {}

_log = logging.getLogger(__name__)


class Database:
    """Owns the connection. ``connection`` is in autocommit mode; group statements with :meth:`transaction`."""

    def __init__(self, path: str, schemas: Sequence[str]) -> None:
        """Open, check, migrate and complete the database.

        A file that SQLite calls damaged is renamed away (``quarantined`` tells where to) and a new one is begun.

        Args:
            path: absolute path; the directory exists.
            schemas: ``CREATE TABLE IF NOT EXISTS`` scripts of the packages that keep records.

        Raises:
            UnsupportedError: the file was written by a newer orlop.
        """
        self.path = path
        self.quarantined: str | None = None
        self._depth = 0
        self._synced = 0  # how many rows had been changed at the last sync
        try:
            if self._is_lost():
                raise sqlite3.DatabaseError("file is missing or empty")
            self.connection = self._open(schemas)
        except (sqlite3.DatabaseError, IsADirectoryError) as error:
            if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
                raise DataLossError(f"cannot open {path}: {error}") from error
            self.quarantined = self._put_aside()
            _log.error("%s is damaged (%s): put aside as %s", path, error, self.quarantined)
            self.connection = self._open(schemas)
            self._salvage()
        else:
            self._keep_copy()

    def _is_lost(self) -> bool:
        """Tell whether there was a database here once: SQLite would begin a new one without a word."""
        try:
            return os.stat(self.path).st_size == 0 and os.path.exists(f"{self.path}.good")
        except FileNotFoundError:
            return os.path.exists(f"{self.path}.good")

    def _keep_copy(self) -> None:
        path = f"{self.path}.good"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        with contextlib.closing(sqlite3.connect(path)) as copy:
            self.connection.backup(copy)

    def _open(self, schemas: Sequence[str]) -> sqlite3.Connection:
        # The file holds environment variables of containers: nobody but root reads it.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, factory=ReservedConnection
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA busy_timeout = 5000")
            if (damage := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(damage)
            self._migrate(connection)
            for schema in schemas:
                connection.executescript(schema)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.keep_reserve(f"{self.path}.reserve")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise UnsupportedError(
                f"{self.path} was written by a newer version of orlop (schema {version}, this one knows"
                f" {SCHEMA_VERSION}); use that version, or another data-root",
            )
        if version in (0, SCHEMA_VERSION):
            return
        with contextlib.closing(sqlite3.connect(f"{self.path}.v{version}")) as copy:
            connection.backup(copy)
        while version < SCHEMA_VERSION:
            script = MIGRATIONS[version]
            version += 1
            connection.executescript(f"BEGIN IMMEDIATE;\n{script};\nPRAGMA user_version = {version};\nCOMMIT;")

    def _put_aside(self) -> str:
        target = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path + suffix, target + suffix)
        return target

    def _salvage(self) -> None:
        """Take over every row that can still be read, from the damaged file and then from the last good copy."""
        tables = [name for (name,) in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for source in (self.quarantined, f"{self.path}.good"):
            if source is None or not os.path.isfile(source):
                continue
            with contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old:
                counts = {table: self._copy_rows(old, table) for table in tables}
            _log.warning("rows taken over from %s: %s", source, counts)
            if any(counts.values()):
                return

    def _copy_rows(self, old: sqlite3.Connection, table: str) -> int:
        columns = [row[1] for row in self.connection.execute(f"PRAGMA table_info({table})")]
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        before = self.connection.total_changes
        for order in ("ASC", "DESC"):
            # Forwards up to the damage, then backwards up to it.
            try:
                rows = old.execute(f"SELECT {names} FROM {table} ORDER BY rowid {order}")  # noqa: S608 - own schema
                for row in rows:
                    with contextlib.suppress(sqlite3.IntegrityError):
                        self.connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608
            except sqlite3.DatabaseError:
                continue
            break
        return self.connection.total_changes - before

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Group statements: all of them or none. A nested use joins the outer transaction."""
        if self._depth:
            self._depth += 1
            try:
                yield self.connection
            finally:
                self._depth -= 1
            return
        self.connection.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        else:
            self.connection.execute("COMMIT")
        finally:
            self._depth = 0

    async def sync(self) -> None:
        """Return when all that was committed is on the disk, by whomever: what a client is told is done.

        Raises:
            OSError: the disk refuses.
        """
        changes = self.connection.total_changes
        if changes > self._synced:
            await asyncio.to_thread(self._sync_log)
            self._synced = max(self._synced, changes)

    def _sync_log(self) -> None:
        """What is not in the log any more was synced when SQLite took it over."""
        fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close; what was committed stays in the write-ahead log until the next start folds it in."""
        with contextlib.suppress(sqlite3.Error, OSError):  # the copy is no condition for stopping
            self._keep_copy()
        self.connection.close()
