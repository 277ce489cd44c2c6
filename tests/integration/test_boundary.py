"""Rows A, B, C and J of threats.md, seen from inside a container."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness import busybox_tree, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

DEFAULT_CAPS = 0xA80425FB  # the 14 of Docker


def status(engine, *arguments: str) -> dict[str, str]:
    out = engine.docker("run", "--rm", *arguments, "busybox", "cat", "/proc/self/status").stdout
    return dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)


def test_default_capabilities_and_filters(engine) -> None:
    fields = status(engine)
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapBnd"], 16) == DEFAULT_CAPS
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0  # A4
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "0")
    assert int(fields["SigIgn"], 16) == int(fields["SigBlk"], 16) == 0  # J11


def test_a_user_other_than_root_keeps_no_capability(engine) -> None:  # A5, A6
    fields = status(engine, "-u", "alice")
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert sorted(fields["Groups"].split()) == ["1000", "50"]


def test_exec_has_the_same_boundary(engine) -> None:  # A15
    engine.docker("run", "-d", "--name", "con", "--security-opt", "no-new-privileges", "busybox", "sleep", "100")
    out = engine.docker("exec", "con", "cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)
    assert int(fields["CapBnd"], 16) == DEFAULT_CAPS
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
    assert int(fields["CapInh"], 16) == 0


@pytest.mark.parametrize("command", [["run", "--rm", "busybox"], ["exec", "fds"]])
def test_no_descriptor_of_the_host_comes_along(engine, command) -> None:  # A2, J4
    engine.docker("run", "-d", "--name", "fds", "busybox", "sleep", "100")
    out = engine.docker(*command, "sh", "-c", "ls -l /proc/self/fd | sed 's/.* //'").stdout
    links = [line for line in out.splitlines() if line and not line.startswith(("pipe:", "/dev/null", "/proc/"))]
    assert [link for link in links if not link.isdigit()] == []  # a digit: the directory that ls itself has open


def test_working_directory_through_a_descriptor_is_refused(leak_free) -> None:  # CVE-2024-21626
    for number in range(3, 12):
        done = leak_free.docker("run", "--rm", "-w", f"/proc/self/fd/{number}", "busybox", "pwd", check=False)
        assert done.returncode != 0, done.stdout


def test_the_interpreter_cannot_be_written_through_proc_self_exe(engine, tmp_path) -> None:  # CVE-2019-5736
    tree = busybox_tree(tmp_path / "evil")
    (tree / "bin/evil").symlink_to("/proc/self/exe")
    archive = tmp_path / "evil.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    engine.docker("import", archive, "evil:1")
    interpreter = Path(os.path.realpath("/proc/self/exe"))
    before = interpreter.stat()
    engine.docker("run", "--rm", "evil:1", "/bin/evil", "-c", "open('/proc/self/exe','r+b').write(b'x')", check=False)
    engine.docker(
        "run",
        "-d",
        "--name",
        "watch",
        "evil:1",
        "sh",
        "-c",
        "while :; do for p in /proc/[0-9]*; do (echo x >>$p/exe) 2>/dev/null && echo written; done; done",
    )
    for _ in range(5):
        engine.docker("exec", "watch", "true")
    assert "written" not in engine.docker("logs", "watch").stdout
    engine.docker("rm", "-f", "watch")
    after = interpreter.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino)
    engine.docker("rmi", "evil:1")


@pytest.mark.parametrize("place", ["proc", "sys"])
def test_proc_and_sys_are_never_mounted_through_a_link(leak_free, tmp_path, place) -> None:  # CVE-2019-19921
    tree = busybox_tree(tmp_path / "tree")
    (tree / place).rmdir()
    (tree / place).symlink_to("/tmp")
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    leak_free.docker("import", archive, "linked:1")
    # The engine's own layer puts a directory in the link's place; without one the runtime refuses (test_runtime.py).
    out = leak_free.docker("run", "--rm", "linked:1", "sh", "-c", f"ls /tmp; mount | grep -c ' on /{place} '").stdout
    assert out == "1\n"
    leak_free.docker("rmi", "linked:1")


def test_a_device_directory_that_is_a_link_stays_inside(leak_free, tmp_path) -> None:  # CVE-2026-41579
    tree = busybox_tree(tmp_path / "tree")
    target = tmp_path / "host-directory"
    target.mkdir()
    (tree / "dev").rmdir()
    (tree / "dev").symlink_to(target)
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    leak_free.docker("import", archive, "devlink:1")
    leak_free.docker("run", "--rm", "devlink:1", "true", check=False)
    assert list(target.iterdir()) == []
    leak_free.docker("rmi", "devlink:1")


def test_engine_files_never_follow_links_of_the_image(leak_free, tmp_path) -> None:  # B10, CVE-2015-3629
    tree = busybox_tree(tmp_path / "tree")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("hosts", "hostname", "resolv.conf"):
        (tree / "etc" / name).symlink_to(victim)
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    leak_free.docker("import", archive, "hostslink:1")
    leak_free.docker("run", "--rm", "hostslink:1", "sh", "-c", "echo x >>/etc/hosts", check=False)
    assert victim.read_text() == "untouched"
    leak_free.docker("rmi", "hostslink:1")


MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/sys/firmware")


def test_masked_and_read_only_paths(engine) -> None:  # B11, B12
    out = engine.docker(
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "for p in "
        + " ".join(MASKED)
        + "; do [ ! -e $p ] || echo $p $( [ -d $p ] && ls $p | wc -l || head -c 1 $p | wc -c ); done;"
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_helper; do (echo x >$f) 2>/dev/null && echo WRITTEN $f; done; true",
    ).stdout
    assert "WRITTEN" not in out
    assert all(line.split()[1] == "0" for line in out.splitlines()), out
    assert out.count("\n") >= 3


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /tmp",
        "umount /proc/kcore",
        "mount -o remount,rw /sys",
        "mount -o remount,rw /proc/sys",
        "unshare -U true",
        "unshare -m true",
        "echo 1 >/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "mkdir /sys/fs/cgroup/memory/x",
        "echo /x >/sys/fs/cgroup/memory/release_agent",
        "mknod /tmp/sda b 254 0 && head -c 1 /tmp/sda",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
        "mknod /tmp/fuse c 10 229 && head -c 1 /tmp/fuse",
        "hostname other",
        "chroot /proc/1/root/../../.. ls /home/x",
    ],
)
def test_refused_inside(engine, attempt) -> None:  # B13, B15, C1, C5
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", f"({attempt}) 2>&1", check=False)
    assert done.returncode != 0, done.stdout


def test_device_nodes_are_the_usual_ones(engine) -> None:
    names = engine.docker("run", "--rm", "busybox", "ls", "/dev").stdout.split()
    assert set(names) == {
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    }
    types = engine.docker(
        "run", "--rm", "busybox", "stat", "-c", "%F %t,%T %a", "/dev/null", "/dev/zero", "/dev/urandom"
    ).stdout.splitlines()
    assert types == [
        "character special file 1,3 666",
        "character special file 1,5 666",
        "character special file 1,9 666",
    ]


def test_privileged_lifts_what_docker_lifts(engine) -> None:
    fields = status(engine, "--privileged")
    assert fields["Seccomp"] == "0"
    assert int(fields["CapEff"], 16) == int(Path("/proc/self/status").read_text().split("CapBnd:\t")[1].split()[0], 16)
    engine.docker("run", "--rm", "--privileged", "busybox", "mount", "-t", "tmpfs", "none", "/tmp")


def test_the_host_mount_table_stays_empty(engine) -> None:
    engine.docker("run", "-d", "busybox", "sleep", "100")
    mine = Path("/proc/self/mountinfo").read_text()
    assert str(engine.home) not in mine
    assert engine.process is not None
    assert str(engine.home) not in Path(f"/proc/{engine.process.pid}/mountinfo").read_text()


def test_files_of_the_engine_are_closed_to_others(engine) -> None:  # H1, H6
    engine.docker("run", "-d", "--name", "con", "busybox", "sleep", "100")
    assert oct(engine.data_root.stat().st_mode & 0o777) in {"0o710", "0o700"}
    assert oct(engine.exec_root.stat().st_mode & 0o777) in {"0o711", "0o700"}
    assert engine.socket.stat().st_mode & 0o007 == 0
    for path in (engine.exec_root / "shims").rglob("attach.sock"):
        assert path.stat().st_mode & 0o077 == 0
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "ls", str(engine.data_root)], capture_output=True
    )
    assert done.returncode != 0


def test_sysctls_outside_namespaces_are_refused(leak_free) -> None:  # CVE-2022-0811
    for sysctl in (
        "kernel.core_pattern=|/x",
        "kernel.shm_rmid_forced=1+kernel.core_pattern=|/x",
        "vm.swappiness=1",
        "net/../kernel/core_pattern=x",
    ):
        assert leak_free.docker("run", "--rm", "--sysctl", sysctl, "busybox", "true", check=False).returncode == 125
    assert (
        leak_free.docker(
            "run",
            "--rm",
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=80",
            "busybox",
            "cat",
            "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        ).stdout
        == "80\n"
    )


def test_seccomp_denies_what_moby_denies(engine) -> None:  # C5
    out = engine.docker(
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "unshare -r true 2>&1; setarch 2>&1 | head -n 1; cat /proc/self/status | grep Seccomp_filters",
    ).stdout
    assert "Operation not permitted" in out


def test_user_numbers_never_wrap(leak_free) -> None:  # A7
    for user in ("4294967296", "2147483648", "-1", "99999999999999999999"):
        done = leak_free.docker("run", "--rm", "--user", user, "busybox", "id", "-u", check=False)
        assert done.returncode != 0, done.stdout


@pytest.mark.timeout(60)
def test_a_hostile_passwd_does_not_hold_the_engine(leak_free, tmp_path) -> None:  # A8
    tree = busybox_tree(tmp_path / "tree")
    (tree / "etc/passwd").unlink()
    os.mkfifo(tree / "etc/passwd")
    (tree / "etc/group").unlink()
    (tree / "etc/group").symlink_to("/dev/zero")
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    leak_free.docker("import", archive, "fifo:1")
    leak_free.docker("run", "--rm", "-u", "someone", "fifo:1", "true", check=False, timeout=20)
    leak_free.docker("run", "--rm", "fifo:1", "true", check=False, timeout=20)
    leak_free.docker("rmi", "-f", "fifo:1")


def test_python_files_of_the_image_are_never_run(engine, tmp_path) -> None:  # J1
    tree = busybox_tree(tmp_path / "tree")
    for directory in ("usr/lib/python3.11", "usr/local/lib/python3.11", os.path.dirname(os.__file__).lstrip("/")):
        (tree / directory / "encodings").mkdir(parents=True, exist_ok=True)
        for name in ("traceback.py", "os.py", "encodings/idna.py", "linecache.py", "sitecustomize.py"):
            (tree / directory / name).write_text("open('/tmp/EXECUTED','w').write('x')\n")
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    engine.docker("import", archive, "pyevil:1")
    engine.docker("run", "-d", "--name", "pyt", "pyevil:1", "sleep", "100")
    engine.docker("exec", "pyt", "nope-nope", check=False)
    engine.docker("exec", "-u", "missing", "pyt", "true", check=False)
    assert engine.docker("exec", "pyt", "sh", "-c", "ls /tmp").stdout == ""
    engine.docker("rm", "-f", "pyt")
    engine.docker("rmi", "pyevil:1")


def test_the_spawner_is_sealed_single_threaded_and_closed_to_ptrace(engine) -> None:  # A1, A3, J3, J6
    spawner = next(
        pid
        for pid in children(engine.process.pid)
        if "orlop" in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    )
    assert len(os.listdir(f"/proc/{spawner}/task")) == 1
    assert Path(f"/proc/{spawner}/environ").read_bytes() == b""
    with pytest.raises(OSError, match=r"Read-only|Text file busy"):
        open(f"/proc/{spawner}/exe", "r+b").close()
    assert os.stat(f"/proc/{spawner}/mem").st_uid == 0


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
    own_engine.docker("run", "-d", "--name", "wide", "busybox", "sleep", "100")
    assert (
        own_engine.docker("exec", "wide", "grep", "Cpus_allowed_list", "/proc/1/status").stdout.split()[1] == everywhere
    )
    assert own_engine.docker("exec", "wide", *show).stdout.split()[1] == everywhere
    narrow = own_engine.docker("run", "--rm", "--cpuset-cpus", str(max(allowed)), "busybox", *show).stdout
    assert narrow.split()[1] == str(max(allowed))


def children(pid: int) -> list[int]:
    return [
        int(word)
        for task in os.listdir(f"/proc/{pid}/task")
        for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    ]


def test_pid_one_dies_with_its_shim(engine) -> None:  # R11
    engine.docker("run", "-d", "--name", "orphan", "busybox", "sleep", "100")
    pid = engine.inspect("orphan")["State"]["Pid"]
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, 9)
    state = wait_for(lambda: (s := engine.inspect("orphan")["State"]) and s["Status"] == "exited" and s, seconds=5)
    assert state["ExitCode"] in {137, 255}
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), seconds=5)


def test_limits_given_are_limits_set(engine) -> None:
    out = engine.docker(
        "run", "--rm", "--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"
    ).stdout
    assert out.split() == ["100", "200"]
    out = engine.docker("run", "--rm", "busybox", "sh", "-c", "ulimit -n; umask; cat /proc/self/oom_score_adj").stdout
    assert out.split() == ["1024", "0022", "0"]


def test_document_of_effective_state_after_a_restart(engine) -> None:  # C8
    engine.docker(
        "create",
        "--name",
        "rst",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "busybox",
        "cat",
        "/proc/self/status",
    )
    keep = ("Cap", "Seccomp", "NoNewPrivs", "Groups", "Uid")
    first, second = (
        json.dumps([line for line in engine.docker("start", "-a", "rst").stdout.splitlines() if line.startswith(keep)])
        for _ in range(2)
    )
    assert first == second
    assert "CapEff:\\t0000000000000000" in first
