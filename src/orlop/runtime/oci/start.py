"""The first start of ``orlop-runtime``: what enters a container is executed again, from a sealed interpreter (A1).

The installed script starts whatever interpreter the machine has, which costs as much as the rest of a verb together.
So nothing is imported here but C modules, and the two ways of ``runtime/interpreter.py`` to seal an interpreter are
done by bare system calls; this file is imported by itself, from its directory. Nobody relies on it: the sealed start
looks whether it is sealed, and refuses to go on if it is not (``main.sealed_entry``).
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_ENTERING = frozenset({"create", "run", "exec"})
_KEPT = ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR")
# No collection of garbage that a process of some milliseconds makes. What is imported is compiled and kept for the next
# time, which is why others must not be able to write to files that are made here, whatever the caller's umask.
_SEALED_START = (
    "import gc, posix, sys; gc.disable(); posix.umask(0o22 | posix.umask(0o22)); "
    "sys.path.insert(0, {source!r} + '/orlop/runtime/oci'); import code_store; sys.path[0] = {source!r}; "
    "store = code_store.CodeStore(); store.install(); "
    "from orlop.runtime.oci.main import sealed_entry; sealed_entry(store)"
)

# include/uapi/asm-generic/unistd.h, the same on every machine; include/uapi/linux/mount.h
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _SET_STRING, _CREATE = 1, 1, 6
_RDONLY, _NODEV = 1, 4
_RTLD_NOW = 2
# fcntl.h
_ADD_SEALS, _ALL_SEALS = 1033, 0xF
_COPY = 1 << 20


def main(source: str) -> NoReturn:
    """Run ``sys.argv``.

    Args:
        source: the directory that the ``orlop`` package is in.
    """
    if enters(sys.argv[1:]):
        _become_sealed(source)
    sys.path.insert(0, f"{source}/orlop/runtime/oci")
    import code_store  # type: ignore[import-not-found]  # from that directory

    sys.path[0] = source
    store = code_store.CodeStore()
    store.install()
    from orlop.runtime.oci.main import entry

    entry(store)


def enters(arguments: list[str]) -> bool:
    """Whether a container is entered; yes for an option's value that looks like a verb, since sealing does no harm."""
    return not _ENTERING.isdisjoint(arguments)


def _become_sealed(source: str) -> NoReturn:
    """Replace this process by its sealed second start; where it cannot be sealed nothing enters a container."""
    interpreter = posix.readlink("/proc/self/exe")
    try:
        fd = _sealed(interpreter)
    except OSError as error:
        sys.stderr.write(f"orlop-runtime: interpreter cannot be sealed: {interpreter}: {error.strerror}\n")
        posix._exit(1)  # noqa: SLF001 - its name
    kept = [name.encode() for name in _KEPT]
    environment = {name: posix.environ[name] for name in kept if name in posix.environ}
    command = [interpreter, "-I", "-S", "-c", _SEALED_START.format(source=source), *sys.argv[1:]]
    posix.execve(f"/proc/self/fd/{fd}", command, environment)


def _sealed(interpreter: str) -> int:
    """Return a descriptor of the interpreter that nobody can write to."""
    try:
        return _from_overlay(interpreter)
    except (OSError, ImportError):
        return _from_memfd(interpreter)  # an old kernel, or no overlay in this user namespace


def _from_overlay(interpreter: str) -> int:
    directory, _, name = interpreter.rpartition("/")
    call = _system_call()
    empty = call(_FSOPEN, b"tmpfs", _CLOEXEC)
    call(_FSCONFIG, empty, _CREATE, None, None, 0)
    second = call(_FSMOUNT, empty, _CLOEXEC, _RDONLY)
    overlay = call(_FSOPEN, b"overlay", _CLOEXEC)
    for lower in (directory, f"/proc/self/fd/{second}"):
        call(_FSCONFIG, overlay, _SET_STRING, b"lowerdir+", lower.encode(errors="surrogateescape"), 0)
    call(_FSCONFIG, overlay, _CREATE, None, None, 0)
    tree = call(_FSMOUNT, overlay, _CLOEXEC, _RDONLY | _NODEV)
    return posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=tree)


def _system_call() -> Callable[..., int]:
    """Return syscall(2) for integers, bytes and None; it raises OSError. Without the package, as ``kernel.foreign``."""
    import _ctypes

    c: Any = _ctypes
    simple = c._SimpleCData  # noqa: SLF001 - its name
    long = type(simple)("c_long", (simple,), {"_type_": "l"})
    flags = c.FUNCFLAG_CDECL | c.FUNCFLAG_USE_ERRNO
    function: Any = type("syscall", (c.CFuncPtr,), {"_flags_": flags, "_restype_": long})
    library = type("libc", (), {"_handle": c.dlopen(None, _RTLD_NOW)})()
    raw = function(("syscall", library))

    def call(*arguments: int | bytes | None) -> int:
        result: int = raw(*[long(argument) if isinstance(argument, int) else argument for argument in arguments])
        if result < 0:
            number = c.get_errno()
            raise OSError(number, posix.strerror(number))
        return result

    return call


def _from_memfd(interpreter: str) -> int:
    import fcntl

    sealed = posix.memfd_create("orlop-interpreter", posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING)
    source = posix.open(interpreter, posix.O_RDONLY | posix.O_CLOEXEC)
    while posix.sendfile(sealed, source, None, _COPY):
        pass
    posix.fchmod(sealed, 0o755)
    fcntl.fcntl(sealed, _ADD_SEALS, _ALL_SEALS)
    return sealed
