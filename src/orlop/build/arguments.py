"""ARG: which variables a stage knows, and what the user gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Known to RUN when given, without an ARG, and in neither cache nor history (Docker's reference, "Predefined ARGs").
PREDEFINED = frozenset(
    name
    for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (word, word.upper())
)


class Arguments:
    """The arguments of one build; :meth:`begin_stage` forgets those of the stage before."""

    def __init__(self, given: Mapping[str, str], platform: str) -> None:
        self._given = dict(given)
        system, _, machine = platform.partition("/")
        self._global: dict[str, str] = {}
        for side in ("BUILD", "TARGET"):
            self._global.update({f"{side}PLATFORM": platform, f"{side}OS": system, f"{side}ARCH": machine})
        self._stage: dict[str, str] = {}
        self._used: set[str] = set()

    def declare_global(self, name: str, default: str | None) -> None:
        """An ARG before the first FROM."""
        self._used.add(name)
        value = self._given.get(name, default)
        if value is not None:
            self._global[name] = value

    @property
    def before_stages(self) -> Mapping[str, str]:
        """What FROM knows."""
        return self._global

    def begin_stage(self) -> None:
        """Forget what the stage before declared."""
        self._stage = {}

    def declare(self, name: str, default: str | None) -> None:
        """An ARG in a stage; without a default it has the value of before the stages."""
        self._used.add(name)
        value = self._given.get(name, self._global.get(name) if default is None else default)
        if value is not None:
            self._stage[name] = value

    @property
    def in_stage(self) -> Mapping[str, str]:
        """What the stage's instructions know."""
        return self._stage

    def hidden(self) -> dict[str, str]:
        """Return what RUN gets beside: predefined ones that no ARG names."""
        return {name: value for name, value in self._given.items() if name in PREDEFINED and name not in self._stage}

    def unused(self) -> list[str]:
        """Return what was given and never declared."""
        return sorted(name for name in self._given if name not in self._used and name not in PREDEFINED)
