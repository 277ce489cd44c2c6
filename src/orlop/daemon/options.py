"""The daemon's options: flags and daemon.json, never both for one setting, nothing unknown, nothing ignored."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, cast

import orlop
from orlop.daemon.exposure import check_exposure
from orlop.daemon.settings import (
    BOOLEAN,
    BY_KEY,
    LIST,
    MAP,
    NUMBER,
    SETTINGS,
    TEXT,
    UNSUPPORTED,
    Setting,
    complete_host,
    parse_layer_limit,
    parse_network_option,
    parse_pool,
    parse_ulimit,
)
from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.primitives.tar import Limits
from orlop.registry.proxies import check_proxy
from orlop.runtime.cgroups.systemd.scope import SLICE_EXPECTED, is_slice
from orlop.spec.truth import find_bool
from orlop.storage.choice import check_driver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_CONFIG = "/etc/orlop/daemon.json"
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")

_SIZE = re.compile(r"([0-9]{1,15}) ?([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Options:
    """What the administrator chose, checked. Attributes bear Docker's key names; see ``settings.SETTINGS``."""

    hosts: tuple[str, ...]
    data_root: str
    exec_root: str
    pidfile: str
    group: str
    debug: bool
    log_level: str
    labels: tuple[str, ...]
    shutdown_timeout: int
    live_restore: bool
    tcp_without_tls: bool
    tls: bool | None
    tlsverify: bool | None
    tlscacert: str
    tlscert: str
    tlskey: str
    bridge: str
    bip: str
    fixed_cidr: str
    ipv6: bool
    bip6: str
    default_gateway: str
    default_gateway_v6: str
    fixed_cidr_v6: str
    host_gateway_ip: str
    mtu: int
    icc: bool
    ip: str
    ip_forward: bool
    ip_masq: bool
    iptables: bool
    ip6tables: bool
    firewall_backend: str
    allow_direct_routing: bool
    allow_published_between_networks: bool
    userland_proxy: bool
    default_network_opts: dict[str, dict[str, str]]
    default_address_pools: tuple[tuple[str, int], ...]
    dns: tuple[str, ...]
    dns_opts: tuple[str, ...]
    dns_search: tuple[str, ...]
    exec_opts: tuple[str, ...]
    cgroup_parent: str
    storage_driver: str
    storage_opts: tuple[str, ...]
    layer_limits: Limits
    default_ulimits: dict[str, tuple[int, int]]
    default_shm_size: int
    init: bool
    no_new_privileges: bool
    userns_remap: str
    registry_mirrors: tuple[str, ...]
    insecure_registries: tuple[str, ...]
    http_proxy: str
    https_proxy: str
    no_proxy: str
    certs_dir: str
    max_concurrent_downloads: int
    max_concurrent_uploads: int
    max_download_attempts: int
    log_driver: str
    log_opts: dict[str, str]

    @property
    def systemd_cgroup(self) -> bool:
        """Whether containers' cgroups are systemd's scopes; the last of two options counts."""
        return self.exec_opts[-1:] == ("native.cgroupdriver=systemd",)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the flags said, before the file is read.

    Attributes:
        values: by daemon.json key, only what was given.
        config_file: path; explicit if ``config_given``.
        validate: only check and say "configuration OK".
    """

    values: dict[str, object]
    config_file: str = DEFAULT_CONFIG
    config_given: bool = False
    validate: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            first = message.split(": ", 1)[1].split(" ", 1)[0]
            if not first.startswith("-"):
                message = f'"{self.prog}" accepts no argument(s).'
            elif first.lstrip("-").split("=")[0] in UNSUPPORTED:
                message = f"flag is not supported by orlop: {first.split('=')[0]}"
            else:
                message = f"unknown flag: {first.split('=')[0]}"
        raise InvalidParameterError(f"{message}\nSee '{self.prog} --help'.")


def _boolean(text: str) -> bool:
    value = find_bool(text)
    if value is None:
        raise InvalidParameterError(f"invalid boolean value {text!r}")
    return value


def parse_arguments(arguments: Sequence[str], *, prog: str = "orlopd") -> CommandLine:
    """Read the flags.

    Raises:
        InvalidParameterError: unknown flag or bad value, in Docker's words.
        SystemExit: ``--help`` and ``--version``, after printing.
    """
    parser = _Parser(
        prog=prog, description="Orlop's engine: containers behind the Docker Engine API.", allow_abbrev=False
    )
    parser.add_argument("--config-file", help=f"configuration file (default {DEFAULT_CONFIG})")
    parser.add_argument("--validate", nargs="?", const=True, type=_boolean, help="check the configuration and exit")
    parser.add_argument("-v", "--version", action="version", version=f"orlop version {orlop.__version__}")
    for setting in SETTINGS:
        names = [f"--{setting.flag_name}", *([f"-{setting.short}"] if setting.short else [])]
        shown = setting.help + (
            f" (default {setting.default})" if setting.default not in ("", (), {}, False, None) else ""
        )
        if setting.kind == BOOLEAN:
            parser.add_argument(*names, dest=setting.key, nargs="?", const=True, type=_boolean, help=shown)
        elif setting.kind in (LIST, MAP):
            parser.add_argument(*names, dest=setting.key, action="append", help=shown)
        else:
            parser.add_argument(*names, dest=setting.key, help=shown)
    found = vars(parser.parse_args(_joined_booleans(arguments)))
    config_file, validate = found.pop("config_file"), found.pop("validate")
    values = {key: _from_flag(BY_KEY[key], value) for key, value in found.items() if value is not None}
    return CommandLine(values, config_file or DEFAULT_CONFIG, config_file is not None, bool(validate))


def _joined_booleans(arguments: Sequence[str]) -> list[str]:
    """As in Go, a boolean flag takes a value only with ``=``: end each bare one so that argparse takes no next word."""
    flags = {f"--{s.flag_name}" for s in SETTINGS if s.kind == BOOLEAN} | {"--validate"}
    short = {f"-{s.short}" for s in SETTINGS if s.kind == BOOLEAN and s.short}
    return [f"{word}=true" if word in flags else f"{word}true" if word in short else word for word in arguments]


def _from_flag(setting: Setting, value: object) -> object:
    """Bring a flag's text to the form that daemon.json has."""
    words = cast("list[str]", value) if isinstance(value, list) else [str(value)]
    for word in words:
        try:
            if setting.check is not None:
                setting.check(word)
            if setting.kind == NUMBER and re.fullmatch("-?[0-9]{1,9}", word, re.ASCII) is None:
                raise InvalidParameterError(f'strconv.ParseInt: parsing "{word}": invalid syntax')
        except InvalidParameterError as error:
            raise InvalidParameterError(
                f'invalid argument "{word}" for "--{setting.flag_name}" flag: {error}'
            ) from None
    if setting.kind == NUMBER:
        return int(words[0])
    if setting.key == "default-ulimits":
        return {name: {"Name": name, "Soft": soft, "Hard": hard} for name, soft, hard in map(parse_ulimit, words)}
    if setting.key == "default-address-pools":
        return [{"base": base, "size": size} for base, size in map(parse_pool, words)]
    if setting.key == "default-network-opts":
        found: dict[str, dict[str, str]] = {}
        for driver, option, chosen in map(parse_network_option, words):
            found.setdefault(driver, {})[option] = chosen
        return found
    if setting.kind == MAP:
        return dict(word.partition("=")[::2] for word in words)
    return value


def load_options(line: CommandLine) -> Options:
    """Read daemon.json, join it with the flags and check everything.

    Raises:
        InvalidParameterError, UnsupportedError: in Docker's words.
    """
    try:
        return _checked({**line.values, **_read_file(line)})
    except (InvalidParameterError, UnsupportedError) as error:
        if line.config_given or isinstance(error, _FileError):
            raise type(error)(f"unable to configure the orlop daemon with file {line.config_file}: {error}") from None
        raise


class _FileError(InvalidParameterError):
    """Something is wrong with what daemon.json says."""


def _read_file(line: CommandLine) -> dict[str, object]:
    try:
        with open(line.config_file, encoding="utf-8") as file:
            text = file.read(1 << 20)
    except FileNotFoundError:
        if line.config_given:
            raise _FileError(f"open {line.config_file}: no such file or directory") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _FileError(f"open {line.config_file}: {getattr(error, 'strerror', 'not UTF-8')}") from None
    if not text.strip():
        return {}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _FileError(f"invalid JSON: {error}") from None
    if not isinstance(document, dict):
        raise _FileError("invalid JSON: not an object")
    _check_keys(document := _with_proxies(document), line.values)
    return document


def _with_proxies(document: dict[str, object]) -> dict[str, object]:
    """Take the members of ``proxies``, which Docker keeps together, out of it."""
    names = ("http-proxy", "https-proxy", "no-proxy")
    if alone := [name for name in names if name in document]:
        raise _FileError(f"the following directives don't match any configuration option: {', '.join(alone)}")
    proxies = document.pop("proxies", {})
    if not isinstance(proxies, dict):
        raise _FileError(f"wrong type of proxies: {_shown(proxies)}: dict expected")
    if unknown := [f"proxies.{name}" for name in proxies if name not in names]:
        raise _FileError(f"the following directives don't match any configuration option: {', '.join(unknown)}")
    return {**document, **proxies}


def _check_keys(document: Mapping[str, object], flags: Mapping[str, object]) -> None:
    unknown = [key for key in document if key not in BY_KEY]
    if refused := [key for key in unknown if key in UNSUPPORTED]:
        raise _FileError(f"the following directives are not supported by orlop: {', '.join(refused)}")
    if unknown:
        raise _FileError(f"the following directives don't match any configuration option: {', '.join(unknown)}")
    if both := [key for key in document if key in flags]:
        shown = ", ".join(
            f"{key}: (from flag: {_shown(flags[key])}, from file: {_shown(document[key])})" for key in both
        )
        raise _FileError(
            f"the following directives are specified both as a flag and in the configuration file: {shown}",
        )
    types: dict[str, type] = {BOOLEAN: bool, NUMBER: int, LIST: list, MAP: dict}
    for key, value in document.items():
        wanted = types.get(BY_KEY[key].kind, str)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise _FileError(f"wrong type of {key}: {_shown(value)}: {wanted.__name__} expected")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _checked(values: Mapping[str, object]) -> Options:
    fields: dict[str, object] = {}
    for setting in SETTINGS:
        value = values.get(setting.key, setting.default)
        if setting.kind == LIST and setting.key != "default-address-pools":
            value = _strings(setting, value)
        elif setting.kind == TEXT and setting.check is not None and value:
            setting.check(str(value))
        fields[setting.field] = value
    fields["default_address_pools"] = tuple(
        parse_pool(f"base={_entry(pool, 'base')},size={_entry(pool, 'size')}")
        for pool in cast("list[object]", fields["default_address_pools"])
    )
    fields["default_ulimits"] = dict(
        _ulimit(*item) for item in cast("dict[str, object]", fields["default_ulimits"]).items()
    )
    opts = cast("dict[str, object]", fields["default_network_opts"])
    fields["default_network_opts"] = {driver: _network_options(driver, chosen) for driver, chosen in opts.items()}
    limits = cast("dict[str, object]", fields["layer_limits"])
    fields["layer_limits"] = Limits(**{name: parse_layer_limit(name, value) for name, value in limits.items()})
    fields["log_opts"] = {key: str(value) for key, value in cast("dict[str, object]", fields["log_opts"]).items()}
    fields["default_shm_size"] = parse_size(str(fields["default_shm_size"]))
    private = bool(fields["tls"]) or fields["tlsverify"] is not None
    hosts = tuple(complete_host(host, private=private) for host in cast("tuple[str, ...]", fields["hosts"]))
    fields["hosts"] = hosts or (f"unix://{fields['exec_root']}/orlop.sock",)
    fields["pidfile"] = fields["pidfile"] or f"{fields['exec_root']}/orlop.pid"
    options = Options(**fields)  # type: ignore[arg-type] # checked per setting above and below
    _check_choices(options)
    return options


def _strings(setting: Setting, value: object) -> tuple[str, ...]:
    items = tuple(cast("Sequence[object]", value))
    for item in items:
        if not isinstance(item, str):
            raise InvalidParameterError(f"wrong type in {setting.key}: {_shown(item)}")
        if setting.check is not None:
            setting.check(item)
    return cast("tuple[str, ...]", items)


def _entry(value: object, name: str) -> object:
    if not isinstance(value, dict) or not isinstance(value.get(name), str | int):
        raise InvalidParameterError(f"invalid default address pool: {_shown(value)}")
    return value[name]


def _network_options(driver: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for pair in value.items() for item in pair):
        raise InvalidParameterError(f"invalid default network options of {driver}: {_shown(value)}")
    return value


def _ulimit(name: str, value: object) -> tuple[str, tuple[int, int]]:
    if not isinstance(value, dict) or not isinstance(value.get("Soft"), int) or not isinstance(value.get("Hard"), int):
        raise InvalidParameterError(f"invalid ulimit {name}: Soft and Hard expected")
    parse_ulimit(f"{name}={value['Soft']}:{value['Hard']}")
    return name, (value["Soft"], value["Hard"])


def _check_choices(options: Options) -> None:
    if options.log_level not in LOG_LEVELS:
        raise InvalidParameterError(f"invalid logging level: {options.log_level}")
    for name in ("data_root", "exec_root", "pidfile"):
        if not getattr(options, name).startswith("/"):
            raise InvalidParameterError(f"{name.replace('_', '-')} must be an absolute path: {getattr(options, name)}")
    if options.systemd_cgroup and options.cgroup_parent and not is_slice(options.cgroup_parent):
        raise InvalidParameterError(SLICE_EXPECTED)
    for proxy in (options.http_proxy, options.https_proxy):
        check_proxy(proxy)
    check_driver(options.storage_driver, options.storage_opts)
    if options.log_driver not in ("json-file", "local", "none"):
        raise UnsupportedError(f"logger: no log driver named '{options.log_driver}' is registered")
    if options.iptables and not options.ip6tables:
        raise UnsupportedError("ip6tables cannot be switched off alone: containers would be open to all over IPv6")
    if not options.live_restore:
        raise UnsupportedError("live-restore cannot be switched off: containers keep running without the engine")
    check_exposure(options)
    for name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts"):
        if getattr(options, name) < 1:
            what = name.replace("max_", "").replace("concurrent", "max concurrent").replace("_", " ")
            raise InvalidParameterError(f"invalid {what}: {getattr(options, name)}")
    if options.shutdown_timeout < 0:
        raise InvalidParameterError(f"invalid shutdown-timeout: {options.shutdown_timeout}")


def parse_size(text: str) -> int:
    """Return the bytes of ``64MiB``, ``64m`` or ``67108864``; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidParameterError(f"invalid size: '{text}'")
    return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")
