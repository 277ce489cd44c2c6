"""All containers of the engine, by id, unique id prefix and name."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from typing import TYPE_CHECKING

import msgspec

from orlop.engine.containers.container import Container
from orlop.engine.containers.state import State, require_transition
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError
from orlop.spec.ids import is_id_prefix
from orlop.spec.names import generate_name, parse_container_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.engine.containers.records import ContainerRecords, Definition


class Directory:
    """Owns the live handles and keeps their records in step: every change of a state goes through it."""

    def __init__(self, records: ContainerRecords) -> None:
        self._records = records
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}

    def __iter__(self) -> Iterator[Container]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def adopt(self, definition: Definition, state: State) -> Container:
        """Take a container over from its record."""
        container = Container(definition, state)
        self._by_id[definition.id] = container
        self._by_name[definition.name] = definition.id
        return container

    def get(self, name: str) -> Container:
        """Find by full id, name, or unique prefix of the id, in Docker's order.

        Raises:
            NotFoundError: ``No such container: x``.
            InvalidParameterError: several ids begin so.
        """
        found = self._by_id.get(name)
        if found is not None:
            return found
        bare = name.removeprefix("/")
        if bare in self._by_name:
            return self._by_id[self._by_name[bare]]
        if is_id_prefix(name):
            matches = [container for key, container in self._by_id.items() if key.startswith(name)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise InvalidParameterError(f"multiple IDs found with provided prefix: {name}")
        raise NotFoundError(f"No such container: {name}")

    def find(self, container_id: str) -> Container | None:
        """Find by full id."""
        return self._by_id.get(container_id)

    def choose_name(self, wanted: str) -> str:
        """Check a wanted name, or make one up.

        Raises:
            InvalidParameterError: not a name.
            ConflictError: taken, in Docker's words.
        """
        if not wanted:
            return generate_name(lambda name: name in self._by_name)
        name = parse_container_name(wanted)
        self._require_free(name)
        return name

    def _require_free(self, name: str) -> None:
        owner = self._by_name.get(name)
        if owner is not None:
            raise ConflictError(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}".'
                " You have to remove (or rename) that container to be able to reuse that name.",
            )

    def add(self, definition: Definition) -> Container:
        """Note the intent to create and reserve the name."""
        self._require_free(definition.name)
        state = State()
        try:
            self._records.insert(definition, state)
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"container exists already: {definition.id}") from error
        return self.adopt(definition, state)

    def set_ready(self, container: Container) -> None:
        """The creation is complete."""
        self._records.set_ready(container.id)

    def set_state(self, container: Container, **changes: object) -> None:
        """Change the state, first in the record. Raises ConflictError for an impossible transition."""
        state = _changed(container, changes)
        self._records.set_state(container.id, state)
        container.state = state

    def take_note(self, container: Container, **changes: object) -> bool:
        """Change the state to what has happened already, whether or not it can be recorded; returns whether it was."""
        container.state = _changed(container, changes)
        return self.record_state(container)

    def record_state(self, container: Container) -> bool:
        """Record the state as it is; returns whether there was room for it."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._records.set_state(container.id, container.state)
            return True
        return False

    def redefine(self, container: Container, definition: Definition) -> None:
        """Replace the definition (rename, update)."""
        if definition.name != container.name:
            self._require_free(definition.name)
        self._records.set_definition(definition)
        del self._by_name[container.name]
        self._by_name[definition.name] = definition.id
        container.definition = definition

    def mark(self, container: Container, *, unsettled: bool) -> None:
        """Note that a change of what runs has begun, or that it is done."""
        if container.definition.unsettled is not unsettled:
            self.redefine(container, msgspec.structs.replace(container.definition, unsettled=unsettled))

    def rename(self, container: Container, name: str) -> None:
        """Give another name. Raises InvalidParameterError, ConflictError."""
        self.redefine(container, msgspec.structs.replace(container.definition, name=parse_container_name(name)))

    def remove(self, container: Container) -> None:
        """Forget a container, first in the records."""
        self._records.delete(container.id)
        self._by_id.pop(container.id, None)
        if self._by_name.get(container.name) == container.id:
            del self._by_name[container.name]


def _changed(container: Container, changes: dict[str, object]) -> State:
    state = dataclasses.replace(container.state, **changes)  # type: ignore[arg-type]  # fields by name
    if state.status is not container.state.status:
        require_transition(container.state.status, state.status)
    return state
