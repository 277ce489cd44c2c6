"""``orlop version`` and ``orlop info``."""

from __future__ import annotations

import os
import platform
import sys

from orlop.cli.documents import member, members, number, text, texts
from orlop.cli.flags import Command
from orlop.cli.formatting import FORMAT_ONE, execute
from orlop.cli.invocation import CommandError, Invocation, write_error
from orlop.cli.text import safe
from orlop.cli.units import binary_size
from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def _client(invocation: Invocation) -> dict[str, object]:
    from orlop import __version__
    from orlop.client.transport import NEWEST

    system = os.uname()
    newest = ".".join(str(part) for part in NEWEST)
    document: dict[str, object] = {
        "Version": __version__,
        "ApiVersion": newest,
        "DefaultAPIVersion": newest,
        "PythonVersion": platform.python_version(),
        "Os": system.sysname.lower(),
        "Arch": _MACHINES.get(system.machine, system.machine),
        "Context": invocation.chosen.context or "default",
    }
    return document


def _version(invocation: Invocation) -> int:
    client = _client(invocation)
    server: Mapping[str, object] | None = None
    failure: OrlopError | None = None
    try:
        server = invocation.client.system.version()
        client["ApiVersion"] = ".".join(str(part) for part in invocation.client.transport.version)
    except OrlopError as error:
        failure = error
    form = invocation.options.text("format")
    if form:
        document = {"Client": client, "Server": server}
        sys.stdout.write(execute("{{json .}}" if form == "json" else form, document) + "\n")
    else:
        sys.stdout.write(_client_text(client) + (_server_text(server) if server is not None else ""))
    if failure is not None:
        raise CommandError(str(failure))
    return 0


def _client_text(client: Mapping[str, object]) -> str:
    api = str(client["ApiVersion"])
    if api != client["DefaultAPIVersion"]:
        api += f" (downgraded from {client['DefaultAPIVersion']})"
    rows = (
        ("Version", client["Version"]),
        ("API version", api),
        ("Python version", client["PythonVersion"]),
        ("OS/Arch", f"{client['Os']}/{client['Arch']}"),
        ("Context", client["Context"]),
    )
    return "Client:\n" + "".join(f" {f'{name}:':<18} {value}\n" for name, value in rows)


def _server_text(server: Mapping[str, object]) -> str:
    name = text(member(server, "Platform"), "Name")
    lines = ["", f"Server: {name}".rstrip() if name else "Server:"]
    components = members(server, "Components") or [{"Name": "Engine", "Version": server.get("Version"), "Details": {}}]
    for component in components:
        details = member(component, "Details")
        lines.append(f" {component.get('Name')}:")
        rows = [("Version", text(component, "Version"))]
        if component.get("Name") == "Engine":
            details = details or {key: str(value) for key, value in server.items()}
            oldest = text(details, "MinAPIVersion")
            rows += [
                ("API version", f"{text(details, 'ApiVersion')} (minimum version {oldest})"),
                ("Python version", text(details, "PythonVersion")),
                ("Go version", text(details, "GoVersion")),
                ("Git commit", text(details, "GitCommit")),
                ("Built", text(details, "BuildTime")),
                ("OS/Arch", f"{text(details, 'Os')}/{text(details, 'Arch')}"),
                ("Experimental", text(details, "Experimental")),
            ]
            rows = [row for row in rows if row[1]]
        else:
            rows += [(key, str(value)) for key, value in details.items()]
        lines += [safe(f"  {f'{name}:':<17} {value}") for name, value in rows]
    return "\n".join(lines) + "\n"


def _info(invocation: Invocation) -> int:
    from orlop import __version__

    form = invocation.options.text("format")
    client: dict[str, object] = {
        "Version": __version__,
        "Context": invocation.chosen.context or "default",
        "Debug": False,
    }
    server = invocation.client.system.info()
    if form:
        document = {**server, "ClientInfo": client}
        sys.stdout.write(execute("{{json .}}" if form == "json" else form, document) + "\n")
        return 0
    sys.stdout.write(
        f"Client:\n Version:    {client['Version']}\n Context:    {client['Context']}\n Debug Mode: false\n\nServer:\n"
    )
    sys.stdout.write("".join(f"{safe(line)}\n" for line in _info_lines(server)))
    for warning in texts(server, "Warnings"):
        write_error(warning)
    return 0


def _info_lines(info: Mapping[str, object]) -> list[str]:
    lines = [
        f" Containers: {number(info, 'Containers')}",
        f"  Running: {number(info, 'ContainersRunning')}",
        f"  Paused: {number(info, 'ContainersPaused')}",
        f"  Stopped: {number(info, 'ContainersStopped')}",
        f" Images: {number(info, 'Images')}",
        f" Server Version: {text(info, 'ServerVersion')}",
        f" Storage Driver: {text(info, 'Driver')}",
    ]
    pairs = info.get("DriverStatus")
    pairs = pairs if isinstance(pairs, list) else []
    lines += [f"  {pair[0]}: {pair[1]}" for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    lines += [
        f" Logging Driver: {text(info, 'LoggingDriver')}",
        f" Cgroup Driver: {text(info, 'CgroupDriver')}",
        f" Cgroup Version: {text(info, 'CgroupVersion')}",
        " Plugins:",
    ]
    plugins = member(info, "Plugins")
    lines += [f"  {kind}: {' '.join(texts(plugins, kind))}" for kind in ("Volume", "Network", "Log")]
    swarm = text(member(info, "Swarm"), "LocalNodeState")
    if swarm:
        lines.append(f" Swarm: {swarm}")
    lines += [
        f" Runtimes: {' '.join(sorted(member(info, 'Runtimes')))}",
        f" Default Runtime: {text(info, 'DefaultRuntime')}",
        f" Init Binary: {text(info, 'InitBinary')}",
        *_security_lines(info),
        f" Kernel Version: {text(info, 'KernelVersion')}",
        f" Operating System: {text(info, 'OperatingSystem')}",
        f" OSType: {text(info, 'OSType')}",
        f" Architecture: {text(info, 'Architecture')}",
        f" CPUs: {number(info, 'NCPU')}",
        f" Total Memory: {binary_size(number(info, 'MemTotal'))}",
        f" Name: {text(info, 'Name')}",
        f" ID: {text(info, 'ID')}",
        f" Docker Root Dir: {text(info, 'DockerRootDir')}",
        f" Debug Mode: {str(info.get('Debug') is True).lower()}",
        f" Experimental: {str(info.get('ExperimentalBuild') is True).lower()}",
    ]
    if texts(info, "Labels"):
        lines += [" Labels:", *(f"  {label}" for label in texts(info, "Labels"))]
    registries = texts(member(info, "RegistryConfig"), "InsecureRegistryCIDRs")
    if registries:
        lines += [" Insecure Registries:", *(f"  {registry}" for registry in registries)]
    lines.append(f" Live Restore Enabled: {str(info.get('LiveRestoreEnabled') is True).lower()}")
    return lines


def _security_lines(info: Mapping[str, object]) -> list[str]:
    lines = [" Security Options:"] if texts(info, "SecurityOptions") else []
    for option in texts(info, "SecurityOptions"):
        fields = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f"  {fields.pop('name', option)}")
        lines += [f"   {key.capitalize()}: {value}" for key, value in fields.items()]
    return lines


VERSION = Command("[OPTIONS]", "Show the versions of client and engine", _version, flags=(FORMAT_ONE,))
INFO = Command("[OPTIONS]", "Describe the engine and its machine", _info, flags=(FORMAT_ONE,))
