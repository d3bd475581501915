"""Any netlink message as text that a person can read.

`explain(data)` walks the tables of rtnl.py: it knows no message by itself. It never fails: bytes that do not parse are
shown as hex, with the place where the sense ended. Used by NSNET_TRACE=1 and `python -m nsnet explain`.
"""

from typing import Any, List, Optional

from nsnet import rtnl
from nsnet.errors import ProtocolError
from nsnet.wire import (MAX_DEPTH, NLA_F_NESTED, NLA_TYPE_MASK, Choice, Layout, Message, Table, attributes, locate,
                        messages, s32)

_ANY_FLAGS = ((rtnl.NLM_F_REQUEST, "REQUEST"), (rtnl.NLM_F_MULTI, "MULTI"), (rtnl.NLM_F_ACK, "ACK"),
              (rtnl.NLM_F_ECHO, "ECHO"), (rtnl.NLM_F_DUMP_INTR, "DUMP_INTR"), (rtnl.NLM_F_DUMP_FILTERED, "DUMP_FILTERED"))
_GET_FLAGS = ((rtnl.NLM_F_ROOT, "ROOT"), (rtnl.NLM_F_MATCH, "MATCH"))
_NEW_FLAGS = ((rtnl.NLM_F_REPLACE, "REPLACE"), (rtnl.NLM_F_EXCL, "EXCL"), (rtnl.NLM_F_CREATE, "CREATE"),
              (rtnl.NLM_F_APPEND, "APPEND"))
_ERROR_FLAGS = ((rtnl.NLM_F_CAPPED, "CAPPED"), (rtnl.NLM_F_ACK_TLVS, "ACK_TLVS"))


def explain(data: bytes) -> str:
    """Every message in `data`, header first, one line an attribute, nested ones indented."""
    lines: List[str] = []
    try:
        for message in messages(bytes(data)):
            lines += _message(message)
    except ProtocolError as error:
        lines.append(f"! {error}")
    return "\n".join(lines)


def _flag_names(type: int, flags: int) -> str:
    if type in (rtnl.NLMSG_ERROR, rtnl.NLMSG_DONE):
        known = _ANY_FLAGS + _ERROR_FLAGS
    elif type % 4 == 2:                 # RTM_GET*: rtnetlink counts NEW, DEL, GET, SET in fours
        known = _ANY_FLAGS + _GET_FLAGS
    else:
        known = _ANY_FLAGS + _NEW_FLAGS
    names = [name for bit, name in known if flags & bit]
    rest = flags & ~sum(bit for bit, _ in known)
    return "|".join(names + ([hex(rest)] if rest else [])) or "0"


def _message(message: Message) -> List[str]:
    name = rtnl.MESSAGE_NAMES.get(message.type, f"type {message.type}")
    lines = [f"{name} {_flag_names(message.type, message.flags)} seq {message.seq} port {message.port}"
             f" length {16 + len(message.payload)}"]
    if message.type == rtnl.NLMSG_ERROR:
        return lines + _error(message)
    if message.type == rtnl.NLMSG_DONE and len(message.payload) >= 4:
        status = s32.decode(message.payload[:4], 0)
        lines.append(f"  error {-status}" if status < 0 else f"  status {status}")
        return lines + (_attrs(rtnl.EXTACK, message.payload, 4, 1) if message.flags & rtnl.NLM_F_ACK_TLVS else [])
    layout = rtnl.LAYOUTS.get(message.type)
    if layout is None:
        return lines + _hex(message.payload, 1)
    return lines + _layout(layout, message.payload, 1)


def _layout(layout: Layout, payload: bytes, indent: int) -> List[str]:
    """`indent` is the depth as well; below MAX_DEPTH bytes are shown as they are."""
    try:
        header = layout.fixed.decode(payload)
    except ProtocolError as error:
        return [f"{'  ' * indent}! {error}"] + _hex(payload, indent)
    fields = " ".join(f"{name}={value}" for name, value in header._asdict().items())
    return [f"{'  ' * indent}{layout.fixed.name} {fields}"] + _attrs(layout.table, payload, layout.fixed.size, indent)


def _attrs(table: Table, data: bytes, start: int, indent: int) -> List[str]:
    margin, lines = "  " * indent, []
    if indent > MAX_DEPTH:
        return [f"{margin}! nested more than {MAX_DEPTH} deep"] + _hex(data[start:], indent)
    try:
        for kind, first, end in attributes(data, start):
            payload = data[first:end]
            row = table.by_number.get(kind & NLA_TYPE_MASK)
            if row is None:
                nest = " NESTED" if kind & NLA_F_NESTED else ""
                lines.append(f"{margin}{table.prefix}({kind & NLA_TYPE_MASK}){nest} {payload.hex() or 'empty'}")
                continue
            name, attr = row
            codec = attr.codec.pick_from(table, data, start) if isinstance(attr.codec, Choice) else attr.codec
            if isinstance(codec, Layout):
                lines += [f"{margin}{table.constant(name)}"] + _layout(codec, payload, indent + 1)
            elif getattr(codec, "table", None) is not None:
                lines += [f"{margin}{table.constant(name)}"] + _attrs(codec.table, payload, 0, indent + 1)
            else:
                lines.append(f"{margin}{table.constant(name)} {_value(codec, payload)}")
    except ProtocolError as error:
        lines.append(f"{margin}! {error}")
    return lines


def _value(codec: Any, payload: bytes) -> str:
    try:
        value = codec.decode(payload, 0)
    except ProtocolError as error:
        return f"{payload.hex()} ! {error}"
    if isinstance(value, bytes):
        return value.hex() or "empty"
    return repr(value) if isinstance(value, str) else str(value)


def _error(message: Message) -> List[str]:
    payload, lines = message.payload, []
    try:
        header = rtnl.NLMSGERR.decode(payload)
    except ProtocolError as error:
        return [f"  ! {error}"] + _hex(payload, 1)
    answered = rtnl.MESSAGE_NAMES.get(header.type, f"type {header.type}")
    verdict = "ACK" if header.error == 0 else f"error {-header.error}"
    lines.append(f"  {verdict} of {answered} seq {header.seq}")
    start = rtnl.NLMSGERR.size
    blamed: Optional[str] = None
    if not message.flags & rtnl.NLM_F_CAPPED and header.error:
        request, length = payload[start:], max(header.len, 16) - 16
        start += (length + 3) & ~3
        layout = rtnl.LAYOUTS.get(header.type)
        try:
            attrs = rtnl.EXTACK.decode(payload, 0, start) if message.flags & rtnl.NLM_F_ACK_TLVS else {}
            if layout and "offs" in attrs:
                blamed = locate(layout, request[:length], attrs["offs"] - 16)
        except ProtocolError:
            blamed = None
    if message.flags & rtnl.NLM_F_ACK_TLVS:
        lines += _attrs(rtnl.EXTACK, payload, start, 1)
    if blamed:
        lines.append(f"  blames {blamed}")
    return lines


def _hex(data: bytes, indent: int) -> List[str]:
    return [f"{'  ' * indent}{data[i:i + 32].hex()}" for i in range(0, len(data), 32)]
