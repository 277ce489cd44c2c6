"""Files and directories of cgroup file systems: writing limits, waiting, removing trees."""

from __future__ import annotations

import errno
import os
import time

from orlop.errors import SystemFailureError, UnsupportedError, os_error_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.runtime.cgroups.controllers import Write

# how long the kernel may take to let go of an emptied cgroup, or to freeze one
PATIENCE = 2.0
_READ_SIZE = 65536


def read_text(path: str) -> str:
    """Return a file's whole text. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, _READ_SIZE):
            chunks.append(chunk)
        return b"".join(chunks).decode("ascii", "replace")
    finally:
        os.close(fd)


def write_text(path: str, text: str) -> None:
    """Write ``text`` with one write(2) to an existing file. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def write_if_there(path: str, text: str) -> None:
    """The same, and nothing when the cgroup is gone. Raises OSError for any other reason."""
    try:
        write_text(path, text)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENODEV}:  # ENODEV: it went after the opening
            raise


class _OpenFile:
    """The file written last stays open: device rules are a dozen writes to two files, and opening is what costs."""

    __slots__ = ("_fd", "path")

    def __init__(self) -> None:
        self.path = ""
        self._fd = -1

    def write(self, path: str, text: str) -> None:
        if path != self.path:
            self.close()
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            self.path = path
        os.write(self._fd, text.encode())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.path = -1, ""


def apply(writes: Iterable[Write], directory_of: Callable[[str], str | None]) -> None:
    """Carry out ``writes`` in order.

    A value that the kernel refuses because of another limit's present value (memory above memory+swap, quota below
    burst) is tried once more after the others, so an update needs no knowledge of what was set before.

    Args:
        writes: what to write.
        directory_of: the cgroup's directory for a controller, None if the machine does not have it.

    Raises:
        UnsupportedError: no such controller or file.
        SystemFailureError: the kernel refused the value; runc's words.
    """
    later = []
    file = _OpenFile()
    try:
        for write in writes:
            try:
                _apply(write, directory_of, file)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBUSY):
                    raise _refused(write, file.path, error) from error
                later.append(write)
        for write in later:
            try:
                _apply(write, directory_of, file)
            except OSError as error:
                raise _refused(write, file.path, error) from error
    finally:
        file.close()


def _apply(write: Write, directory_of: Callable[[str], str | None], file: _OpenFile) -> None:
    directory = directory_of(write.controller)
    missing: OSError | None = None
    if directory is not None:
        try:
            file.write(f"{directory}/{write.file}", write.text)
        except FileNotFoundError as error:
            missing = error
        else:
            return
    if write.instead is not None:
        _apply(write.instead, directory_of, file)
    elif not write.optional:
        what = write.file if missing is not None else f"the {write.controller} cgroup controller"
        raise UnsupportedError(f"this kernel does not support {what}") from missing


def _refused(write: Write, path: str, error: OSError) -> SystemFailureError:
    reason = (error.strerror or "").lower()
    return SystemFailureError(f"failed to write {write.text!r}: write {path or write.file}: {reason}")


def subtree(directory: str) -> list[str]:
    """Return ``directory`` and everything below, parents first; empty when it is gone."""
    try:
        # kernfs counts subdirectories in the link count, so the usual cgroup needs no listing
        if os.stat(directory).st_nlink <= 2:
            return [directory]
        with os.scandir(directory) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    found = [directory]
    for child in children:
        found.extend(subtree(child))
    return found


def remove_tree(directory: str) -> None:
    """Remove a cgroup and those below it, waiting for the last processes' end.

    Raises:
        SystemFailureError: still in use after :data:`PATIENCE` seconds.
    """
    delay = 0.0005
    deadline = 0.0
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise SystemFailureError(f"unable to remove cgroup: {os_error_text(error)}") from error
            now = time.monotonic()
            deadline = deadline or now + PATIENCE
            if now > deadline:
                raise SystemFailureError(f"unable to remove cgroup: {os_error_text(error)}") from error
            below = [path for path in subtree(directory) if path != directory]
            for path in reversed(below):
                try:
                    os.rmdir(path)
                except OSError:
                    continue
            if not below:
                time.sleep(delay)
                delay = min(2 * delay, 0.05)
        else:
            return


def read_pids(directories: Iterable[str]) -> list[int]:
    """Return the process ids in these cgroups; one that is gone has none. 0 (not in our namespace) is left out."""
    pids: set[int] = set()
    for directory in directories:
        try:
            pids.update(map(int, read_text(f"{directory}/cgroup.procs").split()))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
    pids.discard(0)
    return list(pids)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until ``condition`` holds. Raises SystemFailureError after :data:`PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    delay = 0.0002
    while not condition():
        if time.monotonic() > deadline:
            raise SystemFailureError(what)
        time.sleep(delay)
        delay = min(2 * delay, 0.02)
