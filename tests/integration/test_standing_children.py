"""Children of the spawner that are asked again on the same channel (runtime.spawner.REPEATED)."""

import os
import secrets
import select
import socket

import pytest

from harness import PATIENCE, busybox_tree, wait_for
from orlop.kernel import rtnetlink
from orlop.kernel.netlink import NetlinkError
from orlop.kernel.rtnetlink import Rtnetlink
from spawned import Runtime

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "busybox")]


@pytest.fixture
def runtime(tmp_path):
    made = Runtime(tmp_path, busybox_tree(tmp_path / "root"))
    yield made
    made.close()


def ended(channel):
    return select.select([channel], [], [], 10 * PATIENCE)[0] and channel.receive() is None


def test_each_namespace_is_another_and_the_child_stays_in_none(runtime):
    channel = runtime.request({"op": "netns", "sockets": ["route"]})
    first, route = channel.receive()[1]
    channel.send({"op": "netns", "sockets": []})
    (second,) = channel.receive()[1]
    own = os.stat("/proc/self/ns/net").st_ino
    assert len({own, os.fstat(first.fileno()).st_ino, os.fstat(second.fileno()).st_ino}) == 3
    name = f"veth{secrets.token_hex(3)}"
    host = Rtnetlink(socket.socket(fileno=route.release()))  # not the machine's, whose links others compare
    host.execute(rtnetlink.add_veth(name, "eth0", peer_netns=second.fileno(), mtu=1500))
    assert there(host, name)
    second.close()
    wait_for(lambda: not there(host, name))  # nobody holds it: the kernel has taken the links with it
    assert not select.select([channel], [], [], 0)[0]  # and the child is still there
    first.close()
    channel.close()
    host.close()


def there(host, name):
    try:
        host.execute(rtnetlink.get_link(name=name))
    except NetlinkError:
        return False
    return True


def test_trees_are_removed_one_after_the_other(runtime, tmp_path):
    trees = [tmp_path / name for name in ("a", "b", "c")]
    for tree in trees:
        (tree / "below").mkdir(parents=True)
    channel = runtime.request({"op": "remove-tree", "path": str(trees[0])})
    assert channel.receive()[0] == {"ok": True}
    channel.send({"op": "remove-tree", "path": "not/absolute"})
    assert "error" in channel.receive()[0]
    for tree in trees[1:]:
        channel.send({"op": "remove-tree", "path": str(tree)})
        assert channel.receive()[0] == {"ok": True}
    assert not any(tree.exists() for tree in trees)
    channel.close()


def test_a_child_does_nothing_but_its_own_work(runtime, tmp_path):
    (tmp_path / "tree").mkdir()
    channel = runtime.request({"op": "netns", "sockets": []})
    for fd in channel.receive()[1]:
        fd.close()
    channel.send({"op": "remove-tree", "path": str(tmp_path / "tree")})
    assert ended(channel)
    assert (tmp_path / "tree").exists()
    channel.close()


def test_what_is_not_to_be_repeated_is_done_once(runtime):
    channel = runtime.request({"op": "identify", "overlay": 1, "user": "x"})
    assert "error" in channel.receive()[0]
    assert ended(channel)
    channel.close()
