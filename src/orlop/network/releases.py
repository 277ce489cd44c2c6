"""Containers' networks that are taken down behind their ends: nobody waits, but for who needs what they still hold.

Who waits for a container's end is answered first: marking its link down takes the kernel 0.3 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from orlop.network.attachments import Attachments
    from orlop.network.container import ContainerDriver
    from orlop.network.driver import Driver
    from orlop.network.sandbox import Endpoint, Sandbox

_AFTER_ANSWER = 0.002  # seconds from an end to its release, unless somebody needs what it holds
_LINGER = 1.0  # seconds that the kernel gets to remove a dead container's links by itself
_log = logging.getLogger(__name__)


class Releases:
    """Owns the releases that are under way and what follows them.

    Args:
        changes: connects and disconnects under way, by container id; the service's own mapping.
        shared: where containers that share another's network are released.
    """

    def __init__(self, changes: Mapping[str, asyncio.Task[object]], *, shared: ContainerDriver) -> None:
        self._changes = changes
        self._shared = shared
        self._under_way: dict[str, asyncio.Task[None]] = {}  # by container id
        self._chores: set[asyncio.Task[None]] = set()
        self._needed = asyncio.Event()  # of the releases that have not begun

    def begin(self, container_id: str, sandbox: Sandbox, attachments: Attachments) -> None:
        """Take a network down in the background; its names are gone at once."""
        if sandbox.mode != "container":
            attachments.hide(container_id, sandbox)
        work = self._release(container_id, sandbox, attachments, needed=self._needed)
        task = asyncio.get_running_loop().create_task(work, name=f"release {container_id:.12}")
        self._under_way[container_id] = task
        task.add_done_callback(lambda _: self._under_way.pop(container_id, None))

    async def hasten(self) -> None:
        """Have those begun that were put off: addresses without ports are free afterwards."""
        if self._under_way:
            self._needed.set()
            self._needed = asyncio.Event()
            await asyncio.sleep(0)

    async def wait_for(self, container_id: str) -> None:
        """Wait until a container's network is down, if it is being taken down."""
        await self.hasten()
        pending = self._under_way.get(container_id)
        if pending is not None:
            await asyncio.wait([pending])

    async def settle(self) -> None:
        """Wait until all that are under way are done."""
        while self._under_way:
            await self.hasten()
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End what follows them."""
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def _release(
        self, container_id: str, sandbox: Sandbox, attachments: Attachments, *, needed: asyncio.Event
    ) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_ANSWER):
                await needed.wait()
        if sandbox.mode == "container":
            self._shared.release(sandbox)
            return
        change = self._changes.get(container_id)
        if change is not None:
            await asyncio.wait([change])  # it uses the namespace
        try:
            for driver, endpoint in await attachments.release(container_id, sandbox):
                self._chore(_remove_link_later(driver, endpoint))
        except Exception:  # noqa: BLE001 - nobody waits for this; the next start cleans up after it
            _log.exception("cannot take down the network of container %.12s", container_id)

    def _chore(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


async def _remove_link_later(driver: Driver, endpoint: Endpoint) -> None:
    """Remove a link whose namespace something else keeps alive; mostly the kernel was faster."""
    await asyncio.sleep(_LINGER)
    await asyncio.to_thread(driver.delete_link, endpoint)
