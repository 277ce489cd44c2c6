"""What a process may, and who it is: capabilities, groups, users; rows A4 to A8 of threats.md."""

import os
from pathlib import Path

import pytest
from hostile import hostile_image, status, status_fields

from harness import PATIENCE, busybox_tree, wait_for
from spawned import Runtime

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

DEFAULT_CAPS = 0xA80425FB  # the 14 of Docker

# ----------------------------------------------------------------------------------------------- capabilities


def test_default_capabilities_and_filters(engine) -> None:  # A4, J11
    fields = status(engine)
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapBnd"], 16) == DEFAULT_CAPS
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "0")
    assert int(fields["SigIgn"], 16) == int(fields["SigBlk"], 16) == 0


@pytest.mark.parametrize("options", [(), ("--privileged",), ("--cap-add", "NET_ADMIN")])
def test_inheritable_file_capabilities_give_nothing(engine, tmp_path, options) -> None:  # A4
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/busybox").read_bytes())
    program.chmod(0o755)
    mask = (1 << 13 | 1 << 12).to_bytes(4, "little")
    # VFS_CAP_REVISION_2 with the effective flag; nothing permitted, NET_RAW and NET_ADMIN inheritable
    os.setxattr(program, "security.capability", b"\1\0\0\2" + bytes(4) + mask + bytes(8))
    tmp_path.chmod(0o755)
    engine.docker(
        *("run", "-d", "--name", "caps", "-u", "1000", *options, "-v", f"{program}:/bin/cat:ro", "busybox"),
        *("sh", "-c", "/bin/cat /proc/self/status; sleep 100"),
    )
    extra = ["--privileged"] if "--privileged" in options else []
    executed = engine.docker("exec", *extra, "caps", "/bin/cat", "/proc/self/status").stdout
    first = wait_for(lambda: (t := engine.docker("logs", "caps").stdout) and "Seccomp" in t and t)
    for text in (first, executed):
        fields = status_fields(text)
        assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == int(fields["CapEff"], 16) == 0
    as_root = status_fields(engine.docker("exec", *extra, "-u", "0", "caps", "cat", "/proc/self/status").stdout)
    assert int(as_root["CapInh"], 16) == int(as_root["CapAmb"], 16) == 0


def test_a_user_other_than_root_keeps_no_capability(engine) -> None:  # A5, A6
    fields = status(engine, "-u", "alice")
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert sorted(fields["Groups"].split()) == ["1000", "50"]


def test_groups_are_set_whatever_the_engine_has(tmp_path) -> None:  # A6
    before = os.getgroups()
    os.setgroups([4242, *before])
    try:
        (tmp_path / "rt").mkdir()
        runtime = Runtime(tmp_path / "rt", busybox_tree(tmp_path / "root"))
    finally:
        os.setgroups(before)
    try:
        for user, wanted in (
            ({"uid": 0, "gid": 0}, {0}),
            ({"uid": 1000, "gid": 7}, {7}),
            ({"uid": 0, "gid": 0, "username": "alice"}, {1000, 50}),
            ({"uid": 5, "gid": 6, "additionalGids": [9]}, {6, 9}),
        ):
            code, text = runtime.output(runtime.config("cat", "/proc/self/status", user=user))
            assert code == 0
            assert {*map(int, status_fields(text)["Groups"].split())} == wanted, user
        process = runtime.run("sleep", "100")
        assert "4242" not in status_fields(Path(f"/proc/{process.pid}/status").read_text())["Groups"]
    finally:
        runtime.close()


# ------------------------------------------------------------------------------------------------------ users


@pytest.mark.parametrize("user", ["4294967296", "2147483648", "-1", "99999999999999999999", "0:4294967296"])
def test_user_numbers_never_wrap(engine, user) -> None:  # A7
    engine.docker("run", "-d", "--name", "users", "busybox", "sleep", "100")
    for words in (["run", "--rm", "-u", user, "busybox"], ["exec", "-u", user, "users"]):
        done = engine.docker(*words, "id", "-u", check=False)
        assert done.returncode != 0, done.stdout


def test_numbers_are_never_names(engine, tmp_path) -> None:  # A7
    def arrange(tree: Path) -> None:
        (tree / "etc/passwd").write_text("4294967296:x:0:0::/:/bin/sh\n7:x:0:0::/:/bin/sh\n")

    with hostile_image(engine, tmp_path, arrange, "USER 4294967296") as image:
        assert engine.docker("run", "--rm", image, "id", "-u", check=False).returncode != 0
        assert engine.docker("run", "--rm", "-u", "7", image, "id", "-u").stdout == "7\n"


def test_a_hostile_passwd_does_not_hold_the_engine(leak_free, tmp_path) -> None:  # A8
    def arrange(tree: Path) -> None:
        (tree / "etc/passwd").unlink()
        os.mkfifo(tree / "etc/passwd")
        (tree / "etc/group").unlink()
        (tree / "etc/group").symlink_to("/dev/zero")

    with hostile_image(leak_free, tmp_path, arrange) as image:
        for user in ("someone", "0:someone", "0"):
            leak_free.docker("run", "--rm", "-u", user, image, "true", check=False, timeout=20 * PATIENCE)


def test_an_endless_group_file(engine) -> None:  # A8
    script = "for f in passwd group; do truncate -s 100G /etc/$f; done; echo ready; sleep 100"
    engine.docker("run", "-d", "--name", "endless", "busybox", "sh", "-c", script)
    wait_for(lambda: "ready" in engine.docker("logs", "endless").stdout)
    for user in ("alice", "0"):
        done = engine.docker("exec", "-u", user, "endless", "true", check=False, timeout=20 * PATIENCE)
        assert "larger than 1048576 bytes" in done.stdout + done.stderr
