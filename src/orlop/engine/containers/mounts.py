"""From ``-v``, ``--mount``, ``--tmpfs`` and the image's VOLUMEs to resolved mount points."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from typing import TYPE_CHECKING, Protocol

from orlop.engine.containers.binds import PROPAGATIONS, check_volume_name, clean_destination, parse_bind
from orlop.engine.containers.records import MountPoint
from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError
from orlop.volumes.local_options import parse_local_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.spec.docker.containers import BindOptions, ContainerConfig, HostConfig, MountDocument

_TMPFS_OPTIONS = re.compile(
    r"(rw|ro|nosuid|suid|nodev|dev|noexec|exec|sync|async|dirsync|noatime|atime|nodiratime|diratime|relatime|norelatime|strictatime|nostrictatime|defaults"
    r"|size=[0-9]+[kmgKMG%]?|mode=[0-7]{1,5}|uid=[0-9]{1,10}|gid=[0-9]{1,10}|nr_inodes=[0-9]+[kmg]?|nr_blocks=[0-9]+[kmg]?)",
)


class Volume(Protocol):
    """What is needed of a named volume."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def path(self) -> str:
        """Where its files are on the host."""

    @property
    def options(self) -> Mapping[str, str] | None:
        """Of the local driver."""


class Volumes(Protocol):
    """The store of named volumes."""

    def create(
        self,
        name: str,
        *,
        driver: str = "local",
        options: Mapping[str, str] = ...,
        labels: Mapping[str, str] = ...,
    ) -> Volume:
        """Return the volume of that name, made if there is none; a made-up name if it is empty."""


def resolve_mounts(
    config: ContainerConfig,
    host: HostConfig,
    *,
    volumes: Volumes,
    mounts_of: Callable[[str], Sequence[MountPoint]],
    image_id: Callable[[str], str],
) -> tuple[MountPoint, ...]:
    """Return the mounts of a container in the order in which they are to be mounted; makes missing volumes.

    Everything is checked before the first volume is made.

    Args:
        config: the container's.
        host: the container's.
        volumes: where volumes are made.
        mounts_of: returns the mounts of another container (``--volumes-from``).
        image_id: returns the id of an image that is mounted.

    Raises:
        InvalidParameterError: malformed or duplicate, in Docker's words.
        UnsupportedError: a type of mount that this version does not do.
    """
    points: dict[str, MountPoint] = {}
    borrowed = {point.destination: point for text in host.volumes_from or [] for point in _borrow(text, mounts_of)}

    def put(point: MountPoint) -> None:
        if point.destination in points:
            raise InvalidParameterError(f"Duplicate mount point: {point.destination}")
        points[point.destination] = point

    for text in host.binds or []:
        put(parse_bind(text))
    for document in host.mounts or []:
        put(_from_document(document, image_id))
    for destination, options in (host.tmpfs or {}).items():
        put(_tmpfs(destination, options))
    points = {**borrowed, **points}
    for destination in config.volumes or {}:
        target = clean_destination(posixpath.join("/", destination))  # VOLUME data is /data
        if target not in points:
            points[target] = MountPoint(kind="volume", destination=target, copy=True, anonymous=True)
    labels = {
        document.target: (document.volume_options.labels or {}, document.volume_options.driver_config)
        for document in host.mounts or []
        if document.volume_options is not None
    }
    return tuple(_make(points[name], labels, volumes) for name in sorted(points, key=lambda path: path.split("/")))


def _make(point: MountPoint, labels: Mapping[str, tuple[Mapping[str, str], object]], volumes: Volumes) -> MountPoint:
    if point.kind == "bind":
        if not point.propagation:
            return _replace(point, propagation="rprivate")
        return point
    if point.kind != "volume" or point.source:
        return point  # what another container uses is there already
    own, driver = labels.get(point.destination, ({}, None))
    options = getattr(driver, "options", None) or {}
    anonymous = point.anonymous or not point.name
    marks = {"com.docker.volume.anonymous": ""} if anonymous else {}
    volume = volumes.create(point.name, driver="local", options=options, labels={**own, **marks})
    local = parse_local_options(volume.name, volume.options or {})
    if local is not None:
        point = _replace(point, fstype=local.fstype, device=local.device, options=local.options)
    return _replace(point, name=volume.name, source=volume.path, anonymous=anonymous)


def _borrow(text: str, mounts_of: Callable[[str], Sequence[MountPoint]]) -> list[MountPoint]:
    """Return the mounts of ``--volumes-from CONTAINER[:ro|rw]``. Raises NotFoundError, InvalidParameterError."""
    name, _, mode = text.partition(":")
    if not name:
        raise InvalidParameterError("volumes-from specification cannot be an empty string")
    if not set(mode.split(",")) <= {"", "ro", "rw", "z", "Z", "nocopy"}:
        raise InvalidParameterError(f"invalid mode: {mode}")
    writable = "ro" not in mode.split(",")
    try:
        theirs = mounts_of(name)
    except NotFoundError as error:  # with 404 the docker client would fetch the image
        raise InvalidParameterError(str(error)) from None
    return [
        _replace(point, writable=point.writable and writable, mode="", copy=False)
        for point in theirs
        if point.kind != "tmpfs"
    ]


def _replace(point: MountPoint, **changes: object) -> MountPoint:
    return MountPoint(**{**{name: getattr(point, name) for name in point.__struct_fields__}, **changes})


def make_bind_sources(mounts: tuple[MountPoint, ...]) -> None:
    """Make the missing host directories of ``-v`` binds, at each start. Raises InvalidParameterError."""
    for point in mounts:
        if point.kind == "bind" and not os.path.lexists(point.source):
            try:
                os.makedirs(point.source, mode=0o755, exist_ok=True)
            except OSError as error:
                reason = (error.strerror or "failed").lower()
                raise InvalidParameterError(
                    f"error while creating mount source path '{point.source}': mkdir {point.source}: {reason}",
                ) from None


def _from_document(document: MountDocument, image_id: Callable[[str], str]) -> MountPoint:
    if document.cluster_options:
        raise UnsupportedError(f"mount type is not supported: {document.type}")
    target = document.target
    if not target:
        raise InvalidParameterError(f'invalid mount config for type "{document.type}": field Target must not be empty')
    if not target.startswith("/"):
        raise InvalidParameterError(
            f"invalid mount config for type \"{document.type}\": invalid mount path: '{target}' mount path must be"
            " absolute",
        )
    destination = clean_destination(target)
    _refuse_foreign_options(document)
    if document.type == "bind":
        return _bind_document(document, destination)
    if document.type == "volume":
        return _volume_document(document, destination)
    if document.type == "tmpfs":
        return _tmpfs_document(document, destination)
    if document.type == "image":
        return _image_document(document, destination, image_id)
    if document.type in {"cluster", "npipe"}:
        raise UnsupportedError(f"mount type is not supported: {document.type}")
    raise InvalidParameterError(f'invalid mount config for type "{document.type}": mount type unknown')


def _refuse_foreign_options(document: MountDocument) -> None:
    """Options of another type of mount would be without effect (dockerd's words since API 1.45)."""
    own = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions", "image": "ImageOptions"}
    given = {
        "BindOptions": document.bind_options,
        "VolumeOptions": document.volume_options,
        "TmpfsOptions": document.tmpfs_options,
        "ImageOptions": document.image_options,
    }
    for name, options in given.items():
        if options is not None and document.type in own and name != own[document.type]:
            raise InvalidParameterError(f'{name} must not be specified on mount type "{document.type}"')


def _check_recursion(read_only: bool, options: BindOptions) -> None:  # noqa: FBT001 - a member of the document
    """Refuse what contradicts itself; without contradiction a read-only bind is so all the way down, or fails."""
    conflict = ""
    if not read_only and options.read_only_non_recursive:
        conflict = "!ReadOnly && BindOptions.ReadOnlyNonRecursive"
    elif not read_only and options.read_only_force_recursive:
        conflict = "!ReadOnly && BindOptions.ReadOnlyForceRecursive"
    elif options.read_only_non_recursive and options.read_only_force_recursive:
        conflict = "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"
    if conflict:
        raise InvalidParameterError(f"mount options conflict: {conflict}")


def _bind_document(document: MountDocument, destination: str) -> MountPoint:
    source = document.source
    if not source.startswith("/"):
        raise InvalidParameterError(
            f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            if source
            else 'invalid mount config for type "bind": field Source must not be empty',
        )
    options = document.bind_options
    if options is not None:
        _check_recursion(document.read_only, options)
    propagation = (options.propagation if options else "") or "rprivate"
    if propagation not in PROPAGATIONS:
        raise InvalidParameterError(f'invalid mount config for type "bind": invalid propagation mode: {propagation}')
    if not (options and options.create_mountpoint):
        try:
            os.stat(source)
        except OSError:
            raise InvalidParameterError(
                f'invalid mount config for type "bind": bind source path does not exist: {source}',
            ) from None
    return MountPoint(
        kind="bind",
        source=posixpath.normpath(source),
        destination=destination,
        writable=not document.read_only,
        propagation=propagation,
        recursive=not (options and options.non_recursive),
        readonly_recursive=not (options and options.read_only_non_recursive),
    )


def _volume_document(document: MountDocument, destination: str) -> MountPoint:
    options = document.volume_options
    subpath = options.subpath if options else ""
    if subpath:
        _check_subpath(subpath, document.source)
    if options and options.driver_config and options.driver_config.name not in {"", "local"}:
        raise UnsupportedError(f"volume driver is not supported: {options.driver_config.name}")
    if document.source:
        check_volume_name(document.source)
    elif document.read_only:
        raise InvalidParameterError(
            'invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes'
        )
    return MountPoint(
        kind="volume",
        name=document.source,
        destination=destination,
        mode="z",
        writable=not document.read_only,
        copy=not (options and options.no_copy) and not subpath,
        anonymous=not document.source,
        subpath=subpath,
    )


def _check_subpath(subpath: str, source: str) -> None:
    bad = 'invalid mount config for type "volume": '
    if not source:
        raise InvalidParameterError(f"{bad}must not set Subpath when using anonymous volumes")
    _check_relative(subpath, bad, "volume")


def _check_relative(subpath: str, bad: str, what: str) -> None:
    if subpath.startswith("/") or "\0" in subpath or posixpath.normpath(subpath).split("/")[0] == "..":
        raise InvalidParameterError(f"{bad}subpath must be a relative path within the {what}")


def _image_document(document: MountDocument, destination: str, image_id: Callable[[str], str]) -> MountPoint:
    """An image is shown read-only: what a container would write there would be nobody's."""
    if not document.source:
        raise InvalidParameterError('invalid mount config for type "image": field Source must not be empty')
    subpath = document.image_options.subpath if document.image_options else ""
    if subpath:
        _check_relative(subpath, 'invalid mount config for type "image": ', "image")
    return MountPoint(
        kind="image",
        source=document.source,
        name=image_id(document.source),
        destination=destination,
        writable=False,
        subpath=subpath,
    )


def _tmpfs_document(document: MountDocument, destination: str) -> MountPoint:
    if document.source:
        raise InvalidParameterError('invalid mount config for type "tmpfs": field Source must not be specified')
    words = []
    options = document.tmpfs_options
    if options is not None:
        if options.size_bytes:
            words.append(f"size={options.size_bytes}")
        if options.mode:
            words.append(f"mode={stat.S_IMODE(options.mode):o}")
        words.extend("=".join(pair) for pair in options.options or [])
    if document.read_only:
        words.append("ro")
    point = _tmpfs(destination, ",".join(words))
    return _replace(point, mode="")


def _tmpfs(destination: str, options: str) -> MountPoint:
    words = [word for word in options.split(",") if word]
    for word in words:
        if _TMPFS_OPTIONS.fullmatch(word) is None:
            raise InvalidParameterError(f'invalid tmpfs option "{word}"')
    if not destination.startswith("/"):
        raise InvalidParameterError(f"invalid mount path: '{destination}' mount path must be absolute")
    return MountPoint(
        kind="tmpfs", destination=clean_destination(destination), options=tuple(words), writable="ro" not in words
    )
