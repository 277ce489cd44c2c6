"""Sessions belong to one build (threat F9), and images that a build names must be made for the same machine (F5)."""

import asyncio
import types
from dataclasses import replace

import pytest

from orlop.engine.builds.sessions import SessionRequest, Sessions
from orlop.engine.builds.sources import CacheSources
from orlop.errors import ConflictError, NotFoundError
from orlop.spec.image import History, ImageConfig


async def test_a_session_serves_one_build():
    sessions = Sessions(files=None)
    made = sessions.create(SessionRequest(secrets={"a": "c2VjcmV0"}))
    assert sessions.take(made.id) is made
    with pytest.raises(ConflictError, match=f"build session is in use: {made.id}"):
        sessions.take(made.id)
    sessions.end(made)
    with pytest.raises(NotFoundError, match="No such build session"):
        sessions.take(made.id)


async def test_a_session_ends_with_a_build_that_is_refused():
    sessions = Sessions(files=None)
    made = sessions.create(SessionRequest(secrets={"a": "c2VjcmV0"}))
    sessions.refuse("another")
    sessions.take(made.id)
    sessions.refuse(made.id)  # it is another build's
    assert sessions.get(made.id) is made
    sessions.end(made)
    made = sessions.create(SessionRequest(secrets={"a": "c2VjcmV0"}))
    sessions.refuse(made.id)
    with pytest.raises(NotFoundError, match="No such build session"):
        sessions.get(made.id)


async def test_a_session_whose_build_never_comes_is_forgotten(monkeypatch):
    """Its secrets are in memory until then; no other session has to begin for that."""
    monkeypatch.setattr("orlop.engine.builds.sessions._IDLE_SECONDS", 0.05)
    sessions = Sessions(files=None)
    building = sessions.take(sessions.create(SessionRequest()).id)
    idle = sessions.create(SessionRequest(secrets={"a": "c2VjcmV0"}))
    async with asyncio.timeout(30):
        while idle.state != "ended":
            await asyncio.sleep(0.01)
    assert await idle.secret("a") is None
    assert building.state == "building"
    sessions.close()


@pytest.mark.parametrize(
    ("change", "told", "author", "wanted"),
    [
        ({}, "two", "", True),
        ({}, "other", "", False),
        ({}, "two", "somebody", False),
        ({"architecture": "arm64"}, "two", "", False),
        ({"os": "windows"}, "two", "", False),
        ({"variant": "v8"}, "two", "", False),
        ({"history": (History(created_by="zero", empty_layer=True),)}, "two", "", False),
        ({"history": (History(created_by="one", empty_layer=True), History(created_by="two"))}, "two", "", False),
    ],
)
def test_steps_of_named_images(change, told, author, wanted):
    one, two = (History(created_by=text, empty_layer=True) for text in ("one", "two"))
    below = ImageConfig("amd64", "linux", history=(one,))
    source = types.SimpleNamespace(config=replace(below, history=(one, two)))
    found = CacheSources([source], retain=None).find(replace(below, **change), told, author)
    assert (found is not None and found[0] is two) is wanted
