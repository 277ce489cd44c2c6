"""What every OCI runtime's command line does beyond the life of a container: streams, terminals, limits, listings.

As in ``runtime.py`` a check that runc and crun fail is wrong. Where the two differ only what both do is asserted;
:data:`DIFFERS` names what a peer does not have, or does otherwise than runc and orlop-runtime.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

from limits import LIMITS
from processes import PROCESSES
from runtime import Runtime

from harness import wait_for

DIFFERS = {
    "crun": {
        # no such command or flag
        *("events", "out_of_memory_event", "exec_in_paused", "exec_groups", "update_from_stdin", "exec_sub_cgroups"),
        # what it could not hand over runs on
        "failed_exec_is_over",
        # an exec has the runtime's score
        "exec_has_the_score",
        # takes only the limit of memory away, which the kernel refuses
        "update_unlimited",
        # it has none for a container
        "closed_streams",
        # its log has other levels
        "debug",
        # a frozen container stays so, and resuming a running one is no error
        *("kill_paused", "pause_refusals"),
        # needs libcriu, which Debian's peers do not have; a failed restore keeps the name
        *("checkpoint_restore", "checkpoint_paused", "checkpoint_refusals"),
        "restore_executes_hooks",
        # create does not look whether the program can be executed by the container's user
        "forbidden_program",
    },
}


def signals(runtime: Runtime) -> None:
    program = "trap 'echo usr1 > /tmp/seen' USR1; trap 'exit 4' TERM; echo up > /tmp/up; while :; do sleep 0.05; done"
    with runtime.running("sh", "-c", program) as identity:
        wait_for(lambda: runtime("exec", identity, "cat", "/tmp/up").returncode == 0, what="the program")
        for name in ("USR1", "SIGUSR1", str(int(signal.SIGUSR1))):
            runtime.expect("exec", identity, "rm", "-f", "/tmp/seen")
            runtime.expect("kill", identity, name)
            wait_for(lambda: runtime("exec", identity, "cat", "/tmp/seen").stdout == "usr1\n", what=name)
        runtime.refuses("kill", identity, "NONSENSE")
        runtime.expect("kill", identity)
        runtime.wait(identity, "stopped")


def kill_paused(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("pause", identity)
        runtime.expect("kill", identity, "KILL")
        runtime.wait(identity, "stopped")


def delete_paused(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("pause", identity)
        runtime.expect("delete", "--force", identity)
        runtime.refuses("state", identity)


def pause_refusals(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.refuses("resume", identity)
        runtime.expect("pause", identity)
        runtime.refuses("pause", identity)
        runtime.refuses("delete", identity)
        runtime.refuses("start", identity)


def ps(runtime: Runtime) -> None:
    with runtime.running("sh", "-c", "sleep 62 & sleep 63 & wait") as identity:
        wait_for(lambda: len(json.loads(runtime.expect("ps", "--format", "json", identity))) == 3, what="3 processes")
        pids = json.loads(runtime.expect("ps", "-f", "json", identity))
        table = runtime.expect("ps", identity)
        assert "PID" in table.splitlines()[0]
        assert all(str(pid) in table for pid in pids)
        runtime.refuses("ps", "--format", "yaml", identity)


def listing_formats(runtime: Runtime) -> None:
    with runtime.running() as identity:
        state = runtime.state(identity)
        table = runtime.expect("list").splitlines()
        assert [word.upper() for word in table[0].split()][:3] == [*("ID", "PID"), "STATUS"] or "NAME" in table[0]
        row = next(line.split() for line in table if identity in line)
        assert row[:3] == [identity, str(state["pid"]), "running"]
        entries = json.loads(runtime.expect("list", "-f", "json"))
        entry = next(entry for entry in entries if entry["id"] == identity)
        for key in ("id", "pid", "status", "bundle"):
            assert entry[key] == state[key]
        assert "owner" in entry
        assert "created" in entry


def state_document(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle(annotations={"com.example.key": "value"})
    runtime.expect("create", "--bundle", bundle, identity)
    state = runtime.state(identity)
    assert state["annotations"]["com.example.key"] == "value"
    assert state["rootfs"] == f"{runtime.seen}/rootfs"
    assert state["created"].endswith("Z")
    runtime.expect("start", identity)
    runtime.expect("kill", identity, "KILL")
    runtime.wait(identity, "stopped")
    assert runtime.state(identity).get("pid", 0) == 0
    runtime.expect("delete", identity)


def specification(runtime: Runtime) -> None:
    directory = runtime.home / "spec"
    for flags in ((), ("--rootless",)):
        directory.mkdir()
        runtime.expect("spec", *flags, "--bundle", f"{runtime.seen}/spec")
        config = json.loads((directory / "config.json").read_text())
        kinds = {namespace["type"] for namespace in config["linux"]["namespaces"]}
        assert kinds >= {"pid", "ipc", "uts", "mount"}
        assert ("user" in kinds) == bool(flags)
        assert config["process"]["args"] == ["sh"]
        runtime.refuses("spec", *flags, "--bundle", f"{runtime.seen}/spec")
        if not flags:
            _run_specification(runtime, config)
        (directory / "config.json").unlink()
        directory.rmdir()


def _run_specification(runtime: Runtime, config: dict[str, Any]) -> None:
    """A specification as the runtime writes it is one that it runs."""
    identity, bundle = runtime.bundle()
    config["process"].update(terminal=False, args=["sh", "-c", "cat /proc/self/mountinfo"])
    config["root"]["path"] = f"{runtime.seen}/rootfs"
    config["linux"]["cgroupsPath"] = f"{runtime.parent}/{identity}"
    (runtime.home / identity / "config.json").write_text(json.dumps(config))
    for directory in ("sys", "dev", "proc"):
        (runtime.home / "rootfs" / directory).mkdir(exist_ok=True)
    mounts = {line.split()[4]: line.split()[5] for line in runtime.expect("run", "-b", bundle, identity).splitlines()}
    assert {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"} <= set(mounts), set(mounts)
    assert mounts["/proc/sys"].startswith("ro")
    assert mounts["/"].startswith("ro")


def features(runtime: Runtime) -> None:
    document = json.loads(runtime.expect("features"))
    assert document["ociVersionMin"].startswith("1.")
    assert document["ociVersionMax"].startswith("1.")
    assert set(document["hooks"]) >= {"prestart", "createRuntime", "createContainer", "startContainer"}
    assert {"bind", "ro", "rprivate"} <= set(document["mountOptions"])
    linux = document["linux"]
    assert set(linux["namespaces"]) >= {"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}
    assert "CAP_SYS_ADMIN" in linux["capabilities"]
    assert linux["cgroup"]["v1"] is True
    assert linux["cgroup"]["v2"] is True
    assert linux["seccomp"]["enabled"] is True
    assert {"SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"} <= set(linux["seccomp"]["actions"])


def logs(runtime: Runtime) -> None:
    log = runtime.home / "log.json"
    done = runtime("--log", f"{runtime.seen}/log.json", "--log-format", "json", "state", "none")
    assert done.returncode != 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["level"] for entry in entries][-1] == "error"
    assert entries[-1]["msg"]
    assert entries[-1]["time"].startswith("20")
    identity, bundle = runtime.bundle("/no/such")
    runtime("--log", f"{runtime.seen}/log.json", "--log-format=json", "create", "--bundle", bundle, identity)
    words = [json.loads(line)["msg"] for line in log.read_text().splitlines()]
    assert any("no such file or directory" in text.lower() for text in words)
    log.unlink()


def debug(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("true")
    assert "level=debug" in runtime("--debug", "run", "--bundle", bundle, identity).stderr


def errors(runtime: Runtime) -> None:
    """One line, and a status other than 0."""
    for line in (
        *(("start", "none"), ("kill", "none", "TERM"), ("delete", "none"), ("pause", "none"), ("resume", "none")),
        *(("ps", "none"), ("update", "--pids-limit", "5", "none"), ("exec", "none", "true"), ("state", "none")),
        *(("start",), ("state",), ("kill",), ("delete",), ("nonsense",), ("state", "--nonsense", "none")),
        *(("create", "../escape"), ("run", "--bundle", "/nonexistent", "none")),
    ):
        done = runtime(*line)
        assert done.returncode != 0, line
        assert done.stderr.strip(), line
    runtime.expect("list")
    runtime.expect("--version")


def closed_streams(runtime: Runtime) -> None:
    """Who closes the standard streams gets an answer by the status, and a container that has all three."""
    with runtime.running() as identity:
        for closing in ("exec >&-;", "exec 2>&-;", "exec <&- >&- 2>&-;"):
            for words in (["state", identity], ["list"], ["ps", identity], ["features"]):
                done = runtime(*words, setting=closing)
                assert (done.returncode, done.stderr) == (0, ""), (words, closing, done)
            assert runtime("state", "missing", setting=closing).returncode == 1
    for closing in ("exec <&-;", "exec <&- 2>&-;", "exec <&- >&- 2>&-;"):
        identity, bundle = runtime.bundle("sh", "-c", "cd /proc/$$/fd && test -e 0 && test -e 1 && test -e 2 && exit 7")
        assert runtime("run", "--bundle", bundle, identity, setting=closing).returncode == 7, closing


def identities(runtime: Runtime) -> None:
    """What a container may be called, which is also the name of a directory."""
    _, bundle = runtime.bundle()
    for name in ("_", "-x", "A+b.c_d-e", "0", "a" * 200):  # crun names a keyring so: none begins with a dot
        runtime.expect("create", "--bundle", bundle, "--", name)
        try:
            assert json.loads(runtime.expect("state", "--", name))["id"] == name
        finally:
            runtime.expect("delete", "--force", "--", name)
    for name in ("", ".", "..", "a/b", "/a"):
        runtime.refuses("create", "--bundle", bundle, "--", name)
        runtime.refuses("state", "--", name)


def bundles(runtime: Runtime) -> None:
    """Relative, the current directory, and through a symbolic link, as --root may be."""
    identity, bundle = runtime.bundle("sh", "-c", "pwd")
    (runtime.home / "linked").symlink_to(identity)
    (runtime.home / "roots").symlink_to("state")
    for place, named in ((runtime.seen, identity), (bundle, ""), (runtime.seen, f"./{identity}/"), ("/", bundle)):
        flags = ("--bundle", named) if named else ()
        assert runtime.expect("run", *flags, identity, setting=f"cd {place} && ") == "/\n"
    runtime.expect("create", "--bundle", f"{runtime.seen}/linked", identity)
    (state,) = (entry for entry in json.loads(runtime.expect("list", "-f", "json")) if entry["id"] == identity)
    assert state["bundle"] in (bundle, f"{runtime.seen}/linked")
    runtime.expect("--root", f"{runtime.seen}/roots", "delete", "--force", identity)
    runtime.refuses("state", identity)


def log_files(runtime: Runtime) -> None:
    """A log is made before anything is done; where it cannot be, nothing is."""
    identity, bundle = runtime.bundle()
    runtime.refuses("--log", "/nonexistent/log", "create", "--bundle", bundle, identity, words="/nonexistent/log")
    runtime.refuses("state", identity)
    runtime.expect("--log", f"{runtime.seen}/kept", "list")
    assert (runtime.home / "kept").read_text() == ""
    (runtime.home / "kept").unlink()


def forbidden_program(runtime: Runtime) -> None:
    """What the container's user may not execute is told by create, not by a container that ends at once."""
    program = runtime.home / "rootfs/forbidden"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    identity, bundle = runtime.bundle("/forbidden", process__user={"uid": 1000, "gid": 1000}, process__capabilities={})
    runtime.refuses("create", "--bundle", bundle, identity)
    runtime.refuses("state", identity)
    program.unlink()


NEED_CRIU = {"checkpoint_restore", "checkpoint_paused", "restore_executes_hooks"}
COMMANDS: dict[str, Callable[[Runtime], None]] = {
    check.__name__: check
    for check in (
        *PROCESSES,
        *LIMITS,
        *(signals, kill_paused, delete_paused, pause_refusals),
        *(ps, listing_formats, state_document, identities, bundles, log_files),
        *(specification, features, logs, debug, errors, forbidden_program, closed_streams),
    )
}
