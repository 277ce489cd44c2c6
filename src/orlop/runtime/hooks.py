"""Hooks of a configuration: who executes them, where, and what becomes of a failure (runtime-spec, "Lifecycle").

=================  ==========================================  =======================================================
hook               executed by                                 sees
=================  ==========================================  =======================================================
prestart           init's parent, after the root was built     the host
createRuntime      likewise, after those                       the host
createContainer    init, before pivot_root                     the container's namespaces, the host's tree
startContainer     init, before the program                    the container, with the container's privileges and filter
poststart          the command that started it                 the host
poststop           the command that deleted it                 the host
=================  ==========================================  =======================================================

A hook gets the container's state as JSON on standard input, the environment that its configuration gives it and no
descriptor but the three standard ones. It is a session leader, so that at its timeout all of it is killed. What it
writes is kept, the end of it, for the error. Only for configurations with hooks; see :mod:`orlop.runtime.loading`.
"""

from __future__ import annotations

import errno
import os
import select
import time

from orlop.errors import OrlopError, SystemFailureError
from orlop.kernel import process as k
from orlop.kernel.plain import signal
from orlop.primitives.json_text import dumps
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup, suppress
from orlop.runtime.forking import fork_worker
from orlop.runtime.init import reset_signals
from orlop.runtime.program import Program
from orlop.runtime.security import apply
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.kernel.seccomp import FilterProgram
    from orlop.runtime.container_state import ContainerState
    from orlop.runtime.security.apply import PreparedPrivileges
    from orlop.runtime.users import Identity
    from orlop.spec.oci.hooks import Hook, Hooks

# of what a hook writes, so much is kept for the error
_KEPT = 4096
_SHOWN = 400
# what a pipe holds (pipe(7)), in pieces of that size
_PIPE_CHUNKS = 16
# without pidfd_open, which a seccomp profile may refuse: how often to look whether the hook has ended
_LOOK_MS = 10
# namespaces that init's parent may have entered, or what its children are in: file, flag, where its children's is seen
_ENTERED = (
    ("pid", k.CLONE_NEWPID, "pid_for_children"),
    ("net", k.CLONE_NEWNET, "net"),
    ("ipc", k.CLONE_NEWIPC, "ipc"),
    ("uts", k.CLONE_NEWUTS, "uts"),
    ("cgroup", k.CLONE_NEWCGROUP, "cgroup"),
    ("time", k.CLONE_NEWTIME, "time_for_children"),
)
# what init writes to whoever started it: the program is next, or why not
STARTED = b"0"
FAILED = b"1"


class HostHooks:
    """The hooks around a container's creation that its parent executes; also the way back into its own namespaces."""

    def __init__(self, hooks: Hooks, state: ContainerState, stack: Cleanup) -> None:
        self._hooks = hooks
        self._state = state
        self._begun = False
        self._home: list[tuple[int, int, str]] = []
        for name, flag, children in _ENTERED:
            with suppress(FileNotFoundError):  # no time namespaces before Linux 5.6
                fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                self._home.append((fd, flag, children))

    def _go_home(self) -> None:
        """Leave what the parent has entered for init's sake; who has entered nothing may have no right to."""
        for fd, flag, name in self._home:
            if os.fstat(fd).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                k.setns(fd, flag)

    def before_pivot(self, pid: int) -> None:
        """Init has built the root: execute prestart and createRuntime.

        Raises:
            OrlopError: a hook failed; the container is to be undone.
        """
        self._begun = True
        self._go_home()
        state, cwd = _render(self._state, pid, "creating"), self._state.bundle
        run_hooks(self._hooks.prestart, "prestart", state, cwd=cwd)
        run_hooks(self._hooks.create_runtime, "createRuntime", state, cwd=cwd)

    def undone(self, warn: Callable[[str], None] | None) -> None:
        """Everything of a container that failed is gone: execute poststop, if any hook was executed before."""
        for failure in run_poststop(self._hooks.poststop, self._state) if self._begun else ():
            if warn is not None:
                warn(failure)


def _render(state: ContainerState, pid: int, status: str) -> bytes:
    return dumps(state.document(pid, status)).encode()


def run_poststop(hooks: Sequence[Hook], state: ContainerState) -> list[str]:
    """Execute all poststop hooks; returns what failed, which changes nothing (runtime-spec: a warning)."""
    failures = []
    rendered = _render(state, 0, "stopped")
    for place, hook in enumerate(hooks):
        try:
            _run(hook, f"poststop hook #{place}", rendered, cwd=state.bundle)
        except (OrlopError, OSError) as error:
            failures.append(str(error))
    return failures


@dataclass(frozen=True)
class StartHooks:
    """What init executes last before the program; the list is empty where only poststart's hooks are waiting."""

    hooks: Sequence[Hook]
    state: ContainerState


def run_before_pivot(hooks: Hooks, state: ContainerState) -> StartHooks | None:
    """In init, before pivot_root: execute createContainer's hooks; return what is to be executed at the start.

    Raises:
        OrlopError: one failed.
    """
    run_hooks(hooks.create_container, "createContainer", _render(state, os.getpid(), "creating"), cwd=state.bundle)
    return StartHooks(hooks.start_container, state) if hooks.start_container or hooks.poststart else None


def become_with_hooks(
    start: StartHooks, prepared: PreparedPrivileges, identity: Identity, cwd: bytes, *, keep: Sequence[int], gate: int
) -> None:
    """In init, in the place of :func:`apply_privileges`: drop privileges, execute startContainer, tell the starter.

    The hooks are files of the container, so they get what its program gets and no more: the same user, capabilities
    and filter. With no_new_privs the filter is loaded by each hook for itself and by init after them, as it may refuse
    what waiting for them takes; without, it has to be there before the capabilities go.

    Args:
        start: the hooks.
        prepared: the program's privileges.
        identity: the program's user.
        cwd: the program's working directory.
        keep: as for apply_privileges.
        gate: the writable end of the exec fifo, on which the starter waits; -1 when nobody does. It stays open up to
            execve: poststart comes after that.

    Raises:
        OrlopError: a hook failed; the starter knows it.
    """
    late = prepared.program if prepared.no_new_privileges else None
    kept = [*keep, gate] if gate >= 0 else keep
    try:
        apply.apply_privileges(replace(prepared, program=None) if late else prepared, identity, cwd, keep=kept)
        state = _render(start.state, os.getpid(), "created")
        run_hooks(start.hooks, "startContainer", state, cwd="/", program=late)
    except (OrlopError, OSError) as error:
        tell_starter(gate, error)
        raise
    if gate >= 0:
        os.write(gate, STARTED)
    if late is not None:
        late.install()


def tell_starter(gate: int, error: Exception) -> None:
    """Tell whoever waits on the exec fifo why the program is not executed."""
    if gate >= 0:
        with suppress(OSError):
            os.write(gate, FAILED + str(error).encode(errors="backslashreplace")[: _KEPT - 1])


def run_hooks(
    hooks: Sequence[Hook], name: str, state: bytes, *, cwd: str, program: FilterProgram | None = None
) -> None:
    """Execute hooks one after another, up to the first that fails.

    Raises:
        SystemFailureError: one could not be executed, ended with another status than 0, or took too long.
    """
    for place, hook in enumerate(hooks):
        _run(hook, f"{name} hook #{place}", state, cwd=cwd, program=program)


def _run(hook: Hook, name: str, state: bytes, *, cwd: str, program: FilterProgram | None = None) -> None:
    executed = Program(hook.args, hook.env, path=hook.path)
    with Cleanup() as always:
        document = always.enter_context(_document(state))
        output, output_writer = _pipe(always)
        failure, failure_writer = _pipe(always)
        ends = (document.fileno(), output_writer.fileno(), failure_writer.fileno())
        pid = fork_worker(lambda: _become(executed, cwd or "/", ends, program))
        output_writer.close()
        failure_writer.close()
        text = bytearray()
        try:
            ended = _wait(pid, output.fileno(), text, hook.timeout)
        finally:
            code = _end(pid)
        number = os.read(failure.fileno(), 4)
        if number:
            reason = os.strerror(int.from_bytes(number, "little")).lower()
            raise SystemFailureError(f"error running {name}: exec {hook.path}: {reason}")
        if not ended:
            raise SystemFailureError(f"error running {name}: took longer than {hook.timeout} s{_shown(text)}")
        if code:
            how = f"exit status {code}" if code > 0 else f"killed by signal {-code}"
            raise SystemFailureError(f"error running {name}: {how}{_shown(text)}")


def _document(state: bytes) -> OwnedFd:
    """Return the state as a file to read: no writer has to wait for a hook that does not read."""
    document = OwnedFd(os.memfd_create("container-state", os.MFD_CLOEXEC))
    view = memoryview(state)
    while view:
        view = view[os.write(document.fileno(), view) :]
    os.lseek(document.fileno(), 0, os.SEEK_SET)
    return document


def _pipe(stack: Cleanup) -> tuple[OwnedFd, OwnedFd]:
    """Return a pipe whose reader does not wait."""
    reader, writer = (stack.enter_context(OwnedFd(fd)) for fd in os.pipe2(os.O_CLOEXEC))
    os.set_blocking(reader.fileno(), False)
    return reader, writer


def _become(executed: Program, cwd: str, ends: tuple[int, int, int], program: FilterProgram | None) -> None:
    """In the child: become the hook, or write errno to the third of ``ends``."""
    document, output, failure = ends
    try:
        os.setsid()
        for source, target in ((document, 0), (output, 1), (output, 2)):
            os.dup2(source, target, inheritable=True)
        k.close_all_but([failure])
        reset_signals()
        os.umask(0o022)
        os.chdir(cwd)
        if program is not None:
            program.install()
        number = executed.execute()
    except OSError as error:
        number = error.errno or errno.EIO
    os.write(failure, number.to_bytes(4, "little"))


def _wait(pid: int, output: int, text: bytearray, timeout: int | None) -> bool:
    """Wait until the hook has ended, keeping the end of what it writes; False when it took too long."""
    deadline = None if timeout is None else time.monotonic() + timeout
    poller = select.poll()
    poller.register(output, select.POLLIN)
    with Cleanup() as always:
        pidfd = -1
        with suppress(OSError):
            pidfd = always.enter_context(OwnedFd(k.pidfd_open(pid))).fileno()
            poller.register(pidfd, select.POLLIN)
        while True:
            left = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
            pause = left if pidfd >= 0 else min(_LOOK_MS, _LOOK_MS if left is None else left)
            ready = [fd for fd, _ in poller.poll(pause)]
            if output in ready and not _read(output, text):
                poller.unregister(output)  # it has closed its output, and runs on
            if pidfd in ready or (pidfd < 0 and _has_ended(pid)):
                for _ in range(_PIPE_CHUNKS):  # and no more: what it left running may write for ever
                    if not _read(output, text):
                        break
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False


def _read(output: int, text: bytearray) -> bool:
    """Take what there is; False at the end and when there is nothing."""
    try:
        data = os.read(output, _KEPT)
    except BlockingIOError:
        return False
    text += data
    del text[:-_KEPT]
    return bool(data)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(pid: int) -> int:
    """Kill what is left of the hook's process group and collect it; returns its exit code, -n after signal n."""
    if not _has_ended(pid):
        for kill in (os.killpg, os.kill):  # the group is there from setsid on
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _shown(text: bytearray) -> str:
    """Return the end of a hook's output as part of one line."""
    shown = " ".join(text.decode(errors="backslashreplace").split())[-_SHOWN:]
    printable = "".join(character if character.isprintable() else "?" for character in shown)
    return f": {printable}" if printable else ""
