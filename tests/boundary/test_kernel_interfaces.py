"""Kernel interfaces, cgroups, seccomp: rows C of threats.md."""

import errno
import glob
import json
import os
import secrets
import tempfile
from pathlib import Path

import pytest
from hostile import hostile_image, python, python_mounts, python_volumes

import seccomp_oracle
from harness import busybox_tree
from orlop.kernel.seccomp import RET_ALLOW, RET_ERRNO
from orlop.runtime.security.capabilities import DEFAULT
from orlop.runtime.security.seccomp_compile import assemble_filter, syscall_numbers
from orlop.runtime.security.seccomp_profile import default_seccomp
from orlop.spec.oci.seccomp import parse_seccomp
from spawned import Runtime

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86_64")


@pytest.fixture
def runtime(tmp_path):
    (tmp_path / "rt").mkdir()
    made = Runtime(tmp_path / "rt", busybox_tree(tmp_path / "root"))
    yield made
    made.close()


# -------------------------------------------------------------------------------------------------- cgroups

CGROUP_ATTEMPTS = (
    "echo /x >/sys/fs/cgroup/memory/release_agent",
    "echo 1 >/sys/fs/cgroup/memory/notify_on_release",
    "echo 1 >/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "echo max >/sys/fs/cgroup/memory.max",
    "echo $$ >/sys/fs/cgroup/cgroup.procs",
    "echo a >/sys/fs/cgroup/devices/devices.allow",
    "mkdir /sys/fs/cgroup/memory/x",
    "mkdir /sys/fs/cgroup/x",
    "mount -o remount,rw /sys/fs/cgroup",
    "mount -o bind,remount,rw /sys/fs/cgroup/memory",
    "mkdir /tmp/c && mount -t cgroup -o rdma none /tmp/c",
    "mkdir /tmp/c && mount -t cgroup2 none /tmp/c",
    # CVE-2022-0492: no capability is needed in a user namespace of one's own
    "unshare -UrmC sh -c 'mkdir -p /tmp/c; mount -t cgroup -o memory none /tmp/c && echo /x >/tmp/c/release_agent'",
)


@pytest.mark.parametrize("options", [(), ("--cgroupns", "host"), ("--cap-add", "SYS_PTRACE", "--cap-add", "NET_ADMIN")])
def test_nothing_is_written_to_cgroups(engine, options) -> None:  # C1, C3
    script = "".join(f"({attempt}) >/dev/null 2>&1 && echo DONE {attempt!r};" for attempt in CGROUP_ATTEMPTS)
    assert engine.docker("run", "--rm", *options, "busybox", "sh", "-c", script + "true").stdout == ""


def test_the_cgroup_namespace_is_private(engine) -> None:  # C1
    text = engine.docker("run", "--rm", "busybox", "cat", "/proc/self/cgroup").stdout
    assert {line.split(":", 2)[2] for line in text.splitlines()} == {"/"}


@pytest.mark.parametrize("parent", ["../../{0}", "/../{0}", "{0}/../../{0}", "/{0}\nb", "/{0}\0b"])
def test_a_cgroup_parent_stays_below(engine, parent) -> None:  # C4
    name = f"up-{secrets.token_hex(4)}"  # of nobody else on the machine
    body = {"Image": "busybox", "HostConfig": {"CgroupParent": parent.format(name), "CgroupnsMode": "host"}}
    status, answer = engine.http("POST", "/v1.45/containers/create", body)
    assert status == 400, answer
    assert not glob.glob(f"/sys/fs/cgroup/**/{name}*", recursive=True)


# -------------------------------------------------------------------------------------------------- sysctls


SYSCTLS = {
    "a pattern": "kernel.core_pattern=|/x",
    "two parameters": "kernel.shm_rmid_forced=1+kernel.core_pattern=|/x\nkernel.core_pattern=|/x",
    "two lines": "kernel.shm_rmid_forced=1\nkernel.core_pattern=|/x",
    "a path": "net/../kernel/core_pattern=x",
    "two dots": "net..ipv4.ip_forward=1",
    "a path behind a good name": "kernel.shm_rmid_forced/../core_pattern=x",
    "a path behind a good prefix": "fs.mqueue.msg_max/../../../kernel/core_pattern=x",
    # were it written, nothing would change
    "the host's own value": f"vm.swappiness={Path('/proc/sys/vm/swappiness').read_text().strip()}",
}


@pytest.mark.parametrize("name", SYSCTLS)
def test_sysctls_outside_namespaces_are_refused(engine, name) -> None:  # C2, CVE-2022-0811
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    done = engine.docker("run", "--rm", "--sysctl", SYSCTLS[name], "busybox", "true", check=False)
    assert (done.returncode, "sysctl" in done.stderr) == (125, True)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    # at create, before anything of the container exists
    parameter, _, value = SYSCTLS[name].partition("=")
    body = {"Image": "busybox", "HostConfig": {"Sysctls": {parameter: value}}}
    assert engine.http("POST", "/v1.45/containers/create", body)[0] == 400


def test_a_value_is_one_write_to_one_file(leak_free) -> None:  # C2
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    sysctl = "kernel.shm_rmid_forced=1+kernel.core_pattern=|/x"
    assert leak_free.docker("run", "--rm", "--sysctl", sysctl, "busybox", "true", check=False).returncode != 0
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    name = "net.ipv4.ip_unprivileged_port_start"
    show = ("busybox", "cat", "/proc/sys/" + name.replace(".", "/"))
    assert leak_free.docker("run", "--rm", "--sysctl", f"{name}=80", *show).stdout == "80\n"
    for namespace in (
        ("--network", "host", "--sysctl", f"{name}=80"),
        ("--ipc", "host", "--sysctl", "kernel.msgmax=9"),
    ):
        done = leak_free.docker("run", "--rm", *namespace, "busybox", "true", check=False)
        assert done.returncode != 0
        assert "not allowed" in done.stderr


def test_sysctls_are_written_where_nobody_can_lead_them(runtime, tmp_path) -> None:  # B6, CVE-2025-52881
    """Without a procfs in the container: its own ``/proc`` is the image's, full of links."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    path = runtime.root / "proc/sys/net/ipv4/ip_unprivileged_port_start"
    path.parent.mkdir(parents=True)
    path.symlink_to(victim)
    process = runtime.root / "proc/self/fd"
    process.mkdir(parents=True)
    config = runtime.config("sleep", "100")
    config["mounts"] = []
    config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "77"}
    started, _ = runtime.launch(config)
    started.event("started")
    netns = f"--net=/proc/{started.pid}/ns/net"
    import subprocess

    told = subprocess.run(
        ["nsenter", netns, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"], capture_output=True
    )
    assert told.stdout == b"77\n"
    assert victim.read_text() == "untouched"


# -------------------------------------------------------------------------------------------------- seccomp

OURS = 77  # instead of EPERM, which capabilities give as well

# One child per call, so that whatever a wrongly allowed call does it does to that child.
CALLS = r"""
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# mov eax, edi; mov ebx, esi; mov ecx, edx; xor edx, edx; xor esi, esi; xor edi, edi; int 0x80; ret
code = bytes.fromhex('53 89f8 89f3 89d1 31d2 31f6 31ff cd80 5b c3')
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
int80 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(
    ctypes.addressof(ctypes.c_char.from_buffer(page)))
answers = []
for architecture, number, arguments in json.load(open('/calls.json')):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if architecture == 'x86':
            result = int80(number, *(list(arguments) + [0, 0])[:2])
            error = -result if -4096 < result < 0 else 0
        else:
            number |= 0x40000000 if architecture == 'x32' else 0
            wide = [ctypes.c_ulong(value) for value in arguments] or [ctypes.c_ulong(0)] * 6
            result = libc.syscall(ctypes.c_long(number), *wide)
            error = ctypes.get_errno() if result == -1 else 0
        os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    answers.append(int(os.read(read, 32) or -status))
    os.close(read)
print(json.dumps(answers))
"""


def ask_kernel(runtime, profile, calls) -> list[int]:
    """Make system calls in a container with a filter; returns their errno, 0, or minus the signal."""
    (runtime.root / "calls.json").write_text(json.dumps(calls))
    config = runtime.config(*python(CALLS))
    config["mounts"] = [*config["mounts"], *python_mounts()]
    config["process"]["capabilities"] = {kind: list(DEFAULT) for kind in ("bounding", "effective", "permitted")}
    config["linux"]["seccomp"] = profile
    code, text = runtime.output(config)
    assert code == 0, text
    return json.loads(text)


SAFE = {
    "x86_64": {"getpid": 39, "getuid": 102, "sched_yield": 24, "gettid": 186, "getppid": 110, "uname": 63},
    "x86": {"getpid": 20, "getuid": 24, "sched_yield": 158, "gettid": 224, "getppid": 64},
    "x32": {"getpid": 39, "getuid": 102, "sched_yield": 24, "gettid": 186},
}


@x86_64
def test_every_refused_call_is_refused_by_the_kernel_on_each_architecture(runtime) -> None:  # C5, C6
    """Calls that the profile refuses are made, by int 0x80 and with the x32 bit too; those it allows only if harmless."""
    profile = {**default_seccomp(DEFAULT), "defaultErrnoRet": OURS}
    code = assemble_filter(parse_seccomp(profile), machine="x86_64")
    calls, wanted = [], []
    for architecture in ("x86_64", "x86", "x32"):
        for number in {*range(480)} - {335, 336}:  # uretprobe, uprobe: the kernel does not ask filters since 6.15
            decision = seccomp_oracle.decide(code, architecture, number)
            if decision != RET_ALLOW:
                calls.append((architecture, number, ()))
                wanted.append(decision - RET_ERRNO)
        for number in SAFE[architecture].values():
            calls.append((architecture, number, ()))
            wanted.append(0)
    got = ask_kernel(runtime, profile, calls)
    differing = []
    for call, answer, want in zip(calls, got, wanted, strict=True):
        # this kernel may have no x32; calls that the profile allows then end with ENOSYS
        fine = answer == want or (call[0] == "x32" and want == 0 and answer == errno.ENOSYS)
        if call[1] == SAFE["x86_64"]["uname"] and want == 0:
            fine = answer in {0, errno.EFAULT}
        if not fine:
            differing.append((*call[:2], answer, want))
    assert differing == []
    assert len(calls) > 350
    assert {OURS, errno.ENOSYS, 0} <= {*got}


DANGEROUS = (
    *("keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd"),
    *("setns", "unshare", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "bpf"),
    *("perf_event_open", "kexec_load", "quotactl", "swapon", "open_by_handle_at", "init_module", "reboot"),
)


@x86_64
def test_what_moby_refuses_is_refused_in_the_default_container(engine) -> None:  # C5
    numbers = syscall_numbers("x86_64")
    calls = [("x86_64", numbers[name], ()) for name in DANGEROUS]
    calls += [("x86_64", 41, (family, 5, 0)) for family in (38, 40, 1 << 32 | 38, 1 << 63 | 40)]
    calls += [
        ("x86", 354, (0,)),
        ("x86_64", 56, (0x10000011, 0, 0, 0, 0)),
        ("x86_64", 435, (0, 0)),
        ("x86_64", 41, (2, 1, 0)),
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(calls, file)
        file.flush()
        mount = ("-v", f"{file.name}:/calls.json:ro")
        for words in (("run", "--rm", *mount, *python_volumes(), "busybox"), ("exec", "calls")):
            if words[0] == "exec":
                engine.docker("run", "-d", "--name", "calls", *mount, *python_volumes(), "busybox", "sleep", "100")
            answers = json.loads(engine.docker(*words, *python(CALLS)).stdout)
            *refused, i386_seccomp, clone_newuser, clone3, inet = answers
            assert [*zip(DANGEROUS, refused, strict=False)] == [(name, errno.EPERM) for name in DANGEROUS]
            assert {*refused[len(DANGEROUS) :]} == {errno.EPERM}  # AF_ALG, AF_VSOCK, with upper bits
            assert (clone_newuser, clone3, inet) == (errno.EPERM, errno.ENOSYS, 0)
            assert i386_seccomp in {0, errno.EFAULT, errno.EINVAL}  # seccomp(2) itself is allowed


@x86_64
def test_a_profile_for_one_architecture_kills_the_others(runtime) -> None:  # C6
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": OURS}],
    }
    calls = [("x86_64", 90, (0, 0)), ("x86", 15, (0, 0)), ("x32", 90, (0, 0)), ("x86_64", 39, ())]
    native, i386, x32, fine = ask_kernel(runtime, profile, calls)
    assert (native, fine) == (OURS, 0)
    assert i386 < 0, "int 0x80 got around the filter"
    assert x32 < 0, "the x32 bit got around the filter"


# ------------------------------------------------------------------------------------------- keys and options

KEYRING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(250, 0, -3, 0))  # keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING)
"""


@x86_64
def test_keys_are_the_containers_own(engine) -> None:  # C7
    open_ = ("--security-opt", "seccomp=unconfined", *python_volumes())
    engine.docker("run", "-d", "--name", "keys", *open_, "busybox", *python(KEYRING + "import time; time.sleep(100)"))
    own = engine.docker("run", "--rm", *open_, "busybox", *python(KEYRING)).stdout
    executed = engine.docker("exec", "keys", *python(KEYRING)).stdout
    assert engine.process is not None
    import ctypes

    mine = ctypes.CDLL(None).syscall(250, 0, -3, 0)
    serials = [int(own), int(executed), mine]
    assert len({*serials}) == 3, serials
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", "wc -c </proc/keys").stdout.strip() == "0"


@pytest.mark.parametrize(
    "host",
    [
        {"CpusetCpus": "0-2147483647"},
        {"CpusetCpus": "-1"},
        {"CpusetCpus": "0-"},
        {"CpusetMems": "0-99999999999"},
        {"CpusetMems": "0-999999"},
        {"NanoCpus": -1},
        {"NanoCpus": 9223372036854775807},
        {"CpuShares": -5},
        {"CpuQuota": 1},
        {"Memory": -7},
        {"Memory": 1},
        {"MemorySwappiness": 101},
        {"PidsLimit": 1e309},
        {"ShmSize": -1},
        {"OomScoreAdj": 1001},
        {"BlkioWeight": 9},
        {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 1}]},
    ],
    ids=json.dumps,
)
def test_numbers_that_cannot_be_are_refused(engine, host) -> None:  # C9, CVE-2018-20699
    body = json.dumps({"Image": "busybox", "HostConfig": host}).replace("Infinity", "1e309").encode()
    status, answer = engine.http("POST", "/v1.45/containers/create", body)
    assert status == 400, answer
    assert engine.http("GET", "/_ping")[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        {"SecurityOpt": ["foo"]},
        {"SecurityOpt": ["seccomp=what"]},
        {"SecurityOpt": ["no-new-privileges:maybe"]},
        {"SecurityOpt": ["systempaths=what"]},
        {"SecurityOpt": ['seccomp={"defaultAction":"SCMP_ACT_WHAT"}']},
        {"SecurityOpt": ['seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"ALLOW"}]}']},
        {"SecurityOpt": ['seccomp={"defaultAction":"SCMP_ACT_ERRNO","defaultAction":"SCMP_ACT_ALLOW"}']},
        {"SecurityOpt": ["apparmor=no-such-profile"]},
        {"SecurityOpt": ["label=type:x"]},
        {"CapAdd": ["NO_SUCH"]},
        {"CapDrop": ["NO_SUCH"]},
        {"IpcMode": "what"},
        {"PidMode": "what"},
        {"UTSMode": "what"},
        {"UsernsMode": "what"},
        {"CgroupnsMode": "what"},
        {"Isolation": "what"},
        {"Runtime": "what"},
        {"RestartPolicy": {"Name": "what"}},
        {"Mounts": [{"Type": "what", "Target": "/x"}]},
        {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"Propagation": "what"}}]},
        {"Binds": ["/tmp:/x:what"]},
        {"LogConfig": {"Type": "what"}},
        {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "what"}]},
        {"DeviceCgroupRules": ["what"]},
        {"Ulimits": [{"Name": "what", "Soft": 1, "Hard": 1}]},
    ],
    ids=lambda host: json.dumps(host)[:60],
)
def test_an_unknown_word_is_refused(engine, host) -> None:  # C10
    """At create or at start, but never by running without what was asked for."""
    status, answer = engine.http(
        "POST", "/v1.45/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
    )
    if status == 201:
        identity = json.loads(answer)["Id"]
        status, answer = engine.http("POST", f"/v1.45/containers/{identity}/start")
        engine.docker("rm", "-f", identity)
    assert 400 <= status, answer
    assert status != 404 or "Runtime" in host


def test_the_image_decides_nothing_about_security(engine, tmp_path) -> None:  # C8 and E2: labels are data
    labels = [f"LABEL {name}=unconfined" for name in ("orlop.group-add", "orlop.shm-of", "io.containerd.seccomp")]
    with hostile_image(engine, tmp_path, lambda _: None, *labels) as image:
        text = engine.docker("run", "--rm", image, "cat", "/proc/self/status").stdout
    assert "Seccomp:\t2" in text
