"""``docker top`` as most people call it, read from the host's /proc: no program is run, neither the image's nor ours.

Other arguments of ps(1) are :mod:`orlop.engine.containers.ps`'s.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.spec.json import JsonObject

_EF = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_AUX = ("USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DAY = 86400


@dataclass(frozen=True, slots=True)
class Process:
    """One process as /proc tells it; times in seconds."""

    pid: int
    ppid: int
    user: str
    command: str
    state: str
    tty: str
    cpu: float
    started: float
    virtual: int
    resident: int


@dataclass(frozen=True, slots=True)
class Columns:
    """A table of ps: its titles and what they show of a process."""

    titles: tuple[str, ...]
    row: Callable[[Process], tuple[str, ...]]


def top_document(pids: Iterable[int], columns: Columns) -> JsonObject:
    """Return ``Titles`` and ``Processes``."""
    users = _users()
    boot = _boot_time()
    found = [process for pid in sorted(pids) if (process := _read(pid, users, boot)) is not None]
    return {"Titles": list(columns.titles), "Processes": [list(columns.row(process)) for process in found]}


def _row_ef(process: Process) -> tuple[str, ...]:
    age = max(0.001, time.time() - process.started)
    return (
        process.user,
        str(process.pid),
        str(process.ppid),
        str(min(99, int(100 * process.cpu / age))),
        _start(process.started),
        process.tty,
        _clock(process.cpu, hours=True),
        process.command,
    )


def _row_aux(process: Process) -> tuple[str, ...]:
    age = max(0.001, time.time() - process.started)
    memory = 100 * process.resident / max(1, os.sysconf("SC_PHYS_PAGES") * _PAGE)
    return (
        process.user,
        str(process.pid),
        f"{100 * process.cpu / age:.1f}",
        f"{memory:.1f}",
        str(process.virtual // 1024),
        str(process.resident // 1024),
        process.tty,
        process.state,
        _start(process.started),
        _clock(process.cpu, hours=False),
        process.command,
    )


def _start(moment: float) -> str:
    now, local = time.time(), time.localtime(moment)
    return time.strftime("%H:%M" if now - moment < _DAY else "%b%d", local)


def _clock(seconds: float, *, hours: bool) -> str:
    whole = int(seconds)
    if hours:
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def _users() -> dict[int, str]:
    """Names of the host, as ps shows them; the file is the host's own."""
    names: dict[int, str] = {}
    with contextlib.suppress(OSError), open("/etc/passwd", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit():
                names.setdefault(int(fields[2]), fields[0])
    return names


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(pid: int, users: dict[int, str], boot: float) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().decode("utf-8", "replace").rpartition(")")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(65536).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    fields = rest.split()
    session, number = int(fields[3]), int(fields[4])
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        user=users.get(uid, str(uid)),
        command=words or f"[{name.partition('(')[2]}]",
        state=fields[0] + ("s" if session == pid else ""),
        tty=_tty(number),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        started=boot + int(fields[19]) / _TICKS,
        virtual=int(fields[20]),
        resident=int(fields[21]) * _PAGE,
    )


EVERY_FULL = Columns(_EF, _row_ef)
BY_USER = Columns(_AUX, _row_aux)
_FORMS: dict[tuple[str, ...], Columns] = {
    **dict.fromkeys([(), ("-ef",), ("-e", "-f"), ("-f", "-e"), ("ef",)], EVERY_FULL),
    **dict.fromkeys([("aux",), ("-aux",), ("axu",), ("au",)], BY_USER),
}


def known_columns(arguments: str) -> Columns | None:
    """Return the table that these arguments of ps ask for, if it is one of those made here."""
    return _FORMS.get(tuple(arguments.split()))


def _tty(number: int) -> str:
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    if number == 0:
        return "?"
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else f"tty{minor}"
