"""Filters and policers: those that a container network uses.

Sources: <linux/rtnetlink.h>, <linux/pkt_cls.h>; tc(8), tc-u32(8), tc-bpf(8), tc-police is in tc-actions(8);
net/sched/cls_api.c, act_police.c.
"""

from __future__ import annotations

import errno
import struct
import sys

from nsnet import rtnl, values
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests.common import CREATE, U32, bits, call, choice, kind_name, number, tolerated, without_none
from nsnet.requests.tc import (INGRESS_MAJOR, KIND_BYTES, Handle, handle_of, rate_of, ratespec, tc_request, ticks,
                               ticks_or_most, wide)
from nsnet.wire import string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple, Union

PROTOCOLS = {"all": 0x0003, "ip": 0x0800, "ipv6": 0x86DD, "arp": 0x0806, "802.1q": 0x8100}      # ETH_P_*
POLICE_ACTIONS = {"ok": 0, "reclassify": 1, "drop": 2, "pipe": 3}       # TC_POLICE_*, <linux/pkt_cls.h>
# To a filter 0 is the root; TC_H_ROOT would be "ingress", for it begins like that one's handle.
_FILTER_PARENTS = {"root": 0, "ingress": INGRESS_MAJOR | rtnl.TC_H_MIN_INGRESS,
                   "egress": INGRESS_MAJOR | rtnl.TC_H_MIN_EGRESS}
U32_TERMINAL = 1                    # TC_U32_TERMINAL
BPF_DIRECT = 1                      # TCA_BPF_FLAG_ACT_DIRECT


def police(*, rate: int, burst: int, mtu: int = 2047, action: Union[str, int] = "drop") -> Dict:
    """A policer for a filter: what is beyond the rate gets the action. rtnl.POLICE; tcf_police_init() in
    net/sched/act_police.c."""
    rate, burst = rate_of(rate, "rate"), number(burst, 1, U32, "burst")
    cell_log = max(0, number(mtu, 1, 65535, "mtu").bit_length() - 8)
    parms = {**ratespec(rate, "rate"), "rate_cell_log": cell_log, "rate_cell_align": -1,
             "burst": ticks(burst, rate, "burst", 1), "mtu": mtu, "action": choice(action, POLICE_ACTIONS, "action")}
    # The kernel wants the table, though with a link layer it computes for itself (qdisc_get_rtab()).
    table = struct.pack("=256I", *(ticks_or_most((size + 1) << cell_log, rate) for size in range(256)))
    return without_none({"tbf": parms, "rate": table, "rate64": wide(rate)})


def _protocol(value: Union[str, int], lowest: int) -> int:
    return PROTOCOLS[value] if isinstance(value, str) and value in PROTOCOLS else number(
        value, lowest, 0xFFFF, f"protocol (one of {', '.join(PROTOCOLS)}, or a number)")


def _filter(type: int, flags: int, words: str, index: int, attrs: Mapping, parent: Handle, protocol: int, priority: int,
            handle: int = 0, kind: Optional[str] = None, tolerate: FrozenSet[int] = frozenset()) -> Request:
    info = priority << 16 | int.from_bytes(protocol.to_bytes(2, "big"), sys.byteorder)
    return tc_request(type, flags, words, index, attrs, tolerate, kind, handle=handle, info=info,
                      parent=handle_of(parent, "parent", _FILTER_PARENTS))


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
    options = {"classid": None if classid is None else handle_of(classid, "classid"),
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
               "classid": None if classid is None else handle_of(classid, "classid")}
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
    attrs = {} if kind is None else {"kind": kind_name(kind, KIND_BYTES, "kind")}
    tolerate = tolerated(missing_ok)
    if missing_ok:                      # its qdisc is not there, or it is of another kind
        tolerate |= {errno.EINVAL}
    return _filter(rtnl.RTM_DELTFILTER, 0, f"delete filter of {words}", index, attrs, parent, ether, priority, own,
                   None, tolerate)


def list_filters(index: int, parent: Handle) -> Request:
    """RTM_GETTFILTER of one link and parent."""
    return tc_request(rtnl.RTM_GETTFILTER, rtnl.NLM_F_DUMP, "list filters", index, {},
                      parent=handle_of(parent, "parent", _FILTER_PARENTS))
