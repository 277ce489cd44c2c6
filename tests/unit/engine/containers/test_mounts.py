from dataclasses import dataclass

import pytest

from orlop.engine.containers.binds import parse_bind
from orlop.engine.containers.mounts import resolve_mounts
from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError
from orlop.spec.docker.containers import (
    BindOptions,
    ContainerConfig,
    HostConfig,
    MountDocument,
    TmpfsOptions,
    VolumeOptions,
)

BIND = {"type": "bind", "source": "/tmp"}


@dataclass
class Volume:
    name: str
    path: str
    options: dict[str, str] | None = None


def no_container(name):
    raise NotFoundError(f"No such container: {name}")


class Volumes:
    def __init__(self):
        self.made = []

    def create(self, name, *, driver="local", options=None, labels=None):
        self.made.append((name, labels))
        name = name or "generated"
        return Volume(name, f"/volumes/{name}/_data")


def resolve(config=None, host=None):
    return resolve_mounts(
        config or ContainerConfig(), host or HostConfig(), volumes=Volumes(), mounts_of=no_container, image_id=str.upper
    )


def test_bind_modes():
    point = parse_bind("/a/../b:/c/:ro,rslave,z")
    assert (point.kind, point.source, point.destination) == ("bind", "/b", "/c")
    assert (point.writable, point.propagation, point.mode) == (False, "rslave", "ro,rslave,z")
    assert parse_bind("data:/d").mode == "z"
    assert parse_bind("data:/d:nocopy").copy is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a",
        "a:",
        ":/b",
        "/a:b",
        "/a:/b:wx",
        "/a:/b:ro:rw",
        "/a:/",
        "../up:/x",
        "a/b:/x",
        "/a:/b\0",
        "vol:/x:shared",
    ],
)
def test_bad_binds(text):
    with pytest.raises(InvalidParameterError):
        parse_bind(text)


def test_volumes_of_the_image_are_anonymous_unless_something_is_mounted_there():
    config = ContainerConfig(volumes={"/data": {}, "/other": {}})
    points = resolve(config, HostConfig(binds=["/host:/data"]))
    assert [(p.destination, p.kind, p.anonymous) for p in points] == [
        ("/data", "bind", False),
        ("/other", "volume", True),
    ]


def test_a_relative_volume_of_an_image_is_below_the_root():
    (point,) = resolve(ContainerConfig(volumes={"data/": {}}))
    assert (point.destination, point.kind, point.anonymous) == ("/data", "volume", True)


REFUSED = "invalid volume specification: '%s': invalid mount config for type \"%s\": "


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (HostConfig(binds=["/a:/b:bad"]), "invalid mode: bad"),
        (HostConfig(tmpfs={"y": ""}), "invalid mount path: 'y' mount path must be absolute"),
        (HostConfig(tmpfs={"/y": "bad"}), 'invalid tmpfs option "bad"'),
        (HostConfig(binds=["/a:/"]), REFUSED % ("/a:/", "bind") + "invalid specification: destination can't be '/'"),
        (HostConfig(binds=["a1:/"]), REFUSED % ("a1:/", "volume") + "invalid specification: destination can't be '/'"),
    ],
)
def test_dockerds_words(host, message):
    with pytest.raises(InvalidParameterError) as refused:
        resolve(host=host)
    assert str(refused.value) == message


def test_parents_are_mounted_before_children():
    points = resolve(host=HostConfig(binds=["/1:/a/b/c", "/2:/a", "/3:/a/b", "/4:/a-x"]))
    order = [p.destination for p in points]
    assert order.index("/a") < order.index("/a/b") < order.index("/a/b/c")


def test_duplicate_mount_point():
    with pytest.raises(InvalidParameterError, match="Duplicate mount point: /a"):
        resolve(host=HostConfig(binds=["/1:/a", "/2:/a/"]))


def test_tmpfs_options_are_checked():
    (point,) = resolve(host=HostConfig(tmpfs={"/t": "size=64m,mode=1777"}))
    assert point.options == ("size=64m", "mode=1777")
    with pytest.raises(InvalidParameterError, match="invalid tmpfs option"):
        resolve(host=HostConfig(tmpfs={"/t": "lowerdir=/etc"}))


def test_mount_documents():
    documents = [
        MountDocument(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o700)),
        MountDocument(type="volume", source="vol", target="/v", read_only=True),
    ]
    tmpfs, volume = resolve(host=HostConfig(mounts=documents))
    assert tmpfs.options == ("size=4096", "mode=700")
    assert (volume.name, volume.writable) == ("vol", False)


def test_missing_source_of_mount_bind_is_refused():
    with pytest.raises(InvalidParameterError, match="bind source path does not exist: /nowhere/at/all"):
        resolve(host=HostConfig(mounts=[MountDocument(type="bind", source="/nowhere/at/all", target="/x")]))
    with pytest.raises(UnsupportedError):
        resolve(host=HostConfig(mounts=[MountDocument(type="npipe", source="x", target="/x")]))


def test_nothing_is_made_when_anything_is_wrong():
    volumes = Volumes()
    with pytest.raises(InvalidParameterError):
        resolve_mounts(
            ContainerConfig(),
            HostConfig(binds=["v:/x"], tmpfs={"/t": "bad"}),
            volumes=volumes,
            mounts_of=no_container,
            image_id=str.upper,
        )
    assert volumes.made == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "bind", "source": "/tmp", "volume_options": VolumeOptions()}, "VolumeOptions must not be specified"),
        ({"type": "volume", "source": "vol", "bind_options": BindOptions()}, "BindOptions must not be specified"),
        ({"type": "tmpfs", "bind_options": BindOptions()}, "BindOptions must not be specified on mount type"),
        ({"type": "volume", "tmpfs_options": TmpfsOptions()}, "TmpfsOptions must not be specified on mount type"),
        ({**BIND, "bind_options": BindOptions(read_only_force_recursive=True)}, "conflict: !ReadOnly && BindOptions"),
        ({**BIND, "bind_options": BindOptions(read_only_non_recursive=True)}, "conflict: !ReadOnly && BindOptions"),
        (
            {
                **BIND,
                "read_only": True,
                "bind_options": BindOptions(read_only_non_recursive=True, read_only_force_recursive=True),
            },
            "conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        ),
        ({"type": "volume", "read_only": True}, "must not set ReadOnly mode when using anonymous volumes"),
    ],
)
def test_a_mount_that_could_not_have_the_effect_is_refused(fields, message):
    with pytest.raises(InvalidParameterError, match=message):
        resolve(host=HostConfig(mounts=[MountDocument(target="/x", **fields)]))
