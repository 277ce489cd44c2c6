"""Namespaces of containers that run, or did a moment ago."""

import os
import subprocess

import pytest

from orlop.errors import ConflictError, InvalidParameterError, UnsupportedError
from orlop.kernel.process import CLONE_NEWNS, CLONE_NEWPID, pidfd_open
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup
from orlop.runtime import namespaces
from orlop.runtime.container import Creation
from orlop.runtime.namespaces import Caller, choose_namespaces, join_files
from orlop.spec.oci import parse_config


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


def creation_in(*namespaces: dict[str, str], **linux: object) -> Creation:
    document = {
        "ociVersion": "1.3.0",
        "root": {"path": "/"},
        "process": {"args": ["true"], "cwd": "/"},
        "linux": {"namespaces": list(namespaces), **linux},
    }
    return Creation("c", parse_config(document), "/nonexistent")


def test_the_root_of_the_hosts_mount_namespace_is_not_exchanged():
    with Cleanup() as stack, pytest.raises(InvalidParameterError, match="the host's own"):
        choose_namespaces(creation_in({"type": "mount", "path": "/proc/self/ns/mnt"}), stack, None)
    user = {"type": "user"}, {"type": "mount", "path": "/proc/self/ns/mnt"}
    mapping = [{"containerID": 0, "hostID": 1000, "size": 1}]
    mapped = creation_in(*user, uidMappings=mapping, gidMappings=mapping)
    with Cleanup() as stack, pytest.raises(UnsupportedError, match="with a user namespace"):
        choose_namespaces(mapped, stack, None)


@pytest.mark.privileged
@pytest.mark.requires("root", "mountns")
def test_a_mount_namespace_is_joined_by_its_path():
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1) as holder:
        holder.stdout.readline()
        with Cleanup() as stack:
            creation = creation_in({"type": "pid"}, {"type": "mount", "path": f"/proc/{holder.pid}/ns/mnt"})
            flags, joins, _ = choose_namespaces(creation, stack, None)
            assert flags == CLONE_NEWPID
            assert [(os.fstat(fd).st_ino, flag) for fd, flag in joins] == [
                (os.stat(f"/proc/{holder.pid}/ns/mnt").st_ino, CLONE_NEWNS)
            ]
        holder.stdin.close()


def test_without_a_mount_namespace_there_is_no_container():
    with Cleanup() as stack, pytest.raises(UnsupportedError, match="mount namespace of its own"):
        choose_namespaces(creation_in({"type": "pid"}), stack, None)


@pytest.mark.parametrize(
    ("uid", "namespaced", "expected"),
    [
        (0, False, Caller()),
        (0, True, Caller(confined=True)),
        (1000, False, Caller(ordinary=True, confined=True)),
        (1000, True, Caller(ordinary=True, confined=True)),
    ],
)
def test_who_calls(monkeypatch, uid, namespaced, expected):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(namespaces.k, "in_user_namespace", lambda: namespaced)
    assert namespaces.find_caller() == expected
