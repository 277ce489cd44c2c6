"""What a client of BuildKit's protocol has for its build, asked for on the session that it opened (``POST /session``).

====================================================  ===============================================================
``moby.filesync.v1.FileSync/DiffCopy``                files of contexts (incoming.py)
``moby.upload.v1.Upload/Pull``                        a context from the client's standard input
``moby.buildkit.secrets.v1.Secrets/GetSecret``        a secret, when a step mounts it
``moby.sshforward.v1.SSH/CheckAgent, ForwardAgent``   an SSH agent, likewise; the client lets keys be listed and used
``moby.filesync.v1.FileSend/DiffCopy``                takes what the build gives (outgoing.py)
``moby.filesync.v1.Auth/Credentials``                 a login, when its registry is about to be spoken to
====================================================  ===============================================================

A service that a client does not have is one that knows nothing. Tokens are fetched by the engine, with the login: it
may reach registries that the client cannot (``Auth/FetchToken`` is not called).

Source: github.com/moby/buildkit, ``session/*``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, urlsplit

from orlop.api.buildkit.incoming import Incoming
from orlop.api.buildkit.messages import (
    AgentRequest,
    BytesMessage,
    CredentialsRequest,
    CredentialsResponse,
    SecretRequest,
    SecretResponse,
)
from orlop.api.buildkit.outgoing import send_archive, send_directory
from orlop.api.grpc.status import CallError, Code
from orlop.engine.builds.client import EVERYTHING
from orlop.engine.builds.sessions import KEPT_BYTES, SECRET_LIMIT
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.image.feed import in_thread
from orlop.registry.credentials import ANONYMOUS, Credentials
from orlop.registry.endpoints import HUB
from orlop.spec.reference import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from orlop.api.grpc.channel import Channel
    from orlop.api.grpc.stream import Stream
    from orlop.engine.builds.client import Choice
    from orlop.engine.builds.context_files import ContextFiles

FILES = "/moby.filesync.v1.FileSync/DiffCopy"
UPLOAD = "/moby.upload.v1.Upload/Pull"
SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"  # noqa: S105 - a method's name
CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
FORWARD_AGENT = "/moby.sshforward.v1.SSH/ForwardAgent"
SEND = "/moby.filesync.v1.FileSend/DiffCopy"
CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
UPLOAD_HOST = "buildkit-session"
_AGENT_NAME = "buildkit.ssh.id"
_EXPORTER = "buildkit-attachable-exporter-id"
_PIECE = 1 << 15


class ClientSession:
    """Fulfils ``engine.builds.BuildClient`` and is a source of credentials, for one build.

    Args:
        channel: to the client, which outlives this.
        files: where contents are kept.
        shared_key: what the client calls the directory that it builds (``X-Docker-Expose-Session-Sharedkey``): what
            was received is remembered under it; empty to remember nothing.
        directories: the client's names of ``context`` and ``dockerfile``, as far as it has them.
        contexts: where named contexts come from, as in ``BuildClient``.
    """

    chooses = False

    def __init__(
        self,
        channel: Channel,
        files: ContextFiles,
        *,
        shared_key: str = "",
        directories: Mapping[str, str] | None = None,
        contexts: Mapping[str, str] | None = None,
    ) -> None:
        self._channel = channel
        self._files = files
        self._shared_key = shared_key
        self._directories = dict(directories or {})
        self.contexts: Mapping[str, str] = dict(contexts or {})
        self._methods = {name.lower() for name in channel.methods}  # clients differ in the case of methods
        self._tasks: set[asyncio.Task[None]] = set()
        self._trimming: asyncio.Future[int] | None = None
        self.received = 0  # bytes of files' contents

    def close(self) -> None:
        """End what is forwarded, and let go of contents that were of use for longest when there are too many."""
        for task in self._tasks:
            task.cancel()
        if self.received:
            self._trimming = asyncio.get_running_loop().run_in_executor(None, self._files.trim, KEPT_BYTES)

    def _serves(self, method: str) -> bool:
        return method.lower() in self._methods

    # Files.

    def holds(self, name: str) -> bool:
        """Tell whether the client said that it has this directory."""
        return name in self._directories

    async def lay_out(self, name: str, target: str, choice: Choice = EVERYTHING) -> None:
        """Make the files of a directory, of which only those travel that are not here."""
        await self.transfer(name, target, choice, told=lambda _: None)

    async def transfer(self, name: str, target: str, choice: Choice, *, told: Callable[[int], None]) -> int:
        """Make the files of a directory as :meth:`lay_out` does; returns how many bytes of them came.

        Args:
            name: of the directory.
            target: where they are made.
            choice: of them.
            told: is called with the bytes that have come, now and then.
        """
        directory = self._directories.get(name, name)
        if not self._serves(FILES):
            raise InvalidParameterError(f"the client sends no files: {directory}")
        key = f"{directory}\0{self._shared_key}" if self._shared_key and not choice.paths else ""
        incoming = Incoming(self._files, key=key, told=told)
        wishes = {"dir-name": [directory], "followpaths": choice.paths, "exclude-patterns": choice.without}
        with self._files.in_use(), contextlib.closing(incoming):
            try:
                async with await self._channel.stream(FILES, encode_metadata(wishes)) as stream:
                    entries = await incoming.receive(stream)
            except CallError as error:
                raise _refused(f"read files of the client: {directory}", error) from None
            self.received += incoming.received
            async with self._files.turns:
                await in_thread(lambda place: self._files.lay_out(entries, place), target)
        return incoming.received

    def upload(self, url: str) -> AsyncIterator[bytes] | None:
        """Return what the client uploads under a URL of its own."""
        parts = urlsplit(url)
        return self._pull(parts.path) if parts.netloc == UPLOAD_HOST else None

    async def _pull(self, path: str) -> AsyncIterator[bytes]:
        if not self._serves(UPLOAD):
            raise InvalidParameterError("the client uploads nothing")
        try:
            async with await self._channel.stream(UPLOAD, {"urlpath": path, "urlhost": UPLOAD_HOST}) as stream:
                while (message := await stream.receive()) is not None:
                    yield BytesMessage.decode(message).data
        except CallError as error:
            raise _refused("read what the client uploads", error) from None

    # What the build gives.

    async def send_archive(self, chunks: AsyncIterator[bytes], *, exporter: str = "") -> None:
        """Send the bytes of an archive to where the client wants them.

        Args:
            chunks: the archive.
            exporter: the client's number of this output; empty for a client that has one output only.

        Raises:
            SystemFailureError, UnavailableError, InvalidParameterError: the client does not take it, or has gone.
        """
        async with self._sending(exporter) as stream:
            await send_archive(stream, chunks)

    async def send_directory(self, directory: str, *, exporter: str = "") -> None:
        """Send what is in a directory, which nobody changes meanwhile. Arguments, errors: as of send_archive."""
        async with self._sending(exporter) as stream:
            await send_directory(stream, directory)

    @contextlib.asynccontextmanager
    async def _sending(self, exporter: str) -> AsyncIterator[Stream]:
        if not self._serves(SEND):
            raise InvalidParameterError("the client takes no output")
        metadata: dict[str, str | list[str]] = {_EXPORTER: exporter} if exporter else {}
        try:
            async with await self._channel.stream(SEND, metadata) as stream:
                yield stream
        except CallError as error:
            raise _refused("send output to the client", error) from None

    # Secrets and agents.

    async def secret(self, name: str) -> bytes | None:
        """Ask for a secret."""
        if not self._serves(SECRET):
            return None
        try:
            answer = await self._channel.unary(SECRET, SecretRequest(name=name).encode())
        except CallError as error:
            if error.code in (Code.NOT_FOUND, Code.UNIMPLEMENTED):
                return None
            raise _refused(f"get secret {name}", error) from None
        found = SecretResponse.decode(answer).data
        if len(found) > SECRET_LIMIT:
            raise InvalidParameterError(f"invalid secret: more than {SECRET_LIMIT} bytes: {name}")
        return found

    async def has_agent(self, name: str) -> bool:
        """Ask whether an agent is forwarded."""
        if not self._serves(CHECK_AGENT):
            return False
        try:
            await self._channel.unary(CHECK_AGENT, AgentRequest(name=name).encode())
        except CallError:
            return False  # the reason has no code of its own: "unset ssh forward key"
        return True

    async def connect_agent(self, name: str) -> socket.socket:
        """Return a stream to an agent: one of its own on the session, as agents keep state with a connection."""
        if not self._serves(FORWARD_AGENT):
            raise NotFoundError(f"unset ssh forward key {name}")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        task = asyncio.create_task(self._forward(name, ours))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return theirs

    async def _forward(self, name: str, ours: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=ours)
        with contextlib.suppress(OrlopError, ConnectionError), contextlib.closing(writer):
            async with await self._channel.stream(FORWARD_AGENT, encode_metadata({_AGENT_NAME: [name]})) as stream:
                copying = asyncio.create_task(_copy_out(reader, stream))
                try:
                    while (message := await stream.receive()) is not None:
                        writer.write(BytesMessage.decode(message).data)
                        await writer.drain()
                finally:
                    copying.cancel()
                    await asyncio.gather(copying, return_exceptions=True)

    def known_hosts(self) -> str:
        """Return nothing: BuildKit's clients do not tell it."""
        return ""

    # Logins.

    async def credentials(self, domain: str) -> Credentials:
        """Ask for the login of a registry."""
        if not self._serves(CREDENTIALS):
            return ANONYMOUS
        host = urlsplit(HUB).netloc if domain == DEFAULT_DOMAIN else domain
        try:
            answer = await self._channel.unary(CREDENTIALS, CredentialsRequest(host=host).encode())
        except CallError as error:
            if error.code is Code.UNIMPLEMENTED:
                return ANONYMOUS
            raise _refused(f"get credentials for {host}", error) from None
        login = CredentialsResponse.decode(answer)
        if not login.username:
            return Credentials(identity_token=login.secret)
        return Credentials(login.username, login.secret)


async def _copy_out(reader: asyncio.StreamReader, stream: Stream) -> None:
    while piece := await reader.read(_PIECE):
        await stream.send(BytesMessage(data=piece).encode())
    await stream.end()


def _refused(what: str, error: CallError) -> OrlopError:
    """Return what a build fails with when the client refused something."""
    return SystemFailureError(f"failed to {what}: {error}")


def encode_metadata(values: Mapping[str, Sequence[str]]) -> dict[str, str | list[str]]:
    """Return metadata as BuildKit's clients read it: a key with anything but ASCII is quoted, all of its values."""
    found: dict[str, str | list[str]] = {}
    for key, texts in values.items():
        if not texts:
            continue
        if all(one.isascii() and one.isprintable() for one in texts):
            found[key] = list(texts)
        else:
            found[key] = [quote_plus(one) for one in texts]
            found[f"{key}-encoded"] = "1"
    return found
