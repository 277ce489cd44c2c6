"""What a Dockerfile should better say: the checks of ``docker build --check``. No I/O.

``# check=skip=NAME,NAME;error=true`` in the file, or the build argument BUILDKIT_DOCKERFILE_CHECK, choose what is
looked at, and whether a finding is an error.
"""

from __future__ import annotations

import posixpath
import re
from functools import cache
from typing import TYPE_CHECKING

from orlop.build.arguments import PLATFORM
from orlop.build.expansion import expand, unset_variables
from orlop.build.instructions import read_instructions
from orlop.build.lint_findings import Choice, Finding, Findings, read_choice
from orlop.build.lint_rules import RULES
from orlop.build.lint_stage import StageState, expanded_texts
from orlop.build.parser import DockerfileError, parse
from orlop.build.stages import StageNames, split_stages
from orlop.build.suggestions import Suggestions
from orlop.errors import InvalidParameterError
from orlop.spec.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orlop.build.instructions import Instruction
    from orlop.build.parser import Dockerfile
    from orlop.build.stages import Stage
    from orlop.primitives.ignore import IgnoreRules

ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
_SECRET = re.compile(
    r"(?:^|_)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.ASCII | re.IGNORECASE
)
_PUBLIC = re.compile(r"(?:^|_)public(?:_|$)", re.ASCII | re.IGNORECASE)
_RESERVED = frozenset(("context", "scratch"))
_ONCE = ("CMD", "ENTRYPOINT", "HEALTHCHECK")
# Of what nothing more is looked at than variables.
_PLAIN = frozenset(("RUN", "USER", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ONBUILD"))
_REMOTE = re.compile(r"[a-z]+://|git@", re.ASCII)
# What one file can ask for: findings, words compared for suggestions, base images looked up, and names of variables
# that stages take over from one another; what goes beyond is not looked at.
_MOST = 500
_MOST_COMPARISONS = 200
_MOST_BASES = 100
_MOST_NAMES = 1 << 16


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
    instructions = read_instructions(dockerfile)
    return check_instructions(
        dockerfile, instructions, build_args=build_args, ignored=ignored, variables_of=variables_of
    )


def check_instructions(
    dockerfile: Dockerfile,
    instructions: Sequence[Instruction],
    *,
    build_args: Mapping[str, str] | None = None,
    ignored: IgnoreRules | None = None,
    variables_of: Callable[[str], Iterable[str] | None] | None = None,
) -> Findings:
    """Check what was read; arguments and errors are those of :func:`check`."""
    arguments = build_args or {}
    try:
        choice = read_choice(arguments.get(ARGUMENT, dockerfile.check))
    except InvalidParameterError as error:
        raise DockerfileError(1, str(error)) from None
    meta, stages = split_stages(instructions)
    linter = _Linter(dockerfile, stages, choice, arguments, ignored, variables_of or (lambda _: None))
    linter.run(meta)
    return Findings(tuple(sorted(linter.found, key=lambda item: item.line)), choice.fail)


class _Linter:
    def __init__(
        self,
        dockerfile: Dockerfile,
        stages: Sequence[Stage],
        choice: Choice,
        arguments: Mapping[str, str],
        ignored: IgnoreRules | None,
        variables_of: Callable[[str], Iterable[str] | None],
    ) -> None:
        self.found: list[Finding] = []
        self._dockerfile = dockerfile
        self._stages = stages
        self._arguments = arguments
        self._ignored = ignored
        self._variables_of = variables_of
        self._names = StageNames(stages)
        self._wanted = {rule for rule in RULES if choice.wants(RULES[rule])}
        self._suggestions = Suggestions(_MOST_COMPARISONS)
        self._bases: dict[str, list[str] | None] = {}
        self._references: dict[str, bool] = {}
        self._inherited = 0

    def _wants(self, name: str) -> bool:
        """Tell whether a rule is worth being looked at."""
        return name in self._wanted and len(self.found) < _MOST

    def _tell(self, name: str, line: int, *words: str) -> None:
        if self._wants(name):
            self.found.append(Finding(RULES[name], line, RULES[name].text.format(*(word[:200] for word in words))))

    def run(self, meta: Sequence[Instruction]) -> None:
        """Look at all, after the ARGs before the first stage."""
        for line in self._dockerfile.empty_continuations:
            self._tell("NoEmptyContinuation", line)
        self._check_casing()
        self._check_descriptions(meta)
        self._check_stage_names()
        defaults = self._check_meta(meta)
        given = {**defaults, **self._arguments}
        unset = cache(lambda text: self._unset(text, defaults))
        by_default = cache(lambda text: self._expanded(text, defaults))
        base_of = cache(lambda text: self._expanded(text, given))
        known: list[StageState] = []
        for stage in self._stages:
            for name in self._check_from(stage, unset, by_default):
                self._tell("UndefinedArgInFrom", stage.start.line, name, self._suggestions.hint(name, defaults))
            state = self._begin(stage, known, base_of(stage.base))
            known.append(state)
            self._check_stage(stage, state, defaults)

    # The file as a whole.

    def _check_casing(self) -> None:
        lines = self._dockerfile.lines
        odd, wanted = [line for line in lines if line.keyword != line.name], "uppercase"
        if sum(line.keyword.islower() for line in odd) > len(lines) - len(odd):
            odd, wanted = [line for line in lines if not line.keyword.islower()], "lowercase"
        for line in odd:
            self._tell("ConsistentInstructionCasing", line.number, line.keyword, wanted)

    def _check_descriptions(self, meta: Sequence[Instruction]) -> None:
        if not self._wants("InvalidDefinitionDescription"):
            return
        stages = {stage.start.line: stage.start.words[2] for stage in self._stages if len(stage.start.words) == 3}
        arguments = {item.line: item.pairs[0][0] for item in meta}
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

    def _check_meta(self, meta: Sequence[Instruction]) -> dict[str, str]:
        """Return the ARGs before the first stage with their defaults; those without one are empty."""
        defaults = dict.fromkeys(PLATFORM, "linux")
        for item in meta:
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

    def _check_from(
        self, stage: Stage, unset: Callable[[str], list[str]], by_default: Callable[[str], str]
    ) -> list[str]:
        """Return the arguments that are not declared."""
        start = stage.start
        platform = start.flags.get("platform", "") if start.flags else ""
        if platform:
            self._check_platform(stage, platform)
        if "$" not in start.original:
            return []
        if "$" in stage.base and self._wants("InvalidDefaultArgInFrom"):
            base = by_default(stage.base)
            if not self._is_reference(base) and self._names.named(base, stage.index) is None:
                self._tell("InvalidDefaultArgInFrom", start.line, stage.base)
        return unset(stage.base) + unset(platform) if self._wants("UndefinedArgInFrom") else []

    def _is_reference(self, text: str) -> bool:
        if text not in self._references:
            try:
                parse_reference(text)
            except InvalidParameterError:
                self._references[text] = False
            else:
                self._references[text] = True
        return self._references[text]

    def _check_platform(self, stage: Stage, platform: str) -> None:
        if platform.replace("{", "").replace("}", "") == "$TARGETPLATFORM":
            self._tell("RedundantTargetPlatform", stage.start.line, platform)
        elif "$" not in platform:
            machine = platform.split("/")[1:2]
            if not (machine and machine[0] in stage.name):
                self._tell("FromPlatformFlagConstDisallowed", stage.start.line, platform)

    # The instructions of a stage.

    def _begin(self, stage: Stage, before: Sequence[StageState], base: str) -> StageState:
        parent = self._names.named(base, stage.index)
        if parent is not None:
            state = before[parent.index]
            return state.child(known=state.known and self._may_inherit(len(state.variables)))
        names = () if base == "scratch" else self._names_of(base)
        known = names is not None and self._may_inherit(len(names))
        variables = dict.fromkeys(names, "") if names and known else {}
        variables["PATH"] = ""
        return StageState(variables, known=known)

    def _may_inherit(self, count: int) -> bool:
        """Count what is taken over; without an end, stages that stand on each other would take quadratic time."""
        self._inherited += count
        return self._inherited <= _MOST_NAMES

    def _names_of(self, base: str) -> Sequence[str] | None:
        if base not in self._bases:
            found = self._variables_of(base) if len(self._bases) < _MOST_BASES else None
            self._bases[base] = None if found is None else list(found)
        return self._bases[base]

    def _check_stage(self, stage: Stage, state: StageState, defaults: Mapping[str, str]) -> None:
        once: dict[str, int] = {}
        undefined = state.known and self._wants("UndefinedVar")
        for item in stage.instructions:
            if undefined and "$" in item.original:
                self._check_variables(item, state)
            name = item.name
            if name in _ONCE:
                if name in once:
                    self._tell("MultipleInstructionsDisallowed", once[name], name)
                once[name] = item.line
            if name in _PLAIN:
                continue
            if name in ("COPY", "ADD"):
                self._check_sources(item)
            elif name in ("ENV", "LABEL", "ARG"):
                self._check_pairs(item, state, defaults)
            else:
                self._check_other(item, state)

    def _check_variables(self, item: Instruction, state: StageState) -> None:
        for text in expanded_texts(item):
            if not self._wants("UndefinedVar"):
                return
            for name in dict.fromkeys(self._unset(text, state.variables)):
                if not self._wants("UndefinedVar"):
                    return
                self._tell("UndefinedVar", item.line, name, self._suggestions.hint(name, state.variables, "$"))

    def _check_other(self, item: Instruction, state: StageState) -> None:
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

    def _check_pairs(self, item: Instruction, state: StageState, defaults: Mapping[str, str]) -> None:
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
