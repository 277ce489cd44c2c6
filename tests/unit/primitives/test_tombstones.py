"""Directories that are taken away at once and removed later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orlop.primitives.tombstones import entomb, tombstones

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
    assert [left] == tombstones(str(home))
    assert [path.read_text() for path in home.glob(".removed-*/x-json.log")] == ["{}"]


def test_what_comes_again_can_go_again(tmp_path: Path):
    left = []
    for content in ("first", "second"):
        (tmp_path / "abc").mkdir()
        (tmp_path / "abc/file").write_text(content)
        left.append(entomb(str(tmp_path / "abc")))
    assert sorted(left) == sorted(tombstones(str(tmp_path)))


def test_a_part_is_taken_elsewhere(tmp_path: Path):
    (tmp_path / "abc/work").mkdir(parents=True)
    left = entomb(str(tmp_path / "abc/work"), into=str(tmp_path))
    assert [left] == tombstones(str(tmp_path))
    assert tombstones(str(tmp_path / "abc")) == []


def test_a_missing_one_is_told(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        entomb(str(tmp_path / "none"))
