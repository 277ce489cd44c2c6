"""Configuration-only networks through the real docker client; what is expected is what dockerd 26.1 answers."""

from __future__ import annotations

import json

import pytest
from docker_networks import sleeper

from conftest import make_engine

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
OPERATORS = (
    "configuration network can only contain network specific fields. Network operator fields like"
    " [ ingress | internal | attachable | scope ] are not supported."
)
USERS = "user specified configurations are not supported if the network depends on a configuration network"
DRIVERS = "network driver options are not supported if the network depends on a configuration network"
NOWHERE = "cannot create endpoint on configuration-only network"


@pytest.fixture
def networks(networks):
    yield networks
    networks.remove_containers()
    networks.docker("network", "prune", "-f")  # it leaves configurations
    for name in networks.docker("network", "ls", "-f", "type=custom", "--format", "{{.Name}}").stdout.split():
        networks.docker("network", "rm", name)


def shown(engine, name):
    return json.loads(engine.docker("network", "inspect", name).stdout)[0]


def names(engine, *filters):
    options = [word for text in filters for word in ("-f", text)]
    return set(engine.docker("network", "ls", *options, "--format", "{{.Name}}").stdout.split())


def create(engine, **body):
    status, answer = engine.http("POST", "/networks/create", json.dumps(body).encode())
    return status, json.loads(answer).get("message", "")


def test_a_network_is_made_from_a_configuration(networks):
    options = {"com.docker.network.bridge.name": "configured0", "com.docker.network.driver.mtu": "1400"}
    chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    networks.docker("network", "create", "--config-only", "--subnet", "10.63.0.0/24", "--gateway", "10.63.0.5",
                    "--aux-address", "a=10.63.0.1", "--label", "a=b", *chosen, "conf")  # fmt: skip
    conf = shown(networks, "conf")
    assert (conf["ConfigOnly"], conf["ConfigFrom"], conf["Driver"]) == (True, {"Network": ""}, "null")
    pool = {"Subnet": "10.63.0.0/24", "Gateway": "10.63.0.5", "AuxiliaryAddresses": {"a": "10.63.0.1"}}
    assert (conf["IPAM"]["Config"], conf["Options"], conf["Labels"]) == ([pool], options, {"a": "b"})
    assert networks.in_network("ip", "link", "show", "configured0", check=False).returncode != 0  # nothing is made
    networks.docker("network", "create", "--config-from", "conf", "-d", "bridge", "--internal", "--attachable", "made")
    made = shown(networks, "made")
    assert (made["ConfigOnly"], made["ConfigFrom"], made["Driver"]) == (False, {"Network": "conf"}, "bridge")
    assert (made["IPAM"]["Config"], made["Options"], made["Labels"]) == ([pool], options, {"a": "b"})
    assert (made["Internal"], made["Attachable"]) == (True, True)
    assert "mtu 1400 " in networks.in_network("ip", "link", "show", "configured0").stdout
    sleeper(networks, "box", "--network", "made")
    assert networks.inspect("box")["NetworkSettings"]["Networks"]["made"]["IPAddress"] == "10.63.0.2"
    refused = networks.docker("network", "create", "--config-from", "conf", "again", check=False)
    assert "Pool overlaps with other one on this address space" in refused.stderr
    # it goes after all that was made from it
    refused = networks.docker("network", "rm", "conf", check=False)
    assert 'error while removing network: configuration network "conf" is in use' in refused.stderr
    networks.remove_containers()
    networks.docker("network", "rm", "made")
    networks.docker("network", "rm", "conf")
    assert names(networks) == {"bridge", "host", "none"}


def test_one_without_subnets_makes_several(networks):
    networks.docker("network", "create", "--config-only", "--ipv6", "--label", "k", "-d", "nonesuch", "conf")
    assert (shown(networks, "conf")["IPAM"]["Config"], shown(networks, "conf")["EnableIPv6"]) == (None, True)
    for name in ("one", "two"):
        networks.docker("network", "create", "--config-from", "conf", name)
        assert shown(networks, name)["EnableIPv6"] is True
        assert [sorted(pool) for pool in shown(networks, name)["IPAM"]["Config"]] == [["Gateway", "Subnet"]] * 2
        assert shown(networks, name)["Labels"] == {"k": ""}


def test_nobody_is_on_a_configuration(networks):
    networks.docker("network", "create", "--config-only", "--subnet", "10.63.0.0/24", "conf")
    for more in ((), ("--ip", "10.63.0.9")):
        networks.docker("create", "--name", "box", "--network", "conf", *more, "busybox", "true")
        status, answer = networks.http("POST", "/containers/box/start")
        assert (status, json.loads(answer)["message"]) == (403, NOWHERE)
        networks.docker("rm", "box")
    assert NOWHERE in networks.docker("run", "--rm", "--network", "conf", "busybox", "true", check=False).stderr
    sleeper(networks, "box")
    body = json.dumps({"Container": "box"}).encode()
    assert networks.http("POST", "/networks/conf/connect", body)[0] == 403
    assert set(networks.inspect("box")["NetworkSettings"]["Networks"]) == {"bridge"}
    networks.docker("create", "--name", "stopped", "busybox", "true")
    networks.docker("network", "connect", "conf", "stopped")
    assert NOWHERE in networks.docker("start", "stopped", check=False).stderr
    networks.docker("network", "disconnect", "conf", "stopped")
    networks.docker("start", "stopped")


def test_what_may_not_be_together(networks):
    networks.docker("network", "create", "--config-only", "--subnet", "10.63.0.0/24", "conf")
    networks.docker("network", "create", "--subnet", "10.64.0.0/24", "plain")
    identity = shown(networks, "conf")["Id"]
    source = {"ConfigFrom": {"Network": "conf"}}
    wrong = [
        *(({"ConfigOnly": True, field: value}, 403, OPERATORS)
          for field, value in (("Internal", True), ("Attachable", True), ("Ingress", True), ("Scope", "local"))),
        ({"ConfigOnly": True, **source}, 403, "a configuration network cannot depend on another configuration network"),
        *(({**source, **more}, 403, USERS)
          for more in ({"Labels": {"a": "b"}}, {"EnableIPv6": True}, {"EnableIPv4": False},
                       {"IPAM": {"Driver": "nonesuch"}}, {"IPAM": {"Options": {"a": "b"}}},
                       {"IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}})),
        ({**source, "Options": {"a": "b"}}, 403, DRIVERS),
        ({**source, "IPAM": {"Config": [{}]}}, 400, "invalid network config:\ninvalid subnet : invalid CIDR block notation"),
        ({**source, "Driver": "nonesuch"}, 404, 'plugin "nonesuch" not found'),
        ({**source, "Name": "plain"}, 409, "network with name plain already exists"),
        ({"ConfigOnly": True, "Name": "conf"}, 409, "network with name conf already exists"),
        *(({"ConfigFrom": {"Network": name}}, 404, f"configuration network {json.dumps(name)} does not exist")
          for name in ("nope", "plain", "bridge", identity, identity[:12], "../x\n", "a b", '"')),
        ({"ConfigOnly": True, "IPAM": {"Config": [{"Gateway": "1.2.3.4"}]}}, 400,
         "invalid network config:\ninvalid subnet : invalid CIDR block notation"),
        ({"ConfigOnly": True, "IPAM": {"Config": [{"Subnet": "10.3.0.0/16", "Gateway": "1.2.3.4"}]}}, 400,
         "invalid network config:\ninvalid gateway 1.2.3.4: parent subnet 10.3.0.0/16 doesn't contain this address"),
        ({"ConfigOnly": True, "Name": "bridge"}, 403, "operation is not permitted on predefined bridge network "),
    ]  # fmt: skip
    for body, status, words in wrong:
        assert create(networks, **{"Name": "x", **body}) == (status, words), body
    # options are tried with the driver that has them
    bad = {"com.docker.network.bridge.enable_icc": "banana"}
    assert create(networks, Name="bad", ConfigOnly=True, Options=bad)[0] == 201
    status, words = create(networks, Name="x", ConfigFrom={"Network": "bad"})
    assert (status, words.partition(" (")[0]) == (400, f"failed to parse {next(iter(bad))} value: banana")
    pools = [{"Subnet": "10.3.0.0/24"}, {"Subnet": "10.3.1.0/24"}]
    assert create(networks, Name="many", ConfigOnly=True, IPAM={"Config": pools})[0] == 201
    assert create(networks, Name="x", ConfigFrom={"Network": "many"}) == (
        403,
        "bridge driver doesn't support multiple subnets",
    )
    assert create(networks, Name="x", ConfigFrom={})[0] == 201  # as if it were not there
    assert names(networks, "type=custom") == {"conf", "plain", "bad", "many", "x"}


def test_filters_and_pruning(networks):
    networks.docker("network", "create", "--config-only", "--label", "a=b", "conf")
    networks.docker("network", "create", "--config-from", "conf", "made")
    builtin = {"bridge", "host", "none"}
    for filters, expected in (
        (("driver=null",), {"none", "conf"}),
        (("dangling=true",), {"conf", "made"}),
        (("dangling=false",), builtin),
        (("type=custom",), {"conf", "made"}),
        (("type=builtin",), builtin),
        (("scope=local",), {*builtin, "conf", "made"}),
        (("scope=swarm",), set()),
        (("label=a=b",), {"conf", "made"}),
    ):
        assert names(networks, *filters) == expected, filters
    assert networks.docker("network", "prune", "-f", "--filter", "label=a=b").stdout.split()[2:] == ["made"]
    assert networks.docker("network", "prune", "-f").stdout.split() == []
    assert names(networks, "type=custom") == {"conf"}


def test_it_survives_the_engine():
    engine = make_engine()
    try:
        engine.hold_network()
        engine.docker("network", "create", "--config-only", "--subnet", "10.63.0.0/24", "--ipv6", "conf")
        engine.docker("network", "create", "--config-from", "conf", "made")
        before = [shown(engine, name) for name in ("conf", "made")]
        engine.kill()
        engine.start()
        assert [shown(engine, name) for name in ("conf", "made")] == before
        assert engine.docker("network", "rm", "conf", check=False).returncode != 0
        engine.docker("network", "rm", "made")
        engine.docker("network", "create", "--config-from", "conf", "another")
        assert shown(engine, "another")["IPAM"]["Config"][0] == before[1]["IPAM"]["Config"][0]
    finally:
        engine.destroy()
