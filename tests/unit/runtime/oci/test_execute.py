"""What ``exec`` executes: from flags, or from a document."""

from __future__ import annotations

import json

import pytest

from orlop.runtime.oci.execute import _process
from orlop.runtime.oci.options import parse
from orlop.runtime.oci.verbs import find_verb
from orlop.spec.oci import parse_process

CONTAINER = {
    "args": ["init"],
    "cwd": "/",
    "env": ["A=1"],
    "user": {"uid": 5, "gid": 6},
    "capabilities": {"bounding": ["CAP_KILL"]},
    "oomScoreAdj": 300,
    "apparmorProfile": "profile",
    "selinuxLabel": "a:b:c:s0",
    "noNewPrivileges": True,
}


def executed(tmp_path, document):
    (tmp_path / "process.json").write_text(json.dumps({"args": ["true"], "cwd": "/", **document}))
    options = parse(["--process", str(tmp_path / "process.json")], find_verb("exec").flags, interspersed=False)
    return _process(options, [], parse_process(CONTAINER))


def test_a_document_has_the_containers_confinement_where_it_says_nothing(tmp_path):
    process = executed(tmp_path, {})
    assert process.args == ("true",)
    assert process.capabilities.bounding == {"CAP_KILL"}
    assert process.oom_score_adj == 300
    assert process.apparmor_profile == "profile"
    assert process.selinux_label == "a:b:c:s0"
    assert (process.user.uid, process.env) == (0, ())


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("oomScoreAdj", 0, "oom_score_adj", 0),
        ("apparmorProfile", "unconfined", "apparmor_profile", "unconfined"),
        ("selinuxLabel", "x:y:z:s0", "selinux_label", "x:y:z:s0"),
    ],
)
def test_what_a_document_says_counts(tmp_path, name, value, attribute, expected):
    assert getattr(executed(tmp_path, {name: value}), attribute) == expected


def test_a_document_may_have_no_capabilities(tmp_path):
    assert executed(tmp_path, {"capabilities": {}}).capabilities.bounding == frozenset()
