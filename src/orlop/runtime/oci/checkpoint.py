"""``checkpoint``: a running container as files, by criu."""

from __future__ import annotations

import fcntl
import os

from orlop.errors import ConflictError, InvalidParameterError
from orlop.primitives.atomic import write_atomic
from orlop.primitives.json_text import dumps
from orlop.primitives.scope import Cleanup
from orlop.runtime.cgroups import open_cgroup
from orlop.runtime.oci import control, criu
from orlop.runtime.oci.document import read_document
from orlop.runtime.oci.images import (
    DESCRIPTORS,
    EXTERNAL_MOUNTS,
    MountEntry,
    common_options,
    external_mounts,
    foreign_namespaces,
    image_directory,
    is_foreign,
    mount_entries,
    open_directory,
    work_directory,
)
from orlop.spec.oci import parse_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.protobuf.wire import Value
    from orlop.runtime.oci.command import Invocation
    from orlop.runtime.oci.options import Parsed
    from orlop.runtime.oci.state import State

_READY = "status-ready"
_MODE = 0o700  # memory of the container: nobody else's business


def checkpoint(invocation: Invocation) -> int:
    """Write a container to files; unless it is to go on it is destroyed.

    Raises:
        ConflictError: it does not run.
        UnavailableError: there is no criu.
        SystemFailureError: criu failed.
    """
    options = invocation.options
    state = invocation.store.load(invocation.arguments[0])
    status = invocation.store.status(state, invocation.hierarchies)
    if status in ("creating", "created", "stopped"):
        raise ConflictError(f"Container cannot be checkpointed in {status} state")
    stays = options.switch("leave-running") or options.switch("pre-dump")
    waiting = status_fd(options)
    images, work = image_directory(options), work_directory(options)
    with Cleanup() as stack:
        process = stack.enter_context(criu.Criu(invocation.settings.text("criu") or "criu"))
        for directory in (images, work):
            os.makedirs(directory, _MODE, exist_ok=True)
        images_fd, work_fd = (stack.enter_context(open_directory(place)).fileno() for place in (images, work))
        wanted = common_options(options, images_fd, work_fd, "dump.log")
        wanted += _dump_options(options, state)
        wanted += _freezer(invocation, state, paused=status == "paused")
        if not options.switch("pre-dump"):
            wanted += _outside(invocation, state, images)
        kind = criu.PRE_DUMP if options.switch("pre-dump") else criu.DUMP
        invocation.log.trace(f"criu writes to {images} and logs to {work}/dump.log")
        process.request(kind, wanted, Told(waiting), log=f"{work}/dump.log")
    if not stays:
        control.destroy(invocation, state)
    return 0


class Told:
    """Lets criu go on after each of its steps; tells ``--status-fd`` when the pages can be fetched.

    criu then waits until somebody, ``criu lazy-pages`` for a restore, has fetched all of them.
    """

    def __init__(self, status_fd: int) -> None:
        self._status_fd = status_fd

    def __call__(self, script: str, _pid: int, fds: list[int]) -> None:
        """Close what came with a notification."""
        for fd in fds:
            os.close(fd)
        if script == _READY and self._status_fd >= 0:
            os.write(self._status_fd, b"\0")
            os.close(self._status_fd)
            self._status_fd = -1


def status_fd(options: Parsed) -> int:
    """Return where to tell that pages can be fetched, -1 for nobody.

    Raises:
        InvalidParameterError: nothing is open there, or not for writing.
    """
    if not options.given("status-fd"):
        return -1
    if not options.switch("lazy-pages"):
        raise InvalidParameterError("--status-fd is only for --lazy-pages")
    fd = options.number("status-fd")
    try:
        writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParameterError(f"invalid --status-fd argument {fd}: {reason}") from None
    except OverflowError:
        raise InvalidParameterError(f"invalid --status-fd argument {fd}: bad file descriptor") from None
    if not writable:
        raise InvalidParameterError(f"invalid --status-fd argument {fd}: not writable")
    os.set_inheritable(fd, False)
    return fd


def _dump_options(options: Parsed, state: State) -> list[tuple[int, Value]]:
    wanted: list[tuple[int, Value]] = [(criu.PID, state.pid), (criu.ROOT, state.rootfs)]
    if options.switch("leave-running"):
        wanted.append((criu.LEAVE_RUNNING, 1))
    if options.switch("pre-dump"):
        wanted.append((criu.TRACK_MEM, 1))
    parent = options.text("parent-path")
    if parent:
        if parent.startswith("/"):
            raise InvalidParameterError(f"--parent-path must be relative to the image directory: {parent}")
        wanted += [(criu.PARENT_IMG, parent), (criu.TRACK_MEM, 1)]
    server = options.text("page-server")
    if server:
        address, colon, port = server.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5:
            raise InvalidParameterError(f"use --page-server ADDRESS:PORT to specify page server: {server}")
        wanted.append((criu.PAGE_SERVER, [(1, address), (2, int(port))]))
    return wanted


def _freezer(invocation: Invocation, state: State, *, paused: bool) -> list[tuple[int, Value]]:
    """Name the cgroup that criu freezes or finds frozen: it can seize nothing that is paused otherwise."""
    hierarchies = invocation.hierarchies
    top = hierarchies.directory("freezer") if hierarchies.v1 else hierarchies.unified if paused else None
    if top is None:
        return []
    return [(criu.FREEZE_CGROUP, top + open_cgroup(hierarchies, state.cgroup).path)]


def _outside(invocation: Invocation, state: State, images: str) -> list[tuple[int, Value]]:
    """Name what the container has of the host: mounts, and open files of its standard streams."""
    cgroup = open_cgroup(invocation.hierarchies, state.cgroup)
    config = parse_config(read_document(f"{invocation.store.directory(state.id)}/config.json"))
    entries = mount_entries(state.pid)
    foreign = [entry.place for entry in entries if is_foreign(entry)]
    external = external_mounts(config, cgroup.directories(), foreign)
    streams = [_stream(state.pid, number, entries) for number in range(3)]
    write_atomic(f"{images}/{DESCRIPTORS}", dumps(streams).encode(), 0o600)
    write_atomic(f"{images}/{EXTERNAL_MOUNTS}", dumps(sorted(external)).encode(), 0o600)
    wanted: list[tuple[int, Value]] = [(criu.EXTERNAL, f"mnt[{place}]:{place}") for place in external]
    for kind, key, _ in foreign_namespaces(config):
        inode = os.stat(f"/proc/{state.pid}/ns/{kind}").st_ino
        wanted.append((criu.EXTERNAL, f"{kind}[{inode}]:{key}"))
    wanted += [(criu.EXTERNAL, name) for name in dict.fromkeys(streams) if name.startswith("file[")]
    return wanted


def _stream(pid: int, number: int, entries: list[MountEntry]) -> str:
    """Return a stream's name: criu's for a file that is on no mount of the container, else the link's text."""
    path = f"/proc/{pid}/fd/{number}"
    try:
        text = os.readlink(path)
        with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
            info = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    except FileNotFoundError:
        return ""
    mount = int(info.get("mnt_id", "0"))
    if not text.startswith("/") or any(entry.identity == mount for entry in entries):
        return text
    return f"file[{mount:x}:{os.stat(path).st_ino:x}]"
