"""What an update on v2 leaves unsaid, and pressure."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.runtime.cgroups.controllers import v2_writes
from orlop.runtime.cgroups.present import completed
from orlop.runtime.cgroups.pressure import parse_pressure, read_pressure
from orlop.spec.oci import parse_resources

FILES = {
    "cpu.max": "50000 200000\n",
    "memory.max": "1000\n",
    "memory.swap.max": "500\n",
    "memory.current": "700\n",
    "memory.swap.current": "10\n",
}


def updated(document: dict, **files: str) -> list[tuple[str, str]]:
    have = {**FILES, **{name.replace("_", "."): text for name, text in files.items()}}

    def read(name: str) -> str:
        if not have.get(name):
            raise FileNotFoundError(name)
        return have[name]

    return [(write.file, write.text) for write in v2_writes(completed(parse_resources(document), read))]


@pytest.mark.parametrize(
    ("document", "files", "writes"),
    [
        ({"cpu": {"quota": 9000}}, {}, [("cpu.max", "9000 200000")]),
        ({"cpu": {"period": 100000}}, {}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"period": 100000}}, {"cpu_max": "max 1000\n"}, [("cpu.max", "max 100000")]),
        ({"cpu": {"shares": 2}}, {}, [("cpu.weight", "1")]),
        # memory and swap together stay at 1500
        ({"memory": {"limit": 1200}}, {}, [("memory.swap.max", "300"), ("memory.max", "1200")]),
        ({"memory": {"limit": 1200}}, {"memory_swap_max": "max\n"}, [("memory.max", "1200")]),
        ({"memory": {"limit": 1200}}, {"memory_swap_max": ""}, [("memory.max", "1200")]),
        ({"memory": {"swap": 3000}}, {}, [("memory.swap.max", "2000"), ("memory.max", "1000")]),
        ({"memory": {"swap": -1}}, {}, [("memory.swap.max", "max")]),
    ],
)
def test_what_is_not_mentioned_stays(document, files, writes):
    assert updated(document, **files) == writes


def test_contradictions_with_what_is_there():
    with pytest.raises(InvalidParameterError, match=r"memory\+swap limit should be >= memory limit"):
        updated({"memory": {"limit": 1501}})
    with pytest.raises(InvalidParameterError, match="unable to set swap limit without memory limit"):
        updated({"memory": {"swap": 3000}}, memory_max="max\n")


def test_check_before_update():
    assert updated({"memory": {"limit": 600, "swap": 1000}})[-1] == ("memory.max", "600")
    with pytest.raises(InvalidParameterError, match="rejecting memory limit 600 < usage 700"):
        updated({"memory": {"limit": 600, "swap": 1000, "checkBeforeUpdate": True}})
    with pytest.raises(InvalidParameterError, match=r"rejecting memory\+swap limit 705 < usage 710"):
        updated({"memory": {"limit": 700, "swap": 705, "checkBeforeUpdate": True}})


def test_pressure(tmp_path):
    text = "some avg10=1.25 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"
    assert parse_pressure(text)["some"] == {"avg10": 1.25, "avg60": 0.0, "avg300": 0.0, "total": 7}
    (tmp_path / "io.pressure").write_text(text)
    assert read_pressure(str(tmp_path))["io"]["full"]["total"] == 3
    assert list(read_pressure(str(tmp_path))) == ["io"]
