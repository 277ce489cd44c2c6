"""The poll loop between standard streams and a hijacked stream."""

from __future__ import annotations

import os
import pty
import signal
import socket
import threading
import time

import pytest

from orlop.cli.streaming import Session, SignalPipe
from orlop.client.connection import HijackedStream

BIG = os.urandom(1 << 20)


def frame(number: int, data: bytes) -> bytes:
    return bytes([number, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@pytest.fixture
def standard_input():
    """Replace descriptor 0 for the test."""
    kept = os.dup(0)

    def replace(descriptor: int) -> None:
        os.dup2(descriptor, 0)
        os.close(descriptor)

    yield replace
    os.dup2(kept, 0)
    os.close(kept)


def feed(data: bytes) -> int:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    threading.Thread(target=write, daemon=True).start()
    return reading


def test_feeds_and_drains_at_once(standard_input, capfdbinary) -> None:
    ours, theirs = socket.socketpair()

    def cat() -> None:
        while data := theirs.recv(65536):
            theirs.sendall(frame(1, data))  # blocks when nobody drains
        theirs.sendall(frame(2, b"end"))
        theirs.close()

    threading.Thread(target=cat, daemon=True).start()
    standard_input(feed(BIG))
    Session(HijackedStream(ours, b"", content_type=""), tty=False, stdin=True).run()
    output = capfdbinary.readouterr()
    assert output.out == BIG
    assert output.err == b"end"


def test_preface_comes_first(capfdbinary) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(frame(1, b"second"))
    theirs.close()
    Session(HijackedStream(ours, frame(1, b"first "), content_type=""), tty=False, stdin=False).run()
    assert capfdbinary.readouterr().out == b"first second"


def test_terminal_detaches_and_is_restored(standard_input, capfdbinary) -> None:
    import termios

    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    watch = os.dup(terminal)
    standard_input(terminal)
    ours, theirs = socket.socketpair()
    sizes: list[tuple[int, int]] = []
    session = Session(
        HijackedStream(ours, b"$ ", content_type=""),
        tty=True,
        stdin=True,
        resize=lambda height, width: sizes.append((height, width)),
    )
    termios.tcsetwinsize(watch, (40, 100))

    def type_when_raw() -> None:
        while termios.tcgetattr(watch) == before:
            time.sleep(0.005)
        os.write(controller, b"ls\x10\x11")

    threading.Thread(target=type_when_raw, daemon=True).start()
    session.run()
    assert session.detached
    assert theirs.recv(100) == b"ls"
    assert sizes == [(40, 100)]
    assert termios.tcgetattr(watch) == before
    assert capfdbinary.readouterr().out == b"$ "
    theirs.close()
    for descriptor in (controller, watch):
        os.close(descriptor)


def test_signals_are_passed_on(capfdbinary) -> None:
    ours, theirs = socket.socketpair()
    seen: list[str] = []

    def kill(name: str) -> None:
        seen.append(name)
        theirs.close()

    before = signal.getsignal(signal.SIGUSR1)

    def send() -> None:  # at once: what comes as soon as there is a handler is passed on as well
        while signal.getsignal(signal.SIGUSR1) == before:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=send, daemon=True).start()
    Session(HijackedStream(ours, b"", content_type=""), tty=False, stdin=False, kill=kill).run()
    assert seen == ["SIGUSR1"]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_no_signal_is_lost_between_the_first_handler_and_the_last(monkeypatch) -> None:
    catch = signal.signal

    def catch_and_send(number, handler):
        before = catch(number, handler)
        if number == signal.SIGUSR1:
            os.kill(os.getpid(), number)
        return before

    pipe = SignalPipe(proxied=True, resizes=False)
    with monkeypatch.context() as patched:
        patched.setattr(signal, "signal", catch_and_send)
        pipe.__enter__()
    try:
        assert pipe.received() == bytes([signal.SIGUSR1])
    finally:
        pipe.__exit__()
