"""Options of networks and endpoints that say how an interface is called and set up, with the real docker client."""

from __future__ import annotations

import json

import pytest
from docker_networks import sleeper, within

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
BRIDGE = "com.docker.network.bridge"
NAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
PREFIX = "com.docker.network.container_iface_prefix"


def interfaces(engine, name):
    """Return the names of a container's interfaces and their IPv4 addresses."""
    lines = [line.split() for line in within(engine, name, "ip", "-o", "-4", "addr").splitlines()]
    return {words[1]: words[3] for words in lines if words[1] != "lo"}


def options_of(engine, network):
    return json.loads(engine.docker("network", "inspect", "-f", "{{json .Options}}", network).stdout)


def parameter(engine, name, path):
    return within(engine, name, "cat", f"/proc/sys/net/{path}").strip()


def addresses_on_the_host(engine, interface, version=4):
    lines = engine.in_network("ip", "-o", f"-{version}", "addr", "show", "dev", interface).stdout.splitlines()
    return [line.split()[3] for line in lines if " scope link" not in line]


def test_a_network_names_the_interfaces_of_its_containers(networks):
    networks.docker("network", "create", "-o", f"{PREFIX}=web", "--subnet", "10.81.1.0/24", "named")
    networks.docker("network", "create", "-o", f"{PREFIX}=web", "--subnet", "10.81.2.0/24", "other")
    networks.docker("network", "create", "--subnet", "10.81.3.0/24", "plain")
    assert options_of(networks, "named") == {PREFIX: "web"}
    sleeper(networks, "box", "--network", "named")
    assert interfaces(networks, "box") == {"web0": "10.81.1.2/24"}
    assert within(networks, "box", "ip", "route").splitlines()[0].startswith("default via 10.81.1.1 dev web0")
    assert within(networks, "box", "ls", "/proc/sys/net/ipv6/conf").split() == ["all", "default", "lo", "web0"]
    assert within(networks, "box", "cat", "/proc/sys/net/ipv6/conf/web0/disable_ipv6") == "1\n"
    networks.docker("network", "connect", "plain", "box")
    networks.docker("network", "connect", "other", "box")
    joined = {"web0": "10.81.1.2/24", "eth0": "10.81.3.2/24", "web1": "10.81.2.2/24"}
    assert interfaces(networks, "box") == joined
    networks.docker("network", "disconnect", "named", "box")
    networks.docker("network", "connect", "named", "box")
    assert interfaces(networks, "box") == joined  # the lowest number that is free, as ever
    shown = networks.docker("stats", "--no-stream", "--format", "{{.NetIO}}", "box").stdout
    assert "/" in shown
    # all at the start, and the pair that is kept ready is used for whichever is called eth0
    networks.docker("restart", "-t", "0", "box")
    assert sorted(interfaces(networks, "box")) == ["eth0", "web0", "web1"]


def test_prefixes_that_make_no_names_are_refused(networks):
    for prefix in ("a/b", "fifteenletters-", "a b", "%d", "../x"):
        refused = networks.docker("network", "create", "-o", f"{PREFIX}={prefix}", "bad", check=False)
        assert (refused.returncode, f"invalid value of {PREFIX}" in refused.stderr) == (1, True), refused.stderr


def test_an_engine_that_was_killed_knows_the_names(own_engine):
    routed = ("-o", f"{BRIDGE}.gateway_mode_ipv4=routed")
    own_engine.docker("network", "create", "-o", f"{PREFIX}=web", *routed, "--subnet", "10.81.1.0/24", "named")
    own_engine.docker("network", "create", "--subnet", "10.81.3.0/24", "plain")
    inhibited = ("-o", f"{BRIDGE}.inhibit_ipv4=true", "-o", f"{BRIDGE}.name=lan0", "--subnet", "10.81.4.0/24")
    own_engine.docker("network", "create", *inhibited, "bare")
    wanted = f"name=named,driver-opt={SYSCTLS}=net.ipv4.conf.IFNAME.log_martians=1"
    sleeper(own_engine, "box", "--network", wanted, "-p", "8080:80")
    own_engine.kill()
    own_engine.start()
    assert parameter(own_engine, "box", "ipv4/conf/web0/log_martians") == "1"
    assert addresses_on_the_host(own_engine, "lan0") == []
    assert options_of(own_engine, "named") == {PREFIX: "web", f"{BRIDGE}.gateway_mode_ipv4": "routed"}
    at_its_own_address = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}]}
    assert own_engine.inspect("box")["NetworkSettings"]["Ports"] == at_its_own_address
    assert interfaces(own_engine, "box") == {"web0": "10.81.1.2/24"}
    own_engine.docker("network", "connect", "plain", "box")
    own_engine.docker("network", "disconnect", "named", "box")
    assert interfaces(own_engine, "box") == {"eth0": "10.81.3.2/24"}
    ports = own_engine.inspect("box")["NetworkSettings"]["Ports"]["80/tcp"]
    assert {port["HostPort"] for port in ports} == {"8080"}  # where nothing is routed
    own_engine.docker("network", "connect", "--driver-opt", f"{NAME}=wan", "bare", "box")
    own_engine.kill()
    own_engine.start()
    assert sorted(interfaces(own_engine, "box")) == ["eth0", "wan"]
    own_engine.docker("network", "disconnect", "bare", "box")
    own_engine.docker(
        "network", "connect", "--driver-opt", f"{SYSCTLS}=net.ipv4.conf.IFNAME.forwarding=0", "named", "box"
    )
    own_engine.docker("restart", "-t", "0", "box")
    assert sorted(interfaces(own_engine, "box")) == ["eth0", "web0"]
    assert parameter(own_engine, "box", "ipv4/conf/web0/forwarding") == "0"
    assert parameter(own_engine, "box", "ipv4/conf/web0/log_martians") == "0"  # it went with the other endpoint


def test_a_bridge_without_an_address(networks):
    """As dockerd 26: the bridge has none, containers have theirs and a way to whoever has the gateway's."""
    options = ("-o", f"{BRIDGE}.inhibit_ipv4=true", "-o", f"{BRIDGE}.name=bare0", "--ipv6", "--subnet", "fd81::/64")
    networks.docker("network", "create", *options, "--subnet", "10.81.1.0/24", "--gateway", "10.81.1.9", "bare")
    assert options_of(networks, "bare") == {f"{BRIDGE}.inhibit_ipv4": "true", f"{BRIDGE}.name": "bare0"}
    assert addresses_on_the_host(networks, "bare0") == []
    assert addresses_on_the_host(networks, "bare0", 6) == ["fd81::1/64"]
    sleeper(networks, "one", "--network", "bare", "-p", "80")
    sleeper(networks, "two", "--network", "bare", "--cap-add", "NET_ADMIN")
    assert interfaces(networks, "one") == {"eth0": "10.81.1.1/24"}
    assert networks.inspect("one")["NetworkSettings"]["Networks"]["bare"]["Gateway"] == "10.81.1.9"
    assert within(networks, "one", "ip", "route").startswith("default via 10.81.1.9 dev eth0")
    hosts = within(networks, "one", "cat", "/etc/hosts")
    assert "\thost.docker.internal" in hosts
    assert "10.81.1.9\t" not in hosts  # whoever that is, it is not the host
    within(networks, "two", "ip", "addr", "add", "10.81.1.9/24", "dev", "eth0")  # a router
    within(networks, "one", "ping", "-c", "3", "-W", "10", "10.81.1.9")
    networks.remove_containers()
    networks.docker("network", "rm", "bare")
    assert "bare0" not in networks.in_network("ip", "link").stdout


def test_a_bridge_of_the_administrators_stays_as_it_is(networks):
    try:
        for command in ("link add lan0 type bridge", "addr add 10.81.1.3/24 dev lan0",
                        "addr add 10.90.1.3/24 dev lan0", "link set lan0 mtu 1400 up"):  # fmt: skip
            networks.in_network("ip", *command.split())
        setting = "/proc/sys/net/ipv6/conf/lan0/accept_ra"
        networks.in_network("sh", "-c", f"echo 2 >{setting}")
        options = ("-o", f"{BRIDGE}.inhibit_ipv4=true", "-o", f"{BRIDGE}.name=lan0", "--subnet", "10.81.1.0/24")
        networks.docker("network", "create", *options, "--gateway", "10.81.1.3", "lan")
        sleeper(networks, "one", "--network", "lan", "--ip", "10.81.1.77")
        within(networks, "one", "ping", "-c", "3", "-W", "10", "10.81.1.3")
        within(networks, "one", "ping", "-c", "3", "-W", "10", "10.90.1.3")
        networks.remove_containers()
        networks.docker("network", "rm", "lan")
        assert addresses_on_the_host(networks, "lan0") == ["10.81.1.3/24", "10.90.1.3/24"]
        assert networks.in_network("cat", setting).stdout == "2\n"
        assert " mtu 1400 " in networks.in_network("ip", "link", "show", "dev", "lan0").stdout
    finally:
        networks.in_network("ip", "link", "del", "lan0")


def test_an_option_of_truth_is_one(networks):
    for value in ("maybe", ""):
        refused = networks.docker("network", "create", "-o", f"{BRIDGE}.inhibit_ipv4={value}", "bad", check=False)
        words = f'failed to parse {BRIDGE}.inhibit_ipv4 value: {value} (strconv.ParseBool: parsing "{value}": invalid'
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr


def test_parameters_of_one_interface(networks):
    """As Docker 27; both words of the option, quoted as docker's own reference has it."""
    networks.docker("network", "create", "--ipv6", "first")
    networks.docker("network", "create", "second")
    both = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2"
    sleeper(networks, "box", "--network", f'name=first,"driver-opt={SYSCTLS}={both}"')
    assert parameter(networks, "box", "ipv4/conf/eth0/log_martians") == "1"
    assert parameter(networks, "box", "ipv6/conf/eth0/accept_ra") == "2"
    options = networks.inspect("box")["NetworkSettings"]["Networks"]["first"]["DriverOpts"]
    assert {name: value.lower() for name, value in options.items()} == {SYSCTLS: both.lower()}
    connected = f"{SYSCTLS}=net.ipv4.neigh.IFNAME.gc_stale_time=77"
    networks.docker("network", "connect", "--driver-opt", connected, "second", "box")
    for _ in range(2):  # at once, and when it starts again
        assert parameter(networks, "box", "ipv4/neigh/eth1/gc_stale_time") == "77"
        assert parameter(networks, "box", "ipv4/neigh/eth0/gc_stale_time") != "77"
        assert parameter(networks, "box", "ipv4/conf/eth1/log_martians") == "0"
        networks.docker("restart", "-t", "0", "box")
    assert parameter(networks, "box", "ipv4/conf/eth0/log_martians") == "1"


def test_a_container_has_no_part_in_how_they_are_written(networks):
    """A privileged one that covers its own /proc/sys: what is written is the namespace's, by the host's /proc (B6)."""
    networks.docker("network", "create", "second")
    sleeper(networks, "box", "--privileged")
    script = "mount -t tmpfs x /proc/sys && mkdir -p /proc/sys/net/ipv4/conf/eth1 && ln -s /etc/passwd /proc/sys/net/ipv4/conf/eth1/tag"
    within(networks, "box", "sh", "-c", script)
    networks.docker("network", "connect", "--driver-opt", f"{SYSCTLS}=net.ipv4.conf.IFNAME.tag=4711", "second", "box")
    assert "4711" not in within(networks, "box", "cat", "/etc/passwd")
    within(networks, "box", "umount", "/proc/sys")
    assert parameter(networks, "box", "ipv4/conf/eth1/tag") == "4711"
    assert networks.in_network("cat", "/proc/sys/net/ipv4/conf/default/tag").stdout == "0\n"


def test_parameters_that_cannot_be_are_refused_and_nothing_is_left(networks):
    networks.docker("network", "create", "net")
    for text, words in (
        (
            "net.ipv4.ip_forward=1",
            "unrecognised network interface sysctl 'net.ipv4.ip_forward=1'; represent 'net.X.Y.e",
        ),
        ("net.ipv4.conf.all.forwarding=1", "unrecognised network interface sysctl"),
        ("kernel.ipv4.conf.IFNAME.x=1", "unrecognised network interface sysctl"),
        ("net.ipv4.conf.IFNAME.x", "to have format name=value"),
        ("net.ipv4.conf.IFNAME.../../x=1", "to have format net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.nosuch=1", "/proc/sys/net/ipv4/conf/eth0/nosuch is not a sysctl file"),
        ("net.ipv4.conf.IFNAME.forwarding=x", "unable to write to '/proc/sys/net/ipv4/conf/eth0/forwarding': invalid"),
    ):
        options = ("--name", "box", "--network", f"name=net,driver-opt={SYSCTLS}={text}")
        refused = networks.docker("run", "-d", *options, "busybox", "sleep", "1000", check=False)
        assert (refused.returncode, words.lower() in refused.stderr.lower()) == (125, True), refused.stderr
        networks.docker("rm", "box", check=False)
    sleeper(networks, "box")
    for text, words in (
        ("net.ipv4.conf.eth0.forwarding=1", "unrecognised network interface sysctl"),
        ("net.ipv4.conf.IFNAME.nosuch=1", "/proc/sys/net/ipv4/conf/eth1/nosuch is not a sysctl file"),
    ):
        options = ("--driver-opt", f"{SYSCTLS}={text}")
        refused = networks.docker("network", "connect", *options, "net", "box", check=False)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr
    assert sorted(interfaces(networks, "box")) == ["eth0"]
    options = ("--network", f"name=host,driver-opt={SYSCTLS}=net.ipv4.conf.IFNAME.forwarding=1")
    refused = networks.docker("run", "--rm", *options, "busybox", "true", check=False)
    assert (refused.returncode, "is not supported on a network of driver host" in refused.stderr) == (125, True)


def test_an_endpoint_names_its_interface(networks):
    """As Docker 28; one that was not named makes room, where dockerd's container would not start."""
    for number in (1, 2, 3):
        networks.docker("network", "create", "--subnet", f"10.81.{number}.0/24", f"net{number}")
    networks.docker("create", "--name", "box", "--network", "net1", "busybox", "sleep", "1000")
    networks.docker("network", "connect", "--driver-opt", f"{NAME}=eth0", "net2", "box")
    networks.docker("network", "connect", "--driver-opt", f"{NAME}=wan-1.x", "net3", "box")
    networks.docker("start", "box")
    expected = {"eth1": "10.81.1.2/24", "eth0": "10.81.2.2/24", "wan-1.x": "10.81.3.2/24"}
    assert interfaces(networks, "box") == expected
    assert within(networks, "box", "ip", "route").startswith("default via 10.81.1.1 dev eth1")
    assert networks.inspect("box")["NetworkSettings"]["Networks"]["net2"]["DriverOpts"] == {NAME: "eth0"}
    both = f"{SYSCTLS}=net.ipv4.conf.IFNAME.log_martians=1"
    networks.docker("network", "disconnect", "net3", "box")
    networks.docker("network", "connect", "--driver-opt", f"{NAME}=x", "--driver-opt", both, "net3", "box")
    for _ in range(2):  # at once, and when it starts again
        assert set(interfaces(networks, "box")) == {"eth0", "eth1", "x"}
        assert parameter(networks, "box", "ipv4/conf/x/log_martians") == "1"
        networks.docker("restart", "-t", "0", "box")


def test_names_that_cannot_be_are_refused_and_nothing_is_left(networks):
    networks.docker("network", "create", "net1")
    networks.docker("network", "create", "net2")
    for name in ("a/b", "lo", "all", "sixteencharacter", "a b", "a:b", "..", "%d"):
        options = ("--network", f"name=net1,driver-opt={NAME}={name}")
        refused = networks.docker("run", "--rm", *options, "busybox", "true", check=False)
        words = f"invalid interface name: '{name}'"
        assert (refused.returncode, words in refused.stderr) == (125, True), refused.stderr
    endpoints = {"net1": {"DriverOpts": {NAME: "x"}}, "net2": {"DriverOpts": {NAME: "x"}}}
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "net1"}}
    status, answer = networks.http(
        "POST", "/v1.45/containers/create", {**body, "NetworkingConfig": {"EndpointsConfig": endpoints}}
    )
    assert (status, b"interface name x is asked for by more than one endpoint" in answer) == (400, True)
    sleeper(networks, "box", "--network", f"name=net1,driver-opt={NAME}=wan")
    for name, words in (
        ("wan", "interface name wan is asked for by more than one endpoint"),
        ("default", "invalid interface name: 'default'"),
    ):
        refused = networks.docker("network", "connect", "--driver-opt", f"{NAME}={name}", "net2", "box", check=False)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr
    networks.docker("network", "connect", "net2", "box")
    networks.docker("network", "disconnect", "net1", "box")
    refused = networks.docker("network", "connect", "--driver-opt", f"{NAME}=eth0", "net1", "box", check=False)
    assert (refused.returncode, 'error renaming interface to "eth0": file exists' in refused.stderr) == (1, True)
    assert sorted(interfaces(networks, "box")) == ["eth0"]
    for driver in ("host", "none"):
        options = ("--network", f"name={driver},driver-opt={NAME}=x")
        refused = networks.docker("run", "--rm", *options, "busybox", "true", check=False)
        words = f"{NAME} is not supported on a network of driver"
        assert (refused.returncode, words in refused.stderr) == (125, True), refused.stderr


def test_gateway_modes_as_clients_see_them(networks):
    """As Docker 27 and 28; who reaches whom is in test_gateway_modes."""
    mode = f"{BRIDGE}.gateway_mode_ipv4"
    networks.docker("network", "create", "-o", f"{mode}=routed", "--subnet", "10.81.1.0/24", "routed")
    assert options_of(networks, "routed") == {mode: "routed"}
    sleeper(networks, "box", "--network", "routed", "-p", "8080:80", "-p", "127.0.0.1:8081:81")
    ports = networks.inspect("box")["NetworkSettings"]["Ports"]
    assert ports == {f"{port}/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}] for port in (80, 81)}
    status, answer = networks.http("GET", "/v1.45/containers/json")
    shown = [{"IP": "0.0.0.0", "PrivatePort": port, "Type": "tcp"} for port in (80, 81)]
    assert (status, json.loads(answer)[0]["Ports"]) == (200, shown)
    assert sorted(networks.docker("port", "box").stdout.splitlines()) == ["80/tcp -> 0.0.0.0:", "81/tcp -> 0.0.0.0:"]
    assert "80/tcp, 81/tcp" in networks.orlop("ps", "--format", "{{.Ports}}").stdout.replace(
        "80-81/tcp", "80/tcp, 81/tcp"
    )
    networks.docker("network", "create", "--internal", "-o", f"{mode}=isolated", "--subnet", "10.81.2.0/24", "alone")
    configuration = networks.docker("network", "inspect", "-f", "{{json .IPAM.Config}}", "alone").stdout
    assert json.loads(configuration) == [{"Subnet": "10.81.2.0/24"}]
    sleeper(networks, "lone", "--network", "alone")
    assert interfaces(networks, "lone") == {"eth0": "10.81.2.1/24"}
    bridge = f"br-{networks.docker('network', 'inspect', '-f', '{{.Id}}', 'alone').stdout[:12]}"
    assert addresses_on_the_host(networks, bridge) == []
    for options, words in (
        (("-o", f"{mode}=isolated"), "gateway mode 'isolated' can only be used for an internal network"),
        (("-o", f"{mode}=bridge"), f"failed to parse {mode} value: bridge (unknown gateway mode bridge)"),
        (("-d", "macvlan", "-o", f"{mode}=nat"), "unknown option of the macvlan driver"),
    ):
        refused = networks.docker("network", "create", *options, "bad", check=False)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr


def test_a_hardware_address_of_the_container_is_warned_of(engine):
    """As dockerd 26: it is the endpoint's since API 1.44; the warning comes after all others."""
    mac = "02:42:ac:11:00:99"
    body = {"Image": "busybox", "Cmd": ["true"], "MacAddress": mac}
    deprecated = (
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
    )
    endpoint = {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"MacAddress": mac}}}}
    oom = {"HostConfig": {"OomKillDisable": True}}
    for version, more, expected in (
        ("v1.43", {}, []),
        ("v1.44", {}, [deprecated]),
        ("v1.45", endpoint, [deprecated]),
        ("v1.45", {**endpoint, "MacAddress": ""}, []),
        ("v1.50", oom, ["OOM killer", deprecated]),
    ):
        status, answer = engine.http("POST", f"/{version}/containers/create", {**body, **more})
        created = json.loads(answer)
        shown = [warning if warning == deprecated else warning[:10] for warning in created["Warnings"]]
        assert (status, shown) == (201, expected), answer
        assert engine.inspect(created["Id"])["Config"].get("MacAddress", mac) == mac
