"""git, which fetches strangers' repositories, is shut in (threat F6)."""

import os
import tempfile

import pytest

from orlop.engine.builds import git

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns")]
SCRIPT = """
id -u; id -G; pwd
grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | cut -f2
for place in / /etc /usr /proc/sys/kernel/hostname /sys/kernel OPEN; do test -w $place && echo "can write $place"; done
ls -A /home /root /var /srv /mnt /opt
ls -A /tmp
echo mine >made && cat made
ls /proc | grep -c '^[0-9]*$'
"""


def test_git_can_change_nothing_but_its_directory(monkeypatch):
    monkeypatch.setattr(git, "find", lambda _: "/bin/sh")
    monkeypatch.setenv("ORLOP_SECRET", "x")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as work, tempfile.TemporaryDirectory(dir="/run") as everybodys:
        os.chmod(everybodys, 0o1777)
        out = git.run_git(work, "-c", f"{SCRIPT.replace('OPEN', everybodys)}\nenv").decode()
        head, _, environment = out.partition("mine\n")
        lines = head.splitlines()
        assert lines[:6] == ["65534", "65534", "/tmp/context", "0" * 16, "0" * 16, "1"]
        assert "can write" not in head
        assert {line for line in lines[6:] if line and not line.endswith(":")} <= {"context"}
        assert int(environment.splitlines()[0]) < 10  # processes: none of the host's
        assert "ORLOP_SECRET" not in environment
        assert "GIT_ALLOW_PROTOCOL=http:https:git\n" in environment
        assert os.listdir(work) == ["made"]
