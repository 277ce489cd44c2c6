"""``process`` of the runtime-spec: the program, who it is and what it may do."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.charset import UPPER, consists_of
from orlop.spec.oci.fields import ID_MAX, UINT64_MAX, Fields
from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    from orlop.spec.json import JsonValue
    from orlop.spec.oci.scheduling import CpuAffinity, IoPriority, Scheduler

    class _Scheduling(TypedDict, total=False):
        scheduler: Scheduler | None
        io_priority: IoPriority | None
        cpu_affinity: CpuAffinity | None


_CAPABILITY = UPPER | {"_"}


@dataclass(frozen=True)
class User:
    """Numeric identity; ``username`` is only information. ``umask`` None is 0022."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str = ""


@dataclass(frozen=True)
class Capabilities:
    """The five capability sets, by their ``CAP_`` names."""

    bounding: frozenset[str] = frozenset()
    effective: frozenset[str] = frozenset()
    permitted: frozenset[str] = frozenset()
    inheritable: frozenset[str] = frozenset()
    ambient: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Rlimit:
    """One resource limit (getrlimit(2)); 2**64 - 1 is unlimited."""

    type: str
    soft: int
    hard: int


@dataclass(frozen=True)
class Process:
    """What is executed.

    Attributes:
        args: the program and its arguments; never empty.
        cwd: absolute path in the container.
        env: ``NAME=value`` strings, in order.
        terminal: give it a pseudo-terminal.
        console_size: height and width, or None.
        user: who it runs as.
        capabilities: None drops every capability.
        rlimits: in order, no type twice.
        no_new_privileges: prctl(PR_SET_NO_NEW_PRIVS).
        oom_score_adj: -1000..1000, or None to keep the runtime's.
        apparmor_profile: empty for none.
        selinux_label: empty for none.
        scheduler: None keeps the runtime's.
        io_priority: None keeps the runtime's.
        cpu_affinity: of a process that is executed in a container; the first one has its cgroup's CPUs.
    """

    args: tuple[str, ...]
    cwd: str
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: tuple[int, int] | None = None
    user: User = field(default_factory=User)
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    cpu_affinity: CpuAffinity | None = None


_PROCESS = frozenset(
    {
        *("args", "cwd", "env", "terminal", "consoleSize", "user", "capabilities", "rlimits", "noNewPrivileges"),
        *("oomScoreAdj", "apparmorProfile", "selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity"),
    },
)
_SCHEDULING = ("scheduler", "ioPriority", "execCPUAffinity")
_REFUSED = frozenset({"commandLine"})
_USER = frozenset({"uid", "gid", "umask", "additionalGids", "username"})
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def parse_process(value: JsonValue, path: str = "process") -> Process:
    """Read a ``process`` object.

    Raises:
        InvalidParameterError: malformed; runc's words where there are some.
        UnsupportedError: asks for something that this version would have to ignore.
    """
    fields = Fields(value, path, known=_PROCESS, refused=_REFUSED)
    args = fields.strings("args")
    if not args:
        raise InvalidParameterError("args must not be empty")
    cwd = fields.string("cwd")
    if not cwd:
        raise InvalidParameterError("Cwd property must not be empty")
    if not cwd.startswith("/"):
        raise InvalidParameterError("Cwd must be an absolute path")
    return Process(
        args=args,
        cwd=cwd,
        env=fields.strings("env"),
        terminal=fields.boolean("terminal"),
        console_size=_console_size(fields),
        user=_user(fields.value("user"), fields.at("user")),
        capabilities=_capabilities(fields.value("capabilities"), fields.at("capabilities")),
        rlimits=_rlimits(fields),
        no_new_privileges=fields.boolean("noNewPrivileges"),
        oom_score_adj=fields.integer("oomScoreAdj", -1000, 1000),
        apparmor_profile=fields.string("apparmorProfile"),
        selinux_label=fields.string("selinuxLabel"),
        **_scheduling(fields),
    )


def _scheduling(fields: Fields) -> _Scheduling:
    if all(fields.value(name) is None for name in _SCHEDULING):
        return {}
    from orlop.spec.oci import scheduling

    return {
        "scheduler": scheduling.parse_scheduler(fields.value("scheduler"), fields.at("scheduler")),
        "io_priority": scheduling.parse_io_priority(fields.value("ioPriority"), fields.at("ioPriority")),
        "cpu_affinity": scheduling.parse_cpu_affinity(fields.value("execCPUAffinity"), fields.at("execCPUAffinity")),
    }


def _console_size(fields: Fields) -> tuple[int, int] | None:
    value = fields.value("consoleSize")
    if value is None:
        return None
    size = Fields(value, fields.at("consoleSize"), known=frozenset({"height", "width"}))
    height, width = size.number("height", 0, 65535), size.number("width", 0, 65535)
    return (height, width) if height and width else None


def _user(value: JsonValue, path: str) -> User:
    if value is None:
        return User()
    fields = Fields(value, path, known=_USER, strict=True)
    return User(
        uid=fields.integer("uid", 0, ID_MAX) or 0,
        gid=fields.integer("gid", 0, ID_MAX) or 0,
        umask=fields.integer("umask", 0, 0o777),
        additional_gids=fields.integers("additionalGids", 0, ID_MAX),
        username=fields.string("username"),
    )


def _capabilities(value: JsonValue, path: str) -> Capabilities | None:
    if value is None:
        return None
    fields = Fields(value, path, known=frozenset(_SETS), strict=True)
    sets = {}
    for name in _SETS:
        names = fields.strings(name)
        for capability in names:
            if not capability.startswith("CAP_") or not consists_of(capability[4:], _CAPABILITY, 1, 40):
                raise InvalidParameterError(f"{fields.at(name)}: unknown capability: {capability!r:.80}")
        sets[name] = frozenset(names)
    extra = sets["effective"] - sets["permitted"]
    if extra:
        # capset(2) would fail with EPERM and name nothing
        raise InvalidParameterError(f"{path}: effective but not permitted: {min(extra)}")
    for name, within, missing in (
        ("inheritable", "bounding", sets["inheritable"] - sets["bounding"]),
        ("ambient", "permitted and inheritable", sets["ambient"] - (sets["permitted"] & sets["inheritable"])),
    ):
        if missing:
            raise InvalidParameterError(f"{path}: {name} but not {within}: {min(missing)}")
    return Capabilities(**sets)


def _rlimits(fields: Fields) -> tuple[Rlimit, ...]:
    limits: dict[str, Rlimit] = {}
    for item in fields.items("rlimits"):
        entry = Fields(item, fields.at("rlimits"), known=frozenset({"type", "soft", "hard"}), strict=True)
        kind = entry.string("type")
        if not kind.startswith("RLIMIT_") or not consists_of(kind[7:], UPPER, 1, 20):
            raise InvalidParameterError(f"invalid rlimit type: {kind!r:.80}")
        if kind in limits:
            raise InvalidParameterError(f"rlimit specified more than once: {kind}")
        limit = Rlimit(kind, entry.number("soft", 0, UINT64_MAX), entry.number("hard", 0, UINT64_MAX))
        if limit.soft > limit.hard:
            raise InvalidParameterError(f"{kind}: soft limit is above the hard limit: {limit.soft} > {limit.hard}")
        limits[kind] = limit
    return tuple(limits.values())
