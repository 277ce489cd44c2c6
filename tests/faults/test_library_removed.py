"""J12 of threats.md: the interpreter's library and the engine's own source vanish under a running engine."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

import orlop
from conftest import end_engine, make_engine
from harness import busybox_tar, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "mountns", "overlay", "docker-client")]

GONE = {os.path.dirname(os.__file__), sysconfig.get_path("purelib"), os.path.dirname(orlop.__file__)}


@pytest.fixture
def bare_engine():
    """An engine in a mount namespace of its own, where an empty file system covers all Python files after the start."""
    engine = make_engine(within=("unshare", "-m", "--propagation", "private"))
    try:
        engine.import_busybox()
        for directory in GONE:
            mount = ["nsenter", f"--mount=/proc/{engine.process.pid}/ns/mnt", "mount", "-t", "tmpfs", "none", directory]
            subprocess.run(mount, check=True)
            assert os.listdir(f"/proc/{engine.process.pid}/root{directory}") == []
        yield engine
    finally:
        end_engine(engine)


def test_everything_goes_on_without_the_library(bare_engine, tmp_path) -> None:
    docker = bare_engine.docker
    docker("import", busybox_tar(tmp_path / "again.tar"), "again:1")
    docker("tag", "again:1", "once:more")
    docker("volume", "create", "kept")
    docker("network", "create", "side")
    docker(
        "run",
        "-d",
        "--name",
        "box",
        "--health-cmd",
        "true",
        "-p",
        "127.0.0.1:8099:80",
        "-v",
        "kept:/v",
        "--init",
        "once:more",
        "sleep",
        "99",
    )
    assert docker("exec", "box", "echo", "on").stdout == "on\n"
    assert docker("exec", "box", "nosuch", check=False).returncode == 127
    assert "sleep" in docker("top", "box", "-o", "pid,comm").stdout
    wait_for(lambda: bare_engine.inspect("box")["State"]["Health"]["Status"] == "healthy")
    docker("pause", "box")
    docker("unpause", "box")
    docker("update", "--memory", "99m", "--memory-swap", "99m", "box")
    docker("restart", "-t", "0", "box")
    assert json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", "box").stdout)["Name"] == "box"
    assert docker("run", "--rm", "--network", "none", "--memory", "64m", "once:more", "echo", "x").stdout == "x\n"
    assert docker("run", "--rm", "nosuch:image", check=False).returncode == 125
    assert docker("events", "--since", "1h", "--until", "0s").stdout
    for listing in (
        ["ps", "-a", "-s"],
        ["images"],
        ["system", "df", "-v"],
        ["info"],
        ["logs", "box"],
        ["network", "ls"],
    ):
        docker(*listing)
    assert bare_engine.http("POST", "/containers/create", b"{nonsense")[0] == 400
    Path(tmp_path / "out.tar").write_bytes(docker("export", "box", text=False).stdout)
    docker("rm", "-f", "box")
    docker("volume", "rm", "kept")
