"""What a process in a container effectively has, read by a script inside and normalised field by field.

Used to compare orlop with a real dockerd (``test_effective_state.py``); ``python tests/boundary/effective_state.py HOST``
records the golden file from the daemon at HOST.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
    ls -A $f >/dev/null 2>&1 && k="directory$([ -z "$(ls -A $f)" ] && echo ' empty')" || k="directory unreadable"
    w=$( (mkdir $f/.probe && rmdir $f/.probe) 2>&1 )
  else
    k="$(stat -c %F $f)$( [ -c $f ] && stat -c ' %t,%T' $f )"
    w=$( (: >>$f) 2>&1 )
  fi
  echo "$f=$k $(stat -c '%a %u:%g' $f) ${w##*: }"
done
echo @@sysctl; find /proc/sys/net /proc/sys/fs/mqueue /proc/sys/kernel/shm* /proc/sys/kernel/msg* /proc/sys/kernel/sem \
  -type f 2>/dev/null | while read f; do echo "$f=$(cat $f 2>/dev/null | tr '\n\t' '; ')"; done
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

_STATUS = frozenset(
    (
        *("Umask", "TracerPid", "Uid", "Gid", "Groups", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "CapInh", "CapPrm"),
        *("CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Cpus_allowed_list"),
        *("Mems_allowed_list", "THP_enabled", "NStgid", "NSsid"),
    )
)


# those that a runtime or an engine sets, or that belong to a namespace which must be a new one
_SYSCTLS = re.compile(
    r"net/ipv4/(ip_unprivileged_port_start|ping_group_range|ip_forward|ip_local_port_range|"
    r"conf/(all|default|eth0)/(forwarding|accept_redirects|rp_filter|route_localnet|accept_local|arp_ignore))|"
    r"net/ipv6/conf/(all|default|eth0)/(accept_ra|disable_ipv6|forwarding)|"
    r"kernel/(shm(max|all|mni|_rmid_forced)|msg(max|mnb|mni)|sem)|fs/mqueue/[a-z_]+"
)


_LIMIT = re.compile(r"^(Max [a-z ]+?) {2,}(\S+) +(\S+)", re.MULTILINE)


_NODES = frozenset(
    f"/dev/{name}"
    for name in (
        *("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts/ptmx", "pts/0", "fd", "stdin"),
        *("stdout", "stderr", "shm", "mqueue", "pts", "core", "other"),
    )
)


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


def sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.replace("\r\n", "\n").splitlines():
        if line.startswith("@@"):
            found[line[2:]] = current = []
        elif line.strip():
            current.append(line)
    return found


def normalise(text: str) -> dict[str, str]:
    """Return fields by name, without what differs from run to run or from machine to machine."""
    assert "@@end" in text, text[-500:]
    parts = sections(text)
    state: dict[str, str] = {}
    own = _own_status()
    for line in parts["status"]:
        name, _, value = line.partition(":")
        value = " ".join(value.split())
        if name in _STATUS:
            if name.startswith("Cap") and int(value, 16) == int(own["CapBnd"], 16):
                value = "all of the host"
            elif name in {"Cpus_allowed_list", "Mems_allowed_list"}:
                value = "all" if value == _all(name) else value
            elif name.startswith("NS"):
                value = f"{len(value.split())} levels"
            state[f"status.{name}"] = value
    inherited = {m[1]: f"{m[2]} {m[3]}" for m in _LIMIT.finditer(Path("/proc/self/limits").read_text())}
    for match in _LIMIT.finditer("\n".join(parts["limits"])):
        value = f"{match[2]} {match[3]}"
        state[f"limit.{match[1]}"] = "inherited" if value == inherited.get(match[1]) else value
    for name in ("oom_score_adj", "uid_map", "gid_map", "setgroups", "cgroup"):
        for line in parts[name]:
            key, value = name, " ".join(line.split())
            if name.endswith("_map") and value != "0 0 4294967295":
                value = "mapped"
            if name == "cgroup":
                _, controllers, path = line.split(":", 2)
                key = f"cgroup.{controllers}"
                value = "/" if path == "/" else "elsewhere"
            state[key] = f"{state[key]}; {value}" if key in state else value
    fields = parts["stat"][0].rpartition(")")[2].split()
    pid = parts["stat"][0].split()[0]
    state["process.group"] = "its own" if fields[2] == pid else "another"
    state["process.session"] = "its own" if fields[3] == pid else "another"
    state["process.terminal"] = "none" if fields[4] == "0" else f"major {int(fields[4]) >> 8}"
    state["process.foreground"] = "yes" if fields[5] == fields[2] else "no"
    state["process.nice"] = fields[16]
    state["process.policy"] = fields[38]
    for line in parts["ns"]:
        kind, _, inode = line.partition("=")
        shared = inode == os.readlink(f"/proc/self/ns/{kind}")
        state[f"namespace.{kind}"] = "the host's" if shared else "another"
    for line in parts["fd"]:
        number, _, rest = line.partition("=")
        if rest.strip():  # the script's own directory of them is gone by then
            target, _, flags = rest.partition(" flags:")
            kind = re.sub(r":\[\d+\]", "", target.strip())
            mode = "" if kind == "/dev/null" else f" {('read', 'write', 'both')[int(flags, 8) & 3]}"
            state[f"fd.{number}"] = kind + mode
    for line in parts["environ"]:
        name, _, value = line.partition("=")
        state[f"environment.{name}"] = "the id" if re.fullmatch("[0-9a-f]{12}", value) else value
    state["environment"] = " ".join(line.partition("=")[0] for line in parts["environ"])
    state["cwd"] = parts["cwd"][0]
    for line in parts["dev"]:
        name, _, value = line.partition("=")
        if name in _NODES:
            state[f"device.{name}"] = value
    names = sorted(line.partition("=")[0] for line in parts["dev"])
    state["devices"] = " ".join(names) if len(names) < 30 else "all of the host"
    for line in parts["paths"]:
        name, _, value = line.partition("=")
        # a mask may be the host's own node, whose owner is the host's business
        state[f"path.{name}"] = re.sub(r"(special file 1,3) .*", r"\1", value.strip())
    for line in parts["sysctl"]:
        name, _, value = line.removeprefix("/proc/sys/").partition("=")
        if _SYSCTLS.fullmatch(name):
            state[f"sysctl.{name}"] = value
    description, _, status = parts["keyring"][0].rpartition(" ")
    *numbers, name = description.split(";")
    # the name of Docker's is the container's id
    state["keyring"] = (
        " ".join([*numbers, re.sub("[0-9a-f]{64}", "the id", name)]) if status == "0" else f"error {status}"
    )
    state["device rules"] = "; ".join(sorted(parts["devices"]))
    state["pid 1"] = parts["pid1"][0].strip()[:60] if "PROBE" not in parts["pid1"][0] else "the program"
    state["pid 1.name"] = parts["pid1"][-1]
    state.update(_mounts(parts["mountinfo"]))
    return state


def _own_status() -> dict[str, str]:
    text = Path("/proc/self/status").read_text()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _all(name: str) -> str:
    path = "/sys/devices/system/cpu/online" if name.startswith("Cpus") else "/sys/devices/system/node/online"
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return _own_status()[name]


def _mounts(lines: list[str]) -> dict[str, str]:
    state: dict[str, str] = {}
    for line in lines:
        left, _, right = line.partition(" - ")
        _, _, _, root, place, flags, *optional = left.split()
        kind, _, options = right.split(" ", 2)
        root = (
            root
            if re.fullmatch(r"/|/null|/zero|/\d|(/[a-z-]+){1,2}", root)
            and kind in {"proc", "devtmpfs", "devpts", "tmpfs"}
            else "."
        )
        if kind in {"overlay", "cgroup", "cgroup2", "ext4", "btrfs", "xfs", "sysfs"}:
            options = ""
        options = re.sub(
            r"(nr_inodes|size)=\d{6,}k?|,?([ug]id=\d{4,}|inode64|huge=\w+|noswap)",
            "",
            options.removeprefix("rw").removeprefix(","),
        )
        flag_names = ",".join(sorted(flags.split(",")))
        if place.startswith("/etc/") or place == "/tmp":  # whatever the machine has its files on
            kind, root, options, flag_names = "disk", ".", "", flags.split(",")[0]
        shared = ",".join(re.sub(r":\d+", "", word) for word in optional)
        state[f"mount.{place}"] = " ".join(
            word for word in (kind, root, flag_names, options.strip(","), shared) if word
        )
    return state


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
