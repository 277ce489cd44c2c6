"""User-defined networks through the real docker client: joining, leaving, names, links, what is shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
from docker_networks import lookup, nobody_at, routes, sleeper, within

from conftest import assert_nothing_left, make_engine
from harness import SLOWNESS, client_version, wait_for
from host_state import HostState

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_containers_find_each_other_by_name(networks):
    networks.docker("network", "create", "--subnet", "10.71.0.0/24", "front")
    options = ("--network", "front", *nobody_at("10.71.0.1"))
    short = sleeper(networks, "web", *options, "--network-alias", "site", "--hostname", "www")[:12]
    sleeper(networks, "web2", "--network", "front", "--network-alias", "site")
    sleeper(networks, "client", *options, "--link", "web:old", "--dns-search", "example.org")
    sleeper(networks, "stranger")
    assert networks.inspect("web")["NetworkSettings"]["Networks"]["front"]["DNSNames"] == ["web", "site", short, "www"]
    for name in ("web", "WEB", "web.front", "www", short, "old"):
        assert lookup(networks, "client", name) == ["10.71.0.2"], name
    assert lookup(networks, "client", "site") == ["10.71.0.2", "10.71.0.3"]
    assert lookup(networks, "web", "old") == []  # a link is the linking container's own
    assert "web.front" in within(networks, "client", "nslookup", "10.71.0.2")
    assert "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n" in within(
        networks, "client", "cat", "/etc/resolv.conf"
    )
    assert within(networks, "client", "ping", "-c", "1", "-W", "2", "web")
    assert "127.0.0.11" not in within(networks, "stranger", "cat", "/etc/resolv.conf")
    networks.docker("rename", "web", "shop")
    assert lookup(networks, "client", "shop") == ["10.71.0.2"]
    assert lookup(networks, "client", "web") == []
    networks.docker("stop", "-t", "0", "shop")
    assert lookup(networks, "client", "site") == ["10.71.0.3"]


def test_bridge_and_routes_are_seen_as_on_the_default_network(networks):
    network = networks.docker("network", "create", "--subnet", "10.79.0.0/24", "net").stdout.strip()
    sleeper(networks, "one", "--network", "net")
    sleeper(networks, "two", "--network", "net")
    lines = networks.in_network("brctl", "show").stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith(f"br-{network[:12]}"))
    name, bridge_id, stp, *_ = lines[place].split()
    assert (len(bridge_id), stp) == (17, "no")
    ports = [re.findall(r"veth[0-9a-f]+", line) for line in lines[place : place + 2]]
    assert [len(found) for found in ports] == [1, 1]
    assert f"dev {name} proto kernel scope link src 10.79.0.1" in networks.in_network("ip", "route", "show").stdout
    table = [line.split() for line in within(networks, "one", "route", "-n").splitlines()[2:]]
    assert [(row[0], row[1], row[7]) for row in table] == [
        ("0.0.0.0", "10.79.0.1", "eth0"),
        ("10.79.0.0", "0.0.0.0", "eth0"),
    ]
    assert "default via 10.79.0.1 dev eth0" in within(networks, "one", "ip", "route", "show")


def test_running_containers_join_and_leave(networks):
    networks.docker("network", "create", "aaa")
    networks.docker("network", "create", "--subnet", "10.72.0.0/24", "--gateway", "10.72.0.254", "bbb")
    networks.docker("network", "create", "--internal", "inner")
    sleeper(networks, "other", "--network", "bbb", *nobody_at("10.72.0.254"))
    sleeper(networks, "box")
    assert within(networks, "box", "cat", "/etc/resolv.conf").count("127.0.0.11") == 0
    networks.docker("network", "connect", "--ip", "10.72.0.50", "--alias", "extra", "bbb", "box")
    assert lookup(networks, "other", "extra") == ["10.72.0.50"]
    assert within(networks, "box", "ping", "-c", "1", "-W", "2", "other")  # its resolv.conf has changed
    assert routes(networks, "box")[0] == "default via 10.72.0.254 dev eth1 "  # "bbb" comes before "bridge"
    networks.docker("network", "connect", "aaa", "box")
    networks.docker("network", "connect", "inner", "box")
    assert routes(networks, "box")[0].endswith("dev eth2 ")  # "aaa" comes first of all
    hosts = within(networks, "box", "cat", "/etc/hosts")
    assert "10.72.0.50\t" in hosts
    shown = networks.inspect("box")["NetworkSettings"]["Networks"]
    assert set(shown) == {"bridge", "aaa", "bbb", "inner"}
    assert shown["bbb"]["IPAMConfig"] == {"IPv4Address": "10.72.0.50"}
    assert shown["bbb"]["Aliases"] == ["extra"]
    members = json.loads(networks.docker("network", "inspect", "bbb").stdout)[0]["Containers"]
    assert {entry["Name"]: entry["IPv4Address"] for entry in members.values()} == {
        "other": "10.72.0.1/24",
        "box": "10.72.0.50/24",
    }
    networks.docker("network", "disconnect", "bbb", "box")
    networks.docker("network", "disconnect", "aaa", "box")
    assert routes(networks, "box")[0].endswith("dev eth0 ")
    assert "10.72.0.50" not in within(networks, "box", "cat", "/etc/hosts")
    assert lookup(networks, "other", "box") == []
    # what was joined while it ran is joined again at the next start
    networks.docker("restart", "-t", "0", "box")
    assert set(networks.inspect("box")["NetworkSettings"]["Networks"]) == {"bridge", "inner"}
    assert "eth1" in within(networks, "box", "ip", "link")


def test_a_stopped_container_keeps_what_was_wanted_of_a_network_first(networks):
    networks.docker("network", "create", "--subnet", "10.77.0.0/24", "one")
    networks.docker("network", "create", "--subnet", "10.78.0.0/24", "two")
    networks.docker("create", "--name", "box", "--network", "one", "--mac-address", "02:00:00:00:00:40",
                    "busybox", "sleep", "1000")  # fmt: skip
    networks.docker("network", "connect", "--ip", "10.78.0.41", "--alias", "al", "two", "box")
    networks.docker("network", "connect", "--ip", "10.78.0.42", "two", "box")
    wanted = networks.inspect("box")["NetworkSettings"]["Networks"]["two"]
    assert (wanted["IPAMConfig"], wanted["Aliases"]) == ({"IPv4Address": "10.78.0.41"}, ["al"])
    networks.docker("start", "box")
    shown = networks.inspect("box")
    addresses = {name: entry["IPAddress"] for name, entry in shown["NetworkSettings"]["Networks"].items()}
    assert addresses == {"one": "10.77.0.2", "two": "10.78.0.41"}
    assert shown["Config"]["MacAddress"] == shown["NetworkSettings"]["Networks"]["one"]["MacAddress"]
    assert shown["Config"]["MacAddress"] == "02:00:00:00:00:40"
    networks.docker("stop", "-t", "0", "box")
    networks.docker("network", "disconnect", "two", "box")
    networks.docker("start", "box")
    assert set(networks.inspect("box")["NetworkSettings"]["Networks"]) == {"one"}


def test_published_ports_follow_the_way_out(networks):
    networks.docker("network", "create", "aaa")
    networks.docker("network", "create", "--internal", "inner")
    networks.docker("run", "-d", "--name", "web", "-p", "8088:80", "--add-host", "gate:host-gateway", "busybox", "sh", "-c",
                    "mkdir /www; echo hi >/www/index.html; exec httpd -f -h /www")  # fmt: skip

    def answer():
        return networks.in_network("curl", "-s", "-m", "20", "http://127.0.0.1:8088/", check=False).stdout

    wait_for(lambda: answer() == "hi\n", what="answer")
    networks.docker("network", "connect", "aaa", "web")
    assert answer() == "hi\n"
    gateway = networks.inspect("web")["NetworkSettings"]["Networks"]["aaa"]["Gateway"]
    names = within(networks, "web", "grep", "docker.internal\\|gate$", "/etc/hosts")
    assert names == f"{gateway}\tgate\n{gateway}\thost.docker.internal\n"  # they follow the way out
    networks.docker("network", "connect", "inner", "web")
    networks.docker("network", "disconnect", "aaa", "web")
    assert answer() == "hi\n"
    networks.docker("network", "disconnect", "bridge", "web")
    assert answer() == ""
    assert networks.docker("port", "web").stdout == ""
    networks.docker("network", "connect", "bridge", "web")
    assert answer() == "hi\n"
    anywhere = "[::]" if client_version() >= (23, 0) else "::"  # as the client writes it
    assert networks.docker("port", "web").stdout == f"80/tcp -> 0.0.0.0:8088\n80/tcp -> {anywhere}:8088\n"


def test_ports_are_published_in_all_forms(networks):
    sleeper(networks, "box", "-p", "18080:80", "-p", "127.0.0.1:18081:81/udp", "-p", "18090-18092:90-92",
            "-p", "19000-19001:95", "-p", "[::1]:18100:96", "-p", "97", "--expose", "5000")  # fmt: skip
    anywhere = "[::]" if client_version() >= (23, 0) else "::"  # as the client writes it
    lines = networks.docker("port", "box").stdout.splitlines()
    random = {line.rpartition(":")[2] for line in lines if line.startswith("97/tcp")}
    assert len(random) == 1
    expected = {"81/udp -> 127.0.0.1:18081", f"96/tcp -> {anywhere.replace('::', '::1')}:18100"}
    for inner, outer in (("80", "18080"), ("90", "18090"), ("91", "18091"), ("92", "18092"), ("95", "19000")):
        expected |= {f"{inner}/tcp -> 0.0.0.0:{outer}", f"{inner}/tcp -> {anywhere}:{outer}"}
    expected |= {f"97/tcp -> {where}:{number}" for number in random for where in ("0.0.0.0", anywhere)}
    assert set(lines) == expected
    assert len(lines) == len(expected)
    assert networks.docker("port", "box", "81/udp").stdout == "127.0.0.1:18081\n"
    shown = networks.inspect("box")["NetworkSettings"]["Ports"]
    assert (shown["5000/tcp"], shown["81/udp"]) == (None, [{"HostIp": "127.0.0.1", "HostPort": "18081"}])
    # no process for each of them
    processes = len(networks.processes())
    sleeper(networks, "many", "-p", "20000-20099:1000-1099")
    assert len(networks.processes()) < processes + 10
    networks.docker("rm", "-f", "many")
    # from the range the first free one is taken, and all is told when it is used up
    sleeper(networks, "next", "-p", "19000-19001:95")
    assert networks.docker("port", "next", "95").stdout.splitlines()[0] == "0.0.0.0:19001"
    full = networks.docker("run", "--rm", "-p", "19000-19001:95", "busybox", "true", check=False)
    assert full.returncode == 125
    assert "all ports are allocated" in full.stderr or "port is already allocated" in full.stderr
    # -P: all that is exposed, with host ports of the kernel's own range
    sleeper(networks, "every", "-P", "--expose", "7000", "--expose", "7001-7002/udp")
    lines = networks.docker("port", "every").stdout.splitlines()
    assert {line.split(" ->")[0] for line in lines} == {"7000/tcp", "7001/udp", "7002/udp"}
    low, high = map(int, networks.in_network("cat", "/proc/sys/net/ipv4/ip_local_port_range").stdout.split())
    assert all(low <= int(line.rpartition(":")[2]) <= high for line in lines)
    for wrong, words in (
        ("1.2.3.4:5:6:7", "invalid"),
        ("80-70:80-70", "invalid"),
        ("8000-8005:80-82", "invalid"),
        ("203.0.113.9:18082:80", "cannot assign requested address"),
    ):
        refused = networks.docker("run", "--rm", "-p", wrong, "busybox", "true", check=False)
        assert (refused.returncode, words in refused.stderr.lower()) == (125, True), refused.stderr


def test_legacy_links(networks):
    networks.docker("run", "-d", "--name", "database", "-e", "SECRET=1", "--expose", "5432", "busybox", "sleep", "1000")
    sleeper(networks, "app", "--link", "database:db")
    hosts = within(networks, "app", "cat", "/etc/hosts")
    address = networks.inspect("database")["NetworkSettings"]["IPAddress"]
    assert f"{address}\tdb " in hosts
    assert within(networks, "app", "ping", "-c", "1", "-W", "2", "db")
    environment = within(networks, "app", "cat", "/proc/1/environ").split("\0")
    assert f"DB_PORT=tcp://{address}:5432" in environment
    assert "DB_NAME=/app/db" in environment
    assert "DB_ENV_SECRET=1" in environment
    assert networks.inspect("app")["HostConfig"]["Links"] == ["/database:/app/db"]
    # it comes back at another address: the file follows, and what the user wrote stays
    within(networks, "app", "sh", "-c", "echo 192.0.2.1 mine >>/etc/hosts")
    networks.docker("stop", "-t", "0", "database")
    sleeper(networks, "squatter")
    networks.docker("start", "database")
    moved = networks.inspect("database")["NetworkSettings"]["IPAddress"]
    assert moved != address
    hosts = within(networks, "app", "cat", "/etc/hosts")
    assert f"{moved}\tdb " in hosts
    assert address not in hosts.replace(networks.inspect("app")["NetworkSettings"]["IPAddress"], "")
    assert "192.0.2.1 mine\n" in hosts
    networks.docker("stop", "-t", "0", "database", "app")
    refused = networks.docker("start", "app", check=False)
    assert "Cannot link to a non running container: /database AS /app/db" in refused.stderr


def test_joining_again_and_again_leaves_nothing(networks):
    for name in ("aaa", "bbb"):
        networks.docker("network", "create", name)
    box = sleeper(networks, "box", "--network", "aaa")
    body = json.dumps({"Container": box})
    for _ in range(3):
        assert networks.http("POST", "/networks/bbb/connect", body.encode())[0] == 200
        assert networks.http("POST", "/networks/bbb/disconnect", body.encode())[0] == 200
    before = HostState.before(networks)
    outer = networks.in_network("ip", "-o", "link").stdout.count("veth")
    for _ in range(40):
        assert networks.http("POST", "/networks/bbb/connect", body.encode())[0] == 200
        assert networks.http("POST", "/networks/bbb/disconnect", body.encode())[0] == 200
    assert_nothing_left(networks, before, seconds=8, descriptors=2)
    assert networks.in_network("ip", "-o", "link").stdout.count("veth") <= outer + 1
    assert within(networks, "box", "ip", "-o", "link").count(": eth") == 1


# asks 127.0.0.11 for "site" every 10 ms; for each line that it reads it tells how long it has had no answer until now
ASK = """
import select, socket, sys, time
question = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4site\\0\\0\\1\\0\\1"
answered, longest = time.monotonic(), 0.0
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.05)
        try:
            sock.connect(("127.0.0.11", 53))
            sock.send(question)
            if len(sock.recv(512)) > len(question):
                longest = max(longest, time.monotonic() - answered)
                answered = time.monotonic()
        except OSError:
            pass
    if select.select([0], [], [], 0.01)[0]:
        if not sys.stdin.readline():
            break
        print(longest, flush=True)
        longest = 0.0
"""


def test_names_are_there_again_after_the_engine(own_engine):
    engine = own_engine
    engine.docker("network", "create", "--subnet", "10.75.0.0/24", "--gateway", "10.75.0.254", "net")
    sleeper(engine, "web", "--network", "net", "--network-alias", "site", *nobody_at("10.75.0.254"))
    sleeper(engine, "client", "--network", "net")
    engine.docker("network", "connect", "bridge", "client")
    before = engine.inspect("client")["NetworkSettings"]
    pid = engine.inspect("client")["State"]["Pid"]
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", sys.executable, "-I", "-S", "-c", ASK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None

        def longest() -> float:
            print(file=asking.stdin, flush=True)
            return float(asking.stdout.readline())

        wait_for(longest, what="first answer")
        for _ in range(6):  # the best of some: the machine may be busy with other tests
            killed = time.monotonic()
            engine.kill()
            engine.start()
            start = time.monotonic() - killed
            without = wait_for(lambda: (found := longest()) > 0.1 and found, what="answer")
            # where a start takes long, names are there no later than the API is
            if without < max(1.0 * SLOWNESS, start * 1.25):
                break
        else:
            pytest.fail(f"no name server for {without} s of which the engine took {start} s to start")
    assert lookup(engine, "client", "site") == ["10.75.0.1"] or lookup(engine, "client", "site") == ["10.75.0.2"]
    after = engine.inspect("client")["NetworkSettings"]
    assert after == before
    engine.docker("network", "disconnect", "net", "client")
    assert lookup(engine, "web", "client") == []


@pytest.mark.requires("nftables", "recent-docker-client")
@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_ipv6_and_the_firewall_backend(backend):
    engine = make_engine("--firewall-backend", backend)
    try:
        engine.import_busybox()
        shown = json.loads(engine.http("GET", "/v1.50/info")[1])["FirewallBackend"]
        assert shown["Driver"] == backend
        engine.docker("network", "create", "--ipv6", "both")
        engine.docker("network", "create", "--ipv6", "--ipv4=false", "--subnet", "fd00:6::/64", "six")
        engine.docker("run", "-d", "--name", "web", "--network", "both", "-p", "8086:80", "busybox", "sh", "-c",
                      "mkdir /www; echo hi >/www/index.html; exec httpd -f -h /www -p [::]:80")  # fmt: skip
        sleeper(engine, "client", "--network", "six", "--ip6", "fd00:6::77")
        engine.docker("network", "connect", "both", "client")
        settings = engine.inspect("web")["NetworkSettings"]["Networks"]["both"]
        address = settings["GlobalIPv6Address"]
        assert address.startswith("fd")
        assert lookup(engine, "client", "web") == sorted([settings["IPAddress"], address])
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80"  # busybox's wget cannot
        wait_for(lambda: within(engine, "client", "sh", "-c", ask, check=False).endswith("hi\n"))
        assert "inet6 fd00:6::77/64" in within(engine, "client", "ip", "addr", "show", "eth0")
        default = within(engine, "client", "ip", "-6", "route", "show", "default")
        assert settings["IPv6Gateway"] in default
        engine.in_network("ip", "link", "add", "far0", "type", "bridge")
        engine.in_network("ip", "addr", "add", "fd55::1/64", "dev", "far0", "nodad")
        engine.in_network("ip", "link", "set", "far0", "up")
        ports = engine.docker("port", "web").stdout.splitlines()
        assert sorted(ports) == ["80/tcp -> 0.0.0.0:8086", "80/tcp -> [::]:8086"]
        for where in ("[fd55::1]", "127.0.0.1"):
            assert engine.in_network("curl", "-s", "-m", "20", f"http://{where}:8086/", check=False).stdout == "hi\n", (
                where
            )
        flush = ("nft", "flush", "ruleset")
        engine.in_network(*flush)
        wait_for(
            lambda: engine.in_network("curl", "-s", "-m", "1", "http://[fd55::1]:8086/", check=False).stdout == "hi\n",
            seconds=5,
        )
        engine.kill()
        engine.start()
        assert engine.in_network("curl", "-s", "-m", "20", "http://[fd55::1]:8086/", check=False).stdout == "hi\n"
        assert "disable_ipv6" not in engine.log_text()
        # without IPv6 there is none
        sleeper(engine, "plain")
        assert "inet6" not in within(engine, "plain", "ip", "addr", "show", "eth0")
    finally:
        engine.destroy()


@pytest.mark.requires("macvlan")
def test_macvlan_puts_containers_on_the_parents_network(networks):
    networks.in_network("ip", "link", "add", "parent0", "type", "veth", "peer", "name", "far0")
    try:
        networks.in_network("ip", "link", "set", "parent0", "up")
        networks.in_network("ip", "link", "set", "far0", "up")
        bad = networks.docker("network", "create", "-d", "macvlan", "-o", "parent=nosuch", "lan", check=False)
        assert "invalid subinterface vlan name nosuch, example formatting is eth0.10" in bad.stderr
        networks.docker("network", "create", "-d", "macvlan", "-o", "parent=parent0", "--subnet", "10.76.0.0/24", "lan")
        bad = networks.docker("network", "create", "-d", "macvlan", "-o", "parent=parent0", "lan2", check=False)
        assert "network lan is already using parent interface parent0" in bad.stderr
        sleeper(networks, "one", "--network", "lan", "--ip", "10.76.0.20")
        sleeper(networks, "two", "--network", "lan")
        assert within(networks, "one", "ping", "-c", "1", "-W", "2", "two")
        assert routes(networks, "two")[0] == "default via 10.76.0.1 dev eth0 "
        assert "macvlan" not in networks.in_network("ip", "-br", "link").stdout
        networks.docker("network", "disconnect", "lan", "two")
        assert "eth0" not in within(networks, "two", "ip", "link")
        networks.docker("network", "connect", "lan", "two")
        assert within(networks, "two", "ping", "-c", "1", "-W", "2", "10.76.0.20")
        networks.docker("network", "connect", "bridge", "two")
        assert "dev eth1" in routes(networks, "two")[0]  # "bridge" comes before "lan"
        networks.remove_containers()
        networks.docker("network", "rm", "lan")
    finally:
        networks.in_network("ip", "link", "del", "parent0", check=False)
