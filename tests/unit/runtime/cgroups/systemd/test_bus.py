"""A conversation with a systemd of jeepney's making on a socket of the test's own."""

from __future__ import annotations

import os
import socket
import threading

import jeepney
import pytest

from orlop.errors import ConflictError, InvalidParameterError, SystemFailureError, UnavailableError
from orlop.runtime.cgroups.systemd.bus import Bus, Manager

JOB = "/org/freedesktop/systemd1/job/1"
MANAGER = jeepney.DBusAddress("/org/freedesktop/systemd1", interface="org.freedesktop.systemd1.Manager")


class FakeSystemd:
    """Answers one connection; ``error`` or ``result`` decide how a job ends, ``silent`` sends no signal."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.error = ""
        self.result = "done"
        self.silent = False
        self.greeting = b"OK 1234\r\n"
        self.calls: list[tuple[str, object]] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            data = connection.recv(4096)
            assert data == b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n"
            connection.sendall(self.greeting)
            parser = jeepney.Parser()
            begun = False
            while data := connection.recv(4096):
                if not begun:
                    assert data.startswith(b"BEGIN\r\n")
                    data, begun = data[7:], True
                parser.add_data(data)
                while message := parser.get_next_message():
                    self.answer(connection, message)

    def answer(self, connection: socket.socket, message: jeepney.Message) -> None:
        member = message.header.fields[jeepney.HeaderFields.member]
        self.calls.append((member, message.body))
        if self.error and member in ("StartTransientUnit", "StopUnit", "SetUnitProperties"):
            reply = jeepney.new_error(message, self.error, "s", ("no",))
        elif member in ("StartTransientUnit", "StopUnit"):
            reply = jeepney.new_method_return(message, "o", (JOB,))
        else:
            reply = jeepney.new_method_return(message)
        signals = []
        if member in ("StartTransientUnit", "StopUnit") and not self.silent:
            for job, result in ((JOB + "0", "failed"), (JOB, self.result)):
                signals.append(jeepney.new_signal(MANAGER, "JobRemoved", "uoss", (1, job, "x.scope", result)))
        # the signal may overtake the answer
        ordered = [*signals, reply] if len(self.calls) % 2 else [reply, *signals]
        connection.sendall(b"".join(one.serialise(serial=9) for one in ordered))

    def close(self) -> None:
        self.listener.close()
        self.thread.join(60)


@pytest.fixture
def systemd(tmp_path):
    fake = FakeSystemd(str(tmp_path / "bus"))
    yield fake
    fake.close()


@pytest.fixture
def manager(systemd):
    manager = Manager(Bus(systemd.path, seconds=60))
    yield manager
    manager.close()


def test_scope_is_started_and_waited_for(systemd, manager):
    manager.start_scope("x.scope", [("PIDs", "au", [5]), ("MemoryMax", "t", 64)])
    members = [member for member, _ in systemd.calls]
    assert members == ["Hello", "AddMatch", "StartTransientUnit"]
    unit, mode, properties, auxiliary = systemd.calls[-1][1]
    assert (unit, mode, auxiliary) == ("x.scope", "fail", [])
    assert properties == [("PIDs", ("au", [5])), ("MemoryMax", ("t", 64))]


def test_stop_forgets_the_failure(systemd, manager):
    manager.stop("x.scope")
    assert [member for member, _ in systemd.calls][2:] == ["StopUnit", "ResetFailedUnit"]


def test_stop_of_what_is_gone(systemd, manager):
    systemd.error = "org.freedesktop.systemd1.NoSuchUnit"
    manager.stop("x.scope")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("org.freedesktop.systemd1.UnitExists", ConflictError),
        ("org.freedesktop.DBus.Error.InvalidArgs", InvalidParameterError),
        ("org.freedesktop.DBus.Error.AccessDenied", SystemFailureError),
    ],
)
def test_errors(systemd, manager, name, kind):
    systemd.error = name
    with pytest.raises(kind, match=r"unable to start unit x\.scope: no"):
        manager.start_scope("x.scope", [])
    with pytest.raises(kind, match=r"unable to change unit x\.scope: no"):
        manager.set_properties("x.scope", [])


def test_failed_job(systemd, manager):
    systemd.result = "failed"
    with pytest.raises(SystemFailureError, match="job failed"):
        manager.start_scope("x.scope", [])


def test_no_answer_in_time(systemd):
    systemd.silent = True
    bus = Bus(systemd.path, seconds=60)
    manager = Manager(bus)
    next_signal = bus.next_signal

    def hurried(what):  # that it was answered may take its time
        bus._socket.settimeout(0.1)
        return next_signal(what)

    bus.next_signal = hurried
    with pytest.raises(SystemFailureError, match=r"timed out waiting for systemd: unable to start unit x\.scope"):
        manager.start_scope("x.scope", [])
    manager.close()


def test_refused_by_the_bus(systemd):
    systemd.greeting = b"REJECTED EXTERNAL\r\n"
    with pytest.raises(UnavailableError, match="the bus refuses us"):
        Bus(systemd.path, seconds=60)


def test_no_bus(tmp_path):
    with pytest.raises(UnavailableError, match="systemd cannot be reached over D-Bus"):
        Bus(str(tmp_path / "none"))
