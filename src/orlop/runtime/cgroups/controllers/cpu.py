"""CPU time: Documentation/scheduler/sched-bwc.rst, sched-design-CFS.rst and cgroup-v2.rst."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources

MIN_SHARES = 2
MAX_SHARES = 262144
# microseconds (cgroup-v2.rst, cpu.max)
DEFAULT_PERIOD = 100_000


def v1(resources: Resources) -> list[Write]:
    """Return the writes; the period goes before the quota that is checked against it, the burst after it."""
    cpu = resources.cpu
    writes = []
    shares = checked_shares(cpu.shares)
    if cpu.idle is not None:
        writes.append(Write("cpu", "cpu.idle", str(cpu.idle)))
    if shares and not cpu.idle:
        writes.append(Write("cpu", "cpu.shares", str(shares)))
    for file, value in (
        ("cpu.cfs_period_us", cpu.period),
        ("cpu.cfs_quota_us", cpu.quota),
        ("cpu.rt_period_us", cpu.realtime_period),
        ("cpu.rt_runtime_us", cpu.realtime_runtime),
    ):
        if value:
            writes.append(Write("cpu", file, str(value)))
    if cpu.burst is not None:
        writes.append(Write("cpu", "cpu.cfs_burst_us", str(cpu.burst)))
    return writes


def v2(resources: Resources) -> list[Write]:
    """Return the writes."""
    cpu = resources.cpu
    if cpu.realtime_period or cpu.realtime_runtime:
        raise UnsupportedError("linux.resources.cpu.realtimePeriod and realtimeRuntime are not supported on cgroup v2")
    writes = []
    shares = checked_shares(cpu.shares)
    if cpu.idle is not None:
        writes.append(Write("cpu", "cpu.idle", str(cpu.idle)))
    if shares and not cpu.idle:
        writes.append(Write("cpu", "cpu.weight", str(weight_of(shares))))
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        writes.append(Write("cpu", "cpu.max", f"{quota} {cpu.period or DEFAULT_PERIOD}"))
    if cpu.burst is not None:
        writes.append(Write("cpu", "cpu.max.burst", str(cpu.burst)))
    return writes


def weight_of(shares: int) -> int:
    """Map v1 shares (2..262144, default 1024) onto v2's weight (1..10000) linearly, as runc does."""
    return 1 + (shares - MIN_SHARES) * 9999 // (MAX_SHARES - MIN_SHARES)


def checked_shares(shares: int | None) -> int:
    """Return the shares, 0 for none given. The kernel would clamp silently: who asks for what cannot be should know."""
    if not shares:
        return 0
    if shares < MIN_SHARES:
        raise InvalidParameterError(f"the minimum allowed cpu-shares is {MIN_SHARES}")
    if shares > MAX_SHARES:
        raise InvalidParameterError(f"the maximum allowed cpu-shares is {MAX_SHARES}")
    return shares
