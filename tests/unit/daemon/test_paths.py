from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys

import pytest

from orlop.daemon import paths
from orlop.errors import ConflictError, InvalidParameterError


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_directory_gets_its_mode_even_if_it_exists(tmp_path):
    target = tmp_path / "a/b"
    paths.make_directory(str(target), 0o710)
    assert mode(target) == 0o710
    target.chmod(0o777)
    paths.make_directory(str(target), 0o710)
    assert mode(target) == 0o710


def test_second_engine_is_refused(tmp_path):
    with paths.lock_directory(str(tmp_path), "data-root"):
        with pytest.raises(ConflictError, match=f"process with PID {os.getpid()} is still running"):
            paths.lock_directory(str(tmp_path), "data-root")
    paths.lock_directory(str(tmp_path), "data-root").close()


def test_engine_id_is_kept_and_repaired(tmp_path):
    first = paths.engine_id(str(tmp_path))
    assert paths.engine_id(str(tmp_path)) == first
    (tmp_path / "engine-id").write_text("")
    assert len(paths.engine_id(str(tmp_path))) == 36


def test_socket_is_private_from_the_first_moment(tmp_path, monkeypatch):
    path = str(tmp_path / "s")
    seen = []
    real = os.chown
    monkeypatch.setattr(os, "chown", lambda *args, **kw: (seen.append(mode(path)), real(*args, **kw)))
    before = os.umask(0)
    try:
        sock = paths.bind_unix(path, os.getgid() if os.geteuid() == 0 else None)
    finally:
        os.umask(before)
    if seen:
        assert seen == [0o600]
        assert mode(path) == 0o660
    else:
        assert mode(path) == 0o600
    assert not sock.get_inheritable()
    sock.close()


def test_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path):
    path = str(tmp_path / "s")
    paths.bind_unix(path, None).close()
    live = paths.bind_unix(path, None)
    with pytest.raises(ConflictError, match="address already in use"):
        paths.bind_unix(path, None)
    assert os.path.exists(path)
    live.close()


@pytest.mark.parametrize("kind", ["file", "symlink", "directory"])
def test_other_files_are_not_replaced(tmp_path, kind):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "symlink":
        other = paths.bind_unix(str(tmp_path / "other"), None)
        other.close()
        path.symlink_to(tmp_path / "other")
    else:
        path.mkdir()
    with pytest.raises(InvalidParameterError, match="file exists and is no socket"):
        paths.bind_unix(str(path), None)
    assert os.path.lexists(path)


def test_too_long_socket_path(tmp_path):
    with pytest.raises(InvalidParameterError, match="can't create unix socket"):
        paths.bind_unix(str(tmp_path / ("x" * 120)), None)


def test_pidfile(tmp_path):
    path = tmp_path / "pid"
    path.write_text("1")  # a recycled pid that is no engine
    paths.write_pidfile(str(path))
    assert path.read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("script", "arguments", "is_engine"),
    [("orlopd", ["--data-root", "/x"], True), ("orlop", ["daemon"], True), ("orlop", ["ps"], False), ("x", [], False)],
)
def test_pidfile_of_a_process_that_runs(tmp_path, script, arguments, is_engine):
    path = tmp_path / "pid"
    (tmp_path / script).write_text("import sys; print(flush=True); sys.stdin.read()")
    command = [sys.executable, tmp_path / script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        path.write_text(str(process.pid))
        refused = pytest.raises(ConflictError, match=f"process with PID {process.pid} is still running")
        with refused if is_engine else contextlib.nullcontext():
            paths.write_pidfile(str(path))
        process.communicate()
    assert (path.read_text() == str(os.getpid())) is not is_engine


def test_notify(tmp_path, monkeypatch):
    path = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        paths.notify("READY=1")
        assert receiver.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    paths.notify("READY=1")


def test_sockets_of_another_process_are_not_taken(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "2")
    assert paths.passed_sockets() == []
    assert "LISTEN_FDS" not in os.environ
