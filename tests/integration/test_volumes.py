"""Volumes and mounts of every kind, by the docker client: what is seen inside, and in whose words it is refused."""

import json
import os
from pathlib import Path

import pytest

from harness import wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


@pytest.fixture(autouse=True)
def no_volumes_left(engine):
    yield
    engine.remove_containers()
    engine.prune_volumes()
    assert engine.docker("volume", "ls", "-q").stdout == ""


def run(engine, *words, check=True, client="docker"):
    return getattr(engine, client)("run", "--rm", *words, check=check)


def sh(engine, *flags, script):
    return run(engine, *flags, "busybox", "sh", "-c", script).stdout


@pytest.fixture
def donor(engine, tmp_path):
    (tmp_path / "f").write_text("bound")
    engine.docker("run", "-d", "--name", "donor", "-v", "data:/data", "-v", "/anon", "-v", f"{tmp_path}:/bound:ro",
                  "--tmpfs", "/tm", "busybox", "sh", "-c",
                  "mkdir -p /data/sub/deep; echo 1 >/data/sub/x; ln -s sub /data/l; ln -s /etc /data/abs;"
                  " ln -s ../../../../../../.. /data/up; echo a >/anon/a; touch /data/ready; sleep 1000")  # fmt: skip
    wait_for(lambda: engine.docker("exec", "donor", "test", "-e", "/data/ready", check=False).returncode == 0)


@pytest.mark.parametrize("client", ["docker", "orlop"])
def test_volumes_from(engine, donor, client):
    script = "cat /data/sub/x /anon/a /bound/f; touch /bound/y; touch /data/y; ls -d /tm"
    done = run(engine, "--volumes-from", "donor", "busybox", "sh", "-c", script, check=False, client=client)
    assert done.stdout == "1\na\nbound"
    assert "/bound/y: Read-only file system" in done.stderr
    assert "/data/y" not in done.stderr
    done = run(engine, "--volumes-from", "donor:ro", "busybox", "touch", "/data/z", check=False, client=client)
    assert "/data/z: Read-only file system" in done.stderr


def test_volumes_from_gives_way_and_keeps_what_is_in_use(engine, donor):
    assert sh(engine, "--volumes-from", "donor", "-v", "other:/data", "--tmpfs", "/anon", script="ls /data /anon") == (
        "/anon:\n\n/data:\n"
    )
    engine.docker("create", "--name", "second", "--volumes-from", "donor", "busybox", "cat", "/anon/a")
    mounts = {mount["Destination"]: mount for mount in engine.inspect("second")["Mounts"]}
    assert {name: mount["RW"] for name, mount in mounts.items()} == {"/data": True, "/anon": True, "/bound": False}
    engine.docker("rm", "-fv", "donor")
    assert engine.docker("start", "-a", "second").stdout == "a\n"  # the anonymous volume is still in use
    engine.docker("rm", "-v", "second")
    assert mounts["/anon"]["Name"] not in engine.docker("volume", "ls", "-q").stdout


@pytest.mark.parametrize(("value", "message"), [("donor:zz", "invalid mode: zz"), ("nope", "No such container: nope")])
def test_volumes_from_refused(engine, donor, value, message):
    assert message in run(engine, "--volumes-from", value, "busybox", "true", check=False).stderr


@pytest.mark.requires("recent-docker-client")
@pytest.mark.parametrize(
    ("subpath", "script", "output"),
    [
        ("sub", "ls /s", "deep\nx\n"),
        ("sub/x", "cat /s", "1\n"),
        ("l", "ls /s", "deep\nx\n"),
        ("up", "ls /s | head -1", "abs\n"),  # as far up as the volume goes
        ("abs", "true", "cannot access path"),
        ("none", "true", "cannot access path"),
        ("../x", "true", "subpath must be a relative path within the volume"),
        ("/sub", "true", "subpath must be a relative path within the volume"),
    ],
)
def test_a_part_of_a_volume(engine, donor, subpath, script, output):
    """A link in the volume leads nowhere outside of it (CVE-2024-11218)."""
    mount = f"type=volume,source=data,target=/s,volume-subpath={subpath}"
    done = run(engine, "--mount", mount, "busybox", "sh", "-c", script, check=False)
    assert output in (done.stdout if done.returncode == 0 else done.stderr)
    assert (done.returncode == 0) == output.endswith("\n")


def test_a_volume_that_is_a_bind(engine, tmp_path):
    (tmp_path / "f").write_text("x")
    engine.docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}", "bound")
    assert sh(engine, "-v", "bound:/b", script="touch /b/made; ls /b") == "f\nmade\n"
    assert (tmp_path / "made").exists()
    refused = run(engine, "-v", "bound:/b:ro", "busybox", "touch", "/b/no", check=False)
    assert "Read-only" in refused.stderr
    engine.docker("create", "--name", "still", "-v", "bound:/b", "busybox")
    assert engine.docker("cp", "still:/b/f", "-").stdout.count("f")
    engine.docker("rm", "still")
    engine.docker("volume", "rm", "bound")
    assert (tmp_path / "f").exists()


def test_a_volume_that_is_a_tmpfs(engine):
    engine.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=7", "mem")
    script = "touch /t/f; stat -c %u /t; df -k /t | tail -1 | awk '{print $2}'"
    assert sh(engine, "-v", "mem:/t", script=script) == "7\n1024\n"
    assert sh(engine, "-v", "mem:/t", script="ls /t") == ""
    document = json.loads(engine.docker("volume", "inspect", "mem").stdout)[0]
    assert document["Options"] == {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}
    # containers that run at the same time have the same one, also through a link, and read-only
    engine.docker("run", "-d", "--name", "has", "-v", "mem:/tmp/lnk/t", "busybox", "sleep", "100")
    engine.docker("exec", "has", "sh", "-c", "echo hello >/tmp/lnk/t/f")
    assert sh(engine, "-v", "mem:/t", script="cat /t/f; echo more >/t/g; df -k /t | tail -1 | awk '{print $2}'") == (
        "hello\n1024\n"
    )
    assert "Read-only" in run(engine, "-v", "mem:/t:ro", "busybox", "touch", "/t/x", check=False).stderr
    engine.docker("run", "-d", "--name", "too", "--privileged", "-v", "mem:/u:ro", "busybox", "sleep", "100")
    engine.docker("rm", "-f", "has")
    assert sh(engine, "-v", "mem:/t", script="cat /t/f /t/g; touch /t/y") == "hello\nmore\n"
    engine.docker("exec", "too", "umount", "/u")
    told = run(engine, "-v", "mem:/t", "busybox", "true", check=False).stderr
    assert "its tmpfs is not there any more" in told
    engine.docker("rm", "-f", "too")
    assert sh(engine, "-v", "mem:/t", script="ls /t") == ""
    assert str(engine.data_root) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("client", ["docker", "orlop"])
def test_an_image_is_mounted_read_only(engine, client):
    done = run(engine, "--mount", "type=image,source=busybox,target=/i", "busybox", "sh", "-c",
               "ls /i/bin/busybox; touch /i/x", check=False, client=client)  # fmt: skip
    assert done.stdout == "/i/bin/busybox\n"
    assert "Read-only" in done.stderr
    engine.docker("tag", "busybox", "mounted")
    engine.docker("create", "--name", "user", "--mount", "type=image,source=mounted,target=/i", "busybox", "true")
    assert "etc/passwd" in engine.docker("cp", "user:/i/etc", "-").stdout
    engine.docker("rm", "user")
    engine.docker("rmi", "mounted")
    if client == "orlop":  # docker's client says it since 28.3
        script = "cat /h; ls /i/busybox; touch /i/x"
        parts = ("--mount", "type=image,source=busybox,target=/i,image-subpath=bin")
        file = ("--mount", "type=image,source=busybox,target=/h,image-subpath=etc/group")
        done = run(engine, *parts, *file, "busybox", "sh", "-c", script, check=False, client=client)
        assert done.stdout.splitlines() == ["root:x:0:", "alice:x:1000:", "staff:x:50:alice", "/i/busybox"]
        assert "Read-only" in done.stderr
        texts = ("--mount", "type=image,source=busybox,target=/i,image-subpath=etc")
        engine.orlop("create", "--name", "part", *texts, "busybox", "true")
        assert "i/passwd" in engine.docker("cp", "part:/i", "-").stdout
        engine.docker("rm", "part")
        for part, message in (("../etc", "relative path within the image"), ("nowhere", "cannot access path nowhere")):
            mount = f"type=image,source=busybox,target=/i,image-subpath={part}"
            assert message in run(engine, "--mount", mount, "busybox", "true", check=False, client=client).stderr
    missing = run(
        engine, "--pull", "never", "--mount", "type=image,source=nope,target=/i", "busybox", "true", check=False
    )
    assert "No such image: nope" in missing.stderr


def test_files_belong_to_the_user_without_a_chown(engine, tmp_path):
    """``:U``: root's files on disk are the user's inside and the other way round; nothing on disk changes."""
    engine.docker("run", "--rm", "-v", "own:/v", "busybox", "touch", "/v/old")
    script = "id -un; touch /v/new; stat -c '%n %u:%g' /v /v/old /v/new"
    told = sh(engine, "-u", "alice", "-v", "own:/v:U", script=script)
    assert told == "alice\n/v 1000:1000\n/v/old 1000:1000\n/v/new 1000:1000\n"
    data = engine.data_root / "volumes/own/_data"
    assert {path.name: path.stat().st_uid for path in data.iterdir()} == {"old": 0, "new": 0}
    os.chown(tmp_path, 33, 44)
    assert sh(engine, "-u", "5:6", "-v", f"{tmp_path}:/b:U", script="touch /b/f; stat -c %u:%g /b /b/f") == "5:6\n5:6\n"
    assert ((tmp_path / "f").stat().st_uid, (tmp_path / "f").stat().st_gid) == (33, 44)
    assert sh(engine, "-v", "own:/v:U", script="stat -c %u /v") == "0\n"


def test_a_relative_volume_of_an_image(engine):
    """``VOLUME data`` is /data, and is filled from there."""
    text = "FROM busybox\nRUN mkdir /data && echo 1 >/data/f\nVOLUME data\n"
    engine.docker("build", "-q", "-t", "relative", "-", input=text, env={"DOCKER_BUILDKIT": "0"})
    assert sh_of(engine, "relative", "cat /data/f; grep -c ' /data ' /proc/mounts") == "1\n1\n"
    engine.docker("rmi", "relative")


def sh_of(engine, image, script):
    return run(engine, image, "sh", "-c", script).stdout


def test_prune_leaves_volumes_with_options(engine):
    engine.docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/etc", "kept")
    engine.docker("volume", "create", "gone")
    engine.docker("volume", "prune", "-f", "--filter", "all=1")
    assert engine.docker("volume", "ls", "-q").stdout == "kept\n"


def test_copy_up_happens_once(engine):
    engine.docker("run", "--rm", "-v", "etc:/etc", "busybox", "sh", "-c", "test -e /etc/group && rm /etc/passwd")
    assert "passwd" not in sh(engine, "-v", "etc:/x", script="ls /x")
    assert "passwd" not in sh(engine, "-v", "etc:/etc", script="ls /etc")
    assert sh(engine, "-v", "none:/etc:nocopy", script="ls -A /etc | grep passwd; true") == ""
