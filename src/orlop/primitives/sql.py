"""Transactions on a shared SQLite connection, for the stores that keep their own tables, and space for the last ones.

The connection is in autocommit mode. Only the engine imports this module, never a forked child.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from orlop.errors import SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Iterator

RESERVE = 4 << 20
_RETRY = 30.0  # seconds until the file is made again
_LOW = 256 << 10


class ReservedConnection(sqlite3.Connection):
    """A connection with space of its own, so that a full disk stops containers and not the engine.

    A file of :data:`RESERVE` bytes lies beside the database (:meth:`keep_reserve`). The first statement that finds the
    disk full gives the file up and is tried again: the end of a container that filled the disk is recorded, and the
    container can be removed. The file is made again when there is space.
    """

    _reserve: str | None = None
    _given_up: float | None = None

    def keep_reserve(self, path: str) -> None:
        """Allocate the file at ``path``; without space for it the engine works as without a reserve."""
        self._reserve = path
        self._given_up = None
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE)
            finally:
                os.close(fd)
        except OSError:
            self._give_up()

    def _give_up(self) -> bool:
        if self._reserve is None:
            return False
        self._given_up = time.monotonic()
        try:
            os.unlink(self._reserve)
        except OSError:
            return False
        return True

    def _look_ahead(self, reserve: str) -> None:
        """Give the reserve up before a transaction that could not be tried again: a commit that fails is lost."""
        with contextlib.suppress(OSError):
            space = os.statvfs(os.path.dirname(reserve))
            if space.f_bavail * space.f_frsize < _LOW:
                self._give_up()

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement, a second time if the reserve made room for it."""
        inside = self.in_transaction
        if self._given_up is None and self._reserve and sql.startswith("BEGIN"):
            self._look_ahead(self._reserve)
        try:
            cursor = super().execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._give_up() or self.in_transaction != inside:
                raise  # also when SQLite gave the whole transaction up: its earlier statements are lost
            return super().execute(sql, parameters)
        if self._given_up is not None and self._reserve and time.monotonic() - self._given_up > _RETRY:
            self.keep_reserve(self._reserve)
        return cursor


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, what: str) -> Iterator[None]:
    """Run statements as a whole or not at all; inside another transaction they become part of it.

    Args:
        connection: in autocommit mode.
        what: what is being done, for the message.

    Raises:
        SystemFailureError: the database refused, for instance ``no space left on device``; nothing was changed.
    """
    outermost = not connection.in_transaction
    try:
        if outermost:
            connection.execute("BEGIN IMMEDIATE")
        yield
        if outermost:
            connection.execute("COMMIT")
    except BaseException as error:
        if outermost and connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
            raise SystemFailureError(f"{what}: {'no space left on device' if full else error}") from error
        raise
