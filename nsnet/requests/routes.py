"""Routes and nexthop objects.

Sources: <linux/rtnetlink.h>, <linux/nexthop.h>; rtnetlink(7), ip-route(8), ip-nexthop(8); net/ipv4/fib_frontend.c,
net/ipv6/route.c, net/ipv4/nexthop.c in the kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from nsnet import rtnl, values
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests.common import (CREATE, ENSURE, FAMILIES, SCOPES, U32, any_family, bits, choice, family_of, ip_bytes,
                                   number, number_or_none, positive, remembered, tolerated, without_none)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

ROUTE_TYPES = {"unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6, "unreachable": 7,
               "prohibit": 8, "throw": 9}                                           # RTN_*
_NO_HOP = {"blackhole", "unreachable", "prohibit", "throw"}

_LOOKUP_TABLE = 0x1000              # RTM_F_LOOKUP_TABLE: IPv4 says "main" without it, whatever the table
_METRIC_LIMITS = {"mtu": 65520, "advmss": 65495, "hoplimit": 255}   # ip_metrics_convert() cuts down what is more


# --- routes ---


def _network(text: Any, what: str) -> values.Address:
    """A network that may be without a prefix, then it is that address alone."""
    plain = isinstance(text, str) and "/" not in text
    found = values.network(text, what) if plain else values.address(text, what)
    if found.host:
        raise UsageError(f"{what} {str(text)!r}: expected a network; bits behind the prefix are set")
    return found


def _destination(dst: str, family: Optional[int], hints: Iterable[Optional[str]]) -> Tuple[Optional[str], int, int]:
    """(address or None, prefixlen, family) of "default" or a network. `hints`: gateways, for a default's family."""
    if dst == "default":
        hinted = (family_of(ip_bytes(hint, "route via")) for hint in hints if hint is not None)
        return None, 0, family or next(hinted, rtnl.AF_INET)
    found = _network(dst, "route to")
    if family not in (None, family_of(found.packed)):
        raise UsageError(f"route to {str(dst)!r}: expected a network of the family that was given")
    return found.ip, found.prefixlen, family_of(found.packed)


def _gateway(via: Optional[str], family: int, what: str) -> Dict:
    """RTA_GATEWAY, or RTA_VIA for an IPv4 route through an IPv6 gateway (Linux 5.2)."""
    if via is None:
        return {}
    same = family_of(ip_bytes(via, f"{what} via")) == family
    if not same and family == rtnl.AF_INET6:
        raise UsageError(f"{what} via {via}: expected addresses of one family")
    return {"gateway" if same else "via": via}


def _hop_list(hops: Any, what: str) -> List[Dict]:
    """The hops of a multipath route, with every field."""
    found = []
    for hop in hops if isinstance(hops, (list, tuple)) else (hops,):
        if not isinstance(hop, Mapping) or set(hop) - {"via", "oif", "weight", "onlink"} or not (
                hop.get("via") or hop.get("oif")) or hop.get("onlink") and not (hop.get("via") and hop.get("oif")):
            raise UsageError(f"{what}: hop {hop!r}: expected via, oif, or both, weight if need be, and onlink only "
                             "with both")
        found.append({"via": None, "oif": 0, "weight": 1, "onlink": False, **hop})
    return found


def _hop(hop: Mapping, family: int, what: str) -> Tuple[Dict, Dict]:
    """struct rtnexthop and its attributes."""
    header = {"hops": number(hop["weight"], 1, 256, "weight") - 1, "ifindex": positive(hop["oif"]) if hop["oif"] else 0,
              "flags": bits((hop["onlink"], rtnl.RTNH_F_ONLINK, "onlink"))}
    return header, _gateway(hop["via"], family, what)


def _source(src: Optional[str], family: int) -> Tuple[Optional[str], int]:
    """(address, prefixlen) of the packets that a route is for."""
    if src is None:
        return None, 0
    found = values.network(src, "src")
    if found.version != 6 or family != rtnl.AF_INET6:       # fib_newroute() has no such thing
        raise UsageError(f"src {src!r}: expected an IPv6 network, of an IPv6 route; for IPv4 a rule does this")
    return found.ip, found.prefixlen


def _metrics(metrics: Optional[Mapping]) -> Optional[Dict]:
    if not metrics:
        return None
    if not isinstance(metrics, Mapping):
        raise UsageError(f"metrics {metrics!r}: expected a mapping such as {{'mtu': 1400}}")
    for name in metrics:
        if name not in rtnl.METRICS.rows:
            raise UsageError(f"metrics {name!r}: expected some of {', '.join(rtnl.METRICS.rows)}")
    return {name: value if name == "cc_algo" else number(value, 1, _METRIC_LIMITS.get(name, U32), f"metric {name}")
            for name, value in metrics.items()}             # 0 is "not set" to the kernel


def _route(type: int, flags: int, verb: str, dst: str, *, via: Optional[str], oif: int, metric: Optional[int],
           table: int, src: Optional[str], tos: int, family: Union[None, int, str], header: Dict,
           attrs: Optional[Dict] = None, hops: Sequence[Mapping] = (), tolerate: frozenset = frozenset()) -> Request:
    given = None if family is None else choice(family, FAMILIES, "family")
    hints = [via, *(hop["via"] for hop in hops)]
    if given is None and src is not None and dst == "default":
        given = rtnl.AF_INET6
    target, length, found = _destination(dst, given, hints)
    what = f"route to {dst}"
    source, source_length = _source(src, found)
    if found == rtnl.AF_INET6 and number(tos, 0, 255, "tos"):       # before Linux 5.18 it was not looked at
        raise UsageError(f"tos {tos}: expected none for an IPv6 route")
    # To the kernel, metric 0 of a deletion is any, and of an IPv6 route it is 1024 (IP6_RT_PRIO_USER).
    lowest = 1 if found == rtnl.AF_INET6 or type == rtnl.RTM_DELROUTE else 0
    table = number(table, 1, U32, "table")
    fields = {"family": found, "dst_len": length, "src_len": source_length, "tos": number(tos, 0, 255, "tos"),
              "table": table if table < 256 else 0, **header}
    body = {"dst": target, "src": source, **_gateway(via, found, what), "oif": oif or None,
            "priority": number_or_none(metric, lowest, U32, "metric"), "table": table if table >= 256 else None,
            **(attrs or {}), "multipath": [_hop(hop, found, what) for hop in hops] or None}
    return Request(type, flags, rtnl.ROUTE_BODY.encode((fields, without_none(body))),
                   f"{verb} {what}" + (f" via {via}" if via else ""), tolerate)


@remembered
def add_route(dst: str, *, via: Optional[str] = None, oif: int = 0, metric: Optional[int] = None,
              table: int = rtnl.RT_TABLE_MAIN, ensure: bool = False, append: bool = False,
              type: Union[str, int] = "unicast", scope: Union[None, str, int] = None, prefsrc: Optional[str] = None,
              protocol: int = rtnl.RTPROT_BOOT, metrics: Optional[Mapping] = None, onlink: bool = False,
              hops: Optional[Sequence[Mapping]] = None, nh_id: Optional[int] = None, src: Optional[str] = None,
              tos: int = 0, family: Union[None, int, str] = None) -> Request:
    """RTM_NEWROUTE. `dst`: "default" or a network. `hops`: several of {"via", "oif", "weight", "onlink"}."""
    what = f"route to {dst if dst == 'default' else _network(dst, 'route to')}"
    number_of_type = choice(type, ROUTE_TYPES, "type")
    name = next(name for name, known in ROUTE_TYPES.items() if known == number_of_type)
    several = _hop_list(hops or (), what)
    ways = [way for way, given in (("via or oif", via is not None or oif), ("hops", several),
                                   ("nh_id", nh_id is not None)) if given]
    if name in _NO_HOP and ways:
        raise UsageError(f"{what}: expected no {ways[0]} for type {name}")
    if name not in _NO_HOP and len(ways) != 1:
        raise UsageError(f"{what}: expected via or oif" if not ways else
                         f"{what}: expected one of {' and '.join(ways)}, not both")
    flags = bits((onlink, rtnl.RTNH_F_ONLINK, "onlink"))
    if onlink and not (oif and via is not None):        # IPv6 does not look at it without a gateway
        raise UsageError(f"{what}: expected via and oif with onlink")
    if bits((append, 1, "append")) and ensure:
        raise UsageError(f"{what}: expected append or ensure, not both")
    header = {"protocol": number(protocol, 0, 255, "protocol"), "type": number_of_type, "flags": flags,
              "scope": _default_scope(name, via is not None or bool(several) or nh_id is not None)
              if scope is None else choice(scope, SCOPES, "scope")}
    attrs = {"prefsrc": prefsrc, "nh_id": number_or_none(nh_id, 1, U32, "nh_id"), "metrics": _metrics(metrics)}
    how = ENSURE if ensure else rtnl.NLM_F_CREATE | rtnl.NLM_F_APPEND if append else CREATE
    request = _route(rtnl.RTM_NEWROUTE, how, "ensure" if ensure else "add", dst, via=via, oif=oif, metric=metric,
                     table=table, src=src, tos=tos, family=family, header=header, attrs=attrs, hops=several)
    found = rtnl.RTMSG.decode(request.payload).family
    if protocol == rtnl.RTPROT_UNSPEC and found == rtnl.AF_INET6:       # ip6_route_info_create() makes it boot
        raise UsageError(f"protocol {protocol!r}: expected 1 to 255 for an IPv6 route")
    if scope is not None and found == rtnl.AF_INET6:    # ip6_route_add() does not look at it
        raise UsageError(f"scope {scope!r}: expected none for an IPv6 route")
    if prefsrc is not None and family_of(ip_bytes(prefsrc, "prefsrc")) != found:
        raise UsageError(f"prefsrc {prefsrc!r}: expected an address of the route's family")
    return request


def _default_scope(type: str, beyond: bool) -> int:
    """As ip-route(8) has it. `beyond`: through a gateway, or what may be one."""
    if type == "local":
        return SCOPES["host"]
    return SCOPES["global" if beyond or type in _NO_HOP else "link"]


def del_route(dst: str, *, via: Optional[str] = None, oif: int = 0, metric: Optional[int] = None,
              table: int = rtnl.RT_TABLE_MAIN, src: Optional[str] = None, tos: int = 0,
              family: Union[None, int, str] = None, missing_ok: bool = False) -> Request:
    """RTM_DELROUTE: of any protocol, scope and type, as ip-route(8) does."""
    return _route(rtnl.RTM_DELROUTE, 0, "delete", dst, via=via, oif=oif, metric=metric, table=table, src=src, tos=tos,
                  family=family, header={"scope": rtnl.RT_SCOPE_NOWHERE}, tolerate=tolerated(missing_ok))


def get_route(dst: str, *, src: Optional[str] = None, oif: int = 0, iif: int = 0,
              mark: Optional[int] = None) -> Request:
    """RTM_GETROUTE: the route that a packet to `dst` would take (inet_rtm_getroute())."""
    packed = ip_bytes(dst, "route to")
    if src is not None and len(ip_bytes(src, "src")) != len(packed):
        raise UsageError(f"src {src!r}: expected an address of the family of {dst}")
    bits_of_it = 8 * len(packed)
    header = {"family": family_of(packed), "dst_len": bits_of_it, "src_len": bits_of_it if src is not None else 0,
              "flags": _LOOKUP_TABLE if len(packed) == 4 else 0}        # IPv6 refuses the flag, and needs none
    attrs = {"dst": dst, "src": src, "oif": oif or None, "iif": iif or None,
             "mark": number_or_none(mark, 0, U32, "mark")}
    return Request(rtnl.RTM_GETROUTE, 0, rtnl.ROUTE_BODY.encode((header, without_none(attrs))), f"route to {dst}")


def list_routes(*, family: Union[None, int, str] = None, table: Optional[int] = None, oif: int = 0,
                protocol: Optional[int] = None, type: Union[None, str, int] = None) -> Request:
    """RTM_GETROUTE: all, or those that the kernel picks (ip_valid_fib_dump_req(), strict checking)."""
    table = number_or_none(table, 1, U32, "table")
    header = {"family": any_family(family), "protocol": number_or_none(protocol, 1, 255, "protocol") or 0,
              "type": 0 if type is None else choice(type, ROUTE_TYPES, "type"),
              "table": table if table is not None and table < 256 else 0}
    attrs = {"table": table, "oif": oif or None}
    return Request(rtnl.RTM_GETROUTE, rtnl.NLM_F_DUMP, rtnl.ROUTE_BODY.encode((header, without_none(attrs))),
                   "list routes",
                   # A table that is not there has no routes; fib_table lookup fails with ENOENT.
                   frozenset({errno.ENOENT}) if table is not None else frozenset())


# --- nexthop objects ---


def add_nexthop(id: int, *, via: Optional[str] = None, oif: int = 0, blackhole: bool = False,
                group: Optional[Sequence[Tuple[int, int]]] = None, fdb: bool = False, onlink: bool = False,
                protocol: int = rtnl.RTPROT_BOOT, family: Union[None, int, str] = None,
                ensure: bool = False) -> Request:
    """RTM_NEWNEXTHOP. `group`: (id, weight) of each member, weight 1 to 256."""
    words = f"{'ensure' if ensure else 'add'} nexthop {number(id, 1, U32, 'nexthop')}"
    flags = bits((onlink, rtnl.RTNH_F_ONLINK, "onlink"))
    if bits((blackhole, 1, "blackhole")) and (via is not None or oif or fdb or onlink or group is not None):
        raise UsageError(f"{words}: expected nothing else with blackhole")
    if group is not None and (via is not None or oif or onlink or family is not None):
        raise UsageError(f"{words}: expected a group or a hop, not both")
    if group is None and not blackhole and via is None and not oif:
        raise UsageError(f"{words}: expected via, oif, blackhole or group")
    if bits((fdb, 1, "fdb")) and oif:
        raise UsageError(f"{words}: expected no oif with fdb")
    if onlink and not (via is not None and oif):
        raise UsageError(f"{words}: expected via and oif with onlink")
    found = family_of(ip_bytes(via, "via")) if via is not None else None
    if family is not None:
        wanted = choice(family, FAMILIES, "family")
        if found not in (None, wanted):
            raise UsageError(f"via {via!r}: expected an address of family {family}")
        found = wanted
    header = {"family": rtnl.AF_UNSPEC if group is not None else found or rtnl.AF_INET, "flags": flags,
              "protocol": number(protocol, 0, 255, "protocol")}
    attrs = {"id": id, "group": None if group is None else _members(group, words), "oif": oif or None, "gateway": via,
             "blackhole": True if blackhole else None, "fdb": True if fdb else None}
    return Request(rtnl.RTM_NEWNEXTHOP, ENSURE if ensure else CREATE,
                   rtnl.NEXTHOP_BODY.encode((header, without_none(attrs))), words)


def _members(group: Any, words: str) -> List[Dict]:
    found = []
    for one in group if isinstance(group, (list, tuple)) and group else (None,):
        if not isinstance(one, (list, tuple)) or len(one) != 2:
            raise UsageError(f"{words}: group {group!r}: expected (id, weight) of each member, at least one")
        found.append({"id": number(one[0], 1, U32, "nexthop"), "weight": number(one[1], 1, 256, "weight") - 1})
    return found


def _nexthop(type: int, flags: int, words: str, attrs: Dict, tolerate: frozenset = frozenset()) -> Request:
    return Request(type, flags, rtnl.NEXTHOP_BODY.encode(({}, without_none(attrs))), words, tolerate)


def del_nexthop(id: int, *, missing_ok: bool = False) -> Request:
    """RTM_DELNEXTHOP: routes that use it go with it."""
    return _nexthop(rtnl.RTM_DELNEXTHOP, 0, f"delete nexthop {number(id, 1, U32, 'nexthop')}", {"id": id},
                    tolerated(missing_ok))


def get_nexthop(id: int) -> Request:
    """RTM_GETNEXTHOP."""
    return _nexthop(rtnl.RTM_GETNEXTHOP, 0, f"nexthop {number(id, 1, U32, 'nexthop')}", {"id": id})


def list_nexthops(*, oif: int = 0, groups: bool = False, fdb: bool = False) -> Request:
    """RTM_GETNEXTHOP: all, those of a link, the groups, or those of forwarding entries; the kernel picks.

    Not by `fdb` (nh_dump_filtered(), Linux 6.18): the reader must look again.
    """
    return _nexthop(rtnl.RTM_GETNEXTHOP, rtnl.NLM_F_DUMP, "list nexthops",
                    {"oif": oif or None, "groups": True if groups else None, "fdb": True if fdb else None})
