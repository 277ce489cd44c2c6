"""DOCKER-USER: the administrator's chain is evaluated first and never rewritten, with both backends (threats.md G6)."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from network_lab import HOST, Lab, in_laboratory, in_thread, open_namespace, run_in

from harness import PATIENCE
from orlop.kernel.rtnetlink import Rtnetlink
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest
from orlop.spec.ports import PortRequest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]
PORTS = (PortRequest(80, "tcp", "", 8080, 8080),)
DROP = {
    "iptables": ("iptables", "-I", "DOCKER-USER", "-p", "tcp", "--dport", "80", "-j", "DROP"),
    "nftables": ("nft", "insert", "rule", "ip", "orlop", "DOCKER-USER", "tcp", "dport", "@theirs", "drop"),
}
SHOW = {
    "iptables": ("iptables", "-S", "DOCKER-USER"),
    "nftables": ("nft", "-s", "list", "chain", "ip", "orlop", "DOCKER-USER"),
}
FLUSH = {
    "iptables": ("iptables", "-F", "DOCKER-FORWARD"),
    "nftables": ("nft", "flush", "chain", "ip", "orlop", "forward"),
}


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_administrators_rules(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        web = await service.attach("a" * 64, AttachRequest(container_name="web", ports=PORTS))
        lab.serve(web.netns, 80, "hit")
        assert lab.ask(lab.outside, HOST, 8080) == "hit 10.99.0.2"
        if backend == "nftables":  # a set of theirs in our table
            run_in(None, "nft", "add set ip orlop theirs { type inet_service; }")
            run_in(None, "nft", "add element ip orlop theirs { 80 }")
        run_in(None, *DROP[backend])
        assert lab.is_silent(lab.outside, HOST, 8080)
        rules = run_in(None, *SHOW[backend])
        # networks and ports come and go
        await service.create_network(NetworkRequest("n1", ipv6=True))
        second = (PortRequest(80, "tcp", "", 8081, 8081),)
        await service.attach("b" * 64, AttachRequest(network="n1", ports=second))
        service.release("b" * 64)
        await service.settle()
        await service.remove_network("n1")
        assert run_in(None, *SHOW[backend]) == rules
        assert lab.is_silent(lab.outside, HOST, 8080)
        # somebody removes ours: they are put back within 5 s (G5), and theirs stay first
        ours = run_in(None, "nft", "-s", "list", "ruleset")
        run_in(None, *FLUSH[backend])
        deadline = time.monotonic() + 5 * PATIENCE
        while run_in(None, "nft", "-s", "list", "ruleset") != ours:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        # and over a restart of the engine
        pid = lab.sleeper(web).pid
        await service.close()
        service = lab.service(firewall_backend=backend, pool_size=0)
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            await service.start({"a" * 64: namespace.fileno()})
        assert run_in(None, *SHOW[backend]) == rules
        assert lab.is_silent(lab.outside, HOST, 8080)
        run_in(None, *(("iptables", "-F", "DOCKER-USER") if backend == "iptables" else
                       ("nft", "flush", "chain", "ip", "orlop", "DOCKER-USER")))  # fmt: skip
        assert lab.ask(lab.outside, HOST, 8080) == "hit 10.99.0.2"

    in_laboratory(body)


ACCEPT = {
    "iptables": ("iptables", "-I", "DOCKER-USER", "-i", "uplink", "-j", "ACCEPT"),
    "nftables": ("nft", "insert", "rule", "ip", "orlop", "DOCKER-USER", "iifname", "uplink", "accept"),
}
BACK = {
    backend: tuple({"-i": "-o", "iifname": "oifname"}.get(word, word) for word in words)
    for backend, words in ACCEPT.items()
}


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_the_host_is_nobody_elses_router_unless_its_administrator_says_so(backend: str):
    async def body(lab: Lab) -> None:
        beyond, sock = in_thread(open_namespace)
        with beyond, Rtnetlink(sock):
            run_in(None, "ip", "link", "add", "other", "type", "veth", "peer", "name", "near")
            run_in(None, "ip", "link", "set", "near", "netns", f"/proc/{os.getpid()}/fd/{beyond.fileno()}")
            for netns, link, address in ((None, "other", "10.98.0.1/24"), (beyond, "near", "10.98.0.2/24")):
                run_in(netns, "ip", "address", "add", address, "dev", link)
                run_in(netns, "ip", "link", "set", link, "up")
            run_in(beyond, "ip", "route", "add", "default", "via", "10.98.0.1")
            run_in(lab.outside, "ip", "route", "add", "10.98.0.0/24", "via", HOST)
            lab.serve(beyond, 80, "hit", udp=True)
            for again in (False, True):
                service = lab.service(firewall_backend=backend, pool_size=0)
                await service.start({})
                assert lab.is_silent(lab.outside, "10.98.0.2", 80, udp=True)
                if again:
                    run_in(None, *ACCEPT[backend])
                    run_in(None, *BACK[backend])
                    assert lab.ask(lab.outside, "10.98.0.2", 80, udp=True) == "hit 10.99.0.2"
                await service.close()

    in_laboratory(body)


def test_flushed_nftables_come_back_by_themselves():
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend="nftables", pool_size=0)
        await service.start({})
        await service.attach("a" * 64, AttachRequest(ports=PORTS))
        before = run_in(None, "nft", "-s", "list", "ruleset")
        for command in (
            ("flush", "ruleset"),
            ("flush", "chain", "ip", "orlop", "forward"),
            ("delete", "table", "ip", "orlop"),
        ):
            run_in(None, "nft", *command)
            deadline = time.monotonic() + 5 * PATIENCE
            while run_in(None, "nft", "-s", "list", "ruleset") != before:
                assert time.monotonic() < deadline, command
                await asyncio.sleep(0.1)

    in_laboratory(body)
