"""What the engine does otherwise on a kernel without its fast paths (6.1; ``lowerdir+`` is from 6.8)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm


def test_interpreter_is_sealed_in_memory(engine):
    assert os.readlink(f"/proc/{engine.spawner()}/exe").startswith("/memfd:orlop-interpreter")
    with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
        os.open(f"/proc/{engine.spawner()}/exe", os.O_WRONLY)


def test_layers_are_stacked_by_the_old_options(engine):
    script = "rm /etc/group; echo new > /etc/new; mkdir -p /a/b; head -1 /proc/mounts"
    assert engine.docker("run", "--name", "one", "busybox", "sh", "-c", script).stdout.startswith(
        "overlay / overlay rw"
    )
    engine.docker("commit", "one", "two")
    script = "cat /etc/new; ls /etc/group; rmdir /a/b; mkdir /a/b; echo again > /a/b/c; cat /a/b/c"
    done = engine.docker("run", "--name", "three", "two", "sh", "-c", script)
    assert done.stdout == "new\nagain\n"
    assert "/etc/group: No such file" in done.stderr
    engine.docker("commit", "three", "four")
    assert engine.docker("run", "--rm", "four", "cat", "/a/b/c", "/etc/new").stdout == "again\nnew\n"
    engine.remove_containers()
    engine.docker("rmi", "four", "two")
    assert not [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(engine.home) in line]
