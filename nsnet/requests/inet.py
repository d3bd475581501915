"""Addresses, neighbours, forwarding entries, and netns ids.

Sources: <linux/if_addr.h>, <linux/neighbour.h>, <linux/net_namespace.h>; rtnetlink(7), ip-address(8), ip-neighbour(8),
bridge(8); net/ipv4/devinet.c, net/ipv6/addrconf.c, net/core/neighbour.c, net/bridge/br_fdb.c in the kernel.
"""

from __future__ import annotations

from nsnet import rtnl, values
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests.common import (CREATE, ENSURE, SCOPES, U32, any_family, bits, choice, family_of, ip_bytes, number,
                                   number_or_none, positive, tolerated, without_none)
from nsnet.tables import Body
from nsnet.values import Address
from nsnet.wire import string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Mapping, Optional, Tuple, Union

# NUD_*. In the other two, incomplete and failed, the kernel forgets the lladdr (__neigh_update()).
NEIGHBOUR_STATES = {"reachable": 2, "stale": 4, "delay": 8, "probe": 16, "noarp": 64, "permanent": 128}

_FOREVER = 0xFFFFFFFF               # INFINITY_LIFE_TIME, include/net/addrconf.h
ANY_LLADDR = "00:00:00:00:00:00"       # of a VXLAN: where to send what has no entry of its own


# --- addresses ---


def _address(type: int, flags: int, verb: str, index: int, address: Address, words: str, attrs: Dict,
             peer: Optional[str], header: Optional[Dict] = None, tolerate: frozenset = frozenset()) -> Request:
    prefixlen, other = address.prefixlen, address.ip
    if peer is not None:
        far = values.address(peer, "peer") if "/" in str(peer) else values.network(peer, "peer")
        if far.version != address.version:
            raise UsageError(f"peer {peer!r}: expected an address of the family of '{address}'")
        if prefixlen != address.bits:
            raise UsageError(f"address '{address}': expected /{address.bits}, for the prefix is the peer's")
        prefixlen, other = far.prefixlen, far.ip
    fields = {"family": family_of(address.packed), "prefixlen": prefixlen, "index": positive(index), **(header or {})}
    body = {"local": address.ip, "address": other, **attrs}
    return Request(type, flags, rtnl.ADDR_BODY.encode((fields, body)), f"{verb} address {address} on {words}", tolerate)


def add_address(index: int, address: Address, words: str, *, ensure: bool = False, nodad: Optional[bool] = None,
                peer: Optional[str] = None, broadcast: Optional[str] = None, label: Optional[str] = None,
                scope: Union[None, str, int] = None, prefix_route: bool = True, valid_lft: Optional[int] = None,
                preferred_lft: Optional[int] = None, metric: Optional[int] = None,
                proto: Optional[int] = None) -> Request:
    """RTM_NEWADDR. `nodad`: an IPv6 address is usable at once, without duplicate address detection."""
    for name, value in (("broadcast", broadcast), ("label", label), ("scope", scope)):
        if value is not None and address.version == 6:      # inet6_rtm_newaddr() looks at none of them
            raise UsageError(f"{name} {value!r}: expected none for the IPv6 address '{address}'")
        if value is not None and ensure:                    # inet_rtm_newaddr() changes none of them
            raise UsageError(f"{name} {value!r}: expected none, an address that is there would keep its own")
    if preferred_lft and valid_lft is None and address.version == 4:    # check_lifetime() leaves the permanent alone
        raise UsageError(f"preferred_lft {preferred_lft!r}: expected valid_lft with it for an IPv4 address")
    if nodad is not None and address.version == 4:
        raise UsageError(f"nodad {nodad!r}: expected none for the IPv4 address '{address}'")
    flags = bits((address.version == 6 if nodad is None else nodad, rtnl.IFA_F_NODAD, "nodad"))
    if not bits((prefix_route, 1, "prefix_route")):
        flags |= rtnl.IFA_F_NOPREFIXROUTE
    if address.version == 4:
        flags &= ~rtnl.IFA_F_NODAD                          # IPv4 has none
        if ensure and flags:                                # inet6_addr_modify() does change it
            raise UsageError(f"prefix_route {prefix_route}: expected none, an address that is there would keep its own")
    if broadcast is not None and len(ip_bytes(broadcast, "broadcast")) != 4:
        raise UsageError(f"broadcast {broadcast!r}: expected an IPv4 address")
    if label is not None and not 1 <= len(string.encode(label)) <= 15:
        raise UsageError(f"label {label!r}: expected 1 to 15 bytes")
    attrs = without_none({"broadcast": broadcast, "label": label, "flags": flags or None,
                          "cacheinfo": _lifetimes(valid_lft, preferred_lft),
                          "rt_priority": number_or_none(metric, 0, U32, "metric"),
                          "proto": number_or_none(proto, 0, 255, "proto")})
    header = {} if scope is None else {"scope": choice(scope, SCOPES, "scope")}
    flags, verb = (ENSURE, "ensure") if ensure else (CREATE, "add")
    return _address(rtnl.RTM_NEWADDR, flags, verb, index, address, words, attrs, peer, header)


def _lifetimes(valid_lft: Optional[int], preferred_lft: Optional[int]) -> Optional[Dict]:
    """The fields of struct ifa_cacheinfo that are set; seconds, and None is for ever."""
    if valid_lft is None and preferred_lft is None:
        return None
    valid = _FOREVER if valid_lft is None else number(valid_lft, 1, _FOREVER - 1, "valid_lft")
    preferred = valid if preferred_lft is None else number(preferred_lft, 0, _FOREVER - 1, "preferred_lft")
    if preferred > valid:
        raise UsageError(f"preferred_lft {preferred}: expected at most valid_lft, {valid}")
    return {"ifa_prefered": preferred, "ifa_valid": valid}


def del_address(index: int, address: Address, words: str, *, peer: Optional[str] = None,
                missing_ok: bool = False) -> Request:
    """RTM_DELADDR."""
    return _address(rtnl.RTM_DELADDR, 0, "delete", index, address, words, {}, peer, None, tolerated(missing_ok))


def list_addresses(*, index: int = 0, family: Union[None, int, str] = None, netnsid: Optional[int] = None) -> Request:
    """RTM_GETADDR: all, or those of a link or family; the kernel picks (inet_dump_ifaddr(), strict checking).

    `netnsid`: of the namespace with that number. Only lists know IFA_TARGET_NETNSID: inet_rtm_newaddr() does not look.
    """
    header = {"family": any_family(family), "index": index}
    attrs = without_none({"target_netnsid": number_or_none(netnsid, 0, 0x7FFFFFFF, "netnsid")})
    return Request(rtnl.RTM_GETADDR, rtnl.NLM_F_DUMP, rtnl.ADDR_BODY.encode((header, attrs)), "list addresses")


# --- neighbours ---


def _neighbour(type: int, flags: int, verb: str, index: int, dst: str, words: str, attrs: Dict, state: int = 0,
               ntf: int = 0, tolerate: frozenset = frozenset()) -> Request:
    header = {"family": family_of(ip_bytes(dst, "neighbour")), "ifindex": positive(index), "state": state, "flags": ntf}
    return Request(type, flags, rtnl.NEIGH_BODY.encode((header, {"dst": dst, **attrs})),
                   f"{verb} neighbour {dst} on {words}", tolerate)


def add_neighbour(index: int, dst: str, words: str, *, lladdr: Optional[str] = None,
                  state: Union[None, str, int] = None, proxy: bool = False, router: bool = False,
                  ensure: bool = False) -> Request:
    """RTM_NEWNEIGH. `state`: "permanent" if it is not given."""
    packed = ip_bytes(dst, "neighbour")
    ntf = bits((proxy, rtnl.NTF_PROXY, "proxy"), (router, rtnl.NTF_ROUTER, "router"))
    if proxy and (lladdr is not None or state is not None):
        raise UsageError(f"neighbour {dst}: expected neither lladdr nor state for a proxy entry")
    if not proxy and lladdr is None:
        raise UsageError(f"neighbour {dst}: expected lladdr")
    if index == rtnl.LOOPBACK_IFINDEX and len(packed) == 4 and not proxy:       # arp_constructor() makes it 0.0.0.0
        raise UsageError(f"neighbour {dst}: expected another link than lo")
    if router and len(packed) == 4:
        raise UsageError(f"neighbour {dst}: expected an IPv6 address for a router")
    attrs = {} if lladdr is None else {"lladdr": values.lladdr(lladdr)}
    flags = ENSURE if ensure or proxy else CREATE       # the proxy table knows no EXCL (pneigh_lookup())
    nud = 0 if proxy else choice("permanent" if state is None else state, NEIGHBOUR_STATES, "state")
    return _neighbour(rtnl.RTM_NEWNEIGH, flags, "ensure" if ensure else "add", index, dst, words, attrs, nud, ntf)


def del_neighbour(index: int, dst: str, words: str, *, proxy: bool = False, missing_ok: bool = False) -> Request:
    """RTM_DELNEIGH."""
    return _neighbour(rtnl.RTM_DELNEIGH, 0, "delete", index, dst, words, {}, 0, bits((proxy, rtnl.NTF_PROXY, "proxy")),
                      tolerated(missing_ok))


def get_neighbour(index: int, dst: str, words: str) -> Request:
    """RTM_GETNEIGH of one entry (Linux 4.20)."""
    return _neighbour(rtnl.RTM_GETNEIGH, 0, "get", index, dst, words, {})


def list_neighbours(*, index: int = 0, family: Union[None, int, str] = None, proxy: bool = False) -> Request:
    """RTM_GETNEIGH: all, or those of a link; the kernel picks (neigh_valid_dump_req())."""
    header = {"family": any_family(family), "flags": bits((proxy, rtnl.NTF_PROXY, "proxy"))}
    attrs = {"ifindex": index} if index else {}
    return Request(rtnl.RTM_GETNEIGH, rtnl.NLM_F_DUMP, rtnl.NEIGH_BODY.encode((header, attrs)), "list neighbours")


# --- the forwarding entries (FDB) of bridges and VXLANs ---


def _fdb(type: int, flags: int, verb: str, index: int, lladdr: str, words: str, self_: bool, vlan: Optional[int],
         dst: Optional[str], vni: Optional[int], port: Optional[int], via: int, header: Dict,
         tolerate: frozenset = frozenset()) -> Request:
    if lladdr != ANY_LLADDR or not self_:
        values.lladdr(lladdr)
    remote = {"dst": dst, "vni": number_or_none(vni, 0, 0xFFFFFF, "vni"), "via": positive(via) if via else None,
              "port": number_or_none(port, 1, 65535, "port")}
    if without_none(remote):
        if not self_:
            raise UsageError(f"forwarding entry {lladdr}: expected self_ with dst, vni, port or via")
        if vlan is not None:            # those make it an entry of a VXLAN, and that knows no VLAN
            raise UsageError(f"forwarding entry {lladdr}: expected no vlan with dst, vni, port or via")
    if dst is not None:
        ip_bytes(dst, "dst")
    owner = rtnl.NTF_SELF if bits((self_, 1, "self_")) else rtnl.NTF_MASTER
    fields = {"family": rtnl.AF_BRIDGE, "ifindex": positive(index), **header}
    fields["flags"] = fields.get("flags", 0) | owner
    body = {"lladdr": lladdr, "vlan": number_or_none(vlan, 1, 4094, "vlan"), "dst": remote["dst"], "vni": remote["vni"],
            "port": remote["port"], "ifindex": remote["via"]}
    return Request(type, flags, rtnl.NEIGH_BODY.encode((fields, without_none(body))),
                   f"{verb} forwarding entry {lladdr} on {words}", tolerate)


def add_fdb(index: int, lladdr: str, words: str, *, self_: bool = False, vlan: Optional[int] = None,
            dst: Optional[str] = None, vni: Optional[int] = None, port: Optional[int] = None, via: int = 0,
            permanent: bool = False, extern_learn: bool = False, append: bool = False,
            ensure: bool = False) -> Request:
    """RTM_NEWNEIGH of family AF_BRIDGE.

    Without `self_` an entry of the bridge whose port the link is; with it one of the link's own table, as a VXLAN has,
    with the peer `dst`. `permanent`: of the bridge itself (local); else static. `append`: one more peer of a VXLAN.
    """
    local = bits((permanent, 1, "permanent")) or self_      # the link's own table has no other (ndo_dflt_fdb_add())
    header = {"state": rtnl.NUD_PERMANENT if local else rtnl.NUD_NOARP,
              "flags": bits((extern_learn, rtnl.NTF_EXT_LEARNED, "extern_learn"))}
    several = bits((append, 1, "append")) or ensure and lladdr == ANY_LLADDR
    if several and (lladdr != ANY_LLADDR or not self_):        # vxlan_fdb_update_existing()
        raise UsageError(f"forwarding entry {lladdr!r}: expected append with self_ and {ANY_LLADDR} only")
    flags = rtnl.NLM_F_CREATE | rtnl.NLM_F_APPEND if several else ENSURE if ensure else CREATE
    return _fdb(rtnl.RTM_NEWNEIGH, flags, "ensure" if ensure else "add", index, lladdr, words, self_, vlan, dst, vni,
                port, via, header)


def del_fdb(index: int, lladdr: str, words: str, *, self_: bool = False, vlan: Optional[int] = None,
            dst: Optional[str] = None, vni: Optional[int] = None, port: Optional[int] = None, via: int = 0,
            missing_ok: bool = False) -> Request:
    """RTM_DELNEIGH of family AF_BRIDGE."""
    header = {"state": rtnl.NUD_PERMANENT if self_ else 0}      # or ndo_dflt_fdb_del() says EINVAL
    request = _fdb(rtnl.RTM_DELNEIGH, 0, "delete", index, lladdr, words, self_, vlan, dst, vni, port, via, header,
                   tolerated(missing_ok))
    if dst is None and (vni is not None or port is not None or via):    # a VXLAN would look at none of them
        raise UsageError(f"forwarding entry {lladdr}: expected dst with vni, port or via; without it all peers go")
    if dst is not None and not any(ip_bytes(dst, "dst")):               # to vxlan_fdb_delete() that is none
        raise UsageError(f"dst {dst!r}: expected the address of one peer")
    return request


def get_fdb(index: int, lladdr: str, words: str) -> Request:
    """RTM_GETNEIGH of family AF_BRIDGE: the entry of a link's own table (Linux 5.0), of several peers the first."""
    return _fdb(rtnl.RTM_GETNEIGH, 0, "get", index, lladdr, words, True, None, None, None, None, 0, {})


def has_peer(request: Request, entries: Iterable[Body], vxlan: Mapping) -> bool:
    """Whether one of the forwarding entries is what a del_fdb() with `dst` asks for. `vxlan`: the options of the link,
    which stand for what an entry does not say (vxlan_fdb_parse(), vxlan_fdb_info()).
    """
    default = {"vni": vxlan.get("id", 0), "port": vxlan.get("port"), "ifindex": 0}

    def peer(attrs: Mapping) -> Tuple:
        return (attrs.get("lladdr"), attrs.get("dst") and ip_bytes(attrs["dst"], "dst"),
                *(attrs.get(name, usual) for name, usual in default.items()))
    wanted = peer(rtnl.NEIGH_BODY.decode(request.payload).attrs)
    return any(peer(entry.attrs) == wanted for entry in entries)


def adds_fdb(request: Request, wanted: Request) -> bool:
    """Whether a request adds a forwarding entry of the link and lladdr that another one names."""
    if request.type != rtnl.RTM_NEWNEIGH:
        return False
    one, other = (rtnl.NEIGH_BODY.decode(each.payload) for each in (request, wanted))
    return (one.header.family, one.header.ifindex, one.attrs.get("lladdr")) == (
        other.header.family, other.header.ifindex, other.attrs.get("lladdr"))


def list_fdb(*, index: int = 0, master: int = 0) -> Request:
    """RTM_GETNEIGH of family AF_BRIDGE: all, of a link, or of a bridge; the kernel picks (valid_fdb_dump_strict())."""
    header = {"family": rtnl.AF_BRIDGE, "ifindex": index}
    attrs = {"master": master} if master else {}
    return Request(rtnl.RTM_GETNEIGH, rtnl.NLM_F_DUMP, rtnl.NEIGH_BODY.encode((header, attrs)),
                   "list forwarding entries")


# --- netns ids ---


def set_nsid(netns_fd: int, nsid: int) -> Request:
    """RTM_NEWNSID: the number by which this namespace knows another. It cannot be changed later."""
    attrs = {"nsid": number(nsid, 0, 0x7FFFFFFF, "nsid"), "fd": netns_fd}
    return Request(rtnl.RTM_NEWNSID, 0, rtnl.NSID_BODY.encode(({}, attrs)), f"set nsid {nsid}")


def get_nsid(netns_fd: int) -> Request:
    """RTM_GETNSID."""
    return Request(rtnl.RTM_GETNSID, 0, rtnl.NSID_BODY.encode(({}, {"fd": netns_fd})), "get nsid")


def list_nsids() -> Request:
    """RTM_GETNSID, all."""
    return Request(rtnl.RTM_GETNSID, rtnl.NLM_F_DUMP, rtnl.NSID_BODY.encode(({}, {})), "list nsids")
