"""From the flags of ``build`` to what the engine is told: the query of ``POST /build``, and a session's document."""

from __future__ import annotations

import os

from orlop.cli.bodies import ulimit_documents
from orlop.cli.invocation import CommandError, key_values
from orlop.primitives.scope import suppress
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.cli.build_agents import AgentSource
    from orlop.cli.flags import Options
    from orlop.cli.invocation import Invocation

_SECRET_LIMIT = 500 << 10
_EPOCH = "SOURCE_DATE_EPOCH"
_REMOTE = ("http://", "https://", "git://", "github.com/")
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
_KNOWN_LIMIT = 1 << 20  # characters of both, as the engine takes them
_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


def is_remote(text: str) -> bool:
    """Tell whether a context is somewhere else than on this machine."""
    return text.startswith(_REMOTE) or is_git_over_ssh(text)


def is_git_over_ssh(text: str) -> bool:
    """Tell whether a context is a git repository that is reached by SSH: ``ssh://...`` or ``user@host:path``."""
    user, _, rest = text.partition("@")
    host, _, path = rest.partition(":")
    named = bool(user and host and path) and not f"{user}{host}".strip(_NAME_CHARACTERS)
    return text.startswith("ssh://") or (named and not os.path.isdir(text))


def fields_of(text: str, flag: str) -> dict[str, str]:
    """Split ``key=value,key=value`` as Docker does, by the rules of CSV. Raises CommandError."""
    import csv

    try:
        words = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise CommandError(f"invalid value for --{flag}: {text}: {error}") from None
    fields: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise CommandError(f"invalid field '{word}' must be a key=value pair")
        fields[key.strip().lower()] = value
    return fields


def query(options: Options) -> dict[str, str | list[str] | None]:
    """Return the parameters of ``POST /build``. Raises CommandError."""
    import json

    if options.on("squash"):
        raise CommandError("--squash is not supported: images keep their layers; use several stages and COPY --from")
    arguments: dict[str, str | None] = {}
    if os.environ.get(_EPOCH):
        arguments[_EPOCH] = os.environ[_EPOCH]
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
    switches = {"nocache": "no-cache", "pull": "pull", "forcerm": "force-rm", "rm": "rm"}
    texts = {
        "target": "target",
        "platform": "platform",
        "networkmode": "network",
        "cgroupparent": "cgroup-parent",
        "cpusetcpus": "cpuset-cpus",
        "cpusetmems": "cpuset-mems",
    }
    stages = [name for text in options.texts("no-cache-filter") for name in text.split(",") if name]
    return {
        "t": options.texts("tag"),
        "buildargs": json.dumps(arguments) if arguments else None,
        "labels": json.dumps(key_values(options.texts("label"))) if options.texts("label") else None,
        "extrahosts": options.texts("add-host"),
        "ulimits": json.dumps(ulimits) if ulimits else None,
        "nocachefilter": json.dumps(stages) if stages else None,
        "allow": options.texts("allow"),
        "progress": "steps",
        **{key: str(value) for key, value in numbers.items() if value},
        **{key: "1" if options.on(name) else "0" for key, name in switches.items()},
        **{key: options.text(name) or None for key, name in texts.items()},
    }


@dataclass(frozen=True)
class SessionWishes:
    """What a session is to hold.

    Attributes:
        secrets: by their ids.
        agents: SSH agents and keys, by their names.
        contexts: named contexts as written.
        known_hosts: the user's, if there is an agent.
    """

    secrets: Mapping[str, bytes]
    agents: Mapping[str, AgentSource]
    contexts: Mapping[str, str]
    known_hosts: str = ""

    def document(self) -> dict[str, object]:
        """Return the body of ``POST /build/sessions``."""
        import base64

        return {
            "Secrets": {name: base64.b64encode(data).decode("ascii") for name, data in self.secrets.items()},
            "Agents": list(self.agents),
            "Contexts": {
                name: origin if is_remote(origin) or origin.startswith("docker-image://") else "session"
                for name, origin in self.contexts.items()
            },
            **({"KnownHosts": self.known_hosts} if self.known_hosts else {}),
        }

    def directories(self) -> dict[str, str]:
        """Return the named contexts that are directories of this machine. Raises CommandError."""
        found = {}
        for name, origin in self.contexts.items():
            if is_remote(origin) or origin.startswith("docker-image://"):
                continue
            if "://" in origin or origin.startswith("target:") or not os.path.isdir(origin):
                raise CommandError(f'failed to get build context {name}: "{origin}" is no directory, image or URL')
            found[name] = origin
        return found


def session_wishes(options: Options, path: str) -> SessionWishes:
    """Read ``--secret``, ``--ssh`` and ``--build-context`` for the context at ``path``. Raises CommandError."""
    contexts = {}
    for text in options.texts("build-context"):
        name, equals, origin = text.partition("=")
        if not (name and equals and origin):
            raise CommandError(f"invalid context value: {text}, expected key=value")
        contexts[name.lower() if "/" not in name else name] = origin
    secrets = dict(_secret(text) for text in options.texts("secret"))
    agents: dict[str, AgentSource] = {}
    over_ssh = any(is_git_over_ssh(text) for text in (path, *contexts.values()))
    for text in options.texts("ssh") or (["default"] if over_ssh else []):
        name, source = _agent(text)
        if name in agents:
            raise CommandError(f"duplicated ID {name}: --ssh {text}")
        agents[name] = source
    return SessionWishes(secrets, agents, contexts, _known_hosts() if agents else "")


def _known_hosts() -> str:
    """Return what the user knows of servers. Raises CommandError: that is too much."""
    texts = []
    for path in _KNOWN_HOSTS:
        with suppress(OSError), open(os.path.expanduser(path), "rb") as file:
            texts.append(file.read(_KNOWN_LIMIT + 1).decode("utf-8", "replace"))
    known = "\n".join(texts)
    if len(known) > _KNOWN_LIMIT:
        raise CommandError(f"too many known hosts: {', '.join(_KNOWN_HOSTS)}: at most {_KNOWN_LIMIT} bytes")
    return known


def _secret(text: str) -> tuple[str, bytes]:
    """Read ``id=NAME[,src=PATH|,env=VARIABLE]``."""
    fields = fields_of(text, "secret")
    if unknown := set(fields) - {"id", "src", "source", "env", "type"}:
        raise CommandError(f"unexpected key '{min(unknown)}' in '{text}'")
    name, kind = fields.get("id", ""), fields.get("type", "")
    path, variable = fields.get("src") or fields.get("source") or "", fields.get("env", "")
    if kind not in ("", "file", "env"):
        raise CommandError(f"unsupported secret type '{kind}'")
    if kind == "env" and not variable:
        path, variable = "", path
    if not name:
        name = path or variable
    if not name:
        raise CommandError(f"secret without an id: {text}")
    if not (path or variable):
        path, variable = ("", name) if name in os.environ and kind != "file" else (name, "")
    if variable:
        if variable not in os.environ:
            raise CommandError(f"secret {name}: no such environment variable: {variable}")
        return name, os.environb[os.fsencode(variable)]
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read(_SECRET_LIMIT + 1)
    except OSError as error:
        raise CommandError(f"failed to stat {path}: {(error.strerror or '').lower()}") from None
    if len(data) > _SECRET_LIMIT:
        raise CommandError(f"secret {name} is too big: at most {_SECRET_LIMIT} bytes")
    return name, data


def _agent(text: str) -> tuple[str, AgentSource]:
    """Read ``NAME[=SOCKET|KEY[,KEY...]]``."""
    import stat

    from orlop.cli.build_agents import AgentSource
    from orlop.cli.ssh_keys import read_key

    name, _, places = text.partition("=")
    paths = (places or os.environ.get("SSH_AUTH_SOCK", "")).split(",")
    if not all(paths):
        raise CommandError(f"invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set: --ssh {text}")
    sockets = []
    for path in paths:
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                sockets.append(path)
        except OSError as error:
            raise CommandError(f"--ssh {text}: {(error.strerror or '').lower()}: {path}") from None
    if len(sockets) > 1:
        raise CommandError(f"only single socket allowed: --ssh {text}")
    if sockets and len(paths) > 1:
        raise CommandError(f"invalid combination of keys and sockets: --ssh {text}")
    return name or "default", AgentSource(sockets[0]) if sockets else AgentSource(
        keys=[read_key(path) for path in paths]
    )


@dataclass(frozen=True)
class CacheWishes:
    """Where cached steps come from and go to.

    Attributes:
        images: names whose layers are taken; they are pulled first.
        sources: directories with images of an earlier ``--cache-to``.
        targets: directories, and whether the images of all stages go there.
        pushed: names under which the image is pushed, and whether those of all stages follow.
    """

    images: Sequence[str]
    sources: Sequence[str]
    targets: Mapping[str, bool]
    pushed: Mapping[str, bool]


def cache_wishes(options: Options) -> CacheWishes:
    """Read ``--cache-from`` and ``--cache-to``. Raises CommandError."""
    images: list[str] = []
    sources: list[str] = []
    for text in options.texts("cache-from"):
        fields = fields_of(text, "cache-from") if "=" in text else {"type": "registry", "ref": text}
        kind, place = fields.get("type", ""), fields.get("ref" if fields.get("type") == "registry" else "src", "")
        if kind not in ("registry", "local") or not place:
            raise CommandError(f"unsupported cache source: {text}: use type=registry,ref=NAME or type=local,src=PATH")
        if kind == "local" and not os.path.isdir(place):
            continue  # nothing is there yet, as at a first build
        (images if kind == "registry" else sources).append(place)
    targets: dict[str, bool] = {}
    pushed: dict[str, bool] = {}
    for text in options.texts("cache-to"):
        fields = fields_of(text, "cache-to") if "=" in text else {"type": "registry", "ref": text}
        kind, mode = fields.get("type", ""), fields.get("mode", "min")
        if mode not in ("min", "max"):
            raise CommandError(f"unsupported cache mode: {text}: min or max")
        if kind == "inline":
            continue  # an image is a cache of its own steps
        if kind == "local" and fields.get("dest"):
            targets[fields["dest"]] = mode == "max"
        elif kind == "registry" and fields.get("ref"):
            pushed[fields["ref"]] = mode == "max"
        else:
            raise CommandError(f"unsupported cache target: {text}: type=local,dest=, type=registry,ref= or inline")
    return CacheWishes(images, sources, targets, pushed)


def registry_config(invocation: Invocation) -> str:
    """Return ``X-Registry-Config``: the credentials of every registry that the user is logged in to."""
    import base64
    import json

    from orlop.cli.credentials import look_up

    configuration = invocation.configuration()
    auths, helpers = configuration.get("auths"), configuration.get("credHelpers")
    names = {*(auths if isinstance(auths, dict) else ()), *(helpers if isinstance(helpers, dict) else ())}
    found = {name: entry for name in sorted(names) if (entry := look_up(configuration, name))}
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode("ascii") if found else ""
