"""The text of ``-v``: source, destination and mode, and the names and paths that they may be."""

from __future__ import annotations

import posixpath
import re

from orlop.engine.containers.records import MountPoint
from orlop.errors import InvalidParameterError

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)
PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
# words of a mode by kind; ``U`` is Podman's
_MODES = (
    frozenset({"ro", "rw"}),
    frozenset({"z", "Z"}),
    PROPAGATIONS,
    frozenset({"nocopy"}),
    frozenset({"consistent", "cached", "delegated"}),
    frozenset({"U"}),
)


def clean_destination(path: str) -> str:
    """Return the normal form of a path in the container.

    Raises:
        InvalidParameterError: relative, ``/``, or with a NUL.
    """
    if "\0" in path:
        raise InvalidParameterError("invalid mount path: it contains a NUL")
    if not path.startswith("/"):
        raise InvalidParameterError(f"invalid volume specification: '{path}': mount path must be absolute")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidParameterError(f"invalid volume specification: '{path}': destination can't be '/'")
    return clean


def parse_bind(text: str) -> MountPoint:
    """Parse one ``-v`` value: ``[source:]destination[:mode]``.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    parts = text.split(":")
    if len(parts) not in {2, 3} or not all(parts[:2]):
        raise InvalidParameterError(f"invalid volume specification: '{text}'")
    source, destination = parts[0], parts[1]
    mode = parts[2] if len(parts) == 3 else ""
    writable, propagation, copy, own = _parse_mode(mode)
    kind = "bind" if source.startswith("/") else "volume"
    refusal = f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
    if not destination.startswith("/"):
        raise InvalidParameterError(f"{refusal}invalid mount path: '{destination}' mount path must be absolute")
    if posixpath.normpath(destination).strip("/") == "":
        raise InvalidParameterError(f"{refusal}invalid specification: destination can't be '/'")
    target = clean_destination(destination)
    if kind == "bind":
        if not copy:
            raise InvalidParameterError(f"{refusal}field VolumeOptions must not be specified")
        return MountPoint(
            kind="bind",
            source=_prepare_bind(source),
            destination=target,
            mode=mode,
            writable=writable,
            propagation=propagation or "rprivate",
            own=own,
        )
    if propagation:
        raise InvalidParameterError(f"{refusal}field BindOptions must not be specified")
    check_volume_name(source)
    return MountPoint(
        kind="volume", name=source, destination=target, mode=mode or "z", writable=writable, copy=copy, own=own
    )


def check_volume_name(name: str) -> None:
    """Refuse a name that no volume has. Raises InvalidParameterError in dockerd's words."""
    if len(name) == 1:
        raise InvalidParameterError(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if _VOLUME_NAME.fullmatch(name) is None:
        raise InvalidParameterError(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only'
            ' "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
        )


def _parse_mode(mode: str) -> tuple[bool, str, bool, bool]:
    """Return (writable, propagation, copy, own); at most one word of each kind, as in dockerd's parser."""
    words = mode.split(",") if mode else []
    if any(sum(word in kind for word in words) > 1 for kind in _MODES) or any(
        all(word not in kind for kind in _MODES) for word in words
    ):
        raise InvalidParameterError(f"invalid mode: {mode}")
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    return "ro" not in words, propagation, "nocopy" not in words, "U" in words


def _prepare_bind(source: str) -> str:
    """Return the source's normal form; ``-v`` makes a missing directory, as Docker does."""
    clean = posixpath.normpath(source)
    if "\0" in clean:
        raise InvalidParameterError("invalid bind source: it contains a NUL")
    return clean
