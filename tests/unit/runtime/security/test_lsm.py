"""Whether there is a security module."""

import pytest

from orlop.runtime.security import lsm


@pytest.mark.parametrize(
    ("enforce", "current", "enabled"),
    [
        (None, None, False),
        ("0", "kernel\0", False),  # switched on, but no policy came: every label would be taken, and mean nothing
        ("0", "kernel", False),
        ("0", "u:r:host_t\0", True),
        ("1", "system_u:system_r:init_t:s0\0", True),
    ],
)
def test_selinux_is_enabled_with_a_policy(tmp_path, monkeypatch, enforce, current, enabled):
    for name, text in (("_SELINUX", enforce), ("_CURRENT", current)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(lsm, name, str(path))
    assert lsm.selinux_enabled() is enabled
