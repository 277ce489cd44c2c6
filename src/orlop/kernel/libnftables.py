"""libnftables: ``nft`` without a process (libnftables(3)). Looked for when it is first used; many machines lack it."""

from __future__ import annotations

from orlop.errors import UnavailableError
from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import load_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import _NamedFuncPointer

_NAME = "libnftables.so.1"
_NFT_CTX_OUTPUT_STATELESS = 1 << 2  # include/nftables/libnftables.h


class Nftables:
    """One context of the library, which it owns; not for use by two threads at once."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            UnavailableError: it is not installed.
        """
        try:
            self._library = load_library(_NAME)
        except OSError as error:
            raise UnavailableError(f"{_NAME}: {error}") from None
        new = self._library["nft_ctx_new"]
        new.argtypes, new.restype = (ctypes.c_uint32,), ctypes.c_void_p
        self._context = new(0)
        if not self._context:
            raise UnavailableError(f"{_NAME}: out of memory")
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            self._function(name)(self._context)
        flags = self._library["nft_ctx_output_set_flags"]
        flags.argtypes, flags.restype = (ctypes.c_void_p, ctypes.c_uint32), None
        flags(self._context, _NFT_CTX_OUTPUT_STATELESS)

    def _function(self, name: str, *more: type, text: bool = False) -> _NamedFuncPointer:
        function = self._library[name]
        function.argtypes = (ctypes.c_void_p, *more)
        function.restype = ctypes.c_char_p if text else ctypes.c_int
        return function

    def run(self, commands: str) -> tuple[int, str, str]:
        """Carry out commands as one transaction; returns status (0: done), output and errors."""
        status = self._function("nft_run_cmd_from_buffer", ctypes.c_char_p)(self._context, commands.encode())
        output = self._function("nft_ctx_get_output_buffer", text=True)(self._context) or b""
        errors = self._function("nft_ctx_get_error_buffer", text=True)(self._context) or b""
        return int(status), output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        context, self._context = self._context, None
        if context:
            free = self._library["nft_ctx_free"]
            free.argtypes, free.restype = (ctypes.c_void_p,), None
            free(context)
