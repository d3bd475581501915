"""From a verb to the bytes of its request.

Pure: each function checks its values and returns a Request, or raises UsageError for what cannot be meant, among it what
the kernel would silently ignore. Links are given by ifindex here; names are looked up a floor above. Knows which flags
and attributes a verb takes (rtnetlink(7), ip-link(8)); knows nothing of sockets or of what exists.
"""

import errno
from typing import Any, Dict, Iterable, Optional

from nsnet import rtnl, values
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.values import Address
from nsnet.wire import encode_ip, string

_CREATE = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL       # CREATE alone would adopt a stranger's link of that name
GONE = frozenset({errno.ENODEV})                    # for deletions that anybody may have been quicker with


def _link(type: int, flags: int, words: str, header: Dict, attrs: Dict, tolerate: Iterable[int] = ()) -> Request:
    return Request(type, flags, rtnl.LINK_BODY.encode((header, attrs)), words, frozenset(tolerate))


def _without_none(attrs: Dict) -> Dict:
    return {name: value for name, value in attrs.items() if value is not None}


def _checked(ifname: str, lladdr: Optional[str], mtu: Optional[int], group: Optional[int], what: str = "ifname") -> Dict:
    if group is not None and not 0 <= group <= 0xFFFFFFFF:
        raise UsageError(f"group {group!r}: expected 0 to {0xFFFFFFFF}")
    return {
        "ifname": values.ifname(ifname, what),
        "address": None if lladdr is None else values.lladdr(lladdr),
        "mtu": None if mtu is None else values.mtu(mtu),
        "group": group,
    }


def _up(up: Optional[bool]) -> Dict:
    if up is None:
        return {}
    return {"flags": rtnl.IFF_UP if up else 0, "change": rtnl.IFF_UP}


def add_bridge(ifname: str, *, index: int = 0, lladdr: Optional[str] = None, mtu: Optional[int] = None,
               group: Optional[int] = None, up: Optional[bool] = None, options: Optional[Dict] = None) -> Request:
    """RTM_NEWLINK of kind bridge. `options`: rows of rtnl.BRIDGE (stp_state, ageing_time, ...)."""
    unknown = set(options or ()) - set(rtnl.BRIDGE.rows)
    if unknown:
        raise UsageError(f"bridge option {sorted(unknown)[0]!r}: expected one of {', '.join(rtnl.BRIDGE.rows)}")
    info: Dict[str, Any] = {"kind": "bridge"}
    if options:
        info["data"] = options
    attrs = {**_checked(ifname, lladdr, mtu, group), "linkinfo": info}
    return _link(rtnl.RTM_NEWLINK, _CREATE, f"add bridge {ifname}", {"index": index, **_up(up)}, _without_none(attrs))


def add_veth(ifname: str, peer: str, *, index: int = 0, peer_index: int = 0, lladdr: Optional[str] = None,
             peer_lladdr: Optional[str] = None, mtu: Optional[int] = None, group: Optional[int] = None, master: int = 0,
             up: Optional[bool] = None, peer_netns_fd: Optional[int] = None, queues: Optional[int] = None) -> Request:
    """RTM_NEWLINK of kind veth with its peer (VETH_INFO_PEER). `queues`: transmit and receive queues of each end.

    The group is given to both ends: the kernel makes no use of it in the peer's namespace. A peer cannot be born up
    (ENOTCONN).
    """
    if ifname == peer and peer_netns_fd is None:
        raise UsageError(f"peer {peer!r}: expected another name than the link's own, in the same network namespace")
    if queues is not None and not 1 <= queues <= 4096:
        raise UsageError(f"queues {queues!r}: expected 1 to 4096")
    count = {"num_tx_queues": queues, "num_rx_queues": queues}
    peer_attrs = {**_checked(peer, peer_lladdr, mtu, group, "peer"), **count, "net_ns_fd": peer_netns_fd}
    attrs = {
        **_checked(ifname, lladdr, mtu, group), **count, "master": master or None,
        "linkinfo": {"kind": "veth", "data": {"peer": ({"index": peer_index}, _without_none(peer_attrs))}},
    }
    return _link(rtnl.RTM_NEWLINK, _CREATE, f"add veth {ifname} with peer {peer}", {"index": index, **_up(up)},
                 _without_none(attrs))


def set_link(index: int, words: str, *, up: Optional[bool] = None, ifname: Optional[str] = None,
             lladdr: Optional[str] = None, mtu: Optional[int] = None, master: Optional[int] = None,
             group: Optional[int] = None, ifalias: Optional[str] = None, netns_fd: Optional[int] = None,
             tolerate: Iterable[int] = ()) -> Request:
    """RTM_SETLINK. `master` 0 detaches. `words` names the link in error messages."""
    attrs = {"ifname": None if ifname is None else values.ifname(ifname),
             "address": None if lladdr is None else values.lladdr(lladdr),
             "mtu": None if mtu is None else values.mtu(mtu),
             "master": master, "group": group, "ifalias": ifalias, "net_ns_fd": netns_fd}
    if ifalias is not None and len(string.encode(ifalias)) > 255:
        raise UsageError(f"ifalias {ifalias!r}: expected at most 255 bytes (IFALIASZ)")
    attrs = _without_none(attrs)
    if not attrs and up is None:
        raise UsageError(f"set {words}: expected something to set")
    return _link(rtnl.RTM_SETLINK, 0, f"set {words}", {"index": _positive(index), **_up(up)}, attrs, tolerate)


def set_addr_gen_mode(index: int, words: str, mode: int) -> Request:
    """RTM_SETLINK with IFLA_INET6_ADDR_GEN_MODE, a message of its own before the one that sets the link up.

    A kernel without IPv6, or with it disabled on the link, makes no link-local address either: EAFNOSUPPORT is fine.
    """
    return _link(rtnl.RTM_SETLINK, 0, f"set IPv6 address generation of {words}", {"index": _positive(index)},
                 {"af_spec": {"inet6": {"addr_gen_mode": mode}}}, {errno.EAFNOSUPPORT})


def del_link(index: int, words: str, missing_ok: bool = False) -> Request:
    """RTM_DELLINK by ifindex: a name could match somebody's altname."""
    return _link(rtnl.RTM_DELLINK, 0, f"delete {words}", {"index": _positive(index)}, {}, GONE if missing_ok else ())


def del_group(group: int) -> Request:
    """RTM_DELLINK of every link of a group, in one go. Never group 0: that is every link."""
    if not 1 <= group <= 0xFFFFFFFF:
        raise UsageError(f"group {group!r}: expected 1 to {0xFFFFFFFF}")
    return _link(rtnl.RTM_DELLINK, 0, f"delete group {group}", {}, {"group": group}, GONE)


def get_link(index: int = 0, ifname: Optional[str] = None) -> Request:
    """RTM_GETLINK of one link, by index or by name."""
    attrs = {} if ifname is None else {"ifname": ifname}
    words = f"get link {ifname if ifname is not None else index}"
    return _link(rtnl.RTM_GETLINK, 0, words, {"index": index}, attrs)


def list_links() -> Request:
    return _link(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, "list links", {}, {})


def _address(type: int, flags: int, verb: str, index: int, address: Address, words: str, attrs: Dict) -> Request:
    family = rtnl.AF_INET if address.version == 4 else rtnl.AF_INET6
    header = {"family": family, "prefixlen": address.prefixlen, "index": _positive(index)}
    body = {"local": address.ip, "address": address.ip, **attrs}
    return Request(type, flags, rtnl.ADDR_BODY.encode((header, body)), f"{verb} address {address} on {words}")


def add_address(index: int, address: Address, words: str, *, nodad: bool = True) -> Request:
    """RTM_NEWADDR. `nodad`: an IPv6 address is usable at once, without duplicate address detection."""
    attrs = {"flags": rtnl.IFA_F_NODAD} if nodad and address.version == 6 else {}
    return _address(rtnl.RTM_NEWADDR, _CREATE, "add", index, address, words, attrs)


def del_address(index: int, address: Address, words: str) -> Request:
    return _address(rtnl.RTM_DELADDR, 0, "delete", index, address, words, {})


def list_addresses() -> Request:
    return Request(rtnl.RTM_GETADDR, rtnl.NLM_F_DUMP, rtnl.ADDR_BODY.encode(({}, {})), "list addresses")


def _route(type: int, flags: int, verb: str, dst: str, via: Optional[str], oif: int, metric: Optional[int],
           table: int, kind: Dict) -> Request:
    if via is None and not oif:
        raise UsageError(f"route to {dst}: expected via or oif")
    gateway = None if via is None else encode_ip(via)
    if dst == "default":
        family = rtnl.AF_INET6 if gateway is not None and len(gateway) == 16 else rtnl.AF_INET
        target, length = None, 0
    else:
        address = values.address(dst, "route to")
        if address.host:
            raise UsageError(f"route to {dst!r}: expected a network; bits behind the prefix are set")
        family = rtnl.AF_INET if address.version == 4 else rtnl.AF_INET6
        target, length = address.ip, address.prefixlen
    if gateway is not None and (len(gateway) == 16) != (family == rtnl.AF_INET6):
        raise UsageError(f"route to {dst} via {via}: expected addresses of one family")
    header = {"family": family, "dst_len": length, "table": table if table < 256 else 0, **kind}
    attrs = _without_none({"dst": target, "gateway": via, "oif": oif or None, "priority": metric,
                           "table": table if table >= 256 else None})
    words = f"{verb} route to {dst}" + (f" via {via}" if via else "")
    return Request(type, flags, rtnl.ROUTE_BODY.encode((header, attrs)), words)


def add_route(dst: str, *, via: Optional[str] = None, oif: int = 0, metric: Optional[int] = None,
              table: int = rtnl.RT_TABLE_MAIN) -> Request:
    """RTM_NEWROUTE. `dst`: "default" or a network with prefix."""
    kind = {"protocol": rtnl.RTPROT_BOOT, "scope": rtnl.RT_SCOPE_UNIVERSE if via else rtnl.RT_SCOPE_LINK,
            "type": rtnl.RTN_UNICAST}
    return _route(rtnl.RTM_NEWROUTE, _CREATE, "add", dst, via, oif, metric, table, kind)


def del_route(dst: str, *, via: Optional[str] = None, oif: int = 0, metric: Optional[int] = None,
              table: int = rtnl.RT_TABLE_MAIN) -> Request:
    """RTM_DELROUTE: of any protocol, scope and type, as ip-route(8) does."""
    kind = {"scope": rtnl.RT_SCOPE_NOWHERE}
    return _route(rtnl.RTM_DELROUTE, 0, "delete", dst, via, oif, metric, table, kind)


def list_routes() -> Request:
    return Request(rtnl.RTM_GETROUTE, rtnl.NLM_F_DUMP, rtnl.ROUTE_BODY.encode(({}, {})), "list routes")


def list_neighbours() -> Request:
    return Request(rtnl.RTM_GETNEIGH, rtnl.NLM_F_DUMP, rtnl.NEIGH_BODY.encode(({}, {})), "list neighbours")


def _positive(index: int) -> int:
    if not 1 <= index <= 0x7FFFFFFF:
        raise UsageError(f"ifindex {index!r}: expected 1 to {0x7FFFFFFF}")
    return index
