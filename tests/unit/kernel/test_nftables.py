"""Requests to nf_tables."""

from __future__ import annotations

from orlop.kernel.nftables import lead_ports

_NEWTABLE, _DELTABLE = 0xA00, 0xA02  # include/uapi/linux/netfilter/nf_tables.h


def tables(*, fresh: bool) -> list[int]:
    requests = lead_ports("t", b"\x7f\0\0\x0b", [(17, 53, 4000)], fresh=fresh)
    return [request.kind for request in requests if request.kind in (_NEWTABLE, _DELTABLE)]


def test_nothing_is_deleted_where_nothing_is() -> None:
    """Closing the socket would wait until the kernel has taken the deleted table apart."""
    assert tables(fresh=True) == [_NEWTABLE]


def test_what_is_there_is_replaced() -> None:
    assert tables(fresh=False) == [_NEWTABLE, _DELTABLE, _NEWTABLE]
