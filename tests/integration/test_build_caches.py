"""Steps out of the cache, of named images, of directories and registries; what is kept and what prune leaves."""

import json

import pytest
from build_lab import build, steps, write
from registry_lab import Registry

from harness import wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_steps_come_from_named_images_only(engine, images, tmp_path):
    """Threat F5: a loaded look-alike is the result of a step for nobody but who names it."""
    context = write(tmp_path / "c", "FROM busybox\nENV A=1\nRUN echo made >/made\nCOPY x /x\n", x="1")
    build(engine, "-t", "outer:cache", context)
    engine.docker("save", "-o", tmp_path / "saved.tar", "outer:cache")
    engine.docker("rmi", "outer:cache")
    engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
    engine.docker("image", "prune", "-f")
    engine.docker("load", "-i", tmp_path / "saved.tar")
    assert steps(build(engine, context))[3] == "DONE"
    engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
    named = engine.docker("build", "--cache-from", "outer:cache", context, env={"DOCKER_BUILDKIT": "0"}).stdout
    assert named.count("Using cache") == 3
    assert set(steps(build(engine, context)).values()) == {"DONE"}  # what was named is not remembered
    (context / "x").write_text("2")
    engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
    changed = engine.docker("build", "--cache-from", "outer:cache", context, env={"DOCKER_BUILDKIT": "0"}).stdout
    assert changed.count("Using cache") == 2


def test_cache_in_a_directory(engine, images, tmp_path):
    script = "FROM busybox AS one\nRUN echo one >/one\nFROM busybox\nCOPY --from=one /one /\nRUN echo two\n"
    context, kept = write(tmp_path / "c", script), tmp_path / "kept"
    build(engine, "--cache-from", f"type=local,src={kept}", "--cache-to", f"type=local,dest={kept},mode=max", context)
    for _ in range(2):
        engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
        engine.docker("image", "prune", "-f")
        done = build(
            engine, "--cache-from", f"type=local,src={kept}", "--cache-to", f"type=local,dest={kept},mode=max", context
        )
        assert [steps(done)[number] for number in (2, 4, 5)] == ["CACHED"] * 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    refused = build(engine, "--cache-to", f"type=local,dest={tmp_path}/mine", context, check=False)
    assert "not empty, and no cache of a build" in refused.stderr
    for text in ("type=s3,bucket=x", "type=registry,ref=x,mode=all", "type=local"):
        assert build(engine, "--cache-to", text, context, check=False).returncode == 1


@pytest.mark.requires("docker-registry")
def test_cache_in_a_registry_and_push(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nRUN echo one >/one\nCOPY x /\n", x="1")
    with Registry(engine, port=5017) as registry:
        name = f"{registry.host}/cache/box:1"
        empty = build(engine, "--cache-from", f"type=registry,ref={name}", context)
        assert f"WARNING: cannot take steps from {name}" in empty.stderr
        made = engine.orlop("build", "-q", "--cache-to", f"type=registry,ref={name}", context).stdout
        assert engine.orlop("inspect", name, check=False).returncode == 1  # the name was for the push only
        engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
        again = build(engine, "--cache-from", name, "--iidfile", tmp_path / "id", context)
        assert steps(again) == {1: "DONE", 2: "CACHED", 3: "CACHED"}
        assert (tmp_path / "id").read_text() == made.strip()
        pushed = f"{registry.host}/pushed/box:1"
        build(engine, "--push", "-t", pushed, context)
        assert registry.manifest("pushed/box", "1")
        engine.docker("rmi", "-f", name, pushed)


def test_cache_of_all_stages_in_a_registry(engine, images, tmp_path):
    script = "FROM busybox AS one\nRUN echo one >/one\nFROM busybox AS two\nRUN echo two >/two\nFROM busybox\n"
    context = write(tmp_path, f"{script}COPY --from=one /one /\nCOPY --from=two /two /\n")
    with Registry(engine, port=5018) as registry:
        name = f"{registry.host}/cache/stages:1"
        for mode, cached in (("min", 2), ("max", 4)):
            engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
            build(engine, "--cache-to", f"type=registry,ref={name},mode={mode}", context)
            assert name.rpartition(":")[0] not in engine.docker("images").stdout
            engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
            engine.docker("image", "prune", "-f")
            again = build(engine, "--cache-from", name, context)
            assert list(steps(again).values()).count("CACHED") == cached
            names = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", name.rpartition(":")[0])
            engine.docker("rmi", "-f", *names.stdout.split())


def test_no_cache_for_some_stages(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox AS a\nRUN echo a >/a\nFROM busybox AS b\nCOPY --from=a /a /\nRUN echo b\n")
    build(engine, context)
    assert steps(build(engine, "--no-cache-filter", "b", context)) == {
        1: "DONE",
        2: "CACHED",
        3: "DONE",
        4: "DONE",
        5: "DONE",
    }


def cache_entries(engine):
    return json.loads(engine.http("GET", "/system/df?type=build-cache")[1])["BuildCache"]


def test_disk_usage_and_prune(engine, images, tmp_path):
    plain = {"DOCKER_BUILDKIT": "0"}

    def emptied():
        engine.docker("builder", "prune", "-f", "-a", env=plain)
        return cache_entries(engine) == []

    wait_for(emptied, what="an empty cache: builds of tests before may still end")
    script = "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=2\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/x bs=1M count=1\n"
    context = write(tmp_path / "c", script, x="1")
    build(engine, context)
    build(engine, context)
    found = {entry["Type"]: entry for entry in cache_entries(engine) if entry["Size"]}
    assert set(found) == {"regular", "exec.cachemount", "source.local"}
    assert 2 << 20 <= found["regular"]["Size"] < 3 << 20
    assert (found["regular"]["UsageCount"], found["regular"]["InUse"], found["regular"]["Shared"]) == (1, False, False)
    assert "dd if=/dev/zero of=/big" in found["regular"]["Description"]
    table = engine.docker("system", "df").stdout.splitlines()[-1].split()
    assert table[:4] == ["Build", "Cache", "4", "0"]
    for command in (engine.docker, engine.orlop):
        rows = command("system", "df", "-v").stdout.partition("Build cache usage: ")[2].splitlines()
        assert rows[0].startswith("3.1"), rows
        assert sorted(row.split()[1] for row in rows if " ago" in row) == sorted(
            ["regular", "regular", "exec.cachemount", "source.local"]
        )
    one = ["--filter", "type=exec.cachemount"]
    assert "1.049MB" in engine.docker("builder", "prune", "-f", *one, env=plain).stdout
    assert "exec.cachemount" not in {entry["Type"] for entry in cache_entries(engine)}
    build(engine, "-t", "outer:kept", context)
    assert "Total:\t3" not in engine.docker("builder", "prune", "-f", env=plain).stdout
    assert steps(build(engine, context)) == {1: "DONE", 2: "CACHED", 3: "CACHED"}  # a name stands on it
    engine.docker("rmi", "outer:kept")
    build(engine, context)
    (context / "Dockerfile").write_text("FROM busybox\nRUN dd if=/dev/zero of=/other bs=1M count=2\n")
    build(engine, context)
    done = engine.orlop("builder", "prune", "-f", "-a", "--keep-storage", "2100k")
    assert "Total reclaimed space: 3.1" in done.stdout
    assert steps(build(engine, context)) == {1: "DONE", 2: "CACHED"}
    assert "invalid filter 'x'" in engine.orlop("builder", "prune", "-f", "--filter", "x=1", check=False).stderr
    engine.orlop("builder", "prune", "-f", "-a")
    assert cache_entries(engine) == []
    assert steps(build(engine, context))[2] == "DONE"
