from __future__ import annotations

import os

import pytest

from orlop.primitives import atomic
from orlop.primitives.atomic import write_atomic, write_atomic_at


@pytest.mark.parametrize("durable", [False, True])
def test_replaces_with_exact_mode(tmp_path, durable):
    path = tmp_path / "state.json"
    path.write_text("old, and longer than what comes")
    old = os.umask(0o077)
    try:
        write_atomic(str(path), b"new", 0o640, durable=durable)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    write_atomic(str(tmp_path / "link"), b"x")
    assert (tmp_path / "target").read_text() == "kept"
    assert not (tmp_path / "link").is_symlink()


def test_failure_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(str(path), b"new", durable=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_partial_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(atomic.os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    write_atomic(str(tmp_path / "f"), b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_names_are_names(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in ("", "a/b", "../x"):
            with pytest.raises(ValueError, match="not a file name"):
                write_atomic_at(fd, name, b"")
        write_atomic_at(fd, "x" * 255, b"1", durable=True)
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == ["x" * 255]
