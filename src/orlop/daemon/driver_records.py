"""Where the records of images and containers lie: they belong to the storage driver that holds their layers.

::

    <data-root>/state.db                  networks, volumes; images, layers and containers of overlay2
                blobs/                    contents of overlay2's images
                images/<driver>/state.db  images, layers and containers of another driver
                images/<driver>/blobs/    contents of its images

An engine that is started with another driver sees other images and containers, and the same volumes and networks;
started with the first one again, it finds everything as it was.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from orlop.engine.containers.records import decode_definition
from orlop.engine.database import Database

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.engine.containers.records import Definition

DEFAULT = "overlay2"


def records_home(data_root: str, driver: str) -> str:
    """Return the directory of a driver's records, made if missing."""
    if driver == DEFAULT:
        return data_root
    home = f"{data_root}/images/{driver}"
    os.makedirs(home, mode=0o700, exist_ok=True)
    return home


def open_records(data_root: str, driver: str, schemas: Sequence[str], *, shared: Database) -> Database:
    """Open the database of a driver's images and containers; ``shared`` itself for overlay2."""
    if driver == DEFAULT:
        return shared
    return Database(f"{records_home(data_root, driver)}/state.db", schemas)


def definitions_of_others(data_root: str, driver: str) -> list[Definition]:
    """Return the containers that this driver's engine does not see: what they use is in use."""
    homes = {DEFAULT: data_root}
    with contextlib.suppress(FileNotFoundError):
        homes.update({name: f"{data_root}/images/{name}" for name in os.listdir(f"{data_root}/images")})
    found: list[Definition] = []
    for name, home in homes.items():
        path = f"{home}/state.db"
        if name == driver or not os.path.isfile(path):
            continue
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT definition FROM container").fetchall()
            found.extend(decode_definition(data) for (data,) in rows)
    return found


def volume_users(definitions: Sequence[Definition]) -> Mapping[str, Sequence[str]]:
    """Return the ids of the containers that use each volume."""
    users: dict[str, list[str]] = {}
    for definition in definitions:
        for point in definition.mounts:
            if point.kind == "volume":
                users.setdefault(point.name, []).append(definition.id)
    return users
