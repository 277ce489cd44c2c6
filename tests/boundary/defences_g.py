"""Defences of rows G: networks."""

from __future__ import annotations

from defence import Defence, defence

_BRIDGE = "tests/integration/test_network_bridge.py"
_TABLE = "tests/integration/test_reachability.py::test_reachability"
_USERS = "tests/integration/test_user_chain.py"
_NAMES = "tests/integration/test_name_server.py"
_ROUTER = "tests/integration/test_router_advertisements.py::test_a_container_that_advertises_itself_as_router"
_MODES = "tests/integration/test_gateway_modes.py::test_who_reaches_whom"
_TRUSTED = "tests/integration/test_trusted_interfaces.py::test_who_reaches_published_ports"
_RULES = "tests/unit/network/test_firewall_rules.py"
_TAKEN_UP = (
    "tests/integration/test_network_restoring.py::test_running_containers_are_taken_up_and_the_others_cleaned_up"
)
_WITHOUT_RULES = "tests/integration/test_conntrack.py::test_what_began_without_rules_ends_with_them"

DEFENCES: tuple[Defence, ...] = (
    defence(
        "G1",
        "containers believe no router",
        (
            "network/bridge.py",
            'settings = {f"{conf}/accept_ra": "0", f"{conf}/disable_ipv6": "0"}',
            'settings = {f"{conf}/accept_ra": "1", f"{conf}/disable_ipv6": "0"}',
        ),
        f"{_ROUTER}[IPv6]",
    ),
    defence(
        "G1",
        "networks without IPv6 have none, in the container",
        (
            "runtime/network_namespace.py",
            (
                '    "ipv6/conf/default/disable_ipv6": "1",\n    "ipv6/conf/default/accept_ra": "0",\n'
                '    "ipv6/conf/all/accept_ra": "0",\n'
            ),
            "",
        ),
        (
            "network/attachments.py",
            "    if ready.pair is None or ready.pair.ipv6_off or usual is None or usual.address6:\n",
            "    if True:\n",
        ),
        f"{_ROUTER}[IPv4 only]",
    ),
    defence(
        "G1",
        "networks without IPv6 have none, on the host",
        ("network/sysctl.py", '    write_setting(f"ipv6/conf/{name}/accept_ra", "0")\n', ""),
        ("network/sysctl.py", '"0" if ipv6 else "1")', '"0")'),
        f"{_ROUTER}[IPv4 only]",
        f"{_BRIDGE}::test_container_has_what_docker_gives_it",
    ),
    defence(
        "G2",
        "who has no way out has no name servers outside",
        ("network/resolvers.py", "        if not outward or not servers", "        if not servers"),
        f"{_NAMES}::test_an_internal_network_asks_nobody",
    ),
    defence(
        "G3",
        "nothing from elsewhere is for loopback (iptables)",
        (
            "network/firewall/rules.py",
            '        rules += ["-d 127.0.0.0/8 -j DROP", "-s 127.0.0.0/8 -j DROP"]\n',
            "        pass\n",
        ),
        f"{_BRIDGE}::test_reachability",
        f"{_TABLE}[4-iptables]",
    ),
    defence(
        "G3",
        "nothing from elsewhere is for loopback (nftables)",
        (
            "network/firewall/ruleset.py",
            '    ends = ("daddr", "saddr") if family.version == 4 else ()\n',
            "    ends: tuple[str, ...] = ()\n",
        ),
        f"{_TABLE}[4-nftables]",
    ),
    defence(
        "G3",
        "a port of an address is led from this address only (iptables)",
        (
            "network/firewall/rules.py",
            'where = "" if port.host_ip in ("", family.every) else f"-d {port.host_ip}{family.single} "',
            'where = ""',
        ),
        f"{_BRIDGE}::test_reachability",
        f"{_TABLE}[4-iptables]",
    ),
    defence(
        "G3",
        "a port of an address is led from this address only (nftables)",
        ("network/firewall/ruleset.py", '        elif port.host_ip in ("", family.every):\n', "        if True:\n"),
        f"{_TABLE}[4-nftables]",
    ),
    defence(
        "G3",
        "loopback is routed only where rules guard it",
        (
            "network/bridge_device.py",
            "        if self._around.firewall is not None:\n            route_loopback",
            "        if True:\n            route_loopback",
        ),
        f"{_BRIDGE}::test_missing_iptables_is_named",
    ),
    defence(
        "G4",
        "nobody routes to containers (iptables)",
        (
            "network/firewall/rules.py",
            "for bridge in bridges if family.is_hidden(bridge)",
            "for bridge in bridges if False",
        ),
        f"{_TABLE}[4-iptables]",
        f"{_BRIDGE}::test_reachability",
    ),
    defence(
        "G4",
        "nobody routes to containers (nftables)",
        (
            "network/firewall/ruleset.py",
            "        if family.is_hidden(bridge)\n",
            "        if False\n",
        ),
        f"{_TABLE}[4-nftables]",
        f"{_TABLE}[6-nftables]",
    ),
    defence(
        "G4",
        "only trusted interfaces lead to containers (iptables)",
        ("network/firewall/rules.py", "-i {name} -j RETURN", "-j RETURN"),
        f"{_TRUSTED}[iptables]",
    ),
    defence(
        "G4",
        "only trusted interfaces lead to containers (nftables)",
        (
            "network/firewall/ruleset.py",
            "        if family.is_hidden(bridge)\n",
            "        if family.is_hidden(bridge) and not bridge.trusted\n",
        ),
        f"{_TRUSTED}[nftables]",
    ),
    defence(
        "G4",
        "what is not published is dropped (iptables)",
        (
            "network/firewall/rules.py",
            "-j {'ACCEPT' if mode == UNPROTECTED else 'DROP'}",
            "-j ACCEPT",
        ),
        (
            "network/firewall/rules.py",
            "for bridge in bridges if family.is_hidden(bridge)",
            "for bridge in bridges if False",
        ),
        f"{_TABLE}[4-iptables]",
    ),
    defence(
        "G4",
        "what is not published is dropped where it is routed (nftables)",
        ("network/firewall/ruleset.py", '"accept" if mode == UNPROTECTED else "drop"', '"accept"'),
        f"{_MODES}[nftables]",
    ),
    defence(
        "G8",
        "internal networks do not reach routed ones (iptables)",
        (
            "network/firewall/rules.py",
            '            own[one].append(f"! -d {family.subnet(bridge)} -i {name} -j DROP")\n',
            '            own[one].append(f"-i {name} ! -o {name} -j {two}")\n',
        ),
        (  # which drops the answers
            "network/firewall/rules.py",
            "for bridge in bridges if family.is_hidden(bridge)",
            "for bridge in bridges if False",
        ),
        f"{_MODES}[iptables]",
    ),
    defence(
        "G8",
        "internal networks do not reach others' ports (nftables)",
        (
            "network/firewall/ruleset.py",
            """                rules += [f'iifname "{name}" drop' for name in inner]""",
            "                rules += [''][:0]",
        ),
        f"{_RULES}::test_what_leaves_an_internal_network_reaches_no_crossing_bridge",
    ),
    defence(
        "G4",
        "the host is nobody's router",
        ("network/firewall/choice.py", "router = options.ip_forward and sysctl.forwarding_is_off()", "router = False"),
        f"{_USERS}::test_the_host_is_nobody_elses_router_unless_its_administrator_says_so",
    ),
    defence(
        "G4",
        "connections end with the container that they led to",
        (
            "network/connections.py",
            "                conntrack.forget_led_to(host, address)\n",
            "                pass\n",
        ),
        "tests/integration/test_conntrack.py::test_a_flow_follows_the_published_port_and_not_the_address",
    ),
    defence(
        "G5",
        "rules that somebody removed come back",
        ("network/service.py", "            self._watch.start()\n", "            self._watch = None\n"),
        "tests/integration/test_network_restoring.py::test_flushed_rules_come_back_by_themselves",
        f"{_USERS}::test_flushed_nftables_come_back_by_themselves",
        "tests/integration/test_antispoof.py::test_guards_come_and_go_with_their_ports",
    ),
    defence(
        "G5",
        "all of them are compared (iptables)",
        (
            "network/firewall/rules.py",
            "        lines = [*_kept(chains, table), *_own(chains, table), *_builtin(chains, table, bridges)]\n",
            (
                "        lines = [*_kept(chains, table), *_own(chains, table)]\n"
                '        lines += [] if name == "raw" and chains else _builtin(chains, table, bridges)\n'
            ),
        ),
        "tests/integration/test_network_restoring.py::test_flushed_rules_come_back_by_themselves",
    ),
    defence(
        "G5",
        "all of them are compared (nftables)",
        (
            "network/firewall/nftables.py",
            "            wanted = self._frame.get(family.version, Counter()) + self._elements(family)\n",
            "            wanted = self._elements(family)\n",
        ),
        (
            "network/firewall/nftables.py",
            ' + [f"more: {part}" for part in there - wanted]',
            "",
        ),
        f"{_USERS}::test_flushed_nftables_come_back_by_themselves",
    ),
    defence(
        "G5",
        "guards against spoofing come back",
        (
            "network/restoring.py",
            "    return await around.guard.restore() or missing\n",
            "    return missing\n",
        ),
        "tests/integration/test_antispoof.py::test_guards_come_and_go_with_their_ports",
    ),
    defence(
        "G5 G8",
        "what began without rules ends with them",
        (
            "network/firewall/backend.py",
            "        await asyncio.to_thread(self._end_refused, tuple(self._bridges.values()))\n",
            "        pass\n",
        ),
        f"{_WITHOUT_RULES}[iptables]",
        f"{_WITHOUT_RULES}[nftables]",
    ),
    defence(
        "G6",
        "the administrator's rules stay (iptables)",
        ("network/firewall/rules.py", "        if chain not in chains:\n", "        if True:\n"),
        f"{_USERS}::test_administrators_rules[iptables]",
    ),
    defence(
        "G6",
        "the administrator's rules stay (nftables)",
        (
            "network/firewall/ruleset.py",
            '        return name in _CHAINS or name.startswith(("to-", "from-"))\n',
            '        return name in (*_CHAINS, USER_CHAIN) or name.startswith(("to-", "from-"))\n',
        ),
        f"{_USERS}::test_administrators_rules[nftables]",
    ),
    defence(
        "G6",
        "the administrator's rules come first",
        ("network/firewall/rules.py", '[f"-j {USER_CHAIN}", f"-j {forward}"]', '[f"-j {forward}", f"-j {USER_CHAIN}"]'),
        f"{_USERS}::test_administrators_rules[iptables]",
    ),
    defence(
        "G7",
        "who is guarded has one hardware address",
        ("network/firewall/antispoof.py", '    yield f"ether saddr != {mac} drop"\n', ""),
        ("network/firewall/antispoof.py", '    yield f"ether type arp arp saddr ether != {mac} drop"\n', ""),
        "tests/integration/test_antispoof.py::test_passing_for_another[True]",
    ),
    defence(
        "G7",
        "who is guarded claims no other address",
        ("network/firewall/antispoof.py", '    yield "drop"\n', '    yield "accept"\n'),
        "tests/integration/test_antispoof.py::test_passing_for_another[True]",
    ),
    defence(
        "G8",
        "networks are apart (iptables)",
        ("network/firewall/rules.py", '            own[two].append(f"-o {name} -j DROP")\n', ""),
        f"{_TABLE}[4-iptables]",
        f"{_TABLE}[6-iptables]",
    ),
    defence(
        "G8",
        "networks are apart (nftables)",
        (
            "network/firewall/ruleset.py",
            '"iifname @bridges ct status ! dnat drop" if bridge.crossing else "iifname @bridges drop"',
            '"ct status ! dnat counter" if bridge.crossing else "counter"',
        ),
        f"{_TABLE}[4-nftables]",
        f"{_TABLE}[6-nftables]",
    ),
    defence(
        "G8",
        "internal networks have no way out (iptables)",
        (
            "network/firewall/rules.py",
            (
                '            own[one].append(f"! -s {family.subnet(bridge)} -o {name} -j DROP")\n'
                '            own[one].append(f"! -d {family.subnet(bridge)} -i {name} -j DROP")\n'
            ),
            '            own[forward].insert(0, f"-i {name} -j ACCEPT")\n            own[forward].insert(0, f"-o {name} -j ACCEPT")\n',
        ),
        (
            "network/firewall/rules.py",
            "for bridge in bridges if family.is_hidden(bridge)",
            "for bridge in bridges if False",
        ),
        f"{_BRIDGE}::test_an_internal_network_leads_nowhere[iptables]",
    ),
    defence(
        "G8",
        "internal networks have no way out (nftables)",
        ("network/firewall/ruleset.py", '["drop" if bridge.internal else "accept"]', '["accept"]'),
        ("network/firewall/ruleset.py", '            rules.append("drop")\n', '            rules.append("accept")\n'),
        (
            "network/firewall/ruleset.py",
            "        if family.is_hidden(bridge)\n",
            "        if False\n",
        ),
        f"{_BRIDGE}::test_an_internal_network_leads_nowhere[nftables]",
    ),
    defence(
        "G8",
        "neighbours are apart where the network says so",
        (
            "network/firewall/rules.py",
            '            own[forward].append(f"-i {name} -o {name} -j DROP")\n',
            '            own[forward].append(f"-i {name} -o {name} -j ACCEPT")\n',
        ),
        "tests/integration/test_bridge_options.py::test_options_of_a_bridge[iptables]",
    ),
    defence(
        "G8",
        "the relay keeps apart what rules keep apart",
        (
            "network/relay_peers.py",
            '    return any(_contains(network, address) for network in networks if network.driver == "bridge")\n',
            "    return False\n",
        ),
        "tests/integration/test_relay.py::test_ipv6_reaches_containers_that_have_ipv4_only[iptables]",
    ),
    defence(
        "G8",
        "without rules nothing is published",
        (
            "network/firewall/choice.py",
            "    backend = options.firewall_backend or _probe()\n",
            (
                "    try:\n        backend = options.firewall_backend or _probe()\n"
                "    except UnavailableError:\n        return None\n"
            ),
        ),
        f"{_BRIDGE}::test_missing_iptables_is_named",
    ),
    defence(
        "G9",
        "clients keep their address",
        (
            "network/firewall/rules.py",
            '        back = f"-s {subnet} -d {subnet} -o {bridge.name}"\n',
            '        back = f"-d {subnet} -o {bridge.name}"\n',
        ),
        f"{_BRIDGE}::test_reachability",
    ),
    defence(
        "G10",
        "names of networks are names",
        (
            "network/requests.py",
            "    if not _NAME.fullmatch(request.name) or len(request.name) > _LONGEST_NAME:\n",
            "    if False:\n",
        ),
        "tests/unit/network/test_networks.py::test_hostile_names",
        "tests/integration/test_hostile_networks.py::test_two_hundred_hostile_requests",
    ),
    defence(
        "G10",
        "parameters are those of the endpoint's own interface",
        (
            "network/interface_sysctls.py",
            'part in _PARTS.get(kind, ()) and interface in ("IFNAME", "ifname")',
            "True",
        ),
        (
            "network/interface_sysctls.py",
            "    if len(words) != 5 or not consists_of(words[4], _PARAMETER, 1, _LONGEST):\n",
            "    if len(words) < 5:\n",
        ),
        (
            "runtime/network_namespace.py",
            '    if any(part in ("", ".", "..") for part in name.split("/")):\n',
            "    if False:\n",
        ),
        "tests/unit/network/test_interface_sysctls.py::test_other_parameters_are_refused_in_dockers_words",
        "tests/integration/test_hostile_networks.py::test_two_hundred_hostile_requests",
    ),
    defence(
        "G10",
        "words of rules are words",
        (
            "network/firewall/backend.py",
            "        rules.check_rule_values(bridge, ())\n        await run_to_end(self._change",
            "        await run_to_end(self._change",
        ),
        ("network/firewall/backend.py", "        rules.check_rule_values(None, ports)\n", ""),
        f"{_RULES}::test_injection_through_bridges",
        f"{_RULES}::test_injection_through_ports",
    ),
    defence(
        "G11",
        "an answer is the one to the question",
        ("network/dns/message.py", "    if found != identity or not flags & _QR:\n", "    if not flags & _QR:\n"),
        "tests/unit/network/test_dns_message.py::test_only_the_answer_to_the_question_counts",
    ),
    defence(
        "G11",
        "names in questions have no pointers",
        ("network/dns/message.py", "        if length > 63:\n", "        if False:\n"),
        "tests/unit/network/test_dns_message.py::test_hostile_queries",
    ),
    defence(
        "G11",
        "one container's questions take nobody's turn",
        ("network/dns/upstream.py", "            if not (room and own_room):\n", "            if not room:\n"),
        f"{_NAMES}::test_a_flood_takes_nobody_elses_turn",
    ),
    defence(
        "G11",
        "an alias is known on its network",
        (
            "network/dns/names.py",
            "        for network in self._networks:\n            links",
            "        for network in (*self._networks, *self._names._zones):\n            links",
        ),
        "tests/unit/network/test_dns_names.py::test_an_alias_is_known_on_its_network_only",
    ),
    defence(
        "G12",
        "who joins has the namespace that is there",
        (
            "network/container.py",
            "        netns = other.netns.duplicate() if other.netns is not None else None\n",
            "        netns = None\n",
        ),
        f"{_BRIDGE}::test_host_none_and_container_modes",
        _TAKEN_UP,
    ),
    defence(
        "G12",
        "who is not there cannot be joined",
        (
            "network/container.py",
            '            raise ConflictError(f"cannot join network of a non running container: {target}")\n',
            '            return Sandbox(id=generate_id(), mode="container", netns=None)\n',
        ),
        f"{_BRIDGE}::test_host_none_and_container_modes",
    ),
)
