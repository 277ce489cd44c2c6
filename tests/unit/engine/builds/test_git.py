"""What names a repository, and what is refused of it (threats F6)."""

import pytest

from orlop.engine.builds.git import Repository, is_git, is_ssh, parse_repository
from orlop.engine.builds.submodules import resolve_url
from orlop.errors import InvalidParameterError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/x.git", Repository("https://host/x.git")),
        ("https://host/x.git#v1.0", Repository("https://host/x.git", "v1.0")),
        ("git://host/x#main:a/b/", Repository("git://host/x", "main", "a/b")),
        ("github.com/a/b", Repository("https://github.com/a/b")),
        ("git@host:a/x.git#main:sub", Repository("git@host:a/x.git", "main", "sub")),
        ("me@host.example:~you/x", Repository("me@host.example:~you/x")),
        ("ssh://host/x.git", Repository("ssh://host/x.git")),
        ("ssh://git@[::1]:2222/x.git#v1", Repository("ssh://git@[::1]:2222/x.git", "v1")),
        ("https://host/x.git#:deep", Repository("https://host/x.git", "", "deep")),
    ],
)
def test_repository(text, expected):
    assert is_git(text)
    assert parse_repository(text) == expected


@pytest.mark.parametrize("text", ["https://host/x.tar", "http://host/", "/path/x.git", "file:///x.git", "ext::sh -c x"])
def test_something_else(text):
    assert not is_git(text)


@pytest.mark.parametrize(
    "text",
    [
        *("git://-oProxyCommand=x/y", "git://host/x y", "git://host/x\n", "https://host/x.git#--upload-pack=x"),
        *("https://host/x.git#a..b", "https://host/x.git#-x", "https://host/x.git#a@{1}", "https://host/x.git#a:../b"),
        *(
            "-oProxyCommand@host:x",
            "git@-oProxyCommand=x:y",
            "git@host:-x",
            "git@host:x y",
            "git@host:$(id)",
            "git@host:x'y",
        ),
        *(
            "ssh://-oProxyCommand=x/y",
            "ssh://-l@host/y",
            "ssh://git@-host/x",
            "ssh://git:password@host/x",
            "ssh://host",
            "ssh:///x",
        ),
        *(
            "ssh://host:99999999/x",
            "ssh://host:-1/x",
            "ssh://host/x\n-y",
            "ssh://host/`id`",
            "git@host:x;id",
            "git@host:",
        ),
        *("https://host/x.git#a:b/../c", "https://host/x.git#a:b\x00", "https://host/x.git#a:b//c", "file:///x.git"),
    ],
)
def test_refused(text):
    with pytest.raises(InvalidParameterError):
        parse_repository(text)


@pytest.mark.parametrize("text", ["git@host:x.git", "ssh://host/x", "user@host:x"])
def test_ssh(text):
    assert is_ssh(parse_repository(text).url)
    assert not is_ssh(parse_repository("https://git@host/x.git").url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://other/x.git", "https://other/x.git"),
        ("../y.git", "https://host/a/y.git"),
        ("./y.git", "https://host/a/x.git/y.git"),
        ("../../b/y.git/", "https://host/b/y.git"),
    ],
)
def test_urls_of_submodules(url, expected):
    assert resolve_url(url, "https://host/a/x.git") == expected


@pytest.mark.parametrize("url", ["../../../y", "https://host/y.git#main:dir", "./../../../y"])
def test_urls_of_no_submodule(url):
    with pytest.raises(InvalidParameterError):
        resolve_url(url, "https://host/a/x.git")


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        ("git@host:a/x.git", "../y.git", "git@host:a/y.git"),
        ("git@host:a/x.git", "../../y.git", "git@host:y.git"),
        ("ssh://git@host:22/a/x.git", "../y.git", "ssh://git@host:22/a/y.git"),
        ("git@host:a/x.git", "https://other/y.git", "https://other/y.git"),
    ],
)
def test_urls_beside_those_of_ssh(base, url, expected):
    assert resolve_url(url, base) == expected


@pytest.mark.parametrize(
    "base", ["git@host:x.git", "ssh://host/x.git", "https://host/x.git", "https://host", "git@host:"]
)
def test_nothing_is_above_a_host(base):
    with pytest.raises(InvalidParameterError):
        resolve_url("../../y.git", base)
