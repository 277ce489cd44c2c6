"""Starting and entering processes: rows A1 to A3 of threats.md. What stands where: docs/reference/threats.md."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hostile import PYTHON, hostile_image, python, python_mounts, python_volumes

from harness import BIN, busybox_tree, wait_for
from spawned import Runtime

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

# Opens every process's executable for writing, also when nobody uses the file any more: CVE-2019-5736.
# What is written is what is there: were the defence gone, nothing would break but this test.
OVERWRITE = """
import os, sys, time
own = os.stat('/bin/busybox')
seen, verdicts, told = {}, set(), -1
def attempt(path):
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        return error.strerror
    try:
        os.pwrite(fd, b'\\x7f', 0)
        return 'WRITTEN'
    except OSError as error:
        return error.strerror
    finally:
        os.close(fd)
end = time.time() + 30
while time.time() < end and not os.path.exists(sys.argv[1]):
    for pid in filter(str.isdigit, os.listdir('/proc')):
        if pid == str(os.getpid()) or pid in seen:
            continue
        try:
            fd = os.open(f'/proc/{pid}/exe', os.O_PATH)
        except OSError:
            continue
        if os.path.samestat(os.fstat(fd), own):
            os.close(fd)
            continue
        seen[pid] = fd
        verdicts.add(attempt(f'/proc/self/fd/{fd}'))  # what was seen: the process may execute something else now
    if told < len(seen):
        told = len(seen)
        print('seen', told, flush=True)
time.sleep(0.3)
for fd in seen.values():
    verdicts.add(attempt(f'/proc/self/fd/{fd}'))  # idle now
print(len(seen), sorted(verdicts))
"""
SEALED = (["Read-only file system"], ["Operation not permitted"])  # the overlay, the memfd


def end(engine, name: str) -> None:
    """Have the watcher in container ``name`` look no longer; the exec that tells it may be killed with its container."""
    engine.docker("exec", name, "touch", "/tmp/stop", check=False)
    assert engine.docker("wait", name).stdout == "0\n"


@pytest.mark.parametrize("way", ["exec", "init"])
def test_the_interpreter_is_not_written_by_who_may_trace(engine, way) -> None:  # A1
    """With CAP_SYS_PTRACE the seal is the only defence; raced by execs, and idle as ``--init``'s pid 1."""
    options = ["--init"] if way == "init" else []
    name = f"watch-{way}"
    engine.docker(
        *("run", "-d", "--name", name, "--cap-add", "SYS_PTRACE", *options, *python_volumes(), "busybox"),
        *(*python(OVERWRITE), "/tmp/stop"),
    )
    watched = lambda: engine.docker("logs", name).stdout  # noqa: E731
    wait_for(lambda: "seen" in watched(), what="the watcher's first look")
    for number in range(100 if way == "exec" else 0):  # twelve, and more where the watcher had no turn meanwhile
        engine.docker("exec", name, "true")
        if number >= 11 and "seen 1\n" in watched():
            break
    end(engine, name)
    found, verdicts = watched().splitlines()[-1].split(" ", 1)
    assert int(found) > 0, "never seen: the race is not run"
    assert json.loads(verdicts.replace("'", '"')) in SEALED


def test_an_image_that_runs_proc_self_exe_runs_the_sealed_one(engine, tmp_path) -> None:  # A1
    interpreter = Path(PYTHON)
    before = interpreter.stat()
    code = (
        "import os\ntry: os.open('/proc/self/exe', os.O_WRONLY)\n"
        "except OSError as e: print(e.strerror, 'memfd' in os.readlink('/proc/self/exe'))"
    )
    with hostile_image(engine, tmp_path, lambda tree: (tree / "bin/evil").symlink_to("/proc/self/exe")) as image:
        done = engine.docker("run", "--rm", *python_volumes(), image, "/bin/evil", "-I", "-S", "-c", code)
    # a memfd is busy while it runs, and cannot be written when it does not
    assert done.stdout.strip() in {"Read-only file system False", "Text file busy True"}
    after = interpreter.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino)


def oci(tmp_path, *arguments, config, within=()):
    """Run orlop-runtime on a bundle of ``config``."""
    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(config))
    command = [*within, str(BIN / "orlop-runtime"), "--root", str(tmp_path / "state"), "run", "--bundle", str(bundle)]
    return subprocess.run([*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


@pytest.fixture
def runtime(tmp_path):
    made = Runtime(tmp_path / "rt", busybox_tree(tmp_path / "root"))
    (tmp_path / "rt").mkdir()
    yield made
    made.close()


def test_the_runtime_command_is_sealed_too(runtime, tmp_path) -> None:  # A1
    code = "import os\ntry: os.open('/proc/self/exe', os.O_WRONLY)\nexcept OSError as e: print(e.strerror)"
    config = runtime.config("/proc/self/exe", "-I", "-S", "-c", code)
    config["mounts"] += python_mounts()
    config["linux"]["cgroupsPath"] = f"{runtime.parent}/sealed"
    done = oci(tmp_path, "sealed", config=config)
    assert [done.stdout.strip()] in SEALED, done.stderr


# ------------------------------------------------------------------------------------------------ descriptors


@pytest.mark.parametrize("command", [["run", "--rm", "busybox"], ["exec", "fds"]])
def test_no_descriptor_of_the_host_comes_along(engine, command) -> None:  # A2, J4
    engine.docker("run", "-d", "--name", "fds", "busybox", "sleep", "100")
    out = engine.docker(*command, "sh", "-c", "ls -l /proc/self/fd | sed 's/.* //'").stdout
    links = [line for line in out.splitlines() if line and not line.startswith(("pipe:", "/dev/null", "/proc/"))]
    assert [link for link in links if not link.isdigit()] == []  # a digit: the directory that ls itself has open


def test_descriptors_that_nobody_marked_do_not_come_along(tmp_path) -> None:  # A2, J4
    """A directory of the host that whoever started the spawner left open and inheritable: nothing keeps it but closing."""
    leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(leaked, True)
    (tmp_path / "rt").mkdir()
    runtime = Runtime(tmp_path / "rt", busybox_tree(tmp_path / "root"))
    os.close(leaked)
    try:
        assert os.readlink(f"/proc/{runtime.spawner.pid}/fd/{leaked}") == "/", "the spawner has not inherited it"
        _, text = runtime.output(runtime.config("ls", "/proc/self/fd"))
        assert str(leaked) not in text.split()
        config = runtime.config("ls", "/proc/self/fd")
        config["linux"]["cgroupsPath"] = f"{runtime.parent}/leaked"
        done = oci(tmp_path, "leaked", config=config, within=("sh", "-c", 'exec 9</ && exec "$@"', "sh"))
        assert done.returncode == 0
        assert "9" not in done.stdout.split()
    finally:
        runtime.close()


def test_working_directory_through_a_descriptor_is_refused(leak_free) -> None:  # A2
    leak_free.docker("run", "-d", "--name", "cwd", "busybox", "sleep", "100")
    for number in range(3, 12):
        for words in (["run", "--rm"], ["exec"]):
            last = ["cwd"] if words == ["exec"] else ["busybox"]
            done = leak_free.docker(*words, "-w", f"/proc/self/fd/{number}", *last, "pwd", check=False)
            assert done.returncode != 0, done.stdout


def test_working_directory_of_the_image_is_a_link_to_a_descriptor(engine, tmp_path) -> None:  # A2
    arrange = lambda tree: (tree / "work").symlink_to("/proc/self/fd/7")  # noqa: E731
    with hostile_image(engine, tmp_path, arrange, "WORKDIR /work") as image:
        done = engine.docker("run", "--rm", image, "ls", check=False)
    assert done.returncode != 0


def test_a_host_directory_that_was_handed_over_is_no_working_directory(runtime, tmp_path) -> None:  # A2
    """The check after chdir alone: the descriptor is there because the caller of the OCI runtime passed it."""
    config = runtime.config("pwd")
    config["process"]["cwd"] = "/proc/self/fd/3"
    config["linux"]["cgroupsPath"] = f"{runtime.parent}/cwd"
    within = ("sh", "-c", 'exec 3<"$0" && exec "$@"', str(tmp_path))
    done = oci(tmp_path, "--preserve-fds", "1", "cwd", config=config, within=within)
    assert done.returncode != 0
    assert "outside of container mount namespace root" in done.stderr


@pytest.mark.parametrize(
    "change", ["", "rm /dev/null", "rm /dev/null; mkfifo /dev/null", "ln -sf /etc/passwd /dev/null"]
)
def test_the_null_device_of_the_standard_streams_is_not_the_hosts(engine, change) -> None:  # A2
    """What is done to a descriptor is done to its inode: fchmod(0, 0) would take the null device from the host."""
    show = "import os; s = os.fstat(0); print(s.st_dev, s.st_rdev, oct(s.st_mode), os.read(0, 1), os.write(0, b'x'), flush=True)"
    engine.docker(
        "run", "-d", "--name", "null", *python_volumes(), "busybox", *python(show + "; os.system('sleep 100')")
    )
    first = wait_for(lambda: engine.docker("logs", "null").stdout, what="output")
    engine.docker("exec", "null", "sh", "-c", change or "true")
    second = engine.docker("exec", "null", *python(show)).stdout
    for text in (first, second):
        device, number, rest = text.split(" ", 2)
        assert int(device) != os.stat("/dev/null").st_dev
        assert int(number) == os.makedev(1, 3)
        assert rest == "0o20666 b'' 1\n"


# Looks for a process whose root, or one of whose descriptors, is not the container's own.
WATCH = """
import os, sys, time
root = os.stat('/')
before = {p for p in os.listdir('/proc') if p.isdigit()}
seen, escapes = set(), set()
print('ready', flush=True)
end = time.time() + 60
while time.time() < end and len(seen) < 10:
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or pid in before:
            continue
        seen.add(pid)
        try:
            if not os.path.samestat(os.stat(f'/proc/{pid}/root/'), root):
                escapes.add('root')
            if not os.path.samestat(os.stat(f'/proc/{pid}/cwd/'), root):
                escapes.add('cwd')
            for fd in os.listdir(f'/proc/{pid}/fd'):
                if os.path.isdir(f'/proc/{pid}/fd/{fd}'):
                    escapes.add(f'fd {os.readlink(f"/proc/{pid}/fd/{fd}")}')
        except OSError:
            pass
print(len(seen), sorted(escapes - {'fd /'}))
"""


def test_whoever_may_trace_finds_nothing_of_the_host_in_an_exec(engine) -> None:  # A3, raced
    engine.docker(
        *("run", "-d", "--name", "watch", "--cap-add", "SYS_PTRACE", *python_volumes(), "busybox", *python(WATCH))
    )
    wait_for(lambda: "ready" in engine.docker("logs", "watch").stdout, what="watcher")
    while engine.inspect("watch")["State"]["Running"]:  # until ten were seen, however often the watcher has a turn
        engine.docker("exec", "watch", "true", check=False)
    seen, escapes = engine.docker("logs", "watch").stdout.splitlines()[-1].split(" ", 1)
    assert int(seen) >= 10
    assert escapes == "[]"


def test_who_may_not_trace_cannot_look_into_what_is_ours(engine) -> None:  # A3, idle: dumpable is 0
    engine.docker("run", "-d", "--init", "--name", "inside", "busybox", "sleep", "100")
    for path in ("exe", "environ", "root/bin", "cwd/bin"):
        done = engine.docker(
            "exec", "inside", "sh", "-c", f"exec 2>&1; ls -L /proc/1/{path} && cat /proc/1/{path}", check=False
        )
        assert done.returncode != 0, path
        assert "denied" in done.stdout, done.stdout
