"""One more process in a running container.

    exec's shim          door                                  process
     │ clone3 ─────────▶ │ closes what is the host's           .
     │                   │ setns: all but the cgroup's         .
     │                   │ clone3(CLONE_PARENT) ─────────────▶ │ born in the container's pid namespace,
     │ ◀── {"pid"}+pidfd │ exits                               │ where its root is the container's already
     │ limits ─────────── {"go"} ────────────────────────────▶ │ joins the cgroup, becomes the user
     │ ◀── {"terminal"}, {"ready"}, {"error"} ──────────────── │ execve: end of file

Whoever is in the pid namespace with CAP_SYS_PTRACE can open ``/proc/<pid>/root`` and ``/proc/<pid>/fd`` of everybody in
it, dumpable or not. So nobody is seen there before its root, directory and descriptors are the container's
(CVE-2016-9962, CVE-2024-21626; runc's nsexec has the same order for this reason).
"""

from __future__ import annotations

import os

from orlop.errors import NotFoundError, SystemFailureError, UnavailableError, from_kind
from orlop.kernel import process as k
from orlop.kernel.plain import signal
from orlop.kernel.prctl import set_dumpable, set_name, set_pdeathsig
from orlop.kernel.rlimit import set_rlimits
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup
from orlop.runtime import init, rootfs
from orlop.runtime.cgroups import normalise_path, open_cgroup
from orlop.runtime.container import RunningProcess, await_running, kill_and_reap, prepare_privileges
from orlop.runtime.importing import refuse_loading
from orlop.runtime.namespaces import CLONE_FLAGS, Caller
from orlop.runtime.users import identify
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from orlop.runtime.cgroups import Hierarchies
    from orlop.runtime.cgroups.contract import CgroupSet
    from orlop.runtime.parent import Handler
    from orlop.runtime.security.apply import PreparedPrivileges
    from orlop.spec.oci import Config, Process


@dataclass(frozen=True)
class Execution:
    """What to run where.

    Attributes:
        container_id: names the cgroup when the configuration does not.
        config: the container's configuration.
        process: what is run.
        pidfd: of the container's init.
        stdio: descriptors for 0, 1, 2, or None.
        console_size: height and width.
        preserve: how many descriptors from 3 on are inherited.
        die_with_parent: end when the parent does; not where the parent is a command that returns (``exec -d``).
        bundle: of the container, for seccomp agents.
        caller: who executes it.
        without_cgroup: the container has none.
        sub_cgroups: on cgroup v1, by controller: what is joined below the container's cgroup instead of it.
    """

    container_id: str
    config: Config
    process: Process
    pidfd: int
    stdio: tuple[int, int, int] | None = None
    console_size: tuple[int, int] | None = None
    preserve: int = 0
    die_with_parent: bool = True
    bundle: str = ""
    caller: Caller = Caller()
    without_cgroup: bool = False
    sub_cgroups: Mapping[str, str] | None = None


def execute(execution: Execution, hierarchies: Hierarchies) -> RunningProcess:
    """Run the process and wait until its program runs.

    Raises:
        OrlopError: it did not come to run.
        OSError: the same.
    """
    config = execution.config
    with Cleanup() as always, Cleanup() as on_failure:
        prepared = prepare_privileges(execution, execution.process)
        path = normalise_path(config.linux.cgroups_path, container_id=execution.container_id)
        cgroup = open_cgroup(hierarchies, "" if execution.without_cgroup else path)
        always.callback(cgroup.close)
        if execution.sub_cgroups:
            _enter_below(cgroup, execution.sub_cgroups)
        joined = _open_cgroup_files(cgroup, always)
        if execution.stdio is not None and config.linux.uid_mappings and not execution.caller.ordinary:
            from orlop.runtime.remapping import give_streams, host_owner

            give_streams(execution.stdio, host_owner(config))
        ours, theirs = Channel.pair()
        on_failure.callback(ours.close)
        always.callback(theirs.close)
        pid, pidfd = _enter(execution, prepared, theirs, joined, always)
        on_failure.callback(pidfd.close)
        on_failure.callback(kill_and_reap, pidfd)
        theirs.close()
        # By its parent: in a user namespace nothing may be raised.
        set_rlimits(execution.process.rlimits, pid=pid)
        if init.is_scheduled(execution.process, config.linux):
            from orlop.runtime.scheduling import set_scheduling

            set_scheduling(execution.process, pid)
        ours.send({"go": True})
        master, _ = await_running(ours, handlers=_handlers(execution, pid))
        on_failure.dismiss()
        ours.close()
        return RunningProcess(pid, pidfd, master, cgroup)


def _handlers(execution: Execution, pid: int) -> dict[str, Handler] | None:
    """Return what hands the process's seccomp listener to its agent."""
    config = execution.config
    profile = config.linux.seccomp
    if profile is None or not profile.listener_path or not profile.notifies:
        return None
    from orlop.runtime.container_state import ContainerState
    from orlop.runtime.parent import deliver
    from orlop.runtime.seccomp_listener import MESSAGE, Agent

    state = ContainerState(execution.container_id, execution.bundle, config.annotations)
    agent = Agent(profile, state.document(k.pidfd_pid(execution.pidfd), "running"))
    return {MESSAGE: lambda fds: deliver(agent, pid, fds)}


def _enter_below(cgroup: CgroupSet, parts: Mapping[str, str]) -> None:
    from orlop.runtime.cgroups.v1 import CgroupV1  # which there is, then; on v2 the path itself is another

    if isinstance(cgroup, CgroupV1):
        cgroup.enter_below(parts)


def _open_cgroup_files(cgroup: CgroupSet, stack: Cleanup) -> list[int]:
    """Return the files that are written to in order to join, and no directory: they are seen in the container."""
    files = list(cgroup.join_fds)
    if cgroup.clone_fd is not None:
        file = OwnedFd(os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup.clone_fd))
        files.append(stack.enter_context(file).fileno())
    return files


def _enter(
    execution: Execution, prepared: PreparedPrivileges, sync: Channel, joined: Sequence[int], stack: Cleanup
) -> tuple[int, OwnedFd]:
    """Make the process through the door; returns its pid and pidfd. It is our child; ``stack`` collects the door."""
    ours, theirs = Channel.pair()
    number, door_number = k.clone3(0)
    if number == 0:
        _run_door(execution, prepared, theirs, sync, joined)
    stack.enter_context(OwnedFd(door_number))
    stack.callback(os.waitid, os.P_PIDFD, door_number, os.WEXITED)
    theirs.close()
    try:
        got = ours.receive()
    finally:
        ours.close()
    if got is None:
        raise SystemFailureError("process died before it entered the container")
    message, fds = got
    error, pid = message.get("error"), message.get("pid")
    if isinstance(error, dict):
        raise from_kind(str(error.get("kind")), str(error.get("message")))
    if not isinstance(pid, int) or len(fds) != 1:
        raise SystemFailureError("process did not enter the container")
    return pid, fds[0]


def _run_door(
    execution: Execution, prepared: PreparedPrivileges, parent: Channel, sync: Channel, joined: Sequence[int]
) -> NoReturn:
    try:
        _open_door(execution, prepared, parent, sync, joined)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the shim's stack
        init.report(parent, error)
    os._exit(init.FAILED)


def _open_door(
    execution: Execution, prepared: PreparedPrivileges, parent: Channel, sync: Channel, joined: Sequence[int]
) -> None:
    process, config = execution.process, execution.config
    set_dumpable(0)
    preserved = range(3, 3 + execution.preserve)
    kept = [parent.fileno(), sync.fileno(), execution.pidfd, *joined, *(execution.stdio or ()), *preserved]
    k.close_all_but(kept)
    refuse_loading()
    set_name(b"orlop-init")
    if process.oom_score_adj is not None:
        from orlop.runtime.sysctl import write_proc

        write_proc("/proc/self/oom_score_adj", str(process.oom_score_adj))
    flags = 0
    for namespace in config.linux.namespaces:
        flags |= CLONE_FLAGS.get(namespace.type, 0)
    try:
        k.setns(execution.pidfd, flags)
    except ProcessLookupError:
        raise NotFoundError("container is not running") from None
    if flags & k.CLONE_NEWUSER:
        init.become_root_inside()
    pid, pidfd = k.clone3(k.CLONE_PARENT)
    if pid == 0:
        parent.close()
        _child(execution, prepared, sync, joined)
    parent.send({"pid": pid}, [pidfd])


def _join(process: Process, config: Config, joined: Sequence[int]) -> None:
    """Join the cgroup, on the CPUs that are asked for before and after it."""
    scheduled = init.is_scheduled(process, config.linux)
    if scheduled:
        from orlop.runtime.scheduling import set_affinity, set_memory_and_personality

        if process.cpu_affinity is not None:
            set_affinity(process.cpu_affinity.initial)
    for fd in joined:
        os.write(fd, b"0")  # the writer itself, in any pid namespace
    k.allow_every_cpu()
    init.close_fds(joined)
    if scheduled:
        if process.cpu_affinity is not None:
            set_affinity(process.cpu_affinity.final)
        set_memory_and_personality(config.linux)


def _child(execution: Execution, prepared: PreparedPrivileges, sync: Channel, joined: Sequence[int]) -> NoReturn:
    try:
        _run(execution, prepared, sync, joined)
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the door's stack
        init.report(sync, error)
    os._exit(init.FAILED)


def _run(execution: Execution, prepared: PreparedPrivileges, sync: Channel, joined: Sequence[int]) -> None:
    process, config = execution.process, execution.config
    init.reset_signals()
    if execution.die_with_parent:
        set_pdeathsig(signal.SIGKILL)
    if sync.receive() is None:
        raise UnavailableError("shim is gone")
    os.setsid()
    _join(process, config, joined)
    if config.linux.namespace("cgroup") is not None:
        # last: the kernel may refuse to join from within a namespace that the old cgroup is outside of
        k.setns(execution.pidfd, k.CLONE_NEWCGROUP)
    init.join_keyring()
    with OwnedFd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        identity = identify(root.fileno(), process, config)
        if process.terminal:
            from orlop.runtime.console import open_terminal

            with open_terminal(root.fileno(), process.console_size or execution.console_size) as terminal:
                sync.send({"terminal": True}, [terminal.master.fileno()])
                terminal.become_standard_streams(identity.uid)
        elif execution.stdio is not None:
            init.standard_streams(execution.stdio, identity.uid)
            rootfs.reopen_null(root.fileno())
    os.close(execution.pidfd)
    becoming = init.Becoming(sync, prepared, preserve=execution.preserve, die_with_parent=execution.die_with_parent)
    init.become(process, identity, becoming)
