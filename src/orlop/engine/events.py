"""What happened to containers, images, networks, volumes and the daemon, for whoever listens.

Publishing never waits: the last events are kept in a ring, and each listener has a queue of its own. A listener that
does not keep up is dropped (threats.md H13).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

RING_SIZE = 256
QUEUE_SIZE = 1024
MAX_LISTENERS = 1024

_FILTER_NAMES = "config container daemon event image label network node plugin scope secret service type volume"
FILTERS = frozenset(_FILTER_NAMES.split())


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        type: container, image, network, volume, daemon, builder.
        action: ``start``, ``die``, ``exec_start: sh``.
        actor_id: id of the object; a volume's or image's name where Docker uses that.
        attributes: labels and details, all strings.
        time_ns: nanoseconds since the epoch.
    """

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int

    def document(self) -> dict[str, object]:
        """Return the API's JSON object, with the fields of old clients for containers and images."""
        result: dict[str, object] = {}
        if self.type in ("container", "image"):
            result["status"] = self.action
            result["id"] = self.actor_id
            if self.type == "container" and "image" in self.attributes:
                result["from"] = self.attributes["image"]
        result["Type"] = self.type
        result["Action"] = self.action
        result["Actor"] = {"ID": self.actor_id, "Attributes": self.attributes}
        result["scope"] = "local"
        result["time"] = self.time_ns // 1_000_000_000
        result["timeNano"] = self.time_ns
        return result


class EventFilter:
    """Which events a listener wants: every key must match, any value of a key suffices."""

    def __init__(self, filters: Mapping[str, list[str]]) -> None:
        """Raises InvalidParameterError for an unknown key."""
        for key in filters:
            if key not in FILTERS:
                raise InvalidParameterError(f"invalid filter '{key}'")
        self._filters = {key: values for key, values in filters.items() if values}

    def matches(self, event: Event) -> bool:
        """Whether the listener wants this one."""
        return all(_matches(key, values, event) for key, values in self._filters.items())


def _matches(key: str, values: list[str], event: Event) -> bool:
    if key == "event":
        # "exec_start: sh -c ..." is chosen by "exec_start", "health_status: healthy" by "health_status".
        return any(event.action == value or event.action.split(":", 1)[0] == value for value in values)
    if key == "type":
        return event.type in values
    if key == "scope":
        return "local" in values
    if key == "label":
        return all(_has_label(event.attributes, value) for value in values)
    if key == "image":
        names = {event.actor_id, event.attributes.get("name", "")} if event.type == "image" else set()
        names.add(event.attributes.get("image", ""))
        names |= {name.rsplit(":", 1)[0] for name in names}
        return any(value in names for value in values)
    if event.type != key:
        return False
    name = event.attributes.get("name", "")
    return any(value == name or (value and event.actor_id.startswith(value)) for value in values)


def _has_label(attributes: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in attributes and (not equals or attributes[name] == value)


@dataclass(eq=False)
class _Listener:
    wanted: EventFilter
    queue: deque[Event] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: bool = False


class Events:
    """The bus. Owns the ring and the listeners' queues."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=RING_SIZE)
        self._listeners: set[_Listener] = set()
        self._last = 0
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many clients listen."""
        return len(self._listeners)

    def publish(
        self,
        kind: str,
        action: str,
        actor_id: str,
        attributes: Mapping[str, str] | None = None,
        *,
        time_ns: int | None = None,
    ) -> Event:
        """Tell everybody. Never waits; returns the event."""
        # Strictly increasing, so that "since" the last one seen neither repeats nor loses an event.
        moment = self._last = max(time_ns or time.time_ns(), self._last + 1)
        event = Event(kind, action, actor_id, dict(attributes or {}), moment)
        self._ring.append(event)
        for listener in self._listeners:
            if listener.dropped or not listener.wanted.matches(event):
                continue
            if len(listener.queue) >= QUEUE_SIZE:
                listener.dropped = True
            else:
                listener.queue.append(event)
            listener.wake.set()
        return event

    def close(self) -> None:
        """End every listener's stream."""
        self._closed = True
        for listener in self._listeners:
            listener.wake.set()

    @contextlib.asynccontextmanager
    async def subscribe(
        self,
        wanted: EventFilter | None = None,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Listen: past events of the ring after ``since_ns``, then new ones up to ``until_ns``.

        Without ``since_ns`` nothing past is replayed, unless ``until_ns`` is in the past: then the ring is searched.
        """
        if len(self._listeners) >= MAX_LISTENERS:
            raise InvalidParameterError(f"too many event listeners: {MAX_LISTENERS}")
        listener = _Listener(wanted or EventFilter({}))
        if since_ns is None and until_ns is not None and until_ns <= time.time_ns():
            since_ns = 0
        if since_ns is not None:
            listener.queue.extend(
                event for event in self._ring if event.time_ns >= since_ns and listener.wanted.matches(event)
            )
        self._listeners.add(listener)
        try:
            yield self._stream(listener, until_ns)
        finally:
            self._listeners.discard(listener)

    async def _stream(self, listener: _Listener, until_ns: int | None) -> AsyncIterator[Event]:
        while True:
            while listener.queue:
                event = listener.queue.popleft()
                if until_ns is not None and event.time_ns > until_ns:
                    return
                yield event
            if listener.dropped or self._closed:
                return
            listener.wake.clear()
            left = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
            if left is not None and left <= 0:
                return
            try:
                await asyncio.wait_for(listener.wake.wait(), left)
            except TimeoutError:
                return
