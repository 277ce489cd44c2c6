"""``docker cp`` by the docker client and by orlop's own: Podman's and Docker's cases, and what a hostile container tries."""

import base64
import io
import json
import os
import socket
import stat
import subprocess
import tarfile
import threading
import urllib.parse
from pathlib import Path

import pytest

from harness import PATIENCE, client_version, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
TREE = (
    "mkdir -p /srv/sub/in /t; echo a >/srv/sub/a; echo f >/srv/file; ln -s /srv /srvlink; ln -s file /srv/fl;"
    " ln -s sub /srv/dl; chown 5:6 /srv/sub/a; touch /ready; sleep 1000"
)


@pytest.fixture
def engine(shared_engine):
    """The shared engine; unlike elsewhere, containers stay between tests."""
    return shared_engine


@pytest.fixture(scope="module")
def box(shared_engine):
    engine = shared_engine
    engine.docker("run", "-d", "--name", "box", "-w", "/srv", "--tmpfs", "/mem", "-v", "copyvol:/vol", "busybox",
                  "sh", "-c", TREE)  # fmt: skip
    wait_for(lambda: engine.docker("exec", "box", "test", "-e", "/ready", check=False).returncode == 0)
    yield "box"
    engine.docker("rm", "-fv", "box")
    engine.remove_containers()
    engine.docker("volume", "rm", "-f", "copyvol")


@pytest.fixture(params=["docker", "orlop"])
def client(request, engine):
    return getattr(engine, request.param)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory with a file, a directory and links, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src/d/in").mkdir(parents=True)
    (tmp_path / "src/f").write_text("host")
    (tmp_path / "src/d/x").write_text("x")
    (tmp_path / "src/lf").symlink_to("f")
    (tmp_path / "o/ex").mkdir(parents=True)
    (tmp_path / "o/file").write_text("old")
    os.chown(tmp_path / "src/f", 1234, 2345)
    return tmp_path


def sh(engine, script, name="box"):
    return engine.docker("exec", name, "sh", "-c", script).stdout.strip()


def words_of(client, found):
    """Docker's older clients do not pass the engine's words on when there is no such file."""
    old = client.__name__ == "docker" and client_version() < (23, 0)
    if old and isinstance(found, str) and found.startswith("Could not find the file"):
        return "No such container:path: box:/"
    return found


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("src/f", "/t", ["./f", "./file"]),
        ("src/f", "/t/new", ["./file", "./new"]),
        ("src/f", "/t/file", ["./file"]),
        ("src/f", "/t/none/x", "Could not find the file"),
        ("src/f", "/t/none/", "no such directory"),
        ("src/d", "/t", ["./d", "./d/in", "./d/x", "./file"]),
        ("src/d", "/t/new", ["./file", "./new", "./new/in", "./new/x"]),
        ("src/d/.", "/t", ["./file", "./in", "./x"]),
        ("src/d/.", "/t/new", ["./file", "./new", "./new/in", "./new/x"]),
        ("src/d", "/t/file", "cannot copy directory"),
        ("src/lf", "/t", ["./file", "./lf"]),
        ("src/f", "/tlink", ["./f", "./file"]),
        ("src/f", "../t/new", ["./file", "./new"]),
    ],
)
def test_into_a_container(engine, box, client, home, source, target, found):
    found = words_of(client, found)
    sh(engine, "rm -rf /t; mkdir -p /t; echo old >/t/file; ln -sfn /t /tlink")
    done = client("cp", source, f"box:{target}", check=False)
    if isinstance(found, str):
        assert done.returncode == 1
        assert found in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert sh(engine, "cd /t; find . -mindepth 1 | sort").split() == found


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("/srv/file", "o", ["ex", "file"]),
        ("/srv/file", "o/new", ["ex", "file", "new"]),
        ("/srv/file", "o/none/", "no such directory"),
        ("/srv/sub", "o", ["ex", "file", "sub", "sub/a", "sub/in"]),
        ("/srv/sub", "o/new", ["ex", "file", "new", "new/a", "new/in"]),
        ("/srv/sub/.", "o", ["a", "ex", "file", "in"]),
        ("/srv/sub/.", "o/new", ["ex", "file", "new", "new/a", "new/in"]),
        ("/srv/sub", "o/file", "cannot copy directory"),
        ("/srv/fl", "o", ["ex", "file", "fl"]),
        ("/srvlink/sub", "o/new", ["ex", "file", "new", "new/a", "new/in"]),
        ("/nope", "o", "Could not find the file /nope in container box"),
    ],
)
def test_out_of_a_container(engine, box, client, home, source, target, found):
    found = words_of(client, found)
    done = client("cp", f"box:{source}", target, check=False)
    if isinstance(found, str):
        assert done.returncode == 1
        assert found in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert sorted(str(path.relative_to(home / "o")) for path in (home / "o").rglob("*")) == found


def test_links_are_followed_when_asked(engine, box, client, home):
    client("cp", "-L", "box:/srv/dl", "o")
    assert (home / "o/dl/a").read_text() == "a\n"
    client("cp", "-L", "src/lf", "box:/t/followed")
    assert sh(engine, "stat -c %F /t/followed; cat /t/followed") == "regular file\nhost"


def test_owners(engine, box, home):
    """docker's are dockerd's; orlop's are the manual's: root inside, the caller outside, ``-a`` the source's."""
    sh(engine, "rm -rf /t; mkdir -p /t")
    engine.docker("cp", "src/f", "box:/t/docker")
    engine.orlop("cp", "src/f", "box:/t/orlop")
    engine.orlop("cp", "-a", "src/f", "box:/t/archive")
    owners = "1234:2345\n0:0\n1234:2345"
    assert sh(engine, "cd /t; stat -c %u:%g docker orlop archive") == owners
    engine.orlop("cp", "box:/srv/sub", "o/plain")
    engine.orlop("cp", "-a", "box:/srv/sub", "o/kept")
    assert [(home / "o" / name / "a").stat().st_uid for name in ("plain", "kept")] == [0, 5]


def archive_path(name, path, **more):
    return f"/v1.45/containers/{name}/archive?{urllib.parse.urlencode({'path': path, **more})}"


def tar_of(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.uid = 77
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif content.startswith("->"):
                info.type, info.linkname = tarfile.SYMTYPE, content[2:]
            else:
                info.size = len(content)
            out.addfile(info, io.BytesIO((content or "").encode()))
    return buffer.getvalue()


def put(engine, name, path, data, **more):
    status, body = engine.http("PUT", archive_path(name, path, **more), data)
    return status, json.loads(body)["message"] if body else ""


def test_kinds_are_kept_and_owners_copied_when_asked(engine, box):
    sh(engine, "rm -rf /t; mkdir -p /t/dir; touch /t/file")
    refused = put(engine, "box", "/t", tar_of(("file", None)), noOverwriteDirNonDir="true")
    assert refused == (400, 'cannot overwrite non-directory "/t/file" with directory "/t"')
    status, message = put(engine, "box", "/t", tar_of(("dir", "x")), noOverwriteDirNonDir="true")
    assert (status, "cannot overwrite directory" in message) == (400, True)
    assert put(engine, "box", "/t", tar_of(("dir", "x"), ("file", None))) == (200, "")
    assert sh(engine, "cd /t; stat -c '%n %F %u' dir file") == "dir regular file 77\nfile directory 77"
    engine.docker("run", "-d", "--name", "owned", "-u", "alice", "busybox", "sleep", "100")
    assert put(engine, "owned", "/tmp", tar_of(("a/b", "x")), copyUIDGID="1")[0] == 200
    assert sh(engine, "stat -c %u:%g /tmp/a/b", "owned") == "1000:1000"
    engine.docker("rm", "-f", "owned")


def test_compressed_streams_and_absolute_links(engine, box):
    sh(engine, "rm -rf /t /real; mkdir -p /t /real; ln -s /real /t/var")
    data = subprocess.run(["gzip"], input=tar_of(("var/x", "1")), capture_output=True, check=True).stdout
    assert put(engine, "box", "/t", data)[0] == 200
    assert sh(engine, "cat /real/x") == "1"
    assert put(engine, "box", "/srv/file", data) == (400, "extraction point is not a directory")
    assert put(engine, "box", "/", b"this is no tar" * 100)[0] == 400
    assert put(engine, "box", "", data)[0] == 400


def test_volumes_and_tmpfs_are_there(engine, box, home):
    engine.docker("cp", "src/f", "box:/mem/f")
    engine.docker("cp", "src/f", "box:/vol/f")
    assert sh(engine, "cat /mem/f /vol/f") == "hosthost"
    engine.docker("cp", "box:/mem/f", "o/mem")
    assert (home / "o/mem").read_text() == "host"
    # what the kernel makes up is no file; a walk does not enter it
    assert engine.docker("cp", "box:/proc/version", "o", check=False).returncode == 1
    whole = engine.docker("cp", "box:/", "-", text=False).stdout
    names = tarfile.open(fileobj=io.BytesIO(whole)).getnames()
    assert {"/vol/f", "/mem/f", "/proc"} <= set(names)
    assert not any(name.startswith(("/proc/", "/sys/", "/dev/")) for name in names)


def test_a_stopped_container(engine, home):
    """Volumes are filled first, mounted for the moment, and not seen outside; the layer gets what is copied."""
    engine.docker(
        "create", "--name", "still", "-v", "/etc", "-v", f"{home}/o:/bound:ro", "busybox", "cat", "/etc/f", "/x"
    )
    engine.docker("cp", "src/f", "still:/etc/f")
    engine.docker("cp", "src/f", "still:/x")
    refused = engine.docker("cp", "src/f", "still:/bound/f", check=False)
    assert "mounted volume is marked read-only" in refused.stderr
    engine.docker("cp", "still:/bound/file", "out")
    assert (home / "out").read_text() == "old"
    assert "root:" in engine.docker("cp", "still:/etc/passwd", "-").stdout
    assert str(engine.home) not in Path("/proc/self/mountinfo").read_text()
    assert engine.docker("start", "-a", "still").stdout == "hosthost"
    engine.docker("rm", "-v", "still")


def test_a_container_that_ends_at_that_moment(engine, home):
    """Its process is gone and nobody has noticed yet, or it goes while the copy begins."""
    for number in range(25):
        name = f"short-{number}"
        engine.docker("create", "--name", name, "busybox", "sh", "-c", f"echo {number} >/f; sleep 0.0{number:02}")
        engine.http("POST", f"/containers/{name}/start")
        status, body = engine.http("GET", f"/containers/{name}/archive?path=/etc/group")
        assert status == 200, body
        assert engine.http("HEAD", f"/containers/{name}/archive?path=/etc/group")[0] == 200
        engine.http("POST", f"/containers/{name}/start")
        assert engine.http("GET", f"/containers/{name}/export")[0] == 200


def test_a_read_only_root(engine, home):
    engine.docker("run", "-d", "--name", "ro", "--read-only", "-v", "/data", "busybox", "sleep", "100")
    engine.docker("cp", "src/f", "ro:/data/f")
    for _ in range(2):
        refused = engine.docker("cp", "src/f", "ro:/f", check=False)
        assert "container rootfs is marked read-only" in refused.stderr
        engine.docker("kill", "ro", check=False)
    engine.docker("rm", "-fv", "ro")


def test_names_that_climb_out_are_refused(engine, box):
    for name in ("../../x", "/../x"):
        status, message = put(engine, "box", "/t", tar_of((name, "x")))
        assert (status, name.strip("/") in message) == (400, True)
    assert put(engine, "box", "/t", tar_of(("l", "->../../../.."), ("l/escaped", "x")))[0] == 200
    assert sh(engine, "ls /escaped") == "/escaped"


def test_a_container_that_swaps_links_reaches_nothing(engine, tmp_path):
    """CVE-2018-15664: the path is a directory when it is looked at and a link to the host's root when it is used."""
    marker = tmp_path / "secret"
    marker.write_text("host")
    script = (
        f"mkdir -p /play/dir {tmp_path}; echo inside >{marker}; touch /ready;"
        " while :; do ln -sfn / /play/dir2; mv /play/dir /play/old; mv /play/dir2 /play/dir; rm /play/dir; mv /play/old"
        " /play/dir; done"
    )
    engine.docker("run", "-d", "--name", "swap", "busybox", "sh", "-c", script)
    wait_for(lambda: engine.docker("exec", "swap", "test", "-e", "/ready", check=False).returncode == 0)
    before = set(os.listdir("/"))
    failures = []

    def copy():
        for _ in range(15):
            put(engine, "swap", "/play/dir", tar_of((f"planted-{os.getpid()}", "x")))
            status, body = engine.http("GET", archive_path("swap", f"/play/dir{marker}"))
            if status == 200 and b"inside" not in body:
                failures.append(body)

    threads = [threading.Thread(target=copy) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert marker.read_text() == "host"
    assert set(os.listdir("/")) == before
    engine.docker("rm", "-f", "swap")


def test_devices_are_copied_as_nodes_and_never_opened(engine, box):
    sh(engine, "mkdir -p /dv; mknod /dv/loop b 7 0; mkfifo /dv/fifo")
    data = engine.docker("cp", "box:/dv", "-", text=False, timeout=20 * PATIENCE).stdout
    kinds = {member.name: member.type for member in tarfile.open(fileobj=io.BytesIO(data))}
    assert kinds == {"dv": tarfile.DIRTYPE, "dv/loop": tarfile.BLKTYPE, "dv/fifo": tarfile.FIFOTYPE}


def test_head_describes(engine, box):
    process = subprocess.run(
        ["curl", "-sI", "--unix-socket", engine.socket, f"http://x{archive_path('box', '/srv/fl')}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    header = next(line for line in process.stdout.splitlines() if line.lower().startswith("x-docker-container-path"))
    found = json.loads(base64.b64decode(header.split(": ")[1]))
    assert (found["name"], found["size"], found["linkTarget"]) == ("fl", 4, "/srv/file")
    assert found["mode"] == (1 << 27) | stat.S_IMODE(0o777)


def test_a_stalled_copy_does_not_keep_a_container_from_starting(engine):
    """Its mounts must not meet those of the next run: the copy is broken off, and its process ends."""
    engine.docker(
        "run", "-d", "--name", "slow", "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=30; sleep 1000"
    )
    wait_for(lambda: sh(engine, "stat -c %s /big || :", "slow") == str(30 << 20))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.socket))
        client.sendall(f"GET {archive_path('slow', '/big')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(100)
        engine.docker("kill", "slow")
        engine.docker("start", "slow", timeout=10 * PATIENCE)
        # the rest of what was on its way, and then the end
        client.settimeout(10 * PATIENCE)
        received = 0
        while data := client.recv(1 << 20):
            received += len(data)
        assert received < 30 << 20
    assert engine.inspect("slow")["State"]["Running"]
    engine.docker("rm", "-f", "slow")
