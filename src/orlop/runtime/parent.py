"""What init's parent does for it while it builds the container: hooks, network devices, a seccomp listener.

Only for configurations that have any of these; see :mod:`orlop.runtime.loading`.
"""

from __future__ import annotations

import os

from orlop.errors import SystemFailureError
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.container_state import ContainerState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.primitives.channel import Channel
    from orlop.primitives.scope import Cleanup
    from orlop.runtime.container import Creation
    from orlop.runtime.hooks import HostHooks
    from orlop.runtime.seccomp_listener import Agent

    Handler = Callable[[list[OwnedFd]], None]


class Parent:
    """One container's parent: made before clone3, since what may fail is to fail without a container.

    Args:
        creation: what is created.
        always: closes what is opened.
        on_failure: undoes what is done; what is added now happens after the container is gone.
    """

    def __init__(self, creation: Creation, always: Cleanup, on_failure: Cleanup) -> None:
        config = creation.config
        self._devices = config.linux.net_devices
        self._always, self._on_failure = always, on_failure
        self.state = ContainerState(creation.id, creation.bundle, config.annotations)
        self._hooks: HostHooks | None = None
        if config.hooks is not None:
            from orlop.runtime.hooks import HostHooks

            self._hooks = HostHooks(config.hooks, self.state, always)
            on_failure.callback(self._hooks.undone, creation.warn)
        self._seccomp = config.linux.seccomp

    @property
    def pauses(self) -> bool:
        """Whether init has to wait for us before pivot_root."""
        return bool(self._devices) or self._hooks is not None

    def handlers(self, sync: Channel, pid: int) -> dict[str, Handler]:
        """Return what is to be done on init's messages, by their keys."""
        found: dict[str, Handler] = {"built": lambda _: self._built(sync, pid)}
        if self._seccomp is not None and self._seccomp.notifies:
            from orlop.runtime.seccomp_listener import MESSAGE, Agent

            agent = Agent(self._seccomp, self.state.document(pid, "creating"))
            found[MESSAGE] = lambda fds: deliver(agent, pid, fds)
        return found

    def _built(self, sync: Channel, pid: int) -> None:
        if self._devices:
            from orlop.runtime.net_devices import MovedDevices

            netns = OwnedFd(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            moved = MovedDevices(netns)
            self._always.callback(moved.close)
            self._on_failure.callback(moved.give_back)  # before init is killed, and its namespace with it
            moved.move(self._devices)
        if self._hooks is not None:
            self._hooks.before_pivot(pid)
        sync.send({"go": True})


def deliver(agent: Agent, pid: int, fds: list[OwnedFd]) -> None:
    """Hand the one descriptor of a message to the agent. Raises OrlopError."""
    if len(fds) != 1:
        raise SystemFailureError("seccomp listener did not come")
    agent.deliver(pid, fds.pop())
