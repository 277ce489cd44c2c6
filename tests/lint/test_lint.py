"""Linters, types and layers run as tests, so that one command runs everything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

CHECKS = {
    "ruff check": [BIN / "ruff", "check", "--no-cache", "src", "tests", "tools", "benchmarks", "demo"],
    "ruff format": [BIN / "ruff", "format", "--no-cache", "--check", "src", "tests", "tools", "benchmarks", "demo"],
    "mypy --strict": [BIN / "mypy"],
    "import-linter": [BIN / "lint-imports", "--no-cache"],
    "codespell": [BIN / "codespell", "src", "tests", "docs", "tools", "benchmarks", "README.md", "CHANGELOG.md"],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str) -> None:
    done = subprocess.run(CHECKS[name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}:\n{done.stdout}{done.stderr}"


def test_files_stay_readable() -> None:
    """Files of about 400 lines; nothing above 500, generated data aside."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "src").rglob("*.py")
        if (lines := path.read_text().count("\n")) > 500 and "generated" not in path.read_text()[:400].lower()
    }
    assert not long


def test_no_machine_or_registry_in_the_repo() -> None:
    """Nothing names this machine's paths or a package registry's host."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    needles = ["/" + "work/", "py" + "env", "deb." + "debian.org", "py" + "pi.org", "registry.np" + "mjs"]
    found = [
        f"{name}: {needle}"
        for name in tracked
        if (ROOT / name).is_file()
        for needle in needles
        if needle.encode() in (ROOT / name).read_bytes()
    ]
    assert not found
