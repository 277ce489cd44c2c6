"""Resources in, properties of a unit out."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.runtime.cgroups.systemd.properties import UNLIMITED, unit_properties
from orlop.spec.oci import parse_resources


def properties(document: dict) -> dict[str, object]:
    return {name: value for name, _, value in unit_properties(parse_resources(document))}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, {}),
        (
            {"memory": {"limit": 64, "swap": 96, "reservation": 32}},
            {"MemoryMax": 64, "MemorySwapMax": 32, "MemoryLow": 32},
        ),
        ({"memory": {"limit": -1}}, {"MemoryMax": UNLIMITED, "MemorySwapMax": UNLIMITED}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 39}),
        ({"cpu": {"idle": 1, "shares": 1024}}, {"CPUWeight": 0}),
        (
            {"cpu": {"quota": 50_000, "period": 100_000}},
            {"CPUQuotaPerSecUSec": 500_000, "CPUQuotaPeriodUSec": 100_000},
        ),
        ({"cpu": {"quota": 1001, "period": 100_000}}, {"CPUQuotaPerSecUSec": 20_000, "CPUQuotaPeriodUSec": 100_000}),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": UNLIMITED, "CPUQuotaPeriodUSec": 100_000}),
        ({"cpu": {"cpus": "0,9", "mems": "0"}}, {"AllowedCPUs": b"\x01\x02", "AllowedMemoryNodes": b"\x01"}),
        ({"pids": {"limit": 7}}, {"TasksMax": 7}),
        ({"pids": {"limit": -1}}, {"TasksMax": UNLIMITED}),
        (
            {"unified": {"memory.high": "9", "memory.min": "max", "cpu.max": "max 5000", "cpuset.cpus": "1"}},
            {
                "MemoryHigh": 9,
                "MemoryMin": UNLIMITED,
                "CPUQuotaPerSecUSec": UNLIMITED,
                "CPUQuotaPeriodUSec": 5000,
                "AllowedCPUs": b"\x02",
            },
        ),
    ],
)
def test_properties(resources, expected):
    assert properties(resources) == expected


def test_what_files_refuse_is_refused():
    with pytest.raises(InvalidParameterError, match="minimum allowed cpu-shares"):
        properties({"cpu": {"shares": 1}})
