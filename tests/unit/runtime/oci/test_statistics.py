"""A cgroup's files in runc's words."""

from __future__ import annotations

import pytest

from orlop.runtime.oci.statistics import oom_kills, v1_statistics, v2_statistics

V1 = {
    "cpuacct.usage": "3000\n",
    "cpuacct.usage_percpu": "1000 2000 \n",
    "cpuacct.usage_all": "cpu user system\n0 10 20\n1 30 40\n",
    "cpuacct.stat": "user 3\nsystem 4\n",
    "cpu.stat": "nr_periods 5\nnr_throttled 1\nthrottled_time 77\n",
    "cpuset.cpus": "0-1,3\n",
    "cpuset.mems": "0\n",
    "cpuset.sched_load_balance": "1\n",
    "cpuset.sched_relax_domain_level": "-1\n",
    "memory.stat": "cache 4096\nrss 8192\n",
    "memory.usage_in_bytes": "12288\n",
    "memory.max_usage_in_bytes": "16384\n",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.failcnt": "2\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 100\n8:0 Write 200\nTotal 300\n",
    "hugetlb.2MB.usage_in_bytes": "2097152\n",
    "hugetlb.2MB.max_usage_in_bytes": "4194304\n",
    "hugetlb.2MB.failcnt": "1\n",
}
V2 = {
    "cpu.stat": "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnr_periods 5\nnr_throttled 1\nthrottled_usec 7\n",
    "memory.stat": "file 4096\nanon 1\n",
    "memory.current": "100\n",
    "memory.peak": "150\n",
    "memory.max": "max\n",
    "memory.swap.current": "10\n",
    "memory.swap.max": "20\n",
    "memory.events": "low 0\nmax 4\noom 2\noom_kill 1\n",
    "pids.current": "3\n",
    "pids.max": "20\n",
    "io.stat": "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n",
    "hugetlb.2MB.current": "0\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.events": "max 3\n",
}


@pytest.fixture
def directory(tmp_path, request):
    for name, text in request.param.items():
        (tmp_path / name).write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize("directory", [V1], indirect=True)
def test_v1(directory):
    controllers = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb")
    found = v1_statistics(dict.fromkeys(controllers, directory))
    tick = 10_000_000
    assert found["cpu"] == {
        "usage": {
            "total": 3000,
            "percpu": [1000, 2000],
            "percpu_kernel": [20, 40],
            "percpu_user": [10, 30],
            "kernel": 4 * tick,
            "user": 3 * tick,
        },
        "throttling": {"periods": 5, "throttledPeriods": 1, "throttledTime": 77},
    }
    assert found["cpuset"]["cpus"] == [0, 1, 3]
    assert found["cpuset"]["sched_relax_domain_level"] == -1
    assert found["memory"]["usage"] == {"limit": 9223372036854771712, "usage": 12288, "max": 16384, "failcnt": 2}
    assert found["memory"]["cache"] == 4096
    assert found["memory"]["raw"] == {"cache": 4096, "rss": 8192}
    assert found["pids"] == {"current": 3}
    assert found["blkio"] == {
        "ioServiceBytesRecursive": [
            {"major": 8, "op": "Read", "value": 100},
            {"major": 8, "op": "Write", "value": 200},
        ]
    }
    assert found["hugetlb"] == {"2MB": {"usage": 2097152, "max": 4194304, "failcnt": 1}}


@pytest.mark.parametrize("directory", [V2], indirect=True)
def test_v2(directory):
    found = v2_statistics(directory)
    assert found["cpu"]["usage"] == {"total": 3000, "kernel": 1000, "user": 2000}
    assert found["cpu"]["throttling"] == {"periods": 5, "throttledPeriods": 1, "throttledTime": 7000}
    assert found["memory"]["usage"] == {"limit": 2**64 - 1, "usage": 100, "max": 150, "failcnt": 4}
    assert found["memory"]["swap"] == {"limit": 2**64 - 1, "usage": 110, "failcnt": 0}
    assert found["pids"] == {"current": 3, "limit": 20}
    assert found["blkio"]["ioServicedRecursive"] == [
        {"major": 8, "op": "Read", "value": 1},
        {"major": 8, "op": "Write", "value": 2},
        {"major": 8, "op": "Discard"},
    ]
    assert found["hugetlb"] == {"2MB": {"failcnt": 3}}
    assert oom_kills(directory) == 1


def test_missing_files_are_zeros_or_left_out(tmp_path):
    for found in (v1_statistics({}), v2_statistics(str(tmp_path))):
        assert set(found) == {
            *("cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"),
        }
        assert found["pids"] == {}
        assert found["cpuset"]["cpu_exclusive"] == 0
