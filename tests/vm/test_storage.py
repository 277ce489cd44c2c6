"""Storage where the kernel is another: no ``lowerdir+``, and file systems that count projects."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from snapshot_lab import SMALL_POOL, inside, layer, write

from harness import held_devices, wait_for
from orlop.storage.contract import Change, ChangeKind
from orlop.storage.devicemapper import open_driver

pytestmark = pytest.mark.vm


@pytest.fixture
def engine(other_engine):
    yield other_engine
    other_engine.remove_containers()


def test_an_image_is_mounted_on_a_kernel_without_layers_by_name(engine):
    done = engine.docker(
        "run", "--rm", "--mount", "type=image,source=busybox,target=/i", "busybox", "ls", "/i/bin/busybox"
    )
    assert done.stdout == "/i/bin/busybox\n"


def test_commit_and_copies(engine, tmp_path):
    (tmp_path / "f").write_text("x")
    engine.docker("create", "--name", "box", "-v", "/vol", "busybox", "cat", "/vol/f")
    engine.docker("cp", tmp_path / "f", "box:/vol/f")
    assert engine.docker("start", "-a", "box").stdout == "x"
    engine.docker("commit", "box", "made")
    engine.docker("rm", "-v", "box")
    engine.docker("rmi", "made")


def test_a_container_has_no_more_space_than_it_was_given(engine):
    """Project quotas of ext4: the limit holds, is seen inside, is only this container's, and goes with it."""
    script = "dd if=/dev/zero of=/f bs=1M count=30; du -m /f | cut -f1; df -m / | tail -1 | awk '{print $2}'"
    limited = engine.docker("run", "--name", "small", "--storage-opt", "size=10M", "busybox", "sh", "-c", script)
    assert "No space left on device" in limited.stderr or "Disk quota exceeded" in limited.stderr
    written, size = map(int, limited.stdout.split())
    assert 8 <= written <= 10
    assert size == 10
    free = engine.docker(
        "run", "--rm", "busybox", "sh", "-c", "dd if=/dev/zero of=/f bs=1M count=30 2>/dev/null; du -m /f | cut -f1"
    )
    assert free.stdout == "30\n"
    engine.docker("commit", "small", "copy")
    assert (
        engine.docker(
            "run", "--rm", "copy", "sh", "-c", "dd if=/dev/zero of=/g bs=1M count=30 2>&1 | grep -c left; true"
        ).stdout
        == "0\n"
    )
    engine.docker("rm", "small")
    engine.docker("rmi", "copy")


@pytest.mark.parametrize(
    ("option", "message"), [("size=x", "invalid size: 'x'"), ("colour=red", "unknown option colour")]
)
def test_options_that_are_none(engine, option, message):
    assert message in engine.docker("create", "--storage-opt", option, "busybox", check=False).stderr


FILE_SYSTEMS = {
    "ext4": ("mkfs.ext4 -q -O quota,project -E quotatype=prjquota", "prjquota"),
    "xfs": ("mkfs.xfs -q", "pquota"),
}
LIMITED = """
import json, os, shutil, sys, time
from orlop.kernel import quota
from orlop.storage import overlay2

driver = overlay2.open_driver(sys.argv[1] + "/layers", {"overlay2.size": "10m"})
driver.prepare("limited", None, size=driver.default_size)
driver.prepare("free", None)

def fill(key):
    fd = os.open(driver.directory(key) + "/f", os.O_WRONLY | os.O_CREAT)
    for megabytes in range(30):
        try:
            os.write(fd, bytes(1 << 20))
            os.fsync(fd)
        except OSError:
            break
    else:
        megabytes = 30
    os.close(fd)
    return megabytes

status = os.statvfs(driver.directory("limited"))
fd = os.open(driver.directory("limited"), os.O_RDONLY)
project = quota.project_of(fd)
os.close(fd)
told = {"size": status.f_blocks * status.f_frsize, "limited": fill("limited"), "free": fill("free")}
grave = driver.remove("limited")
fd = os.open(sys.argv[1], os.O_RDONLY)
magic = quota.XFS_SUPER_MAGIC if sys.argv[2] == "xfs" else quota.EXT4_SUPER_MAGIC
told["used"] = quota.is_used(fd, magic, project)
shutil.rmtree(grave)
for _ in range(100):  # xfs frees inodes a moment later
    told["left"] = quota.is_used(fd, magic, project)
    if not told["left"]:
        break
    time.sleep(0.1)
driver.close()
print(json.dumps(told))
"""


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_project_quotas_hold_and_go(tmp_path, kind):
    """ext4 and xfs are asked for the same in different structs."""
    make, option = FILE_SYSTEMS[kind]
    script = (
        f"mount --make-rprivate / && truncate -s 400M $0/image && {make} $0/image && mkdir $0/mounted"
        f' && mount -o loop,{option} $0/image $0/mounted && exec "$@" $0/mounted {kind}'
    )
    # who may exceed what is left of a resource may exceed a quota of ext4
    limited = ["setpriv", "--bounding-set=-sys_resource", sys.executable, "-c", LIMITED]
    command = ["unshare", "-m", "sh", "-c", script, tmp_path, *limited]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["size"] == 10 << 20
    assert 8 <= told["limited"] <= 10
    assert told["free"] == 30
    assert told["used"]  # by files
    assert not told["left"]


def test_thin_devices(tmp_path):
    """The driver ``devicemapper`` in short; ``make test-vm`` has its whole suite."""
    before = held_devices()
    driver = open_driver(str(tmp_path / "layers"), SMALL_POOL)
    layer(driver, "bottom", None, lambda top: write(f"{top}/a", "bottom"))
    driver.prepare("c", "bottom")
    assert inside(driver, "c", tmp_path, "open('b','w').write('c'); print(open('a').read())") == "bottom\n"
    assert driver.diff("c") == [Change(b"/b", ChangeKind.ADD)]
    driver.close()
    wait_for(lambda: held_devices() == before, seconds=5)
