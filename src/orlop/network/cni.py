"""The cni driver: networks that plugins of the Container Network Interface make (flannel, Calico, ...; CNI spec 1.0).

``orlop network create -d cni --opt conf=/etc/cni/net.d/10-net.conflist``. The list is read once and kept with the
network. A plugin is a program that is told everything by environment and standard input and answers in JSON; it is
found by its plain name in fixed directories (CVE-2021-20206). What it made is kept with the endpoint, because it wants
to see it again when it is to undo it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import logging
import os
import re
from typing import TYPE_CHECKING, cast

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError
from orlop.network.sandbox import Endpoint
from orlop.network.uninterrupted import run_to_end
from orlop.primitives import commands
from orlop.spec.ids import generate_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.network.bridge_device import Surroundings
    from orlop.network.driver import Spot
    from orlop.network.networks import Network
    from orlop.network.sandbox import EndpointWish
    from orlop.spec.json import JsonObject
    from orlop.spec.ports import PortRequest

DIRECTORIES = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
RESULT = "cni.result"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+", re.ASCII)
_LONGEST = 64 * 1024
_TIMEOUT = 60.0
_log = logging.getLogger(__name__)


def read_configuration(path: str) -> str:
    """Return a checked list of plugins as JSON text.

    Raises:
        InvalidParameterError: the file is not there, or is no such list.
    """
    if not path.startswith("/"):
        raise InvalidParameterError(f"conf of a cni network must be an absolute path: {path!r}")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            text = file.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        raise InvalidParameterError(f"cannot read CNI configuration {path!r}: {error}") from None
    try:
        document = json.loads(text) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidParameterError(f"not a CNI configuration: {path!r}")
    _check(document, path)
    return json.dumps(document)


def _check(document: JsonObject, path: str) -> None:
    plugins = document.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise InvalidParameterError(f"CNI configuration has no plugins: {path!r}")
    if not isinstance(document.get("name"), str) or _NAME.fullmatch(str(document["name"])) is None:
        raise InvalidParameterError(f"CNI configuration has no valid name: {path!r}")
    if _VERSION.fullmatch(str(document.get("cniVersion"))) is None:
        raise InvalidParameterError(f"CNI configuration has no valid cniVersion: {path!r}")
    for plugin in plugins:
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or _NAME.fullmatch(kind) is None:
            raise InvalidParameterError(f"CNI plugin type is not valid: {kind!r}")
        _find(kind)


def _find(kind: str) -> str:
    """Return the path of a plugin. Raises InvalidParameterError: it is in none of the directories."""
    for directory in DIRECTORIES:
        if os.access(f"{directory}/{kind}", os.X_OK):
            return f"{directory}/{kind}"
    raise InvalidParameterError(f"CNI plugin {kind} was not found in {', '.join(DIRECTORIES)}")


class CniDriver:
    """Implements Driver by running plugins."""

    def __init__(self, network: Network, around: Surroundings) -> None:
        self._network = network
        self._around = around
        self._list = cast("JsonObject", json.loads(network.document or "{}"))

    async def join(self, container_id: str, wish: EndpointWish, spot: Spot) -> Endpoint:
        """Have the plugins put an interface into the namespace, each after the one before it."""
        if wish.address or wish.address6 or wish.mac or wish.options:
            raise InvalidParameterError("addresses and options of a cni network are its plugins' affair")
        endpoint = Endpoint(
            id=generate_id(),
            network_id=self._network.id,
            network_name=self._network.name,
            interface=spot.interface,
            names=wish.names,
            links=wish.links,
            priority=wish.priority,
            driver="cni",
        )
        self._around.records.put_endpoint(container_id, endpoint)
        try:
            namespace = f"/proc/{os.getpid()}/fd/{spot.namespace.fileno()}"
            result = await run_to_end(self._run_all("ADD", endpoint, namespace))
            joined = _with_result(endpoint, result)
            self._around.records.replace_endpoint(container_id, joined)
        except BaseException:
            await self.leave(endpoint)
            raise
        return joined

    async def publish(self, endpoint: Endpoint, ports: Sequence[PortRequest], container_name: str) -> Endpoint:
        """Refuse: the list may have a plugin for ports, but it is not ours to know. Raises SystemFailureError."""
        del ports
        raise SystemFailureError(
            f"ports of {container_name} cannot be published on a cni network: {endpoint.network_name}"
        )

    async def withdraw(self, endpoint: Endpoint) -> Endpoint:
        """Nothing was published."""
        return endpoint

    async def leave(self, endpoint: Endpoint) -> None:
        """Have the plugins undo what they did, the last one first."""
        try:
            await run_to_end(self._run_all("DEL", endpoint, ""))
        except OrlopError as error:
            _log.warning("cannot take endpoint %.12s off network %s: %s", endpoint.id, self._network.name, error)
        self._around.records.delete_endpoint(endpoint.id)

    def adopt(self, endpoint: Endpoint) -> None:
        """Nothing was lost."""

    def delete_link(self, endpoint: Endpoint) -> None:
        """The link goes with the namespace, or is removed inside."""

    async def _run_all(self, command: str, endpoint: Endpoint, namespace: str) -> JsonObject:
        plugins = cast("list[JsonObject]", self._list.get("plugins", []))
        result = cast("JsonObject", json.loads(endpoint.options.get(RESULT, "{}")))
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": endpoint.id,
            "CNI_NETNS": namespace,
            "CNI_IFNAME": endpoint.interface,
            "CNI_PATH": ":".join(DIRECTORIES),
        }
        for plugin in plugins if command == "ADD" else reversed(plugins):
            configuration = {**plugin, "name": self._list["name"], "cniVersion": self._list["cniVersion"]}
            if result:
                configuration["prevResult"] = result
            path = _find(str(plugin["type"]))
            answer = await asyncio.to_thread(_run, path, configuration, environment)
            if command == "ADD":
                result = answer
        return result


def _run(path: str, configuration: JsonObject, environment: dict[str, str]) -> JsonObject:
    """Run one plugin. Raises SystemFailureError in its own words."""
    done = commands.run((path,), stdin=json.dumps(configuration).encode(), timeout=_TIMEOUT, env=environment)
    try:
        answer = json.loads(done.stdout) if done.stdout.strip() else {}
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise SystemFailureError(f"CNI plugin {os.path.basename(path)}: answer is not JSON")
    if done.returncode:
        words = f"{answer.get('msg', '')} {answer.get('details', '')}".strip()
        words = words or done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
        raise SystemFailureError(f"CNI plugin {os.path.basename(path)}: {words[:1000]}")
    return answer


def _with_result(endpoint: Endpoint, result: JsonObject) -> Endpoint:
    """Return the endpoint with the addresses that the plugins gave. Raises SystemFailureError: they make no sense."""
    fields: dict[str, object] = {"options": {RESULT: json.dumps(result)}}
    try:
        for entry in cast("list[dict[str, str]]", result.get("ips") or []):
            interface = ipaddress.ip_interface(entry["address"])
            gateway = str(ipaddress.ip_address(entry["gateway"])) if entry.get("gateway") else ""
            suffix = "" if interface.version == 4 else "6"
            if f"address{suffix}" not in fields:
                fields[f"address{suffix}"] = str(interface.ip)
                fields[f"prefix_length{suffix}"] = interface.network.prefixlen
                fields[f"gateway{suffix}"] = gateway
        for link in cast("list[dict[str, str]]", result.get("interfaces") or []):
            if link.get("sandbox") and link.get("name") == endpoint.interface:
                fields["mac"] = str(link.get("mac", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SystemFailureError(f"result of CNI plugins makes no sense: {error!r}") from error
    return dataclasses.replace(endpoint, **fields)  # type: ignore[arg-type] # fields by name
