"""Tables of attributes: one table drives the writer, the reader and the explanation of a nesting level alike.

Pure, as wire.py is. Two ways to read: `Table.decode` reads everything and checks everything; `Table.view` gives an `Attrs`,
which finds and reads an attribute when it is asked for, so that a list of a thousand links costs what is looked at, and one
odd attribute of a stranger's link spoils nothing else. Both keep these rules:

- any bytes give a value or ProtocolError;
- what a table does not know survives: an unknown attribute is kept under its number as bytes, and is written unchanged; so
  are flag bits of nla_type that are not ours, and the end of a struct that another kernel has longer;
- of an attribute that stands twice, where it may stand once, the first counts, as in iproute2's parser.
"""

from __future__ import annotations

from collections.abc import Mapping     # typing's answers isinstance at five times the price
from functools import cached_property
from itertools import zip_longest

from nsnet.errors import ProtocolError, UsageError
from nsnet.named import NamedTuple
from nsnet.wire import (ATTR_HEADER, ATTR_MAX, NLA_TYPE_MASK, Codec, Fixed, attributes, encode_attribute, raw)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeAlias, Union

MAX_DEPTH = 16                              # no message nests half as deep; bytes from nowhere might

_unpack_header = ATTR_HEADER.unpack_from


class Attr(NamedTuple):
    """One row of a table. `many`: the attribute may stand several times; its value is a list."""

    number: int
    codec: Codec
    many: bool = False


class Level(NamedTuple):
    """One nesting level within bytes: data[start:end] holds attributes of `table`, behind `header`, a struct or None."""

    table: "Table"
    start: int
    end: int
    header: Any = None


class Body(NamedTuple):
    """A message's payload, read: the fixed header (a named tuple) and the attributes."""

    header: Any
    attrs: Mapping


class Flagged(dict):
    """What Table.decode gives for a level where an attribute came with other flag bits than we write (NLA_F_NESTED is set
    by some kernels and not by others): `flags` has them by name. A copy made by {**...} is written with ours.
    """

    flags: Dict[str, List[int]]             # one number, or as many as there are of one that may stand several times


class Choice(Codec):
    """A codec that depends on the value of another attribute of the same table (IFLA_INFO_DATA on IFLA_INFO_KIND)."""

    def __init__(self, by: str, **codecs: Codec):
        self.by, self.codecs, self.name = by, codecs, f"by {by}"

    def pick(self, values: Mapping) -> Codec:
        return self.codecs.get(values.get(self.by), raw)


Index: TypeAlias = "Callable[[bytes, int], Optional[Sequence[int]]]"     # kernel.index_attributes, or nothing


class Attrs(Mapping):
    """The attributes of one level, read when they are asked for; a mapping as Table.decode gives it, nested ones included.

    Asking raises ProtocolError where the bytes that must be read for it make no sense. Safe from many threads. `index`: a
    faster way to find the attributes of a level, all at once.
    """

    __slots__ = ("_table", "_data", "_start", "_depth", "_next", "_places", "_nested")

    def __init__(self, table: "Table", data: bytes, depth: int = 0, start: int = 0, index: Optional[Index] = None):
        if depth > MAX_DEPTH:
            raise ProtocolError(f"attributes nested more than {MAX_DEPTH} deep")
        self._table, self._data, self._start, self._depth = table, data, start, depth
        self._nested: Optional[Dict[str, Any]] = None       # what holds attributes itself is made once
        places: Any = None if index is None else index(data, start)
        if places is None:
            self._places, self._next = {}, start    # offset << 16 | length by type, of all before `_next`
        else:
            self._places, self._next = places, -1   # of all there are

    def get(self, name: Any, default: Any = None) -> Any:
        reader = self._table.readers.get(name)
        if reader is None:
            return self._several(name, self._table.rows.get(name), default)
        number, view, nests = reader
        if nests and self._nested is not None and name in self._nested:
            return self._nested[name]
        place = self._places[number] if self._next < 0 else self._places.get(number) or self._seek(number)
        if not place:
            return default
        first = place >> 16
        if not nests:
            return view(self._data[first:first + (place & 0xFFFF)], self._depth + 1)
        if view is None:
            view = self._table.rows[name].codec.pick(self).view
        value = view(self._data[first:first + (place & 0xFFFF)], self._depth + 1)
        self._nested = {**(self._nested or {}), name: value}
        return value

    def _seek(self, number: int) -> int:
        """Search on from where the last search ended."""
        data, at, places = self._data, self._next, self._places
        end = len(data)
        while end - at >= 4:
            length, kind = _unpack_header(data, at)
            if length < 4 or length > end - at:
                break
            kind &= NLA_TYPE_MASK
            if kind not in places:
                places[kind] = (at + 4) << 16 | (length - 4)
            at += (length + 3) & ~3
            if kind == number:
                self._next = at
                return places[number]
        self._next = at
        place = places.get(number, 0)               # another thread may have met it meanwhile
        if at < end and not place:
            list(attributes(data, at))              # raises: says what is wrong there
        return place

    def _several(self, name: Any, row: Optional[Attr], default: Any) -> Any:
        """What may stand several times, or is not known; no other attribute of the level is read for it."""
        if row is None and (not isinstance(name, int) or name & NLA_TYPE_MASK in self._table.by_number):
            return default
        wanted, mask = (name, 0xFFFF) if row is None else (row.number, NLA_TYPE_MASK)
        found = [self._data[first:end] for kind, first, end in attributes(self._data, self._start) if kind & mask == wanted]
        if not found:
            return default
        if row is not None:
            return [row.codec.decode(payload, self._depth + 1) for payload in found]
        return found if len(found) > 1 else found[0]

    def _read_all(self) -> Dict:
        return self._table.decode(self._data, self._depth, self._start)

    def encode(self) -> bytes:
        """The bytes as they came."""
        return self._data[self._start:]

    def __getitem__(self, name: Any) -> Any:
        value = self.get(name, self)
        if value is self:
            raise KeyError(name)
        return value

    def __contains__(self, name: Any) -> bool:
        row = self._table.rows.get(name)
        if row is None:
            return self._several(name, row, None) is not None
        if self._next < 0:
            return self._places[row.number] != 0
        return (self._places.get(row.number) or self._seek(row.number)) != 0

    def __iter__(self) -> Iterator:
        return iter(self._read_all())

    def __len__(self) -> int:
        return len(self._read_all())

    def items(self):
        return self._read_all().items()

    def values(self):
        return self._read_all().values()

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, Attrs):
            other = other._read_all()
        return self._read_all() == other if isinstance(other, Mapping) else NotImplemented

    __hash__ = None

    def __repr__(self) -> str:
        try:
            return repr(self._read_all())
        except ProtocolError as error:
            return f"<attributes that do not parse: {error}>"

    def __reduce__(self):
        return dict, (list(self.items()),)      # a table is not for pickling


class Table:
    """The attributes of one nesting level: rows by name.

    `prefix`: of the constants in the uapi header, so that `prefix_NAME` is the constant of row `name`.
    """

    def __init__(self, prefix: str, **rows: Attr):
        self.prefix = prefix
        self.rows = rows
        if len({attr.number for attr in rows.values()}) != len(rows):
            raise ValueError(f"{prefix}: a number stands twice")
        self._writers: Dict[Any, Callable[[Any], bytes]] = {}       # made when first needed: there are hundreds of rows

    # The rows once more, laid out for reading. Each made when first needed, likewise; by two threads at once, twice the same.

    @cached_property
    def by_number(self) -> Dict[int, Tuple[str, Attr]]:
        return {attr.number: (name, attr) for name, attr in self.rows.items()}

    @cached_property
    def readers(self) -> Dict[str, Tuple]:
        """By name, for Attrs: those that may stand once."""
        found = {}
        for name, (number, codec, many) in self.rows.items():
            if not many:
                chosen = isinstance(codec, Choice)
                found[name] = number, None if chosen else codec.view, chosen or hasattr(codec, "levels")
        return found

    @cached_property
    def _decoders(self) -> Dict[int, Tuple]:
        """By number, for decode."""
        return {number | codec.flags: (name, codec.decode, many, codec if isinstance(codec, Choice) else None)
                for name, (number, codec, many) in self.rows.items()}

    def constant(self, name: str) -> str:
        """The uapi constant of a row."""
        return f"{self.prefix}_{name.rstrip('_').upper()}"

    def encode(self, values: Mapping) -> bytes:
        """The attributes in the order of `values`: {name: value}, or {number: bytes} for what the table does not know."""
        if type(values) is not dict:                    # it nearly always is, and to ask about the others takes longer
            if isinstance(values, Attrs) and values._table is self:
                return values.encode()
            if not isinstance(values, Mapping):
                raise UsageError(f"{values!r}: expected the attributes of {self.prefix} by name")
        odd = type(values) is Flagged
        find = (lambda name: None) if odd else self._writers.get
        parts = []
        try:
            for name, value in values.items():
                write = find(name)
                if write is None:
                    write = self._writer_as(name, values) if odd else self._writer(name, values)
                parts.append(write(value))
        except UsageError as error:
            if error.attribute is None and name in self.rows:
                error.blame(self.constant(name))
            raise
        except (TypeError, AttributeError, ValueError):
            raise UsageError(f"{value!r}: expected a value for {self.constant(str(name))}") from None
        return b"".join(parts)

    def _writer_as(self, name: Union[str, int], values: Flagged) -> Callable[[Any], bytes]:
        """Of an attribute that may have come with other flag bits than ours."""
        flags = values.flags.get(name)
        if flags is None:
            return self._writer(name, values)
        number, codec, many = self.rows[name]
        if isinstance(codec, Choice):
            codec = codec.pick(values)

        def write(value: Any) -> bytes:
            several = value if many else (value,)
            return b"".join(codec.writer(number | bits)(one)
                            for one, bits in zip_longest(several, flags[:len(several)], fillvalue=codec.flags))
        return write

    def _writer(self, name: Union[str, int], values: Mapping) -> Callable[[Any], bytes]:
        attr = self.rows.get(name)
        if attr is None:
            if not isinstance(name, int):
                raise UsageError(f"{name!r}: expected an attribute of {self.prefix}")
            return lambda value: _write_unknown(name, value)
        if isinstance(attr.codec, Choice):              # by a sibling, hence not kept under its name alone
            key = name, values.get(attr.codec.by)
            write = self._writers.get(key)
            if write is None:
                codec = attr.codec.pick(values)
                write = codec.writer(attr.number | codec.flags)
                if codec is not raw:                    # there is no end of kinds that we do not know
                    self._writers[key] = write
            return write
        write = attr.codec.writer(attr.number | attr.codec.flags)
        if attr.many:
            one = write

            def write(value: Sequence) -> bytes:
                return b"".join(map(one, value))
        self._writers[name] = write
        return write

    def decode(self, data: bytes, depth: int = 0, start: int = 0) -> Dict:
        """{name: value} of the attributes in data[start:]. Raises ProtocolError."""
        if depth > MAX_DEPTH:
            raise ProtocolError(f"attributes nested more than {MAX_DEPTH} deep")
        values: Dict = {}
        decoders = self._decoders
        chosen: List[Tuple[str, Choice, bytes, int]] = []
        odd: Dict[str, List[int]] = {}
        for kind, first, end in attributes(data, start):
            payload = data[first:end]
            decoder = decoders.get(kind)
            if decoder is None:
                decoder = self._with_other_flags(kind, odd, values)
            if decoder is None:
                if kind not in values:
                    values[kind] = payload
                elif isinstance(values[kind], list):    # repeated: a list, in the order of the wire
                    values[kind].append(payload)
                else:
                    values[kind] = [values[kind], payload]
                continue
            name, decode, many, choice = decoder
            if many:
                values.setdefault(name, []).append(decode(payload, depth + 1))
            elif name in values:
                continue
            elif choice is not None:
                values[name] = payload                  # holds its place; read when the whole level is known
                chosen.append((name, choice, payload, kind & ~NLA_TYPE_MASK))
            else:
                values[name] = decode(payload, depth + 1)
        for name, choice, payload, flags in chosen:
            codec = choice.pick(values)
            values[name] = codec.decode(payload, depth + 1)
            if flags != codec.flags:
                odd[name] = [flags]
        if odd:
            values = Flagged(values)
            values.flags = odd
        return values

    def _with_other_flags(self, kind: int, odd: Dict[str, List[int]], values: Mapping) -> Optional[Tuple]:
        """The decoder of an attribute that came with other flag bits than we write; they are kept in `odd`."""
        row = self.by_number.get(kind & NLA_TYPE_MASK)
        if row is None:
            return None
        name, (number, codec, many) = row
        if many:                                        # those before it had the usual bits
            before = len(values.get(name, ()))
            bits = odd.setdefault(name, [])
            bits += [codec.flags] * (before - len(bits)) + [kind & ~NLA_TYPE_MASK]
        elif name not in values and not isinstance(codec, Choice):
            odd[name] = [kind & ~NLA_TYPE_MASK]
        return self._decoders[number | codec.flags]

    def view(self, data: bytes, depth: int = 0, start: int = 0) -> Attrs:
        """The same, each attribute read when it is asked for."""
        return Attrs(self, data, depth, start)

    def codec_of(self, attr: Attr, data: bytes, start: int, end: int) -> Codec:
        """How an attribute of the level data[start:end] is read; nothing but the deciding sibling need make sense."""
        if not isinstance(attr.codec, Choice):
            return attr.codec
        try:
            return attr.codec.pick(Attrs(self, data[start:end]))
        except ProtocolError:
            return raw


def _write_unknown(kind: int, value: Union[bytes, List[bytes]]) -> bytes:
    return b"".join(encode_attribute(kind, payload) for payload in (value if isinstance(value, list) else (value,)))


class Nested(Codec):
    """Attributes within an attribute. `flags`: NLA_F_NESTED where the kernel's users set it."""

    name = "nested"

    def __init__(self, table: Table, flags: int = 0):
        self.table, self.flags = table, flags
        self.encode, self.decode, self.view = table.encode, table.decode, table.view

    def levels(self, data: bytes, start: int, end: int) -> List[Level]:
        """The nesting levels that lie in data[start:end]."""
        return [Level(self.table, start, end)]


def nested(table: Table, flags: int = 0) -> Nested:
    return Nested(table, flags)


class Listed(Codec):
    """A list as attributes whose nla_type is the position (IFLA_BOND_ARP_IP_TARGET)."""

    def __init__(self, codec: Codec, flags: int = 0):
        self.codec, self.flags, self.name = codec, flags, f"list of {codec.name}"

    def encode(self, value: Sequence) -> bytes:
        return b"".join(encode_attribute(position, self.codec.encode(one)) for position, one in enumerate(value))

    def decode(self, data: bytes, depth: int = 0) -> List:
        return [self.codec.decode(data[first:end], depth + 1) for _, first, end in attributes(data)]


def listed(codec: Codec, flags: int = 0) -> Listed:
    return Listed(codec, flags)


class Layout(Codec):
    """A fixed header followed by attributes: a message's payload, or an attribute that holds one (VETH_INFO_PEER).

    `by_family`: the tables of those families whose attributes have other meanings; the header's `family` says which.
    """

    def __init__(self, fixed: Fixed, table: Optional[Table], by_family: Optional[Mapping[int, Table]] = None):
        self.fixed, self.table, self.name = fixed, table, fixed.name
        self.by_family = dict(by_family or {})

    def table_for(self, family: int) -> Table:
        return self.by_family.get(family, self.table)

    def _table_of(self, header: Any) -> Table:
        return self.by_family.get(header.family, self.table) if self.by_family else self.table

    def encode(self, value: Tuple[Any, Mapping]) -> bytes:
        header, attrs = value
        table = self.table
        if self.by_family:
            by_name = type(header) is dict or isinstance(header, Mapping)
            family = header.get("family", 0) if by_name else header.family
            table = self.by_family.get(family, table)
        return self.fixed.pack(header) + table.encode(attrs)

    def decode(self, data: bytes, depth: int = 0) -> Body:
        header = self.fixed.decode(data)
        return Body(header, self._table_of(header).decode(data, depth, self.fixed.size))

    def view(self, data: bytes, depth: int = 0, index: Optional[Index] = None, kind: type = Body) -> Body:
        """The same, each attribute read when it is asked for. `kind`: Body or a class made from it."""
        header = self.fixed.decode(data)
        return kind(header, Attrs(self._table_of(header), data, depth, self.fixed.size, index))

    def views(self, payloads: Iterable[bytes], index: Optional[Index] = None, kind: type = Body) -> List:
        """view() of many: a list of thousands of links is made here."""
        size, header_of, new = self.fixed.size, self.fixed.decode, tuple.__new__
        table, tables = self.table, self.by_family
        found = []
        for data in payloads:
            header = header_of(data)
            if tables:
                table = tables.get(header.family, self.table)
            found.append(new(kind, (header, Attrs(table, data, 0, size, index))))
        return found

    def levels(self, data: bytes, start: int, end: int) -> List[Level]:
        header = self.fixed.decode(data[start:end])
        return [Level(self._table_of(header), start + self.fixed.size, end, header)]


class Chain(Codec):
    """Structs that each say how long they are with the attributes behind them (RTA_MULTIPATH): a list of Body.

    The struct's field `len` is filled in by the writer.
    """

    def __init__(self, fixed: Fixed, table: Optional[Table]):
        self.fixed, self.table, self.name = fixed, table, f"{fixed.name}[]"

    def encode(self, value: Sequence[Tuple[Any, Mapping]]) -> bytes:
        parts = []
        for header, attrs in value:
            fields = dict(header) if isinstance(header, Mapping) else header._asdict()
            body = self.table.encode(attrs)
            if len(body) > ATTR_MAX - self.fixed.size:
                raise UsageError(f"{self.fixed.name} of {len(body)} bytes, expected at most {ATTR_MAX - self.fixed.size}")
            parts.append(self.fixed.pack({**fields, "len": self.fixed.size + len(body)}) + body)
        return b"".join(parts)

    def decode(self, data: bytes, depth: int = 0) -> List[Body]:
        return [Body(level.header, self.table.decode(data[:level.end], depth, level.start))
                for level in self.levels(data, 0, len(data))]

    def levels(self, data: bytes, start: int, end: int) -> List[Level]:
        found = []
        while end - start >= self.fixed.size:
            header = self.fixed.decode(data, start)
            if not self.fixed.size <= header.len <= end - start:
                raise ProtocolError(f"{self.fixed.name}: length {header.len}, of {end - start} there")
            found.append(Level(self.table, start + self.fixed.size, start + header.len, header))
            start += (header.len + 3) & ~3
        if start < end:
            raise ProtocolError(f"{end - start} bytes behind the last {self.fixed.name}")
        return found


def levels(codec: Codec, data: bytes, start: int, end: int) -> Sequence[Level]:
    """The nesting levels within an attribute's payload, data[start:end]; none for a plain value. Raises ProtocolError."""
    find = getattr(codec, "levels", None)
    return find(data, start, end) if find else ()


def _descend(layout: Layout, payload: bytes, offset: int) -> Tuple[List[str], Sequence[Level]]:
    """The constants on the way to the innermost attribute that covers byte `offset`, and the levels within that one."""
    path: List[str] = []
    inside: Sequence[Level] = layout.levels(payload, 0, len(payload))
    while True:
        level = next((one for one in inside if one.start <= offset < one.end), None)
        if level is None:
            return path, inside
        table = level.table
        for kind, first, end in attributes(payload[:level.end], level.start):
            if first - 4 <= offset < end:
                break
        else:
            return path, inside
        row = table.by_number.get(kind & NLA_TYPE_MASK)
        if row is None:
            return path + [f"{table.prefix}({kind & NLA_TYPE_MASK})"], ()
        name, attr = row
        path.append(table.constant(name))
        inside = levels(table.codec_of(attr, payload, level.start, level.end), payload, first, end)
        if offset < first:
            return path, inside


def locate(layout: Layout, payload: bytes, offset: int) -> Optional[str]:
    """The path of constants to the attribute that covers byte `offset` of a message's payload.

    "IFLA_LINKINFO.IFLA_INFO_DATA" for the data of a link; None if no attribute is there. An offset at an attribute's
    header means that attribute.
    """
    return ".".join(_descend(layout, payload, offset)[0]) or None


def missing(layout: Layout, payload: bytes, number: int, nest: Optional[int] = None) -> str:
    """The path to an attribute that should be there and is not (NLMSGERR_ATTR_MISS_TYPE).

    `nest`: the offset of the attribute that it should be in; None: of the message itself.
    """
    path, inside = ([], layout.levels(payload, 0, len(payload))) if nest is None else _descend(layout, payload, nest)
    row = inside[0].table.by_number.get(number) if inside else None
    return ".".join(path + [inside[0].table.constant(row[0]) if row else f"type {number}"]) + " (missing)"
