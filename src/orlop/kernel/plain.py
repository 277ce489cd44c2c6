"""``signal`` and ``socket`` without the enumerations: their C halves.

The public modules import ``enum`` and ``selectors`` to wrap every constant, which costs a process 8 ms before it has
done anything; a runtime is started for every container. Constants are plain integers here, a signal set is a set of
integers, and a socket is no context manager. Type checkers see the public modules.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
else:
    import _signal as signal
    import _socket as socket

__all__ = ["signal", "socket"]
