"""``docker cp``: files of a container, running or not, as tar streams, in a child that sees the container only.

The child enters the running container's mount namespace, or mounts a stopped one's layers and volumes in a private
one and pivots into it. There it works on a detached copy of the mounts on which no device can be opened and nothing
executed, through descriptors resolved by the kernel beneath the container's root: whatever links a hostile container
swaps in, nothing of the host can be reached (threats.md D1, D2, D4, D5; CVE-2018-15664, CVE-2019-14271). The host's
process ids are not the container's, so ``/proc/self`` there names nothing.

::

    engine ── archive {action, path, pid | root + mounts} ──▶ child
           ◀── {ok, stat}                                      stat, get
           ◀── tar through a pipe ──                           get
           ◀── {ok, size}                                      get, put; or an error
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.kernel import mount as k
from orlop.kernel.process import CLONE_NEWNS, unshare
from orlop.kernel.statfs import (
    CGROUP2_SUPER_MAGIC,
    CGROUP_SUPER_MAGIC,
    DEVPTS_SUPER_MAGIC,
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    file_system_type,
)
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import components, open_in_root
from orlop.primitives.tar import Limits, Rules, pack_member, unpack
from orlop.primitives.tar.entry import shown
from orlop.primitives.tar.rules import clean_path
from orlop.runtime.namespaces import join_files
from orlop.runtime.operations import Bind
from orlop.runtime.rootfs import build, mount_operation, mount_root, open_null, pivot
from orlop.runtime.users import resolve_identity
from orlop.spec.launch import OverlayRoot, absolute_path, from_message
from orlop.spec.oci import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.channel import Channel
    from orlop.runtime.cgroups import Hierarchies
    from orlop.runtime.operations import Operation
    from orlop.spec.json import JsonObject, JsonValue

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What the kernel makes up is no file of the container, as in Docker, where it is not mounted at all.
_MADE_UP = frozenset((PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC))
_MAX_LINKS = 40


def answer_archive(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``archive``."""
    action = message.get("action")
    stream = fds.pop() if action in ("get", "put") and fds else None
    root = _enter(message, fds)
    path = os.fsencode(absolute_path(message, "path"))
    if action == "put" and stream is not None:
        _put(reply, message, root, path, stream)
    elif action == "get" and stream is not None:
        _get(reply, root, path, stream)
    elif action == "stat":
        with _Place(root.fileno(), path) as place:
            reply.send({"ok": True, "stat": place.describe()})
    else:
        raise InvalidParameterError(f"bad archive request: {action!r:.80}")


def _enter(message: JsonObject, fds: list[OwnedFd]) -> OwnedFd:
    """Return the container's root with all that is mounted in it, where no device can be opened."""
    pid = message.get("pid")
    if isinstance(pid, int) and fds:
        if join_files(pid, fds[0].fileno()):
            os.setgroups([])
            os.setresgid(0, 0, 0)  # the ids of the host are none there, and could make no file
            os.setresuid(0, 0, 0)
    else:
        _mount_stopped(message)
    os.umask(0)
    tree = OwnedFd(k.open_tree(k.AT_FDCWD, "/", k.OPEN_TREE_CLONE | k.AT_RECURSIVE))
    attributes = k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC | k.MOUNT_ATTR_NOSUID
    k.mount_setattr(tree.fileno(), "", attr_set=attributes, recursive=True)
    return tree


def _mount_stopped(message: JsonObject) -> None:
    overlay, mounts = message.get("root"), message.get("mounts")
    if not isinstance(overlay, dict) or not isinstance(mounts, list):
        raise InvalidParameterError("archive takes a pid with its pidfd, or a root and mounts")
    operations = [_operation(mount) for mount in mounts]
    unshare(CLONE_NEWNS)
    os.umask(0)
    k.mount(None, "/", None, k.MS_PRIVATE | k.MS_REC)
    # Before the root is mounted, which may hide them.
    trees = {place: [operation.open()] for place, operation in enumerate(operations) if isinstance(operation, Bind)}
    with mount_root(from_message(OverlayRoot, overlay), "", absolute_path(message, "target"), "rprivate") as root:
        with open_null() as null:
            build(operations, root.fileno(), null.fileno(), trees)
        pivot(root.fileno(), read_only=False)


def _operation(mount: JsonValue) -> Operation:
    """Read one entry of config.json's ``mounts``."""
    words = mount.get("options") if isinstance(mount, dict) else None
    if not isinstance(mount, dict) or not isinstance(words, list):
        raise InvalidParameterError("bad mount of a container")
    options = tuple([str(word) for word in words])
    entry = Mount(absolute_path(mount, "destination"), str(mount.get("type")), str(mount.get("source")), options)
    return mount_operation(entry, {}, user_namespace=False)


class _Place:
    """A path's last name in its directory, resolved once; a trailing slash or ``/.`` goes through a link.

    Attributes:
        parent: O_PATH descriptor of the directory.
        name: what is looked at in it, ``.`` for the directory itself.
        member: what it is called in an archive; empty for the root.
    """

    def __init__(self, root_fd: int, path: bytes) -> None:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        clean: list[bytes] = []
        for part in parts:
            if part == b"..":
                del clean[-1:]
            else:
                clean.append(part)
        dot = path.endswith(b"/.") or path == b"."
        through = dot or path.endswith(b"/") or not clean
        self._root_fd = root_fd
        self._path = b"/" + b"/".join(clean)
        self.member = b"." if dot else clean[-1] if clean else b""
        try:
            if through:
                self.parent, self.name = open_in_root(root_fd, self._path, os.O_PATH | os.O_DIRECTORY), b"."
            else:
                head = b"/" + b"/".join(clean[:-1])
                self.parent, self.name = open_in_root(root_fd, head, os.O_PATH | os.O_DIRECTORY), clean[-1]
            self.status = os.stat(self.name, dir_fd=self.parent.fileno(), follow_symlinks=False)
        except OSError as error:
            raise _unreachable(path, error) from None
        if is_made_up(self.parent.fileno()):
            self.parent.close()
            raise NotFoundError("no such file or directory")

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.parent.close()

    def describe(self) -> JsonObject:
        """Return name, size, mode, time (nanoseconds) and, of a link, the path that it leads to."""
        status = self.status
        target = ""
        if stat.S_ISLNK(status.st_mode):
            target = os.fsdecode(self._follow())
        return {
            "name": os.fsdecode(self.member or b"/"),
            "size": status.st_size,
            "mode": status.st_mode,
            "mtime": status.st_mtime_ns,
            "target": target,
        }

    def _follow(self) -> bytes:
        """Return the path to which the link leads in the end, as far as it can be told."""
        pending = self._path.split(b"/")[1:]
        done: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop(0)
            if name in (b"", b"."):
                continue
            if name == b"..":
                del done[-1:]
                continue
            try:
                target = self._read_link(b"/" + b"/".join(done), name)
            except OSError:
                target = None
            if target is None:
                done.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                break
            if target.startswith(b"/"):
                done = []
            pending = target.split(b"/") + pending
        return b"/" + b"/".join(done)

    def _read_link(self, directory: bytes, name: bytes) -> bytes | None:
        with open_in_root(self._root_fd, directory, os.O_PATH | os.O_DIRECTORY) as parent:
            if not stat.S_ISLNK(os.stat(name, dir_fd=parent.fileno(), follow_symlinks=False).st_mode):
                return None
            return os.readlink(name, dir_fd=parent.fileno())


def is_made_up(fd: int) -> bool:
    """Tell whether a descriptor is on a file system that holds no files of anybody."""
    return file_system_type(fd) in _MADE_UP


def _get(reply: Channel, root: OwnedFd, path: bytes, stream: OwnedFd) -> None:
    with _Place(root.fileno(), path) as place:
        reply.send({"ok": True, "stat": place.describe()})
        devices = _devices_of(root)

        def hidden(fd: int) -> bool:
            return is_made_up(fd) or os.fstat(fd).st_dev == devices

        done = pack_member(place.parent.fileno(), place.name, stream.fileno(), member=place.member, hidden=hidden)
    stream.close()
    reply.send({"ok": True, "size": done.size})


def _devices_of(root: OwnedFd) -> int:
    """Return the device number of what is mounted on ``/dev``; -1 when nothing is."""
    try:
        with open_in_root(root.fileno(), "/dev", os.O_PATH | os.O_NOFOLLOW) as dev:
            number = os.fstat(dev.fileno()).st_dev
    except OSError:
        return -1
    return -1 if number == os.fstat(root.fileno()).st_dev else number


def _put(reply: Channel, message: JsonObject, root: OwnedFd, path: bytes, stream: OwnedFd) -> None:
    if message.get("read_only") is True:
        k.mount_setattr(root.fileno(), "", attr_set=k.MOUNT_ATTR_RDONLY)
    try:
        with open_in_root(root.fileno(), path, os.O_PATH) as found:
            _check_target(root.fileno(), found.fileno())
    except OSError as error:
        raise _unreachable(path, error) from None
    owner = None
    user = message.get("owner")
    if isinstance(user, str) and user:
        identity = resolve_identity(root.fileno(), user)
        owner = (identity.uid, identity.gid)
    # The names are resolved from the root, so that absolute links on the way mean what they mean in the container.
    place = clean_path(b"/" + b"/".join(components(path)), Limits())
    keep_kinds = message.get("keep_kinds") is True
    rules = Rules(layer=False, owner=owner, keep_kinds=keep_kinds, cross=True, place=place)
    with OwnedFd(os.open(".", _READ, dir_fd=root.fileno())) as top:
        done = unpack(top.fileno(), stream.fileno(), Limits(), rules=rules)
    reply.send({"ok": True, "size": done.size})


def _check_target(root_fd: int, fd: int) -> None:
    status = os.fstat(fd)
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidParameterError("extraction point is not a directory")
    if is_made_up(fd):
        raise NotFoundError("no such file or directory")
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        same = status.st_dev == os.fstat(root_fd).st_dev
        raise InvalidParameterError(f"{'container rootfs' if same else 'mounted volume'} is marked read-only")


def _unreachable(path: bytes, error: OSError) -> OrlopError:
    """Make Docker's error of a path that cannot be reached."""
    if error.errno == errno.ENOENT:
        return NotFoundError("no such file or directory")
    return SystemFailureError(f"lstat {shown(path)}: {(error.strerror or '').lower()}")
