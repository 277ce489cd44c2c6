"""SCTP ports are published as the others; few kernels have the protocol loaded (tests/vm has one that has)."""

from __future__ import annotations

import subprocess

import pytest
from network_lab import HOST, PYTHON, Lab, in_laboratory, run_in

from orlop.network.sandbox import AttachRequest
from orlop.spec.ports import parse_publish

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables", "sctp")]
SERVE = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132); s.bind(("0.0.0.0", 80)); s.listen(); print("ready", flush=True)
while True:
    c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
"""
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132); s.settimeout(2)
try: s.connect((sys.argv[1], int(sys.argv[2]))); print(s.recv(99).decode())
except OSError: pass
"""


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_sctp_is_published(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0, userland_proxy=True)
        await service.start({})
        web = await service.attach("a" * 64, AttachRequest(ports=tuple(parse_publish("8080:80/sctp"))))
        assert [(port.host_ip, port.protocol) for port in web.endpoints[0].ports] == [("0.0.0.0", "sctp")]
        assert web.netns is not None
        where = ["nsenter", f"--net=/proc/self/fd/{web.netns.fileno()}", "--"]
        server = subprocess.Popen(
            [*where, PYTHON, "-I", "-S", "-c", SERVE], stdout=subprocess.PIPE, pass_fds=[web.netns.fileno()]
        )
        lab.processes.append(server)
        assert server.stdout is not None
        server.stdout.readline()
        for netns in (lab.outside, None):
            answer = run_in(netns, PYTHON, "-I", "-S", "-c", ASK, HOST, "8080").strip()
            assert answer == ("10.99.0.2" if netns is lab.outside else HOST)
        assert run_in(lab.outside, PYTHON, "-I", "-S", "-c", ASK, HOST, "80").strip() == ""

    in_laboratory(body)
