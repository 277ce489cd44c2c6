"""Clients that do anything at any moment, and leave at any moment: no answer is a mistake of the engine, nothing is left.

``ORLOP_CHAOS_SECONDS`` says for how long; what a longer time found has a test of its own by now.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time

import pytest

from conftest import assert_nothing_left, settled_state
from harness import DOCKER, PATIENCE

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("netns", "mountns", "overlay", "iptables", "busybox", "docker-client"),
]
SECONDS = float(os.environ.get("ORLOP_CHAOS_SECONDS", "6"))
CLIENTS = 4
LONGEST = 30 * PATIENCE  # for an answer
# what only a mistake of the engine says
MISTAKES = ("panic", "Internal", "Traceback", "EOF", "errno", "Errno", "ESRCH", "EBADF")


def commands(chance: random.Random) -> list[str]:
    name = f"c{chance.randrange(6)}"
    network = chance.choice(["bridge", "none", "anything", "host"])
    lasting = chance.choice(["0", "1", "1000"])
    return chance.choice(
        [
            ["run", "-d", "--name", name, "--network", network, "-v", "anything:/v", "busybox", "sleep", lasting],
            ["run", "--rm", "-p", f"{chance.randrange(9000, 9004)}:80", "busybox", "true"],
            ["run", "--rm", "--init", "busybox", "sh", "-c", f"sleep 0.{chance.randrange(9)}; exit 3"],
            ["create", "--name", name, "--restart", "always", "--memory", "64m", "busybox", "sleep", "0.2"],
            *(["start", name], ["stop", "-t", "1", name], ["kill", name], ["rm", name], ["rm", "-f", name]),
            *(["restart", "-t", "0", name], ["pause", name], ["unpause", name], ["wait", name], ["logs", name]),
            *(
                ["exec", name, "sh", "-c", "echo hi"],
                ["exec", "-d", name, "sleep", "1"],
                ["attach", "--no-stdin", name],
            ),
            *(["inspect", name], ["top", name], ["diff", name], ["port", name], ["ps", "-a"], ["images"]),
            *(["cp", f"{name}:/etc", "-"], ["export", name], ["commit", name, f"i{chance.randrange(3)}"]),
            *(["network", "connect", "anything2", name], ["network", "disconnect", "anything2", name]),
            *(["rename", name, f"c{chance.randrange(6)}"], ["update", "--memory", "70m", "--memory-swap", "-1", name]),
            *(["stats", "--no-stream"], ["system", "df"], ["container", "prune", "-f"], ["image", "prune", "-f"]),
        ]
    )


def do_anything(engine, seed: int, until: float, mistakes: list[str]) -> None:
    chance = random.Random(seed)
    while time.monotonic() < until:
        command = commands(chance)
        patience = 0.3 if command[0] in {"wait", "attach"} else chance.choice([0.05, 0.3, *[LONGEST] * 3])
        client = subprocess.Popen(
            [DOCKER, *command],
            env=engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, said = client.communicate(timeout=patience)
            if any(word in said for word in MISTAKES):
                mistakes.append(f"{command}: {said}")
        except subprocess.TimeoutExpired:
            if patience == LONGEST:
                mistakes.append(f"{command}: no answer")
            client.kill()
            client.communicate()


@pytest.mark.timeout(SECONDS + 2 * LONGEST)
def test_clients_that_do_anything(own_engine) -> None:
    for kind in (
        ["network", "create", "anything"],
        ["network", "create", "anything2"],
        ["volume", "create", "anything"],
    ):
        own_engine.docker(*kind)
    before = settled_state(own_engine)
    kept = own_engine.docker("images", "-q", "--no-trunc").stdout.split()
    seed, mistakes = random.randrange(1 << 30), []
    print("seed", seed)
    until = time.monotonic() + SECONDS
    clients = [
        threading.Thread(target=do_anything, args=(own_engine, seed + number, until, mistakes))
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert mistakes == []
    own_engine.remove_containers()
    made = set(own_engine.docker("images", "-aq", "--no-trunc").stdout.split()) - set(kept)
    if made:
        own_engine.docker("rmi", "-f", *made)
    assert_nothing_left(own_engine, before, seconds=20)
    log = own_engine.log_text()
    assert "never retrieved" not in log
    assert "Traceback" not in log
