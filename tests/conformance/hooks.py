"""Checks of hooks: their order, what they are told, what becomes of their failures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from runtime import CONFIG, Runtime

from harness import wait_for

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], **more}


def log_directory(runtime: Runtime) -> Path:
    """A directory that hooks of the host find as ``{seen}/log`` and those in a container as ``/log``."""
    directory = runtime.home / "log"
    directory.mkdir(exist_ok=True)
    (runtime.home / "rootfs/log").mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    return directory


def log_mount(runtime: Runtime) -> dict[str, Any]:
    return {"destination": "/log", "type": "bind", "source": f"{runtime.seen}/log", "options": ["bind", "rw"]}


def recording_hooks(runtime: Runtime) -> dict[str, Any]:
    """Hooks that write the state they get, and where they are, to files of their names, in the order of ``order``."""
    hooks = {}
    for name in HOOKS:
        log = "/log" if name == "startContainer" else f"{runtime.seen}/log"
        script = f"cat > {log}/{name}; echo {name}-$N >> {log}/order; readlink /proc/self/ns/pid > {log}/{name}.pid"
        hooks[name] = [{**shell(script), "env": ["PATH=/usr/bin:/bin", f"N={number}"]} for number in (1, 2)]
    return hooks


def hooks_in_order(runtime: Runtime) -> None:
    log, early = log_directory(runtime), runtime.command[-1] == "runc"
    identity, bundle = runtime.bundle(
        *("sh", "-c", "echo program >> /log/order; sleep 600"),
        mounts=[*CONFIG["mounts"], log_mount(runtime)],
        hooks=recording_hooks(runtime),
        annotations={"com.example": "word"},
    )

    def order() -> list[str]:
        # runc executes poststart's when it creates; the specification says after the start
        words = (log / "order").read_text().split()
        return [word for word in words if not early or not word.startswith("poststart")]

    def state(name: str) -> dict[str, Any]:
        return json.loads((log / name).read_text())

    runtime.expect("create", "--bundle", bundle, identity)
    created = [f"{name}-{number}" for name in HOOKS[:3] for number in (1, 2)]
    assert order() == created, order()
    pid = runtime.state(identity)["pid"]
    for name in HOOKS[:3]:
        assert state(name)["id"] == identity
        assert state(name)["bundle"] == bundle
        assert state(name)["ociVersion"] == runtime.state(identity)["ociVersion"]
        assert state(name)["annotations"]["com.example"] == "word"
        # runc and crun differ in what "creating" is called; nobody says running
        assert state(name)["status"] in ("creating", "created")
    for name in HOOKS[:2]:
        assert state(name)["pid"] == pid
        assert (log / f"{name}.pid").read_text() == os.readlink("/proc/self/ns/pid") + "\n"
    own = os.readlink(f"/proc/{pid}/ns/pid") + "\n"
    assert (log / "createContainer.pid").read_text() == own
    runtime.expect("start", identity)
    wait_for(lambda: "program" in order() and (log / "poststart.pid").exists(), what="the program")
    started = [name for name in order() if not name.startswith("poststart")]
    assert started == [*created, "startContainer-1", "startContainer-2", "program"]
    assert (log / "startContainer.pid").read_text() == own
    assert state("startContainer")["status"] in ("created", "starting")
    assert state("poststart")["pid"] == pid
    assert early or state("poststart")["status"] == "running"
    assert not (log / "poststop").exists()
    runtime.expect("delete", "--force", identity)
    assert order()[-2:] == ["poststop-1", "poststop-2"]
    assert state("poststop")["status"] == "stopped"


def failing_hook_undoes_the_creation(runtime: Runtime) -> None:
    for name in HOOKS[:3]:
        log = log_directory(runtime)
        hooks = {
            name: [shell("exit 3"), shell(f"touch {runtime.seen}/log/second")],
            "poststop": [shell(f"touch {runtime.seen}/log/poststop")],
        }
        identity, bundle = runtime.bundle("true", hooks=hooks)
        runtime.refuses("create", "--bundle", bundle, identity)
        runtime.refuses("state", identity)
        assert not (log / "second").exists()


def slow_hook_is_stopped(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("true", hooks={"createRuntime": [shell("exec sleep 600", timeout=1)]})
    runtime.refuses("create", "--bundle", bundle, identity)  # within the time that a call has
    runtime.refuses("state", identity)


def failing_poststop_is_a_warning(runtime: Runtime) -> None:
    log = log_directory(runtime)
    hooks = {"poststop": [shell("exit 3"), shell(f"touch {runtime.seen}/log/second")]}
    identity, bundle = runtime.bundle("true", hooks=hooks)
    assert runtime("run", "--bundle", bundle, identity).returncode == 0
    assert (log / "second").exists()


def hooks_find_the_root(runtime: Runtime) -> None:
    """A prestart hook that enters the mount namespace finds the container's root where config.json says."""
    script = (
        "pid=$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p' | head -n 1);"
        f"nsenter --target $pid --mount sh -c 'echo put > {runtime.seen}/rootfs/tmp/put'"
    )
    identity, bundle = runtime.bundle("cat", "/tmp/put", hooks={"createRuntime": [shell(script)]})
    done = runtime("run", "--bundle", bundle, identity)
    assert done.stdout == "put\n", done.stderr
    assert not (runtime.home / "rootfs/tmp/put").exists()


HOOK_CHECKS = (
    hooks_in_order,
    failing_hook_undoes_the_creation,
    slow_hook_is_stopped,
    failing_poststop_is_a_warning,
    hooks_find_the_root,
)
