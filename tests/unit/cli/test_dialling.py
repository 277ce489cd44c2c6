"""``system dial-stdio``: bytes go both ways at once, and nothing of an answer is lost."""

import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest


@pytest.fixture
def engine(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(60)
        yield listener


def dial(engine) -> subprocess.Popen[bytes]:
    words = ["-H", f"unix://{engine.getsockname()}", "system", "dial-stdio"]
    command = [sys.executable, "-c", "from orlop.cli.main import entry; entry()", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_both_ways_at_once(engine) -> None:
    """As of ``docker run -i busybox hexdump``: the engine waits for its reader before it reads on."""
    data = bytes(2_000_000)
    with dial(engine) as program:
        peer, _ = engine.accept()
        peer.settimeout(60)

        def answer() -> None:
            with peer, suppress(OSError):
                while piece := peer.recv(1 << 16):
                    peer.sendall(bytes(4 * len(piece)))

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert program.communicate(data, timeout=60)[0] == bytes(4 * len(data))
        finally:
            program.kill()
        thread.join()


def test_an_answer_before_the_request_has_ended(engine) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100_000
    with dial(engine) as program:
        program.stdin.write(b"POST")
        program.stdin.flush()
        peer, _ = engine.accept()
        with peer:
            assert peer.recv(1) == b"P"
            peer.sendall(answer)
        try:
            assert program.communicate(bytes(3_000_000), timeout=60)[0] == answer
        finally:
            program.kill()
        assert program.returncode == 0
