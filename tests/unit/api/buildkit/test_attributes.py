"""What BuildKit's attributes ask for, and what is refused."""

import pytest

from orlop.api.buildkit.attributes import build_request, read_wishes
from orlop.api.buildkit.control_messages import CacheEntry
from orlop.engine.builds import Logins
from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.docker.containers import Ulimit
from orlop.spec.platform import Platform

HERE = str(Platform.host())


def request(**attributes):
    wishes = read_wishes({name.replace("__", ":").replace("_", "-"): value for name, value in attributes.items()})
    return build_request(wishes, credentials=Logins())


def test_what_is_usual():
    made = request(filename="a/Dockerfile", target="x", build_arg__A="1", label__l="v", platform=HERE)
    assert (made.dockerfile, made.options.target, made.options.build_args) == ("a/Dockerfile", "x", {"A": "1"})
    assert (made.options.labels, made.options.platform, made.options.like_buildkit) == ({"l": "v"}, HERE, True)
    assert (made.options.no_cache, made.options.pull, made.tags, made.remote) == (False, False, (), "")
    assert request().dockerfile == "Dockerfile"


def test_no_cache_is_for_all_or_for_stages():
    assert request(no_cache="").options.no_cache is True
    some = request(no_cache="a,B").options
    assert (some.no_cache, some.no_cache_stages) == (False, {"a", "b"})


def test_limits():
    made = request(
        add_hosts="a=1.2.3.4,b=::1",
        ulimit="nofile=10:20,core=-1",
        shm_size="1024",
        cgroup_parent="/p",
        image_resolve_mode="pull",
    )
    assert made.limits.extra_hosts == ["a:1.2.3.4", "b:::1"]
    assert made.limits.ulimits == [Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=-1, hard=-1)]
    assert (made.limits.shm_size, made.limits.cgroup_parent, made.options.pull) == (1024, "/p", True)
    assert request(force_network_mode="none").limits.network_mode == "none"


def test_a_host_network_wants_its_entitlement():
    wishes = read_wishes({"force-network-mode": "host"})
    with pytest.raises(UnsupportedError, match=r"network\.host is not allowed"):
        build_request(wishes, credentials=Logins())
    made = build_request(wishes, credentials=Logins(), entitlements=["network.host"])
    assert (made.limits.network_mode, made.options.allowed) == ("host", {"network.host"})


def test_epoch():
    assert request(build_arg__SOURCE_DATE_EPOCH="0").options.epoch is None  # a name with other letters
    made = build_request(read_wishes({"build-arg:SOURCE_DATE_EPOCH": "12"}), credentials=Logins())
    assert made.options.epoch == 12


@pytest.mark.parametrize(
    ("attributes", "directories", "remote"),
    [
        ({}, {"context": "context", "dockerfile": "dockerfile"}, ""),
        ({"contextkey": "c", "dockerfilekey": "d"}, {"context": "c", "dockerfile": "d"}, ""),
        ({"context": "https://host/x.git#main"}, {}, "https://host/x.git#main"),
        ({"context": "http://buildkit-session/abc"}, {}, "http://buildkit-session/abc"),
        ({"context": "git@host:x", "dockerfilekey": "d"}, {"dockerfile": "d"}, "git@host:x"),
    ],
)
def test_where_files_come_from(attributes, directories, remote):
    wishes = read_wishes(attributes)
    assert (wishes.directories, wishes.remote) == (directories, remote)


def test_named_contexts():
    attributes = {
        "context:a": "local:a",
        "context:b::linux/s390x": "docker-image://b",
        f"context:c::{HERE}": "input:0-c",
    }
    assert read_wishes(attributes).contexts == {"a": "local:a", "c": "input:0-c"}


def test_caches():
    text = '[{"Type":"registry","Attrs":{"ref":"a/b:1"}},{"Type":"registry","Attrs":{"ref":"c"}}]'
    wishes = read_wishes({"cache-imports": text}, [CacheEntry(type="registry", attributes={"ref": "c"})])
    made = build_request(wishes, credentials=Logins())
    assert (made.cache_from, made.fetch_caches) == (("c", "a/b:1"), True)


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"cache-imports": '[{"Type":"gha"}]'}, UnsupportedError, "cache import is not supported: gha"),
        ({"cache-imports": "[" * 100_000}, InvalidParameterError, "failed to unmarshal cache-imports"),
        ({"platform": "linux/s390x"}, UnsupportedError, "another platform is not supported: linux/s390x"),
        ({"platform": "linux/amd64,linux/386"}, UnsupportedError, "several platforms is not supported"),
        ({"platform": "neither/nor"}, InvalidParameterError, "unknown operating system"),
        ({"attest:sbom": ""}, UnsupportedError, "attestations are not supported: sbom"),
        ({"force-network-mode": "bridge0"}, UnsupportedError, 'network mode "bridge0" not supported'),
        ({"shm-size": "1g"}, InvalidParameterError, "invalid shm-size: '1g'"),
        ({"ulimit": "nofile=x"}, InvalidParameterError, "invalid ulimit: 'nofile=x'"),
        ({"add-hosts": "a:1"}, InvalidParameterError, "invalid additional host: 'a:1'"),
        ({"no-cache": '"' * 3 + "\n" + "x" * 200_000}, InvalidParameterError, "invalid list"),
        ({"build-arg:SOURCE_DATE_EPOCH": "now"}, InvalidParameterError, "invalid SOURCE_DATE_EPOCH: 'now'"),
    ],
)
def test_what_is_refused(attributes, error, message):
    with pytest.raises(error, match=message):
        build_request(read_wishes(attributes), credentials=Logins())


def test_an_unknown_entitlement_is_refused():
    with pytest.raises(UnsupportedError, match="entitlement is not supported: device"):
        build_request(read_wishes({}), credentials=Logins(), entitlements=["device"])
