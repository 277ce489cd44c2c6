"""Bodies with nulls and without members, as Go's decoder takes them."""

import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.docker.containers import ExecCreate, Ulimit, decode, decode_create


def test_a_null_is_the_zero_value_at_every_depth():
    # what docker-py sends of healthcheck={"test": ["CMD", "true"]}
    check = {"Test": ["CMD", "true"], "Interval": None, "Timeout": None, "Retries": None, "StartPeriod": None}
    host = {
        "RestartPolicy": {"Name": "always", "MaximumRetryCount": None},
        "LogConfig": None,
        "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": None}, {"Name": "core"}],
        "PortBindings": {"80/tcp": None, "81/tcp": [{"HostIp": None, "HostPort": "1"}]},
        "Mounts": [{"Type": "volume", "Target": "/x", "ReadOnly": None, "VolumeOptions": {"NoCopy": None}}],
        "Memory": None,
    }
    body = {"Image": "x", "Healthcheck": check, "HostConfig": host, "ExposedPorts": {"80/tcp": None}}
    endpoints = {"EndpointsConfig": {"a": {"IPAMConfig": {"IPv4Address": None}}, "b": None}}
    created = decode_create({**body, "NetworkingConfig": endpoints})
    assert created.config.healthcheck is not None
    assert (created.config.healthcheck.test, created.config.healthcheck.interval) == (["CMD", "true"], 0)
    assert created.config.exposed_ports == {"80/tcp": {}}
    assert created.host_config.ulimits == [Ulimit(name="nofile", hard=0, soft=5), Ulimit(name="core", hard=0, soft=0)]
    assert created.host_config.port_bindings is not None
    assert created.host_config.port_bindings["80/tcp"] is None
    assert created.host_config.restart_policy.name == "always"
    assert created.host_config.mounts is not None
    assert created.host_config.mounts[0].volume_options is not None


def test_lists_of_words_may_be_one_word():
    created = decode_create({"Shell": "sh", "Cmd": "x", "HostConfig": {"CapAdd": "ALL", "CapDrop": "ALL"}})
    assert (created.config.shell, created.config.cmd) == (["sh"], ["x"])
    assert (created.host_config.cap_add, created.host_config.cap_drop) == (["ALL"], ["ALL"])


@pytest.mark.parametrize(
    "host",
    [
        {"Memory": "1"},
        {"Ulimits": [{"Name": 5}]},
        {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": -1}]},
        {"PortBindings": []},
        {"Mounts": [5]},
    ],
)
def test_another_type_is_still_refused(host):
    with pytest.raises(InvalidParameterError, match="invalid JSON"):
        decode_create({"HostConfig": host})


def test_names_are_known_in_upper_and_lower_case():
    created = decode_create(
        {"image": "x", "cmd": "true", "hostConfig": {"memory": 5, "MEMORYSWAP": 6}, "Labels": {"a": "b"}, "labels": {}}
    )
    assert (created.config.image, created.config.cmd, created.config.labels) == ("x", ["true"], {"a": "b"})
    assert (created.host_config.memory, created.host_config.memory_swap) == (5, 6)
    # docker-py's spelling
    assert decode({"detachKeys": "ctrl-p", "unknown": None}, ExecCreate).detach_keys == "ctrl-p"
