"""The bytes of netlink: message headers, attributes, and the tables that give attributes names and types.

Pure: bytes in, values out, and back. One `Table` drives both directions. Knows alignment, lengths and nesting; knows no
message type, no socket and no policy. Two rules hold everywhere:

- decoding takes any bytes and gives a value or raises ProtocolError, nothing else;
- what a table does not know survives: an unknown attribute is kept under its number as bytes, and is encoded unchanged.

Sources: <linux/netlink.h>, include/net/netlink.h, netlink(7).
"""

import socket
import struct
from collections import namedtuple
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from nsnet.errors import ProtocolError, UsageError

NLMSG_HEADER = struct.Struct("=IHHII")      # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
ATTR_HEADER = struct.Struct("=HH")          # nla_len, nla_type
NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3FFF
MAX_DEPTH = 16                              # no message nests half as deep; bytes from nowhere might

_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")     # by length modulo 4


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
    return NLMSG_HEADER.pack(16 + len(payload), type, flags, seq, port) + payload + _PAD[len(payload) & 3]


def messages(data: bytes) -> Iterator[Message]:
    """The messages in `data`, one after the other.

    Raises ProtocolError where a length contradicts the data.
    """
    offset, end = 0, len(data)
    while end - offset >= 16:
        length, type, flags, seq, port = NLMSG_HEADER.unpack_from(data, offset)
        if length < 16 or length > end - offset:
            raise ProtocolError(f"netlink message at byte {offset}: length {length}, of {end - offset} there")
        yield Message(type, flags, seq, port, data[offset + 16:offset + length])
        offset += (length + 3) & ~3
    if offset < end:
        raise ProtocolError(f"{end - offset} bytes behind the last netlink message")


def attributes(data: bytes, start: int = 0) -> Iterator[Tuple[int, int, int]]:
    """(nla_type with its flag bits, first byte of the payload, end of the payload) of each attribute in data[start:]."""
    end = len(data)
    while end - start >= 4:
        length, kind = ATTR_HEADER.unpack_from(data, start)
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
    if length > 65531:
        raise UsageError(f"attribute {kind & NLA_TYPE_MASK}: {length} bytes, expected at most 65531")
    return ATTR_HEADER.pack(length + 4, kind) + payload + _PAD[length & 3]


class Codec:
    """How one attribute's payload is written and read."""

    name = "?"
    flags = 0                                           # bits to set in nla_type

    def encode(self, value: Any) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes, depth: int) -> Any:
        raise NotImplementedError


class Scalar(Codec):
    """One number of fixed width."""

    def __init__(self, name: str, form: str):
        self.name = name
        self._struct = struct.Struct(form)
        self._pack, self._unpack, self.size = self._struct.pack, self._struct.unpack, self._struct.size

    def encode(self, value: int) -> bytes:
        try:
            return self._pack(value)
        except struct.error:
            raise UsageError(f"{value!r}: expected a number that fits {self.name}") from None

    def decode(self, data: bytes, depth: int) -> int:
        if len(data) != self.size:
            raise ProtocolError(f"{self.name} of {len(data)} bytes")
        return self._unpack(data)[0]


class Plain(Codec):
    """A codec made of two functions; `decode` may raise ValueError or OSError for bytes that do not fit."""

    def __init__(self, name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]):
        self.name, self.encode, self._decode = name, encode, decode

    def decode(self, data: bytes, depth: int) -> Any:
        try:
            return self._decode(data)
        except (ValueError, OSError) as error:
            raise ProtocolError(f"{self.name} of {len(data)} bytes: {error}") from None


def _encode_strz(text: str) -> bytes:
    try:
        data = text.encode("utf-8", "surrogateescape")
    except (UnicodeEncodeError, AttributeError):
        raise UsageError(f"{text!r}: expected text") from None
    if b"\0" in data:
        raise UsageError(f"{text!r}: expected no NUL")
    return data + b"\0"


def _decode_strz(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _encode_lladdr(text: str) -> bytes:
    try:
        return bytes([int(part, 16) for part in text.split(":") if _hex_byte(part)]) if text else b""
    except ValueError:
        raise UsageError(f"{text!r}: expected a link-layer address such as 02:00:00:00:00:01") from None


def _hex_byte(part: str) -> bool:
    if not 1 <= len(part) <= 2 or part.strip("0123456789abcdefABCDEF"):
        raise ValueError(part)
    return True


def _decode_lladdr(data: bytes) -> str:
    return data.hex(":")


def encode_ip(text: str) -> bytes:
    """4 or 16 bytes in network order."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        raise UsageError(f"{text!r}: expected an IPv4 or IPv6 address") from None


def decode_ip(data: bytes) -> str:
    if len(data) == 4:
        return socket.inet_ntop(socket.AF_INET, data)
    if len(data) == 16:
        return socket.inet_ntop(socket.AF_INET6, data)
    raise ValueError("neither IPv4 nor IPv6")


def _decode_flag(data: bytes) -> bool:
    if data:
        raise ValueError("expected none")
    return True


u8 = Scalar("u8", "=B")
u16 = Scalar("u16", "=H")
u32 = Scalar("u32", "=I")
u64 = Scalar("u64", "=Q")
s8 = Scalar("s8", "=b")
s32 = Scalar("s32", "=i")
be16 = Scalar("be16", "!H")
be32 = Scalar("be32", "!I")
raw = Plain("bytes", bytes, bytes)
string = Plain("string", lambda text: _encode_strz(text)[:-1], _decode_strz)    # without the NUL, read with or without
strz = Plain("string", _encode_strz, _decode_strz)                  # NUL-terminated, UTF-8 as far as it is
lladdr = Plain("lladdr", _encode_lladdr, _decode_lladdr)            # any length, as colon-separated hex
ip = Plain("ip", encode_ip, decode_ip)                              # 4 or 16 bytes, as text
flag = Plain("flag", lambda value: b"", _decode_flag)               # there or not


class Attr(NamedTuple):
    """One row of a table. `many`: the attribute may stand several times; its value is a list."""

    number: int
    codec: Codec
    many: bool = False


class Choice(Codec):
    """A codec that depends on the value of another attribute of the same table (IFLA_INFO_DATA on IFLA_INFO_KIND)."""

    def __init__(self, by: str, **codecs: Codec):
        self.by, self.codecs, self.name = by, codecs, f"by {by}"

    def pick(self, values: Mapping) -> Codec:
        return self.codecs.get(values.get(self.by), raw)

    def pick_from(self, table: "Table", data: bytes, start: int = 0) -> Codec:
        """The same from a level's bytes, of which nothing but the deciding attribute need make sense."""
        values: Dict = {}
        by = table.rows[self.by]
        for kind, first, end in attributes(data, start):
            if kind & NLA_TYPE_MASK == by.number:
                values[self.by] = by.codec.decode(data[first:end], 0)
        return self.pick(values)


class Table:
    """The attributes of one nesting level: rows by name, driving encoder, decoder and explanation alike.

    `prefix`: of the constants in the uapi header, so that `prefix_NAME` is the constant of row `name`.
    """

    def __init__(self, prefix: str, **rows: Attr):
        self.prefix = prefix
        self.rows = rows
        self.by_number = {attr.number: (name, attr) for name, attr in rows.items()}
        if len(self.by_number) != len(rows):
            raise ValueError(f"{prefix}: a number stands twice")

    def constant(self, name: str) -> str:
        """The uapi constant of a row."""
        return f"{self.prefix}_{name.upper()}"

    def encode(self, values: Mapping) -> bytes:
        """The attributes in the order of `values`: {name: value}, or {number: bytes} for what the table does not know."""
        parts: List[bytes] = []
        for name, value in values.items():
            attr = self.rows.get(name)
            if attr is None:
                if not isinstance(name, int):
                    raise UsageError(f"{name!r}: expected an attribute of {self.prefix}")
                for payload in value if isinstance(value, list) else (value,):
                    parts.append(encode_attribute(name, payload))
                continue
            codec = attr.codec
            if isinstance(codec, Choice):
                codec = codec.pick(values)
            kind = attr.number | codec.flags
            for one in value if attr.many else (value,):
                parts.append(encode_attribute(kind, codec.encode(one)))
        return b"".join(parts)

    def decode(self, data: bytes, depth: int = 0, start: int = 0) -> Dict:
        """{name: value} of the attributes in data[start:]. Raises ProtocolError."""
        if depth > MAX_DEPTH:
            raise ProtocolError(f"attributes nested more than {MAX_DEPTH} deep")
        values: Dict = {}
        chosen: List[Tuple[str, Choice, bytes]] = []
        for kind, first, end in attributes(data, start):
            payload = data[first:end]
            row = self.by_number.get(kind & NLA_TYPE_MASK)
            if row is None:
                if kind not in values:
                    values[kind] = payload
                elif isinstance(values[kind], list):    # repeated: a list, in the order of the wire
                    values[kind].append(payload)
                else:
                    values[kind] = [values[kind], payload]
                continue
            name, attr = row
            if isinstance(attr.codec, Choice):
                values[name] = payload                  # holds its place; read when the whole level is known
                chosen.append((name, attr.codec, payload))
            elif attr.many:
                values.setdefault(name, []).append(attr.codec.decode(payload, depth + 1))
            else:
                values[name] = attr.codec.decode(payload, depth + 1)
        for name, choice, payload in chosen:
            values[name] = choice.pick(values).decode(payload, depth + 1)
        return values


class Nested(Codec):
    """Attributes within an attribute. `flags`: NLA_F_NESTED where the kernel's users set it."""

    def __init__(self, table: Optional[Table], flags: int = 0):
        self.table, self.flags = table, flags
        self.name = "nested"

    def encode(self, value: Mapping) -> bytes:
        return self.table.encode(value)

    def decode(self, data: bytes, depth: int) -> Dict:
        return self.table.decode(data, depth)


def nested(table: Table, flags: int = 0) -> Nested:
    return Nested(table, flags)


class Fixed:
    """The fixed header in front of a message's attributes (struct ifinfomsg, ...). `form` as in the struct module."""

    def __init__(self, name: str, form: str, *fields: str):
        self.name = name
        self._struct = struct.Struct("=" + form)
        self.size = self._struct.size
        self.tuple = namedtuple(name, fields, defaults=(0,) * len(fields))

    def encode(self, **fields: int) -> bytes:
        try:
            return self._struct.pack(*self.tuple(**fields))
        except struct.error:
            raise UsageError(f"{self.name} {fields}: a number is out of range") from None

    def decode(self, data: bytes):
        if len(data) < self.size:
            raise ProtocolError(f"{self.name} of {len(data)} bytes, expected {self.size}")
        return self.tuple(*self._struct.unpack_from(data))


class Body(NamedTuple):
    """A message's payload, read: the fixed header (a named tuple) and the attributes."""

    header: Any
    attrs: Dict


class Layout(Codec):
    """A fixed header followed by attributes: a message's payload, or an attribute that holds one (VETH_INFO_PEER)."""

    def __init__(self, fixed: Fixed, table: Table):
        self.fixed, self.table, self.name = fixed, table, fixed.name

    def encode(self, value: Tuple[Mapping, Mapping]) -> bytes:
        header, attrs = value
        if not isinstance(header, Mapping):
            header = header._asdict()
        return self.fixed.encode(**header) + self.table.encode(attrs)

    def decode(self, data: bytes, depth: int = 0) -> Body:
        return Body(self.fixed.decode(data), self.table.decode(data, depth, self.fixed.size))


def locate(layout: Layout, payload: bytes, offset: int) -> Optional[str]:
    """The path of constants to the attribute that covers byte `offset` of a message's payload.

    "IFLA_LINKINFO.IFLA_INFO_DATA" for the data of a link; None if no attribute is there. An offset at an attribute's
    header means that attribute.
    """
    path: List[str] = []
    table: Optional[Table] = layout.table
    start, siblings = layout.fixed.size, payload
    base = 0
    while table is not None:
        found = None
        for kind, first, end in attributes(siblings, start):
            if first - 4 <= offset - base < end:
                found = kind, first, end
                break
        if found is None:
            break
        kind, first, end = found
        row = table.by_number.get(kind & NLA_TYPE_MASK)
        if row is None:
            path.append(f"{table.prefix}({kind & NLA_TYPE_MASK})")
            break
        name, attr = row
        path.append(table.constant(name))
        if offset - base < first:
            break
        codec = attr.codec
        if isinstance(codec, Choice):
            try:
                codec = codec.pick_from(table, siblings, start)
            except ProtocolError:
                break
        siblings, base = siblings[first:end], base + first
        table = getattr(codec, "table", None)
        start = codec.fixed.size if isinstance(codec, Layout) else 0
    return ".".join(path) or None
