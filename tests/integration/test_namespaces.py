"""Namespaces that containers share with each other and with the host, and user namespaces of their own."""

import pytest

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def sleeper(engine, name, *options):
    engine.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "100")
    return engine.inspect(name)


def refusal(engine, *arguments):
    done = engine.docker(*arguments, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_ipc_and_shared_memory_of_another_container(leak_free):
    donor = sleeper(leak_free, "donor", "--ipc", "shareable", "--shm-size", "3m")
    leak_free.docker("exec", "donor", "sh", "-c", "echo hello > /dev/shm/letter")
    script = "cat /dev/shm/letter; readlink /proc/self/ns/ipc; df -k /dev/shm | tail -1; echo answer > /dev/shm/reply"
    options = ("--rm", "--ipc", "container:donor", "--user", "1000")
    told = leak_free.docker("run", *options, "busybox", "sh", "-c", script).stdout.split()
    inside = leak_free.docker("exec", "donor", "sh", "-c", "readlink /proc/self/ns/ipc; cat /dev/shm/reply").stdout
    assert [told[0], told[1]] == ["hello", inside.split()[0]]
    assert told[3] == "3072"
    assert inside.split()[1] == "answer"
    # who joined can be joined, and the memory outlives who made it
    sleeper(leak_free, "second", "--ipc", "container:donor")
    leak_free.docker("rm", "-f", donor["Id"])
    third = leak_free.docker("run", "--rm", "--ipc", "container:second", "busybox", "cat", "/dev/shm/reply")
    assert third.stdout == "answer\n"


def test_joined_ipc_is_the_other_containers_even_after_an_engine_restart(own_engine):
    sleeper(own_engine, "donor", "--ipc", "shareable")
    sleeper(own_engine, "guest", "--ipc", "container:donor")
    own_engine.stop()
    own_engine.start()
    own_engine.docker("exec", "donor", "sh", "-c", "echo kept > /dev/shm/letter")
    assert own_engine.docker("exec", "guest", "cat", "/dev/shm/letter").stdout == "kept\n"


def test_ipc_that_cannot_be_joined(leak_free):
    private = sleeper(leak_free, "private")["Id"]
    sleeper(leak_free, "none", "--ipc", "none")
    sleeper(leak_free, "covered", "--ipc", "shareable", "-v", "/dev/shm")
    ended = sleeper(leak_free, "ended", "--ipc", "shareable")["Id"]
    leak_free.docker("kill", "ended")
    leak_free.docker("wait", "ended")

    def joining(name):
        return refusal(leak_free, "run", "--rm", "--ipc", f"container:{name}", "busybox", "true")

    hint = "non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
    assert f"failed to join IPC namespace: container {private}: {hint}" in joining("private")
    assert hint in joining("none")
    assert f"failed to join IPC namespace: container {ended} is not running" in joining("ended")
    assert "cannot share /dev/shm of the other container: not a tmpfs" in joining("covered")
    assert "No such container: nobody" in joining("nobody")


def test_other_modes_of_ipc(leak_free):
    def run(mode, script):
        return leak_free.docker("run", "--rm", "--ipc", mode, "busybox", "sh", "-c", script).stdout

    assert run("none", "test -e /dev/shm || echo none") == "none\n"
    assert run("private", "grep -c ' /dev/shm ' /proc/mounts") == "1\n"
    ours = leak_free.in_network("readlink", "/proc/self/ns/ipc").stdout
    assert run("host", "readlink /proc/self/ns/ipc") == ours
    assert run("shareable", "readlink /proc/self/ns/ipc") != ours
