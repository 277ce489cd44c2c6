"""J8 of threats.md: what is executed as root, and who can write it."""

import os
from pathlib import Path

import pytest

from orlop.daemon.installation import executed_paths, require_trusted
from orlop.errors import SystemFailureError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "package/__pycache__").mkdir(parents=True)
    (tmp_path / "package/module.py").write_text("")
    (tmp_path / "package/__pycache__/module.pyc").write_text("")
    for path in (tmp_path / "package").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "package"


@pytest.mark.parametrize("what", ["", "module.py", "__pycache__", "__pycache__/module.pyc"])
def test_what_everybody_can_write_is_not_executed(tree: Path, what: str) -> None:
    assert require_trusted([str(tree)]) == []
    (tree / what).chmod((tree / what).stat().st_mode | 0o002)
    with pytest.raises(SystemFailureError, match=r"everybody can write what would be executed as root: "):
        require_trusted([str(tree)])


def test_links_and_what_vanishes_are_passed_over(tree: Path) -> None:
    (tree / "link").symlink_to("nowhere")
    assert require_trusted([str(tree), str(tree / "gone")]) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_owner_is_told(tree: Path) -> None:
    os.chown(tree / "module.py", 12345, 0)
    os.chown(tree / "__pycache__/module.pyc", 0, 12345)
    (tree / "__pycache__/module.pyc").chmod(0o664)
    assert sorted(require_trusted([str(tree)])) == [str(tree / "__pycache__/module.pyc"), str(tree / "module.py")]


def test_what_runs_here_is_looked_at() -> None:
    interpreter, library, package = executed_paths()
    assert os.access(interpreter, os.X_OK)
    assert os.path.exists(f"{library}/os.py")
    assert os.path.exists(f"{package}/daemon/installation.py")
