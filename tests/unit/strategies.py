"""What the unit tests share: values that fit every table of nsnet.rtnl, bytes that do not, and kernel replies.

The strategies are derived from the codecs of the rows: a new table or row is searched without a word here.
"""

import socket
import struct
from functools import lru_cache
from pathlib import Path

from discovered import HEADERS, LAYOUTS, TABLES, bounds, fixed_letters      # noqa: F401
from hypothesis import settings
from hypothesis import strategies as st

from nsnet import rtnl, wire
from nsnet.errors import ProtocolError, UsageError
from nsnet.exchange import Exchange
from nsnet.rtnl.af_spec import DeviceConf
from nsnet.tables import Body, Chain, Choice, Layout, Listed, Nested
from nsnet.wire import (NLA_TYPE_MASK, Array, LinkAddress, Record, Scalar, Text, encode_attribute, encode_message)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden"
MAX_BLOB = 12                           # bytes of a generated payload: enough for padding of every length
BYTES = st.binary(max_size=MAX_BLOB)
of_many = settings(max_examples=settings.default.max_examples // 2)     # for a test that is run for each of many tables


def golden(name):
    """The bytes of golden/NAME.hex, behind its line of provenance."""
    return bytes.fromhex("".join((GOLDEN / f"{name}.hex").read_text().splitlines()[1:]))


# --- values that fit ---

# As the kernel has them: any bytes without NUL, which is what surrogateescape is for.
TEXT = BYTES.map(lambda data: data.replace(b"\0", b"n").decode("utf-8", "surrogateescape"))

# All of Unicode and what is not even that, lone surrogates among it; mostly what looks nearly right. (Not st.text(),
# which spends a second on the tables of Unicode.)
ANY_TEXT = st.lists(st.one_of(st.sampled_from("0123456789abcdefABFGvxz:./-_%, \t\n\0"),
                              st.integers(0, 0x10FFFF).map(chr),
                              st.sampled_from(["10.0.0.1", "fd00::1", "/24", "eth0", "02:00:00:00:00:01", "cap_",
                                               "kill"])),
                    max_size=20).map("".join)

_IP = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda data: socket.inet_ntop(socket.AF_INET, data)),
    st.binary(min_size=16, max_size=16).map(lambda data: socket.inet_ntop(socket.AF_INET6, data)))
_COUNTERS = st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple)
_PLAIN = {id(wire.raw): BYTES, id(wire.ip): _IP, id(wire.via): _IP, id(wire.flag): st.just(True),
          id(rtnl.COUNTERS): _COUNTERS, id(wire.flag_or_byte): st.booleans(), id(wire.uint): st.integers(0, 2**64 - 1)}

# The values at which a codec could break; the same kinds as above.
_IP_EXTREMES = ["0.0.0.0", "255.255.255.255", "::", "::1", "fd00::1", "::ffff:10.0.0.1"]
_PLAIN_EXTREMES = {id(wire.raw): [b"", b"\0", b"\0\1\2\3\4", bytes(range(256))], id(wire.ip): _IP_EXTREMES,
                   id(wire.via): _IP_EXTREMES, id(wire.flag): [True],
                   id(rtnl.COUNTERS): [(), (0,), (2**64 - 1,) * 38],
                   id(wire.flag_or_byte): [True, False], id(wire.uint): [0, 2**32 - 1, 2**32, 2**64 - 1]}


def struct_extremes(fixed):
    """A struct of nothing but zeros, of the lowest numbers, and of the highest."""
    numbers = [bounds(letter) for letter in fixed_letters(fixed)]
    return [fixed.tuple(*(0 for _ in numbers)), fixed.tuple(*(low for low, _ in numbers)),
            fixed.tuple(*(high for _, high in numbers))]


def extremes(codec, depth=3):
    """Values of a codec at the edges of what it takes."""
    if isinstance(codec, Scalar):
        low, high = bounds(codec)
        return [low, 0, 1, high]
    if isinstance(codec, Text):
        return ["", "a", "abc", "abcd", "\udcff", "é" * 40]
    if isinstance(codec, LinkAddress):
        return ["", "00", "02:00:00:00:00:01", "ff:" * 31 + "ff"]
    if isinstance(codec, DeviceConf):
        rows = codec.table.rows
        return [{}, {next(iter(rows)): 0}, dict.fromkeys(rows, 2**32 - 1), *extremes(codec.array)]
    if isinstance(codec, Record):
        return struct_extremes(codec.fixed)
    if isinstance(codec, Array):
        items = struct_extremes(codec.item)
        lists = [[], items[:1], items * 5]
        return [(head, some) for head in struct_extremes(codec.head) for some in lists] if codec.head else lists
    if isinstance(codec, Listed):
        return [[], extremes(codec.codec)[:1], extremes(codec.codec)]
    if isinstance(codec, Nested):
        return [{}] if not depth else [{}] + [
            values for name in codec.table.rows for values in row_extremes(codec.table, name, depth - 1)[-1:]]
    if isinstance(codec, Layout):
        return [Body(header, {}) for header in struct_extremes(codec.fixed)]
    if isinstance(codec, Chain):
        hops = [_with_length(codec, header, attrs) for header in struct_extremes(codec.fixed)
                for attrs in ({}, {9999: b"odd"})]
        return [[], hops[:1], hops]
    return _PLAIN_EXTREMES[id(codec)]


def row_extremes(table, name, depth=3):
    """{name: value, ...} for each extreme value of one row; with the sibling that chooses its codec."""
    attr = table.rows[name]
    if isinstance(attr.codec, Choice):
        return [{attr.codec.by: kind, name: value} for kind, codec in attr.codec.codecs.items()
                for value in extremes(codec, depth)] + [{name: value} for value in extremes(wire.raw)]
    one_by_one = [{name: [value] if attr.many else value} for value in extremes(attr.codec, depth)]
    return one_by_one + [{name: extremes(attr.codec, depth)}] if attr.many else one_by_one


def _with_length(chain, header, attrs):
    """One link of a chain: the length in its header is filled in by the writer."""
    return Body(header._replace(len=chain.fixed.size + len(chain.table.encode(attrs))), attrs)


@lru_cache(maxsize=None)
def headers(fixed):
    """Any fixed header of that kind."""
    fields = [st.integers(*bounds(letter)) for letter in fixed_letters(fixed)]
    return st.tuples(*fields).map(lambda numbers: fixed.tuple(*numbers))


@lru_cache(maxsize=None)
def unknown_numbers(table):
    """nla_types, flag bits and all, that a table has no row for."""
    return st.integers(0, 0xFFFF).filter(lambda number: number & NLA_TYPE_MASK not in table.by_number)


@lru_cache(maxsize=None)                # making a strategy takes longer than drawing from it
@st.composite
def attributes_of(draw, table, depth=3):
    """Any values of a table: some of its rows in any order, and now and then what it does not know."""
    names = draw(st.lists(st.sampled_from(sorted(table.rows)), max_size=4, unique=True))
    values = dict.fromkeys(names)
    for name in names:                  # first those that choose, then those that are chosen
        attr = table.rows[name]
        if isinstance(attr.codec, Choice) and draw(st.integers(0, 3)):
            values[attr.codec.by] = draw(st.sampled_from(sorted(attr.codec.codecs)))
    for name in values:
        attr = table.rows[name]
        if values[name] is None and not isinstance(attr.codec, Choice):
            one = value_of(attr.codec, depth)
            values[name] = draw(st.lists(one, min_size=1, max_size=3) if attr.many else one)
    for name in values:
        codec = table.rows[name].codec
        if isinstance(codec, Choice):
            values[name] = draw(value_of(codec.pick(values), depth))
    # One unknown attribute of a kind is bytes, several are a list: a list of one would come back as bytes.
    unknown = st.one_of(BYTES, st.lists(BYTES, min_size=2, max_size=3))
    values.update(draw(st.dictionaries(unknown_numbers(table), unknown, max_size=2)))
    return values


@lru_cache(maxsize=None)
@st.composite
def bodies(draw, layout, depth=3):
    """Any header and attributes of a layout, those of the families that have a table of their own often among them."""
    header = draw(headers(layout.fixed))
    if layout.by_family and draw(st.booleans()):
        header = header._replace(family=draw(st.sampled_from(sorted(layout.by_family))))
    table = layout.table_for(header.family) if layout.by_family else layout.table
    return Body(header, draw(attributes_of(table, depth - 1)) if depth else {})


@lru_cache(maxsize=None)
def value_of(codec, depth=3):
    """Any value of a codec; nothing is in what is nested deeper than `depth`."""
    if isinstance(codec, Scalar):
        return st.integers(*bounds(codec))
    if isinstance(codec, Text):
        return TEXT
    if isinstance(codec, LinkAddress):
        return BYTES.map(lambda data: data.hex(":"))
    if isinstance(codec, DeviceConf):
        some = st.dictionaries(st.sampled_from(sorted(codec.table.rows)), st.integers(0, 2**32 - 1), max_size=4)
        return st.one_of(some, value_of(codec.array))
    if isinstance(codec, Record):
        return headers(codec.fixed)
    if isinstance(codec, Array):
        items = st.lists(headers(codec.item), max_size=3)
        return st.tuples(headers(codec.head), items) if codec.head else items
    if isinstance(codec, Listed):
        return st.lists(value_of(codec.codec, depth), max_size=3)
    if isinstance(codec, Nested):
        return attributes_of(codec.table, depth - 1) if depth else st.just({})
    if isinstance(codec, Layout):
        return bodies(codec, depth)
    if isinstance(codec, Chain):
        attrs = attributes_of(codec.table, depth - 1) if depth else st.just({})
        one = st.builds(lambda header, attrs: _with_length(codec, header, attrs), headers(codec.fixed), attrs)
        return st.lists(one, max_size=2)
    return _PLAIN[id(codec)]


# --- bytes that may fit, or not ---

@st.composite
def mutated(draw, valid):
    """Bytes of `valid`, with some of them changed, cut out, put in twice, or cut off."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        deed = draw(st.sampled_from(["set", "insert", "delete", "double", "cut"]))
        if deed == "set":
            data[at:at + 1] = bytes([draw(st.sampled_from([0, 1, 3, 4, 5, 16, 0x7F, 0x80, 0xFF]))])
        elif deed == "insert":
            data[at:at] = draw(BYTES)
        elif deed == "delete":
            del data[at:at + draw(st.integers(1, 8))]
        elif deed == "double":
            data[at:at] = data[at:at + draw(st.integers(1, 64))]
        else:
            del data[at:]
    return bytes(data)


@lru_cache(maxsize=None)
def attribute_bytes(table):
    """Anything that could stand where the attributes of a table stand."""
    return st.one_of(st.binary(max_size=64), mutated(attributes_of(table).map(table.encode)))


@lru_cache(maxsize=None)
def payload_bytes(layout):
    """Anything that could stand where a message's payload stands."""
    return st.one_of(st.binary(max_size=64), mutated(value_of(layout).map(layout.encode)))


@lru_cache(maxsize=None)
def codec_bytes(codec):
    """Anything that could stand where a codec's payload stands."""
    return st.one_of(st.binary(max_size=64), mutated(value_of(codec).map(codec.encode)))


MESSAGE_TYPES = st.one_of(st.sampled_from(sorted(rtnl.MESSAGE_NAMES)), st.integers(0, 0xFFFF))


@st.composite
def answer_messages(draw, seq):
    """One message that could come back: an answer, an error with or without its request, an end of dump."""
    type = draw(MESSAGE_TYPES)
    flags = draw(st.one_of(st.sampled_from(
        [0, rtnl.NLM_F_CAPPED, rtnl.NLM_F_ACK_TLVS, 0x300, 0x12]), st.integers(0, 0xFFFF)))
    if type == rtnl.NLMSG_ERROR:
        header = draw(headers(rtnl.NLMSGERR))._replace(error=draw(st.integers(-4096, 1)), len=draw(st.integers(0, 64)))
        payload = rtnl.NLMSGERR.encode(**header._asdict()) + draw(attribute_bytes(rtnl.EXTACK))
    elif type == rtnl.NLMSG_DONE:
        payload = struct.pack("=i", draw(st.integers(-4096, 1))) + draw(attribute_bytes(rtnl.EXTACK))
    else:
        payload = draw(payload_bytes(rtnl.LAYOUTS.get(type, rtnl.LINK_BODY)))
    return encode_message(type, flags, draw(seq), payload)


def datagrams(seq=st.integers(0, 3)):
    """Anything that could be received."""
    several = st.lists(answer_messages(seq), min_size=1, max_size=3).map(b"".join)
    return st.one_of(st.binary(max_size=64), several, mutated(several))


def deep_link(levels):
    """The payload of a link whose veth peer is a link whose veth peer is ..., `levels` times."""
    payload = rtnl.IFINFOMSG.encode()
    for _ in range(levels):
        data = encode_attribute(2, encode_attribute(1, payload))        # IFLA_INFO_DATA, VETH_INFO_PEER
        payload = rtnl.IFINFOMSG.encode() + encode_attribute(18, encode_attribute(1, b"veth") + data)
    return payload


# --- replies, as the kernel makes them ---

def ack(seq, error=0, request=b"", flags=0, attrs=None):
    """NLMSG_ERROR. `request`: the whole message that is answered; with NLM_F_CAPPED only its header goes back."""
    head = (request + bytes(16))[:16]
    body = head if flags & rtnl.NLM_F_CAPPED else request or head
    payload = struct.pack("=i", -error) + body + bytes(-len(body) % 4)
    if attrs is not None:
        flags |= rtnl.NLM_F_ACK_TLVS
        payload += rtnl.EXTACK.encode(attrs)
    return encode_message(rtnl.NLMSG_ERROR, flags, seq, payload)


def done(seq, status=0, attrs=None):
    """NLMSG_DONE, the end of a dump."""
    flags = rtnl.NLM_F_MULTI | (rtnl.NLM_F_ACK_TLVS if attrs is not None else 0)
    return encode_message(rtnl.NLMSG_DONE, flags, seq, struct.pack("=i", status) + rtnl.EXTACK.encode(attrs or {}))


def fed(requests, *answers, first_seq=1):
    """An Exchange of `requests` that has taken `answers`."""
    exchange = Exchange(requests, first_seq)
    for answer in answers:
        exchange.feed(answer)
    return exchange


# --- what every reader and every check of a value promises ---

def value_or_protocol_error(function, *args):
    """What it gives, or None. Any other exception is the failure that the tests look for."""
    try:
        return function(*args)
    except ProtocolError:
        return None


def one_line(text):
    """Whether a person sees it as one line; str.splitlines also splits at what terminals ignore: so much the better."""
    return len(text.splitlines()) == 1


def refused(function, *args, **kwargs):
    """The one line with which `function` refuses; an error of another kind passes through."""
    try:
        value = function(*args, **kwargs)
    except UsageError as error:
        assert one_line(str(error)), f"not one line: {error!s}"
        return str(error)
    raise AssertionError(f"accepted as {value!r}")
