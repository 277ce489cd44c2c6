"""What init is given before it is made."""

from __future__ import annotations

from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.primitives.channel import Channel
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.cgroups.contract import CgroupSet
    from orlop.runtime.container_state import ContainerState
    from orlop.runtime.operations import Operation
    from orlop.runtime.security.apply import PreparedPrivileges
    from orlop.spec.launch import OverlayRoot
    from orlop.spec.oci import Config, Process

# the place of the root itself among the mounts that were made for init
MADE_ROOT = -1
# annotations of the engine's (orlop.runtime.shared_memory): whose /dev/shm comes with the joined IPC namespace, and
# whose tmpfs is at the destination that follows
SHM_DONOR = "orlop.shm-of"
TMPFS_DONOR = "orlop.tmpfs-of:"


@dataclass
class InitTask:
    """Everything that init needs, made by its parent before clone3.

    Attributes:
        config: the configuration.
        process: its process.
        sync: init's end of the sync channel.
        cgroup: joined before anything of the container runs.
        cloned: clone3 put us into the unified hierarchy already.
        overlay: layers of the root, or None.
        root_target: a directory of the host where the root is mounted, in our own mount namespace only.
        operations: what makes the root.
        prepared: privileges, allocated and compiled.
        joins: descriptors of existing namespaces with their CLONE_NEW* flag.
        unshare: CLONE_NEW* flags of namespaces made after the cgroup was joined.
        stdio: descriptors for 0, 1, 2; None with a terminal, or to keep what is there.
        console_size: height and width.
        fifo: an O_PATH descriptor of the exec fifo to wait on, or None.
        preserve: number of descriptors from 3 on that the program inherits.
        reap: stay as pid 1 and run the program as a child.
        new_keyring: join a new session keyring.
        user_namespace: ids were mapped for us; become root inside first.
        die_with_parent: be killed when the parent ends (PR_SET_PDEATHSIG).
        sysctls: what is to be set.
        trees: detached mounts that were made for operations, by their places; more of them may come with "go".
        pauses: tell the parent when the root is built and wait for its "go" before pivot_root.
        hook_state: what hooks are told, where the configuration has some.
        rootless: our parent is an ordinary user, and we are dumpable until he mapped our ids: else he could not.
    """

    config: Config
    process: Process
    sync: Channel
    cgroup: CgroupSet
    overlay: OverlayRoot | None
    root_target: str
    operations: Sequence[Operation]
    prepared: PreparedPrivileges
    cloned: bool = False
    joins: Sequence[tuple[int, int]] = ()
    unshare: int = 0
    stdio: tuple[int, int, int] | None = None
    console_size: tuple[int, int] | None = None
    fifo: int | None = None
    preserve: int = 0
    reap: bool = False
    new_keyring: bool = True
    user_namespace: bool = False
    die_with_parent: bool = True
    sysctls: Mapping[str, str] = field(default_factory=dict)
    trees: dict[int, list[OwnedFd]] = field(default_factory=dict)
    pauses: bool = False
    hook_state: ContainerState | None = None
    rootless: bool = False

    def descriptors(self) -> list[int]:
        """Return what must survive the first close_range."""
        kept = [self.sync.fileno(), *self.cgroup.join_fds, *(fd for fd, _ in self.joins), *(self.stdio or ())]
        kept += [tree.fileno() for trees in self.trees.values() for tree in trees]
        kept += range(3, 3 + self.preserve)
        return kept if self.fifo is None else [*kept, self.fifo]
