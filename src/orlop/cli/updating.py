"""``orlop update``."""

from __future__ import annotations

from orlop.cli.bodies import bandwidth, restart_policy
from orlop.cli.documents import texts
from orlop.cli.flags import Command
from orlop.cli.invocation import Invocation, each, write_error
from orlop.cli.run_flags import CREATE_FLAGS

_MEMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}
_RATES = ("net-egress-burst", "net-egress-rate", "net-ingress-burst", "net-ingress-rate")


def _update(invocation: Invocation) -> int:
    options = invocation.options
    document: dict[str, object] = {}
    for flag, member in _MEMBERS.items():
        if options.given(flag):
            document[member] = options.text(flag) if flag.startswith("cpuset") else options.number(flag)
    rates = bandwidth(options)
    if rates:
        document["Annotations"] = rates
    if options.given("restart"):
        document["RestartPolicy"] = restart_policy(options.text("restart"))

    def update(name: str) -> None:
        for warning in texts(invocation.client.containers.update(name, document), "Warnings"):
            write_error(warning)

    return each(invocation, update)


UPDATE = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Change the limits of containers",
    _update,
    flags=tuple(flag for flag in CREATE_FLAGS if flag.name in (*_MEMBERS, "restart") or flag.name in _RATES),
    arguments=(1, None),
)
