"""Bad input: a clear error in Docker's words, nothing leaked, the engine still up."""

import contextlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conftest import make_engine
from harness import Engine, busybox_tar, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"Image": 7}', 400),
        (b'{"Image": ""}', 400),
        (b'{"Image": "busybox", "Cmd": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"Image": "busybox", "HostConfig": {"Memory": ' + b"9" * 5000 + b"}}", 400),
        (b'{"Image": "busybox", "HostConfig": {"NanoCpus": -1}}', 400),
        (b'{"Image": "busybox", "HostConfig": {"CpusetCpus": "0-2147483647"}}', 400),
        (b'{"Image": "busybox", "HostConfig": {"RestartPolicy": {"Name": "perhaps"}}}', 400),
        (b'{"Image": "busybox", "HostConfig": {"NetworkMode": "container:ghost"}}', 404),
        (b'{"Image": "busybox", "HostConfig": {"PortBindings": {"99999/tcp": [{}]}}}', 400),
        (b'{"Image": "busybox", "HostConfig": {"CgroupParent": "../../x"}}', 400),
        (b'{"Image": "busybox", "HostConfig": {"ExtraHosts": ["a\\nb:1.2.3.4"]}}', 400),
        (
            b'{"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"path": "/etc/x"}}}}',
            400,
        ),
        (b'{"Image": "ghost"}', 404),
    ],
)
def test_bad_bodies(leak_free, body, status) -> None:
    answer, text = leak_free.http("POST", "/v1.45/containers/create", body)
    if answer == 201:  # refused at the latest by start
        import json

        answer, text = leak_free.http("POST", f"/v1.45/containers/{json.loads(text)['Id']}/start")
    assert answer == status, text
    assert b'"message"' in text
    assert b"Traceback" not in text


@pytest.mark.parametrize("name", ["../x", "a/b", "a\n", "-x", "", "é"])
def test_bad_names(leak_free, name) -> None:
    from urllib.parse import quote

    status, text = leak_free.http("POST", f"/containers/create?name={quote(name)}", {"Image": "busybox"})
    assert status == (201 if name == "" else 400), text


@pytest.mark.parametrize("version", ["v1.23", "v1.99", "v1.x", "v9"])
def test_versions_out_of_range(engine, version) -> None:
    status, text = engine.http("GET", f"/{version}/containers/json")
    assert status in {400, 404}
    assert b'"message"' in text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_archive_that_is_cut_short(leak_free, tmp_path, share) -> None:
    whole = busybox_tar(tmp_path / "whole.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: int(len(whole) * share)])
    done = leak_free.docker("import", cut, "cut:1", check=False)
    assert done.returncode != 0
    assert "unexpected EOF" in done.stderr + done.stdout
    assert "cut" not in leak_free.docker("images").stdout


def test_an_archive_that_is_none(leak_free, tmp_path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(20_000))
    done = leak_free.docker("import", tmp_path / "noise", "noise:1", check=False)
    assert done.returncode != 0
    assert "noise" not in leak_free.docker("images").stdout


@pytest.fixture
def small_engine(tmp_path):
    """An engine whose data-root is a file system of 24 MiB."""
    engine = make_engine()
    engine.stop()
    script = f'mount -t tmpfs -o size=24m small {engine.data_root} && exec "$@"'
    holder = engine.netns_holder
    assert holder is not None
    original = Engine.start

    def start(self: Engine, **options):
        import harness

        real = subprocess.Popen

        def private(command, **more):
            if command[0] == "nsenter":
                command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *command]
            return real(command, **more)

        harness.subprocess.Popen, saved = private, harness.subprocess.Popen
        try:
            return original(self, **options)
        finally:
            harness.subprocess.Popen = saved

    start(engine)
    try:
        yield engine
    finally:
        with contextlib.suppress(Exception):
            engine.remove_containers()
        engine.destroy()


def wait_for_room(engine: Engine) -> None:
    """Wait until what containers left is removed, which goes on when their removal is answered."""
    layers = Path(f"/proc/{engine.process.pid}/root{engine.data_root}/layers/overlay2")  # its mounts are its own
    wait_for(lambda: not [name for name in os.listdir(layers) if ".removed" in name], what="room")


def test_a_full_disk(small_engine, tmp_path) -> None:  # R16
    small_engine.import_busybox()
    big = tmp_path / "big"
    big.mkdir()
    (big / "file").write_bytes(os.urandom(30_000_000))
    subprocess.run(["tar", "-C", big, "-cf", tmp_path / "big.tar", "."], check=True)
    done = small_engine.docker("import", tmp_path / "big.tar", "big:1", check=False)
    assert done.returncode != 0
    assert "no space left on device" in (done.stderr + done.stdout).lower()
    assert "big" not in small_engine.docker("images").stdout
    assert small_engine.docker("run", "--rm", "busybox", "echo", "alive").stdout == "alive\n"
    filled = small_engine.docker(
        "run", "--name", "filler", "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=60", check=False
    )
    assert filled.returncode != 0
    assert "No space left" in filled.stderr
    small_engine.docker("rm", "filler")
    wait_for_room(small_engine)
    assert small_engine.docker("run", "--rm", "busybox", "echo", "alive").stdout == "alive\n"


def test_a_full_disk_ends_a_build_and_keeps_its_steps(small_engine, tmp_path) -> None:  # R7, R16
    small_engine.import_busybox()
    layers = small_engine.docker("images", "-aq").stdout

    def build(last: str):
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN echo kept > /kept\n{last}\n")
        command = ("build", "--force-rm", str(tmp_path))
        wait_for_room(small_engine)
        return small_engine.docker(*command, env={"DOCKER_BUILDKIT": "0"}, check=False)

    # in the container, and when its changes become a layer: they are there twice then
    filled = build("RUN dd if=/dev/zero of=/big bs=1M count=60")
    assert (filled.returncode, "No space left on device" in filled.stdout) == (1, True)
    assert layers != small_engine.docker("images", "-aq").stdout  # the step before
    layer = build("RUN dd if=/dev/urandom of=/big bs=1M count=13")
    assert (layer.returncode, "no space left on device" in layer.stderr) == (1, True), layer.stdout + layer.stderr
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    (tmp_path / "context").write_bytes(os.urandom(30_000_000))
    context = small_engine.docker("build", str(tmp_path), env={"DOCKER_BUILDKIT": "0"}, check=False)
    assert (context.returncode, "no space left on device" in context.stderr) == (1, True), context.stderr
    (tmp_path / "context").unlink()
    assert small_engine.docker("ps", "-aq").stdout == ""
    good = build("ENV A=1")
    assert (good.returncode, "Step 2/3 : RUN echo kept > /kept\n ---> Using cache\n" in good.stdout) == (0, True)


def test_an_end_that_cannot_be_recorded(small_engine) -> None:  # R16
    """What the records kept for a full disk is gone by then: the end is known all the same, and recorded later."""
    small_engine.import_busybox()
    fill = "until [ -e /go ]; do sleep 0.1; done; cat /dev/zero >/big; exit 3"
    names = ("one", "two", "three", "four")
    options = {"four": ["--rm"], "again": ["--restart", "on-failure"]}
    for name in names:  # the last one's removal cannot be recorded either
        small_engine.docker("run", "-d", "--name", name, *options.get(name, []), "busybox", "sh", "-c", fill)
    once = f"[ -e /once ] && exec sleep 1000; touch /once; {fill}"
    small_engine.docker("run", "-d", "--name", "again", *options["again"], "busybox", "sh", "-c", once)
    for name in names:
        small_engine.docker("exec", name, "touch", "/go", check=False)
        assert small_engine.docker("wait", name).stdout == "3\n"
        assert small_engine.inspect(name)["State"]["Status"] == "exited"
    assert "cannot record that container" in small_engine.log_text()
    small_engine.docker("exec", "again", "touch", "/go", check=False)
    wait_for(lambda: small_engine.inspect("again")["RestartCount"], what="a restart that cannot be recorded")
    within = ["nsenter", f"--mount=/proc/{small_engine.process.pid}/ns/mnt"]
    subprocess.run([*within, "sh", "-c", f"rm {small_engine.data_root}/layers/overlay2/*/diff/big"], check=True)
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT status FROM container').fetchall())"
    command = [*within, sys.executable, "-c", code, small_engine.data_root / "state.db"]
    recorded = lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: E731
    there = {"exited": 3, "running": 1}
    wait_for(lambda: Counter(re.findall("[a-z]+", recorded())) == there, what="their records")
    assert small_engine.inspect("again")["State"]["Status"] == "running"
    assert "four" not in small_engine.docker("ps", "-a", "--format", "{{.Names}}").stdout
