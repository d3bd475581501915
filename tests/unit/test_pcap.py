"""Capture files: pcap and pcapng of either byte order, and any bytes at all."""

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import golden, mutated, one_line

from nsnet import rtnl
from nsnet.errors import ProtocolError
from nsnet.pcap import FROM_KERNEL, NETLINK_ROUTE, TO_KERNEL, Packet, is_capture, packets
from nsnet.wire import encode_message, messages

ASK = encode_message(rtnl.RTM_GETLINK, rtnl.NLM_F_REQUEST | rtnl.NLM_F_DUMP, 7, rtnl.IFINFOMSG.encode())
ANSWER = encode_message(rtnl.NLMSG_DONE, rtnl.NLM_F_MULTI, 7, bytes(4), 4711)
ORDERS = {"little": "<", "big": ">"}
each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)

# --- files, written as the documents say: the other direction of the reader ---


def cooked(data, kind=4, family=NETLINK_ROUTE, hardware=824):
    return struct.pack("!HH10xH", kind, hardware, family) + data


def savefile(order, records, magic=0xA1B2C3D4, version=(2, 4), linktype=253):
    """pcap-savefile(5). `records`: (seconds, fraction, packet)."""
    parts = [struct.pack(order + "IHHiIII", magic, *version, 0, 0, 262144, linktype)]
    for seconds, fraction, packet in records:
        parts.append(struct.pack(order + "IIII", seconds, fraction, len(packet), len(packet)) + packet)
    return b"".join(parts)


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def section(order, major=1):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1))


def interface(order, linktype=253, snaplen=0, **options):
    """`options`: tsresol=1 byte, tsoffset=seconds; a comment and the end stand around them."""
    body = struct.pack(order + "HxxI", linktype, snaplen) + struct.pack(order + "HH", 1, 5) + b"nlmon\0\0\0"
    if "tsresol" in options:
        body += struct.pack(order + "HHBxxx", 9, 1, options["tsresol"])
    if "tsoffset" in options:
        body += struct.pack(order + "HHq", 14, 8, options["tsoffset"])
    return block(order, 1, body + struct.pack(order + "HH", 0, 0))


def enhanced(order, ticks, packet, index=0):
    head = struct.pack(order + "IIIII", index, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet))
    return block(order, 6, head + packet)


def simple(order, packet, length=None):
    return block(order, 3, struct.pack(order + "I", len(packet) if length is None else length) + packet)


def read(data):
    """(the packets, the words of the ProtocolError behind them or None)."""
    found = []
    try:
        for packet in packets(data):
            assert isinstance(packet, Packet)
            found.append(packet)
    except ProtocolError as error:
        assert one_line(str(error))
        return found, str(error)
    return found, None


# --- what is there ---

def test_a_recorded_chat_is_read():
    found, complaint = read(golden("pcap_nlmon"))
    assert complaint is None and len(found) == 14
    assert "".join(packet.direction for packet in found[:4]) == "-><--><-"
    assert [packet.family for packet in found] == [0] * 9 + [16, 16] + [0] * 3
    assert found == sorted(found) and found[0].time_ns % 1000 == 0 and found[-1].time_ns - found[0].time_ns < 10**9
    types = [message.type for packet in found[:4] for message in messages(packet.data)]
    assert types == [rtnl.RTM_NEWLINK, rtnl.NLMSG_ERROR, rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK, rtnl.NLMSG_ERROR]


@each_order
@pytest.mark.parametrize("magic, unit", [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)], ids=["us", "ns"])
def test_a_savefile_is_read(order, magic, unit):
    data = savefile(order, [(1, 5, cooked(ASK, kind=7)), (1700000000, 999999, cooked(ANSWER, kind=6))], magic)
    assert is_capture(data)
    assert read(data) == ([Packet(1000000000 + 5 * unit, TO_KERNEL, 0, ASK),
                           Packet(1700000000 * 10**9 + 999999 * unit, FROM_KERNEL, 0, ANSWER)], None)


@each_order
def test_a_pcapng_is_read(order):
    data = section(order) + interface(order) + enhanced(order, 1700000000123456, cooked(ASK)) + block(
        order, 5, b"statistics") + block(order, 0x80000BAD, b"?") + simple(order, cooked(ANSWER + b"\0"))
    assert is_capture(data)
    assert [packet[0] for packet in read(data)[0]] == [1700000000123456000, None]
    assert [packet.data for packet in read(data)[0]] == [ASK, ANSWER + b"\0"]


@pytest.mark.parametrize("options, ticks, time_ns", [
    ({}, 3, 3000), ({"tsresol": 9}, 3, 3), ({"tsresol": 0}, 3, 3 * 10**9), ({"tsresol": 0x81}, 3, 1500000000),
    ({"tsresol": 12}, 2500, 2), ({"tsresol": 127}, 2**64 - 1, 0), ({"tsresol": 0xFF}, 2**64 - 1, 0),
    ({"tsoffset": 2}, 5, 2000005000), ({"tsoffset": -1, "tsresol": 9}, 5, 5 - 10**9),
], ids=str)
@each_order
def test_a_time_counts_in_the_interfaces_unit(order, options, ticks, time_ns):
    data = section(order) + interface(order, **options) + enhanced(order, ticks, cooked(ASK))
    assert read(data) == ([Packet(time_ns, TO_KERNEL, 0, ASK)], None)


def test_a_section_forgets_what_was_described_before_and_has_its_own_byte_order():
    first = section("<") + interface("<") + enhanced("<", 1, cooked(ASK))
    second = section(">") + interface(">", tsresol=0) + enhanced(">", 1, cooked(ANSWER))
    assert [packet.time_ns for packet in read(first + second)[0]] == [1000, 10**9]
    found, complaint = read(first + section(">") + enhanced(">", 1, cooked(ANSWER)))
    assert len(found) == 1 and "interface 0, which is not described" in complaint


def test_a_simple_packet_is_cut_as_its_interface_says():
    packet = cooked(ASK)
    data = section("<") + interface("<", snaplen=20) + simple("<", packet[:20], length=len(packet))
    assert read(data) == ([Packet(None, FROM_KERNEL, 0, ASK[:4])], None)


@pytest.mark.parametrize("kind, data, direction", [
    (4, ASK, TO_KERNEL), (4, ANSWER, FROM_KERNEL), (0, ASK, TO_KERNEL), (6, ASK, FROM_KERNEL), (7, ANSWER, TO_KERNEL),
    (4, b"", FROM_KERNEL), (4, ASK[:8], FROM_KERNEL)])
def test_the_direction_is_the_packet_types_or_that_of_a_request(kind, data, direction):
    assert read(savefile("<", [(0, 0, cooked(data, kind))]))[0][0].direction == direction


# --- what is not ---

@pytest.mark.parametrize("linktype, words", [(1, "link type 1 (Ethernet)"), (113, "link type 113 (Linux cooked)"),
                                             (147, "link type 147:")])
def test_another_link_type_is_named_and_so_is_what_was_expected(linktype, words):
    for data in (savefile("<", [], linktype=linktype),
                 section(">") + interface(">", linktype) + enhanced(">", 1, cooked(ASK))):
        found, complaint = read(data)
        assert not found and complaint.startswith(words) and "expected 253" in complaint and "nlmon" in complaint


def test_an_interface_of_another_link_type_without_packets_does_no_harm():
    data = section("<") + interface("<", 1) + interface("<") + enhanced("<", 1, cooked(ASK), index=1)
    assert read(data) == ([Packet(1000, TO_KERNEL, 0, ASK)], None)


@pytest.mark.parametrize("data, words", [
    (b"", "neither pcap nor pcapng: the first bytes are missing"),
    (b"PK\3\4rest", "neither pcap nor pcapng: the first bytes are 504b0304"),
    (savefile("<", [])[:20], "a file header of 20 bytes"),
    (savefile("<", [], version=(1, 2)), "version 1.2, expected 2.4"),
    (savefile("<", [(0, 0, cooked(ASK)[:15])]), "a packet of 15 bytes at byte 40"),
    (savefile("<", [(0, 0, cooked(ASK, hardware=1))]), "of type 1, expected 824"),
    (section("<")[:20], "has no byte order, or ends at once"),
    (b"\x0a\x0d\x0d\x0a" + bytes(40), "has no byte order"),
    (section(">", major=2), "version 2, expected 1"),
    (section("<") + block("<", 1, bytes(4)), "an interface of 4 bytes"),
    (section("<") + block("<", 6, bytes(16)), "a packet block of 16 bytes"),
    (section("<") + block("<", 3, b""), "a packet block of 0 bytes"),
    (section("<") + simple("<", b"x"), "interface 0, which is not described"),
    (section("<") + interface("<") + simple("<", b"", length=9), "a packet of 9 bytes"),
    (section("<") + struct.pack("<III", 9, 8, 8), "a block of 8 bytes at byte 28"),
    (section("<") + struct.pack("<IIHHI", 9, 14, 0, 0, 14), "a block of 14 bytes at byte 28"),
    (section("<") + struct.pack("<III", 9, 16, 16), "a block of 16 bytes at byte 28, of 12 there"),
    (section("<") + struct.pack("<III", 9, 12, 16), "another length at its end"),
    (section("<") + b"\0" * 11, "cut off at byte 28"),
    (section("<") + block("<", 1, struct.pack("<HxxIHH", 253, 0, 9, 100)), "an option of 100 bytes"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_makes_no_sense_is_said_in_one_line(data, words):
    found, complaint = read(data)
    assert found == [] and words in complaint


@each_order
def test_what_stands_before_the_place_where_a_file_is_cut_off_is_read(order):
    """A tcpdump that was killed leaves such a file."""
    whole = savefile(order, [(1, 0, cooked(ASK)), (2, 0, cooked(ANSWER))])
    first = len(savefile(order, [(1, 0, cooked(ASK))]))
    for end in range(first + 1, len(whole)):
        found, complaint = read(whole[:end])
        where = first if end < first + 16 else first + 16
        assert [packet.data for packet in found] == [ASK] and f"at byte {where}" in complaint


# --- any bytes ---

@st.composite
def captures(draw):
    """A file as it should be, of either kind."""
    order = draw(st.sampled_from("<>"))
    sent = st.sampled_from([ASK, ANSWER, b"", ASK[:5]])
    chats = draw(st.lists(st.tuples(st.integers(0, 2**32 - 1), sent), max_size=4))
    if draw(st.booleans()):
        return savefile(order, [(when, when % 1000000, cooked(data)) for when, data in chats])
    link = interface(order, tsresol=draw(st.integers(0, 255)), snaplen=draw(st.sampled_from([0, 40, 65535])))
    return section(order) + link + b"".join(
        enhanced(order, when << 20, cooked(data)) if when % 2 else simple(order, cooked(data)) + section(order) + link
        for when, data in chats)


@given(mutated(captures()))
def test_mutated_files_give_packets_or_a_protocol_error(data):
    found, _ = read(data)
    assert sum(len(packet.data) + 16 for packet in found) <= len(data)


@given(st.sampled_from([b"", savefile("<", []), savefile(">", []), section("<"), section(">") + interface(">")]),
       st.binary(max_size=200))
def test_any_bytes_give_packets_or_a_protocol_error(start, data):
    read(start + data)


def test_the_time_it_takes_grows_no_faster_than_the_bytes():
    """Many small packets and blocks, and interfaces without end: well below a second for 3 MB."""
    small = savefile("<", [(0, 0, cooked(b""))] * 50_000)
    blocks = section("<") + interface("<") * 20_000 + enhanced("<", 1, cooked(b""), index=19_999) * 20_000
    started = time.process_time()
    assert len(read(small)[0]) == 50_000 and len(read(blocks)[0]) == 20_000
    assert time.process_time() - started < 3
