"""``events``: a container's statistics and its OOM kills, one JSON object a line, as runc writes them."""

from __future__ import annotations

import math
import os
import select
import sys
import time

from orlop.errors import ConflictError, InvalidParameterError
from orlop.kernel.process import pidfd_open
from orlop.primitives.json_text import dumps
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup
from orlop.runtime.cgroups import open_cgroup
from orlop.runtime.oci.options import UsageError
from orlop.runtime.oci.state import is_alive
from orlop.runtime.oci.statistics import oom_kills, v1_statistics, v2_statistics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.cgroups import Hierarchies
    from orlop.runtime.cgroups.contract import CgroupSet, OomEvents
    from orlop.runtime.oci.command import Invocation
    from orlop.runtime.oci.state import State
    from orlop.spec.json import JsonObject

_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 2**63 / 1e9


def events(invocation: Invocation) -> int:
    """Write statistics once, or every interval and each OOM as it comes until the container stops."""
    interval = parse_duration(invocation.options.text("interval", "5s"))
    if interval <= 0:
        raise InvalidParameterError("duration interval must be greater than 0")
    state = invocation.store.load(invocation.arguments[0])
    if invocation.store.status(state, invocation.hierarchies) in ("stopped", "creating"):
        raise ConflictError(f"container with id {state.id} is not running")
    cgroup = open_cgroup(invocation.hierarchies, state.cgroup)
    if not state.cgroup:
        cgroup.stats()  # refuses
    if invocation.options.switch("stats"):
        _write(state.id, "stats", statistics(invocation.hierarchies, cgroup))
        return 0
    with Cleanup() as stack:
        try:
            pidfd = stack.enter_context(OwnedFd(pidfd_open(state.pid)))
        except ProcessLookupError:
            return 0
        oom = cgroup.oom_events()
        stack.callback(oom.close)
        if is_alive(state):  # asked after the pidfd was opened (threats.md A11)
            _follow(invocation, state, cgroup, (pidfd, oom), interval)
    return 0


def _follow(
    invocation: Invocation, state: State, cgroup: CgroupSet, watched: tuple[OwnedFd, OomEvents], interval: float
) -> None:
    pidfd, oom = watched
    poller = select.poll()
    poller.register(pidfd.fileno(), select.POLLIN)
    poller.register(oom.fileno(), select.POLLIN)
    following = time.monotonic() + interval
    directory = f"{invocation.hierarchies.unified}{cgroup.path}"
    kills = oom_kills(directory)
    while True:
        wait = max(0.0, following - time.monotonic())
        ready = {fd for fd, _ in poller.poll(math.ceil(wait * 1000))}
        if oom.fileno() in ready:
            oom.drain()
            before, kills = kills, oom_kills(directory)
            # v2 wakes us for any counter of memory.events, v1 also when the cgroup is removed
            if kills > before if cgroup.version == 2 else _is_there(cgroup):
                _write(state.id, "oom")
        if pidfd.fileno() in ready:
            return
        if time.monotonic() >= following:
            _write(state.id, "stats", statistics(invocation.hierarchies, cgroup))
            following = max(following + interval, time.monotonic())


def _is_there(cgroup: CgroupSet) -> bool:
    return any(os.path.isdir(directory) for directory in cgroup.directories().values())


def statistics(hierarchies: Hierarchies, cgroup: CgroupSet) -> JsonObject:
    """Return what the cgroup's files say now; pressure where the kernel counts it, as runc does from 1.2 on."""
    found = _counters(hierarchies, cgroup)
    pressure = cgroup.pressure()
    for section, resource in (("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")):
        counters = found[section]
        if resource in pressure and isinstance(counters, dict):
            counters["psi"] = pressure[resource]
    return found


def _counters(hierarchies: Hierarchies, cgroup: CgroupSet) -> JsonObject:
    if hierarchies.version == 2:
        return v2_statistics(f"{hierarchies.unified}{cgroup.path}")
    by_controller = {
        controller: hierarchy.directory + cgroup.path
        for hierarchy in hierarchies.v1
        for controller in hierarchy.controllers
    }
    return v1_statistics(by_controller)


def _write(identity: str, kind: str, data: JsonObject | None = None) -> None:
    event: JsonObject = {"type": kind, "id": identity}
    if data is not None:
        event["data"] = data
    sys.stdout.write(dumps(event) + "\n")
    sys.stdout.flush()


def parse_duration(text: str) -> float:
    """Return the seconds of Go's ``5s``, ``1m30s``, ``500ms``, ``.5h``. Raises UsageError."""
    rest, seconds = text.lstrip("+"), 0.0
    if rest == "0":
        return 0.0
    while rest:
        number = len(rest) - len(rest.lstrip("0123456789."))
        unit = len(rest[number:]) - len(rest[number:].lstrip("nu\u00b5msh"))
        amount, name, rest = rest[:number], rest[number : number + unit], rest[number + unit :]
        if name not in _UNITS or amount.count(".") > 1 or not amount.strip(".") or len(amount) > 40:
            break
        seconds += float(amount) * _UNITS[name]
    else:
        if text and seconds < _LONGEST:
            return seconds
    raise UsageError(f'invalid value "{text:.40}" for flag -interval: parse error')
