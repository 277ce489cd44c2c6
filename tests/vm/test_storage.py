"""Storage where the kernel is another: no ``lowerdir+``, and file systems that count projects."""

from __future__ import annotations

import pytest

from conftest import make_engine

pytestmark = pytest.mark.vm
ON_EXT4 = (
    "mount --make-rprivate / && truncate -s 400M $0/image && mkfs.ext4 -q -O quota,project -E quotatype=prjquota $0/image"
    ' && mkdir -p $0/data && mount -o loop,prjquota $0/image $0/data && exec "$@"'
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home = tmp_path_factory.mktemp("ext4")
    made = make_engine("--data-root", f"{home}/data", within=("unshare", "-m", "sh", "-c", ON_EXT4, str(home)))
    try:
        made.import_busybox()
        yield made
    finally:
        made.destroy()


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
