"""Netlink: bytes as the kernel's headers say, with pyroute2 as oracle, and batches against the real kernel."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from orlop.kernel import netlink, rtnetlink
from orlop.kernel.netlink import NetlinkError

HEADER = b"\0" * 16


def oracle(cls: type, body: bytes):
    """Let pyroute2 read a body of ours."""
    data = struct.pack("=IHHII", 16 + len(body), 0, 0, 0, 0) + body
    message = cls(data)
    message.decode()
    return message


def test_veth():
    request = rtnetlink.add_veth("veth0123456", "eth0", peer_netns=7, mtu=1400)
    message = oracle(ifinfmsg, request.body)
    assert message.get_attr("IFLA_IFNAME") == "veth0123456"
    assert message.get_attr("IFLA_MTU") == 1400
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_NET_NS_FD") == 7
    assert peer.get_attr("IFLA_MTU") == 1400


def test_bridge():
    body = rtnetlink.add_bridge("docker0", address=b"\x02B\0\0\0\1", mtu=1500).body
    message = oracle(ifinfmsg, body)
    assert message.get_attr("IFLA_ADDRESS") == "02:42:00:00:00:01"
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "bridge"
    assert info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_BR_STP_STATE") == 0


def test_set_link():
    message = oracle(ifinfmsg, rtnetlink.set_link(5, up=True, master=3, mtu=9000, name="n").body)
    assert (message["index"], message["flags"], message["change"]) == (5, 1, 1)
    assert message.get_attr("IFLA_MASTER") == 3
    message = oracle(ifinfmsg, rtnetlink.set_link(5, up=False).body)
    assert (message["flags"], message["change"]) == (0, 1)
    message = oracle(ifinfmsg, rtnetlink.set_link(5, address=b"\1" * 6).body)
    assert (message["flags"], message["change"]) == (0, 0)


def test_address_and_route():
    message = oracle(ifaddrmsg, rtnetlink.add_address(4, ipaddress.ip_interface("172.17.0.2/16")).body)
    assert (message["index"], message["prefixlen"], message["family"]) == (4, 16, socket.AF_INET)
    assert message.get_attr("IFA_LOCAL") == "172.17.0.2"
    assert message.get_attr("IFA_BROADCAST") == "172.17.255.255"
    message = oracle(ifaddrmsg, rtnetlink.add_address(4, ipaddress.ip_interface("fd00::2/64")).body)
    assert message.get_attr("IFA_ADDRESS") == "fd00::2"
    message = oracle(rtmsg, rtnetlink.add_route(None, index=4, gateway=ipaddress.ip_address("172.17.0.1")).body)
    assert (message["dst_len"], message["scope"], message["table"]) == (0, 0, 254)
    assert message.get_attr("RTA_GATEWAY") == "172.17.0.1"
    assert message.get_attr("RTA_OIF") == 4
    message = oracle(rtmsg, rtnetlink.add_route(ipaddress.ip_network("10.0.0.0/8"), index=4).body)
    assert (message["dst_len"], message["scope"]) == (8, 253)
    assert message.get_attr("RTA_DST") == "10.0.0.0"


def test_forwarding_entry():
    message = oracle(ndmsg, rtnetlink.add_forwarding(9, b"\x02B\0\0\0\1").body)
    assert (message["family"], message["ifindex"], message["flags"]) == (socket.AF_BRIDGE, 9, 4)
    assert message.get_attr("NDA_LLADDR") == "02:42:00:00:00:01"


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), unique_by=lambda pair: pair[0]))
def test_attributes_round_trip(pairs: list[tuple[int, bytes]]):
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert netlink.parse_attributes(data) == dict(pairs)
    assert len(data) % 4 == 0


@given(st.binary(max_size=64))
def test_bad_bytes_are_value_errors(data: bytes):
    try:
        netlink.parse_attributes(data)
        list(netlink.decode(data))
    except ValueError:
        pass


def test_only_the_last_of_a_batch_asks_for_an_ack():
    requests = [rtnetlink.set_link(1, up=True), rtnetlink.get_link(1)]
    flags = [struct.unpack_from("=IHHII", data)[2:4] for data in _split(netlink.encode(requests, 10))]
    assert flags == [(netlink.NLM_F_REQUEST, 10), (netlink.NLM_F_REQUEST | netlink.NLM_F_ACK, 11)]


def _split(data: bytes) -> list[bytes]:
    parts = []
    while data:
        (length,) = struct.unpack_from("=I", data)
        parts.append(data[:length])
        data = data[(length + 3) & ~3 :]
    return parts


def test_reading_the_real_kernel():
    with rtnetlink.Rtnetlink.open() as rtnl:
        link = rtnl.link("lo")
        assert link.index == socket.if_nametoindex("lo")
        assert rtnl.link_at(link.index).name == "lo"
        before = {name for _, name in socket.if_nameindex()}
        names = {found.name for found in rtnl.links()}
        after = {name for _, name in socket.if_nameindex()}
        assert before & after <= names <= before | after  # others come and go on this machine
        with pytest.raises(NetlinkError) as caught:
            rtnl.link("no-such-link")
        assert caught.value.errno == errno.ENODEV
        assert str(caught.value).startswith("get link no-such-link: no such device (ENODEV)")
        assert rtnl.link("lo").name == "lo"  # an error leaves nothing behind in the socket


IN_NAMESPACE = r"""
import errno, ipaddress, os, socket, sys
from orlop.kernel import rtnetlink as r
from orlop.kernel.netlink import NetlinkError
from pyroute2 import IPRoute
rtnl, oracle = r.Rtnetlink.open(), IPRoute()
rtnl.execute(r.add_bridge("br0", address=bytes.fromhex("024200000001")), r.set_link(0, name="br0", alias="mine"))
br = rtnl.link("br0")
assert br.kind == "bridge" and br.stp is False and br.alias == "mine" and not br.up, br
answers = rtnl.execute(r.add_veth("va", "vb"), r.refuse_link_local("va"), r.set_link(0, name="va", up=True, master=br.index),
                       r.set_link(0, name="vb", up=True), r.get_link(name="va"))
va = r.parse_link(answers[0])
assert va.master == br.index and va.up
rtnl.execute(r.set_port_hairpin(va.index, enabled=True), r.set_bridge_stp(br.index, enabled=True))
assert "hairpin on" in os.popen("bridge -d link show dev va").read()
assert rtnl.link("br0").stp is True
assert [link.name for link in rtnl.links(master=br.index)] == ["va"]
rtnl.execute(r.add_address(br.index, ipaddress.ip_interface("10.0.0.1/24")), r.set_link(br.index, up=True, mtu=1400))
rtnl.execute(r.add_route(None, gateway=ipaddress.ip_address("10.0.0.9")), r.add_route(ipaddress.ip_network("10.9.0.0/16"), index=br.index))
theirs = [l for l in oracle.get_links() if l.get_attr("IFLA_IFNAME") == "br0"][0]
assert theirs.get_attr("IFLA_MTU") == 1400 and theirs.get_attr("IFLA_ADDRESS") == "02:42:00:00:00:01"
assert {(a.get_attr("IFA_ADDRESS"), a["prefixlen"]) for a in oracle.get_addr(family=socket.AF_INET)} == {(str(a.interface.ip), a.interface.network.prefixlen) for a in rtnl.addresses() if a.interface.version == 4} == {("10.0.0.1", 24)}
mine = {(str(x.destination), str(x.gateway)) for x in rtnl.routes()}
assert mine == {("0.0.0.0/0", "10.0.0.9"), ("10.9.0.0/16", "None"), ("10.0.0.0/24", "None")}, mine
dumped = {(x.get_attr("RTA_DST") or "0.0.0.0") for x in oracle.get_routes(family=socket.AF_INET, table=254)}
assert dumped == {"0.0.0.0", "10.9.0.0", "10.0.0.0"}, dumped
rtnl.execute(r.delete_route(None, gateway=ipaddress.ip_address("10.0.0.9")), r.delete_address(br.index, ipaddress.ip_interface("10.0.0.1/24")))
assert not [x for x in rtnl.routes() if x.gateway]
# a failure in the middle: the rest is carried out, the first error is reported with the kernel's words
try:
    rtnl.execute(r.add_bridge("br0"), r.set_link(va.index, mtu=1300))
except NetlinkError as error:
    assert error.errno == errno.EEXIST and "add bridge br0" in str(error), error
else:
    raise AssertionError
assert rtnl.link("va").mtu == 1300
try:
    rtnl.execute(r.set_link(va.index, mtu=70000))
except NetlinkError as error:
    assert "mtu greater than device maximum" in str(error), error
else:
    raise AssertionError
rtnl.execute(r.delete_link(name="va"), r.delete_link(br.index))
assert [l.name for l in rtnl.links()] == ["lo"]
for i in range(300):
    rtnl.execute(r.add_bridge(f"b{i}"))
assert len(rtnl.links()) == 301   # more than one read
print("done")
"""


@pytest.mark.privileged
@pytest.mark.requires("root", "netns")
def test_changes_in_a_namespace_agree_with_pyroute2():
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", IN_NAMESPACE], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_socket_is_the_callers_descriptor():
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    rtnl = rtnetlink.Rtnetlink(sock)
    assert rtnl.fileno() == sock.fileno()
    rtnl.close()
    rtnl.close()
    with pytest.raises(OSError):
        os.fstat(sock.fileno() if sock.fileno() >= 0 else 10**6)
