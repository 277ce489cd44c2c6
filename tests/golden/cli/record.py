"""Record what the real docker client sends for many command lines: ``record.py > requests.json``.

The golden file beside it was made with docker 28.2.2. A tiny server answers just enough for the client to go on.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

CASES = Path(__file__).with_name("cases.txt")
ID = "c" * 64


def _read_request(stream) -> tuple[str, dict[str, str], bytes] | None:
    line = stream.readline().decode()
    if not line:
        return None
    headers = {}
    while (header := stream.readline().decode().strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while (size := int(stream.readline().split(b";")[0], 16)) != 0:
            body += stream.read(size)
            stream.readline()
        stream.readline()
    else:
        body = stream.read(int(headers.get("content-length", "0")))
    return line.strip(), headers, body


def _answer(target: str, headers: dict[str, str]) -> bytes:
    path = target.split("?", maxsplit=1)[0].split(" ")[1]
    status, body = "200 OK", b"{}"
    extra = ""
    if path.endswith("/_ping"):
        extra, body = "Api-Version: 1.50\r\nOstype: linux\r\n", b"OK"
    elif path.endswith("/containers/create"):
        status, body = "201 Created", json.dumps({"Id": ID, "Warnings": []}).encode()
    elif path.endswith("/exec"):
        status, body = "201 Created", json.dumps({"Id": "e" * 64}).encode()
    elif path.endswith("/wait"):
        body = b'{"StatusCode":0}'
    elif headers.get("upgrade"):
        return b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    elif path.endswith("/json") and "/containers/" in path and not path.endswith("/containers/json"):
        body = json.dumps({"Id": ID, "Config": {"Tty": False}, "State": {"Running": True}, "HostConfig": {}}).encode()
    elif path.endswith(("/containers/json", "/images/json", "/networks")):
        body = b"[]"
    elif target.startswith("DELETE") and "/images/" in path:
        body = b"[]"
    elif target.startswith(("POST", "DELETE")) and "/images/" not in path and "prune" not in path:
        status, body = "204 No Content", b""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if target.startswith("HEAD") else body)


def serve(listener: socket.socket, seen: list[dict]) -> None:
    """Answer clients until the listener is closed."""

    def client(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while (request := _read_request(stream)) is not None:
                line, headers, body = request
                entry = {"line": line.removesuffix(" HTTP/1.1")}
                if body and "json" in headers.get("content-type", "json"):
                    entry["body"] = json.loads(body)
                seen.append(entry)
                connection.sendall(_answer(line, headers))
                if headers.get("upgrade"):
                    return

    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=client, args=(connection,), daemon=True).start()


def record(program: list[str], arguments: list[str], directory: str) -> list[dict]:
    """Run one command line of a client and return the requests it made, pings left out."""
    path = os.path.join(directory, "s.sock")
    seen: list[dict] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        threading.Thread(target=serve, args=(listener, seen), daemon=True).start()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": directory,
            "DOCKER_HOST": f"unix://{path}",
            "FROMHOST": "yes",
        }
        subprocess.run(
            [*program, *arguments],
            env=environment,
            cwd=directory,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
        listener.shutdown(socket.SHUT_RDWR)
    os.unlink(path)
    return [entry for entry in seen if "/_ping" not in entry["line"]]


def prepare(directory: str) -> None:
    """Write the files that the cases name."""
    Path(directory, "env").write_text("# comment\nA=1\n\nFROMHOST\nMISSING\nB=x y\n")
    Path(directory, "labels").write_text("a=1\n# no\nb\n")


def main() -> None:
    golden = {}
    with tempfile.TemporaryDirectory() as directory:
        prepare(directory)
        for line in CASES.read_text().splitlines():
            if line and not line.startswith("#"):
                golden[line] = record(["docker"], json.loads(line), directory)
    json.dump(golden, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
