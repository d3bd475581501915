"""Every table, layout, struct and codec of nsnet.rtnl, found by following the rows: a new one is tested by itself."""

import re
import struct

from nsnet import rtnl
from nsnet.rtnl.af_spec import DeviceConf
from nsnet.tables import Chain, Choice, Layout, Listed, Nested, Table
from nsnet.wire import Array, Fixed, Record, Scalar


def _inside(item):
    """What a table, layout or codec refers to."""
    if isinstance(item, Table):
        return [attr.codec for attr in item.rows.values()]
    if isinstance(item, Layout):
        return [item.fixed, item.table, *item.by_family.values()]
    if isinstance(item, Chain):
        return [item.fixed, item.table]
    if isinstance(item, Nested):
        return [item.table]
    if isinstance(item, Choice):
        return list(item.codecs.values())
    if isinstance(item, Listed):
        return [item.codec]
    if isinstance(item, DeviceConf):
        return [item.array, item.table]
    if isinstance(item, Record):
        return [item.fixed]
    if isinstance(item, Array):
        return [one for one in (item.head, item.item) if one]
    return []


def _discover():
    found, todo = {}, [item for item in vars(rtnl).values() if isinstance(item, (Table, Layout, Chain, Fixed))]
    todo += rtnl.LAYOUTS.values()
    while todo:
        item = todo.pop(0)
        if id(item) not in found:
            found[id(item)] = item
            todo += _inside(item)
    return list(found.values())


def _named(kind):
    """{the name it has in nsnet.rtnl, else its own: item} of one class."""
    known = {id(value): name for name, value in vars(rtnl).items() if not name.startswith("_")}
    items = [item for item in FOUND if type(item) is kind]
    named = {known.get(id(item)) or getattr(item, "prefix", None) or item.name: item for item in items}
    assert len(named) == len(items), "two of them have one name"
    return named


FOUND = _discover()
TABLES = _named(Table)
LAYOUTS = _named(Layout)
HEADERS = {fixed.name: fixed for fixed in FOUND if isinstance(fixed, Fixed)}
# Codecs that are neither a table's nor a single value's, by the struct or value that they hold.
COMPOUNDS = {f"{type(codec).__name__} {codec.name}": codec for codec in FOUND
             if isinstance(codec, (Record, Array, Listed, Chain, DeviceConf))}


def fixed_letters(fixed, padding=False):
    """The struct letters of a struct's fields, one each, in order."""
    spread = re.sub(r"(\d+)(\w)", lambda match: int(match[1]) * match[2], fixed._struct.format.lstrip("=!"))
    return spread if padding else spread.replace("x", "")


def bounds(letter_or_codec):
    """(lowest, highest) of a struct letter or of a Scalar."""
    if isinstance(letter_or_codec, Scalar):
        bits, signed = 8 * letter_or_codec.size, letter_or_codec.name.startswith("s")
    else:
        bits, signed = 8 * struct.calcsize("=" + letter_or_codec), letter_or_codec.islower()
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
