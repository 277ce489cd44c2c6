"""Fixtures and feature probes shared by all tests."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from runtime import orlop_runtime

from harness import COMPOSE, DOCKER, REGISTRY, Engine, busybox_tree, client_version, wait_for
from host_state import HostState
from spawned import Runtime
from vm.lane import (  # noqa: F401 - hooks of tests marked vm
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_runtest_protocol,
    pytest_xdist_make_scheduler,
    pytest_xdist_node_collection_finished,
)

# how long an example takes is the machine's business
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# it is imported by tests, which shows what it found only if it is rewritten as they are
pytest.register_assert_rewrite("configuration")


def _runs(*command: str) -> bool:
    """Whether a command succeeds; a namespace is waited for on a busy machine, whose kernel makes one at a time."""
    try:
        return subprocess.run(command, capture_output=True, timeout=100, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


PROBES = {
    "root": lambda: os.geteuid() == 0,
    "netns": lambda: _runs("unshare", "-n", "true"),
    "mountns": lambda: _runs("unshare", "-m", "true"),
    "overlay": lambda: "overlay" in Path("/proc/filesystems").read_text(),
    "cgroup1": lambda: Path("/sys/fs/cgroup/memory/tasks").exists(),
    "cgroup2": lambda: "memory" in _read("/sys/fs/cgroup/cgroup.controllers"),
    "iptables": lambda: _runs("unshare", "-n", "iptables", "-w", "-L"),
    "cni-plugins": lambda: os.access("/usr/lib/cni/host-local", os.X_OK),
    "nftables": lambda: _runs("unshare", "-n", "nft", "list", "ruleset"),
    "ipvlan": lambda: _runs(
        "unshare", "-n", "sh", "-c", "ip link add va type veth peer name vb && ip link add vc link va type ipvlan"
    ),
    "macvlan": lambda: _runs(
        "unshare", "-n", "sh", "-c", "ip link add va type veth peer name vb && ip link add vc link va type macvlan"
    ),
    "vlan": lambda: _runs(
        *("unshare", "-n", "sh", "-c"),
        "ip link add va type veth peer name vb && ip link add link va name va.1 type vlan id 1 && ip link add type dummy",
    ),
    "sctp": lambda: _runs(sys.executable, "-I", "-S", "-c", "import socket; socket.socket(2, 1, 132)"),
    "docker-client": lambda: _runs(DOCKER, "--version"),
    # for flags and words that Debian 12's own client does not have
    "recent-docker-client": lambda: _runs(DOCKER, "--version") and client_version() >= (28, 0),
    "docker-compose": lambda: os.access(COMPOSE, os.X_OK),
    "docker-registry": lambda: os.access(REGISTRY, os.X_OK),
    "busybox": lambda: shutil.which("busybox") is not None,
    "iperf3": lambda: shutil.which("iperf3") is not None,
    "peers": lambda: "ORLOP_PEERS" in os.environ,
}
# what CI's machine is known not to have; anything else missing there is a failure
MAY_MISS = {"recent-docker-client", "cgroup2", "cgroup1", "peers", "macvlan", "ipvlan", "vlan", "sctp", "cni-plugins"}


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


_there: set[str] = set()  # what was found once does not go


def has(feature: str) -> bool:
    if feature not in _there and PROBES[feature]():
        _there.add(feature)
    return feature in _there


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        for feature in marker.args:
            if not has(feature):
                if os.environ.get("CI") == "true" and feature not in MAY_MISS:
                    pytest.fail(f"this machine should have {feature}")
                pytest.skip(f"needs {feature}")
    if item.get_closest_marker("privileged") and os.geteuid() != 0:
        pytest.skip("needs root")


def make_engine(*options: str, within: tuple[str, ...] = (), parent: str = "") -> Engine:
    """Start an engine with a network namespace, directories and cgroup parent of its own; for the rest see Engine."""
    name = f"orlop-t-{secrets.token_hex(4)}"
    engine = Engine(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")), name, options, within=within, parent=parent)
    try:
        return engine.start()
    except BaseException:
        engine.destroy()
        raise


def file_mode_mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@pytest.fixture(autouse=True)
def host_device():
    """Whose the machine's null device is: a container whose standard input it is must not change that for everybody; the umask."""
    before, mask = os.stat("/dev/null"), file_mode_mask()
    yield
    after = os.stat("/dev/null")
    if file_mode_mask() != mask:
        os.umask(mask)
        pytest.fail("the test left another umask to those that follow")
    if (after.st_uid, after.st_gid, after.st_mode) != (before.st_uid, before.st_gid, before.st_mode):
        os.chown("/dev/null", before.st_uid, before.st_gid)
        os.chmod("/dev/null", before.st_mode & 0o7777)
        pytest.fail(f"the owner of /dev/null became {after.st_uid}:{after.st_gid}, its mode {after.st_mode:o}")


def end_engine(engine: Engine) -> None:
    """Destroy the engine; fail if it imported anything while it served (threats.md J12)."""
    late = [line for line in engine.log_text().splitlines() if "imported after the start" in line]
    engine.destroy()
    assert late == []


@pytest.fixture(scope="session")
def shared_engine():
    """One engine for all tests that only use it; has the busybox image."""
    engine = make_engine()
    try:
        engine.import_busybox()
        yield engine
    finally:
        end_engine(engine)


@pytest.fixture
def engine(shared_engine: Engine):
    """The shared engine, found without containers and left without: some files keep theirs from test to test."""
    shared_engine.remove_containers()
    yield shared_engine
    shared_engine.remove_containers()


@pytest.fixture
def images(engine: Engine):
    """Images that the test makes on the shared engine go with it."""
    before = set(engine.docker("images", "-aq", "--no-trunc").stdout.split())
    yield
    engine.remove_containers()
    for image in set(engine.docker("images", "-aq", "--no-trunc").stdout.split()) - before:
        engine.docker("rmi", "-f", image, check=False)


@pytest.fixture
def own_engine():
    """An engine for one test that kills, fills or reconfigures it; has the busybox image."""
    engine = make_engine()
    try:
        engine.import_busybox()
        yield engine
    finally:
        end_engine(engine)


def settled_state(engine: Engine) -> HostState:
    """Return the machine's state when everything that follows an answer is done."""
    engine.docker("run", "--rm", "busybox", "true")
    try:
        return wait_for(lambda: (state := HostState.of(engine)).is_settled and state)
    except TimeoutError:
        pytest.fail(f"still being removed or made: {HostState.of(engine)}")


def assert_nothing_left(engine: Engine, before: HostState, *, seconds: float, descriptors: int = 4) -> None:
    """Fail unless the machine is as it was ``before`` within ``seconds``."""
    differences: dict = {}

    def settled() -> bool:
        differences.clear()
        differences.update(before.differences(HostState.of(engine), descriptors=descriptors))
        return not differences

    try:
        wait_for(settled, seconds=seconds)
    except TimeoutError:
        pytest.fail(f"left behind: {differences}")


@pytest.fixture
def leak_free(engine: Engine):
    """Compare the machine's state before and after the test."""
    before = settled_state(engine)
    yield engine
    engine.remove_containers()
    assert_nothing_left(engine, before, seconds=8)


@pytest.fixture(scope="module")
def runtime():
    """``orlop-runtime`` as callers of OCI runtimes call it; its containers are those of one file's tests."""
    with orlop_runtime() as made:
        yield made


@pytest.fixture(scope="session")
def busybox_root():
    """A root file system that no test changes."""
    with tempfile.TemporaryDirectory(prefix="orlop-t-root-") as directory:
        Path(directory).chmod(0o755)
        yield busybox_tree(Path(directory))


@pytest.fixture
def spawned(busybox_root: Path, tmp_path: Path):
    """A spawner that is told what to run without an engine."""
    made = Runtime(tmp_path, busybox_root)
    yield made
    made.close()


@pytest.fixture
def networks(engine: Engine, request: pytest.FixtureRequest):
    """An engine that has no user-defined network, whatever another file left, and shall have none afterwards."""
    engine.docker("network", "prune", "-f")
    leak_free = request.getfixturevalue("leak_free")
    yield leak_free
    leak_free.remove_containers()
    leak_free.docker("network", "prune", "-f")


@pytest.fixture
def outside(tmp_path: Path):
    """A directory of the host that must stay as it is."""
    directory = tmp_path / "outside"
    (directory / "sub").mkdir(parents=True)
    (directory / "file").write_text("of the host")
    yield directory
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*")) == ["file", "sub"]
    assert (directory / "file").read_text() == "of the host"
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
