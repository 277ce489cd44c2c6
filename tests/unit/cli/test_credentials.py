import base64
import json
import os
import stat

import pytest

from orlop.cli.credentials import HUB, erase, look_up, registry_auth, server_key, store
from orlop.cli.invocation import CommandError


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("", HUB),
        ("docker.io", HUB),
        ("https://index.docker.io/v1/", HUB),
        ("registry-1.docker.io", HUB),
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
    ],
)
def test_keys(server, key):
    assert server_key(server) == key


def test_what_the_file_says():
    configuration = {
        "auths": {
            "ghcr.io": {"auth": encoded("me:pass:word")},
            "https://old.example/v1/": {"auth": encoded("other:x")},
            "token.example": {"auth": encoded("me:"), "identitytoken": "refresh"},
            "empty.example": {},
            "bad.example": {"auth": "%%%"},
            "list.example": [],
        }
    }
    assert look_up(configuration, "ghcr.io") == {"username": "me", "password": "pass:word", "serveraddress": "ghcr.io"}
    assert look_up(configuration, "old.example")["username"] == "other"
    assert look_up(configuration, "token.example")["identitytoken"] == "refresh"
    for nothing in ("empty.example", "bad.example", "list.example", "absent.example"):
        assert look_up(configuration, nothing) == {}
    header = registry_auth(configuration, "ghcr.io")
    assert json.loads(base64.urlsafe_b64decode(header))["password"] == "pass:word"
    assert base64.urlsafe_b64decode(registry_auth(configuration, "docker.io")) == b"{}"


HELPER = """#!/bin/sh
read line
echo "$1 $line" >> "$HELPER_LOG"
case "$1 $line" in
  "get ghcr.io") echo '{"ServerURL":"ghcr.io","Username":"me","Secret":"hidden"}';;
  "get token.example") echo '{"Username":"<token>","Secret":"refresh"}';;
  "get broken.example") echo "it broke"; exit 1;;
  get*) echo "credentials not found in native keychain"; exit 1;;
esac
"""


@pytest.fixture
def helper(tmp_path, monkeypatch):
    program = tmp_path / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HELPER_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_helpers(helper, tmp_path):
    configuration = {"credsStore": "test", "auths": {"ghcr.io": {"auth": encoded("stale:stale")}}}
    assert look_up(configuration, "ghcr.io")["password"] == "hidden"
    assert look_up(configuration, "token.example") == {"identitytoken": "refresh", "serveraddress": "token.example"}
    assert look_up(configuration, "absent.example") == {}
    with pytest.raises(CommandError, match="it broke"):
        look_up(configuration, "broken.example")
    with pytest.raises(CommandError, match="executable file not found"):
        look_up({"credHelpers": {"x": "../evil"}}, "x")
    assert store(str(tmp_path), configuration, {"username": "a", "password": "b", "serveraddress": "new.example"}) == ""
    assert '"Secret": "b"' in helper.read_text()
    assert '"b"' not in (tmp_path / "config.json").read_text()


def test_storing_keeps_the_rest_and_is_private(tmp_path):
    directory = tmp_path / "config"
    before = {"psFormat": "x", "auths": {"other": {"auth": encoded("o:o")}}}
    path = store(str(directory), before, {"username": "me", "password": "secret", "serveraddress": "ghcr.io"})
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(directory) == ["config.json"]
    document = json.loads((directory / "config.json").read_text())
    assert document["psFormat"] == "x"
    assert look_up(document, "ghcr.io")["password"] == "secret"
    assert look_up(document, "other")["password"] == "o"
    assert erase(str(directory), document, "ghcr.io")
    left = json.loads((directory / "config.json").read_text())
    assert list(left["auths"]) == ["other"]
    assert not erase(str(directory), left, "ghcr.io")
