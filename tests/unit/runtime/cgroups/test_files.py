"""Writing limits and removing trees, on plain directories."""

from __future__ import annotations

import errno
import os

import pytest

from orlop.errors import SystemFailureError, UnsupportedError
from orlop.runtime.cgroups import files
from orlop.runtime.cgroups.controllers import Write
from orlop.runtime.cgroups.events import counter, counters


def test_writes_in_order_and_falls_back(tmp_path):
    (tmp_path / "b").write_text("")
    (tmp_path / "c").write_text("")
    files.apply(
        [
            Write("x", "a", "1", instead=Write("x", "b", "2")),
            Write("x", "no", "3", optional=True),
            Write("x", "c", "4"),
        ],
        lambda _: str(tmp_path),
    )
    assert (tmp_path / "b").read_text() == "2"
    assert (tmp_path / "c").read_text() == "4"
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_missing_file_and_controller_are_named(tmp_path):
    with pytest.raises(UnsupportedError, match=r"does not support a\.b"):
        files.apply([Write("a", "a.b", "1")], lambda _: str(tmp_path))
    with pytest.raises(UnsupportedError, match="does not support the a cgroup controller"):
        files.apply([Write("a", "a.b", "1")], lambda _: None)


def test_a_refused_value_is_tried_again_after_the_others(monkeypatch):
    """memory above memory+swap is EINVAL until memory+swap is raised."""
    state = {"limit": 10, "both": 10}

    def write(self, path, text):
        name = path.rsplit("/", 1)[1]
        if name == "limit" and int(text) > state["both"]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        state[name] = int(text)

    monkeypatch.setattr(files._OpenFile, "write", write)
    files.apply([Write("m", "limit", "20"), Write("m", "both", "40")], lambda _: "/m")
    assert state == {"limit": 20, "both": 40}
    with pytest.raises(SystemFailureError, match="failed to write '50': write limit: invalid argument"):
        files.apply([Write("m", "limit", "50")], lambda _: "/m")


def test_remove_tree_takes_nested_ones(tmp_path):
    (tmp_path / "c/d/e").mkdir(parents=True)
    (tmp_path / "c/f").mkdir()
    files.remove_tree(str(tmp_path / "c"))
    assert os.listdir(tmp_path) == []
    files.remove_tree(str(tmp_path / "c"))


def test_remove_tree_gives_up(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.02)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/file").write_text("")
    with pytest.raises(SystemFailureError, match="unable to remove cgroup"):
        files.remove_tree(str(tmp_path / "c"))


def test_counters(tmp_path):
    path = tmp_path / "memory.events"
    path.write_text("low 0\noom_kill 3\noom_kill_disable 0\nname text\n")
    assert counter(path.read_text(), "oom_kill") == 3
    assert counter("", "oom_kill") == 0
    assert counters(str(path)) == {"low": 0, "oom_kill": 3, "oom_kill_disable": 0}
    assert counters(str(tmp_path / "missing")) == {}
