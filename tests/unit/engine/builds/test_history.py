"""The records of past builds, and their bounds."""

import random
import sqlite3
from types import SimpleNamespace

import pytest

from orlop.engine.builds import history as module
from orlop.engine.builds.history import SCHEMA, BuildHistory, PastBuild
from orlop.errors import NotFoundError, UnavailableError


@pytest.fixture
def history():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    yield BuildHistory(SimpleNamespace(connection=connection))
    connection.close()


def past(number: int, **more) -> PastBuild:
    return PastBuild(ref=f"ref{number}", created=number, completed=number + 1, **more)


def test_a_record_comes_back_as_it_was(history) -> None:
    build = past(
        1,
        frontend="dockerfile.v0",
        attributes={"target": "a", "label:x": "ü"},
        exporters=(("moby", {"name": "x"}),),
        response={"image.name": "x"},
        code=2,
        message="failed",
        steps=3,
        log_digest="sha256:0",
        log_size=3,
    )
    history.keep(build, b"log")
    assert history.builds() == [build]
    assert history.find("ref1") == build
    assert history.log("ref1") == b"log"
    assert history.find("other") is None
    assert history.log("other") is None


def test_the_oldest_go_and_pinned_ones_stay(history, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(module, "MOST_PINNED", 1)
    history.keep(past(0), b"")
    assert history.pin("ref0", pinned=True).generation == 1
    for number in range(1, 6):
        history.keep(past(number), b"")
    assert [build.ref for build in history.builds()] == ["ref5", "ref4", "ref3", "ref0"]
    with pytest.raises(UnavailableError, match="too many pinned builds"):
        history.pin("ref5", pinned=True)
    assert not history.pin("ref0", pinned=False).pinned
    assert [build.ref for build in history.builds()] == ["ref5", "ref4", "ref3"]
    with pytest.raises(NotFoundError, match="failed to retrieve ref ref0: file does not exist"):
        history.pin("ref0", pinned=True)


def test_logs_are_bounded_together(history, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100_000)
    for number in range(10):
        history.keep(past(number), random.Random(number).randbytes(30_000))
    assert [build.ref for build in history.builds()] == ["ref9", "ref8", "ref7"]


def test_what_is_too_large_is_not_remembered(history) -> None:
    history.keep(past(1, attributes={"build-arg:X": "x" * 1_000_000}), b"log")
    assert history.find("ref1").attributes == {}
    history.keep(PastBuild(ref="x" * 1000, created=1, completed=2), b"")
    assert len(history.builds()) == 1


def test_removal(history) -> None:
    history.keep(past(1), b"")
    assert history.remove("ref1")
    assert not history.remove("ref1")
    assert history.builds() == []
