"""Configuration-only networks: nothing of them exists but what other networks are made from.

``network create --config-only`` keeps subnets, options, labels and IP versions under a name, ``--config-from`` makes a
network of them. What is kept is tried only there, with the driver that is named there, as with Docker: two networks can
be made from one without a subnet, but only one at a time from one that has a subnet.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import ForbiddenError, NotFoundError
from orlop.network.networks import Network
from orlop.network.requests import PoolRequest, check_pool
from orlop.spec.ids import generate_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.network.requests import NetworkRequest

_OPERATORS_FIELDS = (
    "configuration network can only contain network specific fields. Network operator fields like"
    " [ ingress | internal | attachable | scope ] are not supported."
)
_DEPENDENT = "if the network depends on a configuration network"


def check_combination(request: NetworkRequest) -> None:
    """Raise in Docker's words for what a configuration, or a network made from one, may not be given.

    Raises:
        InvalidParameterError: a subnet is none.
        ForbiddenError: all else.
    """
    if not request.config_only and not request.config_from:
        return
    for pool in request.pools:
        check_pool(pool)
    if request.config_only and (request.ingress or request.internal or request.attachable or request.scope):
        raise ForbiddenError(_OPERATORS_FIELDS)
    if not request.config_from:
        return
    if request.config_only:
        raise ForbiddenError("a configuration network cannot depend on another configuration network")
    addresses = request.pools or request.ipam_options or request.ipam_driver not in ("", "default")
    if addresses or request.labels or request.ipv6 or not request.ipv4:
        raise ForbiddenError(f"user specified configurations are not supported {_DEPENDENT}")
    if request.options:
        raise ForbiddenError(f"network driver options are not supported {_DEPENDENT}")


def make_configuration(request: NetworkRequest) -> Network:
    """Return the network that keeps what is asked for; its driver is Docker's, "null"."""
    return Network(
        id=generate_id(),
        name=request.name,
        driver="null",
        created_at=time.time_ns(),
        options=dict(request.options),
        labels=dict(request.labels),
        chosen=bool(request.pools),
        more_pools=tuple((pool.subnet, pool.gateway, pool.ip_range, dict(pool.auxiliary)) for pool in request.pools),
        config_only=True,
        versions=tuple(version for version, wanted in ((4, request.ipv4), (6, request.ipv6)) if wanted),
    )


def apply_configuration(networks: Iterable[Network], request: NetworkRequest) -> NetworkRequest:
    """Return a request with what the configuration that it names keeps.

    Raises:
        NotFoundError: there is none of that name, which an id does not do for, in Docker's words.
    """
    named = (network for network in networks if network.config_only and network.name == request.config_from)
    configuration = next(named, None)
    if configuration is None:
        shown = json.dumps(request.config_from)
        raise NotFoundError(f"configuration network {shown} does not exist")
    return replace(
        request,
        pools=tuple(
            PoolRequest(pool.subnet, pool.gateway, pool.ip_range, pool.auxiliary) for pool in configuration.pools
        ),
        ipv4=4 in configuration.versions,
        ipv6=6 in configuration.versions,
        options=dict(configuration.options),
        labels=dict(configuration.labels),
    )


def check_unused(networks: Iterable[Network], configuration: Network) -> None:
    """Raise ForbiddenError in Docker's words for a configuration that networks were made from."""
    if configuration.config_only and any(network.config_from == configuration.name for network in networks):
        raise ForbiddenError(f'error while removing network: configuration network "{configuration.name}" is in use')
