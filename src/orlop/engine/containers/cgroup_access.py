"""Finding the cgroups of a container from the engine's side."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from orlop.errors import OrlopError
from orlop.runtime.cgroups import detect, normalise_path, open_cgroup

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.settings import Settings
    from orlop.runtime.cgroups import CgroupSet

_LOG = logging.getLogger(__name__)


class CgroupAccess:
    """Opens the cgroups that the shims made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hierarchies = detect()

    def open(self, container: Container) -> CgroupSet:
        """Open a container's cgroups; close them after use. Raises OrlopError, OSError: they are gone."""
        path = self._settings.cgroup_path(container.id, container.definition.host.cgroup_parent)
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
