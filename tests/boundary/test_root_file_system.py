"""Root file system, mounts, procfs, devices: rows B of threats.md, idle. The races are in test_races.py."""

import json
import os
from pathlib import Path

import pytest
from hostile import hostile_image, python, python_volumes, replace_by_link, status

from harness import busybox_tree
from spawned import Runtime, failure

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

NULL = "character special file 1,3"


@pytest.fixture
def runtime(tmp_path):
    (tmp_path / "rt").mkdir()
    made = Runtime(tmp_path / "rt", busybox_tree(tmp_path / "root"))
    yield made
    made.close()


def bind(source, destination, *options):
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def in_shell(runtime, script, **changes):
    """Return a configuration that runs ``script``."""
    config = runtime.config("sh", "-c", script)
    config["mounts"] = [*config["mounts"], *changes.pop("mounts", ())]
    config["linux"].update(changes)
    return config


# ------------------------------------------------------------------------------------------------- targets


def test_a_link_in_the_image_does_not_lead_a_mount_out(runtime, tmp_path) -> None:  # B1, CVE-2021-30465
    outside = tmp_path / "outside"
    outside.mkdir()
    (runtime.root / "data").symlink_to(outside)
    tmpfs = {"destination": "/data/made", "type": "tmpfs", "source": "tmpfs", "options": []}
    process, _ = runtime.launch(in_shell(runtime, "echo x >/data/made/file", mounts=[tmpfs]))
    process.event("exit")
    assert list(outside.iterdir()) == []  # B7 as well: no directory was made there


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
def test_kernel_file_systems_need_ordinary_directories(runtime, tmp_path, place) -> None:  # B2, B8
    outside = tmp_path / "outside"
    outside.mkdir()
    replace_by_link(runtime.root / place, outside)
    process, _ = runtime.launch(runtime.config("true"))
    assert "must be mounted on ordinary directory" in failure(process)["message"]
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
def test_links_in_their_places_in_an_image_do_no_harm(engine, tmp_path, place) -> None:  # B2, B8
    target = tmp_path / "host-directory"
    target.mkdir()
    with hostile_image(engine, tmp_path, lambda tree: replace_by_link(tree / place, target)) as image:
        # The engine's own layer puts a directory in the link's place; without one the runtime refuses (above).
        script = f"cut -d ' ' -f 5 /proc/self/mountinfo | grep -cx /{place}"
        assert engine.docker("run", "--rm", image, "sh", "-c", script).stdout == "1\n"
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/proc/sys/kernel", "/proc/self/attr"])
def test_an_image_declares_no_volume_over_proc(engine, tmp_path, place) -> None:  # B3, CVE-2019-16884
    with hostile_image(engine, tmp_path, lambda _: None, f"VOLUME {place}") as image:
        done = engine.docker("run", "--rm", image, "true", check=False)
    assert done.returncode != 0
    assert ("not of type proc" if place == "/proc" else "inside /proc") in done.stderr
    engine.prune_volumes()


@pytest.mark.parametrize("source", ["/proc/sys", "/proc/1", "/dev", "/proc/self/status"])
def test_nothing_but_procfs_is_bound_on_proc(runtime, source) -> None:  # B3
    config = runtime.config("true")
    others = [mount for mount in config["mounts"] if mount["destination"] != "/proc"]
    config["mounts"] = [bind(source, "/proc"), *others]
    process, _ = runtime.launch(config)
    assert failure(process)["message"] == '"/proc" cannot be mounted because it is not of type proc'


def test_procfs_is_bound_on_an_ordinary_directory(runtime, tmp_path) -> None:  # B2
    outside = tmp_path / "outside"
    outside.mkdir()
    replace_by_link(runtime.root / "proc", outside)
    config = runtime.config("true")
    config["mounts"] = [bind("/proc", "/proc")]
    process, _ = runtime.launch(config)
    assert "must be mounted on ordinary directory" in failure(process)["message"]


@pytest.mark.parametrize("target", ["/proc", "proc/self", "/"])
def test_a_link_leads_no_volume_over_proc_nor_the_root(leak_free, tmp_path, target) -> None:  # B3
    with hostile_image(leak_free, tmp_path, lambda tree: (tree / "data").symlink_to(target), "VOLUME /data") as image:
        for options in ((), ("--tmpfs", "/data"), ("-v", f"{tmp_path}:/data")):
            done = leak_free.docker("run", "--rm", *options, image, "true", check=False)
            assert done.returncode != 0
            assert (
                "cannot be mounted because it is inside /proc" in done.stderr or "into / is prohibited" in done.stderr
            )
    leak_free.prune_volumes()


# --------------------------------------------------------------------------------- masks, devices, terminals


def test_masks_are_of_the_hosts_null_device(runtime, tmp_path) -> None:  # B4, CVE-2025-31133
    """There is no /dev of ours in this container: its null device is a link to a kernel parameter."""
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "null").symlink_to("/proc/sys/kernel/core_pattern")
    script = "stat -c '%F %t,%T' /proc/interrupts; cat /proc/interrupts; ls /proc/fs | wc -l; grep interrupts /proc/self/mountinfo"
    config = in_shell(runtime, script, maskedPaths=["/proc/interrupts", "/proc/fs"])
    proc = [mount for mount in config["mounts"] if mount["destination"] == "/proc"]
    config["mounts"] = [*proc, bind(dev, "/dev")]
    _, text = runtime.output(config)
    lines = text.splitlines()
    assert lines[:2] == [NULL, "0"]
    assert " /null /proc/interrupts ro," in lines[2]


@pytest.mark.parametrize("change", ["pts-link", "ptmx-link", "ptmx-file", "console-link", "no-devpts"])
def test_a_terminal_needs_the_containers_own_devpts(runtime, tmp_path, change) -> None:  # B5, CVE-2025-52565
    """/dev is the attacker's: a directory that another container shares."""
    dev, victim = tmp_path / "dev", tmp_path / "victim"
    victim.write_text("untouched")
    (dev / "pts").mkdir(parents=True)
    if change == "pts-link":
        replace_by_link(dev / "pts", "/proc")
    elif change == "ptmx-link":
        (dev / "pts/ptmx").symlink_to("/proc/sys/kernel/core_pattern")
    elif change == "ptmx-file":
        os.mknod(dev / "pts/ptmx", 0o20666, os.makedev(1, 3))
    elif change == "console-link":
        (dev / "console").symlink_to("/proc/sys/kernel/core_pattern")
    config = runtime.config("sh", "-c", "cat /proc/self/mountinfo", terminal=True)
    mounts = [mount for mount in config["mounts"] if mount["destination"] in {"/proc", "/dev/pts"}]
    with_pts = mounts if change == "console-link" else mounts[:1]
    config["mounts"] = [with_pts[0], bind(dev, "/dev"), *with_pts[1:]]
    process, _ = runtime.launch(config)
    message = failure(process)["message"]
    wanted = ("must be mounted on", "no terminal in the container", "not a terminal multiplexer", "inside /proc")
    assert any(text in message for text in wanted)
    assert victim.read_text() == "untouched"


def test_the_console_is_the_terminal(engine) -> None:  # B5
    script = "stat -c %t,%T /dev/console /dev/pts/0; grep ' /dev/console ' /proc/self/mountinfo"
    told = engine.docker("run", "--rm", "-t", "busybox", "sh", "-c", script).stdout.split()
    assert told[0] == told[1] == "88,0"
    assert told[5] == "/0"
    assert "devpts" in told


MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/sys/firmware")
KNOBS = (
    *("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"),
    *("/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory", "/proc/bus/pci/devices"),
    *("/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/kernel/profiling"),
)


@pytest.mark.parametrize("user", [(), ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined")])
def test_masked_and_read_only_paths(engine, user) -> None:  # B11, B12
    out = engine.docker(
        *("run", "--rm", *user, "busybox", "sh", "-c"),
        "for p in "
        + " ".join(MASKED)
        + "; do [ ! -e $p ] || echo $p $( [ -d $p ] && ls $p | wc -l || head -c 1 $p | wc -c ); done;"
        f"for f in {' '.join(KNOBS)}; do (: >>$f) 2>/dev/null && echo WRITTEN $f; done;"
        "ls /proc/sys/fs/binfmt_misc | wc -l; ls /sys/kernel/debug 2>/dev/null | wc -l",
    ).stdout
    assert "WRITTEN" not in out
    *masks, binfmt, debug = out.splitlines()
    assert all(line.split()[1] == "0" for line in masks), out
    assert len(masks) >= 3
    assert (binfmt, debug) == ("0", "0")


ATTEMPTS = (
    "mount -t tmpfs none /tmp",
    "umount /proc/kcore",
    "umount -l /proc/keys",
    "mount -o remount,rw /sys",
    "mount -o remount,rw /proc/sys",
    "mount -o bind,remount,rw /proc/sys",
    "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc",
    "unshare -U true",
    "unshare -m true",
    "hostname other",
    "chroot /proc/1/root/../../.. ls /home/x",
)


@pytest.mark.parametrize("filtered", [True, False])
def test_refused_inside(engine, filtered) -> None:  # B11, B12, B15; without the filter: capabilities alone
    options = () if filtered else ("--security-opt", "seccomp=unconfined")
    # a user namespace needs no capability: there the filter is all there is
    attempts = [one for one in ATTEMPTS if filtered or one != "unshare -U true"]
    script = "".join(f"({one}) >/dev/null 2>&1 && echo DONE {one!r};" for one in attempts)
    assert engine.docker("run", "--rm", *options, "busybox", "sh", "-c", script + "true").stdout == ""


DEVICES = "mknod /tmp/{0} {1} && (head -c 1 /tmp/{0} || echo >/tmp/{0}) 2>&1 | grep -c 'Operation not permitted'; rm -f /tmp/{0};"
RAW = (
    ("disk", "b 254 0"),
    ("loop", "b 7 0"),
    ("mem", "c 1 1"),
    ("tun", "c 10 200"),
    ("fuse", "c 10 229"),
    ("lc", "c 10 237"),
)


def test_raw_devices_cannot_be_opened(own_engine) -> None:  # B13
    engine = own_engine
    script = "".join(DEVICES.format(*one) for one in RAW)
    engine.docker("run", "-d", "--name", "dev", "busybox", "sleep", "100")

    def refused() -> bool:
        # neither to read nor to write, each of them
        return engine.docker("exec", "dev", "sh", "-c", script, check=False).stdout.split() == ["2"] * len(RAW)

    assert refused()
    engine.docker("update", "--memory", "256m", "--memory-swap", "-1", "--pids-limit", "50", "dev")
    assert refused()
    engine.kill()
    engine.start()
    assert refused()
    engine.docker("restart", "-t", "0", "dev")
    assert refused()


def test_device_nodes_are_the_usual_ones(engine) -> None:
    names = engine.docker("run", "--rm", "busybox", "ls", "/dev").stdout.split()
    core = {"core"} if os.path.exists("/proc/kcore") else set()
    links = core | {"fd", "ptmx", "stderr", "stdin", "stdout"}
    assert {*names} == links | {"full", "mqueue", "null", "pts", "random", "shm", "tty", "urandom", "zero"}
    types = engine.docker(
        "run", "--rm", "busybox", "stat", "-c", "%F %t,%T %a", "/dev/null", "/dev/zero", "/dev/urandom"
    ).stdout.splitlines()
    assert types == [f"character special file 1,{minor} 666" for minor in (3, 5, 9)]


def test_a_link_in_place_of_a_device_node_is_refused(runtime, tmp_path) -> None:  # B8
    """Without a /dev of its own the nodes are made in the root's directory."""
    replace_by_link(runtime.root / "dev/null", tmp_path / "made")
    config = runtime.config("true")
    config["mounts"] = config["mounts"][:1]
    process, _ = runtime.launch(config)
    assert "device node exists and is another one" in failure(process)["message"]
    assert not (tmp_path / "made").exists()


# ------------------------------------------------------------------------------------------- engine's files


def test_engine_files_never_follow_links_of_the_image(leak_free, tmp_path) -> None:  # B10, CVE-2015-3629
    """Of the image, whose links the engine's own layer hides, and of a volume, where nothing hides them."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    made = tmp_path / "made"
    made.mkdir()
    names = ("etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv")

    def arrange(tree: Path) -> None:
        for name in names:
            (tree / name).symlink_to(victim)

    volume = tmp_path / "volume"
    volume.mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        (made / name).write_text("untouched")
        (volume / name).symlink_to(made / name)
    with hostile_image(leak_free, tmp_path, arrange) as image:
        leak_free.docker("run", "--rm", image, "sh", "-c", "echo x >>/etc/hosts", check=False)
        show = ("--hostname", "shown", image, "cat", "/etc/hostname")
        assert leak_free.docker("run", "--rm", "-v", f"{volume}:/etc", *show).stdout == "shown\n"
    assert {path.read_text() for path in (victim, *made.iterdir())} == {"untouched"}


def test_a_restart_follows_no_links_either(leak_free, tmp_path) -> None:  # B9, CVE-2015-3627
    """What the container put in the way of a volume, of its working directory and of the null device."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "null").write_text("untouched")
    traps = (
        f"mv /data /moved && ln -s {victim} /data && cd / && rm -rf /job && ln -s {victim} /job"
        f" && rm /dev/null && ln -s {victim}/null /dev/null"
    )
    options = ("-v", "respawned:/data/deep", "-w", "/job/below")
    leak_free.docker("run", "--name", "respawn", *options, "busybox", "sh", "-c", traps)
    leak_free.docker("start", "-a", "respawn", check=False)
    leak_free.docker("rm", "-f", "respawn")
    leak_free.docker("volume", "rm", "respawned")
    assert [path.name for path in victim.iterdir()] == ["null"]
    assert (victim / "null").read_text() == "untouched"


def test_the_host_mount_table_stays_empty(engine) -> None:  # B14
    engine.docker("run", "-d", "busybox", "sleep", "100")
    mine = Path("/proc/self/mountinfo").read_text()
    assert str(engine.home) not in mine
    assert engine.process is not None
    assert str(engine.home) not in Path(f"/proc/{engine.process.pid}/mountinfo").read_text()


CHROOT = """
import os
os.makedirs('/tmp/jail', exist_ok=True)
fd = os.open('/', os.O_RDONLY)
os.chroot('/tmp/jail')
os.fchdir(fd)
for _ in range(100):
    os.chdir('..')
os.chroot('.')
print(sorted(os.listdir('/')))
"""


def test_two_chroots_lead_to_the_containers_root_only(engine) -> None:  # B15
    engine.docker("run", "-d", "--name", "jail", *python_volumes(), "busybox", "sleep", "100")
    found = engine.docker("exec", "jail", *python(CHROOT)).stdout
    names = engine.docker("exec", "jail", "ls", "-A", "/").stdout.split()
    assert found.strip() == str(sorted(names))
    # of the program itself: an exec enters by the mount on top
    pid = engine.inspect("jail")["State"]["Pid"]
    places = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert places.count("/") == 1, "the old root is still there"
    told = engine.docker("run", "--rm", "busybox", "sh", "-c", "ls -A /; echo; ls -A /..").stdout.split("\n\n")
    assert told[0].split() == told[1].split()


def test_privileged_lifts_what_docker_lifts(engine) -> None:
    fields = status(engine, "--privileged")
    assert fields["Seccomp"] == "0"
    assert int(fields["CapEff"], 16) == int(Path("/proc/self/status").read_text().split("CapBnd:\t")[1].split()[0], 16)
    engine.docker("run", "--rm", "--privileged", "busybox", "mount", "-t", "tmpfs", "none", "/tmp")


def test_the_effective_document_names_no_host_directory_but_sources(engine) -> None:  # B9
    engine.docker("run", "-d", "--name", "doc", "busybox", "sleep", "100")
    pid = engine.inspect("doc")["State"]["Pid"]
    roots = [line.split()[3] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert json.dumps(roots).count(str(engine.home)) == 3  # hosts, hostname, resolv.conf
