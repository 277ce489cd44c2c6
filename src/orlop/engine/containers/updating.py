"""``docker update``: other limits and another restart policy, also while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.engine.containers.creation import check_restart_policy
from orlop.engine.containers.endpoint_settings import change_bandwidth, without_rates
from orlop.engine.containers.limits import check_limits, resources
from orlop.errors import ConflictError, InvalidParameterError
from orlop.spec.oci import parse_resources

if TYPE_CHECKING:
    from orlop.engine.containers.cgroup_access import CgroupAccess
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.spec.docker.containers import ContainerUpdate, HostConfig
    from orlop.spec.json import JsonObject


def redefine(container: Container, changes: ContainerUpdate, *, directory: Directory, cgroups: CgroupAccess) -> None:
    """Note the changes, then apply them to the control groups; zero and empty mean "as it was".

    What is noted is what the next start uses; what runs has it at once. Until all of it has, the caller too, the
    container is noted as unsettled (faults.md R9).

    Raises:
        InvalidParameterError: out of range or contradictory, in dockerd's words.
        ConflictError: it contradicts what was set before.
    """
    host = container.definition.host
    fields = {field: getattr(changes, field) for field in changes.__struct_fields__}
    wanted = {field: value for field, value in fields.items() if value is not None}
    if "restart_policy" in wanted and wanted["restart_policy"].name == "":
        del wanted["restart_policy"]
    for field, value in tuple(wanted.items()):
        if value in (0, ""):
            del wanted[field]
    if "restart_policy" in wanted:
        check_restart_policy(wanted["restart_policy"])
        if host.auto_remove and wanted["restart_policy"].name != "no":
            raise InvalidParameterError(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            )
    if "annotations" in wanted:
        wanted["annotations"] = change_bandwidth(host.annotations, wanted["annotations"], mode=host.network_mode)
    try:
        _refuse_conflicts(host, changes)
    except ConflictError as error:
        raise ConflictError(f"Cannot update container {container.id}: {error}") from None
    updated = check_limits(msgspec.structs.replace(host, **wanted))
    before = container.definition
    networks = without_rates(before.networks, changes.annotations or {})
    changed = msgspec.structs.replace(before, host=updated, networks=networks)
    if not container.alive or not set(wanted) - {"restart_policy"}:
        directory.redefine(container, changed)
        return
    directory.redefine(container, msgspec.structs.replace(changed, unsettled=True))
    if set(wanted) - {"restart_policy", "annotations"}:
        try:
            apply_limits(container, cgroups=cgroups, with_pids="pids_limit" in wanted)
        except BaseException:
            directory.redefine(container, before)
            raise


def apply_limits(container: Container, *, cgroups: CgroupAccess, with_pids: bool = True) -> None:
    """Hold what runs to the limits that are noted. Raises OrlopError, OSError."""
    host = container.definition.host
    limits: JsonObject = {**resources(host), "devices": []}
    if with_pids and host.pids_limit is None:
        limits["pids"] = {"limit": -1}  # a limit is taken away only by saying so
    groups = cgroups.open(container)
    try:
        groups.update(parse_resources(limits))
    finally:
        groups.close()


def _refuse_conflicts(host: HostConfig, changes: ContainerUpdate) -> None:
    """Compare a change with what is set: two ways of saying one thing, or a sum that would be below its part."""
    memory, swap = changes.memory or 0, changes.memory_swap or 0
    if memory > host.memory_swap > 0 and swap == 0:
        raise ConflictError(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        )
    for name, asked in (("Period", changes.cpu_period), ("Quota", changes.cpu_quota)):
        if asked and host.nano_cpus:
            raise ConflictError(f"Conflicting options: CPU {name} cannot be updated as NanoCPUs has already been set")
    for name, present in (("Quota", host.cpu_quota), ("Period", host.cpu_period)):
        if changes.nano_cpus and present:
            raise ConflictError(f"Conflicting options: Nano CPUs cannot be updated as CPU {name} has already been set")
