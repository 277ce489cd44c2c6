"""Checks of seccomp: what the actions do, arguments, flags, and the listener's hand-over."""

from __future__ import annotations

import json
import os
import socket
import struct
from array import array
from typing import Any

from runtime import Runtime

from harness import PATIENCE


def seccomp_actions(runtime: Runtime) -> None:
    """Each action's effect on sethostname, which the shell's ``hostname`` makes."""
    for action, more, expected in (
        ("SCMP_ACT_ERRNO", {"errnoRet": 95}, (1, "not supported")),
        ("SCMP_ACT_KILL", {}, (159, "")),
        ("SCMP_ACT_KILL_PROCESS", {}, (159, "")),
        ("SCMP_ACT_TRAP", {}, (159, "")),
        ("SCMP_ACT_TRACE", {"errnoRet": 1}, (1, "not implemented")),
        ("SCMP_ACT_LOG", {}, (1, "not permitted")),
        ("SCMP_ACT_ALLOW", {}, (1, "not permitted")),
    ):
        rules = [{"names": ["sethostname"], "action": action, **more}]
        default = "SCMP_ACT_ERRNO" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
        profile: dict[str, Any] = {"defaultAction": default, "syscalls": rules}
        if default == "SCMP_ACT_ERRNO":
            continue  # what else to allow is the business of the profile's tests
        done = runtime.run("hostname x", linux__seccomp=profile)
        assert (done.returncode, expected[1] in done.stderr.lower()) == (expected[0], True), (action, done)


def seccomp_arguments(runtime: Runtime) -> None:
    rule = {
        "names": ["kill"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 95,
        "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
    }
    done = runtime.run(
        "kill -10 $$; kill -18 $$ && echo other",
        linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]},
    )
    assert "not supported" in done.stderr.lower(), done
    assert done.stdout == "other\n"


def seccomp_flags(runtime: Runtime) -> None:
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC")]
    for unprivileged in (True, False):
        done = runtime.run(
            "grep Seccomp: /proc/self/status",
            linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "flags": flags},
            process__noNewPrivileges=unprivileged,
        )
        assert done.stdout.split() == ["Seccomp:", "2"], done


def seccomp_notify(runtime: Runtime) -> None:
    """The listener comes with the container process state, and answers for the program."""
    path = runtime.home / "agent.sock"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": f"{runtime.seen}/agent.sock",
        "listenerMetadata": "some words",
        "syscalls": [{"names": ["mknod", "mknodat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    for privileged in (True, False):
        identity, bundle = runtime.bundle(
            *("sh", "-c", "mkfifo /tmp/x; ls /tmp"),
            linux__seccomp=profile,
            process__noNewPrivileges=not privileged,
        )
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(10 * PATIENCE)
            runtime.expect("create", "--bundle", bundle, identity)
            # crun hands it over no earlier than this
            runtime.expect("start", identity)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10 * PATIENCE)
                data, ancillary, *_ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
        path.unlink()
        (fd,) = array("i", ancillary[0][2])
        try:
            document = json.loads(data)
            assert document["fds"] == ["seccompFd"]
            assert document["metadata"] == "some words"
            assert document["pid"] == runtime.state(identity)["pid"]
            assert document["state"]["id"] == identity
            assert document["state"]["bundle"] == bundle
            assert answer(fd, errno_name=95)
            runtime.wait(identity, "stopped")
        finally:
            os.close(fd)
        runtime.expect("delete", identity)


_RECEIVE, _SEND = 0xC0502100, 0xC0182101


def answer(fd: int, *, errno_name: int, seconds: float = 10) -> bool:
    """Answer one notification with an errno (seccomp_unotify(2)); struct seccomp_notif has 80 bytes."""
    import fcntl
    import select

    if not select.select([fd], [], [], seconds * PATIENCE)[0]:
        return False
    buffer = bytearray(80)
    fcntl.ioctl(fd, _RECEIVE, buffer)
    (identity,) = struct.unpack_from("=Q", buffer)
    fcntl.ioctl(fd, _SEND, bytearray(struct.pack("=QqiI", identity, 0, -errno_name, 0)))
    return True


FILTER_CHECKS = (
    seccomp_actions,
    seccomp_arguments,
    seccomp_flags,
    seccomp_notify,
)
