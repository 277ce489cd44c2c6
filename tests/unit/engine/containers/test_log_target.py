import pytest

from orlop.engine.containers.log_target import check_log_config
from orlop.errors import OrlopError
from orlop.spec.docker.containers import LogConfig


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("nosuch", {}, 'error looking up logging plugin nosuch: plugin "nosuch" not found'),
        ("local", {"tag": "x"}, "unknown log opt 'tag' for log driver local"),
        ("json-file", {"colour": "x"}, "unknown log opt 'colour' for json-file log driver"),
        ("json-file", {"mode": "odd"}, "logger: logging mode not supported: odd"),
        ("json-file", {"mode": "blocking", "max-buffer-size": "1m"}, "only supported with 'mode=non-blocking'"),
        ("local", {"mode": "non-blocking"}, "log delivery mode is not supported by this version of orlop"),
        (
            "local",
            {"compress": "maybe"},
            'reading compress log option: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        ("json-file", {"compress": ""}, 'failed to initialize logging driver: strconv.ParseBool: parsing "": invalid'),
        ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        (
            "json-file",
            {"compress": "t", "max-file": "1"},
            "compress cannot be true when max-file is less than 2 or max",
        ),
        ("json-file", {"compress": "1", "max-size": "-1"}, "compress cannot be true when max-file is less than 2 or"),
        ("json-file", {"tag": "{{.Colour}}"}, "can't evaluate field Colour"),
        ("json-file", {"tag": "{{upper .Name}}"}, "takes fields only"),
        ("local", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-size": "x"}, "invalid size: 'x'"),
    ],
)
def test_what_is_not_honoured_is_refused(kind, options, words):
    with pytest.raises(OrlopError) as caught:
        check_log_config(LogConfig(type=kind, config=options))
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["json-file", "local", "none"])
def test_drivers(kind):
    check_log_config(LogConfig(type=kind))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("local", {"max-file": "1", "compress": "false"}),
        ("local", {"max-size": "-1"}),
        ("json-file", {"compress": "T"}),
        ("json-file", {"compress": "false", "max-file": "1"}),
    ],
)
def test_compression_that_can_be(kind, options):
    check_log_config(LogConfig(type=kind, config=options))
