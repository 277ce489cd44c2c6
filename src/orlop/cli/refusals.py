"""What the user reads when the engine refuses, and the exit code that belongs to it."""

from __future__ import annotations

from orlop.client.failure import ConnectionFailedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.errors import OrlopError

_NOT_FOUND = ("executable file not found", "no such file or directory", "system cannot find the file specified")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "exec format error")


def describe(error: OrlopError, *, prefixed: bool) -> tuple[str, int]:
    """Return the text and the exit code; ``prefixed`` commands (run, create) fail with 125, 126 or 127."""
    if isinstance(error, ConnectionFailedError):
        return str(error), 125 if prefixed else 1
    return f"Error response from daemon: {error}", start_status(str(error)) if prefixed else 1


def start_status(message: str) -> int:
    """Return the exit code for a container or command that did not start, as Docker's client derives it."""
    if "executable file not found" in message or ("exec" in message and any(text in message for text in _NOT_FOUND)):
        return 127
    if "exec" in message and any(text in message for text in _NOT_EXECUTABLE):
        return 126
    if any(text in message for text in _NOT_EXECUTABLE[:1]):
        return 126
    return 125
