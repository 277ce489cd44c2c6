"""What a Dockerfile offers."""

from orlop.build.builder import Plan
from orlop.build.outline import Argument, Need, Target, outline, targets
from orlop.build.steps import BuildOptions

TEXT = b"""ARG V=1
# base what all stand on
FROM busybox:$V AS base
# WHO whom it is for
ARG WHO
RUN --mount=type=secret,id=key --mount=type=cache,target=/c,id=$WHO true
FROM base AS other
RUN --mount=type=secret,id=key,required=true --mount=type=ssh true
FROM scratch
ARG WHO=nobody
"""


def plan(**options):
    return Plan(TEXT, BuildOptions(**options))


def test_targets():
    assert targets(plan(), TEXT) == [
        Target("base", "busybox:$V", "what all stand on", 3, default=False),
        Target("other", "base", "", 7, default=False),
        Target("", "scratch", "", 9, default=True),
    ]


def test_outline():
    found = outline(plan(target="other", build_args={"WHO": "me"}), TEXT)
    assert found.name == "other"
    assert found.arguments == (Argument("V", "1", "", 1), Argument("WHO", "me", "whom it is for", 5))
    assert found.secrets == (Need("key", True, 8),)
    assert found.agents == (Need("default", False, 8),)
    assert found.caches == ()
    assert outline(plan(), TEXT).arguments[-1] == Argument("WHO", "nobody", "", 10)
