"""The protocol against a registry that cuts, stalls, lies, redirects and loops, in this process, on loopback."""

import contextlib
import hashlib
import os

import pytest
from aiohttp.test_utils import TestServer

from hostile_registry import HostileRegistry, put_image
from image_builder import build_image, sha256
from orlop.engine.registry.pull import fetch_config
from orlop.errors import InvalidParameterError, OrlopError
from orlop.registry.authorization import Authorization
from orlop.registry.certificates import Certificates
from orlop.registry.challenge import pull_scope
from orlop.registry.credentials import ANONYMOUS, Credentials
from orlop.registry.download import download
from orlop.registry.endpoints import Endpoint
from orlop.registry.failures import RegistryError
from orlop.registry.http import Http
from orlop.registry.repository import Repository
from orlop.registry.upload import upload
from orlop.spec.digest import Digest
from orlop.spec.manifest import Descriptor, parse_document

IMAGE = build_image(1, size=300_000)
USER = Credentials("user", "secret")


class Sink:
    def __init__(self, digest):
        self.data = bytearray()
        self.digest = digest

    @property
    def size(self):
        return len(self.data)

    async def write(self, data):
        self.data += data

    def reset(self):
        self.data.clear()

    def is_whole(self):
        return hashlib.sha256(self.data).hexdigest() == self.digest.hex


class Watcher:
    def __init__(self):
        self.pauses = 0

    def downloading(self, current, total):
        assert current <= total

    def retrying(self, seconds):
        self.pauses += 1


class World:
    def __init__(self, server, registry, http):
        self.server, self.registry, self.http = server, registry, http

    def repository(self, behaviour, credentials=ANONYMOUS, *, insecure=False):
        endpoint = Endpoint(f"http://127.0.0.1:{self.server.port}", insecure=insecure)
        path = f"{behaviour}/x"
        return Repository(
            self.http, endpoint, path, Authorization(self.http, endpoint, credentials, (pull_scope(path),))
        )

    async def fetch(self, behaviour, *, credentials=ANONYMOUS, prefix=b"", image=IMAGE, attempts=5):
        blob = Descriptor("x", Digest.of(image.blobs[0]), len(image.blobs[0]))
        sink, watcher = Sink(blob.digest), Watcher()
        sink.data += prefix
        repository = self.repository(behaviour, credentials)
        await download(repository, blob, sink, watcher, first_delay=0.01, attempts=attempts)
        assert bytes(sink.data) == image.blobs[0]
        return watcher

    def asked(self, kind="blobs"):
        return [entry for entry in self.registry.log if f"/{kind}/" in entry[1] or "/cdn/" in entry[1]]


@pytest.fixture
async def world(tmp_path):
    put_image(tmp_path, IMAGE)
    registry = HostileRegistry(tmp_path)
    server = TestServer(registry.app, host="127.0.0.1")
    await server.start_server()
    http = Http(Certificates(()), lambda _: False, read_seconds=60)
    yield World(server, registry, http)
    await http.close()
    await server.close()


@pytest.mark.parametrize("behaviour", ["good", "cut", "wrongrange", "noranges", "unsatisfiable", "toomany", "flaky"])
async def test_a_blob_arrives_in_the_end(world, behaviour):
    watcher = await world.fetch(behaviour)
    assert (watcher.pauses > 0) == (behaviour != "good")


async def test_a_cut_costs_no_byte_twice(world):
    await world.fetch("cut")
    ranges = [asked for _, _, _, asked in world.asked()]
    size = len(IMAGE.blobs[0])
    assert ranges == ["", *(f"bytes={(size // 3 + 1) * count}-" for count in (1, 2))]


async def test_what_was_kept_is_continued(world):
    await world.fetch("good", prefix=IMAGE.blobs[0][:1000])
    assert world.asked()[0][3] == "bytes=1000-"
    world.registry.log.clear()
    await world.fetch("good", prefix=IMAGE.blobs[0])
    assert not world.registry.log


async def test_kept_rubbish_is_fetched_anew(world):
    await world.fetch("good", prefix=b"rubbish" * 10)
    await world.fetch("good", prefix=b"x" * (len(IMAGE.blobs[0]) + 1))


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("liar", "filesystem layer verification failed for digest"),
        ("long", "is larger than the"),
        ("short", "unexpected EOF"),
        ("stall", "timeout while reading"),
        ("down", "503 Service Unavailable"),
        ("loop", "stopped after 10 redirects"),
        ("nowhere", "bad Location"),
        ("forbidden", "error parsing HTTP 403 response body: not JSON"),
    ],
)
async def test_a_blob_that_cannot_be(world, behaviour, message):  # E4, R23
    if behaviour == "stall":
        world.http._read_seconds = 0.5
    with pytest.raises(OrlopError, match=message) as caught:
        await world.fetch(behaviour, attempts=2)
    assert "\x1b" not in str(caught.value)


async def test_parts_of_different_answers_are_fetched_once_more(world):
    world.registry.counts["cut"] = 0
    await world.fetch("liaronce")


async def test_credentials_do_not_follow_a_redirect_to_another_host(world):  # E9
    await world.fetch("elsewhere", credentials=USER)
    seen = {path: authorization for _, path, authorization, _ in world.asked()}
    blob = sha256(IMAGE.blobs[0])
    assert seen[f"/v2/elsewhere/x/blobs/sha256:{blob}"].startswith("Basic ")
    assert seen[f"/cdn/{blob}"] == ""


async def test_credentials_are_not_sent_before_they_are_asked_for(world):
    await world.fetch("good", credentials=USER)
    assert all(not authorization for _, _, authorization, _ in world.registry.log)


async def test_tokens(world):
    await world.fetch("token", credentials=USER)
    token = next(entry for entry in world.registry.log if entry[1] == "/token")
    assert token[2].startswith("Basic ")
    assert world.asked()[-1][2] == "Bearer t0ken"


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("evilrealm", "refusing to send credentials without TLS"),
        ("ftprealm", "bad token service"),
        ("norealm", "bad token service"),
    ],
)
async def test_bad_realms_get_nothing(world, behaviour, message):  # CVE-2020-15157
    with pytest.raises(RegistryError, match=message):
        await world.fetch(behaviour, credentials=USER)


async def test_no_credentials_for_basic(world):
    with pytest.raises(RegistryError, match=r'^Head "http://127.0.0.1:[0-9]+/v2/basic/x/manifests/1": no basic auth'):
        await world.repository("basic").resolve("1")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("html", "unsupported manifest media type: text/html"),
        ("hugemanifest", "larger than 4194304 bytes"),
        ("confused", "both an image and a list of images"),
        ("twice", "duplicate key"),
        ("othertype", "but says that it is"),
        ("schema1", "schema 1 are not supported"),
        ("plugin", r'Encountered remote "application/vnd.docker.plugin.v1\+json"\(plugin\) when fetching'),
        ("foreign", "unsupported layer media type"),
        ("many", "max depth exceeded: 200 layers"),
        ("traversal", "invalid checksum digest format"),
        ("denied", "denied: requested access to the resource is denied"),
        ("down", "received unexpected HTTP status: 503"),
    ],
)
async def test_manifests_that_are_refused(world, behaviour, message):  # E3, E6, E8
    with pytest.raises(OrlopError, match=message):
        received = await world.repository(behaviour).manifest("1")
        parse_document(received.data, received.media_type)
    assert not [entry for entry in world.registry.log if entry[1] == "/stolen"]


async def test_a_manifest_by_digest_has_it(world):
    digest = Digest.of(IMAGE.manifest())
    assert (await world.repository("good").manifest(digest)).data == IMAGE.manifest()
    with pytest.raises(RegistryError, match="manifest verification failed for digest"):
        await world.repository("otherdigest").manifest(digest)


async def test_a_configuration_has_its_digest(world):  # E4
    config = Descriptor("x", Digest.of(b"{}"), 2)
    (world.registry.directory / config.digest.hex).write_bytes(b"[]")
    with pytest.raises(InvalidParameterError, match="image config verification failed for digest"):
        await fetch_config(world.repository("good"), config)


async def test_mirrors_get_no_credentials(world):  # E9
    endpoint = Endpoint(f"http://127.0.0.1:{world.server.port}", insecure=True, mirror=True)
    for credentials in (USER, Credentials(registry_token="secret"), Credentials(identity_token="secret")):
        for behaviour in ("basic", "token"):
            authorization = Authorization(world.http, endpoint, credentials, (pull_scope("x"),))
            repository = Repository(world.http, endpoint, f"{behaviour}/x", authorization)
            with contextlib.suppress(RegistryError):
                await repository.manifest("1")
    assert {authorization for _, _, authorization, _ in world.registry.log} == {"", "Bearer t0ken"}


async def test_a_redirect_does_not_lead_out_of_tls(world, monkeypatch):  # E10
    asked = []

    class Answer:
        status, headers = 302, {"Location": "http://secure.example/plain"}

        def release(self):
            pass

    async def send(method, url, headers):
        asked.append(url)
        return Answer()

    monkeypatch.setattr(world.http, "send", send)
    with pytest.raises(RegistryError, match="refusing to be redirected from TLS to plain HTTP"):
        await world.http.follow("GET", "https://secure.example/x", {})
    assert asked == ["https://secure.example/x"]


class Source:
    def __init__(self, data):
        self.data = data

    async def read(self, offset, size):
        for position in range(offset, offset + size, 100_000):
            yield self.data[position : min(position + 100_000, offset + size)]


@pytest.mark.parametrize(
    ("behaviour", "size"), [("good", 1000), ("good", 9 << 20), ("uploadcut", 9 << 20), ("good", 0)]
)
async def test_uploads(world, behaviour, size):
    data = os.urandom(size)
    blob = Descriptor("x", Digest.of(data), size)
    told = []
    await upload(
        world.repository(behaviour), blob, Source(data), lambda current, _: told.append(current), first_delay=0.01
    )
    assert bytes(world.registry.uploads["1"]) == data
    if behaviour == "uploadcut":
        assert [entry[0] for entry in world.asked()] == ["POST", "PATCH", "GET", "PATCH", "GET", "PATCH", "PUT"]
    assert told[-1:] == ([size] if size else [])


async def test_an_upload_elsewhere_gets_no_credentials(world):  # E9
    data = b"some bytes"
    blob = Descriptor("x", Digest.of(data), len(data))
    repository = world.repository("uploadelsewhere", USER)
    repository.authorization._header, repository.authorization._expires = USER.basic(), float("inf")
    await upload(repository, blob, Source(data), lambda *_: None)
    assert [entry[2][:5] for entry in world.asked()] == ["Basic", ""]


async def test_errors_do_not_show_what_is_secret(world):  # H9
    with pytest.raises(InvalidParameterError):
        await world.fetch("liar", credentials=USER)
    assert "secret" not in repr(USER)
