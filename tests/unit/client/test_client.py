"""The client against a server of a few lines: negotiation, kept connections, streams, errors, addresses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import threading

import pytest
from tls_lab import Material

from orlop import errors
from orlop.client import ConnectionFailedError, connect, find_address, parse_address
from orlop.client.address import TlsFlags
from orlop.client.decoding import decode
from orlop.client.transport import JsonStream, encode_filters, encode_query


class Server:
    """Answers each request with the next of ``answers``; a callable gets the connection."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.answers: list = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                headers = {}
                while (header := stream.readline().strip()) != b"":
                    name, _, value = header.decode().partition(": ")
                    headers[name.lower()] = value
                self.requests.append(line.decode().removesuffix(" HTTP/1.1\r\n"))
                if "/_ping" in self.requests[-1]:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.43\r\nContent-Length: 2\r\n\r\n")
                    continue
                answer = self.answers.pop(0)
                if callable(answer):
                    answer(connection, stream)
                    return
                self.bodies.append(stream.read(int(headers.get("content-length", 0))))
                connection.sendall(answer)


def reply(document, status="200 OK") -> bytes:
    body = json.dumps(document).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def server(tmp_path):
    server = Server(str(tmp_path / "s"))
    yield server
    with contextlib.suppress(OSError):
        server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def client(server):
    with connect(f"unix://{server.path}", timeout=60) as client:
        yield client


def test_negotiates_once_and_keeps_the_connection(server, client) -> None:
    server.answers = [reply({"Version": "1"}), reply([{"Id": "x"}])]
    assert client.system.version() == {"Version": "1"}
    assert client.containers.list(everything=True, filters={"name": ["a", "b"]}) == [{"Id": "x"}]
    assert server.requests == [
        "HEAD /_ping",
        "GET /v1.43/version",
        "GET /v1.43/containers/json?all=1&filters=%7B%22name%22%3A%7B%22a%22%3Atrue%2C%22b%22%3Atrue%7D%7D",
    ]
    assert server.connections == 1


def test_a_connection_closed_by_the_engine_is_replaced(server, client) -> None:
    closed = threading.Event()

    def answer_and_close(connection, _stream) -> None:
        connection.sendall(reply({"n": 1}))
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    server.answers = [answer_and_close, reply({"n": 2})]
    assert client.system.info() == {"n": 1}
    assert closed.wait(60)
    assert client.system.info() == {"n": 2}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidParameterError),
        (403, errors.ForbiddenError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (418, errors.InvalidParameterError),
        (500, errors.SystemFailureError),
        (501, errors.UnsupportedError),
        (502, errors.SystemFailureError),
        (503, errors.UnavailableError),
    ],
)
def test_errors(server, client, status, kind) -> None:
    server.answers = [reply({"message": "No such container: x"}, f"{status} Text")]
    with pytest.raises(kind, match=r"^No such container: x$"):
        client.containers.inspect("x")


def test_not_modified_is_no_error(server, client) -> None:
    server.answers = [b"HTTP/1.1 304 Not Modified\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"]
    assert client.containers.start("x") is False
    assert client.containers.start("x") is True


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"NaN", b'{"a":1} x', b"[" * 200_000])
def test_answers_that_are_no_object(server, client, body) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)]
    with pytest.raises(ConnectionFailedError):
        client.system.info()


def test_events_arrive_as_they_are_sent(server, client) -> None:
    gate = threading.Event()

    def stream(connection, _stream) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a":1}\n\r\n')
        gate.wait(60)
        connection.sendall(b'4\r\n{"a"\r\n4\r\n:2}\n\r\n0\r\n\r\n')

    server.answers = [stream]
    events = client.system.events()
    assert next(events) == {"a": 1}
    gate.set()
    assert list(events) == [{"a": 2}]


def test_a_cut_stream_is_an_error(server, client) -> None:
    server.answers = [lambda connection, _: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")]
    with pytest.raises(ConnectionFailedError, match="EOF"):
        client.containers.export("x").read()


def test_import_streams_in_chunks(server, client) -> None:
    got = []

    def take(connection, stream) -> None:
        while size := int(stream.readline(), 16):
            got.append(stream.read(size))
            stream.readline()
        stream.readline()
        connection.sendall(reply({"status": "sha256:1"}))

    server.answers = [take]
    assert list(client.images.import_archive(iter([b"ab", b"", b"c"]), repository="x")) == [{"status": "sha256:1"}]
    assert got == [b"ab", b"c"]


def test_an_early_refusal_of_an_upload_is_read(server, client) -> None:
    def refuse(connection, _stream) -> None:
        connection.sendall(reply({"message": "no space left on device"}, "500 Error"))
        connection.shutdown(socket.SHUT_WR)

    server.answers = [refuse]
    with pytest.raises(errors.SystemFailureError, match="no space left"):
        list(client.images.import_archive(b"x" * 60_000 for _ in range(2000)))


def test_hijack_with_preface_and_half_close(server, client) -> None:
    def echo(connection, stream) -> None:
        connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst")
        data = stream.read()
        connection.sendall(data.upper())

    server.answers = [echo]
    stream = client.containers.attach("x", stdin=True)
    assert stream.pending
    assert stream.receive(2) + stream.receive() == b"first"
    stream.send(b"hello")
    stream.close_write()
    assert stream.receive() == b"HELLO"
    assert stream.receive() == b""
    stream.close()
    assert server.requests[-1] == "POST /v1.43/containers/x/attach?stderr=1&stdin=1&stdout=1&stream=1"


def test_hijack_refused(server, client) -> None:
    server.answers = [reply({"message": "container x is not running"}, "409 Conflict")]
    with pytest.raises(errors.ConflictError, match="is not running"):
        client.execs.start("x")


def test_wait(server, client) -> None:
    server.answers = [reply({"StatusCode": 3}), reply({"StatusCode": 1, "Error": {"Message": "oh"}})]
    assert client.containers.wait("x") == 3
    with pytest.raises(errors.SystemFailureError, match=r"^oh$"):
        client.containers.wait("x", condition="removed")


def test_nobody_there(tmp_path) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        connect(f"unix://{tmp_path}/none").system.info()
    assert str(caught.value) == (
        f"Cannot connect to the Docker daemon at unix://{tmp_path}/none. Is the docker daemon running?"
    )


def test_addresses(tmp_path) -> None:
    assert parse_address("unix:///x/y").path == "/x/y"
    tcp = parse_address("tcp://[::1]:99")
    assert (tcp.host, tcp.port) == ("::1", 99)
    assert parse_address("tcp://h").port == 2375
    for text in ("foo://x", "x", "tcp://h:0", "tcp://h:\u0663"):
        with pytest.raises(errors.InvalidParameterError, match="invalid bind address format"):
            parse_address(text)
    with pytest.raises(errors.UnsupportedError):
        parse_address("ssh://me@there")


def test_where_the_engine_is_looked_for(tmp_path) -> None:
    name = hashlib.sha256(b"remote").hexdigest()
    meta = tmp_path / "contexts/meta" / name
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": "tcp://h:1"}}}))
    config = {"DOCKER_CONFIG": str(tmp_path)}
    assert find_address(environment=config).is_default
    assert find_address(environment={**config, "DOCKER_HOST": "unix:///a"}).path == "/a"
    assert find_address(environment={**config, "DOCKER_CONTEXT": "remote"}).host == "h"
    assert find_address(context="remote", environment={**config, "DOCKER_HOST": "unix:///a"}).host == "h"
    assert find_address(host="unix:///b", environment={**config, "DOCKER_HOST": "unix:///a"}).path == "/b"
    (tmp_path / "config.json").write_text('{"currentContext": "remote"}')
    assert find_address(environment=config).host == "h"
    with pytest.raises(errors.NotFoundError, match="context not found"):
        find_address(context="nope", environment=config)
    assert find_address(environment={**config, "DOCKER_CONTEXT": "default", "DOCKER_TLS_VERIFY": "1"}).is_default


def test_what_an_engine_is_spoken_to_with(tmp_path) -> None:
    """DOCKER_TLS_VERIFY, DOCKER_TLS, DOCKER_CERT_PATH, the flags over them, and contexts by themselves."""
    material = Material(tmp_path / "material")
    files = str(material.client)
    plain = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": "tcp://h"}
    found = find_address(environment=plain)
    assert (found.port, found.tls) == (2375, None)
    verified = find_address(environment={**plain, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": files})
    assert (verified.port, verified.tls.verify_mode, verified.tls.check_hostname) == (2376, ssl.CERT_REQUIRED, True)
    for lax in (
        find_address(environment={**plain, "DOCKER_TLS": "1", "DOCKER_CERT_PATH": files}),
        find_address(
            environment={**plain, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": files}, tls=TlsFlags(tlsverify=False)
        ),
    ):
        assert lax.tls.verify_mode is ssl.CERT_NONE
    with pytest.raises(errors.InvalidParameterError, match=f"open {tmp_path}/ca.pem: no such file or directory"):
        find_address(environment={**plain, "DOCKER_TLS_VERIFY": "1"})
    with pytest.raises(errors.InvalidParameterError, match=r"open /none/x\.pem: no such file"):
        find_address(environment=plain, tls=TlsFlags(tls=True, cacert=f"{files}/ca.pem", cert="/none/x.pem"))
    assert find_address(host="unix:///a", environment={**plain, "DOCKER_TLS_VERIFY": "1"}).tls is None
    with pytest.raises(errors.InvalidParameterError, match="TLS is spoken on tcp:// addresses only: unix:///a"):
        find_address(host="unix:///a", environment={**plain, "DOCKER_CERT_PATH": files}, tls=TlsFlags(tlsverify=True))


def test_context_with_certificates(tmp_path) -> None:
    material = Material(tmp_path / "material")
    for name, lax in (("strict", False), ("lax", True)):
        digest = hashlib.sha256(name.encode()).hexdigest()
        meta = tmp_path / "contexts/meta" / digest
        meta.mkdir(parents=True)
        endpoint = {"Host": "tcp://h", "SkipTLSVerify": lax}
        (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": endpoint}}))
        if not lax:
            shutil.copytree(material.client, tmp_path / "contexts/tls" / digest / "docker")
        # what the environment says is for addresses, not for contexts
        environment = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/none"}
        found = find_address(context=name, environment=environment)
        assert found.port == 2376
        assert found.tls.verify_mode is (ssl.CERT_NONE if lax else ssl.CERT_REQUIRED)


def test_encodings() -> None:
    assert encode_query({"b": True, "a": "x y/ü", "c": None, "d": False, "e": ["1", "2"], "f": 0}) == (
        "a=x+y%2F%C3%BC&b=1&e=1&e=2&f=0"
    )
    assert encode_filters({}) is None
    assert decode(b' {"a": [1, 2.5, null, "\\u00fc"]}\n') == {"a": [1, 2.5, None, "ü"]}


def test_json_stream_byte_by_byte() -> None:
    text = b'{"a":"}\\n"}\n{"b":{"c":1}}\r\n{"d":2}'
    stream = JsonStream()
    assert [document for byte in text for document in stream.feed(bytes([byte]))] == [
        {"a": "}\n"},
        {"b": {"c": 1}},
        {"d": 2},
    ]
