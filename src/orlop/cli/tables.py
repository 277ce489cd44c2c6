"""Tables as Go's tabwriter lays them out for Docker: columns three spaces apart, at least ten wide, blanks kept."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MINIMUM = 10
_PADDING = 3


def render(lines: Sequence[str], *, minimum: int = _MINIMUM, padding: int = _PADDING) -> str:
    """Align tab-separated lines; the text after a line's last tab is no column and is not padded.

    A column is a run of consecutive lines that reach it, as in tabwriter: a line with fewer tabs ends it.
    """
    rows = [line.split("\t") for line in lines]
    widths: list[list[int]] = [[0] * max(len(row) - 1, 0) for row in rows]
    columns = max((len(row) - 1 for row in rows), default=0)
    for column in range(columns):
        first = 0
        while first < len(rows):
            last = first
            while last < len(rows) and len(rows[last]) - 1 > column:
                last += 1
            if last > first:
                width = max(len(rows[index][column]) for index in range(first, last))
                width = max(width + padding, minimum)
                for index in range(first, last):
                    widths[index][column] = width
            first = last + 1
    out = []
    for row, cells in zip(rows, widths, strict=True):
        padded = [text.ljust(width) for text, width in zip(row, cells, strict=False)]
        out.append("".join([*padded, row[-1]]))
    return "".join(f"{line}\n" for line in out)
