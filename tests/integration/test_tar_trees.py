"""Pack, copy-up and removal on real directories, and all of it where nothing can be imported (threats B16, B18, D5)."""

import io
import os
import stat
import subprocess
import sys
import tarfile

import pytest
from hostile import Swapper

from orlop.errors import OrlopError, SystemFailureError
from orlop.primitives.copy_up import copy_up
from orlop.primitives.removal import remove_tree
from orlop.primitives.tar import END, Kind, pack
from tar_trees import D, H, S, member, pack_bytes, unpack_bytes, untouched_outside

pytestmark = pytest.mark.privileged


@pytest.fixture
def root(tmp_path):
    with untouched_outside(tmp_path) as made:
        yield made


class TestPack:
    def make_tree(self, root):
        data = member(b"dir/", D, mode=0o2750, uid=3, mtime=10**18 + 5)
        data += member(b"dir/file", content=b"content" * 30_000, xattrs={b"user.a": b"\0\xff"}, mtime=10**18 + 7)
        data += member(b"dir/hard", H, target=b"dir/file") + member(b"link", S, target=b"t" * 150)
        data += member(b"n" * 150 + b"/" + b"m" * 90, content=b"long") + member(b"null", Kind.CHARACTER, device=(1, 3))
        data += member(b"\xffbytes", content=b"", uid=10_000_000) + member(b"fifo", Kind.FIFO) + END
        unpack_bytes(root, data)

    def test_round_trip_is_reproducible(self, root, tmp_path):
        self.make_tree(root)
        first = pack_bytes(root)
        remove_tree(str(root))
        root.mkdir()
        unpack_bytes(root, first)
        assert pack_bytes(root) == first
        assert os.stat(root / "dir/file").st_ino == os.stat(root / "dir/hard").st_ino

    def test_gnu_tar_agrees(self, root, tmp_path):
        self.make_tree(root)
        data = pack_bytes(root)
        listing = subprocess.run(
            ["tar", "-tvf", "-", "--numeric-owner"], input=data, check=True, capture_output=True
        ).stdout
        assert b"drwxr-s--- 3/0" in listing
        assert b"dir/hard link to dir/file" in listing
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            assert archive.getnames()[0] == "dir"
            assert "." not in archive.getnames()

    def test_sockets_are_skipped_and_links_not_followed(self, root):
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(root / "s"))
            (root / "l").symlink_to("/etc/passwd")
            with tarfile.open(fileobj=io.BytesIO(pack_bytes(root))) as archive:
                assert [(item.name, item.type) for item in archive] == [("l", tarfile.SYMTYPE)]

    def test_names_that_are_exchanged_meanwhile_lead_nowhere(self, root, tmp_path):  # D9, CVE-2023-0778
        (root / "d").mkdir()
        (root / "d/secret").write_text("inside")
        (root / "l").symlink_to(tmp_path / "outside")
        (root / "file").write_text("inside")
        (root / "link").symlink_to(tmp_path / "outside/secret")
        with Swapper(root / "d", root / "l") as directories, Swapper(root / "file", root / "link") as files:
            for _ in range(500):
                assert b"untouched" not in pack_bytes(root)
        assert min(directories.swaps, files.swaps) > 100, "nothing was raced"

    def test_mounts_are_not_entered(self, root):
        (root / "m").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root / "m"], check=True)
        try:
            (root / "m/inside").write_text("x")
            with tarfile.open(fileobj=io.BytesIO(pack_bytes(root))) as archive:
                assert archive.getnames() == ["m"]
            with pytest.raises(SystemFailureError, match="busy"):
                remove_tree(str(root / "m"))
            assert (root / "m/inside").exists()
        finally:
            subprocess.run(["umount", root / "m"], check=True)

    def test_layer_writes_whiteouts_back(self, root):
        data = member(b"d/", D) + member(b"d/.wh..wh..opq") + member(b"d/x") + member(b"d/.wh.gone") + END
        unpack_bytes(root, data)
        packed = pack_bytes(root, layer=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            assert archive.getnames() == ["d", "d/.wh..wh..opq", "d/.wh.gone", "d/x"]

    def test_closed_reader_is_an_error(self, root):
        (root / "f").write_bytes(bytes(1 << 20))
        reader, writer = os.pipe()
        os.close(reader)
        root_fd = os.open(root, os.O_RDONLY)
        try:
            with pytest.raises(SystemFailureError, match="broken pipe"):
                pack(root_fd, writer)
        finally:
            os.close(root_fd)
            os.close(writer)


class TestRemoval:
    def test_missing_is_fine_and_nonsense_is_not(self, root):
        remove_tree(str(root / "missing"))
        remove_tree(str(root / "missing" / "deeper"))
        for path in ("/", "", "relative", f"{root}/..", f"{root}/."):
            with pytest.raises(OrlopError):
                remove_tree(path)

    def test_links_are_removed_not_followed(self, root, tmp_path):
        (root / "d").mkdir()
        (root / "d/l").symlink_to(tmp_path / "outside")
        remove_tree(str(root / "d"))

    def test_immutable_files_and_directories(self, root):
        (root / "d/e").mkdir(parents=True)
        (root / "d/e/f").write_text("x")
        if subprocess.run(["chattr", "+i", root / "d/e/f", root / "d/e", root / "d"], check=False).returncode:
            pytest.skip("needs chattr and a file system with attributes")
        remove_tree(str(root / "d"))
        assert os.listdir(root) == []

    def test_a_very_deep_tree_needs_few_descriptors(self, root):
        fd = os.open(root, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=fd)
            inner = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(fd)
        remove_tree(str(root / "d"))
        assert os.listdir(root) == []


class TestCopyUp:
    @pytest.fixture
    def trees(self, tmp_path):
        source, target = tmp_path / "source", tmp_path / "target"
        source.mkdir(mode=0o750)
        target.mkdir()
        os.chown(source, 11, 12)
        (source / "sub").mkdir()
        (source / "sub/file").write_bytes(b"content")
        os.chmod(source / "sub/file", 0o4711)
        os.link(source / "sub/file", source / "hard")
        (source / "link").symlink_to("/etc/passwd")
        os.setxattr(source / "sub", "user.a", b"1")
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
        yield source, target, *fds
        for fd in fds:
            os.close(fd)

    def test_copies_everything_once(self, trees):
        source, target, source_fd, target_fd = trees
        assert copy_up(source_fd, target_fd) is True
        assert subprocess.run(["diff", "-r", "--no-dereference", source, target], check=False).returncode == 0
        status = os.stat(target)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (11, 12, 0o750)
        assert stat.S_IMODE(os.stat(target / "sub/file").st_mode) == 0o4711
        assert os.stat(target / "hard").st_ino == os.stat(target / "sub/file").st_ino
        assert os.getxattr(target / "sub", "user.a") == b"1"
        assert os.listxattr(target) == []
        (target / "sub/file").write_text("changed")
        assert copy_up(source_fd, target_fd) is False
        assert (target / "sub/file").read_text() == "changed"

    def test_a_crashed_copy_is_done_again(self, trees):
        _, target, source_fd, target_fd = trees
        os.setxattr(target, "trusted.orlop.copy-up", b"1")
        (target / "hard").write_text("half")
        assert copy_up(source_fd, target_fd) is True
        assert (target / "hard").read_bytes() == b"content"

    def test_no_space_leaves_an_empty_volume(self, trees, tmp_path):
        source, target, source_fd, _ = trees
        (source / "zz").write_bytes(bytes(1 << 20))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", target], check=True)
        fd = os.open(target, os.O_RDONLY)
        try:
            with pytest.raises(SystemFailureError, match="no space left on device"):
                copy_up(source_fd, fd)
            assert os.listdir(target) == []
        finally:
            os.close(fd)
            subprocess.run(["umount", target], check=True)


_SEALED = """
import os, sys
sys.path[:0] = PATHS
from orlop.errors import OrlopError
from orlop.primitives.copy_up import copy_up
from orlop.primitives.removal import remove_tree
from orlop.primitives.tar import pack, unpack

class Refuse:
    def find_spec(self, name, path=None, target=None):
        os.write(2, f"imported {name}".encode())
        os._exit(9)

sys.meta_path[:] = [Refuse()]
top = sys.argv[1]
for number, stream in enumerate(sys.argv[2:]):
    root = f"{top}/{number}"
    os.mkdir(root)
    os.mkdir(f"{root}-copy")
    fds = [os.open(path, os.O_RDONLY) for path in (root, f"{root}-copy", stream)]
    try:
        unpack(fds[0], fds[2])
    except OrlopError as error:
        print(str(error))
    pack(fds[0], os.open(f"{top}/{number}.tar", os.O_CREAT | os.O_WRONLY))
    copy_up(fds[0], fds[1])
    remove_tree(root)
    remove_tree(f"{root}-copy")
"""


def test_nothing_is_imported_after_start(root, tmp_path_factory):
    """What runs in a child of the spawner must have everything loaded (CVE-2019-14271)."""
    scratch = tmp_path_factory.mktemp("streams")
    xattrs = {b"user.a": b"1", b"trusted.overlay.opaque": b"y"}
    streams = [
        member(b"\xff\xfe", content=b"x" * 100_000, mtime=10**18 + 1, xattrs=xattrs)
        + member(b"l", H, target=b"\xff\xfe")
        + END,
        member(b"../\xff\n\xc3\xa9"),
        member("ü".encode() * 200, D),
        member(b"a", S, target=b"a") + member(b"a/b"),
        b"garbage" * 200,
        member(b"x", content=b"cut")[:600],
        member(b"n" * 300),
        member(b"l", H, target=b"missing"),
        member(b"a/.wh..wh..opq") + member(b".wh.a") + member(b"c", Kind.CHARACTER, device=(1, 3)) + END,
    ]
    paths = []
    for number, data in enumerate(streams):
        paths.append(scratch / str(number))
        paths[-1].write_bytes(data)
    code = _SEALED.replace("PATHS", repr(sys.path))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root, *paths],
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 7
