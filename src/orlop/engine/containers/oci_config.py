"""From a container's definition to the OCI runtime configuration: pure, no look at the host.

What depends on the host (paths of namespaces, devices, engine-written files) comes in as :class:`Surroundings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.engine.containers.limits import resources
from orlop.engine.containers.remapping import host_id
from orlop.errors import UnsupportedError
from orlop.runtime.mount_options import SUBPATH_OPTION
from orlop.runtime.security import capabilities, paths, seccomp_profile
from orlop.runtime.security.options import parse_security_options
from orlop.spec.json import JsonValue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.engine.containers.records import Definition, MountPoint
    from orlop.engine.containers.remapping import Remapping
    from orlop.spec.docker.containers import HostConfig
    from orlop.spec.json import JsonObject
    from orlop.spec.launch import OverlayRoot

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOFILE = (1024, 524288)
_IDS = 2**32 - 1
_ID_DIGITS = 10
_NAMESPACES = ("mount", "network", "uts", "pid", "ipc", "cgroup", "time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the engine found for one start.

    Attributes:
        cgroups_path: ``cgroupsPath``.
        shared: namespace type to the path to join, "" for the host's.
        files: container path to the engine-written host file bound there.
        devices: ``linux.devices`` of ``--device`` and of ``--privileged``.
        device_rules: cgroup rules that let them be used.
        ulimits: the daemon's defaults.
        sysctls: what the network wants set.
        no_new_privileges: the daemon's default.
        apparmor: see Settings.
        shm_size: bytes of /dev/shm.
        shm_donor: whose /dev/shm it is instead, for the runtime's annotation.
        tmpfs_donors: whose tmpfs is at a destination, likewise.
        remapping: ids in a user namespace of the container's own, or None.
        image_views: layers of the images that are mounted, by their ids.
        owners: by a mount's destination the ids that change places: user on disk and inside, group on disk and inside.
    """

    cgroups_path: str
    shared: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    devices: Sequence[JsonObject] = ()
    device_rules: Sequence[JsonObject] = ()
    ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    no_new_privileges: bool = False
    apparmor: str = ""
    shm_size: int = 64 * 1024 * 1024
    shm_donor: str = ""
    tmpfs_donors: Mapping[str, str] = field(default_factory=dict)
    remapping: Remapping | None = None
    image_views: Mapping[str, OverlayRoot] = field(default_factory=dict)
    owners: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)


def oci_config(definition: Definition, surroundings: Surroundings) -> JsonObject:
    """Return ``config.json`` of a container. Raises InvalidParameterError for bad security options."""
    host = definition.host
    options = parse_security_options(host.security_opt or [], privileged=host.privileged)
    names = capabilities.resolve(host.cap_add or [], host.cap_drop or [], privileged=host.privileged)
    linux: JsonObject = {
        "cgroupsPath": surroundings.cgroups_path,
        "namespaces": _namespaces(surroundings),
        "resources": _resources(host, surroundings),
    }
    if surroundings.remapping is not None:
        linux.update(surroundings.remapping.linux())
    if surroundings.devices:
        linux["devices"] = list[JsonValue](surroundings.devices)
    sysctls = {**surroundings.sysctls, **(host.sysctls or {})}
    if sysctls:
        linux["sysctl"] = dict[str, JsonValue](sysctls)
    if not host.privileged and not options.system_paths_unconfined:
        linux["maskedPaths"] = list[JsonValue](masked_paths(host))
        linux["readonlyPaths"] = list[JsonValue](readonly_paths(host))
    if options.seccomp not in {"unconfined", ""}:
        linux["seccomp"] = seccomp_profile.custom_seccomp(options.seccomp, names)
    elif options.seccomp == "" and not host.privileged:
        linux["seccomp"] = seccomp_profile.default_seccomp(names)
    propagation = _root_propagation(definition.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    process = process_object(definition, names, no_new_privileges=_no_new_privileges(definition, surroundings))
    process["rlimits"] = rlimits(host, surroundings.ulimits)
    profile = apparmor_profile(host, surroundings.apparmor)
    if profile:
        process["apparmorProfile"] = profile
    config: JsonObject = {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "process": process,
        "mounts": [*_default_mounts(host, definition.mounts, surroundings), *_mounts(definition, surroundings)],
        "linux": linux,
    }
    if "uts" not in surroundings.shared:
        config["hostname"] = definition.config.hostname
        if definition.config.domainname:
            config["domainname"] = definition.config.domainname
    notes = {name: value for name, value in (host.annotations or {}).items() if not name.startswith("orlop.")}
    groups = [name for name in host.group_add or [] if not _is_number(name)]
    if groups:
        notes["orlop.group-add"] = ",".join(groups)
    if surroundings.shm_donor:
        notes["orlop.shm-of"] = surroundings.shm_donor
    notes.update({f"orlop.tmpfs-of:{place}": donor for place, donor in surroundings.tmpfs_donors.items()})
    if notes:
        config["annotations"] = dict[str, JsonValue](notes)
    return config


def masked_paths(host: HostConfig) -> list[str]:
    """Return the paths that are hidden; the user's list wins."""
    if host.privileged:
        return []
    return list(paths.masked_paths()) if host.masked_paths is None else host.masked_paths


def readonly_paths(host: HostConfig) -> list[str]:
    """Return the paths that are read-only; the user's list wins."""
    if host.privileged:
        return []
    return list(paths.READONLY_PATHS) if host.readonly_paths is None else host.readonly_paths


def apparmor_profile(host: HostConfig, default: str) -> str:
    """Return the container's AppArmor profile; empty on a machine without AppArmor, where none can be named."""
    if not default:
        return ""
    return parse_security_options(host.security_opt or [], privileged=host.privileged).apparmor or default


def _no_new_privileges(definition: Definition, surroundings: Surroundings) -> bool:
    chosen = [text for text in definition.host.security_opt or [] if text.startswith("no-new-privileges")]
    if chosen:
        return parse_security_options(definition.host.security_opt or [], privileged=False).no_new_privileges
    return surroundings.no_new_privileges


def process_object(definition: Definition, names: Sequence[str], *, no_new_privileges: bool) -> JsonObject:
    """Return the OCI ``process`` of the container's own program."""
    config, host = definition.config, definition.host
    process: JsonObject = {
        "args": list[JsonValue](definition.arguments),
        "cwd": config.working_dir or "/",
        "env": list[JsonValue](environment(config.env or [], config.hostname, tty=config.tty)),
        "terminal": config.tty,
        "user": user_object(config.user, host),
        "capabilities": capabilities.oci_sets(names),
        "noNewPrivileges": no_new_privileges,
        "oomScoreAdj": host.oom_score_adj,
    }
    height, width = host.console_size
    if config.tty and height and width:
        process["consoleSize"] = {"height": height, "width": width}
    return process


def user_object(user: str, host: HostConfig) -> JsonObject:
    """Return ``process.user``; init resolves the name against the image's own passwd and group files."""
    numbers = [int(name) for name in host.group_add or [] if _is_number(name)]
    # root by number: its groups are looked up in the image as for any other user
    result: JsonObject = {"uid": 0, "gid": 0, "username": user or "0"}
    if numbers:
        result["additionalGids"] = list[JsonValue](numbers)
    return result


def _is_number(text: str) -> bool:
    """Whether it is a number that can be an id; what is too long for one is refused where names are looked up."""
    return text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS


def environment(wanted: Sequence[str], hostname: str, *, tty: bool) -> list[str]:
    """Return the environment in Docker's order; HOME is added by init. ``NAME`` without ``=`` removes a default."""
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}"]
    if tty:
        defaults.append("TERM=xterm")
    own = {item.partition("=")[0] for item in wanted}
    kept = [item for item in defaults if item.partition("=")[0] not in own]
    return [*kept, *(item for item in wanted if "=" in item)]


def rlimits(host: HostConfig, defaults: dict[str, tuple[int, int]]) -> list[JsonValue]:
    """Return ``process.rlimits``: the built-in nofile, the daemon's, the container's, the last winning."""
    chosen = {"nofile": NOFILE, **defaults, **{limit.name: (limit.soft, limit.hard) for limit in host.ulimits or []}}
    return [
        {"type": f"RLIMIT_{name.upper()}", "soft": soft % 2**64, "hard": hard % 2**64}
        for name, (soft, hard) in sorted(chosen.items())
    ]


def _namespaces(surroundings: Surroundings) -> list[JsonValue]:
    result: list[JsonValue] = []
    for kind in _NAMESPACES:
        path = surroundings.shared.get(kind)
        if path is None:
            result.append({"type": kind})
        elif path:
            result.append({"type": kind, "path": path})
    if surroundings.remapping is not None:
        result.append({"type": "user"})
    return result


def _resources(host: HostConfig, surroundings: Surroundings) -> JsonObject:
    result = resources(host)
    if surroundings.device_rules and not host.privileged:
        rules = result["devices"]
        if isinstance(rules, list):
            rules.extend(surroundings.device_rules)
    return result


def _root_propagation(mounts: Sequence[MountPoint]) -> str:
    wanted = {point.propagation for point in mounts if point.kind == "bind"}
    if wanted & {"shared", "rshared"}:
        return "shared"
    return "rslave" if wanted & {"slave", "rslave"} else ""


def _default_mounts(host: HostConfig, points: Sequence[MountPoint], surroundings: Surroundings) -> list[JsonValue]:
    flags = ["nosuid", "noexec", "nodev"]
    cgroup = [*flags, "relatime", *([] if host.privileged else ["ro"])]
    mounts: list[tuple[str, str, str, list[str]]] = [
        ("/proc", "proc", "proc", flags),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/sys", "sysfs", "sysfs", [*flags, *([] if host.privileged else ["ro"])]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
    ]
    # A fresh mqueue shows the IPC namespace that is joined, whoever's it is.
    mounts.append(("/dev/mqueue", "mqueue", "mqueue", flags))
    if surroundings.shared.get("ipc") is None:
        if host.ipc_mode != "none":
            mounts.append(("/dev/shm", "tmpfs", "shm", [*flags, "mode=1777", f"size={surroundings.shm_size}"]))
    elif surroundings.shared["ipc"] == "":
        mounts.append(("/dev/shm", "bind", "/dev/shm", ["rbind"]))
    else:
        # the runtime replaces the source by the other container's
        mounts.append(("/dev/shm", "bind", "/dev/shm", ["rbind", "rprivate"]))
    taken = {point.destination for point in points}
    return [
        {"destination": target, "type": kind, "source": source, "options": list[JsonValue](options)}
        for target, kind, source, options in mounts
        if target not in taken or target in {"/proc", "/dev", "/sys"}
    ]


def _mounts(definition: Definition, surroundings: Surroundings) -> list[JsonValue]:
    points = definition.mounts
    # A read-only root is read-only with what the engine puts into it.
    mapped = surroundings.remapping is not None
    options = [
        "rbind",
        "rprivate",
        *(["ro"] if definition.host.readonly_rootfs else []),
        *(["idmap"] if mapped else []),
    ]
    taken = {point.destination for point in points}
    result: list[JsonValue] = []
    for point in points:
        owned = surroundings.owners.get(point.destination)
        usual = mapped and point.kind == "volume" and owned is None
        mount = oci_mount(point, mapped=usual, images=surroundings.image_views)
        if owned is not None:
            mount.update(_owned(point, owned, surroundings.remapping))
        result.append(mount)
    for target, source in surroundings.files.items():
        if target not in taken:
            entry: JsonObject = {"destination": target, "type": "bind", "source": source}
            result.append({**entry, "options": list[JsonValue](options)})
    return result


def _owned(
    point: MountPoint, owned: tuple[tuple[int, int], tuple[int, int]], remapping: Remapping | None
) -> JsonObject:
    """Return the mappings of a ``:U`` mount; in a user namespace a volume has that one's beside, a bind raw ids."""
    users, groups = owned
    if remapping is None:
        return {"uidMappings": _swapped(*users), "gidMappings": _swapped(*groups)}
    if point.kind == "bind":
        return {
            "uidMappings": _swapped(users[0], host_id(remapping.uids, users[1])),
            "gidMappings": _swapped(groups[0], host_id(remapping.gids, groups[1])),
        }
    return {
        "uidMappings": _swapped_inside(remapping.uids, *users),
        "gidMappings": _swapped_inside(remapping.gids, *groups),
    }


def _swapped_inside(ranges: Sequence[tuple[int, int, int]], disk: int, inside: int) -> list[JsonValue]:
    """Return the mapping of a user namespace in which an id on disk and one inside change places."""
    found = [(disk, host_id(ranges, inside), 1)]
    for first, host, size in ranges:
        start = first
        for special in sorted({disk, inside}):
            if first <= special < first + size:
                found.append((start, host + start - first, special - start))
                start = special + 1
                if special == disk != inside:
                    found.append((inside, host + special - first, 1))
        found.append((start, host + start - first, first + size - start))
    return [{"containerID": low, "hostID": host, "size": size} for low, host, size in found if size]


def _swapped(one: int, other: int) -> list[JsonValue]:
    """Return a mapping of all ids that lets two change places and leaves the others."""
    low, high = min(one, other), max(one, other)
    ranges = [(0, 0, low), (low, high, 1), (low + 1, low + 1, high - low - 1), (high, low, 1)]
    ranges.append((high + 1, high + 1, _IDS - high - 1))
    if low == high:
        ranges = [(0, 0, _IDS)]
    return [{"containerID": inside, "hostID": host, "size": size} for inside, host, size in ranges if size]


def oci_mount(point: MountPoint, *, mapped: bool, images: Mapping[str, OverlayRoot]) -> JsonObject:
    """Return one entry of ``mounts``; ``mapped``: with the ids of the container's user namespace."""
    if point.kind == "image":
        return _image_mount(point, images)
    if point.fstype and point.fstype != "bind":
        words: list[JsonValue] = [*point.options, *([] if point.writable else ["ro"])]
        return {"destination": point.destination, "type": point.fstype, "source": point.device, "options": words}
    if point.kind == "tmpfs":
        defaults = ["noexec", "nosuid", "nodev"]
        own = set(point.options)
        kept = [word for word in defaults if word.removeprefix("no") not in own]
        options: list[JsonValue] = [*kept, *(word for word in point.options if word not in kept)]
        return {"destination": point.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    bind = "rbind" if point.recursive else "bind"
    # rro: what is mounted below is read-only as well, as in Docker since 25
    access = "rw" if point.writable else "rro" if point.readonly_recursive else "ro"
    own_options = [word for word in point.options if word not in {"bind", "rbind", "rw"}]
    subpath = [f"{SUBPATH_OPTION}{point.subpath}"] if point.subpath else []
    return {
        "destination": point.destination,
        "type": "bind",
        "source": point.device or point.source,
        "options": [
            *(bind, point.propagation or "rprivate", access),
            *(["idmap"] if mapped else []),
            *own_options,
            *subpath,
        ],
    }


def _image_mount(point: MountPoint, images: Mapping[str, OverlayRoot]) -> JsonObject:
    layers, device = images[point.name].lower, images[point.name].device
    entry: JsonObject = {"destination": point.destination}
    if device is not None:
        if point.subpath:
            raise UnsupportedError("a part of an image is not supported with the storage driver devicemapper")
        return {**entry, "type": device.kind, "source": device.path, "options": [*device.options, "ro"]}
    part = [f"{SUBPATH_OPTION}{point.subpath}"] if point.subpath else []
    if len(layers) == 1:
        return {**entry, "type": "bind", "source": layers[0], "options": ["bind", "rprivate", "ro", *part]}
    options: list[JsonValue] = [*(f"lowerdir+={layer}" for layer in layers), "ro", *part]
    return {**entry, "type": "overlay", "source": "overlay", "options": options}
