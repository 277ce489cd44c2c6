"""The contract of storage drivers, for every driver that works here; overlay is really mounted, in a namespace of its own.

A driver joins by one line in ``orlop.storage.choice``.
"""

import os
import secrets
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from snapshot_lab import SMALL_POOL, inside, layer, write

from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.primitives.removal import remove_tree
from orlop.storage import snapshots
from orlop.storage.choice import DRIVERS
from orlop.storage.contract import Change, ChangeKind

pytestmark = [pytest.mark.privileged, pytest.mark.requires("overlay", "mountns")]


@pytest.fixture(scope="session")
def btrfs(tmp_path_factory):
    """A directory on btrfs, on a loop device, mounted in a namespace of its own that this process reaches by /proc."""
    if "btrfs" not in Path("/proc/filesystems").read_text() or shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs btrfs and mkfs.btrfs")
    image = tmp_path_factory.mktemp("btrfs") / "image"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    script = f"mount --make-rprivate / && mount -o loop {image} /mnt && echo mounted && exec sleep infinity"
    holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("no loop devices here")
        yield f"/proc/{holder.pid}/root/mnt"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.fixture(params=sorted(DRIVERS))
def opener(request, tmp_path):
    """How to open a driver on an empty directory, again and again."""
    root = tmp_path
    if request.param == "btrfs":
        root = Path(request.getfixturevalue("btrfs")) / secrets.token_hex(8)
        root.mkdir()

    options = {}
    if request.param == "devicemapper":
        if "device-mapper" not in Path("/proc/misc").read_text():
            pytest.skip("no device mapper in this kernel: tests/vm/test_devicemapper.py")
        options = SMALL_POOL

    def opened():
        return DRIVERS[request.param](str(root / "layers"), options)

    return opened


@pytest.fixture
def driver(opener):
    driver = opener()
    yield driver
    driver.close()


class TestLife:
    def test_child_sees_parent_and_hides_its_changes_from_it(self, driver, tmp_path):
        layer(driver, "bottom", None, lambda top: write(f"{top}/etc/a", "bottom"))
        driver.prepare("one", "bottom")
        driver.prepare("two", "bottom")
        inside(driver, "one", tmp_path, "open('etc/a','w').write('one'); open('new','w').close(); os.mkdir('d')")
        assert inside(driver, "two", tmp_path, "print(open('etc/a').read(), os.listdir('.'))") == "bottom ['etc']\n"
        assert inside(driver, "bottom", tmp_path, "print(open('etc/a').read())") == "bottom\n"
        assert inside(driver, "one", tmp_path, "print(open('etc/a').read())") == "one\n"

    def test_a_read_only_view_beside_the_writable_mount(self, driver, tmp_path):
        layer(driver, "bottom", None, lambda top: write(f"{top}/a"))
        driver.prepare("one", "bottom")
        inside(driver, "one", tmp_path, "open('b','w').write('two')")
        code = """
print(open('b').read())
try: open('c','w')
except OSError as error: print(error.strerror)
"""
        assert inside(driver, "one", tmp_path, code, writable=False) == "two\nRead-only file system\n"

    def test_committed_child_keeps_deletions_and_replacements(self, driver, tmp_path):
        def bottom(top):
            for name in ("gone", "dir/inner", "turned/file", "kept"):
                write(f"{top}/{name}")

        layer(driver, "bottom", None, bottom)
        driver.prepare("draft", "bottom")
        code = """
import shutil
os.unlink('gone'); shutil.rmtree('dir'); os.mkdir('dir'); open('dir/new','w').close()
shutil.rmtree('turned'); os.symlink('kept','turned')
"""
        inside(driver, "draft", tmp_path, code)
        driver.commit("draft", "middle")
        driver.prepare("top", "middle")
        listing = "print(sorted(os.listdir('.')), os.listdir('dir'), os.readlink('turned'))"
        assert inside(driver, "top", tmp_path, listing) == "['dir', 'kept', 'turned'] ['new'] kept\n"

    def test_ownership_modes_and_attributes_go_through(self, driver, tmp_path):
        def fill(top):
            write(f"{top}/suid", mode=0o4755)
            os.chown(f"{top}/suid", 12, 34)
            os.chmod(f"{top}/suid", 0o4755)
            os.setxattr(f"{top}/suid", "user.mine", b"1")
            os.link(f"{top}/suid", f"{top}/hard")
            os.chown(top, 5, 6)
            os.chmod(top, 0o711)

        layer(driver, "bottom", None, fill)
        driver.prepare("c", "bottom")
        code = """
s = os.stat('hard'); r = os.stat('.')
print(s.st_uid, s.st_gid, oct(s.st_mode), s.st_nlink, os.getxattr('suid','user.mine'), r.st_uid, r.st_gid, oct(r.st_mode))
"""
        assert inside(driver, "c", tmp_path, code) == "12 34 0o104755 2 b'1' 5 6 0o40755\n"

    def test_file_capabilities_go_through_layers_and_containers(self, driver, tmp_path):
        capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep

        def fill(top):
            write(f"{top}/bin/server", mode=0o755)
            os.setxattr(f"{top}/bin/server", "security.capability", capability)

        layer(driver, "bottom", None, fill)
        driver.prepare("draft", "bottom")
        inside(driver, "draft", tmp_path, "open('other','w').close(); os.chmod('bin', 0o711)")
        driver.commit("draft", "middle")
        driver.prepare("c", "middle")
        code = "print(os.getxattr('bin/server','security.capability').hex(), oct(os.stat('bin').st_mode))"
        assert inside(driver, "c", tmp_path, code) == f"{capability.hex()} 0o40711\n"

    def test_hard_links_over_layers(self, driver, tmp_path):
        """A link to a file of a lower layer is the same file, and stays it in the next layer."""
        layer(driver, "bottom", None, lambda top: write(f"{top}/a", "old"))
        driver.prepare("draft", "bottom")
        inside(driver, "draft", tmp_path, "os.link('a','b'); open('b','a').write(' and new')")
        driver.commit("draft", "middle")
        driver.prepare("c", "middle")
        code = "print(open('a').read(), open('b').read(), os.stat('a').st_nlink, os.path.samefile('a','b'))"
        assert inside(driver, "c", tmp_path, code) == "old and new old and new 2 True\n"
        assert inside(driver, "bottom", tmp_path, "print(open('a').read(), os.listdir('.'))") == "old ['a']\n"

    def test_root_without_parent_is_root_0755_whatever_the_umask(self, driver):
        old = os.umask(0o077)
        try:
            driver.prepare("a", None)
        finally:
            os.umask(old)
        assert oct(os.stat(driver.directory("a")).st_mode) == "0o40755"

    def test_renamed_directory_of_a_lower_layer(self, driver, tmp_path):
        layer(driver, "bottom", None, lambda top: write(f"{top}/old/f", "f"))
        driver.prepare("c", "bottom")
        code = """
import shutil
try: os.rename('old', 'new')
except OSError: shutil.copytree('old', 'new'); shutil.rmtree('old')
print(os.listdir('.'), open('new/f').read())
"""
        assert inside(driver, "c", tmp_path, code) == "['new'] f\n"

    def test_depth_limit(self, driver):
        parent = None
        for number in range(128):
            layer(driver, f"l{number}", parent, lambda _: None)
            parent = f"l{number}"
        with pytest.raises(InvalidParameterError, match="max depth exceeded"):
            driver.prepare("too-deep", parent)
        view = driver.mounts(parent, writable=False)
        assert len(view.lower or [view.device]) == (1 if driver.whole else 128)


class TestRules:
    def test_refusals(self, driver):
        driver.prepare("active", None)
        layer(driver, "done", None, lambda _: None)
        with pytest.raises(ConflictError):
            driver.prepare("done", None)
        with pytest.raises(NotFoundError):
            driver.prepare("x", "missing")
        with pytest.raises(NotFoundError):
            driver.prepare("x", "active")
        with pytest.raises(ConflictError):
            driver.commit("active", "done")
        for key in ("done", "missing"):
            with pytest.raises(NotFoundError):
                driver.commit(key, "other")
        with pytest.raises(NotFoundError):
            driver.mounts("missing")
        assert sorted(driver.keys()) == ["active", "done"]

    @pytest.mark.parametrize("key", ["", ".", "..", "a/b", "../x", ".removed-1-x", "A", "a\n", "a" * 129, "é"])
    def test_keys_are_file_names(self, driver, key):
        with pytest.raises(InvalidParameterError):
            driver.prepare(key, None)

    def test_parents_stay_while_they_have_children(self, driver):
        layer(driver, "bottom", None, lambda _: None)
        driver.prepare("child", "bottom")
        with pytest.raises(ConflictError):
            driver.remove("bottom")
        assert driver.remove("child")
        assert driver.remove("bottom")
        assert driver.remove("bottom") is None
        assert driver.keys() == []

    def test_what_remove_returns_is_all_that_is_left(self, driver, tmp_path):
        layer(driver, "bottom", None, lambda top: write(f"{top}/a"))
        driver.prepare("c", "bottom")
        inside(driver, "c", tmp_path, "open('b','w').close()")
        graves = {driver.remove("c"), driver.remove("bottom")}
        assert graves <= set(driver.tombstones())
        for path in driver.tombstones():
            remove_tree(path)
        assert driver.tombstones() == []

    def test_nobody_but_root_passes(self, driver):
        driver.prepare("a", None)
        place = driver.directory("a")
        top, named, below = place.rpartition("/a")
        # from there: the test's own directories are closed as well; what is mounted nowhere has no name of its own
        where, listing = (top, ["ls", f"a{below}"]) if named else ("/", ["ls", place])
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for command, passes in ((listing, True), (nobody + listing, False)):
            done = subprocess.run(command, cwd=where, capture_output=True, check=False)
            assert (done.returncode == 0) is passes, done.stderr


class TestReplace:
    """A layer that is made again takes the place of the damaged one."""

    def test_it_is_the_new_one_at_once_and_what_stands_on_it_stays(self, driver, tmp_path):
        layer(driver, "bottom", None, lambda top: write(f"{top}/a", "damaged"))
        driver.prepare("c", "bottom")
        inside(driver, "c", tmp_path, "open('own','w').write('mine')")
        driver.prepare("again", None)
        write(f"{driver.directory('again')}/a", "good")
        driver.replace("again", "bottom")
        assert not driver.is_active("again")
        assert inside(driver, "bottom", tmp_path, "print(open('a').read())") == "good\n"
        # what was copied stays, what is stacked has the new one below
        seen = "damaged" if driver.whole else "good"
        script = "print(open('a').read(), open('own').read())"
        assert inside(driver, "c", tmp_path, script) == f"{seen} mine\n"
        assert driver.remove("again")
        with pytest.raises(ConflictError):
            driver.remove("bottom")
        driver.prepare("later", "bottom")
        assert inside(driver, "later", tmp_path, "print(open('a').read())") == "good\n"
        for key in ("c", "later", "bottom"):
            assert driver.remove(key)
        for path in driver.tombstones():
            remove_tree(path)
        assert driver.tombstones() == driver.keys() == []

    def test_refusals(self, driver):
        layer(driver, "bottom", None, lambda _: None)
        layer(driver, "top", "bottom", lambda _: None)
        driver.prepare("alone", None)
        driver.prepare("active", None)
        for key in ("bottom", "missing"):
            with pytest.raises(NotFoundError):
                driver.replace(key, "bottom")
        with pytest.raises(NotFoundError):
            driver.replace("alone", "missing")
        for name in ("top", "active"):  # of another parent; not committed
            with pytest.raises(ConflictError):
                driver.replace("alone", name)
        write(f"{driver.directory('alone')}/a")  # it can still be written to

    def test_a_restart_knows_which_is_which(self, opener, tmp_path):
        driver = opener()
        layer(driver, "bottom", None, lambda top: write(f"{top}/a", "old"))
        driver.prepare("again", None)
        write(f"{driver.directory('again')}/a", "new")
        driver.replace("again", "bottom")
        driver.close()
        driver = opener()
        contents = [inside(driver, key, tmp_path, "print(open('a').read())") for key in ("bottom", "again")]
        assert contents == ["new\n", "old\n"]
        assert not driver.is_active("again")
        driver.close()

    def test_what_fails_leaves_the_old_one(self, driver, monkeypatch, tmp_path):
        layer(driver, "bottom", None, lambda top: write(f"{top}/a", "old"))
        driver.prepare("again", None)

        def failing(*_):
            raise OSError(22, "Invalid argument")

        with monkeypatch.context() as patch:
            patch.setattr(snapshots, "renameat2", failing)
            with pytest.raises(SystemFailureError, match="invalid argument"):
                driver.replace("again", "bottom")
        assert inside(driver, "bottom", tmp_path, "print(open('a').read())") == "old\n"
        assert driver.remove("again")


class TestCrash:
    def test_everything_is_there_after_a_restart(self, opener, tmp_path):
        driver = opener()
        layer(driver, "bottom", None, lambda top: write(f"{top}/a"))
        driver.prepare("c", "bottom")
        driver.close()
        driver = opener()
        assert sorted(driver.keys()) == ["bottom", "c"]
        with pytest.raises(ConflictError):
            driver.remove("bottom")
        assert inside(driver, "c", tmp_path, "print(os.listdir('.'))") == "['a']\n"
        driver.close()

    @pytest.mark.parametrize("call", ["rename", "mkdir", "open"])
    @pytest.mark.parametrize("at", range(4))
    def test_prepare_that_fails_anywhere_leaves_nothing(self, opener, monkeypatch, call, at):
        driver = opener()
        layer(driver, "bottom", None, lambda _: None)
        for path in driver.tombstones():
            remove_tree(path)
        real, count = getattr(os, call), iter(range(100))

        def failing(*args, **kwargs):
            if next(count) == at:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                driver.prepare("c", "bottom")
            except SystemFailureError as error:
                assert "no space left on device" in str(error)
                assert driver.keys() == ["bottom"]
        driver.remove("c")
        for path in driver.tombstones():
            remove_tree(path)
        driver.prepare("c", "bottom")
        driver.close()


class TestDiff:
    def test_docker_diff(self, driver, tmp_path):
        def fill(top):
            for name in ("etc/passwd", "etc/gone", "usr/share/doc/x", "var/log/y", "opt/a/b", "shut/x"):
                write(f"{top}/{name}")

        layer(driver, "bottom", None, fill)
        driver.prepare("c", "bottom")
        assert driver.diff("c") == []
        code = """
import shutil
open('etc/passwd','a').write('more'); os.unlink('etc/gone'); open('etc/new','w').close()
shutil.rmtree('opt/a'); os.mkdir('opt/a'); os.makedirs('srv/x'); os.chmod('usr/share/doc/x', 0o600)
os.chmod('shut', 0o700)
"""
        inside(driver, "c", tmp_path, code)
        kinds = ChangeKind
        assert driver.diff("c") == [
            Change(b"/etc", kinds.MODIFY),
            Change(b"/etc/gone", kinds.DELETE),
            Change(b"/etc/new", kinds.ADD),
            Change(b"/etc/passwd", kinds.MODIFY),
            Change(b"/opt", kinds.MODIFY),
            Change(b"/opt/a", kinds.MODIFY),
            # overlay only knows that the new directory hides the old one
            *([Change(b"/opt/a/b", kinds.DELETE)] if driver.whole else []),
            Change(b"/shut", kinds.MODIFY),
            Change(b"/srv", kinds.ADD),
            Change(b"/srv/x", kinds.ADD),
            Change(b"/usr/share/doc/x", kinds.MODIFY),
        ]

    def test_usage_counts_own_files_and_hard_links_once(self, driver, tmp_path):
        layer(driver, "bottom", None, lambda top: write(f"{top}/big", "x" * 5000))
        driver.prepare("c", "bottom")
        inside(driver, "c", tmp_path, "open('f','w').write('x'*100); os.link('f','g'); os.mkdir('d')")
        assert driver.usage("c").size == 100
        assert driver.usage("bottom").size == 5000
