"""Two hundred archives that want out, in all ways in which an archive is unpacked; generated, the same ones every time.

Nothing outside of the target may change, memory must stay bounded, an error must be one of ours and name the member.
"""

import bz2
import contextlib
import lzma
import os
import random
import re
import resource
import stat
import tempfile
import threading
import zlib
from pathlib import Path

import pytest

from conftest import make_engine
from harness import Engine, busybox_tar
from orlop.errors import OrlopError
from orlop.primitives.removal import remove_tree
from orlop.primitives.tar import Limits, Rules, unpack_chunks

pytestmark = [pytest.mark.privileged]
BLOCK = 512


def header(name, flag=b"0", *, size=0, link=b"", mode=0o644, uid=0, mtime=0, device=(0, 0), magic=b"ustar\x0000"):
    """One ustar block with a right checksum, whatever the fields hold."""

    def octal(value, width):
        if isinstance(value, bytes):
            return value.ljust(width, b"\0")[:width]
        return (
            b"%0*o\0" % (width - 1, value)
            if 0 <= value < 8 ** (width - 1)
            else b"\x80" + value.to_bytes(width - 1, "big", signed=True)
        )

    block = bytearray(BLOCK)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108], block[108:116], block[116:124] = octal(mode, 8), octal(uid, 8), octal(0, 8)
    block[124:136], block[136:148], block[148:156] = octal(size, 12), octal(mtime, 12), b" " * 8
    block[156:157], block[157:257], block[257:265] = flag, link[:100].ljust(100, b"\0"), magic
    block[329:337], block[337:345] = octal(device[0], 8), octal(device[1], 8)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name, content=b"", **fields):
    return header(name, size=len(content), **fields) + content + bytes(-len(content) % BLOCK)


def pax(records, flag=b"x"):
    body = b"".join(b"%d %s=%s\n" % (len_of(key, value), key, value) for key, value in records)
    return header(b"pax", flag, size=len(body)) + body + bytes(-len(body) % BLOCK)


def len_of(key, value):
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length = len(str(length)) + len(key) + len(value) + 3
    return length


def long_name(name, flag=b"L"):
    body = name + b"\0"
    return header(b"././@LongLink", flag, size=len(body)) + body + bytes(-len(body) % BLOCK)


D, S, H = b"5", b"2", b"1"
END = bytes(2 * BLOCK)
OUT = (
    b"../outside",
    b"/../outside",
    b"../../outside",
    b"../../../../../../../../HOME/outside",
    b"HOME/outside",
    b"//HOME/outside",
)


def archives(home):
    """Yield name and bytes of each archive; ``home`` holds the target, ``root``, and ``outside``."""
    random.seed(20261125)
    out = [path.replace(b"HOME", os.fsencode(str(home)).lstrip(b"/")) for path in OUT]
    for number, path in enumerate(out):
        yield f"name-{number}", member(path + b"/planted", b"x")
        yield f"file-{number}", member(path + b"/secret", b"overwritten")
        yield f"link-then-file-{number}", member(b"l", flag=S, link=path) + member(b"l/planted", b"x")
        yield f"link-then-secret-{number}", member(b"l", flag=S, link=path) + member(b"l/secret", b"x")
        yield f"link-to-file-{number}", member(b"l", flag=S, link=path + b"/secret") + member(b"l", b"x")
        yield f"hard-link-{number}", member(b"h", flag=H, link=path + b"/secret") + member(b"h", b"x")
        yield f"hard-link-through-{number}", member(b"l", flag=S, link=path) + member(b"h", flag=H, link=b"l/secret")
        yield f"directory-mode-{number}", member(path, flag=D, mode=0o777)
        yield (
            f"directory-over-link-{number}",
            member(b"l", flag=S, link=path) + member(b"l", flag=D, mode=0o777) + member(b"l/x", b"x"),
        )
        yield f"whiteout-{number}", member(path + b"/.wh.secret")
        yield f"opaque-{number}", member(path + b"/.wh..wh..opq")
        yield f"whiteout-through-{number}", member(b"l", flag=S, link=path) + member(b"l/.wh.secret")
        yield f"pax-path-{number}", pax([(b"path", path + b"/planted")]) + member(b"harmless", b"x")
        yield (
            f"pax-link-{number}",
            pax([(b"linkpath", path)]) + member(b"l", flag=S, link=b"x") + member(b"l/planted", b"x"),
        )
        yield f"gnu-name-{number}", long_name(path + b"/planted") + member(b"harmless", b"x")
        yield (
            f"chain-{number}",
            b"".join(
                [
                    member(b"a", flag=S, link=b"b"),
                    member(b"b", flag=S, link=b"c"),
                    member(b"c", flag=S, link=path),
                    member(b"a/planted", b"x"),
                ]
            ),
        )
        yield (
            f"replaced-{number}",
            member(b"d", flag=D) + member(b"d/x", b"1") + member(b"d", flag=S, link=path) + member(b"d/planted", b"x"),
        )
        yield f"device-{number}", member(b"l", flag=S, link=path) + member(b"l/null", flag=b"3", device=(1, 3))
        yield f"owner-{number}", member(b"l", flag=S, link=path + b"/secret", uid=7)
        yield f"times-{number}", member(b"l", flag=S, link=path, mtime=1) + member(b"l", flag=S, link=path, mtime=2)
    for name in (
        b".wh.",
        b".wh...",
        b".wh..",
        b"d/.wh.",
        b".wh..wh..opq/x",
        b".wh.a/b",
        b"..",
        b"a/../..",
        b"a/../../b",
    ):
        yield f"odd-{name!r}", member(name, b"x")
    for size in (-1, 1 << 40, 1 << 62, b"99999999999", b"zz", b"\xff" * 12):
        yield f"size-{size!r}", header(b"big", size=size) + b"x" * 700
        yield f"pax-size-{size!r}", pax([(b"size", str(size).encode())]) + header(b"big", size=3) + b"x" * 700
    for name in (b"\xff\xfe/\xfd", b"new\nline", b"a" * 99 + b"/" + b"b" * 100, b"\x1b[31m", b"nul\0hidden"):
        yield f"bytes-{name!r}", member(name, b"x") + header(b"cut", size=100)
    yield "long-name", long_name(b"n" * 5000) + member(b"x")
    yield "long-component", long_name(b"n" * 300) + member(b"x", b"1")
    yield "deep", long_name(b"d/" * 2000 + b"x") + member(b"x", b"1")
    yield "metadata-bomb", header(b"pax", b"x", size=1 << 33) + b"x" * 4096
    yield "name-bomb", header(b"././@LongLink", b"L", size=1 << 33) + b"x" * 4096
    yield (
        "xattrs",
        pax([(b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"), (b"SCHILY.xattr.security.selinux", b"x")])
        + member(b"d", flag=D),
    )
    yield "negative-owner", member(b"f", b"x", uid=-5)
    yield "huge-owner", pax([(b"uid", b"99999999999999999999")]) + member(b"f", b"x")
    yield "huge-time", pax([(b"mtime", b"9" * 400)]) + member(b"f", b"x")
    yield "device-number", member(b"d", flag=b"3", device=(1 << 20, 1 << 21))
    yield "unknown-type", member(b"v", flag=b"Z")
    yield "checksum", member(b"first", b"x") + member(b"second", b"x").replace(b"second", b"sEcond")
    yield (
        "sparse-huge",
        pax(
            [
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"s"),
                (b"GNU.sparse.realsize", b"%d" % (1 << 60)),
            ]
        )
        + member(b"s", b"1\n0\n1\n".ljust(512, b"\0") + b"x"),
    )
    yield (
        "sparse-overlap",
        pax([(b"GNU.sparse.map", b"0,10,5,10"), (b"GNU.sparse.size", b"15"), (b"GNU.sparse.name", b"s")])
        + member(b"s", b"x" * 20),
    )
    yield "loop", member(b"a", flag=S, link=b"b") + member(b"b", flag=S, link=b"a") + member(b"a/x", b"1")
    yield "same-name", b"".join(member(b"f", bytes([65 + n % 26]) * 100) for n in range(2000))
    yield "hundred-thousand", b"".join(header(b"d%d/f%d" % (n % 300, n)) for n in range(100_000))
    whole = member(b"dir/file", b"content" * 100) + member(b"next", b"x" * 1000) + END
    for number in range(30):
        yield f"cut-{number}", whole[: random.randrange(1, len(whole) - 1024)]
    for number in range(30):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        yield f"damaged-{number}", bytes(damaged)


def picture(path):
    """Everything that could be changed in a tree."""
    found = []
    for directory, names, files in os.walk(path):
        for name in sorted([*names, *files, "."]):
            status = os.lstat(os.path.join(directory, name))
            content = b""
            if stat.S_ISREG(status.st_mode):
                with open(os.path.join(directory, name), "rb") as file:
                    content = file.read()
            found.append((directory, name, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, content))
    return sorted(found)


# something that only a member's name is
NAMES = re.compile(r"secret|planted|outside|/|\b[lhacdv]\b|big|harmless|dir|next|first|nnn|ddd|\.\.|\.wh|cut")
WAYS = {"layer": Rules(), "applied": Rules(apply=True), "copied": Rules(layer=False, cross=True)}
WAYS["client"] = Rules(layer=False, own=False, keep_kinds=True, cross=True, rename=(b"", b"copied"))


@pytest.fixture
def home():
    """A directory in memory, if there is one: a hundred thousand files take a disk a while."""
    path = tempfile.mkdtemp(prefix="orlop-t-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield Path(path)
    remove_tree(path)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_nothing_outside_changes(home, way):
    outside = home / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    before, refused, unnamed = picture(outside), 0, []
    hostile = list(archives(home))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in hostile:
        if name == "hundred-thousand" and way != "layer":
            continue  # it takes its time
        (home / "root").mkdir()
        root = os.open(home / "root", os.O_RDONLY | os.O_DIRECTORY)
        chunks = (data[start : start + 65536] for start in range(0, len(data), 65536))
        try:
            unpack_chunks(root, chunks, Limits(size=1 << 30, entries=150_000), rules=WAYS[way])
        except OrlopError as error:  # anything else fails the test
            refused += 1
            assert str(error).isprintable(), name
            if not NAMES.search(str(error)):
                unnamed.append((name, str(error)))
        finally:
            os.close(root)
        assert picture(outside) == before, name
        remove_tree(str(home / "root"))
    assert len(hostile) >= 200
    assert refused > 80
    # only what breaks before the first member is read has no name to tell
    assert all(
        kind.startswith(("cut", "damaged", "pax-size", "size", "metadata", "name-bomb", "huge", "sparse", "unknown"))
        for kind, _ in unnamed
    ), unnamed
    assert len(unnamed) < 50, unnamed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 96 << 10, "more than 96 MB"


@pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")
def test_layers_of_strangers_touch_nothing_of_the_host(home):
    """D6, D9, E1: the same by an engine, whose child that unpacks sees nothing of the host in the first place."""
    outside = home / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    before = picture(outside)
    engine = make_engine()
    try:
        for name, data in archives(home):
            if name.endswith(("-3", "-5")) and not name.startswith(("cut", "damaged")):
                engine.http("POST", "/images/create?fromSrc=-", data + END)
                assert picture(outside) == before, name
    finally:
        engine.destroy()


@pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")
def test_limits_are_settings(home):
    engine = make_engine("--layer-limit", "entries=20", "--layer-limit", "depth=3")
    try:
        archive = busybox_tar(home / "box.tar")
        refused = engine.docker("import", archive, "box", check=False)
        assert "too many entries in the archive: more than 20" in refused.stderr
        (home / "deep.tar").write_bytes(member(b"a/b/c/d", b"x") + END)
        assert "a/b/c/d: too deep" in engine.docker("import", home / "deep.tar", "box", check=False).stderr
        (home / "fine.tar").write_bytes(member(b"a/b/c", b"x") + END)
        engine.docker("import", home / "fine.tar", "box")
    finally:
        engine.destroy()


def bombs():
    """Yield what is small and becomes large, in the ways in which a layer may be compressed."""
    zeros = bytes(1 << 20)
    for name, compressor in (
        ("gzip", zlib.compressobj(9, zlib.DEFLATED, 31)),
        ("bzip2", bz2.BZ2Compressor()),
        ("xz", lzma.LZMACompressor(preset=6)),
    ):
        pieces = [compressor.compress(member(b"big%d" % number, zeros)) for number in range(40)]
        yield name, b"".join(pieces) + compressor.flush()


class Peaks(threading.Thread):
    """Watches the resident memory of the engine and of the children that unpack for it; peaks in KiB."""

    def __init__(self, engine):
        super().__init__()
        self.engine, self.child, self.ended = engine.process.pid, 0, threading.Event()
        self.spawner = engine.spawner()
        self.base = (self.status(self.engine, "VmRSS"), self.status(self.spawner, "VmRSS"))
        Path(f"/proc/{self.engine}/clear_refs").write_text("5")  # proc_pid_clear_refs(5): forget the peak

    @staticmethod
    def status(pid, name):
        text = Path(f"/proc/{pid}/status").read_text()
        return int(text.partition(f"{name}:")[2].split()[0]) if f"{name}:" in text else 0

    def run(self):
        while not self.ended.wait(0.01):
            with contextlib.suppress(OSError):
                for pid in Path(f"/proc/{self.spawner}/task/{self.spawner}/children").read_text().split():
                    with contextlib.suppress(OSError):
                        self.child = max(self.child, self.status(pid, "VmHWM"))

    def grown(self):
        """Return by how many MiB each grew: engine, child beyond the spawner that it was forked from."""
        self.ended.set()
        self.join()
        peak = self.status(self.engine, "VmHWM")
        return (peak - self.base[0]) >> 10, max(self.child - self.base[1], 0) >> 10


@pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")
def test_memory_of_the_engine(home):
    """E7: what strangers' archives cost the engine, and the child that unpacks them, while they come in."""
    engine = Engine(home / "engine", home.name, ("--layer-limit", f"size={32 << 20}"))
    engine.start()
    try:
        engine.http("POST", "/images/create?fromSrc=-", member(b"warm", b"x") + END)
        peaks = Peaks(engine)
        peaks.start()
        many = header(b"d/f") * 40_000  # one name: each replaces the one before
        engine.http("POST", "/images/create?fromSrc=-", many)
        told = {}
        for name, data in bombs():
            assert len(data) < 1 << 20
            told[name] = engine.http("POST", "/images/create?fromSrc=-", data)[1]
        grown = peaks.grown()
        assert all(b"larger than 33554432 bytes: big" in text for text in told.values()), told
        assert peaks.child > 0, "no child was seen"
        assert grown[0] < 64, "MiB of the engine"
        assert grown[1] < 64, "MiB of the child"
    finally:
        peaks.ended.set()
        engine.destroy()
