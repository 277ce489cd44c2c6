"""Who finds whom by which name."""

from __future__ import annotations

import dns.message
import dns.reversename
import pytest

from orlop.network.dns import message
from orlop.network.dns.names import Names, View
from orlop.network.sandbox import Endpoint


def endpoint(number: int, network: str, *names: str, six: bool = False) -> Endpoint:
    return Endpoint(
        id=f"{network}-{number}",
        network_id=network,
        network_name=f"net-{network}",
        address=f"10.0.0.{number}",
        address6=f"fd00::{number}" if six else "",
        names=names,
    )


def ask(view: View, name: str, kind: str = "A") -> list[str] | None:
    """Return the records of an answer, None when the question would be passed on."""
    query = message.parse_query(dns.message.make_query(name, kind).to_wire())
    wire = view.answer(query, tcp=False)
    if wire is None:
        return None
    answer = dns.message.from_wire(wire)
    return sorted(record.to_text() for records in answer.answer for record in records)


@pytest.fixture
def names():
    names = Names()
    names.add(endpoint(2, "one", "web", "Alias", "0123456789ab", six=True))
    names.add(endpoint(3, "one", "other", "alias"))
    names.add(endpoint(4, "two", "web", "secret"))
    names.add(endpoint(9, "bridge"))  # the default bridge has no names
    return names


def test_names_aliases_and_the_network_behind(names):
    view = View(names, ["one"], {})
    assert ask(view, "web") == ask(view, "WEB.") == ask(view, "web.net-one") == ["10.0.0.2"]
    assert ask(view, "alias") == ["10.0.0.2", "10.0.0.3"]
    assert ask(view, "0123456789ab") == ["10.0.0.2"]
    assert ask(view, "web", "AAAA") == ["fd00::2"]
    assert ask(view, "other", "AAAA") == []  # it exists, but has no such address
    assert ask(view, "web", "MX") == []
    assert ask(view, "example.org") is None


def test_an_alias_is_known_on_its_network_only(names):
    assert ask(View(names, ["one"], {}), "secret") is None
    assert ask(View(names, ["two"], {}), "secret") == ["10.0.0.4"]
    assert ask(View(names, ["two"], {}), "alias") is None
    assert ask(View(names, ["two", "one"], {}), "web") == ["10.0.0.4"]  # the first network wins
    assert ask(View(names, ["one"], {}), "web.net-two") is None


def test_links_are_one_containers_own(names):
    view = View(names, ["one"], {"one": {"db": "other"}})
    assert ask(view, "db") == ["10.0.0.3"]
    assert ask(View(names, ["one"], {}), "db") is None


def test_addresses_have_names(names):
    view = View(names, ["one"], {})
    reverse = lambda address: dns.reversename.from_address(address).to_text()  # noqa: E731
    assert ask(view, reverse("10.0.0.2"), "PTR") == ["web.net-one."]
    assert ask(view, reverse("fd00::2"), "PTR") == ["web.net-one."]
    assert ask(view, reverse("10.0.0.4"), "PTR") is None
    assert ask(view, "x.in-addr.arpa", "PTR") is None


def test_what_goes_is_forgotten(names):
    names.remove(endpoint(2, "one", "web", "Alias", "0123456789ab", six=True))
    view = View(names, ["one"], {})
    assert ask(view, "web") is None
    assert ask(view, "alias") == ["10.0.0.3"]
    names.remove(endpoint(3, "one", "other", "alias"))
    names.remove(endpoint(3, "one", "other", "alias"))
    assert ask(view, "alias") is None
