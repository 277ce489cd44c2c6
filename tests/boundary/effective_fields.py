"""What the script of ``effective_state.py`` wrote, field by field, without what differs from run to run."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_STATUS = frozenset(
    (
        *("Umask", "TracerPid", "Uid", "Gid", "Groups", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "CapInh", "CapPrm"),
        *("CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Cpus_allowed_list"),
        *("Mems_allowed_list", "THP_enabled", "NStgid", "NSsid"),
    )
)


# those that a runtime or an engine sets, or that belong to a namespace which must be a new one; grep -E reads it, too
SYSCTLS = (
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
    assert parts["sysctl"], text[-500:]  # another machine's record misses none of them
    for line in parts["sysctl"]:
        name, _, value = line.removeprefix("/proc/sys/").partition("=")
        if re.fullmatch(SYSCTLS, name):
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
