"""Engines that are not started yet, for storage drivers and the file systems that these need."""

import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from harness import Engine

ON_BTRFS = (
    "mount --make-rprivate / && truncate -s 300M $0/image && mkfs.btrfs -q $0/image && mkdir -p $0/data"
    ' && mount -o loop $0/image $0/data && exec "$@"'
)


def make(*options, within=()):
    name = f"orlop-t-{secrets.token_hex(4)}"
    engine = Engine(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")), name, options)
    engine.within = tuple(word.replace("HOME", str(engine.home)) for word in within)
    return engine


def require_btrfs():
    if "btrfs" not in Path("/proc/filesystems").read_text() or shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs btrfs and mkfs.btrfs")
