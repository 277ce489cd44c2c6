"""Published ports as text."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.ports import (
    PortRequest,
    exposed_requests,
    parse_bindings,
    parse_port,
    parse_publish,
    to_bindings,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [PortRequest(80)]),
        ("80/udp", [PortRequest(80, "udp")]),
        ("8080:80", [PortRequest(80, "tcp", "", 8080, 8080)]),
        ("8080:80/SCTP", [PortRequest(80, "sctp", "", 8080, 8080)]),
        ("127.0.0.1:8080:80", [PortRequest(80, "tcp", "127.0.0.1", 8080, 8080)]),
        ("127.0.0.1::80", [PortRequest(80, "tcp", "127.0.0.1")]),
        ("[::1]:8080:80", [PortRequest(80, "tcp", "::1", 8080, 8080)]),
        ("[::]::80", [PortRequest(80, "tcp", "::")]),
        ("8000-8001:80-81", [PortRequest(80, "tcp", "", 8000, 8000), PortRequest(81, "tcp", "", 8001, 8001)]),
        ("80-81", [PortRequest(80), PortRequest(81)]),
        ("8000-8010:80", [PortRequest(80, "tcp", "", 8000, 8010)]),
    ],
)
def test_publish(text: str, expected: list[PortRequest]):
    assert parse_publish(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no port specified"),
        ("8080:", "no port specified"),
        ("0", "invalid containerPort: 0"),
        ("65536", "invalid containerPort: 65536"),
        ("80/icmp", "invalid proto: icmp"),
        ("80/", "invalid proto: "),
        ("a:80", "invalid hostPort: a"),
        ("99999:80", "invalid hostPort: 99999"),
        ("81-80:80", "invalid hostPort: 81-80"),
        ("8000-8002:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000-8002"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("1.2.3.4 -j ACCEPT:80:80", "invalid IP address"),
        ("\u0668\u0660", "invalid containerPort"),
        ("80\n", "invalid containerPort"),
        ("+80", "invalid containerPort"),
    ],
)
def test_bad_publish(text: str, message: str):
    with pytest.raises(InvalidParameterError) as caught:
        parse_publish(text)
    assert message in str(caught.value)


def test_bindings_of_the_api_round_trip():
    bindings = {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": ""}],
        "53/udp": [{"HostIp": "", "HostPort": "5300-5310"}],
    }
    requests = parse_bindings(bindings)
    assert requests == [
        PortRequest(80, "tcp", "", 8080, 8080),
        PortRequest(80, "tcp", "127.0.0.1"),
        PortRequest(53, "udp", "", 5300, 5310),
    ]
    assert to_bindings(requests) == bindings
    assert parse_bindings({"80": None}) == [PortRequest(80)]


@pytest.mark.parametrize("port", ["8080x", "-1", "70000", "8080 "])
def test_bad_host_port_of_the_api(port: str):
    with pytest.raises(InvalidParameterError, match="invalid port specification"):
        parse_bindings({"80/tcp": [{"HostPort": port}]})


def test_exposed():
    assert exposed_requests(["80/tcp", "8000-8001/udp"]) == [
        PortRequest(80),
        PortRequest(8000, "udp"),
        PortRequest(8001, "udp"),
    ]


def test_port_key():
    assert parse_port("80") == (80, "tcp")
    assert parse_port("80/UDP") == (80, "udp")
    for bad in ("", "/tcp", "80-81/tcp", "0/tcp", "80/x"):
        with pytest.raises(InvalidParameterError):
            parse_port(bad)
