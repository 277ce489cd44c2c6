"""What is special about a runtime in Python: rows J of threats.md. Units: tests/unit/kernel/test_wrappers.py."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hostile import hostile_image, status

from harness import wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

TRAP = "open('/tmp/EXECUTED','w').write('x')\n"


def plant_python_traps(tree: Path) -> None:
    """Put modules, libraries and settings into an image that say so when they are loaded."""
    for directory in ("usr/lib/python3.11", "usr/local/lib/python3.11", os.path.dirname(os.__file__).lstrip("/")):
        (tree / directory / "encodings").mkdir(parents=True, exist_ok=True)
        for name in ("traceback.py", "os.py", "encodings/idna.py", "linecache.py", "sitecustomize.py", "pwd.py"):
            (tree / directory / name).write_text(TRAP)
    (tree / "etc/nsswitch.conf").write_text("passwd: trap\ngroup: trap\nhosts: trap\n")
    for directory in ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu"):
        (tree / directory).mkdir(parents=True, exist_ok=True)
        # were it loaded, the dynamic linker would say so and the exec would fail
        (tree / directory / "libnss_trap.so.2").write_bytes(b"not a library")


def test_python_files_of_the_image_are_never_run(engine, tmp_path) -> None:  # J1, J2
    with hostile_image(engine, tmp_path, plant_python_traps) as image:
        engine.docker("run", "-dt", "--name", "trap", "-h", "bücher.example", image, "sleep", "100", check=False)
        engine.docker("run", "-d", "--name", "traps", image, "sleep", "100")
        engine.docker("exec", "traps", "nope-nope", check=False)
        engine.docker("exec", "-u", "missing", "traps", "true", check=False)
        engine.docker("exec", "-t", "-w", "/no/\udcff", "traps", "true", check=False)
        assert engine.docker("exec", "traps", "sh", "-c", "ls /tmp").stdout == ""


def test_the_spawner_is_sealed_single_threaded_and_closed_to_ptrace(engine) -> None:  # A1, A3, J3, J6, J8
    spawner = engine.spawner()
    assert len(os.listdir(f"/proc/{spawner}/task")) == 1
    assert Path(f"/proc/{spawner}/environ").read_bytes() == b""
    # a memfd is busy while it runs, and so is every file that is not sealed at all
    words = "Text file busy" if "memfd" in os.readlink(f"/proc/{spawner}/exe") else "Read-only"
    with pytest.raises(OSError, match=words):
        open(f"/proc/{spawner}/exe", "r+b").close()
    assert os.stat(f"/proc/{spawner}/mem").st_uid == 0
    words = Path(f"/proc/{spawner}/cmdline").read_bytes().split(b"\0")
    assert {b"-I", b"-S"} <= {*words}


def writable_memory(pid: int):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            words = line.split()
            if "w" in words[1]:
                start, end = (int(number, 16) for number in words[0].split("-"))
                memory.seek(start)
                try:
                    yield memory.read(end - start)
                except OSError:
                    continue


def test_secrets_of_the_engine_are_in_no_process_near_a_container(own_engine) -> None:  # J3
    engine = own_engine
    engine.stop()
    secret = b"orlop-secret-" + os.urandom(8).hex().encode()
    environment = type(engine).environment
    (engine.home / "daemon.json").write_text(json.dumps({"labels": [f"of-the-file={secret.decode()}"]}))
    try:
        type(engine).environment = property(
            lambda self: {**environment.fget(self), "HTTP_PROXY": f"http://{secret.decode()}"}
        )
        engine.start()
    finally:
        type(engine).environment = environment
    engine.docker("run", "-d", "--name", "first", "-e", "TENANT=" + "orlop-tenant-one", "busybox", "sleep", "100")
    engine.docker("run", "-d", "--init", "--name", "second", "busybox", "sleep", "100")
    assert engine.process is not None
    assert any(secret in memory for memory in writable_memory(engine.process.pid)), "the search finds nothing"
    pid = engine.inspect("second")["State"]["Pid"]
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for process in (engine.spawner(), shim, pid):
        for memory in writable_memory(process):
            assert secret not in memory
            assert b"orlop-tenant-one" not in memory


def test_nothing_of_the_callers_environment_is_imported(tmp_path) -> None:  # J8
    """PYTHON* variables, a module in the working directory, a .pth file do not reach what enters containers."""
    from harness import BIN

    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("sitecustomize", "usercustomize", "json", "orlop", "select"):
        (trap / f"{name}.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write({name!r})\n")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(trap),
        "PYTHONSTARTUP": str(trap / "json.py"),
        "PYTHONHOME": "",
        "PYTHONUSERBASE": str(trap),
    }
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p != sys.argv[1]]\n"
        "from orlop.runtime.sealed import start_spawner\n"
        "spawner = start_spawner()\n"
        "import os; print(spawner.pid, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [BIN / "python", "-P", "-c", code, trap],
        cwd=trap,
        env={**environment, "PYTHONPATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        spawner = int(process.stdout.readline())
        wait_for(lambda: Path(f"/proc/{spawner}/comm").read_text() == "orlop-spawner\n", what="spawner")
        assert Path(f"/proc/{spawner}/environ").read_bytes() == b""
        maps = Path(f"/proc/{spawner}/maps").read_text()
        assert str(trap) not in maps
    finally:
        process.communicate("")
    done = subprocess.run(
        [BIN / "orlop-runtime", "--root", tmp_path / "state", "run", "--bundle", tmp_path, "x"],
        cwd=trap,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert not (tmp_path / "EXECUTED").exists(), (tmp_path / "EXECUTED").read_text()


def test_signals_that_python_ignores_are_not_ignored_inside(engine) -> None:  # J11
    for options in ((), ("--init",), ("-t",)):
        fields = status(engine, *options)
        assert int(fields["SigIgn"], 16) == int(fields["SigBlk"], 16) == 0, options
    engine.docker("run", "-d", "--name", "pipe", "busybox", "sleep", "100")
    text = engine.docker("exec", "pipe", "cat", "/proc/self/status").stdout
    assert "SigIgn:\t0000000000000000" in text
    # a writer whose reader is gone ends by SIGPIPE, and says nothing
    done = engine.docker("exec", "pipe", "sh", "-c", "yes | head -n 1")
    assert (done.stdout, done.stderr) == ("y\n", "")
