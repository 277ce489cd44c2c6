"""What init's parent does on init's messages (orlop.runtime.container.await_running)."""

from __future__ import annotations

import os

import pytest

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.primitives.channel import Channel
from orlop.runtime.container import await_running


def test_each_message_is_acted_upon_once():
    """A second one may come from the container's own code, beside a process that holds the channel."""
    ours, theirs = Channel.pair()
    calls: list[int] = []
    theirs.send({"built": True}, [0])
    theirs.send({"built": True})
    theirs.send({"other": True})
    theirs.send({"ready": True})
    theirs.close()
    try:
        assert await_running(ours, handlers={"built": lambda fds: calls.append(len(fds))}) == (None, False)
    finally:
        ours.close()
    assert calls == [1]


def test_a_failing_handler_is_the_failure_and_leaves_no_descriptor():
    ours, theirs = Channel.pair()

    def fail(_: object) -> None:
        raise SystemFailureError("hook")

    before = {*os.listdir("/proc/self/fd")}
    theirs.send({"terminal": True}, [0])
    theirs.send({"built": True}, [0, 1])
    try:
        with pytest.raises(SystemFailureError, match="hook"):
            await_running(ours, handlers={"built": fail})
        assert {*os.listdir("/proc/self/fd")} <= before  # what other tests left may be closed meanwhile
    finally:
        ours.close()
        theirs.close()


def test_a_failure_has_its_class():
    ours, theirs = Channel.pair()
    theirs.send({"error": {"kind": "invalid_parameter", "message": "words"}})
    try:
        with pytest.raises(InvalidParameterError, match="words"):
            await_running(ours)
    finally:
        ours.close()
        theirs.close()
