"""Link, Address, Route, ...: a decoded reply, whatever it holds, and what its properties make of it."""

import copy
import json
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import one_line, payload_bytes, value_of, value_or_protocol_error

from nsnet import kernel, objects, rtnl
from nsnet.errors import ProtocolError
from nsnet.names import OBJECTS
from nsnet.objects import (Address, Filter, Hop, Link, Neighbour, Nexthop, NsId, Port, Qdisc, Route, Rule,
                           TrafficClass, Vlan, vlans)
from nsnet.tables import Layout
from nsnet.wire import encode_attribute

# A Port is made from a message of family AF_BRIDGE alone.
KINDS = {Link: rtnl.LINK_BODY, Port: Layout(rtnl.IFINFOMSG, rtnl.BRIDGE_LINK), Address: rtnl.ADDR_BODY,
         Route: rtnl.ROUTE_BODY, Rule: rtnl.RULE_BODY,
         Nexthop: rtnl.NEXTHOP_BODY, Neighbour: rtnl.NEIGH_BODY, NsId: rtnl.NSID_BODY, Qdisc: rtnl.TC_BODY,
         TrafficClass: rtnl.TC_BODY, Filter: rtnl.TC_BODY}
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def made(kind, attrs, **header):
    """From a message with that header and those attributes, there and back over the wire."""
    layout = KINDS[kind]
    return layout.view(layout.encode((header, attrs)), 0, kernel.index_attributes, kind)


def properties(kind):
    return [name for name in dir(kind) if isinstance(getattr(kind, name), property)]


def test_every_class_of_objects_is_here():
    found = {value for value in vars(objects).values() if isinstance(value, type) and hasattr(value, "FIELDS")}
    assert {kind for kind in found if not kind.__name__.startswith("_")} == set(KINDS)


@each_kind
def test_the_fields_are_properties(kind):
    assert kind.FIELDS and set(kind.FIELDS) <= set(properties(kind))


@each_kind
@given(data=st.data())
def test_any_body_makes_an_object_with_a_brief_repr(kind, data):
    body = data.draw(value_of(KINDS[kind]))
    found = kind.from_body(body)
    assert found.attrs is body.attrs and found == body
    assert one_line(repr(found)) and repr(found).startswith(f"{kind.__name__}(") and "attrs" not in repr(found)
    for name in properties(kind):
        getattr(found, name)
    assert json.loads(json.dumps(found.as_dict())).keys() == set(kind.FIELDS)


@each_kind
@given(data=st.data())
def test_any_bytes_make_an_object_whose_properties_are_values_or_protocol_errors(kind, data):
    payload = data.draw(payload_bytes(KINDS[kind]))
    found = value_or_protocol_error(KINDS[kind].view, payload, 0, kernel.index_attributes, kind)
    if found is not None:
        for name in properties(kind):
            value_or_protocol_error(getattr, found, name)
        assert one_line(repr(found))


@each_kind
def test_an_object_is_frozen_and_a_value(kind):
    found = made(kind, {9999: b"x"})
    for name in ("attrs", "index", "anything"):
        with pytest.raises(AttributeError):
            setattr(found, name, {})
    for again in (made(kind, {9999: b"x"}), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert again == found and type(again) is kind
    assert found != made(kind, {9999: b"y"})


@each_kind
@given(data=st.data())
def test_objects_that_are_equal_have_the_same_hash(kind, data):
    body = data.draw(value_of(KINDS[kind]))
    found, again = kind.from_body(body), copy.deepcopy(kind.from_body(body))
    read = made(kind, {9999: b"x"})
    assert found == again and hash(found) == hash(again) and {found: 1}[again] == 1 and len({found, again}) == 1
    assert len({read, made(kind, {9999: b"x"}), made(kind, {9999: b"y"})}) == 2


def test_objects_of_two_classes_that_are_equal_have_the_same_hash():
    """They are equal as tuples are, whatever the class."""
    qdisc, traffic_class = made(Qdisc, {"kind": "htb"}, handle=1), made(TrafficClass, {"kind": "htb"}, handle=1)
    assert qdisc == traffic_class and hash(qdisc) == hash(traffic_class) and made(Link, {}) != made(Route, {})


# --- in words ---

@pytest.mark.parametrize("found, words", [
    (made(Route, {"dst": "10.0.0.0"}, dst_len=8, table=254, protocol=2, scope=253, type=1, family=rtnl.AF_INET),
     "dst='10.0.0.0/8', table=MAIN, protocol=KERNEL, scope=LINK, type=UNICAST, family=INET, hops=(), flags=0"),
    (made(Route, {"table": 1000}, table=252, protocol=77, scope=7, type=99, family=rtnl.AF_INET6, flags=4),
     "dst='default', table=1000, protocol=77, scope=7, type=99, family=INET6, hops=(), flags=ONLINK"),
    (made(Route, {}, table=255, type=2, protocol=4),
     "dst='default', table=LOCAL, protocol=STATIC, scope=UNIVERSE, type=LOCAL, family=UNSPEC, hops=(), flags=0"),
    (made(Neighbour, {"dst": "10.0.0.9"}, ifindex=2, state=2, flags=0x80, family=rtnl.AF_INET),
     "index=2, dst='10.0.0.9', state=REACHABLE, flags=ROUTER, family=INET"),
    (made(Neighbour, {}, state=0xC0, family=rtnl.AF_BRIDGE), "index=0, state=NOARP|PERMANENT, flags=0, family=BRIDGE"),
    (made(Address, {"local": "10.0.0.1"}, prefixlen=8, scope=254, flags=0x80),
     "index=0, address='10.0.0.1/8', scope=HOST, flags=PERMANENT"),
    (made(Qdisc, {"kind": "htb"}, ifindex=3, handle=1 << 16, parent=rtnl.TC_H_ROOT),
     "index=3, kind='htb', handle=1:, parent=ROOT"),
    (made(TrafficClass, {"kind": "htb"}, ifindex=3, handle=0x10010, parent=0x10000),
     "index=3, kind='htb', handle=1:10, parent=1:"),
    (made(Filter, {"kind": "u32"}, info=5 << 16 | int.from_bytes(b"\x08\0", sys.byteorder)),
     "index=0, kind='u32', handle=0, parent=0, priority=5, protocol=IP, chain=0"),
    (made(Rule, {"priority": 5}, family=rtnl.AF_INET, table=254, action=1),
     "priority=5, family=INET, table=MAIN, action=TO_TBL, l3mdev=False, inverted=False"),
    (made(Nexthop, {"id": 7}, family=rtnl.AF_INET, protocol=4, scope=0),
     "id=7, blackhole=False, fdb=False, group=(), scope=UNIVERSE, protocol=STATIC, family=INET"),
    (made(Port, {"protinfo": {"state": 3}}, family=7, index=4), "index=4, ifname='', state=FORWARDING")],
    ids=lambda value: type(value).__name__ if isinstance(value, tuple) else "")
def test_a_repr_has_words_for_numbers_and_the_properties_have_the_numbers(found, words):
    assert repr(found) == str(found) == f"{type(found).__name__}({words})"
    for name in found.FIELDS:
        value = getattr(found, name)
        assert not isinstance(value, str) or name in ("ifname", "dst", "address", "kind")


def test_a_class_of_somebody_elses_says_the_same_words():
    class Mine(Route):
        pass

    assert repr(made(Route, {}, table=254)).replace("Route(", "Mine(") == repr(Mine(*made(Route, {}, table=254)))


@each_kind
def test_every_word_is_for_a_field(kind):
    assert set(OBJECTS.get(kind.__name__, ())) <= set(kind.FIELDS)


@each_kind
def test_an_object_without_attributes_has_none(kind):
    found = made(kind, {})
    assert found.attrs == {} and one_line(repr(found))
    for name in properties(kind):
        assert getattr(found, name) in (None, 0, (), {}, "", "unknown", "default", "/0", -1)


# --- links ---

def test_a_link_reads_its_attributes():
    attrs = {"ifname": "veth0", "linkinfo": {"kind": "veth"}, "operstate": 6, "address": "02:00:00:00:00:01",
             "mtu": 1400, "master": 3, "group": 9, "ifalias": "mine", "link": 5, "link_netnsid": 0,
             "prop_list": {"alt_ifname": ["a", "b"]}}
    found = made(Link, attrs, index=7, flags=rtnl.IFF_UP | rtnl.IFF_LOWER_UP)
    assert found.as_dict() == {
        "index": 7, "ifname": "veth0", "kind": "veth", "up": True, "carrier": True, "operstate": "up",
        "lladdr": "02:00:00:00:00:01", "mtu": 1400, "master": 3, "group": 9, "ifalias": "mine", "peer_index": 5,
        "peer_netnsid": 0, "altnames": ("a", "b")}


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


def test_a_link_has_the_options_of_its_kind_and_those_of_its_masters():
    found = made(Link, {"linkinfo": {"kind": "vlan", "data": {"id": 5}, "slave_kind": "bridge",
                                     "slave_data": {"cost": 7}}})
    assert found.options["id"] == 5 and found.port_options["cost"] == 7
    assert made(Link, {"linkinfo": {"kind": "odd", "data": b"abc"}}).options == b"abc"


def test_a_malformed_attribute_is_named_in_the_repr_and_spoils_no_other():
    payload = rtnl.LINK_BODY.encode(({"index": 7}, {"ifname": "a"})) + encode_attribute(10, b"x")
    found = rtnl.LINK_BODY.view(payload, kind=Link)
    assert "ifname='a'" in repr(found) and "master=<u32 of 1 bytes>" in repr(found)
    with pytest.raises(ProtocolError):
        found.as_dict()


# --- addresses ---

def test_an_address_is_the_local_one_of_a_point_to_point_link():
    found = made(Address, {"local": "10.0.0.1", "address": "10.0.0.2"}, prefixlen=32, index=2)
    assert (found.address, found.peer, found.index) == ("10.0.0.1/32", "10.0.0.2", 2)
    assert made(Address, {"address": "fd00::1"}, prefixlen=64).address == "fd00::1/64"
    assert made(Address, {"local": "10.0.0.1", "address": "10.0.0.1"}).peer is None


def test_the_wide_flags_of_an_address_are_the_ones():
    assert made(Address, {"address": "fd00::1", "flags": 0x100}, flags=2).flags == 0x100
    assert made(Address, {"address": "fd00::1", "flags": 0}, flags=2).flags == 0
    assert made(Address, {"address": "fd00::1"}, flags=2).flags == 2


def test_a_lifetime_is_in_seconds_or_for_ever():
    found = made(Address, {"cacheinfo": {"ifa_valid": 600, "ifa_prefered": 0}})
    assert (found.valid_lft, found.preferred_lft) == (600, 0)
    found = made(Address, {"cacheinfo": (objects.FOREVER, objects.FOREVER, 1, 1)})
    assert (found.valid_lft, found.preferred_lft) == (None, None)


# --- routes, rules, nexthops ---

def test_a_route_without_destination_is_the_default():
    assert made(Route, {"gateway": "10.0.0.1"}, family=rtnl.AF_INET).dst == "default"
    assert made(Route, {"dst": "0.0.0.0"}, dst_len=1).dst == "0.0.0.0/1"


def test_the_wide_table_of_a_route_or_rule_is_the_one():
    for kind in (Route, Rule):
        assert made(kind, {"table": 1000}, table=252).table == 1000 and made(kind, {}, table=254).table == 254


def test_a_metric_of_zero_is_not_none():
    assert made(Route, {"priority": 0}).metric == 0 and made(Route, {}).metric is None


def test_a_gateway_is_of_either_family():
    assert made(Route, {"gateway": "10.0.0.1"}).via == "10.0.0.1"
    assert made(Route, {"via": "fd00::1"}).via == "fd00::1"


def test_a_route_of_several_hops_counts_their_weight_from_one():
    hops = [({"ifindex": 2}, {"gateway": "10.0.0.1"}), ({"hops": 255, "flags": 4}, {"via": "fd00::1"})]
    assert made(Route, {"multipath": hops}).hops == (Hop("10.0.0.1", 2, 1, 0), Hop("fd00::1", None, 256, 4))


def test_a_route_of_some_sources_has_them_with_prefix():
    assert made(Route, {"src": "fd00::"}, src_len=64).src == "fd00::/64"


def test_a_rule_reads_its_header_and_its_ranges():
    found = made(Rule, {"src": "10.1.0.0", "dst": "10.2.0.0", "sport_range": (1, 2), "dport_range": (3, 3),
                        "uid_range": {"start": 5, "end": 6}, "l3mdev": 1}, src_len=16, dst_len=24, action=1,
                 flags=rtnl.FIB_RULE_INVERT)
    assert (found.src, found.dst) == ("10.1.0.0/16", "10.2.0.0/24")
    assert (found.sport, found.dport, found.uids) == ((1, 2), (3, 3), (5, 6))
    assert found.inverted and found.l3mdev and found.action == rtnl.FR_ACT_TO_TBL


@pytest.mark.parametrize("low, high, weight", [(0, 0, 1), (255, 0, 256), (0, 1, 257), (255, 255, 65536)])
def test_a_member_of_a_group_counts_its_weight_from_one(low, high, weight):
    assert made(Nexthop, {"group": [(7, low, high)]}).group == ((7, weight),)


def test_a_flag_of_a_nexthop_is_whether_it_is_there():
    assert made(Nexthop, {"blackhole": True}).blackhole and made(Nexthop, {"fdb": True}).fdb
    assert not made(Nexthop, {}).blackhole and not made(Nexthop, {}).fdb


# --- neighbours, VLANs, traffic control ---

def test_a_neighbour_reads_its_header():
    attrs = {"dst": "10.0.0.9", "lladdr": "02:00:00:00:00:09"}
    found = made(Neighbour, attrs, family=rtnl.AF_INET, ifindex=2, state=128, flags=1, type=1)
    assert (found.index, found.dst, found.lladdr, found.state, found.flags, found.family) == (
        2, "10.0.0.9", "02:00:00:00:00:09", 128, 1, rtnl.AF_INET)


def test_a_port_is_what_its_bridge_knows_of_it():
    found = made(Port, {"ifname": "a", "master": 2, "protinfo": {"state": 3, "cost": 7}}, family=7, index=4)
    assert found.as_dict() == {"index": 4, "ifname": "a", "master": 2, "state": 3} and found.options["cost"] == 7


def test_ranges_of_vlans_are_written_out():
    info = [(rtnl.BRIDGE_VLAN_INFO_PVID | rtnl.BRIDGE_VLAN_INFO_UNTAGGED, 1), (rtnl.BRIDGE_VLAN_INFO_RANGE_BEGIN, 10),
            (rtnl.BRIDGE_VLAN_INFO_RANGE_END, 12), (0, 20)]
    link = made(Link, {"af_spec": {"vlan_info": info}}, family=rtnl.AF_BRIDGE, index=3)
    assert vlans(link) == [Vlan(3, 1, True, True), *(Vlan(3, vid, False, False) for vid in (10, 11, 12, 20))]
    assert vlans(made(Link, {}, family=rtnl.AF_BRIDGE)) == []


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), max_size=6))
def test_any_vlans_are_listed_in_good_time(info):
    """However the ranges lie: a range ends where it began, or one later, at most 65536 apart."""
    found = vlans(made(Link, {"af_spec": {"vlan_info": info}} if info else {}, family=rtnl.AF_BRIDGE))
    assert all(0 <= vlan.vid <= 0xFFFF for vlan in found)


def test_a_filter_has_priority_and_protocol_in_one_field():
    protocol = int.from_bytes(b"\x08\0", sys.byteorder)                     # in network byte order
    found = made(Filter, {"kind": "u32", "chain": 3}, info=5 << 16 | protocol)
    assert (found.priority, found.protocol, found.chain, found.kind) == (5, 0x0800, 3, "u32")
