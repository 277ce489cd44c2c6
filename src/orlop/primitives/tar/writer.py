"""Encode tar members: ustar blocks, with pax records before them where ustar's fields do not hold a value. No I/O."""

from __future__ import annotations

from orlop.primitives.tar.header import BLOCK, Header, fits_octal, render_header
from orlop.primitives.tar.pax import render_record, render_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.tar.entry import Entry

END = bytes(2 * BLOCK)
_NAME = 100
_PREFIX = 155


def render_entry(entry: Entry) -> bytes:
    """Return everything of a member that comes before its payload; sparse maps are not written."""
    records: list[tuple[bytes, bytes]] = []
    name, prefix = _split(entry.name)
    if len(name) > _NAME or not entry.name.isascii():
        records.append((b"path", entry.name))
    target = entry.target
    if len(target) > _NAME or not target.isascii():
        records.append((b"linkpath", target))
    seconds, fraction = divmod(entry.mtime, 1_000_000_000)
    if fraction or not fits_octal(seconds, 12):
        records.append((b"mtime", render_time(entry.mtime)))
    numbers = []
    for key, value, width in ((b"uid", entry.uid, 8), (b"gid", entry.gid, 8), (b"size", entry.size, 12)):
        fits = fits_octal(value, width)
        if not fits:
            records.append((key, b"%d" % value))
        numbers.append(value if fits else 0)
    records.extend((b"SCHILY.xattr." + key, value) for key, value in sorted(entry.xattrs.items()))
    major, minor = entry.device
    header = Header(
        name[:_NAME],
        entry.mode,
        numbers[0],
        numbers[1],
        numbers[2],
        seconds if fits_octal(seconds, 12) else 0,
        entry.kind.value,
        target[:_NAME],
        (major, minor),
    )
    block = render_header(header, prefix)
    return _render_pax(records) + block if records else block


def _render_pax(records: list[tuple[bytes, bytes]]) -> bytes:
    content = b"".join(render_record(key, value) for key, value in sorted(records))
    header = Header(b"PaxHeaders/entry", 0o644, 0, 0, len(content), 0, b"x", b"", (0, 0))
    return render_header(header) + content + bytes(-len(content) % BLOCK)


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Split a long path into ustar's name and prefix; the name stays too long if that cannot be done."""
    if len(path) <= _NAME or not path.isascii():
        return path, b""
    start = len(path) - _NAME - 1
    slash = path.find(b"/", max(start, 1), len(path) - 1)
    if slash < 0 or slash > _PREFIX:
        return path, b""
    return path[slash + 1 :], path[:slash]
