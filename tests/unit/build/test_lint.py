"""The checks of a Dockerfile: each by one that it finds and one that it lets pass, in BuildKit's words."""

import pytest

from orlop.build.lint import check
from orlop.build.lint_rules import RULES
from orlop.build.parser import DockerfileError
from orlop.primitives.ignore import parse_ignore


def found(text, **options):
    return [(item.rule.name, item.line, item.text) for item in check(text.encode(), **options).warnings]


@pytest.mark.parametrize(
    ("name", "line", "bad", "good", "text"),
    [
        ("StageNameCasing", 1, "FROM scratch AS Made", "FROM scratch AS made", "Stage name 'Made' should be lowercase"),
        ("FromAsCasing", 1, "FROM scratch as a", "from scratch as a", "'as' and 'FROM' keywords' casing do not match"),
        ("NoEmptyContinuation", 2, "FROM scratch\nENV a=b \\\n\n c=d", "FROM scratch\nENV a=b \\\n# x\n c=d\n\n", "Empty continuation line"),
        ("ConsistentInstructionCasing", 2, "FROM scratch\nEnv a=b\nENV c=d", "from scratch\nenv a=b", "Command 'Env' should match the case of the command majority (uppercase)"),
        ("DuplicateStageName", 2, "FROM scratch AS a\nFROM scratch AS a", "FROM scratch AS a\nFROM scratch AS b", 'Duplicate stage name "a", stage names should be unique'),
        ("ReservedStageName", 1, "FROM scratch AS context", "FROM scratch AS c", 'Stage name should not use the same name as reserved stage "context"'),
        ("JSONArgsRecommended", 2, "FROM scratch\nCMD a b", 'FROM scratch\nSHELL ["b", "-c"]\nCMD a b', "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals"),
        ("MaintainerDeprecated", 2, "FROM scratch\nMAINTAINER me", "FROM scratch\nLABEL a=me", "Maintainer instruction is deprecated in favor of using label"),
        ("UndefinedArgInFrom", 2, "ARG TAG=1\nFROM a:${TGA:-1}$TAGG", "ARG TAG=1\nFROM a:$TAG", "FROM argument 'TAGG' is not declared (did you mean TAG?)"),
        ("WorkdirRelativePath", 2, "FROM scratch\nWORKDIR a", "FROM scratch\nWORKDIR /a\nWORKDIR b", 'Relative workdir "a" can have unexpected results if the base image changes'),
        ("UndefinedVar", 3, "FROM scratch\nARG VERSION=1\nLABEL v=$VERSIO_", "FROM scratch\nARG VERSION\nLABEL v=$VERSION${X:-y}$PATH", "Usage of undefined variable '$VERSIO_' (did you mean $VERSION?)"),
        ("UndefinedVar", 3, "FROM scratch AS a\nARG X=1\nFROM a\nLABEL v=$X".replace("AS a\n", "AS a\n", 1), "FROM scratch AS a\nENV X=1\nFROM a\nLABEL v=$X", "Usage of undefined variable '$X'"),
        ("MultipleInstructionsDisallowed", 2, 'FROM scratch\nCMD ["a"]\nCMD ["b"]', 'FROM scratch\nCMD ["a"]\nFROM scratch\nCMD ["b"]', "Multiple CMD instructions should not be used in the same stage because only the last one will be used"),
        ("LegacyKeyValueFormat", 2, "FROM scratch\nENV a b", "FROM scratch\nENV a=b", '"ENV key=value" should be used instead of legacy "ENV key value" format'),
        ("RedundantTargetPlatform", 1, "FROM --platform=$TARGETPLATFORM scratch", "FROM --platform=$BUILDPLATFORM scratch", "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"),
        ("SecretsUsedInArgOrEnv", 2, "FROM scratch\nARG AWS_SECRET_ACCESS_KEY", "FROM scratch\nENV PUBLIC_KEY=a KEYBOARD=b", 'Do not use ARG or ENV instructions for sensitive data (ARG "AWS_SECRET_ACCESS_KEY")'),
        ("InvalidDefaultArgInFrom", 2, "ARG TAG\nFROM busybox:$TAG", "ARG TAG=latest\nFROM busybox:$TAG", "Default value for ARG busybox:$TAG results in empty or invalid base image name"),
        ("FromPlatformFlagConstDisallowed", 1, "FROM --platform=linux/amd64 scratch", "FROM --platform=linux/amd64 scratch AS build-amd64", 'FROM --platform flag should not use constant value "linux/amd64"'),
        ("CopyIgnoredFile", 2, "FROM scratch\nCOPY ./out/f /", "FROM scratch\nCOPY --from=x out/f /\nADD in *.f $V /", 'Attempting to COPY file "./out/f" that is excluded by .dockerignore'),
        ("ExposeProtoCasing", 2, "FROM scratch\nEXPOSE 80/TCP", "FROM scratch\nEXPOSE 80/tcp", "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase"),
        ("ExposeInvalidFormat", 2, "FROM scratch\nEXPOSE 1:2", "FROM scratch\nEXPOSE 1-2", "EXPOSE instruction should not define an IP address or host-port mapping, found '1:2'"),
    ],
)  # fmt: skip
def test_each_rule(name, line, bad, good, text):
    options = {"ignored": parse_ignore("out\n"), "variables_of": lambda _: ()}
    line += bad.startswith("FROM scratch AS a\nARG")
    assert (name, line, text) in found(bad, **options)
    assert name not in [rule for rule, *_ in found(good, **options)]


def test_descriptions_must_be_asked_for():
    text = "# something else\nARG A=1\n# A is good\nARG A=2\n\n# far away\n\nFROM scratch AS b\n"
    assert found(text) == []
    expected = ("InvalidDefinitionDescription", 3, "Comment for ARG should follow the format: `# A <description>`")
    assert found(f"# check=experimental=all\n\n{text}".replace("\n\n#", "\n#", 1)) == [expected]


def test_what_is_not_known_of_a_base_is_not_guessed():
    assert found("FROM busybox\nLABEL a=$JAVA_HOME") == []
    assert found("FROM busybox\nLABEL a=$JAVA_HOME", variables_of=lambda _: ["JAVA_HOME"]) == []
    assert [rule for rule, *_ in found("FROM busybox\nLABEL a=$JAVA_HOME", variables_of=lambda _: [])] == [
        "UndefinedVar"
    ]


def test_the_directive_chooses():
    text = "FROM scratch AS A\nMAINTAINER me\n"
    assert [rule for rule, *_ in found(f"# check=skip=StageNameCasing\n{text}")] == ["MaintainerDeprecated"]
    assert found(f"# check=skip=all\n{text}") == []
    findings = check(f"# check=skip=JSONArgsRecommended;error=true\n{text}".encode())
    assert str(findings.error()) == "lint violation found for rules: MaintainerDeprecated, StageNameCasing"
    assert check(text.encode()).error() is None
    argument = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all;error=true"}
    assert check(text.encode(), build_args=argument).error() is None
    for wrong in ("x=y", "error=perhaps"):
        with pytest.raises(DockerfileError, match="line 1: "):
            check(f"# check={wrong}\n{text}".encode())


def test_addresses_are_docker_s():
    assert RULES["JSONArgsRecommended"].url.endswith("/rule/json-args-recommended/")
    assert RULES["SecretsUsedInArgOrEnv"].url.endswith("/rule/secrets-used-in-arg-or-env/")
    assert len(RULES) == 21
