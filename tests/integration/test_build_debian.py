"""Builds on a Debian base that debootstrap made: a C program in several stages, a Python application from wheels.

The base takes minutes and a mirror, so these are only run where ``ORLOP_DEBIAN_BASE`` names its tar; when there is none
of that name it is made, once, from the mirror that apt uses (or ``ORLOP_DEBIAN_MIRROR``). With ORLOP_PEERS_HOST the
trees are compared with what dockerd 26 makes of the same files.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import urlencode

import pytest
from test_build_corpus import DATA, PEER, Daemon

BASE = os.environ.get("ORLOP_DEBIAN_BASE", "")
pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables"),
    pytest.mark.skipif(not BASE, reason="ORLOP_DEBIAN_BASE names no tar"),
    pytest.mark.timeout(1800),
]
PACKAGES = "gcc,libc6-dev,python3,python3-pip"
PROGRAM = (DATA / "debian/c-program").read_text()
APPLICATION = (DATA / "debian/python-application").read_text()
FILES = {
    "greet.h": "void greet(const char *whom);\n",
    "greet.c": '#include <stdio.h>\n#include "greet.h"\nvoid greet(const char *whom) { printf("hello %s\\n", whom); }\n',
    "main.c": '#include "greet.h"\nint main(int n, char **words) { greet(n > 1 ? words[1] : "world"); return 0; }\n',
}


def wheel(name, files, *, requires=(), script=""):
    """Return a wheel's name and bytes."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + "".join(
        f"Requires-Dist: {one}\n" for one in requires
    )
    entries = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        entries[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script}\n"
    rows = []
    for path, text in entries.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    entries[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in entries.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return f"wheels/{name}-1.0-py3-none-any.whl", made.getvalue()


def context(dockerfile, files):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in {**files, "Dockerfile": dockerfile}.items():
            data = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def mirror():
    """Return the first mirror of Debian that apt uses."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        for line in path.read_text().splitlines() if path.is_file() else ():
            if not line.lstrip().startswith("#") and (found := re.search(r"https?://\S*/debian/?(?=\s|$)", line)):
                return found[0]
    pytest.skip("no mirror of Debian")


def make_base():
    if Path(BASE).exists():
        return
    work = Path(f"{BASE}.d")
    words = [
        "--variant=minbase",
        f"--include={PACKAGES}",
        "bookworm",
        work,
        os.environ.get("ORLOP_DEBIAN_MIRROR") or mirror(),
    ]
    subprocess.run(
        ["unshare", "-m", "--propagation", "private", "debootstrap", *words], check=True, capture_output=True
    )
    subprocess.run(["tar", "-C", work, "--one-file-system", "-cf", f"{BASE}.new", "."], check=True)
    os.rename(f"{BASE}.new", BASE)
    subprocess.run(["rm", "-rf", "--one-file-system", work], check=True)


def build(daemon, data, tag, **query):
    told = daemon.call(
        "POST", f"/build?{urlencode({'t': tag, 'rm': 1, 'forcerm': 1, **query})}", data, "application/x-tar"
    )
    assert b"Successfully tagged" in told, (daemon.address, told[-2000:].decode())


@pytest.fixture(scope="module")
def daemons(shared_engine):
    make_base()
    made = [Daemon(shared_engine.host), *([Daemon(PEER)] if PEER else [])]
    for daemon in made:
        query = urlencode({"fromSrc": "-", "repo": "debian-base", "changes": 'CMD ["bash"]'})
        daemon.call("POST", f"/images/create?{query}", Path(BASE).read_bytes(), "application/x-tar")
    yield made
    for daemon in made:
        for name in ("debian-made", "debian-small", "debian-base"):
            with contextlib.suppress(AssertionError):  # it was not made
                daemon.call("DELETE", f"/images/{name}?force=1")


def outcomes(daemons, tag):
    for daemon in daemons:
        config = daemon.json("GET", f"/images/{tag}/json")["Config"]
        yield (
            daemon.tree(tag),
            {key: value for key, value in config.items() if value and key not in ("Image", "Hostname")},
        )


def without_caches(tree):
    """Leave out what differs from run to run: what programs write of themselves."""
    return {
        path: entry for path, entry in tree.items() if not path.startswith(("var/log/", "var/cache/", "root/.cache"))
    }


def test_a_program_in_c(daemons):
    for daemon in daemons:
        build(daemon, context(PROGRAM, FILES), "debian-made")
        build(daemon, context(PROGRAM, FILES), "debian-small", target="small")
    (tree, config), *theirs = outcomes(daemons, "debian-made")
    assert tree["out"][-1] == "hello one\nhello two\n1\n"
    assert tree["usr/local/bin/greet-static"][:4] == ["file", "0755", 1, 2]
    assert tree["usr/local/bin/greet-dynamic"][:4] == ["file", "0755", 3, 3]
    (small, small_config), *small_theirs = outcomes(daemons, "debian-small")
    assert [path for path in small if small[path][0] == "file"] == ["greet"]
    for other, other_config in theirs:
        assert (without_caches(tree), config) == (without_caches(other), other_config)
    for other, other_config in small_theirs:
        assert (small, small_config) == (other, other_config)


def test_an_application_from_wheels(daemons):
    files = dict(
        (
            wheel("library", {"library.py": "def answer():\n    return 6 * 7\n"}),
            wheel(
                "application",
                {"application.py": "import library\n\n\ndef main():\n    print(library.answer())\n"},
                requires=["library"],
                script="application = application:main",
            ),
        )
    )
    for daemon in daemons:
        build(daemon, context(APPLICATION, files), "debian-made")
    (tree, config), *theirs = outcomes(daemons, "debian-made")
    assert tree["srv/app/answer"] == ["file", "0644", 1000, 1000, "", "42\n"]
    assert config["User"] == "1000:1000"
    assert json.dumps(config["Cmd"]) == '["application"]'
    for other, other_config in theirs:
        assert (without_caches(tree), config) == (without_caches(other), other_config)
