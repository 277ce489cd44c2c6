"""Finding the cgroups of a container from the engine's side."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from orlop.errors import OrlopError
from orlop.runtime.cgroups import detect, normalise_path, open_cgroup
from orlop.runtime.cgroups.systemd.scope import DEFAULT_PREFIX

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.settings import Settings
    from orlop.runtime.cgroups.contract import CgroupSet

_LOG = logging.getLogger(__name__)


class CgroupAccess:
    """Opens the cgroups that the shims made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hierarchies = detect()

    def open(self, container: Container) -> CgroupSet:
        """Open a container's cgroups; close them after use. Raises OrlopError, OSError: they are gone."""
        path = cgroups_path(self._settings, container)
        return open_cgroup(self._hierarchies, normalise_path(path, container_id=container.id))

    def reap(self, container: Container) -> None:
        """Kill what a dead shim left and remove its cgroups; blocks up to four seconds."""
        with contextlib.suppress(OSError, OrlopError):
            cgroups = self.open(container)
            try:
                cgroups.kill()
                cgroups.remove()
            except (OSError, OrlopError) as error:
                _LOG.warning("cgroups of %s stay: %s", container.id, error)
            finally:
                cgroups.close()


def cgroups_path(settings: Settings, container: Container) -> str:
    """Return ``cgroupsPath`` of a container: of one that runs what it was started with, whatever the settings say."""
    if container.alive:
        with contextlib.suppress(OSError), open(f"/proc/{container.state.pid}/cgroup", encoding="ascii") as file:
            found = path_in(file.read(4096), container.id)
            if found:
                return found
    return settings.cgroup_path(container.id, container.definition.host.cgroup_parent)


def path_in(text: str, container_id: str) -> str:
    """Find the container's own cgroup in ``/proc/<pid>/cgroup`` of its init, which may have moved further down."""
    scope = f"{DEFAULT_PREFIX}-{container_id}.scope"
    for line in text.splitlines():
        parts = line.split(":", 2)[-1].split("/")
        if container_id in parts:
            return "/".join(parts[: parts.index(container_id) + 1])
        if scope in parts:
            return f"{parts[parts.index(scope) - 1] or '-.slice'}:{DEFAULT_PREFIX}:{container_id}"
    return ""
