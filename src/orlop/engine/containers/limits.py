"""Checks of resource limits, in dockerd's words, and their OCI form (``linux.resources``)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orlop.errors import InvalidParameterError
from orlop.spec.cpuset import parse_cpuset
from orlop.spec.json import JsonValue
from orlop.spec.oci.defaults import default_device_rules, privileged_device_rules

if TYPE_CHECKING:
    from orlop.spec.docker.containers import HostConfig, ThrottleDevice
    from orlop.spec.json import JsonObject

MEMORY_MINIMUM = 6 * 1024 * 1024
_PERIOD_MINIMUM, _PERIOD_MAXIMUM, _QUOTA_MINIMUM = 1000, 1_000_000, 1000
DEFAULT_PERIOD = 100_000


def check_limits(host: HostConfig) -> HostConfig:
    """Return the limits with Docker's implied values (memory-swap is twice the memory).

    Raises:
        InvalidParameterError: out of range or contradictory; the text is dockerd's.
    """
    _check_memory(host)
    _check_cpu(host)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameterError("range of blkio weight is from 10 to 1000")
    for device in host.blkio_weight_device or []:
        _check_device_path(device.path)
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameterError(f"invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidParameterError("SHM size can not be less than 0")
    if host.memory > 0 and host.memory_swap == 0:
        host = msgspec.structs.replace(host, memory_swap=host.memory * 2)
    # dockerd stores "no limit" as null, whatever number said it.
    if host.pids_limit is not None and host.pids_limit <= 0:
        host = msgspec.structs.replace(host, pids_limit=None)
    if host.memory_swappiness == -1:
        host = msgspec.structs.replace(host, memory_swappiness=None)
    return host


def _check_memory(host: HostConfig) -> None:
    if host.memory and host.memory < MEMORY_MINIMUM:
        raise InvalidParameterError("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and host.memory_swap > 0 and host.memory_swap < host.memory:
        raise InvalidParameterError(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        )
    if host.memory == 0 and host.memory_swap > 0:
        raise InvalidParameterError("You should always set the Memory limit when using Memoryswap limit, see usage")
    swappiness = host.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidParameterError(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if host.memory_reservation and host.memory_reservation < MEMORY_MINIMUM:
        raise InvalidParameterError("Minimum memory reservation allowed is 6MB")
    if host.memory > 0 and host.memory_reservation > host.memory:
        raise InvalidParameterError(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        )


def _check_cpu(host: HostConfig) -> None:
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        what = "Period" if host.cpu_period else "Quota"
        raise InvalidParameterError(f"Conflicting options: Nano CPUs and CPU {what} cannot both be set")
    count = os.cpu_count() or 1
    if host.nano_cpus < 0 or host.nano_cpus > count * 1_000_000_000:
        raise InvalidParameterError(
            f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available",
        )
    if host.cpu_shares < 0:
        raise InvalidParameterError(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.cpu_period and not _PERIOD_MINIMUM <= host.cpu_period <= _PERIOD_MAXIMUM:
        raise InvalidParameterError(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < host.cpu_quota < _QUOTA_MINIMUM:
        raise InvalidParameterError("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    for name, text in (("cpus", host.cpuset_cpus), ("mems", host.cpuset_mems)):
        if not text:
            continue
        try:
            wanted = parse_cpuset(text)
        except InvalidParameterError:
            raise InvalidParameterError(f"Invalid value {text} for cpuset {name}") from None
        if name == "cpus" and wanted and max(wanted) >= count:
            available = "0" if count == 1 else f"0-{count - 1}"
            raise InvalidParameterError(f"Requested CPUs are not available - requested {text}, available: {available}")
        if name == "mems" and not wanted <= parse_cpuset(nodes := _memory_nodes()):
            raise InvalidParameterError(
                f"Requested memory nodes are not available - requested {text}, available: {nodes}"
            )


def _memory_nodes() -> str:
    """Return the nodes that have memory, as a list; one where the kernel knows of no nodes."""
    try:
        with open("/sys/devices/system/node/has_memory", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "0"


def _check_device_path(path: str) -> None:
    if not path.startswith("/dev/"):
        raise InvalidParameterError(f"bad format for device path: {path}")


def resources(host: HostConfig) -> JsonObject:
    """Return ``linux.resources``; only what was asked for is in it."""
    result: JsonObject = {
        "devices": list[JsonValue](privileged_device_rules() if host.privileged else default_device_rules()),
    }
    memory = _without_zeros(limit=host.memory, swap=host.memory_swap, reservation=host.memory_reservation)
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    if memory:
        result["memory"] = memory
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus:
        period = DEFAULT_PERIOD
        quota = host.nano_cpus * DEFAULT_PERIOD // 1_000_000_000
    cpu = _without_zeros(shares=host.cpu_shares, quota=quota, period=period)
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    if cpu:
        result["cpu"] = cpu
    if host.pids_limit:
        result["pids"] = {"limit": host.pids_limit}
    block = _block_io(host)
    if block:
        result["blockIO"] = block
    return result


def _without_zeros(**values: int) -> JsonObject:
    return {name: value for name, value in values.items() if value}


def _block_io(host: HostConfig) -> JsonObject:
    block: JsonObject = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        block["weightDevice"] = [
            {**_device_number(device.path), "weight": device.weight} for device in host.blkio_weight_device
        ]
    for name, devices in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_i_ops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_i_ops),
    ):
        if devices:
            block[name] = _throttles(devices)
    return block


def _throttles(devices: list[ThrottleDevice]) -> list[JsonValue]:
    return [{**_device_number(device.path), "rate": device.rate} for device in devices]


def _device_number(path: str) -> JsonObject:
    _check_device_path(path)
    try:
        number = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidParameterError(f"stat {path}: {os.strerror(error.errno or 0).lower()}") from None
    return {"major": os.major(number), "minor": os.minor(number)}
