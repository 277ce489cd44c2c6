"""Networks are put right: after a restart, a crash, a flush of the rules, a bridge that somebody removed."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from network_lab import HOST, OUTSIDE, A, B, C, Lab, in_laboratory, publish, run_in

from harness import PATIENCE
from orlop.errors import SystemFailureError, UnavailableError
from orlop.kernel import rtnetlink
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "busybox")]


def test_running_containers_are_taken_up_and_the_others_cleaned_up():
    async def body(lab: Lab) -> None:
        first = lab.service()
        await first.start({})
        network = first.network("bridge")
        a = await first.attach(A, AttachRequest(container_name="a", ports=publish("80")))
        b = await first.attach(B, AttachRequest(container_name="b", ports=publish("8081:80")))
        none = await first.attach(C, AttachRequest(network="none"))
        lab.serve(a.netns, 80, "a80")
        keep, drop, quiet = lab.sleeper(a), lab.sleeper(b), lab.sleeper(none)
        port = a.endpoints[0].ports[0].host_port
        assert port >= 32768
        await first.close()  # the engine is gone: nothing but the kernel and the rows is left
        run_in(None, "iptables", "-t", "nat", "-F", "DOCKER")

        second = lab.service()
        pidfds = {A: os.pidfd_open(keep.pid), C: os.pidfd_open(quiet.pid)}
        try:
            await second.start(pidfds)
        finally:
            for pidfd in pidfds.values():
                os.close(pidfd)
        assert second.network("bridge") == network
        sandbox = second.sandbox(A)
        assert sandbox is not None
        assert sandbox.endpoints == a.endpoints
        assert second.sandbox(B) is None
        assert second.sandbox(C).mode == "none"
        assert lab.ask(lab.outside, HOST, port) == f"a80 {OUTSIDE}"
        assert "8081" not in lab.rules()
        assert b.endpoints[0].host_interface not in lab.links()
        with pytest.raises(SystemFailureError, match="already allocated"):
            await second.attach(B, AttachRequest(container_name="b", ports=publish(f"{port}:80")))
        again = await second.attach(B, AttachRequest(container_name="b"))
        assert again.endpoints[0].address == "172.17.0.3"
        shared = await second.attach("d" * 64, AttachRequest(network=f"container:{A}"))
        assert "172.17.0.2" in run_in(shared.netns, "ip", "addr")
        second.release(A)
        await second.settle()
        drop.kill()
        await second.close()

    in_laboratory(body)


def test_starting_twice_changes_nothing():
    async def body(lab: Lab) -> None:
        run_in(None, "iptables", "-A", "FORWARD", "-i", "uplink", "-j", "ACCEPT")
        run_in(None, "iptables", "-N", "DOCKER-USER")
        run_in(None, "iptables", "-A", "DOCKER-USER", "-s", "192.0.2.1", "-j", "DROP")
        states = []
        for _ in range(2):
            service = lab.service(pool_size=0)
            await service.start({})
            states.append((lab.rules(), lab.links()))
            await service.close()
        assert states[0] == states[1]
        rules = states[0][0].splitlines()
        forward = [rule for rule in rules if rule.startswith("-A FORWARD")]
        assert forward == [
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -j DOCKER-FORWARD",
            "-A FORWARD -i uplink -j ACCEPT",
        ]
        assert [rule for rule in rules if rule.startswith("-A DOCKER-USER")] == [
            "-A DOCKER-USER -s 192.0.2.1/32 -j DROP"
        ]
        assert ":FORWARD DROP" in states[0][0]

    in_laboratory(body)


def test_flushed_rules_come_back():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.attach(A, AttachRequest(container_name="a", ports=publish("8080:80")))
        before = lab.rules()
        for table in ("filter", "nat", "raw"):
            run_in(None, "iptables", "-t", table, "-F")
            run_in(None, "iptables", "-t", table, "-X")
        assert lab.rules() != before
        assert await service.restore_rules()
        assert lab.rules() == before
        assert not await service.restore_rules()
        run_in(None, "iptables", "-t", "nat", "-F")
        service.release(A)
        await service.settle()  # its rules are gone already: everything else is put right
        assert "8080" not in lab.rules()
        assert "MASQUERADE" in lab.rules()
        await service.close()

    in_laboratory(body)


def test_flushed_rules_come_back_by_themselves():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.attach(A, AttachRequest(container_name="a", ports=publish("8080:80")))
        run_in(None, "iptables", "-F", "DOCKER-USER")  # the administrator's: emptied, it stays empty
        before = lab.rules()
        for _ in range(2):
            for table in ("filter", "nat", "raw"):
                run_in(None, "iptables", "-t", table, "-F")
            deadline = time.monotonic() + 5 * PATIENCE
            while lab.rules() != before:
                assert time.monotonic() < deadline, set(lab.rules().splitlines()) ^ set(before.splitlines())
                await asyncio.sleep(0.1)
        await service.close()

    in_laboratory(body)


def test_a_cancelled_start_leaves_nothing():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        links, rules = lab.links(), lab.rules()
        for delay in (0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008):
            request = AttachRequest(container_name="a", ports=publish("8080:80"))
            task = asyncio.create_task(service.attach(A, request))
            await asyncio.sleep(delay)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            else:
                service.release(A)
                await service.settle()
            assert lab.rules() == rules
        await lab.wait_links(links)
        assert lab.database.execute("SELECT count(*) FROM endpoint").fetchone() == (0,)
        await service.attach(A, AttachRequest(container_name="a", ports=publish("8080:80")))
        await service.close()

    in_laboratory(body)


def test_beside_a_live_docker(tmp_path):
    async def body(lab: Lab) -> None:
        shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / "dockerd")
        run_in(None, "ip", "link", "add", "docker0", "type", "bridge")
        run_in(None, "ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
        run_in(None, "iptables", "-t", "nat", "-N", "DOCKER")
        run_in(None, "iptables", "-t", "nat", "-A", "DOCKER", "-i", "docker0", "-j", "RETURN")
        theirs = [line for line in lab.rules().splitlines() if line.startswith("-A")]
        docker = subprocess.Popen([tmp_path / "dockerd", "60"])
        lab.processes.append(docker)
        while Path(f"/proc/{docker.pid}/comm").read_text() != "dockerd\n":
            await asyncio.sleep(0.01)
        service = lab.service(pool_size=0)
        assert await service.start({}) == ["docker0 belongs to a running Docker: the default bridge is orlop0"]
        assert service.bridge_name == "orlop0"
        assert service.gateway == "172.18.0.1"
        a = await service.attach(A, AttachRequest(container_name="a", ports=publish("8080:80")))
        lab.serve(a.netns, 80, "a80")
        assert lab.ask(lab.outside, HOST, 8080) == f"a80 {OUTSIDE}"
        rules = lab.rules().splitlines()
        assert all(line in rules for line in theirs)
        assert any(line.startswith("-A ORLOP ") and "8080" in line for line in rules)
        await service.close()

    in_laboratory(body)


def test_a_removed_bridge_is_made_anew():
    async def body(lab: Lab) -> None:
        service = lab.service()
        await service.start({})
        a = await service.attach(A, AttachRequest())
        run_in(None, "ip", "link", "del", "docker0")
        b = await service.attach(B, AttachRequest())
        lab.serve(a.netns, 80, "a80")
        assert lab.ask(b.netns, "172.17.0.2", 80) == "a80 172.17.0.3"
        assert len(lab.host.links(master=lab.host.link("docker0").index)) == 2
        await service.close()

    in_laboratory(body)


def test_pools_that_collide_with_routes_are_skipped():
    async def body(lab: Lab) -> None:
        run_in(None, "ip", "route", "add", "172.17.128.0/24", "via", OUTSIDE)
        run_in(None, "ip", "route", "add", "172.18.0.0/15", "via", OUTSIDE)
        service = lab.service()
        await service.start({})
        assert service.gateway == "172.20.0.1"
        assert (await service.attach(A, AttachRequest())).endpoints[0].mac == "02:42:ac:14:00:02"
        await service.close()

    in_laboratory(body)


def test_a_network_whose_bridge_cannot_be_made_is_given_up():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        network = await service.create_network(NetworkRequest("n1"))
        await service.close()
        run_in(None, "ip", "link", "del", network.bridge_name)
        run_in(None, "ip", "link", "add", network.bridge_name, "type", "veth", "peer", "name", "zz")
        service = lab.service(pool_size=0)
        warnings = await service.start({})
        assert len(warnings) == 1
        assert "network n1 is not available: interface" in warnings[0]
        with pytest.raises(UnavailableError, match="network n1 could not be set up"):
            await service.attach(A, AttachRequest(network="n1"))
        await service.attach(A, AttachRequest())
        await service.remove_network("n1")
        assert "veth" in run_in(None, "ip", "-d", "link", "show", network.bridge_name)  # not ours: it stays

    in_laboratory(body)


def test_strays_of_a_crashed_engine_are_removed_and_foreign_ports_kept():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.close()
        bridge = lab.host.link("docker0").index
        for name, peer in (("veth0a1b2c3", "x1"), ("vethmine", "x2")):
            lab.host.execute(rtnetlink.add_veth(name, peer))
            lab.host.execute(rtnetlink.set_link(0, name=name, master=bridge))
        lab.host.execute(rtnetlink.add_address(bridge, ipaddress.ip_interface("172.17.9.9/16")))
        service = lab.service(pool_size=0)
        await service.start({})
        assert "veth0a1b2c3" not in lab.links()
        assert "vethmine" in lab.links()
        await service.close()

    in_laboratory(body)
