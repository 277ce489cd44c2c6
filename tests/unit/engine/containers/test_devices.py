import os

import pytest

from orlop.engine.containers.devices import device_rule, host_devices
from orlop.errors import InvalidParameterError
from orlop.spec.docker.containers import DeviceMapping, HostConfig


def test_rules_of_the_device_cgroup():
    assert device_rule("c 42:* rmw") == {"allow": True, "type": "c", "major": 42, "access": "rmw"}
    assert device_rule("b 8:1 r") == {"allow": True, "type": "b", "major": 8, "minor": 1, "access": "r"}
    assert device_rule("a *:* m") == {"allow": True, "type": "a", "access": "m"}
    _, rules = host_devices(HostConfig(device_cgroup_rules=["c 1:3 r"]))
    assert rules == [device_rule("c 1:3 r")]


@pytest.mark.parametrize(
    "text", ["", "c", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 q", "c  1:3 r", "c \u0661:3 r", "c 4294967296:1 r"]
)
def test_what_is_no_rule_is_refused_in_dockerds_words(text):
    with pytest.raises(InvalidParameterError, match="invalid device cgroup rule format"):
        device_rule(text)


def test_a_directory_stands_for_the_devices_below_it(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("making a device takes root")
    (tmp_path / "inner").mkdir()
    for name, minor in (("null", 3), ("inner/zero", 5)):
        os.mknod(tmp_path / name, 0o600 | 0o020000, os.makedev(1, minor))
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/dev/full")
    mapping = DeviceMapping(path_on_host=str(tmp_path), path_in_container="/dev/all/", cgroup_permissions="rw")
    devices, rules = host_devices(HostConfig(devices=[mapping]))
    assert [(device["path"], device["minor"]) for device in devices] == [
        ("/dev/all/null", 3),
        ("/dev/all/inner/zero", 5),
    ]
    assert rules[0] == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}


@pytest.mark.parametrize(("name", "reason"), [("none", "no such file or directory"), ("empty", "not a device node")])
def test_no_device(tmp_path, name, reason):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidParameterError, match=f'adding custom device "{tmp_path}/{name}": {reason}'):
        host_devices(HostConfig(devices=[DeviceMapping(path_on_host=f"{tmp_path}/{name}")]))
