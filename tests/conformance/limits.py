"""Checks of update, events, checkpoint and restore."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hooks import log_directory, shell
from runtime import Runtime

from harness import PATIENCE, wait_for


def update(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("update", "--cpu-share", "300", "--pids-limit", "20", identity)
        runtime.expect("update", "--cpu-period", "50000", "--cpu-quota", "20000", "--cpuset-cpus", "0", identity)
        runtime.expect("update", "--memory", str(64 << 20), "--memory-reservation", str(32 << 20), identity)
        found = {
            name: limit(runtime, identity, name)
            for name in (
                *("cpu.shares", "pids.max", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpuset.cpus"),
                *("memory.limit_in_bytes", "memory.soft_limit_in_bytes"),
            )
        }
        assert found == {
            "cpu.shares": "300",
            "pids.max": "20",
            "cpu.cfs_period_us": "50000",
            "cpu.cfs_quota_us": "20000",
            "cpuset.cpus": "0",
            "memory.limit_in_bytes": str(64 << 20),
            "memory.soft_limit_in_bytes": str(32 << 20),
        }
        runtime.expect("update", "--memory", str(96 << 20), identity)
        assert limit(runtime, identity, "memory.limit_in_bytes") == str(96 << 20)
        runtime.refuses("update", "--memory", "many", identity)
        runtime.refuses("update", "--cpuset-cpus", "4096", identity)
        assert limit(runtime, identity, "cpuset.cpus") == "0"
        runtime.expect("kill", identity, "KILL")
        runtime.wait(identity, "stopped")


def update_unlimited(runtime: Runtime) -> None:
    """A limit of memory and swap goes with that of memory."""
    with runtime.running() as identity:
        runtime.expect("update", "--memory", str(96 << 20), "--memory-swap", str(96 << 20), identity)
        assert limit(runtime, identity, "memory.memsw.limit_in_bytes") == str(96 << 20)
        runtime.expect("update", "--memory", "-1", identity)
        assert int(limit(runtime, identity, "memory.limit_in_bytes")) > 1 << 60
        assert int(limit(runtime, identity, "memory.memsw.limit_in_bytes")) > 1 << 60


def limit(runtime: Runtime, identity: str, name: str) -> str:
    """Return what the kernel has."""
    return next(Path("/sys/fs/cgroup").glob(f"*{runtime.parent}/{identity}/{name}")).read_text().strip()


def update_from_file(runtime: Runtime) -> None:
    resources = {"memory": {"limit": 80 << 20}, "cpu": {"shares": 500}, "pids": {"limit": 33}}
    (runtime.home / "resources.json").write_text(json.dumps(resources))
    with runtime.running() as identity:
        runtime.expect("update", "--resources", f"{runtime.seen}/resources.json", identity)
        assert limit(runtime, identity, "memory.limit_in_bytes") == str(80 << 20)
        assert limit(runtime, identity, "cpu.shares") == "500"
        assert limit(runtime, identity, "pids.max") == "33"
        runtime.refuses("update", "--resources", f"{runtime.seen}/missing.json", identity)


def update_from_stdin(runtime: Runtime) -> None:
    (runtime.home / "resources.json").write_text('{"cpu": {"shares": 700}}')
    with runtime.running() as identity, (runtime.home / "resources.json").open() as stdin:
        runtime.expect("update", "-r", "-", identity, stdin=stdin)
        assert limit(runtime, identity, "cpu.shares") == "700"


def events(runtime: Runtime) -> None:
    with runtime.running("sh", "-c", "while :; do sleep 0.01; done") as identity:
        event = json.loads(runtime.expect("events", "--stats", identity))
        assert (event["type"], event["id"]) == ("stats", identity)
        data = event["data"]
        assert set(data) >= {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"}
        assert data["cpu"]["usage"]["total"] > 0
        assert set(data["memory"]) >= {"usage", "swap", "raw"}
        assert data["memory"]["usage"]["usage"] > 0
        assert data["pids"]["current"] >= 1
        with (runtime.home / "events").open("w") as output:
            follow = subprocess.Popen(
                runtime.line("events", "--interval", "100ms", identity), stdin=subprocess.DEVNULL, stdout=output
            )
        wait_for(lambda: (runtime.home / "events").read_text().count("\n") >= 3, what="three events")
        runtime.expect("delete", "--force", identity)
        follow.wait(10 * PATIENCE)
        lines = (runtime.home / "events").read_text().splitlines()
        assert {json.loads(line)["type"] for line in lines[:3]} == {"stats"}
    runtime.refuses("events", "--stats", identity)
    runtime.refuses("events", "--interval", "0s", identity)


def out_of_memory_event(runtime: Runtime) -> None:
    resources = {"memory": {"limit": 32 << 20, "swap": 32 << 20}}
    identity, bundle = runtime.bundle("tail", "/dev/zero", linux__resources=resources)
    runtime.expect("create", "--bundle", bundle, identity)
    with (runtime.home / "events").open("w") as output:
        follow = subprocess.Popen(
            runtime.line("events", "--interval", "100ms", identity), stdin=subprocess.DEVNULL, stdout=output
        )
    try:
        wait_for(lambda: '"stats"' in (runtime.home / "events").read_text(), what="the first event")
        runtime.expect("start", identity)
        wait_for(lambda: '"oom"' in (runtime.home / "events").read_text(), what="the event")
    finally:
        runtime("delete", "--force", identity)
        follow.wait(10 * PATIENCE)


def checkpoint_restore(runtime: Runtime) -> None:
    """The restored program goes on where it was: with its memory and its tmpfs."""
    program = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.01; done"
    identity, bundle = runtime.bundle("sh", "-c", program)
    reader, writer = os.pipe()  # runc's containers cannot be written down with a file of the host open
    create = runtime.line("create", "--bundle", bundle, identity)
    assert subprocess.run(create, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=False).returncode == 0
    runtime.expect("start", identity)
    wait_for(lambda: count(runtime, identity) > 60, what="the program at work")
    before = count(runtime, identity)
    runtime.expect("checkpoint", "--leave-running", "--image-path", f"{runtime.seen}/first", identity, timeout=60)
    assert runtime.state(identity)["status"] == "running"
    runtime.expect("checkpoint", "--image-path", f"{runtime.seen}/images", identity, timeout=60)
    assert not runtime.state(identity)["pid"] if runtime("state", identity).returncode == 0 else True
    runtime("delete", "--force", identity)
    flags = ("--detach", "--image-path", f"{runtime.seen}/images", "--pid-file", f"{runtime.seen}/restored.pid")
    restore = runtime.line("restore", *flags, "--bundle", bundle, identity)
    assert subprocess.run(restore, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=False).returncode == 0
    os.close(writer)
    try:
        state = runtime.state(identity)
        assert state["status"] == "running"
        assert state["pid"] == int((runtime.home / "restored.pid").read_text())
        # the file is empty now and then, as the shell writes it anew
        wait_for(lambda: count(runtime, identity) >= before, what="the program that goes on")
        after = count(runtime, identity)
        wait_for(lambda: count(runtime, identity) > after, what="the restored program at work")
        top = Path("/sys/fs/cgroup/memory")
        procs = (top if top.is_dir() else top.parent) / runtime.parent.strip("/") / identity / "cgroup.procs"
        assert str(state["pid"]) in procs.read_text().split()
    finally:
        runtime("delete", "--force", identity)
    os.close(reader)
    runtime.refuses("state", identity)


@contextlib.contextmanager
def checkpointed(runtime: Runtime, *flags: str, **changes: Any) -> Iterator[tuple[str, Callable[..., int]]]:
    """A container that was checkpointed with flags; yields its id and a function that restores it and returns its status."""
    identity, bundle = runtime.bundle(**changes)
    reader, writer = os.pipe()  # runc's containers cannot be written down with a file of the host open

    def call(*arguments: str) -> int:
        line = runtime.line(*arguments)
        return subprocess.run(line, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=False).returncode

    images = ("--image-path", f"{runtime.seen}/{identity}.images")
    try:
        assert call("run", "--detach", "--bundle", bundle, identity) == 0
        runtime.expect("checkpoint", *images, *flags, identity, timeout=60)
        runtime("delete", "--force", identity)
        yield identity, lambda *more: call("restore", "--detach", *images, *more, "--bundle", bundle, identity)
    finally:
        runtime("delete", "--force", identity)
        os.close(writer)
        os.close(reader)


def restore_executes_hooks(runtime: Runtime) -> None:
    """prestart and createRuntime, on the host, when criu has made the namespaces; a failing one undoes the restore."""
    log = log_directory(runtime)
    script = f"cat > {runtime.seen}/log/$N; readlink /proc/self/ns/mnt > {runtime.seen}/log/$N.mnt; exit $(cat {runtime.seen}/log/code)"
    hooks = {
        name: [{**shell(script), "env": ["PATH=/usr/bin:/bin", f"N={name}"]}] for name in ("prestart", "createRuntime")
    }
    (log / "code").write_text("0")
    with checkpointed(runtime, hooks=hooks) as (identity, restored):
        created = json.loads((log / "createRuntime").read_text())
        mount = (log / "createRuntime.mnt").read_text()
        (log / "code").write_text("3")
        assert restored() != 0
        runtime.refuses("state", identity)
        (log / "code").write_text("0")
        assert restored() == 0
        pid = runtime.state(identity)["pid"]
        for name in hooks:
            state = json.loads((log / name).read_text())
            assert (state["id"], state["pid"]) == (identity, pid)
            assert state["bundle"] == created["bundle"]
            assert (log / f"{name}.mnt").read_text() == mount


def lazy_restore(runtime: Runtime) -> None:
    """The memory stays where the checkpoint is made until the restored program, elsewhere, asks for it.

    Not for every machine: criu 4.1 on Linux 6.18 serves no page, whoever calls it ("splice: Bad file descriptor").
    """
    identity, bundle = runtime.bundle("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done")
    other, other_bundle = runtime.bundle()
    reader, writer = os.pipe()
    told, tell = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    images = ("--image-path", f"{runtime.seen}/lazy")
    server = ("--page-server", f"127.0.0.1:{port}", "--status-fd", str(tell))
    daemon = [*(runtime.command[:-1] if runtime.command[1:2] == ["exec"] else ()), *(runtime.settings[1:] or ["criu"])]
    streams = {"stdin": subprocess.DEVNULL, "stdout": writer, "stderr": writer}
    started = []
    try:
        assert subprocess.run(runtime.line("run", "-d", "-b", bundle, identity), check=False, **streams).returncode == 0
        wait_for(lambda: count(runtime, identity) > 20, what="the program at work")
        before = count(runtime, identity)
        line = runtime.line("checkpoint", "--lazy-pages", *server, *images, identity)
        started.append(subprocess.Popen(line, pass_fds=[tell], **streams))
        os.close(tell)
        assert os.read(told, 1) == b"\0", "nobody told that the pages can be fetched"
        pages = ["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", str(port)]
        started.append(subprocess.Popen([*daemon, *pages, "-D", f"{runtime.seen}/lazy"], **streams))
        wait_for(lambda: (runtime.home / "lazy/lazy-pages.socket").exists(), what="criu lazy-pages")
        restore = runtime.line("restore", "--detach", "--lazy-pages", *images, "--bundle", other_bundle, other)
        assert subprocess.run(restore, check=False, **streams).returncode == 0
        for process in started:
            assert process.wait(20 * PATIENCE) == 0
        wait_for(lambda: count(runtime, other) >= before, what="the program that goes on")
    finally:
        for process in started:
            process.kill()
            process.wait()
        for name in (other, identity):
            runtime("delete", "--force", name)
        for fd in (reader, writer, told):
            os.close(fd)


def checkpoint_paused(runtime: Runtime) -> None:
    """A frozen container can be written down, and stays frozen."""
    identity, bundle = runtime.bundle()
    reader, writer = os.pipe()
    create = runtime.line("create", "--bundle", bundle, identity)
    assert subprocess.run(create, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=False).returncode == 0
    os.close(writer)
    os.close(reader)
    runtime.expect("start", identity)
    runtime.expect("pause", identity)
    runtime.expect("checkpoint", "--leave-running", "--image-path", f"{runtime.seen}/paused", identity, timeout=60)
    assert runtime.state(identity)["status"] == "paused"
    runtime.expect("delete", "--force", identity)


def count(runtime: Runtime, identity: str) -> int:
    """Return how far the program is."""
    return int(runtime("exec", identity, "cat", "/tmp/count").stdout or 0)


def checkpoint_refusals(runtime: Runtime) -> None:
    runtime.refuses("checkpoint", "none")
    identity, bundle = runtime.bundle()
    runtime.refuses("restore", "--image-path", f"{runtime.seen}/nonexistent", "--bundle", bundle, identity)
    runtime.refuses("state", identity)
    runtime.expect("create", "--bundle", bundle, identity)
    runtime.refuses("restore", "--image-path", runtime.seen, "--bundle", bundle, identity)
    runtime.refuses("checkpoint", "--image-path", f"{runtime.seen}/refused", identity)
    runtime.expect("delete", "--force", identity)
    assert not list(Path("/sys/fs/cgroup").glob(f"*{runtime.parent}/{identity}"))


LIMITS = (
    *(update, update_unlimited, update_from_file, update_from_stdin, events, out_of_memory_event),
    *(checkpoint_restore, restore_executes_hooks, checkpoint_paused, checkpoint_refusals),
)
