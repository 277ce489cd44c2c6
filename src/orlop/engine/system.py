"""What the engine says about itself: version, info and disk usage. It states nothing that it has not looked up."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import orlop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.engine.events import Events

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le"}


class ContainerCounts(Protocol):
    """What info needs to know of the containers."""

    def counts(self) -> tuple[int, int, int]:
        """Return how many run, are paused and are stopped."""
        ...


class ControlGroups(Protocol):
    """Which limits the machine has; fields as in Docker's info."""

    @property
    def memory_limit(self) -> bool: ...  # noqa: D102 - named by the class
    @property
    def swap_limit(self) -> bool: ...  # noqa: D102
    @property
    def oom_kill_disable(self) -> bool: ...  # noqa: D102
    @property
    def cpu_shares(self) -> bool: ...  # noqa: D102
    @property
    def cpu_cfs_period(self) -> bool: ...  # noqa: D102
    @property
    def cpu_cfs_quota(self) -> bool: ...  # noqa: D102
    @property
    def cpu_set(self) -> bool: ...  # noqa: D102
    @property
    def pids_limit(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out at start.

    Attributes:
        engine_id: UUID of the data-root.
        data_root: directory.
        driver: storage driver's name.
        driver_status: returns its name and value pairs as they are now.
        cgroup_version: 1 or 2.
        cgroup_driver: ``cgroupfs`` or ``systemd``.
        limits: what control groups can limit.
        security_options: as in ``name=seccomp,profile=builtin``.
        debug: debug mode.
        labels: of the engine.
        log_driver: the default one.
        proxies: for HTTP, for HTTPS, and what goes without; as they are shown.
        warnings: what else an administrator should know.
        started: seconds since the epoch.
    """

    engine_id: str
    data_root: str
    driver: str
    driver_status: Callable[[], Sequence[tuple[str, str]]]
    cgroup_version: int
    cgroup_driver: str
    limits: ControlGroups
    security_options: tuple[str, ...]
    debug: bool
    labels: tuple[str, ...]
    log_driver: str
    proxies: tuple[str, str, str] = ("", "", "")
    warnings: tuple[str, ...] = ()


class SystemService:
    """Answers for the engine as a whole."""

    def __init__(
        self,
        facts: Facts,
        *,
        containers: ContainerCounts,
        image_count: Callable[[], int],
        events: Events,
        address_pools: Sequence[tuple[str, int]] = (),
        firewall: Callable[[], str] = lambda: "",
    ) -> None:
        self.facts = facts
        self._containers = containers
        self._image_count = image_count
        self._events = events
        self._pools = address_pools
        self._firewall = firewall

    def version(self, *, api_version: str, minimum: str) -> dict[str, object]:
        """Return the document of ``/version``."""
        kernel, built = os.uname().release, _build_time()
        python = platform.python_version()
        details = {
            "ApiVersion": api_version,
            "Arch": _architecture(),
            "BuildTime": built,
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": "",
            "KernelVersion": kernel,
            "MinAPIVersion": minimum,
            "Os": "linux",
        }
        return {
            "Platform": {"Name": "orlop"},
            "Components": [
                {"Name": "Engine", "Version": orlop.__version__, "Details": details},
                {"Name": "Python", "Version": python, "Details": {"Implementation": sys.implementation.name}},
            ],
            "Version": orlop.__version__,
            "ApiVersion": api_version,
            "MinAPIVersion": minimum,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": _architecture(),
            "KernelVersion": kernel,
            "BuildTime": built,
        }

    def firewall_backend(self) -> dict[str, object] | None:
        """Return what keeps the firewall's rules, as ``/info`` shows it since API 1.49; None for nothing."""
        name = self._firewall()
        return {"Driver": name, "Info": []} if name else None

    def info(self) -> dict[str, object]:
        """Return the document of ``/info``."""
        facts, limits, uname = self.facts, self.facts.limits, os.uname()
        running, paused, stopped = self._containers.counts()
        release = _os_release()
        return {
            "ID": facts.engine_id,
            "Containers": running + paused + stopped,
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": stopped,
            "Images": self._image_count(),
            "Driver": facts.driver,
            "DriverStatus": [list(pair) for pair in facts.driver_status()],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "cni", "host", "ipvlan", "macvlan", "null"],
                "Authorization": None,
                "Log": ["json-file", "local"],
            },
            "MemoryLimit": limits.memory_limit,
            "SwapLimit": limits.swap_limit,
            "KernelMemoryTCP": False,
            "CpuCfsPeriod": limits.cpu_cfs_period,
            "CpuCfsQuota": limits.cpu_cfs_quota,
            "CPUShares": limits.cpu_shares,
            "CPUSet": limits.cpu_set,
            "PidsLimit": limits.pids_limit,
            "IPv4Forwarding": _flag("/proc/sys/net/ipv4/ip_forward"),
            "BridgeNfIptables": _flag("/proc/sys/net/bridge/bridge-nf-call-iptables"),
            "BridgeNfIp6tables": _flag("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
            "Debug": facts.debug,
            "NFd": len(os.listdir("/proc/self/fd")) - 1,
            "OomKillDisable": limits.oom_kill_disable,
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "LoggingDriver": facts.log_driver,
            "CgroupDriver": facts.cgroup_driver,
            "CgroupVersion": str(facts.cgroup_version),
            "NEventsListener": self._events.listeners,
            "KernelVersion": uname.release,
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": uname.machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {
                "AllowNondistributableArtifactsCIDRs": None,
                "AllowNondistributableArtifactsHostnames": None,
                "InsecureRegistryCIDRs": [],
                "IndexConfigs": {},
                "Mirrors": None,
            },
            "NCPU": len(os.sched_getaffinity(0)),
            "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "GenericResources": None,
            "DockerRootDir": facts.data_root,
            "HttpProxy": facts.proxies[0],
            "HttpsProxy": facts.proxies[1],
            "NoProxy": facts.proxies[2],
            "Name": uname.nodename,
            "Labels": list(facts.labels),
            "ExperimentalBuild": False,
            "ServerVersion": orlop.__version__,
            "Runtimes": {"orlop": {"path": "orlop-runtime"}},
            "DefaultRuntime": "orlop",
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "orlop (built in)",
            # No other program has a part in it: the client prints these fields in any case.
            "ContainerdCommit": {"ID": "none", "Expected": "none"},
            "RuncCommit": {"ID": "none", "Expected": "none"},
            "InitCommit": {"ID": orlop.__version__, "Expected": orlop.__version__},
            "SecurityOptions": list(facts.security_options),
            **({"DefaultAddressPools": [{"Base": b, "Size": s} for b, s in self._pools]} if self._pools else {}),
            "CDISpecDirs": [],
            "Warnings": self._warnings() or None,
        }

    def _warnings(self) -> list[str]:
        limits = self.facts.limits
        found = []
        for present, what in (
            (limits.memory_limit, "No memory limit support"),
            (limits.swap_limit, "No swap limit support"),
            (limits.oom_kill_disable or self.facts.cgroup_version == 2, "No oom kill disable support"),
            (limits.cpu_shares, "No cpu shares support"),
            (limits.cpu_cfs_quota, "No cpu cfs quota support"),
            (limits.cpu_cfs_period, "No cpu cfs period support"),
            (limits.cpu_set, "No cpuset support"),
            (limits.pids_limit, "No pids limit support"),
            (_flag("/proc/sys/net/ipv4/ip_forward"), "IPv4 forwarding is disabled"),
        ):
            if not present:
                found.append(f"WARNING: {what}")
        return [*self.facts.warnings, *found]


def _architecture() -> str:
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def _build_time() -> str:
    """When this package's files were installed."""
    try:
        moment = os.stat(orlop.__file__).st_mtime
    except OSError:
        return ""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000+00:00")


def _flag(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8).strip() not in (b"", b"0")
    except OSError:
        return False


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
