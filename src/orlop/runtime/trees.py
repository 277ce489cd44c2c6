"""Trees of files that are unpacked, packed, filled and removed beside hostile content: each in a child of its own.

The child sees its work through descriptors only, in a mount namespace of its own.
"""

from __future__ import annotations

import contextlib
import os

from orlop.errors import InvalidParameterError
from orlop.kernel import mount as k
from orlop.kernel.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from orlop.kernel.process import CLONE_NEWNS, unshare
from orlop.primitives.copy_up import copy_up
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.removal import remove_tree
from orlop.primitives.tar import Limits, Rules, compare, pack, rebuild, unpack
from orlop.primitives.tar.pack_difference import pack_difference
from orlop.runtime.device_root import mount_device
from orlop.runtime.mount_stubs import find_stubs
from orlop.runtime.namespaces import join_files
from orlop.runtime.rootfs import mount_overlay, mount_overlay_at
from orlop.runtime.users import resolve_identity
from orlop.spec.launch import OverlayRoot, absolute_path, from_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.primitives.channel import Channel
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_EINVAL = 22
_TOLD = 20  # differences of a layer: an answer is one packet
_HARMLESS = k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC


def answer_unpack(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``unpack``: a tar, a layer's or ``plain``, into a private directory; a second fd takes its recipe."""
    if len(fds) not in (1, 2):
        raise InvalidParameterError("unpack takes one stream, and a file for its recipe")
    unshare(CLONE_NEWNS)
    k.mount(None, "/", None, k.MS_PRIVATE | k.MS_REC)
    with _leave_host(_root(message, "root")) as root:
        recipe_fd = fds[1].fileno() if len(fds) > 1 else None
        rules = Rules(layer=message.get("plain") is not True, apply=message.get("apply") is True)
        done = unpack(root.fileno(), fds[0].fileno(), _limits(message), rules=rules, recipe_fd=recipe_fd)
    reply.send({"ok": True, "size": done.size, "entries": done.entries, "recipe": done.recipe})


def answer_rebuild(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``rebuild``: the tar that a layer was unpacked from, out of its files and its recipe."""
    overlay = message.get("overlay")
    if not isinstance(overlay, dict) or len(fds) != 2:
        raise InvalidParameterError("rebuild takes an overlay, a recipe and a stream")
    recipe, out = fds
    with (
        open_view(from_message(OverlayRoot, overlay)) as root,
        OwnedFd(os.open(".", _READ, dir_fd=root.fileno())) as top,
    ):
        size = rebuild(top.fileno(), recipe.fileno(), out.fileno())
    out.close()
    reply.send({"ok": True, "size": size})


def answer_compare(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``compare``: whether the topmost layer, or a whole tree, still is what its tar says."""
    if len(fds) != 1:
        raise InvalidParameterError("compare takes an overlay and a stream")
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(_open_top(_root(message, "overlay")))
        below = stack.enter_context(_open_top(_root(message, "below"))) if message.get("below") else None
        below_fd = None if below is None else below.fileno()
        differences = compare(top.fileno(), fds[0].fileno(), _limits(message), below_fd=below_fd)
    reply.send({"ok": True, "differences": list(differences[:_TOLD]), "count": len(differences)})


@contextlib.contextmanager
def _open_top(view: OverlayRoot) -> Iterator[OwnedFd]:
    """Open the root directory of a view for reading."""
    with open_view(view) as root, OwnedFd(os.open(".", _READ, dir_fd=root.fileno())) as top:
        yield top


def answer_pack(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``pack``: a container's root file system, running or not, or a layer's changes, as a tar stream."""
    overlay, pid = message.get("overlay"), message.get("pid")
    if "layer" in message and len(fds) == 1:
        root = open_changes(_root(message, "layer"))
        out = fds[0]
    elif isinstance(overlay, dict) and len(fds) == 1:
        root = open_view(from_message(OverlayRoot, overlay))
        out = fds[0]
    elif isinstance(pid, int) and len(fds) == 2:
        # The mount itself, without what is mounted in it: the container's /proc, /dev, volumes are not its files.
        join_files(pid, fds[0].fileno())
        root = OwnedFd(k.open_tree(k.AT_FDCWD, "/", k.OPEN_TREE_CLONE))
        out = fds[1]
    else:
        raise InvalidParameterError("pack takes an overlay, or a pid with its pidfd, and a stream")
    with root, OwnedFd(os.open(".", _READ, dir_fd=root.fileno())) as top:
        omit = find_stubs(top.fileno(), message.get("stubs"))
        limit = message.get("latest")
        latest = limit if isinstance(limit, int) else None
        if message.get("below"):
            with (
                open_changes(_root(message, "below")) as tree,
                OwnedFd(os.open(".", _READ, dir_fd=tree.fileno())) as below,
            ):
                done = pack_difference(top.fileno(), below.fileno(), out.fileno(), omit=omit, latest=latest)
        else:
            done = pack(top.fileno(), out.fileno(), layer="layer" in message, omit=omit, latest=latest)
    out.close()
    reply.send({"ok": True, "size": done.size})


def answer_copy_up(reply: Channel, message: JsonObject, _fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``copy-up``: what the image has at a path into an empty volume (CVE-2022-23648)."""
    overlay = message.get("overlay")
    if not isinstance(overlay, dict):
        raise InvalidParameterError("copy-up takes an overlay")
    with (
        open_view(from_message(OverlayRoot, overlay)) as root,
        OwnedFd(os.open(absolute_path(message, "target"), _READ | os.O_NOFOLLOW)) as target,
    ):
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        try:
            source = OwnedFd(openat2(root.fileno(), absolute_path(message, "path"), _READ, resolve=resolve))
        except (FileNotFoundError, NotADirectoryError):
            reply.send({"ok": True, "copied": False})
            return
        with source:
            copied = copy_up(source.fileno(), target.fileno())
    reply.send({"ok": True, "copied": copied})


def answer_identify(reply: Channel, message: JsonObject, _fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``identify``: the ids of a user by the passwd and group files of layers."""
    overlay, user = message.get("overlay"), message.get("user")
    if not isinstance(overlay, dict) or not isinstance(user, str):
        raise InvalidParameterError("identify takes an overlay and a user")
    with open_view(from_message(OverlayRoot, overlay)) as root:
        identity = resolve_identity(root.fileno(), user)
    reply.send({"ok": True, "uid": identity.uid, "gid": identity.gid})


def answer_remove(reply: Channel, message: JsonObject, _fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``remove-tree``: an engine-owned directory with whatever a container left in it."""
    remove_tree(absolute_path(message, "path"))
    reply.send({"ok": True})


def open_layer(path: str) -> OwnedFd:
    """Return a layer's directory, which a container may be changing: on a mount where no device can be opened."""
    tree = OwnedFd(k.open_tree(k.AT_FDCWD, path, k.OPEN_TREE_CLONE))
    k.mount_setattr(tree.fileno(), "", attr_set=_HARMLESS)
    return tree


def open_changes(root: OverlayRoot) -> OwnedFd:
    """Return one tree, a directory or on a device, likewise."""
    if root.device is not None:
        return mount_device(root.device, _HARMLESS)
    return open_layer(root.upper or root.lower[0])


def open_view(view: OverlayRoot) -> OwnedFd:
    """Return a read-only view of layers; overlay itself wants two."""
    if view.device is not None:
        return mount_device(view.device)
    if len(view.lower) == 1:
        return OwnedFd(os.open(view.lower[0], _READ | os.O_NOFOLLOW))
    try:
        return mount_overlay(view)
    except OSError as error:
        if error.errno != _EINVAL:
            raise
    unshare(CLONE_NEWNS)
    k.mount(None, "/", None, k.MS_PRIVATE | k.MS_REC)
    mount_overlay_at(view, "/mnt")
    return OwnedFd(os.open("/mnt", _READ))


def _leave_host(root: OverlayRoot) -> OwnedFd:
    """Make one tree all that this process can see and return it: what an archive names cannot be anything else."""
    # Opened here, not before: only mounts of the own mount namespace can be cloned.
    with OwnedFd(os.open("/mnt" if root.device else root.upper or "", _READ | os.O_NOFOLLOW)) as place:
        if root.device is not None:
            tree = mount_device(root.device)
        else:
            tree = OwnedFd(k.open_tree(place.fileno(), "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH))
        with tree:
            k.move_mount(tree.fileno(), place.fileno())
            os.fchdir(tree.fileno())
    k.pivot_root(".", ".")
    k.umount2(".", k.MNT_DETACH)
    os.chdir("/")
    return OwnedFd(os.open("/", _READ))


def _root(message: JsonObject, name: str) -> OverlayRoot:
    value = message.get(name)
    if not isinstance(value, dict):
        raise InvalidParameterError(f"bad {name}: {value!r:.80}")
    return from_message(OverlayRoot, value)


def _limits(message: JsonObject) -> Limits:
    limits = message.get("limits")
    if not isinstance(limits, dict):
        return Limits()
    return Limits(**{name: value for name, value in limits.items() if isinstance(value, int)})
