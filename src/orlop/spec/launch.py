"""What the engine and the runtime say to each other: launch requests and shim messages.

The protocol is drawn in ``docs/concepts/processes.md``. These values travel as JSON objects over
``orlop.primitives.channel``; :func:`to_message` and each class's ``from_message`` are strict: an unknown or missing
key, or a value of another type, is an :class:`~orlop.errors.InvalidParameterError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast, get_args, get_origin, get_type_hints

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    """A root file system made of layers, mounted by the container's init inside its own mount namespace.

    Attributes:
        lower: read-only layer directories, topmost first, absolute host paths; at least one.
        upper: the writable layer, or None for a read-only view.
        work: overlay's work directory on the same file system as ``upper``.
        volatile: skip syncs (the layer does not outlive a crash of the machine).
    """

    lower: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class LogTarget:
    """Where the shim writes the container's output, in Docker's json-file format.

    Attributes:
        path: absolute path of the current file; rotated ones get ``.1``, ``.2`` and so on.
        max_size: bytes after which the file is rotated; 0 never.
        max_files: how many files are kept, the current one included.
        attributes: Docker's ``attrs`` of each line (labels and environment chosen by log options).
    """

    path: str
    max_size: int = 10_000_000
    max_files: int = 3
    attributes: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class AttachTarget:
    """One client stream that the shim serves directly; its socket travels as a descriptor.

    Attributes:
        stdin: bytes that the client sends go to the container's standard input.
        stdout: the container's standard output goes to the client.
        stderr: likewise.
        multiplexed: output is framed with Docker's 8-byte stdcopy header; raw otherwise (always raw on a terminal).
        detach_keys: byte sequence, hex, that ends the attachment without ending the container; empty for none.
        preface: bytes, hex, that the client had already sent when the engine handed the socket over.
    """

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    multiplexed: bool = True
    detach_keys: str = ""
    preface: str = ""


@dataclass(frozen=True, slots=True)
class ContainerLaunch:
    """Ask the spawner for a shim that creates and starts one container.

    Descriptors, in this order: the shim's control channel, the network namespace if ``has_netns``, then one client
    socket per entry of ``attach``.

    Attributes:
        id: 64 hexadecimal digits.
        state_dir: ``<exec-root>/shims/<id>``; made by the engine (0700). The shim writes
            ``attach.sock``, ``pid`` and ``exit`` in it.
        config: the OCI runtime configuration (config.json). ``root.path`` is ignored when ``overlay`` is given.
        overlay: the root file system by layers, or None: ``root.path`` is bound.
        log: None writes no log.
        open_stdin: keep the container's standard input open for attach (else it is ``/dev/null``).
        stdin_once: close it when the first attached client that had it goes.
        init: run a reaping, signal-forwarding init as pid 1 (``--init``).
        has_netns: a network namespace descriptor is passed and joined instead of ``config``'s network namespace.
        systemd_cgroup: cgroupsPath is slice:prefix:name.
        console_size: height and width of the terminal, or None.
        attach: clients that are there from the first byte.
    """

    id: str
    state_dir: str
    config: dict[str, JsonValue]
    overlay: OverlayRoot | None = None
    log: LogTarget | None = None
    open_stdin: bool = False
    stdin_once: bool = False
    init: bool = False
    has_netns: bool = False
    systemd_cgroup: bool = False
    console_size: tuple[int, int] | None = None
    attach: tuple[AttachTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class ExecLaunch:
    """Ask the spawner for an exec shim that runs one more process in a container.

    Descriptors: control channel, pidfd of the container's init, then one client socket per entry of ``attach``.

    Attributes:
        id: the exec's 64 hexadecimal digits.
        container_id: the container's.
        state_dir: ``<exec-root>/shims/<id>`` of the exec.
        config: the container's OCI configuration (namespaces, seccomp, cgroups path, root's passwd rules).
        process: OCI ``process`` object of what is to be run.
        open_stdin: keep standard input open for the client.
        console_size: height and width, or None.
        attach: the clients.
    """

    id: str
    container_id: str
    state_dir: str
    config: dict[str, JsonValue]
    process: dict[str, JsonValue]
    open_stdin: bool = False
    console_size: tuple[int, int] | None = None
    attach: tuple[AttachTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a container or exec ended; also the content of ``<state_dir>/exit``.

    Attributes:
        exit_code: 0..255; 128+n when signal n ended it.
        oom_killed: the kernel's OOM killer took a process of the container's cgroup.
        started_at: nanoseconds since the epoch.
        finished_at: nanoseconds since the epoch.
        error: the start error's text when the process never ran.
    """

    exit_code: int
    oom_killed: bool
    started_at: int
    finished_at: int
    error: str = ""


def to_message(value: object) -> JsonObject:
    """Turn one of this module's values into a JSON object."""
    return cast("JsonObject", _plain(value))


def _plain(value: object) -> JsonValue:
    slots = getattr(type(value), "__dataclass_fields__", None)
    if slots is not None:
        return {name: _plain(getattr(value, name)) for name in slots}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return cast("JsonValue", value)


def from_message(cls: type[T], message: JsonObject) -> T:
    """Make a ``cls`` from a JSON object, strictly.

    Raises:
        InvalidParameterError: an unknown or missing key, or a value of another type.
    """
    hints = _hints(cls)
    unknown = message.keys() - hints.keys()
    if unknown:
        raise InvalidParameterError(f"unknown field of {cls.__name__}: {min(unknown)}")
    try:
        return cls(**{name: _typed(hints[name], value, name) for name, value in message.items()})
    except TypeError as error:
        raise InvalidParameterError(f"bad {cls.__name__}: {error}") from None


_HINTS: dict[type, dict[str, object]] = {}


def _hints(cls: type) -> dict[str, object]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls, {**globals(), "JsonValue": object})
    return _HINTS[cls]


def _typed(hint: object, value: JsonValue, name: str) -> object:
    options = get_args(hint)
    origin = get_origin(hint)
    if origin is not None and type(None) in options:
        if value is None:
            return None
        hint = next(option for option in options if option is not type(None))
        origin, options = get_origin(hint), get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidParameterError(f"bad {name}: not a list")
        variadic = len(options) == 2 and options[1] is Ellipsis
        if not variadic and len(value) != len(options):
            raise InvalidParameterError(f"bad {name}: {len(options)} items expected")
        return tuple(_typed(options[0] if variadic else options[i], item, name) for i, item in enumerate(value))
    if origin is dict:
        hint = dict
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        if not isinstance(value, dict):
            raise InvalidParameterError(f"bad {name}: not an object")
        return from_message(hint, value)
    if not isinstance(hint, type) or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InvalidParameterError(f"bad {name}: {value!r:.80}")
    return value


for _cls in (OverlayRoot, LogTarget, AttachTarget, ContainerLaunch, ExecLaunch, ExitRecord):
    _hints(_cls)
