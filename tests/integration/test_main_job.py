"""The transcripts that the mission is described by, through the real docker client."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from harness import PATIENCE, catches, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def run(engine, *arguments: str, **options) -> str:
    return engine.docker("run", "--rm", *arguments, **options).stdout


def test_info_tells_the_truth(engine) -> None:
    info = json.loads(engine.docker("info", "--format", "{{json .}}").stdout)
    assert info["Driver"] == "overlay2"
    assert info["CgroupDriver"] == "cgroupfs"
    assert info["CgroupVersion"] in {"1", "2"}
    assert info["NCPU"] == len(os.sched_getaffinity(0))
    assert info["KernelVersion"] == os.uname().release
    assert info["DockerRootDir"] == str(engine.data_root)
    text = engine.docker("info").stdout
    assert "Storage Driver: overlay2" in text
    running = engine.docker("run", "-d", "busybox", "sleep", "100").stdout.strip()
    after = json.loads(engine.docker("info", "--format", "{{json .}}").stdout)
    assert after["ContainersRunning"] == info["ContainersRunning"] + 1
    engine.docker("rm", "-f", running)


def test_export_gives_a_root_file_system(engine, tmp_path) -> None:
    name = engine.docker("create", "busybox").stdout.strip()
    data = engine.docker("export", name, text=False).stdout
    (tmp_path / "rootfs").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "rootfs", "-xf", "-"], input=data, check=True)
    names = {path.name for path in (tmp_path / "rootfs").iterdir()}
    assert {"bin", "dev", "etc", "proc", "sys", "usr", "var"} <= names
    assert (tmp_path / "rootfs/bin/busybox").stat().st_size > 100_000


def test_memory_limit_kills_with_137_and_oomkilled(engine) -> None:
    hog = "x=$(busybox yes | busybox head -c 200000000); echo $x | busybox wc -c"
    done = engine.docker("run", "--name", "hog", "--memory", "64m", "busybox", "sh", "-c", hog, check=False)
    state = engine.inspect("hog")["State"]
    assert (state["ExitCode"], state["OOMKilled"], done.returncode) == (137, True, 137)


def test_pids_limit_stops_a_fork_bomb(engine) -> None:
    engine.docker(
        "run", "-d", "--name", "bomb", "--pids-limit", "50", "busybox", "sh", "-c", "b() { b | b & }; b; sleep 100"
    )
    time.sleep(1)
    assert len(engine.docker("top", "bomb").stdout.splitlines()) <= 51
    started = time.monotonic()
    engine.docker("rm", "-f", "bomb")
    assert time.monotonic() - started < 10 * PATIENCE


def test_a_tenth_of_a_cpu_is_throttled(engine) -> None:
    """Less than anybody gets on a busy machine; one that is never throttled fails after 30 seconds."""
    script = """
        throttled() { cat /sys/fs/cgroup/cpu/cpu.stat /sys/fs/cgroup/cpu.stat 2>/dev/null | sed -n 's/nr_throttled //p'; }
        cut -d' ' -f1 /proc/uptime
        while :; do :; done & n=0
        while [ "$(throttled)" -lt 10 ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done
        kill $!; wait; throttled
        cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || sed -n 's/usage_usec \\(.*\\)/\\1000/p' /sys/fs/cgroup/cpu.stat
        cut -d' ' -f1 /proc/uptime"""
    began, throttled, used, ended = run(engine, "--cpus", "0.1", "busybox", "sh", "-c", script).split()
    assert int(throttled) >= 10
    assert int(used) / 1e9 <= 0.1 * (float(ended) - float(began)) + 0.1  # a period of 0.1 s may begin before


def test_files_written_are_seen_neither_in_the_image_nor_in_a_sibling(engine) -> None:
    engine.docker("run", "--name", "writer", "busybox", "sh", "-c", "echo mine >/mine; rm -f /bin/vi")
    assert "mine" not in run(engine, "busybox", "ls", "/").split()
    assert run(engine, "busybox", "sh", "-c", "ls /bin/vi").strip() == "/bin/vi"
    engine.docker("start", "-a", "writer")


def test_hostname_process_tree_and_cgroup_are_its_own(engine) -> None:
    out = run(engine, "--hostname", "ship", "busybox", "sh", "-c", "hostname; ps | wc -l; cat /etc/hostname; id -u")
    name, lines, file_name, uid = out.split()
    assert (name, file_name, uid) == ("ship", "ship", "0")
    assert int(lines) <= 5


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["busybox", "true"], 0, ""),
        (["busybox", "sh", "-c", "exit 7"], 7, ""),
        (["--init", "busybox", "sh", "-c", "kill -9 $$"], 137, ""),
        (["busybox", "nope"], 127, "executable file not found in $PATH"),
        (["busybox", "/etc"], 126, ""),
        (["busybox", "/etc/passwd"], 126, "permission denied"),
        (["busybox", "/nope"], 127, "no such file or directory"),
        (["--memory", "1k", "busybox", "true"], 125, "6MB"),
        (["--cpus", "900", "busybox", "true"], 125, "CPUs"),
        (["--user", "nobody-here", "busybox", "true"], 125, "unable to find user nobody-here"),
        (["no-such-image:1", "true"], 125, "Unable to find image 'no-such-image:1' locally"),
        (["--network", "no-such-net", "busybox", "true"], 125, "no-such-net"),
        (["-v", "relative:relative", "busybox", "true"], 125, "invalid"),
        (["--cap-add", "NOPE", "busybox", "true"], 125, "NOPE"),
        (["--security-opt", "nonsense=1", "busybox", "true"], 125, "nonsense"),
        (["--runtime", "nope", "busybox", "true"], 125, "nope"),
    ],
)
def test_exit_codes_and_messages(leak_free, arguments, status, text) -> None:
    done = leak_free.docker("run", "--rm", *arguments, check=False)
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert leak_free.http("GET", "/_ping")[0] == 200


def test_name_conflict_in_dockers_words(leak_free) -> None:
    first = leak_free.docker("create", "--name", "taken", "busybox").stdout.strip()
    done = leak_free.docker("create", "--name", "taken", "busybox", check=False)
    assert done.returncode == 1
    assert f'Conflict. The container name "/taken" is already in use by container "{first}"' in done.stderr


def test_no_such_container(engine) -> None:
    for command in (
        ["start"],
        ["stop"],
        ["logs"],
        ["rm"],
        ["exec"],
        ["kill"],
        ["inspect"],
        ["top"],
        ["attach"],
        ["wait"],
    ):
        extra = ["true"] if command == ["exec"] else []
        done = engine.docker(*command, "ghost", *extra, check=False)
        assert done.returncode == 1, command
        assert "o such" in done.stderr, (command, done.stderr)


def test_attach_streams_are_separate_and_complete(engine) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; seq 1 20000")
    assert done.stderr == "err\n"
    assert done.stdout == "out\n" + "".join(f"{n}\n" for n in range(1, 20001))


def test_stdin_goes_in_and_its_end_too(engine) -> None:
    text = "".join(f"line {n}\n" for n in range(50_000))
    assert engine.docker("run", "-i", "--rm", "busybox", "cat", input=text).stdout == text


def test_exec_runs_in_the_container(engine) -> None:
    engine.docker("run", "-d", "--name", "exe", "--hostname", "inner", "busybox", "sleep", "100")
    assert engine.docker("exec", "exe", "hostname").stdout == "inner\n"
    assert engine.docker("exec", "-i", "exe", "cat", input="through").stdout == "through"
    assert engine.docker(
        "exec", "-u", "alice", "-w", "/tmp", "-e", "A=b", "exe", "sh", "-c", "id -un; pwd; echo $A"
    ).stdout.split() == ["alice", "/tmp", "b"]
    assert engine.docker("exec", "exe", "sh", "-c", "exit 9", check=False).returncode == 9
    assert engine.docker("exec", "exe", "nope", check=False).returncode == 127


def test_terminal(engine) -> None:
    out = engine.client(
        "script",
        "-qec",
        "docker run --rm -it busybox sh -c 'tty; test -t 0 && echo terminal; stty size'",
        "/dev/null",
        stdin=None,
    ).stdout
    assert "/dev/pts/0" in out
    assert "terminal" in out


def test_logs_survive_and_select(engine) -> None:
    engine.docker(
        "run", "--name", "talker", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2"
    )
    assert engine.docker("logs", "talker").stdout.splitlines() == [f"line {i}" for i in range(1, 6)]
    assert engine.docker("logs", "talker").stderr == "oops\n"
    assert engine.docker("logs", "--tail", "2", "talker").stdout.splitlines() == ["line 5"]
    stamped = engine.docker("logs", "-t", "talker").stdout.splitlines()[0]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z line 1$", stamped)


def test_volumes_binds_and_tmpfs(engine, tmp_path) -> None:
    (tmp_path / "file").write_text("host\n")
    out = run(
        engine,
        "-v",
        f"{tmp_path}:/data:ro",
        "-v",
        "kept:/kept",
        "--tmpfs",
        "/scratch:size=1m",
        "busybox",
        "sh",
        "-c",
        "cat /data/file; echo x >/data/new 2>&1 || echo refused; echo v >/kept/f; df -k /scratch | tail -n 1 | awk '{print $2}'",
    )
    assert out.splitlines()[0] == "host"
    assert "refused" in out
    assert out.splitlines()[-1] == "1024"
    assert run(engine, "-v", "kept:/kept", "busybox", "cat", "/kept/f") == "v\n"
    engine.docker("volume", "rm", "kept")


def test_read_only_root(engine) -> None:
    done = engine.docker("run", "--rm", "--read-only", "busybox", "sh", "-c", "echo x >/x", check=False)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_init_reaps_and_forwards(engine) -> None:
    # a shell that reads waits for nobody
    script = "mkfifo /f; exec 3<>/f; trap 'exit 3' TERM; touch /ready; read x <&3"
    engine.docker("run", "-d", "--init", "--name", "ini", "busybox", "sh", "-c", script)
    engine.docker("exec", "ini", "sh", "-c", "(sleep 0.2 &) ; true")

    def nobody_is_left() -> bool:
        seen = engine.docker("exec", "ini", "ps", "-o", "stat,args").stdout
        return "sleep" not in seen and "Z " not in seen

    wait_for(nobody_is_left, seconds=5, what="end of the orphan")
    wait_for(lambda: engine.docker("exec", "ini", "test", "-e", "/ready", check=False).returncode == 0)
    started = time.monotonic()
    engine.docker("stop", "-t", "60", "ini")
    assert time.monotonic() - started < 5 * PATIENCE
    assert engine.inspect("ini")["State"]["ExitCode"] == 3


def test_stop_signal_and_timeout(engine) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        "sig",
        "--stop-signal",
        "USR1",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 5' USR1; while :; do sleep 0.1; done",
    )
    wait_for(lambda: catches(engine.inspect("sig")["State"]["Pid"], signal.SIGUSR1))
    engine.docker("stop", "-t", "60", "sig")
    assert engine.inspect("sig")["State"]["ExitCode"] == 5
    engine.docker("run", "-d", "--name", "stubborn", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    started = time.monotonic()
    engine.docker("stop", "-t", "1", "stubborn")
    assert 0.8 < time.monotonic() - started < 5 * PATIENCE
    assert engine.inspect("stubborn")["State"]["ExitCode"] == 137


def test_orlop_speaks_the_same(engine) -> None:
    assert engine.orlop("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
    engine.docker("run", "-d", "--name", "seen", "busybox", "sleep", "100")
    assert "seen" in engine.orlop("ps").stdout
    assert engine.orlop("ps", "--format", "{{.Names}}\t{{.Image}}").stdout == "seen\tbusybox\n"
    assert engine.orlop("exec", "seen", "echo", "yes").stdout == "yes\n"
