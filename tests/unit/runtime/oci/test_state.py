"""The state directory of orlop-runtime."""

from __future__ import annotations

import os
import threading
import time

import pytest

from orlop.errors import ConflictError, DataLossError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.runtime.oci import state as module
from orlop.runtime.oci.state import State, StateStore, is_alive, process_stat, state_document


def state(identity: str = "box", pid: int = 1, start_time: int = 1) -> State:
    return State(
        identity, pid, start_time, "/b", "/b/rootfs", "2026-01-01T00:00:00Z", "/orlop/box", 0, "1.2.0", {"a": "b"}
    )


@pytest.fixture
def store(tmp_path):
    return StateStore(str(tmp_path / "root"))


def test_round_trip(store):
    store.claim("box")
    store.save(state())
    assert store.load("box") == state()
    assert store.identities() == ["box"]
    assert oct(os.stat(f"{store.root}/box/state.json").st_mode & 0o777) == "0o600"
    store.remove("box")
    store.remove("box")
    assert store.identities() == []


def test_an_id_is_claimed_once(store):
    store.claim("box")
    with pytest.raises(ConflictError, match="container with given ID already exists"):
        store.claim("box")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_a_root_that_others_can_change(store, tmp_path):  # I3
    for owner, mode, refused in ((0, 0o700, False), (1234, 0o700, True), (0, 0o777, True), (0, 0o1777, False)):
        other = StateStore(str(tmp_path / f"{owner}-{mode:o}"))
        os.mkdir(other.root)
        os.chmod(other.root, mode)
        os.chown(other.root, owner, owner)
        if refused:
            with pytest.raises(InvalidParameterError, match="others can change the state of containers"):
                other.claim("box")
            assert os.listdir(other.root) == []
        else:
            other.claim("box")


def test_unknown_and_half_made(store):
    store.claim("half")
    for identity in ("none", "half"):
        with pytest.raises(NotFoundError, match="container does not exist"):
            store.load(identity)
    assert store.identities() == []


@pytest.mark.parametrize("identity", [".", "..", "a/b", "a\n", "a b", "x" * 256, "\u00e9"])
def test_ids_that_are_paths(store, identity):
    with pytest.raises(InvalidParameterError, match="invalid container ID format"):
        store.load(identity)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"id": "box"}'])
def test_damage_is_told(store, text):
    store.claim("box")
    with open(f"{store.root}/box/state.json", "w") as file:
        file.write(text)
    with pytest.raises(DataLossError, match="damaged state"):
        store.load("box")


def test_alive_means_the_same_process():
    pid = os.getpid()
    letter, start = process_stat(pid)
    assert letter in "RS"
    assert is_alive(state(pid=pid, start_time=start))
    assert not is_alive(state(pid=pid, start_time=start + 1))
    assert not is_alive(state(pid=0))
    assert process_stat(2**22 + 1) is None


def test_gate_opens_once(store):
    store.claim("box")
    gate = store.make_gate("box")
    pid = os.fork()
    if pid == 0:
        os.write(os.open(f"/proc/self/fd/{gate}", os.O_WRONLY), b"0")
        os._exit(0)
    waiting = state(pid=pid, start_time=process_stat(pid)[1])
    try:
        store.open_gate(waiting)
        with pytest.raises(ConflictError, match="cannot start an already running container"):
            store.open_gate(waiting)
        assert os.listdir(store.directory("box")) == []
    finally:
        os.close(gate)
        assert os.waitpid(pid, 0)[1] == 0


def test_gate_of_a_dead_init(store):
    store.claim("box")
    os.close(store.make_gate("box"))
    with pytest.raises(ConflictError, match="cannot start a container that has stopped"):
        store.open_gate(state(pid=0))


def test_document():
    document = state_document(state(pid=7), "running")
    assert list(document) == [
        "ociVersion",
        "id",
        "pid",
        "status",
        "bundle",
        "rootfs",
        "created",
        "annotations",
        "owner",
    ]
    assert state_document(state(pid=7), "stopped")["pid"] == 0


class Writer:
    """What init does at its end of the fifo, in a thread: words, each with a pause behind it; then it closes.

    With ``end`` it closes when that is set.
    """

    def __init__(self, store: StateStore, *words: bytes, end: threading.Event | None = None) -> None:
        os.close(store.make_gate("box"))
        self._path = f"{store.root}/box/exec.fifo"
        self._opened = f"{self._path}.starting"
        self._words = words
        self._end = end
        self.closed = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        deadline = time.monotonic() + 60
        while not os.path.exists(self._opened) and time.monotonic() < deadline:
            time.sleep(0.005)
        fd = os.open(self._opened, os.O_WRONLY)
        for word in self._words:
            os.write(fd, word)
            time.sleep(0.2)
        if self._end is not None:
            self._end.wait(60)
        self.closed = True
        os.close(fd)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


@pytest.fixture
def running(store):
    """A state of a process that is alive: this one."""
    store.claim("box")
    found = process_stat(os.getpid())
    assert found is not None
    return state(pid=os.getpid(), start_time=found[1])


def test_start_waits_for_a_word_and_if_told_so_for_execve(store, running):
    end = threading.Event()
    with Writer(store, b"0", end=end) as writer:
        store.open_gate(running)
        assert not writer.closed
        end.set()
    with Writer(store, b"0") as writer:
        store.open_gate(running, until_executed=True)
        assert writer.closed
    with pytest.raises(ConflictError, match="already running"):
        store.open_gate(running)


@pytest.mark.parametrize("words", [[b"1a hook failed"], [b"0", b"1a hook failed"], [b"01a hook failed"]])
def test_start_is_told_of_failures(store, running, words):
    with Writer(store, *words), pytest.raises(SystemFailureError, match=r"^a hook failed$"):
        store.open_gate(running, until_executed=True)


def test_start_notices_a_death(store, running):
    with Writer(store), pytest.raises(ConflictError, match="died before"):
        store.open_gate(running)


def test_a_program_that_ended_at_once_was_started(store, running, monkeypatch):
    """Between two looks: its word is there, and it is dead."""
    os.close(store.make_gate("box"))

    def live_and_die(_state):
        fd = os.open(f"{store.root}/box/exec.fifo.starting", os.O_WRONLY)
        os.write(fd, b"0")
        os.close(fd)
        return False

    monkeypatch.setattr(module, "_POLL_MS", 1)
    monkeypatch.setattr(module, "is_alive", live_and_die)
    store.open_gate(running, until_executed=True)
