"""The list of defences fits the source, the tests and the table: it is run by hand, and must not rot meanwhile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from defences import DEFENCES
from mutations import changed, node

ROOT = Path(__file__).resolve().parents[2]
THREATS = (ROOT / "docs/reference/threats.md").read_text()


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda defence: defence.name)
def test_what_is_taken_out_is_there(defence) -> None:
    for file, text in changed(defence).items():
        compile(text, file, "exec")
    for test in defence.tests:
        path, _, name = node(test).partition("::")
        text = (ROOT / path).read_text()
        name = name.partition("[")[0].rpartition("::")[2]
        assert not name or re.search(rf"^ *(async )?def {name}\(", text, re.MULTILINE), test


# how many rows the project's threat table has of each letter
ROWS = {"A": 15, "B": 19, "C": 10, "D": 10, "E": 13, "F": 9, "G": 12, "H": 14, "I": 5, "J": 12}


def test_every_row_is_in_the_list() -> None:
    rows, others = set[str](), set[str]()
    for line in THREATS.splitlines():
        if line.startswith("| "):
            named = set(re.findall(r"[A-Z]\d+", line.split("|")[1]))
            (others if line.split("|")[3].startswith(" does not apply: ") else rows).update(named)
    assert rows | others == {f"{letter}{number + 1}" for letter, count in ROWS.items() for number in range(count)}
    assert {row for defence in DEFENCES for row in defence.rows} == rows - others


def test_names_are_names() -> None:
    assert len({defence.name for defence in DEFENCES}) == len(DEFENCES)
