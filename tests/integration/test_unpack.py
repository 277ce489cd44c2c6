"""Unpacking on real directories (threats D5 to D9, E1, E7)."""

import os
import random
import stat
import struct
import subprocess

import pytest

from orlop.errors import OrlopError, SystemFailureError
from orlop.primitives.removal import remove_tree
from orlop.primitives.tar import END, Entry, Kind, Limits, Rules, TarError, render_entry
from tar_trees import D, F, H, S, member, pack_bytes, unpack_bytes, untouched_outside

pytestmark = pytest.mark.privileged


@pytest.fixture
def root(tmp_path):
    with untouched_outside(tmp_path) as made:
        yield made


class TestEscapes:
    @pytest.mark.parametrize(
        "name", [b"../evil", b"a/../../evil", b"/../evil", b"../root-evil/x", b"a/b/../../../x", b".."]
    )
    def test_names_that_lead_out_are_refused_by_name(self, root, name):
        with pytest.raises(TarError) as caught:
            unpack_bytes(root, member(name, content=b"x") + END)
        assert name.decode() in str(caught.value)

    def test_absolute_names_are_inside(self, root):
        unpack_bytes(root, member(b"/etc//./x/../passwd", content=b"in") + END)
        assert (root / "etc/passwd").read_bytes() == b"in"

    @pytest.mark.parametrize("target", [b"../outside", b"/../../outside", b"../../../../../../../tmp"])
    def test_parents_that_are_links_stay_inside(self, root, target):
        data = member(b"link", S, target=target) + member(b"link/secret", content=b"overwritten") + END
        with pytest.raises(TarError, match="link"):
            unpack_bytes(root, data)

    def test_a_link_to_an_absolute_path_is_resolved_inside(self, root):
        data = member(b"run", D) + member(b"var/run", S, target=b"/run") + member(b"var/run/pid", content=b"1") + END
        unpack_bytes(root, data)
        assert (root / "run/pid").read_bytes() == b"1"
        assert os.readlink(root / "var/run") == "/run"

    def test_a_cached_directory_that_becomes_a_link_is_not_used(self, root):
        data = member(b"a", D) + member(b"a/1", content=b"1") + member(b"b", D)
        data += member(b"a", S, target=b"../outside") + member(b"a/secret", content=b"x") + END
        with pytest.raises(TarError):
            unpack_bytes(root, data)

    def test_a_link_that_is_replaced_by_another_is_followed_anew(self, root):
        data = member(b"1", D) + member(b"2", D) + member(b"l", S, target=b"1") + member(b"l/x", content=b"x")
        data += member(b"l", S, target=b"2") + member(b"l/y", content=b"y") + END
        unpack_bytes(root, data)
        assert (root / "1/x").exists()
        assert (root / "2/y").exists()

    @pytest.mark.parametrize("target", [b"../outside/secret", b"/../outside/secret"])
    def test_hard_links_out_are_refused(self, root, target):
        with pytest.raises(TarError):
            unpack_bytes(root, member(b"l", H, target=target) + END)

    def test_hard_link_through_a_link_stays_inside(self, root):
        data = member(b"d", S, target=b"../outside") + member(b"l", H, target=b"d/secret") + END
        with pytest.raises(TarError):
            unpack_bytes(root, data)

    def test_a_hard_link_to_a_link_does_not_follow_it(self, root, tmp_path):
        outside = os.fsencode(tmp_path / "outside/secret")
        data = member(b"s", S, target=outside) + member(b"h", H, target=b"s", mode=0o777)
        data += member(b"h", content=b"new", uid=4, gid=4) + member(b"k", H, target=b"s") + END
        unpack_bytes(root, data)
        assert (root / "h").read_bytes() == b"new"
        assert os.readlink(root / "s") == os.readlink(root / "k") == os.fsdecode(outside)

    def test_a_file_replaces_a_directory_and_a_link_below_the_top(self, root):
        data = (
            member(b"a/dir/x", content=b"1") + member(b"a/link", S, target=b"dir") + member(b"a/dir", content=b"file")
        )
        unpack_bytes(root, data + member(b"a/link", content=b"too") + END)
        assert [(root / "a" / name).read_bytes() for name in ("dir", "link")] == [b"file", b"too"]

    def test_a_file_replaces_a_link_instead_of_writing_through_it(self, root, tmp_path):
        data = member(b"x", S, target=os.fsencode(tmp_path / "outside/secret")) + member(b"x", content=b"mine") + END
        unpack_bytes(root, data)
        assert (root / "x").read_bytes() == b"mine"

    @pytest.mark.parametrize("name", [b".wh...", b".wh..", b"../.wh.root-evil", b".wh."])
    def test_whiteouts_out_are_refused(self, root, name):
        if name == b".wh..":
            name = b"a/.wh.."
        with pytest.raises(TarError):
            unpack_bytes(root, member(name) + END)

    def test_only_what_was_asked_for_is_taken(self, root):  # D10: what a client unpacks on its host
        rules = Rules(layer=False, own=False, keep_kinds=True, cross=True, rename=(b"asked", b"new"))
        unpack_bytes(root, member(b"asked", D) + member(b"asked/x", content=b"1") + END, rules=rules)
        assert sorted(os.listdir(root)) == ["new"]
        for name in (b"other", b"asked-too", b"asked/../other", b"asked/../../x", b"."):
            with pytest.raises(TarError):
                unpack_bytes(root, member(name, content=b"x") + END, rules=rules)
        assert sorted(os.listdir(root)) == ["new"]

    def test_link_circles_are_an_error(self, root):
        data = member(b"a", S, target=b"b") + member(b"b", S, target=b"a") + member(b"a/x", content=b"x") + END
        with pytest.raises(TarError, match="a"):
            unpack_bytes(root, data)

    def test_dangling_parent_link_is_an_error(self, root):
        with pytest.raises(TarError):
            unpack_bytes(root, member(b"a", S, target=b"nowhere") + member(b"a/x/y", content=b"x") + END)

    def test_the_root_must_stay_a_directory(self, root):
        with pytest.raises(TarError):
            unpack_bytes(root, member(b"./", S, target=b"x") + END)


class TestAttributes:
    def test_owner_mode_times_and_kinds(self, root):
        data = member(b"./", D, mode=0o711, uid=5, gid=6, mtime=10**18 + 1)
        data += member(b"d/", D, mode=0o1777, uid=1, gid=2, mtime=10**18 + 2)
        data += member(b"d/f", content=b"abc", mode=0o6755, uid=70000, gid=3_000_000, mtime=10**18 + 123456789)
        data += member(b"d/s", S, target=b"nowhere", uid=7, mtime=10**18 + 3)
        data += member(b"d/c", Kind.CHARACTER, device=(5, 300), mode=0o620, mtime=10**18)
        data += member(b"d/b", Kind.BLOCK, device=(7, 0)) + member(b"d/p", Kind.FIFO) + END
        result = unpack_bytes(root, data)
        assert (result.entries, result.size) == (7, 3 + len("nowhere"))
        file = os.lstat(root / "d/f")
        assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode)) == (70000, 3_000_000, 0o6755)
        assert file.st_mtime_ns == 10**18 + 123456789
        directory = os.lstat(root / "d")
        assert (stat.S_IMODE(directory.st_mode), directory.st_mtime_ns) == (0o1777, 10**18 + 2)
        assert (os.lstat(root).st_uid, os.lstat(root).st_mtime_ns) == (5, 10**18 + 1)
        link = os.lstat(root / "d/s")
        assert (link.st_uid, link.st_mtime_ns) == (7, 10**18 + 3)
        device = os.lstat(root / "d/c")
        assert (stat.S_ISCHR(device.st_mode), device.st_rdev) == (True, os.makedev(5, 300))
        assert stat.S_ISBLK(os.lstat(root / "d/b").st_mode)
        assert stat.S_ISFIFO(os.lstat(root / "d/p").st_mode)

    def test_only_listed_attributes_are_taken(self, root):
        capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
        xattrs = {
            b"user.mine": b"1",
            b"security.capability": capability,
            b"user.overlay.redirect": b"/etc",
            b"trusted.overlay.opaque": b"y",
            b"trusted.overlay.redirect": b"/etc",
            b"trusted.x": b"1",
            b"security.selinux": b"x",
        }
        on_directories = {key: value for key, value in xattrs.items() if key != b"security.capability"}
        data = member(b"d", D, xattrs=on_directories) + member(b"f", content=b"x", xattrs=xattrs, uid=9) + END
        unpack_bytes(root, data)
        assert set(os.listxattr(root / "d")) == {"user.mine"}
        assert set(os.listxattr(root / "f")) == {"user.mine", "security.capability"}

    def test_whiteouts_become_overlays(self, root):
        data = member(b"d/", D) + member(b"d/.wh..wh..opq") + member(b"e/.wh.gone") + member(b".wh..wh.plnk", D)
        data += member(b".wh.again") + member(b"again/", D) + member(b"kept/", D) + member(b".wh.kept") + END
        unpack_bytes(root, data)
        assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"
        gone = os.lstat(root / "e/gone")
        assert stat.S_ISCHR(gone.st_mode)
        assert gone.st_rdev == 0
        assert sorted(os.listdir(root)) == ["again", "d", "e", "kept"]
        for name in ("again", "kept"):  # the layer's own content is seen, the lower layers' is not
            assert os.getxattr(root / name, "trusted.overlay.opaque") == b"y"

    def test_without_layer_whiteouts_are_files(self, root):
        unpack_bytes(root, member(b".wh.x") + END, layer=False)
        assert (root / ".wh.x").is_file()

    def test_names_are_bytes(self, root):
        unpack_bytes(root, member(b"\xff\xfe\n", content=b"x") + member(b"l", S, target=b"\xff") + END)
        assert sorted(os.listdir(os.fsencode(root))) == [b"l", b"\xff\xfe\n"]

    def test_umask_does_not_matter(self, root):
        old = os.umask(0o077)
        try:
            unpack_bytes(root, member(b"a/b", mode=0o666) + END)
        finally:
            assert os.umask(old) == 0o077
        assert stat.S_IMODE(os.stat(root / "a").st_mode) == 0o755
        assert stat.S_IMODE(os.stat(root / "a/b").st_mode) == 0o666

    @pytest.mark.parametrize("form", ["gnu", "posix"])
    def test_sparse_files_from_gnu_tar(self, root, tmp_path_factory, form):
        source = tmp_path_factory.mktemp("source") / "sparse"
        with open(source, "wb") as file:
            for offset in range(0, 40 << 20, 1 << 20):
                file.seek(offset)
                file.write(b"data%d" % offset)
            file.truncate(64 << 20)
        versions = (
            [[]] if form == "gnu" else [["--sparse-version=0.0"], ["--sparse-version=0.1"], ["--sparse-version=1.0"]]
        )
        for options in versions:
            command = ["tar", "-C", source.parent, f"--format={form}", "-S", *options, "-cf", "-", "sparse"]
            data = subprocess.run(command, check=True, capture_output=True).stdout
            unpack_bytes(root, data)
            subprocess.run(["cmp", source, root / "sparse"], check=True)
            assert os.stat(root / "sparse").st_blocks * 512 < 2 << 20


class TestLimits:
    def test_cut_anywhere_is_unexpected_eof_or_shorter(self, root):
        data = member(b"a" * 200, content=b"x" * 900) + member(b"b", content=b"y" * 10)
        ends = {512 * 5, 512 * 5 - 124, 512 * 6}  # between members; padding may be missing
        for cut in range(1, len(data), 97):
            try:
                unpack_bytes(root, data[:cut])
            except TarError as error:
                assert str(error).startswith("unexpected EOF")
            else:
                assert any(cut <= end + 512 for end in ends)

    def test_garbage(self, root):
        with pytest.raises(TarError, match="archive/tar: invalid tar header"):
            unpack_bytes(root, b"hello world" * 100)

    def test_entries(self, root):
        with pytest.raises(TarError, match="too many entries"):
            unpack_bytes(root, b"".join(member(b"f%d" % n) for n in range(11)) + END, Limits(entries=10))

    def test_size(self, root):
        with pytest.raises(TarError, match="larger than 1000 bytes: big"):
            unpack_bytes(root, member(b"big", content=bytes(1001)) + END, Limits(size=1000))

    def test_metadata_is_not_buffered(self, root):
        for flag in (b"x", b"L", b"K", b"g"):
            block = bytearray(render_entry(Entry(b"m", Kind.FILE, size=1 << 32)))
            block[156:157] = flag
            block[148:156] = b"        "
            block[148:156] = b"%06o\0 " % sum(block)
            with pytest.raises(TarError, match="too long"):
                unpack_bytes(root, bytes(block) + bytes(4096))

    def test_depth_and_length(self, root):
        with pytest.raises(TarError, match="too deep"):
            unpack_bytes(root, member(b"a/" * 600 + b"x") + END)
        with pytest.raises(TarError, match="too long"):
            unpack_bytes(root, member(b"a" * 5000) + END)
        with pytest.raises(TarError, match="file name too long"):
            unpack_bytes(root, member(b"a" * 300) + END)

    def test_no_space(self, tmp_path):
        mounted = tmp_path / "small"
        mounted.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mounted], check=True)
        try:
            with pytest.raises(SystemFailureError, match="write /big: no space left on device"):
                unpack_bytes(mounted, member(b"big", content=bytes(1 << 20)) + END)
        finally:
            subprocess.run(["umount", mounted], check=True)

    def test_deep_tree_is_unpacked_packed_and_removed(self, root):
        deep = b"/".join([b"d"] * 400) + b"/x"
        unpack_bytes(root, member(deep, content=b"x") + END)
        again = pack_bytes(root)
        remove_tree(str(root / "d"))
        assert os.listdir(root) == []
        unpack_bytes(root, again)
        assert os.path.exists(os.path.join(os.fsencode(root), deep))


def test_random_archives_never_touch_the_outside(root):
    """Two hundred archives made of the pieces that escapes are made of; whatever happens stays inside."""
    pieces = [b"a", b"b", b"..", b".", b"", b"link", b".wh.a", b".wh..wh..opq", b"c", b"outside", b"secret"]
    choose = random.Random(20261124)
    for _ in range(200):
        data = b""
        for _ in range(choose.randint(1, 12)):
            name = b"/".join(choose.choices(pieces, k=choose.randint(1, 4))) or b"x"
            target = choose.choice([b"", b"/"]) + b"/".join(choose.choices(pieces, k=choose.randint(1, 4)))
            kind = choose.choice([D, F, S, S, H, Kind.FIFO])
            content = b"hostile" if kind is F else b""
            data += member(
                name, kind, content, target=target if kind in (S, H) else b"", mode=choose.randint(0, 0o7777)
            )
        try:
            unpack_bytes(root, data + END)
        except OrlopError as error:
            assert str(error)
