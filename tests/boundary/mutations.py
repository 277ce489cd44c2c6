"""Shows that each test of the boundary fails when its defence is taken out: ``make mutations``, or a row of it.
::

    python tests/boundary/mutations.py            everything in ``defences.py``, some minutes
    python tests/boundary/mutations.py B4 C2      these rows

The tests of each run in a mount namespace of their own. There the changed copy lies in an overlay over ``src/orlop``,
and but for /dev, /tmp and /var/tmp the machine's files are read-only: an engine without a defence changes none of them.
What is expected is a failure of the named tests; a setup that fails, or a test that passes, is a fault of the list or of
the test, and ends this program with 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from defences import DEFENCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from defence import Defence

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/orlop"
# kernel parameters that an attack of a test names: were one changed, it would be the machine's
WATCHED = ("kernel/core_pattern", "kernel/modprobe", "kernel/shm_rmid_forced", "vm/overcommit_memory", "vm/swappiness")
SECONDS = 300
_RACES = 3
# what says that the changed source is no longer a program, so that nothing at all was tried
BROKEN = re.compile(r"(Name|Syntax|Indentation|Attribute|UnboundLocal)Error: |engine ended with \d+: Traceback")

# /run has iptables' lock; from a read-only /dev a container with user namespaces would have other mounts than it has
WITH_CHANGES = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for place in /tmp /var/tmp "$1"; do mount --bind "$place" "$place"; done
mount -o remount,bind,ro /
mount -t tmpfs none "$1/over"
mkdir "$1/over/up" "$1/over/work"
cp -r "$1/changed/." "$1/over/up"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/over/up,workdir=$1/over/work" "$2"
shift 2
exec "$@"
"""


def node(test: str) -> str:
    """Return pytest's name: without a directory a test is one of this directory's."""
    return test if test.startswith("tests/") else f"tests/boundary/{test}"


def changed(defence: Defence) -> dict[str, str]:
    """Return the source files without the defence, by their path below ``src/orlop``.

    Raises:
        ValueError: the source has changed, and what is to be taken out is no longer there once.
    """
    files: dict[str, str] = {}
    for change in defence.changes:
        text = files.get(change.file) or (SOURCE / change.file).read_text()
        if text.count(change.old) != 1:
            raise ValueError(f"{defence.name}: {text.count(change.old)} times in {change.file}: {change.old!r}")
        files[change.file] = text.replace(change.old, change.new)
    return files


def run_tests(files: dict[str, str], tests: list[str]) -> tuple[list[str], list[str], str]:
    """Run tests with changed sources; returns those that failed, those that could not be run, and the output."""
    with tempfile.TemporaryDirectory(prefix="orlop-t-mutation-") as scratch:
        for name, text in files.items():
            target = Path(scratch, "changed", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        Path(scratch, "changed").mkdir(exist_ok=True)
        Path(scratch, "over").mkdir()
        into = ["unshare", "-m", "--propagation", "private", "sh", "-c", WITH_CHANGES, "sh", scratch, str(SOURCE)]
        words = ["-q", "-rfE", "--no-header", "--tb=short", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(
            [*into, sys.executable, "-m", "pytest", *words],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "400", "CI": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    return (
        *(re.findall(rf"^{word} (tests/.+?)(?: - .*)?$", done.stdout, re.MULTILINE) for word in ("FAILED", "ERROR")),
        done.stdout,
    )


def verdict(defence: Defence) -> tuple[str, str]:
    """Take the defence out; returns what is wrong with that, or nothing, and the output of the tests.

    A race that is lost is found by chance, which a busy machine makes rarer: it is tried again.
    """
    problem, output = _verdict(defence)
    for _ in range(_RACES - 1 if "raced" in defence.name else 0):
        if not problem:
            break
        problem, output = _verdict(defence)
    return problem, output


def _verdict(defence: Defence) -> tuple[str, str]:
    tests = [node(test) for test in defence.tests]
    failed, errors, output = run_tests(changed(defence), tests)
    if BROKEN.search(output):
        return "the changed source does not even work", output
    if defence.spare:
        return (f"fails alone: {failed + errors}" if failed or errors else ""), output
    missing = [test for test in tests if not any(name.startswith((test, f"{test}[", f"{test}::")) for name in failed)]
    if missing:
        return f"does not fail: {', '.join(missing)}{' (errors: ' + errors[0] + ')' if errors else ''}", output
    return "", output


def kernel_parameters() -> dict[str, bytes]:
    return {name: Path("/proc/sys", name).read_bytes() for name in WATCHED if Path("/proc/sys", name).exists()} | {
        "/dev/null": repr(os.stat("/dev/null")[:6]).encode()
    }


def main() -> int:
    """Run the defences of the rows that were named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("row", nargs="*", help="a row of docs/reference/threats.md, or a defence's whole name")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the tests' output")
    options = parser.parse_args()
    chosen = [d for d in DEFENCES if not options.row or {d.name, *d.rows} & {*options.row}]
    before, wrong = kernel_parameters(), 0
    for defence in chosen:
        begun = time.monotonic()
        problem, output = verdict(defence)
        wrong += bool(problem)
        took = f"{time.monotonic() - begun:5.1f} s"
        state = "WRONG" if problem else "spare" if defence.spare else "fails"
        print(f"{state} {took}  {' '.join(defence.rows):7} {defence.name}", flush=True)
        if problem or options.verbose:
            print(f"        {problem}\n{output[-4000 if options.verbose else -1500 :]}", flush=True)
        if kernel_parameters() != before:
            print(f"the machine has changed: {before} {kernel_parameters()}")
            return 1
    print(
        f"{len(chosen) - wrong} of {len(chosen)} as the list says: without the defence its tests fail, without a spare one they pass"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
