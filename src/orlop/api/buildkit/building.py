"""The client of one build, whose files are told of as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.buildkit.client_session import ClientSession
from orlop.engine.builds.client import EVERYTHING
from orlop.engine.builds.contexts import DOCKERFILE, IGNORE, MAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.api.buildkit.attributes import Wishes
    from orlop.api.buildkit.sessions import OpenSession
    from orlop.api.buildkit.status_log import StatusLog
    from orlop.api.buildkit.telling import BuildTelling
    from orlop.engine.builds.client import Choice
    from orlop.engine.builds.context_files import ContextFiles


class BuildingClient(ClientSession):
    """A client's session that tells of each directory as a step.

    Args:
        session: the client's.
        files: where contents are kept.
        wishes: of the build.
        contexts: where its named contexts come from, results of other builds being images.
        telling: of the build.
        log: of the build.
    """

    def __init__(
        self,
        session: OpenSession,
        files: ContextFiles,
        wishes: Wishes,
        *,
        contexts: Mapping[str, str],
        telling: BuildTelling,
        log: StatusLog,
    ) -> None:
        super().__init__(
            session.channel,
            files,
            shared_key=session.shared_key,
            directories=wishes.directories,
            contexts=contexts,
        )
        self._wishes = wishes
        self._telling = telling
        self._log = log

    async def lay_out(self, name: str, target: str, choice: Choice = EVERYTHING) -> None:
        """Make the files of a directory, and tell of it."""
        title, part = f"[context {name}] load from client", "transferring context:"
        if name == DOCKERFILE:
            part = "transferring dockerfile:"
            title = f"[internal] load build definition from {self._wishes.filename}"
        elif choice.paths == (IGNORE,):
            title = f"[internal] load {IGNORE}"
        elif name == MAIN:
            title = "[internal] load build context"
        with self._log.step(title) as step:
            if name == DOCKERFILE:
                self._telling.definition = step
            size = await self.transfer(name, target, choice, told=lambda size: step.part(part, size))
            step.part(part, size, over=True)
