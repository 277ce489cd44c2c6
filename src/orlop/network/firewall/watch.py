"""Tells when somebody else changes the rules, so that ours can be put back (threats.md G5).

The kernel reports every change of nf_tables on a netlink group, and both ``iptables-nft`` and firewalld end there. The
old iptables back end reports nothing: there the tables are looked at every few seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import TYPE_CHECKING

from orlop.errors import OrlopError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7  # include/uapi/linux/netfilter/nfnetlink.h
_QUIET = 0.5  # seconds without another change, after which the rules are looked at
_PERIOD = 4.0  # seconds between looks where nothing is reported
_log = logging.getLogger(__name__)


class RulesWatch:
    """Calls ``restore`` after changes of the rule set; our own count as well, and find nothing to do.

    Args:
        restore: puts the rules back and returns whether any were missing.
        reported: whether the kernel reports changes; otherwise look every :data:`_PERIOD` seconds.
    """

    def __init__(self, restore: Callable[[], Awaitable[bool]], *, reported: bool) -> None:
        self._restore = restore
        self._socket = _open_group() if reported else None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch, in the running event loop."""
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.add_reader(self._socket.fileno(), self._read)
        self._task = loop.create_task(self._watch(), name="firewall-watch")

    async def close(self) -> None:
        """Stop watching."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _read(self) -> None:
        """Empty the socket; what the changes were does not matter, nor whether some were lost."""
        assert self._socket is not None  # noqa: S101 - the reader exists only with it
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # changes came faster than they were read
                    break
        self._changed.set()

    async def _watch(self) -> None:
        while True:
            if self._socket is None:
                await asyncio.sleep(_PERIOD)
            else:
                await self._changed.wait()
                await asyncio.sleep(_QUIET)
                self._changed.clear()
            try:
                if await self._restore():
                    _log.warning("firewall rules had been removed by somebody else and were put back")
            except OrlopError as error:
                _log.warning("cannot put firewall rules back: %s", error)


def _open_group() -> socket.socket | None:
    try:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        sock = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
    except OSError:
        return None  # no nfnetlink in this kernel
    try:
        sock.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
    except OSError:
        sock.close()
        return None
    return sock
