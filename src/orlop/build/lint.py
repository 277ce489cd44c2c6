"""What a Dockerfile should better say: the checks of ``docker build --check``. No I/O.

``# check=skip=NAME,NAME;error=true`` in the file, or the build argument BUILDKIT_DOCKERFILE_CHECK, choose what is
looked at, and whether a finding is an error.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

from orlop.build.arguments import PLATFORM
from orlop.build.expansion import expand, unset_variables
from orlop.build.instructions import read_instructions
from orlop.build.lint_rules import RULES, Rule
from orlop.build.parser import DockerfileError, parse
from orlop.build.stages import StageNames, split_stages
from orlop.errors import InvalidParameterError
from orlop.spec.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orlop.build.instructions import Instruction
    from orlop.build.parser import Dockerfile
    from orlop.build.stages import Stage
    from orlop.primitives.ignore import IgnoreRules

ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_SECRET = re.compile(
    r"(?:^|_)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.ASCII | re.IGNORECASE
)
_PUBLIC = re.compile(r"(?:^|_)public(?:_|$)", re.ASCII | re.IGNORECASE)
_RESERVED = frozenset(("context", "scratch"))
_ONCE = ("CMD", "ENTRYPOINT", "HEALTHCHECK")
_REMOTE = re.compile(r"[a-z]+://|git@", re.ASCII)
_MOST = 500
_MOST_NAMES = 100


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
class _Choice:
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    fail: bool = False

    def wants(self, rule: Rule) -> bool:
        if rule.experimental and not self.experimental & {"all", rule.name}:
            return False
        return not self.skip & {"all", rule.name}


def read_choice(text: str) -> _Choice:
    """Read the directive. Raises InvalidParameterError."""
    values: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, _, value = part.partition("=")
        if key.strip() not in ("skip", "error", "experimental"):
            raise InvalidParameterError(f"invalid check option: {part.strip()[:80]}")
        values[key.strip()] = value.strip()
    fail = values.get("error", "false").lower()
    if fail not in _TRUTH:
        raise InvalidParameterError(f"failed to parse check option error: {fail[:80]}")
    lists = {
        key: frozenset(name.strip() for name in values.get(key, "").split(",")) - {""}
        for key in ("skip", "experimental")
    }
    return _Choice(lists["skip"], lists["experimental"], _TRUTH[fail])


def check(
    data: bytes,
    *,
    name: str = "Dockerfile",
    build_args: Mapping[str, str] | None = None,
    ignored: IgnoreRules | None = None,
    variables_of: Callable[[str], Iterable[str] | None] | None = None,
) -> Findings:
    """Check a Dockerfile.

    Args:
        data: the text.
        name: of the file, for errors.
        build_args: what the user gives.
        ignored: of .dockerignore; None: nothing is.
        variables_of: names of the environment of a base image, None when it is not known.

    Raises:
        DockerfileError, InvalidParameterError: it is no Dockerfile, or the directive is wrong.
    """
    dockerfile = parse(data, name=name)
    arguments = build_args or {}
    try:
        choice = read_choice(arguments.get(ARGUMENT, dockerfile.check))
    except InvalidParameterError as error:
        raise DockerfileError(1, str(error)) from None
    linter = _Linter(dockerfile, arguments, ignored, variables_of or (lambda _: None))
    linter.run()
    found = [item for item in linter.found if choice.wants(item.rule)]
    return Findings(tuple(sorted(found, key=lambda item: item.line)), choice.fail)


class _Linter:
    def __init__(
        self,
        dockerfile: Dockerfile,
        arguments: Mapping[str, str],
        ignored: IgnoreRules | None,
        variables_of: Callable[[str], Iterable[str] | None],
    ) -> None:
        self.found: list[Finding] = []
        self._dockerfile = dockerfile
        self._arguments = arguments
        self._ignored = ignored
        self._variables_of = variables_of
        self._instructions = read_instructions(dockerfile)
        self._meta, self._stages = split_stages(self._instructions)
        self._names = StageNames(self._stages)

    def _tell(self, name: str, line: int, *words: str) -> None:
        if len(self.found) < _MOST:
            self.found.append(Finding(RULES[name], line, RULES[name].text.format(*(word[:200] for word in words))))

    def run(self) -> None:
        for line in self._dockerfile.empty_continuations:
            self._tell("NoEmptyContinuation", line)
        self._check_casing()
        self._check_descriptions()
        self._check_stage_names()
        defaults = self._check_meta()
        known: list[_StageState] = []
        for stage in self._stages:
            self._check_from(stage, defaults)
            known.append(self._check_stage(stage, known, defaults))

    # The file as a whole.

    def _check_casing(self) -> None:
        words = [(line.number, line.keyword) for line in self._dockerfile.lines]
        lower = sum(word.islower() for _, word in words) > sum(word.isupper() for _, word in words)
        for number, word in words:
            if not (word.islower() if lower else word.isupper()):
                self._tell("ConsistentInstructionCasing", number, word, "lowercase" if lower else "uppercase")

    def _check_descriptions(self) -> None:
        stages = {stage.start.line: stage.start.words[2] for stage in self._stages if len(stage.start.words) == 3}
        arguments = {item.line: item.pairs[0][0] for item in self._meta}
        for line in self._dockerfile.lines:
            name = stages.get(line.number) or arguments.get(line.number)
            if name and line.comment and not line.comment[-1].startswith(f"{name} "):
                self._tell("InvalidDefinitionDescription", line.number, line.name, name)

    def _check_stage_names(self) -> None:
        seen: set[str] = set()
        for stage in self._stages:
            line, words = stage.start.line, stage.start.words
            if len(words) != 3:
                continue
            if words[2] != words[2].lower():
                self._tell("StageNameCasing", line, words[2])
            keyword = stage.start.original.split(None, 1)[0]
            if keyword.isupper() != words[1].isupper():
                self._tell("FromAsCasing", line, words[1], keyword)
            if stage.name in _RESERVED:
                self._tell("ReservedStageName", line, stage.name)
            if stage.name in seen:
                self._tell("DuplicateStageName", line, stage.name)
            seen.add(stage.name)

    def _check_meta(self) -> dict[str, str]:
        """Return the ARGs before the first stage with their defaults; those without one are empty."""
        defaults = dict.fromkeys(PLATFORM, "linux")
        for item in self._meta:
            for name, value in item.pairs:
                self._check_secret("ARG", name, value, item.line)
                defaults[name] = self._expanded(value or "", defaults)
        return defaults

    def _expanded(self, text: str, variables: Mapping[str, str]) -> str:
        try:
            return expand(text, variables, escape=self._dockerfile.escape)
        except InvalidParameterError:
            return ""

    def _unset(self, text: str, variables: Mapping[str, str]) -> list[str]:
        if "$" not in text:
            return []
        try:
            return unset_variables(text, variables, escape=self._dockerfile.escape)
        except InvalidParameterError:
            return []

    def _check_secret(self, kind: str, name: str, value: str | None, line: int) -> None:
        if value != "" and _SECRET.search(name) and not _PUBLIC.search(name):
            self._tell("SecretsUsedInArgOrEnv", line, kind, name)

    # FROM.

    def _check_from(self, stage: Stage, defaults: Mapping[str, str]) -> None:
        line, platform = stage.start.line, stage.start.flags.get("platform", "")
        for text in (stage.base, platform):
            for name in self._unset(text, defaults):
                self._tell("UndefinedArgInFrom", line, name, _hint(name, defaults))
        if platform and platform.replace("{", "").replace("}", "") == "$TARGETPLATFORM":
            self._tell("RedundantTargetPlatform", line, platform)
        elif platform and "$" not in platform:
            machine = platform.split("/")[1:2]
            if not (machine and machine[0] in stage.name):
                self._tell("FromPlatformFlagConstDisallowed", line, platform)
        if "$" not in stage.base:
            return
        base = self._expanded(stage.base, defaults)
        if base and (base == "scratch" or self._names.named(base, stage.index)):
            return
        try:
            parse_reference(base)
        except InvalidParameterError:
            self._tell("InvalidDefaultArgInFrom", line, stage.base)

    # The instructions of a stage.

    def _check_stage(self, stage: Stage, before: Sequence[_StageState], defaults: Mapping[str, str]) -> _StageState:
        state = self._begin(stage, before, defaults)
        once: dict[str, int] = {}
        for item in stage.instructions:
            if item.name in _ONCE:
                if item.name in once:
                    self._tell("MultipleInstructionsDisallowed", once[item.name], item.name)
                once[item.name] = item.line
            self._check_item(item, state, defaults)
        return state

    def _begin(self, stage: Stage, before: Sequence[_StageState], defaults: Mapping[str, str]) -> _StageState:
        base = self._expanded(stage.base, {**defaults, **self._arguments})
        parent = self._names.named(base, stage.index)
        if parent is not None:
            return before[parent.index].child()
        if base == "scratch":
            return _StageState({"PATH": ""}, known=True)
        names = self._variables_of(base)
        return _StageState({"PATH": "", **dict.fromkeys(names or (), "")}, known=names is not None)

    def _check_item(self, item: Instruction, state: _StageState, defaults: Mapping[str, str]) -> None:
        if state.known:
            for text in _expanded_texts(item):
                for name in dict.fromkeys(self._unset(text, state.variables)):
                    self._tell("UndefinedVar", item.line, name, _hint(name, state.variables, "$"))
        if item.name == "MAINTAINER":
            self._tell("MaintainerDeprecated", item.line)
        elif item.name == "SHELL":
            state.shell = True
        elif item.name in ("CMD", "ENTRYPOINT"):
            if not item.is_json and item.text and not state.shell:
                self._tell("JSONArgsRecommended", item.line, item.name)
        elif item.name == "WORKDIR":
            state.enter(item.text, lambda: self._tell("WorkdirRelativePath", item.line, item.text))
        elif item.name == "EXPOSE":
            self._check_ports(item)
        elif item.name in ("COPY", "ADD"):
            self._check_sources(item)
        elif item.name in ("ENV", "LABEL", "ARG"):
            self._check_pairs(item, state, defaults)

    def _check_pairs(self, item: Instruction, state: _StageState, defaults: Mapping[str, str]) -> None:
        first = item.text.split(None, 1)[0] if item.text else ""
        if item.name != "ARG" and item.pairs and "=" not in first:
            self._tell("LegacyKeyValueFormat", item.line, item.name)
        for name, value in item.pairs:
            if item.name == "LABEL":
                continue
            self._check_secret(item.name, name, value, item.line)
            if item.name == "ENV":
                state.arguments.discard(name)
            elif name not in state.variables:
                state.arguments.add(name)
            # an ARG without a value is declared all the same
            state.variables[name] = value or defaults.get(name, "")

    def _check_ports(self, item: Instruction) -> None:
        for word in item.words:
            port, slash, protocol = word.partition("/")
            if slash and protocol != protocol.lower() and "$" not in protocol:
                self._tell("ExposeProtoCasing", item.line, word)
            if ":" in port and "$" not in port:
                self._tell("ExposeInvalidFormat", item.line, word)

    def _check_sources(self, item: Instruction) -> None:
        if self._ignored is None or "from" in item.flags:
            return
        for word in item.words[:-1]:
            if word.startswith("<<") or _REMOTE.match(word) or any(char in word for char in "$*?["):
                continue
            path = posixpath.normpath(f"/{word}").lstrip("/")
            if path and self._ignored.ignores(path):
                self._tell("CopyIgnoredFile", item.line, item.name, word)


class _StageState:
    """What a stage knows at one of its lines; ``known``: all variables of its base are."""

    def __init__(self, variables: Mapping[str, str], *, known: bool) -> None:
        self.variables = dict(variables)
        self.arguments: set[str] = set()  # those of the variables that end with the stage
        self.known = known
        self.shell = False
        self._entered = False

    def child(self) -> _StageState:
        """Return what a stage on top of it begins with."""
        kept = {name: value for name, value in self.variables.items() if name not in self.arguments}
        made = _StageState(kept, known=self.known)
        made.shell, made._entered = self.shell, self._entered
        return made

    def enter(self, path: str, warn: Callable[[], None]) -> None:
        """Note a WORKDIR, and call ``warn`` when it depends on the base."""
        absolute = path.lstrip("'\"").startswith(("/", "$"))
        if not absolute and not self._entered:
            warn()
        self._entered = self._entered or absolute


def _expanded_texts(item: Instruction) -> list[str]:
    """Return what variables are put into."""
    if item.name in ("ENV", "LABEL", "ARG"):
        return [text for pair in item.pairs for text in pair if text]
    if item.name in ("COPY", "ADD"):
        flags = [value for name, value in item.flags.items() if name in ("chown", "chmod", "checksum")]
        return [*item.words, *flags, *item.repeated.get("exclude", ())]
    if item.name == "RUN":
        return list(item.repeated.get("mount", ()))
    if item.name in ("WORKDIR", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "MAINTAINER"):
        return [item.text] if item.name != "VOLUME" else list(item.words)
    return []


def _hint(name: str, known: Iterable[str], mark: str = "") -> str:
    """Return a suggestion; among very many names none is looked for."""
    names = list(islice(known, _MOST_NAMES))
    close = get_close_matches(name[:40], sorted(names), n=1, cutoff=0.7) if len(names) < _MOST_NAMES else []
    return f" (did you mean {mark}{close[0]}?)" if close else ""
