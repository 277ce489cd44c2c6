"""Pulls from a registry that behaves badly, pulls that are shared, and engines that are killed in the middle (R6, R23)."""

import contextlib
import fcntl
import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from conftest import make_engine
from harness import BIN, DOCKER, ROOT, wait_for
from hostile_registry import put_image
from image_builder import BuiltImage, build_image, sha256, tar_of

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "docker-client"),
]
PORT = 5600
HOST = f"127.0.0.1:{PORT}"


class Lab:
    def __init__(self):
        self.engine = make_engine("--max-download-attempts", "3")
        self.directory = self.engine.home / "hostile"
        self.directory.mkdir()
        assert self.engine.netns_holder is not None
        net = f"--net=/proc/{self.engine.netns_holder.pid}/ns/net"
        program = [sys.executable, str(ROOT / "tests/hostile_registry.py"), str(PORT), str(self.directory)]
        with (self.engine.home / "hostile.log").open("wb") as log:
            self.process = subprocess.Popen(["nsenter", net, "--", *program], stdout=log, stderr=log)
        wait_for(lambda: self.log() is not None, what="hostile registry")

    def log(self):
        done = self.engine.in_network("curl", "-s", f"http://{HOST}/log", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def pull(self, behaviour, *, tag="1", **options):
        return self.engine.docker("pull", f"{HOST}/{behaviour}/x:{tag}", check=False, **options)

    def start_pull(self, behaviour):
        return subprocess.Popen(
            ["docker", "pull", f"{HOST}/{behaviour}/x:1"],
            env=self.engine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def partial(self):
        return list((self.engine.data_root / "blobs/partial").iterdir())

    def received(self, least=1):
        return sum(path.stat().st_size for path in self.partial()) >= least

    def close(self):
        self.process.kill()
        self.process.wait()
        self.engine.destroy()


@pytest.fixture(scope="module")
def lab():
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(autouse=True)
def no_images(lab):
    yield
    ids = lab.engine.docker("images", "-aq").stdout.split()
    if ids:
        lab.engine.docker("rmi", "-f", *set(ids))


IMAGE = build_image(3, size=200_000)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("html", "unsupported manifest media type: text/html"),
        ("hugemanifest", "larger than 4194304 bytes"),
        ("confused", "both an image and a list of images"),
        ("nested", "nested more than 2 deep"),
        ("arm", "no matching manifest for linux/amd64 in the manifest list entries"),
        ("hugeconfig", "image config is larger than"),
        ("many", "max depth exceeded"),
        ("foreign", "unsupported layer media type"),
        ("liar", "filesystem layer verification failed for digest sha256:"),
        ("long", "is larger than the"),
        ("loop", "stopped after 10 redirects"),
        ("denied", f"pull access denied for {HOST}/denied/x, repository does not exist or may require 'docker login'"),
    ],
)
def test_what_cannot_be_pulled_leaves_nothing(lab, behaviour, message):
    put_image(lab.directory, IMAGE)
    done = lab.pull(behaviour)
    assert done.returncode == 1
    assert message in done.stderr
    assert lab.engine.docker("images", "-aq").stdout == ""
    wait_for(lambda: not layers(lab.engine), what="end of unpacking")


def layers(engine):
    return [name for name in os.listdir(engine.data_root / "layers/overlay2") if name != "scratch-init"]


def test_an_index_and_a_registry_that_cuts(lab):
    put_image(lab.directory, IMAGE)
    for behaviour in ("index", "cut", "flaky"):
        done = lab.pull(behaviour)
        assert done.returncode == 0, done.stderr
        assert lab.engine.inspect(f"{HOST}/{behaviour}/x:1")["Id"] == IMAGE.id
        lab.engine.docker("rmi", "-f", IMAGE.id)


@pytest.mark.parametrize("lie", ["other diff id", "too few diff ids", "bomb"])
def test_layers_that_are_not_what_the_config_says(lab, lie):  # E5, E7
    tars = list(IMAGE.tars)
    blobs = list(IMAGE.blobs)
    if lie == "other diff id":
        blobs[1] = gzip.compress(tar_of({"evil": b"x" * 5000}))
    elif lie == "too few diff ids":
        tars = tars[:2]
    else:
        header = tar_of({"zeros": b""})[:512]
        blobs[1] = gzip.compress(header + bytes(64 << 20))
    bad = BuiltImage(tars, blobs)
    put_image(lab.directory, bad)
    done = lab.pull("good")
    assert done.returncode == 1
    assert "layers from manifest don't match image configuration" in done.stderr
    assert lab.engine.docker("images", "-aq").stdout == ""
    wait_for(lambda: not layers(lab.engine), what="end of unpacking")
    # The honest image of the same layers is not spoiled (E11).
    put_image(lab.directory, IMAGE)
    assert lab.pull("good", tag="1").returncode == 0
    assert lab.engine.inspect(f"{HOST}/good/x:1")["Id"] == IMAGE.id


def blobs_asked(log):
    return [entry for entry in log if "/blobs/" in entry[1] and entry[0] == "GET"]


def test_clients_share_a_download_and_one_may_leave(lab):
    image = build_image(1, size=400_000, seed=9)
    put_image(lab.directory, image)
    before = len(blobs_asked(lab.log()))
    first = lab.start_pull("slow")
    wait_for(lab.received, what="first bytes")
    second = lab.start_pull("slow")
    time.sleep(1.0)
    first.kill()
    first.communicate()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0, out
    assert "Pull complete" in out
    layer = [entry for entry in blobs_asked(lab.log())[before:] if sha256(image.blobs[0]) in entry[1]]
    assert len(layer) == 1


def test_a_pull_that_everybody_left_ends_and_is_continued(lab):
    image = build_image(1, size=400_000, seed=10)
    put_image(lab.directory, image)
    first = lab.start_pull("slow")
    wait_for(lambda: lab.received(50_000), what="first bytes")
    first.kill()
    first.communicate()
    wait_for(lambda: not layers(lab.engine), what="end of the pull")
    kept = sum(path.stat().st_size for path in lab.partial())
    assert kept >= 50_000
    before = len(lab.log())
    assert lab.pull("good").returncode == 0
    ranges = [entry[3] for entry in blobs_asked(lab.log()[before:]) if sha256(image.blobs[0]) in entry[1]]
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").rstrip("-")) >= kept
    assert not lab.partial()


def reclaimed(engine):
    """Prune images; returns the bytes given back, which docker shows only if an image went as well."""
    return json.loads(engine.http("POST", "/images/prune")[1])["SpaceReclaimed"]


def test_three_layers_of_all_pulls_are_fetched_at_once(lab):
    images = [build_image(5, size=20_000, seed=seed) for seed in (30, 31)]
    put_image(lab.directory, images[0])
    before = len(blobs_asked(lab.log()))
    first = lab.start_pull("patient")
    wait_for(lambda: len(blobs_asked(lab.log())) >= before + 2, what="the first pull")
    put_image(lab.directory, images[1])
    assert lab.pull("patient").returncode == 0
    first.communicate()
    assert first.returncode == 0
    assert lab.engine.in_network("curl", "-s", f"http://{HOST}/most").stdout == "3"


@pytest.mark.parametrize("client", ["docker", "orlop"])
def test_bars_are_drawn_on_a_terminal(lab, client):
    """By the progress of the pull's stream: a bar for each layer, how much of it is here, and what is done with it."""
    image = build_image(2, size=400_000, seed=33)
    put_image(lab.directory, image)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 150, 0, 0))
    program = {"docker": DOCKER, "orlop": BIN / "orlop"}[client]
    environment = {**lab.engine.environment, "TERM": "xterm"}
    pull = subprocess.Popen([program, "pull", f"{HOST}/slow/x:1"], env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while data := os.read(ours, 65536):
            drawn += data
    os.close(ours)
    assert pull.wait() == 0
    for blob in image.blobs:
        name = sha256(blob)[:12]
        bars = re.findall(rf"{name}: Downloading[^\n]*?[=>━╸].*?([0-9.]+) ?/?[0-9.]* ?(?:[kM]?B)?".encode(), drawn)
        assert len(bars) > 3, drawn[-3000:]
        assert f"{name}: Pull complete".encode() in drawn


def test_prune_removes_what_interrupted_pulls_left(lab):
    image = build_image(2, size=400_000, seed=13)
    put_image(lab.directory, image)
    first = lab.start_pull("slow")
    wait_for(lambda: lab.received(50_000), what="first bytes")
    assert reclaimed(lab.engine) == 0
    assert lab.received(50_000)
    first.kill()
    first.communicate()
    wait_for(lambda: reclaimed(lab.engine) >= 50_000, what="end of the pull")
    assert not lab.partial()
    assert not list((lab.engine.data_root / "blobs/sha256").iterdir())


def test_kill_in_the_middle_of_a_pull(lab):
    image = build_image(4, size=300_000, seed=11)
    put_image(lab.directory, image)
    pull = lab.start_pull("slow")
    wait_for(lambda: lab.received(100_000), what="first bytes")
    lab.engine.kill()
    pull.communicate()
    kept = sum(path.stat().st_size for path in lab.partial())
    assert kept >= 100_000
    lab.engine.start()
    assert lab.engine.docker("images", "-aq").stdout == ""
    wait_for(lambda: not layers(lab.engine), what="removal of what was unpacked")
    before = len(lab.log())
    done = lab.pull("good")
    assert done.returncode == 0, done.stderr
    continued = [entry for entry in blobs_asked(lab.log()[before:]) if entry[3]]
    assert continued
    assert sum(int(entry[3].removeprefix("bytes=").rstrip("-")) for entry in continued) >= 100_000
    assert lab.engine.inspect(f"{HOST}/good/x:1")["Id"] == image.id


def test_a_lost_layer_is_made_again_from_its_blob(lab):  # R24
    image = build_image(3, size=50_000, seed=14)
    put_image(lab.directory, image)
    assert lab.pull("good").returncode == 0
    chain = f"sha256:{sha256(image.tars[0])}"
    for tar in image.tars[1:]:
        chain = f"sha256:{sha256(f'{chain} sha256:{sha256(tar)}'.encode())}"
    lab.engine.stop()
    for name in ("", "-init"):
        shutil.rmtree(lab.engine.data_root / "layers/overlay2" / (chain.removeprefix("sha256:") + name))
    lab.engine.start()
    assert lab.engine.docker("images", "-aq").stdout == ""
    before = len(lab.log())
    assert lab.pull("good").returncode == 0
    assert lab.engine.inspect(f"{HOST}/good/x:1")["Id"] == image.id
    asked = [entry[1].rpartition(":")[2] for entry in blobs_asked(lab.log()[before:])]
    assert not {sha256(blob) for blob in image.blobs} & set(asked)


def test_a_damaged_blob_is_fetched_again(lab):  # R24
    image = build_image(2, size=50_000, seed=15)
    put_image(lab.directory, image)
    first = lab.start_pull("slowfirst")  # the second blob is there before the layer below it: it cannot be unpacked yet
    path = lab.engine.data_root / "blobs/sha256" / sha256(image.blobs[1])
    wait_for(path.exists, what="second blob")
    lab.engine.kill()
    first.communicate()
    path.write_bytes(path.read_bytes()[:1000] + bytes(20) + path.read_bytes()[1020:])
    lab.engine.start()
    assert lab.pull("good").returncode == 0
    assert lab.engine.inspect(f"{HOST}/good/x:1")["Id"] == image.id
    assert sha256(path.read_bytes()) == sha256(image.blobs[1])


def test_no_descriptors_are_left(lab):
    put_image(lab.directory, IMAGE)
    assert lab.engine.process is not None
    fds = Path(f"/proc/{lab.engine.process.pid}/fd")
    lab.pull("good")
    before = len(list(fds.iterdir()))
    for behaviour in ("liar", "cut", "long", "good", "down", "denied"):
        lab.pull(behaviour)
    assert len(list(fds.iterdir())) <= before + 4


def flip(path, place=-20):
    """Change one bit of a file, as a disk does: its times stay."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def check(lab, *options):
    form = "{{.Kind}} {{.State}} {{.Detail}}"
    return lab.engine.orlop("system", "check", "--format", form, *options, check=False).stdout.splitlines()


def pulled_with_busybox(lab, seed):
    """Pull an image of two layers whose lower one can run; returns it and its layers' directories, bottom first."""
    base = tar_of({"bin": None, "bin/busybox": Path(shutil.which("busybox")).read_bytes(), "proc": None, "sys": None})
    image = build_image(1, size=50_000, seed=seed, config={"Cmd": ["/bin/busybox", "sleep", "1000"]})
    image = BuiltImage([base, *image.tars], [gzip.compress(base, 1, mtime=0), *image.blobs], extra=image.extra)
    put_image(lab.directory, image)
    assert lab.pull("good").returncode == 0
    chain = sha256(f"sha256:{sha256(base)} sha256:{sha256(image.tars[1])}".encode())
    layers = lab.engine.data_root / "layers/overlay2"
    return image, (layers / sha256(base) / "diff", layers / chain / "diff")


def test_a_damaged_layer_is_found_and_made_again(lab):  # R24
    _, (lower, upper) = pulled_with_busybox(lab, 20)
    name = f"{HOST}/good/x:1"
    assert check(lab) == []
    good = (upper / "file-0").read_bytes()
    flip(upper / "file-0")
    (upper / "top").unlink()
    assert check(lab, "--quick") == []
    found = "/file-0: has another content, /top: no such file or directory"
    assert check(lab) == [f"damaged layer found {found}"]
    lab.engine.docker("run", "-d", "--name", "box", name)
    assert check(lab, "--repair") == [f"damaged layer kept: a running container uses it {found}"]
    lab.engine.docker("rm", "-f", "box")
    assert check(lab, "--repair") == [f"damaged layer repaired {found}"]
    assert check(lab) == []
    assert ((upper / "file-0").read_bytes(), (upper / "top").read_bytes()) == (good, b"0")
    lab.engine.docker("run", "--rm", name, "/bin/busybox", "true")
    flip(lower / "bin/busybox", 5000)
    assert check(lab, "--repair") == ["damaged layer repaired /bin/busybox: has another content"]


def test_a_damaged_blob_is_sent_to_nobody(lab, tmp_path):  # R24
    image, _ = pulled_with_busybox(lab, 21)
    name, blobs = f"{HOST}/good/x:1", lab.engine.data_root / "blobs/sha256"
    blob = blobs / sha256(image.blobs[1])
    flip(blob)
    refused = lab.engine.docker("save", "-o", tmp_path / "saved", name, check=False)
    assert refused.returncode == 1
    assert "its archive was not kept" in refused.stderr
    (lab.directory / blob.name).unlink()  # it would have it already
    lab.engine.docker("tag", name, f"{HOST}/other/y:1")
    pushed = lab.engine.docker("push", f"{HOST}/other/y:1", check=False)
    assert pushed.returncode == 1
    assert "its archive was not kept" in pushed.stdout + pushed.stderr
    assert check(lab, "--repair") == ["damaged blob repaired "]
    assert not blob.exists()
    put_image(lab.directory, image)
    before = len(lab.log())
    assert lab.pull("good").returncode == 0
    asked = [entry[1].rpartition(":")[2] for entry in blobs_asked(lab.log()[before:])]
    assert sha256(image.blobs[1]) in asked
    assert sha256(image.blobs[0]) not in asked
    assert sha256(blob.read_bytes()) == sha256(image.blobs[1])
    lab.engine.docker("save", "-o", tmp_path / "saved", name)
    # load brings a damaged one back as well
    flip(blob)
    lab.engine.docker("rmi", "-f", image.id)
    blob.write_bytes(b"damaged")
    lab.engine.docker("load", "-i", tmp_path / "saved")
    assert sha256(blob.read_bytes()) == sha256(image.blobs[1])
    flip(blobs / sha256(image.config))
    assert check(lab, "--repair") == ["damaged image kept: remove the image and get it again "]


def test_damage_where_only_a_recipe_is_kept(lab):
    archive = lab.engine.home / "plain.tar"
    archive.write_bytes(tar_of({"file": b"x" * 70_000, "other": b"y"}))
    lab.engine.docker("import", archive, "plain")
    path = lab.engine.data_root / "layers/overlay2" / sha256(archive.read_bytes()) / "diff/file"
    assert check(lab) == []
    flip(path)
    note = "kept: there is no blob to make it from"
    assert check(lab, "--repair") == [f"damaged layer {note} the files are not those that it was made of"]
    path.unlink()
    assert check(lab) == [f"damaged layer {note} layer is damaged: /file: no such file or directory"]
    saved = lab.engine.home / "saved"  # cut where the file is missed, which the client notices
    assert lab.engine.docker("save", "-o", saved, "plain", check=False).returncode == 1
