"""Defences of rows E: images, registries, load and save. What they are unpacked by is in ``defences_d.py``."""

from __future__ import annotations

from defence import Defence, defence

_LIES = "tests/unit/registry/test_hostile.py"
_PULLS = "tests/faults/test_registry.py"
_LOADS = "tests/integration/test_save_load.py"
_CONFIGURATIONS = "test_hostile_images.py::test_hostile_configurations"
_NO_JSON = "test_hostile_images.py::test_configurations_that_are_no_json_for_everybody"
_NOT_IN_THE_END = (
    "registry/download.py",
    "        if sink.is_whole():\n            return\n",
    "        if sink.is_whole() or True:\n            return\n",
)
_NOT_WHEN_IT_IS_KEPT = ("image/partial.py", "        if not self.is_whole():\n", "        if False:\n")

DEFENCES: tuple[Defence, ...] = (
    defence(
        "E2",
        "an image has no say in security, logs and mounts",
        (
            "engine/containers/creation.py",
            "        arguments = (*(config.entrypoint or ()), *(config.cmd or ()))\n",
            (
                '        if (config.labels or {}).get("com.docker.security.privileged") == "true":\n'
                "            host = msgspec.structs.replace(host, privileged=True)\n"
                "        arguments = (*(config.entrypoint or ()), *(config.cmd or ()))\n"
            ),
        ),
        _CONFIGURATIONS,
    ),
    defence(
        "E3",
        "digests are 64 digits",
        ("spec/digest.py", "        if not _HEX.fullmatch(self.hex):\n", "        if False:\n"),
        "tests/unit/spec/test_digest.py::test_everything_else_is_refused",
        f"{_LIES}::test_manifests_that_are_refused[traversal-invalid checksum digest format]",
    ),
    defence(
        "E3",
        "digests are nothing more",
        ("spec/digest.py", "_HEX.fullmatch(self.hex)", "_HEX.match(self.hex)"),
        "tests/unit/spec/test_digest.py::test_everything_else_is_refused",
    ),
    defence(
        "E3",
        "keys of layers are names of files",
        ("storage/snapshots.py", "    if not _KEY.fullmatch(key):\n", "    if False:\n"),
        "tests/integration/test_snapshotters.py::TestRules::test_keys_are_file_names",
    ),
    defence(
        "E4",
        "a blob has its digest at the end of its transfer; looked at when it is kept suffices",
        _NOT_IN_THE_END,
        f"{_PULLS}::test_what_cannot_be_pulled_leaves_nothing[liar-filesystem layer verification failed for digest sha256:]",
        spare=True,
    ),
    defence(
        "E4",
        "a blob has its digest when it is kept; looked at after its transfer suffices",
        _NOT_WHEN_IT_IS_KEPT,
        f"{_PULLS}::test_what_cannot_be_pulled_leaves_nothing[liar-filesystem layer verification failed for digest sha256:]",
        spare=True,
    ),
    defence(
        "E4",
        "a blob has its digest",
        _NOT_IN_THE_END,
        _NOT_WHEN_IT_IS_KEPT,
        f"{_PULLS}::test_what_cannot_be_pulled_leaves_nothing[liar-filesystem layer verification failed for digest sha256:]",
        f"{_LIES}::test_a_blob_that_cannot_be[liar-filesystem layer verification failed for digest]",
    ),
    defence(
        "E4",
        "a blob is no longer than it should be",
        ("registry/download.py", "            if sink.size + waiting > blob.size:\n", "            if False:\n"),
        f"{_LIES}::test_a_blob_that_cannot_be[long-is larger than the]",
    ),
    defence(
        "E4",
        "a manifest that was asked for by digest has it",
        ("registry/repository.py", "        if isinstance(name, Digest) and digest != name:\n", "        if False:\n"),
        f"{_LIES}::test_a_manifest_by_digest_has_it",
    ),
    defence(
        "E4",
        "a configuration has its digest",
        ("engine/registry/pull.py", "    if Digest.of(data) != descriptor.digest:\n", "    if False:\n"),
        f"{_LIES}::test_a_configuration_has_its_digest",
    ),
    defence(
        "E4",
        "members of an archive have the digests of their names",
        (
            "image/archive_members.py",
            "            if digest is not None and file.digest_so_far != digest:\n",
            "            if False:\n",
        ),
        f"{_LOADS}::test_hostile_archives_leave_nothing",
    ),
    defence(
        "E5 E11",
        "a layer is what the configuration says",
        (
            "image/unpacking.py",
            "            if expected is not None and diff_id != expected:\n",
            "            if False:\n",
        ),
        (
            "engine/registry/layers.py",
            "            if held[-1] != chain:\n",
            "            if False:\n",
        ),
        f"{_PULLS}::test_layers_that_are_not_what_the_config_says[other diff id]",
        f"{_LOADS}::test_hostile_archives_leave_nothing",
    ),
    defence(
        "E5",
        "there are as many layers as the configuration says",
        (
            "engine/registry/pull.py",
            "        if len(config.diff_ids) != len(manifest.layers):\n",
            "        if False:\n",
        ),
        f"{_PULLS}::test_layers_that_are_not_what_the_config_says[too few diff ids]",
    ),
    defence(
        "E6",
        "a document is an image or a list",
        ("spec/manifest.py", "    if has_list and has_image:\n", "    if False:\n"),
        f"{_LIES}::test_manifests_that_are_refused[confused-both an image and a list of images]",
    ),
    defence(
        "E6",
        "a document is what it was delivered as",
        ("spec/manifest.py", "    if named and named != media_type:\n", "    if False:\n"),
        f"{_LIES}::test_manifests_that_are_refused[othertype-but says that it is]",
    ),
    defence(
        "E6 E13",
        "keys are there once",
        ("spec/strict_json.py", "    if len(result) != len(pairs):\n", "    if False:\n"),
        f"{_LIES}::test_manifests_that_are_refused[twice-duplicate key]",
        f"{_NO_JSON}[twice]",
    ),
    defence(
        "E7",
        "what becomes large comes in pieces",
        (
            "image/compression.py",
            "piece = self._member.decompress(data, PIECE)",
            "piece = self._member.decompress(data, 1 << 40)",
        ),
        "tests/unit/image/test_compression.py::test_a_bomb_comes_in_bounded_pieces",
    ),
    defence(
        "E7",
        "an archive's size has a limit",
        (
            "primitives/tar/unpack.py",
            "            if self._limits.size and self._size > self._limits.size:\n",
            "            if False:\n",
        ),
        "tests/integration/test_unpack.py::TestLimits::test_size",
    ),
    defence(
        "E8",
        "a registry's answers have a size",
        ("registry/authorization.py", "            if len(data) > limit:\n", "            if False:\n"),
        ("spec/strict_json.py", "    if len(data) > limit:\n", "    if False:\n"),
        f"{_LIES}::test_manifests_that_are_refused[hugemanifest-larger than 4194304 bytes]",
    ),
    defence(
        "E8",
        "a configuration has a size",
        ("engine/registry/pull.py", "    if descriptor.size > SIZE_LIMIT:\n", "    if False:\n"),
        f"{_PULLS}::test_what_cannot_be_pulled_leaves_nothing[hugeconfig-image config is larger than]",
    ),
    defence(
        "E8",
        "lists of lists end",
        ("engine/registry/pull.py", "_DEPTH = 3", "_DEPTH = 1000"),
        f"{_PULLS}::test_what_cannot_be_pulled_leaves_nothing[nested-nested more than 2 deep]",
    ),
    defence(
        "E8",
        "layers are counted",
        ("spec/manifest.py", "    if len(layers) > LAYER_LIMIT:\n", "    if False:\n"),
        f"{_LIES}::test_manifests_that_are_refused[many-max depth exceeded: 200 layers]",
    ),
    defence(
        "E8",
        "an archive's documents have a size",
        ("image/archive_members.py", "            if entry.size > SIZE_LIMIT:\n", "            if False:\n"),
        ("spec/strict_json.py", "    if len(data) > limit:\n", "    if False:\n"),
        f"{_LOADS}::test_hostile_archives_leave_nothing",
    ),
    defence(
        "E9",
        "credentials do not follow a redirect",
        ("registry/http.py", "            same = origin(current) == first\n", "            same = True\n"),
        f"{_LIES}::test_credentials_do_not_follow_a_redirect_to_another_host",
    ),
    defence(
        "E9",
        "an upload that leads elsewhere gets no credentials",
        (
            "registry/repository.py",
            "        own = origin(url) == origin(self.endpoint.url)\n        for attempt in range(2):",
            "        own = True\n        for attempt in range(2):",
        ),
        f"{_LIES}::test_an_upload_elsewhere_gets_no_credentials",
    ),
    defence(
        "E9",
        "a token service is spoken to by TLS",
        ("registry/authorization.py", '        if parts.scheme != "https" and not (', "        if False and not ("),
        f"{_LIES}::test_bad_realms_get_nothing[evilrealm-refusing to send credentials without TLS]",
    ),
    defence(
        "E9",
        "a token service is one of HTTP",
        ("registry/authorization.py", "        if not valid:\n", "        if False:\n"),
        f"{_LIES}::test_bad_realms_get_nothing[ftprealm-bad token service]",
    ),
    defence(
        "E9",
        "credentials are shown when they are asked for",
        (
            "registry/authorization.py",
            "        if self._credentials.registry_token:\n            self._header",
            (
                "        if self._credentials.has_password:\n"
                '            self._header, self._expires = self._credentials.basic(), float("inf")\n'
                "        if self._credentials.registry_token:\n            self._header"
            ),
        ),
        f"{_LIES}::test_credentials_are_not_sent_before_they_are_asked_for",
    ),
    defence(
        "E9",
        "mirrors get no credentials",
        ("registry/authorization.py", "ANONYMOUS if endpoint.mirror else credentials", "credentials"),
        f"{_LIES}::test_mirrors_get_no_credentials",
    ),
    defence(
        "E9",
        "layers from elsewhere are refused",
        (
            "spec/manifest.py",
            '        f"{OCI_LAYER}+zstd",\n',
            '        f"{OCI_LAYER}+zstd",\n        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",\n',
        ),
        f"{_LIES}::test_manifests_that_are_refused[foreign-unsupported layer media type]",
    ),
    defence(
        "E10",
        "certificates are verified",
        ("registry/certificates.py", "    if insecure:\n        context.check", "    if True:\n        context.check"),
        "tests/integration/test_registry.py::test_tls_and_passwords",
    ),
    defence(
        "E10",
        "plain HTTP is for who was named",
        ("registry/endpoints.py", "        if not self.is_insecure(domain):\n", "        if False:\n"),
        "tests/unit/registry/test_protocol.py::test_where_a_registry_is",
    ),
    defence(
        "E10",
        "an answer of the name service makes nobody trusted",
        (
            "registry/endpoints.py",
            "addresses = self._resolve(host) if self._names_help(host) else ()",
            "addresses = self._resolve(host)",
        ),
        "tests/unit/registry/test_protocol.py::test_where_a_registry_is",
    ),
    defence(
        "E10",
        "a redirect does not lead out of TLS",
        ("registry/http.py", '            url.startswith("https://")\n', '            url.startswith("never://")\n'),
        f"{_LIES}::test_a_redirect_does_not_lead_out_of_tls",
    ),
    defence(
        "E11",
        "a name that goes to another image is told",
        ("image/loading.py", "            if before is not None:\n", "            if False:\n"),
        f"{_LOADS}::test_a_name_that_another_image_had",
    ),
    defence(
        "E12",
        "members are found in the archive only",
        (
            "image/archive_members.py",
            "        found = self._files.get(self._resolved(name))\n        if found is None:\n",
            (
                "        found = self._files.get(self._resolved(name))\n"
                '        if found is None and os.path.isfile(os.path.join("/", self._resolved(name))):\n'
                "            found = self._spool()\n"
                '            with open(os.path.join("/", self._resolved(name)), "rb") as other:\n'
                "                await found.write(other.read())\n"
                "            found.end()\n"
                "        if found is None:\n"
            ),
        ),
        f"{_LOADS}::test_hostile_archives_leave_nothing",
        f"{_LOADS}::test_a_link_in_the_archive_leads_nowhere_else",
    ),
    defence(
        "E13",
        "values of a configuration are a user's",
        ("engine/containers/creation.py", "        check_config(merged)\n", "        check_config(config)\n"),
        _CONFIGURATIONS,
    ),
    defence(
        "E13",
        "text is text",
        ("spec/strict_json.py", '        if "\\\\u" in text:\n', "        if False:\n"),
        f"{_NO_JSON}[surrogate]",
    ),
    defence(
        "E13",
        "numbers are numbers",
        ("spec/strict_json.py", ", parse_constant=_constant)", ")"),
        f"{_NO_JSON}[not a number]",
    ),
)
