"""What is left on the machine of containers and networks that are not there.

==============  ==================================================================  ============================
kind            what                                                                repair
==============  ==================================================================  ============================
lost cgroup     a container's cgroup of no container that runs                      removed, if no process is in
lost mount      something mounted in the engine's own directories, where it never   unmounted
                mounts: a network namespace kept by name is one, too
lost link       a port of an own bridge, or a device for bandwidth, of no           removed
                container; a bridge of no network                                   ... never: it may be another
                                                                                    engine's
wrong rules     rules of the firewall that are missing, too many, or for links      put right
                that are not there
==============  ==================================================================  ============================

A network namespace has no name here: it lives as long as a process or a descriptor of the engine holds it, so one that
nobody owns shows as a link, a mount or a cgroup. What has just ended is still being removed, so only what is there for
:data:`SETTLE` seconds counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.engine.checking.finding import Finding
from orlop.errors import OrlopError
from orlop.kernel.mount import MNT_DETACH, umount2
from orlop.runtime.cgroups.systemd.scope import DEFAULT_PREFIX, is_slice, slice_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.engine.checking.space import Roots
    from orlop.engine.containers import ContainerService
    from orlop.network.audit import Stray
    from orlop.network.service import NetworkService
    from orlop.runtime.cgroups import Hierarchies

SETTLE = 1.5
_CGROUP = re.compile(rf"(?:{DEFAULT_PREFIX}-)?([0-9a-f]{{64}})(?:\.scope)?")
_OTHERS = "kept: it may be another engine's"


class Machine:
    """See :class:`~orlop.engine.checking.checker.Search`.

    Args:
        roots: the engine's directories.
        containers: which cgroups and links belong to.
        network: looks at links and rules.
        hierarchies: where cgroups are.
        others: containers of other storage drivers, which may run.
    """

    def __init__(
        self,
        roots: Roots,
        *,
        containers: ContainerService,
        network: NetworkService,
        hierarchies: Hierarchies,
        others: frozenset[str],
    ) -> None:
        self._roots = roots
        self._containers = containers
        self._network = network
        self._hierarchies = hierarchies
        self._others = others

    async def find(self, *, quick: bool) -> list[Finding]:  # noqa: ARG002 - it is quick
        """Return what stays when what is being removed has gone."""
        found = await self._look()
        if not found:
            return []
        await asyncio.sleep(SETTLE)
        again = {(finding.kind, finding.name) for finding in found}
        return [finding for finding in await self._look() if (finding.kind, finding.name) in again]

    async def _look(self) -> list[Finding]:
        strays = await self._network.find_strays()
        return [*self._cgroups(), *self._mounts(), *map(_finding, strays)]

    async def repair(self, findings: list[Finding]) -> list[Finding]:
        """Remove what may be removed."""
        return [await self._remove(finding) if finding.repairable else finding for finding in findings]

    async def _remove(self, finding: Finding) -> Finding:
        try:
            if finding.kind == "lost mount":
                umount2(finding.name, MNT_DETACH)
            elif finding.kind == "lost cgroup":
                for directory, _, _ in os.walk(finding.name, topdown=False):
                    os.rmdir(directory)
            else:
                for stray in await self._network.find_strays():
                    if _finding(stray).name == finding.name:
                        await self._network.remove_stray(stray)
        except FileNotFoundError:
            pass
        except (OSError, OrlopError) as error:
            return replace(finding, note=f"kept: {error}")
        return replace(finding, repaired=True)

    # Cgroups.

    def _cgroups(self) -> Iterator[Finding]:
        tops = [hierarchy.directory for hierarchy in self._hierarchies.v1] or [str(self._hierarchies.unified)]
        for top in tops:
            for parent in sorted(self._parents()):
                with contextlib.suppress(OSError):
                    for name in sorted(os.listdir(top + parent)):
                        match = _CGROUP.fullmatch(name)
                        if match is not None and not self._owns(match[1]):
                            path = f"{top}{parent}/{name}"
                            note = "kept: processes are in it" if _is_populated(path) else ""
                            yield Finding("lost cgroup", path, note=note)

    def _parents(self) -> set[str]:
        """Return the cgroups that containers' are made in, below each hierarchy's root."""
        settings = self._containers.settings
        given = {container.definition.host.cgroup_parent for container in self._containers.directory}
        found = set()
        for parent in (*given, ""):
            path = settings.cgroup_path("x", parent)
            where, _, _ = path.partition(":") if settings.systemd_cgroup else path.rpartition("/")
            if not settings.systemd_cgroup:
                found.add(where)
            elif is_slice(where):
                found.add(slice_path(where))
        return found

    def _owns(self, container_id: str) -> bool:
        if container_id in self._others:
            return True
        container = self._containers.directory.find(container_id)
        return container is not None and (container.alive or container.lock.locked())

    # Mounts.

    def _mounts(self) -> Iterator[Finding]:
        # An administrator may have put one of the directories themselves, or a driver's, on a disk of its own.
        own = re.compile(
            rf"{re.escape(self._roots.exec)}/.|{re.escape(self._roots.data)}/(?:containers|builds|layers/[^/]+)/."
        )
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            points = [line.split(" ", 5)[4] for line in file]
        for point in reversed(points):  # what is mounted on another goes first
            path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
            if own.match(path):
                yield Finding("lost mount", path)


def _is_populated(path: str) -> bool:
    for directory, _, _ in os.walk(path):
        try:
            with open(f"{directory}/cgroup.procs", "rb") as file:
                if file.read(1):
                    return True
        except OSError:
            continue
    return False


def _finding(stray: Stray) -> Finding:
    kind = "lost link" if stray.kind == "link" else "wrong rules"
    return Finding(kind, stray.name, note="" if stray.sure else _OTHERS, detail=stray.detail)
