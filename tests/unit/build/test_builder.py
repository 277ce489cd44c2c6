"""The graph of stages: what is built at the same time, what waits, what is not built, and how a failure ends it all."""

import asyncio
import types

import pytest

from orlop.build.builder import Builder, Plan
from orlop.build.steps import BuildOptions, Download, Gathered, LateTree, Layer, StepFailedError, Tree
from orlop.errors import InvalidParameterError, NotFoundError
from orlop.spec.digest import Digest
from orlop.spec.image import ImageConfig


class Workshop:
    """Does nothing, and tells what it was asked for; ``commands`` may hold a coroutine by a command's text."""

    def __init__(self, commands=None):
        self.commands = commands or {}
        self.done = []
        self.cache = {}
        self.count = 0

    async def base_image(self, name, *, pull, platform):
        if name == "missing":
            raise NotFoundError("no such image: missing")
        self.done.append(f"FROM {name}")
        return self.image(ImageConfig("amd64", "linux"))

    def image(self, config):
        self.count += 1
        return types.SimpleNamespace(id=Digest(f"{self.count:064x}"), config=config, chain=None)

    def find_cached(self, key):
        return self.cache.get(key)

    def find_similar(self, below, told, author):
        return None

    def keep_cached(self, key, image):
        self.cache[key] = image

    async def examine(self, part, *, parents=False, exclude=()):
        return Gathered("0" * 64, 1, False)

    async def copy(self, below, step):
        names = [pattern for part in step.parts for pattern in part.patterns]
        self.done.append(f"copy {' '.join(names)} {step.destination}")
        return Layer(None, None)

    async def run(self, below, command, step):
        text = command.command[-1]
        self.done.append(text)
        if text in self.commands:
            await self.commands[text]()
        return Layer(None, None)

    async def end_step(self, step):
        pass

    async def commit(self, below, config, layer):
        return self.image(config)


class Console:
    def __init__(self):
        self.steps = []
        self.text = ""
        self.cached = []

    def begin(self, step):
        self.steps.append((step.number, step.total, step.stage, step.text))

    def say(self, step, text):
        self.text += text

    def result(self, step, image, *, cached=False):
        if cached:
            self.cached.append(step.text)

    def end(self, step):
        pass


def run(text, workshop=None, console=None, context=None, **options):
    async def build():
        plan = Plan(text.encode(), BuildOptions(**options))
        builder = Builder(
            plan,
            context or Tree(directory="/context"),
            workshop=workshop or Workshop(),
            console=console or Console(),
            now=lambda: "2026-01-01T00:00:00Z",
            platform="linux/amd64",
            version="1",
        )
        async with asyncio.timeout(60):
            return await builder.run()

    return asyncio.run(build())


def test_independent_stages_are_built_at_the_same_time():
    barrier = asyncio.Barrier(3)
    workshop = Workshop(dict.fromkeys("abc", barrier.wait))
    run(
        "FROM x AS one\nRUN a\nFROM x AS two\nRUN b\nFROM x\nRUN c\nCOPY --from=one /p /\nCOPY --from=two /p /\n",
        workshop,
    )


def test_a_stage_waits_for_what_it_names():
    workshop = Workshop({"slow": lambda: asyncio.sleep(0.05)})
    run("FROM x AS one\nRUN slow\nRUN last\nFROM one\nRUN d\nFROM x\nCOPY --from=1 /p /q\n", workshop)
    ran = [text for text in workshop.done if not text.startswith("FROM")]
    assert ran == ["slow", "last", "d", "copy /p /q"]


def test_unused_stages_are_not_built():
    workshop, console = Workshop(), Console()
    run("FROM missing\nRUN no\nFROM x AS a\nRUN yes\nFROM missing\n", workshop, console, target="a")
    assert workshop.done == ["FROM x", "yes"]
    assert console.steps == [(1, 2, "a", "FROM x AS a"), (2, 2, "a", "RUN yes")]


def test_the_same_step_of_two_stages_is_done_once():
    workshop, console = Workshop({"same": lambda: asyncio.sleep(0.02)}), Console()
    base = "FROM x AS base\nRUN 0\n"
    run(f"{base}FROM base AS a\nRUN same\nFROM base AS b\nRUN same\nCOPY --from=a /p /\n", workshop, console)
    assert workshop.done.count("same") == 1
    assert console.cached == ["RUN same"]
    other = Workshop()
    run(f"{base}FROM base AS a\nRUN same\nFROM base AS b\nRUN same\nCOPY --from=a /p /\n", other, no_cache=True)
    assert other.done.count("same") == 2


def test_a_failure_ends_the_other_stages_and_is_what_is_told():
    ended = []

    async def fail():
        raise StepFailedError("it failed", 3, "false")

    async def forever():
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(True)

    workshop = Workshop({"fail": fail, "forever": forever})
    with pytest.raises(StepFailedError, match="it failed"):
        run("FROM x AS a\nRUN forever\nFROM x AS b\nRUN fail\nFROM b\nCOPY --from=a /p /\n", workshop)
    assert ended == [True]
    with pytest.raises(NotFoundError):
        run("FROM missing AS a\nFROM a AS b\nFROM b\nRUN x")


def test_platform_arguments():
    text = "ARG TARGETARCH\nFROM x$TARGETARCH\nARG TARGETPLATFORM\nARG TARGETVARIANT\nARG BUILDOS\nRUN a\n"
    workshop, console = Workshop(), Console()
    image = run(text, workshop, console, platform="linux/arm/v7", build_args={"HTTP_PROXY": "p", "X": "1"})
    assert workshop.done == ["FROM xarm", "a"]
    assert "[X] were not consumed" in console.text
    assert (
        image.config.history[-1].created_by
        == "|3 BUILDOS=linux TARGETPLATFORM=linux/arm/v7 TARGETVARIANT=v7 /bin/sh -c a"
    )


def test_an_empty_build_is_refused():
    with pytest.raises(InvalidParameterError, match="No image was generated"):
        run("FROM scratch")


def test_stages_are_found_by_arguments_and_by_triggers():
    workshop = Workshop()
    text = "ARG WHICH=two\nFROM x AS one\nRUN 1\nFROM x AS two\nRUN 2\nFROM $WHICH\nRUN 3\n"
    run(text, workshop)
    assert workshop.done == ["FROM x", "2", "3"]
    run(text, other := Workshop(), build_args={"WHICH": "one"})
    assert other.done == ["FROM x", "1", "3"]
    run("FROM x AS files\nRUN f\nFROM y AS parent\nONBUILD COPY --from=files /a /b\nFROM parent\n", last := Workshop())
    assert sorted(last.done) == ["FROM x", "FROM y", "copy /a /b", "f"]


@pytest.mark.parametrize(
    ("text", "early"),
    [
        ("FROM x\nRUN slow\nCOPY a /\n", True),
        ("FROM x\nRUN slow\nADD --chown=1 http://x/y a /\n", True),
        ("FROM x\nRUN slow\nCOPY <<E b /\nE\n", True),
        ("FROM x\nRUN slow\nCOPY $name /\n", False),
        ("FROM x\nRUN slow\nRUN --mount=type=bind,target=/c true\n", False),
        ("FROM x AS other\nRUN other\nFROM x\nRUN slow\nADD --checksum= http://x/y.tar /\n", None),
        ("FROM x AS other\nRUN slow\nFROM x\nRUN slow\nCOPY --from=other a /\n", None),
        ("FROM x AS other\nCOPY a /\nFROM x\nRUN slow\nCOPY <<E /b\nE\n", None),
    ],
)
def test_the_context_comes_while_other_steps_run_if_it_is_wanted(text, early):
    """``early`` is None where no step wants it."""
    workshop, made = Workshop(), asyncio.Event()

    async def slow():
        await (made.wait() if early else asyncio.sleep(0.05))
        workshop.done.append("slow ended")

    async def make():
        workshop.done.append("context")
        made.set()
        return Tree(directory="/context")

    async def download(url):
        return Download(Tree(directory="/download"), "y", "0" * 64)

    workshop.commands["slow"], workshop.download = slow, download
    workshop.write_files = lambda files, mode=0: Tree(directory="/files")
    workshop.open_archive = None
    run(text, workshop, context=LateTree(make))
    assert workshop.done.count("context") == (early is not None)
    if early is not None:
        assert (workshop.done.index("context") < workshop.done.index("slow ended")) is early


def test_a_context_that_does_not_come_fails_the_step_that_wants_it():
    async def make():
        raise NotFoundError("the client has gone")

    workshop = Workshop()
    with pytest.raises(NotFoundError, match="the client has gone"):
        run("FROM x\nRUN before\nCOPY a /\n", workshop, context=LateTree(make))
    assert "before" in workshop.done
