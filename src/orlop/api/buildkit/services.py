"""Everything that clients of BuildKit's protocol may call on ``POST /grpc``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.buildkit import cache, control, gateway
from orlop.api.buildkit.control_messages import PlatformMessage, Version, WorkerRecord
from orlop.api.buildkit.history import History
from orlop.api.buildkit.jobs import Jobs
from orlop.api.grpc.server import unary
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.api.buildkit.exporting import Exporting
    from orlop.api.buildkit.sessions import OpenSessions
    from orlop.api.grpc.server import Handler
    from orlop.api.grpc.stream import Stream
    from orlop.engine.builds import BuildService

_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse: status SERVING


def methods(
    builds: BuildService, exporting: Exporting, sessions: OpenSessions, *, engine_id: str, version: str
) -> Mapping[str, Handler]:
    """Return all methods.

    Args:
        builds: builds.
        exporting: brings images where they are wanted.
        sessions: of the clients.
        engine_id: who clients are told that builds.
        version: of the engine.
    """
    platforms = [
        PlatformMessage(architecture=platform.architecture, os=platform.os, variant=platform.variant)
        for platform in Platform.host().candidates()
    ]
    worker = WorkerRecord(id=engine_id, platforms=platforms, version=Version(package="orlop", version=f"v{version}"))
    jobs = Jobs(builds, sessions)
    return {
        **control.methods(jobs, exporting, worker, History(builds.history)),
        **cache.methods(builds.cache),
        **gateway.methods(jobs, worker),
        "/grpc.health.v1.Health/Check": unary(_healthy),
        # clients send what they measured of themselves, of which nothing is kept
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export": unary(_nothing),
    }


async def _healthy(_stream: Stream, _request: bytes) -> bytes:
    return _SERVING


async def _nothing(_stream: Stream, _request: bytes) -> bytes:
    return b""
