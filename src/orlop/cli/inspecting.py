"""``inspect`` for any object, and ``container|image|network|volume inspect``."""

from __future__ import annotations

from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FORMAT_ONE, write_documents
from orlop.cli.invocation import CommandError, Invocation
from orlop.client.failure import ConnectionFailedError
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orlop.client.client import Client

    Look = Callable[[str], Mapping[str, object]]

_TYPES = ("container", "image", "network", "volume")


def _look(client: Client, kind: str, *, size: bool = False, verbose: bool = False) -> Look:
    return {
        "container": lambda name: client.containers.inspect(name, size=size),
        "image": client.images.inspect,
        "network": lambda name: client.networks.inspect(name, verbose=verbose),
        "volume": client.volumes.inspect,
    }[kind]


def _show(invocation: Invocation, look: Look) -> int:
    """Look every name up; what was found is shown even when some names were not."""
    found: list[Mapping[str, object]] = []
    failures: list[str] = []
    for name in invocation.arguments:
        try:
            found.append(look(name))
        except ConnectionFailedError:
            raise
        except _NoSuchObjectError as error:
            failures.append(f"Error: {error}")
        except OrlopError as error:
            failures.append(f"Error response from daemon: {error}")
    form = invocation.options.text("format")
    if found or not form:
        write_documents(found, form)
    if failures:
        raise CommandError("\n".join(failures))
    return 0


class _NoSuchObjectError(OrlopError):
    """No object of any type has this name."""


def _any(invocation: Invocation) -> int:
    options = invocation.options
    kind = options.text("type")
    size = options.on("size")
    if kind and kind not in _TYPES:
        raise CommandError(f'"{kind}" is not a valid value for --type')
    if options.given("type") and not kind:
        raise CommandError('type is empty: a type must be provided for "--type"')
    if kind:
        return _show(invocation, _look(invocation.client, kind, size=size))
    looks = [_look(invocation.client, name, size=size) for name in _TYPES]

    def look(name: str) -> Mapping[str, object]:
        for attempt in looks:
            try:
                return attempt(name)
            except (NotFoundError, InvalidParameterError):
                continue
        raise _NoSuchObjectError(f"No such object: {name}")

    return _show(invocation, look)


def _container(invocation: Invocation) -> int:
    return _show(invocation, _look(invocation.client, "container", size=invocation.options.on("size")))


def _image(invocation: Invocation) -> int:
    return _show(invocation, _look(invocation.client, "image"))


def _network(invocation: Invocation) -> int:
    return _show(invocation, _look(invocation.client, "network", verbose=invocation.options.on("verbose")))


def _volume(invocation: Invocation) -> int:
    return _show(invocation, _look(invocation.client, "volume"))


_SIZE = Flag("size", "Add the sizes of containers", short="s")
ANY = Command(
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Show everything known about any object",
    _any,
    flags=(FORMAT_ONE, _SIZE, Flag("type", "Only objects of this type", kind="string")),
    arguments=(1, None),
)
CONTAINER = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Show everything known about containers",
    _container,
    flags=(FORMAT_ONE, _SIZE),
    arguments=(1, None),
)
IMAGE = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Show everything known about images",
    _image,
    flags=(FORMAT_ONE,),
    arguments=(1, None),
)
NETWORK = Command(
    "[OPTIONS] NETWORK [NETWORK...]",
    "Show everything known about networks",
    _network,
    flags=(FORMAT_ONE, Flag("verbose", "Add details for diagnosis", short="v")),
    arguments=(1, None),
)
VOLUME = Command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Show everything known about volumes",
    _volume,
    flags=(FORMAT_ONE,),
    arguments=(1, None),
)
