"""subuid(5) and subgid(5) as userns-remap reads them."""

import pytest

from orlop.daemon.subordinate_ids import read_remapping
from orlop.errors import InvalidParameterError


def read(tmp_path, text, subuid, subgid="root:100000:65536\n"):
    for name, content in (("subuid", subuid), ("subgid", subgid)):
        (tmp_path / name).write_text(content)
    return read_remapping(text, subuid=str(tmp_path / "subuid"), subgid=str(tmp_path / "subgid"))


def test_ranges_follow_each_other_inside(tmp_path):
    assert read_remapping("") is None
    lines = "other:1:2\nroot:100000:1000\n0:300000:5\n"
    remapping = read(tmp_path, "root", lines)
    assert remapping.uids == ((0, 100000, 1000), (1000, 300000, 5))
    assert remapping.gids == ((0, 100000, 65536),)
    assert read(tmp_path, "0:root", lines).uids == remapping.uids
    assert remapping.linux()["gidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.mark.parametrize(
    ("text", "subuid", "message"),
    [
        ("default", "", "can't create ID mappings: no subuid ranges found for user"),
        ("4294967", "root:1:2", 'can\'t create ID mappings: no subuid ranges found for user "4294967"'),
        ("no-such-user-here", "", 'error during "no-such-user-here" user lookup'),
        ("root:no-such-group", "root:1:2", 'error during "no-such-group" group lookup'),
        ("root:", "root:1:2", "invalid userns-remap"),
        (":root", "root:1:2", "invalid userns-remap"),
        ("root", "root:1", "cannot parse"),
        ("root", "root:-1:2", "cannot parse"),
        ("root", "root:1:0", "cannot parse"),
        ("root", "root:4294967295:1", "cannot parse"),
        ("root", "root:0:65536", "maps the host's root"),
    ],
)
def test_what_gives_no_mapping(tmp_path, text, subuid, message):
    if text == "default":
        message = "dockremap"
    with pytest.raises(InvalidParameterError, match=message.replace("(", r"\(")):
        read(tmp_path, text, subuid)


def test_missing_files_have_no_ranges(tmp_path):
    with pytest.raises(InvalidParameterError, match="no subuid ranges"):
        read_remapping("root", subuid=str(tmp_path / "none"), subgid=str(tmp_path / "none"))
