"""What the network service remembers, as rows of the engine's database.

A row of ``endpoint`` is an intent: it is written before the address, the link or a rule exists, and removed after they
are gone. At start, rows of containers that are not running tell what to clean up. Each change is one statement.

What is gone is gone on a full disk as well: its row is removed when there is room, and before the next one is written.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orlop.network.networks import Network
from orlop.network.sandbox import Endpoint, NameServerWish
from orlop.spec.ports import PortBinding, PortRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = """
CREATE TABLE IF NOT EXISTS network (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    driver TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    subnet TEXT NOT NULL,
    gateway TEXT NOT NULL,
    ip_range TEXT NOT NULL,
    internal INTEGER NOT NULL,
    attachable INTEGER NOT NULL,
    options TEXT NOT NULL,
    labels TEXT NOT NULL,
    more TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE TABLE IF NOT EXISTS endpoint (
    id TEXT PRIMARY KEY,
    network_id TEXT NOT NULL,
    container_id TEXT NOT NULL,
    address TEXT,
    prefix_length INTEGER NOT NULL,
    gateway TEXT NOT NULL,
    mac TEXT NOT NULL,
    interface TEXT NOT NULL,
    host_interface TEXT NOT NULL,
    ports TEXT NOT NULL,
    more TEXT NOT NULL DEFAULT '{}',
    UNIQUE (network_id, address),
    UNIQUE (network_id, container_id)
) STRICT;
CREATE TABLE IF NOT EXISTS sandbox (
    container_id TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;
"""
_NETWORK = "id, name, driver, created_at, subnet, gateway, ip_range, internal, attachable, options, labels, more"
_ENDPOINT = "id, network_id, container_id, address, prefix_length, gateway, mac, interface, host_interface, ports, more"

_DELETE_ENDPOINT = "DELETE FROM endpoint WHERE id = ?"
_DELETE_SANDBOX = "DELETE FROM sandbox WHERE container_id = ?"


@dataclass(frozen=True, slots=True)
class SandboxRow:
    """What is kept of a container's sandbox beside its endpoints, while it runs; only where there is something to keep.

    Attributes:
        id: the sandbox's.
        ports: what the user wanted published: it follows the network with the default route.
        name_servers: where questions go.
    """

    id: str
    ports: tuple[PortRequest, ...]
    name_servers: NameServerWish


class Records:
    """The rows of networks and endpoints; the connection is the engine's."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._gone: dict[tuple[str, str], None] = {}  # statements, with whose rows there was no room to remove
        with database:
            for statement in SCHEMA.split(";"):
                if statement.strip():
                    database.execute(statement)
            for table in ("network", "endpoint"):
                columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
                if "more" not in columns:  # made by an earlier version
                    database.execute(f"ALTER TABLE {table} ADD COLUMN more TEXT NOT NULL DEFAULT '{{}}'")

    def networks(self) -> list[Network]:
        """Return all networks, oldest first."""
        rows = self._database.execute(f"SELECT {_NETWORK} FROM network ORDER BY created_at, id")  # noqa: S608 - constant
        return [
            Network(
                id=row[0],
                name=row[1],
                driver=row[2],
                created_at=row[3],
                subnet=row[4],
                gateway=row[5],
                ip_range=row[6],
                internal=bool(row[7]),
                attachable=bool(row[8]),
                options=_texts(row[9]),
                labels=_texts(row[10]),
                **_known(row[11], _NETWORK_MORE),
            )
            for row in rows
        ]

    def put_network(self, network: Network) -> None:
        """Write a network, replacing the row of the same id."""
        values = (
            network.id,
            network.name,
            network.driver,
            network.created_at,
            network.subnet,
            network.gateway,
            network.ip_range,
            int(network.internal),
            int(network.attachable),
            json.dumps(network.options),
            json.dumps(network.labels),
            json.dumps({name: getattr(network, name) for name in _NETWORK_MORE}),
        )
        with self._database:
            self._database.execute(
                f"INSERT OR REPLACE INTO network ({_NETWORK}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - constant
                values,
            )

    def delete_network(self, network_id: str) -> None:
        """Remove a network's row."""
        with self._database:
            self._database.execute("DELETE FROM network WHERE id = ?", (network_id,))

    def endpoints(self) -> list[tuple[str, Endpoint]]:
        """Return (container id, endpoint) of all rows; the networks' names are not filled in."""
        rows = self._database.execute(f"SELECT {_ENDPOINT} FROM endpoint")  # noqa: S608 - constant
        return [
            (
                row[2],
                Endpoint(
                    id=row[0],
                    network_id=row[1],
                    network_name="",
                    address=row[3] or "",
                    prefix_length=row[4],
                    gateway=row[5],
                    mac=row[6],
                    interface=row[7],
                    host_interface=row[8],
                    ports=_ports(row[9]),
                    **_known(row[10], _ENDPOINT_MORE),
                ),
            )
            for row in rows
        ]

    def put_endpoint(self, container_id: str, endpoint: Endpoint) -> None:
        """Write what is about to exist."""
        values = (
            endpoint.id,
            endpoint.network_id,
            container_id,
            endpoint.address or None,
            endpoint.prefix_length,
            endpoint.gateway,
            endpoint.mac,
            endpoint.interface,
            endpoint.host_interface,
            _port_column(endpoint),
            _more(endpoint),
        )
        self._remove_gone()
        with self._database:
            self._database.execute(
                f"INSERT INTO endpoint ({_ENDPOINT}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - constant
                values,
            )

    def replace_endpoint(self, container_id: str, endpoint: Endpoint) -> None:
        """Write an endpoint in place of the row of the same id."""
        self._database.execute(_DELETE_ENDPOINT, (endpoint.id,))
        self.put_endpoint(container_id, endpoint)

    def update_endpoint(self, endpoint: Endpoint) -> None:
        """Replace the ports, names and options of an endpoint that is written; one that is not is left alone."""
        values = _port_column(endpoint), _more(endpoint), endpoint.id
        self._database.execute("UPDATE endpoint SET ports = ?, more = ? WHERE id = ?", values)

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Remove the row of what is gone."""
        self._remove(_DELETE_ENDPOINT, endpoint_id)

    def sandboxes(self) -> dict[str, SandboxRow]:
        """Return the kept sandboxes by container id."""
        rows = self._database.execute("SELECT container_id, document FROM sandbox").fetchall()
        return {row[0]: _sandbox(row[1]) for row in rows}

    def put_sandbox(self, container_id: str, row: SandboxRow) -> None:
        """Keep a sandbox."""
        document = {
            "id": row.id,
            "ports": [[p.container_port, p.protocol, p.host_ip, p.first, p.last] for p in row.ports],
            "servers": row.name_servers.servers,
            "on_host": row.name_servers.on_host,
        }
        self._remove_gone()
        with self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO sandbox (container_id, document) VALUES (?, ?)",
                (container_id, json.dumps(document)),
            )

    def delete_sandbox(self, container_id: str) -> None:
        """Forget a sandbox; one that is not kept is no error."""
        self._remove(_DELETE_SANDBOX, container_id)

    def _remove(self, statement: str, key: str) -> None:
        self._gone[statement, key] = None
        with contextlib.suppress(sqlite3.OperationalError):
            self._remove_gone()

    def _remove_gone(self) -> None:
        for statement, key in list(self._gone):
            self._database.execute(statement, (key,))
            del self._gone[statement, key]


_NETWORK_MORE: dict[str, type] = {
    **dict.fromkeys(("subnet6", "gateway6", "ip_range6", "document", "config_from"), str),
    "auxiliary": dict,
    **dict.fromkeys(("more_pools", "versions"), tuple),
    **dict.fromkeys(("chosen", "made_parent", "config_only"), bool),
}
_ENDPOINT_MORE: dict[str, type] = {
    **dict.fromkeys(("address6", "gateway6", "driver"), str),
    **dict.fromkeys(("prefix_length6", "priority"), int),
    **dict.fromkeys(("names", "links", "link_local"), tuple),
    "options": dict,
    **dict.fromkeys(("on_link", "router"), bool),
}


def _port_column(endpoint: Endpoint) -> str:
    ports = [[p.container_port, p.protocol, p.host_ip, p.host_port] for p in endpoint.ports]
    return json.dumps(ports) if ports else "[]"


def _more(endpoint: Endpoint) -> str:
    """Return the column of what only some endpoints have; most have none of it."""
    plain = not (endpoint.names or endpoint.address6 or endpoint.options or endpoint.priority or endpoint.link_local)
    if plain and endpoint.driver == "bridge" and not endpoint.router:
        return "{}"
    return json.dumps({name: getattr(endpoint, name) for name in _ENDPOINT_MORE})


def _known(column: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return the members of a column that are of the type they ought to be; what is damaged is left out."""
    try:
        found = json.loads(column)
    except ValueError:
        return {}
    result: dict[str, Any] = {}
    for name, kind in fields.items():
        value = found.get(name) if isinstance(found, dict) else None
        if kind is tuple and isinstance(value, list):
            value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
        if isinstance(value, kind):
            result[name] = value
    return result


def _sandbox(column: str) -> SandboxRow:
    try:
        found = json.loads(column)
        ports = tuple(PortRequest(int(p), str(proto), str(ip), int(a), int(b)) for p, proto, ip, a, b in found["ports"])
        servers = NameServerWish(tuple(map(str, found["servers"])), tuple(map(str, found["on_host"])))
        return SandboxRow(str(found["id"]), ports, servers)
    except (ValueError, TypeError, KeyError):
        return SandboxRow("", (), NameServerWish())


def _texts(column: str) -> dict[str, str]:
    """Return a column's object of strings; what is damaged counts as empty."""
    try:
        found = json.loads(column)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, str)}


def _ports(column: str) -> tuple[PortBinding, ...]:
    """Return a column's port bindings; what is damaged counts as none."""
    try:
        return tuple(
            PortBinding(int(container_port), str(protocol), str(host_ip), int(host_port))
            for container_port, protocol, host_ip, host_port in json.loads(column)
        )
    except (ValueError, TypeError):
        return ()
