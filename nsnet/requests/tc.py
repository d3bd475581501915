"""Queueing disciplines, classes and filters: those that a container network uses.

Rates are bytes per second, sizes bytes, and times seconds; the kernel counts time in ticks of 64 ns (PSCHED_SHIFT 6).

Sources: <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/pkt_cls.h>; tc(8), tc-tbf(8), tc-htb(8), tc-u32(8), tc-bpf(8),
tc-police is in tc-actions(8); net/sched in the kernel.
"""

import errno
import re
import struct
import sys
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple, Union

from nsnet import rtnl, values
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests.common import (CREATE, ENSURE, U32, bits, call, choice, kind_name, number, positive,
                                   tolerated, without_none)
from nsnet.tables import Body
from nsnet.wire import string

_TICK = 64e-9                       # seconds
_ETHERNET = 1                       # TC_LINKLAYER_ETHERNET: rates are exact, no rate table is needed
_HTB_VERSION = 3                    # TC_HTB_PROTOVER, of <linux/pkt_sched.h>
_KIND_BYTES = 15                    # IFNAMSIZ, <linux/if.h>, is 16
_HANDLE = re.compile(r"([0-9A-Fa-f]{0,4}):([0-9A-Fa-f]{0,4})", re.ASCII)

PROTOCOLS = {"all": 0x0003, "ip": 0x0800, "ipv6": 0x86DD, "arp": 0x0806, "802.1q": 0x8100}      # ETH_P_*
POLICE_ACTIONS = {"ok": 0, "reclassify": 1, "drop": 2, "pipe": 3}       # TC_POLICE_*, <linux/pkt_cls.h>
_INGRESS_MAJOR = rtnl.TC_H_CLSACT & 0xFFFF0000
_INGRESS = _INGRESS_MAJOR | rtnl.TC_H_MIN_INGRESS
_EGRESS = _INGRESS_MAJOR | rtnl.TC_H_MIN_EGRESS
# What the words for a parent mean depends on what it is the parent of. To a filter 0 is the root; TC_H_ROOT would be
# "ingress", for it begins like that one's handle.
_QDISC_PARENTS = {"root": rtnl.TC_H_ROOT}
_DELETED_PARENTS = {"root": rtnl.TC_H_ROOT, "ingress": rtnl.TC_H_INGRESS, "clsact": rtnl.TC_H_CLSACT}
_CLASS_PARENTS = {"root": rtnl.TC_H_ROOT}
_FILTER_PARENTS = {"root": 0, "ingress": _INGRESS, "egress": _EGRESS}
_NO_NAMES: Mapping[str, int] = {}
_SPECIAL = {"ingress": (_INGRESS_MAJOR, rtnl.TC_H_INGRESS), "clsact": (_INGRESS_MAJOR, rtnl.TC_H_CLSACT)}
U32_TERMINAL = 1                    # TC_U32_TERMINAL
BPF_DIRECT = 1                      # TCA_BPF_FLAG_ACT_DIRECT

Handle = Union[int, str]


def _handle(value: Handle, what: str = "handle", names: Mapping[str, int] = _NO_NAMES) -> int:
    """major << 16 | minor, from "1:", "1:10" (hex, as tc(8) writes them), one of `names`, or a number."""
    if isinstance(value, str):
        if value in names:
            return names[value]
        found = _HANDLE.fullmatch(value)
        if found and value != ":":
            return int(found[1] or "0", 16) << 16 | int(found[2] or "0", 16)
    else:
        try:
            return number(value, 0, U32, what)
        except UsageError:
            pass
    raise UsageError(f"{what} {value!r}: expected " + ", ".join(
        ["'major:minor' in hex such as '1:10'", *map(repr, names)]))


def _written(value: int) -> str:
    """A handle as tc(8) writes it."""
    return f"{value >> 16:x}:{value & 0xFFFF:x}"


def _tc(type: int, flags: int, words: str, index: int, attrs: Mapping, tolerate: FrozenSet[int] = frozenset(),
        kind: Optional[str] = None, **header: int) -> Request:
    payload = rtnl.TC_BODY.encode(({"ifindex": positive(index), **header}, without_none(dict(attrs))))
    return Request(type, flags, payload, words, tolerate, kind)


def _ticks_or_most(size: int, rate: int) -> int:
    """How long `size` bytes take."""
    return min(round(size / rate / _TICK), U32)


def _ticks(size: int, rate: int, what: str) -> int:
    """The same, for a size that somebody asked for."""
    ticks = _ticks_or_most(size, rate)
    if ticks == U32:
        raise UsageError(f"{what} {size}: expected at most {int(rate * U32 * _TICK)}, what is sent in "
                         f"{U32 * _TICK:.0f} seconds")
    return ticks


def _rate(value: Any, what: str) -> int:
    try:
        return number(value, 1, (1 << 64) - 1, what)
    except UsageError as error:
        raise UsageError(f"{error} bytes a second") from None


def _ratespec(value: int, prefix: str) -> Dict[str, int]:
    """The fields of a struct tc_ratespec; a rate beyond 32 bits goes into an attribute of its own (_wide)."""
    return {f"{prefix}_rate": min(value, U32), f"{prefix}_linklayer": _ETHERNET}


def _wide(value: Optional[int]) -> Optional[int]:
    return value if value is not None and value > U32 else None


# --- queueing disciplines ---


def tbf(*, rate: int, burst: int, latency: Optional[float] = None, limit: Optional[int] = None,
        peakrate: Optional[int] = None, mtu: Optional[int] = None) -> Dict:
    """The options of a token bucket: rtnl.TBF.

    Either `latency`, the longest that a packet may wait, or `limit` in bytes. A packet longer than `burst` (with
    peakrate: than `mtu`) never gets through: at least the link's MTU and its header of 14 bytes.
    """
    rate, burst = _rate(rate, "rate"), number(burst, 1, U32, "burst")
    if (latency is None) == (limit is None):
        raise UsageError("tbf: expected latency or limit, and not both")
    if (peakrate is None) != (mtu is None):
        raise UsageError("tbf: expected peakrate and mtu together")
    parms = {**_ratespec(rate, "rate"), "buffer": _ticks(burst, rate, "burst")}
    if peakrate is not None and mtu is not None:
        peakrate, mtu = _rate(peakrate, "peakrate"), number(mtu, 1, U32, "mtu")
        if peakrate <= rate:
            raise UsageError(f"peakrate {peakrate}: expected more than the rate, {rate}")
        parms.update(_ratespec(peakrate, "peakrate"), mtu=_ticks(mtu, peakrate, "mtu"))
    if latency is not None:
        if isinstance(latency, bool) or not isinstance(latency, (int, float)) or not 0 < latency < 1e6:
            raise UsageError(f"latency {latency!r}: expected seconds")
        limit = int(rate * latency) + burst
        if peakrate is not None:
            limit = min(limit, int(peakrate * latency) + mtu)
        if limit > U32:
            raise UsageError(f"latency {latency!r} s: expected at most {(U32 - burst) / rate:.1f} seconds, 4 GiB at this rate")
    parms["limit"] = number(limit, 1, U32, "limit")
    return {"parms": parms, **without_none({"burst": burst, "rate64": _wide(rate), "pburst": mtu,
                                            "prate64": _wide(peakrate)})}


def htb(*, default: Union[int, str] = 0, rate2quantum: int = 10) -> Dict:
    """The options of a hierarchical token bucket: rtnl.HTB. `default`: the class for the rest, "1:30", or its minor number."""
    if isinstance(default, str) and ":" in default:
        default = _handle(default, "default") & 0xFFFF
    return {"init": {"version": _HTB_VERSION, "rate2quantum": number(rate2quantum, 1, U32, "rate2quantum"),
                     "defcls": number(default, 0, 0xFFFF, "default")}}


_BUILDERS = {"tbf": tbf, "htb": htb}


def add_qdisc(index: int, words: str, kind: str, *, handle_: Handle = 0, parent: Handle = "root", ensure: bool = False,
              options: Optional[Mapping] = None) -> Request:
    """RTM_NEWQDISC. `options`: those of tbf() or htb(), or {"options": bytes} for a kind that has no table here."""
    options = options or {}
    attrs: Dict[str, Any] = {"kind": kind_name(kind, _KIND_BYTES, "qdisc")}
    own, above = _handle(handle_), _handle(parent, "parent", _QDISC_PARENTS)
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
    return _tc(rtnl.RTM_NEWQDISC, flags, f"{verb} qdisc {kind} on {words}", index, attrs, kind=kind, handle=own,
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
    own = _handle(handle_)
    tolerate = tolerated(missing_ok)
    if missing_ok and own:              # one of another handle is there: EINVAL
        tolerate |= {errno.EINVAL}
    return _tc(rtnl.RTM_DELQDISC, 0, f"delete qdisc of {words}", index, {}, tolerate, handle=own,
               parent=_handle(parent, "parent", _DELETED_PARENTS))


def list_qdiscs() -> Request:
    """RTM_GETQDISC: of all links; tc_dump_qdisc() has no filter."""
    return Request(rtnl.RTM_GETQDISC, rtnl.NLM_F_DUMP, rtnl.TC_BODY.encode(({}, {})), "list qdiscs")


# --- classes ---


def htb_class(*, rate: int, ceil: Optional[int] = None, burst: Optional[int] = None, cburst: Optional[int] = None,
              prio: int = 0, quantum: int = 0) -> Dict:
    """The options of an HTB class. `burst` and `cburst`: by default what is sent in a millisecond, and 1600 bytes."""
    rate = _rate(rate, "rate")
    ceil = rate if ceil is None else _rate(ceil, "ceil")
    if ceil < rate:
        raise UsageError(f"ceil {ceil}: expected at least the rate, {rate}")
    parms = {**_ratespec(rate, "rate"), **_ratespec(ceil, "ceil"), "prio": number(prio, 0, 7, "prio"),
             "quantum": number(quantum, 0, U32, "quantum"), "buffer": _bucket(burst, rate, "burst"),
             "cbuffer": _bucket(cburst, ceil, "cburst")}
    return {"parms": parms, **without_none({"rate64": _wide(rate), "ceil64": _wide(ceil)})}


def _bucket(size: Optional[int], rate: int, what: str) -> int:
    """The size of a bucket, in ticks. Only one that was asked for can be too long."""
    if size is None:
        return _ticks_or_most(rate // 1000 + 1600, rate)
    return _ticks(number(size, 1, U32, what), rate, what)


def add_class(index: int, words: str, kind: str, *, classid: Handle, parent: Handle, ensure: bool = False,
              options: Optional[Mapping] = None) -> Request:
    """RTM_NEWTCLASS. `options`: those of htb_class()."""
    if kind != "htb":
        raise UsageError(f"class of kind {kind!r}: expected 'htb'")
    own = _handle(classid, "classid")
    if not own & 0xFFFF:
        raise UsageError(f"classid {classid!r}: expected one with a minor number, such as '1:10'")
    attrs = {"kind": kind, "options": call(htb_class, "htb class", options or {})}
    flags, verb = (ENSURE, "ensure") if ensure else (CREATE, "add")
    return _tc(rtnl.RTM_NEWTCLASS, flags, f"{verb} class {_written(own)} on {words}", index, attrs, handle=own,
               parent=_handle(parent, "parent", _CLASS_PARENTS))


def del_class(index: int, words: str, *, classid: Handle, missing_ok: bool = False) -> Request:
    """RTM_DELTCLASS."""
    own = _handle(classid, "classid")
    return _tc(rtnl.RTM_DELTCLASS, 0, f"delete class {_written(own)} of {words}", index, {}, tolerated(missing_ok),
               handle=own)


def list_classes(index: int) -> Request:
    """RTM_GETTCLASS of one link."""
    return _tc(rtnl.RTM_GETTCLASS, rtnl.NLM_F_DUMP, "list classes", index, {})


# --- filters ---


def police(*, rate: int, burst: int, mtu: int = 2047, action: Union[str, int] = "drop") -> Dict:
    """A policer for a filter: what is beyond the rate gets the action. rtnl.POLICE; tcf_police_init() in
    net/sched/act_police.c."""
    rate, burst = _rate(rate, "rate"), number(burst, 1, U32, "burst")
    cell_log = max(0, number(mtu, 1, 65535, "mtu").bit_length() - 8)
    parms = {**_ratespec(rate, "rate"), "rate_cell_log": cell_log, "rate_cell_align": -1,
             "burst": _ticks(burst, rate, "burst"), "mtu": mtu, "action": choice(action, POLICE_ACTIONS, "action")}
    # The kernel wants the table, though with a link layer it computes for itself (qdisc_get_rtab()).
    table = struct.pack("=256I", *(_ticks_or_most((size + 1) << cell_log, rate) for size in range(256)))
    return without_none({"tbf": parms, "rate": table, "rate64": _wide(rate)})


def _protocol(value: Union[str, int], lowest: int) -> int:
    return PROTOCOLS[value] if isinstance(value, str) and value in PROTOCOLS else number(
        value, lowest, 0xFFFF, f"protocol (one of {', '.join(PROTOCOLS)}, or a number)")


def _filter(type: int, flags: int, words: str, index: int, attrs: Mapping, parent: Handle, protocol: int, priority: int,
            handle: int = 0, kind: Optional[str] = None, tolerate: FrozenSet[int] = frozenset()) -> Request:
    info = priority << 16 | int.from_bytes(protocol.to_bytes(2, "big"), sys.byteorder)
    return _tc(type, flags, words, index, attrs, tolerate, kind, parent=_handle(parent, "parent", _FILTER_PARENTS),
               handle=handle, info=info)


def _keys(match: Sequence[Tuple[int, int, int]], src: Optional[str], dst: Optional[str]) -> List[Dict]:
    """struct tc_u32_key: a word at an offset from the network header, compared under a mask, in network byte order."""
    wanted: List[Tuple[int, int, int]] = []
    for what, text, at in (("src", src, 12), ("dst", dst, 16)):
        if text is not None:
            network = values.network(text, what)
            if network.version != 4:
                raise UsageError(f"{what} {text!r}: expected an IPv4 network; give IPv6 as match")
            wanted.append((int.from_bytes(network.packed, "big"), (U32 << (32 - network.prefixlen)) & U32, at))
    for key in match if isinstance(match, (list, tuple)) else (match,):
        if not isinstance(key, (list, tuple)) or len(key) != 3:
            raise UsageError(f"match {key!r}: expected (value, mask, offset) of each 32-bit word")
        wanted.append((key[0], key[1], key[2]))
    if len(wanted) > 128:
        raise UsageError(f"match of {len(wanted)} keys: expected at most 128")
    return [_key(*key) for key in wanted] or [_key(0, 0, 0)]


def _key(value: int, mask: int, offset: int) -> Dict:
    if number(offset, -(1 << 15), (1 << 15) - 1, "offset") % 4:
        raise UsageError(f"offset {offset}: expected a multiple of 4")
    if number(value, 0, U32, "value") & ~number(mask, 0, U32, "mask"):
        raise UsageError(f"value {value}: expected no bit outside the mask, {mask}: it would not be compared")
    return {"mask": _network_order(mask), "val": _network_order(value), "off": offset}


def _network_order(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), sys.byteorder)


def add_u32_filter(index: int, words: str, *, parent: Handle, protocol: Union[str, int] = "all", priority: int = 0,
                   match: Sequence[Tuple[int, int, int]] = (), src: Optional[str] = None, dst: Optional[str] = None,
                   classid: Optional[Handle] = None, policer: Optional[Mapping] = None) -> Request:
    """RTM_NEWTFILTER of kind u32. `match`: (value, mask, offset) each; no key at all matches everything."""
    ether = _protocol(protocol, 1)
    if (src is not None or dst is not None) and ether != PROTOCOLS["ip"]:
        raise UsageError(f"protocol {protocol!r}: expected 'ip' with src or dst")
    keys = _keys(match, src, dst)
    options = {"classid": None if classid is None else _handle(classid, "classid"),
               "police": None if policer is None else call(police, "police", policer),
               "sel": ({"flags": U32_TERMINAL, "nkeys": len(keys)}, keys)}
    return _filter(rtnl.RTM_NEWTFILTER, CREATE, f"add u32 filter on {words}", index,
                   {"kind": "u32", "options": without_none(options)}, parent, ether,
                   number(priority, 0, 0xFFFF, "priority"), 0, "u32")


def add_bpf_filter(index: int, words: str, *, parent: Handle, prog_fd: int, name: str,
                   protocol: Union[str, int] = "all", priority: int = 0, direct_action: bool = True,
                   classid: Optional[Handle] = None) -> Request:
    """RTM_NEWTFILTER of kind bpf, with a loaded program (bpf(2), BPF_PROG_TYPE_SCHED_CLS)."""
    if not 1 <= len(string.encode(name)) <= 255:        # CLS_BPF_NAME_LEN, net/sched/cls_bpf.c, is 256
        raise UsageError(f"name {name!r}: expected 1 to 255 bytes")
    options = {"fd": number(prog_fd, 0, 0x7FFFFFFF, "program descriptor"), "name": name,
               "flags": bits((direct_action, BPF_DIRECT, "direct_action")) or None,
               "classid": None if classid is None else _handle(classid, "classid")}
    return _filter(rtnl.RTM_NEWTFILTER, CREATE, f"add bpf filter on {words}", index,
                   {"kind": "bpf", "options": without_none(options)}, parent, _protocol(protocol, 1),
                   number(priority, 0, 0xFFFF, "priority"), 0, "bpf")


def del_filter(index: int, words: str, *, parent: Handle, protocol: Union[str, int] = 0, priority: int = 0,
               kind: Optional[str] = None, handle_: int = 0, missing_ok: bool = False) -> Request:
    """RTM_DELTFILTER: one by its handle, all of a priority, or with priority 0 all of the parent."""
    ether = _protocol(protocol, 0)
    own = number(handle_, 0, U32, "handle")
    if not number(priority, 0, 0xFFFF, "priority") and (ether or kind is not None or own):
        raise UsageError(f"delete filter of {words}: expected priority with protocol, kind or handle")
    attrs = {} if kind is None else {"kind": kind_name(kind, _KIND_BYTES, "kind")}
    tolerate = tolerated(missing_ok)
    if missing_ok:                      # its qdisc is not there, or it is of another kind
        tolerate |= {errno.EINVAL}
    return _filter(rtnl.RTM_DELTFILTER, 0, f"delete filter of {words}", index, attrs, parent, ether, priority, own,
                   None, tolerate)


def list_filters(index: int, parent: Handle) -> Request:
    """RTM_GETTFILTER of one link and parent."""
    return _tc(rtnl.RTM_GETTFILTER, rtnl.NLM_F_DUMP, "list filters", index, {},
               parent=_handle(parent, "parent", _FILTER_PARENTS))
