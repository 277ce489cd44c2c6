"""Connect, disconnect, stop and start, again and again: no link, address, rule, namespace or row is left."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest

from conftest import assert_nothing_left, make_engine
from harness import wait_for
from host_state import READY, HostState
from orlop.network.pool import _PLAIN_SIZE

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "nftables", "docker-client", "busybox"),
]
HELD = READY + _PLAIN_SIZE + 2  # namespaces: the pool's, and the box's twice, as its ports are relayed as well
_LONG = pytest.mark.skipif("ORLOP_LONG" not in os.environ, reason="ORLOP_LONG=1 runs it: some minutes")


def cycles(backend: str, count: int) -> None:
    engine = make_engine("--firewall-backend", backend)

    def ask(path: str, **body: object) -> None:
        status, answer = engine.http("POST", path, body)
        assert status in (200, 204), answer

    def seen() -> tuple[int, int, str, list[list[object]]]:
        """Return veth links, network namespaces held by the engine, nft rules, and rows."""
        assert engine.process is not None
        links = engine.in_network("ip", "-o", "link").stdout.count(": veth")
        held = f"/proc/{engine.process.pid}/fd"
        namespaces = 0
        for fd in os.listdir(held):
            try:
                namespaces += os.readlink(f"{held}/{fd}").startswith("net:")
            except OSError:
                continue
        rules = engine.in_network("nft", "-s", "list", "ruleset").stdout  # those of iptables-nft as well
        with sqlite3.connect(f"file:{engine.data_root}/state.db?mode=ro", uri=True) as database:
            rows = [
                list(row)
                for table in ("endpoint", "sandbox", "network")
                for row in database.execute(f"SELECT count(*) FROM {table}")
            ]
        database.close()
        return links, namespaces, rules, rows

    def settled(wanted: tuple[int, int, str, list[list[object]]] | None = None) -> object:
        """Return what is seen if it is this; with none wanted, if nothing is held but for the box and what is ready."""
        now = seen()
        return now if (now == wanted if wanted else now[:2] == (READY + 1, HELD)) else None

    try:
        engine.import_busybox()
        for words in (("four", "--subnet", "10.81.0.0/24"), ("six", "--ipv6", "-o", "orlop.antispoof=true")):
            engine.docker("network", "create", *words[1:], words[0])
        publish = ("-p", "8090:80", "-p", "8091:81/udp")
        box = engine.docker(
            "run", "-d", "--init", "--name", "box", "--network", "four", *publish, "busybox", "sleep", "9999"
        ).stdout.strip()
        for number in range(-3, count):
            if number == 0:
                before, shape = HostState.before(engine), wait_for(settled)
            ask("/networks/six/connect", Container=box)
            ask(f"/containers/{box}/stop?t=0")
            ask(f"/containers/{box}/start")
            ask("/networks/six/disconnect", Container=box)
        wait_for(lambda: settled(shape), what=f"the state {shape} instead of {seen()}")
        assert_nothing_left(engine, before, seconds=8, descriptors=2)
        networks = json.loads(engine.docker("network", "inspect", "four", "six").stdout)
        assert [len(network["Containers"]) for network in networks] == [1, 0]
        assert engine.inspect("box")["NetworkSettings"]["Networks"]["four"]["IPAddress"] == "10.81.0.2"
        engine.docker("rm", "-f", "box")
        wait_for(lambda: seen()[3][:2] == [[0], [0]], what="no row of an endpoint or a sandbox")
        engine.docker("network", "rm", "four", "six")
        assert "bridge orlop" not in engine.in_network("nft", "list", "tables").stdout
    finally:
        engine.destroy()


def test_some_cycles():
    cycles("nftables", 8)


@_LONG
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_thousand_cycles(backend: str):
    cycles(backend, 1000)
