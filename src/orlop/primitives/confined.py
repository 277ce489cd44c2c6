"""A program of the host that works for a stranger: one directory, the network, and nothing else that it could change.

``python -c``, with this module's ``main``, is put between ``commands.run`` and the program, since what it does must be
done in a process of its own: mount, process, IPC and UTS namespaces; every file system read-only, the homes and
everything below /var, /srv and /media hidden; the directory, at :data:`PLACE`, the only thing to write to; an
unprivileged user without groups; no capability and no way to get one; a limit for the size of files.

The caller has checked the program's words; its environment is what ``commands.run`` gives it.
"""

from __future__ import annotations

import os
import resource
import sys

from orlop.kernel import mount as k
from orlop.kernel.capability import CapabilitySets, capset, last_cap
from orlop.kernel.prctl import capbset_drop, set_no_new_privs, set_pdeathsig
from orlop.kernel.process import CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, unshare

PLACE = "/tmp/context"
NOBODY = 65534
_HIDDEN = ("/home", "/root", "/var", "/srv", "/media", "/mnt", "/opt", "/dev/shm", "/tmp")
_FILE_BYTES = 8 << 30
_SIGKILL, _FAILED = 9, 125
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from orlop.primitives.confined import main; main()"


def confined(directory: str, arguments: list[str]) -> list[str]:
    """Return what ``commands.run`` is to run.

    Args:
        directory: private to this; given to the unprivileged user.
        arguments: the program by its absolute path, and its arguments.
    """
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    python = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", _PROGRAM, source]
    return [*python, directory, *arguments]


def main() -> None:
    """Become the program: ``sys.argv`` is a name, the directory, and the program with its arguments."""
    directory, *arguments = sys.argv[1:]
    try:
        unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
        child = os.fork()  # noqa: TID251 - a process namespace begins with a child; this is a program of its own
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
        set_pdeathsig(_SIGKILL)
        _build(directory)
        _give_up_privileges()
        os.chdir(PLACE)
        os.execv(arguments[0], arguments)
    except OSError as error:
        sys.stderr.write(f"cannot be shut in: {error}\n")
        sys.stderr.flush()
    os._exit(_FAILED)


def _build(directory: str) -> None:
    """Make the mounts."""
    work = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.fchown(work, NOBODY, NOBODY)
    k.mount_setattr(k.AT_FDCWD, "/", propagation=k.MS_PRIVATE, recursive=True)
    tree = k.open_tree(work, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH)
    k.mount("proc", "/proc", "proc", k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC)
    for path in _HIDDEN:
        if os.path.isdir(path) and not os.path.islink(path):
            k.mount("tmpfs", path, "tmpfs", k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC, "size=1m,mode=755")
    os.mkdir(PLACE, 0o755)
    k.mount_setattr(k.AT_FDCWD, "/", attr_set=k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID, recursive=True)
    place = os.open(PLACE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    k.move_mount(tree, place)
    k.mount_setattr(
        k.AT_FDCWD, PLACE, attr_set=k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC, recursive=False
    )


def _give_up_privileges() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    set_no_new_privs()
    for capability in range(last_cap() + 1):
        capbset_drop(capability)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    capset(CapabilitySets(0, 0, 0))
