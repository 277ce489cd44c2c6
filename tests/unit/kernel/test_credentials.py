"""prctl, capabilities, rlimits, keyrings and privileges, each in a forked child of the test."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel import capability, prctl
from orlop.kernel.keyring import join_session_keyring
from orlop.kernel.rlimit import INFINITY, NUMBERS, get_rlimit, prlimit, set_rlimits
from orlop.kernel.syscall import SyscallError
from orlop.runtime.security import apply
from orlop.runtime.security.capabilities import DEFAULT
from orlop.runtime.security.seccomp_profile import default_seccomp
from orlop.runtime.users import Identity
from orlop.spec.oci.process import Capabilities, Process, Rlimit
from orlop.spec.oci.seccomp import parse_seccomp

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


def in_child(function):
    """Run ``function`` in a forked child and return its result as text, or the error it raised."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                answer = str(function())
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(write_end, answer.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    output = b""
    while part := os.read(read_end, 65536):
        output += part
    os.close(read_end)
    os.waitpid(child, 0)
    return output.decode()


def status(*keys):
    with open("/proc/self/status") as file:
        lines = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    return [lines[key].strip() for key in keys]


def test_prctl():
    def child():
        prctl.set_dumpable(0)
        prctl.set_no_new_privs()
        prctl.set_pdeathsig(signal.SIGKILL)
        prctl.set_child_subreaper(True)
        prctl.set_name(b"a-name-that-is-too-long")
        return prctl.get_dumpable(), prctl.get_no_new_privs(), *status("Name", "NoNewPrivs")

    assert in_child(child) == "(0, True, 'a-name-that-is-', '1')"


def test_errors_name_the_call():
    with pytest.raises(SyscallError, match=r"prctl\(PR_CAPBSET_READ, 4000, 0\): invalid argument \(EINVAL\)"):
        prctl.capbset_read(4000)
    with pytest.raises(SyscallError, match=r"capget\(-1\)|capget\(99999999\)"):
        capability.capget(99999999)


def test_capabilities_of_this_process():
    sets = capability.capget()
    assert [f"{value:016x}" for value in (sets.effective, sets.permitted, sets.inheritable)] == status(
        "CapEff", "CapPrm", "CapInh"
    )
    assert capability.last_cap() >= 40
    assert capability.mask(["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]) == 1 << 40 | 1
    with pytest.raises(ValueError, match="not a capability mask"):
        capability.encode(capability.CapabilitySets(1 << 64, 0, 0))


@needs_root
def test_bounding_and_ambient():
    def child():
        prctl.capbset_drop(capability.NUMBERS["CAP_MKNOD"])
        chown = capability.NUMBERS["CAP_CHOWN"]
        sets = capability.CapabilitySets(1, 1, 1)
        capability.capset(sets)
        prctl.cap_ambient_raise(chown)
        raised = status("CapAmb")
        prctl.cap_ambient_clear_all()
        return prctl.capbset_read(27), capability.capget() == sets, raised, status("CapAmb")

    assert in_child(child) == "(False, True, ['0000000000000001'], ['0000000000000000'])"


def test_rlimits():
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    shown = get_rlimit(NUMBERS["RLIMIT_CORE"])
    assert shown == tuple(INFINITY if value == resource.RLIM_INFINITY else value for value in (soft, hard))
    assert NUMBERS["RLIMIT_NOFILE"] == resource.RLIMIT_NOFILE
    assert NUMBERS["RLIMIT_RTPRIO"] == resource.RLIMIT_RTPRIO

    def child():
        set_rlimits([Rlimit("RLIMIT_NOFILE", 64, 128), Rlimit("RLIMIT_CORE", 0, 0)])
        return resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)

    assert in_child(child) == "((64, 128), (0, 0))"
    with pytest.raises(ValueError, match="out of range"):
        prlimit(0, 7, -1, 5)
    with pytest.raises(InvalidParameterError, match="invalid rlimit type: RLIMIT_FOO"):
        set_rlimits([Rlimit("RLIMIT_FOO", 1, 1)])
    with pytest.raises(SystemFailureError, match="error setting rlimit type 7: invalid argument"):
        set_rlimits([Rlimit("RLIMIT_NOFILE", 9, 8)])


def test_keyring():
    def child():
        try:
            return join_session_keyring() > 0
        except SyscallError as error:
            # root's quota of this machine is used up, and is named
            return "disk quota exceeded" in str(error)

    assert in_child(child) == "True"


def process(no_new_privileges=False, **sets):
    return Process(
        args=("true",),
        cwd="/",
        capabilities=Capabilities(**{name: frozenset(names) for name, names in sets.items()}),
        no_new_privileges=no_new_privileges,
    )


def apply_in_child(definition, identity, *, seccomp=None, cwd=b"/", look=None, keep=()):
    def child():
        prepared = apply.prepare(definition, seccomp)
        apply.apply_privileges(prepared, identity, cwd, keep=(write_end, *keep))
        os.write(write_end, look() if look is not None else b"done")

    read_end, write_end = os.pipe()
    child_pid = os.fork()
    if child_pid == 0:
        try:
            try:
                child()
            except BaseException as error:
                os.write(write_end, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    output = os.read(read_end, 65536)
    os.close(read_end)
    os.waitpid(child_pid, 0)
    return output.decode()


def look():
    keys = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return repr(status(*keys)).encode()


ROOT_SETS = {"bounding": DEFAULT, "permitted": DEFAULT, "effective": DEFAULT}
ZERO, DOCKER = "0" * 16, "00000000a80425fb"


@needs_root
@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_root_of_a_container(no_new_privileges):
    shown = apply_in_child(
        process(no_new_privileges, **ROOT_SETS),
        Identity(0, 0, (0,)),
        seccomp=parse_seccomp(default_seccomp(DEFAULT)),
        look=look,
    )
    expected = ["0\t0\t0\t0", "0\t0\t0\t0", "0", ZERO, DOCKER, DOCKER, DOCKER, ZERO, str(int(no_new_privileges)), "2"]
    assert shown == repr(expected)


@needs_root
def test_another_user_has_nothing_permitted():
    """CVE-2016-8867, CVE-2022-24769: permitted, effective, inheritable and ambient are empty."""
    shown = apply_in_child(process(**ROOT_SETS), Identity(1000, 1001, (7, 1001)), look=look)
    ids = ["1000\t1000\t1000\t1000", "1001\t1001\t1001\t1001", "7 1001"]
    assert shown == repr([*ids, ZERO, ZERO, ZERO, DOCKER, ZERO, "0", "0"])


@needs_root
def test_ambient_capabilities_when_asked_for():
    sets = dict.fromkeys(("bounding", "permitted", "effective", "inheritable", "ambient"), ("CAP_NET_BIND_SERVICE",))
    shown = apply_in_child(process(**sets), Identity(1000, 1000, (1000,)), look=look)
    bind = f"{1 << 10:016x}"
    ids = ["1000\t1000\t1000\t1000", "1000\t1000\t1000\t1000", "1000"]
    assert shown == repr([*ids, bind, bind, bind, bind, bind, "0", "0"])


@needs_root
def test_no_capabilities_object_drops_all():
    shown = apply_in_child(Process(args=("true",), cwd="/"), Identity(0, 0, (0,)), look=look)
    assert repr([ZERO] * 5)[1:-1] in shown


@needs_root
def test_descriptors_are_closed_but_those_kept():
    extra = os.open("/", os.O_RDONLY)

    def left():
        open_fds = []
        for fd in range(3, 300):
            try:
                os.fstat(fd)
                open_fds.append(fd)
            except OSError:
                continue
        return repr((len(open_fds), extra in open_fds)).encode()

    try:
        assert apply_in_child(process(**ROOT_SETS), Identity(0, 0, (0,)), look=left) == "(1, False)"
        assert apply_in_child(process(**ROOT_SETS), Identity(0, 0, (0,)), look=left, keep=(extra,)) == "(2, True)"
    finally:
        os.close(extra)


@needs_root
def test_working_directory(tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    os.chmod(tmp_path, 0o755)
    (tmp_path / "file").write_text("")
    user = Identity(1000, 1000, (1000,))
    missing = apply_in_child(process(**ROOT_SETS), user, cwd=b"/no/such")
    assert missing == (
        'InvalidParameterError: chdir to cwd ("/no/such") set in config.json failed: no such file or directory'
    )
    file = apply_in_child(process(**ROOT_SETS), user, cwd=os.fsencode(tmp_path / "file"))
    assert file.endswith("failed: not a directory")


@needs_root
def test_working_directory_outside_of_the_root_is_a_breakout(tmp_path):
    """CVE-2024-21626: a leaked descriptor of the host as working directory."""
    leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)

    def child():
        prepared = apply.prepare(process(**ROOT_SETS))
        os.chroot(tmp_path)
        os.chdir("/")
        os.fchdir(leaked)
        apply.apply_privileges(prepared, Identity(0, 0, (0,)), b".", keep=())

    def report():
        try:
            child()
        except InvalidParameterError as error:
            return f"refused: {error}"
        return "escaped"

    try:
        assert in_child(report).startswith("refused: current working directory is outside of container mount namespace")
    finally:
        os.close(leaked)


@needs_root
def test_filter_without_no_new_privs_needs_the_order():
    """After the capabilities are gone the kernel would refuse the filter: it must have come first."""
    sets = {"bounding": (), "permitted": (), "effective": ()}
    shown = apply_in_child(
        process(**sets), Identity(65534, 65534, (65534,)), seccomp=parse_seccomp(default_seccomp(())), look=look
    )
    assert shown.endswith("'0', '2']")


def test_unknown_capability_is_named():
    with pytest.raises(InvalidParameterError, match="unknown capability: CAP_FOO"):
        apply.prepare(process(bounding=("CAP_FOO",)))
