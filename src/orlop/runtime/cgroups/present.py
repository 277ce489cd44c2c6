"""An update on cgroup v2: what it leaves unsaid and one file or one sum holds together with what it changes.

v1 has a file for each value, so what is not mentioned stays by itself. v2 has quota and period in one file, and limits
swap where v1 and the runtime-spec limit memory and swap together. runc fills in from the configuration that it keeps;
here the files are asked, which is what the kernel goes by.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.spec.oci import Resources
    from orlop.spec.oci.resources import Cpu, Memory

    # Returns a file's text. Raises OSError: there is no such file.
    Read = Callable[[str], str]


def completed(resources: Resources, read: Read) -> Resources:
    """Return the resources with what the cgroup has already, so that a change of one value changes no other.

    Raises:
        InvalidParameterError: the memory limit would rise above that of memory and swap, or fall below what is used
            though ``check_before_update`` was asked for.
    """
    memory = _memory(resources.memory, read)
    if memory.check_before_update:
        _check_usage(memory, read)
    return replace(resources, memory=memory, cpu=_cpu(resources.cpu, read))


def _cpu(cpu: Cpu, read: Read) -> Cpu:
    if bool(cpu.quota) == bool(cpu.period):
        return cpu
    quota, _, period = _text(read, "cpu.max").partition(" ")
    if cpu.quota:
        return replace(cpu, period=_number(period))
    return replace(cpu, quota=-1 if quota == "max" else _number(quota))


def _memory(memory: Memory, read: Read) -> Memory:
    if memory.swap and memory.swap > 0 and not memory.limit:
        return replace(memory, limit=_number(_text(read, "memory.max")))
    if memory.limit and memory.limit > 0 and not memory.swap:
        limit, swap = _number(_text(read, "memory.max")), _number(_text(read, "memory.swap.max"))
        if limit is not None and swap is not None:
            return replace(memory, swap=limit + swap)
    return memory


def _check_usage(memory: Memory, read: Read) -> None:
    """v1 refuses by itself; v2 reclaims and then kills (runc's words)."""
    usage = _number(_text(read, "memory.current")) or 0
    swapped = _number(_text(read, "memory.swap.current")) or 0
    if memory.limit and 0 < memory.limit < usage:
        raise InvalidParameterError(f"rejecting memory limit {memory.limit} < usage {usage}")
    if memory.swap and 0 < memory.swap < usage + swapped:
        raise InvalidParameterError(f"rejecting memory+swap limit {memory.swap} < usage {usage + swapped}")


def _text(read: Read, name: str) -> str:
    try:
        return read(name).strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
