"""``restore``: a container from the files of a checkpoint, by criu, which makes its namespaces, mounts and processes.

What is ours is around it: the cgroup that criu works in, the root file system, mounted in a mount namespace of this
process (so that the host's table stays as it is), the standard streams and the terminal.
"""

from __future__ import annotations

import fcntl
import os

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel import mount as k
from orlop.kernel import process as processes
from orlop.kernel.plain import signal
from orlop.kernel.prctl import set_child_subreaper
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup, suppress
from orlop.runtime.cgroups import create_cgroup
from orlop.runtime.oci import control, criu
from orlop.runtime.oci.bundle import check_console, enter_bundle
from orlop.runtime.oci.create import cgroup_reference, intend, keep_configuration, reap_orphans, record
from orlop.runtime.oci.document import read_document
from orlop.runtime.oci.foreground import Signals, wait_in_foreground
from orlop.runtime.oci.images import (
    DESCRIPTORS,
    EXTERNAL_MOUNTS,
    common_options,
    external_mounts,
    foreign_namespaces,
    image_directory,
    open_directory,
    work_directory,
)
from orlop.runtime.oci.state import ROOT_TARGET
from orlop.runtime.security.lsm import apparmor_enabled, selinux_enabled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.protobuf.wire import Value
    from orlop.runtime.cgroups.contract import CgroupSet
    from orlop.runtime.hooks import HostHooks
    from orlop.runtime.oci.bundle import Bundle
    from orlop.runtime.oci.command import Invocation
    from orlop.runtime.oci.options import Parsed
    from orlop.runtime.oci.state import State
    from orlop.spec.oci.hooks import Hooks

_TERMINAL = "orphan-pts-master"
_NAMESPACES = "setup-namespaces"


def restore(invocation: Invocation) -> int:
    """Start a container from a checkpoint; unless detached wait for its end and return its status.

    Raises:
        InvalidParameterError: no bundle, or no images.
        ConflictError: there is a container of that name.
        UnavailableError: there is no criu.
        SystemFailureError: criu failed; nothing is left.
    """
    options = invocation.options
    # before the bundle is entered: these are relative to where we were called
    images, work = image_directory(options), work_directory(options)
    pid_file = os.path.abspath(options.text("pid-file")) if options.text("pid-file") else ""
    console = os.path.abspath(options.text("console-socket")) if options.text("console-socket") else ""
    detached = options.switch("detach")
    bundle = enter_bundle(options)
    if not os.path.isdir(images):
        raise InvalidParameterError(f"image directory does not exist: {images}")
    check_console(console, terminal=bundle.process.terminal, detached=detached)
    restoring = _Restoring(invocation, bundle, console if detached else "")

    def made() -> tuple[State, OwnedFd]:
        with restoring:
            pid, pidfd = restoring.make(images, work)
            keep_configuration(invocation, bundle)
            state = record(invocation, bundle, restoring.reference, pid, pid_file)
        control.after_start(invocation, state)
        return state, pidfd

    if detached:
        made()
        return 0
    if not options.switch("no-subreaper"):
        set_child_subreaper(True)
    with Signals() as signals:
        state, pidfd = made()
        master = None if restoring.master is None else restoring.master.fileno()
        code = wait_in_foreground(state.pid, pidfd.fileno(), master, signals)
        reap_orphans()
        control.destroy(invocation, state)
    return code


class _Restoring:
    """One container being restored; leaving the block by an error undoes everything."""

    def __init__(self, invocation: Invocation, bundle: Bundle, console: str) -> None:
        self._invocation = invocation
        self._bundle = bundle
        self._console = console
        self._undo = Cleanup()
        self.reference = cgroup_reference(invocation, bundle)
        self.master: OwnedFd | None = None
        self._executed: HostHooks | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            self._undo.dismiss()
        else:
            self._undo.close()

    def make(self, images: str, work: str) -> tuple[int, OwnedFd]:
        """Have criu restore it; returns the pid of its init, a child, and a pidfd."""
        invocation, bundle = self._invocation, self._bundle
        store, identity = invocation.store, invocation.arguments[0]
        directory = store.claim(identity)
        self._undo.callback(self._poststop)
        self._undo.callback(store.remove, identity)
        target = f"{directory}/{ROOT_TARGET}"
        os.mkdir(target, 0o700)
        intend(invocation, bundle, self.reference)
        cgroup = create_cgroup(invocation.hierarchies, self.reference, bundle.config.linux.resources)
        self._undo.callback(cgroup.remove)
        self._undo.callback(cgroup.kill)
        cgroup.close()
        with Cleanup() as stack:
            self._outside = _Place(stack)
            stack.callback(self._outside.enter)
            _mount_root(bundle.rootfs, target)
            stack.callback(k.umount2, target, k.MNT_DETACH)
            self._within = _Place(stack)
            namespaces = [(key, _inherited(path, stack)) for _, key, path in foreign_namespaces(bundle.config)]
            process = stack.enter_context(criu.Criu(invocation.settings.text("criu") or "criu"))
            _enter(process.pid, cgroup)
            os.makedirs(work, 0o700, exist_ok=True)
            images_fd, work_fd = (stack.enter_context(open_directory(place)).fileno() for place in (images, work))
            wanted = common_options(invocation.options, images_fd, work_fd, "restore.log")
            wanted += [(criu.ROOT, target), (criu.RST_SIBLING, 1)]
            wanted += _security(invocation.options)
            if invocation.options.text("manage-cgroups-mode") != "ignore":
                # whatever the dumped container's cgroup was called, in every hierarchy
                wanted.append((criu.CG_ROOT, [(2, cgroup.path)]))
            wanted += _outside(bundle, cgroup, images)
            wanted += [(criu.INHERIT_FD, [(1, key), (2, fd)]) for key, fd in namespaces]
            invocation.log.trace(f"criu reads from {images} and logs to {work}/restore.log")
            pid = process.request(criu.RESTORE, wanted, self._notified, log=f"{work}/restore.log")
        pidfd = OwnedFd(processes.pidfd_open(pid))
        self._undo.callback(_end, pidfd)
        return pid, pidfd

    def _notified(self, script: str, pid: int, fds: list[int]) -> None:
        if script == _NAMESPACES and self._bundle.config.hooks is not None:
            self._execute_hooks(self._bundle.config.hooks, pid)
        for fd in fds:
            if script != _TERMINAL or self.master is not None:
                os.close(fd)
                continue
            self.master = OwnedFd(fd)
            if self._console:
                from orlop.runtime.oci.console import send_console

                send_console(self._console, fd, "/dev/ptmx")

    def _execute_hooks(self, hooks: Hooks, pid: int) -> None:
        """Execute prestart's and createRuntime's hooks where they are executed at a creation: on the host.

        What those of createContainer and startContainer did is in the images.

        Raises:
            OrlopError: one failed.
        """
        from orlop.runtime.container_state import ContainerState
        from orlop.runtime.hooks import HostHooks

        config = self._bundle.config
        state = ContainerState(self._invocation.arguments[0], self._bundle.directory, config.annotations)
        with Cleanup() as stack:
            self._executed = executed = HostHooks(hooks, state, stack)
            stack.callback(self._within.enter)
            self._outside.enter()
            executed.before_pivot(pid)

    def _poststop(self) -> None:
        if self._executed is not None:
            self._executed.undone(self._invocation.log.warning)


class _Place:
    """This process' mount namespace, root and working directory, to come back to."""

    def __init__(self, stack: Cleanup) -> None:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._namespace = stack.enter_context(OwnedFd(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)))
        self._root = stack.enter_context(OwnedFd(os.open("/", flags)))
        self._directory = stack.enter_context(OwnedFd(os.open(".", flags)))

    def enter(self) -> None:
        """Come back. Entering a mount namespace alone would put us at its root, whatever ours was."""
        processes.setns(self._namespace.fileno(), processes.CLONE_NEWNS)
        os.fchdir(self._root.fileno())
        os.chroot(".")
        os.fchdir(self._directory.fileno())


def _end(pidfd: OwnedFd) -> None:
    with suppress(ProcessLookupError):
        processes.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED)
    pidfd.close()


def _mount_root(rootfs: str, target: str) -> None:
    """Mount the root in a mount namespace of this process and what it starts: criu wants a mount point."""
    processes.unshare(processes.CLONE_NEWNS)
    k.mount(None, "/", None, k.MS_SLAVE | k.MS_REC)
    k.mount(rootfs, target, None, k.MS_BIND | k.MS_REC)
    k.mount(None, target, None, k.MS_PRIVATE | k.MS_REC)


def _inherited(path: str, stack: Cleanup) -> int:
    """Open a namespace for criu, which gets the descriptor under the same number."""
    fd = stack.enter_context(OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))).fileno()
    if fd <= criu.SOCKET_FD:
        fd = stack.enter_context(OwnedFd(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, criu.SOCKET_FD + 1))).fileno()
    os.set_inheritable(fd, True)
    return fd


def _enter(pid: int, cgroup: CgroupSet) -> None:
    """Have criu, and so all that it makes, within the container's limits."""
    for directory in cgroup.directories().values():
        with open(f"{directory}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(pid))


def _security(options: Parsed) -> list[tuple[int, Value]]:
    """Return the labels to restore with. Raises InvalidParameterError: this machine has no such security module."""
    wanted: list[tuple[int, Value]] = []
    profile, context = options.text("lsm-profile"), options.text("lsm-mount-context")
    if profile:
        kind, colon, _ = profile.partition(":")
        enabled = {"apparmor": apparmor_enabled, "selinux": selinux_enabled}.get(kind)
        if not colon or enabled is None or not enabled():
            raise InvalidParameterError(f"LSM profile cannot be applied on this host: {profile}")
        wanted.append((criu.LSM_PROFILE, profile))
    if context:
        if not selinux_enabled():
            raise InvalidParameterError(f"SELinux is not supported on this host, but a label is set: {context}")
        wanted.append((criu.LSM_MOUNT_CONTEXT, context))
    return wanted


def _outside(bundle: Bundle, cgroup: CgroupSet, images: str) -> list[tuple[int, Value]]:
    """Name what stands for the mounts and streams that the dumped container had of its host."""
    places = _texts(f"{images}/{EXTERNAL_MOUNTS}")
    external = external_mounts(bundle.config, cgroup.directories(), places)
    missing = [place for place in places if place not in external]
    if missing:
        raise SystemFailureError(f"the configuration has no mount for the checkpoint's: {missing[0]}")
    wanted: list[tuple[int, Value]] = [(criu.EXTERNAL, f"mnt[{place}]:{source}") for place, source in external.items()]
    for number, name in enumerate(_texts(f"{images}/{DESCRIPTORS}")[:3]):
        if name.startswith(("pipe:", "file[")):
            wanted.append((criu.INHERIT_FD, [(1, name), (2, number)]))
    return wanted


def _texts(path: str) -> list[str]:
    document = read_document(path)
    if not isinstance(document, list):
        raise InvalidParameterError(f"expected an array: {path}")
    return [str(item) for item in document]
