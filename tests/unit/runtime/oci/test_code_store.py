"""The file of code that orlop-runtime's modules come from: complete after one start, and never believed when stale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import orlop

SOURCE = Path(orlop.__file__).parent
# as scripts/orlop-runtime; then which modules came from the file
PROGRAM = """
import sys
sys.path.insert(0, {source!r} + "/orlop/runtime/oci")
import code_store
sys.path[0] = {source!r}
store = code_store.CodeStore()
store.install()
from orlop.runtime.oci import main
main._exit = lambda status: print(*[n for n, m in sys.modules.items() if m.__spec__ and m.__spec__.loader is store])
sys.argv[1:] = ["--version"]
main.entry(store)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(SOURCE, source / "orlop", ignore=shutil.ignore_patterns("__pycache__", "api", "engine", "daemon"))
    return source


def start(tree: Path) -> tuple[str, set[str]]:
    """Return what a command printed and the modules that came from the file."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM.format(source=str(tree))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *lines, names = done.stdout.split("\n")[:-1]
    return "\n".join(lines), set(names.split())


def file_of(tree: Path) -> Path:
    (found,) = (tree / "orlop/runtime/oci/__pycache__").glob("orlop-runtime.*.code")
    return found


def test_the_second_start_takes_every_module_from_the_file(tree: Path) -> None:
    start(tree)
    text, names = start(tree)
    assert text.startswith("orlop-runtime version ")
    assert {"orlop", "orlop.runtime.oci.main", "orlop.runtime.oci.command", "orlop.errors"} <= names
    before = file_of(tree).stat()
    assert before.st_mode & 0o777 == 0o644
    start(tree)
    assert file_of(tree).stat().st_ino == before.st_ino  # nothing new, nothing written


def test_a_changed_source_is_run_and_kept(tree: Path) -> None:
    start(tree)
    source = tree / "orlop/runtime/oci/command.py"
    text = source.read_text()
    try:
        source.write_text(text.replace("{PROGRAM} version", "{PROGRAM} VERSION "))
        shown, names = start(tree)
        assert "VERSION" in shown
        assert "orlop.runtime.oci.command" not in names
        shown, names = start(tree)
        assert "VERSION" in shown
        assert "orlop.runtime.oci.command" in names
    finally:
        source.write_text(text)
        os.utime(source, (1, 1))
    shown, names = start(tree)
    assert "VERSION" not in shown


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o664),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]),
        lambda path: (path.rename(path.with_suffix(".other")), path.symlink_to(path.with_suffix(".other"))),
    ],
    ids=["others may write", "cut off", "empty", "another Python", "link"],
)
def test_a_file_that_cannot_be_trusted_is_replaced(tree: Path, spoil) -> None:
    start(tree)
    start(tree)
    spoil(file_of(tree))
    text, names = start(tree)
    assert text.startswith("orlop-runtime version ")
    assert not names
    text, names = start(tree)
    assert "orlop.runtime.oci.command" in names
    assert not file_of(tree).is_symlink()
    assert file_of(tree).stat().st_mode & 0o777 == 0o644


@pytest.mark.privileged
@pytest.mark.requires("root")
def test_a_file_of_another_user_does_not_count(tree: Path) -> None:
    start(tree)
    os.chown(file_of(tree), 65534, 65534)
    assert not start(tree)[1]
    assert start(tree)[1]
