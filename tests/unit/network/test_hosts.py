"""/etc/hosts, hostname and resolv.conf."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.network.hosts import (
    change_gateway,
    change_link,
    host_mode_hosts,
    hostname_content,
    hosts_content,
    parse_extra_host,
    resolv_content,
)

HEAD = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def body(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_hosts_of_a_bridge_container():
    text = hosts_content(hostname="web", addresses=["172.17.0.2"], gateway="172.17.0.1")
    assert text == HEAD + "172.17.0.1\thost.docker.internal\n172.17.0.2\tweb\n"


def test_hosts_without_a_network():
    assert hosts_content(hostname="web") == HEAD


def test_domain_comes_first():
    assert hosts_content(hostname="web", domainname="example.org", addresses=["1.2.3.4"]).endswith(
        "1.2.3.4\tweb.example.org web\n"
    )


def test_extra_hosts():
    text = hosts_content(hostname="web", extra=["db:10.0.0.1", "v6=::1", "gw:host-gateway"], gateway="172.17.0.1")
    assert text == HEAD + "10.0.0.1\tdb\n::1\tv6\n172.17.0.1\tgw\n172.17.0.1\thost.docker.internal\n"


def test_own_choice_of_host_docker_internal_wins():
    text = hosts_content(hostname="web", extra=["host.docker.internal:10.9.9.9"], gateway="172.17.0.1")
    assert text == HEAD + "10.9.9.9\thost.docker.internal\n"


def test_extra_host_forms():
    assert parse_extra_host("a:[::1]", "") == ("a", "::1")
    assert parse_extra_host("a=::1", "") == ("a", "::1")
    assert parse_extra_host("a:::1", "") == ("a", "::1")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "a",
        ":1.2.3.4",
        "a:",
        "a:x",
        "a b:1.2.3.4",
        "a\nb:1.2.3.4",
        "a:1.2.3.4\n6.6.6.6 evil",
        "a\t:1.1.1.1",
        "#:1.1.1.1",
    ],
)
def test_bad_extra_hosts(bad: str):
    with pytest.raises(InvalidParameterError):
        parse_extra_host(bad, "172.17.0.1")


def test_host_gateway_needs_one():
    with pytest.raises(InvalidParameterError, match="host-gateway"):
        parse_extra_host("a:host-gateway", "")


def test_host_mode():
    assert (
        host_mode_hosts("127.0.0.1 localhost", extra=["a:1.1.1.1"], gateway="") == "127.0.0.1 localhost\n1.1.1.1\ta\n"
    )


@pytest.mark.parametrize("bad", ["", "a b", "a\nb", "a\0b", "\x1b[1m", "a\u2028b"])
def test_bad_hostname(bad: str):
    with pytest.raises(InvalidParameterError):
        hostname_content(bad)
    with pytest.raises(InvalidParameterError):
        hosts_content(hostname=bad)


def test_resolv_leaves_loopback_out():
    host = (
        "nameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.53 # x\nsearch a.example b.example\noptions edns0\n"
    )
    assert body(resolv_content(host)) == ["nameserver 10.0.0.53", "search a.example b.example", "options edns0"]


def test_resolv_falls_back_to_dockers_defaults():
    assert body(resolv_content("nameserver 127.0.0.53\n")) == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
    assert body(resolv_content("")) == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]


def test_resolv_choices_replace():
    host = "nameserver 10.0.0.53\nsearch a.example\noptions edns0\n"
    text = resolv_content(host, nameservers=["127.0.0.9", "fe80::1"], search=["x.example"], options=["ndots:2"])
    assert body(text) == ["nameserver 127.0.0.9", "nameserver fe80::1", "search x.example", "options ndots:2"]
    assert body(resolv_content(host, search=["."])) == ["nameserver 10.0.0.53", "options edns0"]


def test_resolv_of_host_mode_is_the_hosts():
    host = "# mine\nnameserver 127.0.0.53\n"
    assert resolv_content(host, keep_loopback=True) == host
    assert body(resolv_content(host, keep_loopback=True, options=["a"])) == ["nameserver 127.0.0.53", "options a"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"nameservers": ["x"]},
        {"nameservers": ["1.2.3.4\nnameserver 6.6.6.6"]},
        {"search": ["a\nnameserver 6.6.6.6"]},
        {"search": ["a b"]},
        {"options": ["a\nb"]},
        {"options": [""]},
    ],
)
def test_resolv_injection(arguments: dict):
    with pytest.raises(InvalidParameterError):
        resolv_content("", **arguments)


def test_the_gateway_moves():
    extra = ["gate:host-gateway", "other:192.0.2.1"]
    before = (
        hosts_content(hostname="box", addresses=["172.17.0.2"], extra=extra, gateway="172.17.0.1") + "1.2.3.4 mine\n"
    )
    after = change_gateway(before, old="172.17.0.1", new="10.0.0.1", extra=extra)
    assert sorted(after.splitlines()) == sorted(before.replace("172.17.0.1", "10.0.0.1").splitlines())
    assert (
        change_gateway(after, old="10.0.0.1", new="172.17.0.1", extra=extra).splitlines()[-1].startswith("172.17.0.1\t")
    )
    none = change_gateway(before, old="172.17.0.1", new="", extra=extra)
    assert "172.17.0.1" not in none
    assert "10.0.0.1\thost.docker.internal\n" in change_gateway(none, old="", new="10.0.0.1", extra=extra)
    mine = before.replace("172.17.0.1\t", "172.17.0.9 ")
    assert change_gateway(mine, old="172.17.0.1", new="10.0.0.1", extra=extra) == mine
    own = ["host.docker.internal:192.0.2.7"]
    kept = hosts_content(hostname="box", extra=own, gateway="172.17.0.1")
    assert change_gateway(kept, old="172.17.0.1", new="10.0.0.1", extra=own) == kept


def test_a_linked_container_moves():
    before = hosts_content(hostname="box", links=[("172.17.0.3", "db host database")], gateway="172.17.0.1")
    assert change_link(before, names="db host database", address="172.17.0.4") == before.replace("0.3", "0.4")
    assert change_link(before, names="db", address="172.17.0.4") == before
