"""Tables of attributes: what is written is read back, over every table; no bytes do more than raise ProtocolError."""

import copy
import sys
import time

import pytest
from discovered import LAYOUTS, TABLES
from hypothesis import given
from hypothesis import strategies as st
from strategies import (BYTES, TEXT, attribute_bytes, attributes_of, deep_link, extremes, headers, of_many,
                        payload_bytes, refused, row_extremes, unknown_numbers, value_of, value_or_protocol_error)

from nsnet import kernel, rtnl, wire
from nsnet.errors import ProtocolError
from nsnet.tables import Attr, Body, Chain, Choice, Layout, Table, levels, listed, nested
from nsnet.wire import attributes, encode_attribute

HIGH = 3 if sys.byteorder == "little" else 2        # where the flag bits of nla_type are, in an attribute

each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def test_the_search_finds_every_table_and_layout():
    assert {name for name, value in vars(rtnl).items() if isinstance(value, Table)} <= set(TABLES)
    assert {name for name, value in vars(rtnl).items() if isinstance(value, Layout)} <= set(LAYOUTS)
    assert "IFLA_VRF_PORT" in TABLES, "one that only a choice refers to"
    assert set(rtnl.LAYOUTS.values()) <= set(LAYOUTS.values())
    assert len(TABLES) >= 46


def test_every_attribute_of_a_message_is_in_reach_of_the_index():
    for layout in rtnl.LAYOUTS.values():
        for table in (layout.table, *layout.by_family.values()):
            assert max(table.by_number) < kernel.INDEXED_TYPES


# --- there and back ---

@each_table
@of_many
@given(data=st.data())
def test_a_table_reads_back_what_it_wrote(table, data):
    values = data.draw(attributes_of(table))
    encoded = table.encode(values)
    found, view = table.decode(encoded), table.view(encoded)
    assert list(found.items()) == list(view.items()) == list(values.items())        # in the order of the wire, too
    assert table.encode(view) == table.encode(dict(view)) == view.encode() == encoded


@each_table
def test_every_row_carries_the_extremes_of_its_type(table):
    for name in table.rows:
        for values in row_extremes(table, name):
            encoded = table.encode(values)
            assert len(encoded) % 4 == 0
            assert table.decode(encoded) == values


@each_layout
@of_many
@given(data=st.data())
def test_a_layout_reads_back_what_it_wrote(layout, data):
    body = data.draw(value_of(layout))
    assert layout.decode(layout.encode(body)) == body
    assert layout.decode(layout.encode((body.header._asdict(), body.attrs))) == body


def test_a_layout_has_the_table_of_its_family():
    info = {"af_spec": {"flags": rtnl.BRIDGE_FLAGS_MASTER, "vlan_info": [(0, 5), (2, 7)]}}
    for header in ({"family": rtnl.AF_BRIDGE, "index": 3}, rtnl.IFINFOMSG.tuple(family=rtnl.AF_BRIDGE, index=3)):
        assert rtnl.LINK_BODY.decode(rtnl.LINK_BODY.encode((header, info))).attrs == info
    assert rtnl.LINK_BODY.table_for(rtnl.AF_BRIDGE) is rtnl.BRIDGE_LINK
    assert rtnl.LINK_BODY.table_for(rtnl.AF_INET6) is rtnl.INET6_LINK
    assert rtnl.LINK_BODY.table_for(99) is rtnl.LINK
    assert rtnl.LINK_BODY.encode(({}, {"af_spec": {"inet6": {"addr_gen_mode": 1}}}))


def test_a_chain_fills_in_its_lengths_and_pads_nothing_away():
    hops = [({"ifindex": 2}, {"gateway": "10.0.0.1"}), ({"ifindex": 3, "len": 77}, {}), ({"hops": 9}, {9999: b"abc"})]
    encoded = rtnl.NEXTHOPS.encode(hops)
    found = rtnl.NEXTHOPS.decode(encoded)
    assert [header.len for header, _ in found] == [16, 8, 16] and len(encoded) == 40
    assert [attrs for _, attrs in found] == [attrs for _, attrs in hops]
    assert [header.ifindex for header, _ in found] == [2, 3, 0] and found[2].header.hops == 9
    assert rtnl.NEXTHOPS.encode(found) == encoded


@pytest.mark.parametrize("length", [0, 7, 9])
def test_a_chain_of_impossible_lengths_is_a_protocol_error(length):
    with pytest.raises(ProtocolError, match=f"rtnexthop: length {length}, of 8"):
        rtnl.NEXTHOPS.decode(length.to_bytes(2, sys.byteorder) + bytes(6))


def test_a_link_of_a_chain_has_no_attributes_of_the_next():
    with pytest.raises(ProtocolError):
        rtnl.NEXTHOPS.decode((8 + 4).to_bytes(2, sys.byteorder) + bytes(6) + encode_attribute(5, bytes(4)))


def test_a_list_is_numbered_by_position_and_read_in_the_order_of_the_wire():
    targets = listed(wire.ip)
    encoded = targets.encode(["10.0.0.1", "10.0.0.2"])
    assert encoded == encode_attribute(0, bytes([10, 0, 0, 1])) + encode_attribute(1, bytes([10, 0, 0, 2]))
    assert targets.decode(encoded[8:] + encoded[:8]) == ["10.0.0.2", "10.0.0.1"]


@given(st.sampled_from(sorted(TABLES)).map(TABLES.get).flatmap(lambda one: st.tuples(st.just(one),
                                                                                   unknown_numbers(one))),
       st.lists(BYTES, min_size=1, max_size=3))
def test_what_a_table_does_not_know_survives_under_its_number(which, payloads):
    table, number = which
    encoded = b"".join(encode_attribute(number, payload) for payload in payloads)
    found = table.decode(encoded)
    assert found == {number: payloads if len(payloads) > 1 else payloads[0]}
    assert table.encode(found) == table.encode(table.view(encoded)) == encoded


@each_table
def test_of_an_attribute_that_stands_twice_the_first_counts(table):
    """As in iproute2's parser. Where it may stand several times, all do."""
    for name, attr in table.rows.items():
        if isinstance(attr.codec, Choice):
            first, second = {name: b"first"}, {name: b"second"}
        else:
            first, second = ({name: [value] if attr.many else value} for value in extremes(attr.codec)[-2:]) if len(
                extremes(attr.codec)) > 1 else ({name: extremes(attr.codec)[0]},) * 2
        found = table.decode(table.encode(first) + table.encode(second))
        assert found == ({name: first[name] + second[name]} if attr.many else first)


def test_the_second_of_an_attribute_may_be_anything():
    odd = rtnl.LINK.encode({"mtu": 1500}) + encode_attribute(4, b"odd")
    assert rtnl.LINK.decode(odd) == {"mtu": 1500}


def test_the_nested_flag_is_written_where_the_row_says_so():
    assert rtnl.LINK.encode({"prop_list": {"alt_ifname": ["a"]}})[2:4] == (0x8000 | 52).to_bytes(2, sys.byteorder)
    assert rtnl.LINK.encode({"linkinfo": {}})[2:4] == (18).to_bytes(2, sys.byteorder)


def test_flag_bits_of_a_known_attribute_are_ignored_in_reading():
    for bits in (wire.NLA_F_NESTED, wire.NLA_F_NET_BYTEORDER):
        assert rtnl.LINK.decode(encode_attribute(4 | bits, (1500).to_bytes(4, sys.byteorder))) == {"mtu": 1500}


@each_table
@of_many
@given(data=st.data())
def test_flag_bits_are_written_as_they_came(table, data):
    """A kernel that sets NLA_F_NESTED where iproute2 does not, and the other way round: an eager decode keeps it."""
    encoded = bytearray(table.encode(data.draw(attributes_of(table))))
    for kind, first, _ in list(attributes(bytes(encoded))):
        if kind & wire.NLA_TYPE_MASK in table.by_number:        # another one is kept under its number, bits and all
            encoded[first - 4 + HIGH] ^= data.draw(st.sampled_from((0, 0x40, 0x80, 0xC0)))
    encoded = bytes(encoded)
    values = table.decode(encoded)
    assert table.encode(values) == table.encode(copy.deepcopy(values)) == encoded
    assert list(table.decode(table.encode({**values}))) == list(values)         # a copy is written with our own bits


def test_flag_bits_deep_inside_are_written_as_they_came():
    kind, data = encode_attribute(1, b"bridge"), encode_attribute(0x8002, encode_attribute(0x4001, bytes(4)))
    encoded = encode_attribute(0x8012, kind + data)
    found = rtnl.LINK.decode(encoded)
    assert found == {"linkinfo": {"kind": "bridge", "data": {"forward_delay": 0}}}
    assert rtnl.LINK.encode(found) == encoded
    found["linkinfo"]["data"]["forward_delay"] = 7
    assert rtnl.LINK.encode(found) == encoded[:-4] + (7).to_bytes(4, sys.byteorder)
    del found["linkinfo"]["data"]
    assert rtnl.LINK.encode(found) == encode_attribute(0x8012, kind)


def test_flag_bits_stay_with_each_of_several():
    one, other = encode_attribute(53, b"a\0"), encode_attribute(0x8000 | 53, b"b\0")
    for encoded in (one + other, other + one, one + one + other, other + other, one + other + one):
        found = rtnl.PROP_LIST.decode(encoded)
        assert rtnl.PROP_LIST.encode(found) == encoded
        found["alt_ifname"].append("a")
        assert rtnl.PROP_LIST.encode(found) == encoded + one
        del found["alt_ifname"][1:]
        assert rtnl.PROP_LIST.encode(found) == encoded[:8]


def test_a_choice_is_read_wherever_its_sibling_stands():
    veth = {"data": {"peer": ({"index": 7}, {"ifname": "eth0"})}}
    first = rtnl.LINKINFO.encode({"kind": "veth", **veth})
    kind = rtnl.LINKINFO.encode({"kind": "veth"})
    last = first[len(kind):] + kind
    assert rtnl.LINKINFO.decode(first) == rtnl.LINKINFO.decode(last)
    assert rtnl.LINKINFO.decode(first)["data"]["peer"].attrs == {"ifname": "eth0"}


def test_a_choice_of_an_unknown_kind_is_bytes():
    for values in ({"kind": "dummy", "data": b"abc"}, {"data": b"abc"}):
        assert rtnl.LINKINFO.decode(rtnl.LINKINFO.encode(values)) == values


def test_a_choice_picks_by_its_sibling():
    choice = Choice("kind", one=wire.u8)
    assert choice.pick({"kind": "one"}) is wire.u8
    assert choice.pick({"kind": "two"}) is wire.raw and choice.pick({}) is wire.raw


def test_one_table_writes_every_kind_of_a_choice():
    """The writers are kept by name; a choice's by what it picked."""
    for _ in range(2):
        for kind, data in (("vlan", {"id": 5}), ("vxlan", {"id": 5}), ("dummy", b"\5")):
            assert rtnl.LINKINFO.decode(rtnl.LINKINFO.encode({"kind": kind, "data": data}))["data"] == data


def test_a_table_refuses_a_number_that_stands_twice():
    with pytest.raises(ValueError, match="twice"):
        Table("X", a=Attr(1, wire.u8), b=Attr(1, wire.u8))


def test_only_what_has_attributes_has_levels():
    for codec, data, count in ((wire.u32, bytes(4), 0), (nested(rtnl.VLAN), b"", 1), (rtnl.PEER, bytes(16), 1),
                               (rtnl.NEXTHOPS, rtnl.NEXTHOPS.encode([({}, {}), ({}, {})]), 2)):
        assert len(levels(codec, data, 0, len(data))) == count


# --- any bytes ---

@each_table
@of_many
@given(data=st.data())
def test_any_bytes_are_attributes_or_a_protocol_error(table, data):
    found = value_or_protocol_error(table.decode, data.draw(attribute_bytes(table)))
    if found is not None:               # and what was understood is written so that it is understood again
        assert table.decode(table.encode(found)) == found


@each_layout
@of_many
@given(data=st.data())
def test_any_bytes_are_a_payload_or_a_protocol_error(layout, data):
    payload = data.draw(payload_bytes(layout))
    found = value_or_protocol_error(layout.decode, payload)
    assert (value_or_protocol_error(layout.view, payload) is None) == (len(payload) < layout.fixed.size)
    if found is not None:
        assert layout.decode(layout.encode(found)) == found


@each_table
@of_many
@given(data=st.data())
def test_a_truncated_attribute_is_a_protocol_error(table, data):
    encoded = table.encode(data.draw(attributes_of(table)) or {9999: b"x"})
    cut = data.draw(st.integers(0, len(encoded) - 1))
    rest = value_or_protocol_error(table.decode, encoded[:cut])
    assert rest is None or len(table.encode(rest)) <= len(encoded)


@pytest.mark.parametrize("length", [0, 1, 3, 9])
def test_a_length_that_does_not_advance_or_is_beyond_the_data_is_a_protocol_error(length):
    with pytest.raises(ProtocolError, match=f"length {length}, of 8"):
        rtnl.LINK.decode(length.to_bytes(2, sys.byteorder) + bytes(6))


def test_bytes_behind_the_last_attribute_are_a_protocol_error():
    with pytest.raises(ProtocolError, match="3 bytes behind the last attribute"):
        rtnl.LINK.decode(encode_attribute(1, b"") + bytes(3))


# --- bytes that are meant to hurt ---

def test_nesting_as_deep_as_the_kernels_is_read():
    assert rtnl.LINK_BODY.decode(deep_link(4)).attrs["linkinfo"]["data"]["peer"].attrs["linkinfo"]["kind"] == "veth"


@pytest.mark.parametrize("count", [6, 17, 400, 1800])
def test_nesting_without_end_is_a_protocol_error(count):
    with pytest.raises(ProtocolError, match="nested more than 16 deep"):
        rtnl.LINK_BODY.decode(deep_link(count))


def test_multipath_within_multipath_without_end_is_a_protocol_error():
    payload = b""
    for _ in range(1800):
        payload = encode_attribute(9, (8 + len(payload)).to_bytes(2, sys.byteorder) + bytes(6) + payload)
    with pytest.raises(ProtocolError, match="nested more than 16 deep"):
        rtnl.ROUTE.decode(payload)


def test_the_time_it_takes_grows_no_faster_than_the_bytes():
    """One unknown attribute over and over: 0.1 s of processor time if linear, 10 s if quadratic."""
    some = encode_attribute(300, b"") * 100_000
    started = time.process_time()
    assert len(rtnl.LINK.decode(some)[300]) == 100_000
    assert len(rtnl.LINK.view(some)[300]) == 100_000
    assert time.process_time() - started < 3, "repeated unknown attributes take quadratic time"


# --- values that do not fit ---

def test_an_attribute_that_a_table_does_not_have_is_a_usage_error():
    assert "'ifnmae'" in refused(rtnl.LINK.encode, {"ifnmae": "eth0"})
    assert "IFLA" in refused(rtnl.LINK.encode, {None: "eth0"})


@pytest.mark.parametrize("values, blamed", [
    ({"mtu": -1}, "IFLA_MTU"), ({"mtu": None}, "IFLA_MTU"), ({"linkinfo": "bridge"}, "IFLA_LINKINFO"),
    ({"linkinfo": {"kind": "bridge", "data": {"priority": 65536}}}, "IFLA_BR_PRIORITY"),
    ({"prop_list": {"alt_ifname": [7]}}, "IFLA_ALT_IFNAME"), ({"prop_list": {"alt_ifname": 7}}, "IFLA_ALT_IFNAME"),
    ({"linkinfo": {"kind": "veth", "data": {"peer": 7}}}, "VETH_INFO_PEER"),
    ({"linkinfo": {"kind": "veth", "data": {"peer": ({"index": 2**40}, {})}}}, "VETH_INFO_PEER"),
    ({"stats": (1, 2, 3)}, "IFLA_STATS"), ({"ifname": "x" * 65536}, "IFLA_IFNAME"),
    ({"linkinfo": {"kind": "bond", "data": {"arp_ip_target": ["10.0.0.1", "x"]}}}, "IFLA_BOND_ARP_IP_TARGET"),
    ({"linkinfo": {"kind": "bond", "data": {"arp_ip_target": 7}}}, "IFLA_BOND_ARP_IP_TARGET"),
], ids=str)
def test_a_value_that_does_not_fit_is_a_usage_error_that_names_its_attribute(values, blamed):
    assert blamed in refused(rtnl.LINK.encode, values)


@pytest.mark.parametrize("values, blamed", [
    ({"multipath": [({}, {"gateway": "x"})]}, "RTA_GATEWAY"), ({"multipath": [7]}, "RTA_MULTIPATH"),
    ({"multipath": [({}, {9999: bytes(65530)})]}, "RTA_MULTIPATH"), ({"metrics": {"mtu": "x"}}, "RTAX_MTU"),
    ({"multipath": [({"ifindex": 2**31}, {})]}, "RTA_MULTIPATH"), ({"via": "x"}, "RTA_VIA"),
], ids=lambda value: str(value)[:40])
def test_a_route_that_does_not_fit_is_a_usage_error_that_names_its_attribute(values, blamed):
    assert blamed in refused(rtnl.ROUTE.encode, values)


@pytest.mark.parametrize("number", [-1, 0x10000, 2**70])
def test_an_attribute_number_out_of_range_is_a_usage_error(number):
    assert str(number) in refused(rtnl.LINK.encode, {number: b""})


def test_a_payload_longer_than_a_length_field_is_a_usage_error():
    assert len(rtnl.LINK.decode(rtnl.LINK.encode({9999: bytes(65531)}))[9999]) == 65531
    assert "at most 65531" in refused(rtnl.LINK.encode, {9999: bytes(65532)})
    assert "at most 65531" in refused(rtnl.LINK.encode, {"linkinfo": {9999: bytes(65531)}})


@given(TEXT)
def test_encoding_leaves_its_values_alone(text):
    values = {"ifname": text, "linkinfo": {"kind": "veth", "data": {"peer": ({}, {"ifname": text})}}, 9999: [
                                                                             b"a", b"b"]}
    before = copy.deepcopy(values)
    rtnl.LINK.encode(values)
    assert values == before


@given(headers(rtnl.IFINFOMSG))
def test_a_header_is_taken_as_a_tuple_or_as_a_mapping(header):
    encoded = rtnl.PEER.encode(Body(header, {}))
    assert rtnl.PEER.encode((header, {})) == rtnl.PEER.encode((header._asdict(), {})) == encoded


def test_a_chain_and_a_layout_know_their_table_when_they_are_used():
    """PEER and NEXTHOPS are made before the tables that hold them."""
    assert rtnl.PEER.table is rtnl.LINK and rtnl.NEXTHOPS.table is rtnl.ROUTE and isinstance(rtnl.NEXTHOPS, Chain)


def test_the_extremes_cover_every_codec_of_the_tables():
    for table in TABLES.values():
        for attr in table.rows.values():
            if not isinstance(attr.codec, Choice):
                assert extremes(attr.codec)
