"""``linux.seccomp`` of the runtime-spec. Values are hashable: a compiled filter is cached by the profile itself."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.oci.fields import UINT64_MAX, Fields
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonValue

ACTIONS = frozenset(
    "SCMP_ACT_" + name
    for name in ("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY")
)
OPERATORS = frozenset("SCMP_CMP_" + name for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
NOTIFY = "SCMP_ACT_NOTIFY"
FLAGS = frozenset("SECCOMP_FILTER_FLAG_" + name for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
ARCHITECTURES = frozenset(
    "SCMP_ARCH_" + name
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL"),
        *("MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "SH", "SHEB", "PARISC", "PARISC64"),
        "RISCV64",
    )
)
# init hands the listener over with sendmsg; runc does with write
_NEVER_NOTIFIED = frozenset({"sendmsg", "write"})
# errno values above this are not errors to libc
MAX_ERRNO = 4095


@dataclass(frozen=True)
class SyscallArg:
    """A condition on one argument: ``index`` 0..5, compared with ``value`` (``value_two`` for MASKED_EQ)."""

    index: int
    value: int
    value_two: int
    op: str


@dataclass(frozen=True)
class SyscallRule:
    """What happens on these system calls when all of ``args`` hold."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    args: tuple[SyscallArg, ...] = ()


@dataclass(frozen=True)
class Seccomp:
    """A seccomp profile."""

    default_action: str
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    syscalls: tuple[SyscallRule, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""

    @property
    def notifies(self) -> bool:
        """Whether a rule hands calls to a listener."""
        return any(rule.action == NOTIFY for rule in self.syscalls)


_PROFILE = frozenset({"defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls"}) | frozenset(
    {"listenerPath", "listenerMetadata"}
)
_RULE = frozenset({"names", "action", "errnoRet", "args"})
_ARG = frozenset({"index", "value", "valueTwo", "op"})


def parse_seccomp(value: JsonValue, path: str = "linux.seccomp") -> Seccomp | None:
    """Read ``linux.seccomp``; None is no filter."""
    if value is None:
        return None
    fields = Fields(value, path, known=_PROFILE, strict=True)
    profile = Seccomp(
        default_action=_action(fields, "defaultAction"),
        default_errno=fields.integer("defaultErrnoRet", 0, MAX_ERRNO),
        architectures=fields.choices("architectures", ARCHITECTURES),
        flags=fields.choices("flags", FLAGS),
        syscalls=tuple(_rule(item, fields.at("syscalls")) for item in fields.items("syscalls")),
        listener_path=fields.string("listenerPath"),
        listener_metadata=fields.string("listenerMetadata"),
    )
    _check_listener(profile, path)
    return profile


def _check_listener(profile: Seccomp, path: str) -> None:
    """Refuse what could only hang: a notification before the listener has been handed over, or without one."""
    if profile.default_action == NOTIFY:
        raise InvalidParameterError(f"{path}.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action")
    if profile.listener_path and not profile.listener_path.startswith("/"):
        raise InvalidParameterError(f"{path}.listenerPath: not an absolute path: {profile.listener_path!r:.200}")
    if profile.listener_metadata and not profile.listener_path:
        raise InvalidParameterError(f"{path}.listenerMetadata: there is no listenerPath")
    if not profile.notifies:
        return
    if not profile.listener_path:
        raise InvalidParameterError(f"{path}: SCMP_ACT_NOTIFY without listenerPath")
    for rule in profile.syscalls:
        for name in _NEVER_NOTIFIED.intersection(rule.names) if rule.action == NOTIFY else ():
            raise InvalidParameterError(f"{path}: SCMP_ACT_NOTIFY cannot be used for the {name} syscall")


def _action(fields: Fields, name: str) -> str:
    action = fields.string(name)
    if action not in ACTIONS:
        raise InvalidParameterError(f"{fields.at(name)}: unknown action: {action!r:.80}")
    return action


def _rule(value: JsonValue, path: str) -> SyscallRule:
    fields = Fields(value, path, known=_RULE, strict=True)
    names = fields.strings("names")
    if not names:
        raise InvalidParameterError(f"{path}.names: must not be empty")
    return SyscallRule(
        names,
        _action(fields, "action"),
        fields.integer("errnoRet", 0, MAX_ERRNO),
        tuple(_argument(item, fields.at("args")) for item in fields.items("args")),
    )


def _argument(value: JsonValue, path: str) -> SyscallArg:
    fields = Fields(value, path, known=_ARG, strict=True)
    return SyscallArg(
        fields.number("index", 0, 5),
        fields.number("value", 0, UINT64_MAX),
        fields.integer("valueTwo", 0, UINT64_MAX) or 0,
        fields.choice("op", OPERATORS),
    )
