"""Netlink packets out of a capture file: pcap and pcapng, as tcpdump and Wireshark write them on an nlmon device.

Pure: the bytes of a file in, packets out, one after the other; nothing is copied but what is handed out. Knows the two
containers and the link layer of nlmon; refuses to know what a message means, and every other link layer. Any bytes give
packets or ProtocolError, which comes behind the packets that stand before the place it is about.

Sources: pcap-savefile(5); draft-ietf-opsawg-pcap; draft-ietf-opsawg-pcapng, sections 4.1 to 4.4;
https://www.tcpdump.org/linktypes/LINKTYPE_NETLINK.html; <linux/if_packet.h>, <linux/netlink.h>.
"""

from __future__ import annotations

import struct

from nsnet.errors import ProtocolError
from nsnet.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Tuple

LINKTYPE_NETLINK = 253
ARPHRD_NETLINK = 824                    # <linux/if_arp.h>
PACKET_USER, PACKET_KERNEL = 6, 7       # <linux/if_packet.h>
NETLINK_ROUTE = 0                       # <linux/netlink.h>

TO_KERNEL, FROM_KERNEL = "->", "<-"

FAMILIES = {                            # <linux/netlink.h>
    0: "NETLINK_ROUTE", 2: "NETLINK_USERSOCK", 4: "NETLINK_SOCK_DIAG", 5: "NETLINK_NFLOG", 6: "NETLINK_XFRM",
    7: "NETLINK_SELINUX", 8: "NETLINK_ISCSI", 9: "NETLINK_AUDIT", 10: "NETLINK_FIB_LOOKUP", 11: "NETLINK_CONNECTOR",
    12: "NETLINK_NETFILTER", 15: "NETLINK_KOBJECT_UEVENT", 16: "NETLINK_GENERIC", 18: "NETLINK_SCSITRANSPORT",
    20: "NETLINK_RDMA", 21: "NETLINK_CRYPTO", 22: "NETLINK_SMC",
}

# What people capture by mistake, for the words of the refusal.
_LINKTYPES = {0: "BSD loopback", 1: "Ethernet", 101: "raw IP", 113: "Linux cooked", 276: "Linux cooked v2"}

_MAGICS = {                             # by the first four bytes: byte order, nanoseconds in the fraction's unit
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1),
}
_SECTION = b"\x0a\x0d\x0d\x0a"          # a palindrome: readable before the byte order is known
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_INTERFACE, _SIMPLE, _ENHANCED = 1, 3, 6                        # block types
_OPT_TSRESOL, _OPT_TSOFFSET = 9, 14                             # of an interface

_COOKED = struct.Struct("!HH10xH")      # packet type, ARPHRD type, netlink family


class Packet(NamedTuple):
    """What one sendmsg or one reply of the kernel carried.

    `time_ns`: since 1970, exact; None where the file has no times. `direction`: TO_KERNEL or FROM_KERNEL. `family`: the
    netlink protocol, one of FAMILIES or another number.
    """

    time_ns: Optional[int]
    direction: str
    family: int
    data: bytes


class _Link(NamedTuple):
    """An interface of a pcapng section. A timestamp counts 1/`per_second` s, from `offset` s on."""

    linktype: int
    snaplen: int
    per_second: int = 1000000
    offset: int = 0


def is_capture(data: bytes) -> bool:
    """Whether a file begins as pcap or pcapng does."""
    return data[:4] in _MAGICS or (data[:4] == _SECTION and data[8:12] in _ORDERS)


def packets(data: bytes) -> Iterator[Packet]:
    """The netlink packets in the bytes of a pcap or pcapng file. Raises ProtocolError where it makes no sense."""
    if data[:4] in _MAGICS:
        return _savefile(data, *_MAGICS[data[:4]])
    if data[:4] == _SECTION:
        return _blocks(data)
    raise ProtocolError("neither pcap nor pcapng: the first bytes are " + (data[:4].hex() or "missing"))


def _savefile(data: bytes, order: str, unit: int) -> Iterator[Packet]:
    if len(data) < 24:
        raise ProtocolError(f"pcap: a file header of {len(data)} bytes, expected 24")
    major, minor, linktype = struct.unpack_from(order + "HH12xI", data, 4)
    if (major, minor) != (2, 4):
        raise ProtocolError(f"pcap: version {major}.{minor}, expected 2.4")
    _check_link(linktype & 0xFFFF)      # above are the length of a checksum and reserved bits
    record = struct.Struct(order + "IIII")
    at, end = 24, len(data)
    while at < end:
        if end - at < 16:
            raise ProtocolError(f"pcap: cut off at byte {at}, in a record's header")
        seconds, fraction, length, _ = record.unpack_from(data, at)
        at += 16
        if length > end - at:
            raise ProtocolError(f"pcap: a packet of {length} bytes at byte {at}, of {end - at} there")
        yield _packet(seconds * 1000000000 + fraction * unit, data[at:at + length], order, at)
        at += length


def _blocks(data: bytes) -> Iterator[Packet]:
    order, links, at, end = "<", [], 0, len(data)
    while at < end:
        kind = data[at:at + 4]
        if kind == _SECTION:            # everything that was described before is forgotten
            order, links = _section(data, at), []
        if end - at < 12:
            raise ProtocolError(f"pcapng: cut off at byte {at}, in a block's header")
        number, length = struct.unpack_from(order + "II", data, at)
        if length < 12 or length % 4 or length > end - at:
            raise ProtocolError(f"pcapng: a block of {length} bytes at byte {at}, of {end - at} there")
        if data[at + 4:at + 8] != data[at + length - 4:at + length]:
            raise ProtocolError(f"pcapng: the block at byte {at} has another length at its end than at its beginning")
        body = (at + 8, at + length - 4)
        if kind == _SECTION:
            pass
        elif number == _INTERFACE:
            links.append(_interface(data, *body, order))
        elif number in (_SIMPLE, _ENHANCED):
            yield (_enhanced if number == _ENHANCED else _simple)(data, *body, order, links)
        at += length                    # a block of another type is skipped, as the draft wants it


def _section(data: bytes, at: int) -> str:
    """The byte order of the section that begins at `at`."""
    order = _ORDERS.get(data[at + 8:at + 12])
    if order is None or len(data) - at < 28:
        raise ProtocolError(f"pcapng: the section at byte {at} has no byte order, or ends at once")
    (major,) = struct.unpack_from(order + "H", data, at + 12)
    if major != 1:
        raise ProtocolError(f"pcapng: version {major}, expected 1")
    return order


def _interface(data: bytes, at: int, end: int, order: str) -> _Link:
    if end - at < 8:
        raise ProtocolError(f"pcapng: an interface of {end - at} bytes at byte {at}, expected 8")
    linktype, snaplen = struct.unpack_from(order + "HxxI", data, at)
    link, at = _Link(linktype, snaplen), at + 8
    while end - at >= 4:                # options: u16 code, u16 length, the value, padding to a multiple of four
        code, length = struct.unpack_from(order + "HH", data, at)
        at += 4
        if code == 0:
            break
        if length > end - at:
            raise ProtocolError(f"pcapng: an option of {length} bytes at byte {at}, of {end - at} there")
        if code == _OPT_TSRESOL and length == 1:
            exponent = data[at] & 0x7F
            link = link._replace(per_second=2 ** exponent if data[at] & 0x80 else 10 ** exponent)
        elif code == _OPT_TSOFFSET and length == 8:
            link = link._replace(offset=struct.unpack_from(order + "q", data, at)[0])
        at += (length + 3) & ~3
    return link


def _enhanced(data: bytes, at: int, end: int, order: str, links: List[_Link]) -> Packet:
    if end - at < 20:
        raise ProtocolError(f"pcapng: a packet block of {end - at} bytes at byte {at}, expected 20")
    index, high, low, length = struct.unpack_from(order + "IIII", data, at)
    link = _link(links, index, at)
    time_ns = link.offset * 1000000000 + (high << 32 | low) * 1000000000 // link.per_second
    return _packet(time_ns, _captured(data, at + 20, end, length), order, at)


def _simple(data: bytes, at: int, end: int, order: str, links: List[_Link]) -> Packet:
    """Of the first interface, without a time; as long as the original, unless the interface says that it was cut."""
    if end - at < 4:
        raise ProtocolError(f"pcapng: a packet block of {end - at} bytes at byte {at}, expected 4")
    (length,) = struct.unpack_from(order + "I", data, at)
    link = _link(links, 0, at)
    return _packet(None, _captured(data, at + 4, end, min(length, link.snaplen or length)), order, at)


def _link(links: List[_Link], index: int, at: int) -> _Link:
    if index >= len(links):
        raise ProtocolError(f"pcapng: the packet at byte {at} is of interface {index}, which is not described")
    _check_link(links[index].linktype)
    return links[index]


def _captured(data: bytes, at: int, end: int, length: int) -> bytes:
    if length > end - at:
        raise ProtocolError(f"pcapng: a packet of {length} bytes at byte {at}, of {end - at} there")
    return data[at:at + length]


def _check_link(linktype: int) -> None:
    if linktype != LINKTYPE_NETLINK:
        name = f" ({_LINKTYPES[linktype]})" if linktype in _LINKTYPES else ""
        raise ProtocolError(f"link type {linktype}{name}: expected {LINKTYPE_NETLINK}, netlink, which is what a capture"
                            " on an nlmon device has")


def _packet(time_ns: Optional[int], data: bytes, order: str, at: int) -> Packet:
    if len(data) < _COOKED.size:
        raise ProtocolError(f"a packet of {len(data)} bytes at byte {at}: shorter than its link layer")
    kind, hardware, family = _COOKED.unpack_from(data)
    if hardware != ARPHRD_NETLINK:
        raise ProtocolError(f"the packet at byte {at} is of a device of type {hardware}, expected {ARPHRD_NETLINK}")
    data = data[_COOKED.size:]
    return Packet(time_ns, _direction(kind, data, order), family, data)


def _direction(kind: int, data: bytes, order: str) -> str:
    """Which way a packet went.

    __netlink_deliver_tap_skb() in net/netlink/af_netlink.c marks it PACKET_USER or PACKET_KERNEL, but on the way to the
    packet socket dev_queue_xmit_nit() in net/core/dev.c makes PACKET_OUTGOING of either, and that is what files have.
    What goes to the kernel has NLM_F_REQUEST, or it would not be looked at (netlink_rcv_skb()); what the kernel sends
    never has.
    """
    if kind in (PACKET_USER, PACKET_KERNEL):
        return TO_KERNEL if kind == PACKET_KERNEL else FROM_KERNEL
    return TO_KERNEL if len(data) >= 16 and _flags(data, order) & 1 else FROM_KERNEL


def _flags(data: bytes, order: str) -> int:
    """nlmsg_flags of the first message, which is in the byte order of the machine that wrote the file."""
    found: Tuple[int] = struct.unpack_from(order + "H", data, 6)
    return found[0]
