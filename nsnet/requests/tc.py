"""Queueing disciplines and classes: those that a container network uses. filters.py has what hangs on them.

Rates are bytes per second, sizes bytes, and times seconds; the kernel counts time in ticks of 64 ns (PSCHED_SHIFT 6).

Sources: <linux/rtnetlink.h>, <linux/pkt_sched.h>; tc(8), tc-tbf(8), tc-htb(8); net/sched in the kernel.
"""

from __future__ import annotations

import errno
import math

from nsnet import rtnl
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests.common import CREATE, ENSURE, U32, call, kind_name, number, positive, tolerated, without_none
from nsnet.tables import Body
from nsnet.values import is_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, Mapping, Optional, TypeAlias, Union

_TICK = 64e-9                       # seconds
_ETHERNET = 1                       # TC_LINKLAYER_ETHERNET: rates are exact, no rate table is needed
_HTB_VERSION = 3                    # TC_HTB_PROTOVER, of <linux/pkt_sched.h>
KIND_BYTES = 15                     # IFNAMSIZ, <linux/if.h>, is 16

INGRESS_MAJOR = rtnl.TC_H_CLSACT & 0xFFFF0000
# What the words for a parent mean depends on what it is the parent of.
_QDISC_PARENTS = {"root": rtnl.TC_H_ROOT}
_DELETED_PARENTS = {"root": rtnl.TC_H_ROOT, "ingress": rtnl.TC_H_INGRESS, "clsact": rtnl.TC_H_CLSACT}
_CLASS_PARENTS = {"root": rtnl.TC_H_ROOT}
_NO_NAMES: Mapping[str, int] = {}
_SPECIAL = {"ingress": (INGRESS_MAJOR, rtnl.TC_H_INGRESS), "clsact": (INGRESS_MAJOR, rtnl.TC_H_CLSACT)}

Handle: TypeAlias = "Union[int, str]"


def handle_of(value: Handle, what: str = "handle", names: Mapping[str, int] = _NO_NAMES) -> int:
    """major << 16 | minor, from "1:", "1:10" (hex, as tc(8) writes them), one of `names`, or a number."""
    if isinstance(value, str):
        if value in names:
            return names[value]
        major, colon, minor = value.partition(":")
        if colon and value != ":" and is_hex(major, 4) and is_hex(minor, 4):
            return int(major or "0", 16) << 16 | int(minor or "0", 16)
    else:
        try:
            return number(value, 0, U32, what)
        except UsageError:
            pass
    raise UsageError(f"{what} {value!r}: expected " + ", ".join(
        ["'major:minor' in hex such as '1:10'", *map(repr, names)]))


def written(value: int) -> str:
    """A handle as tc(8) writes it."""
    return f"{value >> 16:x}:{value & 0xFFFF:x}"


def tc_request(type: int, flags: int, words: str, index: int, attrs: Mapping, tolerate: FrozenSet[int] = frozenset(),
               kind: Optional[str] = None, **header: int) -> Request:
    payload = rtnl.TC_BODY.encode(({"ifindex": positive(index), **header}, without_none(dict(attrs))))
    return Request(type, flags, payload, words, tolerate, kind)


def ticks_or_most(size: int, rate: int) -> int:
    """How long `size` bytes take."""
    return min(round(size / rate / _TICK), U32)


def ticks(size: int, rate: int, what: str, least: int = 0) -> int:
    """The same, for a size that somebody asked for. `least`: 1 where the kernel knows it in ticks alone."""
    found = ticks_or_most(size, rate)
    if found == U32:
        raise UsageError(f"{what} {size}: expected at most {int(rate * U32 * _TICK)}, what is sent in "
                         f"{U32 * _TICK:.0f} seconds")
    if found < least:
        raise UsageError(f"{what} {size}: expected at least {math.ceil(rate * _TICK)}, what is sent in 64 nanoseconds")
    return found


def rate_of(value: Any, what: str) -> int:
    try:
        return number(value, 1, (1 << 64) - 1, what)
    except UsageError as error:
        raise UsageError(f"{error} bytes a second") from None


def ratespec(value: int, prefix: str) -> Dict[str, int]:
    """The fields of a struct tc_ratespec; a rate beyond 32 bits goes into an attribute of its own (wide)."""
    return {f"{prefix}_rate": min(value, U32), f"{prefix}_linklayer": _ETHERNET}


def wide(value: Optional[int]) -> Optional[int]:
    return value if value is not None and value > U32 else None


# --- queueing disciplines ---


def tbf(*, rate: int, burst: int, latency: Optional[float] = None, limit: Optional[int] = None,
        peakrate: Optional[int] = None, mtu: Optional[int] = None) -> Dict:
    """The options of a token bucket: rtnl.TBF.

    Either `latency`, the longest that a packet may wait, or `limit` in bytes. A packet longer than `burst` (with
    peakrate: than `mtu`) never gets through: at least the link's MTU and its header of 14 bytes.
    """
    rate, burst = rate_of(rate, "rate"), number(burst, 1, U32, "burst")
    if (latency is None) == (limit is None):
        raise UsageError("tbf: expected latency or limit, and not both")
    if (peakrate is None) != (mtu is None):
        raise UsageError("tbf: expected peakrate and mtu together")
    parms = {**ratespec(rate, "rate"), "buffer": ticks(burst, rate, "burst")}
    if peakrate is not None and mtu is not None:
        peakrate, mtu = rate_of(peakrate, "peakrate"), number(mtu, 1, U32, "mtu")
        if peakrate <= rate:
            raise UsageError(f"peakrate {peakrate}: expected more than the rate, {rate}")
        parms.update(ratespec(peakrate, "peakrate"), mtu=ticks(mtu, peakrate, "mtu"))
    if latency is not None:
        if isinstance(latency, bool) or not isinstance(latency, (int, float)) or not 0 < latency < 1e6:
            raise UsageError(f"latency {latency!r}: expected seconds")
        limit = int(rate * latency) + burst
        if peakrate is not None:
            limit = min(limit, int(peakrate * latency) + mtu)
        if limit > U32:
            raise UsageError(f"latency {latency!r} s: expected at most {(U32 - burst) / rate:.1f} seconds, 4 GiB at this rate")
    parms["limit"] = number(limit, 1, U32, "limit")
    return {"parms": parms, **without_none({"burst": burst, "rate64": wide(rate), "pburst": mtu,
                                            "prate64": wide(peakrate)})}


def htb(*, default: Union[int, str] = 0, rate2quantum: int = 10) -> Dict:
    """The options of a hierarchical token bucket: rtnl.HTB. `default`: the class for the rest, "1:30", or its minor number."""
    if isinstance(default, str) and ":" in default:
        default = handle_of(default, "default") & 0xFFFF
    return {"init": {"version": _HTB_VERSION, "rate2quantum": number(rate2quantum, 1, 0x7FFFFFFF, "rate2quantum"),
                     "defcls": number(default, 0, 0xFFFF, "default")}}


_BUILDERS = {"tbf": tbf, "htb": htb}


def add_qdisc(index: int, words: str, kind: str, *, handle_: Handle = 0, parent: Handle = "root", ensure: bool = False,
              options: Optional[Mapping] = None) -> Request:
    """RTM_NEWQDISC. `options`: those of tbf() or htb(), or {"options": bytes} for a kind that has no table here."""
    options = options or {}
    attrs: Dict[str, Any] = {"kind": kind_name(kind, KIND_BYTES, "qdisc")}
    own, above = handle_of(handle_), handle_of(parent, "parent", _QDISC_PARENTS)
    if own & 0xFFFF:
        raise UsageError(f"handle {handle_!r}: expected one without a minor number, such as '1:'")
    if kind in _SPECIAL:
        if own or above != rtnl.TC_H_ROOT:
            raise UsageError(f"qdisc {kind}: expected neither handle nor parent, its place is fixed")
        own, above = _SPECIAL[kind]
    if kind in _BUILDERS:
        attrs["options"] = call(_BUILDERS[kind], f"qdisc {kind}", options)
    elif options:
        if set(options) != {"options"} or not isinstance(options["options"], bytes) or kind in _SPECIAL:
            raise UsageError(f"qdisc {kind} option {next(iter(options))!r}: expected none"
                             + ("" if kind in _SPECIAL else ", or 'options' as bytes"))
        attrs["options"] = options["options"]
    flags, verb = (ENSURE, "ensure") if ensure else (CREATE, "add")
    return tc_request(rtnl.RTM_NEWQDISC, flags, f"{verb} qdisc {kind} on {words}", index, attrs, kind=kind, handle=own,
                      parent=above)


def is_there(request: Request, qdisc: Body) -> bool:
    """Whether a qdisc is what a request for one of kind htb would make of it. That kind has no change, only a birth."""
    wanted = rtnl.TC_BODY.decode(request.payload)
    if (qdisc.header.parent != wanted.header.parent or qdisc.attrs.get("kind") != wanted.attrs["kind"]
            or wanted.header.handle not in (0, qdisc.header.handle)):
        return False
    found, asked = qdisc.attrs["options"]["init"], wanted.attrs["options"]["init"]
    return (found.defcls, found.rate2quantum) == (asked.defcls, asked.rate2quantum)


def del_qdisc(index: int, words: str, *, parent: Handle = "root", handle_: Handle = 0,
              missing_ok: bool = False) -> Request:
    """RTM_DELQDISC. `parent` "root", "ingress" or "clsact" for what add_qdisc() made of that kind, or a class."""
    own = handle_of(handle_)
    tolerate = tolerated(missing_ok)
    if missing_ok and own:              # one of another handle is there: EINVAL
        tolerate |= {errno.EINVAL}
    return tc_request(rtnl.RTM_DELQDISC, 0, f"delete qdisc of {words}", index, {}, tolerate, handle=own,
                      parent=handle_of(parent, "parent", _DELETED_PARENTS))


def list_qdiscs() -> Request:
    """RTM_GETQDISC: of all links; tc_dump_qdisc() has no filter."""
    return Request(rtnl.RTM_GETQDISC, rtnl.NLM_F_DUMP, rtnl.TC_BODY.encode(({}, {})), "list qdiscs")


# --- classes ---


def htb_class(*, rate: int, ceil: Optional[int] = None, burst: Optional[int] = None, cburst: Optional[int] = None,
              prio: int = 0, quantum: int = 0) -> Dict:
    """The options of an HTB class. `burst` and `cburst`: by default what is sent in a millisecond, and 1600 bytes."""
    rate = rate_of(rate, "rate")
    ceil = rate if ceil is None else rate_of(ceil, "ceil")
    if ceil < rate:
        raise UsageError(f"ceil {ceil}: expected at least the rate, {rate}")
    parms = {**ratespec(rate, "rate"), **ratespec(ceil, "ceil"), "prio": number(prio, 0, 7, "prio"),
             "quantum": number(quantum, 0, U32, "quantum"), "buffer": _bucket(burst, rate, "burst"),
             "cbuffer": _bucket(cburst, ceil, "cburst")}
    return {"parms": parms, **without_none({"rate64": wide(rate), "ceil64": wide(ceil)})}


def _bucket(size: Optional[int], rate: int, what: str) -> int:
    """The size of a bucket, in ticks. Only one that was asked for can be too long."""
    if size is None:
        return ticks_or_most(rate // 1000 + 1600, rate)
    return ticks(number(size, 1, U32, what), rate, what, 1)


def add_class(index: int, words: str, kind: str, *, classid: Handle, parent: Handle, ensure: bool = False,
              options: Optional[Mapping] = None) -> Request:
    """RTM_NEWTCLASS. `options`: those of htb_class()."""
    if kind != "htb":
        raise UsageError(f"class of kind {kind!r}: expected 'htb'")
    own = handle_of(classid, "classid")
    if not own & 0xFFFF:
        raise UsageError(f"classid {classid!r}: expected one with a minor number, such as '1:10'")
    attrs = {"kind": kind, "options": call(htb_class, "htb class", options or {})}
    flags, verb = (ENSURE, "ensure") if ensure else (CREATE, "add")
    return tc_request(rtnl.RTM_NEWTCLASS, flags, f"{verb} class {written(own)} on {words}", index, attrs, handle=own,
                      parent=handle_of(parent, "parent", _CLASS_PARENTS))


def get_parent(request: Request) -> Optional[Request]:
    """RTM_GETTCLASS of the class that an add_class() names as parent; None if that is the root or the qdisc.

    A major number of 0 is that of the other one; 0 in both, that of the qdisc at the root (tc_ctl_tclass()).
    """
    header = rtnl.TCMSG.decode(request.payload)
    minor = header.parent & 0xFFFF
    if header.parent == rtnl.TC_H_ROOT or not minor:
        return None
    handle = (header.parent >> 16 or header.handle >> 16) << 16 | minor
    return tc_request(rtnl.RTM_GETTCLASS, 0, f"get class {written(handle)}", header.ifindex, {}, handle=handle)


def makes_class(request: Request, wanted: Request) -> bool:
    """Whether a request makes the class that another one names."""
    if request.type != rtnl.RTM_NEWTCLASS:
        return False
    made, named = rtnl.TCMSG.decode(request.payload), rtnl.TCMSG.decode(wanted.payload)
    majors = {made.handle >> 16, named.handle >> 16} - {0}
    return (made.ifindex, made.handle & 0xFFFF) == (named.ifindex, named.handle & 0xFFFF) and len(majors) < 2


def del_class(index: int, words: str, *, classid: Handle, missing_ok: bool = False) -> Request:
    """RTM_DELTCLASS."""
    own = handle_of(classid, "classid")
    return tc_request(rtnl.RTM_DELTCLASS, 0, f"delete class {written(own)} of {words}", index, {},
                      tolerated(missing_ok), handle=own)


def list_classes(index: int) -> Request:
    """RTM_GETTCLASS of one link."""
    return tc_request(rtnl.RTM_GETTCLASS, rtnl.NLM_F_DUMP, "list classes", index, {})
