"""Pull and push against a real registry, through the real docker client."""

import json
import shutil

import pytest
from registry_lab import Registry, make_certificate

from conftest import make_engine
from image_builder import build_image, docker_archive, oci_archive, sha256

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
    # another test's repository may have the layer already
    assert "Pushed" in pushed or "Mounted from" in pushed
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


@pytest.fixture(scope="module")
def guarded():
    """An engine that trusts 127.0.0.2 only, with a registry that wants TLS and a password."""
    engine = make_engine("--insecure-registry", "127.0.0.2/32", "--certs-dir", "/nonexistent")
    engine.stop()
    certs = engine.home / "certs.d"
    engine.options = ("--insecure-registry", "127.0.0.2/32", "--certs-dir", str(certs))
    engine.start()
    try:
        engine.import_busybox()
        tls = make_certificate(engine.home / "tls")
        with Registry(engine, port=5443, htpasswd=True, tls=tls) as registry:
            yield engine, registry, certs
    finally:
        engine.destroy()


def test_tls_and_passwords(guarded):
    engine, registry, certs = guarded
    name = f"{registry.host}/private/box:1"
    engine.docker("tag", "busybox", name)

    refused = engine.docker("push", name, check=False)  # E10: no fall-back to plain HTTP or to no verification
    assert "tls: failed to verify certificate" in refused.stderr
    assert "signed certificate" in refused.stderr
    (certs / registry.host).mkdir(parents=True)
    shutil.copy(engine.home / "tls/cert.pem", certs / registry.host / "ca.crt")

    assert "no basic auth credentials" in engine.docker("push", name, check=False).stderr
    wrong = engine.docker("login", "-u", "user", "--password-stdin", registry.host, input="wrong", check=False)
    assert f"login attempt to https://{registry.host}/v2/ failed with status: 401 Unauthorized" in wrong.stderr
    engine.docker("login", "-u", "user", "--password-stdin", registry.host, input="secret")
    assert "Pushed" in engine.docker("push", name).stdout
    engine.docker("rmi", name)
    engine.docker("pull", name)
    engine.docker("logout", registry.host)
    engine.docker("rmi", name)
    anonymous = engine.docker("pull", name, check=False).stderr
    assert f'Head "https://{registry.host}/v2/private/box/manifests/1": no basic auth credentials' in anonymous

    assert (
        "Login Succeeded"
        in engine.orlop("login", "-u", "user", "--password-stdin", registry.host, input="secret").stdout
    )
    engine.orlop("pull", name)
    assert "Layer already exists" in engine.orlop("push", name).stdout
    assert engine.orlop("run", "--rm", name, "echo", "hi").stdout == "hi\n"
    assert engine.orlop("logout", registry.host).stdout == f"Removing login credentials for {registry.host}\n"
    engine.docker("rmi", name)
    assert "no basic auth credentials" in engine.orlop("pull", name, check=False).stderr
    assert "secret" not in engine.log_text()  # H9


def test_named_insecure_networks_replace_loopback(guarded):
    engine, _, _ = guarded
    with Registry(engine, port=5080) as registry:
        name = f"{registry.host}/plain/box:1"
        engine.docker("tag", "busybox", name)
        assert "Pushed" not in engine.docker("push", name, check=False).stdout
        other = "127.0.0.2:5080/plain/box:1"
        engine.docker("tag", "busybox", other)
        assert "connection refused" in engine.docker("push", other, check=False).stderr  # it tried plain HTTP at last
    engine.docker("rmi", name, other)


@pytest.mark.parametrize(("layers", "oci"), [(1, False), (12, False), (12, True), (60, False)])
def test_many_layers_there_and_back(lab, layers, oci):
    engine, registry = lab
    image = build_image(layers, size=100_000 // layers, seed=layers)
    archive = oci_archive(image, "source:1") if oci else docker_archive(image, "source:1", compressed=True)
    engine.docker("load", input=archive, text=False)
    names = [f"{registry.host}/layers/{'oci' if oci else 'docker'}-{layers}-{part}:1" for part in "ab"]
    engine.docker("tag", "source:1", names[0])
    engine.docker("push", names[0])
    digest = engine.inspect(names[0])["RepoDigests"][0].partition("@")[2]
    pushed = json.loads(registry.manifest(names[0].partition("/")[2].partition(":")[0], "1"))
    assert {("oci" in kind["mediaType"]) for kind in (pushed, pushed["config"], *pushed["layers"])} == {oci}
    engine.docker("rmi", "-f", image.id)
    out = engine.docker("pull", names[0]).stdout
    assert f"Digest: {digest}\n" in out
    assert out.count("Pull complete") == layers
    assert engine.inspect(names[0])["Id"] == image.id
    engine.docker("tag", names[0], names[1])
    assert engine.docker("push", names[1]).stdout.count("Mounted from") == layers
    path = names[1].partition("/")[2].partition(":")[0]
    assert f"sha256:{sha256(registry.manifest(path, '1'))}" == digest
    if oci:
        assert json.loads(registry.manifest(path, "1"))["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    engine.docker("rmi", "-f", image.id)


def test_skopeo_copies_both_ways(lab, tmp_path):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    engine, registry = lab
    image = build_image(12, seed=77)
    archive = tmp_path / "in.tar"
    archive.write_bytes(docker_archive(image, "in:1", compressed=True))
    engine.in_network(
        *("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"docker-archive:{archive}"),
        f"docker://{registry.host}/skopeo/in:1",
    )
    name = f"{registry.host}/skopeo/in:1"
    engine.docker("pull", name)
    assert engine.inspect(name)["Id"] == image.id
    manifest = registry.manifest("skopeo/in", "1")
    engine.docker("tag", name, f"{registry.host}/skopeo/out:1")
    engine.docker("push", f"{registry.host}/skopeo/out:1")
    assert registry.manifest("skopeo/out", "1") == manifest
    copied = f"oci-archive:{tmp_path}/out.tar:copied"
    source = f"docker://{registry.host}/skopeo/out:1"
    engine.in_network("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", source, copied)
    engine.docker("rmi", "-f", image.id)
    loaded = engine.docker("load", "-i", tmp_path / "out.tar").stdout.split("ID: ")[1].strip()
    assert engine.inspect(loaded)["RootFS"]["Layers"] == json.loads(image.config)["rootfs"]["diff_ids"]
    for form in ("docker-archive", "oci-archive"):
        engine.docker("save", "-o", tmp_path / "save.tar", loaded)
        seen = engine.in_network("skopeo", "inspect", "--config", f"{form}:{tmp_path}/save.tar")
        assert json.loads(seen.stdout)["rootfs"] == json.loads(image.config)["rootfs"]
    engine.docker("rmi", "-f", loaded)


def test_the_wrong_platform_is_told(lab):
    engine, registry = lab
    name = f"{registry.host}/platform/box:1"
    engine.docker("tag", "busybox", name)
    engine.docker("push", name)
    done = engine.docker("pull", "--platform", "linux/arm64/v8", name, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        f"image with reference {name} was found but does not match the specified platform:"
        " wanted linux/arm64/v8, actual: linux/amd64"
    )
    remove_images(engine)


def test_mirrors(lab):
    engine, registry = lab
    engine.docker("tag", "busybox", f"{registry.host}/library/mirrored:1")
    engine.docker("push", f"{registry.host}/library/mirrored:1")
    other = make_engine("--registry-mirror", "http://127.0.0.1:1", "--registry-mirror", f"http://{registry.host}")
    try:
        with Registry(other, port=5000) as copy:
            shutil.rmtree(copy.home / "data", ignore_errors=True)
            shutil.copytree(registry.home / "data", copy.home / "data")
            out = other.docker("pull", "mirrored:1").stdout
            assert "1: Pulling from library/mirrored" in out
            assert "Status: Downloaded newer image for mirrored:1" in out
            refused = other.docker("pull", "not-mirrored:1", check=False)
            assert 'Get "https://registry-1.docker.io/v2/"' in refused.stderr
    finally:
        other.destroy()
    remove_images(engine)


@pytest.mark.requires("recent-docker-client")
def test_an_image_of_several_platforms(lab, tmp_path):
    """As dockerd without containerd's store: one platform of a list is kept, pushed and asked for."""
    engine, registry = lab
    name, index = f"{registry.host}/multi/box:1", f"{registry.host}/multi/copy:1"
    images = {kind: build_image(2, seed=90, architecture=kind) for kind in ("amd64", "arm64")}
    manifests = []
    for kind, image in images.items():
        (tmp_path / kind).write_bytes(docker_archive(image, f"{registry.host}/multi/box:{kind}", compressed=True))
        engine.docker("load", "-i", tmp_path / kind)
        engine.docker("push", f"{registry.host}/multi/box:{kind}")
        data = registry.manifest("multi/box", kind)
        manifests.append(
            {
                "mediaType": json.loads(data)["mediaType"],
                "digest": f"sha256:{sha256(data)}",
                "size": len(data),
                "platform": {"os": "linux", "architecture": kind},
            }
        )
    (tmp_path / "index").write_text(
        json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
    )
    upload = ("-X", "PUT", "-H", "Content-Type: application/vnd.oci.image.index.v1+json", "--data-binary")
    registry.curl("/v2/multi/box/manifests/1", *upload, f"@{tmp_path}/index")
    remove_images(engine)
    for platform, kind in (((), "amd64"), (("--platform", "linux/arm64"), "arm64"), ((), "amd64")):
        engine.docker("pull", *platform, name)
        assert engine.inspect(name)["Id"] == images[kind].id
        assert engine.inspect(name)["RepoDigests"] == [
            f"{registry.host}/multi/box@sha256:{sha256((tmp_path / 'index').read_bytes())}"
        ]
    assert engine.docker("images", "-q", "--no-trunc", "-f", "dangling=true").stdout.split() == [images["arm64"].id]
    engine.docker("tag", name, index)
    engine.docker("push", index)
    assert registry.manifest("multi/copy", "1") == registry.manifest("multi/box", "amd64")
    other = f"image with reference {name} was found but does not match the specified platform"
    for command in ("push", "save", "history", "rmi"):
        out = ("-o", tmp_path / "out.tar") if command == "save" else ()
        refused = engine.docker(command, "--platform", "linux/arm64", *out, name, check=False)
        assert (refused.returncode, other in refused.stderr) == (1, True), refused
    engine.docker("save", "--platform", "linux/amd64", "-o", tmp_path / "out.tar", name)
    refused = engine.docker("load", "--platform", "linux/arm64", "-i", tmp_path / "out.tar", check=False)
    assert "requested platform (linux/arm64/v8) not found" in refused.stderr
    engine.docker("load", "--platform", "linux/amd64", "-i", tmp_path / "out.tar")
    engine.docker("rmi", "--platform", "linux/amd64", index)
    remove_images(engine)
