"""What IPv4 and IPv6 say of a link: arrays with names, and the two forms of IFLA_INET_CONF."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import refused, value_or_protocol_error

from nsnet import rtnl
from nsnet.errors import ProtocolError, UsageError
from nsnet.wire import encode_attribute

CONF = rtnl.INET.rows["conf"].codec
TOLD = struct.pack("=33I", *range(1000, 1033))
WANTED = encode_attribute(8, b"\2\0\0\0") + encode_attribute(1, b"\1\0\0\0")


def test_what_ipv4_tells_is_an_array_with_names():
    found = CONF.decode(TOLD)
    assert (found.forwarding, found.rp_filter, found.arp_evict_nocarrier) == (1000, 1007, 1032)
    assert found == tuple(range(1000, 1033)) and CONF.encode(found) == TOLD


def test_what_ipv4_takes_are_attributes_by_number():
    found = CONF.decode(WANTED)
    assert found == {"rp_filter": 2, "forwarding": 1} and CONF.encode(found) == WANTED
    assert CONF.encode({}) == b"" and CONF.decode(b"") == {}


@pytest.mark.parametrize("size", [4, 100, 128, 132, 136, 200])
def test_another_kernel_has_more_or_fewer_of_them(size):
    data = bytes(range(1, size + 1))
    assert CONF.encode(CONF.decode(data)) == data


@pytest.mark.parametrize("data", [
    WANTED + encode_attribute(8, b"\3\0\0\0"),              # one stands twice
    encode_attribute(34, b"\1\0\0\0"), encode_attribute(0, b"\1\0\0\0"),
    encode_attribute(0x8001, b"\1\0\0\0"), encode_attribute(1, b"\1"), WANTED[:8] + b"\0" * 8,
], ids=["twice", "unknown", "none", "flagged", "short", "zeros"])
def test_what_are_no_settings_is_an_array(data):
    found = CONF.decode(data)
    assert not isinstance(found, dict) and CONF.encode(found) == data


@given(st.binary(max_size=160))
def test_whatever_it_was_it_is_written_as_it_was_read(data):
    assert CONF.encode(CONF.decode(data)) == data


def test_a_setting_that_is_none_is_refused():
    assert "'rp_filtre'" in refused(CONF.encode, {"rp_filtre": 1})
    assert "IPV4_DEVCONF_RP_FILTER" in refused(CONF.encode, {"rp_filter": 2**32})
    assert "ipv4_devconf" in refused(CONF.encode, (1, 2, 3))


def test_the_counters_are_numbers_of_eight_bytes():
    assert rtnl.COUNTERS.decode(struct.pack("=3Q", 3, 1, 2**64 - 1)) == (3, 1, 2**64 - 1)
    with pytest.raises(ProtocolError):
        rtnl.COUNTERS.decode(bytes(7))
    for odd in ([-1], [2**64], ["x"]):
        with pytest.raises(UsageError):
            rtnl.COUNTERS.encode(odd)
    assert value_or_protocol_error(rtnl.COUNTERS.decode, bytes(12)) is None


def test_icmp_and_the_settings_of_ipv6_have_names():
    icmp6, conf = rtnl.INET6.rows["icmp6stats"].codec, rtnl.INET6.rows["conf"].codec
    assert icmp6.decode(struct.pack("=6Q", 6, 1, 2, 3, 4, 5))._asdict() == {
        "num": 6, "inmsgs": 1, "inerrors": 2, "outmsgs": 3, "outerrors": 4, "csumerrors": 5, "ratelimithost": 0}
    found = conf.decode(struct.pack("=60i", *range(-1, 59)))
    assert (found.forwarding, found.hoplimit, found.force_forwarding) == (-1, 0, 58)
