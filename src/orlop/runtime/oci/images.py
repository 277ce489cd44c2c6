"""What checkpoint and restore agree on: criu's options from flags, and which mounts and files come from outside."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.oci import criu
from orlop.runtime.operations import Bind, MountCgroups, MountFilesystem
from orlop.runtime.protected_paths import Mask
from orlop.runtime.rootfs import plan
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.protobuf.wire import Value
    from orlop.runtime.oci.options import Parsed
    from orlop.spec.oci import Config

# beside criu's images: what standard input, output and error were, as runc names it and writes it
DESCRIPTORS = "descriptors.json"
# likewise: the places of mounts from outside
EXTERNAL_MOUNTS = "orlop-external-mounts.json"
_SWITCHES = (
    ("tcp-established", criu.TCP_ESTABLISHED),
    ("ext-unix-sk", criu.EXT_UNIX_SK),
    ("shell-job", criu.SHELL_JOB),
    ("file-locks", criu.FILE_LOCKS),
    ("auto-dedup", criu.AUTO_DEDUP),
    ("lazy-pages", criu.LAZY_PAGES),
)
_CLONE_NEWNET = 0x40000000
_LOG_LEVEL = 4  # debug messages, as runc asks for: criu's log is all there is


@dataclass(frozen=True)
class MountEntry:
    """One line of /proc/<pid>/mountinfo (proc_pid_mountinfo(5))."""

    identity: int
    root: str
    place: str
    kind: str


def image_directory(options: Parsed) -> str:
    """Return the absolute path of the images: ``--image-path``, else ``checkpoint`` in the current directory."""
    return os.path.abspath(options.text("image-path") or "checkpoint")


def work_directory(options: Parsed) -> str:
    """Return where criu writes its log."""
    return os.path.abspath(options.text("work-path")) if options.text("work-path") else image_directory(options)


def open_directory(path: str) -> OwnedFd:
    """Open a directory for criu, which takes it by descriptor."""
    return OwnedFd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def common_options(options: Parsed, images_fd: int, work_fd: int, log: str) -> list[tuple[int, Value]]:
    """Return criu_opts that a dump and a restore share. Raises InvalidParameterError."""
    mode = options.text("manage-cgroups-mode") or "soft"
    if mode not in criu.CGROUP_MODES:
        raise InvalidParameterError("Invalid manage cgroups mode")
    empty = 0
    for name in options.texts("empty-ns"):
        if name != "network":
            raise InvalidParameterError(f"namespace {name} is not supported")
        empty |= _CLONE_NEWNET
    found: list[tuple[int, Value]] = [
        (criu.IMAGES_DIR_FD, images_fd),
        (criu.WORK_DIR_FD, work_fd),
        (criu.LOG_LEVEL, _LOG_LEVEL),
        (criu.LOG_FILE, log),
        (criu.NOTIFY_SCRIPTS, 1),
        (criu.EVASIVE_DEVICES, 1),
        (criu.ORPHAN_PTS_MASTER, 1),
        (criu.MANAGE_CGROUPS_MODE, criu.CGROUP_MODES[mode]),
    ]
    found += [(number, 1) for name, number in _SWITCHES if options.switch(name)]
    return found + ([(criu.EMPTY_NS, empty)] if empty else [])


def mount_entries(pid: int) -> list[MountEntry]:
    """Return the mounts of a process' namespace."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    entries = []
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        entries.append(MountEntry(int(fields[0]), fields[3], fields[4], after.split(" ", 1)[0]))
    return entries


def external_mounts(config: Config, directories: dict[str, str], places: list[str]) -> dict[str, str]:
    """Return the host's path of each mount that criu cannot make by itself, by its place in the container.

    Args:
        config: the container's configuration.
        directories: of its cgroup, by hierarchy.
        places: where something is mounted in the container; what is mounted below a bind's source comes with it.
    """
    user_namespace = config.linux.namespace("user") is not None
    sources, own = {}, set()
    for operation in plan(config, directories, user_namespace=user_namespace):
        if isinstance(operation, Bind):
            sources[operation.destination] = operation.source
        elif isinstance(operation, MountFilesystem):
            own.add(operation.destination)
        elif isinstance(operation, MountCgroups):
            single = len(operation.directories) == 1
            for name, path in operation.directories:
                sources[operation.destination if single else f"{operation.destination}/{name or 'unified'}"] = path
        elif isinstance(operation, Mask):
            sources[operation.path] = "/dev/null"
    found = {}
    for place in places:
        above = place
        while above not in sources and above not in own and above != "/":
            above = os.path.dirname(above)
        if above in sources and above not in own:
            found[place] = sources[above] + place[len(above) :]
    return found


def foreign_namespaces(config: Config) -> list[tuple[str, str, str]]:
    """Return criu's kind, its key (runc's) and the path of each namespace that was there before the container."""
    kinds = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
    return [(*kinds[entry.type], entry.path) for entry in config.linux.namespaces if entry.path and entry.type in kinds]


def is_foreign(entry: MountEntry) -> bool:
    """Whether a mount that :func:`external_mounts` names is one: a masked directory is an empty tmpfs of its own."""
    return entry.kind != "tmpfs" or entry.root != "/"
