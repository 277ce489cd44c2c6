import os

import pytest

from orlop.errors import CommandNotExecutableError, CommandNotFoundError
from orlop.runtime.program import Program


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a/dir").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "a/plain").write_text("x")
    (tmp_path / "b/good").write_text("#!/bin/sh\n")
    (tmp_path / "b/good").chmod(0o755)
    (tmp_path / "b/orphan").write_text("#!/no/such/interpreter\n")
    (tmp_path / "b/orphan").chmod(0o755)
    return f"{tmp_path}/a:{tmp_path}/b"


def outcome(name, path):
    """Run :meth:`Program.execute` in a child, which only returns when it cannot."""
    program = Program([name], [f"PATH={path}"])
    pid = os.fork()
    if pid == 0:
        os._exit(program.execute())
    return program.failure(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("missing", CommandNotFoundError, 'exec: "missing": executable file not found in $PATH'),
        ("dir", CommandNotFoundError, 'exec: "dir": executable file not found in $PATH'),
        ("plain", CommandNotExecutableError, 'exec: "plain": permission denied'),
        ("/no/such", CommandNotFoundError, 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc", CommandNotExecutableError, 'exec: "/etc": is a directory'),
        ("/etc/passwd", CommandNotExecutableError, 'exec: "/etc/passwd": permission denied'),
        ("", CommandNotFoundError, 'exec: "": executable file not found in $PATH'),
    ],
)
def test_failures_are_told_in_runcs_words(path, name, kind, text):
    error = outcome(name, path)
    assert type(error) is kind
    assert str(error) == text


def test_check_before_the_start_agrees(path):
    Program(["good"], [f"PATH={path}"]).check()
    Program(["./relative"], []).check()
    with pytest.raises(CommandNotFoundError):
        Program(["missing"], [f"PATH={path}"]).check()
    with pytest.raises(CommandNotExecutableError):
        Program(["plain"], [f"PATH={path}"]).check()


def test_a_missing_interpreter_is_not_a_missing_program(path):
    name = path.rpartition(":")[2] + "/orphan"
    assert str(outcome(name, path)) == f"exec {name}: no such file or directory"
