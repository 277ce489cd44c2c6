"""``slice:prefix:name``: what ``linux.cgroupsPath`` is to the systemd driver (runc's ``docs/systemd.md``).

A scope of a user's own systemd is remembered as ``slice:prefix:name@UID``.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.runtime.cgroups.path import is_scope
from orlop.spec.charset import DIGITS, WORD, consists_of
from orlop.spec.record import dataclass

DEFAULT_SLICE = "system.slice"
USER_SLICE = "user.slice"  # of a user's own systemd
DEFAULT_PREFIX = "orlop"
# Docker's words
SLICE_EXPECTED = 'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"'
_ROOT_SLICE = "-.slice"
# systemd.unit(5): letters, digits, ":", "-", "_", ".", "\"; "@" makes an instance and ":" separates our fields
_UNIT = WORD | frozenset(".-")
_LIMIT = 255
_UID_DIGITS = 10


@dataclass(frozen=True)
class Scope:
    """One container's unit.

    Attributes:
        slice: the slice that it is in.
        unit: its name.
        reference: ``slice:prefix:name``, by which it is opened again, with ``@UID`` for a user's.
        user: whose own systemd has it (``systemd --user``); None for the machine's.
    """

    slice: str
    unit: str
    reference: str
    user: int | None = None

    @property
    def path(self) -> str:
        """The cgroup below the hierarchy's root: a slice's name has its parents' names in it."""
        manager = "" if self.user is None else f"/user.slice/user-{self.user}.slice/user@{self.user}.service"
        return f"{manager}{slice_path(self.slice)}/{self.unit}"


def parse_scope(text: str, *, container_id: str, user: int | None = None) -> Scope:
    """Read ``slice:prefix:name``; the empty string is ``system.slice:orlop:<id>``, of a user ``user.slice:orlop:<id>``.

    Raises:
        InvalidParameterError: another form, or names that no unit has.
    """
    default = DEFAULT_SLICE
    if user is not None or "@" in text:
        text, user = _of_user(text, user)
        default = USER_SLICE
    if not text:
        text = f"{default}:{DEFAULT_PREFIX}:{container_id}"
    if not is_scope(text):
        raise InvalidParameterError(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got {text!r:.200} instead'
        )
    parent, prefix, name = text.split(":")
    parent = {"": default, "-": _ROOT_SLICE}.get(parent, parent)
    if name.endswith(".slice"):
        raise InvalidParameterError(f"invalid cgroup path: a container is a scope, not a slice: {text!r:.200}")
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    # a name that starts with a dot or a dash is no directory of its own, or reads as a slice's
    if not consists_of(unit, _UNIT, 1, _LIMIT) or unit[0] in ".-" or not name or name[0] == ".":
        raise InvalidParameterError(f"invalid cgroup path: {text!r:.200}")
    slice_path(parent)
    reference = f"{parent}:{prefix}:{name}"
    return Scope(parent, unit, reference if user is None else f"{reference}@{user}", user)


def _of_user(text: str, user: int | None) -> tuple[str, int]:
    """Return what a user asked for, and whose it is: ``user``, or whom the reference names."""
    plain, at, digits = text.rpartition("@")
    if not at and user is not None:
        return text, user
    if user is not None or not consists_of(digits, DIGITS, 1, _UID_DIGITS):
        raise InvalidParameterError(f"invalid cgroup path: {text!r:.200}")
    return plain, int(digits)


def is_slice(name: str) -> bool:
    """Whether ``slice_path`` takes the name."""
    try:
        slice_path(name)
    except InvalidParameterError:
        return False
    return True


def slice_path(name: str) -> str:
    """Return a slice's cgroup: ``a-b.slice`` is ``/a.slice/a-b.slice``.

    Raises:
        InvalidParameterError: not a slice's name, in runc's words.
    """
    if name == _ROOT_SLICE:
        return ""
    stem = name.removesuffix(".slice")
    parts = stem.split("-")
    if stem == name or not consists_of(stem, _UNIT, 1, _LIMIT) or "" in parts or stem[0] == ".":
        raise InvalidParameterError(f"invalid slice name: {name:.200}")
    return "".join(f"/{'-'.join(parts[: depth + 1])}.slice" for depth in range(len(parts)))
