"""The words for a program that did not start: those of dockerd, containerd and runc, which tools look for.

Compose, Testcontainers and many scripts search for ``OCI runtime create failed``, ``unable to start container process``
or ``executable file not found in $PATH``; the docker client makes 126 or 127 of what it finds.
"""

from __future__ import annotations

from orlop.errors import CommandNotExecutableError, OrlopError, UnavailableError

_CREATE = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
_EXEC = "OCI runtime exec failed: exec failed: "
# dockerd resolves the user itself, before there is a task.
_PLAIN = ("unable to find user ", "unable to find group ", "no matching entries in ")


def start_failure(error: OrlopError) -> OrlopError:
    """Return the error of a container's start as clients expect it, of the same class."""
    return _worded(_CREATE, error)


def exec_failure(error: OrlopError) -> OrlopError:
    """Return the error of an exec's start as clients expect it, of the same class."""
    return _worded(_EXEC, error)


def _worded(prefix: str, error: OrlopError) -> OrlopError:
    text = str(error)
    if isinstance(error, UnavailableError) or text.startswith(_PLAIN):
        return error
    # Clients older than "is a directory" know these words for 126.
    denied = isinstance(error, CommandNotExecutableError) and "permission denied" not in text
    return type(error)(
        f"{prefix}unable to start container process: {text}: unknown" + (": permission denied" if denied else "")
    )
