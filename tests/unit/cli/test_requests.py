"""orlop's command line sends what docker's does: compared with requests recorded from docker 28.2.2."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from orlop.cli.main import run

GOLDEN = Path(__file__).parents[2] / "golden/cli"
REQUESTS = json.loads((GOLDEN / "requests.json").read_text())
# commands that orlop refuses or does in its own way
REFUSED = {"commit", "search", "pull"}
OWN = {
    '["create", "--gpus", "all", "busybox"]',
    '["stats", "--no-stream", "x"]',
    '["system", "prune", "-af", "--volumes", "--filter", "until=1h"]',
    '["update", "--memory", "64m", "--cpus", "2", "--restart", "always", "x"]',  # only what is changed is sent
}

spec = importlib.util.spec_from_file_location("record", GOLDEN / "record.py")
assert spec is not None
assert spec.loader is not None
record = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("recorder")
    record.prepare(str(directory))
    seen: list[dict] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "s.sock"))
        listener.listen(16)
        threading.Thread(target=record.serve, args=(listener, seen), daemon=True).start()
        yield directory, seen
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def normal(requests: list[dict]) -> list[dict]:
    """Leave out what may differ: look-ups before the real request, waits of detached runs, order of unordered lists."""
    out = []
    for request in requests:
        line, body = request["line"], request.get("body")
        if "/_ping" in line or "/build/prune" in line or line.startswith("GET /v1.50/containers/x/json"):
            continue
        if line.startswith("GET /v1.50/networks/n") and "DELETE" in str(requests):
            continue
        if body is not None and "HostConfig" in body:
            body["Env"] = sorted(body["Env"] or [])
            body["HostConfig"]["Binds"] = sorted(body["HostConfig"]["Binds"] or [])
        out.append({"line": line.replace("/" + "c" * 64, "/x"), "body": body})
    return out


@pytest.mark.parametrize("case", sorted(set(REQUESTS) - OWN))
def test_same_requests(case: str, recorder, monkeypatch, capfd) -> None:
    words = json.loads(case)
    if words[0] in REFUSED:
        pytest.skip("refused, or another wording of the same request")
    directory, seen = recorder
    monkeypatch.chdir(directory)
    for name in [name for name in os.environ if name.startswith("DOCKER_")]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(directory), "DOCKER_HOST": f"unix://{directory}/s.sock", "FROMHOST": "yes"}.items():
        monkeypatch.setenv(name, value)
    seen.clear()
    kept, null = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    try:
        run(words)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(null)
    output = capfd.readouterr()
    expected = normal(json.loads(json.dumps(REQUESTS[case])))
    if words[0] == "run" and "-d" in words:
        expected = [request for request in expected if "/wait" not in request["line"]]
    assert normal(json.loads(json.dumps(seen))) == expected, output.err
