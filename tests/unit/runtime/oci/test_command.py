"""Errors, exit codes and documents of orlop-runtime that need no container."""

from __future__ import annotations

import json

import pytest

from orlop.errors import InvalidParameterError
from orlop.runtime.mount_options import parse_options
from orlop.runtime.oci import command
from orlop.runtime.oci.control import parse_signal
from orlop.runtime.oci.document import parse_document
from orlop.runtime.oci.documents import MOUNT_OPTIONS, starter_config
from orlop.spec.oci import parse_config


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = command.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_version_and_help(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("orlop-runtime version ")
    for line in ([], ["--help"], ["help"]):
        code, out, _ = run(capsys, *line)
        assert code == 0
        assert all(f"\n   {verb}" in out for verb in command.VERBS)
    code, out, _ = run(capsys, "exec", "--help")
    assert "--preserve-fds N" in out


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["state", "nope"], 1, 'level=error msg="container does not exist"'),
        (["state", "a/b"], 1, 'msg="invalid container ID format"'),
        (["delete", "nope"], 1, "container does not exist"),
        (["exec", "nope", "true"], 255, 'msg="exec failed: container does not exist"'),
        (["frob"], 3, "No help topic for 'frob'"),
        (["state"], 1, r"\"state\" requires exactly 1 argument(s)"),
        (["kill", "a", "b", "c"], 1, r"\"kill\" requires a minimum of 1"),
        (["--nope", "list"], 1, "flag provided but not defined: -nope"),
        (["list", "--nope"], 1, "flag provided but not defined: -nope"),
        (["list", "--format", "yaml"], 1, "invalid format option"),
        (["kill", "nope", "FOO"], 1, r"unknown signal \"FOO\""),
        (["checkpoint", "nope"], 1, "checkpoint is not supported"),
        (["events", "nope"], 1, "events is not supported"),
        (["--systemd-cgroup", "list"], 1, "systemd cgroup driver"),
        (
            ["create", "-b", "/nonexistent", "x"],
            1,
            "orlop-runtime create failed: chdir /nonexistent: no such file or directory",
        ),
        (["create", "a/b"], 1, "orlop-runtime create failed: invalid container ID format"),
    ],
)
def test_errors_as_runc(capsys, tmp_path, line, code, words):
    got, _, err = run(capsys, "--root", str(tmp_path / "r"), *line)
    assert got == code
    assert words in err


def test_force_delete_of_nothing_succeeds(capsys, tmp_path):
    assert run(capsys, "--root", str(tmp_path), "delete", "--force", "nope")[0] == 0


def test_log_file_in_json(capsys, tmp_path):
    path = tmp_path / "log"
    code, _, err = run(capsys, "--root", str(tmp_path), "--log", str(path), "--log-format", "json", "state", "q\u00fc")
    assert code == 1
    assert err == "invalid container ID format\n"
    line = json.loads(path.read_text())
    assert (line["level"], line["msg"]) == ("error", "invalid container ID format")


def test_empty_list(capsys, tmp_path):
    code, out, _ = run(capsys, "--root", str(tmp_path), "list")
    assert code == 0
    assert out.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert run(capsys, "--root", str(tmp_path), "list", "-f", "json")[1] == "null"


def test_spec_is_written_once_and_reads_back(capsys, tmp_path):
    assert run(capsys, "spec", "-b", str(tmp_path))[0] == 0
    parse_config(json.loads((tmp_path / "config.json").read_text()))
    code, _, err = run(capsys, "spec", "-b", str(tmp_path))
    assert code == 1
    assert "exists. Remove it first" in err


def test_documents_match_the_schemas(capsys):
    parse_config(starter_config())
    features = json.loads(run(capsys, "features")[1])
    assert features["hooks"][0] == "prestart"
    assert "CAP_SYS_ADMIN" in features["linux"]["capabilities"]
    parse_options(MOUNT_OPTIONS)


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN+1", 35), ("SIGRTMAX-0", 64)]
)
def test_signals(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "-1", "", "SIG", "RTMIN+99", "\u0669", "9 "])
def test_bad_signals(text):
    with pytest.raises(InvalidParameterError, match="unknown signal"):
        parse_signal(text)


@pytest.mark.parametrize("data", [b"{", b'{"a":1,"a":2}', b"[NaN]", b"[" * 100000, b"\xff", b"9" * 5000])
def test_hostile_json(data):
    with pytest.raises(InvalidParameterError, match="invalid JSON"):
        parse_document(data, "config.json")
