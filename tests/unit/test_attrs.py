"""Attributes that are read when they are asked for: the same as all at once, but one that is odd spoils no other.

Each property is held with and without the index that C makes (kernel.index_attributes).
"""

import copy
import pickle
import sys
import threading

import pytest
from discovered import LAYOUTS, TABLES
from hypothesis import given
from hypothesis import strategies as st
from strategies import attribute_bytes, deep_link, of_many, payload_bytes, value_or_protocol_error

from nsnet import kernel, rtnl
from nsnet.errors import ProtocolError
from nsnet.objects import Link
from nsnet.tables import Attrs, Body
from nsnet.wire import NLA_TYPE_MASK, attributes, encode_attribute

each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
each_index = pytest.mark.parametrize("index", [None, kernel.index_attributes], ids=["search", "index"])
ABSENT = object()
ERROR = "a ProtocolError"


def plain(value):
    """Read to the end: mappings as dicts, and what does not parse as ERROR."""
    try:
        if isinstance(value, Attrs):
            return dict(value)
        return Body(value.header, plain(value.attrs)) if isinstance(value, Body) else value
    except ProtocolError:
        return ERROR


def asked(attrs, name):
    """What one attribute is, absent and malformed included; `in` must say the same."""
    try:
        value = attrs.get(name, ABSENT)
        assert (name in attrs) == (value is not ABSENT)
        return plain(value)
    except ProtocolError:
        return ERROR


def names_to_ask(table, data):
    """Every row, the unknown types that are there, and some that are not."""
    unknown = []
    try:
        unknown += [kind for kind, _, _ in attributes(data)]
    except ProtocolError:
        unknown += [9999]
    return [*table.rows, *unknown, 0x3FFE, "no such name"]


@each_table
@of_many
@given(data=st.data())
def test_one_by_one_is_the_same_as_all_at_once(table, data):
    payload = data.draw(attribute_bytes(table))
    names = data.draw(st.permutations(names_to_ask(table, payload)))
    whole = value_or_protocol_error(table.decode, payload)
    searched, indexed = Attrs(table, payload), Attrs(table, payload, index=kernel.index_attributes)
    found = {name: asked(searched, name) for name in names}
    assert {name: asked(indexed, name) for name in names} == found
    assert {name: asked(searched, name) for name in names} == found, "asked again, it is something else"
    if whole is not None:
        assert found == {name: whole.get(name, ABSENT) for name in names}
        for attrs in (searched, indexed):
            assert attrs == whole and whole == attrs and list(attrs.items()) == list(whole.items())
            assert (len(attrs), list(attrs), list(attrs.values())) == (len(whole), list(whole), list(whole.values()))
            assert repr(attrs) == repr(whole)
    else:
        assert repr(searched).startswith("<attributes that do not parse: ")


@each_layout
@each_index
@of_many
@given(data=st.data())
def test_a_view_of_a_message_is_the_message(layout, index, data):
    payload = data.draw(payload_bytes(layout))
    view = value_or_protocol_error(layout.view, payload, 0, index)
    if view is None:
        assert len(payload) < layout.fixed.size
        return
    table = layout.table_for(view.header.family)
    level, whole = payload[layout.fixed.size:], value_or_protocol_error(layout.decode, payload)
    for name in names_to_ask(table, level):
        found = asked(view.attrs, name)
        assert whole is None or found == whole.attrs.get(name, ABSENT)
    if whole is not None:
        assert view == whole
    # What was not touched is written as it came, whether it makes sense or not.
    assert layout.encode(view) == layout.fixed.pack(view.header) + level


def test_a_copy_may_be_changed_and_written():
    attrs = Attrs(rtnl.LINK, rtnl.LINK.encode({"mtu": 1500, 9998: [b"a", b"b"]}))
    changed = {**attrs, "mtu": 9000, 9999: b"new"}
    assert rtnl.LINK.decode(rtnl.LINK.encode(changed)) == {"mtu": 9000, 9998: [b"a", b"b"], 9999: b"new"}
    assert rtnl.INET6_LINK.encode(attrs) == rtnl.LINK.encode(attrs)         # of another table: one by one


@each_table
@each_index
def test_one_malformed_attribute_does_not_hinder_the_others(table, index):
    """Each in turn is one byte of 0xff; what of the others can be read all at once can be read."""
    bad = {name: encode_attribute(attr.number, b"\xff") for name, attr in table.rows.items()}
    for name, attr in table.rows.items():
        if value_or_protocol_error(table.decode, bad[name]) is not None:
            continue                                    # for one byte is a number, a text, or bytes
        others = {other: row for other, row in table.rows.items() if other != name and row.codec.by is None}
        for other, row in others.items():
            alone = encode_attribute(row.number, bytes(4))
            try:
                expected = table.decode(alone)
            except ProtocolError:
                continue
            for data in (bad[name] + alone, alone + bad[name]):
                attrs = Attrs(table, data, index=index)
                assert plain(attrs[other]) == expected[other]
                assert asked(attrs, name) == ERROR and name in attrs


@each_index
def test_one_malformed_attribute_of_a_link_spoils_only_its_property(index):
    payload = rtnl.IFINFOMSG.encode(index=7) + encode_attribute(4, b"odd") + rtnl.LINK.encode(
        {"ifname": "eth0", "linkinfo": {"kind": "veth"}, "prop_list": {"alt_ifname": ["a", "b"]}, "group": 3})
    link = rtnl.LINK_BODY.view(payload, 0, index, Link)
    assert (link.index, link.ifname, link.kind, link.altnames, link.group) == (7, "eth0", "veth", ("a", "b"), 3)
    with pytest.raises(ProtocolError, match="u32 of 3 bytes"):
        link.mtu
    assert "mtu=<u32 of 3 bytes>" in repr(link) and "ifname='eth0'" in repr(link)
    with pytest.raises(ProtocolError):
        rtnl.LINK_BODY.decode(payload)


@each_index
def test_what_stands_before_a_broken_length_can_be_read(index):
    data = rtnl.LINK.encode({"ifname": "eth0", "mtu": 1500}) + b"\1\0\0\0"
    attrs = Attrs(rtnl.LINK, data, index=index)
    assert attrs["mtu"] == 1500 and attrs["ifname"] == "eth0" and "mtu" in attrs
    for ask in (lambda: attrs.get("group"), lambda: "group" in attrs, lambda: attrs["group"], lambda: attrs.get(9999),
                lambda: dict(attrs), lambda: len(attrs), lambda: attrs == {}):
        with pytest.raises(ProtocolError, match=f"length {int.from_bytes(data[-4:-2], sys.byteorder)}, of 4"):
            ask()


@each_index
def test_what_is_not_there_is_the_default_and_no_key(index):
    attrs = Attrs(rtnl.LINK, rtnl.LINK.encode({"mtu": 1500}), index=index)
    for name in ("ifname", "no such name", 9999, 4):        # 4 is the mtu, which has a name
        assert attrs.get(name) is None and attrs.get(name, 5) == 5 and name not in attrs
        with pytest.raises(KeyError):
            attrs[name]


@each_index
def test_of_an_attribute_that_stands_twice_the_first_counts(index):
    data = rtnl.LINK.encode({"mtu": 1500}) + rtnl.LINK.encode({"mtu": 9000, "group": 1})
    for names in (["mtu", "group"], ["group", "mtu"]):
        attrs = Attrs(rtnl.LINK, data, index=index)
        assert [attrs[name] for name in names] == [{"mtu": 1500, "group": 1}[name] for name in names]


@each_index
def test_what_is_nested_is_read_no_sooner_than_it_is_asked_for(index):
    data = encode_attribute(18, encode_attribute(1, b"bridge") + encode_attribute(2, encode_attribute(6, b"\0")))
    info = Attrs(rtnl.LINK, data, index=index)["linkinfo"]
    assert info["kind"] == "bridge" and isinstance(info["data"], Attrs) and "priority" in info["data"]
    assert info["data"].get("stp_state") is None
    with pytest.raises(ProtocolError, match="u16 of 1 bytes"):
        info["data"].get("priority")


@each_index
def test_nesting_without_end_is_a_protocol_error_where_it_is_too_deep(index):
    body, steps = rtnl.LINK_BODY.view(deep_link(400), 0, index), 0
    with pytest.raises(ProtocolError, match="nested more than 16 deep"):
        while True:
            body, steps = body.attrs["linkinfo"]["data"]["peer"], steps + 1
    assert steps == 5


@each_index
def test_attributes_are_one_value_after_pickling_and_copying(index):
    attrs = {"ifname": "a", "linkinfo": {"kind": "veth", "data": {"peer": Body(rtnl.IFINFOMSG.tuple(), {"mtu": 1})}},
             "stats64": rtnl.STATS64.tuple(rx_packets=5), 9999: [b"x", b"y"]}
    link = rtnl.LINK_BODY.view(rtnl.LINK_BODY.encode(({"index": 3}, attrs)), 0, index, Link)
    for again in (pickle.loads(pickle.dumps(link)), copy.copy(link), copy.deepcopy(link)):
        assert again == link and type(again) is Link and again.attrs == attrs and again.stats.rx_packets == 5
    for again in (pickle.loads(pickle.dumps(link.attrs)), copy.copy(link.attrs), copy.deepcopy(link.attrs)):
        assert again == attrs and type(again) is dict
    assert rtnl.LINK_BODY.encode(pickle.loads(pickle.dumps(link))) == rtnl.LINK_BODY.encode(link)


def test_attributes_are_no_key_of_a_dict():
    with pytest.raises(TypeError):
        hash(Attrs(rtnl.LINK, b""))
    assert Attrs(rtnl.LINK, b"") != 5 and not Attrs(rtnl.LINK, b"") and Attrs(rtnl.LINK, b"") == {}


@each_index
def test_many_threads_read_the_same(index):
    """Whoever searches writes down what it met; two searches at once must not lose or damage it."""
    names = [name for name, row in rtnl.LINK.rows.items() if row.codec.name == "u32"]
    data = rtnl.LINK.encode({name: position for position, name in enumerate(names)}) + b"\1\0\0\0"
    wrong, threads = [], 4
    together = threading.Barrier(threads, timeout=30)
    rounds = [Attrs(rtnl.LINK, data, index=index) for _ in range(150)]

    def read(turn):
        for attrs in rounds:
            together.wait()
            for step in range(len(names)):
                position = (step * (2 * turn + 1) + turn) % len(names)
                try:
                    if attrs[names[position]] != position:
                        wrong.append(names[position])
                except Exception as error:
                    wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=read, args=(turn,)) for turn in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# --- the index alone ---

@given(st.binary(max_size=64) | attribute_bytes(rtnl.LINK), st.integers(0, 70))
def test_the_index_is_where_the_payloads_are_or_nothing(data, start):
    expected = {}
    try:
        for kind, first, end in attributes(data, start):
            expected.setdefault(kind & NLA_TYPE_MASK, (first, end))
    except ProtocolError:
        assert kernel.index_attributes(data, start) is None
        return
    places = kernel.index_attributes(data, start)
    found = {kind: (place >> 16, (place >> 16) + (place & 0xFFFF)) for kind, place in enumerate(places) if place}
    assert found == {kind: place for kind, place in expected.items() if kind < kernel.INDEXED_TYPES}


def test_data_too_long_for_the_index_is_searched():
    data = rtnl.LINK.encode({9999: bytes(65000), 9998: bytes(600), "mtu": 1500})
    assert kernel.index_attributes(data, 0) is None
    assert Attrs(rtnl.LINK, data, index=kernel.index_attributes)["mtu"] == 1500
