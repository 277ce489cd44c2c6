"""Git repositories of one build: fetched as ``git.py`` says, by SSH with the agent of the build's client.

::

    git, shut in ──▶ ssh ──▶ <work>/.agent ──▶ session ──▶ the user's agent, or keys (``orlop build --ssh``)

A server is known by the client's known_hosts, or, as with BuildKit, taken for what it says when that has no word of
it; a known one with another key is refused. The agent is not forwarded to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from orlop.engine.builds import git, submodules
from orlop.engine.builds.agents import listen
from orlop.errors import InvalidParameterError
from orlop.primitives.confined import NOBODY

if TYPE_CHECKING:
    from orlop.build.steps import BuildSecrets

_NAME = "default"


class Repositories:
    """Fetches repositories with what the client of one build has."""

    def __init__(self, client: BuildSecrets) -> None:
        self._client = client

    async def archive(self, url: str, work: str) -> list[str]:
        """Fetch a commit and its submodules, and write their files as tars.

        Args:
            url: of the repository, with a name and a directory.
            work: a private, empty directory; see ``submodules.archive``.

        Returns:
            Paths of tars, which are strangers' files, in the order in which they are to be unpacked over each other.

        Raises:
            InvalidParameterError, SystemFailureError, UnavailableError: as ``submodules.archive``; the client has no
                agent for a repository that is reached by SSH.
        """
        repository = git.parse_repository(url)
        if not git.is_ssh(repository.url):
            return await submodules.archive(repository, work)
        if not await self._client.has_agent(_NAME):
            raise InvalidParameterError(
                f'no SSH key "{_NAME}" forwarded from the client: {url[:200]}: use --ssh {_NAME} (orlop build, buildx)'
            )
        async with contextlib.AsyncExitStack() as stack:
            # Its directory is named by a descriptor: the address of a socket has room for a hundred bytes.
            directory = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            path = f"/proc/self/fd/{directory}/{git.AGENT}"
            await stack.enter_async_context(listen(path, lambda: self._client.connect_agent(_NAME)))
            os.chown(path, NOBODY, NOBODY)
            await asyncio.to_thread(git.write_known_hosts, work, self._client.known_hosts())
            return await submodules.archive(repository, work)
