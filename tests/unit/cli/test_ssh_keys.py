"""Keys of files as an SSH agent, and what of an agent steps reach: what we sign is verified by asyncssh and cryptography."""

import os
import subprocess
import sys

import asyncssh
import pytest
from asyncssh.public_key import decode_ssh_public_key
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli import ssh_agent, ssh_keys
from orlop.cli.invocation import CommandError
from orlop.cli.ssh_agent import KeyAgent, RequestReader, permitted, text
from orlop.errors import InvalidParameterError

KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}
FORMATS = serialization.PrivateFormat
FAILURE = text(bytes([ssh_agent.FAILURE]))
LIST = bytes([ssh_agent.LIST])


def write(path, key, form=FORMATS.OpenSSH, password=b""):
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, how))
    return str(path)


def sign(public, data, flags=0):
    return bytes([ssh_agent.SIGN]) + text(public) + text(data) + flags.to_bytes(4, "big")


def strings(data):
    found = []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        assert len(data) >= end
        found.append(data[4:end])
        data = data[end:]
    return found


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, FORMATS.OpenSSH) for name in KEYS),
        *((name, FORMATS.PKCS8) for name in KEYS),
        *((name, FORMATS.TraditionalOpenSSL) for name in KEYS if name != "ed25519"),
    ],
)
def test_signatures_are_verified_by_another(tmp_path, name, form):
    key = ssh_keys.read_key(write(tmp_path / "key", KEYS[name], form))
    agent, judge = KeyAgent([key]), decode_ssh_public_key(key.public)
    listed = agent.answer(LIST)
    assert listed == text(bytes([ssh_agent.KEYS]) + (1).to_bytes(4, "big") + text(key.public) + text(b""))
    wanted = (
        {0: b"ssh-rsa", 2: b"rsa-sha2-256", 4: b"rsa-sha2-512", 6: b"rsa-sha2-512"}
        if name == "rsa"
        else {0: judge.algorithm}
    )
    for number in range(20):  # r or s of one in 256 begins with a zero byte, every other one with a set bit
        for flags, algorithm in wanted.items():
            data = os.urandom(number)
            (message,) = strings(agent.answer(sign(key.public, data, flags)))
            assert message[0] == ssh_agent.SIGNATURE
            (signature,) = strings(message[1:])
            assert strings(signature)[0] == algorithm
            assert judge.verify(data, signature)
            assert not judge.verify(data + b"x", signature)


def test_openssh_reads_the_same_key(tmp_path):
    for name, key in KEYS.items():
        path = write(tmp_path / name, key)
        os.chmod(path, 0o600)
        line = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
        assert asyncssh.import_public_key(line).public_data == ssh_keys.read_key(path).public


def test_what_is_no_key_of_ours(tmp_path, monkeypatch):
    words = b"secret words"
    locked = [
        write(tmp_path / str(form), KEYS["rsa"], form, words) for form in (FORMATS.PKCS8, FORMATS.TraditionalOpenSSL)
    ]
    locked.append(write(tmp_path / "openssh", KEYS["ed25519"]))
    os.chmod(locked[-1], 0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", words, "-P", "", "-f", locked[-1]], check=True)
    for path in locked:
        with pytest.raises(
            CommandError, match=f"failed to parse {path}: ssh: this private key is passphrase protected"
        ):
            ssh_keys.read_key(path)
    for name, key in (("dsa", dsa.generate_private_key(1024)), ("ed448", ed448.Ed448PrivateKey.generate()),
                      ("koblitz", ec.generate_private_key(ec.SECP256K1()))):  # fmt: skip
        with pytest.raises(CommandError, match="ssh: unsupported key type"):
            ssh_keys.read_key(write(tmp_path / name, key, FORMATS.PKCS8))
    (tmp_path / "none").write_text("ssh-ed25519 AAAA")
    (tmp_path / "torn").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    for name, message in (
        ("none", "ssh: no key found"),
        ("torn", "failed to parse"),
        ("gone", "no such file or directory"),
    ):
        with pytest.raises(CommandError, match=message):
            ssh_keys.read_key(str(tmp_path / name))
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    with pytest.raises(CommandError, match=r"needs the Python package cryptography \(orlop\[ssh\]\)"):
        ssh_keys.read_key(str(tmp_path / "none"))


def test_an_agent_refuses_what_it_cannot_do(tmp_path):
    key = ssh_keys.read_key(write(tmp_path / "key", KEYS["ed25519"]))
    other = ssh_keys.read_key(write(tmp_path / "other", KEYS["p256"]))
    agent, whole = KeyAgent([key]), sign(key.public, b"data")
    for request in (
        sign(other.public, b"data"),
        whole + b"x",
        *(whole[:end] for end in range(1, len(whole))),
        LIST + b"x",
    ):
        assert agent.answer(request) == FAILURE
    for kind in set(range(256)) - {ssh_agent.LIST, ssh_agent.SIGN}:
        assert agent.answer(bytes([kind]) + whole[1:]) == FAILURE
    assert agent.answer(whole) != FAILURE


def test_steps_change_nothing_of_an_agent():
    """Remove, add, lock, load a library (CVE-2023-38408): each becomes a request that agents do not know."""
    whole = sign(b"key", b"data")
    assert permitted(LIST) == LIST
    assert permitted(whole) == whole
    unknown = permitted(b"\x13")
    assert unknown == bytes([ssh_agent.EXTENSION]) + text(b"refused@orlop")
    for kind in set(range(256)) - {ssh_agent.LIST, ssh_agent.SIGN}:
        assert permitted(bytes([kind]) + b"x") == unknown


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.data())
def test_requests_are_cut_wherever_they_come_apart(requests, data):
    stream, reader, got = b"".join(map(text, requests)), RequestReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += reader.receive(stream[:size])
        stream = stream[size:]
    assert got == requests


@pytest.mark.parametrize("length", [0, ssh_agent.LONGEST + 1, 2**32 - 1])
def test_requests_of_no_length(length):
    with pytest.raises(InvalidParameterError):
        RequestReader().receive(length.to_bytes(4, "big"))


@given(st.binary(min_size=1, max_size=200))
def test_any_request_is_answered(request_):
    answer = KeyAgent([]).answer(request_)
    assert answer in (FAILURE, text(bytes([ssh_agent.KEYS]) + bytes(4)))
