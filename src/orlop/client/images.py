"""Images."""

from __future__ import annotations

from orlop.client.transport import encode_filters, iterate_documents, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orlop.client.connection import Response
    from orlop.client.transport import Documents, Filters, Transport
    from orlop.spec.json import JsonObject

_SLASHES = b"/$&+=:@"


class Images:
    """``/images``: every method takes a reference, an id or a unique prefix of one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, everything: bool = False, filters: Filters | None = None) -> Documents:
        """List images."""
        return self._transport.get_list("/images/json", {"all": everything, "filters": encode_filters(filters)})

    def inspect(self, name: str) -> JsonObject:
        """Return the whole description."""
        return self._transport.get(f"/images/{quote(name, also=_SLASHES)}/json")

    def history(self, name: str) -> Documents:
        """Return how its layers were made."""
        return self._transport.get_list(f"/images/{quote(name, also=_SLASHES)}/history")

    def tag(self, name: str, *, repository: str, tag: str) -> None:
        """Give an image another name."""
        self._transport.fetch("POST", f"/images/{quote(name, also=_SLASHES)}/tag", {"repo": repository, "tag": tag})

    def remove(self, name: str, *, force: bool = False, no_prune: bool = False) -> Documents:
        """Remove a name, and the image with its last name. Returns Untagged and Deleted entries."""
        from orlop.client.transport import as_list

        query = {"force": force, "noprune": no_prune}
        return as_list(self._transport.fetch("DELETE", f"/images/{quote(name, also=_SLASHES)}", query))

    def import_archive(
        self,
        archive: Iterable[bytes] | None,
        *,
        repository: str = "",
        tag: str = "",
        source: str = "-",
        changes: Sequence[str] = (),
        message: str = "",
        platform: str = "",
    ) -> Iterator[JsonObject]:
        """Make an image of a tar archive (pieces of bytes, sent as they come). Yields progress; the last has the id.

        Args:
            archive: the archive's bytes; None when ``source`` is a URL that the engine reads itself.
            repository: name of the image, may be empty.
            tag: its tag.
            source: "-" or a URL.
            changes: Dockerfile instructions, such as ``CMD ["sh"]``.
            message: comment for the history.
            platform: such as linux/amd64.
        """
        query = {
            "fromSrc": source,
            "repo": repository or None,
            "tag": tag or None,
            "message": message or None,
            "changes": changes,
            "platform": platform or None,
        }
        headers = [("Content-Type", "text/plain")] if archive is not None else []
        return iterate_documents(self._transport.stream("POST", "/images/create", query, body=archive, headers=headers))

    def pull(self, repository: str, *, tag: str = "", platform: str = "", auth: str = "") -> Iterator[JsonObject]:
        """Fetch an image from a registry. Yields progress documents; a failure is one with "error".

        Args:
            repository: name without tag.
            tag: tag or digest; empty for all tags.
            platform: such as linux/amd64.
            auth: the user's credentials, as ``X-Registry-Auth`` has them.
        """
        query = {"fromImage": repository, "tag": tag or None, "platform": platform or None}
        headers = [("X-Registry-Auth", auth)] if auth else []
        return iterate_documents(self._transport.stream("POST", "/images/create", query, headers=headers))

    def push(self, repository: str, *, tag: str = "", auth: str = "") -> Iterator[JsonObject]:
        """Send an image, or with an empty ``tag`` all tags of a repository, to its registry. As :meth:`pull`."""
        path = f"/images/{quote(repository, also=_SLASHES)}/push"
        headers = [("X-Registry-Auth", auth or "e30=")]
        return iterate_documents(self._transport.stream("POST", path, {"tag": tag or None}, headers=headers))

    def save(self, names: Sequence[str]) -> Response:
        """Return images as a tar stream. Close it."""
        return self._transport.stream("GET", "/images/get", {"names": names})

    def load(self, archive: Iterable[bytes], *, quiet: bool = False) -> Iterator[JsonObject]:
        """Read images from what ``save`` wrote."""
        headers = [("Content-Type", "application/x-tar")]
        query = {"quiet": "1" if quiet else "0"}
        return iterate_documents(self._transport.stream("POST", "/images/load", query, body=archive, headers=headers))

    def prune(self, *, filters: Filters | None = None) -> JsonObject:
        """Remove unused images. Returns ImagesDeleted and SpaceReclaimed."""
        return self._transport.post("/images/prune", {"filters": encode_filters(filters)})
