import pytest

from orlop.engine.containers.oci_config import Surroundings, environment, oci_config
from orlop.engine.containers.records import Definition, MountPoint
from orlop.errors import OrlopError
from orlop.spec.docker.containers import ContainerConfig, HostConfig, Ulimit
from orlop.spec.oci import parse_config


def definition(config=None, host=None, mounts=()):
    return Definition(
        id="a" * 64,
        name="n",
        created_at=1,
        image_id="sha256:" + "b" * 64,
        image_name="busybox",
        chain="",
        config=config or ContainerConfig(hostname="host"),
        host=host or HostConfig(ipc_mode="private"),
        networks={},
        mounts=mounts,
        arguments=("sh", "-c", "true"),
    )


def make(config=None, host=None, mounts=(), **around):
    result = oci_config(definition(config, host, mounts), Surroundings(cgroups_path="/orlop/x", **around))
    parse_config(result)
    return result


def test_every_namespace_is_private_by_default():
    kinds = {item["type"] for item in make()["linux"]["namespaces"]}
    assert kinds == {"mount", "network", "uts", "pid", "ipc", "cgroup", "time"}


def test_shared_namespaces_are_left_out_or_joined():
    config = make(shared={"network": "", "pid": "/proc/5/ns/pid", "uts": ""})
    namespaces = {item["type"]: item.get("path") for item in config["linux"]["namespaces"]}
    assert "network" not in namespaces
    assert namespaces["pid"] == "/proc/5/ns/pid"
    assert "hostname" not in config


def test_privileged_has_no_masks_no_filter_and_writable_sys():
    config = make(host=HostConfig(privileged=True, ipc_mode="private"))
    assert "maskedPaths" not in config["linux"]
    assert "seccomp" not in config["linux"]
    options = {mount["destination"]: mount["options"] for mount in config["mounts"]}
    assert "ro" not in options["/sys"]


@pytest.mark.parametrize(
    ("default", "host", "profile"),
    [
        ("docker-default", {}, "docker-default"),
        ("docker-default", {"privileged": True}, "unconfined"),
        ("docker-default", {"security_opt": ["apparmor=unconfined"]}, "unconfined"),
        ("docker-default", {"privileged": True, "security_opt": ["apparmor=unconfined"]}, "unconfined"),
        ("unconfined", {}, "unconfined"),
        ("", {}, None),
        ("", {"privileged": True}, None),
    ],
)
def test_apparmor_profile(default, host, profile):
    process = make(host=HostConfig(ipc_mode="private", **host), apparmor=default)["process"]
    assert process.get("apparmorProfile") == profile


def test_default_is_confined():
    linux = make()["linux"]
    assert "/proc/kcore" in linux["maskedPaths"]
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert make()["process"]["noNewPrivileges"] is False
    assert "CAP_SYS_ADMIN" not in make()["process"]["capabilities"]["bounding"]


def test_mounts_of_the_user_come_after_the_defaults_and_before_engine_files():
    mounts = (
        MountPoint(kind="bind", source="/h", destination="/c", writable=False, propagation="rslave"),
        MountPoint(kind="tmpfs", destination="/t", options=("size=1m", "exec")),
        MountPoint(kind="bind", source="/own", destination="/etc/hosts", propagation="rprivate"),
    )
    config = make(mounts=mounts, files={"/etc/hosts": "/d/hosts", "/etc/hostname": "/d/hostname"})
    by_target = {mount["destination"]: mount for mount in config["mounts"]}
    assert by_target["/c"]["options"] == ["rbind", "rslave", "rro"]
    assert by_target["/t"]["options"] == ["nosuid", "nodev", "size=1m", "exec"]
    assert by_target["/etc/hosts"]["source"] == "/own"
    assert by_target["/etc/hostname"]["source"] == "/d/hostname"
    assert config["linux"]["rootfsPropagation"] == "rslave"


def test_environment_order_and_removal():
    assert environment(["A=1", "PATH=/x", "GONE"], "h", tty=True) == ["HOSTNAME=h", "TERM=xterm", "A=1", "PATH=/x"]


def test_rlimits_of_the_container_win():
    host = HostConfig(ulimits=[Ulimit(name="nofile", soft=5, hard=6), Ulimit(name="core", soft=-1, hard=-1)])
    limits = {item["type"]: item for item in make(host=host)["process"]["rlimits"]}
    assert limits["RLIMIT_NOFILE"]["soft"] == 5
    assert limits["RLIMIT_CORE"]["hard"] == 2**64 - 1


@pytest.mark.parametrize("option", ["seccomp=/nonsense", "label=type:x", "apparmor=docker", "bogus=1"])
def test_unknown_security_options_fail_closed(option):
    with pytest.raises(OrlopError):
        make(host=HostConfig(security_opt=[option]))
