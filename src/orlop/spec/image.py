"""The image configuration (OCI image-spec config.md, with the fields that Docker adds to it).

An image's id is the digest of this document's bytes. Documents that came from outside are kept as bytes and only read;
:meth:`ImageConfig.render` writes those that orlop makes itself (import, commit, build).

A configuration is data from strangers: it never chooses security options, mounts, log drivers or hooks (threats.md E2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.digest import Digest, chain_ids
from orlop.spec.strict_json import Fields, parse_object

if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue

SIZE_LIMIT = 8 << 20
LAYER_LIMIT = 127  # overlay's 128 with the container's own layer left out


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """How to probe a container; durations in nanoseconds, 0 inherits. ``test`` is ``("NONE",)`` to switch it off."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """What containers of the image start from: the ``config`` object. None is Docker's ``null``.

    Attributes:
        exposed_ports: ``80/tcp``, sorted.
        volumes: absolute paths, sorted.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class History:
    """How one layer, or one change of the configuration, came to be."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image's configuration.

    Attributes:
        created: RFC 3339, as in the document; may be empty.
        diff_ids: of the layers, bottom first.
        history: oldest first.
    """

    architecture: str
    os: str
    config: ContainerDefaults = field(default_factory=ContainerDefaults)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    container: str = ""
    variant: str = ""
    os_version: str = ""

    @property
    def chain_ids(self) -> tuple[Digest, ...]:
        """The layers' chain ids, bottom first."""
        return chain_ids(self.diff_ids)

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """Read a configuration strictly; unknown fields are ignored.

        Raises:
            InvalidParameterError: malformed, too large, too many layers, or history that does not fit the layers.
        """
        fields = Fields(parse_object(data, limit=SIZE_LIMIT, what="image config"), "image config")
        rootfs = fields.object("rootfs")
        if rootfs is None or rootfs.text("type") != "layers":
            raise InvalidParameterError("invalid image config: rootfs is not of type layers")
        diff_ids = tuple(Digest.parse(text) for text in rootfs.texts("diff_ids") or ())
        if len(diff_ids) > LAYER_LIMIT:
            raise InvalidParameterError(f"max depth exceeded: {len(diff_ids)} layers")
        history = tuple(_parse_history(item) for item in fields.objects("history"))
        layers = sum(not item.empty_layer for item in history)
        if history and layers != len(diff_ids):
            raise InvalidParameterError(f"invalid image config: {len(diff_ids)} layers, history of {layers}")
        return cls(
            architecture=fields.text("architecture"),
            os=fields.text("os"),
            config=_parse_defaults(fields.object("config")),
            diff_ids=diff_ids,
            history=history,
            created=fields.text("created"),
            author=fields.text("author"),
            comment=fields.text("comment"),
            docker_version=fields.text("docker_version"),
            container=fields.text("container"),
            variant=fields.text("variant"),
            os_version=fields.text("os.version"),
        )

    def render(self) -> bytes:
        """Write the configuration: keys in order, no white space, absent fields left out."""
        document: JsonObject = {
            "architecture": self.architecture,
            "os": self.os,
            "config": render_defaults(self.config),
            "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in self.diff_ids]},
            "history": [_render_history(item) for item in self.history],
        }
        optional = {
            "created": self.created,
            "author": self.author,
            "comment": self.comment,
            "docker_version": self.docker_version,
            "container": self.container,
            "variant": self.variant,
            "os.version": self.os_version,
        }
        document.update({key: value for key, value in optional.items() if value})
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _parse_defaults(fields: Fields | None) -> ContainerDefaults:
    if fields is None:
        return ContainerDefaults()
    return ContainerDefaults(
        user=fields.text("User"),
        exposed_ports=fields.names("ExposedPorts"),
        env=fields.texts("Env"),
        entrypoint=fields.texts("Entrypoint"),
        cmd=fields.texts("Cmd"),
        volumes=fields.names("Volumes"),
        working_dir=fields.text("WorkingDir"),
        labels=fields.labels("Labels"),
        stop_signal=fields.text("StopSignal"),
        stop_timeout=fields.integer("StopTimeout") or None,
        healthcheck=_parse_healthcheck(fields.object("Healthcheck")),
        shell=fields.texts("Shell"),
        on_build=fields.texts("OnBuild"),
    )


def render_defaults(config: ContainerDefaults) -> JsonObject:
    """Write the ``config`` object as Docker does for images: the lists are ``null`` when absent, the rest left out."""
    document: JsonObject = {
        "Env": _list(config.env),
        "Cmd": _list(config.cmd),
        "Entrypoint": _list(config.entrypoint),
        "OnBuild": _list(config.on_build),
        "Volumes": _set(config.volumes),
        "Labels": None if config.labels is None else dict(config.labels),
        "User": config.user,
        "WorkingDir": config.working_dir,
    }
    if config.exposed_ports is not None:
        document["ExposedPorts"] = _set(config.exposed_ports)
    if config.stop_signal:
        document["StopSignal"] = config.stop_signal
    if config.stop_timeout is not None:
        document["StopTimeout"] = config.stop_timeout
    if config.healthcheck is not None:
        document["Healthcheck"] = render_healthcheck(config.healthcheck)
    if config.shell is not None:
        document["Shell"] = _list(config.shell)
    return document


def _list(values: tuple[str, ...] | None) -> JsonValue:
    return None if values is None else list(values)


def _set(values: tuple[str, ...] | None) -> JsonValue:
    return None if values is None else {value: {} for value in values}


def _parse_healthcheck(fields: Fields | None) -> Healthcheck | None:
    if fields is None:
        return None
    return Healthcheck(
        test=fields.texts("Test") or (),
        interval=fields.integer("Interval"),
        timeout=fields.integer("Timeout"),
        start_period=fields.integer("StartPeriod"),
        start_interval=fields.integer("StartInterval"),
        retries=fields.integer("Retries"),
    )


def render_healthcheck(check: Healthcheck) -> JsonObject:
    """Write a ``Healthcheck`` object; zeros are left out, as Docker does."""
    document: JsonObject = {}
    if check.test:
        document["Test"] = list(check.test)
    numbers = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    document.update({key: value for key, value in numbers.items() if value})
    return document


def _parse_history(fields: Fields) -> History:
    return History(
        created=fields.text("created"),
        created_by=fields.text("created_by"),
        author=fields.text("author"),
        comment=fields.text("comment"),
        empty_layer=fields.boolean("empty_layer"),
    )


def _render_history(item: History) -> JsonObject:
    texts = {"created": item.created, "created_by": item.created_by, "author": item.author, "comment": item.comment}
    document: JsonObject = {key: value for key, value in texts.items() if value}
    if item.empty_layer:
        document["empty_layer"] = True
    return document
