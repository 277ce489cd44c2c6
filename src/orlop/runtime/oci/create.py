"""``create`` and ``run``: from a bundle to a process."""

from __future__ import annotations

import os
import time

from orlop.errors import ConflictError, InvalidParameterError, OrlopError
from orlop.kernel.prctl import set_child_subreaper
from orlop.kernel.process import outer_uid, start_time
from orlop.primitives.atomic import write_atomic
from orlop.primitives.scope import Cleanup, suppress
from orlop.runtime import container
from orlop.runtime.cgroups import normalise_path, open_cgroup, require_systemd
from orlop.runtime.cgroups.path import is_scope
from orlop.runtime.importing import Blocker
from orlop.runtime.loading import load_for
from orlop.runtime.oci import control
from orlop.runtime.oci.bundle import Bundle, check_console, enter_bundle, listening_fds, preserved_fds
from orlop.runtime.oci.foreground import Signals, wait_in_foreground
from orlop.runtime.oci.main import complete_code
from orlop.runtime.oci.state import NOTIFY_VARIABLE, ROOT_TARGET, State
from orlop.spec.oci import SPEC_VERSION, Root
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.container import RunningProcess
    from orlop.runtime.oci.command import Invocation
    from orlop.runtime.oci.notify import Notifications
    from orlop.spec.oci import Process


def create(invocation: Invocation) -> int:
    """Make the container up to the point where its program would be executed."""
    with _Creation(invocation, waits=True, detached=True) as creation:
        creation.make()
        creation.record()
    return 0


def run(invocation: Invocation) -> int:
    """Create and start; unless detached wait for the end, return the program's status and delete the container."""
    options = invocation.options
    if options.switch("detach"):
        creation, running = _start(invocation, detached=True)
        if creation.notifications is not None:
            creation.notifications.wait(running.pid, running.pidfd.fileno())
        return 0
    if not options.switch("no-subreaper"):
        set_child_subreaper(True)
    with Signals() as signals:
        creation, running = _start(invocation, detached=False)
        master = None if running.master is None else running.master.fileno()
        code = wait_in_foreground(running.pid, running.pidfd.fileno(), master, signals, creation.notifications)
        reap_orphans()
        if not options.switch("keep"):
            control.destroy(invocation, creation.state)
    return code


def _start(invocation: Invocation, *, detached: bool) -> tuple[_Creation, RunningProcess]:
    with _Creation(invocation, waits=False, detached=detached) as creation:
        running = creation.make()
        creation.record()
    control.after_start(invocation, creation.state)
    return creation, running


def reap_orphans() -> None:
    """Collect what the subreaper was given."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class _Creation:
    """One container being made; leaving the block by an error undoes everything."""

    state: State

    def __init__(self, invocation: Invocation, *, waits: bool, detached: bool) -> None:
        self._invocation = invocation
        self._identity = invocation.arguments[0]
        self._waits = waits
        self._detached = detached
        self._undo = Cleanup()
        self.notifications: Notifications | None = None
        self._running: RunningProcess | None = None
        invocation.store.directory(self._identity)
        # before the bundle is entered: these are relative to where we were called
        options = invocation.options
        self._pid_file = os.path.abspath(options.text("pid-file")) if options.text("pid-file") else ""
        self._console = os.path.abspath(options.text("console-socket")) if options.text("console-socket") else ""
        self._preserved = preserved_fds(options)
        self._bundle: Bundle = enter_bundle(options)
        check_console(self._console, terminal=self._bundle.process.terminal, detached=detached)
        self._cgroup = cgroup_reference(invocation, self._bundle)

    def __enter__(self) -> _Creation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            self._undo.dismiss()
        else:
            self._undo.close()

    def make(self) -> RunningProcess:
        """Claim the id, make the container, hand its terminal over."""
        store, bundle, identity = self._invocation.store, self._bundle, self._identity
        directory = store.claim(identity)
        self._undo.callback(store.remove, identity)
        os.mkdir(f"{directory}/{ROOT_TARGET}", 0o700)
        intend(self._invocation, bundle, self._cgroup)
        fifo = store.make_gate(identity) if self._waits else None
        readonly = bundle.config.root is not None and bundle.config.root.readonly
        config = replace(bundle.config, root=Root(bundle.rootfs, readonly), process=_process(bundle))
        if os.environ.get(NOTIFY_VARIABLE):
            from orlop.runtime.oci.notify import with_notifications

            config = with_notifications(config, directory)
        creation = container.Creation(
            id=identity,
            config=replace(config, linux=replace(config.linux, cgroups_path=self._cgroup)),
            root_target=bundle.rootfs if _is_looked_for(bundle) else f"{directory}/{ROOT_TARGET}",
            stdio=None if bundle.process.terminal else (0, 1, 2),
            fifo=fifo,
            preserve=len(self._preserved),
            new_keyring=not self._invocation.options.switch("no-new-keyring"),
            die_with_parent=not self._detached,
            bundle=bundle.directory,
            warn=self._invocation.log.warning,
            caller=self._invocation.caller,
            needs_cgroup=not self._invocation.forgives_cgroups or _needs_cgroup(bundle),
            meanwhile=lambda _: keep_configuration(self._invocation, bundle),
        )
        try:
            hierarchies = self._invocation.hierarchies
            if bundle.config.hooks is not None:
                import orlop.runtime.oci.hooks  # noqa: F401 - while imports may be made
            load_for(
                creation.config,
                bundle.process,
                cgroup_version=hierarchies.version,
                without_cgroup=not creation.needs_cgroup,
                confined=creation.caller.confined,
            )
            complete_code()
            if os.environ.get(NOTIFY_VARIABLE) and not self._waits:
                from orlop.runtime.oci.notify import Notifications

                self.notifications = Notifications(directory, os.environ[NOTIFY_VARIABLE])
                self._undo.callback(self.notifications.close)
            Blocker().install()
            running = container.create(creation, hierarchies)
        except OrlopError as error:
            raise type(error)(f"unable to start container process: {error}") from error
        finally:
            if fifo is not None:
                os.close(fifo)
        self._running = running
        self._undo.callback(_remove, running)
        if running.master is not None and self._detached:
            from orlop.runtime.oci.console import send_console

            send_console(self._console, running.master.fileno(), "/dev/ptmx")
            running.master.close()
        return running

    def record(self) -> None:
        """Write the state and the pid file."""
        if self._running is None:
            raise ConflictError("container does not exist")
        cgroup = self._running.cgroup.reference
        self.state = record(self._invocation, self._bundle, cgroup, self._running.pid, self._pid_file)


def intend(invocation: Invocation, bundle: Bundle, cgroup: str) -> None:
    """Write down what is about to exist: when this process is killed, ``delete --force`` finds the cgroup.

    Not where there is such a cgroup already, which may be another container's.
    """
    if is_scope(cgroup):
        return  # systemd removes a scope with its last process
    directories = open_cgroup(invocation.hierarchies, cgroup).directories().values()
    if not any(os.path.exists(directory) for directory in directories):
        invocation.store.save(_state(invocation, bundle, cgroup, 0))


def _state(invocation: Invocation, bundle: Bundle, cgroup: str, pid: int) -> State:
    return State(
        id=invocation.arguments[0],
        pid=pid,
        start_time=start_time(pid) if pid else 0,
        bundle=bundle.directory,
        rootfs=bundle.rootfs,
        created=_now(),
        cgroup=cgroup,
        owner=os.geteuid(),
        version=SPEC_VERSION,
        annotations=bundle.config.annotations,
    )


def keep_configuration(invocation: Invocation, bundle: Bundle) -> None:
    """Write the configuration down for later verbs, whatever becomes of the bundle. Raises OSError."""
    directory = invocation.store.directory(invocation.arguments[0])
    write_atomic(f"{directory}/config.json", bundle.data, 0o600)


def record(invocation: Invocation, bundle: Bundle, cgroup: str, pid: int, pid_file: str) -> State:
    """Write the state, and the pid file last: who waits for it finds the container complete. Raises OSError."""
    state = _state(invocation, bundle, cgroup, pid)
    store = invocation.store
    if bundle.config.hooks is not None:
        from orlop.runtime.oci.hooks import record_hooks

        record_hooks(store.directory(state.id), bundle.config.hooks, bundle.data)
    store.save(state)
    if pid_file:
        write_atomic(pid_file, str(pid).encode(), 0o644)
    return state


def cgroup_reference(invocation: Invocation, bundle: Bundle) -> str:
    """Return where the container's cgroup will be, by the driver that was asked for."""
    systemd = invocation.settings.switch("systemd-cgroup")
    path = bundle.config.linux.cgroups_path
    user = None
    if systemd:
        require_systemd(invocation.hierarchies)
        if "@" in path:  # which is how we remember whose a scope is
            raise InvalidParameterError(f"invalid cgroup path: {path!r:.200}")
        user = outer_uid() if invocation.caller.confined else None
    return normalise_path(path, container_id=invocation.arguments[0], systemd=systemd, user=user)


def _needs_cgroup(bundle: Bundle) -> bool:
    """Whether an ordinary user asked for a cgroup."""
    from orlop.runtime.rootless import wants_no_cgroup

    return not wants_no_cgroup(bundle.config)


def _is_looked_for(bundle: Bundle) -> bool:
    """Whether hooks look for the container's root: they find it where their configuration says it is."""
    return bundle.config.hooks is not None and bundle.config.hooks.before_pivot


def _process(bundle: Bundle) -> Process:
    """Return what is run; it is told of sockets that it inherits (sd_listen_fds(3)): its pid is 1."""
    count = listening_fds()
    if not count:
        return bundle.process
    return replace(bundle.process, env=(*bundle.process.env, f"LISTEN_FDS={count}", "LISTEN_PID=1"))


def _remove(running: RunningProcess) -> None:
    container.kill_and_reap(running.pidfd)
    running.cgroup.kill()
    running.cgroup.remove()


def _now() -> str:
    """Return the time as runc writes it: RFC 3339 with nanoseconds, UTC."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09}Z"
