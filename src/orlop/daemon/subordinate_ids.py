"""``userns-remap``: from the name of a user to the ids that subuid(5) and subgid(5) give it."""

from __future__ import annotations

from orlop.engine.containers.remapping import Remapping
from orlop.errors import InvalidParameterError

DEFAULT_USER = "dockremap"
_MOST_RANGES = 340  # of one map file (user_namespaces(7))
_LAST_ID = 2**32 - 2


def read_remapping(text: str, *, subuid: str = "/etc/subuid", subgid: str = "/etc/subgid") -> Remapping | None:
    """Return the mapping that ``default``, ``user[:group]`` or ``uid[:gid]`` means; None for an empty text.

    Raises:
        InvalidParameterError: no such user or group, no ids for it, or a malformed line.
    """
    if not text:
        return None
    user, colon, group = text.partition(":")
    if text == "default":
        user = DEFAULT_USER
    if not user or (colon and not group):
        raise InvalidParameterError(f"invalid userns-remap: {text}")
    users = _names("/etc/passwd", user, "user")
    groups = _names("/etc/group", group, "group") if group else users
    return Remapping(_ranges(subuid, users, "subuid", "user"), _ranges(subgid, groups, "subgid", "group"))


def _names(path: str, text: str, what: str) -> tuple[str, ...]:
    """Return the name and number by which the files may call a user or group; ``path`` is passwd(5) or group(5)."""
    for line in _lines(path):
        name, *fields = line.split(":")
        if len(fields) > 1 and text in (name, fields[1]):
            return (name, fields[1])
    if text.isascii() and text.isdigit():
        return (text,)
    raise InvalidParameterError(f'error during "{text}" {what} lookup: no such {what}')


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20).splitlines()
    except FileNotFoundError:
        return []


def _ranges(path: str, names: tuple[str, ...], kind: str, what: str) -> tuple[tuple[int, int, int], ...]:
    found: list[tuple[int, int, int]] = []
    inside = 0
    for line in _lines(path):
        owner, *numbers = line.strip().split(":")
        if owner not in names:
            continue
        if len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise InvalidParameterError(f"cannot parse {path}: {line}")
        first, size = map(int, numbers)
        if not size or first + size - 1 > _LAST_ID or inside + size - 1 > _LAST_ID:
            raise InvalidParameterError(f"cannot parse {path}: {line}")
        found.append((inside, first, size))
        inside += size
    if not found:
        raise InvalidParameterError(f'can\'t create ID mappings: no {kind} ranges found for {what} "{names[0]}"')
    if len(found) > _MOST_RANGES or any(first == 0 for _, first, _ in found):
        raise InvalidParameterError(f"{path} maps the host's root, or too many ranges: {names[0]}")
    return tuple(found)
