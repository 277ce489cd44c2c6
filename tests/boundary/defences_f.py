"""Defences of rows F: builds. What BuildKit's protocol refuses: tests/unit/api/, tests/integration/test_buildkit_hostile.py."""

from __future__ import annotations

from defence import Defence, defence

_MOUNTS = "tests/integration/test_build_mounts.py"
_BUILDS = "tests/integration/test_build.py"
_REACHES = f"{_BUILDS}::test_hostile_context_and_image_reach_nothing_of_the_host"
_CONTEXTS = "tests/integration/test_build_contexts.py"
_SECRETS = "tests/integration/test_build_secrets.py"
_GIT = "tests/unit/engine/builds/test_git.py"
_BY_PATH = """def open_in_root(root_fd: int, path: str | bytes, flags: int = os.O_PATH) -> OwnedFd:
    from orlop.primitives.owned_fd import OwnedFd

    return OwnedFd(os.open(b"/proc/self/fd/%d/%s" % (root_fd, os.fsencode(path)), flags))


"""

DEFENCES: tuple[Defence, ...] = (
    defence(
        "F1 F7",
        "what a mount's source leads to is looked up below its root, when it is mounted (also raced)",
        (
            "runtime/operations.py",
            "                part = open_in_root(top.fileno(), self.options.subpath)\n",
            '                part = OwnedFd(os.open(f"{self.source}/{self.options.subpath}", os.O_PATH | os.O_CLOEXEC))\n',
        ),
        "test_races.py::test_the_part_of_a_volume_is_exchanged",
    ),
    defence(
        "F7",
        "a context's part is looked up in the context before, too",
        ("runtime/gather_paths.py", "def find_sources(", _BY_PATH + "def find_sources("),
        ("runtime/gathering.py", "def answer_gather(", _BY_PATH + "def answer_gather("),
        (
            "runtime/operations.py",
            "                part = open_in_root(top.fileno(), self.options.subpath)\n",
            '                part = OwnedFd(os.open(f"{self.source}/{self.options.subpath}", os.O_PATH | os.O_CLOEXEC))\n',
        ),
        f"{_MOUNTS}::test_hostile_mounts_reach_nothing_of_the_host",
    ),
    defence(
        "F7",
        "a cache's name is no path",
        (
            "engine/builds/caches.py",
            '        key = hashlib.sha256(wish.name.encode("utf-8", "surrogateescape")).hexdigest()\n',
            "        key = wish.name\n",
        ),
        f"{_MOUNTS}::test_hostile_mounts_reach_nothing_of_the_host",
    ),
    defence(
        "F7",
        "options of mounts are those of a list",
        (
            "build/mounts.py",
            "            raise InvalidParameterError(f\"unexpected key '{key}' for mount type '{kind}'\")\n",
            "            continue\n",
        ),
        "tests/unit/build/test_mounts.py::test_refusals",
    ),
    defence(
        "F2",
        "what was made for mounts is in no layer",
        ("runtime/mount_stubs.py", "    return frozenset(found)\n", "    return frozenset()\n"),
        f"{_MOUNTS}::test_binds",
    ),
    defence(
        "F2",
        "what a step has put there stays",
        (
            "runtime/mount_stubs.py",
            '        return all(name + b"/" + os.fsencode(child) in omitted for child in os.listdir(directory.fileno()))\n',
            "        return directory is not None\n",
        ),
        f"{_MOUNTS}::test_what_a_step_puts_beside_a_mount_stays",
    ),
    defence(
        "F3",
        "a step gets what the build was allowed",
        (
            "build/executing.py",
            "        if asked and entitlement not in self._stage.build.options.allowed:\n",
            "        if False:\n",
        ),
        f"{_MOUNTS}::test_tmpfs_network_and_security",
    ),
    defence(
        "F4",
        "fields of a message are counted",
        ("primitives/protobuf/message.py", "    if budget[0] < 0:\n", "    if False:\n"),
        "tests/property/test_protobuf.py::test_a_message_of_too_many_fields",
    ),
    defence(
        "F5",
        "steps come from images that the build names",
        (
            "engine/builds/service.py",
            "        return CacheSources(found, self._tools.layers.retain)\n",
            "        return CacheSources([*found, *self._tools.images.store.images()], self._tools.layers.retain)\n",
        ),
        "tests/integration/test_build_caches.py::test_steps_come_from_named_images_only",
    ),
    defence(
        "F5",
        "a named image's step stands on the same",
        (
            "engine/builds/sources.py",
            "            if len(config.history) <= depth or not _begins_with(config, below):\n",
            "            if len(config.history) <= depth:\n",
        ),
        "tests/unit/engine/builds/test_sessions.py::test_steps_of_named_images",
    ),
    defence(
        "F6 F8",
        "sources and destinations of COPY are looked up in their trees",
        ("runtime/gather_paths.py", "def find_sources(", _BY_PATH + "def find_sources("),
        ("runtime/gathering.py", "def answer_gather(", _BY_PATH + "def answer_gather("),
        _REACHES,
        f"{_BUILDS}::test_errors",
    ),
    defence(
        "F6",
        "a Dockerfile is one of the context's",
        (
            "engine/builds/contexts.py",
            "    with open_in_root(top.fileno(), path, _READ_FILE) as file:\n",
            "    with OwnedFd(os.open(path, _READ_FILE, dir_fd=top.fileno())) as file:\n",
        ),
        _REACHES,
    ),
    defence(
        "F6",
        "paths of a context's manifest are names",
        (
            "engine/builds/context_files.py",
            '        or any(name in ("", ".", "..") or len(name) > 255 for name in names)\n',
            "",
        ),
        f"{_CONTEXTS}::test_hostile_manifest",
    ),
    defence(
        "F6",
        "digests of a context's manifest are digits",
        (
            "engine/builds/context_files.py",
            '(len(entry.text) == _DIGEST and set(entry.text) <= set("0123456789abcdef"))',
            "bool(entry.text)",
        ),
        f"{_CONTEXTS}::test_hostile_manifest",
    ),
    defence(
        "F6",
        "directories of a manifest are not links",
        (
            "engine/builds/context_tree.py",
            "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
            "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        ),
        ("engine/builds/context_tree.py", ", extra_resolve=RESOLVE_NO_SYMLINKS", ""),
        f"{_CONTEXTS}::test_manifest_that_leads_out_of_its_directories",
    ),
    defence(
        "F6",
        "contents of a context have their digests",
        ("engine/builds/contents.py", "        if expected and digest != expected:\n", "        if False:\n"),
        (
            "engine/builds/contents.py",
            '            os.rename(self._name, f"{self._root}/{digest}")\n',
            '            os.rename(self._name, f"{self._root}/{expected or digest}")\n',
        ),
        f"{_CONTEXTS}::test_content_is_what_its_digest_says",
    ),
    defence(
        "F6",
        "words of git are checked",
        (
            "engine/builds/git.py",
            "    if (_SSH_URL if is_ssh(url) else _URL).fullmatch(url) is None:\n",
            "    if False:\n",
        ),
        f"{_GIT}::test_refused",
    ),
    defence(
        "F6",
        "names in a repository are checked",
        (
            "engine/builds/git.py",
            '    if ref and (_REF.fullmatch(ref) is None or ".." in ref or "@{" in ref):\n',
            "    if False:\n",
        ),
        f"{_GIT}::test_refused",
    ),
    defence(
        "F6",
        "directories in a repository are names",
        (
            "engine/builds/git.py",
            '    if directory and (not directory.isprintable() or {"..", ".", ""} & set(directory.split("/"))):\n',
            "    if False:\n",
        ),
        f"{_GIT}::test_refused",
    ),
    defence(
        "F6",
        "git is nobody",
        ("primitives/confined.py", "    os.setresuid(NOBODY, NOBODY, NOBODY)\n", "    pass\n"),
        "tests/integration/test_confined.py::test_git_can_change_nothing_but_its_directory",
    ),
    defence(
        "F6",
        "git writes to its directory only",
        (
            "primitives/confined.py",
            'k.mount_setattr(k.AT_FDCWD, "/", attr_set=k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID, recursive=True)',
            'k.mount_setattr(k.AT_FDCWD, "/", attr_set=k.MOUNT_ATTR_NOSUID, recursive=True)',
        ),
        "tests/integration/test_confined.py::test_git_can_change_nothing_but_its_directory",
    ),
    defence(
        "F8",
        "names in contexts climb nowhere",
        ("primitives/tar/rules.py", "            if not parts:\n", "            if False:\n"),
        _REACHES,
    ),
    defence(
        "F9",
        "a secret's file goes with its step",
        ("engine/builds/mounting.py", "        stack.callback(_unlink, path)\n        _write(", "        _write("),
        f"{_SECRETS}::test_secrets_are_gone_when_their_step_has_ended",
    ),
    defence(
        "F9",
        "a secret's variable is in no record",
        ("engine/builds/mounting.py", "            made.private_env.append(", "            made.env.append("),
        f"{_SECRETS}::test_secrets_leave_nothing",
    ),
    defence(
        "F9",
        "a secret is no part of a step's key",
        (
            "build/executing.py",
            '        if mount.kind not in ("bind", "cache"):\n            return StepMount(mount, target)\n',
            (
                '        if mount.kind not in ("bind", "cache"):\n'
                '            if mount.kind == "secret":\n'
                "                secrets = build.workshop._mounter._client\n"
                "                self._inputs.append(str(await secrets.secret(mount.name)))\n"
                "            return StepMount(mount, target)\n"
            ),
        ),
        f"{_SECRETS}::test_secrets_leave_nothing",
    ),
)
