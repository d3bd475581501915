"""Link, Address, Route, Neighbour: made from a decoded reply alone, whatever it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import one_line, payload_bytes, value_of

from nsnet import rtnl
from nsnet.errors import ProtocolError
from nsnet.objects import Address, Link, Neighbour, Route
from nsnet.wire import Body

KINDS = {Link: rtnl.LINK_BODY, Address: rtnl.ADDR_BODY, Route: rtnl.ROUTE_BODY, Neighbour: rtnl.NEIGH_BODY}
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def made(kind, attrs, **header):
    """From a message with that header and those attributes, there and back over the wire."""
    layout = KINDS[kind]
    return kind.from_body(layout.decode(layout.encode((header, attrs))))


@each_kind
@given(data=st.data())
def test_any_body_makes_an_object_with_a_brief_repr(kind, data):
    body = data.draw(value_of(KINDS[kind]))
    found = kind.from_body(body)
    assert found.attrs is body.attrs
    assert one_line(repr(found)) and repr(found).startswith(f"{kind.__name__}(") and "attrs" not in repr(found)


@each_kind
@given(data=st.data())
def test_any_bytes_that_decode_make_an_object(kind, data):
    try:
        body = KINDS[kind].decode(data.draw(payload_bytes(KINDS[kind])))
    except ProtocolError:
        return
    assert kind.from_body(body).attrs == body.attrs


@each_kind
def test_an_object_is_frozen(kind):
    found = made(kind, {})
    with pytest.raises(AttributeError):
        found.attrs = {}
    assert found == made(kind, {})


def test_a_link_without_attributes_has_none():
    assert made(Link, {}, index=7) == Link(7, "", None, False, False, "unknown", None, 0, None, 0, None, None, None, {})


def test_a_link_reads_its_attributes():
    attrs = {"ifname": "veth0", "linkinfo": {"kind": "veth"}, "operstate": 6, "address": "02:00:00:00:00:01",
             "mtu": 1400,
             "master": 3, "group": 9, "ifalias": "mine", "link": 5, "link_netnsid": 0}
    assert made(Link, attrs, index=7, flags=rtnl.IFF_UP | rtnl.IFF_LOWER_UP) == Link(
        7, "veth0", "veth", True, True, "up", "02:00:00:00:00:01", 1400, 3, 9, "mine", 5, 0, attrs)


@pytest.mark.parametrize("flags, up, carrier", [(0, False, False), (rtnl.IFF_UP, True, False),
                                                (rtnl.IFF_RUNNING, False, False), (rtnl.IFF_LOWER_UP, False, True)])
def test_up_is_what_was_asked_and_carrier_what_there_is(flags, up, carrier):
    found = made(Link, {}, flags=flags)
    assert (found.up, found.carrier) == (up, carrier)


@pytest.mark.parametrize("number, word", [(0, "unknown"), (1, "notpresent"), (2, "down"), (3, "lowerlayerdown"),
                                          (4, "testing"), (5, "dormant"), (6, "up"), (7, "7"), (255, "255")])
def test_an_operstate_is_a_word_or_its_number(number, word):
    assert made(Link, {"operstate": number}).operstate == word


def test_netnsid_zero_is_not_this_namespace():
    assert made(Link, {"link_netnsid": 0}).peer_netnsid == 0 and made(Link, {}).peer_netnsid is None


def test_an_address_is_the_local_one_of_a_point_to_point_link():
    found = made(Address, {"local": "10.0.0.1", "address": "10.0.0.2"}, prefixlen=32, index=2)
    assert found.address == "10.0.0.1/32"
    assert made(Address, {"address": "fd00::1"}, prefixlen=64).address == "fd00::1/64"


def test_the_wide_flags_of_an_address_are_the_ones():
    assert made(Address, {"address": "fd00::1", "flags": 0x100}, flags=2).flags == 0x100
    assert made(Address, {"address": "fd00::1", "flags": 0}, flags=2).flags == 0
    assert made(Address, {"address": "fd00::1"}, flags=2).flags == 2


def test_a_route_without_destination_is_the_default():
    assert made(Route, {"gateway": "10.0.0.1"}, family=rtnl.AF_INET).dst == "default"
    assert made(Route, {"dst": "0.0.0.0"}, dst_len=1).dst == "0.0.0.0/1"


def test_the_wide_table_of_a_route_is_the_one():
    assert made(Route, {"table": 1000}, table=252).table == 1000 and made(Route, {}, table=254).table == 254


def test_a_metric_of_zero_is_not_none():
    assert made(Route, {"priority": 0}).metric == 0 and made(Route, {}).metric is None


def test_a_neighbour_reads_its_header():
    header = rtnl.NDMSG.tuple(family=rtnl.AF_INET, ifindex=2, state=128, flags=1, type=1)
    attrs = {"dst": "10.0.0.9", "lladdr": "02:00:00:00:00:09"}
    assert Neighbour.from_body(Body(header, attrs)) == Neighbour(
        2, "10.0.0.9", "02:00:00:00:00:09", 128, 1, rtnl.AF_INET, attrs)
