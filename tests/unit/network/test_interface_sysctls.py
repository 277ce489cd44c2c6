"""Kernel parameters of one interface: what they are put together of, and what never gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError
from orlop.network.interface_sysctls import parse_sysctls, settings_of


def test_paths_are_those_of_the_interface():
    text = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.ifname.base_reachable_time_ms=30000,net.mpls.conf.IFNAME.input=1"
    assert settings_of(text, "eth0.1") == {
        "ipv4/conf/eth0.1/log_martians": "1",
        "ipv6/neigh/eth0.1/base_reachable_time_ms": "30000",
        "mpls/conf/eth0.1/input": "1",
    }
    assert settings_of("net.ipv6.conf.IFNAME.accept_ra=2,net.ipv6.conf.IFNAME.accept_ra=1", "e") == {
        "ipv6/conf/e/accept_ra": "1"
    }


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "=", "net.ipv4.conf.eth0.forwarding=1", "net.ipv4.conf.all.forwarding=1", "net.ipv4.ip_forward=1",
        "kernel.ipv4.conf.IFNAME.x=1", "net.core.conf.IFNAME.x=1", "net.ipv4.route.IFNAME.x=1", "net.mpls.neigh.IFNAME.x=1",
        "net/ipv4/conf/IFNAME/forwarding=1", "net.ipv4.conf.IFNAME", "net.ipv4.conf.IFNAME=1", "..ipv4.conf.IFNAME.x=1",
        "net.ipv4.conf.IFNAMES.x=1", "net.ipv4.conf.Ifname.x=1", " net.ipv4.conf.IFNAME.x=1", "net.ipv4.conf.IFNAME.x=1,",
        "net.ipv4.../conf.IFNAME.x=1", "kernel.core_pattern=|/x", "net.ipv4.conf.IFNAME.x=1, net.ipv4.conf.IFNAME.x=1",
    ],
)  # fmt: skip
def test_other_parameters_are_refused_in_dockers_words(text: str):
    with pytest.raises(
        InvalidParameterError, match=r"unrecognised network interface sysctl '.*'; represent 'net\.X\.Y\.et"
    ):
        parse_sysctls(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("net.ipv4.conf.IFNAME.forwarding", "expected sysctl 'net.ipv4.conf.IFNAME.forwarding' to have format name=v"),
        ("net.ipv4.conf.IFNAME.a.b=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME...=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME./../../x=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.x/y=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.X=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.x\n=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.x\0=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME." + "x" * 65 + "=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.x=", "invalid value of network interface sysctl"),
        ("net.ipv4.conf.IFNAME.x=1\n2", "invalid value of network interface sysctl"),
        ("net.ipv4.conf.IFNAME.x=\u0661", "invalid value of network interface sysctl"),
        ("net.ipv4.conf.IFNAME.x=" + "1" * 65, "invalid value of network interface sysctl"),
        (",".join(["net.ipv4.conf.IFNAME.x=1"] * 65), "too many network interface sysctls: 65"),
    ],
)
def test_hostile_parameters(text: str, words: str):
    with pytest.raises(InvalidParameterError, match=words):
        parse_sysctls(text)


_PIECES = st.sampled_from(
    [
        "net",
        "ipv4",
        "ipv6",
        "mpls",
        "conf",
        "neigh",
        "IFNAME",
        "ifname",
        "x",
        ".",
        "..",
        "/",
        "=",
        ",",
        "\0",
        "\n",
        "all",
    ]
)


@given(st.lists(_PIECES, max_size=24).map("".join))
def test_whatever_gets_through_is_one_file_of_the_interface(text: str):
    try:
        settings = settings_of(text, "eth0")
    except InvalidParameterError:
        return
    for path in settings:
        version, part, interface, parameter = path.split("/")
        assert (version in ("ipv4", "ipv6", "mpls"), part in ("conf", "neigh"), interface) == (True, True, "eth0")
        assert parameter.isidentifier() or parameter.isdecimal()
