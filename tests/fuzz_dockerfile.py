"""Feed the Dockerfile parser what nobody would write, for as long as wanted, and stop at the first it does not refuse.

Inputs are made of the corpus in ``tests/data/dockerfiles``: cut, spliced, repeated, with words that mean something put
in, and of random bytes. Everything that a build reads before its first step is run: parser, instructions, stages, lint,
expansion of every word, ignore rules. An error in the engine's vocabulary is an answer; another exception, or more CPU
time than the limit, ends the run with the input written to a file.

    nice -n 19 .venv/bin/python tests/fuzz_dockerfile.py --seconds 3600
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from pathlib import Path

from orlop.build import builder, expansion, ignore
from orlop.build.lint import check
from orlop.build.steps import BuildOptions
from orlop.errors import OrlopError

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 64 << 10  # bytes of an input
WORDS = [
    *("FROM", "RUN", "COPY", "ADD", "ARG", "ENV", "LABEL", "ONBUILD", "HEALTHCHECK", "SHELL", "EXPOSE", "VOLUME", "USER", "scratch"),
    *("<<EOF", "<<-'E'", '<<"X"', "\nEOF\n", "\n", "\\\n", "`\n", "# escape=`\n", "# check=skip=all;error=true\n", "# syntax=x\n", "\0", "\r\n"),
    *("$A", "${A}", "${A:-", "${A:+", "${A#", "${A##*", "${A%%", "${A/", "${A//?/", "}", "'", '"', "\\", "`", "$", "${", "[", "]", '["a", "b"]'),
    *("--from=", "--mount=type=", "cache", "bind,", "secret,id=", "target=/", "--chown=", "--link", "--parents", "--exclude=**/", "--", "="),
    *("AS", "a", "/./", "**", "*", "?", "[a-", "!", "..", " ", "\t", "\ufeff", "\x0b\n", "\U0001f600", "9" * 30, "1/tcp", "--interval=1h", "NONE", "CMD"),
]  # fmt: skip
VARIABLES = {"A": "a.b/c*d", "B": "x" * 1000, "PATH": "/bin"}


def corpus() -> list[bytes]:
    """Return what inputs are made of."""
    files = sorted((ROOT / "tests/data/dockerfiles").glob("*"))
    return [path.read_bytes() for path in files if path.is_file() and not path.suffix]


def mutate(text: bytes, seeds: list[bytes], pick: random.Random) -> bytes:
    """Return something like it."""
    data = bytearray(text)
    for _ in range(pick.choice((1, 2, 4, 8, 32))):
        at = pick.randrange(len(data) + 1)
        kind = pick.randrange(7)
        if kind == 0:
            del data[at : at + pick.randrange(1, 20)]
        elif kind == 1:
            data[at:at] = pick.choice(WORDS).encode()
        elif kind == 2:
            other = pick.choice(seeds)
            start = pick.randrange(len(other) + 1)
            data[at:at] = other[start : start + pick.randrange(1, 200)]
        elif kind == 3:
            data[at:at] = pick.randbytes(pick.randrange(1, 8))
        elif kind == 4:
            piece = bytes(data[at : at + pick.randrange(1, 40)])
            data[at:at] = piece * pick.choice((2, 10, 100, 3000))
        elif kind == 5 and at < len(data):
            data[at] = pick.randrange(256)
        else:
            data[at:at] = (pick.choice(WORDS) * pick.choice((1, 1, 20, 2000))).encode()
    return bytes(data[:LIMIT])


def run(data: bytes) -> None:
    """Do all that a build does before its first step. Raises what is not the engine's own."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(OrlopError):
        check(data)
    try:
        plan = builder.Plan(data, BuildOptions(build_args={"A": "x"}), platform="linux/amd64")
    except OrlopError:
        plan = None
    for word in text.split("\n")[:50]:
        try:
            expansion.expand_words(word, VARIABLES, escape="`" if plan and plan.escape == "`" else "\\")
        except OrlopError:
            continue
    with contextlib.suppress(OrlopError):
        ignore.parse_ignore(text[:4000]).ignores("a/b.txt/" + "a" * 100)


def main() -> int:
    """Run until the time is over or something is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--slowest", type=float, default=0.5, help="CPU seconds for one input, all of run()")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where the input is written")
    options = parser.parse_args()
    pick, seeds = random.Random(options.seed), corpus()
    pool, count, slowest = list(seeds), 0, 0.0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        data = mutate(pick.choice(pool), seeds, pick)
        began = time.process_time()
        try:
            run(data)
        except BaseException:
            options.found.write_bytes(data)
            print(f"seed {options.seed}, input {count}: see {options.found}", file=sys.stderr, flush=True)
            raise
        took = time.process_time() - began
        if took > slowest:
            slowest = took
            print(f"{count} inputs, slowest {slowest * 1000:.1f} ms of CPU for {len(data)} bytes", flush=True)
        if took > options.slowest:
            options.found.write_bytes(data)
            print(f"seed {options.seed}, input {count}: too slow, see {options.found}", file=sys.stderr)
            return 1
        count += 1
        if count % 50 == 0:
            pool = [*pool[-400:], data]
    print(f"{count} inputs in {options.seconds:.0f} s without a crash, slowest {slowest * 1000:.1f} ms of CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
