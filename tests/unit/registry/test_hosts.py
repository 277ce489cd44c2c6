"""``hosts.toml``: what it may say, and what it means."""

import pytest

from orlop.errors import InvalidParameterError
from orlop.registry.endpoints import Trust
from orlop.registry.hosts import read_hosts


def read(tmp_path, text, domain="registry.example:5000"):
    (tmp_path / domain).mkdir(exist_ok=True)
    (tmp_path / domain / "hosts.toml").write_text(text)
    return read_hosts((str(tmp_path / "none"), str(tmp_path)), domain)


def test_the_order_and_what_each_is(tmp_path):
    found = read(
        tmp_path,
        """
        server = "https://up.example/v2"
        skip_verify = true
        [host."http://one:80/sub"]
        [host.two]
          client = [["c.cert", "/c.key"], "both.pem"]
          ca = ["a.crt"]
        """,
    )
    here = str(tmp_path / "registry.example:5000")
    assert [(one.url, one.api, one.mirror, one.insecure) for one in found] == [
        ("http://one:80", "http://one:80/sub/v2", True, True),
        ("https://two", "https://two/v2", True, False),
        ("https://up.example", "https://up.example/v2", False, True),
    ]
    clients = ((f"{here}/c.cert", "/c.key"), (f"{here}/both.pem", ""))
    assert found[1].trust == Trust(authorities=(f"{here}/a.crt",), clients=clients)


def test_whose_file_counts(tmp_path):
    assert read_hosts((str(tmp_path),), "a.example") is None
    assert read_hosts((str(tmp_path),), "..") is None
    read(tmp_path, '[host."m.example"]', "_default")
    assert [one.url for one in read_hosts((str(tmp_path),), "a.example")] == ["https://m.example", "https://a.example"]
    assert read_hosts((str(tmp_path),), "docker.io")[-1].url == "https://registry-1.docker.io"
    assert len(read(tmp_path, "", "a.example")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("= 5", "Invalid"),
        ("host = 5", "host is not a table"),
        ("server = 5", "not a host: 5"),
        ("unknown = 5", "unknown key: unknown"),
        ('server = "ftp://x"', "not the URL of a host"),
        ('[host."https://u:p@x"]', "not the URL of a host"),
        ('[host.x]\ncapabilities = ["push"]', "must have the capabilities pull and resolve"),
        ("[host.x]\nca = 5", "ca is not a list of texts"),
        ("[host.x]\nclient = [[1]]", "client is not a list of certificates and keys"),
        ('[host.x]\nskip_verify = "yes"', "skip_verify is neither true nor false"),
        ('[host.x.header]\na = "b\\nc"', "bad header: 'a'"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(InvalidParameterError, match=message):
        read(tmp_path, text)
