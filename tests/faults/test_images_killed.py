"""``kill -9`` in the middle of a push, commit, load or removal (R8): old or new, and no byte lost that a check does not find."""

import glob
import json
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from registry_lab import Registry

from conftest import make_engine
from harness import DOCKER, Engine, wait_for
from image_builder import build_image, docker_archive, sha256

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox", "docker-registry"),
]
FILL = "dd if=/dev/urandom of=/fill bs=1M count=12 2>/dev/null; touch /ready; while :; do date >/now; sleep 0.01; done"


@pytest.fixture(scope="module")
def lab():
    engine = make_engine()
    try:
        engine.import_busybox()
        with Registry(engine) as registry:
            name = f"{registry.host}/busybox"
            engine.docker("tag", "busybox", name)
            engine.docker("push", name)  # what it is pushed as stays with the image
            engine.docker("rmi", name)
            yield engine, registry
    finally:
        engine.destroy()


@pytest.fixture(autouse=True)
def nothing_lost(lab):
    """What a test made goes with the images that it made; a check finds the rest, however young."""
    engine, _ = lab
    before = kept(engine)
    yield
    engine.remove_containers()
    repair(engine)
    for image in set(engine.docker("images", "-aq").stdout.split()):
        if "busybox:latest" not in engine.inspect(image)["RepoTags"]:
            engine.docker("rmi", "-f", image)
    wait_for(lambda: not kept(engine) - before, what="the end of what was made")
    assert not before - kept(engine)
    assert engine.orlop("system", "check").stdout == ""
    assert "Traceback" not in engine.log_text()


def repair(engine: Engine) -> None:
    """Have the blobs that nothing needs removed, too, which otherwise stay a while for who pulls again."""
    for path in (engine.data_root / "blobs/sha256").iterdir():
        os.utime(path, (0, 0))
    engine.orlop("system", "check", "--repair")


def kept(engine: Engine) -> set[str]:
    """Return what holds space, by name."""
    root = engine.data_root
    return {str(path.relative_to(root)) for part in ("blobs/*/*", "layers/*/*") for path in root.glob(part)}


def killed_when(engine: Engine, condition, *arguments: str | Path) -> bool:
    """Kill the engine as soon as the condition holds for a client's command, and start it again; False: too late."""
    client = subprocess.Popen([DOCKER, *arguments], env=engine.environment, stdout=-3, stderr=-3)
    deadline = time.monotonic() + 30
    # we may have no turn between a look and the kill: it is over then, and only its client has not been told yet
    while client.poll() is None and time.monotonic() < deadline and not (condition() and engine.kill_while(condition)):
        time.sleep(0.0005)
    engine.kill()
    succeeded = client.wait() == 0
    engine.start()
    return not succeeded


def killed_in_time(engine: Engine, condition, *arguments: str | Path, made: str) -> bool:
    """The same, again while it is too late: a busy machine may not let us look in between; ``made`` is then removed."""
    for _ in range(10):
        if killed_when(engine, condition, *arguments):
            return True
        engine.docker("rmi", "-f", made)
    return False


def sized(paths, least: int) -> bool:
    for path in paths:
        try:
            if path.stat().st_size >= least:
                return True
        except FileNotFoundError:
            continue
    return False


def drafts(engine: Engine) -> list[Path]:
    return list((engine.data_root / "blobs/sha256").glob(".new-*"))


REPOSITORIES = "data/docker/registry/v2/repositories"


def linked(repository: Path) -> int:
    """Return how many blobs a repository of the registry has."""
    return sum(1 for _ in repository.glob("_layers/sha256/*"))


PUSHING = {  # by the engine and the repository's directory in the registry
    "compressing": lambda engine, _: sized(drafts(engine), 1 << 20),
    "uploading": lambda _, repository: sized(repository.glob("_uploads/*/data"), 1 << 18),
    "uploaded": lambda _, repository: linked(repository) >= LAYERS,
}
LAYERS = 2  # what is pushed then: the configuration and the manifest


@pytest.mark.parametrize("moment", PUSHING)
def test_killed_in_the_middle_of_a_push(lab, moment):
    engine, registry = lab
    for attempt in range(10):  # each with other bytes: what the registry has is not uploaded
        engine.docker("run", "--name", "box", "busybox", "sh", "-c", FILL.partition("touch")[0])
        repository = f"{moment}-{attempt}"
        name = f"{registry.host}/{repository}"
        engine.docker("commit", "box", name)
        image = engine.inspect(name)["Id"]
        reached = partial(PUSHING[moment], engine, registry.home / f"{REPOSITORIES}/{repository}")
        assert not reached()
        if cut := killed_when(engine, reached, "push", name):
            break
        engine.docker("rm", "box")
        engine.docker("rmi", name)
    assert cut
    assert moment != "uploaded" or reached()
    assert drafts(engine) == []
    there = registry.curl(f"/v2/{repository}/manifests/latest", "-o", "/dev/null", "-w", "%{http_code}").stdout
    assert there == "404" or (there, moment) == ("200", "uploaded")  # it is the last thing; the client was not told yet
    engine.docker("push", name)
    engine.docker("rmi", "-f", image)
    engine.docker("pull", name)
    assert engine.inspect(name)["Id"] == image


COMMITTING = {
    "frozen": lambda engine: any(engine.exec_root.glob("shims/*/held")),
    "unpacking": lambda engine: sized(engine.data_root.glob("layers/overlay2/new-*/diff/fill"), 1 << 20),
    "unpacked": lambda engine: len(list(engine.data_root.glob("layers/overlay2/[0-9a-f]*/diff/fill"))) > 1,
}


def run_box(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", FILL)
    wait_for(lambda: engine.docker("exec", "box", "test", "-e", "/ready", check=False).returncode == 0)


@pytest.mark.parametrize("moment", COMMITTING)
def test_killed_in_the_middle_of_a_commit(lab, moment):
    engine, _ = lab
    run_box(engine)
    reached = lambda: COMMITTING[moment](engine)  # noqa: E731
    if moment == "unpacked":  # the client may have been told
        cut = killed_when(engine, reached, "commit", "box", "made")
    else:
        cut = killed_in_time(engine, reached, "commit", "box", "made", made="made")
        assert cut
    assert engine.inspect("box")["State"]["Status"] == "running"
    before = engine.docker("exec", "box", "stat", "-c", "%y", "/now").stdout
    wait_for(lambda: engine.docker("exec", "box", "stat", "-c", "%y", "/now").stdout != before, what="its program")
    assert not list(engine.exec_root.glob("shims/*/held"))
    made = engine.docker("images", "-q", "made").stdout
    assert bool(made) is not cut or moment == "unpacked"  # the client was not told yet
    engine.docker("commit", "box", "made")
    assert engine.docker("run", "--rm", "made", "stat", "-c", "%s", "/fill").stdout == f"{12 << 20}\n"


def test_what_the_user_paused_stays_paused(lab):
    engine, _ = lab
    run_box(engine)
    engine.docker("pause", "box")
    unpacking = lambda: sized(engine.data_root.glob("layers/overlay2/new-*/diff/fill"), 1)  # noqa: E731
    assert any(killed_when(engine, unpacking, "commit", "box") for _ in range(10))  # it may be too quick for us
    assert engine.inspect("box")["State"]["Status"] == "paused"
    engine.docker("unpause", "box")
    engine.docker("exec", "box", "true")
    # one that the user lets run while it is committed, and then pauses, is not let run by the end of the commit
    for _ in range(20):  # the moment is short
        commit = subprocess.Popen([DOCKER, "commit", "box"], env=engine.environment, stdout=subprocess.DEVNULL)
        paused = False
        while commit.poll() is None and not paused:  # docker inspect would look less often
            paused = json.loads(engine.http("GET", "/containers/box/json")[1])["State"]["Paused"]
        if paused:
            break
    else:
        pytest.fail("a commit was never seen to pause the container")
    engine.http("POST", "/containers/box/unpause")
    engine.http("POST", "/containers/box/pause")
    assert commit.wait() == 0
    assert engine.inspect("box")["State"]["Status"] == "paused"


LOADING = {
    "receiving": lambda engine: sized(engine.data_root.glob("blobs/partial/.new-*"), 1 << 18),
    "unpacking": lambda engine: any(glob.iglob(f"{engine.data_root}/layers/overlay2/new-*/diff/*")),
    "first layer": lambda engine: 2 <= len(list(engine.data_root.glob("layers/overlay2/*/parent"))) < 8,
}


@pytest.mark.parametrize("moment", LOADING)
def test_killed_in_the_middle_of_a_load(lab, moment):
    engine, _ = lab
    image = build_image(12, size=1_000_000, seed=40)
    archive = engine.home / "archive.tar"
    archive.write_bytes(docker_archive(image, "loaded:1", compressed=moment != "unpacking"))
    assert killed_in_time(engine, lambda: LOADING[moment](engine), "load", "-i", archive, made="loaded:1")
    ids = [item["Id"] for item in json.loads(engine.http("GET", "/images/json?all=1")[1])]
    assert image.id not in ids
    assert not list((engine.data_root / "blobs/partial").iterdir())
    assert not list(engine.data_root.glob("layers/overlay2/new-*"))
    engine.docker("load", "-i", archive)
    assert engine.inspect("loaded:1")["Id"] == image.id
    if moment != "unpacking":  # compressed layers are kept
        known = {path.name for path in (engine.data_root / "blobs/sha256").iterdir()}
        assert {sha256(blob) for blob in image.blobs} <= known


REMOVING = {  # where strace(1) kills: in a write of the database, a removal of a blob, a renaming of a layer
    "name": "pwrite64:signal=KILL:when=1",
    "record": "pwrite64:signal=KILL:when=6",
    "first blob": "unlink,unlinkat:signal=KILL:when=1",
    "tenth blob": "unlink,unlinkat:signal=KILL:when=10",
    "first layer": "rename,renameat,renameat2:signal=KILL:when=1",
    "tenth layer": "rename,renameat,renameat2:signal=KILL:when=10",
}


@pytest.mark.parametrize("moment", REMOVING)
def test_killed_in_the_middle_of_a_removal(lab, moment):
    engine, _ = lab
    image = build_image(12, size=10_000, seed=41)
    archive = engine.home / "archive.tar"
    archive.write_bytes(docker_archive(image, "removed:1", compressed=True))
    before = kept(engine)
    engine.docker("load", "-i", archive)
    assert engine.process is not None
    inject = ("-e", f"inject={REMOVING[moment]}")
    command = ["strace", "-f", "-qq", "-o", os.devnull, *inject, "-p", str(engine.process.pid)]
    tracer = subprocess.Popen(command)
    try:
        wait_for(lambda: traced(engine.process.pid), what="strace")
        assert engine.docker("rmi", "removed:1", check=False).returncode
        assert engine.process.wait() == -signal.SIGKILL
    finally:
        tracer.kill()
        tracer.wait()
    engine.kill()
    engine.start()
    listed = [item["Id"] for item in json.loads(engine.http("GET", "/images/json?all=1")[1])]
    if moment == "name":
        assert image.id in listed
        engine.docker("save", "-o", engine.home / "saved", image.id)
        engine.docker("rmi", image.id)
    else:
        assert image.id not in listed or moment == "record"
        engine.docker("rmi", image.id, check=image.id in listed)
    repair(engine)
    wait_for(lambda: kept(engine) <= before, what="the end of what it was made of")
    engine.docker("load", "-i", archive)
    assert engine.inspect("removed:1")["Id"] == image.id


def traced(pid: int) -> bool:
    return all("TracerPid:\t0\n" not in path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
