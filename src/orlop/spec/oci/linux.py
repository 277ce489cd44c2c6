"""``linux`` of the runtime-spec: namespaces, devices, limits and protections."""

from __future__ import annotations

from itertools import pairwise

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.oci.fields import ID_MAX, UINT32_MAX, Fields
from orlop.spec.oci.resources import Resources, parse_resources
from orlop.spec.oci.seccomp import Seccomp, parse_seccomp
from orlop.spec.oci.sysctl import check_sysctl
from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonValue
    from orlop.spec.oci.namespaces import NetDevice, TimeOffset
    from orlop.spec.oci.scheduling import MemoryPolicy

NAMESPACES = frozenset({"mount", "pid", "network", "uts", "ipc", "user", "cgroup", "time"})
PROPAGATIONS = frozenset(prefix + name for prefix in ("", "r") for name in ("private", "shared", "slave", "unbindable"))


@dataclass(frozen=True)
class Namespace:
    """A namespace of the container's own: new, or the existing one at ``path``."""

    type: str
    path: str = ""


@dataclass(frozen=True)
class IdMapping:
    """``size`` ids from ``container_id`` on are ``host_id`` and following outside (user_namespaces(7))."""

    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True)
class Device:
    """A device node or FIFO to make. ``type``: ``c`` or ``u`` character, ``b`` block, ``p`` FIFO."""

    type: str
    path: str
    major: int = 0
    minor: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True)
class Linux:
    """Everything of Linux's own. A namespace that is not listed is shared with the runtime's."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = field(default_factory=Resources)
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: dict[str, str] = field(default_factory=dict)
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    personality: str | None = None
    memory_policy: MemoryPolicy | None = None
    time_offsets: tuple[TimeOffset, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()

    def namespace(self, kind: str) -> Namespace | None:
        """Return the entry of one kind; None when it is shared with the runtime."""
        for namespace in self.namespaces:
            if namespace.type == kind:
                return namespace
        return None


_LINUX = frozenset(
    {
        *("namespaces", "uidMappings", "gidMappings", "devices", "cgroupsPath", "resources", "rootfsPropagation"),
        *("seccomp", "sysctl", "maskedPaths", "readonlyPaths", "mountLabel", "personality", "memoryPolicy"),
        *("timeOffsets", "netDevices", "intelRdt"),
    },
)
_DEVICE = frozenset({"type", "path", "fileMode", "major", "minor", "uid", "gid"})
_MAPPING = frozenset({"containerID", "hostID", "size"})


def parse_linux(value: JsonValue, path: str = "linux") -> Linux:
    """Read the ``linux`` object and refuse what contradicts itself, in runc's words."""
    if value is None:
        return Linux()
    fields = Fields(value, path, known=_LINUX)
    if fields.value("intelRdt") is not None:  # even an empty one asks for a group of its own
        raise UnsupportedError(f"{fields.at('intelRdt')} is not supported")
    personality = memory_policy = None
    if fields.value("personality") is not None or fields.value("memoryPolicy") is not None:
        from orlop.spec.oci import scheduling

        personality = scheduling.parse_personality(fields.value("personality"), fields.at("personality"))
        memory_policy = scheduling.parse_memory_policy(fields.value("memoryPolicy"), fields.at("memoryPolicy"))
    time_offsets: tuple[TimeOffset, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    if fields.value("timeOffsets") is not None or fields.value("netDevices") is not None:
        from orlop.spec.oci.namespaces import parse_net_devices, parse_time_offsets

        time_offsets = parse_time_offsets(fields.value("timeOffsets"), fields.at("timeOffsets"))
        net_devices = parse_net_devices(fields, "netDevices")
    linux = Linux(
        namespaces=_namespaces(fields),
        uid_mappings=parse_mappings(fields, "uidMappings"),
        gid_mappings=parse_mappings(fields, "gidMappings"),
        devices=tuple(_device(item, fields.at("devices")) for item in fields.items("devices")),
        cgroups_path=fields.string("cgroupsPath"),
        resources=parse_resources(fields.value("resources"), fields.at("resources")),
        rootfs_propagation=fields.choice("rootfsPropagation", PROPAGATIONS | {""}, ""),
        seccomp=parse_seccomp(fields.value("seccomp"), fields.at("seccomp")),
        sysctl=fields.texts("sysctl"),
        masked_paths=_absolute(fields, "maskedPaths"),
        readonly_paths=_absolute(fields, "readonlyPaths"),
        mount_label=fields.string("mountLabel"),
        personality=personality,
        memory_policy=memory_policy,
        time_offsets=time_offsets,
        net_devices=net_devices,
    )
    _check(linux)
    return linux


def parse_mappings(fields: Fields, name: str) -> tuple[IdMapping, ...]:
    """Read a list of id mappings; ranges that overlap or run past the last id are refused."""
    mappings = []
    for item in fields.items(name):
        entry = Fields(item, fields.at(name), known=_MAPPING, strict=True)
        mapping = IdMapping(
            entry.number("containerID", 0, ID_MAX),
            entry.number("hostID", 0, ID_MAX),
            entry.number("size", 1, UINT32_MAX),
        )
        if max(mapping.container_id, mapping.host_id) + mapping.size - 1 > ID_MAX:
            raise InvalidParameterError(f"{fields.at(name)}: range runs past the last id: {mapping.size}")
        mappings.append(mapping)
    for inside in (True, False):
        spans = sorted((one.container_id if inside else one.host_id, one.size) for one in mappings)
        if any(first + size > following for (first, size), (following, _) in pairwise(spans)):
            raise InvalidParameterError(f"{fields.at(name)}: ranges overlap")
    return tuple(mappings)


def _namespaces(fields: Fields) -> tuple[Namespace, ...]:
    found: dict[str, Namespace] = {}
    for item in fields.items("namespaces"):
        entry = Fields(item, fields.at("namespaces"), known=frozenset({"type", "path"}), strict=True)
        kind = entry.choice("type", NAMESPACES)
        if kind in found:
            raise InvalidParameterError(f'malformed spec file: duplicated ns "{kind}"')
        path = entry.string("path")
        if path and not path.startswith("/"):
            raise InvalidParameterError(f"{entry.at('path')}: not an absolute path: {path!r:.200}")
        found[kind] = Namespace(kind, path)
    return tuple(found.values())


def _device(value: JsonValue, path: str) -> Device:
    fields = Fields(value, path, known=_DEVICE, strict=True)
    kind = fields.choice("type", frozenset("cbup"))
    numbered = kind != "p"
    mode = fields.integer("fileMode", 0, 0o177777)
    return Device(
        type=kind,
        path=_check_absolute(fields.required("path"), fields.at("path")),
        major=fields.number("major", 0, UINT32_MAX) if numbered else 0,
        minor=fields.number("minor", 0, UINT32_MAX) if numbered else 0,
        # callers copy st_mode, whose upper bits are the file's type (inode(7)); podman does
        mode=None if mode is None else mode & 0o777,
        uid=fields.integer("uid", 0, ID_MAX),
        gid=fields.integer("gid", 0, ID_MAX),
    )


def _absolute(fields: Fields, name: str) -> tuple[str, ...]:
    return tuple(_check_absolute(path, fields.at(name)) for path in fields.strings(name))


def _check_absolute(path: str, where: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameterError(f"{where}: not an absolute path: {path!r:.200}")
    return path


def _check(linux: Linux) -> None:
    own = frozenset(namespace.type for namespace in linux.namespaces)
    user = linux.namespace("user")
    if user is None and (linux.uid_mappings or linux.gid_mappings):
        raise InvalidParameterError("user namespace mappings specified, but USER namespace isn't enabled in the config")
    if user is not None and not user.path:
        for name, mappings in (("uid", linux.uid_mappings), ("gid", linux.gid_mappings)):
            if not mappings:
                raise InvalidParameterError(f"user namespaces enabled, but no {name} mappings found")
    if "mount" not in own and (linux.masked_paths or linux.readonly_paths):
        raise InvalidParameterError("unable to restrict sys entries without a private MNT namespace")
    time = linux.namespace("time")
    if linux.time_offsets and (time is None or time.path):
        raise InvalidParameterError("time namespace offsets are specified, but a new time namespace is not")
    if linux.net_devices and "network" not in own:
        raise InvalidParameterError("unable to move network devices without a private NET namespace")
    for name, value in linux.sysctl.items():
        check_sysctl(name, value, private=own)
