import os
import sqlite3

import pytest

from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, SystemFailureError, UnsupportedError
from orlop.primitives.removal import remove_tree
from orlop.volumes.filters import filter_volumes, prune_candidates
from orlop.volumes.store import SCHEMA, VolumeStore


@pytest.fixture
def opener(tmp_path):
    database = sqlite3.connect(tmp_path / "db", isolation_level=None)
    database.executescript(SCHEMA)

    def opened():
        store = VolumeStore(database, str(tmp_path / "volumes"))
        store.graves = store.load()
        return store

    yield opened
    database.close()


@pytest.fixture
def store(opener):
    return opener()


def test_a_volume_survives_a_restart(store, opener):
    made = store.create("data", labels={"a": "b"})
    store.mark_filled("data")
    assert os.path.isdir(made.path)
    again = opener().get("data")
    assert (again.name, again.labels, again.options, again.path) == ("data", {"a": "b"}, None, made.path)
    assert (made.filled, again.filled) == (False, True)


def test_creating_it_again_returns_it(store):
    assert store.create("data", labels={"a": "b"}) is store.create("data")


def test_anonymous(store):
    volume = store.create("")
    assert len(volume.name) == 64
    assert volume.anonymous
    assert not store.create("named").anonymous


@pytest.mark.parametrize("name", ["a b", "../x", "-x", ".x", "_a", "é", "ab\n", "a/b", "a\0b"])
def test_bad_names(store, name):
    with pytest.raises(InvalidParameterError, match="includes invalid characters for a local volume name"):
        store.create(name)


def test_docker_words(store):
    with pytest.raises(InvalidParameterError) as caught:
        store.create("a b")
    assert str(caught.value) == (
        'create a b: "a b" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
        "are allowed. If you intended to pass a host directory, use absolute path"
    )
    with pytest.raises(InvalidParameterError) as caught:
        store.create("A")
    assert str(caught.value) == (
        "create A: volume name is too short, names should be at least two alphanumeric characters"
    )
    with pytest.raises(InvalidParameterError, match="too long"):
        store.create("x" * 300)
    with pytest.raises(NotFoundError, match='create ab: error looking up volume plugin nope: plugin "nope" not found'):
        store.create("ab", driver="nope")
    with pytest.raises(InvalidParameterError, match='create ab: invalid option: "x"'):
        store.create("ab", options={"x": "y"})
    with pytest.raises(InvalidParameterError, match='create ab: missing required option: "device"'):
        store.create("ab", options={"type": "tmpfs"})
    with pytest.raises(InvalidParameterError, match='create ab: missing required option: "type"'):
        store.create("ab", options={"device": "/x"})
    with pytest.raises(InvalidParameterError, match="create ab: quota size requested but no quota support"):
        store.create("ab", options={"size": "10m"})
    with pytest.raises(InvalidParameterError, match="must be an absolute path"):
        store.create("ab", options={"type": "none", "o": "bind", "device": "x"})
    with pytest.raises(UnsupportedError, match='not supported by this kernel: "nosuchfs"'):
        store.create("ab", options={"type": "nosuchfs", "device": "x"})
    with pytest.raises(NotFoundError, match=r"^get nosuch: no such volume$"):
        store.get("nosuch")
    with pytest.raises(NotFoundError, match=r"^get nosuch: no such volume$"):
        store.remove("nosuch")
    assert store.volumes() == []


def test_a_used_volume_stays(store):
    store.create("data")
    for force in (False, True):
        with pytest.raises(ConflictError, match=r"^remove data: volume is in use - \[abc, def\]$"):
            store.remove("data", ["abc", "def"], force=force)
    assert store.remove("nosuch", force=True) == []


def test_removal_is_at_once_and_leaves_a_tombstone(store, opener):
    path = store.create("data").path
    (grave,) = store.remove("data")
    assert not os.path.exists(path)
    assert opener().graves == [grave]
    remove_tree(grave)
    assert opener().graves == []
    assert store.create("data").filled is False


def test_a_directory_without_record_is_never_touched(store, tmp_path):
    (tmp_path / "volumes" / "precious" / "_data").mkdir(parents=True)
    with pytest.raises((ConflictError, SystemFailureError)):
        store.create("precious")
    assert (tmp_path / "volumes" / "precious" / "_data").is_dir()
    assert sorted(os.listdir(tmp_path / "volumes")) == ["precious"]


def test_what_a_crash_left_goes_away(store, opener, tmp_path):
    (tmp_path / "volumes" / ".new-1" / "_data").mkdir(parents=True)
    store.create("lost")
    os.rename(tmp_path / "volumes" / "lost", tmp_path / "elsewhere")
    assert opener().volumes() == []
    assert os.listdir(tmp_path / "volumes") == []


def test_failure_leaves_nothing(store, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(SystemFailureError, match="create data: no space left on device"):
            store.create("data")
    assert os.listdir(tmp_path / "volumes") == []
    store.create("data")


def test_a_full_database_leaves_nothing(store, tmp_path):
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SystemFailureError, match="create full: no space left on device"):
        store.create("full", labels={"big": "x" * 100_000})
    assert os.listdir(tmp_path / "volumes") == []
    store._database.execute("PRAGMA max_page_count = 100000")
    store.create("full", labels={"big": "x" * 100_000})


def test_filters_and_prune(store):
    store.create("one", labels={"a": "b"})
    store.create("two")
    anonymous = store.create("").name
    users = {"one": ["c"]}

    def names(**filters):
        return {volume.name for volume in filter_volumes(store, filters, users)}

    assert names() == {"one", "two", anonymous}
    assert names(dangling=["true"]) == {"two", anonymous}
    assert names(dangling=["0"]) == names(label=["a"]) == names(label=["a=b"]) == {"one"}
    assert names(name=["tw"]) == {"two"}
    assert names(driver=["nope"]) == set()
    with pytest.raises(InvalidParameterError, match="invalid filter 'foo'"):
        names(foo=["x"])
    store.create("bound", options={"type": "none", "o": "bind", "device": "/etc"})  # dockerd prunes none of these
    removed, graves = store.prune(prune_candidates(store, {}), users)
    assert ([volume.name for volume in removed], len(graves)) == ([anonymous], 1)
    removed, _ = store.prune(prune_candidates(store, {"all": ["true"]}), users)
    assert [volume.name for volume in removed] == ["two"]
    assert names() == {"one", "bound"}
    with pytest.raises(InvalidParameterError, match=r"invalid filter 'all': strconv.ParseBool: parsing \"x\": invalid"):
        prune_candidates(store, {"all": ["x"]})
