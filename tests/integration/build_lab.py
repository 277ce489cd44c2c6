"""What the tests of builds share: contexts, the two clients, servers in the engine's network namespace."""

import os
import subprocess
from contextlib import contextmanager

from harness import DOCKER


def write(directory, text, **files):
    """Make a context."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in {"Dockerfile": text, **files}.items():
        (directory / name).write_text(content)
    return directory


def build(engine, *arguments, **options):
    """Build with ``orlop build``."""
    return engine.orlop("build", "--progress=plain", *arguments, **options)


def steps(done):
    """Return how the steps of a plain build ended."""
    lines = [line.split(" ") for line in done.stderr.splitlines() if line.startswith("#")]
    return {int(words[0][1:]): words[1] for words in lines if words[1] in ("DONE", "CACHED", "ERROR")}


class DockerBuild:
    """Builds a Dockerfile with the docker client's classic builder, in a context of its own."""

    def __init__(self, engine, context):
        self._environment = {**engine.environment, "DOCKER_BUILDKIT": "0"}
        self.context = context
        context.mkdir()

    def __call__(self, text, *options, **files):
        """Build; ``a__b_txt`` is the file a/b.txt. Returns the code and what was said."""
        for name, content in files.items():
            path = self.context / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(content)
        command = [DOCKER, "build", *options, "-f", "-", str(self.context)]
        done = subprocess.run(
            command, env=self._environment, input=text, capture_output=True, text=True, timeout=100, check=False
        )
        return done.returncode, done.stdout, done.stderr


def good(result):
    """Return what a build that succeeded said."""
    code, out, err = result
    assert code == 0, out + err
    return out


@contextmanager
def served(engine, *command):
    """Run a server in the engine's network namespace."""
    assert engine.netns_holder is not None
    full = ["nsenter", f"--net=/proc/{engine.netns_holder.pid}/ns/net", "--", *map(str, command)]
    server = subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def listens(engine, port):
    return (
        engine.in_network("sh", "-c", f"grep -q ':{port:04X} 00000000:0000 0A' /proc/net/tcp", check=False).returncode
        == 0
    )


def repository_tool(directory):
    """Return a function that runs git in a directory, with nobody's configuration, and returns what it says."""

    def git(*words):
        plain = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent"}
        given = ("user.name=a", "user.email=a@b", "safe.directory=*", "protocol.file.allow=always")
        command = ["git", *(word for item in given for word in ("-c", item)), *map(str, words)]
        done = subprocess.run(command, cwd=directory, env=plain, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return git
