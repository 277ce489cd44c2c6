"""Where a running container's cgroup is, by its init's ``/proc/<pid>/cgroup``."""

from __future__ import annotations

import pytest

from orlop.engine.containers.cgroup_access import path_in

ID = "ab" * 32


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"0::/orlop/{ID}\n", f"/orlop/{ID}"),
        (f"4:memory:/a/{ID}/init.scope\n0::/a/{ID}\n", f"/a/{ID}"),
        (f"1:name=systemd:/\n0::/a.slice/a-b.slice/orlop-{ID}.scope/sub\n", f"a-b.slice:orlop:{ID}"),
        (f"0::/orlop-{ID}.scope\n", f"-.slice:orlop:{ID}"),
        ("0::/user.slice\n", ""),
        (f"0::/x{ID}\n", ""),
        ("", ""),
    ],
)
def test_path(text, path):
    assert path_in(text, ID) == path
