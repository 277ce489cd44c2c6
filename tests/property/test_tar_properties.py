import io
import itertools
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.primitives.tar import END, Entry, Kind, Limits, Signal, TarError, TarReader, render_entry
from orlop.spec.record import replace

name = st.binary(min_size=1, max_size=300).filter(lambda text: b"\0" not in text and not text.endswith(b"/"))
number = st.one_of(st.integers(0, 5000), st.integers(0, (1 << 40)))
entry = st.builds(
    Entry,
    name=name,
    kind=st.sampled_from([Kind.FILE, Kind.SYMLINK, Kind.HARD_LINK, Kind.FIFO, Kind.CHARACTER]),
    mode=st.integers(0, 0o7777),
    uid=number,
    gid=number,
    mtime=st.integers(-(10**18), 10**19),
    size=st.just(0),
    target=st.just(b""),
    device=st.just((0, 0)),
    sparse=st.none(),
    real_size=st.just(0),
    xattrs=st.dictionaries(st.sampled_from([b"user.a", b"security.capability"]), st.binary(max_size=50), max_size=2),
)


def read(data: bytes, cuts: list[int], limits: Limits | None = None):
    """Feed ``data`` cut at ``cuts``; return entries with their payloads."""
    reader = TarReader(limits or Limits())
    found: list[tuple[Entry, bytearray]] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        reader.feed(data[start:end])
        _drain(reader, found)
    reader.finish()
    _drain(reader, found)
    return found


def _drain(reader, found):
    while True:
        event = reader.next_event()
        if isinstance(event, Signal):
            return
        if isinstance(event, Entry):
            found.append((event, bytearray()))
        else:
            found[-1][1].extend(event)


@given(st.lists(st.tuples(entry, st.binary(max_size=1500)), max_size=6), st.lists(st.integers(0, 1 << 20), max_size=8))
@settings(max_examples=60)
def test_what_is_written_is_read_however_it_is_cut(members, cuts):
    data = b""
    wanted = []
    for item, payload in members:
        content = payload if item.kind is Kind.FILE else b""
        target = b"t" * (len(payload) % 200) if item.kind in (Kind.SYMLINK, Kind.HARD_LINK) else b""
        whole = replace(item, size=len(content), real_size=len(content), target=target, device=(0, 0))
        wanted.append((whole, bytearray(content)))
        data += render_entry(whole) + content + bytes(-len(content) % 512)
    assert read(data + END, cuts) == wanted


@given(st.lists(st.tuples(entry, st.binary(max_size=700)), min_size=1, max_size=3))
@settings(max_examples=60)
def test_the_standard_library_reads_what_is_written(members):
    data = b""
    for item, payload in members:
        content = payload if item.kind is Kind.FILE else b""
        data += render_entry(replace(item, size=len(content), mtime=abs(item.mtime))) + content
        data += bytes(-len(content) % 512)
    with tarfile.open(fileobj=io.BytesIO(data + END), errors="surrogateescape") as archive:
        found = archive.getmembers()
    assert [member.name.encode("utf-8", "surrogateescape").rstrip(b"/") for member in found] == [
        item.name.rstrip(b"/") for item, _ in members
    ]
    assert [(member.uid, member.gid, member.mode) for member in found] == [
        (item.uid, item.gid, item.mode) for item, _ in members
    ]


@given(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.data())
def test_what_the_standard_library_writes_is_read(form, data):
    limit = 90 if form == tarfile.USTAR_FORMAT else 250
    names = data.draw(st.lists(st.text("abé/.", min_size=1, max_size=limit // 2), max_size=4))
    buffer = io.BytesIO()
    wanted = []
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8") as archive:
        for index, text in enumerate(names):
            info = tarfile.TarInfo("x" + text.strip("/") + str(index))
            info.size, info.uid, info.mtime = index * 300, index * 3_000_000 % 2_000_000, 12345
            archive.addfile(info, io.BytesIO(b"z" * info.size))
            wanted.append((info.name.encode(), info.size, info.uid))
    found = read(buffer.getvalue(), [700, 9000])
    assert [(item.name, len(content), item.uid) for item, content in found] == wanted


@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=3))
def test_noise_is_an_error_or_nothing(data, cuts):
    try:
        read(data, cuts)
    except TarError:
        return


@given(st.data())
def test_a_damaged_archive_never_crashes(data):
    item = Entry(b"dir/file", Kind.FILE, size=700, mtime=1, xattrs={b"user.a": b"1"})
    archive = bytearray(render_entry(item) + b"x" * 700 + bytes(324) + render_entry(replace(item, size=0)) + END)
    for _ in range(data.draw(st.integers(1, 6))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(archive)))
    try:
        read(bytes(archive[:cut]), [])
    except TarError:
        return
