import pytest

from orlop.errors import InvalidParameterError
from orlop.image.changes import apply_changes, parse_duration
from orlop.spec.image import ContainerDefaults, Healthcheck


def change(*lines, **fields):
    return apply_changes(ContainerDefaults(**fields), lines)


def test_command_forms():
    assert change("CMD echo hi").cmd == ("/bin/sh", "-c", "echo hi")
    assert change('ENTRYPOINT ["/bin/sh", "-x"]').entrypoint == ("/bin/sh", "-x")
    assert change("CMD [not json").cmd == ("/bin/sh", "-c", "[not json")
    assert change("CMD").cmd is None
    assert change("CMD x\nENV A=b").env == ("A=b",)


def test_environment():
    assert change("ENV A=b C=d").env == ("A=b", "C=d")
    assert change("ENV A b c").env == ("A=b c",)
    assert change("""ENV A="b c" D='e $A' F=g\\ h""").env == ("A=b c", "D=e $A", "F=g h")
    assert change("ENV A=1", "ENV B=${A}2 A=3").env == ("A=3", "B=12")
    assert change("ENV A=new", env=("A=old", "Z=1")).env == ("A=new", "Z=1")


def test_the_rest():
    assert change("EXPOSE 80 53/UDP 8000-8002").exposed_ports == (
        "53/udp",
        "80/tcp",
        "8000/tcp",
        "8001/tcp",
        "8002/tcp",
    )
    assert change("LABEL x=y 'a b'=\"c d\"").labels == {"x": "y", "a b": "c d"}
    assert change("USER bob", "VOLUME /data /e", 'VOLUME ["/f"]').volumes == ("/data", "/e", "/f")
    assert change("WORKDIR /a", "WORKDIR b/../c").working_dir == "/a/c"
    assert change("WORKDIR rel").working_dir == "/rel"
    assert change("STOPSIGNAL SIGINT").stop_signal == "SIGINT"
    assert change("STOPSIGNAL 9").stop_signal == "9"
    assert change("ONBUILD RUN x").on_build == ("RUN x",)


def test_health():
    check = change("HEALTHCHECK --interval=5s --timeout=1m30s --retries=2 CMD true").healthcheck
    assert check == Healthcheck(("CMD-SHELL", "true"), interval=5 * 10**9, timeout=90 * 10**9, retries=2)
    assert change('HEALTHCHECK CMD ["a", "b"]').healthcheck == Healthcheck(("CMD", "a", "b"))
    assert change("HEALTHCHECK NONE").healthcheck == Healthcheck(("NONE",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("foo", "FOO is not a valid change command"),
        ("FROM x", "FROM is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("LABEL a", "LABEL must have two arguments"),
        ("EXPOSE zz", "Invalid containerPort: zz"),
        ("EXPOSE 99999", "Invalid containerPort: 99999"),
        ("EXPOSE 80/foo", "Invalid proto: foo"),
        ("STOPSIGNAL FOO", "invalid signal: FOO"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("ONBUILD ONBUILD x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("USER", "USER requires exactly one argument"),
    ],
)
def test_docker_words(line, message):
    with pytest.raises(InvalidParameterError) as caught:
        change(line)
    assert str(caught.value) == message


def test_durations():
    assert parse_duration("1h1m1s1ms1us1ns") == 3661001001001
    assert parse_duration("1.5s") == 1_500_000_000
    for text in ("", "5", "s", "1x", "-1s", "1s ", "1e9s"):
        with pytest.raises(InvalidParameterError):
            parse_duration(text)


def test_lone_surrogates_of_json_are_replaced():
    assert apply_changes(ContainerDefaults(), ['CMD ["a\\ud800b"]']).cmd == ("a\ufffdb",)


def test_a_duration_that_no_integer_of_docker_holds_is_refused():
    with pytest.raises(InvalidParameterError, match="invalid duration"):
        apply_changes(ContainerDefaults(), ["HEALTHCHECK --interval=9999999999999h CMD x"])
