"""``hooks`` of the runtime-spec: programs that are executed at points of a container's life.

Loaded only for configurations that have hooks.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.oci.fields import Fields
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonValue

# in the order in which they come
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
# a day: a longer one is surely a mistake, and poll(2) takes milliseconds in 31 bits
MAX_TIMEOUT = 86400
_HOOK = frozenset({"path", "args", "env", "timeout"})


@dataclass(frozen=True)
class Hook:
    """One program.

    Attributes:
        path: absolute; in the host's tree, of startContainer in the container's.
        args: its whole argument vector, ``args[0]`` included; the path alone when there is none.
        env: its whole environment.
        timeout: seconds after which it is killed and has failed; None waits for ever.
    """

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True)
class Hooks:
    """All hooks, each list in its order."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()

    @property
    def before_pivot(self) -> bool:
        """Whether there are hooks that see both the host's tree and the container's mounts."""
        return bool(self.prestart or self.create_runtime or self.create_container)


def parse_hooks(value: JsonValue, path: str = "hooks") -> Hooks | None:
    """Read ``hooks``; None when there are none.

    Raises:
        InvalidParameterError: malformed, a path that is not absolute, or a hook that the specification does not have.
    """
    fields = Fields(value, path, known=frozenset(HOOKS), strict=True)
    found = [tuple(_hook(item, fields.at(name)) for item in fields.items(name)) for name in HOOKS]
    return Hooks(*found) if any(found) else None


def _hook(value: JsonValue, path: str) -> Hook:
    fields = Fields(value, path, known=_HOOK, strict=True)
    program = fields.required("path")
    if not program.startswith("/"):
        raise InvalidParameterError(f"{fields.at('path')}: not an absolute path: {program!r:.200}")
    return Hook(
        program,
        fields.strings("args") or (program,),
        fields.strings("env"),
        fields.integer("timeout", 1, MAX_TIMEOUT),
    )
