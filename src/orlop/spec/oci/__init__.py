"""The OCI runtime configuration (runtime-spec 1.2) as typed values, read strictly. Light: loaded in the spawner."""

from __future__ import annotations

from orlop.spec.oci.config import SPEC_VERSION, Config, Mount, Root, config_object, parse_config, require_runnable
from orlop.spec.oci.defaults import default_device_rules, privileged_device_rules
from orlop.spec.oci.linux import Device, IdMapping, Linux, Namespace
from orlop.spec.oci.process import Capabilities, Process, Rlimit, User, parse_process
from orlop.spec.oci.resources import (
    BlockIO,
    Cpu,
    DeviceRule,
    DeviceWeight,
    HugepageLimit,
    Memory,
    RdmaLimit,
    Resources,
    Throttle,
    parse_resources,
)
from orlop.spec.oci.seccomp import Seccomp, SyscallArg, SyscallRule, parse_seccomp
from orlop.spec.oci.sysctl import check_sysctl, sysctl_path

__all__ = [
    "SPEC_VERSION",
    "BlockIO",
    "Capabilities",
    "Config",
    "Cpu",
    "Device",
    "DeviceRule",
    "DeviceWeight",
    "HugepageLimit",
    "IdMapping",
    "Linux",
    "Memory",
    "Mount",
    "Namespace",
    "Process",
    "RdmaLimit",
    "Resources",
    "Rlimit",
    "Root",
    "Seccomp",
    "SyscallArg",
    "SyscallRule",
    "Throttle",
    "User",
    "check_sysctl",
    "config_object",
    "default_device_rules",
    "parse_config",
    "parse_process",
    "parse_resources",
    "parse_seccomp",
    "privileged_device_rules",
    "require_runnable",
    "sysctl_path",
]
