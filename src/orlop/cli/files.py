"""Files that commands write: whole or not there."""

from __future__ import annotations

import os

from orlop.cli.invocation import CommandError
from orlop.cli.streaming import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def check_place(path: str) -> None:
    """Refuse a path at which no file can be made, before anything is asked for. Raises CommandError."""
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or "."):
        raise CommandError(f"failed to write output: invalid output path: {path}")


def write_file(chunks: Iterable[bytes], path: str, *, private: bool = False) -> None:
    """Write a file, through a temporary one beside it.

    Args:
        chunks: its content.
        path: where; what is there is replaced.
        private: for the user alone; else as the umask has it.

    Raises:
        CommandError: it cannot be written.
    """
    check_place(path)
    temporary = os.path.join(os.path.dirname(path) or ".", f".orlop-{os.getpid()}-{os.path.basename(path)}")
    mode = 0o600 if private else 0o666
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            for chunk in chunks:
                write_all(descriptor, chunk)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CommandError(f"failed to write output: {(error.strerror or '').lower()}: {path}") from None
