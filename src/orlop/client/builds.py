"""Builds: Docker's ``POST /build``, and orlop's sessions before it (docs/reference/builds.md)."""

from __future__ import annotations

from orlop.client.transport import as_object, encode_filters, iterate_documents, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orlop.client.connection import HijackedStream, Response
    from orlop.client.transport import Filters, Transport
    from orlop.spec.json import JsonObject


class Builds:
    """``/build``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def build(
        self,
        context: Iterable[bytes] | None,
        query: Mapping[str, str | Sequence[str] | None],
        *,
        auth: str = "",
    ) -> Iterator[JsonObject]:
        """Build an image. Yields progress; a failure is a document with "error".

        Args:
            context: a tar's bytes, sent as they come; None when the session or ``remote`` says where it is.
            query: the parameters of ``POST /build``, as the API names them.
            auth: the user's credentials for all registries, as ``X-Registry-Config`` has them.
        """
        headers = [("Content-Type", "application/x-tar"), *([("X-Registry-Config", auth)] if auth else [])]
        body = b"" if context is None else context
        return iterate_documents(self._transport.stream("POST", "/build", query, body=body, headers=headers))

    def begin(self, document: Mapping[str, object]) -> str:
        """Begin a session: secrets, agents and named contexts. Returns its id."""
        return str(self._transport.post("/build/sessions", document=document).get("Id", ""))

    def end(self, session: str) -> None:
        """Forget a session that no build took."""
        self._transport.fetch("DELETE", f"/build/sessions/{session}")

    def announce(self, session: str, name: str, manifest: bytes) -> list[str]:
        """Tell a context's files. Returns the digests of the contents that the engine does not have."""
        headers = [("Content-Type", "application/json")]
        path = f"/build/sessions/{session}/contexts/{quote(name)}"
        with self._transport.stream("POST", path, body=manifest, headers=headers) as response:
            missing = as_object(response.read()).get("Missing")
        return [str(digest) for digest in missing] if isinstance(missing, list) else []

    def send(self, session: str, frames: Iterable[bytes]) -> None:
        """Send contents: for each 32 bytes of sha256, 8 of length (big endian), the bytes."""
        headers = [("Content-Type", "application/octet-stream")]
        with self._transport.stream("POST", f"/build/sessions/{session}/files", body=frames, headers=headers) as answer:
            answer.read()

    def connect_agent(self, session: str, name: str) -> HijackedStream:
        """Return the stream through which steps reach the user's SSH agent."""
        return self._transport.hijack(f"/build/sessions/{session}/agents/{quote(name)}")

    def tree(self, image: str) -> Response:
        """Return an image's files as a tar stream. Close it."""
        return self._transport.stream("GET", f"/images/{quote(image, also=b':')}/tree")

    def prune(self, *, filters: Filters | None = None, everything: bool = False, keep: int = 0) -> JsonObject:
        """Forget the build cache.

        Args:
            filters: only what matches: until, id, type, inuse, shared, private.
            everything: also what images with a name stand on.
            keep: bytes that may stay.
        """
        query = {
            "filters": encode_filters(filters),
            "all": everything,
            "keep-storage": str(keep) if keep else None,
        }
        return self._transport.post("/build/prune", query)
