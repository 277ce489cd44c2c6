from __future__ import annotations

import os

from orlop.kernel.signals import reset_reserved_signals
from orlop.kernel.syscall import call

IGNORE = (1).to_bytes(8, "little") + bytes(24)


def ignored() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn:"))


def test_reserved_signals_are_no_longer_ignored():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for number in (32, 33):
                call("rt_sigaction", number, IGNORE, None, 8)
            before = ignored() >> 31 & 3
            reset_reserved_signals()
            os.write(writing, bytes([before, ignored() >> 31 & 3]))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 2) == bytes([3, 0])
    os.close(reading)
