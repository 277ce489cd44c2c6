"""Going through a container's start and end before there is one, so that the real one finds everything warm.

What the spawner's side of a start executes takes a fifth of a millisecond in a process that did it before, and two and
a half in one that was just forked: the kernel copies each page of the heap in which a reference is counted first, and
the interpreter has not adapted its code yet (PEP 659). So the spawner goes through it until the code is adapted, which
all forks inherit (:meth:`Rehearsal.warm_up`), and each worker once, when no request came for a moment
(:meth:`Rehearsal.once`).

The functions are the real ones. What they work on is of nobody: a usual configuration, sockets and pipes that both ends
of are here, a cgroup that does not exist, a file system that is mounted nowhere.
"""

from __future__ import annotations

import os
import time

from orlop.errors import OrlopError
from orlop.kernel import mount as k
from orlop.kernel.plain import socket
from orlop.primitives.channel import Channel, decode, encode, receive_packet, send_packet
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import create_file_in_root, mkdir_all_in_root
from orlop.primitives.scope import Cleanup, suppress
from orlop.runtime import handover
from orlop.runtime.cgroups import normalise_path, open_cgroup
from orlop.runtime.cgroups.controllers import v1_writes, v2_writes
from orlop.runtime.cgroups.device_defaults import with_default_devices
from orlop.runtime.container import Creation, RunningProcess
from orlop.runtime.control import started_event
from orlop.runtime.mount_targets import check_target, open_ordinary_directory
from orlop.runtime.namespaces import choose_namespaces
from orlop.runtime.nodes import MakeLink, MakeNode
from orlop.runtime.operations import Root, make_filesystem
from orlop.runtime.program import Program
from orlop.runtime.rootfs import plan
from orlop.runtime.security import apply, paths
from orlop.runtime.security.capabilities import DEFAULT, oci_sets
from orlop.runtime.security.seccomp_profile import default_seccomp
from orlop.runtime.streams import Streams
from orlop.runtime.users import identify
from orlop.spec.launch import ContainerLaunch, from_message, to_message
from orlop.spec.oci import parse_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.cgroups import Hierarchies
    from orlop.runtime.operations import Operation
    from orlop.spec.json import JsonObject
    from orlop.spec.oci import Config

# CPython 3.11 adapts a function at its eighth call, and then each instruction when it is executed next
_TIMES = 16
_NOWHERE = "/orlop-rehearsal"  # no cgroup, and no directory
_FLAGS = ["nosuid", "noexec", "nodev"]
_MOUNTS: tuple[tuple[str, str, list[str]], ...] = (
    ("/proc", "proc", _FLAGS),
    ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/sys", "sysfs", [*_FLAGS, "ro"]),
    ("/sys/fs/cgroup", "cgroup", [*_FLAGS, "relatime", "ro"]),
    ("/dev/mqueue", "mqueue", _FLAGS),
    ("/dev/shm", "tmpfs", [*_FLAGS, "mode=1777", "size=67108864"]),
    ("/etc/hosts", "bind", ["rbind", "rprivate"]),
)
# by a kernel or a sandbox around us: what comes is served cold then
_REFUSED = (OrlopError, OSError)
_KINDS = ("mount", "uts", "ipc", "pid", "network", "cgroup")


def _usual_request() -> JsonObject:
    """Return a request as the engine makes it for most containers."""
    config: JsonObject = {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "rehearsal",
        "process": {
            "args": ["sh"],
            "cwd": "/",
            "env": ["PATH=/bin", "HOSTNAME=rehearsal"],
            "terminal": False,
            "user": {"uid": 0, "gid": 0, "username": "0"},
            "capabilities": oci_sets(DEFAULT),
            "noNewPrivileges": False,
            "oomScoreAdj": 0,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
        },
        "mounts": [
            {"destination": place, "type": kind, "source": kind, "options": [*options]}
            for place, kind, options in _MOUNTS
        ],
        "linux": {
            "cgroupsPath": _NOWHERE,
            "namespaces": [{"type": kind} for kind in _KINDS],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": [*paths.MASKED_PATHS],
            "readonlyPaths": [*paths.READONLY_PATHS],
            "seccomp": default_seccomp(DEFAULT),
        },
    }
    return {"op": "container", "launch": to_message(ContainerLaunch("0" * 64, _NOWHERE, config))}


class Rehearsal:
    """Holds the request that is worked on; made by the spawner, called by its children."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._hierarchies = hierarchies
        self._packet = encode(_usual_request())[0]

    def warm_up(self) -> None:
        """Have the interpreter adapt what a worker and an init execute; for the spawner, before it forks."""
        with suppress(*_REFUSED):
            for _ in range(_TIMES):
                config, operations = self._begin()
                _build(config, operations)
                self._end()

    def once(self) -> None:
        """Go once through what a worker executes; for one that waits for its request."""
        with suppress(*_REFUSED):
            self._begin()
            self._end()

    def _begin(self) -> tuple[Config, list[Operation]]:
        """Do what a worker does until it makes init."""
        with Cleanup() as always:
            ours, theirs = Channel.pair()
            always.callback(ours.close)
            always.callback(theirs.close)
            send_packet(theirs.socket, self._packet, (theirs.fileno(),))
            message, fds = decode(*receive_packet(ours.socket))
            for fd in fds:
                fd.close()
            launch = from_message(ContainerLaunch, message["launch"])  # type: ignore[arg-type]  # as it was sent
            config = parse_config(launch.config)
            if config.process is None:
                raise AssertionError("unreachable")
            apply.prepare(config.process, config.linux.seccomp)
            cgroup = open_cgroup(self._hierarchies, normalise_path(config.linux.cgroups_path, container_id=launch.id))
            resources = with_default_devices(config.linux.resources)
            (v1_writes if self._hierarchies.version == 1 else v2_writes)(resources)
            choose_namespaces(Creation(launch.id, config, launch.state_dir), always, None)
            return config, plan(config, cgroup.directories(), user_namespace=False)

    def _end(self) -> None:
        """Do what a worker does when its container ends at once, until there is a record to be written."""
        with Cleanup() as always:
            control, engine = Channel.pair()
            always.callback(engine.close)
            always.callback(control.close)
            listener, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            shim, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            for one in (listener, worker, shim, status):
                always.callback(one.close)
            status.send(b"%d 0" % os.CLD_EXITED)
            ended, writing = os.pipe2(os.O_CLOEXEC)
            os.close(writing)
            pidfd = always.enter_context(OwnedFd(ended))
            with Streams(terminal=False, open_stdin=False) as streams:
                streams.started(None)
            running = RunningProcess(os.getpid(), pidfd, None, open_cgroup(self._hierarchies, _NOWHERE))
            control.send(started_event(running.pid, time.time_ns()), (pidfd.fileno(),))
            started = handover.Started(running, streams, 0, [], None, listener)
            launch = ContainerLaunch(id="0" * 64, state_dir=_NOWHERE, config={})
            handover.ends_at_once(shim, control, started, launch)
            loop = handover.own_loop(shim, control, started, launch)
            always.callback(loop.close)
            with suppress(FileNotFoundError):  # there is no directory for the record
                loop.run()


def _build(config: Config, operations: list[Operation]) -> None:
    """Do what init does, in a file system that is mounted nowhere, as far as that needs no mount in it."""
    parameters = ("mode=755", "size=1m", "nr_inodes=100")
    with make_filesystem("tmpfs", "tmpfs", parameters, k.MOUNT_ATTR_NOSUID) as tree:
        root = Root(tree.fileno(), -1)
        for place, _, _ in _MOUNTS:
            with open_ordinary_directory(root.fd, place) as target:
                check_target(root.fd, target.fileno(), place)
            mkdir_all_in_root(root.fd, place).close()
        create_file_in_root(root.fd, "/etc/hostname").close()
        for operation in operations:
            if isinstance(operation, (MakeNode, MakeLink)):
                operation.apply(root)
        for path in (*config.linux.masked_paths, *config.linux.readonly_paths):
            root.open_kernel_path(path)
        root.close()
        if config.process is not None:
            identify(root.fd, config.process, config)
            Program(config.process.args, config.process.env)
        k.mount_setattr(root.fd, "", attr_set=k.MOUNT_ATTR_RDONLY)
