"""Which requests go through a proxy: the table of golang.org/x/net/http/httpproxy's rules."""

import pytest

from orlop.errors import InvalidParameterError
from orlop.registry.proxies import Proxies, Proxy, check_proxy

EXCEPTIONS = "example.org,.below.net, 10.0.0.0/8 ,192.0.2.7,host.port:5000,[2001:db8::1]:443,fd00::/8,*.star.com"


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("http://registry.test/v2/", True),
        ("http://example.org/", False),
        ("http://sub.example.org:5000/", False),
        ("http://notexample.org/", True),
        ("http://below.net/", True),
        ("http://a.below.net/", False),
        ("http://a.star.com/", False),
        ("http://10.9.8.7:5000/", False),
        ("http://11.9.8.7/", True),
        ("http://192.0.2.7:81/", False),
        ("http://host.port:5000/", False),
        ("http://host.port:5001/", True),
        ("https://[2001:db8::1]/", False),
        ("https://[2001:db8::1]:8443/", True),
        ("https://[fd00::5]/", False),
        ("http://localhost:5000/", False),
        ("http://127.9.9.9/", False),
        ("https://[::1]/", False),
    ],
)
def test_exceptions(url, used):
    proxies = Proxies("http://proxy:3128", "proxy.example", EXCEPTIONS)
    assert (proxies.choose(url) is not None) is used


def test_which_variable_counts():
    environment = {"HTTP_PROXY": "one", "http_proxy": "two", "https_proxy": "http://u:p%40@three:1", "NO_PROXY": "*"}
    proxies = Proxies.of(environment, exceptions="none.org")
    assert proxies.choose("http://a.org/") == Proxy("http://one:80")
    assert proxies.choose("https://a.org/") == Proxy("http://three:1", "u", "p@")
    assert proxies.shown() == ("one", "http://xxxxx:xxxxx@three:1", "none.org")
    assert Proxies.of(environment).choose("http://a.org/") is None
    assert Proxies.of({"HTTP_PROXY": "one"}).choose("https://a.org/") is None


@pytest.mark.parametrize("text", ["socks5://proxy", "https://secret:word@proxy", "http://", "http://proxy:99999"])
def test_proxies_that_cannot_be(text):
    with pytest.raises(InvalidParameterError) as error:
        check_proxy(text)
    assert "secret" not in str(error.value)
