"""The program that init becomes: found and executed inside the container, with everything allocated beforehand.

Between the seccomp filter and execve(2) nothing may be allocated, imported or formatted; :class:`Program` builds the
argument vectors first and :meth:`Program.execute` only calls execve. What went wrong is worked out after it failed.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import CommandNotExecutableError, CommandNotFoundError
from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.errors import OrlopError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEXT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG})

_execve = libc.execve
_execve.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
_execve.restype = ctypes.c_int


def _vector(items: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded: list[bytes | None] = [os.fsencode(item) for item in items]
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


class Program:
    """Arguments, environment and the places where the program may be.

    Args:
        args: the program and its arguments.
        env: ``NAME=value`` strings; PATH of them is searched when the name has no slash.
        path: the program, where ``args[0]`` does not name it.
    """

    def __init__(self, args: Sequence[str], env: Sequence[str], *, path: str = "") -> None:
        self._name = args[0]
        self._argv = _vector(args)
        self._env = _vector(env)
        directories = next((item[5:] for item in reversed(env) if item.startswith("PATH=")), DEFAULT_PATH)
        self._searched = "/" not in self._name
        candidates = [self._name]
        if self._searched:
            candidates = (
                [f"{directory or '.'}/{self._name}" for directory in directories.split(":")] if self._name else []
            )
        if path:
            self._searched, candidates = False, [path]
        self._candidates = [os.fsencode(candidate) for candidate in candidates]

    def execute(self) -> int:
        """Become the program; returns errno when it cannot be. Only execve(2) is called."""
        last = errno.ENOENT
        for candidate in self._candidates:
            _execve(candidate, self._argv, self._env)
            number = ctypes.get_errno()
            if number not in _NEXT:
                return number
            if number == errno.EACCES or last != errno.EACCES:
                last = number
        return last

    def check(self) -> None:
        """Raise what :meth:`execute` would fail with for the process' effective ids, as far as that can be known.

        For a program that is executed later, when nobody listens any more (OCI create). Relative names are left alone:
        the working directory has not been entered.
        """
        number = errno.ENOENT
        for candidate in self._candidates:
            if not candidate.startswith(b"/"):
                return
            try:
                mode = os.stat(candidate).st_mode
            except OSError as error:
                number = errno.EACCES if error.errno == errno.EACCES and not self._searched else number
                continue
            if stat.S_ISREG(mode) and os.access(candidate, os.X_OK, effective_ids=True):
                return
            number = errno.EACCES
        raise self.failure(number)

    def failure(self, number: int) -> OrlopError:
        """Return what to tell the user after :meth:`execute` gave ``number``, in runc's words."""
        quoted = f'exec: "{self._name}"'
        if self._searched:
            if number == errno.EACCES and not self._found_directory_only():
                return CommandNotExecutableError(f"{quoted}: permission denied")
            if number in _NEXT:
                return CommandNotFoundError(f"{quoted}: executable file not found in $PATH")
            return CommandNotExecutableError(f"exec {self._name}: {os.strerror(number).lower()}")
        try:
            mode = os.stat(self._name).st_mode
        except OSError as error:
            text = (error.strerror or "").lower()
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return CommandNotFoundError(f"{quoted}: stat {self._name}: {text}")
            return CommandNotExecutableError(f"{quoted}: {text}")
        if stat.S_ISDIR(mode):
            return CommandNotExecutableError(f"{quoted}: is a directory")
        if number == errno.EACCES:
            return CommandNotExecutableError(f"{quoted}: permission denied")
        if number == errno.ENOENT:  # the file is there: its interpreter or loader is not
            return CommandNotFoundError(f"exec {self._name}: no such file or directory")
        return CommandNotExecutableError(f"exec {self._name}: {os.strerror(number).lower()}")

    def _found_directory_only(self) -> bool:
        """Whether EACCES came only from directories of that name, which a search passes over."""
        found = False
        for candidate in self._candidates:
            try:
                mode = os.stat(candidate).st_mode
            except OSError:
                continue
            if not stat.S_ISDIR(mode):
                return False
            found = True
        return found
