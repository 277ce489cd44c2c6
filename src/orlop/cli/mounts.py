"""``--mount`` and ``-v`` as the API's documents."""

from __future__ import annotations

import os

from orlop.cli.quantities import parse_size
from orlop.spec.truth import parse_bool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_BARE = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src")


def split_fields(text: str) -> list[str]:
    """Split comma-separated fields, of which some may be in double quotes (one CSV line).

    Raises:
        ValueError: a quote is not closed.
    """
    fields, current, quoted = [], "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            fields.append(current)
            current = ""
        else:
            current += character
    if quoted:
        raise ValueError('parse error on line 1: extraneous or missing " in quoted-field')
    return [*fields, current]


def parse_mount(text: str) -> dict[str, object]:
    """Read one ``--mount`` into the API's Mount document.

    Raises:
        ValueError: in Docker's words.
    """
    if not text.strip():
        raise ValueError("value is empty")
    mount: dict[str, object] = {"Type": "volume"}
    bind: dict[str, object] = {}
    volume: dict[str, object] = {}
    tmpfs: dict[str, object] = {}
    image: dict[str, object] = {}
    groups = {"bind": bind, "tmpfs": tmpfs, "image": image}
    for item in split_fields(text):
        key, equals, value = item.partition("=")
        key = key.lower().strip()
        if not equals:
            if key not in _BARE:
                raise ValueError(f"invalid field '{item}' must be a key=value pair")
            value = "true"
        setter = _SETTERS.get(key)
        if setter is None:
            raise ValueError(f"unexpected key '{key}' in '{item}'")
        setter(key, value, mount, groups.get(key.partition("-")[0], volume))
    return _checked(mount, {**groups, "volume": volume})


def _checked(mount: dict[str, object], groups: dict[str, dict[str, object]]) -> dict[str, object]:
    kind = mount["Type"]
    if not mount.get("Target"):
        raise ValueError("target is required")
    for name in ("volume", "bind", "tmpfs", "image"):
        options = groups[name]
        if options and kind != name:
            raise ValueError(f"cannot mix '{name}-*' options with mount type '{kind}'")
        if options:
            mount[f"{name.capitalize()}Options"] = options
    if groups["volume"]:
        groups["volume"].setdefault("DriverConfig", {})
    return mount


def _type(_key: str, value: str, mount: dict[str, object], _options: dict[str, object]) -> None:
    mount["Type"] = value.lower()


def _source(_key: str, value: str, mount: dict[str, object], _options: dict[str, object]) -> None:
    mount["Source"] = os.path.abspath(value) if value == "." or value.startswith("./") else value


def _target(_key: str, value: str, mount: dict[str, object], _options: dict[str, object]) -> None:
    mount["Target"] = value


def _read_only(key: str, value: str, mount: dict[str, object], _options: dict[str, object]) -> None:
    if _truth(key, value):
        mount["ReadOnly"] = True


def _truth(key: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _bind_option(key: str, value: str, _mount: dict[str, object], options: dict[str, object]) -> None:
    if key == "bind-propagation":
        if value.lower() not in _PROPAGATIONS:
            raise ValueError(f"invalid propagation: {value}")
        options["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        options["NonRecursive"] = _truth(key, value)
    elif value in ("enabled", "true", "1"):
        return
    elif value in ("disabled", "false", "0"):
        options["NonRecursive"] = True
    elif value == "writable":
        options["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        options["ReadOnlyForceRecursive"] = True
    else:
        raise ValueError(f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")')


def _volume_option(key: str, value: str, _mount: dict[str, object], options: dict[str, object]) -> None:
    driver = _inner(options, "DriverConfig")
    if key == "volume-nocopy":
        options["NoCopy"] = _truth(key, value)
    elif key == "volume-subpath":
        options["Subpath"] = value
    elif key == "volume-driver":
        driver["Name"] = value
    else:
        name, _, content = value.partition("=")
        where = _inner(driver, "Options") if key == "volume-opt" else _inner(options, "Labels")
        where[name] = content


def _image_option(_key: str, value: str, _mount: dict[str, object], options: dict[str, object]) -> None:
    options["Subpath"] = value


def _inner(options: dict[str, object], name: str) -> dict[str, object]:
    inner = options.setdefault(name, {})
    return inner if isinstance(inner, dict) else {}


def _tmpfs_option(key: str, value: str, _mount: dict[str, object], options: dict[str, object]) -> None:
    try:
        if key == "tmpfs-size":
            options["SizeBytes"] = parse_size(value)
        else:
            options["Mode"] = int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


_SETTERS: dict[str, Callable[[str, str, dict[str, object], dict[str, object]], None]] = {
    "type": _type,
    **dict.fromkeys(("source", "src"), _source),
    **dict.fromkeys(("target", "dst", "destination"), _target),
    **dict.fromkeys(("readonly", "ro"), _read_only),
    **dict.fromkeys(("bind-propagation", "bind-nonrecursive", "bind-recursive"), _bind_option),
    **dict.fromkeys(("volume-nocopy", "volume-subpath", "volume-driver", "volume-opt", "volume-label"), _volume_option),
    "image-subpath": _image_option,
    **dict.fromkeys(("tmpfs-size", "tmpfs-mode"), _tmpfs_option),
}


def sort_volumes(texts: list[str]) -> tuple[list[str], dict[str, object]]:
    """Split ``-v`` values into binds (``source:target[:options]``) and anonymous volumes (``/path``)."""
    binds: list[str] = []
    anonymous: dict[str, object] = {}
    for text in texts:
        source, colon, rest = text.partition(":")
        if not colon or not rest:
            anonymous[text] = {}
            continue
        if source in (".", "..") or source.startswith(("./", "../", "~/")):
            source = os.path.abspath(os.path.expanduser(source))
        binds.append(f"{source}:{rest}")
    return binds, anonymous
