"""Tests marked ``vm`` run inside a virtual machine; the host's pytest shows each as if it had run there.

They come last, and the machine is made and booted before the first test of all, at a low priority. In it a second
pytest runs all that were selected, once. That one writes each report to a file which the host reads while it grows:

    host's pytest                                machine's pytest (ORLOP_VM=inside)
     │  tests are collected: boot  ─────────────▶  run a, b, ...
     │  ◀── report of a (setup, call, teardown) ──  one JSON line each in /ctl/reports
     │  test b: ◀── report of b

With pytest-xdist the workers say which tests they have collected, and the process that controls them boots the machine.
There they come first and together: one worker reads their reports while it has the machine to wait for, and takes its share
of the others when the machine has ended. So there may be one worker more than there are processors.

Nothing of a marked test, fixtures included, runs on the host. ``ORLOP_VM=0`` skips them all; those marked
``vm(long=True)`` run with ``ORLOP_VM=1`` only, which is what ``make test-vm`` sets.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from vm.machine import Exchange, Machine, obstacle

INSIDE = os.environ.get("ORLOP_VM") == "inside"
_REPORTS = Path("/ctl/reports")
# Emulated, Python is about ten times slower.
_SECONDS_PER_TEST = 600
_BOOT_SECONDS = 600  # the image may have to be made first
_NICE = 5
_LANE = pytest.StashKey["Lane"]()


class Lane:
    """What the machine's pytest has reported."""

    def __init__(self, config: pytest.Config, exchange: Exchange) -> None:
        self._config = config
        self._exchange = exchange
        self._reports: dict[str, list[Any]] = {}
        self._read = 0

    def reports(self, item: pytest.Item) -> list[Any]:
        """Wait for the reports of a test; of one that the machine did not come to, a failure with its output."""
        while True:
            running = self._exchange.running()
            self._receive()
            found = self._reports.get(item.nodeid, [])
            if found and found[-1].when == "teardown":
                return found
            if not running:
                text = f"the machine ended without a report of it:\n{self._exchange.output()[-4000:]}"
                return [*found, _report(item, "failed", text)]
            time.sleep(0.1)

    def _receive(self) -> None:
        path = self._exchange.path / "reports"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=json.loads(line))
            self._reports.setdefault(report.nodeid, []).append(report)


def _boot(config: pytest.Config, wanted: list[str], directory: Path | None = None) -> Exchange:
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", f"timeout={_SECONDS_PER_TEST}"]
    environment = ["ORLOP_VM=inside", "PYTHONDONTWRITEBYTECODE=1", *_continuous_integration()]
    python = os.path.abspath(".venv/bin/python")
    command = ["env", *environment, python, "-m", "pytest", *options, *wanted]
    machine = Machine(command, directory=directory, nice=0 if os.environ.get("ORLOP_VM") == "1" else _NICE)
    config.add_cleanup(machine.close)
    return machine.exchange


def _shared_directory(run: str) -> Path:
    """Where the machine of a run of pytest-xdist is found by all its processes."""
    return Path(tempfile.gettempdir()) / f"orlop-vm-{run}"


def _continuous_integration() -> list[str]:
    return ["CI=true"] if os.environ.get("CI") == "true" else []


def _report(item: pytest.Item, outcome: Any, text: str) -> pytest.TestReport:
    longrepr = (str(item.path), 0, f"Skipped: {text}") if outcome == "skipped" else text
    return pytest.TestReport(item.nodeid, item.location, {}, outcome, longrepr, "setup")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the machine's tests behind the others, or a worker's before them, and give them its time."""
    is_worker = bool(items) and hasattr(items[0].config, "workerinput")
    items.sort(key=lambda item: (item.get_closest_marker("vm") is not None) is not is_worker)
    for item in items:
        if item.get_closest_marker("vm") and not INSIDE:
            item.add_marker(pytest.mark.timeout(_BOOT_SECONDS + _SECONDS_PER_TEST), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot the machine if there are tests of it to run; a worker of pytest-xdist says which, before it says that it is ready."""
    if INSIDE or session.config.option.collectonly:
        return
    wanted = [item.nodeid for item in session.items if item.get_closest_marker("vm") and not _reason(item)]
    worker = getattr(session.config, "workerinput", None)
    if not wanted or (session.config.getoption("numprocesses", None) and worker is None):
        return
    if worker is None:
        session.stash[_LANE] = Lane(session.config, _boot(session.config, wanted))
        return
    directory = _shared_directory(worker["testrunuid"])
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / f"wanted.{worker['workerid']}").write_text("\n".join(wanted))
    session.stash[_LANE] = Lane(session.config, Exchange(directory))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let files be shared out as they are, but for the machine's, which one worker gets."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/vm" if nodeid.startswith("tests/vm/") else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """Boot the machine for the workers, once, if there is anything to run."""
    directory = _shared_directory(node.workerinput["testrunuid"])
    wanted = directory / f"wanted.{node.workerinput['workerid']}"
    if wanted.exists() and not (directory / "alive").exists():
        _boot(node.config, wanted.read_text().splitlines(), directory)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Show what the machine reports instead of running a test that is marked ``vm``."""
    if INSIDE or not item.get_closest_marker("vm"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports_of(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports_of(item: pytest.Item) -> list[Any]:
    reason = _reason(item)
    if reason:
        return [_report(item, "skipped", f"no virtual machine: {reason}")]
    return item.session.stash[_LANE].reports(item)


def _reason(item: pytest.Item) -> str:
    """Why a test is skipped; empty if it runs."""
    asked = os.environ.get("ORLOP_VM", "")
    marker = item.get_closest_marker("vm")
    if marker is not None and marker.kwargs.get("long") and asked != "1":
        return "it takes long: make test-vm"
    return "ORLOP_VM=0" if asked == "0" else obstacle()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Inside: tell the host."""
    if INSIDE:
        with _REPORTS.open("a") as file:
            file.write(json.dumps({**report._to_json(), "$report_type": "TestReport"}) + "\n")
