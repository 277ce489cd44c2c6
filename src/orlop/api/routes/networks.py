"""Routes of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.api.call import Call, Route
from orlop.api.moments import parse_moment
from orlop.api.responses import empty, json_response
from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.network.requests import NetworkRequest, PoolRequest
from orlop.spec.docker.containers import Document, EndpointConfig, decode
from orlop.spec.timestamps import rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from orlop.engine.networks import NetworkCatalogue
    from orlop.network.networks import Network
    from orlop.network.sandbox import Endpoint


class _Range(msgspec.Struct, rename="pascal"):
    subnet: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class _Ipam(msgspec.Struct, rename="pascal"):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[_Range] | None = None


class NetworkCreate(msgspec.Struct, rename="pascal"):
    """``POST /networks/create``."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    ipam: _Ipam | None = msgspec.field(default=None, name="IPAM")
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    config_only: bool = False
    config_from: dict[str, str] | None = None

    def request(self) -> NetworkRequest:
        """Return what is asked for.

        Raises:
            InvalidParameterError: it has no name.
        """
        if not self.name:
            raise InvalidParameterError("invalid name: ")
        ipam = self.ipam or _Ipam()
        return NetworkRequest(
            name=self.name,
            driver=self.driver or "bridge",
            pools=tuple(
                PoolRequest(entry.subnet, entry.gateway, entry.ip_range, entry.auxiliary_addresses or {})
                for entry in ipam.config or ()
            ),
            ipv4=self.enable_ipv4 is not False,
            ipv6=bool(self.enable_ipv6),
            internal=self.internal,
            attachable=self.attachable,
            options=self.options or {},
            labels=self.labels or {},
            config_only=self.config_only,
            config_from=(self.config_from or {}).get("Network", ""),
            scope=self.scope,
            ingress=self.ingress,
            ipam_driver=ipam.driver,
            ipam_options=ipam.options or {},
        )


class NetworkConnect(Document, frozen=True):
    """``POST /networks/{name}/connect``."""

    container: str = ""
    endpoint_config: EndpointConfig | None = None


class NetworkDisconnect(Document, frozen=True):
    """``POST /networks/{name}/disconnect``."""

    container: str = ""
    force: bool = False


def routes(networks: NetworkCatalogue) -> list[Route]:
    """Return the routes."""

    async def listing(call: Call) -> web.Response:
        return json_response(
            [document(network, {}, version=call.version) for network in networks.select(call.filters())]
        )

    async def inspect(call: Call) -> web.Response:
        if call.text("scope") not in ("", "local"):
            raise UnsupportedError(f"not supported: network scope {call.text('scope')}")
        network = networks.get(call.variables["name"])
        return json_response(document(network, networks.endpoints(network), version=call.version))

    async def create(call: Call) -> web.Response:
        network = await networks.create((await call.body(NetworkCreate)).request())
        return json_response({"Id": network.id, "Warning": ""}, status=201)

    async def remove(call: Call) -> web.Response:
        await networks.remove(call.variables["name"])
        return empty()

    async def prune(call: Call) -> web.Response:
        filters = call.filters()
        moments = filters.pop("until", [])
        if len(moments) > 1:
            raise InvalidParameterError("more than one until filter specified")
        until = parse_moment(moments[0]) if moments else None
        return json_response({"NetworksDeleted": await networks.prune(filters, until=until) or None})

    async def connect(call: Call) -> web.Response:
        body = decode(await call.body_object(), NetworkConnect)
        await networks.connector.connect(call.variables["name"], body.container, body.endpoint_config)
        return empty(200)

    async def disconnect(call: Call) -> web.Response:
        body = decode(await call.body_object(), NetworkDisconnect)
        await networks.connector.disconnect(call.variables["name"], body.container, force=body.force)
        return empty(200)

    return [
        Route("GET", "/networks", listing),
        Route("GET", "/networks/", listing),
        Route("POST", "/networks/create", create),
        Route("POST", "/networks/prune", prune),
        Route("GET", "/networks/{name}", inspect),
        Route("DELETE", "/networks/{name}", remove),
        Route("POST", "/networks/{name}/connect", connect),
        Route("POST", "/networks/{name}/disconnect", disconnect),
    ]


def document(
    network: Network,
    endpoints: Mapping[str, tuple[str, Endpoint]],
    *,
    version: tuple[int, int],
) -> dict[str, object]:
    """Return the API's document of a network with the containers on it, each with its name."""
    configuration = _pools(network) or None
    builtin = network.name in ("bridge", "host", "none")
    ipv4 = 4 in network.versions if network.config_only else bool(network.subnet) or network.driver != "bridge"
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339_nano(network.created_at),
        "Scope": "local",
        "Driver": network.driver,
        **({"EnableIPv4": ipv4} if version >= (1, 48) else {}),
        "EnableIPv6": bool(network.subnet6) or 6 in network.versions,
        "IPAM": {"Driver": "default", "Options": None if builtin else {}, "Config": configuration},
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Containers": {
            container_id: {
                "Name": name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": f"{endpoint.address}/{endpoint.prefix_length}" if endpoint.address else "",
                "IPv6Address": f"{endpoint.address6}/{endpoint.prefix_length6}" if endpoint.address6 else "",
            }
            for container_id, (name, endpoint) in endpoints.items()
        },
        "Options": network.options,
        "Labels": network.labels,
    }


def _pools(network: Network) -> list[dict[str, object]]:
    """Return ``IPAM.Config``."""
    pools: list[dict[str, object]] = []
    for each in network.pools:
        pool: dict[str, object] = {"Subnet": each.subnet}
        if each.ip_range:
            pool["IPRange"] = each.ip_range
        if each.gateway:
            pool["Gateway"] = each.gateway
        if each.auxiliary:
            pool["AuxiliaryAddresses"] = each.auxiliary
        pools.append(pool)
    return pools
