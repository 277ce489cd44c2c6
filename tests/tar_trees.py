"""Making archives, and unpacking them into a root beside which nothing may change."""

import contextlib
import os
import threading

from orlop.primitives.tar import Entry, Kind, Rules, pack, render_entry, unpack


def member(name, kind=Kind.FILE, content=b"", **fields):
    fields.setdefault("mode", 0o755 if kind is Kind.DIRECTORY else 0o644)
    item = Entry(name, kind, size=len(content), real_size=len(content), **fields)
    return render_entry(item) + content + bytes(-len(content) % 512)


def unpack_bytes(root, data, limits=None, *, layer=True, rules=None):
    reader, writer = os.pipe()

    def feed():
        try:
            with os.fdopen(writer, "wb") as out:
                out.write(data)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=feed)
    thread.start()
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(root_fd, reader, limits, rules=rules or Rules(layer=layer))
    finally:
        os.close(root_fd)
        os.close(reader)
        thread.join()


def pack_bytes(root, *, layer=False):
    reader, writer = os.pipe()
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    found = []

    def drain():
        with os.fdopen(reader, "rb") as stream:
            found.append(stream.read())

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        result = pack(root_fd, writer, layer=layer)
    finally:
        os.close(writer)
        os.close(root_fd)
        thread.join()
    assert result.size == len(found[0])
    return found[0]


@contextlib.contextmanager
def untouched_outside(tmp_path):
    """A root to unpack into; what lies beside it must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("untouched")
    (tmp_path / "root-evil").mkdir()
    target = tmp_path / "root"
    target.mkdir()
    before = snapshot(tmp_path, skip="root")
    fds = open_files()
    yield target
    assert snapshot(tmp_path, skip="root") == before, "something outside of the root changed"
    # fewer may be open: those of other tests' garbage are closed when it is collected
    assert open_files() - fds == set(), "descriptors leaked"


def open_files():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return found


def snapshot(top, skip):
    found = {}
    for directory, names, files in os.walk(top):
        if directory == str(top):
            names[:] = [name for name in names if name != skip]
        for name in (*names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found[path] = (status.st_mode, status.st_uid, status.st_nlink, status.st_size, status.st_mtime_ns)
    return found


D, F, S, H = Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK, Kind.HARD_LINK
