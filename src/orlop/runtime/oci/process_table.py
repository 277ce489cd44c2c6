"""``ps -ef`` for given processes, from /proc: the runtime runs no program of the host or the container (A12)."""

from __future__ import annotations

import os
import time

_HEADER = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_TICKS = os.sysconf("SC_CLK_TCK")


def process_lines(pids: list[int]) -> list[str]:
    """Return the header and a line for each process that still exists."""
    with open("/proc/uptime", encoding="ascii") as file:
        booted = time.time() - float(file.read().split()[0])
    rows = [_HEADER, *(row for pid in pids if (row := _row(pid, booted)) is not None)]
    return [
        f"{user:<8} {pid:>7} {parent:>7} {share:>2} {start:>5} {tty:<8} {spent:>8} {command}"
        for user, pid, parent, share, start, tty, spent, command in rows
    ]


def _row(pid: int, booted: float) -> tuple[str, ...] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    used = (int(fields[11]) + int(fields[12])) // _TICKS
    started = booted + int(fields[19]) / _TICKS
    lived = max(1.0, time.time() - started)
    moment = time.localtime(started)
    recent = lived < 86400
    return (
        owner_name(uid),
        str(pid),
        fields[1].decode(),
        str(min(99, int(100 * used / lived))),
        time.strftime("%H:%M" if recent else "%b%d", moment),
        _terminal(int(fields[4])),
        f"{used // 3600:02}:{used // 60 % 60:02}:{used % 60:02}",
        _printable(command.rstrip(b"\0").replace(b"\0", b" ")) or f"[{_printable(name)}]",
    )


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:
        return f"pts/{minor + 256 * (major - 136)}"
    return "?"


def _printable(data: bytes) -> str:
    """A process chooses its own name: no control characters reach the caller's terminal (threats.md H11)."""
    return "".join(character if character.isprintable() else "?" for character in data.decode(errors="replace"))


def owner_name(uid: int) -> str:
    """Return ``root`` or the number: the runtime asks no NSS (threats.md J2)."""
    return "root" if uid == 0 else str(uid)
