"""Errors, exit codes and documents of orlop-runtime that need no container."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import jsonschema
import pytest
import referencing
from referencing.jsonschema import DRAFT4

from orlop.errors import InvalidParameterError
from orlop.runtime.oci import command
from orlop.runtime.oci.control import parse_signal
from orlop.runtime.oci.document import parse_document
from orlop.runtime.oci.documents import starter_config
from orlop.runtime.oci.events import parse_duration
from orlop.runtime.oci.update import parse_size
from orlop.runtime.oci.verbs import all_verbs
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
        assert all(f"\n   {verb}" in out for verb in all_verbs())
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
        (["kill"], 1, r"\"kill\" requires a minimum of 1 argument(s)"),
        (["kill", "a", "b", "c"], 1, r"\"kill\" requires a maximum of 2 argument(s)"),
        (["state", ""], 1, "container id cannot be empty"),
        (["--nope", "list"], 1, "flag provided but not defined: -nope"),
        (["list", "--nope"], 1, "flag provided but not defined: -nope"),
        (["list", "--format", "yaml"], 1, "invalid format option"),
        (["kill", "nope", "FOO"], 1, "container does not exist"),
        (["checkpoint", "nope"], 1, "container does not exist"),
        (["events", "nope"], 1, "container does not exist"),
        (["events", "--interval", "0", "nope"], 1, "duration interval must be greater than 0"),
        (["--rootless", "perhaps", "list"], 1, "invalid value for --rootless: perhaps"),
        (["--log-format", "yaml", "list"], 1, "invalid log-format: yaml"),
        (["spec", "-b", "/nonexistent"], 1, "chdir /nonexistent: no such file or directory"),
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


@pytest.mark.parametrize(
    ("line", "heading", "words"),
    [
        (["--nope"], "Incorrect Usage: flag provided but not defined: -nope", "flag provided but not defined: -nope"),
        (["run", "-x"], "Incorrect Usage: flag provided but not defined: -x", "flag provided but not defined: -x"),
        (["create"], "Incorrect Usage.", r"orlop-runtime: \"create\" requires exactly 1 argument(s)"),
        (["exec"], "Incorrect Usage.", r"orlop-runtime: \"exec\" requires a minimum of 1 argument(s)"),
        (["exec", "--tty=7", "x", "y"], 'Incorrect Usage: invalid boolean value "7"', "invalid boolean value"),
        (
            ["run", "--preserve-fds", "x", "y"],
            'Incorrect Usage: invalid value "x" for flag -preserve-fds: parse error',
            r"invalid value \"x\" for flag -preserve-fds: parse error",
        ),
        (
            ["events", "--interval", "5", "y"],
            'Incorrect Usage: invalid value "5" for flag -interval: parse error',
            r"invalid value \"5\" for flag -interval: parse error",
        ),
    ],
)
def test_usage_errors_come_with_help_and_without_the_commands_words(capsys, tmp_path, line, heading, words):
    code, out, err = run(capsys, "--root", str(tmp_path / "r"), *line)
    assert code == 1  # of exec, too, whose own failures are 255
    assert out.startswith(heading)
    assert "\n\nNAME:\n   orlop-runtime" in out
    assert f'level=error msg="{words}' in err


def test_a_directory_is_no_configuration(capsys, tmp_path):
    (tmp_path / "config.json").mkdir()
    code, _, err = run(capsys, "--root", str(tmp_path / "r"), "create", "--bundle", str(tmp_path), "box")
    assert code == 1
    assert 'msg="orlop-runtime create failed: config.json: is a directory"' in err


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
    assert run(capsys, "--root", str(tmp_path), "list", "-f", "json")[1] == "null\n"


def test_spec_is_written_once_and_reads_back(capsys, tmp_path):
    assert run(capsys, "spec", "-b", str(tmp_path))[0] == 0
    parse_config(json.loads((tmp_path / "config.json").read_text()))
    code, _, err = run(capsys, "spec", "-b", str(tmp_path))
    assert code == 1
    assert "exists. Remove it first" in err


def test_rootless_spec_maps_the_caller(capsys, tmp_path):
    assert run(capsys, "spec", "--rootless", "-b", str(tmp_path))[0] == 0
    document = json.loads((tmp_path / "config.json").read_text())
    config = parse_config(document)
    assert config.linux.namespace("user") is not None
    assert config.linux.namespace("network") is None
    assert [(m.container_id, m.size) for m in config.linux.uid_mappings] == [(0, 1)]
    assert not [option for mount in config.mounts for option in mount.options if option.startswith("gid=")]
    assert "resources" not in document["linux"]


def test_every_verb_has_its_function():
    for verb in all_verbs().values():
        module, _, function = verb.action.partition(":")
        assert callable(getattr(importlib.import_module(f"orlop.runtime.oci.{module}"), function))


def test_debug_tells_what_is_done(capsys, tmp_path):
    assert "level=debug" in run(capsys, "--debug", "--root", str(tmp_path), "list")[2]
    assert run(capsys, "--root", str(tmp_path), "list")[2] == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [("100", 100), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("2kb", 2048), ("-1", -1), ("7 B", 7), ("0.5k", 512)],
)
def test_sizes(text, size):
    assert parse_size(text, "memory") == size


@pytest.mark.parametrize("text", ["", "m", "1x", "-2", "1.", "\u0661", "1e3", "9" * 21, "1 2"])
def test_bad_sizes(text):
    with pytest.raises(InvalidParameterError, match="invalid value for memory: invalid size"):
        parse_size(text, "memory")


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), (".5h", 1800), ("0", 0), ("1h0m2s", 3602)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1x", "1..5s", "9" * 30 + "h", "1s "])
def test_bad_durations(text):
    with pytest.raises(InvalidParameterError, match="parse error"):
        parse_duration(text)


# beside the repository, or beside the directory of its worktrees
SCHEMAS = next(
    (p for top in Path(__file__).resolve().parents[5:7] if (p := top / "shared/spec/oci-runtime").is_dir()),
    Path("/none"),
)


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="needs ../shared/spec/oci-runtime")
def test_features_match_the_schema(capsys):
    documents = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    resources = [(name, DRAFT4.create_resource(text)) for name, text in documents.items()]
    registry = referencing.Registry().with_resources(resources)
    validator = jsonschema.Draft4Validator(documents["features-schema.json"], registry=registry)
    validator.validate(json.loads(run(capsys, "features")[1]))


def test_documents_can_be_read(capsys):
    parse_config(starter_config())
    features = json.loads(run(capsys, "features")[1])
    assert features["hooks"][0] == "prestart"
    assert set(features["linux"]["cgroup"]) >= {"v1", "v2"}
    assert "CAP_SYS_ADMIN" in features["linux"]["capabilities"]
    assert {"rro", "idmap", "tmpcopyup"} <= set(features["mountOptions"])


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN+1", 35), ("SIGRTMAX-0", 64)]
)
def test_signals(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["65", "-1", "", "SIG", "RTMIN+99", "\u0669", "9 "])
def test_bad_signals(text):
    with pytest.raises(InvalidParameterError, match="unknown signal"):
        parse_signal(text)


@pytest.mark.parametrize("data", [b"{", b'{"a":1,"a":2}', b"[NaN]", b"[" * 100000, b"\xff", b"9" * 5000])
def test_hostile_json(data):
    with pytest.raises(InvalidParameterError, match="invalid JSON"):
        parse_document(data, "config.json")
