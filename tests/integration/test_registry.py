"""Pull and push against a real registry, through the real docker client."""

import json

import pytest
from registry_lab import Registry

from conftest import make_engine

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "docker-client", "busybox", "docker-registry"),
]


@pytest.fixture(scope="module")
def lab():
    engine = make_engine()
    try:
        engine.import_busybox()
        with Registry(engine) as registry:
            yield engine, registry
    finally:
        engine.destroy()


def remove_images(engine, *keep):
    for image in json.loads(engine.http("GET", "/images/json?all=1")[1]):
        if "busybox:latest" not in image["RepoTags"]:
            engine.docker("rmi", "-f", image["Id"])
        else:
            for name in (*image["RepoTags"], *image["RepoDigests"]):
                if name != "busybox:latest":
                    engine.docker("rmi", name)


def test_push_and_pull_give_the_same_digest(lab):
    engine, registry = lab
    name = f"{registry.host}/first/box:1"
    engine.docker("tag", "busybox", name)
    pushed = engine.docker("push", name).stdout
    assert "Pushed" in pushed
    digest = pushed.rpartition("digest: ")[2].split()[0]
    assert engine.inspect(name)["RepoDigests"] == [f"{registry.host}/first/box@{digest}"]
    again = engine.docker("push", name).stdout
    assert "Layer already exists" in again
    assert digest in again
    manifest = registry.manifest("first/box", "1")
    image = engine.inspect("busybox")["Id"]
    engine.docker("rmi", "-f", name)
    engine.docker("rmi", "-f", "busybox")
    assert engine.docker("images", "-aq").stdout == ""
    assert not list((engine.data_root / "blobs/recipes").iterdir())

    pulled = engine.docker("pull", name).stdout.splitlines()
    assert pulled[0] == "1: Pulling from first/box"
    assert pulled[-3:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}", name]
    assert [line.split(": ")[1] for line in pulled[1:-3]] == [
        "Pulling fs layer",
        "Verifying Checksum",
        "Download complete",
        "Pull complete",
    ]
    assert engine.inspect(name)["Id"] == image
    assert engine.docker("run", "--rm", name, "echo", "hi").stdout == "hi\n"
    assert f"Status: Image is up to date for {name}" in engine.docker("pull", name).stdout
    by_digest = f"{registry.host}/first/box@{digest}"
    assert f"Status: Image is up to date for {by_digest}" in engine.docker("pull", by_digest).stdout

    other = f"{registry.host}/second/box:1"
    engine.docker("tag", name, other)
    assert "Mounted from first/box" in engine.docker("push", other).stdout
    assert registry.manifest("second/box", "1") == manifest
    engine.docker("tag", name, "busybox")
    remove_images(engine)


def test_run_pulls_a_missing_image(lab):
    engine, registry = lab
    name = f"{registry.host}/missing/box:1"
    engine.docker("tag", "busybox", name)
    engine.docker("push", name)
    engine.docker("rmi", name)
    done = engine.docker("run", "--rm", name, "echo", "here")
    assert done.stdout == "here\n"
    assert f"Unable to find image '{name}' locally" in done.stderr
    assert f"Status: Downloaded newer image for {name}" in done.stderr or "Image is up to date" in done.stderr
    remove_images(engine)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "HOST/no/such:1"), "manifest for HOST/no/such:1 not found: manifest unknown: manifest unknown"),
        (
            ("pull", "127.0.0.1:9/no/such:1"),
            'Get "http://127.0.0.1:9/v2/": dial tcp 127.0.0.1:9: connect: connection refused',
        ),
        (("push", "HOST/no/such:1"), "An image does not exist locally with the tag: HOST/no/such"),
    ],
)
def test_refusals_are_dockers(lab, arguments, message):
    engine, registry = lab
    done = engine.docker(*(text.replace("HOST", registry.host) for text in arguments), check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(message.replace("HOST", registry.host))


def test_distribution_tells_what_the_registry_has(lab):
    engine, registry = lab
    name = f"{registry.host}/look/box:1"
    engine.docker("tag", "busybox", name)
    engine.docker("push", name)
    status, body = engine.http("GET", f"/v1.45/distribution/{name}/json")
    assert status == 200
    found = json.loads(body)
    digest = engine.inspect(name)["RepoDigests"][0].partition("@")[2]
    assert found["Descriptor"] == {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": digest,
        "size": len(registry.manifest("look/box", "1")),
    }
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    status, body = engine.http("GET", f"/v1.45/distribution/{registry.host}/look/none:1/json")
    assert (status, json.loads(body)["message"]) == (404, "manifest unknown: manifest unknown")
    remove_images(engine)


def test_all_tags(lab):
    engine, registry = lab
    repository = f"{registry.host}/many/box"
    for tag in ("a", "b"):
        engine.docker("tag", "busybox", f"{repository}:{tag}")
    engine.docker("push", "-a", repository)
    for tag in ("a", "b"):
        engine.docker("rmi", f"{repository}:{tag}")
    out = engine.docker("pull", "-a", repository).stdout
    assert "a: Pulling from many/box" in out
    assert "b: Pulling from many/box" in out
    assert set(engine.inspect(f"{repository}:a")["RepoTags"]) == {
        "busybox:latest",
        f"{repository}:a",
        f"{repository}:b",
    }
    remove_images(engine)
