from __future__ import annotations

import json

import pytest

from orlop.daemon.main import entry
from orlop.daemon.options import load_options, parse_arguments, parse_size
from orlop.daemon.settings import SETTINGS
from orlop.errors import InvalidParameterError, OrlopError


def load(*arguments):
    return load_options(parse_arguments(["--config-file=/dev/null", *arguments]))


def load_file(tmp_path, document, *arguments):
    path = tmp_path / "daemon.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load_options(parse_arguments(["--config-file", str(path), *arguments]))


def test_defaults():
    options = load()
    assert options.hosts == ("unix:///run/orlop/orlop.sock",)
    assert options.data_root == "/var/lib/orlop"
    assert options.live_restore
    assert options.iptables
    assert options.default_shm_size == 64 << 20


def test_exec_root_moves_socket_and_pidfile():
    options = load("--exec-root", "/x")
    assert (options.hosts, options.pidfile) == (("unix:///x/orlop.sock",), "/x/orlop.pid")


def test_flags_as_in_go():
    options = load(
        "-D", "--iptables=false", "--ip-masq", "-H", "unix:///a", "--host=unix:///b", "--mtu", "1400", "--icc=0"
    )
    assert options.debug
    assert not options.iptables
    assert options.ip_masq
    assert not options.icc
    assert options.hosts == ("unix:///a", "unix:///b")
    assert options.mtu == 1400


def test_every_setting_is_an_option():
    options = load()
    for setting in SETTINGS:
        assert hasattr(options, setting.field)


def test_file_has_dockers_keys(tmp_path):
    options = load_file(
        tmp_path,
        {
            "debug": True,
            "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
            "log-opts": {"max-size": "1m"},
            "dns": ["1.1.1.1"],
        },
        "--label=a=b",
    )
    assert options.debug
    assert options.default_address_pools == (("10.0.0.0/8", 24),)
    assert options.default_ulimits == {"nofile": (1, 2)}
    assert options.log_opts == {"max-size": "1m"}
    assert options.dns == ("1.1.1.1",)
    assert options.labels == ("a=b",)


@pytest.mark.parametrize(
    ("document", "arguments", "message"),
    [
        ({"foo": 1}, (), "the following directives don't match any configuration option: foo"),
        ({"selinux-enabled": True}, (), "the following directives are not supported by orlop: selinux-enabled"),
        (
            {"debug": False},
            ("-D",),
            (
                "the following directives are specified both as a flag and in the configuration file:"
                " debug: (from flag: true, from file: false)"
            ),
        ),
        (
            {"hosts": ["unix:///a"]},
            ("-H", "unix:///b"),
            "specified both as a flag and in the configuration file: hosts",
        ),
        ({"debug": "x"}, (), "wrong type of debug"),
        ({"mtu": True}, (), "wrong type of mtu"),
        ({"proxies": {"ftp-proxy": "x"}}, (), "don't match any configuration option: proxies.ftp-proxy"),
        ({"http-proxy": "x"}, (), "don't match any configuration option: http-proxy"),
        ({"proxies": {"http-proxy": "socks5://x"}}, (), "proxy is not supported, only http:// is: socks5://x"),
        ({"proxies": {"http-proxy": "a"}}, ("--http-proxy", "b"), "specified both as a flag and in the"),
        ({"dns": ["x"]}, (), "invalid string being converted to IP address: x"),
        ({"dns": [5]}, (), "wrong type in dns"),
        ({"default-ulimits": {"nofile": 5}}, (), "invalid ulimit nofile"),
        ({"default-address-pools": [5]}, (), "invalid default address pool"),
        ("{", (), "invalid JSON"),
        ("[]", (), "invalid JSON: not an object"),
        ("[" * 100_000, (), "invalid JSON"),
    ],
)
def test_bad_file(tmp_path, document, arguments, message):
    with pytest.raises(OrlopError) as caught:
        load_file(tmp_path, document, *arguments)
    assert str(caught.value).startswith("unable to configure the orlop daemon with file ")
    assert message in str(caught.value)


def test_missing_file_is_an_error_only_when_named():
    with pytest.raises(OrlopError, match="open /nonexistent: no such file or directory"):
        load_options(parse_arguments(["--config-file=/nonexistent"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frob"], "unknown flag: --frob"),
        (["--selinux-enabled=true"], "flag is not supported by orlop: --selinux-enabled"),
        (["foo"], '"orlopd" accepts no argument(s).'),
        (["--dns", "x"], 'invalid argument "x" for "--dns" flag'),
        (["--mtu", "x"], 'invalid argument "x" for "--mtu" flag: strconv.ParseInt'),
        (["-H", "foo://x"], "invalid bind address (foo://x): unsupported proto 'foo'"),
        (["-H", "unix://relative"], "not an absolute path"),
        (["--label", "x"], "bad attribute format: x"),
        (["--iptables=maybe"], "invalid boolean value"),
        (["--default-ulimit", "nofile=2:1"], "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
        (["--data", "/x"], "unknown flag: --data"),
        (["--exec-opt", "native.cgroupdriver=none"], "native.cgroupdriver option none not supported"),
        (["--exec-opt", "native.umask=normal"], "unknown exec option: native.umask"),
    ],
)
def test_bad_flags(arguments, message):
    with pytest.raises(InvalidParameterError) as caught:
        parse_arguments(arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "tcp://0.0.0.0:2375"], "refusing to listen on TCP without TLS"),
        (["--layer-limit", "colour=3"], "unknown limit of layers: colour"),
        (["--layer-limit", "size=-1"], "invalid limit of layers: size=-1"),
        (["--storage-driver", "aufs"], "storage driver is not supported: aufs"),
        (["--storage-opt", "overlay2.colour=1g"], "overlay2: unknown option overlay2.colour"),
        (["--log-driver", "syslog"], "logger: no log driver named 'syslog' is registered"),
        (["--live-restore=false"], "live-restore cannot be switched off"),
        (["--ip6tables=false"], "ip6tables cannot be switched off alone"),
        (["--log-level", "xx"], "invalid logging level: xx"),
        (["--data-root", "relative"], "data-root must be an absolute path"),
        (["--default-shm-size", "x"], "invalid size: 'x'"),
    ],
)
def test_refused_choices(arguments, message):
    with pytest.raises(OrlopError) as caught:
        load(*arguments)
    assert message in str(caught.value)


def test_tcp_needs_the_explicit_flag():
    assert load("--host", "tcp://127.0.0.1:2375", "--tcp-without-tls").hosts == ("tcp://127.0.0.1:2375",)


def test_addresses_are_completed_as_in_docker():
    assert load("--host", "tcp://", "--tcp-without-tls").hosts == ("tcp://localhost:2375",)
    assert load("--host", "tcp://10.0.0.1", "--tls=false").hosts == ("tcp://10.0.0.1:2375",)
    assert load("--host", "tcp://[::1]", "--tls=false").hosts == ("tcp://[::1]:2375",)
    assert load("--host", "tcp://:99", "--tls=false").hosts == ("tcp://localhost:99",)
    with pytest.raises(InvalidParameterError, match="host:port expected"):
        load("--host", "tcp://a:b", "--tls=false")


def test_validate(tmp_path, capsys):
    path = tmp_path / "daemon.json"
    path.write_text('{"debug": true}')
    assert entry(["--validate", "--config-file", str(path)]) == 0
    assert capsys.readouterr().out == "configuration OK\n"
    path.write_text('{"debgu": true}')
    assert entry(["--validate", "--config-file", str(path)]) == 1
    assert "don't match any configuration option: debgu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("64MiB", 64 << 20), ("64m", 64 << 20), ("1g", 1 << 30), ("5", 5), ("2 KB", 2048)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_cgroup_driver(tmp_path):
    assert not load_file(tmp_path, {}).systemd_cgroup
    assert load_file(tmp_path, {"exec-opts": ["native.cgroupdriver=systemd"]}).systemd_cgroup
    systemd = {"exec-opts": ["native.cgroupdriver=systemd"], "cgroup-parent": "/x"}
    with pytest.raises(OrlopError, match=r'a valid slice named as "xxx\.slice"'):
        load_file(tmp_path, systemd)


def test_options_of_new_networks(tmp_path):
    mtu, icc = "com.docker.network.driver.mtu", "com.docker.network.bridge.enable_icc"
    given = {"bridge": {mtu: "1400", icc: "false"}, "macvlan": {"parent": "eth1"}}
    assert load_file(tmp_path, {"default-network-opts": given}).default_network_opts == given
    flags = [f"--default-network-opt=bridge={mtu}=1400", f"--default-network-opt=bridge={icc}=false"]
    assert load(*flags).default_network_opts == {"bridge": given["bridge"]}
    for bad in ({"bridge": {"a": 1}}, {"bridge": "x"}, {"bridge": ["a"]}):
        with pytest.raises(InvalidParameterError, match="invalid default network options of bridge"):
            load_file(tmp_path, {"default-network-opts": bad})
    with pytest.raises(OrlopError, match="driver=option=value expected"):
        load("--default-network-opt", "bridge=x")


def test_addresses_of_the_file_are_checked(tmp_path):
    assert load_file(tmp_path, {"host-gateway-ip": "192.0.2.1"}).host_gateway_ip == "192.0.2.1"
    with pytest.raises(InvalidParameterError, match="invalid string being converted to IP address: x"):
        load_file(tmp_path, {"host-gateway-ip": "x"})
