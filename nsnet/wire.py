"""The bytes of netlink: messages, attributes, and the codecs of single values.

Pure: bytes in, values out, and back. Knows alignment and lengths; knows no message type, no table of attributes
(tables.py), no socket and no policy. Decoding takes any bytes and gives a value or raises ProtocolError, nothing else.

Sources: <linux/netlink.h>, include/net/netlink.h, netlink(7).
"""

from __future__ import annotations

import _socket                          # socket makes enums of its numbers: 3 ms for four functions and constants
import struct
import sys
from collections import namedtuple
from collections.abc import Mapping     # typing's answers isinstance at five times the price
from functools import cached_property, lru_cache

from nsnet.errors import ProtocolError, UsageError
from nsnet.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, Optional, Tuple

NLMSG_HEADER = struct.Struct("=IHHII")      # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
ATTR_HEADER = struct.Struct("=HH")          # nla_len, nla_type
NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3FFF
ATTR_MAX = 65531                            # bytes of one attribute's payload: nla_len has 16 bits, and counts itself

_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")     # by length modulo 4
_pack_header = ATTR_HEADER.pack
_pack_message = NLMSG_HEADER.pack
_new_tuple = tuple.__new__                  # of a named tuple's class, without counting what struct has counted


class Message(NamedTuple):
    """One netlink message: its header's fields and the payload behind it."""

    type: int
    flags: int
    seq: int
    port: int
    payload: bytes

    def encode(self) -> bytes:
        return encode_message(self.type, self.flags, self.seq, self.payload, self.port)


def encode_message(type: int, flags: int, seq: int, payload: bytes, port: int = 0) -> bytes:
    """nlmsghdr and payload, padded to the next message."""
    length = len(payload)
    return _pack_message(16 + length, type, flags, seq, port) + payload + _PAD[length & 3]


def messages(data: bytes) -> Iterator[Message]:
    """The messages in `data`, one after the other.

    Raises ProtocolError where a length contradicts the data.
    """
    offset, end = 0, len(data)
    unpack, new = NLMSG_HEADER.unpack_from, _new_tuple          # a dump of thousands of links comes through here
    while end - offset >= 16:
        length, type, flags, seq, port = unpack(data, offset)
        if length < 16 or length > end - offset:
            raise ProtocolError(f"netlink message at byte {offset}: length {length}, of {end - offset} there")
        yield new(Message, (type, flags, seq, port, data[offset + 16:offset + length]))
        offset += (length + 3) & ~3
    if offset < end:
        raise ProtocolError(f"{end - offset} bytes behind the last netlink message")


def attributes(data: bytes, start: int = 0) -> Iterator[Tuple[int, int, int]]:
    """(nla_type with its flag bits, first byte of the payload, end of the payload) of each attribute in data[start:]."""
    end, unpack = len(data), ATTR_HEADER.unpack_from
    while end - start >= 4:
        length, kind = unpack(data, start)
        if length < 4 or length > end - start:
            raise ProtocolError(f"attribute {kind & NLA_TYPE_MASK}: length {length}, of {end - start} there")
        yield kind, start + 4, start + length
        start += (length + 3) & ~3
    if start < end:
        raise ProtocolError(f"{end - start} bytes behind the last attribute")


def encode_attribute(kind: int, payload: bytes) -> bytes:
    """nlattr: header, payload, padding."""
    length = len(payload)
    if not 0 <= kind <= 0xFFFF:
        raise UsageError(f"attribute {kind}: expected a number from 0 to 65535")
    if length > ATTR_MAX:
        raise UsageError(f"attribute {kind & NLA_TYPE_MASK}: {length} bytes, expected at most {ATTR_MAX}")
    return _pack_header(length + 4, kind) + payload + _PAD[length & 3]


# --- codecs: how one attribute's payload is written and read ---


class Codec:
    """How one attribute's payload is written and read.

    `decode` reads all of it at once; `view` may put off what is nested until it is asked for. `writer(kind)` is the way to
    write whole attributes of one nla_type.
    """

    name = "?"
    flags = 0                                           # bits to set in nla_type
    by: Optional[str] = None                            # the sibling attribute that decides; see tables.Choice

    def encode(self, value: Any) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes, depth: int = 0) -> Any:
        raise NotImplementedError

    def view(self, data: bytes, depth: int = 0) -> Any:
        return self.decode(data, depth)

    def writer(self, kind: int) -> Callable[[Any], bytes]:
        """A function from a value to the attribute's bytes, header and padding with it."""
        encode, pack, pad = self.encode, _pack_header, _PAD

        def write(value: Any) -> bytes:
            payload = encode(value)
            length = len(payload)
            if length > ATTR_MAX:
                raise UsageError(f"{length} bytes, expected at most {ATTR_MAX}")
            return pack(length + 4, kind) + payload + pad[length & 3]
        return write


class Scalar(Codec):
    """One number of fixed width."""

    def __init__(self, name: str, form: str):
        self.name = name
        self._form = form
        packer = struct.Struct(form)
        self._pack, self._unpack, self.size = packer.pack, packer.unpack, packer.size

    def encode(self, value: int) -> bytes:
        try:
            return self._pack(value)
        except struct.error:
            raise self._misfit(value) from None

    def decode(self, data: bytes, depth: int = 0) -> int:
        if len(data) != self.size:
            raise ProtocolError(f"{self.name} of {len(data)} bytes")
        return self._unpack(data)[0]

    view = decode

    def writer(self, kind: int) -> Callable[[int], bytes]:
        if self._form[0] != "=":                        # a header in the machine's order, a number in the network's
            return super().writer(kind)
        pack = struct.Struct(f"=HH{self._form[1]}{-self.size % 4}x").pack
        length = 4 + self.size

        def write(value: int) -> bytes:
            try:
                return pack(length, kind, value)
            except struct.error:
                raise self._misfit(value) from None
        return write

    def _misfit(self, value: Any) -> UsageError:
        return UsageError(f"{value!r}: expected a number that fits {self.name}")


class Plain(Codec):
    """A codec made of two functions; `decode` may raise ValueError or OSError for bytes that do not fit."""

    def __init__(self, name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]):
        self.name, self.encode, self._decode = name, encode, decode

    def decode(self, data: bytes, depth: int = 0) -> Any:
        try:
            return self._decode(data)
        except (ValueError, OSError) as error:
            raise ProtocolError(f"{self.name} of {len(data)} bytes: {error}") from None


class Text(Codec):
    """Text that ends at its NUL, which may be missing; UTF-8 as far as it is. `nul`: write one."""

    name = "string"

    def __init__(self, nul: bool):
        self._end = b"\0" if nul else b""

    def encode(self, value: str) -> bytes:
        try:
            data = value.encode("utf-8", "surrogateescape")
        except (UnicodeEncodeError, AttributeError):
            raise UsageError(f"{value!r}: expected text") from None
        if 0 in data:
            raise UsageError(f"{value!r}: expected no NUL")
        return data + self._end

    def decode(self, data: bytes, depth: int = 0) -> str:
        return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")

    view = decode

    def writer(self, kind: int) -> Callable[[str], bytes]:
        write_any, pack, head = super().writer(kind), _pack_header, 4 + len(self._end)
        tails = tuple(self._end + _PAD[(length + len(self._end)) & 3] for length in range(4))       # by length modulo 4

        def write(value: str) -> bytes:
            if type(value) is str and value.isascii() and len(value) < 256 and "\0" not in value:   # nearly all there is
                length = len(value)
                return pack(head + length, kind) + value.encode() + tails[length & 3]
            return write_any(value)
        return write


class LinkAddress(Codec):
    """A link-layer address of any length, as colon-separated hex."""

    name = "lladdr"

    def encode(self, value: str) -> bytes:
        try:
            if len(value) == 17 and value[2::3] == ":::::":
                data = bytes.fromhex(value.replace(":", ""))
                if len(data) == 6:                      # else there are blanks in it, which fromhex() passes over
                    return data
        except (ValueError, AttributeError, TypeError):
            pass
        try:
            return bytes([int(part, 16) for part in value.split(":") if _hex_byte(part)]) if value else b""
        except (ValueError, AttributeError):
            raise UsageError(f"{value!r}: expected a link-layer address such as 02:00:00:00:00:01") from None

    def decode(self, data: bytes, depth: int = 0) -> str:
        return data.hex(":")

    view = decode


def _hex_byte(part: str) -> bool:
    if not 1 <= len(part) <= 2 or part.strip("0123456789abcdefABCDEF"):
        raise ValueError(part)
    return True


@lru_cache(maxsize=1024)
def encode_ip(text: str) -> bytes:
    """4 or 16 bytes in network order. Remembered: what is a container's address or gateway is encoded several times."""
    try:
        return _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except (OSError, ValueError):
        raise UsageError(f"{text!r}: expected an IPv4 or IPv6 address") from None


def decode_ip(data: bytes) -> str:
    if len(data) == 4:
        return _socket.inet_ntop(_socket.AF_INET, data)
    if len(data) == 16:
        return _socket.inet_ntop(_socket.AF_INET6, data)
    raise ValueError("neither IPv4 nor IPv6")


def _encode_via(text: str) -> bytes:
    packed = encode_ip(text)
    return struct.pack("=H", _socket.AF_INET if len(packed) == 4 else _socket.AF_INET6) + packed


def _decode_via(data: bytes) -> str:
    family = int.from_bytes(data[:2], sys.byteorder)
    if (family, len(data)) not in ((_socket.AF_INET, 6), (_socket.AF_INET6, 18)):
        raise ValueError("neither IPv4 nor IPv6")
    return decode_ip(data[2:])


def _encode_raw(value: bytes) -> bytes:
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise UsageError(f"{value!r}: expected bytes") from None


def _encode_uint(value: int) -> bytes:
    return u32.encode(value) if isinstance(value, int) and 0 <= value <= 0xFFFFFFFF else u64.encode(value)


def _decode_uint(data: bytes) -> int:
    if len(data) not in (4, 8):
        raise ValueError("expected 4 or 8")
    return int.from_bytes(data, sys.byteorder)


u8 = Scalar("u8", "=B")
u16 = Scalar("u16", "=H")
u32 = Scalar("u32", "=I")
u64 = Scalar("u64", "=Q")
s8 = Scalar("s8", "=b")
s32 = Scalar("s32", "=i")
s64 = Scalar("s64", "=q")
be16 = Scalar("be16", "!H")
be32 = Scalar("be32", "!I")
be64 = Scalar("be64", "!Q")
uint = Plain("uint", _encode_uint, _decode_uint)                    # of 4 bytes if it fits, else of 8 (nla_put_uint())
raw = Plain("bytes", _encode_raw, bytes)
string = Text(nul=False)            # written without the NUL, read with or without
strz = Text(nul=True)
lladdr = LinkAddress()
ip = Plain("ip", encode_ip, decode_ip)                              # 4 or 16 bytes, as text
via = Plain("via", _encode_via, _decode_via)                        # struct rtvia: family and address, as text
flag = Plain("flag", lambda value: b"", lambda data: True)          # there or not; some drivers report a byte in it
flag_or_byte = Plain("flag", lambda value: b"" if value else b"\0", lambda data: data[:1] != b"\0")  # set as a flag, told as a byte


_struct_tuples: Dict[Tuple, type] = {}


def _struct_tuple(name: str, fields: Tuple[str, ...]) -> type:
    """The named tuple of a struct, one for all who ask. No module has it as its own, hence it is pickled by its name and
    fields.
    """
    if (name, fields) not in _struct_tuples:
        made = namedtuple(name, fields, defaults=(0,) * len(fields))
        made.__reduce__ = lambda self: (_restored, (name, fields, tuple(self)))
        _struct_tuples.setdefault((name, fields), made)     # of two threads, both get what the first one made
    return _struct_tuples[name, fields]


def _restored(name: str, fields: Tuple[str, ...], numbers: Tuple[int, ...]) -> Any:
    return _struct_tuple(name, fields)._make(numbers)


@lru_cache(maxsize=None)
def _other_length(fields: type) -> type:
    """The same named tuple with room for the bytes that it came as."""
    return type(fields.__name__, (fields,), {})


class Fixed:
    """A C struct of numbers: the header in front of a message's attributes (struct ifinfomsg, ...), or an attribute's value.

    `form` as in the struct module, without alignment: padding is written as x. With "!" in front, in network byte order.
    """

    def __init__(self, name: str, form: str, *fields: str):
        self.name = name
        self._struct = struct.Struct(form if form[0] == "!" else "=" + form)
        self._pack, self._unpack_from, self.size = self._struct.pack, self._struct.unpack_from, self._struct.size
        self._zero = dict.fromkeys(fields, 0)

    @cached_property
    def tuple(self) -> type:
        """The named tuple that it is read as: made when it first is, for that takes longer than a table, and few are."""
        return _struct_tuple(self.name, tuple(self._zero))

    def encode(self, **fields: int) -> bytes:
        return self.pack(fields)

    def pack(self, value: Any) -> bytes:
        """From a mapping of some of the fields (the others are 0), or from a tuple of all."""
        by_name = type(value) is dict or isinstance(value, Mapping)
        try:
            return self._pack(*{**self._zero, **value}.values() if by_name else value)
        except (struct.error, TypeError):
            pass
        if by_name:
            for name in value:
                if name not in self._zero:
                    raise UsageError(f"{name!r}: expected a field of {self.name}: {', '.join(self._zero)}")
        raise UsageError(f"{self.name} {value!r}: a number is out of range")

    def decode(self, data: bytes, start: int = 0):
        if len(data) - start < self.size:
            raise ProtocolError(f"{self.name} of {len(data) - start} bytes, expected {self.size}")
        return _new_tuple(self.tuple, self._unpack_from(data, start))


class Record(Codec):
    """A C struct as an attribute's value: a named tuple. `grows`: other kernels have it shorter or longer.

    Fields that a shorter one lacks are 0; what a longer one has more has no name. Written again, either has the length that
    it came with, and the nameless rest; not so what `_replace` makes of it.
    """

    def __init__(self, fixed: Fixed, grows: bool = False):
        self.fixed, self.name, self._grows = fixed, fixed.name, grows
        if not grows:
            self.encode = fixed.pack

    def encode(self, value: Any) -> bytes:
        data, came = self.fixed.pack(value), getattr(value, "came", None)
        return data if came is None else data[:len(came)] + came[len(data):]

    def decode(self, data: bytes, depth: int = 0) -> Any:
        size = self.fixed.size
        if len(data) == size:
            return self.fixed.decode(data)
        if not self._grows:
            raise ProtocolError(f"{self.name} of {len(data)} bytes, expected {size}")
        found = _new_tuple(_other_length(self.fixed.tuple), self.fixed.decode(data[:size].ljust(size, b"\0")))
        found.came = data
        return found


class Array(Codec):
    """C structs one behind the other: a list of named tuples. With `head`, (that struct, the list)."""

    def __init__(self, item: Fixed, head: Optional[Fixed] = None):
        self.item, self.head = item, head
        self.name = head.name if head else f"{item.name}[]"

    def encode(self, value: Any) -> bytes:
        head, items = value if self.head else (None, value)
        return (self.head.pack(head) if self.head else b"") + b"".join(map(self.item.pack, items))

    def decode(self, data: bytes, depth: int = 0) -> Any:
        start = self.head.size if self.head else 0
        if len(data) < start or (len(data) - start) % self.item.size:
            raise ProtocolError(f"{self.name} of {len(data)} bytes")
        items = [self.item.decode(data, at) for at in range(start, len(data), self.item.size)]
        return (self.head.decode(data), items) if self.head else items


def record(fixed: Fixed, grows: bool = False) -> Record:
    return Record(fixed, grows)


def array(item: Fixed, head: Optional[Fixed] = None) -> Array:
    return Array(item, head)
