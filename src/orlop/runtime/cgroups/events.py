"""Seeing the OOM killer at work."""

from __future__ import annotations

import errno
import os

from orlop.kernel import eventfd, inotify
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.cgroups.files import read_text, write_text


class OomEventsV1:
    """An eventfd registered with memory.oom_control (cgroup-v1/memory.rst, "OOM Control").

    The event means that the limit was hit; whether something was killed is the ``oom_kill`` counter of the same file.
    """

    __slots__ = ("_control", "_event")

    def __init__(self, directory: str) -> None:
        self._event = OwnedFd(eventfd.eventfd())
        try:
            self._control = OwnedFd(os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self._event.close()
            raise
        try:
            write_text(f"{directory}/cgroup.event_control", f"{self._event.fileno()} {self._control.fileno()}")
        except BaseException:
            self.close()
            raise

    @classmethod
    def adopt(cls, event: OwnedFd, control: OwnedFd) -> OomEventsV1:
        """Take over the descriptors of a watch that another process made."""
        events = cls.__new__(cls)
        events._event, events._control = event, control  # noqa: SLF001 - its own
        return events

    def descriptors(self) -> tuple[int, ...]:
        """Return what :meth:`adopt` takes."""
        return self._event.fileno(), self._control.fileno()

    def fileno(self) -> int:
        """Return the eventfd."""
        return self._event.fileno()

    def drain(self) -> None:
        """Reset the eventfd."""
        eventfd.drain(self._event.fileno())

    def killed(self) -> bool:
        """Whether the counter is above zero; a removed cgroup has none."""
        try:
            return counter(os.pread(self._control.fileno(), 4096, 0).decode(), "oom_kill") > 0
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise

    def close(self) -> None:
        """Close both descriptors; the kernel forgets the registration with the eventfd."""
        self._event.close()
        self._control.close()


class OomEventsV2:
    """inotify on memory.events, which the kernel touches when a counter changes (cgroup-v2.rst)."""

    __slots__ = ("_events", "_inotify")

    def __init__(self, directory: str) -> None:
        path = f"{directory}/memory.events"
        self._inotify = OwnedFd(inotify.inotify_init1())
        try:
            inotify.inotify_add_watch(self._inotify.fileno(), path, inotify.IN_MODIFY)
            self._events = OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self._inotify.close()
            raise

    @classmethod
    def adopt(cls, notifications: OwnedFd, file: OwnedFd) -> OomEventsV2:
        """Take over the descriptors of a watch that another process made."""
        events = cls.__new__(cls)
        events._inotify, events._events = notifications, file  # noqa: SLF001 - its own
        return events

    def descriptors(self) -> tuple[int, ...]:
        """Return what :meth:`adopt` takes."""
        return self._inotify.fileno(), self._events.fileno()

    def fileno(self) -> int:
        """Return the inotify descriptor."""
        return self._inotify.fileno()

    def drain(self) -> None:
        """Read all events."""
        try:
            while os.read(self._inotify.fileno(), 4096):
                pass
        except BlockingIOError:
            return

    def killed(self) -> bool:
        """Whether the hierarchical counter is above zero; a removed cgroup has none."""
        try:
            return counter(os.pread(self._events.fileno(), 4096, 0).decode(), "oom_kill") > 0
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise

    def close(self) -> None:
        """Close both descriptors."""
        self._inotify.close()
        self._events.close()


class NoOomEvents:
    """For a machine without the memory controller: nothing ever happens."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = OwnedFd(eventfd.eventfd())

    def descriptors(self) -> tuple[int, ...]:
        """Return nothing to hand on."""
        return ()

    def fileno(self) -> int:
        """Return a descriptor that is never readable."""
        return self._event.fileno()

    def drain(self) -> None:
        """Do nothing."""

    def killed(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Close the descriptor."""
        self._event.close()


def adopt_oom_events(version: int, first: OwnedFd, second: OwnedFd) -> OomEventsV1 | OomEventsV2:
    """Take over a watch that another process made, by its ``descriptors``."""
    return OomEventsV1.adopt(first, second) if version == 1 else OomEventsV2.adopt(first, second)


def counter(text: str, name: str) -> int:
    """Return the value of ``name`` in a flat-keyed file; 0 when the kernel does not have it."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def counters(path: str) -> dict[str, int]:
    """Return a flat-keyed file as a dictionary; empty when there is none."""
    try:
        text = read_text(path)
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdecimal():
            found[key] = int(value)
    return found
