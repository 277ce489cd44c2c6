"""Comments and docstrings name pages that readers have, and the page of faults names what there is."""

import re
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (ROOT / "docs/reference/faults.md").read_text()
# of others, whose they are is said there: the OCI's, gRPC's, runc's
ELSEWHERE = {"bundle.md", "config.md", "features.md", "layer.md", "PROTOCOL-HTTP2.md", "statuscodes.md", "systemd.md"}
BEGINNING = {tokenize.ENCODING, tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE}


@cache
def remarks() -> list[tuple[str, str]]:
    """Return where each comment and docstring is, and its text."""
    found = []
    for path in (path for part in ("src", "tests", "tools", "benchmarks") for path in (ROOT / part).rglob("*.py")):
        before = tokenize.ENCODING
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and before in BEGINNING):
                    found.append((f"{path.relative_to(ROOT)}:{token.start[0]}", token.string))
                if token.type not in {tokenize.COMMENT, tokenize.NL}:
                    before = token.type
    return found


def test_pages_that_are_named_are_there() -> None:
    pages = {str(path.relative_to(ROOT)) for part in ("*.md", "docs/**/*.md") for path in ROOT.glob(part)}
    known = pages | {page.rpartition("/")[2] for page in pages} | ELSEWHERE | {"docs/systemd.md"}
    named = [(where, name) for where, text in remarks() for name in re.findall(r"[\w/-]+\.md\b", text)]
    assert len(named) > 100
    assert not [(where, name) for where, name in named if name not in known]


def test_faults_that_are_named_are_on_their_page() -> None:
    rows = set(re.findall(r"^\| ([RI]\d+) \|", FAULTS, re.MULTILINE))
    named = [
        (where, row)
        for where, text in remarks()
        for row in re.findall(r"\b[RI]\d+\b" if "faults.md" in text else r"\bR\d+\b", text)
    ]
    assert len(named) > 50
    assert not [(where, row) for where, row in named if row not in rows]


def test_tests_of_the_faults_are_there() -> None:
    named = [
        (file, name.strip())
        for line in FAULTS.splitlines()
        if line.startswith("| ")
        for file, names in re.findall(r"`([\w/]+/test_\w+\.py)`(?:: ([\w, ]+))?", line.rpartition(" | ")[2])
        for name in names.split(",")
    ]
    assert len(named) > 80
    texts = {file: (ROOT / "tests" / file).read_text() for file, _ in named}
    assert not [(file, name) for file, name in named if name and f"def test_{name}(" not in texts[file]]
