"""Which capabilities a container has: Docker's defaults, ``--cap-add``, ``--cap-drop`` and ``--privileged``."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.kernel.capability import NAMES, NUMBERS, capget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.spec.json import JsonObject

DEFAULT: tuple[str, ...] = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
        *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)

ALL = "ALL"


def available_capabilities() -> frozenset[str]:
    """Return what this process may hand on: its permitted set, as far as it has names here."""
    permitted = capget().permitted
    return frozenset(name for number, name in enumerate(NAMES) if permitted >> number & 1)


def resolve(
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    *,
    privileged: bool = False,
    available: frozenset[str] | None = None,
) -> tuple[str, ...]:
    """Return the ``CAP_`` names of the bounding set, by number.

    Args:
        add: ``--cap-add``: any case, ``CAP_`` may be left out, ``ALL``.
        drop: ``--cap-drop``, likewise; wins over a plain add, as in Docker.
        privileged: everything that is available.
        available: what can be granted at all; None asks the kernel.

    Raises:
        InvalidParameterError: 'invalid CapAdd: unknown capability: "CAP_X"'.
    """
    granted = available_capabilities() if available is None else available
    added = _normalise(add, "CapAdd", granted)
    dropped = _normalise(drop, "CapDrop", None)
    if privileged:
        return _by_number(granted)
    if ALL in added:
        chosen = granted - dropped
    elif ALL in dropped:
        chosen = added
    else:
        # a default capability that the engine lacks itself is no error of the user's
        chosen = (granted.intersection(DEFAULT) - dropped) | added
    return _by_number(chosen)


def _normalise(names: Iterable[str], what: str, granted: frozenset[str] | None) -> frozenset[str]:
    found: set[str] = set()
    for given in names:
        name = given.upper() if given.isascii() else given
        if name == ALL:
            found.add(ALL)
            continue
        if not name.startswith("CAP_"):
            name = f"CAP_{name}"
        if name not in NUMBERS:
            raise InvalidParameterError(f'invalid {what}: unknown capability: "{name}"')
        if granted is not None and name not in granted:
            raise InvalidParameterError(
                f"invalid {what}: capability not supported by your kernel or not available in the current environment: "
                f'"{name}"'
            )
        found.add(name)
    return frozenset(found)


def _by_number(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=NUMBERS.__getitem__))


def oci_sets(names: Iterable[str], *, root: bool = True) -> JsonObject:
    """Return OCI ``process.capabilities``: inheritable and ambient stay empty (CVE-2022-24769).

    Args:
        names: the bounding set.
        root: the process runs as uid 0; any other has nothing permitted (CVE-2016-8867).
    """
    bounding = list(names)
    held = bounding if root else []
    return {"bounding": [*bounding], "effective": [*held], "permitted": [*held], "inheritable": [], "ambient": []}
