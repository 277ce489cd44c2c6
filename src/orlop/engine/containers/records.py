"""What is kept of a container in the database.

``container`` has one row per container: a definition, written once at creation (and at rename or update), and the
state's columns, written at each change. A row with ``ready = 0`` is the intent to create: start-up removes it.
``exec`` sessions are not kept: they end with their container or their engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.engine.containers.state import State, Status
from orlop.spec.docker.containers import ContainerConfig, EndpointConfig, HostConfig  # noqa: TC001 - msgspec reads them

if TYPE_CHECKING:
    from orlop.engine.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS container (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    definition BLOB NOT NULL,
    ready INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start_time INTEGER NOT NULL,
    exit_code INTEGER NOT NULL,
    error TEXT NOT NULL,
    oom_killed INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    restarts INTEGER NOT NULL,
    stopped INTEGER NOT NULL,
    boot TEXT NOT NULL
) STRICT;
"""

_STATE_COLUMNS = (
    *("status", "pid", "start_time", "exit_code", "error", "oom_killed"),
    *("started_at", "finished_at", "restarts", "stopped", "boot"),
)
_SET_STATE = f"UPDATE container SET {', '.join(f'{name} = ?' for name in _STATE_COLUMNS)} WHERE id = ?"  # noqa: S608 - constant names
_INSERT = (
    f"INSERT INTO container (id, name, definition, {', '.join(_STATE_COLUMNS)})"  # noqa: S608 - constant names
    f" VALUES (?, ?, ?{', ?' * len(_STATE_COLUMNS)})"
)
_SELECT = f"SELECT name, definition, ready, {', '.join(_STATE_COLUMNS)} FROM container"  # noqa: S608 - constant names


class MountPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resolved mount of a container.

    Attributes:
        kind: ``bind``, ``volume``, ``tmpfs`` or ``image``.
        source: host path; empty for tmpfs; an image's name.
        destination: absolute path in the container.
        name: the volume's; an image's id.
        mode: what the user wrote behind the last colon of ``-v``.
        writable: not read-only.
        propagation: of a bind, ``rprivate`` by default.
        options: further mount options (tmpfs: size, mode; those of the local volume driver).
        fstype: what a volume with options of the local driver is; ``bind`` or a file system.
        device: ... and where it is.
        subpath: the part of a volume that is shown.
        own: what belongs to the owner of its top directory is shown as the container's user's (``:U``).
        copy: an empty volume is filled from the image at the first start.
        anonymous: the volume was made for this container and goes with ``rm -v`` and ``--rm``.
        recursive: a bind takes the mounts below along.
        readonly_recursive: when it is not writable, what is mounted below is not either.
    """

    kind: str
    destination: str
    source: str = ""
    name: str = ""
    mode: str = ""
    writable: bool = True
    propagation: str = ""
    options: tuple[str, ...] = ()
    copy: bool = False
    anonymous: bool = False
    recursive: bool = True
    readonly_recursive: bool = True
    fstype: str = ""
    device: str = ""
    subpath: str = ""
    own: bool = False


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """All that was settled at creation.

    Attributes:
        id: 64 hexadecimal digits.
        name: without the leading slash.
        created_at: nanoseconds since the epoch.
        image_id: ``sha256:...``.
        image_name: as the user wrote it.
        chain: chain id of the image's top layer, empty for an image without layers.
        config: completed with the image's values.
        host: completed with the engine's defaults.
        networks: what the user asked of each network.
        mounts: resolved, in order of destination.
        arguments: entrypoint and command, joined.
        unsettled: a change of its networks or limits was begun while it runs: if this engine does not finish it, the
            next makes of what runs what is written here.
    """

    id: str
    name: str
    created_at: int
    image_id: str
    image_name: str
    chain: str
    config: ContainerConfig
    host: HostConfig
    networks: dict[str, EndpointConfig | None]
    mounts: tuple[MountPoint, ...]
    arguments: tuple[str, ...]
    unsettled: bool = False

    @property
    def images(self) -> list[tuple[str, str]]:
        """Ids and names of the image that it was made from and of those that it mounts."""
        mounted = [(point.name, point.source) for point in self.mounts if point.kind == "image"]
        return [(self.image_id, self.image_name), *mounted]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Definition)


def decode_definition(data: bytes) -> Definition:
    """Read a row's definition."""
    return _decoder.decode(data)


class ContainerRecords:
    """The table ``container``; every method is one committed statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> list[tuple[Definition, State, bool]]:
        """Return all rows in order of creation: definition, state, whether the creation was finished."""
        rows = self._database.connection.execute(f"{_SELECT} ORDER BY rowid").fetchall()
        return [self._row(row) for row in rows]

    def _row(self, row: tuple[object, ...]) -> tuple[Definition, State, bool]:
        name, definition, ready, *columns = row
        fields = dict(zip(_STATE_COLUMNS, columns, strict=True))
        fields["status"] = Status(fields["status"])
        for flag in ("oom_killed", "stopped"):
            fields[flag] = bool(fields[flag])
        state = State(**fields)  # type: ignore[arg-type]  # a STRICT table holds the column types
        decoded = _decoder.decode(definition)  # type: ignore[arg-type]  # BLOB
        return msgspec.structs.replace(decoded, name=str(name)), state, bool(ready)

    def insert(self, definition: Definition, state: State) -> None:
        """Note the intent to create. Raises sqlite3.IntegrityError when id or name is taken."""
        self._database.connection.execute(
            _INSERT, (definition.id, definition.name, _encoder.encode(definition), *_columns(state))
        )

    def set_ready(self, container_id: str) -> None:
        """The creation is finished."""
        self._database.connection.execute("UPDATE container SET ready = 1 WHERE id = ?", (container_id,))

    def set_state(self, container_id: str, state: State) -> None:
        """Replace the state."""
        self._database.connection.execute(_SET_STATE, (*_columns(state), container_id))

    def set_definition(self, definition: Definition) -> None:
        """Replace the definition and the name."""
        self._database.connection.execute(
            "UPDATE container SET name = ?, definition = ? WHERE id = ?",
            (definition.name, _encoder.encode(definition), definition.id),
        )

    def delete(self, container_id: str) -> None:
        """Forget a container."""
        self._database.connection.execute("DELETE FROM container WHERE id = ?", (container_id,))


def _columns(state: State) -> tuple[object, ...]:
    values = [getattr(state, name) for name in _STATE_COLUMNS]
    values[0] = state.status.value
    return tuple(int(value) if isinstance(value, bool) else value for value in values)
