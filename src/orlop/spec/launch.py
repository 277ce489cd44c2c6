"""What the engine and the runtime say to each other: launch requests and shim messages.

The protocol is drawn in ``docs/concepts/processes.md``. These values travel as JSON objects over
``orlop.primitives.channel``; :func:`to_message` and each class's ``from_message`` are strict: an unknown or missing
key, or a value of another type, is an :class:`~orlop.errors.InvalidParameterError`.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.record import dataclass, fields, is_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from orlop.spec.json import JsonObject, JsonValue

    T = TypeVar("T")
    # Takes a value and the name of its field, returns the value as the class has it. Raises InvalidParameterError.
    Check = Callable[[JsonValue, str], object]


@dataclass(frozen=True)
class DeviceRoot:
    """A root file system on a block device of its own.

    Attributes:
        path: of the device's node on the host.
        kind: the file system's type.
        options: the file system's own, ``name`` or ``name=value``.
        sealed: the device can only be read.
        view: this mount can only be read; there may be another that can be written.
    """

    path: str
    kind: str
    options: tuple[str, ...] = ()
    sealed: bool = False
    view: bool = False


@dataclass(frozen=True)
class OverlayRoot:
    """A root file system made of layers, mounted by the container's init inside its own mount namespace.

    Attributes:
        lower: read-only layer directories, topmost first, absolute host paths; none if ``upper`` is a whole tree,
            which is bound.
        upper: the writable layer, or None for a read-only view.
        work: overlay's work directory on the same file system as ``upper``.
        volatile: skip syncs (the layer does not outlive a crash of the machine).
        device: holds the whole tree; there are no layers then.
    """

    lower: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    volatile: bool = False
    device: DeviceRoot | None = None


COMPRESSED = ".gz"  # ends the name of a log file that was compressed after its rotation
GZIP = 31  # what such a file is, as zlib's window bits: RFC 1952


@dataclass(frozen=True)
class LogTarget:
    """Where the shim writes the container's output, in Docker's json-file format.

    Attributes:
        path: absolute path of the current file; rotated ones get ``.1``, ``.2`` and so on, compressed ones ``.1.gz``.
        max_size: bytes after which the file is rotated; 0 never.
        max_files: how many files are kept, the current one included.
        attributes: Docker's ``attrs`` of each line (labels and environment chosen by log options).
        compress: compress the rotated files (gzip).
    """

    path: str
    max_size: int = 10_000_000
    max_files: int = 3
    attributes: dict[str, str] | None = None
    compress: bool = False


@dataclass(frozen=True)
class AttachTarget:
    """One client stream that the shim serves directly; its socket travels as a descriptor.

    Attributes:
        stdin: bytes that the client sends go to the container's standard input.
        stdout: the container's standard output goes to the client.
        stderr: likewise.
        multiplexed: output is framed with Docker's 8-byte stdcopy header; raw otherwise.
        detach_keys: byte sequence, hex, that ends the attachment without ending the container; empty for none.
        preface: bytes, hex, that the client had already sent when the engine handed the socket over.
    """

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    multiplexed: bool = True
    detach_keys: str = ""
    preface: str = ""


@dataclass(frozen=True)
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
    console_size: tuple[int, int] | None = None
    attach: tuple[AttachTarget, ...] = ()


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
    """Turn one of this module's values, or another record of such fields, into a JSON object."""
    names = fields(type(value))
    return {name: _plain(getattr(value, name)) for name in names}


def _plain(value: object) -> JsonValue:
    if is_record(type(value)):
        return to_message(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value  # type: ignore[return-value]  # JSON by the fields' types


def from_message(cls: type[T], message: JsonObject) -> T:
    """Make a ``cls`` from a JSON object, strictly.

    Raises:
        InvalidParameterError: an unknown or missing key, or a value of another type.
    """
    checks = _CHECKS.get(cls) or _checks(cls)
    values = {}
    for name, value in message.items():
        check = checks.get(name)
        if check is None:
            raise InvalidParameterError(f"unknown field of {cls.__name__}: {name}")
        values[name] = check(value, name)
    try:
        return cls(**values)
    except TypeError as error:
        raise InvalidParameterError(f"bad {cls.__name__}: {error}") from None


def absolute_path(message: JsonObject, name: str) -> str:
    """Return a field that has to be an absolute path. Raises InvalidParameterError."""
    value = message.get(name)
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidParameterError(f"bad {name}: {value!r:.80}")
    return value


_CHECKS: dict[type, dict[str, Check]] = {}
_RECORDS: dict[str, type] = {}


def _checks(cls: type) -> dict[str, Check]:
    """Return how each field is checked, made of its annotation's text once."""
    annotations = cls.__annotations__
    checks = _CHECKS[cls] = {name: _check(annotations[name]) for name in fields(cls)}
    return checks


def _check(annotation: str) -> Check:
    if annotation.endswith(" | None"):
        some = _check(annotation.removesuffix(" | None"))
        return lambda value, name: None if value is None else some(value, name)
    if annotation.startswith("tuple["):
        return _tuple_check(annotation[len("tuple[") : -1].split(", "))
    if annotation in _RECORDS:
        return _record_check(_RECORDS[annotation])
    wanted = {"str": str, "int": int, "bool": bool, "dict": dict}[annotation.partition("[")[0]]

    def plain(value: JsonValue, name: str) -> object:
        if type(value) is not wanted:  # an exact type: True is no number
            raise InvalidParameterError(f"bad {name}: {value!r:.80}")
        return value

    return plain


def _tuple_check(items: list[str]) -> Check:
    if items[1:] == ["..."]:
        item = _check(items[0])
        return lambda value, name: tuple([item(one, name) for one in _list(value, name)])
    checks = [_check(one) for one in items]

    def fixed(value: JsonValue, name: str) -> object:
        values = _list(value, name)
        if len(values) != len(checks):
            raise InvalidParameterError(f"bad {name}: {len(checks)} items expected")
        return tuple([check(one, name) for check, one in zip(checks, values, strict=True)])

    return fixed


def _record_check(cls: type) -> Check:
    def record(value: JsonValue, name: str) -> object:
        if not isinstance(value, dict):
            raise InvalidParameterError(f"bad {name}: not an object")
        return from_message(cls, value)

    return record


def _list(value: JsonValue, name: str) -> list[JsonValue]:
    if not isinstance(value, list):
        raise InvalidParameterError(f"bad {name}: not a list")
    return value


for _cls in (DeviceRoot, OverlayRoot, LogTarget, AttachTarget, ContainerLaunch, ExecLaunch, ExitRecord):
    _RECORDS[_cls.__name__] = _cls
    _checks(_cls)
