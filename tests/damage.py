"""Damage as a disk does it, and what is told of it."""

import os


def flip(path, place=-20):
    """Change one bit of a file, as a disk does: its times stay."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def check(engine, *options):
    """Return what ``orlop system check`` tells."""
    form = "{{.Kind}} {{.State}} {{.Detail}}"
    return engine.orlop("system", "check", "--format", form, *options, check=False).stdout.splitlines()
