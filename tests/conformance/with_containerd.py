"""containerd calls the runtime: ``ctr run --runc-binary``, through its shim."""

from __future__ import annotations

import json

from caller import TTY, Machine, check, run_script, wait_for

CONFIG = """version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{home}/containerd.sock"
"""
IMAGE = "localhost/busybox:latest"


class Ctr:
    """The client of one containerd."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.command = ("ctr", "--address", f"{machine.home}/containerd.sock")
        # the state is kept outside of containerd's so that the runtime's own commands can be asked beside it
        self.root = machine.home / "runtime"

    def __call__(self, *arguments: str, status: int | None = 0) -> str:
        return self.machine.run(*self.command, *arguments, status=status)

    def run(self, identity: str, *arguments: str, flags: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the command that runs a container."""
        runtime = ("--runc-binary", self.machine.runtime, "--runc-root", str(self.root))
        cgroup = ("--cgroup", f"/{self.machine.name}/{identity}")
        return ("run", *runtime, *cgroup, *flags, IMAGE, identity, *arguments)

    def status(self, identity: str) -> str:
        """Return a task's status."""
        rows = [line.split() for line in self("task", "ls").splitlines()]
        return next((row[2] for row in rows if row[0] == identity), "")

    def state(self, identity: str) -> dict[str, object]:
        """Ask the runtime itself."""
        text = self.machine.run(self.machine.runtime, "--root", f"{self.root}/default", "state", identity)
        return dict(json.loads(text))


def checks(machine: Machine) -> None:
    (machine.home / "config.toml").write_text(CONFIG.format(home=machine.home))
    machine.start("containerd", "--config", machine.home / "config.toml", log="containerd.log")
    ctr = Ctr(machine)
    wait_for(lambda: "Server:" in ctr("version", status=None), what="containerd's answer")
    ctr("image", "import", str(machine.image()))
    foreground(ctr)
    running(ctr)
    failures(ctr)
    out_of_memory(ctr)
    check(not ctr("container", "ls", "-q").strip(), "containerd has no container")
    left = list(ctr.root.glob("*/*"))
    check(not left, "the runtime has no container", left)


def foreground(ctr: Ctr) -> None:
    out = ctr(*ctr.run("fg", "sh", "-c", "echo hello; id -u; exit 3", flags=("--rm",)), status=3)
    check(out.split() == ["hello", "0"], "run: output and exit status", out)
    out = ctr.machine.terminal(*ctr.command, *ctr.run("tty", *TTY, flags=("--rm", "--tty")))
    check("/dev/pts/0" in out, "run on a terminal", out)


def running(ctr: Ctr) -> None:
    program = "trap 'exit 9' TERM; while :; do sleep 0.1; done"
    ctr(*ctr.run("one", "sh", "-c", program, flags=("--detach",)))
    check(ctr.status("one") == "RUNNING", "run --detach")
    check(ctr.state("one")["status"] == "running", "the runtime's own state")
    out = ctr("task", "exec", "--exec-id", "e1", "one", "sh", "-c", "echo in; exit 4", status=4)
    check(out.strip() == "in", "exec: output and exit status", out)
    out = ctr.machine.terminal(*ctr.command, "task", "exec", "--tty", "--exec-id", "e2", "one", *TTY)
    check("/dev/pts/0" in out, "exec on a terminal", out)
    ctr("task", "exec", "--detach", "--exec-id", "e3", "one", "sleep", "60")
    pids = {line.split()[0] for line in ctr("task", "ps", "one").splitlines()[1:]}
    check(len(pids) >= 2 and str(ctr.state("one")["pid"]) in pids, "ps: init and the exec", pids)
    ctr("task", "pause", "one")
    check(ctr.status("one") == "PAUSED", "pause")
    ctr("task", "resume", "one")
    check(ctr.status("one") == "RUNNING", "resume")
    check("memory.usage_in_bytes" in ctr("task", "metrics", "one"), "metrics")
    ctr("task", "kill", "--signal", "TERM", "one")
    wait_for(lambda: ctr.status("one") == "STOPPED", what="the end of the task")
    out = ctr("task", "delete", "one", status=None)
    check("9" in out, "kill: the program's exit status", out)
    ctr("container", "delete", "one")
    ctr(*ctr.run("two", "sleep", "60", flags=("--detach",)))
    ctr("task", "delete", "--force", "two", status=None)
    ctr("container", "delete", "two")
    check(ctr.status("two") == "", "delete --force of a running container")


def failures(ctr: Ctr) -> None:
    """The shim finds the words in the runtime's log, which is JSON."""
    out = ctr(*ctr.run("bad", "/no/such", flags=("--rm",)), status=1)
    check("unable to start container process" in out and "no such file" in out, "the error of a create", out)
    ctr(*ctr.run("host", "sleep", "60", flags=("--detach",)))
    out = ctr("task", "exec", "--exec-id", "e", "host", "/no/such", status=1)
    check("unable to start container process" in out and "no such file" in out, "the error of an exec", out)
    ctr("task", "kill", "--signal", "KILL", "host")
    wait_for(lambda: ctr.status("host") == "STOPPED", what="the end of the task")
    ctr("task", "delete", "host", status=None)
    ctr("container", "delete", "host")


def out_of_memory(ctr: Ctr) -> None:
    events = ctr.machine.start(*ctr.command, "events", log="events.txt")
    heard = ctr.machine.home / "events.txt"
    # who asked for events gets them from some moment on: each try is an event, too
    wait_for(
        lambda: ctr("namespaces", "label", "default", "tried=yes") or heard.read_text(), what="the first of the events"
    )
    program = "until [ -e /go ]; do sleep 0.05; done; tail /dev/zero"
    flags = ("--rm", "--memory-limit", "32000000")
    main = ctr.machine.start(*ctr.command, *ctr.run("oom", "sh", "-c", program, flags=flags), log="oom.txt")
    # the shim begins to watch the cgroup after the start, and before it tells of it
    wait_for(lambda: "/tasks/start" in heard.read_text(), what="the event of the start")
    ctr("task", "exec", "--exec-id", "go", "oom", "touch", "/go")
    check(main.wait(60) == 137, "OOM: exit status", (ctr.machine.home / "oom.txt").read_text())
    wait_for(lambda: "/tasks/oom" in heard.read_text(), what="the event of the OOM")
    check('"exit_status":137' in heard.read_text(), "OOM: event")
    events.kill()
    events.wait()


if __name__ == "__main__":
    run_script(checks, ("containerd", "ctr", "containerd-shim-runc-v2"))
