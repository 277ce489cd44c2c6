"""Queueing disciplines that hold a rate (tc(8), tc-tbf(8), tc-u32(8), tc-mirred(8); uapi/linux/pkt_sched.h, pkt_cls.h).

The functions make requests for a rtnetlink socket and touch nothing.
"""

from __future__ import annotations

import socket
import struct

from orlop.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    attribute_text,
    attribute_u32,
    nested,
)
from orlop.kernel.rtnetlink.links import IFLA_INFO_KIND, IFLA_LINKINFO, RTM_NEWLINK, link_body

RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER = 44
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TC_H_ROOT, _TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_INGRESS_HANDLE = 0xFFFF0000
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_LINKLAYER_ETHERNET = 1
_U32_SEL, _U32_ACT, _U32_TERMINAL = 5, 7, 1
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_TC_ACT_STOLEN, _EGRESS_REDIRECT = 4, 1
_ETH_P_ALL = 3
_HIGHEST_RATE32 = 0xFFFFFFFF

_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info
_RATESPEC = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_TBF_QOPT = struct.Struct("=III")  # limit, buffer, mtu; behind two rate specifications
_U32_SELECTOR = struct.Struct("=BBBxHHhhI")  # flags, offshift, nkeys, offmask, off, offoff, hoff, hmask
_U32_KEY = struct.Struct("=IIii")  # mask, val, off, offmask
_MIRRED = struct.Struct("=IIiiiiI")  # index, capab, action, refcnt, bindcnt, eaction, ifindex


def replace_token_bucket(index: int, *, rate: int, burst: int, limit: int) -> Request:
    """Ask a link to send no faster than a rate.

    Args:
        index: of the link.
        rate: bytes a second, with the Ethernet header.
        burst: bytes that may go at once.
        limit: bytes that wait at most; more are dropped.
    """
    small = min(rate, _HIGHEST_RATE32)
    spec = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, small)
    options = [
        attribute(_TBF_PARMS, spec + _RATESPEC.pack(0, 0, 0, 0, 0, 0) + _TBF_QOPT.pack(limit, 0, 0)),
        attribute_u32(_TBF_BURST, burst),
    ]
    if rate > small:
        options.append(attribute(_TBF_RATE64, struct.pack("=Q", rate)))
    body = _TCMSG.pack(socket.AF_UNSPEC, index, 0x10000, _TC_H_ROOT, 0)
    body += attribute_text(_TCA_KIND, "tbf") + nested(_TCA_OPTIONS, *options)
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body, f"set rate of link {index}")


def delete_root(index: int) -> Request:
    """Ask a link to send as fast as it can again; ENOENT: it does."""
    body = _TCMSG.pack(socket.AF_UNSPEC, index, 0, _TC_H_ROOT, 0)
    return Request(RTM_DELQDISC, 0, body, f"remove rate of link {index}")


def add_ingress(index: int) -> Request:
    """Ask for a place where filters see what comes in by a link; EEXIST: it is there."""
    body = _TCMSG.pack(socket.AF_UNSPEC, index, _INGRESS_HANDLE, _TC_H_INGRESS, 0) + attribute_text(
        _TCA_KIND, "ingress"
    )
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, f"add ingress of link {index}")


def delete_ingress(index: int) -> Request:
    """Ask for its removal, with all filters; ENOENT or EINVAL: it is not there."""
    body = _TCMSG.pack(socket.AF_UNSPEC, index, _INGRESS_HANDLE, _TC_H_INGRESS, 0)
    return Request(RTM_DELQDISC, 0, body, f"remove ingress of link {index}")


def redirect_all(index: int, target: int) -> Request:
    """Ask that all that comes in by a link goes out by another first (an ifb device gives it back after queueing)."""
    selector = _U32_SELECTOR.pack(_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _U32_KEY.pack(0, 0, 0, 0)
    mirred = attribute(_MIRRED_PARMS, _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _EGRESS_REDIRECT, target))
    action = nested(1, attribute_text(_ACT_KIND, "mirred"), nested(_ACT_OPTIONS, mirred))
    options = nested(_TCA_OPTIONS, attribute(_U32_SEL, selector), nested(_U32_ACT, action))
    info = (1 << 16) | socket.htons(_ETH_P_ALL)
    body = _TCMSG.pack(socket.AF_UNSPEC, index, 0, _INGRESS_HANDLE, info) + attribute_text(_TCA_KIND, "u32") + options
    return Request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body, f"redirect link {index} to {target}")


def add_ifb(name: str) -> Request:
    """Ask for an intermediate functional block device: a link that exists for its queue. It is made down."""
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "ifb"))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_body(0, name=name) + info, f"add ifb {name}")
