"""A container's cgroup on v1: the same path in every hierarchy (cgroups(7), "Cgroups version 1").

On a hybrid machine the unified hierarchy has no controllers but it can kill and freeze atomically, so the container
gets a directory there too, which ``clone3`` enters.
"""

from __future__ import annotations

import os

from orlop.errors import ConflictError, InvalidParameterError, OrlopError, SystemFailureError, os_error_text
from orlop.kernel.plain import signal
from orlop.primitives.scope import suppress
from orlop.runtime.cgroups import files
from orlop.runtime.cgroups.controllers import cpuset, v1_writes
from orlop.runtime.cgroups.device_defaults import with_default_devices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.runtime.cgroups.events import NoOomEvents, OomEventsV1
    from orlop.runtime.cgroups.hierarchy import Hierarchies
    from orlop.spec.json import JsonObject
    from orlop.spec.oci import Resources

_DIRECTORY_MODE = 0o755


class CgroupV1:
    """See :class:`~orlop.runtime.cgroups.contract.CgroupSet`."""

    version = 1

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        self.path = path
        self.reference = path
        self._hierarchies = hierarchies
        self._directories = [hierarchy.directory + path for hierarchy in hierarchies.v1]
        self._unified = None if hierarchies.unified is None else hierarchies.unified + path
        self._by_controller = {
            controller: directory
            for hierarchy, directory in zip(hierarchies.v1, self._directories, strict=True)
            for controller in hierarchy.controllers
        }
        self._join_fds: tuple[int, ...] | None = None
        self._clone_fd: int | None = None
        self._closed = False

    @classmethod
    def create(cls, hierarchies: Hierarchies, path: str, resources: Resources) -> CgroupV1:
        """See ``create_cgroup``."""
        cgroup = cls(hierarchies, path)
        writes = v1_writes(with_default_devices(resources))
        made: list[str] = []
        try:
            for directory in cgroup._everywhere():
                cgroup._make(directory)
                made.append(directory)
            if "cpuset" in cgroup._by_controller:
                _inherit_cpuset(cgroup._by_controller["cpuset"])
            files.apply(writes, cgroup._by_controller.get)
            cgroup._open()
        except BaseException as error:
            cgroup.close()
            for directory in reversed(made):
                with suppress(OrlopError):
                    files.remove_tree(directory)
            if isinstance(error, OSError):
                raise SystemFailureError(f"unable to create cgroup: {os_error_text(error)}") from error
            raise
        return cgroup

    def _everywhere(self) -> list[str]:
        """Return its directory in each hierarchy, the unified one too."""
        return self._directories if self._unified is None else [*self._directories, self._unified]

    def _make(self, directory: str) -> None:
        """Make one cgroup, and its parents if this is the first in them; a stale empty one is replaced."""
        try:
            os.mkdir(directory, _DIRECTORY_MODE)
        except FileNotFoundError:
            self._make_parents(directory)
            os.mkdir(directory, _DIRECTORY_MODE)
        except FileExistsError:
            pids = files.read_pids(files.subtree(directory))
            if pids:
                raise ConflictError(f"container's cgroup is not empty: {len(pids)} process(es) found") from None
            # left by a crash, with another container's limits
            files.remove_tree(directory)
            os.mkdir(directory, _DIRECTORY_MODE)

    def _make_parents(self, directory: str) -> None:
        parent = os.path.dirname(directory)
        if not os.path.isdir(parent):
            self._make_parents(parent)
            with suppress(FileExistsError):  # another container's start may be at the same point
                os.mkdir(parent, _DIRECTORY_MODE)
        root = self._hierarchies.directory("cpuset")
        if root is not None and parent != root and parent.startswith(root + "/"):
            _inherit_cpuset(parent)
            # the kernel then gives each new child its parent's CPUs and nodes (cgroup-v1/cgroups.rst, 1.5)
            files.write_text(f"{parent}/cgroup.clone_children", "1")

    def enter_below(self, parts: Mapping[str, str]) -> None:
        """Join cgroups below this one in the hierarchies of these controllers, and this one in the others.

        Args:
            parts: by controller, from ``/`` on; each exists already.

        Raises:
            InvalidParameterError: no hierarchy has this controller; runc's words.
        """
        for controller, path in parts.items():
            own = self._by_controller.get(controller)
            if own is None:
                raise InvalidParameterError(f"unknown controller {controller} in SubCgroupPaths")
            self._directories = [directory + path if directory == own else directory for directory in self._directories]

    def _open_tasks(self) -> tuple[int, ...]:
        fds: list[int] = []
        try:
            # "tasks", not "cgroup.procs": moving one's own single thread skips the kernel's thread group lock, which
            # waits for an RCU grace period (kernel/cgroup/cgroup.c, cgroup_procs_write_start)
            fds.extend(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC) for directory in self._directories)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return tuple(fds)

    @property
    def join_fds(self) -> tuple[int, ...]:
        """Descriptors of each hierarchy's ``tasks``."""
        if self._join_fds is None:
            self._open_existing()
        return self._join_fds or ()

    @property
    def clone_fd(self) -> int | None:
        """Directory of the unified hierarchy, if there is one."""
        if self._join_fds is None:
            self._open_existing()
        return self._clone_fd

    def _open_existing(self) -> None:
        if self._closed:
            # a join that silently does nothing would leave a container without limits
            raise ValueError("cgroup is closed")
        if self._unified is not None and not os.path.isdir(self._unified):
            self._unified = None
        try:
            self._open()
        except OSError as error:
            raise SystemFailureError(f"unable to open cgroup: {os_error_text(error)}") from error

    def _open(self) -> None:
        self._join_fds = self._open_tasks()
        if self._unified is not None:
            self._clone_fd = os.open(self._unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def join(self, *, cloned: bool) -> None:
        """Write "0", which is the writer itself in any pid namespace, to each ``tasks``."""
        for fd in self.join_fds:
            os.write(fd, b"0")
        if cloned:
            self._clone_fd = None  # closed with everything that join does not need; its number may be another's now
        elif self._clone_fd is not None:
            fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._clone_fd)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self._join_fds or ():
            os.close(fd)
        self._join_fds = None
        self._closed = True
        if self._clone_fd is not None:
            os.close(self._clone_fd)
            self._clone_fd = None

    def oom_events(self) -> OomEventsV1 | NoOomEvents:
        """Register with the memory hierarchy."""
        directory = self._by_controller.get("memory")
        from orlop.runtime.cgroups.events import NoOomEvents, OomEventsV1

        return NoOomEvents() if directory is None else OomEventsV1(directory)

    def _listing_directory(self) -> str:
        for controller in ("freezer", "pids", "memory", "cpu"):
            if controller in self._by_controller:
                return self._by_controller[controller]
        return self._directories[0]

    def pids(self) -> list[int]:
        """Read one hierarchy: every process is in all of them."""
        return files.read_pids(files.subtree(self._listing_directory()))

    def kill(self) -> None:
        """Use the unified hierarchy's cgroup.kill, then freeze, signal and thaw until nothing is left.

        A frozen process cannot exit, so its number cannot come to mean another process between reading and killing.
        """
        if self._unified is not None:
            with suppress(OSError):
                files.write_text(f"{self._unified}/cgroup.kill", "1")
        files.wait_until(self._kill_once, f"unable to kill all processes of cgroup: {self.path}")

    def _kill_once(self) -> bool:
        if not self.pids():
            # thawing what a pause left behind lets already killed processes go
            self._thaw_quietly()
            return not self.pids()
        with suppress(OrlopError, OSError):
            self.freeze()
        try:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            self._thaw_quietly()
        return False

    def _thaw_quietly(self) -> None:
        with suppress(OrlopError, OSError):
            self.thaw()

    def freeze(self) -> None:
        """Set the freezer's state; a fork bomb may need several attempts (runc does the same)."""
        state = self._freezer_file()

        def is_frozen() -> bool:
            files.write_text(state, "FROZEN")
            if files.read_text(state).strip() == "FROZEN":
                return True
            return files.read_text(state).strip() == "FROZEN"

        try:
            files.wait_until(is_frozen, f"unable to freeze cgroup: {self.path}")
        except BaseException:
            self._thaw_quietly()
            raise

    def thaw(self) -> None:
        """Set the freezer's state back."""
        files.write_if_there(self._freezer_file(), "THAWED")

    def frozen(self) -> bool:
        """Whether this cgroup itself was told to freeze."""
        try:
            return files.read_text(self._freezer_file()).strip() in ("FROZEN", "FREEZING")
        except OSError:
            return False

    def _freezer_file(self) -> str:
        directory = self._by_controller.get("freezer")
        if directory is None:
            raise SystemFailureError("this kernel does not support the freezer cgroup controller")
        return f"{directory}/freezer.state"

    def stats(self) -> JsonObject:
        """Read the accounting files."""
        from orlop.runtime.cgroups.stats import v1_stats

        return v1_stats(self._by_controller)

    def pressure(self) -> JsonObject:
        """Read the unified hierarchy's pressure files, if there is one."""
        from orlop.runtime.cgroups.pressure import read_pressure

        return {} if self._unified is None else read_pressure(self._unified)

    def update(self, resources: Resources) -> None:
        """Write what is given."""
        files.apply(v1_writes(resources), self._by_controller.get)

    def remove(self) -> None:
        """Remove each directory; all are tried, the first failure is raised."""
        self.close()
        failure: SystemFailureError | None = None
        for directory in self._everywhere():
            try:
                files.remove_tree(directory)
            except SystemFailureError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def directories(self) -> dict[str, str]:
        """Name each hierarchy by its mount point's last component (``cpu,cpuacct``, ``systemd``)."""
        return {
            os.path.basename(hierarchy.directory): directory
            for hierarchy, directory in zip(self._hierarchies.v1, self._directories, strict=True)
        }


def _inherit_cpuset(directory: str) -> None:
    """Give a new cpuset its parent's CPUs and nodes, or no process could enter it."""
    for name in cpuset.INHERITED:
        if files.read_text(f"{directory}/{name}").strip():
            # both are filled together, by the kernel or by us
            return
        above = os.path.dirname(directory)
        parent = files.read_text(f"{above}/{name}").strip()
        if not parent:
            # somebody else's unfinished parent; the root of the hierarchy is never empty
            _inherit_cpuset(above)
            parent = files.read_text(f"{above}/{name}").strip()
        files.write_text(f"{directory}/{name}", parent)
