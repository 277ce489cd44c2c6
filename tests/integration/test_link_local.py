"""Link-local addresses beside a network's own, as ``--link-local-ip`` has them."""

from __future__ import annotations

import pytest

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "nftables", "docker-client", "busybox"),
]


def addresses(engine, name, interface="eth0"):
    lines = engine.docker("exec", name, "ip", "-o", "addr", "show", interface).stdout.splitlines()
    return {line.split()[3] for line in lines}


def reaches(engine, name, address, *options):
    done = engine.docker("exec", name, "ping", "-c", "3", "-W", "3", *options, address, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("guarded", ["false", "true"])
def test_containers_have_them_and_keep_them(networks, guarded):
    networks.docker("network", "create", "--ipv6", "-o", f"orlop.antispoof={guarded}", "both")
    chosen = ("--link-local-ip", "169.254.7.7", "--link-local-ip", "fe80::77")
    networks.docker("run", "-d", "--name", "one", "--network", "both", *chosen, "busybox", "sleep", "1000")
    networks.docker("run", "-d", "--name", "two", "busybox", "sleep", "1000")
    networks.docker("network", "connect", "--link-local-ip", "169.254.7.8", "both", "two")
    assert {"169.254.7.7/16", "fe80::77/64"} <= addresses(networks, "one")
    assert "169.254.7.8/16" in addresses(networks, "two", "eth1")
    assert reaches(networks, "two", "169.254.7.7")
    assert reaches(networks, "one", "169.254.7.8", "-I", "169.254.7.7")
    shown = networks.inspect("one")["NetworkSettings"]["Networks"]["both"]["IPAMConfig"]
    assert shown == {"LinkLocalIPs": ["169.254.7.7", "fe80::77"]}
    networks.docker("restart", "-t", "0", "one", "two")
    assert {"169.254.7.7/16", "fe80::77/64"} <= addresses(networks, "one")
    assert reaches(networks, "two", "169.254.7.7")
    networks.docker("network", "disconnect", "both", "two")
    assert not reaches(networks, "two", "169.254.7.7")


def test_the_guard_knows_them_after_a_restart_of_the_engine(own_engine):
    own_engine.docker("network", "create", "-o", "orlop.antispoof=true", "net")
    for number in ("7", "8"):
        local = ("--link-local-ip", f"169.254.7.{number}")
        options = ("--cap-add", "NET_ADMIN", "--network", "net", *local)
        own_engine.docker("run", "-d", "--name", f"c{number}", *options, "busybox", "sleep", "1000")
    own_engine.kill()
    own_engine.start()
    assert reaches(own_engine, "c8", "169.254.7.7", "-I", "169.254.7.8")
    own_engine.docker("exec", "c8", "ip", "addr", "add", "169.254.7.9/16", "dev", "eth0")
    assert not reaches(own_engine, "c8", "169.254.7.7", "-I", "169.254.7.9")


def test_what_is_none_is_refused_in_dockers_words(networks):
    networks.docker("network", "create", "four")
    for options, words in (
        (("--link-local-ip", "bogus"), "invalid link-local IP address: bogus"),
        (("--link-local-ip", "10.1.1.1"), "invalid link local IP address: 10.1.1.1"),
        (("--link-local-ip", "fe80::1"), "network four has no IPv6 for link-local IP address fe80::1"),
    ):
        refused = networks.docker("run", "--rm", "--network", "four", *options, "busybox", "true", check=False)
        assert (refused.returncode, words in refused.stderr) == (125, True), refused.stderr
    refused = networks.docker(
        "run", "--rm", "--network", "host", "--link-local-ip", "169.254.1.1", "busybox", "true", check=False
    )
    assert refused.returncode == 125
    assert "link-local IP addresses are not supported on a network of driver host" in refused.stderr
