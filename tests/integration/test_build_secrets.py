"""Secrets and SSH agents of a build (threat F9)."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
from contextlib import ExitStack

import pytest
from build_lab import build, steps, write

from harness import BIN, PATIENCE, busybox_tar, wait_for
from host_state import entries_below
from orlop.cli.ssh_agent import text

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


LIST = b"\x0b"


def test_secrets_leave_nothing(engine, images, tmp_path):
    """Threat F9: a secret is not in the image, the history, the cache's key, the log or on the disk."""
    script = "FROM busybox\nRUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B sha256sum /run/secrets/a | cut -c1-8; echo ${#B}\n"
    context = write(tmp_path / "c", script)
    value, second = f"first-{os.urandom(8).hex()}", f"second-{os.urandom(8).hex()}"
    (tmp_path / "file").write_text(value)
    options = ["--secret", f"id=a,src={tmp_path}/file", "--secret", "id=b,env=SECOND"]
    done = build(engine, "-t", "outer:secret", *options, context, env={"SECOND": second})
    assert hashlib.sha256(value.encode()).hexdigest()[:8] in done.stderr
    assert f" {len(second)}\n" in done.stderr
    (tmp_path / "file").write_text("another")
    again = build(engine, *options, context, env={"SECOND": second})
    assert steps(again)[2] == "CACHED"
    engine.docker("save", "-o", tmp_path / "saved.tar", "outer:secret")
    told = (
        engine.docker("history", "--no-trunc", "outer:secret").stdout + engine.docker("inspect", "outer:secret").stdout
    )
    for secret in (value, second):
        assert secret.encode() not in (tmp_path / "saved.tar").read_bytes()
        assert secret not in told + engine.log_text()
        found = subprocess.run(
            ["grep", "-rlF", secret, engine.data_root, engine.exec_root], capture_output=True, check=False
        )
        assert found.stdout == b""


def test_secrets_are_gone_when_their_step_has_ended(engine, images, tmp_path):
    """Threat F9: what a step was given is nowhere while the next one runs."""
    script = "FROM busybox\nRUN --mount=type=secret,id=a,required=true cat /run/secrets/a >/dev/null\nRUN sleep 1000\n"
    context = write(tmp_path / "c", script)
    (tmp_path / "file").write_text("value")
    client = subprocess.Popen(
        [BIN / "orlop", "build", "--secret", f"id=a,src={tmp_path}/file", context],
        env=engine.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: "sleep 1000" in engine.docker("ps", "--no-trunc").stdout, what="the second step")
        assert not list(engine.exec_root.glob("builds/*/*"))
    finally:
        client.kill()
        client.wait()
    wait_for(lambda: engine.docker("ps", "-aq").stdout == "")


def test_agent_is_forwarded(engine, images, tmp_path):
    """Each connection to a step's socket is one to the user's agent, at the same time as others."""
    place = tmp_path / "agent"
    context = write(tmp_path / "c", "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && sleep 1000\n")
    command = [BIN / "orlop", "build", "--ssh", f"default={place}", context]
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(place))
        agent.listen()
        agent.settimeout(20 * PATIENCE)
        client = subprocess.Popen(command, env=engine.environment, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: engine.docker("ps", "-q").stdout, what="the step: its socket is listened on by then")
            sockets = find_sockets(engine.exec_root / "builds")
            with ExitStack() as stack:
                ends = []
                for _ in range(2):
                    step = stack.enter_context(socket.socket(socket.AF_UNIX))
                    step.settimeout(20 * PATIENCE)
                    step.connect(str(sockets[0]))
                    step.sendall(text(LIST))
                    ends.append((step, stack.enter_context(agent.accept()[0])))
                    ends[-1][1].settimeout(20 * PATIENCE)
                for number, (step, user) in enumerate(ends):
                    assert user.recv(100) == text(LIST)
                    user.sendall(b"answer %d" % number)
                    assert step.recv(100) == b"answer %d" % number
                # what would change the user's agent (remove all keys, load a library) does not reach it
                for request in (b"\x13", b"\x14" + text(b"/tmp/evil.so") + text(b"")):
                    ends[0][0].sendall(text(request))
                    assert ends[0][1].recv(100) == text(b"\x1b" + text(b"refused@orlop"))
                ends[0][0].close()
                assert ends[0][1].recv(100) == b""
                ends[1][1].close()
                assert ends[1][0].recv(100) == b""
        finally:
            client.terminate()
            client.wait()
    wait_for(lambda: find_sockets(engine.exec_root / "builds") == [])


def find_sockets(top):
    return [path for path in entries_below(top, depth=4) if path.is_socket()]


def openssh(directory, *programs):
    """Put programs of the machine, and the libraries that they need, into a tree."""
    for program in (shutil.which(name) for name in programs):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in (program, *re.findall(r"(/\S+) \(0x", listed)):
            target = directory / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


@pytest.mark.parametrize("kind", [("ed25519",), ("ecdsa", "-b", "384"), ("rsa", "-m", "PEM")], ids=lambda kind: kind[0])
def test_keys_of_files_sign_for_steps(engine, images, tmp_path, kind):
    """OpenSSH's own client in a step lists the key, has it sign, verifies that, and can remove nothing."""
    context = write(
        tmp_path / "c",
        "FROM scratch\nADD base.tar /\nCOPY tree /\n"
        "RUN --mount=type=ssh ssh-add -L && ssh-add -T /key.pub && echo signed && ! ssh-add -D && ! ssh-add -T /other.pub\n"
        "RUN --mount=type=ssh,id=two [ $(ssh-add -L | wc -l) = 2 ] && ssh-add -T /key.pub /other.pub && echo both\n"
        "RUN ! ls -d /run/buildkit/*\n",
    )
    busybox_tar(context / "base.tar")
    openssh(context / "tree", "ssh-add")
    for name, words in (("key", kind), ("other", ("ed25519",))):
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "", "-f", tmp_path / name, "-t", *words], check=True)
        shutil.copy(tmp_path / f"{name}.pub", context / "tree")
    keys = tmp_path / "key", tmp_path / "other"
    done = build(engine, "--ssh", f"default={keys[0]}", "--ssh", f"two={keys[0]},{keys[1]}", "-t", "outer:ssh", context)
    assert f" {(tmp_path / 'key.pub').read_text().strip()}" in done.stderr
    assert " signed\n" in done.stderr
    assert " both\n" in done.stderr
    secret = "".join(keys[0].read_text().splitlines()[1:-1])[:60]
    engine.docker("save", "-o", tmp_path / "saved.tar", "outer:ssh")
    assert secret.encode() not in (tmp_path / "saved.tar").read_bytes().replace(b"\n", b"")
    assert secret not in engine.log_text()


def test_keys_that_are_refused(engine, images, tmp_path):
    context, key = write(tmp_path / "c", "FROM busybox\n"), tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "secret", "-f", key, "-t", "ed25519"], check=True)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        for options, words in (
            ([f"default={key}"], f"failed to parse {key}: ssh: this private key is passphrase protected"),
            ([f"default={key}.pub"], f"failed to parse {key}.pub: ssh: no key found"),
            ([f"default={key}.gone"], f"no such file or directory: {key}.gone"),
            ([f"default={tmp_path}/agent,{key}"], "invalid combination of keys and sockets"),
            ([f"default={tmp_path}/agent,{tmp_path}/agent"], "only single socket allowed"),
            ([f"default={tmp_path}/agent", f"default={tmp_path}/agent"], "duplicated ID default"),
            (["default"], "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"),
        ):
            flags = [word for option in options for word in ("--ssh", option)]
            done = build(engine, *flags, context, check=False, env={"SSH_AUTH_SOCK": ""})
            assert (done.returncode, words in done.stderr) == (1, True), done.stderr
