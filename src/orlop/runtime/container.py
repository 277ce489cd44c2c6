"""Making a container's first process: cgroup, namespaces, init; and undoing all of it when it does not come to run.

Used by the shim, for the engine, and by ``orlop-runtime``, for everybody else.
"""

from __future__ import annotations

import errno
import os

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError, from_kind
from orlop.kernel import process as k
from orlop.kernel.plain import signal
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup, suppress
from orlop.runtime import init
from orlop.runtime.cgroups import create_cgroup, create_cgroup_if_permitted, normalise_path
from orlop.runtime.device_root import mount_device, mount_devices
from orlop.runtime.init_task import MADE_ROOT, SHM_DONOR, TMPFS_DONOR, InitTask
from orlop.runtime.namespaces import Caller, choose_namespaces
from orlop.runtime.rootfs import plan
from orlop.runtime.security import apply
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.runtime.cgroups import Hierarchies
    from orlop.runtime.cgroups.contract import CgroupSet
    from orlop.runtime.exec import Execution
    from orlop.runtime.operations import Operation
    from orlop.runtime.parent import Handler, Parent
    from orlop.runtime.security.apply import PreparedPrivileges
    from orlop.runtime.shared_memory import Sharing
    from orlop.spec.launch import OverlayRoot
    from orlop.spec.oci import Config, Process


@dataclass(frozen=True)
class Creation:
    """How to create a container.

    Attributes:
        id: names the cgroup when the configuration does not.
        config: the configuration; it has a process.
        root_target: an existing empty directory of the host to mount the root at, in init's own mount namespace.
        overlay: layers, or None: ``config.root.path`` is bound.
        netns: a network namespace to join instead of the configuration's.
        stdio: descriptors for 0, 1, 2, or None to inherit or with a terminal.
        console_size: height and width.
        fifo: O_PATH descriptor of the exec fifo that init waits on, or None to run at once.
        preserve: how many descriptors from 3 on the program inherits.
        reap: run a reaping init as pid 1.
        new_keyring: join a new session keyring.
        die_with_parent: see InitTask.
        for_parent: init becomes the child of the caller's parent (CLONE_PARENT), for which the caller works.
        bundle: where the configuration came from, for hooks; empty when it came from the engine.
        caller: who makes it.
        needs_cgroup: else it may run without one, where this user may not make any.
        warn: told of failures that change nothing.
        meanwhile: called with init's pid while init builds the root; the program does not run yet.
    """

    id: str
    config: Config
    root_target: str
    overlay: OverlayRoot | None = None
    netns: int | None = None
    stdio: tuple[int, int, int] | None = None
    console_size: tuple[int, int] | None = None
    fifo: int | None = None
    preserve: int = 0
    reap: bool = False
    new_keyring: bool = True
    die_with_parent: bool = True
    for_parent: bool = False
    bundle: str = ""
    caller: Caller = Caller()
    needs_cgroup: bool = True
    warn: Callable[[str], None] | None = None
    meanwhile: Callable[[int], None] | None = None


@dataclass
class RunningProcess:
    """A process that executed its program, or waits on its fifo. Owns ``pidfd`` and ``master``."""

    pid: int
    pidfd: OwnedFd
    master: OwnedFd | None
    cgroup: CgroupSet
    sync: Channel | None = None


def create(creation: Creation, hierarchies: Hierarchies) -> RunningProcess:
    """Create the container and wait until its program runs, or with a fifo until init waits.

    Raises:
        OrlopError: it did not come to run; nothing of it is left.
        OSError: the same.
    """
    process = creation.config.process
    if process is None:
        raise InvalidParameterError("config has no process")
    with Cleanup() as always, Cleanup() as on_failure:
        if creation.config.linux.mount_label:
            from orlop.runtime.security.lsm import check_selinux

            check_selinux(creation.config.linux.mount_label)
        userns = _joined_user_namespace(creation.config, always)
        if userns is not None:
            from orlop.runtime.joined_userns import with_its_mappings

            creation = with_its_mappings(creation, userns)
        parent = _parent(creation, always, on_failure)
        prepared = prepare_privileges(creation, process)
        cgroup = _create_cgroup(creation, hierarchies)
        on_failure.callback(_remove_cgroup, cgroup)
        always.callback(cgroup.close)
        ours, theirs = Channel.pair()
        on_failure.callback(ours.close)
        always.callback(theirs.close)
        flags, task = _task(creation, process, theirs, cgroup, prepared, always, joins_userns=userns is not None)
        if parent is not None:
            task.pauses = parent.pauses
            task.hook_state = None if creation.config.hooks is None else parent.state
        pid, pidfd_number = _clone(flags, userns, task)
        pidfd = OwnedFd(pidfd_number)
        on_failure.callback(pidfd.close)
        on_failure.callback(kill_and_reap, pidfd)
        theirs.close()
        _let_go(ours, pid, creation, task, mapped=userns is not None)
        if creation.meanwhile is not None:
            creation.meanwhile(pid)
        handlers = None if parent is None else parent.handlers(ours, pid)
        master, waiting = await_running(ours, started_by_fifo=creation.fifo is not None, handlers=handlers)
        on_failure.dismiss()
        if not waiting:
            ours.close()
        return RunningProcess(pid, pidfd, master, cgroup, ours if waiting else None)


def _task(
    creation: Creation,
    process: Process,
    sync: Channel,
    cgroup: CgroupSet,
    prepared: PreparedPrivileges,
    always: Cleanup,
    *,
    joins_userns: bool,
) -> tuple[int, InitTask]:
    """Return clone3's flags and what init is given; ``always`` closes what was opened for it."""
    config = creation.config
    sharing = _sharing(config, always)
    flags, joins, unshare = choose_namespaces(creation, always, None if sharing is None else sharing.donor)
    user_namespace = bool(flags & k.CLONE_NEWUSER) or joins_userns
    operations = plan(config, cgroup.directories(), user_namespace=user_namespace or creation.caller.confined)
    trees = {} if sharing is None else sharing.trees(operations)
    trees.update(_mounts(creation, operations, always, user_namespace=user_namespace))
    sysctls: Mapping[str, str] = config.linux.sysctl
    if user_namespace and not creation.caller.ordinary:
        from orlop.runtime.remapping import before_user_namespace

        sysctls = before_user_namespace(creation, joins)
        joins = ()
    task = InitTask(
        config=config,
        process=process,
        sync=sync,
        cgroup=cgroup,
        overlay=creation.overlay,
        root_target=creation.root_target,
        operations=operations,
        prepared=prepared,
        cloned=cgroup.clone_fd is not None,
        joins=joins,
        unshare=unshare,
        stdio=creation.stdio,
        console_size=creation.console_size,
        fifo=creation.fifo,
        preserve=creation.preserve,
        reap=creation.reap,
        new_keyring=creation.new_keyring,
        user_namespace=user_namespace,
        die_with_parent=creation.die_with_parent,
        sysctls=sysctls,
        trees=trees,
        rootless=creation.caller.ordinary,
    )
    return flags | (k.CLONE_PARENT if creation.for_parent else 0), task


def _let_go(ours: Channel, pid: int, creation: Creation, task: InitTask, *, mapped: bool) -> None:
    """Do what an init in a user namespace waits for before it builds its root: its ids, mounts made outside."""
    if not task.user_namespace:
        return
    if not mapped:
        _map_ids(pid, creation)
    if not creation.caller.ordinary:
        from orlop.runtime.remapping import send_trees

        send_trees(ours, pid, creation, task.operations, taken=frozenset(task.trees))
    _schedule(task.process, pid)
    ours.send({"go": True})


def _clone(flags: int, userns: int | None, task: InitTask) -> tuple[int, int]:
    """Make init, which does its task; returns its pid and pidfd."""
    if userns is not None:
        from orlop.runtime.joined_userns import clone_inside

        return clone_inside(userns, flags, task.cgroup.clone_fd, lambda: init.run(task))
    try:
        pid, pidfd = k.clone3(flags, cgroup_fd=task.cgroup.clone_fd)
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise
        text = f"cgroup {task.cgroup.path} cannot be entered from this one: no right to what is above both (cgroups(7))"
        raise SystemFailureError(text) from None
    if pid == 0:
        init.run(task)
    return pid, pidfd


def _joined_user_namespace(config: Config, stack: Cleanup) -> int | None:
    """Return a descriptor of the user namespace that is named by its path."""
    namespace = config.linux.namespace("user")
    if namespace is None or not namespace.path:
        return None
    return stack.enter_context(OwnedFd(os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC))).fileno()


def _parent(creation: Creation, always: Cleanup, on_failure: Cleanup) -> Parent | None:
    """Return what does for init what only few configurations ask for."""
    config = creation.config
    seccomp = config.linux.seccomp
    if config.hooks is None and not config.linux.net_devices and (seccomp is None or not seccomp.listener_path):
        return None
    from orlop.runtime.parent import Parent

    return Parent(creation, always, on_failure)


def _schedule(process: Process, pid: int) -> None:
    """Give init, which has no capabilities over the host's scheduler, what its configuration asks for."""
    if process.scheduler is not None or process.io_priority is not None:
        from orlop.runtime.scheduling import set_scheduling

        set_scheduling(process, pid)


def await_running(
    sync: Channel, *, started_by_fifo: bool = False, handlers: dict[str, Handler] | None = None
) -> tuple[OwnedFd | None, bool]:
    """Read the sync channel until the program runs; returns the terminal's master and whether init waits on its fifo.

    Args:
        sync: our end.
        started_by_fifo: the process waits on a fifo when it is ready.
        handlers: what to do on further messages, by their key, with the descriptors that came with them; each once:
            code of the container may run beside a process that holds its end of the channel.

    Raises:
        OrlopError: what the child reported, or that it died without a word.
    """
    master: OwnedFd | None = None
    ready = False
    while True:
        got = sync.receive()
        if got is None:
            if not ready:
                if master is not None:
                    master.close()
                raise SystemFailureError("container process died before its program was started")
            return master, False
        message, fds = got
        if "terminal" in message and len(fds) == 1:
            master = fds.pop()
        try:
            if handlers is not None:
                for key in message.keys() & handlers.keys():
                    handlers.pop(key)(fds)
        except BaseException:
            if master is not None:
                master.close()
            raise
        finally:
            for fd in fds:
                fd.close()
        error = message.get("error")
        if isinstance(error, dict):
            if master is not None:
                master.close()
            raise from_kind(str(error.get("kind")), str(error.get("message")))
        ready = ready or message.get("ready") is True
        if ready and started_by_fifo:
            return master, True


def kill_and_reap(pidfd: OwnedFd) -> None:
    """End a child and collect it; fine when it has ended already."""
    with suppress(ProcessLookupError):
        k.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED)


def _remove_cgroup(cgroup: CgroupSet) -> None:
    with suppress(OrlopError, OSError):
        cgroup.kill()
    cgroup.remove()


def _sharing(config: Config, always: Cleanup) -> Sharing | None:
    """Return what gives the container mounts of others', where the engine asked for some."""
    if not any(name.startswith((SHM_DONOR, TMPFS_DONOR)) for name in config.annotations):
        return None
    from orlop.runtime.shared_memory import Sharing

    return Sharing(config.annotations, always)


def _mounts(
    creation: Creation, operations: Sequence[Operation], stack: Cleanup, *, user_namespace: bool
) -> dict[int, list[OwnedFd]]:
    """Make the mounts that have mapped ids, and those of block devices, which may be the root."""
    trees: dict[int, list[OwnedFd]] = {}
    if any(mount.uid_mappings for mount in creation.config.mounts):
        from orlop.runtime.id_mapping import open_mapped

        trees.update(open_mapped(operations, stack))
    if user_namespace:
        return trees
    for place, tree in mount_devices(operations):
        trees[place] = [stack.enter_context(tree)]
    if creation.overlay is not None and creation.overlay.device is not None:
        trees[MADE_ROOT] = [stack.enter_context(mount_device(creation.overlay.device))]
    return trees


def prepare_privileges(made: Creation | Execution, process: Process) -> PreparedPrivileges:
    """Work out what the process may do; see ``security.apply.prepare``, also for the errors."""
    if made.caller.ordinary:
        from orlop.runtime import rootless

        rootless.require_possible(made.config)
        return rootless.prepare(process, made.config)
    prepared = apply.prepare(process, made.config.linux.seccomp)
    if made.caller.confined:
        from orlop.runtime.rootless import groups_are_denied

        prepared = replace(prepared, keeps_groups=groups_are_denied())
    return prepared


def _create_cgroup(creation: Creation, hierarchies: Hierarchies) -> CgroupSet:
    linux = creation.config.linux
    path = normalise_path(linux.cgroups_path, container_id=creation.id)
    make = create_cgroup if creation.needs_cgroup else create_cgroup_if_permitted
    mask = os.umask(0o022)  # users other than root read their limits there
    try:
        return make(hierarchies, path, linux.resources)
    finally:
        os.umask(mask)


def _map_ids(pid: int, creation: Creation) -> None:
    config = creation.config
    if creation.caller.ordinary:
        from orlop.runtime import rootless

        rootless.map_ids(pid, config)
        return
    from orlop.runtime.id_mapping import write_map

    write_map(pid, "uid_map", config.linux.uid_mappings)
    write_map(pid, "gid_map", config.linux.gid_mappings)
