"""Configuration-only networks: what is kept, what is made from it, what is refused."""

from __future__ import annotations

import sqlite3

import pytest

from orlop.errors import ForbiddenError, InvalidParameterError, NotFoundError, OrlopError
from orlop.network.configurations import apply_configuration, check_combination, check_unused, make_configuration
from orlop.network.networks import Network
from orlop.network.records import Records
from orlop.network.requests import NetworkRequest, PoolRequest

POOLS = (PoolRequest("10.0.0.0/24", "10.0.0.9", "10.0.0.64/26", {"a": "10.0.0.65"}), PoolRequest("fd00::/64"))
KEPT = NetworkRequest("conf", pools=POOLS, ipv6=True, options={"o": "1"}, labels={"l": "2"}, config_only=True)


def test_what_is_kept_is_what_is_made_of_it(tmp_path):
    with sqlite3.connect(tmp_path / "state.db") as database:
        Records(database).put_network(make_configuration(KEPT))
        (conf,) = Records(database).networks()
    assert (conf.config_only, conf.driver, conf.subnet) == (True, "null", "")
    made = apply_configuration([conf], NetworkRequest("made", internal=True, config_from="conf"))
    assert (made.pools, made.options, made.labels, made.ipv4, made.ipv6) == (POOLS, {"o": "1"}, {"l": "2"}, True, True)
    assert (made.name, made.internal, made.config_only) == ("made", True, False)


@pytest.mark.parametrize("name", ["nope", "plain", "", "conf\n"])
def test_only_a_configuration_is_one(name: str):
    networks = [make_configuration(KEPT), Network("1" * 64, "plain", "bridge", 0)]
    with pytest.raises(NotFoundError, match="does not exist"):
        apply_configuration(networks, NetworkRequest("made", config_from=name))


def test_it_is_in_use_while_there_is_what_was_made_of_it():
    conf = make_configuration(KEPT)
    check_unused([conf, Network("1" * 64, "plain", "bridge", 0)], conf)
    with pytest.raises(ForbiddenError, match='configuration network "conf" is in use'):
        check_unused([conf, Network("1" * 64, "made", "bridge", 0, config_from="conf")], conf)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (NetworkRequest("n", config_only=True, internal=True), ForbiddenError),
        (NetworkRequest("n", config_only=True, scope="local"), ForbiddenError),
        (NetworkRequest("n", config_only=True, config_from="c"), ForbiddenError),
        (NetworkRequest("n", config_only=True, pools=(PoolRequest(),)), InvalidParameterError),
        (NetworkRequest("n", config_from="c", ipv4=False), ForbiddenError),
        (NetworkRequest("n", config_from="c", pools=POOLS), ForbiddenError),
        (NetworkRequest("n", config_from="c", options={"a": "b"}), ForbiddenError),
        (NetworkRequest("n", config_from="c", ipam_driver="x"), ForbiddenError),
    ],
)
def test_what_may_not_be_together(request_: NetworkRequest, error: type[OrlopError]):
    with pytest.raises(error):
        check_combination(request_)
    check_combination(NetworkRequest("n", config_from="c", internal=True, attachable=True, ipam_driver="default"))
