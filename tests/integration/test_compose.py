"""Docker Compose 2 drives a project of several services: order by health and by exit, networks, secrets, limits, scale."""

import json
import subprocess

import pytest

from harness import COMPOSE, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "docker-compose", "busybox"),
]

PROJECT = r"""
name: shop
services:
  db:
    image: busybox
    init: true
    command: ["nc", "-ll", "-p", "5432", "-e", "cat"]
    healthcheck: {test: ["CMD-SHELL", "netstat -lnt | grep -q :5432"], interval: 300ms, timeout: 5s, retries: 60}
    volumes: ["data:/data", {type: tmpfs, target: /scratch, tmpfs: {size: 1048576, mode: 0o1777}}]
    networks: {back: {aliases: [database], ipv4_address: 172.31.5.10}}
    secrets: [password]
    stop_grace_period: 0s
    shm_size: 32m
    ulimits: {nofile: {soft: 100, hard: 200}}
    sysctls: {net.core.somaxconn: 100}
  migrate:
    image: busybox
    command: ["sh", "-c", "echo hello | nc -w 30 database 5432; cat /etc/app.conf; echo made >/data/x"]
    volumes: ["data:/data"]
    depends_on: {db: {condition: service_healthy}}
    networks: [back]
    configs: [{source: app, target: /etc/app.conf}]
  web:
    image: busybox
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    working_dir: /www
    stop_grace_period: 0s
    volumes: ["./www:/www:ro"]
    depends_on: {migrate: {condition: service_completed_successfully}}
    networks: {front: {}, back: {}}
    ports: ["127.0.0.1:8080-8085:80"]
    environment: {A: "1"}
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 64M, pids: 50}}}
    extra_hosts: ["far:10.1.2.3"]
    tmpfs: ["/run:size=64k"]
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    read_only: true
    security_opt: ["no-new-privileges:true"]
  job:
    image: busybox
    profiles: [tools]
    command: ["sh", "-c", "cat /data/x; ps | grep -o '[n]c -ll' | uniq; echo to us | nc -w 30 127.0.0.1 5432"]
    network_mode: "service:db"
    pid: "service:db"
    volumes_from: [db]
volumes: {data: {labels: {kept: "no"}}}
networks:
  front: {}
  back: {internal: true, ipam: {config: [{subnet: 172.31.5.0/24, gateway: 172.31.5.1}]}}
secrets: {password: {file: ./password}}
configs: {app: {content: "conf=${CONF:-default}\n"}}
"""


@pytest.fixture
def compose(engine, tmp_path):
    (tmp_path / "compose.yaml").write_text(PROJECT)
    (tmp_path / "password").write_text("geheim\n")
    (tmp_path / "www").mkdir()
    (tmp_path / "www/index.html").write_text("shop\n")

    def run(*arguments, check=True):
        done = subprocess.run(
            [COMPOSE, *arguments], cwd=tmp_path, env=engine.environment, capture_output=True, text=True, timeout=180,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not (check and done.returncode), f"{arguments}: {done.stdout}{done.stderr}{engine.log_text()[-2000:]}"
        return done.stdout

    yield run
    run("down", "-v", "--remove-orphans", check=False)


def services(compose):
    lines = compose("ps", "-a", "--format", "{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}").splitlines()
    return sorted(" ".join(line.split()) for line in lines)


def things(engine):
    """Return the names of what a project makes."""
    return [
        sorted(engine.docker(*words).stdout.split())
        for words in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
    ]


def test_a_project_from_up_to_down(engine, compose):
    before = things(engine)
    compose("up", "-d", "--wait")
    assert services(compose) == ["db running healthy 0", "migrate exited 0", "web running 0", "web running 0"]
    assert compose("logs", "--no-color", "--no-log-prefix", "migrate") == "hello\nconf=default\n"
    ports = sorted(compose("port", "--index", number, "web", "80").strip() for number in "12")
    assert ports == ["127.0.0.1:8080", "127.0.0.1:8081"]
    for port in ports:
        shown = wait_for(lambda port=port: engine.in_network("curl", "-s", f"http://{port}/", check=False).stdout)
        assert shown == "shop\n"
    seen = compose("exec", "-T", "web", "sh", "-c", "grep far /etc/hosts; touch /x; df /run | tail -n1; echo $A; id -u")
    assert [line.split()[:2] for line in seen.splitlines()] == [["10.1.2.3", "far"], ["tmpfs", "64"], ["1"], ["0"]]
    seen = compose("exec", "-T", "db", "sh", "-c", "ulimit -n; cat /proc/sys/net/core/somaxconn /run/secrets/password")
    assert seen == "100\n100\ngeheim\n"
    # in the network and among the processes of another service, with its volumes
    assert compose("run", "--rm", "-T", "job") == "made\nnc -ll\nto us\n"
    limits = json.loads(engine.docker("inspect", "shop-web-1").stdout)[0]["HostConfig"]
    assert (limits["NanoCpus"], limits["Memory"], limits["PidsLimit"]) == (500_000_000, 64 << 20, 50)
    compose("up", "-d", "--wait", "--scale", "web=3", "--no-recreate")
    assert services(compose).count("web running 0") == 3
    compose("restart", "db")
    compose("up", "-d", "--wait")  # and nothing is made anew that has not changed
    assert services(compose) == ["db running healthy 0", "migrate exited 0", "web running 0", "web running 0"]
    compose("stop")
    assert {line.split()[1] for line in services(compose)} == {"exited"}
    compose("down", "-v")
    assert things(engine) == before


def test_a_service_whose_dependency_fails_is_not_started(engine, compose, tmp_path):
    text = (tmp_path / "compose.yaml").read_text().replace("echo made >/data/x", "exit 3")
    (tmp_path / "compose.yaml").write_text(text)
    compose("up", "-d", check=False)
    assert services(compose) == ["db running healthy 0", "migrate exited 3", "web created 0", "web created 0"]
