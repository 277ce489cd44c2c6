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
# The time that a reproducible image bears (https://reproducible-builds.org/specs/source-date-epoch/).
EPOCH = "SOURCE_DATE_EPOCH"
# Of the platform: FROM knows them, a stage after an ARG of that name.
PLATFORM = tuple(f"{side}{part}" for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "ARCH", "VARIANT"))


class Arguments:
    """The arguments of one build.

    Args:
        given: by the user.
        build: the platform of this machine, ``linux/amd64``.
        target: the platform that is built for.
        stage: name of the stage that is built (``TARGETSTAGE``).
    """

    def __init__(self, given: Mapping[str, str], *, build: str, target: str, stage: str) -> None:
        self.given = dict(given)
        self._global: dict[str, str] = {"TARGETSTAGE": stage}
        for side, platform in (("BUILD", build), ("TARGET", target)):
            system, _, rest = platform.partition("/")
            machine, _, variant = rest.partition("/")
            values = (platform, system, machine, variant)
            self._global.update(zip([name for name in PLATFORM if name.startswith(side)], values, strict=True))
        self._global.update({name: value for name, value in self.given.items() if name in self._global})
        self.used: set[str] = set()

    def declare_global(self, name: str, default: str | None) -> None:
        """An ARG before the first FROM."""
        self.used.add(name)
        value = self.given.get(name, default)
        if value is not None:
            self._global[name] = value

    @property
    def before_stages(self) -> Mapping[str, str]:
        """What FROM knows."""
        return self._global

    def unused(self) -> list[str]:
        """Return what was given and never declared."""
        known = PREDEFINED.union(PLATFORM, (EPOCH,))
        return sorted(name for name in self.given if name not in self.used and name not in known)


class StageArguments:
    """What the instructions of one stage know; what one stage declares, another does not know."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._stage: dict[str, str] = {}

    def declare(self, name: str, default: str | None) -> None:
        """An ARG in the stage; without a default it has the value of before the stages."""
        arguments = self._arguments
        arguments.used.add(name)
        value = arguments.given.get(name, arguments.before_stages.get(name) if default is None else default)
        if value is not None:
            self._stage[name] = value

    @property
    def known(self) -> Mapping[str, str]:
        """What was declared so far and has a value."""
        return self._stage

    def hidden(self) -> dict[str, str]:
        """Return what RUN gets beside: predefined ones that no ARG names."""
        given = self._arguments.given
        return {name: value for name, value in given.items() if name in PREDEFINED and name not in self._stage}
