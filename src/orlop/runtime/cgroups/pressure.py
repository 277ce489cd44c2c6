"""Pressure stall information: how long tasks of a cgroup waited for CPU, memory and devices.

Documentation/accounting/psi.rst. The files are those of the unified hierarchy, which a hybrid machine has too.
"""

from __future__ import annotations

from orlop.runtime.cgroups.files import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonObject

RESOURCES = ("cpu", "memory", "io")


def read_pressure(directory: str) -> JsonObject:
    """Return ``{"cpu": {"some": {"avg10", "avg60", "avg300", "total"}, "full": ...}, ...}``.

    Averages are percent, totals microseconds. A kernel without PSI, or with it switched off for the cgroup, has none.
    """
    found: JsonObject = {}
    for resource in RESOURCES:
        try:
            found[resource] = parse_pressure(read_text(f"{directory}/{resource}.pressure"))
        except OSError:
            continue
    return found


def parse_pressure(text: str) -> JsonObject:
    """Read one file: ``some avg10=0.00 avg60=0.00 avg300=0.00 total=0``."""
    kinds: JsonObject = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values: JsonObject = {}
        for pair in pairs:
            name, _, value = pair.partition("=")
            values[name] = int(value) if name == "total" else float(value)
        kinds[kind] = values
    return kinds
