"""Layers and blobs that a disk lost or changed: found, and made or fetched again (R24)."""

import gzip
import shutil
from pathlib import Path

import pytest

from damage import check, flip
from harness import wait_for
from hostile_registry import put_image
from image_builder import BuiltImage, build_image, sha256, tar_of
from pull_lab import HOST, blobs_asked

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "docker-client"),
    pytest.mark.usefixtures("no_images"),
]


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
    assert check(lab.engine) == []
    good = (upper / "file-0").read_bytes()
    flip(upper / "file-0")
    (upper / "top").unlink()
    assert check(lab.engine, "--quick") == []
    found = "/file-0: has another content, /top: no such file or directory"
    assert check(lab.engine) == [f"damaged layer found {found}"]
    lab.engine.docker("run", "-d", "--name", "box", name)
    assert check(lab.engine, "--repair") == [f"damaged layer kept: a running container uses it {found}"]
    lab.engine.docker("rm", "-f", "box")
    assert check(lab.engine, "--repair") == [f"damaged layer repaired {found}"]
    assert check(lab.engine) == []
    assert ((upper / "file-0").read_bytes(), (upper / "top").read_bytes()) == (good, b"0")
    lab.engine.docker("run", "--rm", name, "/bin/busybox", "true")
    flip(lower / "bin/busybox", 5000)
    assert check(lab.engine, "--repair") == ["damaged layer repaired /bin/busybox: has another content"]


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
    assert check(lab.engine, "--repair") == ["damaged blob repaired "]
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
    assert check(lab.engine, "--repair") == ["damaged image kept: remove the image and get it again "]


def test_damage_where_only_a_recipe_is_kept(lab):
    archive = lab.engine.home / "plain.tar"
    archive.write_bytes(tar_of({"file": b"x" * 70_000, "other": b"y"}))
    lab.engine.docker("import", archive, "plain")
    path = lab.engine.data_root / "layers/overlay2" / sha256(archive.read_bytes()) / "diff/file"
    assert check(lab.engine) == []
    flip(path)
    note = "kept: there is no blob to make it from"
    assert check(lab.engine, "--repair") == [f"damaged layer {note} the files are not those that it was made of"]
    path.unlink()
    assert check(lab.engine) == [f"damaged layer {note} layer is damaged: /file: no such file or directory"]
    saved = lab.engine.home / "saved"  # cut where the file is missed, which the client notices
    assert lab.engine.docker("save", "-o", saved, "plain", check=False).returncode == 1
