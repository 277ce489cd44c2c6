"""G1, CVE-2020-13401 and CVE-2024-32473: a container that says it is the router is believed by nobody."""

import pytest
from hostile import python, python_volumes

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
PREFIX = "2001:db8:bad:"
ADVERTISE = """
import socket, struct, time
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(("eth0", 0x86DD))
mac = link.getsockname()[4]
body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
body += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
body += struct.pack("!BB", 1, 1) + mac
ends = socket.inet_pton(socket.AF_INET6, "fe80::bad") + socket.inet_pton(socket.AF_INET6, "ff02::1")
words = ends + struct.pack("!II", len(body), 58) + body
total = sum(struct.unpack(f"!{len(words) // 2}H", words))
while total >> 16:
    total = (total & 0xFFFF) + (total >> 16)
body = body[:2] + struct.pack("!H", 0xFFFF - total) + body[4:]
frame = bytes.fromhex("333300000001") + mac + b"\\x86\\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + ends + body
for _ in range(5):
    link.send(frame)
    time.sleep(0.1)
"""


@pytest.mark.parametrize("six", [False, True], ids=["IPv4 only", "IPv6"])
def test_a_container_that_advertises_itself_as_router(own_engine, six) -> None:
    engine = own_engine
    engine.docker("network", "create", *(("--ipv6", "--subnet", "fd00:9::/64") if six else ()), "net")
    engine.docker("run", "-d", "--name", "victim", "--network", "net", "busybox", "sleep", "100")
    before = engine.in_network("ip", "-6", "route").stdout
    engine.docker("run", "--rm", "--network", "net", *python_volumes(), "busybox", *python(ADVERTISE))
    seen = engine.docker("exec", "victim", "sh", "-c", "ip -6 addr; ip -6 route").stdout
    assert PREFIX not in seen
    assert "fe80::bad" not in seen
    assert ("fd00:9::" in seen) is six
    after = engine.in_network("ip", "-6", "route").stdout
    assert PREFIX not in after + engine.in_network("ip", "-6", "addr").stdout
    assert "fe80::bad" not in after
    assert {*after.splitlines()} <= {*before.splitlines()}
