"""Small things that tools meet, in dockerd's words and shape (found beside dockerd 26)."""

import json
import re
import time

import pytest

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
BLOCK = {
    *("io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive"),
    *("io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive"),
}


@pytest.fixture
def named(engine):
    names = ["web-1", "web-22", "db", "cache"]
    for name in names:
        engine.docker("create", "--name", name, "busybox", "sleep", "100")
    yield
    engine.docker("rm", "-f", *names)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("^web-[0-9]$", ["web-1"]),
        ("^/web-[0-9]+$", ["web-22", "web-1"]),
        ("^(db|cache)$", ["cache", "db"]),
        ("eb-.*2", ["web-22"]),
        ("[", []),
    ],
)
def test_names_are_found_by_regular_expressions(engine, named, pattern, found):
    assert engine.docker("ps", "-a", "-f", f"name={pattern}", "--format", "{{.Names}}").stdout.split() == found


def test_names_of_volumes_and_networks_as_well(engine):
    for noun in ("volume", "network"):
        for name in ("one-1", "one-2", "two-1"):
            engine.docker(noun, "create", name)
        found = engine.docker(noun, "ls", "-f", "name=^one-[0-9]$", "--format", "{{.Name}}").stdout.split()
        assert sorted(found) == ["one-1", "one-2"]
        engine.docker(noun, "rm", "one-1", "one-2", "two-1")


def test_statistics_have_all_members(engine):
    engine.docker("create", "--name", "counted", "busybox", "sleep", "100")
    sample = lambda: json.loads(engine.http("GET", "/v1.45/containers/counted/stats?stream=false")[1])  # noqa: E731
    assert sample()["blkio_stats"] == dict.fromkeys(BLOCK)
    engine.docker("start", "counted")
    assert {name for name, value in sample()["blkio_stats"].items() if isinstance(value, list)} == BLOCK
    engine.docker("rm", "-f", "counted")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("swarm leave", "This node is not part of a swarm"),
        ("network create -d overlay over", "This node is not a swarm manager."),
        # Debian 12's client has words of its own for what is not there
        ("plugin inspect nosuch/one", '(plugin "nosuch/one" not found|No such plugin: nosuch/one)'),
        ("plugin enable nosuch", 'plugin "nosuch" not found'),
        ("plugin rm nosuch", '(plugin "nosuch" not found|No such plugin: nosuch)'),
        ("create --uts host --domainname d busybox", "conflicting options: domainname and the UTS mode"),
        ("tag busybox sha256:abc", "refusing to create an ambiguous tag using digest algorithm as name"),
    ],
)
def test_a_refusal_is_dockers(engine, command, words):
    done = engine.docker(*command.split(), check=False)
    assert (done.returncode, bool(re.search(words, done.stderr))) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("PUT", "/volumes/any", 503, "volume update only valid for cluster volumes, but swarm is unavailable"),
        ("GET", "/containers/any/checkpoints", 501, "checkpoints are not supported"),
        ("DELETE", "/containers/any/checkpoints/one", 501, "checkpoints are not supported"),
        ("GET", "/containers/json?filters=null", 200, "["),
        ("GET", "/volumes?filters=null", 200, "Volumes"),
    ],
)
def test_an_endpoint_is_there(engine, method, path, status, words):
    found, body = engine.http(method, f"/v1.45{path}", {} if method == "PUT" else None)
    assert (found, words in body.decode()) == (status, True), body


def test_detach_keys_that_are_none_are_refused_without_a_terminal_too(engine):
    engine.docker("create", "--name", "keyed", "busybox")
    status, body = engine.http("POST", "/v1.45/containers/keyed/attach?stream=1&detachKeys=foo")
    assert (status, b"Invalid detach keys (foo) provided" in body) == (400, True)
    engine.docker("rm", "keyed")


def test_a_paused_container_is_not_removed(engine):
    engine.docker("run", "-d", "--name", "icy", "busybox", "sleep", "100")
    engine.docker("pause", "icy")
    words = 'cannot remove container "/icy": container is paused and must be unpaused first'
    assert words in engine.docker("rm", "icy", check=False).stderr
    engine.docker("rm", "-f", "icy")


def test_an_entrypoint_that_is_committed_takes_the_command_away(engine):
    engine.docker("create", "--name", "source", "busybox", "ls", "/")
    commands = {}
    for tag, changes in (("alone", ['ENTRYPOINT ["a"]']), ("both", ['CMD ["b"]', 'ENTRYPOINT ["a"]'])):
        flags = [word for change in changes for word in ("-c", change)]
        engine.docker("commit", *flags, "source", f"entry:{tag}")
        commands[tag] = engine.inspect(f"entry:{tag}")["Config"]["Cmd"]
        engine.docker("rmi", f"entry:{tag}")
    assert commands == {"alone": None, "both": ["b"]}
    engine.docker("rm", "source")


def test_what_looks_into_a_container_is_told(engine, tmp_path):
    engine.docker("run", "-d", "--name", "seen", "busybox", "sleep", "100")
    since = time.time()
    engine.docker("top", "seen")
    engine.docker("cp", "seen:/etc/passwd", tmp_path / "copy")
    engine.docker("cp", tmp_path / "copy", "seen:/")
    engine.docker("exec", "seen", "true")
    engine.docker("network", "prune", "-f")
    path = f"/events?since={since:.6f}&until={time.time():.6f}"
    events = [json.loads(line) for line in engine.http("GET", path)[1].splitlines()]
    told = [f"{event['Type']} {event['Action']}" for event in events]
    assert told == [
        *("container top", "container archive-path", "container extract-to-dir"),
        *("container exec_create: true ", "container exec_start: true ", "container exec_die", "network prune"),
    ]
    engine.docker("rm", "-f", "seen")
