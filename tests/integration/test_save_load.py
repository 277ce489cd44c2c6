"""Images out to archives and in again, through the real docker client and beside a real dockerd."""

import gzip
import io
import json
import os
import subprocess
import tarfile

import pytest

from conftest import make_engine
from image_builder import build_image, docker_archive, oci_archive, sha256, tar_of

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "docker-client", "busybox"),
]


@pytest.fixture(scope="module")
def loader():
    engine = make_engine()
    try:
        yield engine
    finally:
        engine.destroy()


@pytest.fixture
def clean(loader):
    yield loader
    ids = loader.docker("images", "-aq").stdout.split()
    if ids:
        loader.docker("rmi", "-f", *set(ids))
    left = {part: os.listdir(loader.data_root / "blobs" / part) for part in ("sha256", "recipes", "partial")}
    assert not any(left.values()), left


def load(engine, data, *, check=True, quiet=False):
    return engine.docker("load", *(["-q"] if quiet else []), input=data, text=False, check=check)


def content(engine, image, *paths):
    """Return files of an image, through a container that is never started."""
    container = engine.docker("create", image, "x").stdout.strip()
    try:
        out = subprocess.run(
            ["docker", "export", container], env=engine.environment, capture_output=True, check=True
        ).stdout
    finally:
        engine.docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        return [tar.extractfile(path).read() for path in paths]


@pytest.mark.parametrize(
    ("form", "layers"), [("docker", 1), ("docker", 60), ("old", 3), ("compressed", 12), ("oci", 3), ("gzip", 2)]
)
def test_every_form_of_archive(clean, form, layers):
    image = build_image(layers)
    data = {
        "docker": lambda: docker_archive(image, "box:1", "box:2"),
        "old": lambda: docker_archive(image, "box:1", "box:2", old=True),
        "compressed": lambda: docker_archive(image, "box:1", "box:2", compressed=True),
        "oci": lambda: oci_archive(image, "box:1"),
        "gzip": lambda: gzip.compress(docker_archive(image, "box:1", "box:2")),
    }[form]()
    out = load(clean, data).stdout.decode()
    assert "Loaded image: box:1\n" in out
    assert form == "oci" or "Loaded image: box:2\n" in out
    found = clean.inspect("box:1")
    assert found["Id"] == image.id
    assert found["RootFS"]["Layers"] == [f"sha256:{sha256(tar)}" for tar in image.tars]
    assert content(clean, "box:1", "top") == [f"{layers - 1}".encode()]
    again = load(clean, data).stdout.decode()
    assert "Loaded image: box:1\n" in again
    saved = subprocess.run(["docker", "save", "box:1"], env=clean.environment, capture_output=True, check=True).stdout
    clean.docker("rmi", "-f", found["Id"])
    load(clean, saved)
    assert clean.inspect("box:1")["Id"] == image.id
    assert content(clean, "box:1", "top") == [f"{layers - 1}".encode()]
    if form in {"compressed", "oci"}:
        kept = set(os.listdir(clean.data_root / "blobs/sha256"))
        assert {sha256(blob) for blob in image.blobs} <= kept


def test_an_image_without_a_name_is_told_by_its_id(clean):
    image = build_image()
    assert load(clean, docker_archive(image)).stdout.decode() == f"Loaded image ID: {image.id}\n"
    saved = subprocess.run(["docker", "save", image.id], env=clean.environment, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        assert tar.getnames()[:3] == ["oci-layout", "index.json", "manifest.json"]
        assert json.load(tar.extractfile("manifest.json"))[0]["RepoTags"] is None
        assert "annotations" not in json.load(tar.extractfile("index.json"))["manifests"][0]


def test_several_images_and_names(clean):
    one, two = build_image(2, seed=1), build_image(2, seed=2)
    load(clean, docker_archive(one, "one:1", "one:2"))
    load(clean, docker_archive(two, "two:1"))
    saved = subprocess.run(
        ["docker", "save", "one", "two:1"], env=clean.environment, capture_output=True, check=True
    ).stdout
    again = subprocess.run(
        ["docker", "save", "one", "two:1"], env=clean.environment, capture_output=True, check=True
    ).stdout
    assert saved == again  # the same images give the same bytes
    clean.docker("rmi", "-f", one.id, two.id)
    out = load(clean, saved).stdout.decode()
    assert sorted(out.splitlines()) == ["Loaded image: one:1", "Loaded image: one:2", "Loaded image: two:1"]


def test_a_name_that_another_image_had(clean):
    one, two = build_image(seed=1), build_image(seed=2)
    load(clean, docker_archive(one, "box:1"))
    out = load(clean, docker_archive(two, "box:1")).stdout.decode()
    assert f"The image box:1 already exists, renaming the old one with ID {one.id} to empty string\n" in out


def test_layers_by_symbolic_link(clean):
    """Docker 1.10 to 24 wrote a layer that is there twice as a link."""
    image = build_image(1)
    image = type(image)(image.tars * 2, image.blobs * 2)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))

        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        out.addfile(link)
        add("a/layer.tar", image.tars[0])
        add("c.json", image.config)
        layers = ["a/layer.tar", "b/layer.tar"]
        add("manifest.json", json.dumps([{"Config": "c.json", "RepoTags": ["box:1"], "Layers": layers}]).encode())
    load(clean, buffer.getvalue())
    assert clean.inspect("box:1")["Id"] == image.id


IMAGE = build_image()
MANIFEST = {"Config": "c.json", "RepoTags": ["box:1"], "Layers": ["l.tar"]}


def hostile(manifest=None, config=None, layer=None, **members):
    parts = {
        "l.tar": IMAGE.tars[0] if layer is None else layer,
        "c.json": IMAGE.config if config is None else config,
        "manifest.json": json.dumps([MANIFEST | (manifest or {})]).encode(),
        **members,
    }
    return tar_of(parts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "unexpected EOF"),
        (b"", "does not contain a manifest.json"),
        (tar_of({"a": b"x"}), "does not contain a manifest.json"),
        (hostile({"Config": "../../../../etc/passwd"}), "open ../../../../etc/passwd: no such file or directory"),
        (hostile({"Layers": ["/etc/passwd"]}), "open /etc/passwd: no such file or directory"),
        (hostile({"Layers": ["l.tar", "l.tar"]}), "layers length mismatch"),
        (hostile({"RepoTags": ["UPPER:1"]}), "must be lowercase"),
        (hostile({"RepoTags": ["no-tag"]}), "invalid tag"),
        (hostile(config=b"{"), "invalid image config"),
        (hostile(config=IMAGE.config[:-1] + b',"os":"linux"}'), "duplicate key"),
        (hostile(config=IMAGE.config.replace(b"linux", b"windows")), "windows"),
        (hostile(layer=b"rubbish" * 1000), "invalid tar header"),
        (hostile(layer=IMAGE.tars[0] + bytes(512)), "layers from manifest don't match image configuration"),
        (hostile(layer=gzip.compress(IMAGE.tars[0])[:-20]), "unexpected EOF"),
        (docker_archive(IMAGE, "box:1")[:3000], "unexpected EOF"),
        (tar_of({"manifest.json": b'[{"Layers": 5}]'}), "invalid manifest.json"),
        (tar_of({"manifest.json": b"[" * 100_000}), "invalid manifest.json"),
        (tar_of({"manifest.json": bytes(5 << 20)}), "larger than"),
        (tar_of({f"blobs/sha256/{'a' * 64}": b"x"}), "has another digest"),
        (tar_of({"index.json": b'{"schemaVersion":2,"manifests":[],"layers":[]}'}), "both an image and a list"),
    ],
)
def test_hostile_archives_leave_nothing(clean, data, message):  # E3, E4, E5, E6, E8, E12
    done = load(clean, data, check=False)
    assert done.returncode == 1
    assert message in done.stderr.decode()
    assert clean.docker("images", "-aq").stdout == ""


def test_a_link_in_the_archive_leads_nowhere_else(clean, tmp_path):  # E12
    secret = tmp_path / "secret"
    secret.write_bytes(IMAGE.tars[0])
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as out:
            link = tarfile.TarInfo("l.tar")
            link.type, link.linkname = kind, str(secret)
            out.addfile(link)
            for name, data in (("c.json", IMAGE.config), ("manifest.json", json.dumps([MANIFEST]).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
        done = load(clean, buffer.getvalue(), check=False)
        assert b"no such file or directory" in done.stderr


@pytest.mark.requires("peers")
def test_round_trips_with_dockerd(clean, tmp_path):
    if "ORLOP_PEERS_HOST" not in os.environ:
        pytest.skip("needs a dockerd")
    peer = {"DOCKER_HOST": os.environ["ORLOP_PEERS_HOST"]}
    image = build_image(3, seed=os.getpid())
    name = f"orlop-round-trip-{os.getpid()}:1"
    load(clean, docker_archive(image, name))
    archive = tmp_path / "a.tar"
    clean.docker("save", "-o", archive, name)
    try:
        assert f"Loaded image: {name}" in clean.docker("load", "-i", archive, env=peer).stdout
        assert json.loads(clean.docker("inspect", name, env=peer).stdout)[0]["Id"] == image.id
        archive.unlink()
        clean.docker("save", "-o", archive, name, env=peer)
    finally:
        clean.docker("rmi", "-f", name, env=peer)
    clean.docker("rmi", "-f", name)
    clean.docker("load", "-i", archive)
    assert clean.inspect(name)["Id"] == image.id


@pytest.mark.requires("peers")
def test_what_one_saves_runs_in_the_other(clean):
    """``docker save | docker load`` to dockerd, where the image grows by a layer, and back."""
    if "ORLOP_PEERS_HOST" not in os.environ:
        pytest.skip("needs a dockerd")
    peer = {"DOCKER_HOST": os.environ["ORLOP_PEERS_HOST"]}
    names = [f"orlop-runs-{os.getpid()}:{side}" for side in ("orlop", "docker")]
    look = "cat /made /more 2>/dev/null; stat -c %h /made; ls /bin/vi 2>/dev/null || echo gone"
    changes = {names[0]: "echo orlop >/made; ln /made /linked; rm /bin/vi", names[1]: "echo docker >/more"}
    clean.import_busybox()
    try:
        for base, name, here, there in (("busybox", names[0], {}, peer), (names[0], names[1], peer, {})):
            box = clean.docker("run", "-d", base, "sh", "-c", changes[name], env=here).stdout.strip()
            clean.docker("wait", box, env=here)
            clean.docker("commit", box, name, env=here)
            clean.docker("rm", box, env=here)
            saved = clean.docker("save", name, text=False, env=here).stdout
            clean.docker("load", input=saved, text=False, env=there)
            ids = {clean.docker("inspect", "-f", "{{.Id}}", name, env=side).stdout for side in (here, there)}
            assert len(ids) == 1
            for side in (here, there):
                out = clean.docker("run", "--rm", name, "sh", "-c", look, env=side).stdout
                assert out == ("orlop\n2\ngone\n" if name == names[0] else "orlop\ndocker\n2\ngone\n"), side
    finally:
        clean.docker("rmi", "-f", *reversed(names), env=peer, check=False)
