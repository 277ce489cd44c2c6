"""``build``: a context travels, an image comes of it, and goes where it is wanted."""

from __future__ import annotations

import sys

from orlop.cli.build_caches import cached_images, keep_caches
from orlop.cli.build_outputs import BuildOutput, deliver, read_outputs, write_metadata
from orlop.cli.build_request import cache_wishes, is_remote, query, registry_config, session_wishes
from orlop.cli.files import write_file
from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, write_out
from orlop.cli.run_flags import CREATE_FLAGS
from orlop.cli.transfers import push_image
from orlop.errors import OrlopError
from orlop.primitives.scope import suppress
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.cli.build_view import View
    from orlop.cli.context import Context, Files

_HEAD = 512
_CHUNK = 1 << 18


@dataclass(frozen=True)
class _Source:
    """Where the context is: a directory, a tar on standard input, or a URL."""

    dockerfile: str
    context: Context | None = None
    tar: Iterable[bytes] | None = None
    remote: str = ""
    own: Files | None = None


def _build(invocation: Invocation) -> int:
    from orlop.cli.build_view import choose

    options = invocation.options
    if options.on("check"):
        return _check(invocation)
    outputs = read_outputs(options.texts("output"))
    if options.on("push"):
        outputs.append(BuildOutput("image", push=True))
    caches, tags = cache_wishes(options), options.texts("tag")
    if any(output.push for output in outputs) and not tags:
        raise CommandError("tag is needed when pushing to registry")
    asked = query(options)
    quiet = options.on("quiet")
    view = choose("quiet" if quiet else options.text("progress"))
    source = _source(invocation.arguments[0], options.text("file"))
    asked["cachefrom"] = cached_images(invocation, caches)
    _run(invocation, source, asked, view)
    if options.text("iidfile"):
        write_file([view.image.encode()], options.text("iidfile"))
    if options.text("metadata-file"):
        write_metadata(options.text("metadata-file"), view.image, tags)
    for output in outputs:
        deliver(invocation.client, output, view.image, tags)
    for tag in tags if any(output.push for output in outputs) else ():
        push_image(invocation, tag, stream=sys.stderr, quiet=quiet)
    keep_caches(invocation, caches, view)
    if quiet and not any(output.place == "-" for output in outputs):
        write_out(view.image)
    return 0


def _check(invocation: Invocation) -> int:
    """Look at the Dockerfile only; 1 when something was found."""
    from orlop.cli.build_check import CheckView

    view = CheckView(sys.stdout)
    source = _source(invocation.arguments[0], invocation.options.text("file"))
    _run(invocation, source, {**query(invocation.options), "check": "1"}, view)
    return 1 if view.found else 0


def _run(invocation: Invocation, source: _Source, asked: dict[str, str | list[str] | None], view: View) -> None:
    """Bring the engine what it needs, and show the build to its end."""
    from orlop.cli.build_agents import Agents
    from orlop.cli.context import scan

    builds = invocation.client.builds
    wishes = session_wishes(invocation.options, invocation.arguments[0])
    directories = wishes.directories()
    session = builds.begin(wishes.document())
    asked.update({"session": session, "dockerfile": source.dockerfile, "remote": source.remote or None})
    try:
        if source.context is not None:
            source.context.files().send(builds, session, "context")
        if source.own is not None:
            source.own.send(builds, session, "dockerfile")
        for name, directory in directories.items():
            scan(directory).send(builds, session, name)
        agents = Agents(invocation.client, session, wishes.agents)
    except BaseException:
        with suppress(OrlopError):  # the first error says more; the engine forgets it in time
            builds.end(session)
        raise
    with agents:
        view.show(builds.build(source.tar, asked, auth=registry_config(invocation)))


def _source(path: str, dockerfile: str) -> _Source:
    """Find the context. Raises CommandError."""
    from orlop.cli.context import Context, Files

    if is_remote(path):
        if dockerfile != "-":
            return _Source(dockerfile or "Dockerfile", remote=path)
        own = Files()
        own.put_text("Dockerfile", sys.stdin.buffer.read())
        return _Source("Dockerfile", remote=path, own=own)
    if path != "-":
        context = Context(path, dockerfile, text=sys.stdin.buffer.read() if dockerfile == "-" else b"")
        return _Source(context.dockerfile, context=context, own=context.own)
    if dockerfile == "-":
        raise CommandError("invalid argument: can't use stdin for both build context and dockerfile")
    head = sys.stdin.buffer.read(_HEAD)
    if _is_archive(head):
        return _Source(dockerfile or "Dockerfile", tar=_rest(head))
    own = Files()
    own.put_text("Dockerfile", head + sys.stdin.buffer.read())
    return _Source("Dockerfile", tar=(bytes(2 * _HEAD),), own=own)


def _is_archive(head: bytes) -> bool:
    compressed = head.startswith((b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"))
    return compressed or head[257:262] == b"ustar"


def _rest(head: bytes) -> Iterator[bytes]:
    yield head
    while data := sys.stdin.buffer.read(_CHUNK):
        yield data


_SHARED = (
    *("add-host", "cgroup-parent", "cpu-period", "cpu-quota", "cpu-shares", "cpuset-cpus", "cpuset-mems", "memory"),
    *("memory-swap", "shm-size", "ulimit"),
)
BUILD = Command(
    "[OPTIONS] PATH | URL | -",
    "Build an image from a Dockerfile",
    _build,
    flags=(
        *(flag for flag in CREATE_FLAGS if flag.name in _SHARED),
        Flag("allow", "Allow what is refused otherwise: network.host, security.insecure", kind="list"),
        Flag("build-arg", "Set a variable of the Dockerfile's ARG", kind="list"),
        Flag("build-context", "Another context, name=PATH, URL or docker-image://NAME", kind="list"),
        Flag("cache-from", "Take steps from an image, or type=local,src=PATH", kind="list"),
        Flag(
            "cache-to",
            "Keep steps: type=local,dest=PATH[,mode=max], type=registry,ref=NAME[,mode=max], inline",
            kind="list",
        ),
        Flag("check", "Look at the Dockerfile only: say what it should better say"),
        Flag("file", "Path of the Dockerfile (default PATH/Dockerfile)", short="f", kind="string"),
        Flag("force-rm", "Remove the containers of steps that failed as well"),
        Flag("iidfile", "Write the image's id to this file", kind="string"),
        Flag("label", "Set a label of the image", kind="list"),
        Flag("load", "The image is in the engine, as it always is"),
        Flag("metadata-file", "Write what came of the build to this file, as JSON", kind="string"),
        Flag("network", "Network of RUN", kind="string"),
        Flag("no-cache", "Run every step"),
        Flag("no-cache-filter", "Run every step of these stages", kind="list"),
        Flag("output", "Where to: PATH, - or type=local|tar|oci|docker|image,dest=PATH", short="o", kind="list"),
        Flag("platform", "Platform of the image: this machine's own", kind="string"),
        Flag("progress", "How it is shown: auto, plain, tty, quiet", kind="string", default="auto"),
        Flag("pull", "Look for newer base images"),
        Flag("push", "Send the image to its registry"),
        Flag("quiet", "Print the image's id only", short="q"),
        Flag("rm", "Remove the containers of steps", default=True),
        Flag("secret", "Secret for RUN --mount=type=secret: id=NAME[,src=PATH|,env=NAME]", kind="list"),
        Flag("squash", "Refused: images keep their layers"),
        Flag("ssh", "SSH agent or keys for RUN --mount=type=ssh: default, NAME=SOCKET or NAME=KEY[,KEY]", kind="list"),
        Flag("tag", "Name of the image", short="t", kind="list"),
        Flag("target", "Build this stage", kind="string"),
    ),
    arguments=(1, 1),
)
