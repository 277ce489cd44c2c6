"""How fast a container may send and receive on a network (resource isolation that Docker itself lacks).

What the container receives is held by a token bucket on the outer end of its veth pair. What it sends comes in there,
where nothing can wait, so it is led through an ifb device with a token bucket of its own first. Both are outside the
container: no capability inside takes them away.

    container eth0 ══ veth1a2b3c4 ── ingress: redirect ──▶ ifb1a2b3c4 (tbf: egress rate) ──▶ bridge
                      veth1a2b3c4 (tbf: ingress rate) ◀── bridge
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.kernel import rtnetlink, traffic_control
from orlop.kernel.netlink import NetlinkError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.kernel.netlink import Request
    from orlop.kernel.rtnetlink import Rtnetlink

EGRESS, INGRESS = "orlop.egress", "orlop.ingress"
EGRESS_BURST, INGRESS_BURST = "orlop.egress.burst", "orlop.ingress.burst"
OPTIONS = (EGRESS, INGRESS, EGRESS_BURST, INGRESS_BURST)
# of a container, for all of its networks; Kubernetes' names, which its CNI plugin "bandwidth" reads as well
ANNOTATIONS = {
    "kubernetes.io/egress-bandwidth": EGRESS,
    "kubernetes.io/ingress-bandwidth": INGRESS,
    "orlop.io/egress-burst": EGRESS_BURST,
    "orlop.io/ingress-burst": INGRESS_BURST,
}
_QUANTITY = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([A-Za-z]*)", re.ASCII)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_LEAST_RATE, _MOST_RATE = 1000, 10**12  # bits a second
_LEAST_BURST, _MOST_BURST = 2048, 2**30  # bytes
_ETHERNET_HEADER, _VLAN_TAG = 14, 4
_TCP_HEADERS = 20 + 20 + 12  # IPv4, TCP, its time stamps
# a bucket that is full sooner than the kernel comes to look at it again loses what flows in meanwhile
_BURST_SECONDS, _LEAST_BURST_SECONDS = 0.02, 0.005
_QUEUE_SECONDS, _LEAST_QUEUE = 0.1, 32 * 1024


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit: bytes a second (0: none) and bytes at once (0: what suits the rate)."""

    rate: int = 0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a token bucket is set to: bytes a second, bytes at once, bytes that wait at most; of Ethernet frames."""

    rate: int
    burst: int
    limit: int


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What a container may send (egress) and receive (ingress)."""

    egress: Rate = Rate()
    ingress: Rate = Rate()


def parse_rate(text: str) -> int:
    """Return the bytes a second of "10mbit", "10M", "1.5gbit" or "10000000" (bits a second); "0" is no limit.

    Raises:
        InvalidParameterError: it is no rate.
    """
    match = _QUANTITY.fullmatch(text.strip())
    unit = match[2].lower().removesuffix("bit") if match is not None else ""
    if match is None or unit not in _UNITS:
        raise InvalidParameterError(f"invalid rate: {text!r}")
    bits = float(match[1]) * _UNITS[unit]
    if bits and not _LEAST_RATE <= bits <= _MOST_RATE:
        raise InvalidParameterError(f"invalid rate: {text!r}: from 1kbit to 1000gbit")
    return int(bits / 8)


def parse_burst(text: str) -> int:
    """Return the bytes of "64k", "1Mi" or "65536". Raises InvalidParameterError."""
    match = _QUANTITY.fullmatch(text.strip())
    unit = match[2].lower().removesuffix("b") if match is not None else ""
    if match is None or unit not in _UNITS:
        raise InvalidParameterError(f"invalid burst: {text!r}")
    size = int(float(match[1]) * _UNITS[unit])
    if not _LEAST_BURST <= size <= _MOST_BURST:
        raise InvalidParameterError(f"invalid burst: {text!r}: from 2KiB to 1GiB")
    return size


def parse_options(options: Mapping[str, str]) -> Bandwidth:
    """Return what the options of an endpoint say; other options are left aside. Raises InvalidParameterError."""
    return Bandwidth(_limit(options, EGRESS, EGRESS_BURST), _limit(options, INGRESS, INGRESS_BURST))


def from_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return the options that a container's annotations stand for."""
    return {option: annotations[name] for name, option in ANNOTATIONS.items() if annotations.get(name)}


def _limit(options: Mapping[str, str], rate_option: str, burst_option: str) -> Rate:
    rate = parse_rate(options[rate_option]) if options.get(rate_option) else 0
    return Rate(rate, parse_burst(options[burst_option]) if options.get(burst_option) else 0)


def bucket_for(limit: Rate, *, mtu: int) -> Bucket:
    """Return the bucket that lets TCP's payload through at a rate, on a link with this MTU.

    Users count what arrives, as iperf3 does; a bucket counts frames, of which with an MTU of 1500 95.6 % is payload.
    The rate of frames is that much higher. (UDP may be 2 % faster then and TCP over IPv6 2 % slower.)

    A burst is at least two frames, for a frame that is larger than the bucket never passes, and 5 ms of the rate. What
    waits is 0.1 s: with half of that one connection of bbr lost 6 % at 10 Mbit/s to repeating what was dropped.
    """
    frame = mtu + _ETHERNET_HEADER + _VLAN_TAG
    rate = limit.rate * (mtu + _ETHERNET_HEADER) // (mtu - _TCP_HEADERS)
    burst = max(limit.burst or int(rate * _BURST_SECONDS), int(rate * _LEAST_BURST_SECONDS), 2 * frame)
    burst = min(burst, _MOST_BURST)
    waiting = min(max(int(rate * _QUEUE_SECONDS), 2 * frame, _LEAST_QUEUE), _MOST_BURST)
    return Bucket(rate, burst, burst + waiting)


def ifb_name(host_interface: str) -> str:
    """Return the name of the device that goes with a veth link."""
    return f"ifb{host_interface.removeprefix('veth')}"


def apply(host: Rtnetlink, host_interface: str, wanted: Bandwidth) -> None:
    """Hold a link to the rates, and to no others. Raises NetlinkError."""
    link = host.link(host_interface)
    index = link.index
    if wanted.ingress.rate:
        host.execute(_hold(index, bucket_for(wanted.ingress, mtu=link.mtu)))
    else:
        _unless(host, traffic_control.delete_root(index), errno.ENOENT, errno.EINVAL)
    name = ifb_name(host_interface)
    if not wanted.egress.rate:
        _unless(host, traffic_control.delete_ingress(index), errno.ENOENT, errno.EINVAL)
        remove(host, host_interface)
        return
    _unless(host, traffic_control.add_ifb(name), errno.EEXIST)
    device = host.link(name)
    host.execute(
        _hold(device.index, bucket_for(wanted.egress, mtu=link.mtu)), rtnetlink.set_link(device.index, up=True)
    )
    try:
        host.execute(traffic_control.add_ingress(index))
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        return  # it is redirected already
    host.execute(traffic_control.redirect_all(index, device.index))


def remove(host: Rtnetlink, host_interface: str) -> None:
    """Remove the device of a link that is going; one that is gone is no error."""
    _unless(host, rtnetlink.delete_link(name=ifb_name(host_interface)), errno.ENODEV)


def _hold(index: int, bucket: Bucket) -> Request:
    return traffic_control.replace_token_bucket(index, rate=bucket.rate, burst=bucket.burst, limit=bucket.limit)


def _unless(host: Rtnetlink, request: Request, *numbers: int) -> None:
    try:
        host.execute(request)
    except NetlinkError as error:
        if error.errno not in numbers:
            raise
