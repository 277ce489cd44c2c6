"""How builds are shown: documents in, lines out."""

import io

import pytest

from orlop.cli import build_view
from orlop.cli.invocation import CommandError

BEGIN = {"step": {"Number": 2, "Total": 3, "Stage": "a", "Text": "RUN make"}}
DOCUMENTS = [
    {"step": {"Number": 1, "Total": 3, "Stage": "", "Text": "ARG A"}},
    {"step": {"Number": 1, "Ended": True}},
    BEGIN,
    {"step": {"Number": 2, "Output": "one\ntw"}},
    {"step": {"Number": 3, "Total": 3, "Stage": "b", "Text": "RUN other"}},
    {"step": {"Number": 3, "Image": "0" * 12, "Cached": True}},
    {"step": {"Number": 3, "Ended": True}},
    {"step": {"Number": 2, "Output": "o\x1b[2J\x1b[31m!\nrest\rover\x07"}},
    {"step": {"Number": 2, "Image": "1" * 12, "Cached": False}},
    {"step": {"Number": 2, "Ended": True}},
    {"status": "Pulling", "id": "x"},
    {"stream": "naming to x:latest\n"},
    {"aux": {"ID": "sha256:1", "Stages": ["sha256:2", 3]}},
]


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    monkeypatch.setattr(build_view.time, "monotonic", lambda: 7.0)


def test_plain():
    stream = io.StringIO()
    view = build_view.PlainView(stream)
    view.show(DOCUMENTS)
    assert stream.getvalue().splitlines() == [
        *("#1 [1/3] ARG A", "#1 DONE 0.0s", "#2 [a 2/3] RUN make", "#2 0.000 one", "#3 [b 3/3] RUN other", "#3 CACHED"),
        *("#2 0.000 two!", "#2 0.000 restover\\x07", "#2 DONE 0.0s", "x: Pulling", "naming to x:latest"),
    ]
    assert (view.image, view.stages) == ("sha256:1", ["sha256:2", "3"])


@pytest.mark.parametrize("kind", [build_view.View, build_view.PlainView, build_view.TerminalView])
def test_failure_tells_its_code_and_the_last_lines(kind):
    stream = io.StringIO()
    view = kind(stream)
    documents = [BEGIN, {"step": {"Number": 2, "Output": "last\nwords"}}]
    with pytest.raises(CommandError, match="broken") as caught:
        view.show([*documents, {"errorDetail": {"message": "broken", "code": 7}, "error": "broken"}])
    assert caught.value.status == 7
    assert "last" in stream.getvalue()
    assert "words" in stream.getvalue()


def test_terminal_draws_over_what_it_drew():
    """Follow the cursor: what is left on the screen are the ended steps."""
    stream = io.StringIO()
    build_view.TerminalView(stream).show(DOCUMENTS)
    screen: list[str] = []
    rest = stream.getvalue()
    while rest:
        if rest.startswith("\x1b[") and "A" in rest[:6]:
            count = int(rest[2 : rest.index("A")])
            del screen[len(screen) - count :]
            rest = rest[rest.index("A") + 1 :].removeprefix("\x1b[J")
            continue
        line, _, rest = rest.partition("\n")
        screen.append(build_view._SEQUENCE.sub("", line).rstrip())
    assert [line.split("  ")[0].strip() for line in screen] == [
        *("=> [1/3] ARG A", "=> CACHED [b 3/3] RUN other", "=> [a 2/3] RUN make", "naming to x:latest")
    ]


def test_modes():
    stream = io.StringIO()
    assert type(build_view.choose("auto", stream)) is build_view.PlainView
    assert type(build_view.choose("quiet", stream)) is build_view.View
    for mode in ("tty", "rawjson"):
        with pytest.raises(CommandError):
            build_view.choose(mode, stream)
