"""Verbs on containers that exist: start, kill, pause, resume, delete."""

from __future__ import annotations

import os
import time

from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.kernel.plain import signal
from orlop.kernel.process import pidfd_open, pidfd_send_signal
from orlop.runtime.cgroups import open_cgroup
from orlop.runtime.oci.state import HOOKS, NOTIFY, NOTIFY_VARIABLE, State, is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.cgroups.contract import CgroupSet
    from orlop.runtime.oci.command import Invocation
    from orlop.runtime.oci.notify import Notifications
    from orlop.spec.oci.hooks import Hooks

# how long a killed container may take to disappear, as in runc
_DEATH_SECONDS = 10.0


def kill(invocation: Invocation) -> int:
    """Send a signal to init, or with ``--all`` to everything in the container."""
    identity, *rest = invocation.arguments
    state = invocation.store.load(identity)
    number = parse_signal("".join(rest) or "SIGTERM")
    if invocation.options.switch("all") and state.cgroup:  # without one, what there is ends with init
        _signal_all(open_cgroup(invocation.hierarchies, state.cgroup), number)
        return 0
    signal_init(state, number)
    if number == signal.SIGKILL:
        _thaw_for_death(invocation, state)
    return 0


def signal_init(state: State, number: int) -> None:
    """Signal init by a pidfd whose identity was verified after it was opened (threats.md A11).

    Raises:
        ConflictError: it does not run.
    """
    try:
        pidfd = pidfd_open(state.pid)
    except ProcessLookupError:
        raise ConflictError("container not running") from None
    try:
        if not is_alive(state):
            raise ConflictError("container not running")
        pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise ConflictError("container not running") from None
    finally:
        os.close(pidfd)


def _thaw_for_death(invocation: Invocation, state: State) -> None:
    """A frozen process cannot die of the signal that it was sent."""
    cgroup = open_cgroup(invocation.hierarchies, state.cgroup)
    if cgroup.frozen():
        cgroup.thaw()


def _signal_all(cgroup: CgroupSet, number: int) -> None:
    if number == signal.SIGKILL:
        cgroup.kill()
        return
    pids = cgroup.pids()
    if not pids:
        return
    # nothing exits while it is frozen, so no number can come to mean another process
    cgroup.freeze()
    try:
        for pid in cgroup.pids():
            os.kill(pid, number)
    finally:
        cgroup.thaw()


def parse_signal(text: str) -> int:
    """Return the number of ``9``, ``KILL`` or ``SIGKILL``; 0 only asks. Raises InvalidParameterError."""
    import signal  # the enumeration of names, which plain integers do not have

    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= signal.SIGRTMAX:
        return int(text)
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    member = signal.Signals.__members__.get(name)
    if member is not None:
        return int(member)
    for base, first in (("SIGRTMIN+", int(signal.SIGRTMIN)), ("SIGRTMAX-", int(signal.SIGRTMAX))):
        offset = name.removeprefix(base)
        if offset != name and offset.isascii() and offset.isdigit() and len(offset) <= 2:
            number = first + int(offset) if base.endswith("+") else first - int(offset)
            if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                return number
    raise InvalidParameterError(f'unknown signal "{text}"')


def pause(invocation: Invocation) -> int:
    """Freeze a created or running container."""
    state = invocation.store.load(invocation.arguments[0])
    if invocation.store.status(state, invocation.hierarchies) not in ("created", "running"):
        raise ConflictError("container not running")
    open_cgroup(invocation.hierarchies, state.cgroup).freeze()
    return 0


def resume(invocation: Invocation) -> int:
    """Thaw a paused container."""
    state = invocation.store.load(invocation.arguments[0])
    if invocation.store.status(state, invocation.hierarchies) != "paused":
        raise ConflictError("container not paused")
    open_cgroup(invocation.hierarchies, state.cgroup).thaw()
    return 0


def start(invocation: Invocation) -> int:
    """Let a created container execute its program."""
    state = invocation.store.load(invocation.arguments[0])
    status = invocation.store.status(state, invocation.hierarchies)
    if status == "stopped":
        raise ConflictError("cannot start a container that has stopped")
    if status == "creating":
        raise ConflictError("cannot start a container that is being created")
    if status == "running":
        raise ConflictError("cannot start an already running container")
    if status == "paused":
        raise ConflictError("cannot start a container in the paused state")
    hooks = _hooks(invocation, state)
    notifications = _notifications(invocation, state)
    try:
        invocation.store.open_gate(state, until_executed=hooks is not None)
    except SystemFailureError:  # of a container with hooks
        destroy(invocation, state)
        raise
    after_start(invocation, state)
    if notifications is not None:
        _await_ready(notifications, state)
    return 0


def _notifications(invocation: Invocation, state: State) -> Notifications | None:
    """Listen for the program's readiness where a service manager asked for it, at create and now."""
    directory, manager = invocation.store.directory(state.id), os.environ.get(NOTIFY_VARIABLE)
    if not manager or not os.path.isdir(f"{directory}/{NOTIFY}"):
        return None
    from orlop.runtime.oci.notify import Notifications

    return Notifications(directory, manager)


def _await_ready(notifications: Notifications, state: State) -> None:
    try:
        pidfd = pidfd_open(state.pid)
    except ProcessLookupError:
        notifications.relay(state.pid)  # it may have said so before its end
        return
    try:
        if is_alive(state):
            notifications.wait(state.pid, pidfd)
        else:
            notifications.relay(state.pid)
    finally:
        os.close(pidfd)


def after_start(invocation: Invocation, state: State) -> None:
    """Execute what the configuration wants after the start; when that fails the container is destroyed."""
    hooks = _hooks(invocation, state)
    if hooks is None:
        return
    from orlop.runtime.oci.hooks import execute_poststart

    try:
        execute_poststart(hooks, state)
    except (OrlopError, OSError):
        destroy(invocation, state)
        raise


def _hooks(invocation: Invocation, state: State) -> Hooks | None:
    path = f"{invocation.store.directory(state.id)}/{HOOKS}"
    if not os.path.exists(path):
        return None
    from orlop.runtime.oci.hooks import load_hooks

    return load_hooks(path)


def delete(invocation: Invocation) -> int:
    """Remove what is left of a stopped or created container; with ``--force`` of any."""
    identity = invocation.arguments[0]
    force = invocation.options.switch("force")
    try:
        state = invocation.store.load(identity)
    except NotFoundError:
        if not force:
            raise
        # a directory without a state is a create that was killed
        invocation.store.remove(identity)
        return 0
    status = invocation.store.status(state, invocation.hierarchies)
    if status not in ("stopped", "created") and not force:
        raise ConflictError(f"cannot delete container {identity} that is not stopped: {status}")
    destroy(invocation, state)
    return 0


def destroy(invocation: Invocation, state: State) -> None:
    """Kill everything of a container, remove its cgroup and directory, execute its poststop hooks."""
    hooks = _hooks(invocation, state)
    cgroup = open_cgroup(invocation.hierarchies, state.cgroup)
    if is_alive(state):
        try:
            signal_init(state, signal.SIGKILL)
        except ConflictError:
            pass
        else:
            _thaw_for_death(invocation, state)
            _wait_for_death(state)
    cgroup.kill()
    cgroup.remove()
    invocation.store.remove(state.id)
    if hooks is not None:
        from orlop.runtime.oci.hooks import execute_poststop

        execute_poststop(hooks, state, invocation.log)


def _wait_for_death(state: State) -> None:
    deadline = time.monotonic() + _DEATH_SECONDS
    delay = 0.0005
    while is_alive(state):
        if time.monotonic() > deadline:
            raise ConflictError("container init still running")
        time.sleep(delay)
        delay = min(2 * delay, 0.05)
