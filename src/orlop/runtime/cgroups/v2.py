"""A container's cgroup on v2: one directory of the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import errno
import os

from orlop.errors import ConflictError, OrlopError, SystemFailureError, UnsupportedError, os_error_text
from orlop.kernel import ebpf
from orlop.kernel.plain import signal
from orlop.kernel.process import in_user_namespace
from orlop.primitives.scope import suppress
from orlop.runtime.cgroups import files
from orlop.runtime.cgroups.controllers import devices, v2_writes
from orlop.runtime.cgroups.device_defaults import with_default_devices
from orlop.runtime.cgroups.events import NoOomEvents, OomEventsV2, counters
from orlop.runtime.cgroups.present import completed
from orlop.runtime.cgroups.pressure import read_pressure
from orlop.runtime.cgroups.stats import v2_stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from orlop.runtime.cgroups.controllers import Write
    from orlop.runtime.cgroups.hierarchy import Hierarchies
    from orlop.spec.json import JsonObject
    from orlop.spec.oci import DeviceRule, Resources

_DIRECTORY_MODE = 0o755


class CgroupV2:
    """See :class:`~orlop.runtime.cgroups.contract.CgroupSet`."""

    version = 2

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        self.path = path
        self.reference = path
        self._hierarchies = hierarchies
        self._root = hierarchies.unified or ""
        self._directory = self._root + path
        self._fd: int | None = None
        self._closed = False

    @classmethod
    def create(cls, hierarchies: Hierarchies, path: str, resources: Resources) -> Self:
        """See ``create_cgroup``."""
        cgroup = cls(hierarchies, path)
        resources = with_default_devices(resources)
        writes = v2_writes(resources)
        made = False
        try:
            cgroup._make(resources)
            made = True
            cgroup._apply(writes)
            cgroup._open()
            cgroup._attach_devices(resources.devices)
        except BaseException as error:
            cgroup.close()
            if made:
                with suppress(OrlopError):
                    files.remove_tree(cgroup._directory)
            if isinstance(error, OSError):
                raise SystemFailureError(f"unable to create cgroup: {os_error_text(error)}") from error
            raise
        return cgroup

    def _apply(self, writes: Sequence[Write]) -> None:
        """Write; a parent that somebody else made may not have handed the controllers down yet."""
        try:
            files.apply(writes, self._directory_of)
        except UnsupportedError:
            self._make_parents()
            files.apply(writes, self._directory_of)

    def _directory_of(self, controller: str) -> str | None:
        # "cgroup" files are the core's and always there
        return self._directory if controller in self._hierarchies.controllers else None

    def _make(self, _resources: Resources) -> None:
        try:
            os.mkdir(self._directory, _DIRECTORY_MODE)
        except FileNotFoundError:
            self._make_parents()
            os.mkdir(self._directory, _DIRECTORY_MODE)
        except FileExistsError:
            pids = files.read_pids(files.subtree(self._directory))
            if pids:
                raise ConflictError(f"container's cgroup is not empty: {len(pids)} process(es) found") from None
            files.remove_tree(self._directory)
            os.mkdir(self._directory, _DIRECTORY_MODE)

    def _make_parents(self) -> None:
        """Make every parent and hand it the controllers: they are passed down one level at a time."""
        parts = self.path.strip("/").split("/")[:-1]
        directory = self._root
        _enable(directory, self._hierarchies.controllers)
        for part in parts:
            directory = f"{directory}/{part}"
            with suppress(FileExistsError):
                os.mkdir(directory, _DIRECTORY_MODE)
            _enable(directory, self._hierarchies.controllers)

    def _open(self) -> int:
        if self._closed:
            raise ValueError("cgroup is closed")
        if self._fd is None:
            try:
                self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise SystemFailureError(f"unable to open cgroup: {os_error_text(error)}") from error
        return self._fd

    @property
    def join_fds(self) -> tuple[int, ...]:
        """Nothing: the clone is born inside."""
        return ()

    @property
    def clone_fd(self) -> int | None:
        """The cgroup's directory."""
        return self._open()

    def join(self, *, cloned: bool) -> None:
        """Write "0" to cgroup.procs, unless the kernel put the process there at birth."""
        if cloned:
            self._fd = None  # closed with everything that join does not need; its number may be another's now
            return
        fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._open())
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the directory."""
        fd, self._fd = self._fd, None
        self._closed = True
        if fd is not None:
            os.close(fd)

    def _attach_devices(self, rules: tuple[DeviceRule, ...]) -> None:
        """Attach the new program before the old ones go: there is no moment without one.

        An ordinary user may not, nor need he: he, and the root of a namespace of his, opens what he may open anyway,
        and makes no device nodes (mknod(2)).
        """
        try:
            self._replace_devices(rules)
        except PermissionError:
            if os.geteuid() == 0 and not in_user_namespace():
                raise

    def _replace_devices(self, rules: tuple[DeviceRule, ...]) -> None:
        fd = self._open()
        old = ebpf.prog_query_cgroup_device(fd)
        new = ebpf.prog_load_cgroup_device(devices.program(rules))
        try:
            ebpf.prog_attach_cgroup_device(fd, new)
        finally:
            os.close(new)
        for identity in old:
            program = ebpf.prog_get_fd_by_id(identity)
            try:
                ebpf.prog_detach_cgroup_device(fd, program)
            finally:
                os.close(program)

    def oom_events(self) -> OomEventsV2 | NoOomEvents:
        """Watch memory.events."""
        if "memory" not in self._hierarchies.controllers:
            return NoOomEvents()
        return OomEventsV2(self._directory)

    def pids(self) -> list[int]:
        """Read cgroup.procs here and below."""
        return files.read_pids(files.subtree(self._directory))

    def kill(self) -> None:
        """Write cgroup.kill (Linux 5.14); before it, freeze and signal."""
        try:
            files.write_text(f"{self._directory}/cgroup.kill", "1")
        except FileNotFoundError:
            if not os.path.isdir(self._directory):
                return
            self._kill_frozen()
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise SystemFailureError(f"unable to kill cgroup: {os_error_text(error)}") from error
        if self.frozen():
            self.thaw()
        files.wait_until(lambda: not self.pids(), f"unable to kill all processes of cgroup: {self.path}")

    def _kill_frozen(self) -> None:
        self.freeze()
        try:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            self.thaw()

    def freeze(self) -> None:
        """Write cgroup.freeze and wait for the event file to agree."""
        try:
            files.write_text(f"{self._directory}/cgroup.freeze", "1")
        except FileNotFoundError:
            if os.path.isdir(self._directory):
                raise SystemFailureError("this kernel does not support freezing a cgroup (Linux 5.2)") from None
            raise
        try:
            files.wait_until(
                lambda: counters(f"{self._directory}/cgroup.events").get("frozen") == 1,
                f"unable to freeze cgroup: {self.path}",
            )
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Write cgroup.freeze."""
        files.write_if_there(f"{self._directory}/cgroup.freeze", "0")

    def frozen(self) -> bool:
        """Whether this cgroup itself was told to freeze."""
        try:
            return files.read_text(f"{self._directory}/cgroup.freeze").strip() == "1"
        except OSError:
            return False

    def stats(self) -> JsonObject:
        """Read the accounting files."""
        return v2_stats(self._directory)

    def update(self, resources: Resources) -> None:
        """Write what is given; device rules replace the program."""
        self._apply(v2_writes(completed(resources, self._read)))
        if resources.devices:
            self._attach_devices(with_default_devices(resources).devices)

    def _read(self, name: str) -> str:
        return files.read_text(f"{self._directory}/{name}")

    def pressure(self) -> JsonObject:
        """Read the pressure files."""
        return read_pressure(self._directory)

    def remove(self) -> None:
        """Remove the directory."""
        self.close()
        files.remove_tree(self._directory)

    def directories(self) -> dict[str, str]:
        """Return the one directory."""
        return {"": self._directory}


def _enable(directory: str, controllers: frozenset[str]) -> None:
    """Hand down every controller that the directory has; one that cannot be is left to the limit that needs it."""
    path = f"{directory}/cgroup.subtree_control"
    enabled = set(files.read_text(path).split())
    wanted = sorted((controllers & set(files.read_text(f"{directory}/cgroup.controllers").split())) - enabled)
    if not wanted:
        return
    try:
        files.write_text(path, " ".join(f"+{name}" for name in wanted))
    except OSError:
        for name in wanted:
            with suppress(OSError):
                files.write_text(path, f"+{name}")
