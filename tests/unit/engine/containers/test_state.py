import asyncio
import itertools
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest

from orlop.engine.containers.directory import Directory
from orlop.engine.containers.records import SCHEMA, ContainerRecords, Definition
from orlop.engine.containers.state import _NEXT, Status, require_transition
from orlop.engine.containers.waiting import wait
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError
from orlop.spec.docker.containers import ContainerConfig, HostConfig


def definition(number, name):
    return Definition(
        id=f"{number:064x}",
        name=name,
        created_at=1,
        image_id="sha256:" + "b" * 64,
        image_name="busybox",
        chain="",
        config=ContainerConfig(env=["A=1"]),
        host=HostConfig(binds=["/a:/b"]),
        networks={"bridge": None},
        mounts=(),
        arguments=("true",),
    )


@pytest.fixture
def directory():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        yield Directory(ContainerRecords(SimpleNamespace(connection=connection)))


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Status, Status)))
def test_transitions(before, after):
    if after in _NEXT[before]:
        require_transition(before, after)
    else:
        with pytest.raises(ConflictError, match=f"from {before.value} to {after.value}"):
            require_transition(before, after)


def test_nothing_follows_removal_but_removal():
    assert _NEXT[Status.REMOVING] == {Status.DEAD}


def test_names_and_prefixes(directory):
    one = directory.add(definition(0xAB << 248, "one"))
    directory.add(definition((0xAB << 248) + 1, "two"))
    assert directory.get("one") is directory.get("/one") is directory.get(one.id) is one
    with pytest.raises(InvalidParameterError, match="multiple IDs found with provided prefix: ab"):
        directory.get("ab")
    with pytest.raises(NotFoundError, match=r"^No such container: cd$"):
        directory.get("cd")


def test_conflict_text_is_dockers(directory):
    one = directory.add(definition(1, "one"))
    with pytest.raises(ConflictError) as caught:
        directory.choose_name("/one")
    assert str(caught.value) == (
        f'Conflict. The container name "/one" is already in use by container "{one.id}". You have to remove (or rename)'
        " that container to be able to reuse that name."
    )


def test_records_survive(directory):
    container = directory.add(definition(1, "one"))
    directory.set_ready(container)
    directory.set_state(container, status=Status.RUNNING, pid=7, oom_killed=True, boot="x")
    directory.rename(container, "uno")
    ((loaded, state, ready),) = directory._records.load()
    assert (loaded, state, ready) == (container.definition, container.state, True)
    assert loaded.name == "uno"
    directory.set_state(container, status=Status.EXITED)
    directory.remove(container)
    assert directory._records.load() == []
    with pytest.raises(NotFoundError):
        directory.get("uno")


async def test_wait_conditions(directory):
    container = directory.add(definition(1, "one"))
    assert (await wait(container, "")) == (0, "")
    with pytest.raises(InvalidParameterError):
        wait(container, "someday")
    directory.set_state(container, status=Status.RUNNING)
    ended, gone = wait(container, "next-exit"), wait(container, "removed")
    directory.set_state(container, status=Status.EXITED, exit_code=3)
    container.notify_exit()
    assert (await asyncio.wait_for(ended, 60))[0] == 3
    assert not gone.done()
    container.notify_removed()
    assert (await asyncio.wait_for(gone, 60))[0] == 3
