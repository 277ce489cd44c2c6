"""What a client of BuildKit's protocol can say wrong: it gets an error, or loses its connection, and nobody else does."""

import asyncio
import os
import secrets

import pytest
from buildkit_lab import control_of, upgraded
from h2.config import H2Configuration
from h2.connection import H2Connection

from harness import PATIENCE
from orlop.api.buildkit.control_messages import CacheEntry, CacheOptions, Definition, Exporter, SolveRequest
from orlop.api.buildkit.gateway_messages import GatewaySolveRequest, GatewaySolveResponse, Ref, Result, ReturnRequest
from orlop.api.grpc.status import CallError, Code, Status

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

CONTROL, BRIDGE = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
SESSION = ["X-Docker-Expose-Session-Uuid: hostile"]


def hello():
    protocol = H2Connection(H2Configuration(client_side=True))
    protocol.initiate_connection()
    return protocol.data_to_send()


NOISE = {
    "nothing": b"",
    "another protocol": b"GET / HTTP/1.1\r\n\r\n" * 100,
    "noise": os.urandom(100_000),
    "noise in frames": hello() + os.urandom(100_000),
    "a frame without an end": hello() + b"\xff\xff\xff\0\0\0\0\0\1" + bytes(1000),
    "endless headers": hello() + (b"\0\x40\0\1\0\0\0\0\1" + b"\x40\x7f\xff" * 5461 + b"x") * 50,
    "pings": hello() + (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 20_000,
}


@pytest.mark.parametrize("what", NOISE)
@pytest.mark.parametrize(("path", "headers"), [("/grpc", ()), ("/session", SESSION)], ids=["grpc", "session"])
async def test_noise(engine, path, headers, what):
    fd, _ = await upgraded(engine, path, headers)
    with fd, os.fdopen(os.dup(fd.fileno()), "wb", buffering=0) as connection:
        try:
            await asyncio.wait_for(asyncio.to_thread(connection.write, NOISE[what]), 20 * PATIENCE)
        except (BrokenPipeError, ConnectionResetError):
            pass
    async with control_of(engine) as control:
        assert await control.unary(f"{CONTROL}Info", b"")


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        (f"{CONTROL}Solve", b"\xff\xff", "malformed message"),
        (f"{CONTROL}Solve", SolveRequest().encode(), "a build needs a reference"),
        (f"{CONTROL}Solve", b"\x22\x00" * 200_001, "malformed message: more than"),
        (
            f"{CONTROL}Solve",
            SolveRequest(ref="hostile-0", definition=Definition(operations=[b"x"])).encode(),
            "low-level definitions",
        ),
        (f"{CONTROL}Solve", SolveRequest(ref="hostile-1", frontend="gateway.v0").encode(), "frontend is not supported"),
        (
            f"{CONTROL}Solve",
            SolveRequest(ref="hostile-2", exporters=[Exporter(type="x")]).encode(),
            "exporter is not supported",
        ),
        (
            f"{CONTROL}Solve",
            SolveRequest(ref="hostile-3", source_policy=b"x").encode(),
            "source policies are not supported",
        ),
        (
            f"{CONTROL}Solve",
            SolveRequest(ref="hostile-4", cache=CacheOptions(exports=[CacheEntry(type="s3")])).encode(),
            "cache export is not supported: s3",
        ),
        (
            f"{CONTROL}Solve",
            SolveRequest(
                ref="hostile-5", frontend="dockerfile.v0", cache=CacheOptions(imports=[CacheEntry(type="gha")])
            ).encode(),
            "cache import is not supported: gha",
        ),
        (f"{CONTROL}Prune", b"\x30\x05", "min-free-space is not supported"),
        (f"{CONTROL}DiskUsage", b"\x0a\x01=", "invalid filter"),
        (f"{CONTROL}Nothing", b"", "unknown method"),
        (f"{CONTROL}ListenBuildHistory", b"\x22\x06colour", "invalid filter: colour"),
        (f"{CONTROL}ListenBuildHistory", b"\x22\x08ref>=abc", "expected ==, != or ~="),
        (f"{CONTROL}UpdateBuildHistory", b"\x0a\x04none\x10\x01", "failed to retrieve ref none: file does not exist"),
        (f"{BRIDGE}Solve", b"", "no buildkit-controlapi-buildid"),
    ],
)
async def test_what_cannot_be(engine, method, request_, message):
    async with control_of(engine) as control:
        with pytest.raises(CallError, match=message):
            await control.unary(method, request_)
        assert await control.unary(f"{CONTROL}ListWorkers", b"")


async def test_a_program_of_the_clients(engine):
    """What a gateway's client may do with a build that it has begun."""
    ref = secrets.token_hex(8)
    build = {"buildkit-controlapi-buildid": ref}
    async with control_of(engine) as control:
        solving = asyncio.create_task(control.unary(f"{CONTROL}Solve", SolveRequest(ref=ref).encode()))
        await control.unary(f"{BRIDGE}Ping", b"", build)
        for request, message in (
            (GatewaySolveRequest(definition=Definition(operations=[b"x"])), "low-level definitions"),
            (GatewaySolveRequest(frontend="other"), "frontend is not supported: other"),
            (
                GatewaySolveRequest(frontend="dockerfile.v0", attributes={"platform": "linux/s390x"}),
                "another platform is not supported",
            ),
        ):
            with pytest.raises(CallError, match=message) as caught:
                await control.unary(f"{BRIDGE}Solve", request.encode(), build)
            assert caught.value.code is Code.UNKNOWN  # a method is there
        with pytest.raises(CallError, match="no such ref: none"):
            await control.unary(f"{BRIDGE}Evaluate", b"\x0a\x04none", build)
        made = GatewaySolveRequest(frontend="dockerfile.v0")
        answer = GatewaySolveResponse.decode(await control.unary(f"{BRIDGE}Solve", made.encode(), build))
        assert answer.result.ref.id
        with pytest.raises(CallError, match="exists"):
            await control.unary(f"{CONTROL}Solve", SolveRequest(ref=ref).encode())
        error = Status(code=int(Code.ABORTED), message="I gave up")
        await control.unary(f"{BRIDGE}Return", ReturnRequest(error=error).encode(), build)
        with pytest.raises(CallError, match="I gave up") as caught:
            await solving
        assert caught.value.code is Code.ABORTED
        with pytest.raises(CallError, match="has returned already"):
            await control.unary(f"{BRIDGE}Return", b"", build)


async def test_a_result_that_is_not_there(engine):
    ref = secrets.token_hex(8)
    async with control_of(engine) as control:
        solving = asyncio.create_task(control.unary(f"{CONTROL}Solve", SolveRequest(ref=ref).encode()))
        returned = ReturnRequest(result=Result(ref=Ref(id="none")))
        await control.unary(f"{BRIDGE}Return", returned.encode(), {"buildkit-controlapi-buildid": ref})
        with pytest.raises(CallError, match="no such ref: none"):
            await solving


async def test_builds_that_nobody_waits_for_are_gone(engine):
    """A thousand that begin and are reset: there is room for one more."""
    async with control_of(engine) as control:
        for number in range(1000):
            stream = await control.stream(f"{CONTROL}Solve")
            await stream.send(SolveRequest(ref=secrets.token_hex(8)).encode())
            stream.close()
            if number % 50 == 0:  # who resets faster than calls end is let go
                await control.unary(f"{CONTROL}Info", b"")
        ref = secrets.token_hex(8)
        solving = asyncio.create_task(control.unary(f"{CONTROL}Solve", SolveRequest(ref=ref).encode()))
        await control.unary(f"{BRIDGE}Return", ReturnRequest().encode(), {"buildkit-controlapi-buildid": ref})
        assert await solving == b""
