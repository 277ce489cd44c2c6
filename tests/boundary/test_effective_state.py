"""What containers effectively get, field by field as a real dockerd gives it for the same request (issue 3, row A13).

Against the golden file, which was recorded from Docker 26.1 on Linux 6.18 with cgroup v1; and against the daemon at
ORLOP_PEERS_HOST where there is one. Every difference is in the list, with its reason.
"""

import os
import re
import secrets
import tempfile
from pathlib import Path

import pytest
from effective_state import IMAGE, NO_NETWORK, REMAPPED, RESTARTED, SCENARIOS, Daemon, recorded_states

from conftest import end_engine, make_engine
from harness import Engine

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

PEER = os.environ.get("ORLOP_PEERS_HOST", "")

# field, Docker 26.1's value, orlop's, why; regular expressions that match the whole
DIFFERENCES = (
    ("namespace.time", "the host's", "another", "Docker gives containers a time namespace since 2026"),
    ("namespace.cgroup", "the host's", "another", "private on cgroup v1 too (threats.md C1, CVE-2022-0492)"),
    ("cgroup\\..+", "elsewhere", "/", "the same"),
    ("device rules", ".*c 10:200 rwm.*", "(?!.*c 10:200).*", "no /dev/net/tun unless asked for (threats.md B13)"),
    ("limit.Max open files", "inherited", "1024 .+", "Docker's own units set 1024:524288 since 25"),
    (
        "mount./(proc|sys)/.+",
        "tmpfs / .*ro.*",
        "tmpfs / nodev,noexec,nosuid,relatime,ro .*",
        "the empty mask: more flags",
    ),
    (
        "mount./proc/.+",
        "tmpfs /null nosuid,rw .*",
        "devtmpfs /null noexec,nosuid,relatime,ro .*",
        "mask by the host's node, read-only",
    ),
    ("mount./proc/interrupts", "None", "devtmpfs /null .*ro.*", "masked since 2024 (a side channel)"),
    ("path./proc/interrupts", "regular empty file 444 .*", "character special file 1,3", "the same"),
    ("path./(proc|sys)/.+", "directory empty 1777 (.*)", "directory empty 755 (.*)", "the mask's mode"),
    ("path./sys/fs/cgroup", "directory .*", "directory .* Read-only file system", "its tmpfs is read-only (C1)"),
    ("mount./sys/fs/cgroup", "tmpfs / .*,rw mode=755", "tmpfs / .*,ro mode=755", "the same"),
    (
        "path./sys/.+",
        ".* Read-only file system",
        ".* Permission denied",
        "read-only mount, not superblock: the mode is asked first",
    ),
    ("sysctl.net/ipv6/conf/.+/accept_ra", "1;", "0;", "no router advertisements (G1, CVE-2020-13401)"),
    ("sysctl.net/ipv6/conf/default/disable_ipv6", "0;", "1;", "no IPv6 where the network has none (CVE-2024-32473)"),
    ("cgroup\\.", "/", "elsewhere", "the unified hierarchy of a hybrid machine is joined as well"),
    (
        "(device|path)./dev/mqueue",
        "directory (empty )?1777 0:65534.*",
        "directory (empty )?1777 65534:65534.*",
        "mounted by the host's root; all may write",
    ),
    ("path./proc/sys/net/.+", ".* 0:0 .*denied", ".* 65534:65534 .*denied", "the network namespace is the engine's"),
    ("mount./sys/fs/cgroup.*", ".*,rw.*", ".*,ro.*", "with user namespaces as without (C1)"),
    ("mount./proc/.+", "devtmpfs /null relatime,rw .*", "devtmpfs /null noexec,nosuid,relatime,ro .*", "the same mask"),
    ("mount./sbin/docker-init", ".*", "None", "--init is the runtime's own; no file of the host is shown"),
    ("keyring", "keyring 0 0 .+ _ses.the id", "keyring 0 0 .+ _ses", "anonymous: nobody joins it by its name (C7)"),
    ("mount./tmp", "disk . rw master", "disk . rw", "volumes are private"),
)
RULES = [(re.compile(field), re.compile(theirs), re.compile(ours)) for field, theirs, ours, _ in DIFFERENCES]


def explained(field: str, theirs: str | None, ours: str | None) -> bool:
    return any(
        name.fullmatch(field) and one.fullmatch(str(theirs)) and other.fullmatch(str(ours))
        for name, one, other in RULES
    )


def differences(theirs: dict, ours: dict, *, other_machine: bool = False, other_cgroup: bool = False) -> dict:
    """Return fields that differ without a reason; of another machine not what its kernel or cgroups make of them."""
    found = {}
    for field in sorted({*theirs, *ours}):
        one, other = theirs.get(field), ours.get(field)
        if one == other or explained(field, one, other):
            continue
        kind, _, place = field.partition(".")
        if other_cgroup and (
            kind in {"cgroup", "device rules"} or "/sys/fs/cgroup" in field or field == "namespace.cgroup"
        ):
            continue
        if other_machine and not comparable(kind, place, one, other):
            continue
        found[field] = (one, other)
    return found


def comparable(kind: str, place: str, one: str | None, other: str | None) -> bool:
    """Whether the two machines have the same to say about a field."""
    if kind == "keyring":
        return os.uname().machine == "x86_64"  # the program that shows it is of that
    if kind == "status":
        return None not in (one, other)
    if kind == "sysctl":
        return os.path.exists(f"/proc/sys/{place}") and None not in (one, other)
    if kind == "namespace":
        return os.path.exists(f"/proc/self/ns/{place}")
    if kind == "device":
        return place.startswith("/dev/") and place != "/dev/core"
    if kind in {"path", "mount"} and place.startswith(("/proc/", "/sys/")):
        # there and not here, or here and not there: then what is here is at least hidden or read-only
        if kind == "path" and "missing" in (one, other):
            return (
                other not in {None, "missing"}
                and "Read-only" not in str(other)
                and "empty" not in str(other)
                and "1,3" not in str(other)
                and "ermi" not in str(other)
            )
        return os.path.exists(place) and None not in (one, other)
    return True


def cgroup_version() -> str:
    return "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1"


def own(scenario: str, state: dict) -> dict:
    """Return what is the container's: what it shares with the host says something of wherever the daemon is.

    With the host's network those are its settings; with its IPC, whether /dev/shm holds anything.
    """
    found = {k: v for k, v in state.items() if scenario != "network-host" or not k.startswith("sysctl.net")}
    if scenario == "ipc-host":
        found["path./dev/shm"] = found["path./dev/shm"].replace(" empty", "")
    return found


def check(scenario: str, ours: dict) -> None:
    recorded_on, states = recorded_states()
    theirs = states[scenario]
    theirs, ours = own(scenario, theirs), own(scenario, ours)
    other_cgroup = recorded_on != cgroup_version()
    assert differences(theirs, ours, other_machine=not PEER, other_cgroup=other_cgroup) == {}


@pytest.fixture(scope="module")
def daemon(shared_engine):
    made = Daemon(shared_engine.host)
    made.import_image()
    yield made
    shared_engine.remove_containers()
    made.docker("rmi", "-f", IMAGE)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_recorded_from_docker(daemon, scenario) -> None:
    check(scenario, daemon.probe(scenario))


@pytest.fixture(scope="module")
def remapping_engine(tmp_path_factory):
    ranges = tmp_path_factory.mktemp("ids") / "ranges"
    ranges.write_text("54321:100000:65536\n")
    name = f"orlop-t-{secrets.token_hex(4)}"
    engine = Engine(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")), name, ("--userns-remap", "54321"))
    bind = 'for f in subuid subgid; do mount --bind "$0" /etc/$f || exit; done; exec "$@"'
    engine.within = ("unshare", "-m", "sh", "-c", bind, str(ranges))
    try:
        engine.start()
        yield engine
    finally:
        engine.destroy()


@pytest.fixture(scope="module")
def remapping_daemon(remapping_engine):
    made = Daemon(remapping_engine.host)
    made.import_image()
    return made


@pytest.mark.parametrize("scenario", REMAPPED)
def test_as_recorded_from_docker_with_user_namespaces(remapping_daemon, scenario) -> None:
    check(f"userns-{scenario}", remapping_daemon.probe(scenario, *NO_NETWORK))


@pytest.mark.parametrize("scenario", ["run", "exec-user", "tty"])
def test_with_user_namespaces_after_the_engine_was_killed(remapping_daemon, remapping_engine, scenario) -> None:  # C8

    def restart() -> None:
        remapping_engine.kill()
        remapping_engine.start()

    check(f"userns-{scenario}", remapping_daemon.probe_restarted(scenario, restart, *NO_NETWORK))


@pytest.fixture(scope="module")
def killed_engine():
    engine = make_engine()
    try:
        Daemon(engine.host).import_image()
        yield engine
    finally:
        end_engine(engine)


@pytest.mark.parametrize("scenario", RESTARTED)
def test_after_the_engine_was_killed(killed_engine, scenario) -> None:  # C8, A15
    """A second start, or an exec in what went on running: as Docker's after its end, and as it was before."""
    daemon = Daemon(killed_engine.host)
    before = daemon.probe(scenario)

    def restart() -> None:
        killed_engine.kill()
        killed_engine.start()

    after = daemon.probe_restarted(scenario, restart)
    assert after == before
    check(f"restarted-{scenario}", after)


@pytest.mark.skipif(not PEER, reason="ORLOP_PEERS_HOST names no daemon")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_record_is_what_the_daemon_says(scenario) -> None:
    peer = Daemon(PEER)
    peer.import_image()
    try:
        assert own(scenario, peer.probe(scenario)) == own(scenario, recorded_states()[1][scenario])
    finally:
        peer.docker("rmi", "-f", IMAGE, check=False)
