"""Any netlink message, in any direction, as text that a person can read, or as plain values for JSON.

Walks the tables of rtnl: it knows no message by itself, only names for numbers (names.py) and how the
kernel says what it blames. It never fails: what does not parse is shown as hex, with a "!" and what was wrong with it.
Used by NSNET_TRACE, `nsnet.explain` and `python -m nsnet explain`.

An extended ACK points into the request that it answers. So an `Explainer` remembers the requests that it was shown, and
shows the refused one once more, with a mark under the attribute:

    NLMSG_ERROR CAPPED|ACK_TLVS seq 7 port 4711 length 120
      error 34 ERANGE of RTM_NEWLINK REQUEST|ACK|EXCL|CREATE seq 7 port 0 length 68
      NLMSGERR_ATTR_MSG 'Attribute failed policy validation'
      ...
      the request:
        ifinfomsg family=UNSPEC type=0 index=0 flags=0 change=0
        IFLA_MTU 0500 ! u32 of 2 bytes
        ^^^^^^^^ Attribute failed policy validation; it wants U32 0..4294967295

Sources: netlink(7); netlink_ack() in net/netlink/af_netlink.c; <linux/netlink.h>, enum nlmsgerr_attrs.
"""

from __future__ import annotations

import errno

from nsnet import rtnl
from nsnet.errors import ProtocolError, UsageError
from nsnet.exchange import Exchange, Request
from nsnet.named import NamedTuple
from nsnet.names import ATTRIBUTES, STRUCTS, flag_names, message_name
from nsnet.tables import MAX_DEPTH, Attr, Chain, Level, Table
from nsnet.wire import (NLA_F_NESTED, NLA_TYPE_MASK, NLMSG_HEADER, Message, Text, attributes, messages, raw, s32)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

_ANY = Table("")                        # a level of which no table is known
_UNKNOWN = Attr(-1, raw)

REMEMBERED = 1024                       # requests; an answer comes long before as many others were sent
HEX_BYTES = 32                          # in a line
MANY_FIELDS = 8                         # a longer struct in an attribute (statistics) is shown without its zeros


def explain(data: bytes) -> str:
    """Every message in `data`, header first, one line an attribute, nested ones indented.

    `data`: bytes, or what has the buffer of some. Raises UsageError for anything else.
    """
    try:
        read = bytes(memoryview(data))      # bytes(5) would be five zeros
    except TypeError:
        raise UsageError(f"{_cut(data)}: expected bytes, such as bytes.fromhex() makes of hex") from None
    return Explainer().text(read)


def _cut(value: Any) -> str:
    return repr(value[:40] if isinstance(value, str) else value)[:60]


class Explainer:
    """Explains message after message, in the order in which they were sent and received."""

    def __init__(self) -> None:
        self._asked: Dict[Tuple[int, int], Message] = {}

    def text(self, data: bytes, arrow: str = "", hex: bool = False) -> str:
        """The messages in `data` as lines. With `arrow` ("-> "), each message begins with it; the rest is indented.

        `hex`: with the bytes of each below it, as `python -m nsnet explain` takes them.
        """
        lines: List[str] = []
        for told in self._read(bytes(data)):
            first, *others = told if isinstance(told, list) else _text(told, hex)
            lines.append(arrow + first)
            lines += ["   " + line for line in others] if arrow else others
        return "\n".join(lines)

    def objects(self, data: bytes) -> List[Dict[str, Any]]:
        """The same as values for JSON: numbers as they are, bytes as hex, what does not parse under the key "!"."""
        told = self._read(bytes(data))
        return [{"!": one[0][2:]} if isinstance(one, list) else _object(one) for one in told]

    def _read(self, data: bytes) -> Iterator[Any]:
        """A _Told for each message; where the sense ends, a list of one line."""
        end = 0
        try:
            for message in messages(data):
                end += (16 + len(message.payload) + 3) & ~3
                yield self._message(message)
        except ProtocolError as error:
            yield [f"! {error}{_other_order(data[end:end + 16])}: {_brief(data[end:])}"]

    def _message(self, message: Message) -> "_Told":
        if message.type == rtnl.NLMSG_ERROR:
            return self._acknowledgement(message)
        if message.type == rtnl.NLMSG_DONE and len(message.payload) >= 4:
            asked = self._answered(message.port, message.seq) or self._answered(0, message.seq)
            return self._refused(_told(message, -s32.decode(message.payload[:4]), 4, asked), False)
        if message.flags & rtnl.NLM_F_REQUEST and message.type >= 16:           # NLMSG_MIN_TYPE
            if len(self._asked) >= REMEMBERED:
                del self._asked[next(iter(self._asked))]
            self._asked[message.port, message.seq] = message
        return _Told(message, _body(message))

    def _acknowledgement(self, message: Message) -> "_Told":
        payload, start = message.payload, rtnl.NLMSGERR.size
        try:
            head = rtnl.NLMSGERR.decode(payload)
        except ProtocolError as error:
            return _Told(message, [_Group(_ANY, None, (), str(error), payload)])
        asked = Message(head.type, head.flags, head.seq, head.pid, b"")
        seen = self._answered(head.pid, head.seq)
        known = seen is not None and seen[:4] == asked[:4] and len(seen.payload) + 16 == head.len
        echoed = head.error != 0 and not message.flags & rtnl.NLM_F_CAPPED and head.len > 16
        if echoed:                      # behind the request's header stands its payload
            asked = asked._replace(payload=payload[start:4 + head.len])
            start += (head.len - 16 + 3) & ~3
        elif known:
            asked = seen
        return self._refused(_told(message, -head.error, start, asked, head.len), echoed and not known)

    def _answered(self, port: int, seq: int) -> Optional[Message]:
        """A request, forgotten by that: it has one verdict, and made-up ones shall not show it a thousand times."""
        return self._asked.pop((port, seq), None)

    @staticmethod
    def _refused(told: "_Told", show: bool) -> "_Told":
        """With the request as far as it is known, and marked; `show`: even if nothing in it is blamed."""
        words = {item.name: item for item in reversed(told.groups[0].items)}            # the first of a kind counts
        offset, missing, nest = (_number(words.get(f"NLMSGERR_ATTR_{name}"))
                                 for name in ("OFFS", "MISS_TYPE", "MISS_NEST"))
        pointed = offset is not None or missing is not None
        if told.asked is None or not told.asked.payload or not (pointed or show):
            return told
        request, reason = _body(told.asked), _reason(told.error, words)
        notes, blames = {}, []
        marks: Dict[Optional[int], List[str]] = {}
        if offset is not None:
            path = _find(request, offset)
            where = path[-1].start if path else None
            marks[where] = [reason if path else f"byte {offset}, which is in no attribute: {reason}"]
            notes["NLMSGERR_ATTR_OFFS"] = _path(path)
            blames += filter(None, [_path(path)])
        if missing is not None:
            path = [] if nest is None else _find(request, nest)
            inside = path[-1].groups if path else request
            name = _constant(inside[0].table, missing) if inside else f"({missing})"
            where = path[-1].start if path else None
            marks.setdefault(where, []).append(f"{name} is missing in here: {reason}")
            notes["NLMSGERR_ATTR_MISS_TYPE"], notes["NLMSGERR_ATTR_MISS_NEST"] = name, _path(path)
            blames.append(f"{_path(path)}.{name} (missing)".lstrip("."))
        return told._replace(request=request, notes=notes, marks=marks, blames=blames)


class TracedExchange(Exchange):
    """An Exchange that says what it sends and what comes back, in the order of the wire, and marks what is blamed.

    `write` takes text, whole lines. `hex`: as of Explainer.text().
    """

    def __init__(self, requests: Sequence[Request], first_seq: int, write: Callable[[str], Any], hex: bool = False):
        super().__init__(requests, first_seq)
        self._explainer, self._write, self._with_hex = Explainer(), write, hex
        write(self._explainer.text(self.data, "-> ", hex) + "\n")

    def feed(self, data: bytes) -> None:
        self._write(self._explainer.text(data, "<- ", self._with_hex) + "\n")
        super().feed(data)


# --- what is there: bytes to items, without words ---

class _Item(NamedTuple):
    """An attribute. `start` and `end` of it are bytes of the message, counted as an extended ACK does."""

    name: str
    start: int
    end: int
    codec: Any
    value: Any                          # None if it is nested: then its levels are in `groups`
    groups: Sequence["_Group"] = ()
    complaint: str = ""                 # why its value is but bytes
    many: bool = False
    nested: str = ""                    # "NESTED " where that was said, and is not true


class _Group(NamedTuple):
    """The attributes of one level, and the bytes from where they make no sense any more."""

    table: Table
    header: Any
    items: Sequence[_Item]
    complaint: str = ""
    rest: bytes = b""


class _Told(NamedTuple):
    """A message. What follows `groups` is of NLMSG_ERROR and NLMSG_DONE: the words are in `groups`, then."""

    message: Message
    groups: Sequence[_Group]
    error: Optional[int] = None         # an errno; negative: a status
    asked: Optional[Message] = None     # the request, or of NLMSG_ERROR at least its header
    asked_length: int = 0
    request: Sequence[_Group] = ()
    notes: Dict[str, str] = {}          # what an attribute of the extended ACK points at, by its name
    marks: Dict[Optional[int], List[str]] = {}  # by the start of an attribute of the request; None: the request itself
    blames: Sequence[str] = ()          # paths, as NetlinkError.attribute has them


def _told(message: Message, error: int, start: int, asked: Optional[Message], asked_length: int = 0) -> _Told:
    """A verdict, with the kernel's words, which begin at byte `start` of the payload."""
    payload = message.payload
    if message.flags & rtnl.NLM_F_ACK_TLVS:
        words = _group(Level(rtnl.EXTACK, start, len(payload)), payload, 16, 1)
    else:
        words = _Group(_ANY, None, (), "", payload[start:])
    return _Told(message, [words], error, asked, asked_length or (16 + len(asked.payload) if asked else 0))


def _body(message: Message) -> List[_Group]:
    payload, layout = message.payload, rtnl.LAYOUTS.get(message.type)
    if layout is None:
        return [_Group(_ANY, None, (), "", payload)]
    try:
        return [_group(level, payload, 16, 1) for level in layout.levels(payload, 0, len(payload))]
    except ProtocolError as error:
        return [_Group(_ANY, None, (), str(error), payload)]


def _group(level: Level, data: bytes, base: int, depth: int) -> _Group:
    """`base`: where in the message data[0] stands."""
    table, start, end, header = level
    inside, items, codecs, at = data[start:end], [], {}, 0
    try:
        if depth > MAX_DEPTH:
            raise ProtocolError(f"nested more than {MAX_DEPTH} deep")
        for kind, first, last in attributes(inside):
            name, attr = table.by_number.get(kind & NLA_TYPE_MASK, (None, _UNKNOWN))
            if name not in codecs:      # a choice looks for its sibling: once a level, not once an attribute
                codecs[name] = table.codec_of(attr, inside, 0, len(inside))
            items.append(_item(_constant(table, kind & NLA_TYPE_MASK), kind, attr.many, codecs[name],
                               inside[first:last], base + start + first, depth))
            at = (last + 3) & ~3
    except ProtocolError as error:
        return _Group(table, header, items, str(error), inside[at:])
    return _Group(table, header, items)


def _item(name: str, kind: int, many: bool, codec: Any, payload: bytes, first: int, depth: int) -> _Item:
    start, end = first - 4, first + len(payload)
    try:
        if codec is raw and kind & NLA_F_NESTED and payload:
            group = _group(Level(_ANY, 0, len(payload)), payload, first, depth + 1)
            if not group.complaint:     # the sender says so, and it makes sense: nested, though no table knows it
                return _Item(name, start, end, codec, None, [group], many=many)
            return _Item(name, start, end, codec, payload, many=many, nested="NESTED ")
        if not hasattr(codec, "levels"):
            return _Item(name, start, end, codec, codec.decode(payload), many=many)
        groups = [_group(level, payload, first, depth + 1) for level in codec.levels(payload, 0, len(payload))]
        return _Item(name, start, end, codec, None, groups, many=many)
    except ProtocolError as error:
        return _Item(name, start, end, raw, payload, (), str(error), many)


def _constant(table: Table, number: int) -> str:
    row = table.by_number.get(number)
    return table.constant(row[0]) if row else f"{table.prefix}({number})"


def _number(item: Optional[_Item]) -> Optional[int]:
    return item.value if item is not None and isinstance(item.value, int) else None


def _path(items: Sequence[_Item]) -> str:
    return ".".join(item.name for item in items)


def _find(groups: Sequence[_Group], offset: int) -> List[_Item]:
    """The attributes that cover a byte of the message, from the outermost on; at its header, an attribute itself."""
    for item in (item for group in groups for item in group.items):
        if item.start <= offset < item.end:
            return [item] + (_find(item.groups, offset) if offset >= item.start + 4 else [])
    return []


# --- as text ---

def _text(told: _Told, hex: bool = False) -> List[str]:
    lines = [_headline(told.message, 16 + len(told.message.payload))]
    if told.error is not None:
        lines.append(f"  {_verdict(told)}")
        if told.asked is not None:
            lines[-1] += f" of {_headline(told.asked, told.asked_length)}"
    lines += _levels(told.groups, 1, {}, told.notes)
    if told.request:
        lines += ["  the request:", *_levels(told.request, 2, told.marks, {})]
        lines += [f"    ^ {words}" for words in told.marks.get(None, ())]
    if hex:
        lines += _hex(told.message.encode(), "  ")
    return lines


def _headline(message: Message, length: int) -> str:
    return (f"{message_name(message)} {'|'.join(flag_names(message)) or '0'} seq {message.seq} port {message.port}"
            f" length {length}")


def _levels(groups: Sequence[_Group], indent: int, marks: Dict[Optional[int], List[str]],
            notes: Dict[str, str]) -> List[str]:
    margin, lines = "  " * indent, []
    for group in groups:
        if group.header is not None:
            lines.append(f"{margin}{type(group.header).__name__} {_fields(group.header)}")
        for item in group.items:
            note = f" {notes[item.name]}" if notes.get(item.name) else ""
            lines += _with_value(margin + item.name, item, margin + "  ", note)
            lines += [f"{margin}{'^' * len(item.name)} {words}" for words in marks.get(item.start, ())]
            lines += _levels(item.groups, indent + 1, marks, notes)
        if group.complaint:
            lines.append(f"{margin}! {group.complaint}")
        lines += _hex(group.rest, margin)
    return lines


def _with_value(text: str, item: _Item, margin: str, note: str) -> List[str]:
    value, complaint = item.value, f" ! {item.complaint}" if item.complaint else ""
    if isinstance(value, bytes) and len(value) > HEX_BYTES:
        return [f"{text} {item.nested}{len(value)} bytes{complaint}", *_hex(value, margin)]
    if value is None or value is True:
        return [text]
    if item.name in ATTRIBUTES and isinstance(value, int):
        words = ATTRIBUTES[item.name](value)
    elif isinstance(value, str):
        words = repr(value) if isinstance(item.codec, Text) else value
    else:
        words = _words(value)
    return [f"{text} {item.nested}{words or 'empty'}{note}{complaint}"]


def _words(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "_asdict"):
        return _fields(value, len(value) > MANY_FIELDS)
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_words, value)))
    return str(value) if str(value).isprintable() else repr(value)


def _fields(struct: Any, sparse: bool = False) -> str:
    names = STRUCTS.get(type(struct).__name__, {})
    shown = [f"{name}={names[name](value) if name in names else value}" for name, value in struct._asdict().items()
             if value or not sparse]
    if len(shown) == len(struct):
        return " ".join(shown)
    return " ".join(shown) + ", else 0" if shown else "all 0"


def _hex(data: bytes, margin: str) -> List[str]:
    return [margin + data[at:at + HEX_BYTES].hex() for at in range(0, len(data), HEX_BYTES)]


def _brief(data: bytes) -> str:
    return data[:HEX_BYTES].hex() + ("..." if len(data) > HEX_BYTES else "")


def _verdict(told: _Told) -> str:
    if told.message.type == rtnl.NLMSG_DONE and told.error <= 0:
        return f"status {-told.error}"
    return _errno(told.error) if told.error else "ACK"


def _errno(number: int) -> str:
    return f"error {number} {errno.errorcode.get(number, '')}".rstrip()


def _reason(number: int, words: Dict[str, _Item]) -> str:
    """What the kernel has against an attribute: its sentence, and its policy."""
    said, policy = words.get("NLMSGERR_ATTR_MSG"), words.get("NLMSGERR_ATTR_POLICY")
    reason = said.value if said and isinstance(said.value, str) and said.value.isprintable() else ""
    wants = _policy(policy.groups[0].items) if policy and policy.groups else ""
    return (reason or _errno(number)) + (f"; it wants {wants}" if wants else "")


def _policy(items: Sequence[_Item]) -> str:
    """nla_policy in one breath: "U32 0..4294967295", "STRING of at most 15 bytes"."""
    has = {item.name[len(rtnl.POLICY.prefix) + 1:].lower(): item.value for item in items if type(item.value) is int}
    words = [ATTRIBUTES["NL_POLICY_TYPE_ATTR_TYPE"](has["type"])] if "type" in has else []
    words += [f"{has.get(f'min_value_{kind}', '')}..{has.get(f'max_value_{kind}', '')}" for kind in "us"
              if f"min_value_{kind}" in has or f"max_value_{kind}" in has]
    limits = (("at least", "min_length"), ("at most", "max_length"))
    lengths = [f"{word} {has[name]}" for word, name in limits if name in has]
    if lengths:
        words.append(f"of {' and '.join(lengths)} bytes")
    return " ".join(words + [f"bits {has[name]:#x}" for name in ("mask", "bitfield32_mask") if name in has])


def _other_order(header: bytes) -> str:
    """A message of a machine of the other byte order, said so: its length makes sense the other way round."""
    length = NLMSG_HEADER.unpack(header)[0] if len(header) == 16 else 0
    return " (it is in the other byte order)" if length > 0xFFFFFF and not length & 0xFF else ""


# --- as values for JSON ---

def _object(told: _Told) -> Dict[str, Any]:
    message = told.message
    found = _head_object(message, 16 + len(message.payload))
    if told.error is not None:
        ended = message.type == rtnl.NLMSG_DONE and told.error <= 0
        found["status" if ended else "error"] = abs(told.error) if ended else told.error
    found.update(_level_object(told.groups))
    if told.asked is not None:
        found["request"] = {**_head_object(told.asked, told.asked_length), **_level_object(told.request)}
    if told.blames:
        found["blames"] = list(told.blames)
    return found


def _head_object(message: Message, length: int) -> Dict[str, Any]:
    return {"type": message_name(message), "flags": flag_names(message), "seq": message.seq, "port": message.port,
            "length": length}


def _level_object(groups: Sequence[_Group]) -> Dict[str, Any]:
    """{"header": {...}, "attributes": {...}} of one level, as far as it has them."""
    found: Dict[str, Any] = {}
    for group in groups:
        if group.header is not None:
            found["header"] = _plain(group.header)
        if group.items or group.table is not _ANY:
            found["attributes"] = _attributes_object(group.items)
        if group.complaint:
            found["!"] = group.complaint
        if group.rest:
            found["rest"] = group.rest.hex()
    return found


def _attributes_object(items: Sequence[_Item]) -> Dict[str, Any]:
    """By name; a list where an attribute may stand several times, or does."""
    found: Dict[str, List[Any]] = {}
    several = {item.name for item in items if item.many}
    for item in items:
        found.setdefault(item.name, []).append(_item_object(item))
    return {name: values if len(values) > 1 or name in several else values[0] for name, values in found.items()}


def _item_object(item: _Item) -> Any:
    if item.complaint:
        return {"!": item.complaint, "rest": item.value.hex()}
    if item.value is not None:
        return _plain(item.value)
    levels = [_level_object([group]) for group in item.groups]
    if isinstance(item.codec, Chain):
        return levels
    found = levels[0]
    return found["attributes"] if set(found) == {"attributes"} else found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "_asdict"):
        return value._asdict()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
