"""Another container's tmpfs: its ``/dev/shm``, for one that joins its IPC namespace, and volumes that are in memory."""

from __future__ import annotations

import errno
import os

from orlop.errors import ConflictError, OrlopError, SystemFailureError, from_kind
from orlop.kernel import mount as k
from orlop.kernel.openat2 import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from orlop.kernel.prctl import set_dumpable
from orlop.kernel.process import CLONE_NEWNS, clone3, pidfd_open, setns, start_time
from orlop.kernel.statfs import TMPFS_MAGIC, file_system_type
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import suppress
from orlop.runtime.init_task import SHM_DONOR, TMPFS_DONOR
from orlop.runtime.operations import Bind, MountFilesystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.primitives.scope import Cleanup
    from orlop.runtime.operations import Operation

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ATTRIBUTES = k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
_PLAIN = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class Sharing:
    """The mounts of other containers that one container gets; made before clone3, since the donors may end.

    Args:
        annotations: the configuration's.
        stack: closes what is opened.

    Attributes:
        donor: a pidfd of the init whose IPC namespace and shared memory are joined, or None.
    """

    def __init__(self, annotations: Mapping[str, str], stack: Cleanup) -> None:
        text = annotations.get(SHM_DONOR)
        self.donor = None if text is None else stack.enter_context(open_donor(text)).fileno()
        self._volumes = {
            name.removeprefix(TMPFS_DONOR): text for name, text in annotations.items() if name.startswith(TMPFS_DONOR)
        }
        self._stack = stack

    def trees(self, operations: Sequence[Operation]) -> dict[int, list[OwnedFd]]:
        """Return detached clones of them, by the places of the operations that they replace. Raises ConflictError."""
        trees: dict[int, list[OwnedFd]] = {}
        for place, operation in enumerate(operations):
            made = self._tree(operation)
            if made is not None:
                trees[place] = [self._stack.enter_context(made)]
        return trees

    def _tree(self, operation: Operation) -> OwnedFd | None:
        if isinstance(operation, Bind):
            if self.donor is None or not operation.source == operation.destination == "/dev/shm":
                return None  # so a volume that is mounted there stays
            return clone_shared_memory(self.donor)
        if isinstance(operation, MountFilesystem) and operation.fstype == "tmpfs":
            text = self._volumes.get(operation.destination)
            return None if text is None else clone_volume(text, operation.options.attr_set)
        return None


def open_donor(text: str, what: str = "failed to join IPC namespace") -> OwnedFd:
    """Return a pidfd of the process that ``<pid>:<start time>`` names; ``what`` begins the message of a failure.

    Raises:
        ConflictError: it has ended.
    """
    pid, _, started = text.partition(":")
    try:
        pidfd = OwnedFd(pidfd_open(int(pid)))
        # read after the pidfd was opened: then it is of the process that had the number at that time
        if start_time(int(pid)) == int(started):
            return pidfd
    except (OSError, ValueError):
        pass
    raise ConflictError(f"{what}: container is not running")


def clone_shared_memory(pidfd: int) -> OwnedFd:
    """Return a detached clone of the mount at ``/dev/shm`` of a process's mount namespace.

    Raises:
        ConflictError: there is none, or something else has been mounted there.
    """
    return _borrow(pidfd, "")


def clone_volume(text: str, attributes: int) -> OwnedFd:
    """Return a detached clone of another container's tmpfs.

    Args:
        text: ``<pid>:<start time>:<path>``: of its init, and where the tmpfs is there.
        attributes: those that the mount is to have, and no others.

    Raises:
        ConflictError: the container has ended, or something else is there by now.
    """
    pid, started, path = text.split(":", 2)
    with open_donor(f"{pid}:{started}", "cannot share a tmpfs volume") as pidfd:
        tree = _borrow(pidfd.fileno(), path)
    try:
        k.mount_setattr(tree.fileno(), "", attr_set=attributes & _ATTRIBUTES, attr_clear=_ATTRIBUTES & ~attributes)
    except BaseException:
        tree.close()
        raise
    return tree


def _borrow(pidfd: int, path: str) -> OwnedFd:
    """Return a detached clone of what is mounted at a path of a process's mount namespace; at ``/dev/shm`` for none.

    A child enters that namespace, where everything but the kernel's answers is the other container's.

    Raises:
        ConflictError: there is none, or something else has been mounted there.
    """
    ours, theirs = Channel.pair()
    pid, child = clone3(0)
    if pid == 0:
        _answer(theirs, pidfd, path)
    theirs.close()
    try:
        got = ours.receive()
    finally:
        ours.close()
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, child, os.WEXITED)
        os.close(child)
    if got is None:
        raise SystemFailureError("cannot look into the other container's mounts")
    message, fds = got
    error = message.get("error")
    if isinstance(error, str) or not fds:
        raise from_kind(str(message.get("kind")), str(error))
    return fds[0]


def _answer(answers: Channel, pidfd: int, path: str) -> None:
    try:
        set_dumpable(0)  # CVE-2016-9962
        setns(pidfd, CLONE_NEWNS)
        tree = _clone_volume(path) if path else _clone()
        answers.send({}, [tree.fileno()])
    except OrlopError as error:
        answers.send({"error": str(error), "kind": error.kind})
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the parent's stack
        answers.send({"error": f"cannot share {path or '/dev/shm'}: {error}", "kind": SystemFailureError.kind})
    finally:
        os._exit(0)


def _clone() -> OwnedFd:
    with OwnedFd(openat2(k.AT_FDCWD, "/dev", _DIRECTORY, resolve=_PLAIN)) as dev:
        try:
            OwnedFd(openat2(dev.fileno(), "shm", _DIRECTORY, resolve=_PLAIN | RESOLVE_NO_XDEV)).close()
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            raise ConflictError("cannot share /dev/shm of the other container: not a mount")
        with OwnedFd(openat2(dev.fileno(), "shm", _DIRECTORY, resolve=_PLAIN)) as shm:
            if file_system_type(shm.fileno()) != TMPFS_MAGIC:
                raise ConflictError("cannot share /dev/shm of the other container: not a tmpfs")
            return OwnedFd(k.open_tree(shm.fileno(), "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH))


def _clone_volume(path: str) -> OwnedFd:
    with (
        OwnedFd(os.open("/", _DIRECTORY)) as root,
        OwnedFd(openat2(root.fileno(), path, _DIRECTORY, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)) as place,
    ):
        if file_system_type(place.fileno()) != TMPFS_MAGIC or not _is_mount(place.fileno()):
            raise ConflictError(f"cannot share {path} of the other container: its tmpfs is not there any more")
        return OwnedFd(k.open_tree(place.fileno(), "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH))


def _is_mount(fd: int) -> bool:
    """Tell whether a directory is the top of a mount: the way up leads out of it."""
    try:
        OwnedFd(openat2(fd, "..", _DIRECTORY, resolve=_PLAIN | RESOLVE_NO_XDEV)).close()
    except OSError as error:
        return error.errno == errno.EXDEV
    return False
