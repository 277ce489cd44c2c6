"""What legacy links, ports and network modes have in common with dockerd where nobody looks first."""

from __future__ import annotations

import pytest
from docker_networks import lookup, sleeper, within

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_links_follow_a_new_name(networks):
    sleeper(networks, "target", "--expose", "80")
    sleeper(networks, "app", "--link", "target:db")
    networks.docker("create", "--name", "later", "--link", "target:db", "busybox", "sleep", "1000")
    networks.docker("rename", "target", "renamed")
    address = networks.inspect("renamed")["NetworkSettings"]["IPAddress"]
    assert networks.inspect("app")["HostConfig"]["Links"] == ["/renamed:/app/db"]
    networks.docker("start", "later")
    for name in ("app", "later"):
        (line,) = [line for line in within(networks, name, "cat", "/etc/hosts").splitlines() if "\tdb " in line]
        assert (line.split()[0], line.split()[-1]) == (address, "renamed")
    networks.docker("stop", "-t", "0", "renamed")  # another address comes to the file of the one that runs
    sleeper(networks, "squatter")
    networks.docker("start", "renamed")
    moved = networks.inspect("renamed")["NetworkSettings"]["IPAddress"]
    assert moved != address
    assert f"{moved}\tdb " in within(networks, "app", "cat", "/etc/hosts")


def test_what_is_not_on_the_default_network_is_no_target(networks):
    networks.docker("network", "create", "net")
    sleeper(networks, "elsewhere", "--network", "net")
    for client in (networks.docker, networks.orlop):
        refused = client("run", "--rm", "--link", "elsewhere:db", "busybox", "true", check=False)
        words = "Cannot link to /elsewhere, as it does not belong to the default network"
        assert (refused.returncode, words in refused.stderr) == (125, True), refused.stderr
    networks.docker("create", "--name", "app", "--link", "elsewhere:db", "busybox", "true")
    again = networks.docker("restart", "app", check=False).stderr
    assert f"Cannot restart container app: {words}" in again


def test_a_container_does_not_join_itself(networks):
    networks.docker("create", "--name", "self", "--network", "container:self", "busybox", "true")
    assert "cannot join own network" in networks.docker("start", "self", check=False).stderr


def test_exposed_ports_are_shown_where_they_could_be_published(networks):
    networks.docker("network", "create", "--internal", "inner")
    for mode, shown in (("host", {}), ("none", {}), ("inner", {}), ("bridge", {"80/tcp": None})):
        networks.docker("run", "-d", "--name", mode, "--network", mode, "--expose", "80", "busybox", "sleep", "1000")
        assert networks.inspect(mode)["NetworkSettings"]["Ports"] == shown, mode
        column = networks.docker("ps", "--filter", f"name={mode}", "--format", "{{.Ports}}").stdout.strip()
        assert column == ("80/tcp" if shown else ""), mode


def test_a_container_leaves_none_for_a_network(networks):
    networks.docker("network", "create", "--subnet", "10.74.0.0/24", "net")
    sleeper(networks, "box", "--network", "none")
    networks.docker("network", "disconnect", "none", "box")
    assert networks.inspect("box")["NetworkSettings"]["Networks"] == {}
    networks.kill()  # it is on no network: the next engine knows that, and takes it up
    networks.start()
    networks.docker("network", "connect", "--ip", "10.74.0.7", "net", "box")
    for _ in range(2):
        assert "10.74.0.7/24" in within(networks, "box", "ip", "addr", "show", "eth0")
        assert lookup(networks, "box", "box") == ["10.74.0.7"]
        networks.docker("restart", "-t", "0", "box")
    assert list(networks.inspect("box")["NetworkSettings"]["Networks"]) == ["net"]
    refused = networks.docker("network", "connect", "none", "box", check=False)
    assert "private (none) mode" in refused.stderr


def test_a_container_without_networks_is_taken_up_by_the_next_engine(networks):
    networks.docker("network", "create", "net")
    sleeper(networks, "box")
    networks.docker("network", "disconnect", "bridge", "box")
    networks.kill()
    networks.start()
    networks.docker("network", "connect", "net", "box")
    assert "eth0" in within(networks, "box", "ip", "addr")


def test_a_name_with_dots_is_known_without_them(networks):
    hosts = networks.docker("run", "--rm", "--hostname", "web.example.test", "busybox", "cat", "/etc/hosts").stdout
    assert hosts.splitlines()[-1].endswith("\tweb.example.test web")
