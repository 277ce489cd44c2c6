import asyncio
import os
import socket
import types

import pytest

from orlop.engine import spawner as module
from orlop.engine.shims import ShimConnection
from orlop.errors import CommandNotFoundError, ConflictError, UnavailableError
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.spec.launch import AttachTarget, ContainerLaunch


async def test_answers_come_in_any_order(fake_spawner):
    spawner, fake = fake_spawner
    first = asyncio.create_task(spawner.request({"op": "a"}))
    second = asyncio.create_task(spawner.request({"op": "b"}))
    message_a, reply_a, _ = await fake.take()
    message_b, reply_b, _ = await fake.take()
    reply_b.send({"ok": True, "me": message_b["op"]})
    assert (await second)[0]["me"] == "b"
    assert not first.done()
    reply_a.send({"ok": True, "me": message_a["op"]})
    assert (await first)[0]["me"] == "a"
    reply_a.close()
    reply_b.close()


async def test_an_error_has_its_class(fake_spawner):
    spawner, fake = fake_spawner
    task = asyncio.create_task(spawner.remove_tree("/x"))
    message, reply, _ = await fake.take()
    assert message == {"op": "remove-tree", "path": "/x"}
    reply.send({"error": {"kind": "conflict", "message": "busy"}})
    with pytest.raises(ConflictError, match="busy"):
        await task
    reply.close()


async def test_a_dead_child_fails_its_request_only(fake_spawner):
    spawner, fake = fake_spawner
    doomed = asyncio.create_task(spawner.request({"op": "a"}))
    other = asyncio.create_task(spawner.request({"op": "b"}))
    _, reply_a, _ = await fake.take()
    _, reply_b, _ = await fake.take()
    reply_a.close()
    with pytest.raises(UnavailableError):
        await doomed
    reply_b.send({"ok": True})
    await other
    reply_b.close()


async def test_a_dead_spawner_is_replaced_within_a_second(fake_spawner, monkeypatch):
    spawner, fake = fake_spawner
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)
        await asyncio.sleep(seconds)

    monkeypatch.setattr(module, "asyncio", types.SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    fake.peer.close()
    async with asyncio.timeout(60):
        while fake.starts < 2:
            await asyncio.sleep(0.01)
    assert sum(pauses) < 1  # the rest is the machine's
    task = asyncio.create_task(spawner.request({"op": "again"}))
    message, reply, _ = await fake.take()
    assert message["op"] == "again"
    reply.send({"ok": True})
    await task
    reply.close()


async def test_requests_between_death_and_replacement_are_told(fake_spawner):
    spawner, fake = fake_spawner
    fake.peer.close()
    with pytest.raises(UnavailableError):
        for _ in range(3):
            await spawner.request({"op": "x"})
            await asyncio.sleep(0)


async def test_descriptors_travel_in_order(fake_spawner):
    spawner, fake = fake_spawner
    read_end, write_end = os.pipe()
    launch = ContainerLaunch(id="0" * 64, state_dir="/s", config={"big": "x" * 100_000}, has_netns=True)
    shim = await spawner.start_container(launch, netns=read_end, attach=[write_end])
    message, control, fds = await fake.take()
    assert message["launch"]["config"]["big"] == "x" * 100_000
    assert [os.fstat(fd.fileno()).st_ino for fd in fds] == [os.fstat(read_end).st_ino] * 2
    control.send({"event": "failed", "error": {"kind": "command_not_found", "message": "exec: no"}})
    with pytest.raises(CommandNotFoundError, match="exec: no"):
        await shim.started
    assert await shim.ended is None
    shim.close()
    control.close()
    for fd in fds:
        fd.close()
    os.close(read_end)
    os.close(write_end)


async def shim_pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ShimConnection(ours), Channel(theirs)


async def test_shim_events():
    shim, peer = await shim_pair()
    with OwnedFd(os.open("/dev/null", os.O_RDONLY)) as null:
        peer.send({"event": "started", "pid": 5, "start_time": 6, "started_at": 7}, [null.fileno()])
    started = await shim.started
    assert (started.pid, started.start_time, started.started_at) == (5, 6, 7)
    started.pidfd.close()
    seen = []
    shim.oom = lambda: seen.append("oom")
    peer.send({"event": "oom"})
    peer.send({"event": "exit", "exit_code": 137, "oom_killed": True, "started_at": 7, "finished_at": 9, "error": ""})
    record = await shim.ended
    assert (record.exit_code, record.oom_killed, seen) == (137, True, ["oom"])
    shim.close()
    peer.close()


async def test_shim_operations_match_answers_by_sequence():
    shim, peer = await shim_pair()
    resize = asyncio.create_task(shim.resize(24, 80))
    message, _ = await asyncio.to_thread(peer.receive)
    assert message == {"op": "resize", "seq": 1, "height": 24, "width": 80}
    close = asyncio.create_task(shim.close_stdin())
    message, _ = await asyncio.to_thread(peer.receive)
    peer.send({"seq": message["seq"], "error": {"kind": "conflict", "message": "closed"}})
    peer.send({"seq": 1, "ok": True})
    await resize
    with pytest.raises(ConflictError, match="closed"):
        await close
    with OwnedFd(os.open("/dev/null", os.O_RDONLY)) as null:
        attach = asyncio.create_task(shim.attach(AttachTarget(stdin=True), null.fileno()))
        message, fds = await asyncio.to_thread(peer.receive)
        assert message["target"]["stdin"] is True
        assert len(fds) == 1
        fds[0].close()
        peer.close()
        with pytest.raises(UnavailableError):
            await attach
    assert await shim.ended is None
    shim.close()


async def test_nonsense_from_the_shim_closes_the_channel():
    shim, peer = await shim_pair()
    peer.send({"event": "exit", "exit_code": "seven"})
    assert await shim.ended is None
    shim.close()
    peer.close()
