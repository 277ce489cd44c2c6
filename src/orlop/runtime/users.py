"""Who a process is: Docker's user strings looked up in the root file system's own passwd and group files.

No NSS (it would load the container's libraries, CVE-2019-14271). The files are hostile: they are opened through the
root's descriptor, must be regular and small, and are parsed as bytes (CVE-2024-9676, CVE-2026-47262). Digits are
numbers and never names (CVE-2016-3697, CVE-2026-46680).
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidParameterError
from orlop.kernel.syscall import SyscallError
from orlop.primitives.rootpath import open_in_root
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orlop.spec.oci import Config, Process

# Docker's bound; above it uid_t arithmetic of other programs wraps (CVE-2024-40635)
MAX_ID = 2**31 - 1

_RANGE_MESSAGE = f"uids and gids must be in range 0-{MAX_ID}"

MAX_FILE_BYTES = 1 << 20
# glibc reads longer group lines; here a longer line is skipped whole, as if it were malformed
MAX_LINE_BYTES = 64 << 10
# a file name's length; longer is surely no user
_MAX_NAME_BYTES = 256

_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY

# set by the engine from --group-add, never from an image
GROUP_ADD = "orlop.group-add"

_DIGITS = frozenset(b"0123456789")


@dataclass(frozen=True)
class Identity:
    """What the process gets.

    Attributes:
        uid: user id.
        gid: primary group id.
        groups: everything for setgroups(2), sorted, the primary group included (CVE-2022-36109).
        home: the home directory, ``/`` when the user is in no passwd file.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str = "/"


@dataclass(frozen=True)
class _Account:
    name: bytes
    uid: int
    gid: int
    home: bytes


@dataclass(frozen=True)
class _Group:
    name: bytes
    gid: int
    members: tuple[bytes, ...]


def validate_user(user: str) -> None:
    """Refuse what can be refused without a root file system: numbers out of range, NUL and control characters.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    name, group = _split(user)
    _number(name)
    _number(group)


def resolve_identity(root_fd: int, user: str, additional: Sequence[str] = ()) -> Identity:
    """Look up Docker's ``user``, ``user:group``, numbers or names, in the root file system.

    Args:
        root_fd: the container's root directory.
        user: ``--user`` or the image's USER; empty is root.
        additional: ``--group-add``: names or numbers.

    Returns:
        The identity. Groups of the group file count only when no group was named, as in Docker.

    Raises:
        InvalidParameterError: "unable to find user x: no matching entries in passwd file" and the like.
    """
    user_part, group_part = _split(user)
    account = _find_account(root_fd, user_part)
    groups = list(_groups(root_fd))
    if group_part:
        gid = _find_group(groups, group_part)
        supplementary: set[int] = set()
    else:
        gid = account.gid
        supplementary = {entry.gid for entry in groups if account.name and account.name in entry.members}
    supplementary.add(gid)
    supplementary.update(_find_group(groups, os.fsencode(name), "Unable") for name in additional)
    return Identity(account.uid, gid, tuple(sorted(supplementary)), os.fsdecode(account.home))


def numeric_identity(root_fd: int, uid: int, gid: int, *, additional: Sequence[int] = ()) -> Identity:
    """Make the identity of an OCI ``user``: numbers only; just the home directory is looked up.

    Raises:
        InvalidParameterError: a number out of range.
    """
    for number in (uid, gid, *additional):
        if not 0 <= number <= MAX_ID:
            raise InvalidParameterError(_RANGE_MESSAGE)
    home = next((entry.home for entry in _accounts(root_fd) if entry.uid == uid), b"/")
    return Identity(uid, gid, tuple(sorted({gid, *additional})), os.fsdecode(home or b"/"))


_ROOT = Identity(0, 0, (0,), "/root")


def identify(root_fd: int, process: Process, config: Config) -> Identity:
    """Look the process's user up in the root: Docker's string when there is one, else OCI's numbers.

    Groups that were added by name travel in an annotation, as OCI has only numbers for them.

    Raises:
        InvalidParameterError: no such user or group, or one that the container's user namespace does not map.
    """
    identity = _identify(root_fd, process, config)
    for kind, mappings, numbers in (
        ("uid", config.linux.uid_mappings, (identity.uid,)),
        ("gid", config.linux.gid_mappings, (identity.gid, *identity.groups)),
    ):
        for number in numbers if mappings else ():
            if not any(0 <= number - mapping.container_id < mapping.size for mapping in mappings):
                raise InvalidParameterError(f"cannot set {kind} to unmapped user in user namespace: {number}")
    return identity


def _identify(root_fd: int, process: Process, config: Config) -> Identity:
    user = process.user
    named = [name for name in config.annotations.get(GROUP_ADD, "").split(",") if name]
    if user.username:
        return resolve_identity(root_fd, user.username, [*map(str, user.additional_gids), *named])
    if user.uid == 0 and user.gid == 0 and not user.additional_gids and not wants_home(process):
        return _ROOT
    return numeric_identity(root_fd, user.uid, user.gid, additional=user.additional_gids)


def wants_home(process: Process) -> bool:
    """Whether HOME is to be set: the configuration does not."""
    return not any(item.startswith("HOME=") for item in process.env)


def _split(user: str) -> tuple[bytes, bytes]:
    name, _, group = user.partition(":")
    if any(character < " " or character == "\x7f" for character in user) or ":" in group:
        raise InvalidParameterError(f"invalid user: {user!r:.80}")
    return os.fsencode(name), os.fsencode(group)


def _number(text: bytes) -> int | None:
    """Return the number that ``text`` is, or None for a name. ASCII digits only (threats.md J10)."""
    digits = text[1:] if text[:1] in {b"-", b"+"} else text
    if not digits or not _DIGITS.issuperset(digits):
        return None
    if digits is not text or len(digits.lstrip(b"0")) > 10 or int(digits) > MAX_ID:
        raise InvalidParameterError(_RANGE_MESSAGE)
    return int(digits)


def _find_account(root_fd: int, wanted: bytes) -> _Account:
    number = _number(wanted) if wanted else 0
    for entry in _accounts(root_fd):
        if entry.uid == number if number is not None else entry.name == wanted:
            return _Account(entry.name, entry.uid, entry.gid, entry.home or b"/")
    if number is None:
        raise InvalidParameterError(f"unable to find user {_shown(wanted)}: no matching entries in passwd file")
    return _Account(b"", number, 0, b"/")


def _find_group(groups: list[_Group], wanted: bytes, unable: str = "unable") -> int:
    number = _number(wanted)
    if number is not None:
        return number
    for entry in groups:
        if entry.name == wanted:
            return entry.gid
    raise InvalidParameterError(f"{unable} to find group {_shown(wanted)}: no matching entries in group file")


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")[:_MAX_NAME_BYTES]


def _accounts(root_fd: int) -> Iterator[_Account]:
    for fields in _lines(root_fd, b"etc/passwd"):
        if len(fields) >= 4:
            uid, gid = _field_number(fields[2]), _field_number(fields[3])
            if fields[0] and uid is not None and gid is not None:
                home = fields[5] if len(fields) > 5 else b""
                # what becomes HOME must be one path (CVE-2022-4318)
                clean = home.startswith(b"/") and not any(byte < 32 or byte == 127 for byte in home)
                yield _Account(fields[0], uid, gid, home if clean else b"")


def _groups(root_fd: int) -> Iterator[_Group]:
    for fields in _lines(root_fd, b"etc/group"):
        if len(fields) >= 3:
            gid = _field_number(fields[2])
            if fields[0] and gid is not None:
                members = fields[3].split(b",") if len(fields) > 3 else []
                yield _Group(fields[0], gid, tuple(member.strip() for member in members))


def _field_number(field: bytes) -> int | None:
    """Return a number of a file, or None: an entry out of range is no entry, never another user."""
    if not field or len(field) > 10 or not _DIGITS.issuperset(field):
        return None
    value = int(field)
    return value if value <= MAX_ID else None


def _lines(root_fd: int, path: bytes) -> Iterator[list[bytes]]:
    for line in _content(root_fd, path).split(b"\n"):
        stripped = line.strip()
        if stripped and len(stripped) <= MAX_LINE_BYTES and not stripped.startswith(b"#"):
            yield stripped.split(b":")


def _content(root_fd: int, path: bytes) -> bytes:
    """Return the file's bytes; nothing when there is no such file.

    Raises:
        InvalidParameterError: it is larger than 1 MiB or no regular file.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer
        file = open_in_root(root_fd, path, _READ_FLAGS)
    except SyscallError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return b""
        raise InvalidParameterError(f"cannot read /{path.decode()}: {error.strerror or ''}".lower()) from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidParameterError(f"not a regular file: /{path.decode()}")
        if status.st_size > MAX_FILE_BYTES:
            raise InvalidParameterError(f"larger than {MAX_FILE_BYTES} bytes: /{path.decode()}")
        content = bytearray()
        while len(content) <= MAX_FILE_BYTES:
            # about what is left: a buffer of a megabyte for three lines is mapped and unmapped
            left = max(status.st_size - len(content), 0) + 4096
            part = os.read(file.fileno(), min(left, MAX_FILE_BYTES))
            if not part:
                return bytes(content)
            content += part
    raise InvalidParameterError(f"larger than {MAX_FILE_BYTES} bytes: /{path.decode()}")
