"""Which sockets speak TLS, those that systemd passes too."""

import socket
import ssl

import pytest
from tls_lab import Material, tls_flags

from orlop.daemon.exposure import contexts_of, exposure_warnings
from orlop.daemon.options import load_options, parse_arguments
from orlop.errors import InvalidParameterError


@pytest.fixture
def sockets():
    with socket.socket(socket.AF_UNIX) as local, socket.socket(socket.AF_INET6) as network:
        yield [local, network]


def test_sockets_of_tcp_speak_tls(tmp_path, sockets) -> None:
    options = load_options(parse_arguments(["--host", "fd://", *tls_flags(Material(tmp_path / "m").server)]))
    (_, plain), (_, private) = contexts_of(options, sockets)
    assert plain is None
    assert private.verify_mode is ssl.CERT_REQUIRED
    assert exposure_warnings(options) == ()


def test_passed_socket_of_tcp_needs_intent_as_well(sockets) -> None:
    with pytest.raises(InvalidParameterError, match="refusing to listen on TCP without TLS"):
        contexts_of(load_options(parse_arguments(["--host", "fd://"])), sockets)
    meant = load_options(parse_arguments(["--host", "fd://", "--tcp-without-tls"]))
    assert [context for _, context in contexts_of(meant, sockets)] == [None, None]
