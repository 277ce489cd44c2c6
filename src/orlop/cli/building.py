"""``build``, ``builder prune``."""

from __future__ import annotations

import os
import sys

from orlop.cli.bodies import ulimit_documents
from orlop.cli.documents import member, number, text
from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, confirm, key_values, write_error
from orlop.cli.run_flags import CREATE_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.cli.flags import Options
    from orlop.spec.json import JsonObject

_HEAD = 512
_CHUNK = 1 << 18


def _build(invocation: Invocation) -> int:
    from orlop.cli.progress import show

    options = invocation.options
    context, dockerfile = _context(invocation.arguments[0], options.text("file"))
    query = {**_query(options), "dockerfile": dockerfile}
    documents = _Watched(invocation.client.images.build(context, query, auth=_auth(invocation)))
    try:
        show(documents, quiet=False)
    except CommandError as error:
        raise CommandError(str(error), status=documents.code or 1) from None
    path = options.text("iidfile")
    if path:
        with open(path, "w", encoding="ascii") as file:
            file.write(documents.image)
    return 0


class _Watched:
    """Passes documents on, and remembers what is told in them: the image's id, and a failure's code."""

    def __init__(self, documents: Iterable[JsonObject]) -> None:
        self._documents = documents
        self.image = ""
        self.code = 0

    def __iter__(self) -> Iterator[JsonObject]:
        for document in self._documents:
            self.code = number(member(document, "errorDetail"), "code") or self.code
            self.image = text(member(document, "aux"), "ID") or self.image
            line = text(document, "stream")
            if line.startswith("sha256:") and len(line) == 72:
                self.image = line.strip()
            yield document


def _context(path: str, dockerfile: str) -> tuple[Iterable[bytes], str]:
    """Return what is sent, and the Dockerfile's path in it."""
    from orlop.cli.context import Context

    if path.startswith(("http://", "https://", "git://", "git@", "github.com/")):
        raise CommandError(f"contexts from a URL are not supported yet: {path}")
    if path != "-":
        extra = sys.stdin.buffer.read() if dockerfile == "-" else b""
        made = Context(path, dockerfile, text=extra)
        return made.pieces(), made.dockerfile
    if dockerfile == "-":
        raise CommandError("invalid argument: can't use stdin for both build context and dockerfile")
    head = sys.stdin.buffer.read(_HEAD)
    if _is_archive(head):
        return _rest(head), dockerfile or "Dockerfile"
    import tempfile

    data = head + sys.stdin.buffer.read()
    with tempfile.TemporaryDirectory() as empty:
        made = Context(empty, "-", text=data)
        return list(made.pieces()), made.dockerfile


def _is_archive(head: bytes) -> bool:
    compressed = head.startswith((b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"))
    return compressed or head[257:262] == b"ustar"


def _rest(head: bytes) -> Iterator[bytes]:
    yield head
    while data := sys.stdin.buffer.read(_CHUNK):
        yield data


def _query(options: Options) -> dict[str, str | list[str] | None]:
    import json

    arguments: dict[str, str | None] = {}
    for item in options.texts("build-arg"):
        name, equals, value = item.partition("=")
        arguments[name] = value if equals else os.environ.get(name)
    ulimits = ulimit_documents(options)
    numbers = {
        "memory": options.number("memory"),
        "memswap": options.number("memory-swap"),
        "shmsize": options.number("shm-size"),
        "cpushares": options.number("cpu-shares"),
        "cpuperiod": options.number("cpu-period"),
        "cpuquota": options.number("cpu-quota"),
    }
    switches = {"q": "quiet", "nocache": "no-cache", "pull": "pull", "forcerm": "force-rm", "rm": "rm"}
    texts = {
        "target": "target",
        "platform": "platform",
        "networkmode": "network",
        "cgroupparent": "cgroup-parent",
        "cpusetcpus": "cpuset-cpus",
        "cpusetmems": "cpuset-mems",
    }
    return {
        "t": options.texts("tag"),
        "buildargs": json.dumps(arguments) if arguments else None,
        "labels": json.dumps(key_values(options.texts("label"))) if options.texts("label") else None,
        "extrahosts": options.texts("add-host"),
        "ulimits": json.dumps(ulimits) if ulimits else None,
        **{key: str(value) for key, value in numbers.items() if value},
        **{key: "1" if options.on(name) else "0" for key, name in switches.items()},
        **{key: options.text(name) or None for key, name in texts.items()},
    }


def _auth(invocation: Invocation) -> str:
    """Return ``X-Registry-Config``: the credentials of every registry that the user is logged in to."""
    import base64
    import json

    from orlop.cli.credentials import look_up

    configuration = invocation.configuration()
    auths, helpers = configuration.get("auths"), configuration.get("credHelpers")
    names = {*(auths if isinstance(auths, dict) else ()), *(helpers if isinstance(helpers, dict) else ())}
    found = {name: entry for name in sorted(names) if (entry := look_up(configuration, name))}
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode("ascii") if found else ""


def _prune(invocation: Invocation) -> int:
    question = "WARNING! This will forget all build cache: the next builds run every step. Its images stay."
    if not invocation.options.on("force") and not confirm(question):
        return 0
    invocation.client.images.prune_builds()
    write_error("the build cache is forgotten")
    return 0


_SHARED = (
    *("add-host", "cgroup-parent", "cpu-period", "cpu-quota", "cpu-shares", "cpuset-cpus", "cpuset-mems", "memory"),
    *("memory-swap", "network", "platform", "shm-size", "ulimit"),
)
BUILD = Command(
    "[OPTIONS] PATH | -",
    "Build an image from a Dockerfile",
    _build,
    flags=(
        *(flag for flag in CREATE_FLAGS if flag.name in _SHARED and flag.name not in ("network", "platform")),
        Flag("build-arg", "Set a variable of the Dockerfile's ARG", kind="list"),
        Flag("file", "Path of the Dockerfile (default PATH/Dockerfile)", short="f", kind="string"),
        Flag("force-rm", "Remove the containers of steps that failed as well"),
        Flag("iidfile", "Write the image's id to this file", kind="string"),
        Flag("label", "Set a label of the image", kind="list"),
        Flag("network", "Network of RUN", kind="string"),
        Flag("no-cache", "Run every step"),
        Flag("platform", "Platform of the image, os/architecture", kind="string"),
        Flag("pull", "Look for newer base images"),
        Flag("quiet", "Print the image's id only", short="q"),
        Flag("rm", "Remove the containers of steps", default=True),
        Flag("tag", "Name of the image", short="t", kind="list"),
        Flag("target", "Build this stage", kind="string"),
    ),
    arguments=(1, 1),
)
PRUNE = Command(
    "[OPTIONS]",
    "Forget the build cache",
    _prune,
    flags=(Flag("force", "Do not ask", short="f"),),
)
