"""What hooks and seccomp agents are told of a container: the runtime-spec's "State"."""

from __future__ import annotations

from orlop.spec.oci.config import SPEC_VERSION
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue


@dataclass(frozen=True)
class ContainerState:
    """The state but for what changes, pid and status. ``bundle`` is empty for a container of the engine."""

    id: str
    bundle: str
    annotations: dict[str, str]

    def document(self, pid: int, status: str) -> JsonObject:
        """Return it as a JSON object; a stopped container has no pid (0)."""
        document: JsonObject = {"ociVersion": SPEC_VERSION, "id": self.id, "status": status}
        if pid:
            document["pid"] = pid
        document["bundle"] = self.bundle
        if self.annotations:
            annotations: dict[str, JsonValue] = dict(self.annotations)
            document["annotations"] = annotations
        return document
