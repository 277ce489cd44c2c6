"""Defences of rows H beyond permissions and TLS (``defences_c.py``): the API, what is told, logs, exhaustion."""

from __future__ import annotations

from defence import Defence, defence

_APP = "tests/unit/api/test_app.py"
_HTTP = "tests/unit/api/test_hostile_http.py::test_refused_once_and_closed"
_BODIES = "tests/faults/test_bad_input.py::test_bad_bodies"

DEFENCES: tuple[Defence, ...] = (
    defence(
        "H3",
        "browsers are refused",
        (
            "api/app.py",
            '    if "Origin" in request.headers or not _is_own_host(request.headers.get("Host", ""), transport):\n',
            "    if False:\n",
        ),
        "tests/integration/test_api.py::test_tcp_needs_a_flag_and_refuses_browsers",
    ),
    defence(
        "H3",
        "browsers are refused by TLS as well",
        ("api/app.py", '        if "Origin" in request.headers:\n', "        if False:\n"),
        "tests/unit/api/test_tls.py::test_good_client_by_any_name_but_no_browser",
    ),
    defence(
        "H3",
        "a body is JSON",
        (
            "api/call.py",
            '        if media.split(";", 1)[0].strip().lower() != "application/json":\n',
            "        if False:\n",
        ),
        f"{_APP}::test_bodies",
    ),
    defence(
        "H5",
        "lines have a length",
        ("api/app.py", "        max_line_size=16384,\n", "        max_line_size=1 << 20,\n"),
        f"{_HTTP}[8]",
    ),
    defence(
        "H5",
        "fields have a length",
        ("api/app.py", "        max_field_size=16384,\n", "        max_field_size=1 << 20,\n"),
        f"{_HTTP}[7]",
    ),
    defence(
        "H5",
        "a body that breaks is told as a client's mistake",
        (
            "api/call.py",
            "        except (web.RequestPayloadError, ClientPayloadError):\n",
            "        except ZeroDivisionError:\n",
        ),
        "tests/unit/api/test_hostile_http.py::test_body_that_breaks_later_is_a_clients_mistake",
    ),
    defence(
        "H5",
        "a hijacked connection's later bytes are no request",
        ("api/hijack.py", "        transport.pause_reading()\n        original", "        original"),
        ("api/hijack.py", 'held, self.held = self.held or b"", None', 'held, self.held = b"", None'),
        "tests/unit/api/test_hijack.py::test_attach_gives_socket_and_early_bytes",
    ),
    defence(
        "H8",
        "a body has a size, told or not",
        ("api/call.py", "        if length is not None and length > limit:\n", "        if False:\n"),
        ("api/call.py", "            if len(data) > limit:\n", "            if False:\n"),
        f"{_APP}::test_bodies_have_a_size",
    ),
    defence(
        "H8",
        "a client that does not read holds the program up, and nothing grows",
        (
            "runtime/clients.py",
            "        return len(self._out) >= BUFFER_LIMIT and not self.broken and not self.detached\n",
            "        return False\n",
        ),
        "tests/unit/runtime/test_clients.py::test_a_client_that_does_not_read_is_full_and_then_stuck",
    ),
    defence(
        "H8",
        "a client that never reads is cut off",
        ("runtime/loop.py", " or (client.full and client.patience() < 0)", ""),
        "tests/unit/runtime/test_loop.py::test_a_client_that_never_reads_is_cut_off_and_the_program_goes_on",
    ),
    defence(
        "H8",
        "who waits and leaves is forgotten",
        (
            "api/call.py",
            '        await cast("Connection", self.request.protocol).gone.wait()\n',
            "        import asyncio\n\n        await asyncio.sleep(3600)\n",
        ),
        "tests/integration/test_api.py::test_listeners_that_do_not_read_are_bounded",
    ),
    defence(
        "H9",
        "an unforeseen error tells its type only",
        (
            "api/errors.py",
            '    return f"internal error: {type(error).__name__}"\n',
            '    return f"internal error: {type(error).__name__}: {error}"\n',
        ),
        f"{_APP}::test_unforeseen_error_tells_its_type_only",
    ),
    defence(
        "H9",
        "credentials have no representation",
        ("registry/credentials.py", '    password: str = field(default="", repr=False)\n', '    password: str = ""\n'),
        "tests/unit/registry/test_hostile.py::test_errors_do_not_show_what_is_secret",
    ),
    defence(
        "H10",
        "names of containers are names, to their end",
        (
            "spec/names.py",
            "    return _NAME.fullmatch(text) is not None\n",
            "    return _NAME.match(text) is not None\n",
        ),
        "tests/unit/spec/test_names.py::test_bad_names",
    ),
    defence(
        "H10",
        "ids are ids, to their end",
        ("spec/ids.py", "    return _ID.fullmatch(text) is not None\n", "    return _ID.match(text) is not None\n"),
        "tests/unit/spec/test_names.py::test_ids",
    ),
    defence(
        "H10",
        "names of volumes are names, to their end",
        ("volumes/store.py", "    if not _NAME.fullmatch(name):\n", "    if not _NAME.match(name):\n"),
        "tests/unit/volumes/test_volume_store.py::test_bad_names",
    ),
    defence(
        "H10",
        "ids of orlop-runtime are names",
        (
            "runtime/oci/state.py",
            '        if not consists_of(identity, _ID, 1, 255) or identity in (".", ".."):\n',
            "        if False:\n",
        ),
        "tests/unit/runtime/oci/test_state.py::test_ids_that_are_paths",
    ),
    defence(
        "H10",
        "an encoded slash is part of a name",
        (
            "api/app.py",
            "                path = request.rel_url.raw_path\n",
            "                path = request.rel_url.path\n",
        ),
        f"{_APP}::test_names_with_slashes",
    ),
    defence(
        "H11",
        "words of /etc/hosts and resolv.conf are words",
        (
            "network/hosts.py",
            '    if not text or not all(char.isprintable() and not char.isspace() and char != "#" for char in text):\n',
            "    if not text:\n",
        ),
        "tests/unit/network/test_hosts.py::test_bad_hostname",
        "tests/unit/network/test_hosts.py::test_bad_extra_hosts",
        "tests/unit/network/test_hosts.py::test_resolv_injection",
    ),
    defence(
        "H11",
        "what is shown moves no cursor",
        ("cli/text.py", "    if text.isprintable():\n", "    if True:\n"),
        "tests/unit/cli/test_listing.py::test_escapes",
        "tests/unit/cli/test_listing.py::test_ps_table",
    ),
    defence(
        "H12",
        "a log is no link",
        ("runtime/json_log.py", "os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC", "os.O_CREAT | os.O_CLOEXEC"),
        "tests/unit/runtime/test_json_log.py::test_a_link_in_place_of_the_log_is_refused",
    ),
    defence(
        "H12",
        "a link is not read as a log",
        ("logs/files.py", "os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_RDONLY | os.O_CLOEXEC"),
        "tests/unit/logs/test_reader.py::test_a_link_in_place_of_a_log_is_not_read",
    ),
    defence(
        "H12",
        "nobody names a log's path",
        (
            "engine/containers/log_target.py",
            "        if name not in _OPTIONS[log.type] | _DELIVERY:\n",
            "        if False:\n",
        ),
        _BODIES,
    ),
    defence(
        "H13",
        "a listener's queue has an end",
        ("engine/events.py", "            if len(listener.queue) >= QUEUE_SIZE:\n", "            if False:\n"),
        "tests/unit/engine/test_events.py::test_slow_listener_is_dropped_and_others_are_not",
    ),
    defence(
        "H13",
        "what is remembered of events has an end",
        ("engine/events.py", "deque(maxlen=RING_SIZE)", "deque()"),
        "tests/unit/engine/test_events.py::test_ring_is_bounded",
    ),
    defence(
        "H14",
        "without descriptors the engine waits, and says little",
        ("api/app.py", "sock=sock, backlog=1))\n        sock.listen(_BACKLOG)", "sock=sock, backlog=_BACKLOG))"),
        "tests/faults/test_storms.py::test_out_of_descriptors",
    ),
)
