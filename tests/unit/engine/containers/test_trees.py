"""Directories of the engine's own that are taken away at once and removed later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.containers.trees import entomb, tombstones

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_taken_away_is_found_by_the_next_engine(tmp_path: Path):
    home = tmp_path / "containers"
    assert tombstones(str(home)) == []
    (home / "abc/mounts").mkdir(parents=True)
    (home / "abc/x-json.log").write_text("{}")
    (home / "other").mkdir()
    left = entomb(str(home / "abc"))
    assert not (home / "abc").exists()
    assert left == tombstones(str(home))
    assert [path.read_text() for path in home.glob(".removed-*/x-json.log")] == ["{}"]


def test_a_missing_one_is_fine(tmp_path: Path):
    assert entomb(str(tmp_path / "none")) == []
