"""Bad bundles: 500 mutations of a valid one. Each gives a container or one clear line, and nothing is left behind.

All of them go through what reads and plans a configuration, in this process; every one that passes there, and some that
do not, through the real command, in a network namespace of its own. With ORLOP_EVERY_BUNDLE all 500 do, and each that was
to be refused must end with status 1: ``make conformance``.
"""

from __future__ import annotations

import glob
import json
import os
import random
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, busybox_tree, remove_cgroups
from oci_bundles import FULL, contradictions, mutated, spoiled
from orlop.errors import OrlopError
from orlop.runtime.cgroups import normalise_path
from orlop.runtime.oci.document import parse_document
from orlop.runtime.rootfs import plan
from orlop.runtime.security.apply import prepare
from orlop.spec.oci import parse_config, require_runnable

COUNT = 500
SPOILED = 80
# what goes through the command of those that are refused before anything was made
SAMPLE = 10
EVERY = bool(os.environ.get("ORLOP_EVERY_BUNDLE"))


def certain() -> dict[str, bytes]:
    """Those that must be refused, whoever finds out."""
    text = json.dumps(FULL)
    found = {name: json.dumps(document).encode() for name, document in contradictions().items()}
    found["a key twice"] = text.replace('"args"', '"args": ["false"], "args"', 1).encode()
    found["not a number"] = text.replace('"oomScoreAdj": 100', '"oomScoreAdj": NaN').encode()
    return found


def documents() -> dict[str, bytes]:
    """The 500 bundles, by name."""
    found = certain()
    found |= {f"spoiled {seed}": spoiled(seed) for seed in range(SPOILED)}
    found |= {
        f"mutated {seed}": json.dumps(mutated(seed)).encode() for seed in range(10_000, 10_000 + COUNT - len(found))
    }
    assert len(found) == COUNT
    return found


def outcome(data: bytes) -> str:
    """What becomes of a configuration before anything is made: empty, or the error."""
    try:
        config = parse_config(parse_document(data, "config.json"))
        _, process = require_runnable(config)
        normalise_path(config.linux.cgroups_path, container_id="x")
        prepare(process, config.linux.seccomp)
        plan(config, {"": "/sys/fs/cgroup"}, user_namespace=config.linux.namespace("user") is not None)
    except OrlopError as error:
        return str(error)
    return ""


def test_every_refusal_is_one_typed_line():
    refused = 0
    for name, data in documents().items():
        error = outcome(data)
        if error:
            refused += 1
            assert "\n" not in error, (name, error)
            assert len(error) < 1000, (name, error[:200])
    assert refused > COUNT // 3


class Bundles:
    """Bundles that share a root, and their runtime's state."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.name = f"orlop-t-{os.urandom(4).hex()}"
        self.refused = frozenset(certain())
        busybox_tree(home / "rootfs")
        (home / "state").mkdir()

    def run(self, number: int, name: str, data: bytes) -> str:
        """Run one; returns what is wrong with how it went."""
        bundle = self.home / str(number)
        bundle.mkdir()
        (bundle / "config.json").write_bytes(self.confined(data, number))
        command = ["unshare", "--net", str(BIN / "orlop-runtime"), "--root", str(self.home / "state")]
        done = subprocess.run(
            [*command, "run", "--bundle", str(bundle), f"c{number}"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=30 * PATIENCE,
            check=False,
        )
        lines = done.stderr.splitlines()
        good = done.returncode == 0 and not lines
        # the program of a good container may be something that fails, or be killed
        own = not any("level=error" in line for line in lines) and "Traceback" not in done.stderr
        if name in self.refused:
            good = own = False
        bad = done.returncode == 1 and len(lines) == 1 and "level=error" in lines[0] and "Traceback" not in lines[0]
        internal = any(
            word in done.stderr for word in ("ImportError", "TypeError", "KeyError", "ValueError", "died before")
        )
        return "" if (good or own or bad) and not internal else f"{name}: {done.returncode}: {done.stderr[:600]}"

    def confined(self, data: bytes, number: int) -> bytes:
        """Keep a configuration that can be read within this test's root and cgroup."""
        root, cgroup = str(self.home / "rootfs"), f"/{self.name}/c{number}"
        try:
            document = json.loads(data)
            faithful = json.dumps(document).encode() == data
        except (ValueError, RecursionError):
            faithful = False
        if not faithful:  # read and written again it would lose what is wrong with it
            data = data.replace(b'"path": "rootfs"', f'"path": "{root}"'.encode())
            return data.replace(b'"linux": {', f'"linux": {{"cgroupsPath": "{cgroup}", '.encode())
        try:
            document["root"]["path"] = root
            document["linux"]["cgroupsPath"] = cgroup
        except (TypeError, KeyError):
            return data
        return json.dumps(document).encode()

    def left(self) -> list[str]:
        """What is left of all of them."""
        found = [f"state: {name}" for name in os.listdir(self.home / "state")]
        # glob's, as it passes over directories that others remove meanwhile; Path.glob does not
        found += [f"cgroup: {path}" for path in glob.glob(f"/sys/fs/cgroup/**/{self.name}/*/", recursive=True)]
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                if str(self.home) in Path(f"/proc/{process}/mountinfo").read_text():
                    found.append(f"mount of: {Path(f'/proc/{process}/cmdline').read_text()}")
                if self.name in Path(f"/proc/{process}/cgroup").read_text():
                    found.append(f"process: {process}")
            except OSError:
                continue
        return found


@pytest.mark.privileged
@pytest.mark.requires("root", "mountns", "busybox", "cgroup1")
@pytest.mark.timeout(900 if EVERY else 300)
def test_nothing_is_left_behind():
    everything = documents()
    refused = [name for name, data in everything.items() if outcome(data)]
    chosen = [name for name in everything if name not in refused]
    chosen += refused if EVERY else random.Random(1).sample(refused, SAMPLE)
    with tempfile.TemporaryDirectory(prefix="orlop-t-") as directory:
        bundles = Bundles(Path(directory))
        bundles.refused |= frozenset(refused)
        links = os.listdir("/sys/class/net")
        try:
            with ThreadPoolExecutor(2) as pool:
                wrong = [*filter(None, pool.map(lambda job: bundles.run(*job), jobs(chosen, everything)))]
            assert not wrong, f"{len(wrong)} of {len(chosen)}: " + "\n".join(wrong[:20])
            assert not bundles.left()
            assert os.listdir("/sys/class/net") == links
        finally:
            remove_cgroups(bundles.name)


def jobs(chosen: list[str], everything: dict[str, bytes]) -> list[tuple[int, str, bytes]]:
    return [(number, name, everything[name]) for number, name in enumerate(chosen)]


@pytest.mark.privileged
@pytest.mark.requires("root", "mountns", "busybox", "cgroup1")
def test_the_valid_bundle_runs():
    """Or all of the above would be refused for one and the same reason."""
    with tempfile.TemporaryDirectory(prefix="orlop-t-") as directory:
        bundles = Bundles(Path(directory))
        try:
            bundle = bundles.home / "0"
            assert bundles.run(0, "valid", json.dumps(FULL).encode()) == ""
            done = subprocess.run(
                ["unshare", "--net", BIN / "orlop-runtime", "--root", bundles.home / "state", "run", "-b", bundle, "c"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, "")
        finally:
            remove_cgroups(bundles.name)
