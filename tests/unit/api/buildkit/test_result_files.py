"""Trees that programs look into: what is opened, and how much is told at once."""

import asyncio
import contextlib
import os
import types

import pytest

from orlop.api.buildkit import result_files
from orlop.api.buildkit.control_messages import SolveRequest
from orlop.api.buildkit.jobs import Job
from orlop.api.buildkit.result_files import ResultFiles
from orlop.api.grpc.holdings import Account, Holding, Ledger
from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError


@pytest.fixture
def tree(tmp_path):
    made = []

    @contextlib.asynccontextmanager
    async def make():
        made.append("begun")
        yield str(tmp_path)
        made.append("ended")

    files = ResultFiles(make)
    files.made = made
    return files


async def test_files_are_had_once_and_go(tree, tmp_path) -> None:
    (tmp_path / "a").write_text("text")
    assert tree.made == []
    assert await tree.read("a", 0, 0) == b"text"
    assert await tree.read("/a", 1, 2) == b"ex"
    assert await tree.read("a", 10, 0) == b""
    await tree.close()
    assert tree.made == ["begun", "ended"]
    with pytest.raises(NotFoundError, match="the build is over"):
        await tree.read("a", 0, 0)


async def test_nothing_else_than_files_is_opened(tree, tmp_path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it for reading would wait for a writer
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "a").write_text("text")
    (tmp_path / "in").symlink_to("/a")
    assert await tree.read("in", 0, 0) == b"text"
    for path in ("fifo", "/"):
        with pytest.raises(InvalidParameterError, match="not a file"):
            await tree.read(path, 0, 0)
    with pytest.raises(InvalidParameterError, match="not a directory"):
        await tree.list("fifo", "")
    for path in ("out", "../../../../etc/passwd", "no"):
        with pytest.raises(NotFoundError):
            await tree.stat(path)
    assert (await tree.stat("fifo")).path == b"fifo"
    await tree.close()


async def test_answers_are_bounded(tree, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(result_files, "_MOST_ENTRIES", 2)
    (tmp_path / "large").write_bytes(bytes(result_files.LIMIT + 1))
    with pytest.raises(InvalidParameterError, match="more than 4194304 bytes at once"):
        await tree.read("large", 0, 0)
    assert len(await tree.read("large", 0, result_files.LIMIT)) == result_files.LIMIT
    for name in ("b", "c"):
        (tmp_path / name).touch()
    assert [one.path for one in await tree.list("", "[bc]")] == [b"b", b"c"]
    with pytest.raises(UnsupportedError, match="more than 2 entries"):
        await tree.list("", "")
    await tree.close()


async def test_a_build_ends_although_somebody_waits_for_its_files() -> None:
    ended = asyncio.Event()

    async def image() -> str:
        await ended.wait()
        raise asyncio.CancelledError

    async def cancel() -> None:
        ended.set()

    job = Job(None, types.SimpleNamespace(unpacked=None), SolveRequest(ref="a"), Holding(Account(Ledger(), "")))
    job.results["one"] = types.SimpleNamespace(image=image, cancel=cancel)
    waiting = asyncio.create_task(job.files_of("one").directory())
    await asyncio.sleep(0)
    await asyncio.wait_for(job.end(), 10)
    with pytest.raises(asyncio.CancelledError):
        await waiting
