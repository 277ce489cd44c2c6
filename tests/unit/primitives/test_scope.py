"""``suppress`` and ``Cleanup``."""

from __future__ import annotations

import io

import pytest

from orlop.primitives.scope import Cleanup, suppress


def test_suppress_ends_the_block_quietly_at_its_kinds_only() -> None:
    with suppress(KeyError, OSError):
        raise FileNotFoundError
    with pytest.raises(ValueError, match="other"), suppress(KeyError):
        raise ValueError("other")


def test_calls_are_made_last_first_also_after_an_error() -> None:
    made: list[object] = []
    with pytest.raises(ValueError, match="why"), Cleanup() as cleanup:
        cleanup.callback(made.append, 1)
        file = cleanup.enter_context(io.BytesIO())
        cleanup.callback(made.append, 2)
        raise ValueError("why")
    assert made == [2, 1]
    assert file.closed


def test_a_failing_call_does_not_stop_the_others() -> None:
    made: list[object] = []
    cleanup = Cleanup()
    cleanup.callback(made.append, 1)
    cleanup.callback({"here": 1}.__getitem__, "missing")
    cleanup.callback(made.append, 2)
    with pytest.raises(KeyError):
        cleanup.close()
    assert made == [2, 1]
    cleanup.close()
    assert made == [2, 1]


def test_dismissed_calls_are_not_made() -> None:
    made: list[object] = []
    with Cleanup() as cleanup:
        cleanup.callback(made.append, 1)
        cleanup.dismiss()
    assert made == []
