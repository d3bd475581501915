"""What the unit tests share: every table of rtnl.py, values that fit them, bytes that do not, and kernel replies.

The strategies are derived from the codecs of the rows: a new table or row is searched without a word here.
"""

import re
import socket
import struct
from functools import lru_cache
from pathlib import Path

from hypothesis import strategies as st

from nsnet import rtnl, wire
from nsnet.errors import UsageError
from nsnet.exchange import Exchange
from nsnet.wire import NLA_TYPE_MASK, Body, Choice, Layout, Nested, Scalar, Table, encode_attribute, encode_message

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden"
MAX_BLOB = 12                           # bytes of a generated payload: enough for padding of every length
BYTES = st.binary(max_size=MAX_BLOB)


def golden(name):
    """The bytes of golden/NAME.hex, behind its line of provenance."""
    return bytes.fromhex("".join((GOLDEN / f"{name}.hex").read_text().splitlines()[1:]))


# --- every table and layout of rtnl.py ---

def _reachable(codec):
    """The tables and layouts that are found by following a codec."""
    if isinstance(codec, Layout):
        yield codec
    elif isinstance(codec, Nested):
        yield codec.table
    elif isinstance(codec, Choice):
        for chosen in codec.codecs.values():
            yield from _reachable(chosen)


def _discover():
    found, todo = [], [item for item in vars(rtnl).values() if isinstance(item, (Table, Layout))]
    todo += rtnl.LAYOUTS.values()
    while todo:
        item = todo.pop(0)
        if any(item is known for known in found):
            continue
        found.append(item)
        rows = (item.table if isinstance(item, Layout) else item).rows.values()
        todo += [child for attr in rows for child in _reachable(attr.codec)]
        if isinstance(item, Layout):
            todo.append(item.table)
    return found


_FOUND = _discover()


def _label(item):
    """The name it has in rtnl.py."""
    return next((name for name, value in vars(rtnl).items() if value is item), item.__class__.__name__)


TABLES = {_label(item): item for item in _FOUND if isinstance(item, Table)}
LAYOUTS = {_label(item): item for item in _FOUND if isinstance(item, Layout)}
HEADERS = {_label(item): item for item in vars(rtnl).values() if isinstance(item, wire.Fixed)}


# --- values that fit ---

def bounds(letter_or_codec):
    """(lowest, highest) of a struct letter or of a Scalar."""
    if isinstance(letter_or_codec, Scalar):
        bits, signed = 8 * letter_or_codec.size, letter_or_codec.name.startswith("s")
    else:
        bits, signed = 8 * struct.calcsize("=" + letter_or_codec), letter_or_codec.islower()
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


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
_PLAIN = {
    id(wire.string): TEXT,
    id(wire.strz): TEXT,
    id(wire.raw): BYTES,
    id(wire.lladdr): BYTES.map(lambda data: data.hex(":")),
    id(wire.ip): _IP,
    id(wire.flag): st.just(True),
}

# The values at which a codec could break; the same kinds as above.
_EXTREMES = {
    id(wire.string): ["", "a", "veth", "\udcff", "é" * 40],
    id(wire.strz): ["", "a", "abc", "abcd", "\udcff", "é" * 40],
    id(wire.raw): [b"", b"\0", b"\0\1\2\3\4", bytes(range(256))],
    id(wire.lladdr): ["", "00", "02:00:00:00:00:01", "ff:" * 31 + "ff"],
    id(wire.ip): ["0.0.0.0", "255.255.255.255", "::", "::1", "fd00::1", "::ffff:10.0.0.1"],
    id(wire.flag): [True],
}


def extremes(codec, depth=3):
    """Values of a codec at the edges of what it takes."""
    if isinstance(codec, Scalar):
        low, high = bounds(codec)
        return [low, 0, 1, high]
    if isinstance(codec, Nested):
        return [{}] if not depth else [{}] + [
            values for name in codec.table.rows for values in row_extremes(codec.table, name, depth - 1)[-1:]]
    if isinstance(codec, Layout):
        return [Body(codec.fixed.decode(fixed_bytes(codec.fixed, 0)), {}),
                Body(codec.fixed.decode(fixed_bytes(codec.fixed, 255)), {})]
    return _EXTREMES[id(codec)]


def row_extremes(table, name, depth=3):
    """{name: value, ...} for each extreme value of one row; with the sibling that chooses its codec."""
    attr = table.rows[name]
    if isinstance(attr.codec, Choice):
        return [{attr.codec.by: kind, name: value} for kind, codec in attr.codec.codecs.items()
                for value in extremes(codec, depth)] + [{name: value} for value in extremes(wire.raw)]
    one_by_one = [{name: [value] if attr.many else value} for value in extremes(attr.codec, depth)]
    return one_by_one + [{name: extremes(attr.codec, depth)}] if attr.many else one_by_one


def fixed_letters(fixed):
    """The struct letters of a fixed header's fields, in order, without the padding."""
    return re.sub(r"[=x]", "", fixed._struct.format)


def fixed_bytes(fixed, byte):
    """A fixed header made of one byte, but for its padding, which does not survive."""
    return fixed.encode(**fixed.decode(bytes([byte]) * fixed.size)._asdict())


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
def value_of(codec, depth=3):
    """Any value of a codec; nothing is in what is nested deeper than `depth`."""
    if isinstance(codec, Scalar):
        return st.integers(*bounds(codec))
    if isinstance(codec, Nested):
        return attributes_of(codec.table, depth - 1) if depth else st.just({})
    if isinstance(codec, Layout):
        attrs = attributes_of(codec.table, depth - 1) if depth else st.just({})
        return st.builds(Body, headers(codec.fixed), attrs)
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


# --- what every check of a value promises ---

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
