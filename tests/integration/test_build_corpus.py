"""What Dockerfiles give: each file of ``tests/data/dockerfiles``, beside what Docker gives for it.

A file's configuration, history and what it changed in the base's tree (paths, kinds, modes, owners, link targets,
contents) are compared with ``<name>.json``, which dockerd 26 gave: ``ORLOP_PEERS_HOST`` names such a daemon and
``ORLOP_RECORD=1`` writes them. With ORLOP_PEERS_HOST they are compared live as well. Files that begin with ``k`` are
only for BuildKit, which ``ORLOP_PEERS`` names a script to reach (``docker buildx`` of the peers' tree), without
history; those that begin with ``p`` need a frontend that dockerd 26 does not have, and were read by hand.
"""

import hashlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import urlencode

import pytest

from harness import ROOT, busybox_tar
from orlop.primitives.ignore import parse_ignore

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "iptables", "busybox")]
DATA = ROOT / "tests/data/dockerfiles"
CONTEXT = DATA / "context"
NAMES = sorted(path.name for path in DATA.iterdir() if path.is_file() and not path.suffix)
CLASSIC = [name for name in NAMES if name[0] not in "kp"]
PEER, PEERS = os.environ.get("ORLOP_PEERS_HOST", ""), os.environ.get("ORLOP_PEERS", "")
RECORD = bool(os.environ.get("ORLOP_RECORD"))
GIVEN, LABELS = {"GIVEN": "given"}, {"from": "outside"}
# the engine's own files in a container
NOT_COMPARED = ("dev", "proc", "sys", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab")
# what BuildKit leaves out, and the classic builder puts in
CLASSIC_ONLY = ("Image", "Hostname", "Domainname", "ArgsEscaped", "OnBuild")


class Daemon:
    """Speaks to one daemon's socket."""

    def __init__(self, address):
        self.address = address.removeprefix("unix://")

    def call(self, method, path, body=None, kind="application/json"):
        connection = http.client.HTTPConnection("localhost", timeout=100)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(100)
        connection.sock.connect(self.address)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, (path, answer.status, data[-2000:])
        return data

    def json(self, method, path, body=None):
        return json.loads(self.call(method, path, None if body is None else json.dumps(body)))

    def build(self, context, tag, base):
        query = {
            "t": tag,
            "dockerfile": ".dockerfile.here",
            "rm": 1,
            "forcerm": 1,
            "buildargs": json.dumps({"BASE": base, **GIVEN}),
            "labels": json.dumps(LABELS),
        }
        told = self.call("POST", f"/build?{urlencode(query)}", context, "application/x-tar")
        assert b'"aux":{"ID"' in told.replace(b" ", b""), told[-2000:].decode()

    def tree(self, image):
        """Return what is in an image: kind, mode, owners, link target and content of each path."""
        made = self.json("POST", "/containers/create", {"Image": image, "Cmd": ["none"], "Entrypoint": []})["Id"]
        try:
            return dict(members(self.call("GET", f"/containers/{made}/export")))
        finally:
            self.call("DELETE", f"/containers/{made}?v=1&force=1")


def members(data):
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = member.name.rstrip("/")
            if name.split("/")[0] in NOT_COMPARED or name in NOT_COMPARED or "/.docker" in name:
                continue
            data = archive.extractfile(member).read() if member.isreg() else b""
            content = data.decode() if data.isascii() and len(data) < 200 else hashlib.sha256(data).hexdigest()
            plain = member.isreg() or member.islnk()
            kind = "file" if plain else {b"5": "directory", b"2": "link", b"6": "fifo"}[member.type]
            content = found[member.linkname][-1] if member.islnk() else content
            target = member.linkname if member.issym() else ""
            found[name] = [kind, f"{member.mode:04o}", member.uid, member.gid, target, content]
    return found


def context_of(name):
    """Return the context as docker's client sends it."""
    rules = parse_ignore((CONTEXT / ".dockerignore").read_text())
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path in sorted(CONTEXT.rglob("*")):
            inner = str(path.relative_to(CONTEXT))
            if not rules.ignores(inner):
                member = archive.gettarinfo(path, inner)
                member.uid = member.gid = 0
                archive.addfile(member, io.BytesIO(path.read_bytes()) if member.isreg() else None)
        archive.add(DATA / name, ".dockerfile.here")
    return made.getvalue()


def result(daemon, name, tag, below):
    inspected, found = daemon.json("GET", f"/images/{tag}/json"), daemon.tree(tag)
    bases = re.findall(r"(?im)^from (?:--\S+ )?(\S+)", (DATA / name).read_text())
    below = {} if bases[-1] == "scratch" else below
    return {
        "author": inspected["Author"],
        "config": {
            key: value for key, value in inspected["Config"].items() if value and key not in ("Image", "Hostname")
        },
        "changed": {path: entry for path, entry in found.items() if below.get(path) != entry},
        "gone": sorted(below.keys() - found.keys()),
        "history": [hide(item["CreatedBy"]) for item in daemon.json("GET", f"/images/{tag}/history")],
    }


def hide(line):
    """Return a history's line without the digest of what was copied: what is hashed how is the engine's own."""
    for kind in ("file:", "dir:", "multi:"):
        head, found, tail = line.partition(kind)
        if found:
            return f"{head}{kind}{tail[64:]}"
    return line


def without_history(outcome):
    config = {key: value for key, value in outcome["config"].items() if key not in CLASSIC_ONLY}
    return {"config": config, "changed": outcome["changed"], "gone": outcome["gone"]}


def compared(name, outcome):
    return without_history(outcome) if name[0] in "kp" else outcome


@pytest.fixture(scope="module")
def ours(shared_engine):
    daemon = Daemon(shared_engine.host)
    below = daemon.tree("busybox")

    def build(name):
        daemon.build(context_of(name), "made:1", "busybox")
        return compared(name, result(daemon, name, "made:1", below))

    yield build
    daemon.call("DELETE", "/images/made:1?force=1")
    daemon.call("POST", "/images/prune")


@pytest.mark.parametrize("name", NAMES)
def test_corpus(ours, name):
    if RECORD and name[0] == "p":  # to be read by hand
        recorded(name, ours(name))
    assert ours(name) == json.loads((DATA / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    daemon = Daemon(PEER)
    archive = busybox_tar(tmp_path_factory.mktemp("base") / "base.tar").read_bytes()
    query = urlencode({"fromSrc": "-", "repo": "orlop-build-base", "changes": 'CMD ["sh"]'})
    daemon.call("POST", f"/images/create?{query}", archive, "application/x-tar")
    yield daemon
    for name in ("orlop-build-made", "orlop-build-base"):
        daemon.call("DELETE", f"/images/{name}?force=1")


def recorded(name, outcome):
    if RECORD:
        (DATA / f"{name}.json").write_text(json.dumps(outcome, indent=1, sort_keys=True) + "\n")
    return outcome


@pytest.mark.skipif(not PEER, reason="ORLOP_PEERS_HOST names no daemon")
@pytest.mark.parametrize("name", CLASSIC)
def test_dockerd_gives_the_same(ours, peer, name):
    below = peer.tree("orlop-build-base")
    peer.build(context_of(name), "orlop-build-made", "orlop-build-base")
    theirs = recorded(name, result(peer, name, "orlop-build-made", below))
    assert ours(name) == theirs


@pytest.mark.skipif(not (PEER and PEERS), reason="ORLOP_PEERS_HOST and ORLOP_PEERS name no BuildKit")
@pytest.mark.parametrize("name", [name for name in NAMES if name[0] == "k"])
def test_buildkit_gives_the_same(ours, peer, name):
    below = peer.tree("orlop-build-base")
    shared = Path(PEER.removeprefix("unix://")).parent / "orlop-corpus"
    shutil.copytree(CONTEXT, shared, symlinks=True)
    try:
        shutil.copy(DATA / name, shared / ".dockerfile.here")
        place = f"/{shared.parent.name}/{shared.name}"
        options = ["--build-arg", "BASE=orlop-build-base", "--build-arg", "GIVEN=given", "--label", "from=outside"]
        command = [PEERS, "exec", "docker", "buildx", "build", "--load", "-t", "orlop-build-made", *options]
        done = subprocess.run(
            [*command, "-f", f"{place}/.dockerfile.here", place], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(shared)
    theirs = recorded(name, without_history(result(peer, name, "orlop-build-made", below)))
    assert ours(name) == theirs
