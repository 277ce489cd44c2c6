"""Legacy links (``--link`` on the default bridge): lines of /etc/hosts and variables, as Docker makes them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from orlop.engine.containers.endpoint_settings import is_user_defined, parse_link
from orlop.engine.containers.files import rewrite_link
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.spec.ports import parse_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.records import Definition
    from orlop.engine.containers.settings import Settings
    from orlop.network.sandbox import Sandbox
    from orlop.spec.docker.containers import HostConfig

_HIDDEN = ("HOME", "PATH")


def check_links(host: HostConfig, directory: Directory) -> list[str] | None:
    """Return HostConfig.Links with names of containers in place of ids.

    Raises:
        InvalidParameterError: not a link, no such container, or a container on the host's network.
    """
    if host.links is None or is_user_defined(host.network_mode):
        return host.links
    checked = []
    for text in host.links:
        name, alias = parse_link(text)
        try:
            target = directory.get(name)
        except NotFoundError as error:
            raise InvalidParameterError(f"could not get container for {name}: {error}") from None
        if target.definition.host.network_mode == "host":
            undefined = "This would result in undefined behavior"
            raise InvalidParameterError(
                f"conflicting options: host type networking can't be used with links. {undefined}"
            )
        checked.append(f"{target.name}:{alias}")
    return checked


def shown_links(definition: Definition) -> list[str] | None:
    """Return HostConfig.Links as inspect shows them: ``/target:/own/alias``."""
    links = definition.host.links
    if not links or is_user_defined(definition.host.network_mode):
        return None
    return [f"/{name}:/{definition.name}/{alias}" for name, alias in map(parse_link, links)]


def _targets(definition: Definition, directory: Directory) -> list[tuple[Container, str]]:
    if not definition.host.links or is_user_defined(definition.host.network_mode):
        return []
    found = []
    for text in definition.host.links:
        name, alias = parse_link(text)
        found.append((directory.get(name), alias))
    return found


def require_linked_run(
    definition: Definition, directory: Directory, sandbox_of: Callable[[str], Sandbox | None]
) -> None:
    """Refuse to start before those that a container is linked to, and where they cannot be reached.

    Raises:
        ConflictError: one does not run, in Docker's words.
        SystemFailureError: one is not on the default network, in Docker's words.
        NotFoundError: one is gone.
    """
    for target, alias in _targets(definition, directory):
        if not target.alive:
            raise ConflictError(f"Cannot link to a non running container: /{target.name} AS /{definition.name}/{alias}")
        if not _address(target, sandbox_of):
            raise SystemFailureError(f"Cannot link to /{target.name}, as it does not belong to the default network")


def link_hosts(
    definition: Definition, directory: Directory, sandbox_of: Callable[[str], Sandbox | None]
) -> list[tuple[str, str]]:
    """Return (address, names) of the linked containers for /etc/hosts."""
    lines = []
    for target, alias in _targets(definition, directory):
        address = _address(target, sandbox_of)
        if address:
            lines.append((address, _names(target, alias)))
    return lines


def _names(target: Container, alias: str) -> str:
    return " ".join(dict.fromkeys((alias, target.definition.config.hostname, target.name)))


def refresh_links(
    settings: Settings, target: Container, directory: Directory, sandbox_of: Callable[[str], Sandbox | None]
) -> None:
    """Tell running containers that are linked to one which has just started where it is now."""
    linked = [other for other in directory if other.alive and other.definition.host.links and other is not target]
    address = _address(target, sandbox_of) if linked else ""
    for other in linked if address else ():
        if is_user_defined(other.definition.host.network_mode):
            continue
        for name, alias in map(parse_link, other.definition.host.links or ()):
            with contextlib.suppress(NotFoundError):
                if directory.get(name) is target:
                    rewrite_link(settings, other.id, names=_names(target, alias), address=address)


def rename_links(
    settings: Settings,
    target: Container,
    old: str,
    directory: Directory,
    sandbox_of: Callable[[str], Sandbox | None],
) -> None:
    """Let the links to a container, which are kept by its name, follow its new one, also where they are in use."""
    for other in list(directory):
        links = other.definition.host.links
        if not links or is_user_defined(other.definition.host.network_mode):
            continue
        pairs = [parse_link(text) for text in links]
        moved = [f"{target.name if name == old else name}:{alias}" for name, alias in pairs]
        if moved == links:
            continue
        host = msgspec.structs.replace(other.definition.host, links=moved)
        directory.redefine(other, msgspec.structs.replace(other.definition, host=host))
        for name, alias in pairs if other.alive else ():
            if name == old:
                now = _names(target, alias)
                was = " ".join(dict.fromkeys((alias, target.definition.config.hostname, old)))
                rewrite_link(settings, other.id, names=now, address=_address(target, sandbox_of), was=was)


def link_environment(
    definition: Definition, directory: Directory, sandbox_of: Callable[[str], Sandbox | None]
) -> list[str]:
    """Return the variables that tell about linked containers."""
    variables: list[str] = []
    for target, alias in _targets(definition, directory):
        address = _address(target, sandbox_of)
        prefix = alias.replace("-", "_").upper()
        ports = sorted(parse_port(key) for key in target.definition.config.exposed_ports or {})
        if ports and address:
            number, protocol = ports[0]
            variables.append(f"{prefix}_PORT={protocol}://{address}:{number}")
        for number, protocol in ports if address else ():
            name = f"{prefix}_PORT_{number}_{protocol.upper()}"
            variables.append(f"{name}={protocol}://{address}:{number}")
            variables += [f"{name}_ADDR={address}", f"{name}_PORT={number}", f"{name}_PROTO={protocol}"]
        variables.append(f"{prefix}_NAME=/{definition.name}/{alias}")
        for item in target.definition.config.env or []:
            name, equals, value = item.partition("=")
            if equals and name not in _HIDDEN:
                variables.append(f"{prefix}_ENV_{name}={value}")
    return variables


def _address(target: Container, sandbox_of: Callable[[str], Sandbox | None]) -> str:
    sandbox = sandbox_of(target.id) if target.alive else None
    for endpoint in sandbox.endpoints if sandbox is not None else ():
        if endpoint.network_name == "bridge":
            return endpoint.address
    return ""
