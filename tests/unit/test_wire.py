"""The codec: what is written is read back, over every table; and no bytes whatever do more than raise ProtocolError."""

import copy
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (ANY_TEXT, BYTES, HEADERS, LAYOUTS, MAX_BLOB, TABLES, TEXT, attribute_bytes, attributes_of,
                        bounds, datagrams, deep_link, extremes, fed, fixed_letters, headers, mutated, payload_bytes,
                        refused, row_extremes, unknown_numbers, value_of)

from nsnet import rtnl, wire
from nsnet.errors import ProtocolError, UsageError
from nsnet.exchange import Exchange, Request
from nsnet.explain import explain
from nsnet.wire import Attr, Choice, Message, Scalar, Table, encode_attribute, encode_message, locate, messages

each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
each_header = pytest.mark.parametrize("fixed", HEADERS.values(), ids=HEADERS)
SCALARS = {name: value for name, value in vars(wire).items() if isinstance(value, Scalar)}

A_LINK = rtnl.LINK_BODY.encode(({}, {"ifname": "a", "linkinfo": {"kind": "bridge"}}))
ASK = [Request(rtnl.RTM_NEWLINK, 0, A_LINK, "ask"),
       Request(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, rtnl.LINK_BODY.encode(({}, {})), "list")]


def value_or_protocol_error(function, *args):
    """What it gives, or None. Any other exception is the failure that these tests look for."""
    try:
        return function(*args)
    except ProtocolError:
        return None


def test_the_search_finds_every_table_and_layout():
    assert set(TABLES) >= {"EXTACK", "BRIDGE", "BRIDGE_PORT", "VETH", "LINKINFO", "INET", "INET6", "AF_SPEC",
                           "PROP_LIST", "LINK", "ADDR", "METRICS", "ROUTE", "NEIGH"}
    assert set(LAYOUTS) >= {"PEER", "LINK_BODY", "ADDR_BODY", "ROUTE_BODY", "NEIGH_BODY"}
    assert set(HEADERS) >= {"IFINFOMSG", "IFADDRMSG", "RTMSG", "NDMSG", "NLMSGERR"}


# --- there and back ---

@each_table
@given(data=st.data())
def test_a_table_reads_back_what_it_wrote(table, data):
    values = data.draw(attributes_of(table))
    found = table.decode(table.encode(values))
    assert list(found.items()) == list(values.items())          # in the order of the wire, too


@each_table
def test_every_row_carries_the_extremes_of_its_type(table):
    for name in table.rows:
        for values in row_extremes(table, name):
            encoded = table.encode(values)
            assert len(encoded) % 4 == 0
            assert table.decode(encoded) == values


@each_layout
@given(data=st.data())
def test_a_layout_reads_back_what_it_wrote(layout, data):
    body = data.draw(value_of(layout))
    assert layout.decode(layout.encode(body)) == body
    assert layout.decode(layout.encode((body.header._asdict(), body.attrs))) == body


@each_header
@given(data=st.data())
def test_a_fixed_header_reads_back_what_it_wrote(fixed, data):
    header = data.draw(headers(fixed))
    encoded = fixed.encode(**header._asdict())
    assert len(encoded) == fixed.size
    assert fixed.decode(encoded + data.draw(BYTES)) == header


@given(st.lists(st.builds(Message, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1),
                          st.integers(0, 2**32 - 1), BYTES)))
def test_messages_read_back_what_was_written(several):
    assert list(messages(b"".join(message.encode() for message in several))) == several


def test_a_message_may_end_without_its_padding():
    (message,) = messages(encode_message(16, 0, 1, b"12345")[:-3])
    assert message.payload == b"12345"


@each_table
@given(data=st.data())
def test_what_a_table_does_not_know_survives_under_its_number(table, data):
    number = data.draw(unknown_numbers(table))
    payloads = data.draw(st.lists(BYTES, min_size=1, max_size=3))
    encoded = b"".join(encode_attribute(number, payload) for payload in payloads)
    found = table.decode(encoded)
    assert found == {number: payloads if len(payloads) > 1 else payloads[0]}
    assert table.encode(found) == encoded


@pytest.mark.parametrize("name", SCALARS)
def test_a_scalar_writes_its_width_and_its_byte_order(name):
    scalar = SCALARS[name]
    assert scalar.size == int(name.lstrip("usbe")) // 8
    low, high = bounds(scalar)
    for number in (low, 0, 1, high):
        order = "big" if name.startswith("be") else sys.byteorder
        assert scalar.encode(number) == number.to_bytes(scalar.size, order, signed=low < 0)


def test_text_ends_with_one_nul_or_none():
    assert wire.strz.encode("eth0") == b"eth0\0" and wire.string.encode("veth") == b"veth"
    for codec in (wire.strz, wire.string):
        assert codec.decode(b"eth0", 0) == codec.decode(b"eth0\0", 0) == codec.decode(b"eth0\0rest", 0) == "eth0"


def test_a_link_layer_address_is_hex_with_colons_in_either_case():
    assert wire.lladdr.encode("2:0:AB:c:d:EF") == bytes([2, 0, 0xAB, 0xC, 0xD, 0xEF])
    assert wire.lladdr.decode(bytes(6), 0) == "00:00:00:00:00:00"


def test_the_nested_flag_is_written_where_the_row_says_so():
    assert rtnl.LINK.encode({"prop_list": {"alt_ifname": ["a"]}})[2:4] == (0x8000 | 52).to_bytes(2, sys.byteorder)
    assert rtnl.LINK.encode({"linkinfo": {}})[2:4] == (18).to_bytes(2, sys.byteorder)


def test_flag_bits_of_a_known_attribute_are_ignored_in_reading():
    for bits in (wire.NLA_F_NESTED, wire.NLA_F_NET_BYTEORDER):
        assert rtnl.LINK.decode(encode_attribute(4 | bits, (1500).to_bytes(4, sys.byteorder))) == {"mtu": 1500}


def test_a_choice_is_read_wherever_its_sibling_stands():
    veth = {"data": {"peer": ({"index": 7}, {"ifname": "eth0"})}}
    first = rtnl.LINKINFO.encode({"kind": "veth", **veth})
    kind = rtnl.LINKINFO.encode({"kind": "veth"})
    last = first[len(kind):] + kind
    assert rtnl.LINKINFO.decode(first) == rtnl.LINKINFO.decode(last)
    assert rtnl.LINKINFO.decode(first)["data"]["peer"].attrs == {"ifname": "eth0"}


def test_a_choice_of_an_unknown_kind_is_bytes():
    assert rtnl.LINKINFO.decode(rtnl.LINKINFO.encode({"kind": "tun", "data": b"abc"})) == {
                                "kind": "tun", "data": b"abc"}
    assert rtnl.LINKINFO.decode(rtnl.LINKINFO.encode({"data": b"abc"})) == {"data": b"abc"}


def test_a_table_refuses_a_number_that_stands_twice():
    with pytest.raises(ValueError, match="twice"):
        Table("X", a=Attr(1, wire.u8), b=Attr(1, wire.u8))


# --- any bytes ---

@given(datagrams())
def test_any_bytes_are_messages_or_a_protocol_error(data):
    for message in value_or_protocol_error(lambda: list(messages(data))) or []:
        assert isinstance(message, Message)


@each_table
@given(data=st.data())
def test_any_bytes_are_attributes_or_a_protocol_error(table, data):
    found = value_or_protocol_error(table.decode, data.draw(attribute_bytes(table)))
    if found is not None:               # and what was understood is written so that it is understood again
        assert table.decode(table.encode(found)) == found


@each_layout
@given(data=st.data())
def test_any_bytes_are_a_payload_or_a_protocol_error(layout, data):
    found = value_or_protocol_error(layout.decode, data.draw(payload_bytes(layout)))
    if found is not None:
        assert layout.decode(layout.encode(found)) == found


@each_header
@given(data=st.data())
def test_any_bytes_are_a_fixed_header_or_a_protocol_error(fixed, data):
    payload = data.draw(st.binary(max_size=2 * fixed.size))
    assert (value_or_protocol_error(fixed.decode, payload) is None) == (len(payload) < fixed.size)


@given(st.lists(datagrams(), min_size=1, max_size=4))
def test_any_bytes_feed_an_exchange_or_are_a_protocol_error(received):
    exchange = Exchange(ASK, 1)
    for data in received:
        value_or_protocol_error(exchange.feed, data)
    for outcome in exchange.outcomes:
        assert outcome.error is None or str(outcome.error)


@given(datagrams())
def test_any_bytes_are_explained(data):
    lines = explain(data).split("\n")
    assert all(line.isprintable() for line in lines)
    try:
        count = len(list(messages(data)))
    except ProtocolError:
        assert lines[-1].startswith("! ")
    else:
        assert sum(1 for line in lines if line and not line.startswith(" ")) == count


@each_layout
@given(data=st.data(), offset=st.integers(-20, 120))
def test_any_offset_into_any_bytes_is_a_path_or_none_or_a_protocol_error(layout, data, offset):
    path = value_or_protocol_error(locate, layout, data.draw(payload_bytes(layout)), offset)
    assert path is None or path.startswith(layout.table.prefix)


@each_table
@given(data=st.data())
def test_a_truncated_attribute_is_a_protocol_error(table, data):
    encoded = table.encode(data.draw(attributes_of(table)) or {9999: b"x"})
    cut = data.draw(st.integers(0, len(encoded) - 1))
    rest = value_or_protocol_error(table.decode, encoded[:cut])
    assert rest is None or len(table.encode(rest)) <= len(encoded)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_length_that_would_not_advance_is_a_protocol_error(length):
    order = sys.byteorder
    with pytest.raises(ProtocolError, match=f"length {length}"):
        rtnl.LINK.decode(length.to_bytes(2, order) + bytes(6))
    with pytest.raises(ProtocolError, match=f"length {length + 12}"):
        list(messages((length + 12).to_bytes(4, order) + bytes(28)))


def test_a_length_beyond_the_data_is_a_protocol_error():
    order = sys.byteorder
    with pytest.raises(ProtocolError, match="length 9, of 8"):
        rtnl.LINK.decode((9).to_bytes(2, order) + bytes(6))
    with pytest.raises(ProtocolError, match="length 17, of 16"):
        list(messages((17).to_bytes(4, order) + bytes(12)))


def test_bytes_behind_the_last_one_are_a_protocol_error():
    with pytest.raises(ProtocolError, match="3 bytes behind the last attribute"):
        rtnl.LINK.decode(encode_attribute(1, b"") + bytes(3))
    with pytest.raises(ProtocolError, match="15 bytes behind the last netlink message"):
        list(messages(encode_message(16, 0, 1, b"") + bytes(15)))


@pytest.mark.parametrize("name", SCALARS)
def test_a_scalar_of_another_width_is_a_protocol_error(name):
    for length in set(range(MAX_BLOB)) - {SCALARS[name].size}:
        with pytest.raises(ProtocolError, match=f"{name} of {length} bytes"):
            SCALARS[name].decode(bytes(length), 0)


@given(st.binary(max_size=20).filter(lambda data: len(data) not in (4, 16)))
def test_an_ip_address_of_another_length_is_a_protocol_error(data):
    with pytest.raises(ProtocolError):
        wire.ip.decode(data, 0)


def test_a_flag_with_a_payload_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        wire.flag.decode(b"\1", 0)


# --- bytes that are meant to hurt ---

def test_nesting_as_deep_as_the_kernels_is_read():
    assert rtnl.LINK_BODY.decode(deep_link(4)).attrs["linkinfo"]["data"]["peer"].attrs["linkinfo"]["kind"] == "veth"


@pytest.mark.parametrize("levels", [6, 17, 400, 1800])
def test_nesting_without_end_is_a_protocol_error_and_is_explained(levels):
    payload = deep_link(levels)
    with pytest.raises(ProtocolError, match="nested more than 16 deep"):
        rtnl.LINK_BODY.decode(payload)
    assert value_or_protocol_error(locate, rtnl.LINK_BODY, payload, len(payload) - 1).startswith("IFLA_LINKINFO.")
    assert "IFLA_LINKINFO" in explain(encode_message(rtnl.RTM_NEWLINK, 0, 1, payload))
    fed(ASK, encode_message(rtnl.RTM_NEWLINK, 0, 1, payload))


def test_the_time_it_takes_grows_no_faster_than_the_bytes():
    """One unknown attribute over and over: 0.1 s of processor time if linear, 10 s if quadratic."""
    some = encode_attribute(300, b"") * 100_000
    started = time.process_time()
    assert len(rtnl.LINK.decode(some)[300]) == 100_000
    assert time.process_time() - started < 1.5, "repeated unknown attributes take quadratic time"


# --- values that do not fit ---

@pytest.mark.parametrize("name", SCALARS)
def test_a_number_out_of_range_is_a_usage_error_that_names_it(name):
    scalar = SCALARS[name]
    low, high = bounds(scalar)
    for number in (low - 1, high + 1, -2**70, 2**70):
        assert str(number) in refused(scalar.encode, number)


@pytest.mark.parametrize("value", ["1", 1.5, None, b"\1"])
def test_what_is_no_number_is_a_usage_error(value):
    assert repr(value) in refused(wire.u32.encode, value)


@each_header
def test_a_header_field_out_of_range_is_a_usage_error(fixed):
    for field, letter in zip(fixed.tuple._fields, fixed_letters(fixed)):
        low, high = bounds(letter)
        for number in (low - 1, high + 1):
            assert field in refused(fixed.encode, **{field: number})


@pytest.mark.parametrize("codec", [wire.string, wire.strz], ids=["string", "strz"])
def test_text_with_nul_is_a_usage_error(codec):
    assert repr("a\0b") in refused(codec.encode, "a\0b")


@pytest.mark.parametrize("codec", [wire.string, wire.strz], ids=["string", "strz"])
def test_text_that_is_no_text_is_a_usage_error(codec):
    """A lone surrogate stands for no bytes: not even surrogateescape writes it."""
    assert repr("\ud800") in refused(codec.encode, "\ud800")


@given(ANY_TEXT)
def test_any_text_is_a_link_layer_address_or_a_usage_error(text):
    try:
        data = wire.lladdr.encode(text)
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert len(data) == (len(text.split(":")) if text else 0)


@given(ANY_TEXT)
def test_any_text_is_an_ip_address_or_a_usage_error(text):
    try:
        data = wire.encode_ip(text)
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert wire.encode_ip(wire.decode_ip(data)) == data


@pytest.mark.parametrize("text", ["::g", "02:00:00:00:00:0g", "02::01", "+2:01", "1_1:02", "٣:01", "100:00", " 1:2"])
def test_a_link_layer_address_is_hex_and_nothing_that_int_would_take(text):
    assert repr(text) in refused(wire.lladdr.encode, text)


def test_an_attribute_that_a_table_does_not_have_is_a_usage_error():
    assert "'ifnmae'" in refused(rtnl.LINK.encode, {"ifnmae": "eth0"})


@pytest.mark.parametrize("number", [-1, 0x10000, 2**70])
def test_an_attribute_number_out_of_range_is_a_usage_error(number):
    assert str(number) in refused(rtnl.LINK.encode, {number: b""})


def test_a_payload_longer_than_a_length_field_is_a_usage_error():
    assert len(rtnl.LINK.decode(rtnl.LINK.encode({9999: bytes(65531)}))[9999]) == 65531
    assert "at most 65531" in refused(rtnl.LINK.encode, {9999: bytes(65532)})


@given(TEXT)
def test_encoding_leaves_its_values_alone(text):
    values = {"ifname": text, "linkinfo": {"kind": "veth", "data": {"peer": ({}, {"ifname": text})}}, 9999: [
                                                                             b"a", b"b"]}
    before = copy.deepcopy(values)
    rtnl.LINK.encode(values)
    assert values == before


# --- the path to a byte ---

def every_path(layout, payload):
    """{offset: path} over a payload."""
    return {offset: locate(layout, payload, offset) for offset in range(-20, len(payload) + 20)}


def test_a_byte_of_the_header_or_outside_belongs_to_no_attribute():
    payload = rtnl.LINK_BODY.encode(({}, {"ifname": "eth0"}))
    paths = every_path(rtnl.LINK_BODY, payload)
    assert {offset for offset, path in paths.items() if path} == set(range(16, 16 + 4 + 5))    # its padding is nobody's
    assert set(paths.values()) == {None, "IFLA_IFNAME"}


def test_a_byte_belongs_to_the_innermost_attribute_that_covers_it():
    peer = {"ifname": "eth0", "linkinfo": {"kind": "bridge", "data": {"priority": 1}}}
    payload = rtnl.LINK_BODY.encode(({}, {"mtu": 1500, "linkinfo": {"kind": "veth", "data": {"peer": ({}, peer)}}}))
    within = "IFLA_LINKINFO.IFLA_INFO_DATA.VETH_INFO_PEER"
    found = list(dict.fromkeys(path for path in every_path(rtnl.LINK_BODY, payload).values() if path))
    assert found == [
        "IFLA_MTU", "IFLA_LINKINFO", "IFLA_LINKINFO.IFLA_INFO_KIND", "IFLA_LINKINFO.IFLA_INFO_DATA", within,
        f"{within}.IFLA_IFNAME", f"{within}.IFLA_LINKINFO", f"{within}.IFLA_LINKINFO.IFLA_INFO_KIND",
        f"{within}.IFLA_LINKINFO.IFLA_INFO_DATA", f"{within}.IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"]


def test_an_attribute_without_a_row_is_named_by_its_number():
    payload = rtnl.LINK_BODY.encode(({}, {9999: b"x"}))
    assert locate(rtnl.LINK_BODY, payload, 16) == "IFLA(9999)"


def test_the_path_reaches_an_attribute_whose_own_value_is_malformed():
    """Which is when the kernel blames one. IFLA_INFO_KIND decides how IFLA_INFO_DATA is read; nothing else does."""
    bad = encode_attribute(18, encode_attribute(1, b"bridge") + encode_attribute(2, encode_attribute(6, b"\0")))
    payload = rtnl.IFINFOMSG.encode() + bad
    assert locate(rtnl.LINK_BODY, payload, len(payload) - 5) == "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"
    assert "IFLA_BR_PRIORITY 00 !" in explain(encode_message(rtnl.RTM_NEWLINK, 0, 1, payload))


@each_layout
@given(data=st.data())
def test_every_path_names_rows_of_the_tables(layout, data):
    body = data.draw(value_of(layout))
    names = {table.constant(name) for table in TABLES.values() for name in table.rows}
    for path in set(every_path(layout, layout.encode(body)).values()) - {None}:
        assert all(part in names or part.endswith(")") for part in path.split("."))


def test_a_choice_picks_by_its_sibling():
    choice = Choice("kind", one=wire.u8)
    assert choice.pick({"kind": "one"}) is wire.u8
    assert choice.pick({"kind": "two"}) is wire.raw and choice.pick({}) is wire.raw


@given(mutated(st.just(b"abcdefgh")))
def test_mutation_stays_bytes(data):                            # the tests above are only as good as what they are fed
    assert isinstance(data, bytes)


def test_the_extremes_cover_every_codec_of_the_tables():
    for table in TABLES.values():
        for attr in table.rows.values():
            if not isinstance(attr.codec, Choice):
                assert extremes(attr.codec)
