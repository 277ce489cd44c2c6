"""What labels do, on a machine with SELinux; run in it by ``test_selinux.py``.

The policy is ``tests/data/selinux/policy.cil``, compiled by ``secilc -M false -o policy -f /dev/null policy.cil``. It is
permissive and knows three types: what a label does is seen by reading it back.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance"))

from runtime import CONFIG, Runtime, orlop_runtime

POLICY = Path(__file__).resolve().parents[1] / "data/selinux/policy"
HOST, PROGRAM, FILES = (f"u:r:{kind}" for kind in ("host_t", "container_t", "container_file_t"))
# no_new_privs refuses a change of type which the policy does not bound
LABELLED = {"process__selinuxLabel": PROGRAM, "process__noNewPrivileges": False}
READ = "cat /proc/self/attr/current"


def without_selinux(runtime: Runtime) -> None:
    """Before there is a policy: labels are refused, not ignored."""
    for changes in ({"process__selinuxLabel": PROGRAM}, {"linux__mountLabel": FILES}):
        done = runtime.run("true", **changes)
        assert done.returncode == 1, done
        assert "SELinux is not supported on this host, but a label is set" in done.stderr, done


def labels(runtime: Runtime) -> None:
    """The program's label, and that of every file system that is made for the container."""
    mqueue = {
        "destination": "/dev/mqueue",
        "type": "mqueue",
        "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    }
    done = runtime.run(
        f"{READ}; echo; cat /proc/self/mountinfo",
        **LABELLED,
        linux__mountLabel=FILES,
        mounts=[*CONFIG["mounts"], mqueue],
    )
    assert done.returncode == 0, done
    label, *mounts = done.stdout.replace("\0", "").splitlines()
    assert label == PROGRAM, done
    labelled = {line.split()[4] for line in mounts if f"context={FILES}" in line}
    assert labelled == {"/dev", "/dev/pts", "/tmp"}, done.stdout
    with runtime.running(**LABELLED, linux__mountLabel=FILES, mounts=[*CONFIG["mounts"], mqueue]) as identity:
        queues = f"/proc/{runtime.state(identity)['pid']}/root/dev/mqueue"
        assert os.getxattr(queues, "security.selinux").rstrip(b"\0").decode() == FILES
    assert runtime.run(READ).stdout.strip("\0\n") == HOST


def execs(runtime: Runtime) -> None:
    """An exec has the container's label, or the one that it is given."""
    with runtime.running(**LABELLED) as identity:
        for flags, expected in (((), PROGRAM), (("--process-label", FILES), FILES)):
            assert runtime.expect("exec", *flags, identity, "sh", "-c", READ).strip("\0\n") == expected
        runtime.refuses(
            "exec", "--process-label", "u:r:nosuch_t", identity, "true", words="unable to set SELinux exec label"
        )


def unknown_labels(runtime: Runtime) -> None:
    for changes, words in (
        ({"process__selinuxLabel": "u:r:nosuch_t"}, "unable to set SELinux exec label"),
        ({"linux__mountLabel": "u:r:nosuch_t"}, "context, u:r:nosuch_t): invalid argument"),
    ):
        done = runtime.run("true", **changes)
        assert done.returncode == 1, done
        assert words in done.stderr, done


def main() -> None:
    """Do all, in order."""
    with orlop_runtime() as runtime:
        without_selinux(runtime)
        print("passed: without_selinux", flush=True)
        Path("/sys/fs/selinux/load").write_bytes(POLICY.read_bytes())
        for check in (labels, execs, unknown_labels):
            check(runtime)
            print(f"passed: {check.__name__}", flush=True)


if __name__ == "__main__":
    main()
