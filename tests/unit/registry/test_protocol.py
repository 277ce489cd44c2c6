"""The parts of the protocol that need no network."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError, NotFoundError
from orlop.registry.certificates import Certificates
from orlop.registry.challenge import Challenge, parse_challenges
from orlop.registry.credentials import ANONYMOUS, decode_header
from orlop.registry.endpoints import (
    Endpoint,
    Endpoints,
    RegistryOptions,
    check_insecure,
    check_mirror,
    login_domain,
)
from orlop.registry.failures import refusal
from orlop.registry.http import absolute, origin
from orlop.spec.manifest import Index, choose, parse_document
from orlop.spec.platform import Platform


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="x y"'], [Challenge("basic", {"realm": "x y"})]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"'],
            [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (
            ['Negotiate, Basic realm="a", Bearer realm=b , error="insufficient_scope"'],
            [
                Challenge("negotiate", {}),
                Challenge("basic", {"realm": "a"}),
                Challenge("bearer", {"realm": "b", "error": "insufficient_scope"}),
            ],
        ),
        (["Negotiate YWJj==", "BASIC REALM=z"], [Challenge("negotiate", {}), Challenge("basic", {"realm": "z"})]),
        ([r'Basic realm="a\"b\\"'], [Challenge("basic", {"realm": 'a"b\\'})]),
        ([""], []),
        (["=,=,"], []),
        (['Basic realm="open'], [Challenge("basic", {})]),
        (["x" * 9000], []),
    ],
)
def test_challenges(headers, expected):
    found = parse_challenges(headers)
    if headers == ['Basic realm="open']:
        found = found[:1]
    assert found == expected


@given(st.text(max_size=200))
def test_any_challenge_is_read(text):
    parse_challenges([text])


def header(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_credentials():
    assert decode_header("") == ANONYMOUS
    assert decode_header("e30=") == ANONYMOUS
    assert decode_header("e30") == ANONYMOUS
    found = decode_header(header({"username": "a", "password": "b?>~", "serveraddress": "x"}))
    assert (found.username, found.password, found.server) == ("a", "b?>~", "x")
    combined = decode_header(header({"auth": base64.b64encode(b"u:p:q").decode()}))
    assert (combined.username, combined.password) == ("u", "p:q")
    assert "b?>~" not in repr(found)
    for bad in ("%", "bm90IGpzb24=", header([1]), header({"username": 5}), "x" * 70_000):
        with pytest.raises(InvalidParameterError, match="invalid X-Registry-Auth header") as caught:
            decode_header(bad)
        assert bad not in str(caught.value) or len(bad) < 3


def resolve(host):
    names = {"inside.example": ["10.1.2.3"], "localhost": ["127.0.0.1"], "rebound.example": ["127.0.0.1"]}
    return names.get(host, [])


def test_where_a_registry_is():
    plain = Endpoints(RegistryOptions(), resolve)
    assert plain.push("docker.io") == [Endpoint("https://registry-1.docker.io")]
    assert plain.pull("ghcr.io") == [Endpoint("https://ghcr.io")]
    local = [Endpoint("https://127.0.0.1:5000", insecure=True), Endpoint("http://127.0.0.1:5000", insecure=True)]
    assert plain.pull("127.0.0.1:5000") == local
    assert plain.is_insecure("localhost:5000")
    assert plain.is_insecure("[::1]:5000")
    assert not plain.is_insecure("inside.example")
    assert not plain.is_insecure("rebound.example")
    assert not plain.is_insecure("128.0.0.1")
    named = Endpoints(RegistryOptions(insecure=("10.0.0.0/8", "old.example:5000", "older.example")), resolve)
    assert named.is_insecure("inside.example:443")
    assert named.is_insecure("10.9.9.9")
    assert named.is_insecure("old.example:5000")
    assert not named.is_insecure("old.example")
    assert named.is_insecure("older.example:1")
    mirrored = Endpoints(RegistryOptions(mirrors=("https://m.example/", "http://127.0.0.1:9")), resolve)
    assert mirrored.pull("docker.io") == [
        Endpoint("https://m.example", mirror=True),
        Endpoint("http://127.0.0.1:9", insecure=True, mirror=True),
        Endpoint("https://registry-1.docker.io"),
    ]
    assert mirrored.pull("ghcr.io") == [Endpoint("https://ghcr.io")]


def test_settings_are_checked():
    for good in ("https://m.example", "http://m.example:5000/"):
        check_mirror(good)
    for bad in ("m.example", "ftp://x", "https://u:p@x", "https://x?y", "https://"):
        with pytest.raises(InvalidParameterError, match="invalid mirror"):
            check_mirror(bad)
    for good in ("10.0.0.0/8", "a.example", "a.example:5000", "fd00::/8"):
        check_insecure(good)
    for bad in ("http://x", "a/b", "", "-x", "x:"):
        with pytest.raises(InvalidParameterError, match="insecure registry"):
            check_insecure(bad)


def test_login_servers():
    assert login_domain("https://index.docker.io/v1/") == login_domain("") == "docker.io"
    assert login_domain("ghcr.io") == login_domain("https://ghcr.io/v2/") == "ghcr.io"


def test_refusals():
    def of(status, document, *challenges):
        return str(refusal(status, json.dumps(document).encode(), challenges))

    errors = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
    assert of(404, errors) == "manifest unknown: manifest unknown"
    assert str(refusal(401, b"")) == "unauthorized: authentication required"
    assert str(refusal(403, b"", [Challenge("bearer", {"error": "insufficient_scope"})])).startswith("denied: ")
    assert str(refusal(503, b"<html>")) == "received unexpected HTTP status: 503 Service Unavailable"
    assert refusal(429, b"", retry_after="7").after == 7
    assert refusal(429, b"", retry_after="999999").after == 60
    assert not refusal(404, b"").retry
    assert "\x1b" not in of(400, {"errors": [{"code": "X", "message": "a\x1b[31m\nb"}]})


def test_locations():
    assert absolute("http://a/v2/x", "/y?z=%2F") == "http://a/y?z=%2F"
    assert absolute("http://a/v2/x", "https://b/y#f") == "https://b/y"
    for bad in ("", "file:///x", "ftp://x", "http://u:p@x/"):
        with pytest.raises(Exception, match="bad Location"):
            absolute("http://a/", bad)
    assert origin("https://a/x") == origin("https://a:443/y") != origin("http://a:443/")


def entry(number, platform, **more):
    return {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{number:064x}",
        "size": 1,
        "platform": platform,
        **more,
    }


def index(*entries):
    document = {"schemaVersion": 2, "manifests": entries}
    found = parse_document(json.dumps(document).encode(), "application/vnd.oci.image.index.v1+json")
    assert isinstance(found, Index)
    return found


def test_choosing_a_platform():
    amd64, arm64 = {"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64", "variant": "v8"}
    armv6, armv7 = (
        {"os": "linux", "architecture": "arm", "variant": "v6"},
        {"os": "linux", "architecture": "arm", "variant": "v7"},
    )
    attestation = entry(
        9,
        {"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    every = index(attestation, entry(1, arm64), entry(2, armv6), entry(3, armv7), entry(4, amd64))

    def chosen(text):
        return int(choose(every, Platform.parse(text)).digest.hex, 16)

    assert [chosen(text) for text in ("linux/amd64", "linux/arm64", "linux/arm64/v8", "linux/arm", "linux/arm/v6")] == [
        4,
        1,
        1,
        3,
        2,
    ]
    with pytest.raises(NotFoundError, match=r"^no matching manifest for linux/riscv64 in the manifest list entries$"):
        chosen("linux/riscv64")
    with pytest.raises(NotFoundError, match="no matching manifest for linux/arm64/v8 in the manifest list entries"):
        choose(index(entry(1, amd64)), Platform.parse("linux/arm64"))


def test_client_certificates_come_in_pairs(tmp_path):
    (tmp_path / "host:1").mkdir()
    certificates = Certificates((str(tmp_path),))
    (tmp_path / "host:1" / "client.cert").write_text("x")
    with pytest.raises(InvalidParameterError, match=r"missing key client.key for client certificate client.cert"):
        certificates.context("host:1", insecure=False)
    (tmp_path / "host:1" / "client.cert").unlink()
    (tmp_path / "host:1" / "client.key").write_text("x")
    with pytest.raises(InvalidParameterError, match=r"missing client certificate client.cert for key client.key"):
        certificates.context("host:1", insecure=False)
    assert certificates.context("..", insecure=False).check_hostname
    assert not certificates.context("other", insecure=True).check_hostname
