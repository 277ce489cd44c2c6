"""Images that clients of BuildKit's protocol get: caches out of registries, and what dockerd's BuildKit gives for the same."""

import json
import os
import subprocess

import pytest
from buildkit_lab import buildx_of, run, solve
from registry_lab import Registry

from fake_buildkit_client import FakeClient, file
from harness import DOCKER
from orlop.api.buildkit.control_messages import Exporter

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

PEER = os.environ.get("ORLOP_PEERS_HOST", "")
MOBY = Exporter(type="moby", attributes={"name": "kit:a"})


@pytest.mark.requires("docker-registry")
async def test_a_cache_is_fetched_from_its_registry(engine, images):
    """What cannot be had is no cache, and no error. An image out of a cache has the times of then."""
    client = FakeClient({"context": {}, "dockerfile": {"Dockerfile": file(b"FROM busybox\nRUN date +%N > /now\n")}})
    with Registry(engine, port=5019) as registry:
        name = f"{registry.host}/cache/kit:1"
        await solve(engine, client, [MOBY], caches=[name])
        created = engine.docker("inspect", "-f", "{{.Created}}", "kit:a").stdout
        engine.docker("tag", "kit:a", name)
        engine.docker("push", name)
        outcomes = []
        for caches in ([name], []):
            engine.docker("rmi", "-f", "kit:a", name, check=False)
            engine.docker("builder", "prune", "-af", env={"DOCKER_BUILDKIT": "0"})
            engine.docker("image", "prune", "-f")
            await solve(engine, client, [MOBY], caches=caches)
            outcomes.append(engine.docker("inspect", "-f", "{{.Created}}", "kit:a").stdout == created)
    assert outcomes == [True, False]


DOCKERFILES = {
    "configuration": 'FROM scratch\nCOPY file /dir/\nENV A=1 B="two words"\nLABEL l=v\nWORKDIR /w\nUSER 5:6\nEXPOSE 80/tcp\n'
    'VOLUME /v\nSTOPSIGNAL SIGINT\nHEALTHCHECK --interval=5s CMD true\nONBUILD RUN x\nENTRYPOINT ["/e"]\nCMD ["a", "b"]\n',
    "shell forms": 'FROM scratch\nSHELL ["/bin/x", "-c"]\nCMD echo $HOME\nENTRYPOINT run it\n',
    "stages": "ARG V=scratch\nFROM scratch AS one\nENV A=1\nCOPY file /a\nFROM $V\nARG B=2\nENV C=$B\nCOPY --from=one /a /b\n",
}


@pytest.mark.skipif(not PEER, reason="ORLOP_PEERS_HOST names no daemon")
@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_configuration_is_that_of_dockerds_buildkit(engine, images, tmp_path, name):
    config = buildx_of(tmp_path)
    (tmp_path / "file").write_text("content")
    (tmp_path / "Dockerfile").write_text(DOCKERFILES[name])
    found = []
    for host in (engine.host, PEER):
        words = [DOCKER, "build", "-t", "orlop-kit", "--build-arg=B=3", "--label=given=1", "."]
        done = run(engine, tmp_path, config, *words, DOCKER_HOST=host)
        assert done.returncode == 0, done.stderr
        inspect = [DOCKER, "-H", host, "image", "inspect", "orlop-kit"]
        image = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)[0]
        if host == PEER:
            subprocess.run([DOCKER, "-H", host, "rmi", "orlop-kit"], capture_output=True, check=True)
        facts = {key: value for key, value in image["Config"].items() if value and key not in ("Image", "ArgsEscaped")}
        facts.setdefault("WorkingDir", "/")  # which is what none means
        layers = image["RootFS"].get("Layers") or []  # dockerd says nothing of none
        found.append((facts, image["Os"], image["Architecture"], len(layers)))
    assert found[0] == found[1]
