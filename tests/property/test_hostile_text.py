"""Texts of strangers: none takes more than its length, no other script's digit is one (threats.md J9, J10)."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import pkgutil
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import orlop
from orlop.build.ignore import parse_ignore
from orlop.build.parser import parse as parse_dockerfile
from orlop.errors import OrlopError
from orlop.logs.entry import parse_entry
from orlop.primitives.wildcards import matches
from orlop.runtime.users import validate_user
from orlop.spec.cpuset import parse_cpuset
from orlop.spec.digest import Digest
from orlop.spec.docker.times import parse_timestamp
from orlop.spec.ids import is_id, is_id_prefix
from orlop.spec.names import is_name
from orlop.spec.oci.sysctl import sysctl_path
from orlop.spec.ports import parse_publish
from orlop.spec.reference import parse_reference

SOURCE = Path(orlop.__file__).parent
# What a pattern that tries every way takes for this many characters is seconds; what reads them once, a millisecond.
LENGTH = 8000
SECONDS = 0.3


def patterns() -> dict[str, tuple[re.Pattern, bool]]:
    """Every pattern that a module of ours keeps, and whether it is looked for anywhere in a text."""
    found: dict[str, tuple[re.Pattern, bool]] = {}
    for module in pkgutil.walk_packages(orlop.__path__, "orlop."):
        if module.name.endswith("__main__") or module.name.startswith("orlop.cli"):
            continue  # a command line reads what its own user wrote
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, re.Pattern):
                path = SOURCE.joinpath(*module.name.split(".")[1:])
                text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
                searched = re.search(rf"\b{name}\.(search|sub|subn|findall|finditer|split)\b", text) is not None
                found[f"{module.name}.{name}"] = (value, searched)
    return found


def pumped() -> Iterator[str]:
    """Texts that repeat themselves and then do not fit."""
    for piece in (
        "a",
        "A",
        "0",
        "-",
        ".",
        "_",
        " ",
        "/",
        ":",
        "=",
        "a.",
        "a-",
        "a_",
        "0.",
        "/a",
        ":0",
        "-0",
        "[a",
        "$a",
        "\t ",
    ):
        for end in ("", "\0", "!"):
            yield piece * (LENGTH // len(piece)) + end


@contextlib.contextmanager
def within(what: str) -> Iterator[None]:
    """Fail when it takes longer; a pattern that would take for ever is interrupted."""

    def stop(*_: object) -> None:
        raise TimeoutError(what)

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2)
    gc.disable()  # a process that ran other tests has much to look through
    begun = time.process_time()
    try:
        yield
        taken = time.process_time() - begun
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert taken < SECONDS, what


def test_no_pattern_takes_more_than_its_text() -> None:  # J9
    found = patterns()
    assert len(found) > 20
    texts = list(pumped())
    for name, (pattern, searched) in found.items():
        for text in texts:
            given = text.encode() if isinstance(pattern.pattern, bytes) else text
            for way in (pattern.fullmatch, pattern.match, *([pattern.search] if searched else [])):
                with within(f"{name} {way.__name__} {text[:4]!r}"):
                    way(given)


READERS = {
    "reference": parse_reference,
    "cpus": parse_cpuset,
    "ports": parse_publish,
    "time": parse_timestamp,
    "user": validate_user,
    "parameter": sysctl_path,
    "digest": Digest,
    "Dockerfile": lambda text: parse_dockerfile(f"FROM {text}\nRUN {text}\n".encode()),
    "here-document": lambda text: parse_dockerfile(f"RUN <<A\n{text}".encode()),
    "log": lambda text: parse_entry(text.encode()),
    "ignore": lambda text: parse_ignore(text).ignores("a" * 200),
}


@pytest.mark.parametrize("name", READERS)
def test_no_text_takes_more_than_its_length(name: str) -> None:  # J9
    for text in pumped():
        with within(f"{name} {text[:4]!r}"), contextlib.suppress(OrlopError, ValueError):
            READERS[name](text)


@pytest.mark.parametrize(
    "pattern", ["*a" * 100 + "b", "**/*a" * 100 + "b", "**a" * 100, "*" * 4000, "[a-z]*" * 300 + "!"]
)
def test_patterns_of_a_context_try_no_two_ways(pattern: str) -> None:  # J9: a regular expression would
    names = ["a" * 255, "a/" * 120 + "a", "x/" * 100 + "a" * 50]
    with within(f"ignore {pattern[:8]}"):
        rules = parse_ignore(pattern)
        for name in names:
            rules.ignores(name)
    with within(f"wildcard {pattern[:8]}"):
        for name in names:
            matches(pattern.encode(), name.encode())


# Arabic, full width, superscript, Roman; letters whose lower case is two; a Kelvin sign that is a k in lower case
FOREIGN_DIGITS = ("\u0661\u0662", "\uff11\uff12", "\u00b9\u00b2", "\u2167")
FOREIGN_LETTERS = ("\u0130", "\uff41\uff42", "\u212a", "\u00aa")


def refuses(reader, text: str) -> bool:
    try:
        reader(text)
    except (OrlopError, ValueError):
        return True
    return False


@pytest.mark.parametrize("digits", FOREIGN_DIGITS)
def test_other_digits_are_no_numbers(digits: str) -> None:  # J10
    assert refuses(parse_cpuset, digits)
    assert refuses(parse_cpuset, f"0-{digits}")
    for text in (digits, f"80:{digits}", f"{digits}:80", f"{digits}-{digits}:80-81"):
        assert refuses(parse_publish, text), text
    assert refuses(parse_timestamp, digits)
    assert refuses(Digest, "sha256:" + (digits * 64)[:64])
    assert not is_id((digits * 64)[:64])
    assert not is_id_prefix(digits)
    assert not is_name(f"a{digits}")
    assert refuses(parse_reference, f"busybox:{digits}")
    assert refuses(parse_reference, f"localhost:{digits}/busybox")
    assert refuses(sysctl_path, f"net.{digits}")


@pytest.mark.parametrize("letters", FOREIGN_LETTERS)
def test_other_letters_are_no_names(letters: str) -> None:  # J10
    assert not is_name(letters)
    assert not is_name(f"a{letters}")
    assert refuses(parse_reference, letters)
    assert refuses(parse_reference, f"busybox:{letters}")
    assert refuses(sysctl_path, f"kernel.{letters}")
    assert refuses(lambda text: parse_publish(f"80:80/{text}"), letters)


# these read files of the kernel, or say beside it that the text is ASCII
UNICODE_METHODS = {"isdigit", "isdecimal", "isnumeric", "isalnum", "isalpha"}
KERNEL_FILES = (
    *("runtime/oci/statistics.py", "runtime/cgroups/", "runtime/security/seccomp_compile.py", "network/placement.py"),
    *("engine/containers/processes.py", "primitives/tar/", "daemon/paths.py", "daemon/main.py"),
)


def test_questions_about_characters_are_asked_of_ascii() -> None:  # J10
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        if name.startswith((*KERNEL_FILES, "cli/")):
            continue
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr in UNICODE_METHODS:
                near = " ".join(lines[max(0, node.lineno - 2) : node.lineno + 4])
                if "isascii()" not in near and "hex()" not in near:
                    found.append(f"{name}:{node.lineno}: {lines[node.lineno - 1].strip()}")
    assert found == []


# a variable's name in a Dockerfile goes on with letters of any script, as in Docker
LETTERS_OF_ALL = {"orlop.build.expansion._NAME"}


def test_patterns_mean_ascii() -> None:  # J10: \\d, \\w and \\s of text patterns are every script's
    wrong = [
        (name, pattern.pattern)
        for name, (pattern, _) in patterns().items()
        if name not in LETTERS_OF_ALL
        and isinstance(pattern.pattern, str)
        and not pattern.flags & re.ASCII
        and re.search(r"\\[dw]", pattern.pattern)
    ]
    assert wrong == []
