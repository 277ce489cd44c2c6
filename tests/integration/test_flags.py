"""Each flag of ``docker run`` and what it does inside; failures and events in the words and order of dockerd."""

import json
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from harness import DOCKER, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
V1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()


def cgroup(v1: str, v2: str) -> str:
    """Return how a container reads a limit."""
    return f"cat /sys/fs/cgroup/{v1 if V1 else v2}"


@pytest.mark.parametrize(
    ("flags", "script", "output"),
    [
        ("-e A=1 -e PATH=/bin", "echo $A $PATH", "1 /bin"),
        ("-w /made/here", "pwd", "/made/here"),
        ("-u 1000:50 --group-add 7 --group-add staff", "id -u; id -g; id -G", "1000\n50\n50 7"),
        ("-u alice", "id -un; echo $HOME; id -G", "alice\n/home/alice\n1000 50"),
        ("--hostname one --domainname two", "hostname; cat /proc/sys/kernel/domainname", "one\ntwo"),
        ("--tmpfs /t:ro", "stat -c %a /t; touch /t/x 2>/dev/null || echo ro", "1777\nro"),
        ("--tmpfs /usr:ro", "stat -c %a /usr; touch /usr/x 2>/dev/null || echo ro", "755\nro"),  # that of what it covers
        ("--tmpfs /t:size=2m,mode=700", "stat -c %a /t; df -k /t | awk 'END{print $2}'", "700\n2048"),
        ("-m 64m --memory-swap 96m", cgroup("memory/memory.limit_in_bytes", "memory.max"), str(64 << 20)),
        ("--cpus 0.5", cgroup("cpu/cpu.cfs_quota_us", "cpu.max"), "50000" if V1 else "50000 100000"),
        ("--cpu-shares 512", cgroup("cpu/cpu.shares", "cpu.weight"), "512" if V1 else "20"),
        ("--cpuset-cpus 0", "grep Cpus_allowed_list /proc/self/status | cut -f2", "0"),
        ("--pids-limit 33", cgroup("pids/pids.max", "pids.max"), "33"),
        ("--read-only", "touch /x /etc/hosts /etc/resolv.conf 2>&1 | grep -c Read-only; touch /dev/shm/x", "3"),
        ("--cap-drop all --cap-add chown", "grep CapEff /proc/self/status | cut -f2", f"{1:016x}"),
        ("--cap-add sys_time --cap-drop chown", "grep CapEff /proc/self/status | cut -f2", "00000000aa0425fa"),
        ("--privileged", "grep Seccomp: /proc/self/status | cut -f2; test -w /proc/sys/kernel/shmmax && echo w", "0\nw"),
        ("", "grep Seccomp: /proc/self/status | cut -f2; cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness", "2"),
        ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status | cut -f2", "0"),
        ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
        ("--init", "cat /proc/1/comm | grep -c sh; echo $$ | grep -vc '^1$'", "0\n1"),
        ("--add-host db:192.0.2.7", "grep -w db /etc/hosts | cut -f1", "192.0.2.7"),
        ("--dns 192.0.2.53 --dns-search a.example --dns-option ndots:3", "grep -v '#' /etc/resolv.conf | grep .",
         "nameserver 192.0.2.53\nsearch a.example\noptions ndots:3"),
        ("--ulimit nofile=100:200 --ulimit core=0", "ulimit -n; ulimit -Hn; ulimit -c", "100\n200\n0"),
        ("--shm-size 8m", "df -k /dev/shm | awk 'END{print $2}'", "8192"),
        ("--sysctl kernel.msgmax=4096", "cat /proc/sys/kernel/msgmax", "4096"),
        ("--device /dev/full:/dev/other", "stat -c '%t %T' /dev/other; echo x 2>&1 >/dev/other | grep -c space", "1 7\n1"),
        ("--device-cgroup-rule=c\\ 10:237\\ rm", "mknod /z c 10 237; (: </z) && echo r; (: >/z) 2>/dev/null || echo no", "r\nno"),
        ("--device /dev/net", "test -c /dev/net/tun && echo tun", "tun"),
        ("-w /a/../b/", "pwd", "/b"),
        ("--tmpfs /t:defaults", "grep -c ' /t ' /proc/mounts", "1"),
        ("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"),
        ("--mac-address 02:42:ac:11:00:99", "cat /sys/class/net/eth0/address", "02:42:ac:11:00:99"),
        ("--ipc none", "grep -c ' /dev/shm ' /proc/mounts", "0"),
        ("--pid host", "test $$ -gt 50 && echo outside", "outside"),
        ("--uts host", "test $(hostname) != $(cut -c1-12 /proc/self/cgroup | head -1) && echo shared", "shared"),
        ("--entrypoint /bin/busybox", None, "applet"),
    ],
)  # fmt: skip
def test_flag_is_honoured(engine, flags, script, output):
    command = ["echo", "applet"] if script is None else ["sh", "-c", script]
    done = engine.docker("run", "--rm", *shlex.split(flags), "busybox", *command, check=False)
    assert done.stdout.strip() == output, done.stderr


def test_env_file_and_labels(engine, tmp_path):
    (tmp_path / "env").write_text("# comment\nFROM_FILE=yes\n")
    engine.docker("create", "--name", "marked", "--env-file", tmp_path / "env", "--label", "a=b", "busybox", "true")
    config = engine.inspect("marked")["Config"]
    assert "FROM_FILE=yes" in config["Env"]
    assert config["Labels"] == {"a": "b"}


def test_the_id_is_written_to_a_file(engine, tmp_path):
    file = tmp_path / "id"
    engine.docker("create", "--cidfile", file, "--name", "filed", "--stop-timeout", "0", "busybox", "true")
    document = engine.inspect("filed")
    assert document["Id"] == file.read_text()
    assert document["HostConfig"]["ContainerIDFile"] == str(file)
    assert document["Config"]["StopTimeout"] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--gpus all", 'could not select device driver "" with capabilities: [[gpu]]'),
        ("--pid container:nobody", "No such container: nobody"),
        ("--network container:nobody --expose 80", "port exposing and the container type network mode"),
        ("--ipc container:nobody", "No such container: nobody"),
        ("--mount type=volume,dst=/x,readonly", "must not set ReadOnly mode when using anonymous volumes"),
    ],
)
def test_a_flag_is_refused_in_dockers_words(engine, flags, words):
    done = engine.docker("create", *flags.split(), "busybox", check=False)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("host", "host type networking can't be used with links. This would result in"),
        ("container:nobody", "conflicting options: container type network can't be used with"),
    ],
)
def test_links_need_a_network_of_the_containers_own(engine, mode, words):
    """By the API: docker's client of 20.10 refuses it itself, in other words."""
    host = {"NetworkMode": mode, "Links": ["nobody"]}
    status, body = engine.http("POST", "/v1.45/containers/create", {"Image": "busybox", "HostConfig": host})
    assert (status, words in json.loads(body)["message"]) == (400, True), body


@pytest.mark.parametrize("host", ["db", "db:x", ":192.0.2.1"])
def test_a_host_without_an_address_is_refused_when_the_container_is_made(engine, host):
    status, body = engine.http(
        "POST", "/v1.45/containers/create", {"Image": "busybox", "HostConfig": {"ExtraHosts": [host]}}
    )
    assert status == 400
    assert b"add-host" in body


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("nope", 127, 'exec: "nope": executable file not found in $PATH: unknown'),
        ("/etc", 126, 'exec: "/etc": is a directory: unknown'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied: unknown'),
        ("/no/such", 127, 'exec: "/no/such": stat /no/such: no such file or directory: unknown'),
    ],
)
def test_a_start_fails_in_dockers_words(engine, command, status, words):
    for client in (engine.docker, engine.orlop):
        done = client("run", "--name", "bad", "busybox", command, check=False)
        assert done.returncode == status
        assert "OCI runtime create failed: " in done.stderr
        assert f"unable to start container process: {words}" in done.stderr
        assert engine.inspect("bad")["State"]["ExitCode"] == status
        engine.docker("rm", "bad")


def test_an_exec_says_why_it_failed_and_how_it_ended(engine):
    engine.docker("run", "-d", "--name", "base", "busybox", "sleep", "100")
    done = engine.docker("exec", "base", "nope", check=False)
    assert done.returncode == 127
    assert "OCI runtime exec failed: exec failed: unable to start container process: " in done.stderr + done.stdout
    assert engine.docker("exec", "-w", "/no/such", "base", "true", check=False).returncode == 126
    # The client asks the moment its stream ends: the code has to be known by then.
    assert {engine.docker("exec", "base", "sh", "-c", "exit 3", check=False).returncode for _ in range(25)} == {3}


@pytest.mark.parametrize(
    ("fields", "query", "status", "text"),
    [
        ({}, "platform=linux/arm64", 404, "does not match the specified platform: wanted linux/arm64"),
        ({}, "platform=bogus", 400, "unknown operating system or architecture"),
        ({"HostConfig": {"Isolation": "hyperv"}}, "", 400, "linux only supports 'default'"),
    ],
)
def test_refused_with_the_status_that_clients_expect(engine, fields, query, status, text):
    answer, document = engine.http("POST", f"/containers/create?{query}", {"Image": "busybox", **fields})
    assert (answer, text in json.loads(document)["message"]) == (status, True)


def test_a_missing_network_container_is_told_at_start(engine):
    """A 404 of create would make clients pull the image."""
    answer, document = engine.http(
        "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "container:nope"}}
    )
    assert answer == 201
    answer, document = engine.http("POST", f"/containers/{json.loads(document)['Id']}/start")
    assert (answer, json.loads(document)["message"]) == (404, "No such container: nope")


def test_update_checks_the_restart_policy(engine):
    engine.docker("create", "--name", "policy", "busybox", "true")
    done = engine.docker("update", "--restart", "sometimes", "policy", check=False)
    assert "invalid restart policy: unknown policy 'sometimes'" in done.stderr
    assert engine.inspect("policy")["HostConfig"]["RestartPolicy"]["Name"] == "no"


def test_list_and_prune_filters(engine):
    engine.docker("run", "-d", "--name", "web", "-p", "18099:80", "--label", "keep", "busybox", "sleep", "100")
    names = lambda *filters: engine.docker("ps", "-a", "--format", "{{.Names}}", *filters).stdout.split()  # noqa: E731
    assert names("-f", "publish=18099") == names("-f", "publish=18000-18100/tcp") == names("-f", "expose=80") == ["web"]
    assert names("-f", "publish=80") == names("-f", "publish=18099/udp") == []
    engine.docker("create", "--name", "kept", "--label", "keep", "busybox")
    engine.docker("create", "--name", "gone", "busybox")
    engine.docker("container", "prune", "-f", "--filter", "until=1h")
    assert names() == ["gone", "kept", "web"]
    engine.docker("container", "prune", "-f", "--filter", "label!=keep")
    assert names() == ["kept", "web"]


def test_the_events_of_a_life(engine):
    since = time.time()
    engine.docker("run", "-d", "--name", "told", "-v", "told:/v", "busybox", "sleep", "100")
    engine.docker("exec", "told", "true")
    engine.docker("kill", "-s", "WINCH", "told")
    engine.docker("stop", "-t", "0", "told")
    engine.docker("rm", "told")
    engine.docker("volume", "rm", "told")
    path = f"/events?since={since:.6f}&until={time.time():.6f}"
    events = [json.loads(line) for line in engine.http("GET", path)[1].splitlines()]
    seen = [(event["Type"], event["Action"].partition(":")[0]) for event in events]
    expected = """volume create, container create, network connect, volume mount, container start, container exec_create,
        container exec_start, container exec_die, container kill, container kill, container kill, network disconnect,
        volume unmount, container die, container stop, container destroy, volume destroy"""
    assert seen == [tuple(words.split()) for words in expected.split(",")]
    signals = [event["Actor"]["Attributes"]["signal"] for event in events if event["Action"] == "kill"]
    assert signals == ["28", "15", "9"]


def test_events_follow_until_the_client_leaves(engine):
    command = [DOCKER, "events", "-f", "event=die", "--format", "{{.Actor.Attributes.exitCode}}"]
    wait_for(lambda: not json.loads(engine.http("GET", "/info")[1])["NEventsListener"], what="end of those before")
    with subprocess.Popen(command, env=engine.environment, stdout=subprocess.PIPE, text=True) as listener:
        wait_for(lambda: json.loads(engine.http("GET", "/info")[1])["NEventsListener"], what="listener")
        engine.docker("run", "--rm", "busybox", "sh", "-c", "exit 7", check=False)
        assert listener.stdout.readline() == "7\n"
        listener.terminate()
    wait_for(lambda: not json.loads(engine.http("GET", "/info")[1])["NEventsListener"], what="end of the listener")
