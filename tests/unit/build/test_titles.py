"""Titles of steps, as BuildKit has them."""

from orlop.build.builder import Plan
from orlop.build.steps import BuildOptions
from orlop.build.titles import titles


def titles_of(text, **options):
    return titles(Plan(text.encode(), BuildOptions(**options)))


def test_stages():
    text = (
        "ARG V=1\nFROM busybox:$V AS base\nENV a=b\nRUN  echo \\\n  x\nFROM scratch\nCOPY --from=base /a /b\nFROM base\n"
        "WORKDIR /w\nADD a b\nCMD x\n"
    )
    assert titles_of(text) == {
        2: "[base 1/2] FROM docker.io/library/busybox:1",
        4: "[base 2/2] RUN echo x",
        6: "[stage-2 1/2] WORKDIR /w",
        7: "[stage-2 2/2] ADD a b",
    }
    assert titles_of(text, target="1") == {
        2: "[base 1/2] FROM docker.io/library/busybox:1",
        4: "[base 2/2] RUN echo x",
        6: "[stage-1 1/1] COPY --from=base /a /b",
    }


def test_a_stage_alone_has_no_name():
    assert titles_of("FROM busybox AS x\nRUN a\n") == {
        1: "[1/2] FROM docker.io/library/busybox:latest",
        2: "[2/2] RUN a",
    }


def test_a_context_is_no_image():
    plan = Plan(b"FROM base\nRUN a\n", BuildOptions())
    assert titles(plan, ["base"])[1] == "[1/2] FROM base"


def test_ten_steps_stand_below_one_another():
    found = titles_of("FROM busybox\n" + "RUN a\n" * 9)
    assert (found[2], found[10]) == ("[ 2/10] RUN a", "[10/10] RUN a")
