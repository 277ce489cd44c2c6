"""Defences of rows J: what is special about a runtime in Python."""

from __future__ import annotations

from defence import Defence, defence

DEFENCES: tuple[Defence, ...] = (
    defence(
        "J1",
        "files of Python's that are in a root are not run, were a module forgotten",
        (
            "runtime/init.py",
            '    """Send a failure to the parent; formats no traceback."""\n',
            "    import traceback\n\n    traceback.format_exception(error)\n",
        ),
        (
            "runtime/importing.py",
            "        sys.meta_path[:] = [self]\n        sys.path[:] = []\n        sys.path_hooks[:] = []\n        sys.path_importer_cache.clear()\n",
            "        pass\n",
        ),
        ("runtime/importing.py", "        sys.addaudithook(_refuse)\n", "        pass\n"),
        "test_interpreter.py::test_python_files_of_the_image_are_never_run",
    ),
    defence(
        "J1",
        "the import blocker suffices where a module was forgotten",
        (
            "runtime/init.py",
            '    """Send a failure to the parent; formats no traceback."""\n',
            "    try:\n        import traceback\n    except BaseException:\n        pass\n",
        ),
        ("runtime/importing.py", "        sys.addaudithook(_refuse)\n", "        pass\n"),
        "test_interpreter.py::test_python_files_of_the_image_are_never_run",
        spare=True,
    ),
    defence(
        "J1",
        "the audit hook suffices where a module was forgotten",
        (
            "runtime/init.py",
            '    """Send a failure to the parent; formats no traceback."""\n',
            "    try:\n        import traceback\n    except BaseException:\n        pass\n",
        ),
        (
            "runtime/importing.py",
            "        sys.meta_path[:] = [self]\n        sys.path[:] = []\n        sys.path_hooks[:] = []\n        sys.path_importer_cache.clear()\n",
            "        pass\n",
        ),
        "test_interpreter.py::test_python_files_of_the_image_are_never_run",
        spare=True,
    ),
    defence(
        "J1",
        "the import blocker",
        ("runtime/importing.py", "        sys.meta_path[:] = [self]\n        sys.path[:] = []\n", "        pass\n"),
        "tests/unit/runtime/test_importing.py::test_the_blocker_refuses_without_the_hook",
    ),
    defence(
        "J1 J2",
        "the audit hook",
        ("runtime/importing.py", "        sys.addaudithook(_refuse)\n", "        pass\n"),
        "tests/unit/runtime/test_importing.py::test_the_audit_hook_refuses_without_the_blocker",
    ),
    defence(
        "J2 J7",
        "no modules that ask name services or make code of bytes",
        ("runtime/users.py", "import errno\n", "import errno\nimport pickle\nimport pwd\n"),
        "tests/unit/kernel/test_wrappers.py::test_no_code_is_made_from_bytes",
    ),
    defence(
        "J3",
        "the spawner has an empty environment",
        ("runtime/sealed.py", "arguments, {}, file_actions", "arguments, dict(os.environ), file_actions"),
        "test_interpreter.py::test_secrets_of_the_engine_are_in_no_process_near_a_container",
        "test_interpreter.py::test_the_spawner_is_sealed_single_threaded_and_closed_to_ptrace",
    ),
    defence(
        "J4",
        "descriptors are closed by execve",
        ("kernel/mount.py", "FSOPEN_CLOEXEC = 1\n", "FSOPEN_CLOEXEC = 0\n"),
        "tests/unit/kernel/test_wrappers.py::test_descriptors_are_closed_by_execve",
    ),
    defence(
        "J5",
        "every error of the kernel's is told",
        (
            "kernel/syscall.py",
            "    result = int(_syscall(ctypes.c_long(NUMBERS[name]), *converted))\n    if result < 0:",
            "    result = int(_syscall(ctypes.c_long(NUMBERS[name]), *converted))\n    if False:",
        ),
        "tests/unit/kernel/test_wrappers.py::test_a_bad_descriptor_is_told",
        "tests/unit/kernel/test_wrappers.py::test_errno_is_not_lost",
    ),
    defence(
        "J6",
        "nothing is forked beside a thread",
        ("runtime/forking.py", "    if count != 1:", "    if False:"),
        "tests/unit/kernel/test_wrappers.py::test_nothing_is_forked_beside_a_thread",
    ),
    defence(
        "J8",
        "the spawner is isolated",
        ("runtime/sealed.py", '"-I", "-S", "-B", "-c"', '"-B", "-c"'),
        ("runtime/sealed.py", "arguments, {}, file_actions", "arguments, dict(os.environ), file_actions"),
        "test_interpreter.py::test_nothing_of_the_callers_environment_is_imported",
        "test_interpreter.py::test_the_spawner_is_sealed_single_threaded_and_closed_to_ptrace",
    ),
    defence(
        "J8",
        "files that everybody can write are not executed",
        (
            "daemon/installation.py",
            "            if status.st_mode & stat.S_IWOTH and not kept:",
            "            if False:",
        ),
        "tests/unit/daemon/test_installation.py::test_what_everybody_can_write_is_not_executed",
    ),
    defence(
        "J9",
        "patterns are linear",
        (
            "spec/reference.py",
            '_COMPONENT = re.compile("[a-z0-9]+(?:',
            '_COMPONENT = re.compile("[a-z0-9]*[a-z0-9]+(?:',
        ),
        ("spec/reference.py", "_INPUT_LIMIT = 4096", "_INPUT_LIMIT = 1 << 20"),
        "tests/property/test_hostile_text.py::test_no_pattern_takes_more_than_its_text",
    ),
    defence(
        "J9",
        "patterns of a context with many stars are simulated",
        ("primitives/ignore.py", "_FEW_STARS = 2\n", "_FEW_STARS = 1000\n"),
        ("primitives/ignore.py", "_FEW_DOUBLE_STARS = 1\n", "_FEW_DOUBLE_STARS = 1000\n"),
        "tests/property/test_hostile_text.py::test_patterns_of_a_context_try_no_two_ways",
    ),
    defence(
        "J9",
        "durations have a longest",
        ("image/changes.py", " if len(text) <= _LONGEST_DURATION else []", ""),
        ("image/changes.py", "[0-9]{1,40}(?:\\.[0-9]{0,40})?|", "[0-9]+(?:\\.[0-9]*)?|"),
        "tests/property/test_hostile_text.py::test_no_pattern_takes_more_than_its_text",
    ),
    defence(
        "J10",
        "digits and letters are ASCII",
        (
            "spec/charset.py",
            "    return consists_of(text, DIGITS, 1, digits)",
            "    return 1 <= len(text) <= digits and text.isdecimal()",
        ),
        "tests/property/test_hostile_text.py::test_other_digits_are_no_numbers",
        "tests/property/test_hostile_text.py::test_questions_about_characters_are_asked_of_ascii",
    ),
    defence(
        "J12",
        "everything is imported before serving",
        (
            "daemon/preloading.py",
            "    for name in (*_own_modules(), *_LATER):\n        importlib.import_module(name)\n",
            "",
        ),
        "tests/faults/test_library_removed.py",
    ),
)
