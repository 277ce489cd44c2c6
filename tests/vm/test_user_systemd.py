"""orlop-runtime as an ordinary user on the unified hierarchy, whose cgroups his own systemd makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness import BIN, busybox_tree, wait_for

pytestmark = pytest.mark.vm

UID = 34567
TOP = Path(f"/sys/fs/cgroup/user.slice/user-{UID}.slice/user@{UID}.service")
MIB = 1 << 20
SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--")
CONFINED = ("unshare", "--user", "--map-root-user", "--mount")


class User:
    """An account with a systemd of its own, and a bundle."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bundle = home / "bundle"
        busybox_tree(self.bundle / "rootfs")
        subprocess.run(["chown", "-R", f"{UID}:{UID}", self.bundle], check=True)

    def run(
        self, *command: str, check: bool = True, inside: tuple[str, ...] = (), scope: tuple[str, ...] = SCOPE
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as he; ``inside`` is what calls it."""
        become = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
        environment = ["env", f"XDG_RUNTIME_DIR=/run/user/{UID}", f"HOME={self.home}"]
        log = self.home / "output"
        with log.open("w") as output:
            done = subprocess.run(
                [*become, *environment, *scope, *inside, *command],
                cwd=self.bundle, check=False, timeout=300, text=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        done.stdout = log.read_text()
        assert not check or done.returncode == 0, done
        return done

    def runtime(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self.run(str(BIN / "orlop-runtime"), *arguments, **options)

    def shown(self, unit: str, *properties: str) -> list[str]:
        text = self.run("systemctl", "--user", "show", unit, *(f"--property={name}" for name in properties)).stdout
        found = dict(line.split("=", 1) for line in text.splitlines())
        return [found[name] for name in properties]

    def configure(self, *command: str, **linux: object) -> dict:
        (self.bundle / "config.json").unlink(missing_ok=True)
        self.runtime("spec", "--rootless")
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": list(command)}
        config["linux"] |= linux
        (self.bundle / "config.json").write_text(json.dumps(config))
        return config


@pytest.fixture(scope="module")
def user():
    subprocess.run(["useradd", "--create-home", "--uid", str(UID), "someone"], check=True)
    subprocess.run(["systemctl", "start", f"user@{UID}.service"], check=True, timeout=300)
    yield User(Path("/home/someone"))
    subprocess.run(["systemctl", "stop", f"user@{UID}.service"], check=True, timeout=300)
    subprocess.run(["userdel", "--remove", "someone"], check=False)


LIMITS = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 40}}


def test_a_scope_of_the_users_own(user):
    user.configure("sleep", "600", cgroupsPath="user.slice:oci:box", resources=LIMITS)
    refused = user.runtime("create", "box", check=False)
    assert "systemd cgroup driver is not in use" in refused.stdout
    user.runtime("--systemd-cgroup", "run", "--detach", "box")
    scope = TOP / "user.slice/oci-box.scope"
    state = json.loads(user.runtime("state", "box").stdout)
    assert (scope / "cgroup.procs").read_text().split() == [str(state["pid"])]
    assert [(scope / name).read_text() for name in ("memory.max", "pids.max")] == [f"{64 * MIB}\n", "40\n"]
    assert user.shown("oci-box.scope", "MemoryMax", "TasksMax", "Slice") == [str(64 * MIB), "40", "user.slice"]
    assert user.runtime("exec", "box", "cat", "/proc/self/cgroup").stdout.strip() == "0::/"
    user.runtime("update", "--pids-limit", "50", "box")
    assert (scope / "pids.max").read_text() == "50\n"
    user.runtime("pause", "box")
    assert json.loads(user.runtime("state", "box").stdout)["status"] == "paused"
    user.runtime("resume", "box")
    user.runtime("delete", "--force", "box")
    wait_for(lambda: user.shown("oci-box.scope", "LoadState") == ["not-found"])
    assert not scope.exists()


def test_one_of_the_root_of_a_namespace(user):
    """As rootless Podman calls: what the bus is told is the user's id outside."""
    config = user.configure("sh", "-c", "echo >/dev/null && cat /proc/self/cgroup", cgroupsPath="user.slice:oci:two")
    config["linux"]["namespaces"] = [space for space in config["linux"]["namespaces"] if space["type"] != "user"]
    del config["linux"]["uidMappings"], config["linux"]["gidMappings"]
    (user.bundle / "config.json").write_text(json.dumps(config))
    assert user.runtime("--systemd-cgroup", "run", "two", inside=CONFINED).stdout == "0::/\n"
    assert not (TOP / "user.slice/oci-two.scope").exists()


@pytest.mark.vm(long=True)
def test_a_cgroup_that_was_handed_over(user):
    """Without systemd's help: below a scope of his, which is given to him (``Delegate=``)."""
    path = f"/{TOP.relative_to('/sys/fs/cgroup')}/mine"
    user.configure("cat", "/sys/fs/cgroup/pids.max", cgroupsPath=path, resources=LIMITS)
    done = user.runtime("run", "three")
    assert done.stdout == "40\n"
    assert not os.path.exists(f"/sys/fs/cgroup{path}")


@pytest.mark.vm(long=True)
def test_the_caller_has_to_be_in_a_cgroup_of_the_user(user):
    """The kernel lets nobody from one cgroup to another who may not write to what is above both (cgroups(7))."""
    user.configure("true", cgroupsPath="user.slice:oci:five")
    refused = user.runtime("--systemd-cgroup", "run", "five", check=False, scope=())
    assert (refused.returncode, "cannot be entered from this one" in refused.stdout) == (1, True)
    wait_for(lambda: not (TOP / "user.slice/oci-five.scope").exists())


@pytest.mark.vm(long=True)
def test_another_users_scope_cannot_be_named(user):
    user.configure("true", cgroupsPath="user.slice:oci:four@0")
    refused = user.runtime("--systemd-cgroup", "run", "four", check=False)
    assert (refused.returncode, "invalid cgroup path" in refused.stdout) == (1, True)
