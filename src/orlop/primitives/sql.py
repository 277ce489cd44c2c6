"""Transactions on a shared SQLite connection, for the stores that keep their own tables.

The connection is in autocommit mode. Only the engine imports this module, never a forked child.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
