from __future__ import annotations

import os

import pytest

from orlop.errors import InvalidParameterError
from orlop.kernel.capability import NAMES
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.security.capabilities import DEFAULT, oci_sets, resolve
from orlop.runtime.security.lsm import check_apparmor, check_selinux, confine
from orlop.runtime.security.options import SecurityOptions, parse_security_options
from orlop.runtime.security.paths import MASKED_PATHS, masked_paths, thermal_throttle_paths
from orlop.runtime.security.sysctl import check_sysctls

EVERYTHING = frozenset(NAMES)


def test_default_capabilities_are_dockers_mask():
    bits = sum(1 << NAMES.index(name) for name in resolve(available=EVERYTHING))
    assert bits == 0xA80425FB
    assert len(DEFAULT) == 14


@pytest.mark.parametrize(
    ("add", "drop", "difference"),
    [
        (["sys_time"], [], {"CAP_SYS_TIME"}),
        (["CAP_SYS_TIME", "Sys_Time"], [], {"CAP_SYS_TIME"}),
        ([], ["net_raw"], {"CAP_NET_RAW"}),
        (["net_raw"], ["net_raw"], set()),
        ([], [], set()),
    ],
)
def test_add_and_drop(add, drop, difference):
    assert set(resolve(add, drop, available=EVERYTHING)) ^ set(DEFAULT) == difference


def test_all():
    assert set(resolve(["ALL"], ["NET_RAW"], available=EVERYTHING)) == EVERYTHING - {"CAP_NET_RAW"}
    assert resolve([], ["all"], available=EVERYTHING) == ()
    assert resolve(["chown"], ["all"], available=EVERYTHING) == ("CAP_CHOWN",)
    assert set(resolve(privileged=True, available=EVERYTHING)) == EVERYTHING
    limited = EVERYTHING - {"CAP_SYS_RESOURCE", "CAP_MKNOD"}
    assert set(resolve(["ALL"], available=limited)) == limited
    assert "CAP_MKNOD" not in resolve(available=limited)


@pytest.mark.parametrize(
    ("add", "drop", "message"),
    [
        (["FOO"], [], 'invalid CapAdd: unknown capability: "CAP_FOO"'),
        (["cap_foo"], [], 'invalid CapAdd: unknown capability: "CAP_FOO"'),
        ([], ["NOPE"], 'invalid CapDrop: unknown capability: "CAP_NOPE"'),
        ([""], [], 'invalid CapAdd: unknown capability: "CAP_"'),
        # U+0131, which upper() turns into an I
        (["k\u0131ll"], [], 'invalid CapAdd: unknown capability: "CAP_k\u0131ll"'),
        (
            ["SYS_RESOURCE"],
            [],
            'invalid CapAdd: capability not supported by your kernel or not available in the current environment: "CAP_SYS_RESOURCE"',
        ),
    ],
)
def test_unknown_capabilities_in_dockers_words(add, drop, message):
    with pytest.raises(InvalidParameterError) as caught:
        resolve(add, drop, available=EVERYTHING - {"CAP_SYS_RESOURCE"})
    assert str(caught.value) == message


def test_nothing_is_inheritable_or_ambient():
    for root in (True, False):
        sets = oci_sets(DEFAULT, root=root)
        assert sets["inheritable"] == sets["ambient"] == []
        assert sets["bounding"] == list(DEFAULT)
        assert sets["effective"] == sets["permitted"] == (list(DEFAULT) if root else [])


def test_security_options():
    assert parse_security_options([]) == SecurityOptions()
    given = [
        "no-new-privileges",
        "seccomp=unconfined",
        "systempaths=unconfined",
        "label=disable",
        "apparmor:unconfined",
    ]
    assert parse_security_options(given) == SecurityOptions("unconfined", True, True, "unconfined")
    assert parse_security_options(["no-new-privileges", "no-new-privileges:false"]).no_new_privileges is False
    assert parse_security_options(["no-new-privileges=true"]).no_new_privileges is True
    assert parse_security_options(["seccomp=unconfined", "seccomp=builtin"]).seccomp == ""
    assert parse_security_options([], privileged=True) == SecurityOptions("unconfined", False, True, "unconfined")
    assert parse_security_options(['seccomp={"a":"b=c"}'], privileged=True).seccomp == '{"a":"b=c"}'


@pytest.mark.parametrize(
    "option",
    ["foo=bar", "no-new-privileges=maybe", "no-new-privileges=", "systempaths=foo", "seccomp=/a/file", "apparmor="],
)
def test_unknown_security_options_are_refused(option):
    with pytest.raises(InvalidParameterError, match=f'invalid --security-opt 2: "{option}"'):
        parse_security_options([option])


def test_security_option_without_value():
    with pytest.raises(InvalidParameterError, match='invalid --security-opt 1: "foo"'):
        parse_security_options(["foo"])


def test_lsm_profiles_are_never_ignored():
    check_apparmor("unconfined", enabled=False)
    check_selinux("", enabled=False)
    check_apparmor("docker-default", enabled=True)
    check_selinux("system_u:system_r:container_t:s0:c1,c2", enabled=True)
    with pytest.raises(InvalidParameterError, match="AppArmor is not supported on this host"):
        check_apparmor("docker-default", enabled=False)
    with pytest.raises(InvalidParameterError, match="SELinux is not supported on this host"):
        check_selinux("type:svirt_t", enabled=False)


@pytest.mark.parametrize("name", ["a b", "a\nexec b", "a\0", "x" * 300])
def test_names_that_are_more_than_a_name(name):
    with pytest.raises(InvalidParameterError, match="invalid AppArmor profile"):
        check_apparmor(name, enabled=True)
    if " " not in name:
        with pytest.raises(InvalidParameterError, match="invalid SELinux label"):
            check_selinux(name * 20, enabled=True)


class Labels:
    """What ``confine`` takes of a process."""

    def __init__(self, apparmor: str = "", selinux: str = "") -> None:
        self.apparmor_profile, self.selinux_label = apparmor, selinux


def proc_of(tmp_path, *directories: str):
    for directory in directories:
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        for name in ("exec", "current"):
            (tmp_path / directory / name).write_text("")
    return lambda: OwnedFd(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))


def test_labels_are_written_to_the_module_they_are_for(tmp_path):
    proc = proc_of(tmp_path, "self/attr", "self/attr/apparmor")
    confine(Labels("prof", "a:b:c"), proc, now=False)
    assert (tmp_path / "self/attr/apparmor/exec").read_text() == "exec prof"
    assert (tmp_path / "self/attr/exec").read_text() == "a:b:c"
    assert (tmp_path / "self/attr/apparmor/current").read_text() == ""
    confine(Labels("prof"), proc, now=True)
    assert (tmp_path / "self/attr/apparmor/current").read_text() == "changeprofile prof"


def test_old_kernels_have_one_directory(tmp_path):
    confine(Labels("prof"), proc_of(tmp_path, "self/attr"), now=False)
    assert (tmp_path / "self/attr/exec").read_text() == "exec prof"


def test_label_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "self").mkdir()
    with pytest.raises(InvalidParameterError, match="unable to apply apparmor profile prof"):
        confine(Labels("prof"), lambda: OwnedFd(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)), now=False)


def test_masked_paths_hide_each_processors_counters():
    assert thermal_throttle_paths("0-1,3\n") == tuple(
        f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in (0, 1, 3)
    )
    assert masked_paths()[: len(MASKED_PATHS)] == MASKED_PATHS


@pytest.mark.parametrize(
    ("name", "value", "host_network", "host_ipc"),
    [
        ("kernel.core_pattern", "|/x", False, False),
        ("vm.swappiness", "1", False, False),
        ("net.ipv4.ip_forward", "1", True, False),
        ("kernel.shmmax", "1", False, True),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x\n", False, False),
        ("net/../kernel/core_pattern", "1", False, False),
        ("net..kernel", "1", False, False),
    ],
)
def test_sysctls_that_reach_the_host_are_refused(name, value, host_network, host_ipc):
    with pytest.raises(InvalidParameterError):
        check_sysctls({name: value}, host_network=host_network, host_ipc=host_ipc)


def test_namespaced_sysctls_are_taken():
    check_sysctls({"net.ipv4.ip_forward": "1", "kernel.shmmax": "1"}, host_network=False, host_ipc=False)
