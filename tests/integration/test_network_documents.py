"""What networks are made with, listed by and shown as, beside what dockerd shows."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from docker_networks import routes, sleeper, within

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


SHAPES = json.loads((Path(__file__).parents[1] / "golden/api/dockerd-26.1-network-shapes-1.45.json").read_text())


def test_what_cannot_be_joined_is_said_in_dockers_words(networks):
    networks.docker("network", "create", "--subnet", "10.73.0.0/24", "--aux-address", "router=10.73.0.9", "net")
    sleeper(networks, "box", "--network", "net")
    sleeper(networks, "alone", "--network", "none")
    sleeper(networks, "hosted", "--network", "host")
    for arguments, words in (
        (("connect", "net", "box"), "endpoint with name box already exists in network net"),
        (("connect", "nope", "box"), "network nope not found"),
        (("connect", "net", "nope"), "No such container: nope"),
        (("connect", "host", "box"), "container cannot be disconnected from host network or connected to host network"),
        (("connect", "net", "hosted"), "container cannot be disconnected from host network or connected to"),
        (("connect", "net", "alone"), "container cannot be connected to multiple networks with one of the networks in"),
        (("disconnect", "bridge", "box"), "is not connected to network bridge"),
        (("connect", "--ip", "10.9.9.9", "bridge", "box"), "user specified IP address is supported on user defined"),
        (("connect", "--alias", "x", "bridge", "box"), "network-scoped alias is supported only for containers in user"),
        (("disconnect", "-f", "net", "nobody"), "endpoint nobody not found"),
        (("rm", "net"), "has active endpoints"),
        (("rm", "bridge"), "bridge is a pre-defined network and cannot be removed"),
    ):
        done = networks.docker("network", *arguments, check=False)
        assert done.returncode != 0
        assert words in done.stderr, arguments
    for options, words in (
        (("--ip", "10.73.0.9"), "Address already in use"),
        (("--ip", "10.74.0.9"), "no configured subnet or ip-range contain the IP address 10.74.0.9"),
        (("--ip", "10.73.0.300"), "invalid IPv4 address: 10.73.0.300"),
    ):
        done = networks.docker("run", "--rm", "--network", "net", *options, "busybox", "true", check=False)
        assert done.returncode == 125
        assert words in done.stderr, options
    assert networks.docker("run", "--rm", "--network", "net", "--ip", "10.73.0.77", "--mac-address", "02:00:00:00:00:77",
                           "busybox", "ip", "addr", "show", "eth0").stdout.count("02:00:00:00:00:77") == 1  # fmt: skip


def test_what_a_network_is_created_with_is_shown_and_given(networks):
    prefix = "com.docker.network."
    options = {
        f"{prefix}bridge.name": "named0",
        f"{prefix}bridge.enable_icc": "true",
        f"{prefix}bridge.enable_ip_masquerade": "true",
        f"{prefix}driver.mtu": "1400",
    }
    chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    networks.docker(
        *("network", "create", "--subnet", "10.61.0.0/24", "--ip-range", "10.61.0.64/26", "--gateway", "10.61.0.254"),
        *("--aux-address", "a=10.61.0.65", "--aux-address", "b=10.61.0.66", "--label", "k=v", "--label", "x"),
        *("--ipv6", "--subnet", "fd00:61::/64", "--attachable", *chosen, "net"),
    )  # fmt: skip
    shown = json.loads(networks.docker("network", "inspect", "net").stdout)[0]
    assert shown["IPAM"]["Config"] == [
        {
            "Subnet": "10.61.0.0/24",
            "IPRange": "10.61.0.64/26",
            "Gateway": "10.61.0.254",
            "AuxiliaryAddresses": {"a": "10.61.0.65", "b": "10.61.0.66"},
        },
        {"Subnet": "fd00:61::/64", "Gateway": "fd00:61::1"},
    ]
    assert (shown["Options"], shown["Labels"]) == (options, {"k": "v", "x": ""})
    assert (shown["Attachable"], shown["Internal"], shown["EnableIPv6"], shown["Scope"]) == (True, False, True, "local")
    sleeper(networks, "box", "--network", "net")
    settings = networks.inspect("box")["NetworkSettings"]["Networks"]["net"]
    assert (settings["IPAddress"], settings["Gateway"]) == ("10.61.0.64", "10.61.0.254")
    assert routes(networks, "box")[0] == "default via 10.61.0.254 dev eth0 "
    sleeper(networks, "next", "--network", "net")  # behind the auxiliary addresses
    assert networks.inspect("next")["NetworkSettings"]["Networks"]["net"]["IPAddress"] == "10.61.0.67"
    assert "mtu 1400" in within(networks, "box", "ip", "link", "show", "eth0")
    assert "named0" in networks.in_network("ip", "link", "show", "master", "named0").stdout
    for words, refusal in (
        (("--subnet", "10.61.0.0/25"), "Pool overlaps with other one on this address space"),
        (("--subnet", "10.62.0.0/24", "--subnet", "10.63.0.0/24"), "bridge driver doesn't support multiple subnets"),
        (("--subnet", "10.62.0.0/24", "--gateway", "10.99.0.1"), "no matching subnet for gateway 10.99.0.1"),
        (("--subnet", "10.62.0.0/24", "--ip-range", "10.65.0.0/24"), "no matching subnet for range 10.65.0.0/24"),
        (("--subnet", "10.62.0.0/24", "--aux-address", "q=10.65.0.1"), "no matching subnet for aux-address 10.65.0.1"),
        (("--ipam-driver", "nosuch"), 'plugin "nosuch" not found'),
        (("-d", "nosuch"), 'plugin "nosuch" not found'),
    ):
        refused = networks.docker("network", "create", *words, "bad", check=False)
        assert (refused.returncode, refusal in refused.stderr) == (1, True), (words, refused.stderr)


def test_networks_are_listed_by_filters_and_refused_in_dockers_words(networks):
    networks.docker("network", "create", "--label", "k=v", "--internal", "idle")
    networks.docker("network", "create", "--label", "k", "used")
    sleeper(networks, "box", "--network", "used")

    def listed(*filters: str) -> list[str]:
        options = [word for text in filters for word in ("--filter", text)]
        return networks.docker("network", "ls", "--format", "{{.Name}}", *options).stdout.split()

    assert listed() == ["bridge", "host", "idle", "none", "used"]
    assert listed("type=custom") == ["idle", "used"]
    assert listed("type=builtin", "driver=null") == ["none"]
    assert listed("dangling=true") == ["idle"]
    assert listed("dangling=0", "type=custom") == ["used"]
    assert listed("label=k") == ["idle", "used"]
    assert listed("label=k=v", "scope=local") == ["idle"]
    assert listed("name=use", "name=idl") == ["idle", "used"]
    assert listed("scope=swarm") == []
    shown = networks.docker("network", "ls", "--format", "{{.Driver}} {{.Scope}} {{.Internal}} {{.Labels}}",
                            "--filter", "name=idle").stdout  # fmt: skip
    assert shown == "bridge local true k=v\n"
    for arguments, words in (
        (("ls", "--filter", "dangling=x"), 'invalid value for filter \'dangling\', must be "true" (or "1"), or'),
        (("ls", "--filter", "type=x"), "invalid filter: 'type'='x'"),
        (("ls", "--filter", "x=y"), "invalid filter 'x'"),
        (("prune", "-f", "--filter", "x=y"), "invalid filter 'x'"),
        (
            ("create", "-o", "com.docker.network.bridge.enable_icc=maybe", "new"),
            'failed to parse com.docker.network.bridge.enable_icc value: maybe (strconv.ParseBool: parsing "maybe": ',
        ),
        (
            ("create", "-o", "com.docker.network.driver.mtu=abc", "new"),
            'failed to parse com.docker.network.driver.mtu value: abc (strconv.Atoi: parsing "abc": invalid syntax)',
        ),
    ):
        refused = networks.docker("network", *arguments, check=False)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr
    refused = networks.docker("create", "--network", "container:", "busybox", check=False)
    assert "invalid container format container:<name|id>" in refused.stderr
    assert networks.docker("network", "prune", "-f", "--filter", "label!=k").stdout == ""
    assert networks.docker("network", "prune", "-f", "--filter", "label=k=v").stdout.split() == [
        *("Deleted", "Networks:", "idle"),
    ]


def shape(value):
    """Return a document's members and their types; full ids as members are called ID."""
    if isinstance(value, dict):
        return {("ID" if len(key) == 64 else key): shape(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def test_documents_have_dockerds_members(networks):
    networks.docker("network", "create", "--subnet", "10.55.0.0/16", "n1x")
    networks.docker("network", "create", "--ipv6", "--subnet", "fd00:55::/64", "n6x")
    sleeper(networks, "c1x", "--network", "n1x", "--network-alias", "al", "-p", "8099:80")
    networks.docker("network", "connect", "--ip6", "fd00:55::99", "n6x", "c1x")
    container = json.loads(networks.http("GET", "/v1.45/containers/c1x/json")[1])["NetworkSettings"]
    network = json.loads(networks.http("GET", "/v1.45/networks/n6x")[1])
    for pool in network["IPAM"]["Config"]:
        assert pool.pop("Gateway")  # dockerd 26 leaves out what the user did not choose, later ones do not
    assert shape(container) == SHAPES["container NetworkSettings"]
    assert shape(network) == SHAPES["network"]


def test_what_events_say_of_a_network(networks):
    """A container that does not run is joined when it starts, and taken off at once: so dockerd tells."""
    network = networks.docker("network", "create", "net").stdout.strip()
    networks.docker("create", "--name", "box", "busybox", "sleep", "100")
    for verb in ("connect", "disconnect", "connect"):
        networks.docker("network", verb, "net", "box")
    networks.docker("start", "box")
    for verb in ("disconnect", "connect"):
        networks.docker("network", verb, "net", "box")
    networks.docker("kill", "box")
    networks.docker("wait", "box")
    for verb in ("disconnect", "connect"):
        networks.docker("network", verb, "net", "box")
    networks.docker("rm", "box")
    networks.docker("network", "rm", "net")
    told = networks.docker(
        *("events", "--since", "0", "--until", f"{time.time():.9f}", "--filter", f"network={network}"),
        *("--format", "{{.Action}}"),
    ).stdout.split()
    assert told == [
        *("create", "disconnect", "connect"),  # of all before the start: the disconnect, and the start's own
        *("disconnect", "connect", "disconnect"),  # while it runs, and at its end
        *("disconnect", "destroy"),
    ]
