"""Golden tables; what the engine says cannot move the terminal's cursor."""

from __future__ import annotations

import pytest

from orlop.cli import tables
from orlop.cli.flags import HelpRequestedError, UsageError, parse
from orlop.cli.formatting import Listing
from orlop.cli.listing import container_row, ports
from orlop.cli.refusals import start_status
from orlop.cli.run_flags import RUN_FLAGS
from orlop.cli.terminal import DetachScanner, parse_detach_keys
from orlop.cli.text import ellipsis, safe, safe_cell


def port(private, public=None, address="0.0.0.0", kind="tcp"):
    entry = {"PrivatePort": private, "Type": kind}
    return {**entry, "PublicPort": public, "IP": address} if public else entry


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        (None, ""),
        ([port(80)], "80/tcp"),
        ([port(82), port(80), port(81), port(53, kind="udp")], "80-82/tcp, 53/udp"),
        ([port(80, 8081), port(80, 8081, "::")], "0.0.0.0:8081->80/tcp, [::]:8081->80/tcp"),
        ([port(80, 80), port(81, 81)], "0.0.0.0:80-81->80-81/tcp"),
        ([port(80, 8080), port(90)], "90/tcp, 0.0.0.0:8080->80/tcp"),
    ],
)
def test_ports(listed, text) -> None:
    assert ports(listed) == text


def test_table_as_tabwriter() -> None:
    assert tables.render(["A\tB\tC", "1234567890\tx\ty"]) == "A            B         C\n1234567890   x         y\n"


CONTAINER = {
    "Id": "0123456789abcdef" * 4,
    "Names": ["/evil\x1b[2J", "/other/evil"],
    "Image": "busybox",
    "Command": "sh -c 'while true; do date; done'",
    "Created": 1000,
    "Status": "Up 2 hours",
    "Labels": {"a": "1"},
}


def test_ps_table(capsys) -> None:
    headers = {"ID": "CONTAINER ID", "Command": "COMMAND", "RunningFor": "CREATED", "Names": "NAMES"}
    listing = Listing("*formatter.ContainerContext", headers, tuple(headers))
    rows = [container_row(CONTAINER, 1000 + 7200, truncate=True)]
    listing.write(rows, "")
    assert capsys.readouterr().out == (
        "CONTAINER ID   COMMAND                  CREATED       NAMES\n"
        '0123456789ab   "sh -c \'while true; …"   2 hours ago   evil\\x1b[2J\n'
    )
    listing.write(rows, 'table {{.Names}}\\t{{.Label "a"}}')
    assert capsys.readouterr().out == "NAMES         A\nevil\\x1b[2J   1\n"
    listing.write(rows, "{{.ID}} {{.Names}}")
    assert capsys.readouterr().out == "0123456789ab evil\\x1b[2J\n"


def test_escapes() -> None:
    assert safe("a\x1b]0;x\x07\u009b\u202e") == "a\\x1b]0;x\\x07\\x9b\\x202e"
    assert safe_cell("a\nb\tc") == "a\\nb c"
    assert ellipsis("sleep 1000", 8) == "sleep 1…"


def options(*words):
    return parse(RUN_FLAGS, words, first_argument_ends=True)


def test_flags() -> None:
    parsed, rest = options("-it", "-eA=B", "-e", "C", "--rm=false", "--memory", "1m", "-p80:80", "img", "-x", "--rm")
    assert (parsed.on("interactive"), parsed.on("tty"), parsed.on("rm")) == (True, True, False)
    assert parsed.texts("env") == ["A=B", "C"]
    assert (parsed.number("memory"), parsed.texts("publish"), rest) == (1 << 20, ["80:80"], ["img", "-x", "--rm"])
    assert options("--", "-img")[1] == ["-img"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["-iy"], "unknown shorthand flag: 'y' in -iy"),
        (["--name"], "flag needs an argument: --name"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (["-m", "x"], "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'"),
        (["--privileged=x"], 'invalid argument "x" for "--privileged" flag: strconv.ParseBool: parsing "x": invalid syntax'),
        (["--cpus", "x"], 'invalid argument "x" for "--cpus" flag: failed to parse x as a rational number'),
        (["--ulimit", "nofile=5:2"],
         'invalid argument "nofile=5:2" for "--ulimit" flag: ulimit soft limit must be less than or equal to hard limit: 5 > 2'),
        (["--mount", "foo"], 'invalid argument "foo" for "--mount" flag: invalid field \'foo\' must be a key=value pair'),
        (["--sysctl", "x"], "invalid argument \"x\" for \"--sysctl\" flag: sysctl 'x' is not allowed"),
        (["-a", "foo"], 'invalid argument "foo" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR'),
    ],
)  # fmt: skip
def test_bad_flags(words, message) -> None:
    with pytest.raises(UsageError) as caught:
        options(*words)
    assert str(caught.value) == message


def test_help_flag() -> None:
    with pytest.raises(HelpRequestedError):
        options("--help")


def test_detach_keys() -> None:
    assert parse_detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-[") == b"a\x1b"
    scanner = DetachScanner(b"\x10\x11")
    assert scanner.feed(b"ab\x10") == b"ab"
    assert scanner.feed(b"\x10c") == b"\x10\x10c"
    assert scanner.feed(b"x\x10\x11y") == b"x"
    assert scanner.detached
    with pytest.raises(ValueError, match="Unknown character"):
        parse_detach_keys("ctrl-é")


def test_start_status() -> None:
    assert start_status('exec: "x": executable file not found in $PATH') == 127
    assert start_status('exec: "/x": stat /x: no such file or directory') == 127
    assert start_status('exec: "/etc": is a directory: permission denied') == 126
    assert start_status("no such image") == 125
