"""What a container's processes inherit and what they have in reach: rows A9 to A15 of threats.md.

What stands where: docs/reference/threats.md.
"""

import contextlib
import glob
import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
from hostile import PYTHON, hostile_image, status_fields

from harness import wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

DEFAULT_CAPS = 0xA80425FB  # the 14 of Docker


def control_sockets(engine) -> list[Path]:
    """The sockets by which a running container's shim is told what to do."""
    engine.docker("run", "-d", "--name", "neighbour", "busybox", "sleep", "100")
    # os.walk passes over what goes meanwhile
    paths = [Path(top, name) for top, _, names in os.walk(engine.exec_root) for name in names]
    sockets = [path for path in paths if path.is_socket() and path != engine.socket]
    assert sockets
    return sockets


def test_no_control_socket_is_in_reach(engine) -> None:  # A9, CVE-2020-15257
    sockets = control_sockets(engine)
    names = engine.docker("run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/unix").stdout
    assert "orlop" in names, "the engine's own socket is not even seen"
    assert [line for line in names.splitlines() if re.search(r"\s@", line)] == []
    engine.home.chmod(0o755)  # as /run is
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", "-all", PYTHON, "-I", "-S", "-c"]
    connect = "import os, socket, sys; os.chdir(sys.argv[1]); socket.socket(socket.AF_UNIX, 5).connect(sys.argv[2])"
    for path in sockets:
        done = subprocess.run([*nobody, connect, str(path.parent), path.name], capture_output=True, text=True)
        assert "PermissionError" in done.stderr, done.stderr


def test_control_sockets_are_closed_twice(engine) -> None:  # A9: each of the two would do
    for path in control_sockets(engine):
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0


def test_the_terminal_is_the_containers_own(engine) -> None:  # A10, CVE-2017-5226
    engine.docker("run", "-dt", "--name", "tty", "busybox", "sleep", "100")
    pid = engine.inspect("tty")["State"]["Pid"]
    inside = os.stat(f"/proc/{pid}/fd/0")
    assert os.major(inside.st_rdev) == 136
    assert inside.st_dev != os.stat("/dev/pts").st_dev
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert fields[2:4] == [str(pid), str(pid)]  # process group, session: its own
    assert int(fields[4]) == inside.st_rdev  # the controlling terminal


def test_programs_of_the_image_are_not_run_by_top(engine, tmp_path) -> None:  # A12, CVE-2022-1227
    def arrange(tree: Path) -> None:
        for name in ("ps", "nsenter", "top"):
            (tree / "bin" / name).unlink(missing_ok=True)
            (tree / "bin" / name).write_text("#!/bin/sh\necho x >/tmp/EXECUTED\n")
            (tree / "bin" / name).chmod(0o755)

    with hostile_image(engine, tmp_path, arrange) as image:
        engine.docker("run", "-d", "--name", "topped", image, "sleep", "100")
        assert "sleep" in engine.docker("top", "topped").stdout
        # the first is known to the engine, the second is the host's ps
        for arguments in (("aux",), ("-o", "pid,wchan,args")):
            assert "sleep" in engine.docker("top", "topped", *arguments).stdout
        engine.docker("stats", "--no-stream", "topped")
        assert engine.docker("exec", "topped", "ls", "/tmp").stdout == ""


def test_the_program_is_in_its_cgroup_from_its_first_instruction(engine) -> None:  # A14
    for _ in range(5):
        text = engine.docker("run", "--rm", "--cgroupns", "host", "busybox", "cat", "/proc/self/cgroup").stdout
        assert all(engine.name in line for line in text.splitlines() if not line.startswith("0::/\n")), text
    container = engine.docker("run", "-d", "--cgroupns", "host", "--pids-limit", "2", "busybox", "sleep", "100").stdout
    for _ in range(5):
        text = engine.docker("exec", container.strip(), "cat", "/proc/self/cgroup").stdout
        assert all(container.strip() in line for line in text.splitlines()), text
    forks = "sleep 20 & sleep 20 & sleep 20 & wait"
    done = engine.docker("run", "--rm", "--pids-limit", "2", "busybox", "sh", "-c", forks, check=False)
    assert "can't fork" in done.stderr


def test_exec_health_checks_and_restarts_have_the_same_boundary(own_engine) -> None:  # A15, C8
    engine = own_engine
    engine.docker(
        *("run", "-d", "--name", "con", "--security-opt", "no-new-privileges", "--health-cmd", "cat /proc/self/status"),
        *("--health-interval", "1s", "busybox", "sh", "-c", "cat /proc/self/status; exec sleep 100"),
    )
    keep = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "NoNewPrivs", "Groups", "Uid", "Gid")

    def kept(text: str) -> dict[str, str]:
        fields = status_fields(text)
        return {name: fields[name] for name in keep}

    def executed() -> dict[str, str]:
        return kept(engine.docker("exec", "con", "cat", "/proc/self/status").stdout)

    def told(starts: int) -> str:
        """What the container wrote, when it has been started so often; the program is not quicker than an exec."""
        text = lambda: engine.docker("logs", "con").stdout  # noqa: E731
        return wait_for(lambda: (t := text()).count("nonvoluntary_ctxt_switches:") == starts and t, what="its status")

    wanted = executed()
    assert (wanted["Seccomp"], wanted["NoNewPrivs"]) == ("2", "1")
    assert int(wanted["CapBnd"], 16) == DEFAULT_CAPS
    assert kept(told(1)) == wanted
    probes = wait_for(lambda: engine.inspect("con")["State"].get("Health", {}).get("Log"), what="health check")
    assert kept(probes[0]["Output"]) == wanted
    engine.docker("restart", "-t", "0", "con")
    assert executed() == wanted
    engine.kill()
    engine.start()
    assert executed() == wanted
    engine.docker("restart", "-t", "0", "con")
    assert executed() == wanted
    assert kept(told(3).rpartition("Name:\t")[2]) == wanted


def test_pid_one_dies_with_its_shim(engine) -> None:  # R11
    engine.docker("run", "-d", "--name", "orphan", "busybox", "sleep", "100")
    pid = engine.inspect("orphan")["State"]["Pid"]
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, 9)
    state = wait_for(lambda: (s := engine.inspect("orphan")["State"]) and s["Status"] == "exited" and s, seconds=5)
    assert state["ExitCode"] in {137, 255}
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), seconds=5)


def held_by(pid: int) -> set[int]:
    """Return the processes that have a pidfd of this one."""
    holders = set()
    for file in glob.iglob("/proc/[0-9]*/fdinfo/*"):  # it passes over processes that end meanwhile
        with contextlib.suppress(OSError):
            if f"Pid:\t{pid}\n" in Path(file).read_text():
                holders.add(int(file.split("/")[2]))
    return holders


def test_a_recycled_pid_is_not_taken_for_the_container(own_engine) -> None:  # A11
    """The record names a pid that somebody else has by now: nobody is signalled, the container counts as ended."""
    engine = own_engine
    engine.docker("run", "-d", "--name", "old", "busybox", "sleep", "1000")
    identity, pid = engine.inspect("old")["Id"], engine.inspect("old")["State"]["Pid"]
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    engine.kill()
    # until the shim has the container from the worker that started it, which would say how it ended
    wait_for(lambda: held_by(pid) <= {shim}, seconds=5)
    os.kill(shim, 9)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), seconds=5)
    # one that ends by itself, which would be taken for the container's end
    bystander = subprocess.Popen(["sleep", "3"])
    try:
        state = engine.exec_root / "shims" / identity
        recorded = state / "pid"
        assert recorded.read_text().strip() == str(pid)
        recorded.write_text(str(bystander.pid))
        with contextlib.closing(sqlite3.connect(engine.data_root / "state.db")) as database, database:
            changed = database.execute("UPDATE container SET pid = ? WHERE pid = ?", (bystander.pid, pid))
            assert changed.rowcount == 1
        engine.start()
        state = engine.inspect("old")["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 255)  # nobody knows how it ended
        engine.docker("rm", "-f", "old")
        assert bystander.wait() == 0  # not by a signal
    finally:
        bystander.kill()


def test_limits_given_are_limits_set(engine) -> None:  # A13
    out = engine.docker(
        "run", "--rm", "--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"
    ).stdout
    assert out.split() == ["100", "200"]
    out = engine.docker("run", "--rm", "busybox", "sh", "-c", "ulimit -n; umask; cat /proc/self/oom_score_adj").stdout
    assert out.split() == ["1024", "0022", "0"]


def test_pid_one_of_init_shows_nothing_of_the_host(engine) -> None:
    engine.docker("run", "-d", "--name", "reaped", "--init", "busybox", "sleep", "100")
    shown = "cat /proc/1/comm; tr '\\0' ' ' </proc/1/cmdline"
    comm, rest = engine.docker("exec", "reaped", "sh", "-c", shown).stdout.split("\n", 1)
    assert (comm, rest.strip()) == ("docker-init", "/sbin/docker-init -- sleep 100")
    assert engine.docker("top", "reaped").stdout.splitlines()[1].endswith("/sbin/docker-init -- sleep 100")


def test_cpus_of_the_engine_are_not_those_of_containers(own_engine) -> None:  # A13
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")
    show = ("grep", "Cpus_allowed_list", "/proc/self/status")
    everywhere = Path("/proc/self/status").read_text().split("Cpus_allowed_list:\t")[1].split("\n")[0]
    for pid in (own_engine.process.pid, own_engine.spawner()):
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {min(allowed)})
    for _ in range(4):  # of children that were forked before
        own_engine.docker("run", "--rm", "busybox", "true")
    own_engine.docker("run", "-d", "--name", "wide", "busybox", "sleep", "100")
    assert (
        own_engine.docker("exec", "wide", "grep", "Cpus_allowed_list", "/proc/1/status").stdout.split()[1] == everywhere
    )
    assert own_engine.docker("exec", "wide", *show).stdout.split()[1] == everywhere
    narrow = own_engine.docker("run", "--rm", "--cpuset-cpus", str(max(allowed)), "busybox", *show).stdout
    assert narrow.split()[1] == str(max(allowed))
