"""A client whose standard streams are a pseudo-terminal."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

from harness import PATIENCE


class Session:
    """A client whose standard streams are a terminal."""

    def __init__(self, engine, *command, size=(24, 80)):
        self.master, slave = pty.openpty()
        self.resize(*size)
        self.output = ""
        self.process = subprocess.Popen(
            command, env=engine.environment, stdin=slave, stdout=slave, stderr=slave, preexec_fn=_take_terminal
        )
        os.close(slave)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, pattern, seconds=10):
        """Read until the output since the last match has the pattern."""
        deadline = time.monotonic() + seconds * PATIENCE
        while (match := re.search(pattern, self.output)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.output!r}"
            if not self._read():
                raise AssertionError(f"ended without {pattern!r}: {self.output!r}")
        self.output = self.output[match.end() :]
        return match

    def resize_until(self, rows, columns, pattern):
        """Change the window, again and again, until the output has the pattern.

        Docker's client asks to be told of changes only when its first size was answered (cli/command/container/tty.go):
        one that comes while the program already writes can be lost on it.
        """
        for _ in range(10 * PATIENCE):
            self.resize(rows, columns - 1)  # one that is as it was is no change
            self.resize(rows, columns)
            with contextlib.suppress(AssertionError):
                return self.expect(pattern, seconds=1 / PATIENCE)
        raise AssertionError(f"no {pattern!r} in {self.output!r}")

    def _read(self):
        if select.select([self.master], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                data = os.read(self.master, 65536)
                self.output += data.decode(errors="replace")
                return True
            return False
        return True

    def end(self, seconds=10):
        """Read to the end; return the exit status."""
        deadline = time.monotonic() + seconds * PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        assert self.process.poll() is not None, f"still running: {self.output!r}"
        while select.select([self.master], [], [], 0)[0] and self._read():
            pass
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


def _take_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
