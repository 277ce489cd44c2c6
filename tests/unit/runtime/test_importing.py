"""J1 of threats.md: a forked child loads nothing; each of the two defences alone refuses what it is there for."""

import subprocess
import sys

import pytest

from orlop.runtime.interpreter import source_directory

_LOADS = {
    "import": "import colorsys",
    "codec": "'x'.encode('idna')",
    "source": "open('/etc/hostname')",
    "bytes": "open('/etc/hostname', 'rb')",
    "library": "import _ctypes; _ctypes.dlopen('libm.so.6', 2)",
    "compile": "compile('1', 'x', 'exec')",
    "exec": "exec('1')",
    "marshal": "import marshal; marshal.loads(b'N')",
    "names": "import _socket; _socket.getaddrinfo('localhost', 1)",
    "system": "os.system('true')",
}


def run_isolated(text: str) -> subprocess.CompletedProcess[str]:
    preamble = f"import sys, os, io, _ctypes, _socket, marshal; sys.path.insert(0, {source_directory()!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", preamble + text], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("what", _LOADS)
def test_the_audit_hook_refuses_without_the_blocker(what: str) -> None:
    attempt = _LOADS[what].replace("; ", "\n    ")
    text = (
        "from orlop.runtime.importing import refuse_loading\nrefuse_loading()\nrefuse_loading()\n"
        f"try:\n    {attempt}\nexcept Exception as error:\n    os.write(1, str(error).encode())\n"
    )
    done = run_isolated(text)
    assert done.stdout.startswith(("not after a fork: ", "encoding with")), done
    allowed = "from orlop.runtime.importing import refuse_loading\n" + attempt.replace("\n    ", "\n")
    assert run_isolated(allowed).returncode == 0, "the attempt would fail anyway"


def test_the_blocker_refuses_without_the_hook() -> None:
    text = "from orlop.runtime.importing import Blocker\nBlocker().install()\nimport colorsys\n"
    assert "import after fork: colorsys" in run_isolated(text).stderr


def test_files_are_opened_by_descriptor_as_before() -> None:
    text = (
        "from orlop.runtime.importing import refuse_loading\nrefuse_loading()\n"
        "directory = os.open('/etc', os.O_RDONLY)\nos.write(1, os.read(os.open('passwd', 0, dir_fd=directory), 4))\n"
    )
    assert run_isolated(text).stdout == "root"


def test_the_spawner_forks_children_that_load_nothing() -> None:
    """The operation ``netns`` of a real spawner is replaced by one that loads; what comes of it is its answer."""
    text = (
        "import socket\nfrom orlop.primitives.channel import Channel\nfrom orlop.runtime import spawner\n"
        "spawner.is_sealed = lambda: True\n"
        "def load(channel, message, fds, hierarchies):\n    open('/etc/hostname')\n"
        "spawner.WORK['netns'] = load\n"
        "ours, theirs = Channel.pair()\nmine, reply = Channel.pair()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    ours.close(); mine.close()\n    spawner.main(theirs.fileno())\n"
        "theirs.close()\nours.send({'op': 'netns'}, [reply.fileno()])\nreply.close()\n"
        "print(mine.receive()[0]['error']['message'])\nours.close()\nos.waitpid(pid, 0)\n"
    )
    done = run_isolated(text)
    assert "not after a fork: open" in done.stdout, done
