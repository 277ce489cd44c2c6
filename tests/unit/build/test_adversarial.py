"""Texts made to be slow to read: the time is linear in their size, and small beside that of a plain loop.

Times are CPU time of this process, compared with each other, never with a clock: the machine may be busy.
"""

import pytest

from orlop.build.builder import Plan
from orlop.build.configuring import Words, configure
from orlop.build.expansion import expand
from orlop.build.lint import check
from orlop.build.parser import DockerfileError, parse
from orlop.build.steps import BuildOptions
from orlop.build.suggestions import Suggestions, distance
from orlop.errors import InvalidParameterError, OrlopError
from orlop.spec.image import ContainerDefaults
from pace import additions, holds

SIZE = 64 << 10
BASE = "FROM scratch\n"


def repeated(head, unit, tail=""):
    return lambda size: head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def numbered(head, form, tail="", *, share=1.0):
    """Return what writes ``form`` with 0, 1, ... as often as fits into this share of the size."""

    def write(size):
        parts, left = [head], size * share - len(head) - len(tail)
        while left > 0:
            parts.append(form.replace("@", str(len(parts))).replace("^", str(len(parts) - 1)))
            left -= len(parts[-1])
        return "".join((*parts, tail))

    return write


def both(first, second):
    return lambda size: first(size // 2) + second(size // 2)


TEXTS = {
    "continuations": repeated(f"{BASE}RUN ", "\\\n"),
    "flags": repeated(f"{BASE}RUN ", "--a "),
    "excludes": repeated(f"{BASE}COPY ", "--exclude=a ", "a b"),
    "mounts of one step": repeated(f"{BASE}RUN ", "--mount=target=/a ", "a"),
    "mounts": repeated(BASE, "RUN --mount=target=/a a\n"),
    "here-documents": both(repeated(f"{BASE}RUN ", "<<a "), repeated("\n", "a\n")),
    "single quotes": repeated(f"{BASE}ENV a=", "'"),
    "double quotes": repeated(f"{BASE}ENV a=", '"'),
    "brackets": repeated(f"{BASE}CMD ", "["),
    "comments": repeated("", "#\n", BASE),
    "one word": repeated(BASE, "x"),
    "blanks": lambda size: f"{BASE}RUN a{' ' * (size // 2)}\\{' ' * (size // 2)}",
    "short steps": repeated(BASE, "RUN a\n"),
    "odd casing": repeated(BASE, "Run a\n"),
    "short commands": repeated(BASE, "CMD a\n"),
    "exec forms": repeated(BASE, "CMD []\n"),
    "variables": repeated(f"{BASE}ENV A=1\n", "ENV A=$A\n"),
    "unset variables": repeated(BASE, "USER $\n"),
    "quoted variables": repeated(f"{BASE}ENV A=1\n", "USER '$A\n"),
    "defaults": repeated(f"{BASE}WORKDIR ", "${a:-}"),
    "arguments": numbered(f"{BASE}ARG ", "A@=$B@ "),
    "arguments before stages": numbered("", "ARG A@=$A^\n", BASE),
    "patterns": numbered("ARG a=1\nARG x=", "${a#*?@}", f"\n{BASE}"),
    "stages": repeated("", "FROM a\n"),
    "stages of many bases": numbered("", "FROM a@\n"),
    "stages of one name": repeated("", "FROM a As A\n"),
    "stages on each other": numbered("FROM scratch AS a0\n", "FROM a^ AS a@\nENV A@=1\n"),
    "stages after arguments": both(numbered("", "ARG A@\n", share=0.9), repeated("", "FROM $UNSET_NAME\n")),
    "names nearly right": both(
        numbered(BASE, f"ENV {'A' * 30}@=b\n", share=0.1), numbered("", f"USER ${'A' * 30}B@\n")
    ),
    "triggers": repeated(BASE, "ONBUILD RUN a\n"),
    "triggers of triggers": repeated(BASE, "ONBUILD "),
}


def answer(data):
    """Read, check and plan; a refusal is an answer."""
    for read in (check, lambda text: Plan(text, BuildOptions(), platform="linux/amd64")):
        try:
            read(data)
        except OrlopError:
            continue


@pytest.mark.parametrize("name", TEXTS)
def test_twice_the_text_takes_twice_the_time(name):
    once, twice = TEXTS[name](SIZE).encode(), TEXTS[name](2 * SIZE).encode()
    assert 1.8 < len(twice) / len(once) < 2.2

    def whole():  # what takes no time has no ratio
        answer(once)
        for _ in range(30_000):
            pass

    assert holds(lambda: answer(twice), whole, 3)


@pytest.mark.parametrize("name", TEXTS)
def test_reading_and_checking_takes_a_moment(name):
    data = TEXTS[name](SIZE).encode()

    def read():
        try:
            check(data)
        except OrlopError:
            return

    assert holds(read, additions, 2.5)  # 50 ms where the additions take 20


def test_triggers_of_triggers_are_refused():
    with pytest.raises(DockerfileError, match="line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"):
        parse(b"FROM a\n" + b"ONBUILD " * 8000 + b"RUN a")


def apply(text):
    item = Plan(f"{BASE}{text}".encode(), BuildOptions(), platform="linux/amd64").instructions[1]
    return configure(ContainerDefaults(), item, Words({}))[0]


@pytest.mark.parametrize(
    "text",
    [numbered("ENV ", "A@=1 "), lambda size: "EXPOSE " + " ".join(f"1-{65535 - n}" for n in range(size // 8))],
    ids=["environment", "ports"],
)
def test_configuring_takes_linear_time(text):
    assert holds(lambda: apply(text(2 * SIZE)), lambda: apply(text(SIZE)), 3)
    assert holds(lambda: apply(text(SIZE)), additions, 40)


def test_ranges_of_ports_may_overlap():
    ports = apply("EXPOSE 5-7 6-8 3 8/udp").exposed_ports
    assert set(ports) == {"3/tcp", "5/tcp", "6/tcp", "7/tcp", "8/tcp", "8/udp"}


def test_a_variable_keeps_its_place():
    config = ContainerDefaults(env=("A=1", "B=2"))
    item = Plan(f"{BASE}ENV C=3 A=4 C=5".encode(), BuildOptions(), platform="linux/amd64").instructions[1]
    assert configure(config, item, Words({}))[0].env == ("A=4", "B=2", "C=5")


def test_patterns_of_a_word_are_counted():
    with pytest.raises(InvalidParameterError, match="more than 1000 patterns in a word"):
        expand("${A#?}" * 1001, {"A": "x"})


def test_what_is_skipped_hides_nothing():
    # findings are bounded; those of a rule that is skipped do not count
    found = check(
        b"# check=skip=JSONArgsRecommended,MultipleInstructionsDisallowed\n"
        + BASE.encode()
        + b"CMD a\n" * 600
        + b"MAINTAINER b"
    )
    assert [item.rule.name for item in found.warnings] == ["MaintainerDeprecated"]


def test_suggestions():
    assert [
        distance(*pair) for pair in (("RNU", "RUN"), ("kitten", "sitting"), ("", "ab"), ("ab", ""), ("a", "a"))
    ] == [1, 3, 2, 2, 0]
    found = Suggestions(3)
    assert found.hint("HOEM", ["PATH", "HOME"], "$") == " (did you mean $HOME?)"
    assert found.hint("NOTHING", ["PATH", "HOME"]) == ""
    assert found.hint("HOEM", ["PATH", "HOME"]) == ""  # as many as were to be compared have been
