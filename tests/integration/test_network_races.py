"""Networks that are made, joined and removed at the same time: each is there as a whole or not at all."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter

import pytest
from network_lab import Lab, in_laboratory

from harness import wait_for
from host_state import HostState
from orlop.errors import ForbiddenError, NotFoundError, SystemFailureError
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest, EndpointWish
from orlop.spec.ports import parse_publish

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]
BACKENDS = pytest.mark.parametrize("backend", ["iptables", "nftables"])
A = "a" * 64


class Gate:
    """Holds the next call of a method of the firewall until it is opened."""

    def __init__(self, firewall, method: str) -> None:
        self._inner = getattr(firewall, method)
        self.reached, self._opened = asyncio.Event(), asyncio.Event()
        setattr(firewall, method, self)

    async def __call__(self, *arguments: object) -> object:
        self.reached.set()
        await self._opened.wait()
        return await self._inner(*arguments)

    def open(self) -> None:
        self._opened.set()


@BACKENDS
def test_a_network_is_there_when_all_of_it_is(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        links, rules = lab.links(), lab.rules()
        assert service._around is not None
        gate = Gate(service._around.firewall, "add_bridge")
        making = asyncio.create_task(service.create_network(NetworkRequest("net", ipv6=True)))
        await gate.reached.wait()
        removing = asyncio.create_task(service.remove_network("net"))
        same = asyncio.create_task(service.create_network(NetworkRequest("net")))
        await asyncio.sleep(0.05)
        with pytest.raises(NotFoundError, match="network net not found"):
            await service.attach(A, AttachRequest(network="net"))
        assert [network.name for network in service.networks()] == ["bridge", "host", "none"]
        gate.open()
        assert (await making).id == (await removing).id
        assert (await same).subnet == (await making).subnet
        await service.remove_network("net")
        assert (lab.links(), lab.rules()) == (links, rules)

    in_laboratory(body)


@BACKENDS
def test_a_network_that_is_being_joined_is_not_removed(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        links, rules = lab.links(), lab.rules()
        await service.create_network(NetworkRequest("one"))
        await service.create_network(NetworkRequest("two"))
        assert service._around is not None
        gate = Gate(service._around.firewall, "publish")
        request = AttachRequest(network="one", ports=tuple(parse_publish("8080:80")))
        joining = asyncio.create_task(service.attach(A, request))
        await gate.reached.wait()
        with pytest.raises(ForbiddenError, match=r"network one id .* has active endpoints"):
            await service.remove_network("one")
        gate.open()
        await joining
        gate = Gate(service._around.firewall, "withdraw")
        connecting = asyncio.create_task(
            service.connect(A, EndpointWish("two", priority=1), request=request)  # its ports move there
        )
        await gate.reached.wait()
        with pytest.raises(ForbiddenError, match=r"network two id .* has active endpoints"):
            await service.remove_network("two")
        gate.open()
        await connecting
        service.release(A)
        await service.remove_network("one")
        await service.remove_network("two")
        await lab.wait_links(links)
        assert lab.rules() == rules

    in_laboratory(body)


@BACKENDS
def test_names_are_gone_before_the_first_network_is_left(backend: str):
    """The end of a container is told at once, and what takes its networks down runs programs."""

    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        networks = [await service.create_network(NetworkRequest(name)) for name in ("one", "two")]
        wishes = tuple(EndpointWish(network.name, names=("web",)) for network in networks)
        ports = tuple(parse_publish("8080:80"))
        await service.attach(A, AttachRequest(network="one", endpoints=wishes, ports=ports))
        known = [service._resolvers.names.endpoints(network.id, "web") for network in networks]
        assert [len(found) for found in known] == [1, 1]
        assert service._around is not None
        gate = Gate(service._around.firewall, "withdraw")
        service.release(A)
        await gate.reached.wait()
        assert [service._resolvers.names.endpoints(network.id, "web") for network in networks] == [[], []]
        gate.open()
        await service.settle()

    in_laboratory(body)


@BACKENDS
def test_a_network_that_could_not_be_removed_is_there(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        links, rules = lab.links(), lab.rules()
        await service.create_network(NetworkRequest("net"))
        assert service._around is not None
        firewall = service._around.firewall
        remove = firewall.remove_bridge  # type: ignore[union-attr]

        async def fail(name: str) -> None:
            raise SystemFailureError(f"no rules for {name}")

        firewall.remove_bridge = fail  # type: ignore[union-attr,method-assign]
        with pytest.raises(SystemFailureError, match="no rules for br-"):
            await service.remove_network("net")
        assert service.network("net").name == "net"
        firewall.remove_bridge = remove  # type: ignore[union-attr,method-assign]
        await service.remove_network("net")
        assert (lab.links(), lab.rules()) == (links, rules)

    in_laboratory(body)


@pytest.mark.requires("overlay", "docker-client", "busybox")
def test_a_storm_of_requests_leaves_nothing(leak_free):
    engine = leak_free
    engine.docker("network", "create", "warm")
    engine.docker("network", "rm", "warm")
    before = HostState.before(engine)
    end, answers = time.monotonic() + 6, Counter[tuple[int, str]]()

    def requests(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            box, network = f"box{chance.randrange(5)}", f"net{chance.randrange(4)}"
            method, path, body = chance.choice([
                ("POST", "/networks/create", {"Name": network, "EnableIPv6": chance.random() < 0.3}),
                ("DELETE", f"/networks/{network}", None),
                ("POST", f"/networks/{network}/connect", {"Container": box}),
                ("POST", f"/networks/{network}/disconnect", {"Container": box, "Force": True}),
                ("POST", f"/containers/create?name={box}",
                 {"Image": "busybox", "Cmd": ["sleep", "100"], "HostConfig": {"NetworkMode": network}}),
                ("POST", f"/containers/{box}/start", None),
                ("DELETE", f"/containers/{box}?force=1", None),
            ])  # fmt: skip
            status, text = engine.http(method, path, body)
            if status >= 500 or status == 0:
                answers[status, "" if b"is not connected to" in text else text.decode()] += 1

    threads = [threading.Thread(target=requests, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) <= {(500, "")}  # which is how dockerd says that it was not connected
    engine.remove_containers()
    engine.docker("network", "prune", "-f")
    assert engine.docker("network", "ls", "-q", "--filter", "type=custom").stdout == ""
    wait_for(lambda: before.differences(HostState.of(engine), descriptors=4) == {}, what="what there was before")
    assert "lost" not in engine.orlop("system", "check", check=False).stdout
