"""What tests of the virtual machine share beside the fixtures of all: it takes twenty seconds to start an engine there."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import Engine


@pytest.fixture(scope="session")
def other_engine():
    """An engine whose cgroups systemd makes and whose data is on an ext4 that counts projects; has the busybox image."""
    name = f"orlop-t-{secrets.token_hex(4)}"
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
    engine = Engine(home, name, ("--exec-opt", "native.cgroupdriver=systemd"), parent="orlop-t.slice")
    disk = home.with_name(f"{name}.ext4")
    try:
        with disk.open("wb") as file:
            file.truncate(400 << 20)
        engine.data_root.mkdir()
        for command in (
            ("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", disk),
            ("mount", "-o", "loop,prjquota", disk, engine.data_root),
        ):
            subprocess.run(command, check=True)
        engine.start()
        engine.import_busybox()
        yield engine
    finally:
        engine.destroy()
        subprocess.run(["umount", engine.data_root], check=False)
        shutil.rmtree(home, ignore_errors=True)
        disk.unlink()
