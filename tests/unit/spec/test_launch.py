import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.launch import (
    AttachTarget,
    ContainerLaunch,
    ExecLaunch,
    ExitRecord,
    LogTarget,
    OverlayRoot,
    from_message,
    to_message,
)

LAUNCH = ContainerLaunch(
    id="a" * 64,
    state_dir="/run/x",
    config={"process": {"args": ["true"]}},
    overlay=OverlayRoot(("/a", "/b"), "/upper", "/work", volatile=True),
    log=LogTarget("/log", 5, 2, {"label": "value"}),
    console_size=(24, 80),
    attach=(AttachTarget(), AttachTarget(stdin=True, detach_keys="1011")),
)


@pytest.mark.parametrize(
    "value",
    [
        LAUNCH,
        ContainerLaunch(id="a", state_dir="b", config={}),
        ExecLaunch(id="a", container_id="b", state_dir="c", config={}, process={}, attach=(AttachTarget(),)),
        ExitRecord(1, oom_killed=True, started_at=2, finished_at=3, error="e"),
    ],
)
def test_a_message_is_the_value_again(value):
    assert from_message(type(value), to_message(value)) == value


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"id": 1},
        {"id": None},
        {"init": 1},
        {"config": []},
        {"log": []},
        {"log": {"path": "/log", "max_size": True}},
        {"log": {"path": "/log", "max_size": 1.5}},
        {"log": {"path": "/log", "attributes": "no"}},
        {"log": {}},
        {"overlay": {"lower": "/a"}},
        {"overlay": {"lower": ["/a", 1]}},
        {"overlay": {"lower": ["/a"], "volatile": 0}},
        {"console_size": [1]},
        {"console_size": [1, "2"]},
        {"console_size": {"1": 2}},
        {"attach": {}},
        {"attach": [None]},
        {"attach": [{"surprise": 1}]},
    ],
)
def test_what_is_not_in_the_protocol_is_refused(change):
    with pytest.raises(InvalidParameterError):
        from_message(ContainerLaunch, {**to_message(LAUNCH), **change})


def test_what_is_missing_is_named():
    message = to_message(LAUNCH)
    del message["state_dir"]
    with pytest.raises(InvalidParameterError, match="state_dir"):
        from_message(ContainerLaunch, message)
