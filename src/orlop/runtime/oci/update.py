"""``update``: new limits for a container that exists, at once and for good."""

from __future__ import annotations

from orlop.errors import ConflictError, InvalidParameterError, OrlopError, UnsupportedError
from orlop.primitives.atomic import write_atomic
from orlop.primitives.json_text import dumps
from orlop.primitives.scope import suppress
from orlop.runtime.cgroups import open_cgroup
from orlop.runtime.oci.document import parse_document, read_all, read_document
from orlop.spec.oci import parse_resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.oci.command import Invocation
    from orlop.runtime.oci.options import Parsed
    from orlop.spec.json import JsonObject, JsonValue

# flag, section, property
_NUMBERS = (
    ("blkio-weight", "blockIO", "weight"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
    ("pids-limit", "pids", "limit"),
)
_SIZES = (("memory", "limit"), ("memory-reservation", "reservation"), ("memory-swap", "swap"))
_TEXTS = (("cpuset-cpus", "cpus"), ("cpuset-mems", "mems"))
# 0 is "leave it" for these, as in runc, whose flags have it for their default
_ZERO_IS_NOTHING = {"blkio-weight", "pids-limit"}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def update(invocation: Invocation) -> int:
    """Change limits from flags, or from a JSON document (``-r FILE``, ``-r -``).

    What is not named stays. The kernel is told first and the container's configuration after it, so that the next
    update begins from what holds now; a change that the kernel takes in part is taken back.
    """
    state = invocation.store.load(invocation.arguments[0])
    if invocation.store.status(state, invocation.hierarchies) in ("stopped", "creating"):
        raise ConflictError("container not running")
    changes = _changes(invocation.options)
    path = f"{invocation.store.directory(state.id)}/config.json"
    config = read_document(path)
    _free_swap_with_memory(changes)
    before, after = _merged(config, changes)
    parse_resources(after)  # contradictions with what is set already
    wanted = parse_resources(_with_both_limits(changes, after))
    cgroup = open_cgroup(invocation.hierarchies, state.cgroup)
    try:
        cgroup.update(wanted)
    except OrlopError:
        with suppress(OrlopError, OSError):
            cgroup.update(parse_resources({name: before[name] for name in changes if name in before}))
        raise
    write_atomic(path, dumps(config).encode(), 0o600)
    return 0


def _changes(options: Parsed) -> JsonObject:
    """Return ``linux.resources`` with what is to change. Raises InvalidParameterError, UnsupportedError."""
    for flag in ("l3-cache-schema", "mem-bw-schema"):
        if options.text(flag):
            raise UnsupportedError(f"Intel RDT is not supported: --{flag}")
    for flag in ("kernel-memory", "kernel-memory-tcp"):
        if options.text(flag):
            raise UnsupportedError(f"kernel memory has no limit of its own: --{flag}")
    source = options.text("resources")
    if not source:
        return _from_flags(options)
    document = parse_document(read_all(0), "standard input") if source == "-" else read_document(source)
    if not isinstance(document, dict):
        raise InvalidParameterError("resources: expected an object")
    # a running container's devices stay as they are, as in runc: callers send back all of linux.resources
    return {name: value for name, value in document.items() if name != "devices" and value is not None}


def _from_flags(options: Parsed) -> JsonObject:
    changes: dict[str, dict[str, JsonValue]] = {}
    for flag, section, name in _NUMBERS:
        if options.text(flag) and not (flag in _ZERO_IS_NOTHING and options.number(flag) == 0):
            changes.setdefault(section, {})[name] = options.number(flag)
    for flag, name in _SIZES:
        if options.text(flag):
            changes.setdefault("memory", {})[name] = parse_size(options.text(flag), flag)
    for flag, name in _TEXTS:
        if options.text(flag):
            changes.setdefault("cpu", {})[name] = options.text(flag)
    return dict(changes)


def parse_size(text: str, flag: str) -> int:
    """Return bytes of ``64m``, ``1.5GiB`` or ``-1``. Raises InvalidParameterError."""
    if text == "-1":
        return -1
    number = text.lower().rstrip(" ")
    for ending in ("ib", "b"):
        number = number.removesuffix(ending)
    unit = number[-1:] if number[-1:] in _UNITS else ""
    whole, dot, part = number.removesuffix(unit).strip().partition(".")
    digits = whole + part
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20 or (dot and not part):
        raise InvalidParameterError(f"invalid value for {flag}: invalid size: '{text:.40}'")
    scale = 1
    for _ in part:
        scale *= 10
    return int(digits) * _UNITS[unit] // scale


def _free_swap_with_memory(changes: JsonObject) -> None:
    """Take the limit of memory and swap away with that of memory, unless it is named: as runc does."""
    memory = changes.get("memory")
    if isinstance(memory, dict) and memory.get("limit") == -1 and not memory.get("swap"):
        memory["swap"] = -1


def _with_both_limits(changes: JsonObject, after: JsonObject) -> JsonObject:
    """Return the changes with both limits of memory where one is among them: v2 has their difference in a file."""
    changed, memory = changes.get("memory"), after.get("memory")
    if not (isinstance(changed, dict) and isinstance(memory, dict) and changed.keys() & {"limit", "swap"}):
        return changes
    both: JsonObject = {name: memory[name] for name in ("limit", "swap") if name in memory}
    return {**changes, "memory": {**changed, **both}}


def _merged(config: JsonValue, changes: JsonObject) -> tuple[JsonObject, JsonObject]:
    """Put the changes into a configuration; return its ``linux.resources`` before and after."""
    linux = config.setdefault("linux", {}) if isinstance(config, dict) else None
    if not isinstance(linux, dict):
        raise InvalidParameterError("config: expected an object")
    before = linux.get("resources") or {}
    if not isinstance(before, dict):
        raise InvalidParameterError("linux.resources: expected an object")
    after = dict(before)
    for name, value in changes.items():
        old = after.get(name)
        after[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    linux["resources"] = after
    return before, after
