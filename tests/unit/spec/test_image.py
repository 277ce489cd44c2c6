import json

import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.digest import Digest
from orlop.spec.image import ContainerDefaults, Healthcheck, History, ImageConfig

LAYER = Digest("b" * 64)


def document(**changes):
    base = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Unknown": {"x": 1}},
        "rootfs": {"type": "layers", "diff_ids": [str(LAYER)]},
        "history": [{"created_by": "x"}, {"empty_layer": True}],
        "created": "2026-01-01T00:00:00Z",
    }
    base.update(changes)
    return json.dumps(base).encode()


def test_reads_what_docker_writes():
    config = ImageConfig.parse(document())
    assert config.diff_ids == (LAYER,)
    assert config.config.exposed_ports == ("53/udp", "80/tcp")
    assert config.config.entrypoint is None
    assert [step.empty_layer for step in config.history] == [False, True]


def test_render_and_parse_are_inverse():
    config = ImageConfig(
        architecture="arm64",
        os="linux",
        variant="v8",
        config=ContainerDefaults(
            user="bob",
            exposed_ports=("80/tcp",),
            env=("A=ü",),
            entrypoint=("/x",),
            cmd=(),
            volumes=("/data",),
            working_dir="/w",
            labels={"l": "m"},
            stop_signal="SIGINT",
            stop_timeout=3,
            healthcheck=Healthcheck(("CMD", "true"), 1, 2, 3, 4, 5),
            shell=("/bin/ash",),
            on_build=("RUN x",),
        ),
        diff_ids=(LAYER,),
        history=(History("c", "by", "me", "why"), History(empty_layer=True)),
        created="c",
        author="a",
        comment="k",
        docker_version="1",
    )
    data = config.render()
    assert ImageConfig.parse(data) == config
    assert ImageConfig.parse(data).render() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff{}",
        b'{"a":1,"a":1}',
        b'{"rootfs":{"type":"layers","diff_ids":[]},"config":{"User":"a","User":"b"}}',
        b'{"rootfs":{"type":"layers"},"x":NaN}',
        b'{"rootfs":{"type":"layers"},"author":"\\ud800"}',
        b"[" * 100_000,
        b'{"rootfs":{"type":"layers"},"x":' + b"9" * 10_000 + b"}",
        document(rootfs={"type": "layers", "diff_ids": ["sha256:../../etc"]}),
        document(rootfs={"type": "other", "diff_ids": []}),
        document(rootfs=None),
        document(config={"Env": "A=b\0"}),
        document(config={"Env": [1]}),
        document(config={"Labels": {"a": 1}}),
        document(config={"Volumes": ["/x"]}),
        document(config={"Healthcheck": {"Interval": "5s"}}),
        document(config={"Healthcheck": {"Interval": True}}),
        document(history=[{"created_by": "x"}, {"created_by": "y"}]),
        document(rootfs={"type": "layers", "diff_ids": [str(LAYER)] * 200}, history=[]),
        b'{"rootfs":{"type":"layers"}}' + b" " * (9 << 20),
    ],
    ids=range(23),
)
def test_hostile_documents_are_refused(data):
    with pytest.raises(InvalidParameterError):
        ImageConfig.parse(data)
