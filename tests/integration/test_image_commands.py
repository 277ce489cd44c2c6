"""``rmi``, ``prune``, ``system df`` and what ``ps`` shows of images, in dockerd's words and order."""

import json

import pytest

from conftest import make_engine
from harness import busybox_tar, client_version, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


@pytest.fixture(scope="module")
def engine_of_images():
    engine = make_engine()
    try:
        busybox_tar(engine.home / "box.tar")
        yield engine
    finally:
        engine.destroy()


@pytest.fixture
def engine(engine_of_images):
    """An engine without images, containers and volumes, before and after."""
    yield engine_of_images
    engine_of_images.remove_containers()
    engine_of_images.docker("image", "prune", "-af")
    engine_of_images.prune_volumes()
    assert engine_of_images.docker("images", "-aq").stdout == ""


def make(engine, name, *changes):
    flags = [word for change in changes for word in ("-c", change)]
    return engine.docker("import", *flags, engine.home / "box.tar", *([name] if name else [])).stdout.strip()


def test_rmi_tells_names_images_and_layers(engine):
    image = make(engine, "base:1", 'CMD ["sh"]')
    engine.docker("tag", "base:1", "base:2")
    layer = engine.docker("image", "inspect", "-f", "{{index .RootFS.Layers 0}}", "base:1").stdout.strip()
    assert engine.docker("rmi", "base:2").stdout == "Untagged: base:2\n"
    assert engine.docker("rmi", "base:1").stdout == f"Untagged: base:1\nDeleted: {image}\nDeleted: {layer}\n"


@pytest.mark.parametrize("client", ["docker", "orlop"])
def test_a_forced_removal_of_what_is_not_there_is_fine(engine, client):
    run = getattr(engine, client)
    assert run("rmi", "nosuch", check=False).returncode == 1
    assert run("rmi", "-f", "nosuch", check=False).returncode == 0


def test_ps_shows_the_id_when_the_name_is_gone(engine):
    image = make(engine, "base", 'CMD ["sh"]')
    engine.docker("create", "--name", "box", "base")
    listed = ("ps", "-a", "--no-trunc", "--format", "{{.Image}}")
    assert engine.docker(*listed).stdout == "base\n"
    make(engine, "base", 'CMD ["other"]')
    assert engine.docker(*listed).stdout == f"{image}\n"
    engine.docker("rmi", "base")
    assert engine.docker(*listed).stdout == f"{image}\n"


def test_system_prune(engine):
    make(engine, "kept", "LABEL k=v", "CMD sh")
    dangling = make(engine, "", "LABEL k=w")
    engine.docker("create", "--name", "stopped", "-v", "/anonymous", "kept")
    engine.docker("volume", "create", "named")
    for client in (engine.docker, engine.orlop):
        done = client("system", "prune", "-f")
        assert "Total reclaimed space" in done.stdout
    assert engine.docker("ps", "-aq").stdout == ""
    assert dangling not in engine.docker("images", "-aq", "--no-trunc").stdout
    assert len(engine.docker("volume", "ls", "-q").stdout.split()) == 2
    engine.docker("network", "create", "young")
    engine.docker("system", "prune", "-f", "--filter", "until=1h")
    assert engine.docker("network", "ls", "-q", "--filter", "name=young").stdout
    engine.docker("system", "prune", "-af", "--volumes")
    assert not engine.docker("network", "ls", "-q", "--filter", "name=young").stdout
    # for clients that speak API 1.41 all volumes go, as dockerd has it for them
    assert engine.docker("volume", "ls", "-q").stdout == ("named\n" if client_version() >= (23, 0) else "")
    assert engine.docker("images", "-q").stdout == ""


def test_disk_usage(engine):
    make(engine, "base", 'CMD ["sh"]')
    engine.docker("run", "--name", "box", "base", "dd", "if=/dev/zero", "of=/f", "bs=1k", "count=100")
    engine.docker("commit", "box", "child")
    document = json.loads(engine.http("GET", "/v1.45/system/df")[1])
    images = {image["RepoTags"][0]: image for image in document["Images"]}
    base, child = images["base:latest"], images["child:latest"]
    assert child["Size"] == base["Size"] + 102400 == document["LayersSize"]
    assert (base["SharedSize"], child["SharedSize"]) == (base["Size"], base["Size"])
    assert (base["Containers"], child["Containers"]) == (1, 0)
    for query, shared in (("", -1), ("?shared-size=1", base["Size"])):
        listed = json.loads(engine.http("GET", f"/v1.45/images/json{query}")[1])
        assert [image["SharedSize"] for image in listed] == [shared, shared]
    assert document["Containers"][0]["SizeRw"] == 102400
    rows = engine.docker("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}").stdout
    assert rows == "Images|2|1\nContainers|1|0\nLocal Volumes|0|0\nBuild Cache|0|0\n"
    assert rows == engine.orlop("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}").stdout
    engine.docker("volume", "create", "named")
    # letter by letter, once the two calls fall into the same second: ages are part of the text and set columns' widths
    if client_version() >= (28, 0):  # others have other columns
        same = lambda: engine.docker("system", "df", "-v").stdout == engine.orlop("system", "df", "-v").stdout  # noqa: E731
        wait_for(same, seconds=30, what="the same")  # after a minute ages are in minutes
