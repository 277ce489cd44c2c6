"""Rows of threats.md that are races: somebody who shares a volume or a root exchanges names while a container is made.

Each round is a container of some milliseconds through the spawner; whatever it comes to, nothing may be made, mounted
or written outside of its root.
"""

import os
import select

import pytest
from hostile import Swapper
from test_root_file_system import bind, in_shell

from harness import PATIENCE, busybox_tree
from spawned import Runtime

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "busybox")]

ROUNDS = 60


@pytest.fixture
def runtime(tmp_path):
    (tmp_path / "rt").mkdir()
    made = Runtime(tmp_path / "rt", busybox_tree(tmp_path / "root"))
    yield made
    made.close()


def outcome(runtime, config, **launch) -> str:
    """Launch, wait for the end; returns "ran" or the message."""
    process, _ = runtime.launch(config, **launch)
    message = ""
    while True:
        assert select.select([process.control], [], [], 10 * PATIENCE)[0], "neither an end nor a failure"
        got = process.control.receive()
        if got is None:
            break
        for fd in got[1]:
            fd.close()
        if got[0].get("event") == "failed":
            message = got[0]["error"]["message"]
        elif got[0].get("event") == "exit":
            message = "ran"
            break
    process.control.close()
    runtime.processes.remove(process)
    return message


def race(runtime, config, swapper: Swapper, rounds: int = ROUNDS) -> set[str]:
    """Run the rounds; returns the kinds of outcomes."""
    outcomes = {outcome(runtime, config) for _ in range(rounds)}
    assert swapper.swaps > rounds, "nothing was raced"
    return outcomes


@pytest.mark.parametrize("link", ["absolute", "relative"])
def test_the_target_of_a_mount_is_exchanged(runtime, tmp_path, outside, link) -> None:  # B1, B7; CVE-2021-30465
    """A tmpfs on /vol/target/deep: its parent is a directory now and a link out of the volume then."""
    volume = tmp_path / "volume"
    (volume / "target").mkdir(parents=True)
    up = "../" * 12 if link == "relative" else ""
    (volume / "other").symlink_to(f"{up}{str(outside).lstrip('/') if up else outside}")
    tmpfs = {"destination": "/vol/target/deep/er", "type": "tmpfs", "source": "tmpfs", "options": []}
    config = in_shell(runtime, "echo x >/vol/target/deep/er/file", mounts=[bind(volume, "/vol"), tmpfs])
    with Swapper(volume / "target", volume / "other") as swapper:
        outcomes = race(runtime, config, swapper)
    assert "ran" in outcomes


def test_the_target_of_a_file_is_exchanged(runtime, tmp_path, outside) -> None:  # B7, B10; CVE-2024-45310
    """As the engine's /etc/hosts, onto a name in a volume that is a link to a file of the host half of the time."""
    volume, source = tmp_path / "volume", tmp_path / "source"
    volume.mkdir()
    source.write_text("of the engine")
    (volume / "hosts").write_text("")
    (volume / "other").symlink_to(outside / "made")
    config = in_shell(runtime, "echo x >>/vol/hosts", mounts=[bind(volume, "/vol"), bind(source, "/vol/hosts", "ro")])
    with Swapper(volume / "hosts", volume / "other") as swapper:
        outcomes = race(runtime, config, swapper)
    assert "ran" in outcomes
    assert source.read_text() == "of the engine"


@pytest.mark.parametrize("link", ["absolute", "relative"])
def test_the_part_of_a_volume_is_exchanged(runtime, tmp_path, outside, link) -> None:  # B17; CVE-2024-11218
    volume, out = tmp_path / "volume", tmp_path / "out"
    (volume / "part").mkdir(parents=True)
    (volume / "part/file").write_text("of the volume")
    out.mkdir()
    up = "../" * 12 if link == "relative" else ""
    (volume / "other").symlink_to(f"{up}{str(outside).lstrip('/') if up else outside}")
    mounts = [bind(volume, "/data", "x-orlop.subpath=part"), bind(out, "/out")]
    config = in_shell(runtime, "cat /data/file >$(mktemp /out/XXXXXX)", mounts=mounts)
    with Swapper(volume / "part", volume / "other") as swapper:
        outcomes = race(runtime, config, swapper, 40)
    assert "ran" in outcomes
    assert {path.read_text() for path in out.iterdir()} == {"of the volume"}


def test_a_mount_is_led_over_proc(runtime, tmp_path) -> None:  # B3, B6; CVE-2025-52881
    """A writable volume that comes to lie over /proc would take what the runtime and the kernel say there."""
    volume = tmp_path / "volume"
    (volume / "target").mkdir(parents=True)
    (volume / "other").symlink_to("/proc")
    script = "grep -c . /proc/self/status >$(mktemp /out/XXXXXX)"
    out = tmp_path / "out"
    out.mkdir()
    mounts = [bind(volume, "/vol"), bind(volume, "/vol/target"), bind(out, "/out")]
    config = in_shell(runtime, script, mounts=mounts, sysctl={"net.ipv4.ip_unprivileged_port_start": "77"})
    with Swapper(volume / "target", volume / "other") as swapper:
        outcomes = race(runtime, config, swapper)
    assert "ran" in outcomes
    refused = {text for text in outcomes if text != "ran"}
    assert all("inside /proc" in text or "too many levels" in text.lower() or "EAGAIN" in text for text in refused)
    ran = list(out.iterdir())
    assert ran
    assert all(int(path.read_text() or 0) > 30 for path in ran), "a program saw another /proc"
    for name in ("target", "other"):
        assert (volume / name).is_symlink() or list((volume / name).iterdir()) == []


def test_proc_itself_is_exchanged_in_a_shared_root(runtime, tmp_path, outside) -> None:  # B2, B4; CVE-2023-27561
    """Wherever the directory that was mounted on is by then: what hides parts of procfs is there as well."""
    root = runtime.root
    (root / "other").symlink_to("/tmp")
    out = tmp_path / "out"
    out.mkdir()
    script = "f=/out/$(cat /*/sys/kernel/random/uuid); cat /*/self/mountinfo >$f"
    config = in_shell(
        runtime, script, mounts=[bind(out, "/out")], maskedPaths=["/proc/interrupts"], readonlyPaths=["/proc/sys"]
    )
    with Swapper(root / "proc", root / "other") as swapper:
        outcomes = race(runtime, config, swapper)
    assert outcomes & {"ran"}
    files = [path for path in out.iterdir() if path.read_text()]
    assert files
    for path in files:
        mounts = [line.split() for line in path.read_text().splitlines()]
        places = {mount[4] for mount in mounts if mount[3] == "/" and "proc" in mount[7:]}
        assert places
        assert places <= {"/proc", "/other"}
        # each line tells the name at its own moment
        names = {mount[4].removeprefix("/proc").removeprefix("/other") for mount in mounts}
        assert {"/interrupts", "/sys"} <= names


def test_a_parameter_is_written_while_proc_is_exchanged(runtime, outside) -> None:  # B6; CVE-2025-52881
    """Half of the time ``/proc`` is a directory of the attacker's, whose parameter is a link to a file of the host."""
    parameter = "sys/net/ipv4/ip_unprivileged_port_start"
    fake = runtime.root / "other" / parameter
    fake.parent.mkdir(parents=True)
    fake.symlink_to(outside / "file")
    out = outside.parent / "out"
    out.mkdir()
    script = f"cat /*/{parameter} >$(mktemp /out/XXXXXX)"
    config = in_shell(runtime, script, mounts=[bind(out, "/out")], sysctl={"net.ipv4.ip_unprivileged_port_start": "77"})
    with Swapper(runtime.root / "proc", runtime.root / "other") as swapper:
        outcomes = race(runtime, config, swapper)
    assert "ran" in outcomes
    # the glob and cat look the directory up one after the other
    assert {line for path in out.iterdir() for line in path.read_text().splitlines()} == {"77"}


def test_the_source_of_a_bind_is_exchanged(runtime, tmp_path) -> None:  # B17
    """A directory now and a file then: what was looked at is what is mounted, or it is refused for what it is."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "name").mkdir()
    (source / "name/file").write_text("of the directory")
    (source / "other").write_text("a file")
    mounts = [bind(source / "name", "/data"), bind(out, "/out")]
    (runtime.root / "data").mkdir()
    config = in_shell(runtime, "cat /data/file >$(mktemp /out/XXXXXX)", mounts=mounts)
    with Swapper(source / "name", source / "other") as swapper:
        outcomes = race(runtime, config, swapper)
    assert "ran" in outcomes
    refused = {text for text in outcomes if text != "ran"}
    assert all("are you trying to mount a directory onto a file" in text for text in refused), refused
    assert {path.read_text() for path in out.iterdir()} == {"of the directory"}


def test_the_null_device_and_the_pty_are_exchanged(runtime, tmp_path, outside) -> None:  # B4, B5, B8
    """/dev is a volume; its null and its console are links to a kernel parameter half of the time."""
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    os.mknod(dev / "null", 0o20666, os.makedev(1, 3))
    (dev / "console").write_text("")
    (dev / "other").symlink_to("/proc/sys/kernel/core_pattern")
    out = tmp_path / "out"
    out.mkdir()
    script = "grep -E 'interrupts|core_pattern|console' /proc/self/mountinfo >/out/$(cat /proc/sys/kernel/random/uuid)"
    for name in ("null", "console"):
        config = in_shell(runtime, script, maskedPaths=["/proc/interrupts"])
        proc = [mount for mount in config["mounts"] if mount["destination"] == "/proc"]
        pts = [mount for mount in config["mounts"] if mount["destination"] == "/dev/pts"]
        config["mounts"] = [*proc, bind(dev, "/dev"), *pts, bind(out, "/out")]
        config["process"]["terminal"] = name == "console"
        with Swapper(dev / name, dev / "other") as swapper:
            race(runtime, config, swapper, 40)
    seen = [line.split() for path in out.iterdir() for line in path.read_text().splitlines()]
    assert seen
    assert {(line[3], line[4]) for line in seen if "interrupts" in line[4]} == {("/null", "/proc/interrupts")}
    assert not [line for line in seen if "core_pattern" in line[3] + line[4]]
    consoles = {line[3] for line in seen if line[4] in {"/dev/console", "/dev/other"}}
    assert consoles <= {"/0"}
