"""What is said to criu, and how: no criu is needed."""

from __future__ import annotations

import copy
import os
import stat

import pytest

from orlop.errors import InvalidParameterError, SystemFailureError, UnavailableError
from orlop.primitives.protobuf.wire import decode, encode
from orlop.runtime.oci import checkpoint, criu
from orlop.runtime.oci.documents import starter_config
from orlop.runtime.oci.images import common_options, external_mounts, foreign_namespaces
from orlop.runtime.oci.options import parse
from orlop.runtime.oci.verbs import all_verbs
from orlop.spec.oci import parse_config

# criu's own encoding of a criu_req: type DUMP, opts { images_dir_fd 3, pid 300, log_file "a", ps { port 80 } }
REQUEST = bytes.fromhex("0801120c080310ac02520161 5a021050".replace(" ", ""))


def test_messages_as_protobuf_has_them():
    options = [(criu.IMAGES_DIR_FD, 3), (criu.PID, 300), (criu.LOG_FILE, "a"), (criu.PAGE_SERVER, [(2, 80)])]
    assert encode([(1, criu.DUMP), (2, options)]) == REQUEST
    fields = decode(REQUEST)
    assert fields[1] == criu.DUMP
    assert decode(fields[2]) == {1: 3, 2: 300, 10: b"a", 11: bytes.fromhex("1050")}


def test_negative_numbers_take_ten_bytes():
    assert decode(encode([(1, -1)])) == {1: 2**64 - 1}
    assert len(encode([(1, -1)])) == 11


@pytest.mark.parametrize("text", ["08", "0a05", "0a", "ff" * 12, "0f", "0d0000", "08ff"])
def test_malformed_messages(text):
    with pytest.raises(InvalidParameterError, match="malformed message"):
        decode(bytes.fromhex(text))


def flags(*words: str):
    return parse(list(words), all_verbs()["checkpoint"].flags, interspersed=True)


def test_options():
    found = common_options(flags("--tcp-established", "--file-locks", "--empty-ns", "network"), 5, 6, "dump.log")
    for wanted in ((criu.IMAGES_DIR_FD, 5), (criu.WORK_DIR_FD, 6), (criu.TCP_ESTABLISHED, 1), (criu.FILE_LOCKS, 1)):
        assert wanted in found
    assert (criu.EMPTY_NS, 0x40000000) in found
    assert (criu.MANAGE_CGROUPS_MODE, 3) in found
    assert criu.SHELL_JOB not in dict(found)


@pytest.mark.parametrize(
    "words",
    [
        ["--manage-cgroups-mode", "maybe"],
        ["--empty-ns", "pid"],
    ],
)
def test_refused_options(words):
    with pytest.raises(InvalidParameterError):
        common_options(flags(*words), 5, 6, "dump.log")


def test_who_waits_for_pages_is_told_once():
    reader, writer = os.pipe()
    number = str(writer)
    with pytest.raises(InvalidParameterError, match="only for --lazy-pages"):
        checkpoint.status_fd(flags("--status-fd", number))
    for bad, words in ((str(reader), "not writable"), ("999", "bad file descriptor"), ("1" * 20, "bad")):
        with pytest.raises(InvalidParameterError, match=rf"invalid --status-fd argument {bad}: .*{words}"):
            checkpoint.status_fd(flags("--lazy-pages", "--status-fd", bad))
    asked = flags("--lazy-pages", "--status-fd", number)
    told = checkpoint.Told(checkpoint.status_fd(asked))
    assert not os.get_inheritable(writer)
    for script in ("pre-dump", "status-ready", "status-ready"):
        told(script, 0, [os.open("/dev/null", os.O_RDONLY)])
    assert os.read(reader, 9) == b"\0"
    assert os.read(reader, 9) == b"", "it is closed"
    os.close(reader)
    assert checkpoint.status_fd(flags("--lazy-pages")) == -1
    assert (criu.LAZY_PAGES, 1) in common_options(asked, 5, 6, "dump.log")


def test_external_mounts():
    document = copy.deepcopy(starter_config())
    document["mounts"] += [
        {"destination": "/data", "type": "bind", "source": "/host/data", "options": ["rbind"]},
        {"destination": "/data/own", "type": "tmpfs", "source": "tmpfs"},
    ]
    document["linux"]["namespaces"][1]["path"] = "/run/netns/x"
    config = parse_config(document)
    directories = {"memory": "/sys/fs/cgroup/memory/c", "": "/sys/fs/cgroup/unified/c"}
    places = ["/", "/proc", "/proc/keys", "/data", "/data/below", "/data/own", "/sys/fs/cgroup/memory", "/dev/shm"]
    assert external_mounts(config, directories, [*places, "/sys/fs/cgroup/unified"]) == {
        "/proc/keys": "/dev/null",
        "/data": "/host/data",
        "/data/below": "/host/data/below",
        "/sys/fs/cgroup/memory": "/sys/fs/cgroup/memory/c",
        "/sys/fs/cgroup/unified": "/sys/fs/cgroup/unified/c",
    }
    assert foreign_namespaces(config) == [("net", "extRootNetNS", "/run/netns/x")]


def fake_criu(tmp_path, program: str) -> str:
    path = tmp_path / "criu"
    path.write_text(f"#!/usr/bin/python3\nimport socket\ns = socket.socket(fileno=3)\ns.recv(9999)\n{program}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(not os.access("/usr/bin/python3", os.X_OK), reason="needs the system's python3")
def test_conversation(tmp_path):
    program = """
s.send(bytes.fromhex("0806 1001 2a09 1007 0a05") + b"ready")
assert s.recv(99) == bytes.fromhex("08061801"), "the notification's answer"
s.send(bytes.fromhex("0802 1001 2202 082a"))
"""
    told = []
    with criu.Criu(fake_criu(tmp_path, program)) as process:
        assert process.request(criu.RESTORE, [(1, 3)], lambda *told_of: told.append(told_of)) == 42
    assert told == [("ready", 7, [])]


@pytest.mark.skipif(not os.access("/usr/bin/python3", os.X_OK), reason="needs the system's python3")
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ('s.send(bytes.fromhex("0801 1000 3810"))', "criu failed: type DUMP errno 16: see /w/dump.log"),
        ('s.send(bytes.fromhex("0801 1000 4a02") + b"no")', "criu failed: type DUMP errno 0: see /w/dump.log"),
        ("", "criu failed: type DUMP: it ended without an answer"),
    ],
)
def test_failures(tmp_path, program, words):
    with criu.Criu(fake_criu(tmp_path, program)) as process, pytest.raises(SystemFailureError) as error:
        process.request(criu.DUMP, [], lambda *_: None, log="/w/dump.log")
    assert str(error.value) == words


@pytest.mark.parametrize("path", ["/nonexistent/criu", "no-such-criu"])
def test_without_criu(path):
    with pytest.raises(UnavailableError, match=r"no-such-criu: executable file not found|/nonexistent/criu: no such"):
        criu.Criu(path)
