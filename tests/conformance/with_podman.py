"""Podman calls the runtime, through conmon: ``podman --runtime``."""

from __future__ import annotations

import os
from pathlib import Path

from caller import TTY, Machine, check, run_script, wait_for

CONFIG = """[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
UID = 34567
IMAGE = "localhost/busybox"


class Podman:
    """Podman with storage of its own, root's or an ordinary user's; ``within`` is what calls it."""

    def __init__(self, machine: Machine, home: Path, *, within: tuple[str, ...] = ()) -> None:
        self.machine = machine
        (home / "containers.conf").write_text(CONFIG)
        (home / "policy.json").write_text(POLICY)
        self.env = {"CONTAINERS_CONF": str(home / "containers.conf"), "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
        self.command = (
            *within,
            *("podman", "--root", f"{home}/root", "--runroot", f"{home}/run", "--tmpdir", f"{home}/libpod"),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", machine.runtime),
        )
        self.flags = ("--network", "none", *(() if within else ("--cgroup-parent", f"/{machine.name}")))

    def __call__(self, *arguments: str, status: int | None = 0) -> str:
        return self.machine.run(*self.command, *arguments, status=status, **self.env)

    def run(self, *arguments: str, status: int | None = 0) -> str:
        return self("run", *self.flags, *arguments, status=status)

    def inspect(self, name: str, field: str) -> str:
        return self("inspect", "--format", f"{{{{{field}}}}}", name).strip()


def checks(machine: Machine) -> None:
    image = str(machine.image())
    podman = Podman(machine, machine.home)
    podman("load", "--signature-policy", f"{machine.home}/policy.json", "-i", image)
    foreground(podman)
    running(podman)
    privileges(podman)
    failures(podman)
    podman("rm", "--all", "--force", "--time", "0")
    check(not podman("ps", "-aq").strip(), "podman has no container")
    without_root(machine, image)


def without_root(machine: Machine, image: str) -> None:
    """As an ordinary user: Podman calls the runtime as the root of a user namespace that it made."""
    home = machine.home / "user"
    run = home / "run"
    run.mkdir(parents=True)
    files = {
        "passwd": f"root:x:0:0::/:/bin/sh\nsomeone:x:{UID}:{UID}::{home}:/bin/sh\n",
        "group": f"root:x:0:\nsomeone:x:{UID}:\n",
    }
    files |= dict.fromkeys(("subuid", "subgid"), "someone:400000:65536\n")
    for name, text in files.items():
        (machine.home / name).write_text(text)
        machine.run("mount", "--bind", machine.home / name, f"/etc/{name}")
    become = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups")
    podman = Podman(machine, home, within=(*become, "env", f"XDG_RUNTIME_DIR={run}", f"HOME={home}", f"TMPDIR={run}"))
    machine.run("chown", "-R", f"{UID}:{UID}", home)
    podman("load", "--signature-policy", f"{home}/policy.json", "-i", image)
    out = podman.run("--rm", IMAGE, "sh", "-c", "id -u; cat /proc/self/uid_map; echo x >/dev/null && exit 3", status=3)
    check(out.split() == ["0", "0", str(UID), "1", "1", "400000", "65536"], "without root: run", out)
    out = podman.run("--rm", "--user", "5", "--read-only", IMAGE, "sh", "-c", "id -u; touch /x || echo read-only")
    check(out.startswith("5\n") and "read-only" in out, "without root: a user, a read-only root", out)
    out = podman.run("--rm", "--userns", "keep-id", IMAGE, "id", "-u")
    check(out.strip() == str(UID), "without root: --userns=keep-id", out)
    out = podman.run("--rm", "--pid", "host", IMAGE, "readlink", "/proc/self/ns/pid")
    check(out.strip() == os.readlink("/proc/self/ns/pid"), "without root: --pid=host", out)
    podman.run("--detach", "--name", "one", IMAGE, "sleep", "60")
    check(podman("exec", "--user", "7", "one", "id", "-u").strip() == "7", "without root: exec")
    podman("stop", "--time", "0", "one")
    podman("start", "one")
    podman("rm", "--force", "--time", "0", "one")
    check(not podman("ps", "-aq").strip(), "without root: stop, start, rm --force")


def foreground(podman: Podman) -> None:
    out = podman.run("--rm", IMAGE, "sh", "-c", "echo hello; id -u; exit 3", status=3)
    check(out.split() == ["hello", "0"], "run: output and exit status", out)
    out = podman.machine.terminal(*podman.command, "run", "--rm", "-it", *podman.flags, IMAGE, *TTY, **podman.env)
    check("/dev/pts/0" in out, "run on a terminal", out)


def running(podman: Podman) -> None:
    program = "echo logged; trap 'exit 7' TERM; while :; do sleep 0.1; done"
    podman.run("--detach", "--name", "one", "--memory", "64m", IMAGE, "sh", "-c", program)
    wait_for(lambda: podman("logs", "one").strip() == "logged", what="the log")
    check(podman.inspect("one", ".State.Status") == "running", "run --detach, logs")
    out = podman("exec", "one", "sh", "-c", "echo in; exit 4", status=4)
    check(out.strip() == "in", "exec: output and exit status", out)
    out = podman.machine.terminal(*podman.command, "exec", "-it", "one", *TTY, **podman.env)
    check("/dev/pts/0" in out, "exec on a terminal", out)
    podman("exec", "--detach", "one", "sleep", "60")
    wait_for(lambda: "sleep 60" in podman("top", "one"), what="the detached exec")
    podman("pause", "one")
    check(podman.inspect("one", ".State.Status") == "paused", "pause")
    podman("unpause", "one")
    podman("update", "--memory", "100m", "one")
    out = podman("exec", "one", "sh", "-c", "echo still here")
    check("still here" in out, "unpause, update", out)
    podman("stop", "one")
    check(podman.inspect("one", ".State.ExitCode") == "7", "stop: the program's exit status")
    podman("start", "one")
    podman("kill", "one")
    check(podman("wait", "one").strip() == "137", "start again, kill, wait")
    podman("rm", "one")
    podman.run("--detach", "--name", "two", IMAGE, "sleep", "60")
    podman("rm", "--force", "--time", "0", "two")
    check(not podman("ps", "-aq").strip(), "rm --force of a running container")


def privileges(podman: Podman) -> None:
    script = "id -u; grep -E 'CapEff|CapPrm|CapInh|CapAmb' /proc/self/status | cut -f 2; touch /x || echo read-only"
    out = podman.run(
        "--rm",
        "--read-only",
        "--read-only-tmpfs=false",
        "--user",
        "1000:1000",
        "--cap-drop",
        "all",
        IMAGE,
        "sh",
        "-c",
        script,
    )
    check(out.split("\n")[:5] == ["1000", *["0" * 16] * 4], "user, capabilities", out)
    check("read-only" in out, "a read-only root", out)
    out = podman.run(
        "--rm", "--privileged", IMAGE, "sh", "-c", "grep CapEff /proc/self/status | cut -f 2; ls /dev/null"
    )
    check(int(out.split()[0], 16).bit_count() >= 38 and "/dev/null" in out, "--privileged", out)
    out = podman.run("--rm", "--oom-score-adj", "100", "--pids-limit", "30", IMAGE, "cat", "/proc/self/oom_score_adj")
    check(out.strip() == "100", "oom_score_adj", out)
    out = podman.run("--rm", "--volume", f"{podman.machine.home}/policy.json:/p:ro", IMAGE, "cat", "/p")
    check(out.strip() == POLICY, "a volume", out)
    podman.run("--rm", "--memory", "10m", IMAGE, "sh", "-c", "tail /dev/zero", status=137)
    check(True, "a memory limit")


def failures(podman: Podman) -> None:
    """Podman tells from the runtime's words whether a program is missing or cannot be executed."""
    out = podman.run("--rm", IMAGE, "/no/such", status=127)
    check("no such file" in out, "a missing program", out)
    out = podman.run("--rm", IMAGE, "/etc", status=126)
    check("is a directory" in out or "permission denied" in out, "a directory as program", out)
    podman.run("--detach", "--name", "three", IMAGE, "sleep", "60")
    out = podman("exec", "three", "/no/such", status=127)
    check("no such file" in out, "a missing program in exec", out)


if __name__ == "__main__":
    run_script(checks, ("podman", "conmon"))
