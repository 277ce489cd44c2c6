"""Engines on other storage drivers than overlay2."""

import gzip
import json
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from driver_lab import ON_BTRFS, make, require_btrfs

from damage import check, flip
from harness import wait_for
from image_builder import BuiltImage, docker_archive, sha256, tar_of
from orlop.spec.digest import Digest, chain_id

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
CHANGES = (
    "mkdir -p /d; echo hi >/d/f; ln /d/f /d/g; chown 7:8 /d/f; rm /bin/vi; rm -r /usr; mkdir /usr; echo n >/usr/new"
)


@pytest.fixture(scope="module", params=["vfs", "btrfs"])
def engine(request):
    within = ()
    if request.param == "btrfs":
        require_btrfs()
        within = ("unshare", "-m", "sh", "-c", ON_BTRFS, "HOME")
    options = ("--storage-opt", "btrfs.min_space=8m") if request.param == "btrfs" else ()
    made = make("--storage-driver", request.param, *options, within=within)
    try:
        made.start()
        made.import_busybox()
        yield made
    finally:
        made.destroy()


@pytest.fixture(autouse=True)
def clean(request):
    yield
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine").remove_containers()


def test_containers_are_apart_and_info_names_the_driver(engine):
    assert engine.docker("info", "-f", "{{.Driver}}").stdout.strip() == engine.options[1]
    engine.docker("run", "--name", "one", "busybox", "sh", "-c", "echo 1 >/etc/passwd; touch /x")
    assert "alice" in engine.docker("run", "--rm", "busybox", "cat", "/etc/passwd").stdout
    assert engine.docker("diff", "one").stdout.splitlines() == ["C /etc", "C /etc/passwd", "A /x"] or set(
        engine.docker("diff", "one").stdout.splitlines()
    ) == {"C /etc/passwd", "A /x"}
    mounted = engine.docker("run", "--rm", "busybox", "sh", "-c", "cat /etc/hostname /proc/mounts; ls -l /etc/mtab")
    assert " / overlay " not in mounted.stdout
    assert json.loads(engine.docker("inspect", "-s", "one").stdout)[0]["SizeRw"] == 2


def test_a_size_is_refused_where_nothing_could_hold_it(engine):
    if engine.options[1] == "btrfs":
        pytest.skip("it can")
    refused = engine.docker("create", "--storage-opt", "size=1G", "busybox", check=False)
    assert "--storage-opt is supported only for overlay over xfs or ext4 with project quotas" in refused.stderr
    assert engine.docker("ps", "-aq").stdout == ""


def test_a_size_on_btrfs_holds(engine):
    """By quota groups, which are the file system's own affair: what the container has from its image counts as well."""
    if engine.options[1] != "btrfs":
        pytest.skip("it is for btrfs")
    small = engine.docker("create", "--storage-opt", "size=7M", "busybox", check=False)
    assert "btrfs: storage size cannot be less than 8.389MB" in small.stderr
    script = "dd if=/dev/zero of=/f bs=1M count=40; sync; du -m /f | cut -f1"
    limited = engine.docker("run", "--rm", "--storage-opt", "size=20M", "busybox", "sh", "-c", script, check=False)
    assert "Disk quota exceeded" in limited.stderr
    assert int(limited.stdout.split()[-1]) < 20
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", script).stdout.split()[-1] == "40"


def test_commit_makes_whiteouts_and_the_layer_is_applied(engine):
    engine.docker("run", "--name", "one", "busybox", "sh", "-c", CHANGES)
    engine.docker("commit", "one", "made")
    script = "stat -c '%h %u:%g' /d/g; cat /usr/new; ls /usr /bin/vi 2>/dev/null; test -e /bin/sh"
    assert engine.docker("run", "--rm", "made", "sh", "-c", script).stdout.split() == ["2", "7:8", "n", "/usr:", "new"]
    engine.docker("run", "--name", "two", "made", "sh", "-c", "rm -r /d; echo again >/bin/vi")
    engine.docker("commit", "two", "again")
    assert engine.docker("run", "--rm", "again", "sh", "-c", "ls -d /d; cat /bin/vi", check=False).stdout == "again\n"
    # the same tree is the same layer, by whichever driver
    engine.docker("commit", "two", "twice")
    layers = [engine.docker("inspect", "-f", "{{.RootFS.Layers}}", name).stdout for name in ("again", "twice")]
    assert layers[0] == layers[1]
    engine.docker("rmi", "-f", "twice", "again", "made")


def test_copies_and_exports(engine, tmp_path):
    file = tmp_path / "f"
    file.write_text("x")
    engine.docker("create", "--name", "still", "-v", "/vol", "busybox", "cat", "/f", "/vol/f")
    engine.docker("cp", file, "still:/f")
    engine.docker("cp", file, "still:/vol/f")
    assert engine.docker("start", "-a", "still").stdout == "xx"
    assert engine.docker("cp", "still:/f", "-").stdout.count("x")
    listing = subprocess.run(
        ["tar", "tf", "-"], input=engine.docker("export", "still", text=False).stdout, capture_output=True, check=True
    )
    assert {"f", "bin/busybox"} <= set(listing.stdout.decode().split())
    engine.docker("rm", "-v", "still")


SEARCHED = 1 << 22


def flip_on_disk(image: Path, content: bytes) -> None:
    """Change one bit of a file's content where the disk has it, behind the file system's back."""
    subprocess.run(["sync"], check=True)
    with image.open("r+b") as disk:
        position = 0
        while True:
            position = os.lseek(disk.fileno(), position, os.SEEK_DATA)
            data = os.pread(disk.fileno(), SEARCHED + len(content), position)
            if (found := data.find(content)) >= 0:
                os.pwrite(disk.fileno(), bytes([content[0] ^ 16]), position + found)
                os.fsync(disk.fileno())
                return
            position += SEARCHED


@pytest.fixture
def layered(engine):
    """An image of two layers with kept blobs, a container of it, and an image that was committed from that one."""
    base = {"bin": None, "bin/busybox": Path(shutil.which("busybox")).read_bytes(), "data": secrets.token_bytes(50_000)}
    image = BuiltImage(tars := [tar_of(base), tar_of({"upper": b"u"})], [gzip.compress(tar, 1) for tar in tars])
    archive = engine.home / "layered.tar"
    archive.write_bytes(docker_archive(image, "layered:latest", compressed=True))
    engine.docker("load", "-i", archive)
    engine.docker("run", "--name", "box", "layered", "/bin/busybox", "sh", "-c", "echo mine >/own")
    engine.docker("commit", "box", "committed")
    top = chain_id(chain_id(None, Digest(sha256(tars[0]))), Digest(sha256(tars[1])))
    yield base["data"], [sha256(tars[0]), top.hex]
    engine.remove_containers()
    engine.docker("rmi", "committed", "layered")


def seen(engine, name):
    """The content of /data in a container of an image."""
    return engine.docker("run", "--rm", name, "/bin/busybox", "cat", "/data", check=False, text=False).stdout


def test_a_damaged_layer_is_made_again_and_all_that_shares_it(engine, layered):  # R24
    """By a disk's error below what layers have in common, or, where each has a copy, in the copy of one."""
    data, (bottom, _) = layered
    driver = engine.options[1]
    assert check(engine) == []
    if driver == "vfs":
        flip(engine.data_root / f"layers/vfs/{bottom}/tree/data", 0)
    else:
        flip_on_disk(engine.home / "image" if driver == "btrfs" else pool(engine), data)
    how = "/data: input/output error" if driver == "btrfs" else "/data: has another content"
    assert check(engine) == [f"damaged layer found {how}"]
    # on others than vfs, the layers and init layers above have the damaged blocks as well
    others = 0 if driver == "vfs" else 2
    assert check(engine, "--repair") == [f"damaged layer repaired {how}"] * (1 + others)
    assert check(engine) == []
    assert seen(engine, "layered") == seen(engine, "committed") == data
    # a container keeps what it has, the damage where it shared it
    assert engine.docker("start", "box").returncode == 0
    engine.docker("cp", "box:/own", engine.home / "own")
    assert (engine.home / "own").read_text() == "mine\n"
    if driver == "vfs":
        layers = engine.data_root / "layers/vfs"
        wait_for(lambda: not any(path.name.startswith(("new-", ".removed")) for path in layers.iterdir()))


def pool(engine):
    return engine.data_root / "layers/devicemapper/.pool/data"


@pytest.mark.parametrize("copy", ["upper", "init"])
def test_damage_in_a_copy_is_found_and_mended(engine, layered, copy):  # R24
    if engine.options[1] != "vfs":
        pytest.skip("only vfs copies files")
    data, (_, top) = layered
    layers = engine.data_root / "layers/vfs"
    flip(layers / (top if copy == "upper" else f"{top}-init") / "tree/data", 0)
    box = (layers / engine.inspect("box")["Id"]).stat().st_ino
    found = "/data: has another content"
    assert check(engine) == [f"damaged layer found {found}"]
    assert seen(engine, "committed") == data
    assert check(engine, "--repair") == [f"damaged layer repaired {found}"]
    assert check(engine) == []
    assert seen(engine, "layered") == data
    assert (layers / engine.inspect("box")["Id"]).stat().st_ino == box


def test_a_layer_that_a_container_has_mounted_is_kept(engine, layered):
    """Containers have trees of their own, so only a mount of an image stands in the way."""
    if engine.options[1] != "vfs":
        pytest.skip("the same for all that have whole trees")
    _, (bottom, _) = layered
    flip(engine.data_root / f"layers/vfs/{bottom}/tree/data", 0)
    mount = ("--mount", "type=image,source=layered,target=/i")
    engine.docker("run", "-d", "--name", "user", *mount, "layered", "/bin/busybox", "sleep", "1000")
    found = "/data: has another content"
    assert check(engine, "--repair") == [f"damaged layer kept: a running container uses it {found}"]
    engine.docker("rm", "-f", "user")
    engine.docker("run", "-d", "--name", "user", "layered", "/bin/busybox", "sleep", "1000")
    assert check(engine, "--repair") == [f"damaged layer repaired {found}"]


def test_what_stands_on_a_layer_that_cannot_be_made_again_is_kept(engine, layered):
    """It would get what that has instead of its own copy, which may be better."""
    if engine.options[1] != "vfs":
        pytest.skip("the same for all that have whole trees")
    data, (bottom, top) = layered
    layers = engine.data_root / "layers/vfs"
    blob = next(path for path in (engine.data_root / "images/vfs/blobs/sha256").iterdir() if unpacks_to(path, bottom))
    kept = blob.read_bytes()
    blob.unlink()
    flip(layers / bottom / "tree/data", 0)
    flip(layers / top / "tree/upper", 0)
    note = "kept: a layer below it is damaged, or cannot be checked"
    assert check(engine, "--repair") == [f"damaged layer {note} /upper: has another content"]
    assert (layers / top / "tree/data").read_bytes() == data
    blob.write_bytes(kept)
    assert check(engine, "--repair") == [
        "damaged layer repaired /data: has another content",
        "damaged layer repaired /upper: has another content",
    ]
    assert seen(engine, "committed") == data


# The mark that the new layer is active is removed after the exchange; some machines have no rmdir(2).
KILLING = {"before": "renameat2:signal=KILL:when=1", "after": "?rmdir,unlinkat:signal=KILL:when=1"}


@pytest.mark.parametrize("moment", KILLING)
def test_killed_while_a_layer_is_made_again(engine, layered, moment):  # R8, R24
    """``kill -9`` just before, or after, the new layer takes the place of the old one."""
    if engine.options[1] != "vfs":
        pytest.skip("the same directory for all")
    data, (bottom, _) = layered
    flip(engine.data_root / f"layers/vfs/{bottom}/tree/data", 0)
    inject = ("-e", f"inject={KILLING[moment]}")
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", os.devnull, *inject, "-p", str(engine.process.pid)])
    try:
        wait_for(lambda: is_traced(engine.process.pid), what="strace")
        assert engine.orlop("system", "check", "--repair", check=False).returncode
        assert engine.process.wait() == -signal.SIGKILL
    finally:
        tracer.kill()
        tracer.wait()
    engine.kill()
    engine.start()
    layers = engine.data_root / "layers/vfs"
    wait_for(lambda: not any(path.name.startswith(("new-", ".")) for path in layers.iterdir()))
    left = ["damaged layer repaired /data: has another content"] if moment == "before" else []
    assert check(engine, "--repair") == left
    assert check(engine) == []
    assert seen(engine, "layered") == seen(engine, "committed") == data


def is_traced(pid):
    """Whether all threads are: strace seizes one after another, the process's first."""
    try:
        statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended
        return False
    return all("TracerPid:\t0\n" not in status for status in statuses)


def unpacks_to(path, digest):
    try:
        return sha256(gzip.decompress(path.read_bytes())) == digest
    except gzip.BadGzipFile:
        return False


def test_nothing_stays_after_a_kill(engine):
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    engine.docker("create", "--name", "other", "busybox")
    if engine.within:
        pytest.skip("the mount goes with the engine")
    engine.kill()
    engine.start()
    assert engine.inspect("box")["State"]["Status"] == "running"
    engine.remove_containers()
    engine.docker("rmi", "busybox")
    layers = engine.data_root / "layers" / engine.options[1]
    wait_for(lambda: [path.name for path in layers.iterdir()] in ([], ["scratch-init"]), seconds=5)
    engine.import_busybox()
