"""Labels of security modules on a real mount table; with AppArmor itself they are tested in ``tests/vm``."""

from __future__ import annotations

import os
import subprocess

import pytest

from orlop.kernel import mount as k
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.security.lsm import confine

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns")]


class Labels:
    """What ``confine`` takes of a process."""

    apparmor_profile, selinux_label = "profile", ""


def test_attribute_under_a_mount_is_not_written(tmp_path):
    """CVE-2019-19921: something mounted over the file takes the label, and the program runs without."""
    attributes = tmp_path / "self/attr"
    attributes.mkdir(parents=True)
    (attributes / "exec").touch()
    with OwnedFd(k.fsopen("tmpfs")) as context:
        k.fsconfig_create(context.fileno())
        tree = OwnedFd(k.fsmount(context.fileno(), 0))
    with tree, OwnedFd(os.open(attributes, os.O_PATH)) as target:
        k.move_mount(tree.fileno(), target.fileno())
    try:
        (attributes / "exec").touch()
        with pytest.raises(OSError, match="openat2"):
            confine(Labels(), lambda: OwnedFd(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)), now=False)
        assert (attributes / "exec").read_text() == ""
    finally:
        subprocess.run(["umount", attributes], check=True)
    assert (attributes / "exec").read_text() == ""
