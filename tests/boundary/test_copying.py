"""``docker cp``, export and commit of what a hostile image or container holds: rows D of threats.md.

Archives that want out: tests/integration/test_hostile_archives.py, test_unpack.py. Links that are exchanged while a
running container's files are copied: tests/integration/test_copy.py.
"""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest
from hostile import Swapper, hostile_image, replace_by_link
from test_interpreter import plant_python_traps

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

PROGRAMS = (
    "xz",
    "unxz",
    "pigz",
    "unpigz",
    "gzip",
    "gunzip",
    "bzip2",
    "bunzip2",
    "zstd",
    "unzstd",
    "tar",
    "docker-untar",
)
ROUNDS = 100


def tar_of(name: str, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_nothing_of_the_image_runs_while_its_files_are_copied(engine, tmp_path) -> None:
    """D2, D3; CVE-2019-14271, CVE-2026-41567, CVE-2014-9357."""

    def arrange(tree: Path) -> None:
        plant_python_traps(tree)
        (tree / "srv").mkdir(exist_ok=True)
        for directory in ("bin", "sbin", "usr/bin", "usr/local/bin"):
            (tree / directory).mkdir(parents=True, exist_ok=True)
            for name in PROGRAMS:
                (tree / directory / name).unlink(missing_ok=True)
                (tree / directory / name).write_text("#!/bin/busybox sh\necho $0 >>/tmp/EXECUTED\ncat\n")
                (tree / directory / name).chmod(0o755)

    def archive(method: str, name: str, path: str, data: bytes | None = None, more: str = "") -> int:
        return engine.http(method, f"/containers/{name}/archive?path={path}{more}", data)[0]

    with hostile_image(engine, tmp_path, arrange, "USER alice") as image:
        engine.docker("run", "-d", "--name", "running", "-u", "0", image, "sleep", "100")
        engine.docker("create", "--name", "stopped", "-v", "/vol", image, "true")
        for name in ("running", "stopped"):
            for compress in (bytes, gzip.compress, bz2.compress, lzma.compress):
                assert archive("PUT", name, "/srv", compress(tar_of(f"\xe4-{compress.__name__}"))) == 200
            assert archive("PUT", name, "/srv", tar_of("owned"), "&copyUIDGID=1") == 200
            assert archive("PUT", name, "/srv", tar_of("../../../\udce4\xdf")) == 400
            assert archive("PUT", name, "/srv", tar_of("x")[:700]) == 400
            assert archive("PUT", name, "/etc/passwd", tar_of("x")) == 400
            assert archive("GET", name, "/srv") == 200
            assert archive("GET", name, "/no/%ff") == 404
            assert engine.http("GET", f"/containers/{name}/export")[0] == 200
            engine.docker("commit", name, "hostile:committed")
            engine.docker("rmi", "hostile:committed")
            status, data = engine.http("GET", f"/containers/{name}/archive?path=/tmp/.")
            assert status == 200
            assert tarfile.open(fileobj=io.BytesIO(data)).getnames() == ["."], "something was run"


def test_links_in_place_of_a_stopped_containers_mounts(engine, tmp_path, outside) -> None:
    """D4, CVE-2026-42306: neither is a volume mounted outside, nor a place made for it; /var/run stays usable."""

    def arrange(tree: Path) -> None:
        (tree / "var").mkdir(exist_ok=True)
        (tree / "run").mkdir(exist_ok=True)
        replace_by_link(tree / "var/run", "/run")
        (tree / "out").symlink_to(outside)
        (tree / "up").symlink_to("../" * 12 + str(outside).lstrip("/"))

    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "f").write_text("of the volume")
    with hostile_image(engine, tmp_path, arrange) as image:
        targets = ("/out/deep/er", "/up/sub/new", "/out/file/x", "/var/run/sock")
        volumes = [word for target in targets[:2] + targets[3:] for word in ("-v", f"{volume}:{target}")]
        engine.docker("create", "--name", "still", *volumes, image, "true")
        for target in (*targets[:2], "/run/sock"):
            status, data = engine.http("GET", f"/containers/still/archive?path={target}/f")
            assert status == 200, data
            assert b"of the volume" in data
        status, data = engine.http("GET", "/containers/still/archive?path=/out/file")
        assert status == 404, data
        assert engine.http("PUT", "/containers/still/archive?path=/out", tar_of("planted"))[0] == 200
        assert b"planted" in engine.http("GET", "/containers/still/archive?path=/out/.")[1]


@pytest.mark.parametrize("link", ["absolute", "relative"])
def test_the_place_of_a_stopped_containers_volume_is_exchanged(engine, tmp_path, outside, link) -> None:
    """D4: somebody who shares a volume exchanges a directory below which another volume is mounted for the copy."""
    volume, other = tmp_path / "volume", tmp_path / "other"
    (volume / "target").mkdir(parents=True)
    other.mkdir()
    (other / "f").write_text("of the volume")
    up = "../" * 14 if link == "relative" else ""
    os.symlink(up + str(outside).lstrip("/") if up else str(outside), volume / "link")
    volumes = [word for number in range(10) for word in ("-v", f"{other}:/vol/target/deep{number}")]
    engine.docker("create", "--name", "still", "-v", f"{volume}:/vol", *volumes, "busybox")
    with Swapper(volume / "target", volume / "link") as swapper:
        for _ in range(ROUNDS):
            status, data = engine.http("GET", "/containers/still/archive?path=/vol/target/file")
            assert status != 200, data
            assert sorted(os.listdir(outside)) == ["file", "sub"], "a place was made outside"
    assert swapper.swaps > ROUNDS, "nothing was raced"
