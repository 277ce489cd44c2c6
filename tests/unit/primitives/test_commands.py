"""Running programs: what they get, what they give, when they are stopped."""

from __future__ import annotations

import os
import time

import pytest

from orlop.errors import SystemFailureError, UnavailableError
from orlop.primitives import commands


def test_input_output_and_status():
    done = commands.run(["sh", "-c", "cat; echo bad >&2; exit 3"], stdin=b"x" * 300_000)
    assert done.returncode == 3
    assert done.stdout == b"x" * 300_000
    assert done.stderr == b"bad\n"
    with pytest.raises(SystemFailureError, match="sh: bad"):
        done.check()


def test_environment_is_only_what_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("PATH", "/nowhere")
    lines = commands.run(["env"], env={"EXTRA": "2"}).stdout.decode().split()
    assert {line.partition("=")[0] for line in lines} <= {"PATH", "LC_ALL", "HOME", "EXTRA", "PWD", "SHLVL", "_"}
    assert "EXTRA=2" in lines


def test_no_descriptor_is_inherited():
    read, write = os.pipe()
    try:
        os.set_inheritable(read, True)  # as if whoever started the engine had left it open
        assert commands.run(["ls", "/proc/self/fd"]).stdout.split() == [b"0", b"1", b"2", b"3"]  # 3: ls reads it
    finally:
        os.close(read)
        os.close(write)


def test_unknown_program():
    with pytest.raises(UnavailableError, match="no-such-program: executable file not found in /usr/local/sbin"):
        commands.run(["no-such-program"])
    with pytest.raises(ValueError):
        commands.find("../bin/sh")


def test_slow_program_and_its_children_are_killed():
    begin = time.monotonic()
    with pytest.raises(SystemFailureError, match="sh: took too long"):
        commands.run(["sh", "-c", "sleep 20 & sleep 20"], timeout=0.2)
    assert time.monotonic() - begin < 15  # they would take 20


def test_talkative_program_is_killed():
    with pytest.raises(SystemFailureError, match="wrote more than 1000 bytes"):
        commands.run(["sh", "-c", "while :; do echo yyyyyyyyyyyyyyyyyyyyy; done"], limit=1000)


def test_program_that_does_not_read():
    assert commands.run(["true"], stdin=b"x" * 1_000_000).returncode == 0


def test_killed_program_shows_its_signal():
    assert commands.run(["sh", "-c", "kill -9 $$"]).returncode == -9
