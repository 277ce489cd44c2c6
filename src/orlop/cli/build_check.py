"""``build --check``: what a Dockerfile should better say, with its lines, as docker's client shows it."""

from __future__ import annotations

import sys

from orlop.cli.build_view import View
from orlop.cli.documents import member, number, text
from orlop.cli.text import safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

_AROUND = 2
_BAR = "--------------------"


class CheckView(View):
    """Shows what a check has found; ``found`` counts it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(sys.stderr)
        self._out = stream
        self.found = 0

    def _take(self, document: Mapping[str, object]) -> None:
        super()._take(document)
        aux = member(document, "aux")
        warnings = aux.get("Warnings")
        if isinstance(warnings, list):
            self.found = len(warnings)
            self._out.write(_head(self.found))
            rows = text(aux, "Text").split("\n")
            for warning in warnings:
                if isinstance(warning, dict):
                    self._out.write(safe(_shown(warning, text(aux, "Name"), rows)))


def _head(count: int) -> str:
    if not count:
        return "Check complete, no warnings found.\n"
    return f"Check complete, {count} warning{'s have' if count > 1 else ' has'} been found!\n"


def _shown(warning: Mapping[str, object], name: str, rows: list[str]) -> str:
    line = number(warning, "Line")
    first, last = max(line - _AROUND, 1), min(line + _AROUND, len(rows))
    shown = [f"{at:4} | {'>>>' if at == line else '   '} {rows[at - 1]}".rstrip() for at in range(first, last + 1)]
    title = f"WARNING: {text(warning, 'RuleName')} - {text(warning, 'URL')}"
    return "\n".join(("", title, text(warning, "Detail"), f"{name}:{line}", _BAR, *shown, _BAR, ""))
