"""Filters of the history of builds, and what is remembered of what a build tells."""

import time

import pytest

from orlop.api.buildkit import status_log
from orlop.api.buildkit.control_messages import StatusResponse
from orlop.api.buildkit.history_filters import read_filters
from orlop.api.buildkit.status_log import StatusLog
from orlop.engine.builds import PastBuild
from orlop.errors import InvalidParameterError

NOW = time.time_ns()
HOUR = 3600 * 10**9
DONE = PastBuild(ref="done", created=NOW - 3 * HOUR, completed=NOW - 2 * HOUR, attributes={"vcs:source": "git@h:p.git"})
FAILED = PastBuild(ref="failed", created=NOW - HOUR, completed=NOW - HOUR + 10**9, code=2, message="exit code: 1")
CANCELED = PastBuild(ref="stopped", created=NOW, completed=NOW, code=1, message="context canceled")
RUNNING = PastBuild(ref="running", created=NOW)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ["done", "failed", "stopped", "running"]),
        (["status==error"], ["failed"]),
        (["status==completed"], ["done"]),
        (["status==canceled"], ["stopped"]),
        (["status==running", "ref==done"], ["done", "running"]),
        (["status!=running"], ["done", "failed", "stopped"]),
        (["ref~=e,status!=error"], ["done", "stopped"]),
        (["repository~=h:p"], ["done"]),
        (["startedAt>=90m"], ["failed", "stopped", "running"]),
        (["startedAt<2h"], ["done"]),
        (["completedAt>2000-01-01T00:00:00Z"], ["done", "failed", "stopped"]),
        (["duration>30m"], ["done"]),
        (["duration<=30m"], ["failed", "stopped", "running"]),
    ],
)
def test_filters(filters, expected) -> None:
    is_meant = read_filters(filters)
    assert sorted(one.ref for one in (DONE, FAILED, CANCELED, RUNNING) if is_meant(one)) == sorted(expected)


@pytest.mark.parametrize("text", ["", "ref", "ref=x", "colour==red", "status>x", "duration==1s", "startedAt>soon", '"'])
def test_filters_that_cannot_be(text) -> None:
    with pytest.raises(InvalidParameterError):
        read_filters([text])


def frames(data: bytes) -> list[StatusResponse]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(StatusResponse.decode(data[4 : 4 + size]))
        data = data[4 + size :]
    return found


def test_steps_are_remembered_when_there_is_no_room_for_what_they_write(monkeypatch) -> None:
    monkeypatch.setattr(status_log, "_REMEMBERED_BYTES", 2000)
    log = StatusLog("ref")
    with log.step("talks") as step:
        for _ in range(100):
            step.write(1, b"x" * 100)
    log.step("known").start().complete(cached=True)
    failed = log.step("fails").start()
    failed.complete("no")
    kept = log.kept
    assert (kept.steps, kept.completed_steps, kept.cached_steps) == (3, 3, 1)
    assert len(kept.data) < 4500
    told = frames(kept.data)
    assert [vertex.error for one in told for vertex in one.vertices][-1] == "no"
    assert 5 < sum(len(one.logs) for one in told) < 20
