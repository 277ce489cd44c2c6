"""The hooks of the commands that start and delete a container; a file beside its state says that there are some."""

from __future__ import annotations

from orlop.primitives.atomic import write_atomic
from orlop.primitives.json_text import dumps
from orlop.runtime.container_state import ContainerState
from orlop.runtime.oci.document import parse_document, read_document
from orlop.runtime.oci.state import HOOKS
from orlop.spec.oci.hooks import parse_hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.oci.log import ErrorLog
    from orlop.runtime.oci.state import State
    from orlop.spec.oci.hooks import Hooks


def record_hooks(directory: str, hooks: Hooks, data: bytes) -> None:
    """Keep the hooks of configuration ``data`` for later commands, if they are theirs."""
    document = parse_document(data, "config.json")
    if isinstance(document, dict) and (hooks.poststart or hooks.poststop):
        write_atomic(f"{directory}/{HOOKS}", dumps(document.get("hooks")).encode(), 0o600)


def load_hooks(path: str) -> Hooks | None:
    """Return the hooks that were recorded in a file."""
    return parse_hooks(read_document(path))


def _state(state: State) -> ContainerState:
    return ContainerState(state.id, state.bundle, state.annotations)


def execute_poststart(hooks: Hooks, state: State) -> None:
    """Execute poststart's hooks.

    Raises:
        OrlopError: one failed; the container is to be stopped and destroyed (runtime-spec, "Lifecycle", step 9).
    """
    from orlop.runtime.hooks import run_hooks

    document = dumps(_state(state).document(state.pid, "running")).encode()
    run_hooks(hooks.poststart, "poststart", document, cwd=state.bundle)


def execute_poststop(hooks: Hooks, state: State, log: ErrorLog) -> None:
    """Execute poststop's hooks, all of them; a failure is a warning."""
    from orlop.runtime.hooks import run_poststop

    for failure in run_poststop(hooks.poststop, _state(state)):
        log.warning(failure)
