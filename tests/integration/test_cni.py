"""The cni driver with the plugins of Debian's containernetworking-plugins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from network_lab import HOST, OUTSIDE, Lab, in_laboratory, run_in

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest, EndpointWish

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "cni-plugins")]

FIREWALL = {"type": "firewall", "backend": "iptables"}  # the engine has set the policy of FORWARD to DROP


def conflist(path: Path, **plugin: object) -> str:
    state = {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}]], "dataDir": str(path / "ipam")}
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": state,
    }
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}}
    document = {"cniVersion": "0.4.0", "name": "plugged", "plugins": [{**bridge, **plugin}, tuning, FIREWALL]}
    file = path / "net.conflist"
    file.write_text(json.dumps(document))
    return str(file)


def test_plugins_make_the_network(tmp_path: Path):
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        options = {"conf": conflist(tmp_path)}
        await service.create_network(NetworkRequest("plugged", driver="cni", options=options))
        wish = lambda name: (EndpointWish("plugged", names=(name,)),)  # noqa: E731
        one = await service.attach("a" * 64, AttachRequest(network="plugged", endpoints=wish("one")))
        two = await service.attach("b" * 64, AttachRequest(network="plugged", endpoints=wish("two")))
        assert one.netns is not None
        assert two.netns is not None
        addresses = [sandbox.endpoints[0].address for sandbox in (one, two)]
        assert addresses == ["10.79.0.2", "10.79.0.3"]
        assert one.endpoints[0].mac in run_in(one.netns, "ip", "link", "show", "eth0")
        assert run_in(one.netns, "ip", "route").startswith("default via 10.79.0.1 dev eth0")
        lab.serve(two.netns, 80, "two")
        lab.serve(lab.outside, 7000, "out")
        assert lab.ask(one.netns, addresses[1], 80) == "two 10.79.0.2"
        assert lab.ask(one.netns, OUTSIDE, 7000) == f"out {HOST}"
        service.release("a" * 64)
        service.release("b" * 64)
        await service.settle()
        assert not [name for name in (tmp_path / "ipam/plugged").iterdir() if name.name[0].isdigit()]
        # ports are refused rather than forgotten, and nothing is left
        from orlop.spec.ports import parse_publish

        with pytest.raises(SystemFailureError, match="cannot be published on a cni network"):
            await service.attach(
                "a" * 64, AttachRequest(network="plugged", endpoints=wish("one"), ports=tuple(parse_publish("80:80")))
            )
        assert lab.database.execute("SELECT count(*) FROM endpoint").fetchone() == (0,)
        assert not [name for name in (tmp_path / "ipam/plugged").iterdir() if name.name[0].isdigit()]
        await service.remove_network("plugged")

    in_laboratory(body)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "../../bin/sh"},
        {"type": "/bin/sh"},
        {"type": "nosuch"},
        {"type": ""},
        {"type": 5},
        {"type": "a b"},
    ],
)
def test_a_plugin_is_a_plain_name(tmp_path: Path, change: dict[str, object]):
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        with pytest.raises(InvalidParameterError, match="CNI plugin"):
            options = {"conf": conflist(tmp_path, **change)}
            await service.create_network(NetworkRequest("plugged", driver="cni", options=options))
        for conf in ("net.conflist", str(tmp_path / "none"), "/dev/zero", str(tmp_path)):
            with pytest.raises(InvalidParameterError):
                await service.create_network(NetworkRequest("plugged", driver="cni", options={"conf": conf}))

    in_laboratory(body)


def test_a_failing_plugin_is_quoted(tmp_path: Path):
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        options = {"conf": conflist(tmp_path, ipam={"type": "host-local", "ranges": []})}
        await service.create_network(NetworkRequest("plugged", driver="cni", options=options))
        with pytest.raises(SystemFailureError, match="CNI plugin bridge"):
            await service.attach("a" * 64, AttachRequest(network="plugged"))
        assert lab.database.execute("SELECT count(*) FROM endpoint").fetchone() == (0,)

    in_laboratory(body)
