"""Compressing a rotated log, beside the shim: a child does it, so that the program's output need not wait.

The compressed file takes the other's place when it is whole and on the disk. Until then, and if it never comes to that
(a full disk, a power cut), the plain one is there; where both are, they are the same.
"""

from __future__ import annotations

import os
import zlib

from orlop.kernel.process import close_all_but
from orlop.primitives.scope import suppress
from orlop.runtime.forking import fork_worker
from orlop.spec.launch import COMPRESSED, GZIP

_UNFINISHED = ".gz-unfinished"
_BLOCK = 1 << 16
_MODE = 0o640
_NICENESS = 10
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def begin_compression(path: str) -> int:
    """Fork a child that compresses ``path``; returns its pid, or 0 when there can be none and the file stays plain."""
    try:
        return fork_worker(lambda: _compress(path))
    except OSError:
        return 0


def finish_compression(pid: int) -> None:
    """Wait for the child of :func:`begin_compression`; fine for 0, or when it was waited for."""
    if pid:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _compress(path: str) -> None:
    close_all_but(())  # the program's pipes and clients' sockets among them: whoever reads those would see no end
    os.nice(_NICENESS)
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        target = os.open(path + _UNFINISHED, _NEW, _MODE)
        compressor = zlib.compressobj(wbits=GZIP)
        while block := os.read(source, _BLOCK):
            _write(target, compressor.compress(block))
        _write(target, compressor.flush())
        os.fsync(target)
        os.rename(path + _UNFINISHED, path + COMPRESSED)
        os.unlink(path)
    except OSError:
        with suppress(OSError):
            os.unlink(path + _UNFINISHED)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
