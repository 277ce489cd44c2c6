"""What the attributes of BuildKit's Dockerfile frontend ask for, as a request of the engine's.

Source: github.com/moby/buildkit, ``frontend/dockerui/config.go``, ``attr.go``; docker/buildx, ``build/opt.go``.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from orlop.api.buildkit.control_messages import CacheEntry
from orlop.api.buildkit.subrequests import LINT, require_known
from orlop.build.arguments import EPOCH
from orlop.build.steps import ENTITLEMENTS, BuildOptions
from orlop.engine.builds import BuildRequest, RunLimits
from orlop.engine.builds.fetching import is_url
from orlop.engine.builds.git import is_git
from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.docker.containers import Ulimit
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orlop.engine.builds.client import CredentialSource

_MAIN, _DOCKERFILE = "context", "dockerfile"
_EPOCH = re.compile("[0-9]{1,11}", re.ASCII)
_ULIMIT = re.compile("([a-z]+)=(-?[0-9]{1,19})(?::(-?[0-9]{1,19}))?", re.ASCII)
_NETWORKS = {"host": "host", "none": "none", "default": "", "sandbox": "", "": ""}
_HOST_NETWORK = "network.host"


class _CacheImport(msgspec.Struct):
    type: str = msgspec.field(name="Type")
    attributes: dict[str, str] = msgspec.field(name="Attrs", default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one solve asks of the engine.

    Attributes:
        attributes: as they came.
        directories: the client's names of ``context`` and ``dockerfile``, as far as it has them.
        contexts: where named contexts come from; those of ``input:`` name results of the same client.
        remote: URL of the context; empty for the client's.
        subrequest: what else is wanted than an image; empty for nothing.
        caches: images whose layers are taken for steps.
    """

    attributes: Mapping[str, str]
    directories: Mapping[str, str]
    contexts: Mapping[str, str]
    remote: str
    subrequest: str
    caches: tuple[str, ...]

    @property
    def filename(self) -> str:
        """The Dockerfile's path in its directory."""
        return self.attributes.get("filename") or "Dockerfile"


def read_wishes(attributes: Mapping[str, str], imports: Iterable[CacheEntry] = ()) -> Wishes:
    """Take the attributes apart.

    Args:
        attributes: of the frontend.
        imports: caches that are named beside them.

    Raises:
        InvalidParameterError, UnsupportedError: in words; what is wrong about the build itself is not looked at.
    """
    _refuse(attributes)
    require_known(attributes.get("requestid", ""))
    main = attributes.get("context", "")
    remote = main if is_git(main) or is_url(main) else ""
    directories = {}
    if not remote:
        directories[_MAIN] = attributes.get("contextkey") or _MAIN
    if not remote or attributes.get("dockerfilekey"):
        directories[_DOCKERFILE] = attributes.get("dockerfilekey") or _DOCKERFILE
    contexts = {}
    for name, value in attributes.items():
        kind, _, rest = name.partition(":")
        if kind == "context" and rest:
            known, _, platform = rest.partition("::")
            if not platform or _is_here(platform):
                contexts[known] = value
    caches = _caches([*imports, *_cache_imports(attributes.get("cache-imports", ""))])
    return Wishes(attributes, directories, contexts, remote, attributes.get("requestid", ""), caches)


def _cache_imports(text: str) -> list[CacheEntry]:
    """Read what clients say of caches in an attribute."""
    try:
        found = msgspec.json.decode(text, type=list[_CacheImport]) if text else []
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidParameterError(f"failed to unmarshal cache-imports ({text[:80]!r})") from None
    return [CacheEntry(type=one.type, attributes=one.attributes) for one in found]


def _caches(entries: Iterable[CacheEntry]) -> tuple[str, ...]:
    names = {}
    for entry in entries:
        if entry.type != "registry" or "ref" not in entry.attributes:
            raise UnsupportedError(f"cache import is not supported: {entry.type[:80]}: only images are (type=registry)")
        names[entry.attributes["ref"]] = True
    return tuple(names)


def _refuse(attributes: Mapping[str, str]) -> None:
    platforms = [text.strip() for text in attributes.get("platform", "").split(",") if text.strip()]
    if len(platforms) > 1:
        raise UnsupportedError(f"building for several platforms is not supported: {','.join(platforms)[:200]}")
    if platforms and not _is_here(platforms[0]):
        text = platforms[0][:80]
        raise UnsupportedError(f"building for another platform is not supported: {text}: this is {Platform.host()}")
    for name in attributes:
        if name.startswith("attest:"):
            raise UnsupportedError(f"attestations are not supported: {name.partition(':')[2][:80]}")
        if name in ("device", "source-policy"):
            raise UnsupportedError(f"not supported: {name}")


def _is_here(platform: str) -> bool:
    return Platform.parse(platform) in Platform.host().candidates()


def build_request(
    wishes: Wishes,
    *,
    credentials: CredentialSource,
    entitlements: Iterable[str] = (),
) -> BuildRequest:
    """Return the request, without names for its image.

    Raises:
        InvalidParameterError, UnsupportedError: in words.
    """
    attributes = wishes.attributes
    arguments = _prefixed(attributes, "build-arg:")
    allowed = frozenset(entitlements)
    if unknown := allowed - ENTITLEMENTS:
        raise UnsupportedError(f"entitlement is not supported: {min(unknown)[:80]}")
    if attributes.get("force-network-mode") == "host" and _HOST_NETWORK not in allowed:
        raise UnsupportedError(f"{_HOST_NETWORK} is not allowed")
    fresh = attributes.get("no-cache")
    options = BuildOptions(
        target=attributes.get("target", ""),
        build_args=arguments,
        epoch=_epoch(arguments.get(EPOCH, "")),
        labels=_prefixed(attributes, "label:"),
        no_cache=fresh == "",
        no_cache_stages=frozenset(name.lower() for name in _list(fresh or "")),
        pull=attributes.get("image-resolve-mode") == "pull",
        platform=attributes.get("platform", ""),
        force_remove=True,
        allowed=allowed,
        like_buildkit=True,
    )
    return BuildRequest(
        options,
        dockerfile=wishes.filename,
        check=wishes.subrequest == LINT,
        plan=bool(wishes.subrequest),
        limits=_limits(attributes),
        credentials=credentials,
        remote=wishes.remote,
        cache_from=wishes.caches,
        fetch_caches=True,
    )


def _prefixed(attributes: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in attributes.items() if name.startswith(prefix)}


def _list(text: str) -> list[str]:
    """Read comma separated values."""
    try:
        return [value for row in csv.reader(io.StringIO(text)) for value in row if value]
    except csv.Error:
        raise InvalidParameterError(f"invalid list: {text[:80]!r}") from None


def _epoch(text: str) -> int | None:
    if not text:
        return None
    if _EPOCH.fullmatch(text) is None:
        raise InvalidParameterError(f"invalid {EPOCH}: {text[:80]!r}")
    return int(text)


def _limits(attributes: Mapping[str, str]) -> RunLimits:
    network = attributes.get("force-network-mode", "")
    if network not in _NETWORKS:
        raise UnsupportedError(f'network mode "{network[:80]}" not supported by buildkit')
    shm_size = attributes.get("shm-size", "")
    if shm_size and re.fullmatch("[0-9]{1,18}", shm_size, re.ASCII) is None:
        raise InvalidParameterError(f"invalid shm-size: {shm_size[:80]!r}")
    hosts = []
    for entry in _list(attributes.get("add-hosts", "")):
        host, equals, address = entry.partition("=")
        if not (host and equals and address):
            raise InvalidParameterError(f"invalid additional host: {entry[:80]!r}")
        hosts.append(f"{host}:{address}")
    return RunLimits(
        network_mode=_NETWORKS[network],
        extra_hosts=hosts or None,
        shm_size=int(shm_size or 0),
        cgroup_parent=attributes.get("cgroup-parent", ""),
        ulimits=[_ulimit(entry) for entry in _list(attributes.get("ulimit", ""))] or None,
    )


def _ulimit(text: str) -> Ulimit:
    found = _ULIMIT.fullmatch(text)
    if found is None:
        raise InvalidParameterError(f"invalid ulimit: {text[:80]!r}")
    soft = int(found[2])
    return Ulimit(name=found[1], soft=soft, hard=soft if found[3] is None else int(found[3]))
