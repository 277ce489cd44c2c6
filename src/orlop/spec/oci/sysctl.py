"""Kernel parameters that a container may be given: only those that belong to a namespace of its own."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.charset import WORD, consists_of

_IPC = frozenset(
    "kernel." + name for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_COMPONENT = WORD | frozenset(".:@-")
_VALUE = frozenset(map(chr, range(0x20, 0x7F))) | {"\t"}


def sysctl_path(name: str) -> str:
    """Return the file of parameter ``name`` relative to ``/proc/sys``.

    As sysctl(8): whichever of ``.`` and ``/`` comes first separates and the other is literal
    (``net/ipv4/conf/eth0.1/mtu``).

    Raises:
        InvalidParameterError: not a parameter name (``..``, empty components, other characters).
    """
    slash, dot = name.find("/"), name.find(".")
    separator = "/" if slash != -1 and (dot == -1 or slash < dot) else "."
    swapped = {"/": ".", ".": "/"} if separator == "." else {"/": "/", ".": "."}
    path = "".join(swapped.get(character, character) for character in name)
    if not path or any(part[:1] not in WORD or not _COMPONENT.issuperset(part) for part in path.split("/")):
        raise InvalidParameterError(f"invalid sysctl name: {name!r:.80}")
    return path


def check_sysctl(name: str, value: str, *, private: frozenset[str]) -> None:
    """Refuse a parameter that is not confined to a namespace in ``private``, and a value that is more than one line.

    The value of CVE-2022-0811 (cr8escape) smuggled a second parameter; here each is one write to one file, and what
    is written is one line of printable ASCII.

    Raises:
        InvalidParameterError: with runc's words where it has some.
    """
    dotted = sysctl_path(name).replace("/", ".")
    if not consists_of(value, _VALUE, 0, 1024):
        raise InvalidParameterError(f"invalid value of sysctl {name}: {value!r:.80}")
    if dotted in _IPC or dotted.startswith("fs.mqueue."):
        needed = "ipc"
    elif dotted.startswith("net."):
        needed = "network"
    elif dotted == "kernel.domainname":
        needed = "uts"
    elif dotted == "kernel.hostname":
        raise InvalidParameterError(f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field')
    else:
        raise InvalidParameterError(f'sysctl "{name}" is not in a separate kernel namespace')
    if needed not in private:
        raise InvalidParameterError(f'sysctl "{name}" is not allowed in the hosts {needed} namespace')
