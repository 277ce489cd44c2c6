from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError
from orlop.runtime.users import MAX_FILE_BYTES, MAX_ID, Identity, numeric_identity, resolve_identity, validate_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# comment:x:7:7::/:
foo:x:1000:1001::/home/foo:/bin/sh
5:x:0:0:a number as name:/root:/bin/sh
0x10:x:11:12:::
big:x:4294967296:1::/big:
wrap:x:2147483648:1::/wrap:
negative:x:-1:1::/n:
short:x:3
line:x:14:15::/a\tb:/bin/sh
empty:x:16:17:::
dup:x:20:21::/first:
dup:x:22:23::/second:
"""
GROUP = b"root:x:0:\ng1:x:2000:foo,bar\ng2:x:2001:foo\nfoo:x:1001:\n77:x:0:\nbig:x:4294967296:foo\nbad\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(PASSWD)
    (tmp_path / "etc/group").write_bytes(GROUP)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        # measured with Docker 26
        ("", Identity(0, 0, (0,), "/root")),
        ("foo", Identity(1000, 1001, (1001, 2000, 2001), "/home/foo")),
        ("foo:g1", Identity(1000, 2000, (2000,), "/home/foo")),
        ("foo:0", Identity(1000, 0, (0,), "/home/foo")),
        ("1000", Identity(1000, 1001, (1001, 2000, 2001), "/home/foo")),
        ("1000:1001", Identity(1000, 1001, (1001,), "/home/foo")),
        (":g1", Identity(0, 2000, (2000,), "/root")),
        ("foo:", Identity(1000, 1001, (1001, 2000, 2001), "/home/foo")),
        ("00012", Identity(12, 0, (0,), "/")),
        ("0x10", Identity(11, 12, (12,), "/")),
        ("dup", Identity(20, 21, (21,), "/first")),
        # digits are a number, never a name (CVE-2016-3697)
        ("5", Identity(5, 0, (0,), "/")),
        ("5:77", Identity(5, 77, (77,), "/")),
        (str(MAX_ID), Identity(MAX_ID, 0, (0,), "/")),
        # a home with a control character is none (CVE-2022-4318)
        ("line", Identity(14, 15, (15,), "/")),
        ("empty", Identity(16, 17, (17,), "/")),
    ],
)
def test_users(root, user, wanted):
    assert resolve_identity(root, user) == wanted


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "unable to find user nobody: no matching entries in passwd file"),
        ("0:nope", "unable to find group nope: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
        ("0:4294967296", "uids and gids must be in range 0-2147483647"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("9" * 5000, "uids and gids must be in range 0-2147483647"),
        # an entry out of range is none; Docker takes such a user for root
        ("big", "unable to find user big: no matching entries in passwd file"),
        ("wrap", "unable to find user wrap: no matching entries in passwd file"),
        ("negative", "unable to find user negative: no matching entries in passwd file"),
        ("0:big", "unable to find group big: no matching entries in group file"),
        ("\u0661", "unable to find user \u0661: no matching entries in passwd file"),
        ("# comment", "unable to find user # comment: no matching entries in passwd file"),
    ],
)
def test_errors_in_dockers_words(root, user, message):
    with pytest.raises(InvalidParameterError) as caught:
        resolve_identity(root, user)
    assert str(caught.value) == message


def test_additional_groups(root):
    assert resolve_identity(root, "foo:0", ["g1", "77", "5"]).groups == (0, 5, 77, 2000)
    with pytest.raises(InvalidParameterError, match="Unable to find group nope: no matching entries in group file"):
        resolve_identity(root, "foo", ["nope"])
    with pytest.raises(InvalidParameterError, match="must be in range"):
        resolve_identity(root, "foo", ["99999999999"])


def test_numeric_identity(root):
    assert numeric_identity(root, 1000, 5, additional=(9, 5)) == Identity(1000, 5, (5, 9), "/home/foo")
    assert numeric_identity(root, 12345, 0) == Identity(12345, 0, (0,), "/")
    for bad in (-1, MAX_ID + 1, 2**32):
        with pytest.raises(InvalidParameterError, match="must be in range"):
            numeric_identity(root, bad, 0)
        with pytest.raises(InvalidParameterError, match="must be in range"):
            numeric_identity(root, 0, 0, additional=(bad,))


def test_no_files(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve_identity(fd, "") == Identity(0, 0, (0,), "/")
        assert resolve_identity(fd, "7:8") == Identity(7, 8, (8,), "/")
        with pytest.raises(InvalidParameterError, match="unable to find user a"):
            resolve_identity(fd, "a")
    finally:
        os.close(fd)


def test_weapons(tmp_path):
    """CVE-2024-9676 and CVE-2026-47262: a link to the host, a FIFO, a device, a huge file."""
    etc = tmp_path / "etc"
    etc.mkdir()
    passwd = etc / "passwd"
    fd = os.open(tmp_path, os.O_PATH)
    try:
        os.mkfifo(passwd)
        with pytest.raises(InvalidParameterError, match="not a regular file: /etc/passwd"):
            resolve_identity(fd, "a")
        passwd.unlink()
        passwd.symlink_to("/etc/hostname")
        (etc / "hostname").write_bytes(b"inside:x:5:5::/:\n")
        assert resolve_identity(fd, "inside").uid == 5
        passwd.unlink()
        passwd.symlink_to("../../../../../../etc/passwd")
        with pytest.raises(InvalidParameterError, match="cannot read /etc/passwd"):
            resolve_identity(fd, "root")
        passwd.unlink()
        with passwd.open("wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)
        with pytest.raises(InvalidParameterError, match="larger than"):
            resolve_identity(fd, "a")
        passwd.write_bytes(b"x" * 100_000 + b":x:1:1::/:\na:x:9:9::/:\n")
        assert resolve_identity(fd, "a").uid == 9
    finally:
        os.close(fd)


def test_what_the_engine_refuses_at_create():
    for good in ("", "a", "1:2", "a:b", "a:", "0"):
        validate_user(good)
    for bad in ("2147483648", "0:-1", "a\n", "a\0b", "a:b:c", "+5"):
        with pytest.raises(InvalidParameterError):
            validate_user(bad)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(passwd=st.binary(max_size=300), group=st.binary(max_size=300), user=st.text(max_size=12))
def test_no_file_and_no_string_breaks_it(tmp_path, passwd, group, user):
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/passwd").write_bytes(passwd)
    (tmp_path / "etc/group").write_bytes(group)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        identity = resolve_identity(fd, user)
    except InvalidParameterError:
        return
    finally:
        os.close(fd)
    assert 0 <= identity.uid <= MAX_ID
    assert identity.gid in identity.groups
    if user.isascii() and user.isdigit():
        assert identity.uid == int(user)
