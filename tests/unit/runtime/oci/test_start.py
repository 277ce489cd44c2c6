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


FIRST_START = """
import os, sys
sys.path.insert(0, {source!r} + "/orlop/runtime/oci")
import code_store
sys.path[0] = {source!r}
from orlop.runtime import interpreter
def no_overlay(_):
    raise OSError(22, "")
if {way!r} == "memfd":
    interpreter._from_overlay = no_overlay
def execve(path, command, environment):
    try:
        answer = os.write(os.open(path, os.O_WRONLY), b"x")
    except OSError as error:
        answer = error.strerror
    print(command[0], command[1:4], command[5:], environment, answer, sep="\\n")
    raise SystemExit
os.execve = execve
sys.argv[1:] = ["--root", "/x", "run", "name"]
code_store.start({source!r})
"""


@pytest.mark.privileged
@pytest.mark.requires("root", "overlay")
@pytest.mark.parametrize(("way", "answer"), [("overlay", "Read-only file system"), ("memfd", "not permitted")])
def test_a_start_that_is_not_sealed_is_made_again_from_what_nobody_can_write_to(way: str, answer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", FIRST_START.format(source=str(SOURCE), way=way)],
        capture_output=True,
        text=True,
        check=True,
        env={"LISTEN_FDS": "1", "LD_PRELOAD": "", "PYTHONPATH": "/nowhere", "SECRET": "1"},
    )
    interpreter, flags, arguments, environment, refusal = done.stdout.splitlines()
    assert interpreter == str(Path(sys.executable).resolve())
    assert flags == "['-I', '-S', '-c']"
    assert arguments == "['--root', '/x', 'run', 'name']"
    assert environment == "{'LISTEN_FDS': '1'}"
    assert refusal.endswith(answer)


def programs(script: Path, arguments: list[str], tmp_path: Path) -> tuple[list[str], str]:
    """Run the script; returns the programs that were executed in its process, and what the last of them was given."""
    trace = tmp_path / "trace"
    command = ["strace", "-v", "-s", "4096", "-qq", "-e", "trace=execve", "-e", "status=successful", "-o", str(trace)]
    environment = {"LISTEN_FDS": "0", "SECRET": "1", "PERL5OPT": "-Mnonexistent", "PERL_UNICODE": "SA"}
    subprocess.run([*command, str(script), *arguments], check=False, capture_output=True, env=environment)
    executed = [line for line in trace.read_text().splitlines() if line.startswith("execve(")]
    return [line.split('"')[1] for line in executed], executed[-1]


@pytest.mark.privileged
@pytest.mark.requires("root", "overlay")
def test_the_script_seals_without_an_interpreter_that_is_not_sealed(tmp_path: Path) -> None:
    """Each start of Python is a fifth of a container's; what is in the caller's environment does not come along."""
    script = Path(sys.executable).parent / "orlop-runtime"
    executed, last = programs(script, ["run", "--bundle", "/nonexistent/\u00fc", "x"], tmp_path)
    assert executed[:2] == [str(script), "/usr/bin/perl"]
    (sealed,) = executed[2:]
    assert sealed.startswith("/proc/self/fd/")
    assert sealed.endswith(f"/{Path(sys.executable).resolve().name}")
    assert '["LISTEN_FDS=0"]' in last
    assert r"/nonexistent/\303\274" in last


@pytest.mark.privileged
@pytest.mark.requires("root", "overlay")
def test_without_perl_python_seals(tmp_path: Path) -> None:
    installed = Path(sys.executable).parent / "orlop-runtime"
    script = tmp_path / "bin" / "orlop-runtime"
    script.parent.mkdir()
    (script.parent / "python3").symlink_to(sys.executable)
    (tmp_path / "lib").symlink_to(installed.parent.parent / "lib")
    script.write_text(installed.read_text().replace("/usr/bin/perl", "/nonexistent/perl"))
    script.chmod(0o755)
    executed, last = programs(script, ["run", "--bundle", "/nonexistent", "x"], tmp_path)
    assert executed[:2] == [str(script), str(script.parent / "python3")]
    (sealed,) = executed[2:]
    assert sealed.startswith("/proc/self/fd/")
    assert '["LISTEN_FDS=0"]' in last


def test_an_interpreter_that_is_not_sealed_enters_nothing() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); sys.argv[1:] = ['run', 'x']\n"
        "from orlop.runtime.oci.main import entry; entry(None, again=True)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "orlop-runtime: the interpreter is not sealed\n")
