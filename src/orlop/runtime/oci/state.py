"""What ``orlop-runtime`` remembers of a container, and what the kernel says about it.

::

    <root>/                 0700
      <id>/                 0711
        state.json          State, replaced atomically
        config.json         the configuration as given, for exec
        hooks.json          its hooks, where start and delete have to execute some
        exec.fifo           until start: init waits for a reader of it, then writes one byte
        root/               where init mounts the root file system, in its own mount namespace

The directory itself is the claim on the id: it is made first and removed last.
"""

from __future__ import annotations

import os
import select
import stat

from orlop.errors import ConflictError, DataLossError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.kernel.process import in_user_namespace
from orlop.primitives.atomic import write_atomic
from orlop.primitives.json_text import dumps, loads
from orlop.spec.charset import WORD, consists_of
from orlop.spec.record import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject, JsonValue

_ID = WORD | frozenset("+.-")
FIFO = "exec.fifo"
HOOKS = "hooks.json"
# a message through the fifo is written at once (pipe(7), PIPE_BUF)
_MESSAGE_BYTES = 4096
NOTIFY_VARIABLE = "NOTIFY_SOCKET"
NOTIFY = "notify"  # a directory with the socket of sd_notify(3), see orlop.runtime.oci.notify
ROOT_TARGET = "root"
_STARTING = "exec.fifo.starting"
_POLL_MS = 100


@dataclass(frozen=True)
class State:
    """One container.

    Attributes:
        id: its name.
        pid: of its init, in the runtime's pid namespace; 0 while it is being made.
        start_time: of init, clock ticks after boot; tells it from another process with its number.
        bundle: absolute path.
        rootfs: absolute path.
        created: RFC 3339, UTC.
        cgroup: path below the hierarchies' roots, or ``slice:prefix:name``.
        owner: uid of who created it.
        version: of the specification that the state complies with.
        annotations: of its configuration.
    """

    id: str
    pid: int
    start_time: int
    bundle: str
    rootfs: str
    created: str
    cgroup: str
    owner: int
    version: str
    annotations: dict[str, str]


def default_root() -> str:
    """Return ``/run/orlop-runtime``, or below XDG_RUNTIME_DIR that of a user, also where he is root of a namespace."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and (os.geteuid() != 0 or in_user_namespace()):
        return f"{runtime}/orlop-runtime"
    return "/run/orlop-runtime"


class StateStore:
    """All containers below one root directory."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def directory(self, identity: str) -> str:
        """Return a container's directory. Raises InvalidParameterError: not an id."""
        if not identity:
            raise InvalidParameterError("container id cannot be empty")
        if not consists_of(identity, _ID, 1, 255) or identity in (".", ".."):
            raise InvalidParameterError("invalid container ID format")
        return f"{self.root}/{identity}"

    def claim(self, identity: str) -> str:
        """Make a container's directory and return it. Raises ConflictError."""
        directory = self.directory(identity)
        os.makedirs(self.root, 0o700, exist_ok=True)
        _check_owner(self.root)
        try:
            os.mkdir(directory, 0o711)
        except FileExistsError:
            raise ConflictError("container with given ID already exists") from None
        return directory

    def save(self, state: State) -> None:
        """Write a container's state."""
        data = dumps({name: getattr(state, name) for name in fields(State)}).encode()
        write_atomic(f"{self.root}/{state.id}/state.json", data, 0o600)

    def load(self, identity: str) -> State:
        """Return a container's state. Raises NotFoundError, DataLossError."""
        directory = self.directory(identity)
        try:
            with open(f"{directory}/state.json", "rb") as file:
                document = loads(file.read())
        except FileNotFoundError:
            raise NotFoundError("container does not exist") from None
        except ValueError as error:
            raise DataLossError(f"damaged state of container {identity}: {error}") from None
        try:
            state = State(**document)
        except TypeError as error:
            raise DataLossError(f"damaged state of container {identity}: {error}") from None
        return state

    def identities(self) -> list[str]:
        """Return the ids of all containers, sorted."""
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if os.path.exists(f"{self.root}/{name}/state.json"))

    def remove(self, identity: str) -> None:
        """Remove a container's directory; what is already gone is fine."""
        directory = self.directory(identity)
        try:
            for name in os.listdir(directory):
                if name == ROOT_TARGET:
                    os.rmdir(f"{directory}/{name}")
                elif name == NOTIFY:
                    for inner in os.listdir(f"{directory}/{name}"):
                        os.unlink(f"{directory}/{name}/{inner}")
                    os.rmdir(f"{directory}/{name}")
                else:
                    os.unlink(f"{directory}/{name}")
            os.rmdir(directory)
        except FileNotFoundError:
            return

    def make_gate(self, identity: str) -> int:
        """Make the FIFO that init waits on and return an O_PATH descriptor of it for init, who can do nothing else."""
        path = f"{self.directory(identity)}/{FIFO}"
        os.mkfifo(path, 0o600)
        return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)

    def open_gate(self, state: State, *, until_executed: bool = False) -> None:
        """Let init go on; only the first caller does. With ``until_executed`` wait until its program is executed.

        Raises:
            ConflictError: it has been let go before, or it is dead.
            SystemFailureError: one of its startContainer hooks failed, or execve did, in its words.
        """
        directory = self.directory(state.id)
        starting = f"{directory}/{_STARTING}"
        try:
            os.rename(f"{directory}/{FIFO}", starting)
        except FileNotFoundError:
            raise ConflictError("cannot start an already running container") from None
        try:
            fd = os.open(starting, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                    raise DataLossError(f"not a FIFO: {starting}")
                if _await_word(fd, state) != b"0":
                    raise ConflictError("container process died before its program was started")
                while until_executed and _await_word(fd, state):
                    pass
            finally:
                os.close(fd)
        finally:
            os.unlink(starting)

    def status(self, state: State, hierarchies: Hierarchies) -> str:
        """Return ``creating``, ``created``, ``running``, ``paused`` or ``stopped``, as the kernel has it now.

        A container whose creation was killed stays ``creating``.
        """
        if state.pid == 0:
            return "creating"
        if not is_alive(state):
            return "stopped"
        from orlop.runtime.cgroups import open_cgroup

        if open_cgroup(hierarchies, state.cgroup).frozen():
            return "paused"
        return "created" if os.path.exists(f"{self.directory(state.id)}/{FIFO}") else "running"


def _await_word(fifo: int, state: State) -> bytes:
    """Wait for what init writes, now that there is a reader; empty when it is done with it.

    That is "0" when the program is next, or "1" and why it is not (``runtime.hooks``).
    """
    poller = select.poll()
    poller.register(fifo, select.POLLIN)
    while not poller.poll(_POLL_MS):
        if not is_alive(state) and not poller.poll(0):  # what it wrote before it ended is there by now
            raise ConflictError("cannot start a container that has stopped")
    message = os.read(fifo, _MESSAGE_BYTES)
    # both may come at once
    if message[:1] == b"1" or message[:2] == b"01":
        raise SystemFailureError(message.lstrip(b"0")[1:].decode(errors="backslashreplace"))
    return message


def _check_owner(root: str) -> None:
    """Refuse a directory whose containers somebody else could take away, or put others in their place (I3).

    Raises:
        InvalidParameterError: it is another user's, or everybody can write to it and remove what is not theirs.
    """
    status = os.stat(root)
    everybody = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    if status.st_uid not in (os.geteuid(), 0) or everybody:
        raise InvalidParameterError(f"others can change the state of containers: {root}")


def is_alive(state: State) -> bool:
    """Whether init is the very process that was started, and no zombie."""
    found = process_stat(state.pid)
    return found is not None and found[0] not in "ZX" and found[1] == state.start_time


def process_stat(pid: int) -> tuple[str, int] | None:
    """Return a process' state letter and start time (proc_pid_stat(5), fields 3 and 22); None when there is none."""
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[19])


def state_document(state: State, status: str) -> JsonObject:
    """Return the state as the runtime-spec and runc print it."""
    document: JsonObject = {
        "ociVersion": state.version,
        "id": state.id,
        "pid": 0 if status == "stopped" else state.pid,
        "status": status,
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
    }
    if state.annotations:
        annotations: dict[str, JsonValue] = dict(state.annotations)
        document["annotations"] = annotations
    document["owner"] = ""
    return document
