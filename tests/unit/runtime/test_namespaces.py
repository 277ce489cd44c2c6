"""Namespaces of containers that run, or did a moment ago."""

import os
import subprocess

import pytest

from orlop.errors import ConflictError
from orlop.kernel.process import pidfd_open
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.namespaces import join_files


@pytest.mark.parametrize("reaped", [False, True])
def test_the_files_of_a_container_that_has_ended_cannot_be_joined(reaped):
    process = subprocess.Popen(["true"])
    try:
        with OwnedFd(pidfd_open(process.pid)) as pidfd:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            if reaped:
                process.wait()
            with pytest.raises(ConflictError, match="not running any more"):
                join_files(process.pid, pidfd.fileno())
    finally:
        process.wait()
