"""An engine on the storage driver ``devicemapper``."""

from __future__ import annotations

import json
import subprocess

import pytest
from snapshot_lab import SMALL_POOL
from test_storage_drivers import (  # noqa: F401 - run here on another engine
    clean,
    layered,
    test_a_damaged_layer_is_made_again_and_all_that_shares_it,
    test_commit_makes_whiteouts_and_the_layer_is_applied,
    test_containers_are_apart_and_info_names_the_driver,
    test_copies_and_exports,
)

from conftest import end_engine, make_engine
from harness import held_devices, wait_for

pytestmark = pytest.mark.vm(long=True)
OPTIONS = tuple(word for name, value in SMALL_POOL.items() for word in ("--storage-opt", f"{name}={value}"))


@pytest.fixture(scope="module")
def engine():
    made = make_engine("--storage-driver", "devicemapper", *OPTIONS)
    try:
        made.import_busybox()
        yield made
    finally:
        end_engine(made)
    wait_for(lambda: held_devices() == [], seconds=20)


def test_info_has_the_fields_of_docker(engine):
    status = dict(json.loads(engine.docker("info", "-f", "{{json .DriverStatus}}").stdout))
    assert list(status) == [
        *("Pool Name", "Pool Blocksize", "Base Device Size", "Backing Filesystem", "Udev Sync Supported"),
        *("Data file", "Metadata file", "Data loop file", "Metadata loop file"),
        *("Data Space Used", "Data Space Total", "Data Space Available"),
        *("Metadata Space Used", "Metadata Space Total", "Metadata Space Available"),
        *("Thin Pool Minimum Free Space", "Deferred Removal Enabled", "Deferred Deletion Enabled"),
        "Deferred Deleted Device Count",
    ]
    assert status["Pool Blocksize"] == "65.54kB"
    assert status["Base Device Size"] == "67.11MB"
    assert status["Data Space Total"] == "1.074GB"
    graph = json.loads(engine.docker("inspect", "-f", "{{json .GraphDriver}}", "busybox").stdout)
    assert graph["Name"] == "devicemapper"
    assert graph["Data"]["DeviceName"].startswith(status["Pool Name"].removesuffix("pool"))


def test_the_size_of_a_container_is_its_device(engine):
    script = "df -m / | tail -1 | awk '{print ($2 > 100), $6}'"
    large = engine.docker("run", "--rm", "--storage-opt", "size=200M", "busybox", "sh", "-c", script)
    assert large.stdout == "1 /\n"
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", script).stdout == "0 /\n"
    small = engine.docker("create", "--storage-opt", "size=1M", "busybox", check=False)
    assert "Container size cannot be smaller than 67.11MB" in small.stderr


def test_images_are_mounted_and_built(engine, tmp_path):
    mounted = engine.docker(
        "run", "--rm", "--mount", "type=image,source=busybox,target=/i", "busybox", "ls", "/i/bin/sh"
    )
    assert mounted.stdout == "/i/bin/sh\n"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY file /there\nRUN echo more >>/there && rm /bin/vi\n")
    (tmp_path / "file").write_text("text\n")
    engine.docker("build", "-q", "-t", "built", tmp_path, env={"DOCKER_BUILDKIT": "0"})
    script = "cat /there; ls /bin/vi 2>/dev/null || echo gone"
    assert engine.docker("run", "--rm", "built", "sh", "-c", script).stdout == "text\nmore\ngone\n"
    engine.docker("rmi", "built")


def test_a_container_outlives_its_engine_and_its_device_goes_with_it(engine):
    engine.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo before >/f; exec sleep 1000")
    engine.kill()
    engine.start()
    assert engine.docker("exec", "box", "cat", "/f").stdout == "before\n"
    engine.docker("exec", "box", "sh", "-c", "echo after >>/f")
    engine.docker("restart", "-t", "0", "box")
    assert engine.docker("diff", "box").stdout == "A /f\n"
    engine.docker("rm", "-f", "box")
    wait_for(lambda: ("Deferred Deleted Device Count", "0") in status(engine), seconds=20)
    used = dict(status(engine))["Data Space Used"]
    engine.docker("run", "--name", "writer", "busybox", "dd", "if=/dev/urandom", "of=/f", "bs=1M", "count=20")
    assert wait_for(lambda: dict(status(engine))["Data Space Used"] != used, seconds=20)


def status(engine):
    return [tuple(pair) for pair in json.loads(engine.docker("info", "-f", "{{json .DriverStatus}}").stdout)]


def test_nothing_is_left_when_all_have_gone(engine):
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    box = engine.inspect("box")["State"]["Pid"]
    engine.kill()
    assert any("pool" in line for line in held_devices())
    subprocess.run(["kill", "-9", str(box)], check=True)
    wait_for(lambda: held_devices() == [], seconds=20)
    engine.start()
    assert engine.inspect("box")["State"]["Status"] == "exited"
    engine.docker("start", "box")
