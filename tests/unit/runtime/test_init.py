from __future__ import annotations

import errno
import os
import stat

import pytest

from orlop.kernel.syscall import SyscallError
from orlop.runtime import init
from orlop.runtime.users import GROUP_ADD, identify
from orlop.spec.oci import parse_config


def configuration(annotations, **user):
    process = {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0, **user}}
    return parse_config(
        {
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": process,
            "annotations": annotations,
            "linux": {},
        },
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:\nfoo:x:5:6::/foo:\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nwheel:x:10:root\nmore:x:20:\n")
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


def test_groups_added_by_name_and_number(root):
    config = configuration({GROUP_ADD: "more"}, username="foo", additionalGids=[7])
    identity = identify(root, config.process, config)
    assert (identity.uid, identity.gid, identity.groups) == (5, 6, (6, 7, 20))


def test_dockers_root_has_its_groups_of_the_image(root):
    """As in Docker: without --user the image's group file still counts for root."""
    config = configuration({}, username="0")
    assert identify(root, config.process, config).groups == (0, 10)


def test_oci_numbers_are_taken_as_they_are(root):
    config = configuration({}, uid=0, gid=0, additionalGids=[3])
    assert identify(root, config.process, config).groups == (0, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_the_hosts_null_device_is_not_given_away(tmp_path):
    """A program that runs as another user with /dev/null as input must not leave it that user's."""
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no CAP_MKNOD")
    other = tmp_path / "log"
    other.write_text("")
    fds = (os.open(null, os.O_RDONLY), os.open(other, os.O_WRONLY), os.open(other, os.O_WRONLY))
    child = os.fork()
    if child == 0:
        try:
            init.standard_streams(fds, 1000)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    for fd in fds:
        os.close(fd)
    assert null.stat().st_uid == 0
    assert other.stat().st_uid == 1000


def test_another_procfs_only_where_the_kernel_refuses_one(monkeypatch):
    """What is mounted on /proc was put there by somebody: it is for where there can be no other (CVE-2025-52881)."""
    monkeypatch.setattr(init.rootfs, "own_proc", lambda: "mounted")
    for number in (errno.ENOMEM, errno.EMFILE, errno.ENODEV):

        def refuse(number=number):
            raise SyscallError("fsmount", number)

        monkeypatch.setattr(init.rootfs, "private_proc", refuse)
        with pytest.raises(SyscallError):
            init._kernels_proc()

    def forbid():
        raise SyscallError("fsmount", errno.EPERM)

    monkeypatch.setattr(init.rootfs, "private_proc", forbid)
    assert init._kernels_proc() == "mounted"
