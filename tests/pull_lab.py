"""An engine beside a registry that behaves as badly as the repository's name says."""

import contextlib
import json
import os
import subprocess
import sys

from conftest import make_engine
from harness import ROOT, wait_for

PORT = 5600
HOST = f"127.0.0.1:{PORT}"


class Lab:
    def __init__(self):
        self.engine = make_engine("--max-download-attempts", "3")
        self.directory = self.engine.home / "hostile"
        self.directory.mkdir()
        assert self.engine.netns_holder is not None
        net = f"--net=/proc/{self.engine.netns_holder.pid}/ns/net"
        program = [sys.executable, str(ROOT / "tests/hostile_registry.py"), str(PORT), str(self.directory)]
        with (self.engine.home / "hostile.log").open("wb") as log:
            self.process = subprocess.Popen(["nsenter", net, "--", *program], stdout=log, stderr=log)
        wait_for(lambda: self.log() is not None, what="hostile registry")

    def log(self):
        done = self.engine.in_network("curl", "-s", f"http://{HOST}/log", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_for_quiet(self):
        """Wait until the registry sends nothing to anybody: who left a pull has, and the engine knows it."""
        wait_for(lambda: self.engine.in_network("curl", "-s", f"http://{HOST}/now").stdout == "0", what="quiet")

    def pull(self, behaviour, *, tag="1", **options):
        return self.engine.docker("pull", f"{HOST}/{behaviour}/x:{tag}", check=False, **options)

    def start_pull(self, behaviour):
        return subprocess.Popen(
            ["docker", "pull", f"{HOST}/{behaviour}/x:1"],
            env=self.engine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def partial(self):
        return list((self.engine.data_root / "blobs/partial").iterdir())

    def received(self, least=1):
        size = 0
        for path in self.partial():
            with contextlib.suppress(FileNotFoundError):  # it is whole by now
                size += path.stat().st_size
        return size >= least

    def close(self):
        self.process.kill()
        self.process.wait()
        self.engine.destroy()


def layers(engine):
    return [name for name in os.listdir(engine.data_root / "layers/overlay2") if name != "scratch-init"]


def blobs_asked(log):
    return [entry for entry in log if "/blobs/" in entry[1] and entry[0] == "GET"]
