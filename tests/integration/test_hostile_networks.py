"""Two hundred hostile names, addresses, ranges and options (threats.md G10): 400, in words, and nothing happens."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness import Engine

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
MARK = Path("/tmp/orlop-test-executed")
WORDS = [
    "a b", "a\nb", "a\0b", "../x", "a/b", "-x", "--help", f"$(touch {MARK})", f"`touch {MARK}`", f"a;touch {MARK}",
    f"a|touch {MARK}", f"a&&touch {MARK}", "x\x1b[0m", "é", "\u0661", "a\n", "\ta", "*", "a'b", 'a"b', "a>b", "%s",
    "{0}", "\u202eabc", ".x", "_x", "a" * 256, "a,b", "a=b", "#a", "-A INPUT -j ACCEPT", "a\r\nb", "\\x41",
]  # fmt: skip
ADDRESSES = [
    "x", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.4/24", "1.2.3.4 -j ACCEPT", "1.2.3.4\n", "01.2.3.4", "0x7f.1",
    "::1%eth0", "fe80::1%$(id)", ":::", "1:2", "\u0661.2.3.4", "1.2.3.4;x", "-1.2.3.4", "1.2.3.4,5.6.7.8",
]  # fmt: skip
SUBNETS = [
    "x", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "/8", "10.0.0.1/24", "10.0.0.0/24 -j X",
    "10.0.0.0/24\n10.1.0.0/24", "10.0.0.1/31", "fd00::1/127", "127.0.0.0/8", "224.0.0.0/8", "10.0.0.0/255.255.255.0",
    "0.0.0.0/24", "10.0.0.0/\u0662\u0664", "fd00::/129", "10.0/16", "10.0.0.0/24/24", "10.0.0.0/2e1",
]  # fmt: skip
MACS = ["x", "02:42", "02:42:ac:11:00:0g", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "02:42:ac:11:00:02\n", "02-42"]
NAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
NAMES = ("_x", "a=b")  # they look like a parameter's, which the kernel does not have
OPTIONS = {
    "com.docker.network.bridge.name": ["a b", "a/b", "../x", "sixteencharacters", "-x", "$(id)", "a\nb", "", ".", "é"],
    "com.docker.network.bridge.enable_icc": ["maybe", "2", "", "true\n", "$(id)"],
    "com.docker.network.bridge.gateway_mode_ipv4": ["x", "", "NAT", "isolated", "routed -j ACCEPT", "$(id)", "a\nb"],
    "com.docker.network.bridge.gateway_mode_ipv6": ["x", "isolated", "\u202e"],
    "com.docker.network.bridge.trusted_host_interfaces": [
        "a b",
        "eth+",
        "eth*",
        "eth0:../x",
        "a" * 16,
        "$(id)",
        "é",
        "a\n",
    ],
    "com.docker.network.bridge.inhibit_ipv4": ["maybe", "", "1 ", "$(id)"],
    "com.docker.network.bridge.enable_ip_masquerade": ["x", "yes please"],
    "com.docker.network.bridge.host_binding_ipv4": [*ADDRESSES, "::1"],
    "com.docker.network.driver.mtu": ["x", "-1", "0", "67", "65536", "1e3", "99999999999", "1500\n", "\u0661500"],
    "com.docker.network.container_iface_prefix": [
        "a b",
        "a/b",
        "../x",
        "-x",
        "$(id)",
        "a\nb",
        "%d",
        ".",
        "é",
        "a:b",
        "a" * 15,
    ],
    "orlop.antispoof": ["maybe", "$(id)", "true; drop"],
    "unknown": ["x"],
    "com.docker.network.bridge.inhibit_ipv4; x": ["1"],
}


def requests(network: str) -> list[tuple[str, dict]]:
    """Return path and body of all that must be refused."""

    def create(**more: object) -> tuple[str, dict]:
        return "/networks/create", {"Name": "hostile", **more}

    def pool(**config: object) -> tuple[str, dict]:
        return create(IPAM={"Config": [config]})

    def join(**config: object) -> tuple[str, dict]:
        return f"/networks/{network}/connect", {"Container": "box", "EndpointConfig": config}

    found = [create(Name=word) for word in ["", *WORDS]]
    found += [create(Driver=word) for word in WORDS[:20]]
    found += [create(Name=word, ConfigOnly=True) for word in ["", *WORDS]]
    found += [create(ConfigOnly=True, IPAM={"Config": [{"Subnet": text}]}) for text in ["", *SUBNETS]]
    found += [create(ConfigFrom="x"), create(ConfigFrom={"Network": ["x"]}), create(ConfigOnly="x")]
    found += [pool(Subnet=text) for text in SUBNETS]
    found += [pool(Subnet="10.0.0.0/24", Gateway=text) for text in [*ADDRESSES, "10.0.1.1", "10.0.0.0", "10.0.0.255"]]
    found += [pool(Subnet="10.0.0.0/24", IPRange=text) for text in [*SUBNETS, "10.0.1.0/25"] if text != "10.0.0.0"
              and "255.255" not in text]  # fmt: skip
    found += [pool(Subnet="10.0.0.0/24", AuxiliaryAddresses={"a": text}) for text in ADDRESSES]
    found += [pool(Subnet="10.0.0.0/24", AuxiliaryAddresses={word: "10.0.0.9"}) for word in WORDS]
    found += [create(Options={name: value}) for name, values in OPTIONS.items() for value in values]
    found += [join(Aliases=[word]) for word in WORDS if word != "_x"]
    found += [join(IPAMConfig={"IPv4Address": text}) for text in ADDRESSES]
    found += [join(IPAMConfig={"IPv6Address": text}) for text in ADDRESSES]
    found += [join(MacAddress=text) for text in MACS]
    found += [join(Links=[f"{word}:x"]) for word in WORDS if word != "_x"]
    found += [join(DriverOpts={"orlop.egress": word}) for word in WORDS]
    found += [join(DriverOpts={NAME: word}) for word in [*WORDS, "lo", "all", "default", "sixteencharacter", "a:b"]]
    found += [join(DriverOpts={SYSCTLS: f"net.ipv4.conf.IFNAME.{word}=1"}) for word in WORDS if word not in NAMES]
    found += [join(DriverOpts={SYSCTLS: f"net.ipv4.conf.{word}.forwarding=1"}) for word in WORDS]
    found += [join(DriverOpts={SYSCTLS: f"{word}.ipv4.conf.IFNAME.forwarding=1"}) for word in WORDS]
    found += [create(Name=["x"]), create(Options="x"), create(IPAM=[]), create(Labels={"a": 1}), create(EnableIPv6="x")]
    return found


def test_two_hundred_hostile_requests(leak_free: Engine):
    leak_free.docker("network", "create", "--subnet", "10.78.0.0/24", "victim")
    leak_free.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    try:
        before = leak_free.docker("network", "ls", "-q", "--no-trunc").stdout
        rules = leak_free.in_network("iptables-save").stdout.count("\n")
        tried = requests("victim")
        assert len(tried) > 200
        wrong = []
        for path, body in tried:
            status, answer = leak_free.http("POST", path, json.dumps(body).encode())
            allowed = (400, 404) if path.endswith("create") and "Driver" in body else (400,)
            message = json.loads(answer).get("message", "")
            if status not in allowed or not message or "Traceback" in message:
                wrong.append((body, status, answer))
        assert wrong == []
        assert leak_free.docker("network", "ls", "-q", "--no-trunc").stdout == before
        assert leak_free.in_network("iptables-save").stdout.count("\n") == rules
        assert not os.path.exists(MARK)
        shown = leak_free.inspect("box")["NetworkSettings"]["Networks"]
        assert set(shown) == {"bridge"}
    finally:
        leak_free.remove_containers()
        leak_free.docker("network", "rm", "victim")
