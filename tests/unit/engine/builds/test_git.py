"""What names a repository, and what is refused of it (threats F6)."""

import pytest

from orlop.engine.builds.git import Repository, is_git, parse_repository
from orlop.engine.builds.submodules import resolve_url
from orlop.errors import InvalidParameterError, UnsupportedError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/x.git", Repository("https://host/x.git")),
        ("https://host/x.git#v1.0", Repository("https://host/x.git", "v1.0")),
        ("git://host/x#main:a/b/", Repository("git://host/x", "main", "a/b")),
        ("github.com/a/b", Repository("https://github.com/a/b")),
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
        *("https://host/x.git#a:b/../c", "https://host/x.git#a:b\x00", "https://host/x.git#a:b//c", "file:///x.git"),
    ],
)
def test_refused(text):
    with pytest.raises(InvalidParameterError):
        parse_repository(text)


@pytest.mark.parametrize("text", ["git@host:x.git", "ssh://host/x", "user@host:x"])
def test_ssh(text):
    with pytest.raises(UnsupportedError):
        parse_repository(text)


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
