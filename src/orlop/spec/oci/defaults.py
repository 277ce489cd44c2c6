"""Defaults that the engine and ``orlop-runtime spec`` write into a configuration (threats.md, "Defaults")."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop.spec.json import JsonObject

# major and minor: null, zero, full, random, urandom, tty, console, ptmx, pts/*
_ALLOWED = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))


def default_device_rules() -> list[JsonObject]:
    """Return Docker's device rules: nothing but making nodes and the harmless devices; fuse is refused by name."""
    rules: list[JsonObject] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    for major, minor in _ALLOWED:
        rule: JsonObject = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    rules.append({"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    return rules


def privileged_device_rules() -> list[JsonObject]:
    """Return the rules of ``--privileged``: everything."""
    return [{"allow": True, "access": "rwm"}]
