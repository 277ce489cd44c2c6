"""The machine has what it is for: a change of the image that loses something fails here and not in a skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop.runtime.cgroups import detect

pytestmark = pytest.mark.vm


def test_every_controller_is_on_the_unified_hierarchy():
    hierarchies = detect()
    assert hierarchies.mode == "unified"
    assert {"cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"} <= hierarchies.controllers


def test_kernel_is_older_than_the_fast_paths():
    # overlay's lowerdir+ came with 6.8, tmpfs' user attributes with 6.6
    assert tuple(map(int, os.uname().release.split(".")[:2])) == (6, 1)


def test_systemd_is_the_first_process():
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert Path("/run/dbus/system_bus_socket").is_socket()


def test_apparmor_is_on():
    assert Path("/sys/module/apparmor/parameters/enabled").read_text() == "Y\n"


@pytest.mark.parametrize("module", ["dm_thin_pool", "ipvlan", "macvlan", "bfq"])
def test_module_is_loaded(module):
    assert Path("/sys/module", module).exists()
