"""The Dockerfile's parser: lines, directives, here-documents, errors with their line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build.instructions import read_instructions, read_trigger
from orlop.build.parser import DockerfileError, parse
from orlop.build.stages import needed_stages, split_stages
from orlop.errors import InvalidParameterError


def lines(text: str):
    return [(line.number, line.name, line.flags, line.text) for line in parse(text.encode()).lines]


def check(text: str):
    return read_instructions(parse(text.encode()))


def test_lines_comments_and_continuations():
    text = "# c\n\n  from a\nrun x \\\n  # in between\n\n  y\\\n z \\\\\nCMD b\r\n"
    assert lines(text) == [(3, "FROM", (), "a"), (4, "RUN", (), "x   y z \\\\"), (9, "CMD", (), "b")]


def test_byte_order_mark_and_last_continuation():
    assert lines("\ufeffFROM a \\") == [(1, "FROM", (), "a")]


def test_directives():
    found = parse(b"# syntax=docker/dockerfile:1\n# Escape = `\nFROM a\nRUN b `\n c \\\n")
    assert (found.escape, found.lines[1].text) == ("`", "b  c \\")
    assert parse(b"# just=this\n# escape=`\nFROM a\n").escape == "\\"  # a comment ends the directives
    with pytest.raises(DockerfileError, match=r"line 2: only one escape parser directive"):
        parse(b"# escape=`\n# escape=`\nFROM a")
    with pytest.raises(DockerfileError, match=r"line 1: invalid ESCAPE 'x' does not match ` or"):
        parse(b"# escape=x\nFROM a")


def test_flags():
    assert lines('COPY --from=x --chown="a b" -- --y /z')[0][2:] == (("--from=x", "--chown=a b"), "--y /z")


def test_heredocs():
    found = parse(
        b"RUN a <<X <<-'Y' 3<<\"Z\"\n$1\nX\n\t2\n\tY\n3\nZ\nCOPY <<E /d\nE\nRUN echo '<<NO' [<<NO\nCMD <<NO\n"
    )
    docs = [(doc.name, doc.content, doc.expand) for doc in found.lines[0].heredocs]
    assert docs == [("X", "$1\n", True), ("Y", "2\n", False), ("Z", "3\n", False)]
    assert found.lines[1].heredocs[0].content == ""
    assert [line.heredocs for line in found.lines[2:]] == [(), ()]
    with pytest.raises(DockerfileError, match="line 2: unterminated heredoc: E"):
        parse(b"FROM a\nRUN <<E\nEE\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nRNU b", "line 2: unknown instruction: RNU (did you mean RUN?)"),
        ("FROM a\nXYZZY", "line 2: unknown instruction: XYZZY"),
        ("FROM a b", "line 1: FROM requires either one or three arguments"),
        ("FROM a AS 1x", 'invalid name for build stage: "1x"'),
        ("FROM a\nCOPY --frm=b c d", "unknown flag: --frm (did you mean from?)"),
        ("FROM a\nCOPY --from c d", "missing a value on flag: from"),
        ("FROM a\nCOPY --from=b --from=c d e", "duplicate flag specified: from"),
        ("FROM a\nCOPY b", "COPY requires at least two arguments, but only one was provided"),
        ("FROM a\nENV", "ENV requires at least one argument"),
        ("FROM a\nENV b", "ENV must have two arguments"),
        ("FROM a\nENV b=c d", 'can\'t find = in "d". Must be of the form: name=value'),
        ("FROM a\nLABEL =b", "LABEL names can not be blank"),
        ("FROM a\nSHELL sh", "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nUSER b c", "USER requires exactly one argument"),
        ("FROM a\nONBUILD ONBUILD RUN b", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM a\nONBUILD FROM b", "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\nONBUILD RAN b", "unknown instruction: RAN"),
    ],
)
def test_errors(text, message):
    with pytest.raises(DockerfileError) as caught:
        check(text)
    assert message in str(caught.value)


def test_nothing_is_no_dockerfile():
    with pytest.raises(InvalidParameterError, match=r"the Dockerfile \(Dockerfile\) cannot be empty"):
        parse(b" \n")
    with pytest.raises(InvalidParameterError, match="file with no instructions"):
        parse(b"# only\n")


def test_triggers_keep_their_heredocs():
    found = check("FROM a\nONBUILD RUN <<E\nx\nE\n")[1].trigger
    assert found is not None
    assert found.heredocs[0].content == "x\n"
    assert read_trigger("RUN <<E\nx\nE").heredocs[0].content == "x\n"


def test_only_needed_stages():
    text = "FROM a AS one\nFROM b AS two\nFROM ONE AS three\nCOPY --from=1 x y\nFROM c AS four\nFROM d\nCOPY --from=three x y"
    _, stages = split_stages(check(text))
    assert [stage.index for stage in needed_stages(stages)] == [0, 1, 2, 4]
    assert [stage.index for stage in needed_stages(stages, "Two")] == [1]
    assert [stage.index for stage in needed_stages(stages, "3")] == [3]
    with pytest.raises(InvalidParameterError, match='target stage "x" could not be found'):
        needed_stages(stages, "x")


words = st.text(
    st.characters(codec="ascii", exclude_characters="\n\r\\#<'\"", exclude_categories=["Cc"]), min_size=1
).filter(lambda text: text.strip() == text and not text.startswith(("[", "-")))


@given(st.lists(words, min_size=1, max_size=20), st.data())
def test_round_trip(texts, data):
    """Wherever a line is broken, and whatever stands in between, the same instruction is read."""
    written = ""
    for text in texts:
        at = data.draw(st.integers(0, len(text)))
        between = data.draw(st.sampled_from(["", "# comment\n", "\n", " \n\t# x\n"]))
        # a part that is empty or looks like a comment would be one
        whole = not text[at:].strip() or not text[:at].strip() or text[at:].lstrip().startswith("#")
        written += f"RUN {text}\n" if whole else f"RUN {text[:at]}\\\n{between}{text[at:]}\n"
    assert [line.text for line in parse(written.encode()).lines] == texts


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for text in (data, b"FROM a\nRUN " + data, b"FROM a\nENV " + data, b"FROM a\nCOPY <<E " + data + b"\nE\n"):
        try:
            read_instructions(parse(text))
        except InvalidParameterError as error:
            assert str(error)
