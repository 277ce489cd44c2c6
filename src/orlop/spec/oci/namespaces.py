"""What is put into namespaces: clock offsets and network devices. Loaded only for configurations that name them."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.charset import is_bare
from orlop.spec.oci.fields import INT64_MAX, Fields, check_string
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonValue

CLOCKS = ("monotonic", "boottime")
# IFNAMSIZ without its NUL
_NAME_BYTES = 15


@dataclass(frozen=True)
class TimeOffset:
    """What is added to one clock inside the time namespace (time_namespaces(7))."""

    clock: str
    seconds: int
    nanoseconds: int


@dataclass(frozen=True)
class NetDevice:
    """A network device of the runtime's namespace, and its name in the container's (``%d`` is chosen by the kernel)."""

    host_name: str
    name: str


def parse_time_offsets(value: JsonValue, path: str) -> tuple[TimeOffset, ...]:
    """Read ``linux.timeOffsets``. Raises InvalidParameterError."""
    if value is None:
        return ()
    fields = Fields(value, path, known=frozenset(CLOCKS), strict=True)
    offsets = []
    for clock in CLOCKS:
        if fields.value(clock) is None:
            continue
        entry = Fields(fields.value(clock), fields.at(clock), known=frozenset({"secs", "nanosecs"}), strict=True)
        seconds = entry.integer("secs", -INT64_MAX - 1, INT64_MAX) or 0
        offsets.append(TimeOffset(clock, seconds, entry.integer("nanosecs", 0, 999_999_999) or 0))
    return tuple(offsets)


def parse_net_devices(fields: Fields, name: str) -> tuple[NetDevice, ...]:
    """Read ``linux.netDevices``: host's name to what it is in the container.

    Raises:
        InvalidParameterError: no interface name (dev_valid_name() of the kernel), or two devices of one name.
    """
    path = fields.at(name)
    devices: dict[str, NetDevice] = {}
    for host_name, value in fields.mapping(name).items():
        entry = Fields(value, f"{path}.{host_name:.40}", known=frozenset({"name"}), strict=True)
        device = NetDevice(_name(check_string(host_name, path), path), entry.string("name") or host_name)
        _name(device.name.removesuffix("%d") or device.name, entry.at("name"))
        if device.name in devices and not device.name.endswith("%d"):
            raise InvalidParameterError(f"{path}: two devices of one name: {device.name}")
        devices[device.name if not device.name.endswith("%d") else f"{device.name} {host_name}"] = device
    return tuple(devices.values())


def _name(text: str, path: str) -> str:
    if (
        not text
        or text in {".", ".."}
        or len(text.encode()) > _NAME_BYTES
        or not is_bare(text, "/:%", _NAME_BYTES)
        or not text.isascii()
    ):
        raise InvalidParameterError(f"{path}: not the name of a network device: {text!r:.80}")
    return text
