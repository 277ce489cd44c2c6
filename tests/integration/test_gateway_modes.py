"""Gateway modes of bridge networks: who reaches whom, by which address, with both firewall backends."""

from __future__ import annotations

import pytest
from network_lab import HOST, HOST6, OUTSIDE, OUTSIDE6, Lab, in_laboratory, publish, run_in

from orlop.network.gateway_modes import OPTIONS
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest, Sandbox
from orlop.primitives.owned_fd import OwnedFd

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables", "busybox")]
ROUTED, PLAIN, OPEN, MIXED, INNER = (letter * 64 for letter in "abcde")
PORTS = {"routed": "8080:80", "plain": "8081:80", "open": "8082:80", "mixed": "8083:80"}


async def attach(service, container: str, network: str) -> Sandbox:
    ports = publish(PORTS[network]) if network in PORTS else ()
    return await service.attach(container, AttachRequest(network=network, ports=ports, container_name=network))


def ask(lab: Lab, netns: OwnedFd | None, address: str, port: int) -> str:
    """Return what answers; a busy machine may take its time."""
    return next(filter(None, (lab.ask(netns, address, port) for _ in range(20))), "")


def bindings(sandbox: Sandbox) -> set[tuple[str, int]]:
    return {(port.host_ip, port.host_port) for port in sandbox.endpoints[0].ports}


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_who_reaches_whom(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        for name, modes, internal in (
            ("routed", ("routed", "routed"), False),
            ("plain", ("nat", "nat"), False),
            ("open", ("nat-unprotected", "nat-unprotected"), False),
            ("mixed", ("nat", "routed"), False),
            ("inner", ("nat", "nat"), True),
        ):
            options = dict(zip(OPTIONS.values(), modes, strict=True))
            await service.create_network(NetworkRequest(name, options=options, ipv6=True, internal=internal))
        routed, plain = await attach(service, ROUTED, "routed"), await attach(service, PLAIN, "plain")
        open_, mixed = await attach(service, OPEN, "open"), await attach(service, MIXED, "mixed")
        inner = await attach(service, INNER, "inner")
        # what is published where
        assert bindings(routed) == {("0.0.0.0", 0), ("::", 0)}
        assert bindings(mixed) == {("0.0.0.0", 8083), ("::", 0)}
        assert bindings(plain) == {("0.0.0.0", 8081), ("::", 8081)}
        for network in ("routed", "plain", "open", "mixed"):
            run_in(lab.outside, "ip", "route", "add", service.network(network).subnet, "via", HOST)
            run_in(lab.outside, "ip", "route", "add", service.network(network).subnet6, "via", HOST6)
        for number, gateway in ((4, service.network("inner").gateway), (6, service.network("inner").gateway6)):
            run_in(inner.netns, "ip", f"-{number}", "route", "add", "default", "via", gateway)
        for sandbox in (routed, plain, open_, mixed):
            for port in (80, 81):
                lab.serve(sandbox.netns, port, "hit", six=True)  # of both versions
        lab.serve(lab.outside, 90, "from", six=True)
        four = {name: box.endpoints[0].address for name, box in
                {"routed": routed, "plain": plain, "open": open_, "mixed": mixed}.items()}  # fmt: skip
        six = {name: box.endpoints[0].address6 for name, box in
               {"routed": routed, "plain": plain, "open": open_, "mixed": mixed}.items()}  # fmt: skip
        out = lab.outside

        yes = [
            (out, four["routed"], 80), (out, six["routed"], 80), (out, six["mixed"], 80),
            (plain.netns, four["routed"], 80), (plain.netns, six["routed"], 80), (plain.netns, six["mixed"], 80),
            (None, four["routed"], 81), (None, four["plain"], 81),
            (out, four["open"], 80), (out, four["open"], 81), (out, six["open"], 81),
            (out, HOST, 8081), (out, HOST, 8082), (out, HOST, 8083), (out, HOST6, 8082),
        ]  # fmt: skip
        no = [
            (out, four["routed"], 81), (out, six["routed"], 81), (plain.netns, four["routed"], 81),
            (plain.netns, six["routed"], 81), (out, HOST, 8080), (out, HOST6, 8080), (out, HOST6, 8083),
            (out, four["plain"], 80), (out, six["plain"], 80), (out, four["mixed"], 80), (out, six["mixed"], 81),
            (plain.netns, four["open"], 81), (plain.netns, six["open"], 81), (plain.netns, four["mixed"], 80),
            (routed.netns, four["plain"], 80), (routed.netns, four["open"], 81),
            (inner.netns, four["routed"], 80), (inner.netns, six["routed"], 80), (inner.netns, four["open"], 81),
        ]  # fmt: skip
        assert [one for one in yes if not ask(lab, *one)] == []
        assert lab.reached(*no) == []
        # nothing is translated where it is routed, neither way
        assert ask(lab, out, four["routed"], 80).removeprefix("hit ").removeprefix("::ffff:") == OUTSIDE
        for sandbox, address, expected in (
            (routed, OUTSIDE, four["routed"]), (routed, OUTSIDE6, six["routed"]), (mixed, OUTSIDE6, six["mixed"]),
            (mixed, OUTSIDE, HOST), (open_, OUTSIDE, HOST), (open_, OUTSIDE6, HOST6),
        ):  # fmt: skip
            assert ask(lab, sandbox.netns, address, 90).removeprefix("from ").removeprefix("::ffff:") == expected
        run_in(out, "busybox", "ping", "-c", "3", "-W", "10", four["routed"], timeout=60)
        run_in(out, "busybox", "ping", "-6", "-c", "3", "-W", "10", six["routed"], timeout=60)
        # the tables hold what was computed, in the words of the tools, and the next engine finds them in order
        assert not await service.restore_rules()
        names = {"routed": ROUTED, "plain": PLAIN, "inner": INNER}
        boxes = {ROUTED: routed, PLAIN: plain, OPEN: open_, MIXED: mixed, INNER: inner}
        pids = {container: lab.sleeper(box).pid for container, box in boxes.items()}
        opened = {container: open(f"/proc/{pid}/ns/net", "rb") for container, pid in pids.items()}
        await service.close()
        service = lab.service(firewall_backend=backend, pool_size=0)
        try:
            await service.start({container: file.fileno() for container, file in opened.items()})
        finally:
            for file in opened.values():
                file.close()
        again = {name: service.sandbox(container) for name, container in names.items()}
        assert bindings(again["routed"]) == {("0.0.0.0", 0), ("::", 0)}
        plain, inner = again["plain"], again["inner"]
        yes = [(out, four["routed"], 80), (out, six["mixed"], 80), (out, HOST, 8083), (plain.netns, four["routed"], 80)]
        assert [one for one in yes if not ask(lab, *one)] == []
        assert lab.reached((out, four["routed"], 81), (out, HOST, 8080), (inner.netns, four["routed"], 80)) == []
        for container in boxes:
            service.release(container)
        await service.settle()
        assert not await service.restore_rules()

    in_laboratory(body)


def test_an_isolated_network_has_no_part_of_the_host():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        options = dict.fromkeys(OPTIONS.values(), "isolated")
        network = await service.create_network(NetworkRequest("alone", options=options, ipv6=True, internal=True))
        assert (network.gateway, network.gateway6) == ("", "")
        assert run_in(None, "ip", "-o", "addr", "show", "dev", network.bridge_name) == ""
        one, two = (
            await service.attach(ROUTED, AttachRequest(network="alone")),
            await service.attach(PLAIN, AttachRequest(network="alone")),
        )
        for box, address in ((one, two.endpoints[0].address), (one, two.endpoints[0].address6)):
            run_in(box.netns, "busybox", "ping", "-c", "3", "-W", "10", address, timeout=60)
            assert "default" not in run_in(box.netns, "ip", "route") + run_in(box.netns, "ip", "-6", "route")

    in_laboratory(body)
