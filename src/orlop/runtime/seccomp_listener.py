"""Handing a seccomp listener over (seccomp_unotify(2)): from the filtered process to its parent, then to an agent.

The process that installs a filter with SCMP_ACT_NOTIFY is itself filtered from then on. It may make only calls that
nobody has to answer until the agent has the listener: one sendmsg, which the specification's reader refuses to notify.
Only for profiles with that action; see :mod:`orlop.runtime.loading`.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.kernel.plain import socket
from orlop.primitives.channel import encode, send_packet
from orlop.primitives.json_text import dumps
from orlop.spec.oci.config import SPEC_VERSION
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.channel import Channel
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.security.apply import PreparedPrivileges
    from orlop.spec.json import JsonObject
    from orlop.spec.oci.seccomp import Seccomp

# the key of the message that carries the listener from the filtered process to its parent
MESSAGE = "seccomp"
# how long an agent may take to accept the connection
_SECONDS = 10.0
# sun_path of unix(7) without its NUL
_SUN_PATH = 107


def install_and_send(prepared: PreparedPrivileges, sync: Channel) -> PreparedPrivileges:
    """In the process to be filtered: load the filter and send its listener; returns what is left to prepare.

    It is called while CAP_SYS_ADMIN is there, so that it works without no_new_privs, and before somebody waits for the
    process on a fifo only.
    """
    if prepared.program is None:
        return prepared
    packet, _, _ = encode({MESSAGE: True})
    listener = prepared.program.install()
    send_packet(sync.socket, packet, [listener])
    os.close(listener)
    return replace(prepared, program=None, listens=False)


@dataclass(frozen=True)
class Agent:
    """Who answers a container's notifications, and what it is told (runtime-spec, "The Container Process State").

    Attributes:
        profile: with the agent's path and the metadata for it.
        state: the container's state as JSON object.
    """

    profile: Seccomp
    state: JsonObject

    def deliver(self, pid: int, listener: OwnedFd) -> None:
        """Send the listener of process ``pid`` to the agent and close it.

        Raises:
            InvalidParameterError: nobody takes it.
        """
        path = self.profile.listener_path
        document: JsonObject = {"ociVersion": SPEC_VERSION, "fds": ["seccompFd"], "pid": pid, "state": self.state}
        if self.profile.listener_metadata:
            document["metadata"] = self.profile.listener_metadata
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            if len(os.fsencode(path)) > _SUN_PATH:
                raise InvalidParameterError(f"seccomp listener path is longer than {_SUN_PATH} bytes")
            connection.settimeout(_SECONDS)
            connection.connect(path)
            send_packet(connection, dumps(document).encode(), [listener.fileno()])
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InvalidParameterError(f"unable to use seccomp listener {path}: {reason}") from None
        finally:
            connection.close()
            listener.close()
