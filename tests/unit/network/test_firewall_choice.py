"""Which firewall backend is taken: the administrator's choice, else what the machine has."""

from __future__ import annotations

import pytest

from orlop.errors import UnavailableError
from orlop.network.firewall import choice
from orlop.network.options import NetworkOptions


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Say which programs there are."""

    def has(*programs: str) -> None:
        def find(name: str) -> str:
            if name in programs:
                return f"/usr/sbin/{name}"
            raise UnavailableError(f"{name}: executable file not found")

        monkeypatch.setattr("orlop.network.firewall.choice.commands.find", find)
        monkeypatch.setattr("orlop.network.firewall.nftables.is_available", lambda: "nft" in programs)
        monkeypatch.setattr("orlop.network.sysctl.forwarding_is_off", lambda: False)
        monkeypatch.setattr("orlop.network.sysctl.forwarding6_is_off", lambda: False)

    return has


@pytest.mark.parametrize(
    ("programs", "wanted", "chosen"),
    [
        (("iptables-restore", "nft"), "", "iptables"),
        (("iptables-restore",), "", "iptables"),
        (("nft",), "", "nftables"),
        (("iptables-restore", "nft"), "nftables", "nftables"),
        (("nft",), "iptables", "iptables"),
    ],
)
def test_the_backend(machine, programs: tuple[str, ...], wanted: str, chosen: str):
    machine(*programs)
    firewall = choice.choose_firewall(NetworkOptions(firewall_backend=wanted), prefix="DOCKER")
    assert firewall is not None
    assert firewall.name == chosen


def test_without_any_and_switched_off(machine):
    machine()
    with pytest.raises(UnavailableError, match="install iptables or nftables, or switch rules off"):
        choice.choose_firewall(NetworkOptions(), prefix="DOCKER")
    assert choice.choose_firewall(NetworkOptions(iptables=False), prefix="DOCKER") is None
