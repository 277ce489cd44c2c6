"""Credential helpers end to end: a program of the test's own keeps the password, a real registry asks for it.

The docker client and ``orlop`` call it each for themselves; what one has stored the other finds.
"""

import base64
import json
import os
import sys

import pytest
from registry_lab import Registry

from conftest import make_engine

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "docker-client", "busybox", "docker-registry"),
]
# The protocol of docker-credential-helpers: an action as argument, a URL or a document on stdin. One file a server.
HELPER = """#!{python}
import json, os, sys, urllib.parse
action, given = sys.argv[1], sys.stdin.read()
home = os.environ["HELPER_HOME"]
server = json.loads(given)["ServerURL"] if action == "store" else given.strip()
path = os.path.join(home, urllib.parse.quote(server, safe=""))
with open(os.path.join(home, "log"), "a") as log:
    log.write(f"{{action}} {{server}}\\n")
if action == "store":
    with open(path, "w") as file:
        file.write(given)
elif not os.path.exists(path):
    print("credentials not found in native keychain")
    sys.exit(1)
elif action == "get":
    print(open(path).read())
elif action == "erase":
    os.unlink(path)
"""


class Lab:
    """A registry that wants a password, and users whose passwords a helper keeps."""

    def __init__(self, engine, registry):
        self.engine, self.registry = engine, registry
        self.home = engine.home / "helper"
        self.configuration = engine.home / "user"
        self.programs = engine.home / "programs"
        for path in (self.home, self.configuration, self.programs):
            path.mkdir()
        program = self.programs / "docker-credential-kept"
        program.write_text(HELPER.format(python=sys.executable))
        program.chmod(0o755)

    def configure(self, **document):
        for path in self.home.iterdir():
            path.unlink()
        (self.configuration / "config.json").write_text(json.dumps(document))

    def run(self, client, *arguments, **options):
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HELPER_HOME": str(self.home),
            "DOCKER_CONFIG": str(self.configuration),
        }
        return getattr(self.engine, client)(*arguments, env=environment, **options)

    def login(self, client, password="secret", **options):
        return self.run(
            client, "login", "-u", "user", "--password-stdin", self.registry.host, input=password, **options
        )

    def calls(self):
        log = self.home / "log"
        return log.read_text().splitlines() if log.exists() else []

    def kept(self):
        return [json.loads(path.read_text()) for path in self.home.iterdir() if path.name != "log"]


@pytest.fixture(scope="module")
def lab():
    engine = make_engine()
    try:
        engine.import_busybox()
        with Registry(engine, port=5010, htpasswd=True) as registry:
            yield Lab(engine, registry)
    finally:
        engine.destroy()


def settings(lab, kind):
    if kind == "credsStore":
        return {"credsStore": "kept"}
    # the store of all others does not exist: it must not be asked
    return {"credsStore": "missing", "credHelpers": {lab.registry.host: "kept"}}


@pytest.mark.parametrize("kind", ["credsStore", "credHelpers"])
@pytest.mark.parametrize("client", ["docker", "orlop"])
def test_the_helper_keeps_the_password(lab, client, kind):
    lab.configure(**settings(lab, kind))
    name = f"{lab.registry.host}/{client}/{kind.lower()}:1"
    lab.engine.docker("tag", "busybox", name)
    assert "no basic auth credentials" in told(lab.run(client, "push", name, check=False))
    wrong = lab.login(client, "wrong", check=False)
    assert "401 Unauthorized" in wrong.stderr
    assert lab.kept() == []
    assert "Login Succeeded" in lab.login(client).stdout
    assert lab.kept() == [{"ServerURL": lab.registry.host, "Username": "user", "Secret": "secret"}]
    written = (lab.configuration / "config.json").read_text()
    assert "secret" not in written
    assert base64.b64encode(b"user:secret").decode() not in written

    other = "orlop" if client == "docker" else "docker"
    for user in (client, other):  # what one has stored, the other's commands use
        asked = len(lab.calls())
        pushed = told(lab.run(user, "push", name))
        assert "Pushed" in pushed or "Layer already exists" in pushed or "Mounted from" in pushed
        lab.engine.docker("rmi", name)
        lab.run(user, "pull", name)
        lab.engine.docker("rmi", name)
        assert lab.run(user, "run", "--rm", name, "echo", "hi").stdout == "hi\n"
        assert f"get {lab.registry.host}" in lab.calls()[asked:]

    lab.run(client, "logout", lab.registry.host)
    assert lab.kept() == []
    assert f"erase {lab.registry.host}" in lab.calls()
    lab.engine.docker("rmi", name)
    for user in (client, other):
        assert "no basic auth credentials" in told(lab.run(user, "pull", name, check=False))
    assert "secret" not in lab.engine.log_text()


def told(done):
    return done.stdout + done.stderr


@pytest.mark.parametrize("client", ["docker", "orlop"])
def test_a_helper_that_is_missing_is_named(lab, client):
    lab.configure(credsStore="absent")
    failed = lab.login(client, check=False)
    assert failed.returncode
    assert "docker-credential-absent" in told(failed)
    assert "secret" not in (lab.configuration / "config.json").read_text()
