"""R7 of faults.md: the engine killed in the middle of a build leaves nothing, and what was finished is in the cache."""

import os
import subprocess

import pytest

from conftest import settled_state
from harness import BIN, DOCKER, PATIENCE, wait_for
from host_state import HostState

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
MOUNTS = "--mount=type=cache,id=k,target=/c,sharing=locked --mount=type=secret,id=s"
STAGES = f"""FROM busybox AS one
RUN echo 1 > /1
RUN {MOUNTS} cat /run/secrets/s && touch /c/seen && [ ! -e /c/again ] && touch /c/again && echo begun && sleep 1000 || true
FROM busybox AS two
RUN echo 2 > /2
RUN sleep 2
FROM busybox
COPY --from=one /1 /
COPY --from=two /2 /
"""


def left(before, engine):
    """Return what is there now and was not, but for the layers of the three steps that may have ended."""
    found = before.differences(HostState.of(engine))
    layers = [name for name in found.pop("layers", {"new": ()})["new"] if name.count("/") == 2]
    ended = {name.removesuffix("-init") for name in layers}
    return [*found.items(), *(layers if len(ended) > 3 else ())]


def directories(engine):
    return [*os.listdir(engine.data_root / "builds"), *os.listdir(engine.exec_root / "builds")]


def test_killed_while_stages_run(own_engine, tmp_path):
    engine = own_engine
    before = settled_state(engine)
    (tmp_path / "Dockerfile").write_text(STAGES)
    (tmp_path / "secret").write_text("told\n")
    command = [BIN / "orlop", "build", "--progress=plain", "--secret", f"id=s,src={tmp_path}/secret", tmp_path]
    with subprocess.Popen(command, env=engine.environment, stderr=subprocess.PIPE, text=True) as client:
        for line in client.stderr:
            if line.endswith("begun\n"):
                break
        engine.kill()
    engine.start()
    assert engine.docker("ps", "-aq").stdout == ""
    wait_for(lambda: directories(engine) == [])
    wait_for(lambda: left(before, engine) == [])
    again = subprocess.run(
        command, env=engine.environment, capture_output=True, text=True, check=True, timeout=60 * PATIENCE
    )
    first = again.stderr[again.stderr.index("RUN echo 1") :]
    assert "CACHED" in first.partition("[two")[0]  # the step that had ended
    caches = list((engine.data_root / "build-cache").iterdir())
    assert [sorted(os.listdir(path / "tree")) for path in caches] == [["again", "seen"]]


def test_killed_while_files_are_copied(own_engine, tmp_path):
    engine = own_engine
    (tmp_path / "big").write_bytes(os.urandom(48 << 20))
    command = [DOCKER, "build", "-q", tmp_path]
    layers = engine.data_root / "layers/overlay2"
    environment = {**engine.environment, "DOCKER_BUILDKIT": "0"}
    copying = lambda: list(layers.glob("new-*/diff/big"))  # noqa: E731
    for attempt in range(10):  # a busy machine may not let us look in between
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\nENV A={attempt}\nCOPY big /big\n")
        before, killed = set(os.listdir(layers)), False
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            while client.poll() is None and not (killed := copying() and engine.kill_while(copying)):
                pass
        if killed:
            break
    assert killed
    engine.start()
    wait_for(lambda: directories(engine) == [])
    wait_for(lambda: set(os.listdir(layers)) == before)
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert engine.docker("run", "--rm", made, "stat", "-c", "%s", "/big").stdout == f"{48 << 20}\n"
