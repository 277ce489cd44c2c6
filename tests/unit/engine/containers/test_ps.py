"""``docker top``: what ps(1) prints, cut down to the container's processes."""

import os

import pytest

from orlop.engine.containers.processes import known_columns
from orlop.engine.containers.ps import run_ps, select_lines
from orlop.errors import InvalidParameterError, SystemFailureError


def test_the_last_column_keeps_its_words_and_foreign_processes_go() -> None:
    table = "  PID  PPID COMMAND\n   12     1 sh -c 'a  b'\n  120    12 sleep 5\n    1     0 init\n"
    assert select_lines(table, {12, 120}) == {
        "Titles": ["PID", "PPID", "COMMAND"],
        "Processes": [["12", "1", "sh -c 'a b'"], ["120", "12", "sleep 5"]],
    }


def test_threads_follow_their_process() -> None:
    table = "PID LWP CMD\n7 - mine\n- 8 -\n9 - other\n- 10 -\n"
    assert [row[1] for row in select_lines(table, {7})["Processes"]] == ["-", "8"]


@pytest.mark.parametrize("table", ["", "COMMAND\nsleep\n", "PID CMD\nx sleep\n", "PID CMD\n٣ sleep\n"])
def test_a_table_without_numbers_is_refused(table: str) -> None:
    with pytest.raises(SystemFailureError, match=r"PID field|Unexpected pid"):
        select_lines(table, {1, 3})


@pytest.mark.parametrize("arguments", ["-o ppid=PID", "-eo ppid= PID", "-o pid=PID -o uid=PIDX"])
def test_another_number_must_not_pose_as_the_pid(arguments: str) -> None:
    with pytest.raises(InvalidParameterError, match="is not allowed"):
        run_ps([os.getpid()], arguments)


@pytest.mark.parametrize("arguments", ["-o pid,comm", "o pid,args", "-eo pid=PID,comm", "-eF", "axf", "-o pid -m"])
def test_the_hosts_ps_is_asked(arguments: str) -> None:
    assert known_columns(arguments) is None
    document = run_ps([os.getpid()], arguments)
    place = document["Titles"].index("PID")
    assert {row[place] for row in document["Processes"]} - {"-"} == {str(os.getpid())}


def test_what_ps_refuses_is_told_in_its_own_words() -> None:
    with pytest.raises(SystemFailureError, match=r"^ps: error: "):
        run_ps([os.getpid()], "-o nosuchcolumn")
