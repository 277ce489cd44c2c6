"""Options of networks and endpoints that say how an interface is called and set up, with the real docker client."""

from __future__ import annotations

import json

import pytest
from docker_networks import sleeper, within

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
PREFIX = "com.docker.network.container_iface_prefix"


def interfaces(engine, name):
    """Return the names of a container's interfaces and their IPv4 addresses."""
    lines = [line.split() for line in within(engine, name, "ip", "-o", "-4", "addr").splitlines()]
    return {words[1]: words[3] for words in lines if words[1] != "lo"}


def options_of(engine, network):
    return json.loads(engine.docker("network", "inspect", "-f", "{{json .Options}}", network).stdout)


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
    own_engine.docker("network", "create", "-o", f"{PREFIX}=web", "--subnet", "10.81.1.0/24", "named")
    own_engine.docker("network", "create", "--subnet", "10.81.3.0/24", "plain")
    sleeper(own_engine, "box", "--network", "named")
    own_engine.kill()
    own_engine.start()
    assert options_of(own_engine, "named") == {PREFIX: "web"}
    assert interfaces(own_engine, "box") == {"web0": "10.81.1.2/24"}
    own_engine.docker("network", "connect", "plain", "box")
    own_engine.docker("network", "disconnect", "named", "box")
    assert interfaces(own_engine, "box") == {"eth0": "10.81.3.2/24"}
