"""What the start of a container costs: which modules are loaded, and which can be while imports are blocked."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import orlop

SOURCE = Path(orlop.__file__).parents[1]
# each costs a started process several milliseconds
HEAVY = {"collections", "contextlib", "ctypes", "dataclasses", "enum", "inspect", "json", "re", "selectors", "typing"}

# of the engine: see loading.py
NEVER_ASKED_FOR = {"orlop.runtime.net_devices", "orlop.runtime.rootless", "orlop.runtime.cgroups.absent"}


def loaded(statements: str) -> set[str]:
    """Return the modules of an interpreter like the sealed one after ``statements``."""
    program = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); {statements}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_start_loads_nothing_heavy() -> None:
    modules = loaded(
        "import orlop.runtime.oci.main, orlop.runtime.interpreter, orlop.runtime.oci.command, orlop.runtime.oci.create"
    )
    assert "orlop.runtime.container" in modules
    assert not modules & HEAVY
    assert not {name for name in modules if name.startswith("orlop.runtime.security.seccomp")}


def test_what_a_fork_imports_in_a_function_was_loaded_by_the_spawner() -> None:
    modules = loaded("import orlop.runtime.spawner as s; s.load_all(); s.apply.preload()")
    missing = []
    for name in sorted(modules):
        if not name.startswith("orlop.runtime.") or name == "orlop.runtime.loading":
            continue
        path = SOURCE.joinpath(*name.split("."))
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef):
                nodes = list(ast.walk(function))
                wanted = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
                wanted |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
                missing += [
                    f"{name}.{function.name}: {module}" for module in wanted - NEVER_ASKED_FOR if module not in modules
                ]
    assert not missing


@pytest.mark.parametrize("through", ["itself", "link", "relative"])
def test_the_installed_command_starts_without_site(tmp_path: Path, through: str) -> None:
    installed = Path(sys.executable).parent / "orlop-runtime"
    (tmp_path / "link").symlink_to(installed)
    command = {"itself": str(installed), "link": str(tmp_path / "link"), "relative": "./orlop-runtime"}[through]
    trace = ["strace", "-f", "-qq", "-e", "trace=openat", "-o", str(tmp_path / "trace")]
    done = subprocess.run(
        [*trace, command, "--version"], cwd=installed.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("orlop-runtime version ")
    opened = (tmp_path / "trace").read_text()
    assert "runtime/oci" in opened
    assert "site.cpython" not in opened
    assert "/re/" not in opened
