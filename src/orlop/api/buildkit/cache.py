"""``Control/DiskUsage`` and ``Control/Prune``: the engine's cache of builds (``docker buildx du``, ``prune``).

Filters are containerd's, as buildx writes them: ``type==regular``, ``id~=0123``, ``inuse==true``, ``!shared``; all that
stand in one text must match, and one of the texts.

Source: github.com/moby/buildkit, ``cache/manager.go``; github.com/docker/buildx, ``commands/prune.go``.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from orlop.api.buildkit.control_messages import PruneRequest, UsageRecord, UsageRequest, UsageResponse
from orlop.api.buildkit.status_log import timestamp
from orlop.api.grpc.server import request_of, unary_of
from orlop.engine.builds import PruneRequest as Prune
from orlop.errors import InvalidParameterError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.api.grpc.server import Handler
    from orlop.api.grpc.stream import Stream
    from orlop.engine.builds import BuildCache, CacheEntry

_SERVICE = "/moby.buildkit.v1.Control/"
_TERM = re.compile(r"(!?)([a-z.]+)(?:(==|!=|~=)(\"(?:[^\"\\]|\\.)*\"|[^,\"]*))?", re.ASCII)
_MOST = 100  # characters of a pattern


def methods(cache: BuildCache) -> Mapping[str, Handler]:
    """Return the two methods."""

    async def disk_usage(_stream: Stream, request: UsageRequest) -> bytes:
        chosen = _choose(await cache.entries(), request.filter)
        return UsageResponse(record=[_record(entry) for entry in chosen]).encode()

    async def prune(stream: Stream) -> None:
        request = await request_of(stream, PruneRequest)
        if request.min_free_space:
            raise UnsupportedError("min-free-space is not supported: use reserved-space or max-used-space")
        entries = {entry.id: entry for entry in _choose(await cache.entries(), request.filter)}
        before = time.time_ns() - request.keep_duration if request.keep_duration > 0 else None
        keep = max(request.reserved_space, request.max_used_space, 0)
        filters = {"id": list(entries)} if any(request.filter) else {}
        if filters and not entries:
            return
        gone, _ = await cache.prune(Prune(filters, before=before, everything=request.everything, keep=keep))
        for name in gone:
            if name in entries:
                await stream.send(_record(entries[name]).encode())

    return {f"{_SERVICE}DiskUsage": unary_of(UsageRequest, disk_usage), f"{_SERVICE}Prune": prune}


def _record(entry: CacheEntry) -> UsageRecord:
    return UsageRecord(
        id=entry.id,
        mutable=entry.kind != "regular",
        in_use=entry.in_use,
        size=entry.size,
        created_at=timestamp(entry.created),
        last_used_at=timestamp(entry.used) if entry.used else None,
        usage_count=entry.uses,
        description=entry.description,
        record_type=entry.kind,
        shared=entry.shared,
        parents=list(entry.parents),
    )


def _choose(entries: Sequence[CacheEntry], filters: Sequence[str]) -> list[CacheEntry]:
    """Return what one of the filters wants; all, when there is none. Raises InvalidParameterError."""
    wanted = [_terms(text) for text in filters if text]
    if not wanted:
        return list(entries)
    return [entry for entry in entries if any(_matches(_facts(entry), terms) for terms in wanted)]


def _facts(entry: CacheEntry) -> dict[str, str]:
    flags = {"inuse": entry.in_use, "mutable": entry.kind != "regular", "shared": entry.shared}
    flags["private"] = not entry.shared
    return {
        "id": entry.id,
        "type": entry.kind,
        "description": entry.description,
        **{name: "true" for name, value in flags.items() if value},
    }


def _terms(text: str) -> list[re.Match[str]]:
    """Read one filter. Raises InvalidParameterError."""
    place, terms = 0, []
    while place < len(text):
        found = _TERM.match(text, place)
        if found is None or (found.end() < len(text) and text[found.end()] != ","):
            raise InvalidParameterError(f"invalid filter: {text[:80]!r}")
        terms.append(found)
        place = found.end() + 1
    return terms


def _matches(facts: Mapping[str, str], terms: Sequence[re.Match[str]]) -> bool:
    return all(_matches_term(facts, term) for term in terms)


def _matches_term(facts: Mapping[str, str], term: re.Match[str]) -> bool:
    absent, name, operator, value = term.groups()
    fact = facts.get(name)
    if not operator:
        return (fact is None) is bool(absent)
    value = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    if operator == "~=":  # buildx writes it for a part of an id; a pattern of the peer's own is not run
        return fact is not None and value[:_MOST] in fact
    return (fact == value) is (operator == "==")
