"""A connection to the system's bus or a user's, and systemd's manager on it (org.freedesktop.systemd1(5)).

    orlop                                   bus                              systemd
     │  AUTH EXTERNAL, BEGIN, Hello  ─────▶  │
     │  AddMatch JobRemoved  ─────────────▶  │
     │  StartTransientUnit(name, PIDs, limits) ────────────────────────────▶  │
     │  ◀───────────────────────────────────────────────────  job's path      │
     │  ◀──────────────────────────────  JobRemoved(job, "done")              │  the cgroup is there

Answers and signals come in any order; what is no answer is kept until it is asked for.
"""

from __future__ import annotations

import os

from orlop.errors import ConflictError, InvalidParameterError, SystemFailureError, UnavailableError
from orlop.kernel.plain import socket
from orlop.runtime.cgroups.systemd import wire
from orlop.runtime.cgroups.systemd.wire import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.runtime.cgroups.systemd.properties import Property
    from orlop.runtime.cgroups.systemd.wire import Value

SYSTEM_BUS = "/run/dbus/system_bus_socket"
# what runc waits for a job
_SECONDS = 30.0
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_JOBS = (
    "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'"
)
_UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
_REFUSALS = frozenset({"org.freedesktop.DBus.Error.InvalidArgs", "org.freedesktop.systemd1.BadUnitSetting"})


class BusError(SystemFailureError):
    """An error that the other side answered with; ``name`` is its D-Bus name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


def user_bus(uid: int) -> str:
    """Return the socket of a user's own bus."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{directory if directory.startswith('/') else f'/run/user/{uid}'}/bus"


class Bus:
    """One connection, used by one call at a time. Raises UnavailableError when there is no bus.

    Args:
        address: the bus's socket.
        uid: who we are to the bus, where our user namespace has another number for it.
        seconds: how long to wait for each answer.
    """

    def __init__(self, address: str = SYSTEM_BUS, *, uid: int | None = None, seconds: float = _SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(seconds)
        self._serial = 0
        self._data = b""
        self._signals: list[Message] = []
        try:
            self._socket.connect(address)
            self._authenticate(os.geteuid() if uid is None else uid)
            self.call(_BUS, "Hello")
        except OSError as error:
            self._socket.close()
            reason = (error.strerror or str(error)).lower()
            raise UnavailableError(f"systemd cannot be reached over D-Bus: {address}: {reason}") from None
        except BaseException:
            self._socket.close()
            raise

    def _authenticate(self, uid: int) -> None:
        """Say who we are, which the bus checks against the socket's credentials."""
        self._socket.sendall(b"\0AUTH EXTERNAL %s\r\n" % str(uid).encode().hex().encode())
        while b"\r\n" not in self._data:
            self._receive()
        line, _, self._data = self._data.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise UnavailableError(f"the bus refuses us: {line.decode('ascii', 'replace'):.80}")
        self._socket.sendall(b"BEGIN\r\n")

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def call(
        self, target: tuple[str, str, str], member: str, signature: str = "", body: Sequence[Value] = ()
    ) -> tuple[Value, ...]:
        """Call a method of ``target`` (name, path, interface) and return the answer's values.

        Raises:
            BusError: it answered with an error.
            SystemFailureError: no answer in time, or what is no message.
        """
        self._serial += 1
        name, path, interface = target
        sent = Message(
            wire.CALL,
            self._serial,
            path=path,
            interface=interface,
            member=member,
            destination=name,
            signature=signature,
            body=tuple(body),
        )
        self._socket.sendall(wire.encode(sent))
        while True:
            message = self._next(f"answer to {member}")
            if message.reply_to == sent.serial and message.kind == wire.RETURN:
                return message.body
            if message.reply_to == sent.serial and message.kind == wire.ERROR:
                raise BusError(message.error, str(message.body[0]) if message.body else "")
            if message.kind == wire.SIGNAL:
                self._signals.append(message)

    def next_signal(self, what: str) -> Message:
        """Return the next signal, also one that came with an answer. Raises SystemFailureError: none in time."""
        while not self._signals:
            message = self._next(what)
            if message.kind == wire.SIGNAL:
                self._signals.append(message)
        return self._signals.pop(0)

    def _next(self, what: str) -> Message:
        try:
            while len(self._data) < wire.FIXED or len(self._data) < wire.size(self._data[: wire.FIXED]):
                self._receive()
        except TimeoutError:
            raise SystemFailureError(f"timed out waiting for systemd: {what}") from None
        except OSError as error:
            raise UnavailableError(f"the bus is gone: {(error.strerror or str(error)).lower()}") from None
        length = wire.size(self._data[: wire.FIXED])
        data, self._data = self._data[:length], self._data[length:]
        return wire.decode(data)

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError(104, "closed by the bus")
        self._data += data


class Manager:
    """systemd, as far as a scope needs it; close it after use."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def close(self) -> None:
        """Close the connection."""
        self._bus.close()

    def start_scope(self, unit: str, properties: Sequence[Property]) -> None:
        """Make a transient scope and wait until its cgroup is there.

        Raises:
            ConflictError: there is a unit of this name.
            InvalidParameterError: systemd refuses a property.
            SystemFailureError: it could not, or not in time.
        """
        self._bus.call(_BUS, "AddMatch", "s", [_JOBS])
        values = [(name, (signature, value)) for name, signature, value in properties]
        try:
            (job,) = self._bus.call(_SYSTEMD, "StartTransientUnit", "ssa(sv)a(sa(sv))", [unit, "fail", values, ()])
        except BusError as error:
            raise _explained(error, f"unable to start unit {unit}") from None
        self._await(job, f"unable to start unit {unit}")

    def stop(self, unit: str) -> None:
        """Stop a unit, wait, and forget a failure of it; one that is gone is fine."""
        try:
            self._bus.call(_BUS, "AddMatch", "s", [_JOBS])
            (job,) = self._bus.call(_SYSTEMD, "StopUnit", "ss", [unit, "replace"])
            self._await(job, f"unable to stop unit {unit}")
            self._bus.call(_SYSTEMD, "ResetFailedUnit", "s", [unit])
        except BusError as error:
            if error.name != _NO_SUCH_UNIT:
                raise

    def set_properties(self, unit: str, properties: Sequence[Property]) -> None:
        """Change limits of a running unit until it ends.

        Raises:
            InvalidParameterError: systemd refuses a property.
            SystemFailureError: it could not.
        """
        values = [(name, (signature, value)) for name, signature, value in properties]
        try:
            self._bus.call(_SYSTEMD, "SetUnitProperties", "sba(sv)", [unit, True, values])
        except BusError as error:
            raise _explained(error, f"unable to change unit {unit}") from None

    def _await(self, job: Value, what: str) -> None:
        while True:
            signal = self._bus.next_signal(what)
            if signal.member != "JobRemoved" or signal.signature != "uoss" or signal.body[1] != job:
                continue
            if signal.body[3] not in ("done", "skipped"):
                raise SystemFailureError(f"{what}: job {signal.body[3]!s}")
            return


def _explained(error: BusError, what: str) -> ConflictError | InvalidParameterError | SystemFailureError:
    if error.name == _UNIT_EXISTS:
        return ConflictError(f"{what}: {error}")
    kind = InvalidParameterError if error.name in _REFUSALS else SystemFailureError
    return kind(f"{what}: {error}")
