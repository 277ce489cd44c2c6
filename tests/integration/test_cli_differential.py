"""orlop's and docker's command lines on the same daemon say the same; needs ORLOP_PEERS_HOST and a busybox image there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOST = os.environ.get("ORLOP_PEERS_HOST", "")
ORLOP = str(Path(sys.executable).parent / "orlop")
pytestmark = pytest.mark.skipif(not HOST, reason="ORLOP_PEERS_HOST names no daemon")
NAME = f"orlop-diff-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())!s:.8}"  # the same in all workers


def client(program: str, *words: str, stdin: str = "") -> tuple[int, str, str]:
    environment = {**os.environ, "DOCKER_HOST": HOST}
    done = subprocess.run(
        [program, *words], env=environment, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    errors = re.sub(r"\b(docker|orlop)( |:|$)", r"PROGRAM\2", done.stderr).replace("PROGRAM daemon", "docker daemon")
    # times move between the two calls
    return (
        done.returncode,
        re.sub(r"\d+ (second|minute|hour)s?|About an? \w+|Less than a second", "TIME", done.stdout),
        errors,
    )


@pytest.fixture(scope="module")
def container():
    code, _, errors = client(
        "docker", "run", "-d", "--name", NAME, "-p", "18081:80", "-p", "18082:81/udp", "--label", "a=b", "busybox",
        "sh", "-c", "echo out; echo err >&2; sleep 300",
    )  # fmt: skip
    assert code == 0, errors
    yield NAME
    client("docker", "rm", "-f", NAME)


ONLY = ("--filter", f"name={NAME}")
# dockerd lists images of the same second in any order
IMAGE = ("--filter", "reference=busybox")
SAME = [
    ("ps", *ONLY),
    ("ps", "-a", "-q", *ONLY),
    ("ps", "--no-trunc", *ONLY),
    ("ps", "-s", *ONLY),
    ("ps", "--format", "json", *ONLY),
    ("ps", "--format", "{{.ID}} {{.Image}} {{.Command}} {{.Ports}} {{.Label `a`}}", *ONLY),
    ("ps", "--format", "table {{.Names}}\\t{{.Status}}", *ONLY),
    ("ps", "--format", "{{.Foo}}", *ONLY),
    ("ps", "--format", "{{.Foo", *ONLY),
    ("container", "ls", *ONLY),
    ("images", *IMAGE),
    ("images", "--digests", *IMAGE),
    ("images", "-q", "--no-trunc", *IMAGE),
    ("image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.Size}} {{.ID}}", *IMAGE),
    ("history", "busybox"),
    ("volume", "ls"),
    ("network", "ls"),
    ("network", "ls", "--format", "{{json .}}"),
    ("system", "df"),
    ("logs", NAME),
    ("logs", "--tail", "1", NAME),
    ("port", NAME),
    ("port", NAME, "80"),
    ("port", NAME, "99"),
    ("top", NAME, "-o", "pid,comm"),
    ("diff", NAME),
    ("inspect", "-f", "{{.State.Running}} {{.Config.Image}} {{json .Config.Cmd}} {{len .Mounts}}", NAME),
    ("inspect", "-f", "{{range $k, $v := .NetworkSettings.Ports}}{{$k}};{{end}}", NAME),
    ("inspect", "-f", "{{.NetworkSettings.IPAddress}} {{.Name}} {{upper .Driver}}", NAME),
    ("image", "inspect", "-f", "{{join .RepoTags `,`}} {{.Os}}/{{.Architecture}}", "busybox"),
    ("exec", NAME, "echo", "yes"),
    ("exec", NAME, "sh", "-c", "exit 9"),
    ("exec", NAME, "nosuch"),
    ("exec", "-e", "A=1", "-w", "/tmp", NAME, "sh", "-c", "echo $A; pwd"),
    ("version", "--format", "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.KernelVersion}}"),
    ("info", "--format", "{{.Driver}} {{.CgroupVersion}} {{.NCPU}}"),
    ("run", "--rm", "busybox", "sh", "-c", "echo a; echo b >&2; exit 3"),
    ("run", "--rm", "busybox", "nosuch"),
    ("run", "--rm", "busybox", "/etc"),
    ("run", "--rm", "--memory", "1k", "busybox"),
    ("run", "busybox:Bad/x"),
    ("run", "BAD"),
    ("run", "--foo", "busybox"),
    ("run", "-y", "busybox"),
    ("run", "--name"),
    ("run", "--cpus", "x", "busybox"),
    ("run", "--env-file", "/nonexistent", "busybox"),
    ("run", "--restart", "always", "--rm", "busybox"),
    ("run", "-it", "busybox"),
    ("run", "-p", "x", "busybox"),
    ("run", "--device", "a:b:c:d", "busybox"),
    ("run",),
    ("ps", "x"),
    ("ps", "--foo"),
    ("nosuchcommand",),
    ("volume", "nosuch"),
    ("start",),
    ("rename", "a"),
    ("stop", "nosuch"),
    ("rm", "nosuch", "nosuch2"),
    ("inspect", "nosuch"),
    ("container", "inspect", "nosuch"),
    ("image", "inspect", "nosuch"),
    ("rmi", "nosuch"),
    ("exec", "nosuch", "ls"),
    ("kill", "nosuch"),
    ("wait", "nosuch"),
    ("logs", "nosuch"),
    ("tag", "busybox", "B"),
    ("volume", "inspect", "nosuch"),
    ("network", "inspect", "nosuch"),
    ("start", "-a", "a", "b"),
    ("-H", "unix:///nonexistent", "ps"),
    ("-H", "foo://x", "ps"),
]


@pytest.mark.parametrize("words", SAME, ids=" ".join)
def test_same(words: tuple[str, ...], container) -> None:
    assert client(ORLOP, *words) == client("docker", *words)


def test_standard_input_goes_through(container) -> None:
    text = "line\n" * 50_000
    assert client(ORLOP, "exec", "-i", NAME, "cat", stdin=text) == (0, text, "")
    assert client(ORLOP, "run", "--rm", "-i", "busybox", "wc", "-l", stdin=text)[:2] == (0, "50000\n")
