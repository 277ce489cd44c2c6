"""Snapshots made by a storage driver, filled, and mounted in a namespace of their own, where code is run in them."""

import json
import os
import re
import subprocess
import sys

from orlop.spec.launch import to_message

SMALL_POOL = {"dm.loopdatasize": "1g", "dm.loopmetadatasize": "16m", "dm.basesize": "64m"}


_MOUNTED = """
import ctypes, json, os, sys
sys.path[:0] = json.loads(os.environ["PATHS"])
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
layers = json.loads(sys.argv[1])
device = layers["device"]
target = sys.argv[2].encode()
options = "lowerdir=" + ":".join(layers["lower"])
if layers["upper"]:
    options += f",upperdir={layers['upper']},workdir={layers['work']}"
if device:
    # a detached mount's options: the file system's own, and whether this mount can be written to
    flags, text = (1 if device["sealed"] else 0), ",".join(device["options"])
    ok = libc.mount(device["path"].encode(), target, device["kind"].encode(), flags, text.encode()) == 0
    if ok and device["view"] and not device["sealed"]:
        ok = libc.mount(None, target, None, 0x1021, None) == 0
elif layers["upper"] and not layers["lower"]:
    ok = libc.mount(layers["upper"].encode(), target, None, 0x1000, None) == 0
elif layers["upper"] or len(layers["lower"]) > 1:
    ok = libc.mount(b"overlay", target, b"overlay", 0, options.encode()) == 0
else:
    ok = libc.mount(layers["lower"][0].encode(), target, None, 0x1000, None) == 0
    ok = ok and libc.mount(None, target, None, 0x1021, None) == 0
if not ok:
    sys.exit(os.strerror(ctypes.get_errno()))
os.chdir(target)
exec(sys.argv[3])
"""


def inside(driver, key, tmp_path, code, *, writable=True):
    """Run code in the mounted snapshot, as its current directory; return what it prints."""
    root = driver.mounts(key, writable=writable)
    target = tmp_path / "mounted"
    target.mkdir(exist_ok=True)
    layers = json.dumps(to_message(root))
    # what is mounted in another namespace is bound there
    holder = re.search(r"/proc/(\d+)/root", layers)
    enter = ["nsenter", "--mount", "--target", holder[1]] if holder else []
    if holder:
        layers = layers.replace(holder[0], "")
    done = subprocess.run(
        [*enter, sys.executable, "-c", _MOUNTED, layers, str(target), code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATHS": json.dumps(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(target) == [], "the mount is seen outside"
    return done.stdout


def layer(driver, name, parent, fill):
    """Make a committed snapshot; ``fill`` changes its directory."""
    draft = f"draft-{name}"
    driver.prepare(draft, parent)
    fill(driver.directory(draft))
    driver.commit(draft, name)


def write(path, text="x", mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
