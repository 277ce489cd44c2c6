"""E2, E13: an image's configuration is a stranger's text. It is refused, or means no more than Docker lets it mean."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from image_builder import BuiltImage, docker_archive, sha256, tar_of

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]
BASE = tar_of(
    {
        "bin": None,
        "bin/busybox": Path(shutil.which("busybox") or "/bin/busybox").read_bytes(),
        "proc": None,
        "sys": None,
    }
)
BLOB = gzip.compress(BASE, 1, mtime=0)
ECHO = ["/bin/busybox", "echo", "ok"]
LOADED, CREATED, STARTED, RUNS = "load", "create", "start", "run"

CASES = {
    "a variable with a NUL": (LOADED, {"Env": ["A=1\0B=2"]}, "Env is not a list of strings"),
    "a NUL in a path": (LOADED, {"WorkingDir": "/a\0b"}, "WorkingDir is not a string"),
    "a NUL in a volume": (LOADED, {"Volumes": {"/a\0b": {}}}, "Volumes is not an object"),
    "a variable without a name": (CREATED, {"Env": ["=x"]}, "invalid environment variable: =x"),
    "variables as they may be": (RUNS, {"Env": ["NOVALUE", "A=1\nB=2"]}, ""),
    "a descriptor of the engine's": (STARTED, {"WorkingDir": "/proc/self/fd/8"}, 'chdir to cwd ("/proc/self/fd/8")'),
    "a relative directory": (CREATED, {"WorkingDir": "../../.."}, "it needs to be an absolute path"),
    "the root as a volume": (CREATED, {"Volumes": {"/": {}}}, "destination can't be '/'"),
    "a volume over proc": (STARTED, {"Volumes": {"/proc": {}}}, "cannot be mounted because it is not of type proc"),
    "a volume that climbs": (RUNS, {"Volumes": {"/a/../../../etc": {}}}, ""),
    "a port that is none": (CREATED, {"ExposedPorts": {"99999999/x": {}}}, "invalid proto: x"),
    "a probe without pause": (
        CREATED,
        {"Healthcheck": {"Test": ["CMD", "x"], "Interval": 1}},
        "cannot be less than 1ms",
    ),
    "a probe for ever": (RUNS, {"Healthcheck": {"Test": ["CMD", "x"], "Interval": 2**63 - 1}}, ""),
    "a signal that is none": (CREATED, {"StopSignal": "999"}, "invalid signal: 999"),
    "a time that is none": (RUNS, {"StopTimeout": -(2**62)}, ""),
    "ids that are none": (CREATED, {"User": "4294967296:1"}, "uids and gids must be in range"),
    "a user who is a path": (STARTED, {"User": "../../etc/passwd"}, "unable to find user ../../etc/passwd"),
    "too many labels": (CREATED, {"Labels": {f"l{n}": "" for n in range(200_000)}}, "too many labels"),
    "control characters": (RUNS, {"Labels": {"a\nb": "\x1b[31m"}}, ""),
    # CVE-2026-53488, CVE-2023-6476: labels that steer another engine
    "labels that would steer": (
        RUNS,
        {
            "Labels": {
                "containerd.io/restart.status": "running",
                "containerd.io/restart.loguri": "binary:///bin/sh?-c=id",
                "io.containerd.image.volume": "/",
                "io.podman.annotations.privileged": "TRUE",
                "io.podman.annotations.seccomp": "unconfined",
                "io.kubernetes.cri-o.userns-mode": "host",
                "cri-o.io/Devices": "/dev/sda",
                "run.oci.hooks.stderr": "/etc/evil",
                "run.oci.handler": "krun",
                "com.docker.security.privileged": "true",
            }
        },
        "",
    ),
    "what is not an image's to say": (
        RUNS,
        {"Privileged": True, "SecurityOpt": ["seccomp=unconfined"], "LogConfig": {"Type": "none"}, "Binds": ["/:/h"]},
        "",
    ),
}


def load(engine, config: bytes) -> str:
    image = BuiltImage([BASE], [BLOB], config=config)
    status, answer = engine.http("POST", "/images/load", docker_archive(image, "hostile:1", compressed=True))
    return answer.decode() if status != 200 or b'"error"' in answer else ""


def outcome(engine, config: bytes) -> tuple[str, str]:
    """Return how far the image came, and what was said then; nothing stays of it."""
    refused = load(engine, config)
    if refused:
        return LOADED, refused
    try:
        assert engine.http("GET", "/images/hostile:1/json")[0] == 200
        status, answer = engine.http("POST", "/containers/create?name=hostile", {"Image": "hostile:1"})
        if status != 201:
            return CREATED, json.loads(answer)["message"]
        status, answer = engine.http("POST", "/containers/hostile/start")
        document = json.loads(engine.http("GET", "/containers/hostile/json")[1])
        if status != 204:
            return STARTED, json.loads(answer)["message"]
        assert engine.http("POST", "/containers/hostile/wait")[0] == 200
        assert engine.http("GET", "/containers/hostile/logs?stdout=1")[1].endswith(b"ok\n")
        host = document["HostConfig"]
        assert (host["Privileged"], host["SecurityOpt"], host["Binds"]) == (False, None, None)
        assert host["LogConfig"]["Type"] == "json-file"
        return RUNS, ""
    finally:
        engine.http("DELETE", "/containers/hostile?force=1&v=1")
        engine.http("DELETE", "/images/hostile:1?force=1")


def test_hostile_configurations(leak_free) -> None:
    found = {}
    for name, (_, members, _) in CASES.items():
        image = BuiltImage([BASE], [BLOB], extra={"config": {"Cmd": ECHO, **members}})
        found[name] = outcome(leak_free, image.config)
    wrong = {
        name: found[name]
        for name, (stage, _, message) in CASES.items()
        if found[name][0] != stage or message not in found[name][1]
    }
    assert wrong == {}
    assert leak_free.http("GET", "/containers/json?all=1")[0] == 200
    assert "Traceback" not in leak_free.log_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (r'"config": {"Env": ["A=\ud800"]}', "surrogates not allowed"),
        (r'"config": {"StopTimeout": 1e400}', "StopTimeout is not an integer"),
        (r'"config": {"StopTimeout": %s}' % ("9" * 5000), "invalid image config"),
        (r'"created": "1970\u0000"', "created is not a string"),
        (r'"os": "linux", "os": "windows"', "invalid image config"),
        (r'"config": {"Labels": {"a": NaN}}', "not a number: NaN"),
        (r'"config": ' + '{"Env":' * 50_000, "invalid image config"),
    ],
    ids=["surrogate", "number", "digits", "zero", "twice", "not a number", "deep"],
)
def test_configurations_that_are_no_json_for_everybody(shared_engine, text, message) -> None:
    rootfs = f'"rootfs": {{"type": "layers", "diff_ids": ["sha256:{sha256(BASE)}"]}}'
    assert message in load(shared_engine, f'{{"architecture": "amd64", {rootfs}, {text}}}'.encode())
