"""What other users of the machine find of the engine: rows H1, H6 and H7 of threats.md."""

import contextlib
import os
import secrets
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from hostile import PYTHON

from harness import Engine, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

# Everything below the directories that the caller's ids can list, enter, read or write.
FOUND = """
import os, sys
found = []
for top in sys.argv[1:]:
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            if not os.path.islink(path) and (os.access(path, os.R_OK) or os.access(path, os.W_OK)):
                found.append(path)
    for guess in ('layers', 'containers', 'volumes', 'blobs', 'state.db', 'shims', 'lock', 'engine-id', 'images'):
        path = os.path.join(top, guess)
        if os.path.exists(path) and os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
            found.append(path)
print('\\n'.join(found))
"""


def found_by(user: int, *paths: Path) -> list[str]:
    command = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--inh-caps", "-all"]
    done = subprocess.run(
        [*command, PYTHON, "-I", "-S", "-c", FOUND, *paths], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture
def open_home(own_engine):
    """An engine whose parent directory everybody may enter, as /var/lib is."""
    own_engine.home.chmod(0o755)
    own_engine.docker(
        *("run", "-d", "--name", "con", "-v", "vol:/data", "-v", "/anonymous", "busybox", "sh", "-c"),
        "cp /bin/busybox /setuid; chmod 4755 /setuid /data; cp -p /setuid /data; echo secret; sleep 100",
    )
    wait_for(lambda: "secret" in own_engine.docker("logs", "con").stdout)
    return own_engine


def modes(engine) -> dict[str, int]:
    return {
        str(path.relative_to(engine.home)): stat.S_IMODE(path.lstat().st_mode)
        for top in (engine.data_root, engine.exec_root)
        for path in (top, *top.iterdir())
    }


def test_nobody_else_reaches_files_of_the_engine(open_home) -> None:  # H6, CVE-2021-41091
    engine = open_home
    assert oct(engine.data_root.stat().st_mode & 0o777) in {"0o710", "0o700"}
    assert oct(engine.exec_root.stat().st_mode & 0o777) in {"0o711", "0o700"}
    assert found_by(65534, engine.data_root, engine.exec_root) == []
    setuid = [path for path in engine.data_root.rglob("setuid") if path.stat().st_mode & stat.S_ISUID]
    assert len(setuid) >= 2, "the layer and the volume"
    for path in setuid:
        done = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", path, "true"], capture_output=True)
        assert done.returncode != 0
    for log in engine.data_root.rglob("*-json.log"):
        assert log.stat().st_mode & 0o077 == 0


def test_loosened_directories_are_closed_again(open_home) -> None:  # H6: an upgrade
    engine = open_home
    before = modes(engine)
    engine.stop()
    for path in (engine.data_root, engine.exec_root, *engine.data_root.iterdir(), *engine.exec_root.iterdir()):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    engine.start()
    assert modes(engine) == before
    assert found_by(65534, engine.data_root, engine.exec_root) == []


WITH_IDS = 'for f in subuid subgid; do mount --bind "$0" /etc/$f || exit; done; exec "$@"'


def test_root_of_a_user_namespace_reaches_nothing_either(tmp_path) -> None:  # H7, CVE-2021-21284
    ranges = tmp_path / "ranges"
    ranges.write_text("54321:100000:65536\n")
    name = f"orlop-t-{secrets.token_hex(4)}"
    engine = Engine(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")), name, ("--userns-remap", "54321"))
    engine.within = ("unshare", "-m", "sh", "-c", WITH_IDS, str(ranges))
    try:
        engine.start()
        engine.import_busybox()
        engine.home.chmod(0o755)
        engine.docker(
            "run", "-d", "--name", "con", "-v", "vol:/data", "busybox", "sh", "-c", "echo x >/data/f; sleep 100"
        )
        for user in (100000, 100001, 165535):
            assert found_by(user, engine.data_root, engine.exec_root) == []
        for path in (engine.data_root, engine.exec_root, *engine.data_root.rglob("*")):
            if path.is_dir() and "diff" not in path.parts and "_data" not in path.parts:
                assert path.stat().st_uid == 0, path
        # /proc of the container's processes shows no way in
        pid = engine.inspect("con")["State"]["Pid"]
        assert os.stat(f"/proc/{pid}").st_uid == 100000
    finally:
        engine.destroy()


def test_the_socket_is_closed_to_others_at_every_moment(own_engine) -> None:  # H1, CVE-2014-3499; raced
    engine = own_engine
    engine.stop()
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        ended = False
        while not ended:
            ended = stop.is_set()  # once more, when it is there for certain
            with contextlib.suppress(FileNotFoundError):
                seen.add(stat.S_IMODE(os.lstat(engine.socket).st_mode))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        engine.start()
    finally:
        stop.set()
        watcher.join()
    assert seen
    assert all(mode & 0o007 == 0 for mode in seen), [oct(mode) for mode in seen]
    assert engine.socket.stat().st_uid == 0


def test_a_link_in_place_of_the_socket_is_not_followed(own_engine, tmp_path) -> None:  # H1
    engine = own_engine
    engine.stop()
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    engine.socket.unlink(missing_ok=True)
    engine.socket.symlink_to(victim)
    with pytest.raises(AssertionError, match="file exists and is no socket"):
        engine.start()
    assert victim.read_text() == "untouched"
    engine.socket.unlink()
    engine.start()
