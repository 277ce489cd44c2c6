"""Classic BPF: instructions and an assembler with labels (include/uapi/linux/{bpf_common,filter}.h)."""

from __future__ import annotations

import struct

# instruction classes with the modes that seccomp accepts
LD_ABS = 0x20  # BPF_LD | BPF_W | BPF_ABS
JA = 0x05  # BPF_JMP | BPF_JA
JEQ = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JGT = 0x25
JGE = 0x35
JSET = 0x45
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
RET = 0x06  # BPF_RET | BPF_K

INSTRUCTION = struct.Struct("=HBBI")

# jt and jf are bytes
_SHORT_JUMP = 255


class Label:
    """A place in the program; each may be placed once, after every jump to it."""

    __slots__ = ("index",)

    def __init__(self) -> None:
        self.index = -1


class _Jump:
    """A jump between two labels; None falls through to the next instruction."""

    __slots__ = ("code", "far", "if_false", "if_true", "value")

    def __init__(self, code: int, value: int, if_true: Label | None, if_false: Label | None) -> None:
        self.code = code
        self.value = value
        self.if_true = if_true
        self.if_false = if_false
        # whether the true or the false branch needs a JA of its own
        self.far = [False, False]

    def length(self) -> int:
        return 1 + sum(self.far)


class Assembler:
    """Collects instructions and labels and gives bytes for the kernel.

    Classic BPF jumps forward only, and conditional ones at most 255 instructions; longer ones are sent through an
    unconditional jump placed right behind them.
    """

    def __init__(self) -> None:
        self._items: list[tuple[int, int] | _Jump | Label] = []

    def load(self, offset: int) -> None:
        """Load the 32-bit word at ``offset`` of the data into the accumulator."""
        self._items.append((LD_ABS, offset))

    def bit_and(self, value: int) -> None:
        """Keep only the accumulator's bits that are set in ``value``."""
        self._items.append((AND, value))

    def give(self, value: int) -> None:
        """Return ``value``."""
        self._items.append((RET, value))

    def jump_if(self, code: int, value: int, *, then: Label | None = None, otherwise: Label | None = None) -> None:
        """Compare the accumulator (JEQ, JGT, JGE, JSET) and jump; a missing label means the next instruction."""
        self._items.append(_Jump(code, value, then, otherwise))

    def jump(self, target: Label) -> None:
        """Jump always."""
        self._items.append(_Jump(JA, 0, target, None))

    def place(self, label: Label) -> None:
        """Put the label before the next instruction."""
        self._items.append(label)

    def assemble(self) -> bytes:
        """Return the program.

        Raises:
            ValueError: a jump goes backwards or to a label that was never placed.
        """
        while self._stretch():
            pass
        output = bytearray()
        position = 0
        for item in self._items:
            if isinstance(item, _Jump):
                encoded = _encode(item, position)
                output += encoded
                position += len(encoded) // INSTRUCTION.size
            elif not isinstance(item, Label):
                output += INSTRUCTION.pack(item[0], 0, 0, item[1])
                position += 1
        return bytes(output)

    def _stretch(self) -> bool:
        """Place the labels; lengthen the jumps that are too short. Returns whether there was one."""
        position = 0
        places: list[tuple[_Jump, int]] = []
        for item in self._items:
            if isinstance(item, Label):
                item.index = position
            elif isinstance(item, _Jump):
                places.append((item, position))
                position += item.length()
            else:
                position += 1
        changed = False
        for jump, start in places:
            if jump.code == JA:
                continue
            for branch, label in enumerate((jump.if_true, jump.if_false)):
                if label is not None and not jump.far[branch] and label.index - start - 1 > _SHORT_JUMP:
                    jump.far[branch] = True
                    changed = True
        return changed


def _encode(jump: _Jump, position: int) -> bytes:
    if jump.code == JA:
        return INSTRUCTION.pack(JA, 0, 0, _distance(jump.if_true, position, 0))
    # layout: the comparison, then the far jump of the true branch, then that of the false one
    length = jump.length()
    true, false = jump.far
    if_true = 0 if true else _distance(jump.if_true, position, length - 1)
    if_false = int(true) if false else _distance(jump.if_false, position, length - 1)
    output = INSTRUCTION.pack(jump.code, if_true, if_false, jump.value)
    if true:
        output += INSTRUCTION.pack(JA, 0, 0, _distance(jump.if_true, position + 1, 0))
    if false:
        output += INSTRUCTION.pack(JA, 0, 0, _distance(jump.if_false, position + 1 + int(true), 0))
    return output


def _distance(label: Label | None, position: int, fall: int) -> int:
    if label is None:
        return fall
    distance = label.index - position - 1
    if distance < 0:
        raise ValueError("a jump goes backwards or nowhere")
    return distance
