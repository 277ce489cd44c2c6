"""The daemon's settings that containers are made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.runtime.cgroups.systemd.scope import DEFAULT_PREFIX, DEFAULT_SLICE

if TYPE_CHECKING:
    from orlop.engine.containers.remapping import Remapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Defaults and places, from the command line and ``daemon.json``.

    Attributes:
        data_root: absolute; ``containers/<id>`` below it belongs to this package.
        exec_root: absolute; ``shims/<id>`` below it belongs to this package.
        cgroup_parent: cgroup directory of containers, ``/orlop`` when empty.
        default_ulimits: name to (soft, hard); ``nofile`` is 1024:524288 unless set, as in Docker 29.
        log_driver: ``json-file``, ``local`` or ``none``.
        log_options: of the default driver.
        init: run an init in every container.
        host_gateway: what ``host-gateway`` means; "" for the gateway of the way out.
        dns: name servers of containers that name none.
        dns_search: likewise, search domains.
        dns_options: likewise, resolver options.
        default_shm_size: bytes of /dev/shm.
        no_new_privileges: for every container.
        shutdown_timeout: seconds.
        systemd_cgroup: the systemd cgroup driver is used.
        apparmor: profile of containers that name none; "" without AppArmor, "unconfined" without a way to load ours.
        remapping: ids of containers that do not say ``--userns=host``; None: all have the host's.
    """

    data_root: str
    exec_root: str
    cgroup_parent: str = ""
    default_ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    log_driver: str = "json-file"
    log_options: dict[str, str] = field(default_factory=dict)
    init: bool = False
    host_gateway: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    default_shm_size: int = 64 * 1024 * 1024
    no_new_privileges: bool = False
    shutdown_timeout: int = 15
    systemd_cgroup: bool = False
    apparmor: str = ""
    remapping: Remapping | None = None

    def container_dir(self, container_id: str) -> str:
        """Directory of a container's engine-written files and logs."""
        return f"{self.data_root}/containers/{container_id}"

    def state_dir(self, shim_id: str) -> str:
        """Directory of a shim's socket, pid and exit record."""
        return f"{self.exec_root}/shims/{shim_id}"

    def cgroup_path(self, container_id: str, parent: str) -> str:
        """``cgroupsPath`` of a container; Docker's ``system.slice`` is the systemd driver's default."""
        if self.systemd_cgroup:
            return f"{parent or self.cgroup_parent or DEFAULT_SLICE}:{DEFAULT_PREFIX}:{container_id}"
        directory = (parent or self.cgroup_parent or "/orlop").rstrip("/")
        return f"{directory if directory.startswith('/') else '/' + directory}/{container_id}"
