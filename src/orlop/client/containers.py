"""Containers and exec sessions."""

from __future__ import annotations

from orlop.client.transport import as_object, encode_filters, iterate_documents, quote
from orlop.errors import NotModifiedError, OrlopError, SystemFailureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orlop.client.connection import HijackedStream, Response
    from orlop.client.transport import Documents, Filters, Transport
    from orlop.spec.json import JsonObject


class PathStat:
    """What a path in a container is: name, size, Go's file mode, and where a link leads."""

    __slots__ = ("link_target", "mode", "name", "size")

    def __init__(self, name: str, size: int, mode: int, link_target: str) -> None:
        self.name = name
        self.size = size
        self.mode = mode
        self.link_target = link_target


class PendingWait:
    """An answer to ``wait`` that comes when the container exits; ``fileno`` is readable then."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._response.fileno()

    def result(self) -> int:
        """Block until the container exited, and return its exit code.

        Raises:
            SystemFailureError: the engine could not wait.
        """
        with self._response:
            document = as_object(self._response.read())
        problem = document.get("Error")
        if isinstance(problem, dict) and problem.get("Message"):
            raise SystemFailureError(str(problem["Message"]))
        code = document.get("StatusCode")
        return code if isinstance(code, int) else 125

    def close(self) -> None:
        """Stop waiting."""
        self._response.close()


class Containers:
    """``/containers``: every method takes a name, an id or a unique prefix of one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, document: Mapping[str, object], *, name: str | None = None, platform: str | None = None
    ) -> JsonObject:
        """Create a container; the document is Docker's (Image, Cmd, HostConfig, …). Returns Id and Warnings."""
        return self._transport.post(
            "/containers/create", {"name": name or None, "platform": platform or None}, document=document
        )

    def list(
        self, *, everything: bool = False, limit: int = 0, size: bool = False, filters: Filters | None = None
    ) -> Documents:
        """List running containers, or all."""
        query = {"all": everything, "limit": limit or None, "size": size, "filters": encode_filters(filters)}
        return self._transport.get_list("/containers/json", query)

    def inspect(self, name: str, *, size: bool = False) -> JsonObject:
        """Return the whole description."""
        return self._transport.get(f"{_path(name)}/json", {"size": size})

    def start(self, name: str, *, detach_keys: str = "") -> bool:
        """Start; False: it was running already."""
        return self._act(name, "start", {"detachKeys": detach_keys or None})

    def stop(self, name: str, *, timeout: int | None = None, signal: str = "") -> bool:
        """Stop with the stop signal, then by SIGKILL after ``timeout`` seconds; False: it was stopped already."""
        return self._act(name, "stop", {"t": timeout, "signal": signal or None})

    def restart(self, name: str, *, timeout: int | None = None, signal: str = "") -> bool:
        """Stop and start."""
        return self._act(name, "restart", {"t": timeout, "signal": signal or None})

    def kill(self, name: str, *, signal: str = "") -> bool:
        """Send a signal, SIGKILL unless named."""
        return self._act(name, "kill", {"signal": signal or None})

    def pause(self, name: str) -> bool:
        """Freeze all processes."""
        return self._act(name, "pause", {})

    def unpause(self, name: str) -> bool:
        """Thaw all processes."""
        return self._act(name, "unpause", {})

    def rename(self, name: str, new_name: str) -> bool:
        """Give another name."""
        return self._act(name, "rename", {"name": new_name})

    def resize(self, name: str, *, height: int, width: int) -> bool:
        """Tell the container's terminal its size in characters."""
        return self._act(name, "resize", {"h": height, "w": width})

    def remove(self, name: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Remove; ``force`` kills it first, ``volumes`` removes its anonymous volumes too."""
        self._transport.fetch("DELETE", _path(name), {"force": force, "v": volumes, "link": link})

    def wait(self, name: str, *, condition: str = "") -> int:
        """Block until it stops (or ``next-exit``, ``removed``), and return its exit code."""
        return self.begin_wait(name, condition=condition).result()

    def begin_wait(self, name: str, *, condition: str = "") -> PendingWait:
        """Start to wait: when this returns, the engine has noted the wish."""
        query = {"condition": condition or None}
        return PendingWait(self._transport.stream("POST", f"{_path(name)}/wait", query))

    def attach(
        self,
        name: str,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        logs: bool = False,
        detach_keys: str = "",
    ) -> HijackedStream:
        """Attach to the container's standard streams."""
        query = {
            "stream": True,
            "stdin": stdin,
            "stdout": stdout,
            "stderr": stderr,
            "logs": logs,
            "detachKeys": detach_keys or None,
        }
        return self._transport.hijack(f"{_path(name)}/attach", query)

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        timestamps: bool = False,
        details: bool = False,
        since: str = "",
        until: str = "",
        tail: str = "all",
    ) -> Response:
        """Return the log's stream; multiplexed unless the container has a terminal. Close it."""
        query = {
            "follow": follow,
            "stdout": True,
            "stderr": True,
            "timestamps": timestamps,
            "details": details,
            "since": since or None,
            "until": until or None,
            "tail": tail,
        }
        return self._transport.stream("GET", f"{_path(name)}/logs", query)

    def top(self, name: str, *, arguments: str = "") -> JsonObject:
        """Return Titles and Processes."""
        return self._transport.get(f"{_path(name)}/top", {"ps_args": arguments or None})

    def stats(self, name: str, *, stream: bool = True, one_shot: bool = False) -> Iterator[JsonObject]:
        """Yield usage documents, one per second."""
        query = {"stream": "1" if stream else "0", "one-shot": one_shot}
        return iterate_documents(self._transport.stream("GET", f"{_path(name)}/stats", query))

    def changes(self, name: str) -> Documents:
        """Return what was changed in its root file system."""
        return self._transport.get_list(f"{_path(name)}/changes")

    def export(self, name: str) -> Response:
        """Return its root file system as a tar stream. Close it."""
        return self._transport.stream("GET", f"{_path(name)}/export")

    def commit(
        self,
        name: str,
        *,
        repository: str = "",
        tag: str = "",
        author: str = "",
        comment: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> str:
        """Make an image of its changes; ``changes`` are Dockerfile instructions. Returns the image's id."""
        query: dict[str, str | int | bool | Sequence[str] | None] = {
            "container": name,
            "repo": repository or None,
            "tag": tag or None,
            "author": author or None,
            "comment": comment or None,
            "changes": changes,
            "pause": "1" if pause else "0",
        }
        return str(self._transport.post("/commit", query).get("Id", ""))

    def stat_path(self, name: str, path: str) -> PathStat:
        """Describe a path in it. Raises NotFoundError."""
        # HEAD has no body, so no message: a refused one is asked again by GET.
        try:
            with self._transport.stream("HEAD", f"{_path(name)}/archive", {"path": path}) as response:
                return _path_stat(response)
        except OrlopError:
            found, response = self.get_archive(name, path)
            response.close()
            return found

    def get_archive(self, name: str, path: str) -> tuple[PathStat, Response]:
        """Return a path's description, and itself as a tar stream. Close it."""
        response = self._transport.stream("GET", f"{_path(name)}/archive", {"path": path})
        return _path_stat(response), response

    def put_archive(
        self, name: str, path: str, archive: Iterable[bytes], *, keep_kinds: bool = False, copy_owner: bool = False
    ) -> None:
        """Unpack a tar in the directory ``path``.

        Args:
            name: the container.
            path: the directory.
            archive: pieces of a tar, which may be compressed.
            keep_kinds: a directory never gives way to something else, nor the other way round.
            copy_owner: everything gets the container's user.
        """
        query = {
            "path": path,
            "noOverwriteDirNonDir": "true" if keep_kinds else None,
            "copyUIDGID": "true" if copy_owner else None,
        }
        headers = [("Content-Type", "application/x-tar")]
        self._transport.stream("PUT", f"{_path(name)}/archive", query, body=archive, headers=headers).close()

    def update(self, name: str, document: Mapping[str, object]) -> JsonObject:
        """Change limits and the restart policy. Returns Warnings."""
        return self._transport.post(f"{_path(name)}/update", document=document)

    def prune(self, *, filters: Filters | None = None) -> JsonObject:
        """Remove stopped containers. Returns ContainersDeleted and SpaceReclaimed."""
        return self._transport.post("/containers/prune", {"filters": encode_filters(filters)})

    def _act(self, name: str, verb: str, query: Mapping[str, str | int | None]) -> bool:
        try:
            self._transport.fetch("POST", f"{_path(name)}/{verb}", query)
        except NotModifiedError:
            return False
        return True


class Execs:
    """``/exec``: commands in running containers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, container: str, document: Mapping[str, object]) -> str:
        """Prepare a command (Cmd, Env, Tty, AttachStdin, …) and return the session's id."""
        return str(self._transport.post(f"{_path(container)}/exec", document=document).get("Id", ""))

    def start(self, session: str, *, tty: bool = False, size: tuple[int, int] | None = None) -> HijackedStream:
        """Start it and return its streams; ``size`` is height, width."""
        document: dict[str, object] = {"Detach": False, "Tty": tty}
        if size is not None:
            document["ConsoleSize"] = list(size)
        return self._transport.hijack(f"/exec/{quote(session)}/start", document=document)

    def start_detached(self, session: str, *, tty: bool = False) -> None:
        """Start it without streams."""
        self._transport.post(f"/exec/{quote(session)}/start", document={"Detach": True, "Tty": tty})

    def inspect(self, session: str) -> JsonObject:
        """Return Running, ExitCode, Pid and so on."""
        return self._transport.get(f"/exec/{quote(session)}/json")

    def resize(self, session: str, *, height: int, width: int) -> None:
        """Tell the session's terminal its size in characters."""
        self._transport.fetch("POST", f"/exec/{quote(session)}/resize", {"h": height, "w": width})


def _path(name: str) -> str:
    return f"/containers/{quote(name, also=b'$&+=:@')}"


def _path_stat(response: Response) -> PathStat:
    import binascii

    try:
        document = as_object(binascii.a2b_base64(response.headers.get("x-docker-container-path-stat", "")))
    except ValueError:
        document = {}
    size, mode = document.get("size"), document.get("mode")
    return PathStat(
        str(document.get("name", "")),
        size if isinstance(size, int) else 0,
        mode if isinstance(mode, int) else 0,
        str(document.get("linkTarget", "")),
    )
