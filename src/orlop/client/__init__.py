"""A typed, blocking client of the Docker Engine API; standard library only, light enough for a command line."""

from orlop.client.address import Address, Tls, find_address, parse_address
from orlop.client.client import Client, connect
from orlop.client.connection import HijackedStream
from orlop.client.failure import ConnectionFailedError

__all__ = [
    "Address",
    "Client",
    "ConnectionFailedError",
    "HijackedStream",
    "Tls",
    "connect",
    "find_address",
    "parse_address",
]
