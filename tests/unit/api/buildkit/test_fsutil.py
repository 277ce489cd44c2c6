"""BuildKit's way to send a directory: what a hostile sender or receiver may not say, whatever it says (threats F6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.api.buildkit import fsutil
from orlop.api.buildkit.fsutil import DIRECTORY, Kind, Listed, Packet, Piece, Receiving, Sending, Stat, Told
from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError

SYMLINK, DEVICE, FIFO, SOCKET, SETUID, CHARACTER = 1 << 27, 1 << 26, 1 << 25, 1 << 24, 1 << 23, 1 << 21


def listed(*stats):
    receiving = Receiving()
    return receiving, [receiving.receive(Packet(kind=Kind.STAT, stat=told)) for told in stats]


def file(path, size=0, **more):
    return Stat(path=path, mode=0o644, size=size, **more)


def folder(path):
    return Stat(path=path, mode=DIRECTORY | 0o755)


def test_a_whole_transfer():
    receiving, events = listed(folder(b"a"), file(b"a/b", 3, mtime=5), file(b"c", 2))
    assert [(event.number, event.entry.path, event.entry.kind) for event in events] == [
        (0, "a", "d"),
        (1, "a/b", "f"),
        (2, "c", "f"),
    ]
    assert receiving.request(2) == Packet(kind=Kind.REQ, number=2)
    assert receiving.receive(Packet(kind=Kind.DATA, number=2, data=b"x")) == Piece(2, b"x", last=False)
    assert receiving.receive(Packet(kind=Kind.STAT)) is Told.ALL_LISTED
    receiving.request(1)
    assert receiving.waits == 2
    receiving.receive(Packet(kind=Kind.DATA, number=1, data=b"abc"))
    receiving.receive(Packet(kind=Kind.DATA, number=2, data=b"y"))
    assert receiving.receive(Packet(kind=Kind.DATA, number=1)) == Piece(1, b"", last=True)
    receiving.receive(Packet(kind=Kind.DATA, number=2))
    assert receiving.waits == 0
    receiving.finish()
    assert receiving.receive(Packet(kind=Kind.FIN)) is Told.OVER
    with pytest.raises(InvalidParameterError, match="FIN while over"):
        receiving.receive(Packet(kind=Kind.FIN))


def test_kinds_and_modes_are_gos():
    _, events = listed(
        Stat(path=b"a", mode=SYMLINK | 0o777, link=b"../x"),
        Stat(path=b"b", mode=SETUID | 0o755, xattrs={"user.a": b"\1", "security.selinux": b"x", "user.overlay.b": b""}),
        Stat(path=b"c", mode=FIFO | 0o600),
        Stat(path=b"d\xff", mode=DIRECTORY | 1 << 20 | 0o777),
        Stat(path=b"e", mode=0o644, link=b"b"),
    )
    entries = [event.entry for event in events]
    assert [(entry.kind, entry.mode) for entry in entries] == [
        ("l", 0o777),
        ("f", 0o4755),
        ("p", 0o600),
        ("d", 0o1777),
        ("f", 0o644),
    ]
    assert (entries[0].text, entries[1].xattrs, entries[3].path) == ("../x", {"user.a": "01"}, "d\xff")
    assert (events[4].same_as, events[4].has_content, events[1].has_content) == (1, False, True)
    for mode, there in (
        (0o104755, SETUID | 0o755),
        (0o040700, DIRECTORY | 0o700),
        (0o020600, DEVICE | CHARACTER | 0o600),
    ):
        assert fsutil.go_mode(mode) == there


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ([file(b"../a")], "invalid path"),
        ([file(b"/etc/passwd")], "invalid path"),
        ([file(b"a/../../b")], "invalid path"),
        ([file(b"./a")], "invalid path"),
        ([file(b"")], "invalid path"),
        ([file(b"a//b")], "invalid path"),
        ([file(b"a/")], "invalid path"),
        ([file(b"a\0b")], "invalid path"),
        ([file(b"..")], "invalid path"),
        ([file(b"a" * 256)], "invalid path"),
        ([folder(b"a"), file(b"a/" * 2050 + b"b")], "invalid path"),
        ([file(b"a/b")], "no directory in the context: 'a'"),
        ([file(b"a"), file(b"a/b")], "no directory in the context: 'a'"),
        ([Stat(path=b"a", mode=SYMLINK | 0o777, link=b"/etc"), file(b"a/b")], "no directory in the context: 'a'"),
        ([folder(b"a"), file(b"a/b"), file(b"c"), file(b"a/d")], "no directory in the context: 'a'"),
        ([file(b"a"), file(b"a")], "twice"),
        ([folder(b"a"), folder(b"a")], "twice"),
        ([file(b"b"), file(b"a")], "out of order"),
        ([folder(b"a"), file(b"a/c"), file(b"a/b")], "out of order"),
        ([Stat(path=b"a", mode=DEVICE | 0o600)], "cannot hold devices"),
        ([Stat(path=b"a", mode=DEVICE | CHARACTER | 0o600, major=1, minor=3)], "cannot hold devices"),
        ([Stat(path=b"a", mode=SOCKET | 0o600)], "cannot hold devices"),
        ([Stat(path=b"a", mode=DIRECTORY | SYMLINK)], "cannot hold devices"),
        ([Stat(path=b"a", mode=1 << 19)], "cannot hold devices"),
        ([Stat(path=b"a", mode=SYMLINK | 0o777)], "invalid file"),
        ([Stat(path=b"a", mode=SYMLINK | 0o777, link=b"x" * 5000)], "invalid file"),
        ([Stat(path=b"a", mode=SYMLINK | 0o777, link=b"x\0y")], "invalid file"),
        ([file(b"a", -1)], "invalid file"),
        ([file(b"a", 1 << 62)], "invalid file"),
        ([file(b"a", mtime=-(1 << 63))], "invalid file"),
        ([file(b"a", link=b"b")], "no such file in the context: 'b'"),
        ([folder(b"a"), file(b"b", link=b"a")], "no such file in the context: 'a'"),
        ([Stat(path=b"a", mode=SYMLINK, link=b"/etc/shadow"), file(b"b", link=b"a")], "no such file"),
        ([file(b"a", link=b"../../etc/shadow")], "no such file"),
    ],
)
def test_what_is_no_tree_is_refused(stats, message):
    with pytest.raises(InvalidParameterError, match=message):
        listed(*stats)


def test_the_list_has_an_end(monkeypatch):
    monkeypatch.setattr(fsutil, "MOST_ENTRIES", 3)
    with pytest.raises(InvalidParameterError, match="too many files in a context: more than 3"):
        listed(*(file(b"%d" % number) for number in range(4)))
    monkeypatch.setattr(fsutil, "MANIFEST_LIMIT", 100)
    with pytest.raises(InvalidParameterError, match="too many files"):
        listed(file(b"a", xattrs={"user.a": b"x" * 100}))


DATA = Packet(kind=Kind.DATA, number=0, data=b"x")


@pytest.mark.parametrize(
    ("packets", "error", "message"),
    [
        ([DATA], InvalidParameterError, "not asked for: 0"),
        ([Packet(kind=Kind.DATA, number=1, data=b"x")], InvalidParameterError, "not asked for: 1"),
        ([Packet(kind=Kind.FIN)], InvalidParameterError, "FIN while listing"),
        ([Packet(kind=Kind.REQ)], InvalidParameterError, "REQ while listing"),
        ([Packet(kind=17)], InvalidParameterError, "17 while listing"),
        ([Packet(), Packet()], InvalidParameterError, "STAT while sending"),
        ([Packet(), Packet(stat=Stat(path=b"z"))], InvalidParameterError, "STAT while sending"),
        ([Packet(), Packet(kind=Kind.FIN)], InvalidParameterError, "FIN while sending"),
        (
            [Packet(kind=Kind.ERR, data=b"no \xff")],
            SystemFailureError,
            "error from sender: no \N{REPLACEMENT CHARACTER}",
        ),
    ],
)
def test_what_does_not_belong_here(packets, error, message):
    receiving, _ = listed(file(b"a", 1))
    with pytest.raises(error, match=message):
        for packet in packets:
            receiving.receive(packet)


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"abc", b"d"], [b""], [b"ab", b""]])
def test_a_size_that_lies(pieces):
    receiving, _ = listed(file(b"a", 3))
    receiving.request(0)
    with pytest.raises(InvalidParameterError, match="changed while it was sent"):
        for piece in pieces:
            receiving.receive(Packet(kind=Kind.DATA, number=0, data=piece))


def test_a_file_ends_once():
    receiving, _ = listed(file(b"a", 1))
    receiving.request(0)
    receiving.receive(DATA)
    receiving.receive(Packet(kind=Kind.DATA))
    with pytest.raises(InvalidParameterError, match="not asked for"):
        receiving.receive(DATA)


@given(
    st.lists(
        st.builds(
            Packet,
            kind=st.integers(0, 5),
            stat=st.none()
            | st.builds(
                Stat,
                path=st.sampled_from([b"a", b"a/b", b"b", b"..", b"/", b"a/../b", b"", b"a/b/c", b"b/c"])
                | st.binary(max_size=9),
                mode=st.sampled_from([0, DIRECTORY, SYMLINK, DEVICE]) | st.integers(0, 2**32 - 1),
                size=st.integers(-1, 3),
                link=st.sampled_from([b"", b"a", b"/x"]),
            ),
            number=st.integers(0, 3),
            data=st.binary(max_size=2),
        ),
        max_size=20,
    )
)
def test_whatever_comes_makes_a_tree_or_an_error(packets):
    receiving, directories, paths = Receiving(), {""}, set()
    for packet in packets:
        try:
            event = receiving.receive(Packet.decode(packet.encode()))
        except OrlopError:
            return
        if isinstance(event, Listed):
            path = event.entry.path
            assert path.rpartition("/")[0] in directories
            assert path not in paths
            assert not {"", ".", ".."} & set(path.split("/"))
            paths.add(path)
            if event.entry.kind == "d":
                directories.add(path)
            if event.has_content:
                receiving.request(event.number)


def test_a_receiver_gets_what_was_told_of_once():
    sending = Sending()
    assert sending.list(folder(b"a")) == Packet(stat=folder(b"a"))
    sending.list(file(b"a/b"))
    assert sending.list(None) == Packet()
    for packet in (Packet(kind=Kind.REQ), Packet(kind=Kind.REQ, number=2), Packet(), Packet(kind=Kind.DATA, number=1)):
        with pytest.raises(InvalidParameterError, match="unexpected packet"):
            sending.receive(packet)
    assert sending.receive(Packet(kind=Kind.REQ, number=1)) == 1
    with pytest.raises(InvalidParameterError, match="unexpected packet"):
        sending.receive(Packet(kind=Kind.REQ, number=1))
    with pytest.raises(SystemFailureError, match="error from receiver: full"):
        sending.receive(Packet(kind=Kind.ERR, data=b"full"))
    assert sending.receive(Packet(kind=Kind.FIN)) is None
