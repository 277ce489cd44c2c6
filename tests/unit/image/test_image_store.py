import asyncio
import json
import os
import sqlite3

import pytest

from orlop.errors import ConflictError, InvalidParameterError, NotFoundError
from orlop.image.content import ContentStore
from orlop.image.filters import filter_images
from orlop.image.records import ImageUser
from orlop.image.removal import prune_images, remove_image
from orlop.image.store import SCHEMA, ImageStore
from orlop.spec.digest import Digest
from orlop.spec.image import ContainerDefaults, History, ImageConfig
from orlop.spec.reference import parse_reference


class FakeLayers:
    """Counts references like the layer store."""

    def __init__(self):
        self.references = {}
        self.inits = []

    def retain(self, chain):
        self.references[chain] = self.references.get(chain, 0) + 1

    def release(self, chain):
        self.references[chain] -= 1
        if self.references[chain]:
            return []
        del self.references[chain]
        return [f"/grave/{chain.hex[:4]}"]

    def has(self, chain):
        return chain in self.references

    def size(self, chain):
        return 0 if chain is None else 100

    async def prepare_init(self, chain):
        self.inits.append(chain)
        return "init"


@pytest.fixture
def world(tmp_path):
    database = sqlite3.connect(tmp_path / "db", isolation_level=None)
    database.executescript(SCHEMA)
    layers = FakeLayers()
    yield database, ContentStore(str(tmp_path / "blobs")), layers
    database.close()


@pytest.fixture
def store(world):
    return ImageStore(*world)


def make(store, number, name=None, parent=None, **config):
    layer = Digest(f"{number:064x}")
    store._layers.retain(layer)
    document = ImageConfig(
        "amd64",
        "linux",
        ContainerDefaults(**config),
        (layer,),
        (History(created="c", comment=f"step {number}"),),
        created=f"2026-01-{number:02d}T00:00:00Z",
    )
    reference = parse_reference(name) if name else None
    return asyncio.run(store.create(document.render(), layer, reference, parent=parent))[0]


def user(image, running=False, container="c" * 64):
    return ImageUser(container, running, str(image.id), "x")


class TestLookUp:
    def test_by_name_id_prefix_and_digest(self, store):
        image = make(store, 1, "busybox")
        for name in (
            "busybox",
            "busybox:latest",
            "docker.io/library/busybox",
            image.id.hex,
            str(image.id),
            image.id.short,
            "sha256:" + image.id.short,
            image.id.hex[:1],
        ):
            assert store.get(name).id == image.id

    @pytest.mark.parametrize(
        ("name", "error", "message"),
        [
            ("nosuch", NotFoundError, "No such image: nosuch:latest"),
            ("nosuch:x", NotFoundError, "No such image: nosuch:x"),
            ("FOO", InvalidParameterError, "invalid reference format: repository name (library/FOO) must be lowercase"),
            ("a" * 64, NotFoundError, f"No such image: sha256:{'a' * 64}"),
            (f"sha256:{'a' * 64}", NotFoundError, f"No such image: sha256:{'a' * 64}"),
            (f"h:x@sha256:{'a' * 64}", NotFoundError, f"No such image: h:x@sha256:{'a' * 64}"),
            (" x", InvalidParameterError, "invalid reference format"),
            ("sha256:zz", NotFoundError, "No such image: sha256:zz"),
            ("", InvalidParameterError, "invalid reference format"),
        ],
    )
    def test_docker_words(self, store, name, error, message):
        make(store, 1, "busybox")
        with pytest.raises(error) as caught:
            store.get(name)
        assert str(caught.value) == message

    def test_an_ambiguous_prefix_is_no_image(self, store):
        images = [make(store, number) for number in range(1, 30)]
        first = [image.id.hex[0] for image in images]
        twice = next(digit for digit in first if first.count(digit) > 1)
        with pytest.raises(NotFoundError, match=f"No such image: {twice}:latest"):
            store.get(twice)

    def test_a_name_wins_over_an_id(self, store):
        image, other = make(store, 1), make(store, 2)
        store.tag(other.id, parse_reference(image.id.hex[:6]))
        assert store.get(image.id.hex[:6]).id == other.id


class TestNames:
    def test_a_name_moves(self, store):
        first, second = make(store, 1, "a:1"), make(store, 2)
        assert store.tag(second.id, parse_reference("a:1")).id == first.id
        assert store.get("a:1").id == second.id
        assert store.get(first.id.hex).tags == ()
        assert store.get("a:1").last_tagged > 0

    def test_everything_survives_a_restart(self, store, world):
        image = make(store, 1, "a:1", env=("A=b",))
        store.tag(image.id, parse_reference("b"))
        fresh = ImageStore(world[0], world[1], world[2])
        assert fresh.load() == []
        assert fresh.get("a:1") == store.get("a:1")
        assert fresh.get("b").tags == ("a:1", "b:latest")

    def test_a_damaged_configuration_costs_only_its_image(self, store, world):
        image, other = make(store, 1, "a"), make(store, 2, "b")
        with open(world[1].path(image.id), "a") as blob:
            blob.write(" ")
        fresh = ImageStore(*world)
        assert fresh.load() == [str(image.id)]
        assert [item.id for item in fresh.images()] == [other.id]
        with pytest.raises(NotFoundError):
            fresh.get("a")

    def test_the_same_image_twice_holds_its_layer_once(self, store, world):
        image = make(store, 1, "a")
        again = make(store, 1, "b")
        assert again.id == image.id
        assert world[2].references[image.chain] == 1

    def test_a_configuration_of_other_layers_is_refused(self, store, world):
        layer = Digest("1" * 64)
        world[2].retain(layer)
        with pytest.raises(InvalidParameterError):
            asyncio.run(store.create(ImageConfig("amd64", "linux").render(), layer))
        assert world[2].references == {layer: 1}  # still the caller's
        assert list(world[1].digests()) == []
        assert store.images() == []


class TestRemoval:
    def test_untag_then_delete(self, store):
        image = make(store, 1, "a")
        store.tag(image.id, parse_reference("b:v1"))
        assert remove_image(store, "a", []).records == (("Untagged", "a:latest"),)
        done = remove_image(store, "b:v1", [])
        layer = ("Deleted", str(image.chain))  # as dockerd, by its chain id
        assert done.records == (("Untagged", "b:v1"), ("Deleted", str(image.id)), layer)
        assert done.images == {str(image.id)}
        assert (len(done.tombstones), done.reclaimed) == (1, 100)
        with pytest.raises(NotFoundError):
            remove_image(store, "b:v1", [])

    @pytest.mark.parametrize("name", ["a", "id"])
    def test_the_last_names_go_with_the_image(self, world, store, name):
        """In one transaction: a kill -9 leaves names and image or neither."""
        image = make(store, 1, "a")
        statements = []
        world[0].set_trace_callback(statements.append)
        remove_image(store, image.id.short if name == "id" else name, [])
        world[0].set_trace_callback(None)
        begin, end = (next(n for n, line in enumerate(statements) if line.startswith(w)) for w in ("BEGIN", "COMMIT"))
        deletions = [n for n, line in enumerate(statements) if line.startswith("DELETE FROM image")]
        assert len(deletions) == 2
        assert all(begin < n < end for n in deletions)
        with pytest.raises(NotFoundError):
            store.get("a")

    def test_used_by_a_container(self, store):
        image = make(store, 1, "h4test:one")
        with pytest.raises(ConflictError) as caught:
            remove_image(store, "h4test:one", [user(image)])
        assert str(caught.value) == (
            'conflict: unable to remove repository reference "h4test:one" (must force) - container '
            f"cccccccccccc is using its referenced image {image.id.short}"
        )
        with pytest.raises(ConflictError) as caught:
            remove_image(store, image.id.short, [user(image)])
        assert str(caught.value) == (
            f"conflict: unable to delete {image.id.short} (must be forced) - "
            "image is being used by stopped container cccccccccccc"
        )
        assert [kind for kind, _ in remove_image(store, "h4test:one", [user(image)], force=True).records] == [
            "Untagged",
            "Deleted",
            "Deleted",
        ]

    def test_several_repositories_by_id(self, store):
        image = make(store, 1, "a")
        store.tag(image.id, parse_reference("b"))
        with pytest.raises(ConflictError) as caught:
            remove_image(store, image.id.short, [])
        assert str(caught.value).endswith("(must be forced) - image is referenced in multiple repositories")
        done = remove_image(store, image.id.short, [], force=True)
        assert done.records[:3] == (("Untagged", "a:latest"), ("Untagged", "b:latest"), ("Deleted", str(image.id)))

    def test_a_running_container_cannot_be_forced(self, store):
        image = make(store, 1, "a")
        users = [user(image, running=True)]
        with pytest.raises(ConflictError) as caught:
            remove_image(store, image.id.short, users, force=True)
        assert str(caught.value) == (
            f"conflict: unable to delete {image.id.short} (cannot be forced) - "
            "image is being used by running container cccccccccccc"
        )
        assert store.get("a").id == image.id
        assert remove_image(store, "a", users, force=True).records == (("Untagged", "a:latest"),)
        assert store.get(image.id.hex).tags == ()

    def test_parents_without_names_go_with_the_last_child(self, store):
        parent = make(store, 1)
        child = make(store, 2, "c", parent=parent.id)
        with pytest.raises(ConflictError, match="image has dependent child images"):
            remove_image(store, parent.id.short, [], force=True)
        deleted = [name for kind, name in remove_image(store, "c", []).records if kind == "Deleted"]
        assert deleted == [str(child.id), str(child.chain), str(parent.id), str(parent.chain)]

    def test_prune(self, store):
        kept, dangling, used = make(store, 1, "a"), make(store, 2), make(store, 3)
        removal = prune_images(store, [image for image in store.images() if not image.references], [user(used)])
        assert removal.records == (("Deleted", str(dangling.id)), ("Deleted", str(dangling.chain)))
        assert {image.id for image in store.images()} == {kept.id, used.id}


class TestLists:
    def test_newest_first_and_filters(self, store):
        first = make(store, 1, "app:1", labels={"x": "y"})
        second = make(store, 2, "reg.example/team/app:2")
        third = make(store, 3)

        def ids(**filters):
            return [image.id for image in filter_images(store, filters)]

        assert ids() == [third.id, second.id, first.id]
        assert ids(label=["x"]) == ids(label=["x=y"]) == [first.id]
        assert ids(label=["x=z"]) == []
        assert ids(dangling=["true"]) == [third.id]
        assert ids(dangling=["0"]) == [second.id, first.id]
        assert ids(before=["reg.example/team/app:2"]) == [first.id]
        assert ids(since=["app:1"]) == [third.id, second.id]
        assert ids(reference=["app"]) == ids(reference=["app:*"]) == ids(reference=["a[o-q]?"]) == [first.id]
        assert ids(reference=["*/*/app"]) == ids(reference=["reg.example/team/*:2"]) == [second.id]
        assert ids(reference=["*"]) == [first.id]  # a star stops at a slash
        with pytest.raises(InvalidParameterError, match="invalid filter 'foo'"):
            ids(foo=["x"])
        with pytest.raises(InvalidParameterError, match=r"invalid filter 'dangling=\[zz\]'"):
            ids(dangling=["zz"])
        with pytest.raises(NotFoundError):
            ids(before=["nosuch"])

    def test_reference_filter_shows_only_the_names_that_match(self, store):
        image = make(store, 1, "a:1")
        store.tag(image.id, parse_reference("b:1"))
        (found,) = filter_images(store, {"reference": ["b"]})
        assert found.tags == ("b:1",)

    def test_history(self, store):
        image = make(store, 1, "a")
        (entry,) = store.history(image)
        assert (entry.id, entry.tags, entry.step.comment, entry.size) == (str(image.id), ("a:latest",), "step 1", 100)


def test_content_is_checked_and_drafts_go_away(tmp_path):
    content = ContentStore(str(tmp_path))
    digest = content.put(b"data")
    assert content.get(digest, limit=10) == b"data"
    assert os.stat(content.path(digest)).st_mode & 0o777 == 0o600
    (tmp_path / "sha256" / ".new-crashed").write_text("half")
    assert list(ContentStore(str(tmp_path)).digests()) == [digest]
    assert os.listdir(tmp_path / "sha256") == [digest.hex]
    content.remove(digest)
    content.remove(digest)
    with pytest.raises(NotFoundError):
        content.get(digest, limit=10)


def test_rendered_documents_are_json(store):
    image = make(store, 1, "a", env=("A=b",))
    assert json.loads(image.config.render())["config"]["Env"] == ["A=b"]
