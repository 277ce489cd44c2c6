"""Text that came from the engine, made safe for a terminal (threats.md H11), and shortened."""

from __future__ import annotations


def safe(text: str) -> str:
    """Replace control characters, so that a name or label cannot move the cursor or rewrite the screen."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\t\n" else f"\\x{ord(character):02x}"
        for character in text
    )


def safe_cell(text: str) -> str:
    """Like ``safe``, for one cell of a table: no line breaks or tabs either."""
    return safe(text).replace("\n", "\\n").replace("\t", " ")


def ellipsis(text: str, width: int) -> str:
    """Shorten as Docker's tables do, "sleep 10…"."""
    if len(text) <= width:
        return text
    return text[: width - 1] + "…" if width > 1 else text[:width]


def short_id(text: str) -> str:
    """Return the 12 characters that stand for an id, without its algorithm."""
    return text.partition(":")[2][:12] if ":" in text else text[:12]
