"""Paths of the kernel's file systems that a container must not see or change (moby's oci defaults, 2026)."""

from __future__ import annotations

from orlop.spec.cpuset import parse_cpuset

MASKED_PATHS: tuple[str, ...] = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READONLY_PATHS: tuple[str, ...] = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_POSSIBLE = "/sys/devices/system/cpu/possible"


def thermal_throttle_paths(possible: str | None = None) -> tuple[str, ...]:
    """Return each possible processor's thermal counters, a side channel (moby GHSA-6fw5-f8r9-fgfm).

    Args:
        possible: a list like ``0-3``; None reads the host's.
    """
    if possible is None:
        try:
            with open(_POSSIBLE, "rb") as file:
                possible = file.read(4096).decode("ascii", "replace")
        except OSError:
            return ()
    processors = sorted(parse_cpuset(possible.strip()))
    return tuple(f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in processors)


def masked_paths() -> tuple[str, ...]:
    """Return everything that is masked by default on this machine."""
    return MASKED_PATHS + thermal_throttle_paths()
