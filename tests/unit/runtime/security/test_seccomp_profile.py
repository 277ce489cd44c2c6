from __future__ import annotations

import json
import os

import pytest

from orlop.errors import InvalidParameterError
from orlop.runtime.security.capabilities import DEFAULT
from orlop.runtime.security.seccomp_profile import custom_seccomp, default_seccomp
from orlop.spec.oci.seccomp import parse_seccomp


def rules_of(profile, name):
    return [rule for rule in profile.get("syscalls", []) if name in rule["names"]]


def custom(*syscalls, capabilities=(), **more):
    document = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(syscalls), **more}
    return custom_seccomp(json.dumps(document), capabilities, machine="x86_64")


def test_default_profile_of_default_capabilities():
    profile = default_seccomp(DEFAULT, machine="x86_64")
    assert profile["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == 1
    assert rules_of(profile, "mount") == []
    assert [rule["action"] for rule in rules_of(profile, "clone3")] == ["SCMP_ACT_ERRNO"]
    assert rules_of(profile, "chroot")
    assert rules_of(profile, "ptrace")
    assert rules_of(profile, "arch_prctl")
    assert not rules_of(profile, "riscv_flush_icache")
    assert parse_seccomp(profile) is not None


def test_capabilities_open_calls():
    profile = default_seccomp((*DEFAULT, "CAP_SYS_ADMIN"), machine="x86_64")
    assert rules_of(profile, "mount")
    assert [rule["action"] for rule in rules_of(profile, "clone3")] == ["SCMP_ACT_ALLOW"]
    assert all("args" not in rule for rule in rules_of(profile, "clone"))
    assert not rules_of(default_seccomp(["CAP_CHOWN"], machine="x86_64"), "chroot")


def test_capabilities_without_influence_share_the_value():
    assert default_seccomp(["CAP_CHOWN"]) is default_seccomp(["CAP_KILL"])


def test_architecture_decides():
    arm = default_seccomp(DEFAULT, machine="aarch64")
    assert arm["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert rules_of(arm, "breakpoint")
    assert not rules_of(arm, "arch_prctl")


def test_kernel_version_decides():
    rule = {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW"}
    major = int(os.uname().release.split(".")[0])
    assert rules_of(custom({**rule, "includes": {"minKernel": "4.8"}}), "ptrace")
    assert not rules_of(custom({**rule, "includes": {"minKernel": f"{major + 1}.0"}}), "ptrace")
    assert not rules_of(custom({**rule, "excludes": {"minKernel": "4.8"}}), "ptrace")


def test_all_included_capabilities_are_needed():
    rule = {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A", "CAP_B"]}}
    assert not rules_of(custom(rule, capabilities=["CAP_A"]), "bpf")
    assert rules_of(custom(rule, capabilities=["CAP_A", "CAP_B"]), "bpf")


def test_old_spelling_with_one_name():
    assert custom({"name": "read", "action": "SCMP_ACT_ALLOW", "args": None})["syscalls"] == [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    ]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "Decoding seccomp profile failed"),
        ("[]", "Decoding seccomp profile failed: not an object"),
        ('{"defaultAction": "A", "defaultAction": "B"}', "duplicate key"),
        ('{"defaultErrnoRet": NaN}', "not a JSON number"),
        ("[" * 100_000, "Decoding seccomp profile failed"),
        ('{"syscals": []}', "unknown key"),
        ('{"syscalls": 1}', "not a list: syscalls"),
        ('{"syscalls": [1]}', "not an object"),
        ('{"syscalls": [{"names": ["a"], "include": {}}]}', "unknown key"),
        ('{"syscalls": [{"name": "a", "names": ["b"]}]}', "both 'name' and 'names' are specified"),
        ('{"architectures": ["a"], "archMap": [{}]}', "both 'architectures' and 'archMap' are specified"),
        ('{"syscalls": [{"names": ["a"], "includes": {"minKernel": "x"}}]}', "invalid kernel version"),
        ('{"syscalls": [{"names": ["a"], "includes": {"caps": [["x"]]}}]}', "not a list of strings"),
        (" " * (1 << 20) + "{}", "larger than"),
    ],
)
def test_bad_profiles_are_refused(document, message):
    with pytest.raises(InvalidParameterError, match=message):
        custom_seccomp(document, (), machine="x86_64")


def test_listener_is_taken_over():
    document = '{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "listenerMetadata": "y"}'
    selected = custom_seccomp(document, (), machine="x86_64")
    assert (selected["listenerPath"], selected["listenerMetadata"]) == ("/x", "y")
