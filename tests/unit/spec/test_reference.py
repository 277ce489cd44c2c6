import time

import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.digest import Digest
from orlop.spec.reference import parse_reference

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
        ("host.example/app", "host.example/app", "host.example/app"),
        ("UPPER/app", "UPPER/app", "UPPER/app"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        (f"busybox@{D}", f"docker.io/library/busybox@{D}", f"busybox@{D}"),
        (f"busybox:1@{D}", f"docker.io/library/busybox:1@{D}", f"busybox:1@{D}"),
        ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f", "a__b/c--d.e_f"),
        ("sha256:94", "docker.io/library/sha256:94", "sha256:94"),
        ("foo:5000", "docker.io/library/foo:5000", "foo:5000"),
    ],
)
def test_normalisation(text, full, familiar):
    reference = parse_reference(text)
    assert (str(reference), reference.familiar) == (full, familiar)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a/",
        "/a",
        "a//b",
        ":tag",
        "a:",
        "a:-t",
        "a:" + "t" * 129,
        "a@sha256:zz",
        f"a@{D}@{D}",
        f"a@{D}:t",
        "a:t:u",
        "http://a/b",
        "a\n",
        "a\0b",
        "é",
        "a.b:port/c",
        "-host.com/a",
    ],
)
def test_bad_format(text):
    with pytest.raises(InvalidParameterError, match="invalid reference format"):
        parse_reference(text)


def test_docker_words_for_upper_case():
    with pytest.raises(InvalidParameterError) as caught:
        parse_reference("H4test")
    assert str(caught.value) == "invalid reference format: repository name (library/H4test) must be lowercase"


def test_docker_words_for_an_id():
    with pytest.raises(InvalidParameterError, match="cannot specify 64-byte hexadecimal strings"):
        parse_reference("a" * 64)


def test_name_limit():
    assert parse_reference("a/" + "b" * 253).path.endswith("b")
    with pytest.raises(InvalidParameterError, match="must not be more than 255 characters"):
        parse_reference("a/" + "b" * 254)


def test_default_tag_only_without_tag_and_digest():
    assert parse_reference("a").with_default_tag().tag == "latest"
    assert parse_reference("a:b").with_default_tag().tag == "b"
    assert parse_reference(f"a@{D}").with_default_tag().tag is None


def test_with_tag_checks():
    assert parse_reference(f"a@{D}").with_tag("x").familiar == "a:x"
    assert parse_reference("a:x").with_digest(Digest.parse(D)).familiar == f"a@{D}"
    with pytest.raises(InvalidParameterError, match="invalid tag format"):
        parse_reference("a").with_tag("c_*t4")


@pytest.mark.parametrize("text", ["a-" * 2000 + "!", "a" * 4000 + "!", "a." * 2000, ("a" * 60 + ".") * 60 + "/!"])
def test_time_is_linear(text):
    seconds = []
    for _ in range(5):  # the fastest: others may have been interrupted
        start = time.perf_counter()
        with pytest.raises(InvalidParameterError):
            parse_reference(text)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1
