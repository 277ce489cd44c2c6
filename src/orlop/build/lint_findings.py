"""What was found in a Dockerfile, and what of it the file wants to hear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.truth import find_bool

if TYPE_CHECKING:
    from orlop.build.lint_rules import Rule


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: the rule, the instruction's first line from 1, and the text."""

    rule: Rule
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found, in order of lines; ``fail``: the file wants it to be an error."""

    warnings: tuple[Finding, ...]
    fail: bool = False

    def error(self) -> InvalidParameterError | None:
        """Return why the build fails, if it does, in BuildKit's words."""
        if not (self.fail and self.warnings):
            return None
        names = ", ".join(sorted({found.rule.name for found in self.warnings}))
        return InvalidParameterError(f"lint violation found for rules: {names}")


@dataclass(frozen=True, slots=True)
class Choice:
    """The directive ``# check=``: rules that are passed over, experimental ones that are not, errors or warnings."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    fail: bool = False

    def wants(self, rule: Rule) -> bool:
        """Whether a rule is looked at."""
        if rule.experimental and not self.experimental & {"all", rule.name}:
            return False
        return not self.skip & {"all", rule.name}


def read_choice(text: str) -> Choice:
    """Read the directive. Raises InvalidParameterError."""
    values: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, _, value = part.partition("=")
        if key.strip() not in ("skip", "error", "experimental"):
            raise InvalidParameterError(f"invalid check option: {part.strip()[:80]}")
        values[key.strip()] = value.strip()
    fail = find_bool(values.get("error", "false"))
    if fail is None:
        raise InvalidParameterError(f"failed to parse check option error: {values['error'][:80]}")
    lists = {
        key: frozenset(name.strip() for name in values.get(key, "").split(",")) - {""}
        for key in ("skip", "experimental")
    }
    return Choice(lists["skip"], lists["experimental"], fail)
