"""``docker update``: other limits and another restart policy, also while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.engine.containers.creation import check_restart_policy
from orlop.engine.containers.limits import check_limits, resources
from orlop.errors import InvalidParameterError
from orlop.spec.oci import parse_resources

if TYPE_CHECKING:
    from orlop.engine.containers.cgroup_access import CgroupAccess
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.spec.docker.containers import ContainerUpdate


def redefine(container: Container, changes: ContainerUpdate, *, directory: Directory, cgroups: CgroupAccess) -> None:
    """Apply the changes to the control groups, then note them; zero and empty mean "as it was".

    Raises:
        InvalidParameterError: out of range or contradictory, in dockerd's words.
    """
    host = container.definition.host
    fields = {field: getattr(changes, field) for field in changes.__struct_fields__}
    wanted = {field: value for field, value in fields.items() if value is not None}
    if "restart_policy" in wanted and wanted["restart_policy"].name == "":
        del wanted["restart_policy"]
    for field, value in tuple(wanted.items()):
        if value in (0, "") and field != "pids_limit":
            del wanted[field]
    if "restart_policy" in wanted:
        check_restart_policy(wanted["restart_policy"])
        if host.auto_remove and wanted["restart_policy"].name != "no":
            raise InvalidParameterError(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            )
    updated = check_limits(msgspec.structs.replace(host, **wanted))
    if container.alive and set(wanted) - {"restart_policy"}:
        groups = cgroups.open(container)
        try:
            groups.update(parse_resources({**resources(updated), "devices": []}))
        finally:
            groups.close()
    directory.redefine(container, msgspec.structs.replace(container.definition, host=updated))
