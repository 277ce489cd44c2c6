"""The user's credentials for registries: ``config.json`` and credential helpers, as docker keeps them.

::

    "credHelpers": {"ghcr.io": "pass"}      docker-credential-pass get   <  ghcr.io
    "credsStore": "secretservice"           docker-credential-secretservice get
    "auths": {"ghcr.io": {"auth": base64 of user:password}}

Docker Hub's key is ``https://index.docker.io/v1/``. What a helper says of an identity token has the user ``<token>``.
"""

from __future__ import annotations

import os

from orlop.cli.invocation import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.spec.json import JsonObject, JsonValue

HUB = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"  # noqa: S105 - the protocol's word, no secret


def server_key(server: str) -> str:
    """Return the key that a registry has in ``config.json``."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return HUB if host in ("", "docker.io", "index.docker.io", "registry-1.docker.io") else host


def registry_auth(configuration: Mapping[str, JsonValue], domain: str) -> str:
    """Return the value of ``X-Registry-Auth`` for a registry; of an empty document when the user has no credentials.

    Raises:
        CommandError: the credential helper failed.
    """
    import base64
    import json

    found = look_up(configuration, server_key(domain))
    return base64.urlsafe_b64encode(json.dumps(found, separators=(",", ":")).encode()).decode("ascii")


def look_up(configuration: Mapping[str, JsonValue], key: str) -> dict[str, str]:
    """Return an AuthConfig document, empty when there is none."""
    helper = _helper(configuration, key)
    if helper:
        answer = _ask(helper, "get", key.encode())
        if answer is None:
            return {}
        user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
        if user == _TOKEN_USER:
            return {"identitytoken": secret, "serveraddress": key}
        return {"username": user, "password": secret, "serveraddress": key}
    auths = configuration.get("auths")
    entry = _entry(auths, key) if isinstance(auths, dict) else None
    if entry is None:
        return {}
    found = {name: value for name in ("identitytoken", "registrytoken") if isinstance(value := entry.get(name), str)}
    user, password = _decode(entry.get("auth"))
    if user:
        found |= {"username": user, "password": password}
    return {**found, "serveraddress": key} if found else {}


def _entry(auths: JsonObject, key: str) -> JsonObject | None:
    for name, value in auths.items():
        if isinstance(value, dict) and (name == key or server_key(name) == key):
            return value
    return None


def _decode(text: JsonValue) -> tuple[str, str]:
    import base64
    import binascii

    if not isinstance(text, str):
        return "", ""
    try:
        user, _, password = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password.rstrip("\0")


def _helper(configuration: Mapping[str, JsonValue], key: str) -> str:
    helpers = configuration.get("credHelpers")
    if isinstance(helpers, dict) and isinstance(helpers.get(key), str):
        return str(helpers[key])
    store = configuration.get("credsStore")
    return store if isinstance(store, str) else ""


def _ask(name: str, action: str, data: bytes) -> JsonObject | None:
    """Run a helper; None when it has no credentials.

    Raises:
        CommandError: it failed.
    """
    import shutil

    from orlop.client.decoding import decode
    from orlop.errors import OrlopError
    from orlop.primitives.commands import run

    program = f"docker-credential-{name}"
    path = shutil.which(program) if name.replace("-", "").replace("_", "").isalnum() else None
    if path is None:
        raise CommandError(f'error getting credentials - err: exec: "{program}": executable file not found in $PATH')
    try:
        done = run([os.path.abspath(path), action], stdin=data, timeout=120, env=os.environ)
    except OrlopError as error:
        raise CommandError(f"error getting credentials - err: {error}") from None
    if done.returncode:
        words = (done.stdout or done.stderr).decode("utf-8", "replace").strip()
        if "credentials not found" in words:
            return None
        raise CommandError(f"error getting credentials - err: exit status {done.returncode}, out: `{words[:300]}`")
    if action != "get":
        return {}
    document = decode(done.stdout)
    if not isinstance(document, dict):
        raise CommandError(f"error getting credentials - err: {program} wrote no JSON object")
    return document


def store(directory: str, configuration: Mapping[str, JsonValue], found: Mapping[str, str]) -> str:
    """Keep credentials; returns the path of the file that holds a password in the clear, or "".

    Raises:
        CommandError: the helper failed, or the file cannot be written.
    """
    import base64
    import json

    key = found["serveraddress"]
    helper = _helper(configuration, key)
    token = found.get("identitytoken", "")
    document = {name: value for name, value in configuration.items() if name != "auths"}
    before = configuration.get("auths")
    auths: JsonObject = dict(before) if isinstance(before, dict) else {}
    if helper:
        user, secret = (_TOKEN_USER, token) if token else (found["username"], found["password"])
        _ask(helper, "store", json.dumps({"ServerURL": key, "Username": user, "Secret": secret}).encode())
        auths[key] = {}
    else:
        password = "" if token else found["password"]
        entry: JsonObject = {"auth": base64.b64encode(f"{found['username']}:{password}".encode()).decode("ascii")}
        if token:
            entry["identitytoken"] = token
        auths[key] = entry
    document["auths"] = auths
    path = _write(directory, document)
    return "" if helper else path


def erase(directory: str, configuration: Mapping[str, JsonValue], key: str) -> bool:
    """Forget credentials; False when there were none. Raises CommandError."""
    helper = _helper(configuration, key)
    auths = configuration.get("auths")
    known = isinstance(auths, dict) and any(server_key(name) == key for name in auths)
    if helper:
        _ask(helper, "erase", key.encode())
    if isinstance(auths, dict) and known:
        left: JsonObject = {name: value for name, value in auths.items() if server_key(name) != key}
        _write(directory, {**configuration, "auths": left})
    return known


def _write(directory: str, document: Mapping[str, JsonValue]) -> str:
    """Replace ``config.json`` as a whole; only its owner may read it."""
    import json

    path = os.path.join(directory, "config.json")
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            data = json.dumps(document, indent="\t", ensure_ascii=False).encode()
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except OSError as error:
        raise CommandError(f"error storing credentials - err: {path}: {(error.strerror or '').lower()}") from None
    return path
