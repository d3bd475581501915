"""Framing and the codecs of single values: what is written is read back, no bytes do more than raise ProtocolError."""

import copy
import pickle
import struct
import sys

import pytest
from discovered import COMPOUNDS, HEADERS, bounds, fixed_letters
from hypothesis import given
from hypothesis import strategies as st
from strategies import (ANY_TEXT, BYTES, MAX_BLOB, codec_bytes, datagrams, extremes, headers, mutated, of_many,
                        refused, value_of, value_or_protocol_error)

from nsnet import rtnl, wire
from nsnet.errors import ProtocolError, UsageError
from nsnet.exchange import Exchange, Request
from nsnet.wire import Codec, Fixed, Message, Record, Scalar, encode_attribute, encode_message, messages

SINGLE = {name: value for name, value in vars(wire).items() if isinstance(value, Codec)}
SCALARS = {name: value for name, value in SINGLE.items() if isinstance(value, Scalar)}
GROWING = {name: codec for name, codec in COMPOUNDS.items() if getattr(codec, "_grows", False)}
CODECS = {**SINGLE, **COMPOUNDS}
each_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
each_scalar = pytest.mark.parametrize("name", SCALARS)
each_header = pytest.mark.parametrize("fixed", HEADERS.values(), ids=HEADERS)
each_growing = pytest.mark.parametrize("codec", GROWING.values(), ids=GROWING)

A_LINK = rtnl.LINK_BODY.encode(({}, {"ifname": "a", "linkinfo": {"kind": "bridge"}}))
ASK = [Request(rtnl.RTM_NEWLINK, 0, A_LINK, "ask"),
       Request(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, rtnl.LINK_BODY.encode(({}, {})), "list")]


def test_the_search_finds_every_codec_and_struct():
    assert set(SCALARS) >= {"u8", "u16", "u32", "u64", "s8", "s32", "be16", "be32", "be64"}
    others = set(SINGLE) - set(SCALARS)
    assert others == {"raw", "string", "strz", "lladdr", "ip", "via", "flag", "flag_or_byte", "uint"}
    assert {name.split()[0] for name in COMPOUNDS} == {"Record", "Array", "Listed", "Chain", "DeviceConf"}
    assert set(HEADERS) >= {"ifinfomsg", "ifaddrmsg", "rtmsg", "ndmsg", "nlmsgerr", "tcmsg", "rtnexthop", "tc_u32_key"}
    assert len(GROWING) >= 4


# --- there and back ---

@each_codec
@of_many
@given(data=st.data())
def test_a_codec_reads_back_what_it_wrote(codec, data):
    value = data.draw(value_of(codec))
    encoded = codec.encode(value)
    assert codec.decode(encoded) == value and codec.view(encoded) == value


@each_codec
def test_a_codec_carries_its_extremes_and_writes_them_as_attributes_too(codec):
    write = codec.writer(7)
    for value in extremes(codec):
        encoded = codec.encode(value)
        assert codec.decode(encoded) == value
        assert write(value) == encode_attribute(7, encoded)


@each_header
@of_many
@given(data=st.data())
def test_a_struct_reads_back_what_it_wrote(fixed, data):
    header = data.draw(headers(fixed))
    encoded = fixed.encode(**header._asdict())
    assert len(encoded) == fixed.size and fixed.pack(header) == encoded
    assert fixed.decode(encoded + data.draw(BYTES)) == header
    assert fixed.decode(data.draw(st.just(b"before")) + encoded, 6) == header


@each_header
def test_a_struct_pickles_and_copies(fixed):
    one = fixed.decode(bytes(range(fixed.size)))
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert again == one and again._asdict() == one._asdict() and type(again).__name__ == fixed.name


@given(st.lists(st.builds(Message, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1),
                          st.integers(0, 2**32 - 1), BYTES)))
def test_messages_read_back_what_was_written(several):
    assert list(messages(b"".join(message.encode() for message in several))) == several


def test_a_message_may_end_without_its_padding():
    (message,) = messages(encode_message(16, 0, 1, b"12345")[:-3])
    assert message.payload == b"12345"


@each_scalar
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


def test_a_flag_is_there_or_not_whatever_it_holds():
    assert wire.flag.encode(True) == b"" and wire.flag.decode(b"") is True and wire.flag.decode(b"\0") is True


def test_a_flag_that_is_told_as_a_byte_is_what_the_byte_says():
    """IFLA_VXLAN_TTL_INHERIT is set by being there, and reported as a byte."""
    assert wire.flag_or_byte.encode(True) == b"" and wire.flag_or_byte.decode(b"") is True
    assert wire.flag_or_byte.decode(b"\1") is True and wire.flag_or_byte.decode(b"\0") is False


def test_a_gateway_of_another_family_is_its_family_and_its_address():
    assert wire.via.encode("10.0.0.1") == struct.pack("=H", 2) + bytes([10, 0, 0, 1])
    assert wire.via.encode("fd00::1") == struct.pack("=H", 10) + b"\xfd" + bytes(14) + b"\1"
    for odd in (b"", b"\2", struct.pack("=H", 2), struct.pack("=H", 10) + bytes(4), struct.pack("=H", 2) + bytes(16)):
        with pytest.raises(ProtocolError):
            wire.via.decode(odd)


def test_a_number_of_either_width_is_written_in_the_narrower_one():
    """As nla_put_uint() does."""
    assert [len(wire.uint.encode(number)) for number in (0, 2**32 - 1, 2**32, 2**64 - 1)] == [4, 4, 8, 8]
    assert wire.uint.decode(struct.pack("=Q", 5)) == 5
    for number in (-1, 2**64, "1", None):
        assert repr(number) in refused(wire.uint.encode, number)
    for length in (0, 1, 2, 3, 5, 16):
        with pytest.raises(ProtocolError):
            wire.uint.decode(bytes(length))


def test_an_array_behind_a_head_is_the_structs_that_follow():
    head, items = wire.array(rtnl.U32_KEY, rtnl.U32_SEL).decode(bytes(15) + b"\1" + bytes(32))
    assert len(items) == 2 and head == rtnl.U32_SEL.decode(bytes(15) + b"\1")


@pytest.mark.parametrize("length", [1, 15, 17, 31, 33])
def test_an_array_of_broken_structs_is_a_protocol_error(length):
    with pytest.raises(ProtocolError, match=f"tc_u32_sel of {length} bytes"):
        wire.array(rtnl.U32_KEY, rtnl.U32_SEL).decode(bytes(length))


# --- structs that grow ---

@each_growing
@of_many
@given(data=st.data())
def test_a_struct_that_grows_may_be_of_any_length(codec, data):
    encoded = data.draw(value_of(codec).map(codec.encode))
    more = data.draw(BYTES)
    assert codec.decode(encoded + more) == codec.decode(encoded)
    cut = data.draw(st.integers(0, len(encoded)))
    assert codec.decode(encoded[:cut]) == codec.decode(encoded[:cut] + bytes(len(encoded) - cut))
    for came in (encoded, encoded + more, encoded[:cut]):       # and goes as it came
        found = codec.decode(came)
        assert codec.encode(found) == came
        assert codec.encode(found._replace(**{found._fields[0]: found[0]})) == codec.encode(tuple(found))


@each_codec
def test_any_other_struct_has_one_length(codec):
    if isinstance(codec, Record) and not codec._grows:
        for length in (0, codec.fixed.size - 1, codec.fixed.size + 1):
            with pytest.raises(ProtocolError, match=f"{codec.name} of {length} bytes, expected {codec.fixed.size}"):
                codec.decode(bytes(length))


def test_an_older_kernel_counts_fewer_things():
    old = rtnl.LINK.decode(encode_attribute(23, struct.pack("=24Q", *range(24))))["stats64"]     # before Linux 5.19
    assert (old.rx_nohandler, old.rx_otherhost_dropped) == (23, 0)
    new = rtnl.LINK.decode(encode_attribute(23, struct.pack("=26Q", *range(26))))["stats64"]
    assert (new.rx_nohandler, new.rx_otherhost_dropped) == (23, 24)


# --- any bytes ---

@each_codec
@of_many
@given(data=st.data())
def test_any_bytes_are_a_value_or_a_protocol_error(codec, data):
    payload = data.draw(codec_bytes(codec))
    found = value_or_protocol_error(codec.decode, payload)
    if found is not None:               # and what was understood is written so that it is understood again
        assert codec.decode(codec.encode(found)) == found
        assert codec.view(payload) == found


@given(datagrams())
def test_any_bytes_are_messages_or_a_protocol_error(data):
    for message in value_or_protocol_error(lambda: list(messages(data))) or []:
        assert isinstance(message, Message)


@each_header
@of_many
@given(data=st.data())
def test_any_bytes_are_a_struct_or_a_protocol_error(fixed, data):
    payload = data.draw(st.binary(max_size=2 * fixed.size))
    assert (value_or_protocol_error(fixed.decode, payload) is None) == (len(payload) < fixed.size)


@given(st.lists(datagrams(), min_size=1, max_size=4))
def test_any_bytes_feed_an_exchange_or_are_a_protocol_error(received):
    exchange = Exchange(ASK, 1)
    for data in received:
        value_or_protocol_error(exchange.feed, data)
    for outcome in exchange.outcomes:
        assert outcome.error is None or str(outcome.error)


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_message_length_that_would_not_advance_is_a_protocol_error(length):
    with pytest.raises(ProtocolError, match=f"length {length}, of 32"):
        list(messages(length.to_bytes(4, sys.byteorder) + bytes(28)))


def test_a_message_longer_than_the_data_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="length 17, of 16"):
        list(messages((17).to_bytes(4, sys.byteorder) + bytes(12)))


def test_bytes_behind_the_last_message_are_a_protocol_error():
    with pytest.raises(ProtocolError, match="15 bytes behind the last netlink message"):
        list(messages(encode_message(16, 0, 1, b"") + bytes(15)))


@each_scalar
def test_a_scalar_of_another_width_is_a_protocol_error(name):
    for length in set(range(MAX_BLOB)) - {SCALARS[name].size}:
        with pytest.raises(ProtocolError, match=f"{name} of {length} bytes"):
            SCALARS[name].decode(bytes(length), 0)


@given(st.binary(max_size=20).filter(lambda data: len(data) not in (4, 16)))
def test_an_ip_address_of_another_length_is_a_protocol_error(data):
    with pytest.raises(ProtocolError):
        wire.ip.decode(data, 0)


@given(mutated(st.just(b"abcdefgh")))
def test_mutation_stays_bytes(data):                            # the tests above are only as good as what they are fed
    assert isinstance(data, bytes)


# --- values that do not fit ---

@each_scalar
def test_a_number_out_of_range_is_a_usage_error_that_names_it(name):
    scalar = SCALARS[name]
    low, high = bounds(scalar)
    for number in (low - 1, high + 1, -2**70, 2**70):
        assert str(number) in refused(scalar.encode, number)
        assert str(number) in refused(scalar.writer(7), number)


@pytest.mark.parametrize("value", ["1", 1.5, None, b"\1"])
def test_what_is_no_number_is_a_usage_error(value):
    for codec in (wire.u32, wire.be32):
        assert repr(value) in refused(codec.encode, value) and repr(value) in refused(codec.writer(7), value)


@each_header
def test_a_struct_field_out_of_range_is_a_usage_error(fixed):
    for field, letter in zip(fixed.tuple._fields, fixed_letters(fixed)):
        low, high = bounds(letter)
        for number in (low - 1, high + 1):
            assert field in refused(fixed.encode, **{field: number})
            assert field in refused(fixed.pack, fixed.tuple(**{field: number}))


@pytest.mark.parametrize("value", [(), (1,), (1, 2, 3), 7, None, "ab", {"vid": "1"}], ids=repr)
def test_what_is_no_struct_is_a_usage_error(value):
    assert "bridge_vlan_info" in refused(Fixed("bridge_vlan_info", "HH", "flags", "vid").pack, value)


def test_a_field_that_a_struct_does_not_have_is_a_usage_error_that_lists_them():
    message = refused(rtnl.IFADDRMSG.encode, prefixlne=24)
    assert "'prefixlne'" in message and "prefixlen" in message


@pytest.mark.parametrize("codec", [wire.string, wire.strz], ids=["string", "strz"])
@pytest.mark.parametrize("value", ["a\0b", "\ud800", b"a", 7, None], ids=ascii)
def test_text_with_nul_or_that_is_no_text_is_a_usage_error(codec, value):
    """A lone surrogate stands for no bytes: not even surrogateescape writes it."""
    assert repr(value) in refused(codec.encode, value)


@pytest.mark.parametrize("value", ["text", 7, None], ids=repr)
def test_what_is_no_bytes_is_a_usage_error(value):
    """bytes(7) would be seven zeros."""
    assert repr(value) in refused(wire.raw.encode, value)


@given(ANY_TEXT)
def test_any_text_is_a_link_layer_address_or_a_usage_error(text):
    try:
        data = wire.lladdr.encode(text)
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert len(data) == (len(text.split(":")) if text else 0)


@pytest.mark.parametrize("codec", [wire.ip, wire.via], ids=["ip", "via"])
@given(text=ANY_TEXT)
def test_any_text_is_an_ip_address_or_a_usage_error(codec, text):
    try:
        data = codec.encode(text)
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert codec.encode(codec.decode(data)) == data


@pytest.mark.parametrize("text", ["::g", "02:00:00:00:00:0g", "02::01", "+2:01", "1_1:02", "٣:01", "100:00", " 1:2"])
def test_a_link_layer_address_is_hex_and_nothing_that_int_would_take(text):
    assert repr(text) in refused(wire.lladdr.encode, text)


@pytest.mark.parametrize("codec", [wire.raw, wire.strz], ids=["raw", "strz"])
def test_a_payload_longer_than_a_length_field_is_a_usage_error(codec):
    value = bytes(65532) if codec is wire.raw else "a" * 65531          # with its NUL
    assert "at most 65531" in refused(codec.writer(7), value)
    assert len(codec.writer(7)(value[1:])) == 4 + 65531 + 1             # and its padding
