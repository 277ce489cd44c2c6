"""A web server that is a proxy, an index of version 1 and a place of files; also a program of its own.

``python fake_web.py PORT DIRECTORY [HOST=PORT ...]`` serves the files of DIRECTORY and forwards requests for the hosts,
plain or by CONNECT, to ports of 127.0.0.1. ``GET /log`` tells what was asked for.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

RESULTS = [
    {"name": "library/box", "description": "the box", "star_count": 9, "is_official": True, "is_automated": True},
    {"name": "somebody/box", "description": "", "star_count": 2, "is_official": False, "is_automated": False},
]
HOP = {"connection", "proxy-authorization", "transfer-encoding", "host"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log: list[tuple[str, str, str, str]] = []  # noqa: RUF012 - shared by all
    directory = Path()
    hosts: dict[str, int] = {}  # noqa: RUF012 - likewise

    def log_message(self, *_: object) -> None:
        pass

    def any_method(self) -> None:
        self.log.append(
            (
                self.command,
                self.path,
                self.headers.get("Proxy-Authorization", ""),
                self.headers.get("Authorization", ""),
            )
        )
        if self.path.startswith("http://"):
            self.forward()
        else:
            self.serve()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = any_method

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), **given}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/log":
            self.log.pop()
            self.answer(200, json.dumps(self.log).encode())
        elif parts.path == "/v1/_ping":
            self.answer(200, b"true")
        elif parts.path == "/v1/search" and query["q"] == "broken":
            self.answer(200, b'{"results": 5}')
        elif parts.path == "/v1/search" and query["q"] == "down":
            self.answer(503)
        elif parts.path == "/v1/search":
            self.answer(200, json.dumps({"query": query["q"], "results": RESULTS[: int(query["n"])]}).encode())
        elif parts.path == "/redirect":
            self.answer(302, Location=query["to"])
        elif parts.path == "/loop":
            self.answer(302, Location="/loop")
        elif parts.path == "/huge":
            self.answer(200, Content_Length=str(1 << 50))
            self.close_connection = True
        elif parts.path == "/cut":
            self.answer(200, b"x" * 1000, Content_Length="5000")
            self.close_connection = True
        elif (path := self.directory / parts.path[1:]).is_file():
            self.answer(200, path.read_bytes())
        else:
            self.answer(404, b"nothing here")

    def forward(self) -> None:
        parts = urlsplit(self.path)
        if parts.hostname not in self.hosts:
            self.answer(502)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.hosts[parts.hostname])
        body = self.body()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        upstream.request(
            self.command, parts._replace(scheme="", netloc="").geturl(), body, {**headers, "Host": parts.netloc}
        )
        answer = upstream.getresponse()
        data = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP | {"content-length"}}
        length = answer.getheader("Content-Length", str(len(data)))
        self.answer(answer.status, data, **{**kept, "Content-Length": length})
        upstream.close()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_CONNECT(self) -> None:
        self.log.append((self.command, self.path, self.headers.get("Proxy-Authorization", ""), ""))
        port = self.hosts.get(self.path.partition(":")[0])
        if port is None:
            self.answer(502)
            return
        upstream = socket.create_connection(("127.0.0.1", port))
        self.send_response(200)
        self.end_headers()
        back = threading.Thread(target=copy, args=(upstream, self.connection), daemon=True)
        back.start()
        copy(self.connection, upstream)
        self.close_connection = True


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


if __name__ == "__main__":
    Handler.directory = Path(sys.argv[2])
    Handler.hosts = {host: int(port) for host, _, port in (item.partition("=") for item in sys.argv[3:])}
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
