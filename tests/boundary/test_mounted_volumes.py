"""Volumes, binds and layers: how they are filled, found and mounted; rows B14 and B16 to B19 of threats.md."""

import os
import secrets
import subprocess
import tempfile
from pathlib import Path

import pytest
from hostile import PYTHON, hostile_image, python_volumes
from test_root_file_system import bind, in_shell

from harness import Engine, busybox_tree
from spawned import Runtime

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]


@pytest.fixture
def runtime(tmp_path):
    (tmp_path / "rt").mkdir()
    made = Runtime(tmp_path / "rt", busybox_tree(tmp_path / "root"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def on_shared_mounts():
    """An engine on a machine whose mounts are shared with each other, as systemd makes them."""
    name = f"orlop-t-{secrets.token_hex(4)}"
    engine = Engine(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")), name)
    engine.within = ("unshare", "-m", "sh", "-c", 'mount --make-rshared / && exec "$@"', "sh")
    try:
        engine.start()
        engine.import_busybox()
        yield engine
    finally:
        engine.destroy()


@pytest.mark.parametrize(("propagation", "in_volume"), [("rprivate", 0), ("rslave", 0), ("rshared", 1), ("shared", 1)])
def test_mounts_travel_only_where_it_was_asked_for(on_shared_mounts, propagation, in_volume) -> None:  # B14
    engine = on_shared_mounts

    def mounts() -> set[str]:
        assert engine.process is not None
        return {line.split()[4] for line in Path(f"/proc/{engine.process.pid}/mountinfo").read_text().splitlines()}

    volume = engine.home / propagation
    (volume / "sub").mkdir(parents=True)
    before = mounts()
    options = ("--privileged", "-v", f"{volume}:/data:{propagation}")
    name = f"mounting-{propagation}"
    script = "mount -t tmpfs none /data/sub && mount -t tmpfs none /tmp && echo ready && sleep 100"
    engine.docker("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    while "ready" not in engine.docker("logs", name).stdout:
        assert engine.inspect(name)["State"]["Running"]
    assert mounts() - before == ({str(volume / "sub")} if in_volume else set())
    engine.docker("rm", "-f", name)
    assert engine.process is not None
    into = ("nsenter", f"--mount=/proc/{engine.process.pid}/ns/mnt")
    if in_volume:
        subprocess.run([*into, "umount", volume / "sub"], check=True)
    # and the other way: what is mounted on the host later
    engine.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "100")
    subprocess.run([*into, "mount", "-t", "tmpfs", "none", volume / "sub"], check=True)
    seen = engine.docker("exec", name, "grep", "-c", " /data/sub ", "/proc/self/mountinfo", check=False).stdout
    assert seen.strip() == ("0" if propagation == "rprivate" else "1")
    engine.docker("rm", "-f", name)
    # nothing of a container keeps the host's mount busy
    subprocess.run([*into, "umount", volume / "sub"], check=True)
    assert mounts() == before


@pytest.mark.parametrize("volume", ["/a/../../../secret", "/link", "/chain/sub", "{}", "/a/../../..{}"])
def test_a_volume_is_filled_from_the_image_only(leak_free, tmp_path, volume) -> None:  # B16, CVE-2022-23648
    secret = tmp_path / "secret"
    (secret / "sub").mkdir(parents=True)
    (secret / "host-file").write_text("x")
    (secret / "sub/host-file").write_text("x")

    def arrange(tree: Path) -> None:
        (tree / "a").mkdir()
        (tree / "link").symlink_to(secret)
        (tree / "chain").symlink_to("../../../../../../.." + str(secret))

    # the last two: the place on the host itself
    with hostile_image(leak_free, tmp_path, arrange, f"VOLUME {volume.format(secret)}") as image:
        done = leak_free.docker("run", "--rm", image, "find", "/", "-name", "host-file", check=False)
    assert "host-file" not in done.stdout
    leak_free.prune_volumes()


def test_a_volume_is_filled_once(leak_free) -> None:  # B16, CVE-2020-1726
    once = ("run", "--rm", "-v", "filled:/etc", "busybox")
    leak_free.docker(*once, "sh", "-c", "rm /etc/passwd; echo mine >/etc/group")
    assert leak_free.docker(*once, "sh", "-c", "ls /etc/passwd; cat /etc/group", check=False).stdout == "mine\n"
    leak_free.docker(*once, "sh", "-c", "rm -rf /etc/*", check=False)
    assert "passwd" not in leak_free.docker(*once, "ls", "/etc").stdout
    leak_free.docker("volume", "rm", "filled")


def test_no_part_of_a_volume_is_outside_of_it(engine) -> None:  # B17
    mount = "type=volume,src=parts,dst=/data,volume-subpath=../../.."
    done = engine.docker("run", "--rm", "--mount", mount, "busybox", "true", check=False)
    assert done.returncode != 0
    assert "subpath" in done.stderr


def test_a_bind_source_is_looked_up_once(runtime, tmp_path) -> None:  # B17
    """What is opened is what is mounted: the runtime follows the host's links as Docker does, but never twice."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").write_text("one")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    _, text = runtime.output(in_shell(runtime, "cat /data/file", mounts=[bind(tmp_path / "link", "/data")]))
    assert text == "one"


STRANGE = "data:with,strange\\ names=x"


def test_layers_below_a_directory_of_a_strange_name(tmp_path) -> None:  # B18
    name = f"orlop-t-{secrets.token_hex(4)}"
    home = Path(tempfile.mkdtemp(prefix=f"{name}-{STRANGE}-", dir="/tmp"))
    engine = Engine(home, name, ("--data-root", str(home / "a:b,upperdir=c\\d")))
    try:
        engine.start()
        assert engine.docker("info", "-f", "{{.Driver}}").stdout == "overlay2\n"
        engine.import_busybox()
        assert engine.docker("run", "--rm", "busybox", "sh", "-c", "echo x >/file; cat /file").stdout == "x\n"
    finally:
        engine.destroy()


@pytest.mark.parametrize("name", ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque"])
def test_attributes_of_overlay_are_not_unpacked(engine, tmp_path, name) -> None:  # B18
    def arrange(tree: Path) -> None:
        (tree / "marked").mkdir()

    import tarfile

    tree = busybox_tree(tmp_path / "tree")
    arrange(tree)
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(tree.rglob("*")):
            info = tar.gettarinfo(path, str(path.relative_to(tree)))
            if path.name == "marked":
                info.pax_headers = {f"SCHILY.xattr.{name}": "/proc" if "redirect" in name else "y"}
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    done = engine.docker("import", archive, "marked:1", check=False)
    # os.walk passes over what is being removed meanwhile
    found = [Path(top, "marked") for top, names, _ in os.walk(engine.data_root) if "marked" in names]
    assert done.returncode != 0 or found
    assert all(name not in os.listxattr(path) for path in found)
    engine.docker("rmi", "-f", "marked:1", check=False)


@pytest.mark.requires("recent-docker-client")
def test_flags_of_binds_are_as_asked_and_read_only_is_recursive(on_shared_mounts) -> None:  # B19
    engine = on_shared_mounts
    top = engine.home / "top"
    (top / "below").mkdir(parents=True, exist_ok=True)
    assert engine.process is not None
    into = ("nsenter", f"--mount=/proc/{engine.process.pid}/ns/mnt")
    subprocess.run([*into, "mount", "-t", "tmpfs", "none", top / "below"], check=True)
    try:
        script = "for d in /data /data/below; do (touch $d/x) 2>/dev/null && echo written $d; done; true"
        for options, wanted in (
            (("-v", f"{top}:/data:ro"), []),
            (("--mount", f"type=bind,src={top},dst=/data,readonly"), []),
            (
                (
                    "--mount",
                    f"type=bind,src={top},dst=/data,readonly,bind-recursive=readonly,bind-propagation=rprivate",
                ),
                [],
            ),
            (("--mount", f"type=bind,src={top},dst=/data,readonly,bind-recursive=writable"), ["written /data/below"]),
            (("-v", f"{top}:/data"), ["written /data", "written /data/below"]),
        ):
            told = engine.docker("run", "--rm", *options, "busybox", "sh", "-c", script).stdout
            assert told.splitlines() == wanted, options
        lines = engine.docker(
            *("run", "--rm", "--tmpfs", "/t1", "--tmpfs", "/t2:exec,suid,dev", "busybox", "cat", "/proc/self/mountinfo")
        ).stdout.splitlines()
        flags = {line.split()[4]: {*line.split()[5].split(",")} for line in lines}
        assert {"nosuid", "nodev", "noexec"} <= flags["/t1"]
        assert not {"nosuid", "nodev", "noexec"} & flags["/t2"]
    finally:
        subprocess.run([*into, "umount", top / "below"], check=True)


def test_set_user_id_files_of_a_volume_mind_no_new_privileges(engine, tmp_path) -> None:  # B19
    tmp_path.chmod(0o755)
    program = tmp_path / "setuid"
    program.write_bytes(Path(PYTHON).read_bytes())  # busybox gives the privilege up itself
    program.chmod(0o4755)
    run = ("run", "--rm", "-u", "1000", "-v", f"{tmp_path}:/volume:ro", *python_volumes())
    command = ("busybox", "/volume/setuid", "-I", "-S", "-c", "import os; print(os.getresuid())")
    assert engine.docker(*run, *command).stdout == "(1000, 0, 0)\n"
    assert engine.docker(*run, "--security-opt", "no-new-privileges", *command).stdout == "(1000, 1000, 1000)\n"
