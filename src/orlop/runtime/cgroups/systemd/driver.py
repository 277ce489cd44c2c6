"""A container's cgroup as a transient scope unit of systemd, on cgroup v2.

systemd makes a scope around processes that exist; a *holder*, which does nothing, is what it is made around. The
container's init is then born in the cgroup like with the other driver, and the holder ends when the cgroup is closed.
``Delegate=yes`` leaves what is in the cgroup to us.
"""

from __future__ import annotations

import os

from orlop.errors import ConflictError, OrlopError, SystemFailureError, UnsupportedError
from orlop.kernel import process as k
from orlop.kernel.plain import signal
from orlop.kernel.prctl import set_name, set_pdeathsig
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import suppress
from orlop.runtime.cgroups import files
from orlop.runtime.cgroups.present import completed
from orlop.runtime.cgroups.systemd.bus import Bus, Manager, user_bus
from orlop.runtime.cgroups.systemd.properties import unit_properties
from orlop.runtime.cgroups.systemd.scope import Scope, parse_scope
from orlop.runtime.cgroups.v2 import CgroupV2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from orlop.runtime.cgroups.hierarchy import Hierarchies
    from orlop.runtime.cgroups.systemd.properties import Property
    from orlop.spec.oci import Resources


class ScopeCgroup(CgroupV2):
    """See :class:`~orlop.runtime.cgroups.contract.CgroupSet`."""

    def __init__(self, hierarchies: Hierarchies, reference: str) -> None:
        if hierarchies.version != 2:
            raise UnsupportedError("the systemd cgroup driver needs cgroup v2")
        self._scope = parse_scope(reference, container_id="")
        super().__init__(hierarchies, self._scope.path)
        self.reference = self._scope.reference
        self._holder: OwnedFd | None = None

    def _manager(self) -> Manager:
        user = self._scope.user
        return Manager(Bus() if user is None else Bus(user_bus(user), uid=user))

    def _make(self, resources: Resources) -> None:
        """Have systemd make the scope, and with it the directory."""
        properties = unit_properties(resources)
        manager = self._manager()
        try:
            self._start(manager, properties)
        except BaseException:
            self._let_go()
            raise
        finally:
            manager.close()
        if not os.path.isdir(self._directory):
            self._let_go()
            raise SystemFailureError(f"systemd made no cgroup for unit {self._scope.unit}: {self._directory}")
        # controllers that systemd does not know, such as hugetlb
        self._make_parents()

    def _start(self, manager: Manager, properties: list[Property]) -> None:
        pid, pidfd = _fork_holder()
        self._holder = OwnedFd(pidfd)
        given = [*_scope_properties(self._scope, pid), *properties]
        try:
            manager.start_scope(self._scope.unit, given)
        except ConflictError:
            pids = files.read_pids(files.subtree(self._directory))
            if pids:
                raise ConflictError(f"container's cgroup is not empty: {len(pids)} process(es) found") from None
            # left by a crash, or not collected yet
            manager.stop(self._scope.unit)
            manager.start_scope(self._scope.unit, given)

    def close(self) -> None:
        """Close the directory and end the holder."""
        super().close()
        self._let_go()

    def _let_go(self) -> None:
        if self._holder is None:
            return
        holder, self._holder = self._holder, None
        with holder:
            with suppress(ProcessLookupError):
                k.pidfd_send_signal(holder.fileno(), signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, holder.fileno(), os.WEXITED)

    def update(self, resources: Resources) -> None:
        """Tell systemd, then the files; the other way round a reload between the two would undo it."""
        resources = completed(resources, self._read)
        properties = unit_properties(resources)
        if properties:
            manager = self._manager()
            try:
                manager.set_properties(self._scope.unit, properties)
            finally:
                manager.close()
        super().update(resources)

    def remove(self) -> None:
        """Have systemd forget the unit, then remove what is left.

        The other way round it may never notice: the file that tells that the cgroup is empty goes with the directory.
        """
        self.close()
        with suppress(OrlopError):  # without systemd there is only the directory
            manager = self._manager()
            try:
                manager.stop(self._scope.unit)
            finally:
                manager.close()
        super().remove()


def _scope_properties(scope: Scope, pid: int) -> list[Property]:
    return [
        ("Description", "s", f"orlop container {scope.unit.removesuffix('.scope')}"),
        ("Slice", "s", scope.slice),
        ("PIDs", "au", [pid]),
        ("Delegate", "b", True),
        ("DefaultDependencies", "b", False),
        # a scope whose program was killed for want of memory counts as failed and would stay
        ("CollectMode", "s", "inactive-or-failed"),
        ("CPUAccounting", "b", True),
        ("MemoryAccounting", "b", True),
        ("IOAccounting", "b", True),
        ("TasksAccounting", "b", True),
    ]


def _fork_holder() -> tuple[int, int]:
    """Return pid and pidfd of a child that waits to be killed, and dies with us."""
    parent = os.getpid()
    pid, pidfd = k.clone3(0)
    if pid == 0:
        _hold(parent)
    return pid, pidfd


def _hold(parent: int) -> NoReturn:
    try:
        k.close_all_but(())
        set_name(b"orlop-holder")
        set_pdeathsig(signal.SIGKILL)
        while os.getppid() == parent:
            signal.pause()
    finally:
        os._exit(0)
