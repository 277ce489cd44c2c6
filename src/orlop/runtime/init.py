"""The container's init, from clone3 to execve.

The steps and their order are those of threats.md ("Order of steps in the forked child"); the numbers below are its
numbers. Between them no module is loaded, there is no NSS, no codec look-up and no path of the container opened by
name: the spawner has loaded everything and blocked imports (``import`` below finds what ``runtime.loading`` brought).
A failure travels back through the sync channel as ``{"error": {"kind", "message"}}``; the end of that channel without
one means that execve succeeded.

    init                                       shim
     │  (user namespace)                 ◀──    writes uid_map, gid_map; {"trees"} + mounts made for it
     │  wait "go"                        ◀──    {"go"}
     │  ──▶ {"terminal"} + pty descriptor       with a terminal only
     │  ──▶ {"ready"}                           everything is made; OCI create: then init waits on the fifo
     │  ──▶ end of file, or {"error"}           execve, or why not
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed
import os
import select

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError, UnavailableError, os_error_text
from orlop.kernel import process as k
from orlop.kernel.keyring import join_session_keyring
from orlop.kernel.plain import signal, socket
from orlop.kernel.prctl import set_dumpable, set_name, set_pdeathsig
from orlop.kernel.rlimit import set_rlimits
from orlop.kernel.signals import RESERVED, reset_reserved_signals
from orlop.primitives.rootpath import create_file_in_root, is_char_device, mkdir_all_in_root
from orlop.primitives.scope import suppress
from orlop.runtime import rootfs
from orlop.runtime.importing import refuse_loading
from orlop.runtime.init_task import MADE_ROOT
from orlop.runtime.mount_targets import check_target
from orlop.runtime.program import Program
from orlop.runtime.security import apply
from orlop.runtime.users import identify, wants_home
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from orlop.primitives.channel import Channel
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.hooks import StartHooks
    from orlop.runtime.init_task import InitTask
    from orlop.runtime.security.apply import PreparedPrivileges
    from orlop.runtime.users import Identity
    from orlop.spec.oci import Config, Linux, Process

FAILED = 127


def run(task: InitTask) -> NoReturn:
    """Do all steps and execute the program; never returns."""
    try:
        _run(task)
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the shim's stack
        report(task.sync, error)
    os._exit(FAILED)


def report(sync: Channel, error: BaseException) -> None:
    """Send a failure to the parent; formats no traceback."""
    if isinstance(error, OrlopError):
        kind, message = error.kind, str(error)
    elif isinstance(error, OSError):
        kind, message = SystemFailureError.kind, os_error_text(error)
    else:
        kind, message = OrlopError.kind, f"{type(error).__name__}: {error}"
    try:
        sync.send({"error": {"kind": kind, "message": message}})
    except OSError:
        return  # the parent is gone, and with it everybody who could be told


def _run(task: InitTask) -> None:
    # 1, 2: imports were blocked when the shim was forked
    if not task.rootless:
        set_dumpable(0)
    k.close_all_but(task.descriptors())
    refuse_loading()
    # 3
    reset_signals()
    if task.die_with_parent:
        set_pdeathsig(signal.SIGKILL)
    if not task.user_namespace and select.select([task.sync], [], [], 0)[0]:
        raise UnavailableError("shim is gone")
    os.setsid()
    os.umask(0)
    set_name(b"orlop-init")
    if task.user_namespace:
        task.trees.update(_await_go(task.sync))
    if task.rootless:
        set_dumpable(0)
    _process_limits(task.process)
    # 4
    task.cgroup.join(cloned=task.cloned)
    k.allow_every_cpu()
    close_fds(task.cgroup.join_fds)
    for fd, flag in task.joins:
        k.setns(fd, flag)
    if task.unshare:
        k.unshare(task.unshare)
    if is_scheduled(task.process, task.config.linux):
        from orlop.runtime.scheduling import schedule

        schedule(task.process, task.config.linux, by_parent=task.user_namespace)
    # 5
    root, identity = _build_root(task)
    if task.pauses:
        task.sync.send({"built": True})
        _await_go(task.sync)
    start_hooks = None
    if task.config.hooks is not None and task.hook_state is not None:
        from orlop.runtime.hooks import run_before_pivot

        start_hooks = run_before_pivot(task.config.hooks, task.hook_state)
    # 6, 7
    rootfs.pivot(root.fileno(), read_only=task.config.root is not None and task.config.root.readonly)
    if task.config.linux.rootfs_propagation:
        rootfs.propagate(root.fileno(), task.config.linux.rootfs_propagation)
    root.close()
    becoming = Becoming(
        task.sync, task.prepared, task.fifo, task.preserve, task.reap, task.die_with_parent, start_hooks
    )
    become(task.process, identity, becoming)


def _build_root(task: InitTask) -> tuple[OwnedFd, Identity]:
    config = task.config
    path = "" if config.root is None else config.root.path
    with rootfs.open_null() as null:
        # A directory to bind, and the target, may be where only the host's root comes, whose files we own until now.
        made = task.trees[MADE_ROOT][0] if MADE_ROOT in task.trees else None
        rootfs.open_shared(task.operations, task.trees)
        root = rootfs.mount_root(task.overlay, path, task.root_target, config.linux.rootfs_propagation, made=made)
        if task.user_namespace:
            become_root_inside()
        if task.new_keyring:
            join_keyring()
        rootfs.build(task.operations, root.fileno(), null.fileno(), task.trees)
    if task.sysctls:  # making and dropping a mount for nothing costs a millisecond
        with _kernels_proc() as proc:
            from orlop.runtime.sysctl import write_sysctls

            write_sysctls(proc.fileno(), task.sysctls)
    _host_names(config)
    identity = identify(root.fileno(), task.process, config)
    _make_working_directory(root.fileno(), task.process.cwd)
    if task.process.terminal:
        from orlop.runtime.console import mount_console, open_terminal

        with open_terminal(root.fileno(), task.process.console_size or task.console_size) as terminal:
            task.sync.send({"terminal": True}, [terminal.master.fileno()])
            with create_file_in_root(root.fileno(), "/dev/console", 0o600) as console:
                check_target(root.fileno(), console.fileno(), "/dev/console")
                mount_console(terminal.peer.fileno(), console.fileno())
            terminal.become_standard_streams(identity.uid)
    elif task.stdio is not None:
        standard_streams(task.stdio, identity.uid)
        rootfs.reopen_null(root.fileno())
    return root, identity


def become_root_inside() -> None:
    """Take the ids that are 0 in the user namespace; that makes a process dumpable, which it must not be."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    set_dumpable(0)


@dataclass(frozen=True)
class Becoming:
    """What the last steps need; see :class:`InitTask` for the fields."""

    sync: Channel
    prepared: PreparedPrivileges
    fifo: int | None = None
    preserve: int = 0
    reap: bool = False
    die_with_parent: bool = True
    start_hooks: StartHooks | None = None


def become(process: Process, identity: Identity, task: Becoming) -> None:
    """Steps 8 to 11: wait to be started, drop privileges, execute. Returns only by raising."""
    environment = list(process.env)
    if wants_home(process):
        environment.append(f"HOME={identity.home}")
    program = Program(process.args, environment)
    cwd = os.fsencode(process.cwd)
    if process.apparmor_profile or process.selinux_label:
        from orlop.runtime.security.lsm import confine

        confine(process, _kernels_proc, now=task.reap)
    if task.fifo is not None:
        _check_as(identity, program, task.prepared)
    prepared = task.prepared
    if prepared.listens:
        from orlop.runtime.seccomp_listener import install_and_send

        prepared = install_and_send(prepared, task.sync)
    task.sync.send({"ready": True})
    gate = -1
    if task.fifo is not None:
        gate = _await_start(task.fifo, hold=task.start_hooks is not None)
    keep = [task.sync.fileno(), *range(3, 3 + task.preserve)]
    reaping = task.reap
    if task.start_hooks is None:
        apply.apply_privileges(prepared, identity, cwd, keep=keep)
    else:
        from orlop.runtime.hooks import become_with_hooks

        become_with_hooks(task.start_hooks, prepared, identity, cwd, keep=keep, gate=gate)
    # A change of ids has cleared it (prctl(2)); a profile may refuse prctl, and then the first setting has to do.
    if task.die_with_parent:
        with suppress(OSError):
            set_pdeathsig(signal.SIGKILL)
    if reaping:
        from orlop.runtime.reaper import run_as_reaper

        run_as_reaper(task.sync, process.args)
    number = program.execute()
    failure = program.failure(number)
    if task.start_hooks is not None:
        from orlop.runtime.hooks import tell_starter

        tell_starter(gate, failure)
    raise failure


def _kernels_proc() -> OwnedFd:
    """Return a procfs that is the kernel's own.

    In a user namespace the kernel may refuse a new one (mount_namespaces(7)); there it is the one that is mounted.
    """
    try:
        return rootfs.private_proc()
    except PermissionError:
        return rootfs.own_proc()


def _check_as(identity: Identity, program: Program, prepared: apply.PreparedPrivileges) -> None:
    """Look for the program as the container's user would: after the fifo nobody hears that it may not execute it."""
    if identity.uid == 0 or prepared.ambient:  # with capabilities of its own it may go where its id may not
        program.check()
        return
    groups = os.getgroups()
    os.setgroups(identity.groups)
    os.setresgid(-1, identity.gid, 0)
    os.setresuid(-1, identity.uid, 0)
    try:
        program.check()
    finally:
        os.setresuid(-1, 0, 0)
        os.setresgid(-1, 0, 0)
        os.setgroups(groups)
        set_dumpable(0)  # a change of ids has set it to fs.suid_dumpable


# The signal module's own function makes an enumeration member of every number: half a millisecond for all.
_RESETTABLE = tuple(
    sorted({int(number) for number in signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP, *RESERVED})
)


def reset_signals() -> None:
    """Give every signal its default action and an empty mask: Python ignores SIGPIPE and SIGXFSZ (threats.md J11)."""
    for number in _RESETTABLE:
        _signal.signal(number, signal.SIG_DFL)
    reset_reserved_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _process_limits(process: Process) -> None:
    if process.oom_score_adj is not None:
        from orlop.runtime.sysctl import write_proc

        write_proc("/proc/self/oom_score_adj", str(process.oom_score_adj))
    set_rlimits(process.rlimits)


def join_keyring() -> None:
    """Leave the inherited session keyring (threats.md C7)."""
    try:
        join_session_keyring()
    except OSError as error:
        # Without keys in the kernel (ENOSYS), or over root's quota of keys, the inherited keyring is masked and
        # keyctl refused by the default filter, which is how runc's --no-new-keyring runs.
        if error.errno not in {38, 122}:
            raise


def is_scheduled(process: Process, linux: Linux) -> bool:
    """Whether the configuration says how the program runs: what :mod:`orlop.runtime.scheduling` is for."""
    return (process.scheduler, process.io_priority, process.cpu_affinity, linux.personality, linux.memory_policy) != (
        None,
        None,
        None,
        None,
        None,
    )


def close_fds(fds: Iterable[int]) -> None:
    """Close the host's cgroup files as soon as they did their work (CVE-2016-9962)."""
    for fd in fds:
        os.close(fd)


def _await_go(sync: Channel) -> dict[int, list[OwnedFd]]:
    """Wait until the parent has done its part; returns the mounts that were made meanwhile."""
    trees: dict[int, list[OwnedFd]] = {}
    while True:
        got = sync.receive()
        if got is None:
            raise UnavailableError("shim is gone")
        message, fds = got
        places = message.get("trees")
        if isinstance(places, list):
            for place, fd in zip(places, fds, strict=True):
                if isinstance(place, int):
                    trees.setdefault(place, []).append(fd)
            continue
        if message.get("go") is True:
            return trees


def _await_start(fifo: int, *, hold: bool) -> int:
    """Block until somebody opens the fifo for reading; then write one byte (runc's exec.fifo).

    With ``hold`` return the fifo open: whoever started us waits for what is written to it, and for its end.
    """
    with rootfs.own_proc() as proc:
        os.fchdir(proc.fileno())  # no descriptor is held for as long as it takes
    fd = os.open(f"self/fd/{fifo}", os.O_WRONLY | os.O_CLOEXEC)
    os.chdir("/")
    os.close(fifo)
    if hold:
        return fd
    os.write(fd, b"0")
    os.close(fd)
    return -1


def _host_names(config: Config) -> None:
    if config.hostname:
        socket.sethostname(config.hostname)
    if config.domainname:
        k.setdomainname(config.domainname.encode())


def _make_working_directory(root_fd: int, cwd: str) -> None:
    """Make the working directory if it is missing, as Docker and runc do; what cannot be is told by chdir."""
    try:
        mkdir_all_in_root(root_fd, cwd).close()
    except (OSError, InvalidParameterError):
        return


def standard_streams(stdio: tuple[int, int, int], uid: int) -> None:
    """Make ``stdio`` 0, 1, 2, owned by ``uid`` as far as that can be.

    The null device is the host's own inode: giving it away would change the host for good (runc skips it too).
    """
    for fd in {*stdio}:
        if uid != 0 and os.fstat(fd).st_uid != uid and not is_char_device(fd, 1, 3):
            try:
                os.fchown(fd, uid, -1)
            except OSError:
                continue  # a read-only or foreign file system: runc goes on as well
    for number, fd in enumerate(stdio):
        os.dup2(fd, number, inheritable=True)
    for fd in {*stdio} - {0, 1, 2}:
        os.close(fd)
