"""Properties of config.json whose kernel interfaces are older here, and whose cgroups are of version 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from configuration import CHECKS

pytestmark = pytest.mark.vm
# each costs the machine several seconds
CHOSEN = (
    *("hooks_in_order", "recursive_options", "mapped_ids"),
    *("time_namespace", "user_namespace_by_path", "seccomp_notify"),
)


@pytest.mark.parametrize("check", CHOSEN)
def test_configuration(runtime, check):
    CHECKS[check](runtime)
