"""Defences of rows D: archives, copying in and out of containers, export."""

from __future__ import annotations

from defence import Defence, defence
from defences_b import RACY_LOOKUP

_ARCHIVES = "tests/integration/test_hostile_archives.py"
_UNPACK = "tests/integration/test_unpack.py"
_COPY = "tests/integration/test_copy.py"
_NEXT_TO_IT = f"{_COPY}::test_a_container_that_swaps_links_reaches_nothing"
_LEAVES_NO_HOST = (
    "runtime/trees.py",
    '    with _leave_host(_root(message, "root")) as root:\n        recipe_fd',
    '    with OwnedFd(os.open(_root(message, "root").upper or "", _READ)) as root:\n        recipe_fd',
)
_ANY_WAY = (
    "primitives/tar/directories.py",
    "self._resolve = _RESOLVE if cross else _RESOLVE | RESOLVE_NO_XDEV",
    "self._resolve = 0",
)
_NOT_ENTERED = (
    "runtime/archive.py",
    "        if join_files(pid, fds[0].fileno()):\n",
    (
        '        return OwnedFd(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))\n'
        "        if join_files(pid, fds[0].fileno()):\n"
    ),
)
_BY_PATH = (
    "runtime/archive.py",
    "def answer_archive(",
    (
        "def open_in_root(root_fd: int, path: str | bytes, flags: int) -> OwnedFd:\n"
        '    return OwnedFd(os.open(b"/proc/self/fd/%d/%s" % (root_fd, os.fsencode(path)), flags))\n\n\ndef answer_archive('
    ),
)
_OPEN_BY_TEXT = """def _open_by_text(root_fd: int, path: str | bytes, flags: int, mode: int) -> int:
    try:
        return os.open(_by_text(root_fd, path), flags, mode)
    except OSError as error:
        raise SyscallError("openat2", error.errno or 0, (path,)) from None


def open_in_root("""
_FORGOTTEN = (
    "runtime/archive.py",
    "    os.umask(0)\n    tree = OwnedFd",
    "    os.umask(0)\n    import traceback\n\n    traceback.format_stack()\n    tree = OwnedFd",
)

DEFENCES: tuple[Defence, ...] = (
    defence(
        "D1",
        "who copies is in the container's mount namespace; paths resolved in its root suffice",
        _NOT_ENTERED,
        _NEXT_TO_IT,
        spare=True,
    ),
    defence(
        "D1",
        "paths are resolved in the root; the container's mount namespace suffices",
        _BY_PATH,
        _NEXT_TO_IT,
        spare=True,
    ),
    defence("D1", "copies see the container only", _NOT_ENTERED, _BY_PATH, _NEXT_TO_IT),
    defence(
        "D2",
        "files of Python's that are in a container are not run by copies, were a module forgotten",
        _FORGOTTEN,
        (
            "runtime/importing.py",
            (
                "        sys.meta_path[:] = [self]\n        sys.path[:] = []\n        sys.path_hooks[:] = []\n"
                "        sys.path_importer_cache.clear()\n"
            ),
            "        pass\n",
        ),
        ("runtime/importing.py", "        sys.addaudithook(_refuse)\n", "        pass\n"),
        "test_copying.py::test_nothing_of_the_image_runs_while_its_files_are_copied",
    ),
    defence(
        "D2",
        "what copies needs is loaded before",
        ("primitives/tar/entry.py", 'codecs.lookup("unicode_escape")', "codecs"),
        "tests/integration/test_tar_trees.py::test_nothing_is_imported_after_start",
    ),
    defence(
        "D2",
        "what copies asks no name services",
        ("runtime/archive.py", "import errno\n", "import errno\nimport pwd\n"),
        "tests/unit/kernel/test_wrappers.py::test_no_code_is_made_from_bytes",
    ),
    defence(
        "D3",
        "no program of the container's undoes a compression",
        (
            "runtime/archive.py",
            '    owner = None\n    user = message.get("owner")\n',
            (
                '    owner = None\n    os.spawnlpe(os.P_WAIT, "xz", "xz", "-d", {"PATH": "/usr/local/bin:/usr/bin"})\n'
                '    user = message.get("owner")\n'
            ),
        ),
        "test_copying.py::test_nothing_of_the_image_runs_while_its_files_are_copied",
    ),
    defence(
        "D4",
        "a stopped container's mounts are made in its root",
        ("primitives/rootpath.py", "_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS", "_RESOLVE = 0"),
        "test_copying.py::test_links_in_place_of_a_stopped_containers_mounts",
    ),
    defence(
        "D4",
        "a stopped container's mounts are made where they were looked up (raced)",
        ("primitives/rootpath.py", "def open_in_root(", RACY_LOOKUP.replace("def open_in_root(", _OPEN_BY_TEXT)),
        (
            "primitives/rootpath.py",
            "return OwnedFd(openat2(root_fd, path, flags | os.O_CLOEXEC, mode, resolve=_RESOLVE | extra_resolve))",
            "return OwnedFd(_open_by_text(root_fd, path, flags | os.O_CLOEXEC, mode))",
        ),
        "test_copying.py::test_the_place_of_a_stopped_containers_volume_is_exchanged",
    ),
    defence(
        "D5",
        "owners of links are set on the links",
        (
            "primitives/tar/unpack.py",
            "            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)",
            "            os.chown(name, uid, gid, dir_fd=parent)",
        ),
        f"{_ARCHIVES}::test_nothing_outside_changes[applied]",
    ),
    defence(
        "D5",
        "times of links are set on the links",
        (
            "primitives/tar/unpack.py",
            (
                "            self._set_owner(entry, parent, name)\n            os.utime(name, ns=(entry.mtime, entry.mtime),"
                " dir_fd=parent, follow_symlinks=False)"
            ),
            (
                "            self._set_owner(entry, parent, name)\n            os.utime(name, ns=(entry.mtime, entry.mtime),"
                " dir_fd=parent)"
            ),
        ),
        f"{_ARCHIVES}::test_nothing_outside_changes[applied]",
    ),
    defence(
        "D5",
        "modes are set on what was just made; not following suffices",
        ("primitives/tar/unpack.py", "            if not stat.S_ISDIR(there.st_mode):\n", "            if False:\n"),
        f"{_ARCHIVES}::test_nothing_outside_changes[layer]",
        spare=True,
    ),
    defence(
        "D5",
        "modes are set on what was just made",
        ("primitives/tar/unpack.py", "            if not stat.S_ISDIR(there.st_mode):\n", "            if False:\n"),
        (
            "primitives/tar/unpack.py",
            "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
            "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        ),
        f"{_ARCHIVES}::test_nothing_outside_changes[copied]",
    ),
    defence(
        "D6 E1",
        "links on the way are resolved in the root; nothing of the host in sight suffices",
        _ANY_WAY,
        f"{_ARCHIVES}::test_layers_of_strangers_touch_nothing_of_the_host",
        spare=True,
    ),
    defence(
        "D6 E1",
        "nothing of the host is in sight; links resolved in the root suffice",
        _LEAVES_NO_HOST,
        f"{_ARCHIVES}::test_layers_of_strangers_touch_nothing_of_the_host",
        spare=True,
    ),
    defence(
        "D6 E1",
        "layers stay in their directory",
        _ANY_WAY,
        _LEAVES_NO_HOST,
        f"{_ARCHIVES}::test_layers_of_strangers_touch_nothing_of_the_host",
    ),
    defence(
        "D6",
        "links on the way are resolved in the root",
        _ANY_WAY,
        f"{_ARCHIVES}::test_nothing_outside_changes[applied]",
        f"{_UNPACK}::TestEscapes::test_a_link_to_an_absolute_path_is_resolved_inside",
    ),
    defence(
        "D6",
        "names that climb out are refused",
        ("primitives/tar/rules.py", "            if not parts:\n", "            if False:\n"),
        f"{_UNPACK}::TestEscapes::test_names_that_lead_out_are_refused_by_name",
        f"{_COPY}::test_names_that_climb_out_are_refused",
    ),
    defence(
        "D6",
        "files are new ones",
        (
            "primitives/tar/unpack.py",
            "_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW",
            "_NEW_FILE = os.O_WRONLY | os.O_CREAT",
        ),
        f"{_ARCHIVES}::test_nothing_outside_changes[applied]",
        f"{_UNPACK}::TestEscapes::test_a_file_replaces_a_link_instead_of_writing_through_it",
    ),
    defence(
        "D6",
        "hard links do not follow links",
        (
            "primitives/tar/unpack.py",
            "            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)\n        except FileExistsError:",
            "            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=True)\n        except FileExistsError:",
        ),
        f"{_UNPACK}::TestEscapes::test_a_hard_link_to_a_link_does_not_follow_it",
    ),
    defence(
        "D6",
        "directories that were replaced are looked up again",
        (
            "primitives/tar/unpack.py",
            "                self._directories.forget()\n                remove_entry(kept, name)",
            "                remove_entry(kept, name)",
        ),
        f"{_UNPACK}::TestEscapes::test_a_link_that_is_replaced_by_another_is_followed_anew",
    ),
    defence(
        "D6",
        "whiteouts are of a name",
        ("primitives/tar/unpack.py", '        if hidden in (b"", b".", b".."):', "        if False:"),
        f"{_UNPACK}::TestEscapes::test_whiteouts_out_are_refused",
    ),
    defence(
        "D7",
        "members are counted",
        (
            "primitives/tar/reader.py",
            "        if self._limits.entries and self._entries > self._limits.entries:\n",
            "        if False:\n",
        ),
        f"{_UNPACK}::TestLimits::test_entries",
        f"{_ARCHIVES}::test_limits_are_settings",
    ),
    defence(
        "D7 E7",
        "headers are not collected without end",
        (
            "primitives/tar/reader.py",
            "        if self._limits.metadata and size > self._limits.metadata:\n",
            "        if False:\n",
        ),
        f"{_UNPACK}::TestLimits::test_metadata_is_not_buffered",
    ),
    defence(
        "D7",
        "names have a length and a depth",
        (
            "primitives/tar/reader.py",
            "        if limit and (len(name) > limit or len(target) > limit):\n",
            "        if False:\n",
        ),
        ("primitives/tar/rules.py", "    if limits.depth and len(parts) > limits.depth:\n", "    if False:\n"),
        f"{_UNPACK}::TestLimits::test_depth_and_length",
    ),
    defence(
        "D7",
        "attributes are those of a list",
        ("primitives/tar/unpack.py", "            if is_kept_xattr(name):\n", "            if True:\n"),
        f"{_UNPACK}::TestAttributes::test_only_listed_attributes_are_taken",
    ),
    defence(
        "D7",
        "devices of a container are copied as nodes and not opened",
        (
            "primitives/tar/pack.py",
            "        else:\n            self.put_entry(_entry(path, kind, status))\n\n    def _add_directory",
            "        else:\n            os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=fd))\n            self.put_entry(_entry(path, kind, status))\n\n    def _add_directory",
        ),
        f"{_COPY}::test_devices_are_copied_as_nodes_and_never_opened",
    ),
    defence(
        "D8",
        "the standard library's extract is banned",
        ("primitives/tar/rules.py", "import errno\n", "import errno\nimport tarfile\n"),
        "tests/unit/kernel/test_wrappers.py::test_no_code_is_made_from_bytes",
    ),
    defence(
        "D9",
        "exports follow no directory that became a link (raced)",
        (
            "primitives/tar/pack.py",
            "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW",
            "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY",
        ),
        "tests/integration/test_tar_trees.py::TestPack::test_names_that_are_exchanged_meanwhile_lead_nowhere",
    ),
    defence(
        "D9",
        "exports follow no file that became a link (raced)",
        ("primitives/tar/pack.py", "_FILE = os.O_RDONLY | os.O_NOFOLLOW", "_FILE = os.O_RDONLY"),
        "tests/integration/test_tar_trees.py::TestPack::test_names_that_are_exchanged_meanwhile_lead_nowhere",
    ),
    defence(
        "D9",
        "directories that are unpacked into are nobody else's",
        ("storage/snapshots.py", "_PRIVATE = 0o710", "_PRIVATE = 0o755"),
        "tests/integration/test_snapshotters.py::TestRules::test_nobody_but_root_passes",
    ),
    defence(
        "D10",
        "a client takes what it asked for",
        (
            "primitives/tar/rules.py",
            '        raise TarError(f"unexpected name in archive: {shown(name)}")\n\n\ndef is_kept',
            "        return name\n\n\ndef is_kept",
        ),
        ("primitives/tar/rules.py", '        if b".." in parts:\n', "        if False:\n"),
        f"{_UNPACK}::TestEscapes::test_only_what_was_asked_for_is_taken",
    ),
    defence(
        "D10",
        "kinds are kept where it was asked for",
        ("primitives/tar/unpack.py", "        if self._rules.keep_kinds:\n", "        if False:\n"),
        f"{_COPY}::test_kinds_are_kept_and_owners_copied_when_asked",
    ),
)
