"""``slice:prefix:name`` and the cgroup that systemd makes of it."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.runtime.cgroups.systemd.scope import parse_scope, slice_path


@pytest.mark.parametrize(
    ("text", "unit", "path"),
    [
        ("system.slice:docker:abc", "docker-abc.scope", "/system.slice/docker-abc.scope"),
        (":docker:abc", "docker-abc.scope", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:x:y", "x-y.scope", "/a.slice/a-b.slice/a-b-c.slice/x-y.scope"),
        ("-:x:y", "x-y.scope", "/x-y.scope"),
        ("-.slice:x:y", "x-y.scope", "/x-y.scope"),
        ("user.slice::y", "y.scope", "/user.slice/y.scope"),
        ("", "orlop-id.scope", "/system.slice/orlop-id.scope"),
    ],
)
def test_scope(text, unit, path):
    scope = parse_scope(text, container_id="id")
    assert (scope.unit, scope.path) == (unit, path)
    assert parse_scope(scope.reference, container_id="") == scope


def test_a_users_own():
    scope = parse_scope("", container_id="id", user=1000)
    assert scope.path == "/user.slice/user-1000.slice/user@1000.service/user.slice/orlop-id.scope"
    assert scope.reference == "user.slice:orlop:id@1000"
    assert parse_scope(scope.reference, container_id="") == scope
    assert parse_scope("app.slice:a:b", container_id="", user=7).path.endswith("user@7.service/app.slice/a-b.scope")
    for text in ("a.slice:b:c@1000", "a.slice:b:c@"):
        with pytest.raises(InvalidParameterError):
            parse_scope(text, container_id="id", user=1000)


@pytest.mark.parametrize(
    "text",
    [
        *("a:b", "a:b:c:d", "/a:b:c", "system.slice:docker:../../x", "system.slice:..:x", "system.slice:docker:"),
        *("system:docker:x", "a--b.slice:docker:x", "-a.slice:docker:x", "../a.slice:docker:x", "a/b.slice:x:y"),
        *("system.slice:docker:a b", "system.slice:docker:x.slice", "system.slice:docker:a\n", ".slice:x:y"),
        *("system.slice:x:" + "y" * 300, "system.slice:docker:a@b", "system.slice:docker:a@-1", ":docker:.x", "::.x"),
    ],
)
def test_names_that_lead_elsewhere(text):
    with pytest.raises(InvalidParameterError):
        parse_scope(text, container_id="id")


def test_slices():
    assert slice_path("-.slice") == ""
    with pytest.raises(InvalidParameterError, match=r"invalid slice name: a\.scope"):
        slice_path("a.scope")
