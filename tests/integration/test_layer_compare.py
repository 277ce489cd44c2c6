"""An unpacked layer compared with its tar: what a disk or a hand changed is named, and nothing else is."""

import io
import os
import random
import tarfile
import tempfile

import pytest

from orlop.primitives.tar import Limits, Rules, compare, unpack

pytestmark = [pytest.mark.privileged]
FILE, DIRECTORY, LINK, SYMLINK, FIFO = (
    getattr(tarfile, f"{kind}TYPE") for kind in ("REG", "DIR", "LNK", "SYM", "FIFO")
)
BIG = random.Random(3).randbytes(700_001)


def tar(*members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, content, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode, info.uid = kind, target, len(content), 0o640, 7
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


PLAIN = tar(
    ("d", b"", DIRECTORY, ""),
    ("d/big", BIG, FILE, ""),
    ("d/small", b"x" * 600, FILE, ""),
    ("d/empty", b"", FILE, ""),
    ("same", b"", LINK, "d/big"),
    ("link", b"", SYMLINK, "d"),
    ("link/through", b"seen through a link", FILE, ""),
    ("pipe", b"", FIFO, ""),
    ("d/.wh.gone", b"", FILE, ""),
)
# what is there in the end is not what came first
AGAIN = tar(
    ("d", b"", DIRECTORY, ""),
    ("d/f", b"first", FILE, ""),
    ("d/f", b"second", FILE, ""),
    ("e", b"", DIRECTORY, ""),
    ("e/f", b"first", FILE, ""),
    ("e", b"", SYMLINK, "d"),
)


def as_file(data: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        return os.dup(file.fileno())


class Tree:
    def __init__(self, path, data):
        self.path, self.data = path, data
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        stream = as_file(data)
        unpack(self.fd, stream, Limits())
        os.close(stream)

    def differences(self):
        stream = as_file(self.data)
        try:
            return compare(self.fd, stream, Limits())
        finally:
            os.close(stream)


@pytest.mark.parametrize("data", [PLAIN, AGAIN], ids=["plain", "again"])
def test_what_was_unpacked_is_the_same(tmp_path, data):
    assert Tree(tmp_path, data).differences() == []


def flip(path, place):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


DAMAGES = {
    "/d/big: has another content": lambda root: flip(root / "d/big", 654_321),
    "/d/small: has 599 bytes instead of 600": lambda root: os.truncate(root / "d/small", 599),
    "/d/small: has mode 0600 instead of 0640": lambda root: (root / "d/small").chmod(0o600),
    "/d: has mode 0700 instead of 0640": lambda root: (root / "d").chmod(0o700),
    "/d/empty: belongs to 8:0 instead of 7:0": lambda root: os.chown(root / "d/empty", 8, 0),
    "/d/empty: no such file or directory": lambda root: (root / "d/empty").unlink(),
    "/link/through: has another content": lambda root: flip(root / "d/through", 3),
    "/pipe: is something else": lambda root: ((root / "pipe").unlink(), (root / "pipe").mkdir()),
    "/same: no such file or directory": lambda root: (root / "same").unlink(),
}


@pytest.mark.parametrize("found", DAMAGES)
def test_what_changed_is_named(tmp_path, found):
    tree = Tree(tmp_path, PLAIN)
    DAMAGES[found](tmp_path)
    assert tree.differences() == [found]


def test_another_link(tmp_path):
    tree = Tree(tmp_path, PLAIN)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("/etc")  # of this root: it holds nothing
    os.lchown(tmp_path / "link", 7, 0)
    assert tree.differences() == ["/link: leads elsewhere", "/link/through: no such file or directory"]


LOWER = tar(
    ("usr", b"", DIRECTORY, ""),
    ("usr/bin", b"", DIRECTORY, ""),
    ("usr/bin/tool", b"old", FILE, ""),
    ("usr/bin/gone", b"x", FILE, ""),
    ("bin", b"", SYMLINK, "usr/bin"),
    ("kept", b"", DIRECTORY, ""),
    ("kept/file", b"kept" * 300_000, FILE, ""),
    ("kept/link", b"", SYMLINK, "file"),
    ("kept/pipe", b"", FIFO, ""),
    ("opaque", b"", DIRECTORY, ""),
    ("opaque/old", b"x", FILE, ""),
    ("turned", b"", DIRECTORY, ""),
    ("turned/old", b"x", FILE, ""),
    ("hidden", b"", DIRECTORY, ""),
    ("hidden/old", b"x", FILE, ""),
)
UPPER = tar(
    ("bin/tool", b"new", FILE, ""),  # through a link of the layer below
    ("bin/.wh.gone", b"", FILE, ""),
    ("opaque/.wh..wh..opq", b"", FILE, ""),
    ("opaque/new", b"y", FILE, ""),
    ("turned", b"y", FILE, ""),
    ("hidden/new", b"y", FILE, ""),  # its directory has no member of its own
    (".wh.hidden", b"", FILE, ""),
    ("kept/more", b"", LINK, "kept/file"),
)


class WholeTree:
    """Two directories: a layer, and a copy of it to which another was applied."""

    def __init__(self, path, upper=UPPER):
        self.below, self.tree, self.upper = path / "below", path / "tree", upper
        for root, streams in ((self.below, [LOWER]), (self.tree, [LOWER, upper])):
            root.mkdir()
            for data in streams:
                self.on(root, data, lambda fd, stream: unpack(fd, stream, Limits(), rules=Rules(apply=True)))

    def on(self, root, data, work):
        fd, stream = os.open(root, os.O_RDONLY | os.O_DIRECTORY), as_file(data)
        try:
            return work(fd, stream)
        finally:
            os.close(fd)
            os.close(stream)

    def differences(self):
        below = os.open(self.below, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return self.on(self.tree, self.upper, lambda fd, stream: compare(fd, stream, Limits(), below_fd=below))
        finally:
            os.close(below)


@pytest.mark.parametrize("upper", [UPPER, b""], ids=["layer", "nothing"])
def test_a_whole_tree_is_what_was_copied_and_applied(tmp_path, upper):
    assert WholeTree(tmp_path, upper).differences() == []


INHERITED = {
    "/kept/file: has another content": lambda root: flip(root / "kept/file", 1_100_000),
    "/kept/file: has 5 bytes instead of 1200000": lambda root: os.truncate(root / "kept/file", 5),
    "/kept/file: has mode 0600 instead of 0640": lambda root: (root / "kept/file").chmod(0o600),
    "/kept/link: leads elsewhere": lambda root: (
        (root / "kept/link").unlink(),
        (root / "kept/link").symlink_to("/etc"),
        os.lchown(root / "kept/link", 7, 0),
    ),
    "/kept/pipe: no such file or directory": lambda root: (root / "kept/pipe").unlink(),
    "/usr/bin: belongs to 8:0 instead of 7:0": lambda root: os.chown(root / "usr/bin", 8, 0),
}


@pytest.mark.parametrize("found", INHERITED)
def test_damage_of_what_was_copied_is_named(tmp_path, found):
    whole = WholeTree(tmp_path, b"" if found.startswith("/kept/file") else UPPER)  # there a hard link brings it
    INHERITED[found](whole.tree)
    assert whole.differences() == [found]
