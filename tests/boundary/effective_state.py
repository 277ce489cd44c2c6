"""What a process in a container effectively has, read by a script inside and normalised field by field.

Used to compare orlop with a real dockerd (``test_effective_state.py``); ``python tests/boundary/effective_state.py HOST``
records the golden file from the daemon at HOST.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from effective_fields import SYSCTLS, normalise

from harness import DOCKER, busybox_tree

GOLDEN = Path(__file__).resolve().parents[1] / "golden/boundary/dockerd-26.1.json"
IMAGE = "orlop-boundary-probe:1"

PATHS = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/proc/kmsg", "/proc/kallsyms"),
    *("/sys/devices/virtual/powercap", "/sys/firmware", "/sys/devices/system/cpu/cpu0/thermal_throttle"),
    *("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"),
    *("/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory", "/proc/irq/default_smp_affinity"),
    *("/proc/sys/net/ipv4/ip_forward", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/fs/cgroup"),
    *("/sys/kernel/debug", "/sys/kernel/security", "/sys/fs/bpf", "/proc/sys/fs/binfmt_misc", "/etc/hosts"),
    *("/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/dev/mqueue", "/dev/console", "/.dockerenv", "/tmp", "/"),
)

PROBE = (
    r"""
p=/proc/$$
cd -P . 2>/dev/null
for n in status limits oom_score_adj uid_map gid_map setgroups cgroup stat mountinfo; do
  echo "@@$n"; cat $p/$n 2>&1; echo
done
echo @@ns; for n in cgroup ipc mnt net pid time user uts; do echo "$n=$(readlink $p/ns/$n)"; done
echo @@fd; for f in $p/fd/*; do echo "${f##*/}=$(readlink $f) $(grep flags $p/fdinfo/${f##*/})"; done
echo @@environ; tr '\0' '\n' <$p/environ
echo @@cwd; readlink $p/cwd
echo @@dev; for f in /dev/* /dev/pts/*; do
  [ -L $f ] && echo "$f=link $(readlink $f)" || echo "$f=$(stat -c '%F %a %u:%g %t,%T' $f)"; done
echo @@paths; for f in """
    + " ".join(PATHS)
    + r"""; do
  if [ ! -e $f ]; then echo "$f=missing"; continue; fi
  if [ -d $f ]; then
    k=directory
    if n=$(ls -A $f 2>/dev/null); then [ -n "$n" ] || k="$k empty"; else k="$k unreadable"; fi
    w=$( (mkdir $f/.probe && rmdir $f/.probe) 2>&1 )
  else
    k="$(stat -c %F $f)$( [ -c $f ] && stat -c ' %t,%T' $f )"
    w=$( (: >>$f) 2>&1 )
  fi
  echo "$f=$k $(stat -c '%a %u:%g' $f) ${w##*: }"
done
echo @@sysctl; find /proc/sys/net /proc/sys/fs/mqueue /proc/sys/kernel/shm* /proc/sys/kernel/msg* /proc/sys/kernel/sem \
  -type f 2>/dev/null | grep -xE '/proc/sys/("""
    + SYSCTLS
    + r""")' | while read f; do echo "$f=$(cat $f 2>/dev/null | tr '\n\t' '; ')"; done
echo @@devices; cat /sys/fs/cgroup/devices/devices.list 2>/dev/null
echo @@keyring; k=$(/bin/keyring); echo "$k $?"
echo @@pid1; tr '\0' ' ' </proc/1/cmdline; echo; cat /proc/1/comm
echo @@end
"""
)

# name -> options of ``run``, then of ``exec`` or None
SCENARIOS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "run": ((), None),
    "run-user": (("-u", "alice"), None),
    "run-user-number": (("-u", "1234:50", "--group-add", "7"), None),
    "exec": ((), ()),
    "exec-user": ((), ("-u", "alice")),
    "exec-user-of-container": (("-u", "alice", "-w", "/tmp", "-e", "A=b"), ("-e", "C=d")),
    "exec-tty": ((), ("-t",)),
    "exec-privileged": ((), ("--privileged",)),
    "exec-privileged-user": ((), ("--privileged", "-u", "alice")),
    "privileged": (("--privileged",), None),
    "privileged-user": (("--privileged", "-u", "alice"), None),
    "privileged-exec": (("--privileged",), ()),
    "cap-add": (("--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"), None),
    "cap-drop": (("--cap-drop", "CHOWN", "--cap-drop", "NET_RAW"), None),
    "cap-drop-all": (("--cap-drop", "ALL", "--cap-add", "KILL"), None),
    "cap-add-user": (("--cap-add", "NET_ADMIN", "-u", "alice"), None),
    "init": (("--init",), None),
    "init-exec": (("--init",), ()),
    "tty": (("-t",), None),
    "tty-user": (("-t", "-u", "alice"), None),
    "interactive": (("-i",), None),
    "no-new-privileges": (("--security-opt", "no-new-privileges"), None),
    "no-new-privileges-exec": (("--security-opt", "no-new-privileges"), ("-u", "alice")),
    "unconfined": (("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"), None),
    "read-only": (("--read-only", "--tmpfs", "/run:exec,size=1m", "-v", "/tmp/"), None),
    "network-none": (("--network", "none"), None),
    "network-host": (("--network", "host"), None),
    "ipc-host": (("--ipc", "host"), None),
    "ipc-none": (("--ipc", "none"), None),
    "pid-host": (("--pid", "host"), None),
    "uts-host": (("--uts", "host"), None),
    "cgroupns-host": (("--cgroupns", "host"), None),
    "limits": (("--ulimit", "nofile=77:99", "--ulimit", "core=0", "--oom-score-adj", "300", "--shm-size", "3m"), None),
    "devices": (("--device", "/dev/zero:/dev/other:r"), None),
    "sysctl": (("--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.shmmax=77"), None),
}

# of these also with userns-remap
REMAPPED = ("run", "run-user", "exec", "exec-user", "tty", "init", "cap-drop-all", "no-new-privileges")

# and of these after the daemon was killed and started again: a second start, or an exec in what went on running
RESTARTED = ("run", "privileged", "cap-drop-all", "exec", "exec-user", "exec-privileged")

NO_NETWORK = ("--network", "none")


def keyring_program() -> bytes:
    """Return an executable of x86_64 that writes what keyctl(KEYCTL_DESCRIBE) says of its session keyring.

    No file shows it: ``/proc/keys`` has every key that its reader may see. The exit status is the error's number.
    """
    code = bytes.fromhex(
        "4881ec00020000"  # sub rsp, 512
        "b8fa000000 bf06000000 48c7c6fdffffff 4889e2 41ba00010000 4531c0 0f05"  # keyctl(6, -3, rsp, 256, 0)
        "4885c0 7819"  # negative: to the error
        "4889c2 48ffca b801000000 bf01000000 4889e6 0f05"  # write(1, rsp, length without its NUL)
        "31ff eb04"  # status 0
        "f7d8 89c7"  # status -result
        "b83c000000 0f05"  # exit
    )
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    elf = (
        b"\x7fELF\2\1\1"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


class Daemon:
    """A daemon under comparison, by the docker client."""

    def __init__(self, host: str) -> None:
        self.host = host

    def docker(self, *arguments: str, check: bool = True) -> str:
        command = [DOCKER, *map(str, arguments)]
        environment = {**os.environ, "DOCKER_HOST": self.host}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def import_image(self) -> None:
        """Import busybox with the program that shows its session keyring."""
        with tempfile.TemporaryDirectory() as scratch:
            tree = busybox_tree(Path(scratch) / "tree")
            tree.chmod(0o755)
            (tree / "bin/keyring").write_bytes(keyring_program())
            (tree / "bin/keyring").chmod(0o755)
            archive = Path(scratch) / "image.tar"
            words = ["--owner=0", "--group=0", "--numeric-owner", "-cf", str(archive), "."]
            subprocess.run(["tar", "-C", str(tree), *words], check=True)
            self.docker("import", str(archive), IMAGE)

    def probe(self, name: str, *extra: str) -> dict[str, str]:
        """Return a scenario's state."""
        options, execution = SCENARIOS[name]
        options = (*options, *extra)
        hostname = () if name == "uts-host" else ("--hostname", "probe")
        if execution is None:
            return normalise(self.docker("run", "--rm", *hostname, *options, IMAGE, "sh", "-c", PROBE))
        container = self.docker("run", "-d", *hostname, *options, IMAGE, "sleep", "1000").strip()
        try:
            return normalise(self.docker("exec", *execution, container, "sh", "-c", PROBE))
        finally:
            self.docker("rm", "-f", "-v", container, check=False)

    def probe_restarted(self, name: str, restart: Callable[[], object], *extra: str) -> dict[str, str]:
        """Return a scenario's state after ``restart()`` of the daemon."""
        options, execution = SCENARIOS[name]
        command = ("sh", "-c", PROBE) if execution is None else ("sleep", "1000")
        container = self.docker("create", "--hostname", "probe", *options, *extra, IMAGE, *command).strip()
        try:
            self.docker("start", *(["-a"] if execution is None else []), container)
            restart()
            if execution is None:
                return normalise(self.docker("start", "-a", container))
            return normalise(self.docker("exec", *execution, container, "sh", "-c", PROBE))
        finally:
            self.docker("rm", "-f", "-v", container, check=False)


def record(host: str, remapping_host: str = "", restarting_host: str = "", restart: str = "") -> None:
    """Write the golden file from the daemon at ``host``, one with userns-remap, and one that ``restart`` restarts."""
    states = {}

    def again() -> None:
        subprocess.run(["sh", "-c", restart], check=True, timeout=60)

    for address, prefix, names in (
        (host, "", SCENARIOS),
        (remapping_host, "userns-", REMAPPED),
        (restarting_host, "restarted-", RESTARTED),
    ):
        if not address:
            continue
        daemon = Daemon(address)
        daemon.import_image()
        try:
            version = daemon.docker("version", "--format", "{{.Server.Version}}").strip()
            for name in names:
                if prefix == "restarted-":
                    states[prefix + name] = daemon.probe_restarted(name, again)
                else:
                    states[prefix + name] = daemon.probe(name, *(NO_NETWORK if prefix else ()))
        finally:
            daemon.docker("rmi", "-f", IMAGE, check=False)
    GOLDEN.parent.mkdir(exist_ok=True)
    hierarchy = "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1"
    base = states["run"]
    changes = {
        name: {field: state.get(field) for field in {*base, *state} if base.get(field) != state.get(field)}
        for name, state in states.items()
    }
    document = {"version": version, "cgroup": hierarchy, "run": base, "changes": changes}
    GOLDEN.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def recorded_states() -> tuple[str, dict[str, dict[str, str]]]:
    """Return the cgroup version of the machine of the golden file, and its states."""
    document = json.loads(GOLDEN.read_text())
    states = {}
    for name, changes in document["changes"].items():
        merged = {**document["run"], **changes}
        states[name] = {field: value for field, value in merged.items() if value is not None}
    return document["cgroup"], states


if __name__ == "__main__":
    record(*sys.argv[1:])
