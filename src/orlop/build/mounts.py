"""``RUN --mount``: what each one may say. No I/O.

Source: https://docs.docker.com/reference/dockerfile/#run---mount; the words of errors are BuildKit's.
"""

from __future__ import annotations

import csv
import posixpath
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.build.suggestions import hint
from orlop.errors import InvalidParameterError
from orlop.spec.truth import find_bool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KINDS = ("bind", "cache", "secret", "ssh", "tmpfs")
SHARINGS = ("shared", "private", "locked")
_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_SWITCHES = frozenset(("readonly", "readwrite", "required"))
# Which keys a kind knows; what it does not know is refused, not ignored.
_KEYS: Mapping[str, frozenset[str]] = {
    "bind": frozenset(("from", "source", "readonly", "readwrite")),
    "cache": frozenset(("id", "from", "source", "readonly", "readwrite", "sharing", "mode", "uid", "gid")),
    "secret": frozenset(("id", "source", "env", "required", "mode", "uid", "gid")),
    "ssh": frozenset(("id", "required", "mode", "uid", "gid")),
    "tmpfs": frozenset(("size",)),
}
_ALL_KEYS = frozenset(("type", "target")).union(*_KEYS.values())
_SIZE = re.compile(r"([0-9]{1,15})(?:\.[0-9]+)?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_QUOTING = re.compile(r'["\r\n]')
_MAX_ID = 2**32 - 2
_MOST = 64 << 10


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, defaults filled in.

    Attributes:
        kind: of :data:`KINDS`.
        target: where in the container, as written: relative to the working directory; empty for a secret in ``env``.
        source: in what ``origin`` names; ``/`` for all of it.
        origin: ``from``: a stage, context or image; empty for the context (bind) or an empty directory (cache).
        name: ``id`` of a cache, secret or agent.
        readonly: nothing can be written; what is written to a bind that is not is thrown away.
        required: of a secret or agent: a client without it is an error.
        mode: permissions, None for the kind's own.
        uid: owner.
        gid: its group.
        size: of a tmpfs in bytes, 0 for no limit.
        sharing: of a cache: of :data:`SHARINGS`.
        env: the variable that a secret is in.
    """

    kind: str
    target: str = ""
    source: str = "/"
    origin: str = ""
    name: str = ""
    readonly: bool = True
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size: int = 0
    sharing: str = "shared"
    env: str = ""


def parse_mount(text: str, expand: Callable[[str], str] | None = None) -> Mount | None:
    """Read one ``--mount``.

    Args:
        text: as written.
        expand: puts variables in. None when they are not known yet: what holds none is checked now, and None is
            returned when anything does.

    Raises:
        InvalidParameterError: in BuildKit's words.
    """
    fields = _fields(text)
    known = {key: value for key, value, _ in fields}
    if "$" in known.get("from", ""):
        raise InvalidParameterError("'from' doesn't support variable expansion, define alias stage instead")
    if expand is None:
        for key, value, written in fields:
            _check_key(key, value, written)
        if "$" in text:
            return None
        expand = str
    values = {key: expand(value) for key, value, _ in fields}
    kind = values.get("type", "bind").lower()
    if kind not in KINDS:
        raise InvalidParameterError(f'unsupported mount type "{kind[:40]}"{hint(kind, KINDS)}')
    for key, _, written in fields:
        _check_key(key, "", written)
        if key not in _KEYS[kind] and key not in ("type", "target"):
            raise InvalidParameterError(f"unexpected key '{key}' for mount type '{kind}'")
    return _checked(_made(kind, values))


def mount_origins(mounts: tuple[str, ...]) -> list[str]:
    """Return what ``from`` names; a malformed one is found elsewhere."""
    return [value for text in mounts for key, value, _ in _fields(text) if key == "from" and value]


def _fields(text: str) -> list[tuple[str, str, str]]:
    """Split at commas; return key, value (a switch alone is true) and the field as written."""
    if len(text) > _MOST:
        raise InvalidParameterError("failed to parse csv mounts: too long")
    try:
        row = text.split(",") if _QUOTING.search(text) is None else next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InvalidParameterError(f"failed to parse csv mounts: {error}") from None
    found = []
    for field in row:
        key, equals, value = field.partition("=")
        key = _NAMES.get(key.lower(), key.lower())
        if not equals and key not in _SWITCHES:
            raise InvalidParameterError(f"invalid field '{field[:80]}' must be a key=value pair")
        found.append((key, value if equals else "true", field))
    return found


def _check_key(key: str, value: str, field: str) -> None:
    if key not in _ALL_KEYS:
        raise InvalidParameterError(f"unexpected key '{key[:40]}' in '{field[:80]}'{hint(key, _ALL_KEYS)}")
    if key == "type" and value and "$" not in value and value.lower() not in KINDS:
        raise InvalidParameterError(f'unsupported mount type "{value[:40]}"{hint(value.lower(), KINDS)}')


def _made(kind: str, values: Mapping[str, str]) -> Mount:
    readonly = kind not in ("cache", "tmpfs")
    if "readonly" in values:
        readonly = _truth("readonly", values["readonly"])
    if "readwrite" in values:
        readonly = not _truth("readwrite", values["readwrite"])
    sharing = values.get("sharing", "shared").lower()
    if sharing not in SHARINGS:
        raise InvalidParameterError(f'unsupported sharing value "{sharing[:40]}"{hint(sharing, SHARINGS)}')
    name = values.get("id", "")
    if kind == "secret":
        if name and values.get("source"):
            raise InvalidParameterError("both source and id can't be set")
        name = name or values.get("source", "")
    return Mount(
        kind,
        target=values.get("target", ""),
        source="/" if kind == "secret" else values.get("source", "") or "/",
        origin=values.get("from", ""),
        name=name,
        readonly=readonly,
        required=_truth("required", values.get("required", "false")),
        mode=_number("mode", values["mode"], 8, 0o7777) if "mode" in values else None,
        uid=_number("uid", values.get("uid", "0"), 10, _MAX_ID),
        gid=_number("gid", values.get("gid", "0"), 10, _MAX_ID),
        size=_size(values.get("size", "0")),
        sharing=sharing,
        env=values.get("env", ""),
    )


def _checked(mount: Mount) -> Mount:
    """Fill in names and targets that follow from one another. Raises InvalidParameterError."""
    if any("\0" in text for text in (mount.target, mount.source, mount.origin, mount.name, mount.env)):
        raise InvalidParameterError("a mount holds a NUL character")
    if mount.kind == "secret":
        if not (mount.name or mount.target):
            raise InvalidParameterError("invalid secret mount. one of source, target required")
        if "=" in mount.env:
            raise InvalidParameterError(f"invalid name of a variable: {mount.env[:80]}")
        name = mount.name or posixpath.basename(mount.target)
        target = mount.target or ("" if mount.env else f"/run/secrets/{posixpath.basename(name)}")
        return replace(mount, name=name, target=target)
    if mount.kind == "ssh":
        return replace(mount, name=mount.name or "default")
    if not mount.target:
        raise InvalidParameterError(f"invalid {mount.kind} mount: target is required")
    return mount


def _truth(key: str, value: str) -> bool:
    truth = find_bool(value)
    if truth is None:
        raise InvalidParameterError(f"invalid value for {key}: {value[:40]}")
    return truth


def _number(key: str, value: str, base: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise InvalidParameterError(f"invalid value {value[:40]} for {key}")
    try:
        number = int(value, base)
    except ValueError:
        raise InvalidParameterError(f"invalid value {value[:40]} for {key}") from None
    if number > most:
        raise InvalidParameterError(f"invalid value {value[:40]} for {key}")
    return number


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None:
        raise InvalidParameterError(f"invalid value for size: {value[:40]}")
    return int(match[1]) << 10 * " kmgtp".index(match[2].lower() or " ")
