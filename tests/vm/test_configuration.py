"""Properties of config.json whose kernel interfaces are older here, and whose cgroups are of version 2."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from configuration import CHECKS
from runtime import make_runtime

from harness import BIN

pytestmark = pytest.mark.vm
# each costs the machine several seconds
CHOSEN = (
    *("hooks_in_order", "recursive_options", "mapped_ids"),
    *("time_namespace", "user_namespace_by_path", "seccomp_notify"),
)


@pytest.fixture(scope="module")
def runtime():
    with tempfile.TemporaryDirectory(prefix="orlop-t-") as directory:
        made = make_runtime([str(BIN / "orlop-runtime")], Path(directory), directory)
        yield made
        made.destroy()


@pytest.mark.parametrize("check", CHOSEN)
def test_configuration(runtime, check):
    CHECKS[check](runtime)
