"""Routes of builds: ``POST /build`` as Docker's classic builder answers it, and the cache's prune."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, TypeVar

from orlop.api.call import Call, Route, decode
from orlop.api.moments import parse_moment
from orlop.api.progress import answer_with_progress
from orlop.api.responses import ByteStream, json_response
from orlop.build.arguments import EPOCH
from orlop.build.steps import ENTITLEMENTS, BuildOptions
from orlop.engine.builds import BuildRequest, BuildService, Logins, PruneRequest, RunLimits
from orlop.errors import InvalidParameterError, OrlopError, UnsupportedError
from orlop.registry.credentials import Credentials, parse_credentials
from orlop.registry.endpoints import login_domain
from orlop.spec.docker.containers import Ulimit
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.engine.registry.output import Output

T = TypeVar("T")

_TEXT_LIMIT = 64 << 10
_EPOCH_DIGITS = 11  # up to the year 5138
# Asked for and not done: refused, whatever it would have changed.
_REFUSED = {
    "outputs": "outputs need BuildKit: outputs",
    "securityopt": "security options of builds are not supported yet: securityopt",
}


def routes(builds: BuildService) -> list[Route]:
    """Return the routes."""

    async def build(call: Call) -> web.StreamResponse:
        try:
            request = _request(call)
        except OrlopError:
            builds.sessions.refuse(call.text("session"))
            raise

        async def work(output: Output) -> None:
            await builds.build(request, call.chunks(), output)

        return await answer_with_progress(call, work)

    async def prune(call: Call) -> web.Response:
        deleted, reclaimed = await builds.cache.prune(_prune_request(call))
        return json_response({"CachesDeleted": deleted or None, "SpaceReclaimed": reclaimed})

    async def tree(call: Call) -> web.StreamResponse:
        async with ByteStream(call, content_type="application/x-tar") as stream:
            async for piece in builds.tree(call.variables["name"]):
                await stream.write(piece)
        return stream.response

    return [
        Route("POST", "/build", build),
        Route("POST", "/build/prune", prune),
        Route("GET", "/images/{name:.*}/tree", tree),
    ]


def _epoch(text: str) -> int | None:
    """Read SOURCE_DATE_EPOCH."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _EPOCH_DIGITS):
        raise InvalidParameterError(f"invalid {EPOCH}: {text[:80]!r}")
    return int(text)


def _prune_request(call: Call) -> PruneRequest:
    if call.integer("min-free-space"):
        raise UnsupportedError("min-free-space is not supported: use reserved-space or max-used-space")
    filters = call.filters()
    moments = [*filters.get("until", ()), *filters.get("unused-for", ())]
    if len(moments) > 1:
        raise InvalidParameterError("more than one until filter specified")
    keep = [call.integer(name) or 0 for name in ("keep-storage", "reserved-space", "max-used-space")]
    return PruneRequest(
        filters,
        before=parse_moment(moments[0]) if moments else None,
        everything=call.boolean("all"),
        keep=max(keep),
    )


def _request(call: Call) -> BuildRequest:
    if call.text("version", "1") == "2":
        raise UnsupportedError(
            "version 2 of POST /build is not supported: build with docker buildx, or with DOCKER_BUILDKIT=0"
        )
    for name, message in _REFUSED.items():
        if any(value not in ("", "null", "[]") for value in call.texts(name)):
            raise UnsupportedError(message)
    if call.boolean("squash"):
        raise UnsupportedError("squash is not supported: images keep their layers")
    platform = call.text("platform").strip()
    if platform and Platform.parse(platform) not in Platform.host().candidates():
        raise UnsupportedError(f"building for another platform is not supported: {platform}: this is {Platform.host()}")
    given = _object(call, "buildargs", dict[str, str | None])
    arguments = {name: value for name, value in given.items() if value is not None}
    options = BuildOptions(
        target=call.text("target"),
        build_args=arguments,
        epoch=_epoch(arguments.get(EPOCH, "")),
        labels=_object(call, "labels", dict[str, str]),
        no_cache=call.boolean("nocache"),
        no_cache_stages=frozenset(name.lower() for name in _list(call, "nocachefilter")),
        pull=call.boolean("pull"),
        platform=platform,
        remove=call.boolean("rm", default=True),
        force_remove=call.boolean("forcerm"),
        allowed=_allowed(call),
        like_buildkit=bool(call.text("session")),
    )
    return BuildRequest(
        options,
        dockerfile=call.text("dockerfile") or "Dockerfile",
        tags=tuple(call.texts("t")),
        quiet=call.boolean("q"),
        steps=call.text("progress") == "steps",
        check=call.boolean("check"),
        limits=_limits(call),
        credentials=Logins(_credentials(call)),
        remote=call.text("remote"),
        session=call.text("session"),
        cache_from=tuple(_list(call, "cachefrom")),
    )


def _allowed(call: Call) -> frozenset[str]:
    """Read ``allow``, which Docker's API does not have: what steps may ask for. An unknown word is refused."""
    allowed = frozenset(call.texts("allow"))
    if unknown := allowed - ENTITLEMENTS:
        raise InvalidParameterError(f"invalid entitlement: {min(unknown)[:80]}")
    return allowed


def _list(call: Call, name: str) -> list[str]:
    text = call.text(name)
    return [] if text in ("", "null") else decode(text.encode("utf-8", "surrogateescape"), list[str])


def _object(call: Call, name: str, model: type[dict[str, T]]) -> dict[str, T]:
    text = call.text(name)
    if text in ("", "null"):
        return {}
    if len(text) > _TEXT_LIMIT:
        raise InvalidParameterError(f"invalid {name}: too long")
    return decode(text.encode("utf-8", "surrogateescape"), model)


def _limits(call: Call) -> RunLimits:
    text = call.text("ulimits")
    ulimits = decode(text.encode(), list[Ulimit]) if text not in ("", "null") else None
    return RunLimits(
        network_mode=call.text("networkmode"),
        extra_hosts=call.texts("extrahosts") or None,
        shm_size=call.integer("shmsize") or 0,
        memory=call.integer("memory") or 0,
        memory_swap=call.integer("memswap") or 0,
        cpu_shares=call.integer("cpushares") or 0,
        cpu_period=call.integer("cpuperiod") or 0,
        cpu_quota=call.integer("cpuquota") or 0,
        cpuset_cpus=call.text("cpusetcpus"),
        cpuset_mems=call.text("cpusetmems"),
        cgroup_parent=call.text("cgroupparent"),
        ulimits=ulimits,
    )


def _credentials(call: Call) -> dict[str, Credentials]:
    """Read ``X-Registry-Config``: what the user is logged in to; a malformed one is none, as in dockerd."""
    header = call.request.headers.get("X-Registry-Config", "")
    if not header or len(header) > _TEXT_LIMIT:
        return {}
    try:
        data = base64.b64decode(header.translate(str.maketrans("+/", "-_")) + "=" * (-len(header) % 4), altchars=b"-_")
        document = json.loads(data)
        if not isinstance(document, dict):
            return {}
        return {
            login_domain(str(name)): parse_credentials(json.dumps(value).encode()) for name, value in document.items()
        }
    except (binascii.Error, ValueError, RecursionError, InvalidParameterError):
        return {}
