"""Defences of rows C and H: kernel interfaces, cgroups, filters; host permissions."""

from __future__ import annotations

from defence import Defence, defence

DEFENCES: tuple[Defence, ...] = (
    defence(
        "C1 C3",
        "cgroups are read-only",
        (
            "engine/containers/oci_config.py",
            'cgroup = [*flags, "relatime", *([] if host.privileged else ["ro"])]',
            'cgroup = [*flags, "relatime"]',
        ),
        "test_kernel_interfaces.py::test_nothing_is_written_to_cgroups",
    ),
    defence(
        "C1",
        "a cgroup namespace",
        ("runtime/namespaces.py", "            unshare |= k.CLONE_NEWCGROUP\n", "            pass\n"),
        "test_kernel_interfaces.py::test_the_cgroup_namespace_is_private",
    ),
    defence(
        "C2",
        "parameters outside of namespaces are refused, by the engine and by the runtime",
        (
            "spec/oci/sysctl.py",
            """        raise InvalidParameterError(f'sysctl "{name}" is not in a separate kernel namespace')""",
            "        return",
        ),
        "test_kernel_interfaces.py::test_sysctls_outside_namespaces_are_refused[the host's own value]",
    ),
    defence(
        "C2",
        "names of parameters are no paths",
        (
            "spec/oci/sysctl.py",
            'if not path or any(part[:1] not in WORD or not _COMPONENT.issuperset(part) for part in path.split("/")):',
            "if not path:",
        ),
        "tests/unit/spec/test_oci.py::test_sysctl_names_that_are_paths",
    ),
    defence(
        "C2",
        "values of parameters are one line",
        ("spec/oci/sysctl.py", "    if not consists_of(value, _VALUE, 0, 1024):", "    if False:"),
        "test_kernel_interfaces.py::test_sysctls_outside_namespaces_are_refused[two lines]",
    ),
    defence(
        "C2",
        "parameters of a namespace that is shared are refused",
        ("spec/oci/sysctl.py", "    if needed not in private:", "    if False:"),
        "test_kernel_interfaces.py::test_a_value_is_one_write_to_one_file",
    ),
    defence(
        "C4",
        "cgroup paths have no ..",
        ("runtime/cgroups/path.py", 'if part == ".." or not 1 <=', "if not 1 <="),
        "test_kernel_interfaces.py::test_a_cgroup_parent_stays_below",
    ),
    defence(
        "C5",
        "the default filter refuses keys",
        ("runtime/security/data/default_profile.py", '"ipc", "kill", ', '"ipc", "kill", "keyctl", "io_uring_setup", '),
        "test_kernel_interfaces.py::test_what_moby_refuses_is_refused_in_the_default_container",
    ),
    defence(
        "C5",
        "a socket's family is compared as the kernel reads it",
        (
            "runtime/security/seccomp_compile.py",
            '_NARROW = frozenset({("socket", 0)})',
            "_NARROW: frozenset[tuple[str, int]] = frozenset()",
        ),
        "test_kernel_interfaces.py::test_what_moby_refuses_is_refused_in_the_default_container",
    ),
    defence(
        "C6",
        "other architectures are killed",
        (
            "runtime/security/seccomp_compile.py",
            "    output.give(RET_KILL_PROCESS)\n    for name",
            "    output.give(RET_ALLOW)\n    for name",
        ),
        "test_kernel_interfaces.py::test_a_profile_for_one_architecture_kills_the_others",
    ),
    defence(
        "C6",
        "the x32 bit is seen",
        (
            "runtime/security/seccomp_compile.py",
            '            _x32_gate(output, starts.get("x32"), default)\n',
            "            pass\n",
        ),
        "test_kernel_interfaces.py::test_a_profile_for_one_architecture_kills_the_others",
    ),
    defence(
        "C6",
        "calls of the other table are decided by it",
        (
            "runtime/security/seccomp_compile.py",
            "    numbers = syscall_numbers(architecture)\n    always",
            '    numbers = syscall_numbers("x86_64" if architecture == "x86" else architecture)\n    always',
        ),
        "test_kernel_interfaces.py::test_every_refused_call_is_refused_by_the_kernel_on_each_architecture",
    ),
    defence(
        "C7",
        "a session keyring",
        ("runtime/init.py", "        join_session_keyring()\n", "        pass\n"),
        "test_kernel_interfaces.py::test_keys_are_the_containers_own",
    ),
    defence(
        "C9",
        "sets of CPUs are bounded",
        ("spec/cpuset.py", "        if last > maximum:\n", "        if False:\n"),
        (
            "spec/cpuset.py",
            "is_number(low, 5) or (dash and not is_number(high, 5))",
            "is_number(low, 7) or (dash and not is_number(high, 7))",
        ),
        ("engine/containers/limits.py", 'if name == "cpus" and wanted and max(wanted) >= count:', "if False:"),
        ("engine/containers/limits.py", 'if name == "mems" and not wanted <=', "if not wanted and not wanted <="),
        "test_kernel_interfaces.py::test_numbers_that_cannot_be_are_refused",
    ),
    defence(
        "C9",
        "limits are within what can be",
        ("engine/containers/limits.py", "    _check_memory(host)\n    _check_cpu(host)\n", ""),
        "test_kernel_interfaces.py::test_numbers_that_cannot_be_are_refused",
    ),
    defence(
        "C10",
        "an unknown security option is refused",
        ("runtime/security/options.py", '        elif key != "disable":\n            raise _invalid(option)\n', ""),
        "test_kernel_interfaces.py::test_an_unknown_word_is_refused",
    ),
    defence(
        "C10",
        "an unknown action of a filter is refused",
        (
            "runtime/security/seccomp_compile.py",
            '        raise InvalidParameterError(f"unknown seccomp action: {action!r:.80}")',
            "        return RET_ALLOW",
        ),
        ("spec/oci/seccomp.py", "    if action not in ACTIONS:", "    if False:"),
        "test_kernel_interfaces.py::test_an_unknown_word_is_refused",
    ),
    defence(
        "C10",
        "an unknown capability is refused",
        (
            "runtime/security/capabilities.py",
            """        if name not in NUMBERS:\n            raise InvalidParameterError(f'invalid {what}: unknown capability: "{name}"')\n""",
            "        if name not in NUMBERS:\n            continue\n",
        ),
        "test_kernel_interfaces.py::test_an_unknown_word_is_refused",
    ),
    defence(
        "H1",
        "the socket is closed from its first moment (raced)",
        ("daemon/paths.py", "        before = os.umask(0o177)\n", "        before = os.umask(0)\n"),
        "test_host_permissions.py::test_the_socket_is_closed_to_others_at_every_moment",
        "tests/unit/daemon/test_paths.py::test_socket_is_private_from_the_first_moment",
    ),
    defence(
        "H1",
        "only a socket is replaced",
        ("daemon/paths.py", "        if not stat.S_ISSOCK(os.lstat(path).st_mode):", "        if False:"),
        "test_host_permissions.py::test_a_link_in_place_of_the_socket_is_not_followed",
        "tests/unit/daemon/test_paths.py::test_other_files_are_not_replaced",
    ),
    defence(
        "H2",
        "TCP for everybody is refused unless it was said",
        ("daemon/exposure.py", "    if not verifies_clients(options) and not meant:\n", "    if False:\n"),
        "tests/unit/daemon/test_exposure.py::test_passed_socket_of_tcp_needs_intent_as_well",
        "tests/unit/daemon/test_options.py::test_refused_choices",
    ),
    defence(
        "H2",
        "who shows no certificate of the authority is not spoken to",
        ("tls/material.py", "        context.verify_mode = ssl.CERT_REQUIRED\n", "        pass\n"),
        "tests/unit/api/test_tls.py::test_nobody_else_gets_anything",
    ),
    defence(
        "H2",
        "a handshake has its time",
        ("api/tls.py", "loop.call_later(HANDSHAKE_SECONDS, self.close)", "loop.call_later(3600, self.close)"),
        "tests/unit/api/test_tls.py::test_slow_handshake_is_cut_off",
    ),
    defence(
        "H2",
        "handshakes are no more than so many",
        ("api/tls.py", "        if len(self._handshakes) >= MOST_HANDSHAKES:\n", "        if False:\n"),
        "tests/unit/api/test_tls.py::test_of_too_many_handshakes_the_oldest_go",
    ),
    defence(
        "H6",
        "the data-root is closed, also when it was opened by somebody",
        ("daemon/compose.py", "make_directory(options.data_root, 0o710)", "make_directory(options.data_root, 0o755)"),
        "test_host_permissions.py::test_nobody_else_reaches_files_of_the_engine",
    ),
    defence(
        "H6",
        "loosened directories are closed again",
        ("daemon/paths.py", "        os.fchmod(fd, mode)\n", "        pass\n"),
        "test_host_permissions.py::test_loosened_directories_are_closed_again",
        "tests/unit/daemon/test_paths.py::test_directory_gets_its_mode_even_if_it_exists",
    ),
    defence(
        "H7",
        "directories of the engine are root's under userns-remap",
        (
            "daemon/compose.py",
            "make_directory(options.data_root, 0o710)",
            'make_directory(options.data_root, 0o711), __import__("os").chown(options.data_root, 100000, 100000)',
        ),
        "test_host_permissions.py::test_root_of_a_user_namespace_reaches_nothing_either",
    ),
)
