"""What orlop uses of ``ctypes``, made of its C half alone.

The package around it costs a started process 3 ms, most of it for types that nobody here uses; a runtime is started
twice for every container. Type checkers see ``ctypes``, and the names mean the same; but its types and these are
different classes, so values of one are not given to functions of the other.
"""

from __future__ import annotations

from _ctypes import Structure, addressof, byref, get_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        CDLL,  # noqa: TID251 - kernel.syscall is the only one to use it
        Array,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_uint32,
        c_ulong,
        c_ushort,
        c_void_p,
        create_string_buffer,
    )
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_USE_ERRNO,
        Array,
        CFuncPtr,
        _SimpleCData,
        dlopen,
    )

    _RTLD_NOW = 2

    def _simple(name: str, code: str) -> type:
        """Make a type from its letter of the ``struct`` module's."""
        return type(_SimpleCData)(name, (_SimpleCData,), {"_type_": code})

    c_char = _simple("c_char", "c")
    c_ushort = _simple("c_ushort", "H")
    c_int = _simple("c_int", "i")
    c_uint32 = _simple("c_uint32", "I")
    c_long = _simple("c_long", "l")
    c_ulong = c_size_t = _simple("c_ulong", "L")
    c_char_p = _simple("c_char_p", "z")
    c_void_p = _simple("c_void_p", "P")

    class _Function(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    class CDLL:
        """A loaded library whose functions keep errno for :func:`get_errno`."""

        def __init__(self, name: str | None, *, use_errno: bool) -> None:
            if not use_errno:
                raise ValueError("errno is always kept")
            self._handle = dlopen(name, _RTLD_NOW)

        def __getitem__(self, name: str) -> _Function:
            """Return the function as a new object, which has argument types of its own."""
            return _Function((name, self))

        def __getattr__(self, name: str) -> _Function:
            """Return the function; always the same object."""
            if name.startswith("__"):
                raise AttributeError(name)
            function = self[name]
            setattr(self, name, function)
            return function

    def create_string_buffer(init: int | bytes, size: int | None = None) -> Array:
        """Return zeroed bytes, or a copy of ``init`` in ``size`` bytes; by default one more, a NUL, than there are."""
        if isinstance(init, int):
            return (c_char * init)()
        buffer = (c_char * (len(init) + 1 if size is None else size))()
        buffer.value = init
        return buffer


__all__ = [
    "CDLL",
    "Array",
    "Structure",
    "addressof",
    "byref",
    "c_char",
    "c_char_p",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint32",
    "c_ulong",
    "c_ushort",
    "c_void_p",
    "create_string_buffer",
    "get_errno",
]
