"""orlop-runtime as an ordinary user: threats I1 and I4, and the same commands as root has."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import BIN, PATIENCE, busybox_tree, catches, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox")]

USER, FIRST, COUNT = 34567, 400000, 65536
RUNTIME = BIN / "orlop-runtime"


class Account:
    """A user who is in no file of the machine but in a mount namespace's, with ids of his own and a bundle."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bundle = home / "bundle"
        busybox_tree(self.bundle / "rootfs")
        (home / "run").mkdir()
        files = {
            "passwd": f"root:x:0:0::/:/bin/sh\nsomeone:x:{USER}:{USER}::/:/bin/sh\n",
            "group": f"someone:x:{USER}:\n",
        }
        files |= {"subuid": f"someone:{FIRST}:{COUNT}\n", "subgid": f"someone:{FIRST}:{COUNT}\n"}
        for name, text in files.items():
            (home / name).write_text(text)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", self.bundle, home / "run"], check=True)
        (home / "run").chmod(0o700)
        binds = "".join(f"mount --bind {shlex.quote(str(home / name))} /etc/{name} && " for name in files)
        become = f"exec setpriv --reuid {USER} --regid {USER} --clear-groups -- env XDG_RUNTIME_DIR={home}/run HOME=/ "
        self.within: list[str] = []  # what the runtime is called by
        self._prefix = ["unshare", "-m", "--propagation", "private", "sh", "-ec", f'{binds}{become}"$@"', "sh"]

    def run(self, *arguments: str | Path, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._prefix, *self.within, *map(str, (RUNTIME, *arguments))],
            cwd=self.bundle, capture_output=True, text=True, check=False, timeout=30 * PATIENCE, stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip
        assert not check or done.returncode == 0, done
        return done

    def detached(self, *arguments: str) -> None:
        """Run a command whose process keeps its standard streams, and would keep ours."""
        null = subprocess.DEVNULL
        command = [*self._prefix, str(RUNTIME), *arguments]
        subprocess.run(
            command, cwd=self.bundle, check=True, timeout=30 * PATIENCE, stdin=null, stdout=null, stderr=null
        )

    def configure(self, *command: str, **changes: object) -> dict:
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": list(command)}
        config["linux"] |= changes
        (self.bundle / "config.json").write_text(json.dumps(config))
        return config


@pytest.fixture
def account():
    home = Path(
        tempfile.mkdtemp(prefix="orlop-t-rootless-")
    )  # every start of a pytest takes its own directories from others
    home.chmod(0o755)
    try:
        made = Account(home)
        reachable = subprocess.run(
            ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", RUNTIME, "--version"],
            capture_output=True, check=False,
        )  # fmt: skip
        if reachable.returncode in (126, 127):
            pytest.skip(f"an ordinary user cannot reach {RUNTIME}")
        assert reachable.returncode == 0, reachable.stderr
        made.run("spec", "--rootless")
        yield made
        assert not list((home / "run").glob("*/*"))
    finally:
        shutil.rmtree(home)


def test_run_with_ones_own_id(account: Account) -> None:
    shown = "id; cat /proc/self/uid_map /proc/self/setgroups; grep Cap /proc/self/status; ls /sys/fs/cgroup; echo $$"
    account.configure("sh", "-c", shown)
    lines = account.run("run", "one").stdout.splitlines()
    assert lines[0].startswith("uid=0(root) gid=0(root)")
    assert lines[1].split() == ["0", str(USER), "1"]  # I1: no id that was not granted
    assert lines[2] == "deny"
    assert "CapInh:\t0000000000000000" in lines
    assert "CapBnd:\t0000000020000420" in lines
    assert lines[-1] == "1"
    assert len(lines) == 9  # C3: nothing of the host's cgroups is shown


def test_every_verb(account: Account) -> None:
    account.configure("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
    account.detached("create", "two")
    state = json.loads(account.run("state", "two").stdout)
    assert (state["status"], state["id"]) == ("created", "two")
    assert os.stat(f"/proc/{state['pid']}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino
    account.run("start", "two")
    assert account.run("exec", "two", "id", "-u").stdout == "0\n"
    assert account.run("exec", "two", "sh", "-c", "exit 9", check=False).returncode == 9
    account.detached("exec", "-d", "two", "sleep", "100")
    assert "two" in account.run("list").stdout
    for verb in (
        ["pause", "two"],
        ["ps", "two"],
        ["update", "--memory", "9999999", "two"],
        ["events", "--stats", "two"],
    ):
        refused = account.run(*verb, check=False)
        assert refused.returncode == 1
        assert "container without a cgroup cannot" in refused.stderr
    assert "Traceback" not in refused.stderr
    wait_for(lambda: catches(state["pid"], signal.SIGTERM), what="trap")
    account.run("kill", "two", "TERM")
    wait_for(lambda: json.loads(account.run("state", "two").stdout)["status"] == "stopped")
    account.run("delete", "two")
    account.detached("create", "two")
    account.run("kill", "--all", "two", "KILL")
    account.run("delete", "--force", "two")


def test_ranges_are_mapped_as_far_as_they_were_granted(account: Account) -> None:
    maps = [{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": 1000}]
    account.configure("sh", "-c", "cat /proc/self/uid_map; id -u; id -G", uidMappings=maps, gidMappings=maps)
    config = json.loads((account.bundle / "config.json").read_text())
    config["process"]["user"] = {"uid": 33, "gid": 44, "additionalGids": [55]}
    (account.bundle / "config.json").write_text(json.dumps(config))
    lines = account.run("run", "three").stdout.splitlines()
    assert lines[1].split() == ["1", str(FIRST), "1000"]
    assert lines[2:] == ["33", "44 55"]
    maps[1]["size"] = COUNT + 1
    account.configure("true", uidMappings=maps)
    refused = account.run("run", "four", check=False)  # I1
    assert refused.returncode == 1
    assert "unable to map ids" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"namespaces": [{"type": "mount"}, {"type": "uts"}], "uidMappings": [], "gidMappings": []},
            "rootless container requires user namespaces",
        ),
        ({"gidMappings": []}, "no gid mappings found"),
        ({"resources": {"memory": {"limit": 99999999}}}, "unable to create cgroup"),
        ({"cgroupsPath": "/mine"}, "unable to create cgroup"),
        ({"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}, "unable to map ids"),
    ],
)
def test_what_an_ordinary_user_cannot_have_is_refused(account: Account, changes: dict, words: str) -> None:
    account.configure("true", **changes)
    refused = account.run("run", "five", check=False)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert refused.stderr.count("\n") == 1


OWN = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network")]


def confined(account: Account, *command: str, namespaces: list[dict], mounts: tuple[dict, ...] = ()) -> dict:
    """Have the runtime called as rootless Podman calls it: by the root of a user namespace that is the container's too."""
    account.within = ["unshare", "--user", "--map-root-user", "--mount"]
    changes = {"namespaces": namespaces, "uidMappings": [], "gidMappings": []}
    config = account.configure(*command, **changes)
    config["mounts"] = [*(mount for mount in config["mounts"] if mount["destination"] != "/sys/fs/cgroup"), *mounts]
    (account.bundle / "config.json").write_text(json.dumps(config))
    return config


def test_the_root_of_a_user_namespace_is_no_root(account: Account) -> None:
    confined(
        account, "sh", "-c", "echo >/dev/null; stat -c %t:%T /dev/zero; cat /proc/self/uid_map; id -u", namespaces=OWN
    )
    lines = account.run("run", "seven").stdout.splitlines()
    assert lines[0] == "1:5"
    assert lines[1].split() == ["0", str(USER), "1"]
    assert lines[2] == "0"
    assert (account.home / "run/orlop-runtime").is_dir()
    refused = account.run("--rootless", "false", "run", "eight", check=False)
    assert (refused.returncode, "unable to create cgroup" in refused.stderr) == (1, True)


MAPPED = (["bind", "idmap"], ["rbind", "ridmap"], ["bind", "idmap", "shared"])


def mount_mapped(account: Account, config: dict, options: list[str]) -> None:
    """Expect that a mount with the user namespace's ids is refused: its mapping is not this caller's to make."""
    mount = {"destination": "/mapped", "type": "bind", "source": str(account.bundle), "options": options}
    (account.bundle / "config.json").write_text(json.dumps({**config, "mounts": [*config["mounts"], mount]}))
    refused = account.run("run", "eleven", check=False)
    assert refused.returncode == 1
    assert "only the machine's root can mount with mapped ids: /mapped" in refused.stderr


@pytest.mark.parametrize("options", MAPPED)
def test_mapped_mounts_are_refused(account: Account, options: list[str]) -> None:
    mount_mapped(account, account.configure("true"), options)


@pytest.mark.parametrize("options", MAPPED)
def test_mapped_mounts_of_the_root_of_a_user_namespace_are_refused(account: Account, options: list[str]) -> None:
    mount_mapped(account, confined(account, "true", namespaces=OWN), options)


def test_a_device_of_another_kind_is_not_bound(account: Account) -> None:
    config = confined(account, "true", namespaces=OWN)
    config["linux"]["devices"] = [{"type": "b", "path": "/dev/null", "major": 1, "minor": 3}]
    (account.bundle / "config.json").write_text(json.dumps(config))
    refused = account.run("run", "twelve", check=False)
    assert "the host has another device there: /dev/null" in refused.stderr


def test_a_confined_container_in_the_pid_namespace_of_others(account: Account) -> None:
    """Such as Podman's ``--pid=host``: no procfs can be mounted, so that sysctls are set through the mounted one."""
    proc = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "rprivate", "nosuid"]}
    others = [space for space in OWN if space["type"] != "pid"]
    script = "cat /proc/sys/net/ipv4/ip_forward; readlink /proc/self/ns/pid"
    config = confined(account, "sh", "-c", script, namespaces=others)
    mounts = [proc if mount["destination"] == "/proc" else mount for mount in config["mounts"]]
    config["mounts"], config["linux"]["sysctl"] = mounts, {"net.ipv4.ip_forward": "1"}
    (account.bundle / "config.json").write_text(json.dumps(config))
    done = account.run("run", "nine")
    assert done.stdout.splitlines() == ["1", os.readlink("/proc/self/ns/pid")]


def test_groups_cannot_be_asked_for_where_they_cannot_be_set(account: Account) -> None:
    config = account.configure("true")
    config["process"]["user"]["additionalGids"] = [0, 7]
    (account.bundle / "config.json").write_text(json.dumps(config))
    assert account.run("run", "six", check=False).returncode == 1
