"""``docker commit``, ``diff`` and ``history``: what of a container becomes an image, and that nothing half made is seen."""

import json
import subprocess
import time

import pytest

from conftest import assert_nothing_left, settled_state
from harness import DOCKER, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
CHANGES = (
    "mkdir -p /d/sub; echo hi >/d/f; ln /d/f /d/g; chown 7:8 /d/f; rm /bin/vi; rm -r /usr; mkdir /usr; echo n >/usr/new;"
    " mv /etc/group /etc/moved; mkfifo /d/p; ln -s f /d/l; touch /ready; sleep 1000"
)


@pytest.fixture(params=["docker", "orlop"])
def client(request, engine):
    return getattr(engine, request.param)


def changed(engine, name, script=CHANGES):
    engine.docker("run", "-d", "--name", name, "--label", "a=b", "-e", "X=1", "busybox", "sh", "-c", script)
    wait_for(lambda: engine.docker("exec", name, "test", "-e", "/ready", check=False).returncode == 0)


def test_changes_become_a_layer(engine, client, images):
    changed(engine, "box")
    told = set(client("diff", "box").stdout.splitlines())
    assert {"A /d", "A /d/f", "C /bin", "D /bin/vi", "C /usr", "A /usr/new", "D /etc/group", "A /etc/moved"} <= told
    made = client(
        "commit", "-a", "me", "-m", "why", "-c", "ENV Y=2", "-c", 'CMD ["echo","hey"]', "box", "made:1"
    ).stdout
    image = json.loads(engine.docker("image", "inspect", "made:1").stdout)[0]
    assert image["Id"] == made.strip()
    assert (image["Author"], image["Comment"], len(image["RootFS"]["Layers"])) == ("me", "why", 2)
    assert image["Config"]["Env"] == ["X=1", "Y=2"]
    assert image["Config"]["Labels"] == {"a": "b"}
    first = client("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "made:1").stdout.splitlines()[0]
    assert first == f"sh -c {CHANGES}|why"
    assert engine.docker("run", "--rm", "made:1").stdout == "hey\n"
    script = (
        "stat -c '%h %u:%g' /d/g; cat /usr/new /d/l; ls /usr /bin/vi /etc/group /etc/moved 2>/dev/null; test -p /d/p"
    )
    told = engine.docker("run", "--rm", "made:1", "sh", "-c", script).stdout
    assert told.split() == ["2", "7:8", "n", "hi", "/etc/moved", "/usr:", "new"]
    assert engine.inspect("box")["State"]["Status"] == "running"


def test_nothing_changed_makes_no_layer(engine, images):
    engine.docker("create", "--name", "same", "busybox")
    engine.docker("commit", "same", "same")
    layers = "{{json .RootFS.Layers}}"
    assert (
        engine.docker("inspect", "-f", layers, "same:latest").stdout
        == engine.docker("inspect", "-f", layers, "busybox").stdout
    )
    assert engine.docker("history", "-q", "same").stdout.count("\n") == 2


def test_a_commit_of_the_same_tree_is_the_same_layer(engine, images):
    """The diff id is that of the layer's own tar: a container of the image that is committed again adds nothing."""
    changed(engine, "one")
    engine.docker("commit", "one", "first")
    engine.docker("commit", "one", "second")
    first, second = (json.loads(engine.docker("image", "inspect", name).stdout)[0] for name in ("first", "second"))
    assert first["RootFS"] == second["RootFS"]
    assert first["GraphDriver"] == second["GraphDriver"]


def test_the_container_is_paused_meanwhile_unless_told_not_to(engine, images):
    changed(engine, "box", "touch /ready; sleep 1000")
    for flag, actions in (("--pause=true", ["pause", "unpause", "commit"]), ("--pause=false", ["commit"])):
        since = f"{time.time():.6f}"
        engine.docker("commit", flag, "box")
        until = f"{time.time() + 0.5:.6f}"
        events = engine.docker("events", "--since", since, "--until", until, "--filter", "container=box").stdout
        assert [line.split()[2] for line in events.splitlines()] == actions


def test_what_cannot_be_committed(engine, client):
    assert "No such container: none" in client("commit", "none", check=False).stderr
    engine.docker("create", "--name", "box", "busybox")
    assert "is not a valid change command" in client("commit", "-c", "FROM x", "box", check=False).stderr
    assert "invalid reference format" in client("commit", "box", "UPPER", check=False).stderr
    assert engine.http("POST", "/v1.45/commit?container=box&repo=x&tag=a%20b")[0] == 400
    assert engine.http("POST", "/v1.45/commit?container=box", b"[1]")[0] == 400


def test_a_body_wins_over_the_container(engine, images):
    engine.docker("create", "--name", "box", "-e", "A=1", "-u", "7", "-w", "/old", "busybox", "sleep", "1")
    status, body = engine.http("POST", "/v1.45/commit?container=box&repo=b", {"WorkingDir": "/new", "Env": ["B=2"]})
    assert status == 201
    assert json.loads(body)["Id"].startswith("sha256:")
    config = json.loads(engine.docker("image", "inspect", "b").stdout)[0]["Config"]
    assert (config["WorkingDir"], config["User"], config["Cmd"]) == ("/new", "7", ["sleep", "1"])
    assert sorted(config["Env"]) == ["A=1", "B=2"]


def test_an_image_made_by_commit_needs_its_parent(engine, client, images):
    changed(engine, "box", "echo 1 >/x; touch /ready; sleep 1000")
    engine.docker("commit", "box", "child")
    engine.remove_containers()
    parent = engine.docker("image", "inspect", "-f", "{{.Parent}}", "child").stdout.strip()
    assert parent == engine.docker("image", "inspect", "-f", "{{.Id}}", "busybox").stdout.strip()
    refused = client("rmi", "-f", parent, check=False)
    assert "image has dependent child images" in refused.stderr


def test_killed_in_the_middle_nothing_is_seen_and_nothing_stays(own_engine):
    """``kill -9`` of the engine at several moments of a commit: a whole image or none, and no directory too much."""
    engine = own_engine
    before = settled_state(engine)
    changed(engine, "box", "dd if=/dev/zero of=/big bs=1M count=40; touch /ready; sleep 1000")
    for delay in (0.02, 0.06, 0.12, 0.2):
        client = subprocess.Popen(
            [DOCKER, "commit", "box", "half"],
            env=engine.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        engine.kill()
        client.wait()
        engine.start()
        assert engine.inspect("box")["State"]["Status"] in {"running", "paused"}
        engine.docker("unpause", "box", check=False)
        engine.docker("rmi", "half", check=False)
    engine.remove_containers()
    assert_nothing_left(engine, before, seconds=8, descriptors=8)
