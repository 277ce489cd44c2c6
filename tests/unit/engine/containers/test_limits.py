import os

import pytest

from orlop.engine.containers.limits import check_limits, resources
from orlop.errors import InvalidParameterError
from orlop.spec.docker.containers import HostConfig


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"memory": 1024}, "Minimum memory limit allowed is 6MB"),
        ({"memory": 64 << 20, "memory_swap": 32 << 20}, "Minimum memoryswap limit should be larger than memory limit"),
        ({"memory_swap": 32 << 20}, "You should always set the Memory limit when using Memoryswap limit"),
        ({"nano_cpus": 10**9, "cpu_quota": 1000}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        ({"nano_cpus": 10**15}, "range of CPUs is from 0.01 to"),
        ({"nano_cpus": -1}, "range of CPUs is from 0.01 to"),
        ({"cpuset_cpus": "0-2147483647"}, "Invalid value 0-2147483647 for cpuset cpus"),
        ({"cpuset_cpus": f"{os.cpu_count()}"}, "Requested CPUs are not available"),
        ({"cpuset_mems": "0-1000"}, "Requested memory nodes are not available - requested 0-1000, available: 0"),
        ({"cpu_period": 10}, "CPU cfs period can not be less than 1ms"),
        ({"blkio_weight": 5}, "range of blkio weight is from 10 to 1000"),
        ({"oom_score_adj": -1001}, "range for oom score adj is [-1000, 1000]"),
        ({"memory_swappiness": 101}, "valid memory swappiness range is 0-100"),
    ],
)
def test_refused_in_dockerds_words(fields, text):
    with pytest.raises(InvalidParameterError) as caught:
        check_limits(HostConfig(**fields))
    assert text in str(caught.value)


@pytest.mark.parametrize("number", [0, -1, -5])
def test_a_limit_of_processes_that_is_no_number_of_them_is_none(number):
    assert check_limits(HostConfig(pids_limit=number)).pids_limit is None


def test_swap_defaults_to_twice_the_memory():
    assert check_limits(HostConfig(memory=64 << 20)).memory_swap == 128 << 20
    assert check_limits(HostConfig(memory=64 << 20, memory_swap=-1)).memory_swap == -1


def test_resources_hold_only_what_was_asked_for():
    assert set(resources(HostConfig())) == {"devices"}
    full = resources(HostConfig(memory=64 << 20, memory_swap=-1, nano_cpus=500_000_000, pids_limit=50, cpuset_cpus="0"))
    assert full["memory"] == {"limit": 64 << 20, "swap": -1}
    assert full["cpu"] == {"quota": 50_000, "period": 100_000, "cpus": "0"}
    assert full["pids"] == {"limit": 50}
