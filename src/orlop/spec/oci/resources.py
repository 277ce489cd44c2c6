"""``linux.resources`` of the runtime-spec: what the container's cgroup is told."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.charset import DIGITS, LOWER, WORD, consists_of, is_bare, is_number
from orlop.spec.cpuset import parse_cpuset
from orlop.spec.oci.fields import INT64_MAX, UINT32_MAX, UINT64_MAX, Fields
from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonValue

_CONTROLLER = LOWER | DIGITS | {"_"}
_RDMA_DEVICE = WORD | frozenset(".-")


@dataclass(frozen=True)
class DeviceRule:
    """One line of the device cgroup; a later rule overrides an earlier one.

    Attributes:
        allow: grant or refuse.
        type: ``c``, ``b`` or ``a`` (both).
        major: None for every major number.
        minor: None for every minor number.
        access: a subset of ``rwm`` (read, write, mknod), in this order.
    """

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


@dataclass(frozen=True)
class Memory:
    """Memory limits in bytes; -1 is unlimited, None leaves the kernel's value.

    ``swap`` is memory *plus* swap, as in cgroup v1 and Docker. ``check_before_update``: refuse a limit below what is
    used now, where the kernel would rather kill.
    """

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool = False
    use_hierarchy: bool | None = None
    check_before_update: bool = False


@dataclass(frozen=True)
class Cpu:
    """CPU time: ``shares`` (2..262144), ``quota`` µs per ``period`` µs (-1: none), ``burst`` µs, real-time, cpusets."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    burst: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    idle: int | None = None
    cpus: str = ""
    mems: str = ""


@dataclass(frozen=True)
class DeviceWeight:
    """Proportional weight of one block device."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


@dataclass(frozen=True)
class Throttle:
    """Upper bound of one block device: bytes or operations per second."""

    major: int
    minor: int
    rate: int


@dataclass(frozen=True)
class BlockIO:
    """Block device limits; weights are 10..1000, 0 or None leaves the kernel's."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[DeviceWeight, ...] = ()
    read_bps: tuple[Throttle, ...] = ()
    write_bps: tuple[Throttle, ...] = ()
    read_iops: tuple[Throttle, ...] = ()
    write_iops: tuple[Throttle, ...] = ()


@dataclass(frozen=True)
class HugepageLimit:
    """Bytes of huge pages of one size (``2MB``, ``1GB``)."""

    page_size: str
    limit: int


@dataclass(frozen=True)
class RdmaLimit:
    """RDMA handles and objects of one device."""

    device: str
    handles: int | None = None
    objects: int | None = None


@dataclass(frozen=True)
class Resources:
    """All limits of one container."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory = field(default_factory=Memory)
    cpu: Cpu = field(default_factory=Cpu)
    pids_limit: int | None = None
    block_io: BlockIO = field(default_factory=BlockIO)
    hugepages: tuple[HugepageLimit, ...] = ()
    class_id: int | None = None
    priorities: tuple[tuple[str, int], ...] = ()
    rdma: tuple[RdmaLimit, ...] = ()
    unified: tuple[tuple[str, str], ...] = ()


_RESOURCES = frozenset(
    {"devices", "memory", "cpu", "pids", "blockIO", "hugepageLimits", "network", "rdma", "unified"},
)
_DEVICE = frozenset({"allow", "type", "major", "minor", "access"})
_MEMORY = frozenset(
    {
        "limit",
        "reservation",
        "swap",
        "kernelTCP",
        "swappiness",
        "disableOOMKiller",
        "useHierarchy",
        "checkBeforeUpdate",
    },
)
_CPU = frozenset(
    {"shares", "quota", "period", "burst", "realtimeRuntime", "realtimePeriod", "idle", "cpus", "mems"},
)
_THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
_BLOCK = frozenset({"weight", "leafWeight", "weightDevice", *_THROTTLES})


def parse_resources(value: JsonValue, path: str = "linux.resources") -> Resources:
    """Read ``linux.resources``; None is an empty one."""
    if value is None:
        return Resources()
    fields = Fields(value, path, known=_RESOURCES)
    class_id, priorities = _network(fields)
    pids = fields.value("pids")
    return Resources(
        devices=tuple(_device_rule(item, fields.at("devices")) for item in fields.items("devices")),
        memory=_memory(fields.value("memory"), fields.at("memory")),
        cpu=_cpu(fields.value("cpu"), fields.at("cpu")),
        pids_limit=None
        if pids is None
        else Fields(pids, fields.at("pids"), known=frozenset({"limit"})).integer("limit", -INT64_MAX, INT64_MAX),
        block_io=_block_io(fields.value("blockIO"), fields.at("blockIO")),
        hugepages=tuple(_hugepage(item, fields.at("hugepageLimits")) for item in fields.items("hugepageLimits")),
        class_id=class_id,
        priorities=priorities,
        rdma=tuple(_rdma(name, item, fields.at("rdma")) for name, item in fields.mapping("rdma").items()),
        unified=_unified(fields),
    )


def _device_rule(value: JsonValue, path: str) -> DeviceRule:
    fields = Fields(value, path, known=_DEVICE, strict=True)
    if fields.value("allow") is None:
        raise InvalidParameterError(f"{path}.allow: missing")
    kind = fields.string("type") or "a"
    if kind not in ("a", "b", "c"):
        raise InvalidParameterError(f"{path}.type: invalid device type: {kind!r:.20}")
    access = fields.string("access")
    if not access or set(access) - set("rwm"):
        raise InvalidParameterError(f"{path}.access: invalid device access: {access!r:.20}")
    numbers = [fields.integer(name, -1, UINT32_MAX) for name in ("major", "minor")]
    major, minor = (None if number == -1 else number for number in numbers)
    return DeviceRule(fields.boolean("allow"), kind, major, minor, "".join(flag for flag in "rwm" if flag in access))


def _memory(value: JsonValue, path: str) -> Memory:
    if value is None:
        return Memory()
    # Kernels from 5.16 on accept a limit of kernel memory and do nothing with it.
    fields = Fields(value, path, known=_MEMORY, refused=frozenset({"kernel"}))
    memory = Memory(
        limit=fields.integer("limit", -1),
        reservation=fields.integer("reservation", -1),
        swap=fields.integer("swap", -1),
        kernel_tcp=fields.integer("kernelTCP", -1),
        swappiness=fields.integer("swappiness", 0, 100),
        disable_oom_killer=fields.boolean("disableOOMKiller"),
        use_hierarchy=None if fields.value("useHierarchy") is None else fields.boolean("useHierarchy"),
        check_before_update=fields.boolean("checkBeforeUpdate"),
    )
    limit, swap = memory.limit or 0, memory.swap or 0
    if swap > 0 and (limit < 0 or limit > swap):
        raise InvalidParameterError("minimum memoryswap limit should be larger than memory limit, see usage")
    return memory


def _cpu(value: JsonValue, path: str) -> Cpu:
    if value is None:
        return Cpu()
    fields = Fields(value, path, known=_CPU)
    cpu = Cpu(
        shares=fields.integer("shares", 0, UINT64_MAX),
        quota=fields.integer("quota", -1),
        period=fields.integer("period", 0),
        burst=fields.integer("burst", 0),
        realtime_runtime=fields.integer("realtimeRuntime", -1),
        realtime_period=fields.integer("realtimePeriod", 0),
        idle=fields.integer("idle", 0, 1),
        cpus=fields.string("cpus").strip(),
        mems=fields.string("mems").strip(),
    )
    for name, text in (("cpus", cpu.cpus), ("mems", cpu.mems)):
        try:
            parse_cpuset(text)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"{path}.{name}: {error}") from None
    return cpu


def _block_io(value: JsonValue, path: str) -> BlockIO:
    if value is None:
        return BlockIO()
    fields = Fields(value, path, known=_BLOCK)
    read_bps, write_bps, read_iops, write_iops = (
        tuple(_throttle(item, fields.at(name)) for item in fields.items(name)) for name in _THROTTLES
    )
    return BlockIO(
        weight=_weight(fields, "weight"),
        leaf_weight=_weight(fields, "leafWeight"),
        weight_device=tuple(_device_weight(item, fields.at("weightDevice")) for item in fields.items("weightDevice")),
        read_bps=read_bps,
        write_bps=write_bps,
        read_iops=read_iops,
        write_iops=write_iops,
    )


def _weight(fields: Fields, name: str) -> int | None:
    weight = fields.integer(name, 0, 1000)
    if weight is not None and 0 < weight < 10:
        raise InvalidParameterError(f"{fields.at(name)}: out of range 10..1000: {weight}")
    return weight or None


def _device_weight(value: JsonValue, path: str) -> DeviceWeight:
    fields = Fields(value, path, known=frozenset({"major", "minor", "weight", "leafWeight"}))
    return DeviceWeight(
        fields.number("major", 0, UINT32_MAX),
        fields.number("minor", 0, UINT32_MAX),
        _weight(fields, "weight"),
        _weight(fields, "leafWeight"),
    )


def _throttle(value: JsonValue, path: str) -> Throttle:
    fields = Fields(value, path, known=frozenset({"major", "minor", "rate"}))
    return Throttle(
        fields.number("major", 0, UINT32_MAX),
        fields.number("minor", 0, UINT32_MAX),
        fields.number("rate", 0, UINT64_MAX),
    )


def _hugepage(value: JsonValue, path: str) -> HugepageLimit:
    fields = Fields(value, path, known=frozenset({"pageSize", "limit"}))
    size = fields.required("pageSize")
    if not _is_page_size(size):
        raise InvalidParameterError(f"{path}.pageSize: invalid page size: {size!r:.40}")
    return HugepageLimit(size, fields.number("limit", 0, UINT64_MAX))


def _network(fields: Fields) -> tuple[int | None, tuple[tuple[str, int], ...]]:
    if fields.value("network") is None:
        return None, ()
    network = Fields(fields.value("network"), fields.at("network"), known=frozenset({"classID", "priorities"}))
    priorities = []
    for item in network.items("priorities"):
        entry = Fields(item, network.at("priorities"), known=frozenset({"name", "priority"}))
        name = entry.required("name")
        if not name or not is_bare(name, "/:", 15):
            raise InvalidParameterError(f"{entry.at('name')}: invalid interface name: {name!r:.40}")
        priorities.append((name, entry.number("priority", 0, UINT32_MAX)))
    return network.integer("classID", 0, UINT32_MAX), tuple(priorities)


def _rdma(name: str, value: JsonValue, path: str) -> RdmaLimit:
    if not consists_of(name, _RDMA_DEVICE, 1, 63):
        raise InvalidParameterError(f"{path}: invalid device name: {name!r:.80}")
    fields = Fields(value, f"{path}.{name}", known=frozenset({"hcaHandles", "hcaObjects"}))
    return RdmaLimit(name, fields.integer("hcaHandles", 0, UINT32_MAX), fields.integer("hcaObjects", 0, UINT32_MAX))


def _unified(fields: Fields) -> tuple[tuple[str, str], ...]:
    unified = fields.texts("unified")
    for name in unified:
        # cgroup.* would move processes or delegate; limits are all <controller>.<file>
        if not _is_unified_name(name) or name.startswith("cgroup."):
            raise InvalidParameterError(f"{fields.at('unified')}: invalid file name: {name!r:.80}")
    return tuple(unified.items())


def _is_page_size(text: str) -> bool:
    """As the kernel names them in hugetlb files: ``2MB``, ``1GB``."""
    return text[-2:] in {"KB", "MB", "GB"} and is_number(text[:-2], 10) and text[0] != "0"


def _is_unified_name(text: str) -> bool:
    """A file of the unified hierarchy, ``memory.high``: never a path (threats.md C4)."""
    controller, *rest = text.split(".")
    return consists_of(controller, _CONTROLLER) and bool(rest) and all(consists_of(part, WORD) for part in rest)
