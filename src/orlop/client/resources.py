"""Volumes, networks, and the engine itself."""

from __future__ import annotations

from orlop.client.transport import encode_filters, iterate_documents, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orlop.client.transport import Filters, Transport
    from orlop.spec.json import JsonObject


class Volumes:
    """``/volumes``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, document: Mapping[str, object]) -> JsonObject:
        """Create a volume (Name, Driver, DriverOpts, Labels), or return the one of this name."""
        return self._transport.post("/volumes/create", document=document)

    def list(self, *, filters: Filters | None = None) -> JsonObject:
        """Return Volumes and Warnings."""
        return self._transport.get("/volumes", {"filters": encode_filters(filters)})

    def inspect(self, name: str) -> JsonObject:
        """Return the description."""
        return self._transport.get(f"/volumes/{quote(name)}")

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove; ``force``: it may be gone already."""
        self._transport.fetch("DELETE", f"/volumes/{quote(name)}", {"force": force})

    def prune(self, *, filters: Filters | None = None) -> JsonObject:
        """Remove unused volumes. Returns VolumesDeleted and SpaceReclaimed."""
        return self._transport.post("/volumes/prune", {"filters": encode_filters(filters)})


class Networks:
    """``/networks``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, document: Mapping[str, object]) -> JsonObject:
        """Create a network. Returns Id and Warning."""
        return self._transport.post("/networks/create", document=document)

    def list(self, *, filters: Filters | None = None) -> list[JsonObject]:
        """List networks."""
        return self._transport.get_list("/networks", {"filters": encode_filters(filters)})

    def inspect(self, name: str, *, verbose: bool = False) -> JsonObject:
        """Return the description."""
        return self._transport.get(f"/networks/{quote(name)}", {"verbose": "true" if verbose else None})

    def remove(self, name: str) -> None:
        """Remove."""
        self._transport.fetch("DELETE", f"/networks/{quote(name)}")

    def connect(self, name: str, container: str, *, endpoint: Mapping[str, object] | None = None) -> None:
        """Give a container an endpoint on the network."""
        document: dict[str, object] = {"Container": container, "EndpointConfig": endpoint}
        self._transport.fetch("POST", f"/networks/{quote(name)}/connect", document=document)

    def disconnect(self, name: str, container: str, *, force: bool = False) -> None:
        """Take a container's endpoint away."""
        document: dict[str, object] = {"Container": container, "Force": force}
        self._transport.fetch("POST", f"/networks/{quote(name)}/disconnect", document=document)

    def prune(self, *, filters: Filters | None = None) -> JsonObject:
        """Remove unused networks. Returns NetworksDeleted."""
        return self._transport.post("/networks/prune", {"filters": encode_filters(filters)})


class System:
    """``/info``, ``/version``, ``/events``, ``/system/df``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ping(self) -> dict[str, str]:
        """Return the ping's headers."""
        return self._transport.ping()

    def version(self) -> JsonObject:
        """Return versions of the engine and its parts."""
        return self._transport.get("/version")

    def info(self) -> JsonObject:
        """Return the engine's description of itself."""
        return self._transport.get("/info")

    def log_in(self, credentials: Mapping[str, object]) -> JsonObject:
        """Check credentials (an AuthConfig document) at their registry. Returns Status and IdentityToken."""
        return self._transport.post("/auth", document=credentials)

    def disk_usage(self) -> JsonObject:
        """Return Images, Containers, Volumes, BuildCache and LayersSize."""
        return self._transport.get("/system/df")

    def check(self, *, repair: bool = False, quick: bool = False) -> JsonObject:
        """Compare disk and records (orlop only); ``quick`` reads no content.

        Returns Findings (Kind, Name, Size, Repairable, Repaired, Note, Detail).
        """
        query = {"quick": "1" if quick else None}
        if repair:
            return self._transport.post("/system/check", query)
        return self._transport.get("/system/check", query)

    def events(self, *, since: str = "", until: str = "", filters: Filters | None = None) -> Iterator[JsonObject]:
        """Yield events as they happen."""
        query = {"since": since or None, "until": until or None, "filters": encode_filters(filters)}
        return iterate_documents(self._transport.stream("GET", "/events", query))
