"""Defences of rows B: the root file system."""

from __future__ import annotations

from defence import Defence, defence

RACY_LOOKUP = """
def _by_text(root_fd: int, path: str | bytes) -> bytes:
    top = b"/proc/self/fd/%d" % root_fd
    done: list[bytes] = []
    rest = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    for _ in range(200):
        if not rest:
            break
        name = rest.pop(0)
        if name == b"..":
            del done[-1:]
            continue
        try:
            link = os.readlink(b"/".join([top, *done, name]))
        except OSError:
            done.append(name)
            continue
        if link.startswith(b"/"):
            done = []
        rest = [part for part in link.split(b"/") if part not in (b"", b".")] + rest
    return b"/".join([top, *done])


def open_in_root("""

DEFENCES: tuple[Defence, ...] = (
    defence(
        "B1 B7 B10",
        "paths are resolved in the root by the kernel: links",
        ("primitives/rootpath.py", "_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS", "_RESOLVE = 0"),
        "test_root_file_system.py::test_a_link_in_the_image_does_not_lead_a_mount_out",
        "test_root_file_system.py::test_engine_files_never_follow_links_of_the_image",
        "tests/unit/primitives/test_rootpath.py",
    ),
    defence(
        "B9",
        "paths are resolved in the root at a restart too",
        ("primitives/rootpath.py", "_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS", "_RESOLVE = 0"),
        "test_root_file_system.py::test_a_restart_follows_no_links_either",
    ),
    defence(
        "B1 B7",
        "paths are resolved by the kernel at once, not by text before (raced)",
        ("primitives/rootpath.py", "def open_in_root(", RACY_LOOKUP),
        (
            "primitives/rootpath.py",
            "return OwnedFd(openat2(root_fd, path, flags | os.O_CLOEXEC, mode, resolve=_RESOLVE | extra_resolve))",
            "return OwnedFd(os.open(_by_text(root_fd, path), flags | os.O_CLOEXEC, mode))",
        ),
        "test_races.py::test_the_target_of_a_mount_is_exchanged",
    ),
    defence(
        "B2 B8",
        "kernel file systems are mounted on ordinary directories",
        (
            "runtime/mount_targets.py",
            "_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
            "_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC",
        ),
        "test_root_file_system.py::test_kernel_file_systems_need_ordinary_directories",
    ),
    defence(
        "B2 B4",
        "masks are looked up from the mounted procfs (raced)",
        ("runtime/operations.py", '            if path.startswith(place + "/"):', "            if False:"),
        "test_races.py::test_proc_itself_is_exchanged_in_a_shared_root",
    ),
    defence(
        "B3",
        "no volume over procfs by its name, which is also seen by what it is",
        (
            "runtime/mount_targets.py",
            'if destination == PROC or (destination.startswith("/proc/") and destination not in _BELOW_PROC):',
            "if False:",
        ),
        ("runtime/mount_targets.py", "    if destination not in _BELOW_PROC and is_proc(target_fd):", "    if False:"),
        "test_root_file_system.py::test_an_image_declares_no_volume_over_proc",
    ),
    defence(
        "B3",
        "no volume over procfs: what it is suffices",
        (
            "runtime/mount_targets.py",
            'if destination == PROC or (destination.startswith("/proc/") and destination not in _BELOW_PROC):',
            "if False:",
        ),
        "test_root_file_system.py::test_an_image_declares_no_volume_over_proc",
        spare=True,
    ),
    defence(
        "B3",
        "nothing but procfs is bound on /proc",
        (
            "runtime/mount_targets.py",
            "if not is_proc(tree_fd) or os.fstat(tree_fd).st_ino != _PROC_ROOT_INODE:",
            "if False:",
        ),
        "test_root_file_system.py::test_nothing_but_procfs_is_bound_on_proc",
    ),
    defence(
        "B3",
        "no volume over procfs through links (raced)",
        ("runtime/mount_targets.py", "    if destination not in _BELOW_PROC and is_proc(target_fd):", "    if False:"),
        "test_root_file_system.py::test_a_link_leads_no_volume_over_proc_nor_the_root",
        "test_races.py::test_a_mount_is_led_over_proc",
    ),
    defence(
        "B4",
        "files are masked by the host's null device",
        (
            "runtime/protected_paths.py",
            "        null = OwnedFd(k.open_tree(root.null_fd, ",
            '        root.null_fd = root.open_kernel_path("/dev/null").release()\n        null = OwnedFd(k.open_tree(root.null_fd, ',
        ),
        "test_root_file_system.py::test_masks_are_of_the_hosts_null_device",
        "test_races.py::test_the_null_device_and_the_pty_are_exchanged",
    ),
    defence(
        "B5",
        "the terminal's multiplexer is one",
        ("runtime/console.py", "        if not is_char_device(master.fileno(), 5, 2):", "        if False:"),
        "test_root_file_system.py::test_a_terminal_needs_the_containers_own_devpts[ptmx-file]",
    ),
    defence(
        "B5",
        "the console's place is judged after it was opened",
        ("runtime/init.py", '                check_target(root.fileno(), console.fileno(), "/dev/console")\n', ""),
        "test_root_file_system.py::test_a_terminal_needs_the_containers_own_devpts[console-link]",
    ),
    defence(
        "B5",
        "the console is bound from the descriptor",
        (
            "runtime/init.py",
            "mount_console(terminal.peer.fileno(), console.fileno())",
            'mount_console(os.open(f"/proc/self/fd/{root.fileno()}/dev/null", os.O_PATH), console.fileno())',
        ),
        "test_root_file_system.py::test_the_console_is_the_terminal",
        "test_races.py::test_the_null_device_and_the_pty_are_exchanged",
    ),
    defence(
        "B6",
        "parameters of the kernel are written to a procfs that nobody can reach (also raced)",
        (
            "runtime/init.py",
            "        with _kernels_proc() as proc:\n            from orlop.runtime.sysctl",
            '        with mkdir_all_in_root(root.fileno(), "/proc") as proc:\n            from orlop.runtime.sysctl',
        ),
        (
            "runtime/sysctl.py",
            "_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS",
            "_RESOLVE = 0",
        ),
        "test_kernel_interfaces.py::test_sysctls_are_written_where_nobody_can_lead_them",
        "test_races.py::test_a_parameter_is_written_while_proc_is_exchanged",
    ),
    defence(
        "B8",
        "a device node that exists is looked at",
        (
            "runtime/nodes.py",
            "                self._check_existing(parent.fileno(), names[-1])\n",
            "                return\n",
        ),
        "test_root_file_system.py::test_a_link_in_place_of_a_device_node_is_refused",
    ),
    defence(
        "B11",
        "paths are masked",
        (
            "runtime/protected_paths.py",
            "            with self._empty(root) if directory else self._null(root) as tree:\n",
            "            return\n            with self._empty(root) if directory else self._null(root) as tree:\n",
        ),
        "test_root_file_system.py::test_masked_and_read_only_paths",
        "test_effective_state.py::test_as_recorded_from_docker[run]",
    ),
    defence(
        "B12",
        "paths are read-only",
        (
            "runtime/protected_paths.py",
            '            k.mount_setattr(tree.fileno(), "", attr_set=k.MOUNT_ATTR_RDONLY)\n            k.move_mount(tree.fileno(), target.fileno())\n',
            "            pass\n",
        ),
        "test_root_file_system.py::test_masked_and_read_only_paths",
        "test_effective_state.py::test_as_recorded_from_docker[run]",
    ),
    defence(
        "B12 C5",
        "no CAP_SYS_ADMIN",
        ("runtime/security/capabilities.py", '"SYS_CHROOT", "KILL"', '"SYS_CHROOT", "SYS_ADMIN", "KILL"'),
        "test_root_file_system.py::test_refused_inside",
        "test_effective_state.py::test_as_recorded_from_docker[run]",
    ),
    defence(
        "B13",
        "the device cgroup",
        (
            "spec/oci/defaults.py",
            '    rules.append({"allow": True, "type": "b", "access": "m"})\n',
            '    rules.append({"allow": True, "type": "b", "access": "m"})\n    rules.append({"allow": True, "type": "c", "major": 10, "access": "rwm"})\n',
        ),
        "test_root_file_system.py::test_raw_devices_cannot_be_opened",
    ),
    defence(
        "B14",
        "a volume's mounts are private unless it was asked for",
        (
            "runtime/rootfs.py",
            "if isinstance(operation, Bind) and operation.options.propagation & k.MS_SHARED and place not in trees:",
            "if isinstance(operation, Bind) and place not in trees:",
        ),
        (
            "runtime/operations.py",
            "            if options.propagation:\n                recursive",
            "            if False:\n                recursive",
        ),
        "test_mounted_volumes.py::test_mounts_travel_only_where_it_was_asked_for[rprivate-0]",
    ),
    defence(
        "B15",
        "the old root is detached",
        ("runtime/rootfs.py", '    k.umount2(".", k.MNT_DETACH)\n', ""),
        "test_root_file_system.py::test_two_chroots_lead_to_the_containers_root_only",
    ),
    defence(
        "B16",
        "a volume is filled from the image's layers",
        ("runtime/trees.py", "        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS\n", "        resolve = 0\n"),
        (
            "runtime/trees.py",
            'openat2(root.fileno(), absolute_path(message, "path"), _READ',
            'openat2(root.fileno(), "." + absolute_path(message, "path"), _READ',
        ),
        "test_mounted_volumes.py::test_a_volume_is_filled_from_the_image_only",
    ),
    defence(
        "B16",
        "a volume that is not empty is not filled",
        ("primitives/copy_up.py", "    if names and not _is_marked(target_fd):\n        return False\n", ""),
        ("engine/containers/launching.py", 'if getattr(self._volumes.get(point.name), "filled", True):', "if False:"),
        "test_mounted_volumes.py::test_a_volume_is_filled_once",
    ),
    defence(
        "B17",
        "a part of a volume is resolved inside of it (also raced)",
        (
            "runtime/operations.py",
            "                part = open_in_root(top.fileno(), self.options.subpath)\n",
            '                part = OwnedFd(os.open(f"{self.source}/{self.options.subpath}", os.O_PATH | os.O_CLOEXEC))\n',
        ),
        "test_races.py::test_the_part_of_a_volume_is_exchanged",
    ),
    defence(
        "B17",
        "a part of a volume has no .. in its name",
        ("engine/containers/mounts.py", "        _check_subpath(subpath, document.source)\n", "        pass\n"),
        "test_mounted_volumes.py::test_no_part_of_a_volume_is_outside_of_it",
    ),
    defence(
        "B17",
        "a bind's source is looked up once (raced)",
        (
            "runtime/operations.py",
            "            directory = stat.S_ISDIR(os.fstat(tree.fileno()).st_mode)\n",
            "            directory = os.path.isdir(self.source)\n",
        ),
        "test_races.py::test_the_source_of_a_bind_is_exchanged",
    ),
    defence(
        "B18",
        "layers are named one by one",
        (
            "runtime/rootfs.py",
            '        for lower in root.lower:\n            k.fsconfig_set_string(fd, "lowerdir+", lower)\n',
            '        k.fsconfig_set_string(fd, "lowerdir", ":".join(root.lower))\n',
        ),
        ("runtime/rootfs.py", '[f"/proc/self/fd/{fd}" for fd in fds]', "paths"),
        "test_mounted_volumes.py::test_layers_below_a_directory_of_a_strange_name",
    ),
    defence(
        "B18",
        "attributes of overlay are not unpacked",
        (
            "primitives/tar/rules.py",
            '    return name == b"security.capability" or (name.startswith(b"user.") and not name.startswith(b"user.overlay."))',
            "    return True",
        ),
        "test_mounted_volumes.py::test_attributes_of_overlay_are_not_unpacked",
    ),
    defence(
        "B19",
        "read-only is recursive",
        ("engine/containers/oci_config.py", '"rro" if point.readonly_recursive else "ro"', '"ro"'),
        "test_mounted_volumes.py::test_flags_of_binds_are_as_asked_and_read_only_is_recursive",
    ),
)
