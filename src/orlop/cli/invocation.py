"""What a command gets: its options and arguments, and the engine, which is reached at the first use."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.cli.flags import Command, Options
    from orlop.client.address import TlsFlags
    from orlop.client.client import Client
    from orlop.spec.json import JsonValue


class CommandError(Exception):
    """The command failed; the message says why. ``status`` is the exit code."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class GlobalOptions:
    """Flags before the command: where the engine is, and how it is spoken to."""

    __slots__ = ("context", "host", "tls")

    def __init__(self, *, host: str = "", context: str = "", tls: TlsFlags | None = None) -> None:
        self.host = host
        self.context = context
        self.tls = tls


class Invocation:
    """One run of one command.

    Attributes:
        path: the command's words as typed, "orlop container ls".
        command: what runs.
        options: its flags.
        arguments: its arguments.
    """

    def __init__(
        self, path: str, command: Command, options: Options, arguments: list[str], *, chosen: GlobalOptions
    ) -> None:
        self.path = path
        self.command = command
        self.options = options
        self.arguments = arguments
        self.chosen = chosen
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The engine's client; an engine is started when nobody named one and none listens (``engine_start``)."""
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def new_client(self) -> Client:
        """Make another client of the same engine."""
        from orlop.client.address import find_address
        from orlop.client.client import Client
        from orlop.errors import OrlopError

        try:
            address = find_address(
                host=self.chosen.host or None, context=self.chosen.context or None, tls=self.chosen.tls
            )
        except OrlopError as error:
            raise CommandError(f"Failed to initialize: unable to resolve docker endpoint: {error}") from None
        version = os.environ.get("DOCKER_API_VERSION") or None
        client = Client(address, version=version, headers=_custom_headers())
        if address.is_default:
            _connect_or_start(client)
        return client

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()

    def configuration(self) -> dict[str, JsonValue]:
        """Return the user's ``config.json`` (detachKeys, psFormat, …); empty when absent or unreadable."""
        from orlop.client.address import config_directory
        from orlop.client.decoding import decode

        try:
            with open(os.path.join(config_directory(os.environ), "config.json"), "rb") as file:
                document = decode(file.read(1 << 20))
        except (OSError, ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}


def write_out(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")


def write_error(text: str) -> None:
    """Write a line to standard error, after what is already on standard output."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def each(invocation: Invocation, action: Callable[[str], object]) -> int:
    """Call ``action(name)`` for each argument; print the name, or the engine's refusal, and go on. Returns the code."""
    from orlop.client.failure import ConnectionFailedError
    from orlop.errors import OrlopError

    failed = 0
    for name in invocation.arguments:
        try:
            action(name)
        except ConnectionFailedError:
            raise
        except OrlopError as error:
            write_error(f"Error response from daemon: {error}")
            failed = 1
        else:
            write_out(name)
    return failed


def confirm(warning: str) -> bool:
    """Ask before something is deleted."""
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def key_values(texts: list[str]) -> dict[str, str]:
    """Split ``a=b`` texts; a text without ``=`` has an empty value."""
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def parse_filters(texts: list[str]) -> dict[str, list[str]]:
    """Collect ``--filter name=value`` texts.

    Raises:
        CommandError: one has no "=".
    """
    filters: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandError(
                f'invalid argument "{text}" for "-f, --filter" flag: invalid filter \'{text}\'', status=125
            )
        filters.setdefault(name.strip().lower(), []).append(value.strip())
    return filters


def _connect_or_start(client: Client) -> None:
    from orlop.client.failure import ConnectionFailedError

    try:
        client.transport.connect()
    except ConnectionFailedError:
        from orlop.cli.engine_start import ensure_engine

        ensure_engine(client.transport.address)


def _custom_headers() -> dict[str, str]:
    """Read DOCKER_CUSTOM_HEADERS, ``name=value,name=value``."""
    text = os.environ.get("DOCKER_CUSTOM_HEADERS", "")
    return {name.strip(): value for name, equals, value in (part.partition("=") for part in text.split(",")) if equals}
