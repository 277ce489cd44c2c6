"""Defaults that the engine and ``orlop-runtime spec`` write into a configuration, as Docker's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue

# major and minor: null, zero, full, random, urandom, tty, console, ptmx, pts/*
_ALLOWED = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))


def default_device_rules() -> list[JsonValue]:
    """Return Docker's device rules, in runc's order: the harmless devices, not fuse, and making (not opening) any node.

    runc allows tun as well (not in 1.2.0, again since 1.2.4, for containers that make the node themselves); here it has
    to be asked for, by ``--device /dev/net/tun`` (threats.md B13).

    Making nodes comes last: taken away from it, fuse could not be expressed on cgroup v1.
    """
    rules: list[JsonValue] = [{"allow": False, "access": "rwm"}]
    for major, minor in _ALLOWED:
        rule: JsonObject = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    rules.append({"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    rules.append({"allow": True, "type": "c", "access": "m"})
    rules.append({"allow": True, "type": "b", "access": "m"})
    return rules


def privileged_device_rules() -> list[JsonValue]:
    """Return the rules of ``--privileged``: everything."""
    return [{"allow": True, "access": "rwm"}]
