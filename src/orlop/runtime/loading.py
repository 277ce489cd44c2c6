"""Modules that only some containers need: loaded before imports are blocked (``runtime.importing``).

A runtime is started for every container and each module costs it a quarter of a millisecond, so what few configurations
ask for is imported where it is used. The spawner loads all of it once; ``orlop-runtime`` what a configuration needs.
"""

# ruff: noqa: F401 - importing is all

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Config, Process


def load_all() -> None:
    """Import everything that a forked child of the engine's spawner may need."""
    import orlop.runtime.cgroups.events
    import orlop.runtime.cgroups.pressure
    import orlop.runtime.cgroups.stats
    import orlop.runtime.cgroups.systemd.driver
    import orlop.runtime.cgroups.v1
    import orlop.runtime.cgroups.v2
    import orlop.runtime.console
    import orlop.runtime.container_state
    import orlop.runtime.hooks
    import orlop.runtime.id_mapping
    import orlop.runtime.image_mount
    import orlop.runtime.joined_userns
    import orlop.runtime.parent
    import orlop.runtime.reaper
    import orlop.runtime.remapping
    import orlop.runtime.remount
    import orlop.runtime.scheduling
    import orlop.runtime.seccomp_listener
    import orlop.runtime.security.lsm
    import orlop.runtime.security.seccomp_compile
    import orlop.runtime.shared_memory
    import orlop.runtime.sysctl
    import orlop.runtime.time_namespace
    import orlop.runtime.tmpfs_copy


def load_for(config: Config, process: Process, *, cgroup_version: int, without_cgroup: bool, confined: bool) -> None:
    """Import what this configuration and process need, without the engine's ``--init`` and its watching of cgroups.

    Args:
        config: the container's.
        process: what is to be run.
        cgroup_version: of the machine.
        without_cgroup: the container has no cgroup, or may get none.
        confined: the caller is an ordinary user, or the root of a user namespace only; never in the spawner.
    """
    if without_cgroup:
        import orlop.runtime.cgroups.absent
    if cgroup_version == 1:
        import orlop.runtime.cgroups.v1
    else:
        import orlop.runtime.cgroups.v2
    if ":" in config.linux.cgroups_path:
        import orlop.runtime.cgroups.systemd.driver
    if process.terminal:
        import orlop.runtime.console
    if config.linux.seccomp is not None:
        import orlop.runtime.security.seccomp_compile
    if config.linux.namespace("user") is not None:
        import orlop.runtime.id_mapping
        import orlop.runtime.joined_userns
        import orlop.runtime.remapping
    if confined:
        import orlop.primitives.commands
        import orlop.runtime.rootless
    if "orlop.shm-of" in config.annotations:
        import orlop.runtime.shared_memory
    if config.linux.sysctl or process.oom_score_adj is not None:
        import orlop.runtime.sysctl
    _load_rare(config, process)


def _load_rare(config: Config, process: Process) -> None:
    """Import what a container seldom has.

    ``net_devices`` is not in the spawner: the engine has its own ways to a network, and rtnetlink in Python is large.
    """
    linux = config.linux
    if linux.mount_label or process.apparmor_profile or process.selinux_label:
        import orlop.runtime.security.lsm
    if config.hooks is not None:
        import orlop.runtime.hooks
        import orlop.runtime.parent
    if linux.seccomp is not None and linux.seccomp.listener_path:
        import orlop.runtime.parent
        import orlop.runtime.seccomp_listener
    if process.scheduler is not None or process.io_priority is not None or process.cpu_affinity is not None:
        import orlop.runtime.scheduling
    if linux.personality is not None or linux.memory_policy is not None:
        import orlop.runtime.scheduling
    if linux.time_offsets:
        import orlop.runtime.time_namespace
    for mount in config.mounts:
        if mount.uid_mappings:
            import orlop.runtime.id_mapping
        if mount.type == "overlay":
            import orlop.runtime.image_mount
        if "tmpcopyup" in mount.options:
            import orlop.runtime.tmpfs_copy
        if "remount" in mount.options:
            import orlop.runtime.remount
    if linux.net_devices:
        import orlop.runtime.net_devices
        import orlop.runtime.parent
