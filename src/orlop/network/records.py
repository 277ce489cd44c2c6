"""What the network service remembers, as rows of the engine's database.

A row of ``endpoint`` is an intent: it is written before the address, the link or a rule exists, and removed after they
are gone. At start, rows of containers that are not running tell what to clean up. Each change is one statement.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orlop.network.networks import Network
from orlop.network.sandbox import Endpoint
from orlop.spec.ports import PortBinding

if TYPE_CHECKING:
    import sqlite3

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
    labels TEXT NOT NULL
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
    UNIQUE (network_id, address),
    UNIQUE (network_id, container_id)
) STRICT;
"""
_NETWORK = "id, name, driver, created_at, subnet, gateway, ip_range, internal, attachable, options, labels"
_ENDPOINT = "id, network_id, container_id, address, prefix_length, gateway, mac, interface, host_interface, ports"


class Records:
    """The rows of networks and endpoints; the connection is the engine's."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        with database:
            for statement in SCHEMA.split(";"):
                if statement.strip():
                    database.execute(statement)

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
        )
        with self._database:
            self._database.execute(
                f"INSERT OR REPLACE INTO network ({_NETWORK}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - constant
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
                ),
            )
            for row in rows
        ]

    def put_endpoint(self, container_id: str, endpoint: Endpoint) -> None:
        """Write what is about to exist."""
        ports = [[p.container_port, p.protocol, p.host_ip, p.host_port] for p in endpoint.ports]
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
            json.dumps(ports) if ports else "[]",
        )
        with self._database:
            self._database.execute(
                f"INSERT INTO endpoint ({_ENDPOINT}) VALUES (?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - constant
                values,
            )

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Remove the row of what is gone."""
        with self._database:
            self._database.execute("DELETE FROM endpoint WHERE id = ?", (endpoint_id,))


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
