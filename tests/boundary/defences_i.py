"""Defences of rows I: ``orlop-runtime`` for users who are not root. The engine itself is root's."""

from __future__ import annotations

from defence import Defence, defence

_ROOTLESS = "tests/integration/test_rootless.py"
_STATE = "tests/unit/runtime/oci/test_state.py"

DEFENCES: tuple[Defence, ...] = (
    defence(
        "I1",
        "one's own id alone is mapped without setgroups, by the kernel",
        (
            "runtime/rootless.py",
            "    return len(config.linux.gid_mappings) == 1 and config.linux.gid_mappings[0].size == 1\n",
            "    return False\n",
        ),
        f"{_ROOTLESS}::test_run_with_ones_own_id",
    ),
    defence(
        "I1",
        "what newuidmap refuses is not there",
        ("runtime/rootless.py", "    if done.returncode:\n", "    if False:\n"),
        f"{_ROOTLESS}::test_ranges_are_mapped_as_far_as_they_were_granted",
    ),
    defence(
        "I3",
        "states are where nobody else can change them",
        ("runtime/oci/state.py", "        _check_owner(self.root)\n", ""),
        f"{_STATE}::test_a_root_that_others_can_change",
    ),
    defence(
        "I3",
        "a recycled pid is another process",
        ("runtime/oci/state.py", " and found[1] == state.start_time\n", "\n"),
        f"{_STATE}::test_alive_means_the_same_process",
    ),
    defence(
        "I4",
        "a container of a user's has a user namespace",
        (
            "runtime/rootless.py",
            '        raise InvalidParameterError("rootless container requires user namespaces")\n',
            "        return\n",
        ),
        f"{_ROOTLESS}::test_what_an_ordinary_user_cannot_have_is_refused",
    ),
    defence(
        "I4",
        "a device that is bound is the one that was asked for",
        (
            "runtime/nodes.py",
            "                if (stat.S_IFMT(found.st_mode), found.st_rdev) != (stat.S_IFMT(self.mode), self.device):\n",
            "                if False:\n",
        ),
        f"{_ROOTLESS}::test_a_device_of_another_kind_is_not_bound",
    ),
    defence(
        "I5",
        "whoever enters a container is sealed, without root too",
        ("runtime/oci/main.py", "    if is_sealed():\n", "    if True:\n"),
        "tests/unit/runtime/oci/test_start.py::test_an_interpreter_that_is_not_sealed_enters_nothing",
    ),
)
