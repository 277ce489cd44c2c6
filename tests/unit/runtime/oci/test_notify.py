"""Readiness of a program, as it is handed on to the service manager."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from orlop.kernel.process import pidfd_open
from orlop.runtime.oci.notify import Notifications
from orlop.runtime.oci.state import NOTIFY


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "manager"))
        manager.settimeout(60)
        yield manager


def test_all_that_a_program_said_before_its_end_is_read(tmp_path, manager, monkeypatch):
    monkeypatch.setattr("orlop.runtime.oci.notify._BARRIER_MS", 0)
    (tmp_path / NOTIFY).mkdir()
    notifications = Notifications(str(tmp_path), manager.getsockname())
    ended = subprocess.Popen(["true"])
    pidfd = pidfd_open(ended.pid)
    ended.wait()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
        for said in (b"STATUS=begins", b"STATUS=goes on\nREADY=1", b"STOPPING=1"):
            program.sendto(said, str(tmp_path / NOTIFY / "notify.sock"))
    notifications.wait(7, pidfd)
    assert [manager.recv(100) for _ in range(2)] == [b"READY=1\n", b"MAINPID=7\n"]
    notifications.wait(7, pidfd)  # and what is behind it is nothing to wait for
    notifications.close()
    os.close(pidfd)
