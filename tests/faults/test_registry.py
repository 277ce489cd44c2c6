"""Pulls from a registry that behaves badly, pulls that are shared, and engines that are killed in the middle (R6, R23)."""

import contextlib
import fcntl
import gzip
import json
import os
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from harness import BIN, DOCKER, wait_for
from hostile_registry import put_image
from image_builder import BuiltImage, build_image, sha256, tar_of
from pull_lab import HOST, blobs_asked, layers

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "docker-client"),
    pytest.mark.usefixtures("no_images"),
]


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


def test_clients_share_a_download_and_one_may_leave(lab):
    image = build_image(1, size=400_000, seed=9)
    put_image(lab.directory, image)
    before = len(blobs_asked(lab.log()))
    first = lab.start_pull("slow")
    wait_for(lab.received, what="first bytes")
    # the client shows no progress where there is no terminal
    url = f"http://engine/v1.45/images/create?fromImage={HOST}/slow/x&tag=1"
    request = ["curl", "-sN", "--unix-socket", str(lab.engine.socket), "-X", "POST", url]
    with subprocess.Popen(request, stdout=subprocess.PIPE, text=True) as second:
        while '"Downloading"' not in (line := second.stdout.readline()):
            assert line, "the second pull ended"
        first.kill()
        first.communicate()
        out = second.stdout.read()
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
    lab.wait_for_quiet()
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
    lab.wait_for_quiet()
    lab.engine.in_network("curl", "-s", f"http://{HOST}/most")  # of what was before
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


def test_no_descriptors_are_left(lab):
    put_image(lab.directory, IMAGE)
    assert lab.engine.process is not None
    fds = Path(f"/proc/{lab.engine.process.pid}/fd")
    lab.pull("good")
    before = len(list(fds.iterdir()))
    for behaviour in ("liar", "cut", "long", "good", "down", "denied"):
        lab.pull(behaviour)
    wait_for(lambda: len(list(fds.iterdir())) <= before + 4, what="end of all connections")
