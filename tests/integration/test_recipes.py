"""A layer's tar written again from its files: byte for byte, or refused."""

import io
import os
import random
import subprocess
import tarfile

import pytest

from orlop.errors import DataLossError
from orlop.primitives.tar import Limits, rebuild, unpack

pytestmark = [pytest.mark.privileged]


class Unpacked:
    """One archive unpacked into ``root`` with its recipe."""

    def __init__(self, tmp_path, data, *, piece=None):
        self.root = tmp_path / "root"
        self.root.mkdir()
        self.recipe = tmp_path / "recipe"
        archive = tmp_path / "archive"
        archive.write_bytes(data)
        reading, writing = os.pipe()
        feeder = os.fork()
        if not feeder:
            os.close(reading)
            generator = random.Random(1)
            position = 0
            while position < len(data):
                count = piece or generator.randrange(1, 200_000)
                os.write(writing, data[position : position + count])
                position += count
            os._exit(0)
        os.close(writing)
        root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        with self.recipe.open("wb") as recipe:
            self.done = unpack(root_fd, reading, Limits(), recipe_fd=recipe.fileno())
        os.waitpid(feeder, 0)
        os.close(reading)
        os.close(root_fd)

    def rebuilt(self, tmp_path):
        out = tmp_path / "rebuilt"
        root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with self.recipe.open("rb") as recipe, out.open("wb") as file:
                rebuild(root_fd, recipe.fileno(), file.fileno())
        finally:
            os.close(root_fd)
        return out.read_bytes()


def archive(*members, form=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as out:
        for name, content, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(content)
            info.uname, info.gname, info.mtime = "somebody", "else", 1234567890.25
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


FILE, DIRECTORY, LINK, SYMLINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
MEMBERS = (
    ("./", b"", DIRECTORY, ""),
    ("etc", b"", DIRECTORY, ""),
    ("etc/empty", b"", FILE, ""),
    ("etc/small", b"x" * 513, FILE, ""),
    ("etc/.wh.gone", b"", FILE, ""),
    ("big", random.Random(2).randbytes(1_000_003), FILE, ""),
    ("link", b"", SYMLINK, "etc"),
    ("link/through", b"seen through a link", FILE, ""),
    ("same", b"", LINK, "big"),
    ("d" * 90 + "/" + "n" * 150, b"long name", FILE, ""),
    ("umlaut-\udcff", b"not UTF-8", FILE, ""),
)


@pytest.mark.parametrize("piece", [None, 512, 100_001])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_tar_comes_back_byte_for_byte(tmp_path, form, piece):
    data = archive(*MEMBERS, form=form) + bytes(5000) + b"rubbish behind the end"
    world = Unpacked(tmp_path, data, piece=piece)
    assert world.done.recipe
    assert world.rebuilt(tmp_path) == data
    assert world.recipe.stat().st_size < 100_000  # the files' content is not in it


def test_sparse_members_are_kept_whole(tmp_path):
    (tmp_path / "holes").write_bytes(b"")
    with (tmp_path / "holes").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"data")
    tar = tmp_path / "holes.tar"
    subprocess.run(["tar", "-C", tmp_path, "--sparse", "-cf", tar, "holes"], check=True)
    world = Unpacked(tmp_path, tar.read_bytes())
    assert world.rebuilt(tmp_path) == tar.read_bytes()


def test_a_file_that_is_replaced_in_the_same_archive_spoils_the_recipe(tmp_path):
    world = Unpacked(tmp_path, archive(("a", b"first", FILE, ""), ("a", b"other", FILE, "")))
    assert not world.done.recipe


@pytest.mark.parametrize("damage", ["missing", "short", "link"])
def test_a_damaged_layer_is_noticed(tmp_path, damage):
    world = Unpacked(tmp_path, archive(("a", b"content" * 30_000, FILE, "")))
    path = world.root / "a"
    if damage == "short":
        path.write_bytes(b"content")
    else:
        path.unlink()
    if damage == "link":
        path.symlink_to("/etc/passwd")
    with pytest.raises(DataLossError, match="layer is damaged: /a"):
        world.rebuilt(tmp_path)


@pytest.mark.parametrize("recipe", [b"X", b"R\0\0\0\x09abc", b"F\0\0", b"F" + b"\0" * 16 + b"\0\x03../"])
def test_a_damaged_recipe_is_noticed(tmp_path, recipe):
    world = Unpacked(tmp_path, archive(("a", b"content", FILE, "")))
    world.recipe.write_bytes(recipe)
    with pytest.raises(DataLossError):
        world.rebuilt(tmp_path)
