"""Slurm calls the runtime: ``srun --container`` on two nodes, each in network and UTS namespaces of its own.

Slurm 22.05 (Debian 12) runs one container task on a node, gives none a terminal, and knows two ways (oci.conf(5)):
``RunTimeRun``, whose streams are the task's; and ``RunTimeCreate`` with ``RunTimeStart``. It reads the output of the
create to its end before it asks for the start, which with any runtime never comes while the container holds it, so
there the container's output goes to a file.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from caller import Machine, check, run_script, wait_for

from harness import busybox_tree

SLURM = """ClusterName=orlop
SlurmctldHost=control(10.77.0.1)
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool.%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
ReturnToService=2
KillWait=2
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
ID = "%n.%u.%j.%s.%t"
RUN = """CreateEnvFile=false
RunTimeQuery="{runtime} state {id}"
RunTimeRun="exec {runtime} run {id} -b %b"
RunTimeKill="{runtime} kill -a {id}"
RunTimeDelete="{runtime} delete --force {id}"
"""
CREATE = """CreateEnvFile=false
RunTimeQuery="{runtime} state {id}"
RunTimeCreate="{runtime} create {id} -b %b >{home}/out.%n.%j 2>&1"
RunTimeStart="{runtime} start {id}"
RunTimeKill="{runtime} kill -a {id}"
RunTimeDelete="{runtime} delete --force {id}"
"""
BUNDLE = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["replaced by slurm"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": name} for name in ("pid", "ipc", "mount")]},
}


class Cluster:
    """One controller and two nodes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.home = machine.home
        token = machine.name.rpartition("-")[2]
        self.nodes = (f"{token}a", f"{token}b")  # they name the containers' cgroups
        self.env = {"SLURM_CONF": f"{self.home}/etc/slurm.conf"}
        self.runtime = f"{machine.runtime} --root {self.home}/runtime"

    def configure(self, template: str) -> None:
        """Say how the runtime is called; read anew for each step."""
        text = template.format(runtime=self.runtime, home=self.home, id=ID)
        (self.home / "etc/oci.conf").write_text(text)

    def start(self) -> None:
        run, home = self.machine.run, self.home
        for name in ("etc", "state", *(f"spool.{node}" for node in self.nodes)):
            (home / name).mkdir()
        rows = [f"NodeName={node} NodeAddr=10.77.0.{n} CPUs=2" for n, node in enumerate(self.nodes, 11)]
        (home / "etc/slurm.conf").write_text(SLURM.format(home=home, nodes="\n".join(rows)))
        names = [f"10.77.0.{n} {node}\n" for n, node in enumerate(self.nodes, 11)]
        (home / "hosts").write_text("".join(["127.0.0.1 localhost\n10.77.0.1 control\n", *names]))
        run("mount", "--bind", home / "hosts", "/etc/hosts")
        run("hostname", "control")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        for number, node in enumerate(self.nodes, 11):
            self._start_node(number, node)
        self.machine.start("slurmctld", "-D", log="slurmctld.out.log", **self.env)
        wait_for(lambda: self._sinfo().count("idle") == 2, seconds=30, what="two idle nodes")

    def _start_node(self, number: int, node: str) -> None:
        run = self.machine.run
        ready = self.home / f"{node}.ready"
        script = f"hostname {node}; ip link set lo up; until [ -e {ready} ]; do sleep 0.05; done; exec slurmd -D"
        holder = self.machine.start(
            *("unshare", "--net", "--uts", "sh", "-c", script), log=f"slurmd-{node}.out.log", **self.env
        )
        mine = Path("/proc/self/ns/net").readlink()
        namespace = Path(f"/proc/{holder.pid}/ns/net")
        wait_for(lambda: namespace.readlink() != mine, what="the node's namespace")
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        run("ip", "link", "set", f"v{number}", "master", "br0", "up")
        inside = ("nsenter", "--net", "--target", str(holder.pid), "ip")
        run(*inside, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        ready.touch()

    def _sinfo(self) -> str:
        return self.machine.run("sinfo", "--noheader", "--Node", "--format", "%T", status=None, **self.env)

    def srun(self, *arguments: str, status: int | None = 0) -> str:
        """Run a step in containers."""
        flags = ("--container", f"{self.home}/bundle")
        out = self.machine.run("srun", *flags, *arguments, status=status, timeout=60, **self.env)
        self._settle()
        return out

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a step that goes on."""
        flags = ("--container", f"{self.home}/bundle")
        step = self.machine.start("srun", *flags, *arguments, log="srun.log", **self.env)
        wait_for(lambda: self.states() == ["running"] * 2, seconds=20, what="two running containers")
        return step

    def cancel(self, step: subprocess.Popen[bytes]) -> None:
        """Cancel all jobs and wait until nothing of them runs."""
        self.machine.run("scancel", "--user", "root", **self.env)
        step.wait(40)
        self._settle()

    def _settle(self) -> None:
        """Wait until nothing runs; a node may be idle before it has cleaned up."""
        wait_for(lambda: self._sinfo().count("idle") == 2, seconds=40, what="two idle nodes again")
        wait_for(lambda: not self.states(), seconds=40, what="the end of all containers")

    def states(self) -> list[str]:
        """Return the states of all containers, as the runtime tells them."""
        words = self.runtime.split()
        text = self.machine.run(*words, "list", "--format", "json", status=None)
        return [entry["status"] for entry in json.loads(text or "null") or []]


def checks(machine: Machine) -> None:
    bundle = machine.home / "bundle"
    busybox_tree(bundle / "rootfs")
    (bundle / "config.json").write_text(json.dumps(BUNDLE))
    cluster = Cluster(machine)
    cluster.start()
    cluster.configure(RUN)
    run(cluster)
    cluster.configure(CREATE)
    create(cluster)
    left: list[Path] = []

    def gone() -> bool:  # what list does not show, too: a delete may be at work yet
        left[:] = (machine.home / "runtime").glob("*")
        return not left

    with contextlib.suppress(TimeoutError):
        wait_for(gone, seconds=20)
    check(not left, "the runtime has no container", left)


def run(cluster: Cluster) -> None:
    out = cluster.srun("--nodes", "1", "sh", "-c", "ls /; echo $$; cat")
    check(out.split()[-1] == "1" and "tmp" in out.split(), "RunTimeRun: a container on one node", out)
    out = cluster.srun("--nodes", "2", "sh", "-c", "hostname")
    check(sorted(out.splitlines()) == sorted(cluster.nodes), "containers on two nodes", out)
    out = cluster.srun("--nodes", "2", "sh", "-c", "exit 7", status=7)
    check(out.count("Exited with exit code 7") == 2, "the program's exit status", out)
    out = cluster.srun("/no/such", status=1)
    check("no such file" in out, "the error of a run", out)
    step = cluster.begin("--nodes", "2", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    cluster.cancel(step)
    check(not cluster.states(), "scancel: SIGTERM ends the containers")
    step = cluster.begin("--nodes", "2", "sleep", "600")  # ignores SIGTERM, as pid 1 does
    cluster.cancel(step)
    check(not cluster.states(), "scancel: SIGKILL ends the containers")


def create(cluster: Cluster) -> None:
    cluster.srun("--nodes", "2", "sh", "-c", "echo created on $(hostname)")
    found = sorted(path.read_text().strip() for path in cluster.home.glob("out.*"))
    expected = sorted(f"created on {node}" for node in cluster.nodes)
    check(found == expected, "RunTimeCreate, RunTimeStart on two nodes", found)
    check(not cluster.states(), "RunTimeDelete")


if __name__ == "__main__":
    run_script(checks, ("slurmctld", "slurmd", "srun"))
