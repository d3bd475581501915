"""Links: create, change, delete, list; bridge ports, bridge VLANs, alternative names, XDP.

Sources: <linux/if_link.h>, rtnetlink(7), ip-link(8), bridge(8); rtnl_newlink() and do_setlink() in
net/core/rtnetlink.c.
"""

from __future__ import annotations

import errno

from nsnet import rtnl, values, wire
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.requests.common import (CREATE, GONE, U32, bits, choice, kind_name, number, number_or_none, positive,
                                   remembered, without_none)
from nsnet.requests.options import DATA, FIXED_AT_BIRTH, KIND_BYTES, ipv4_conf, kind_options, port_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Mapping, Optional

# Kinds that make nothing of IFLA_LINK. For those that have a row `link` of their own, it is that one.
_WITHOUT_LOWER = {"bond", "bridge", "dummy", "ifb", "netkit", "veth", "vrf", "wireguard"}

XDP_MODES = {"any": 0, "skb": 2, "drv": 4, "hw": 8}                                             # XDP_FLAGS_*_MODE

_FLAGS = {"up": rtnl.IFF_UP, "promisc": rtnl.IFF_PROMISC, "allmulticast": rtnl.IFF_ALLMULTI,
          "multicast": rtnl.IFF_MULTICAST, "arp": rtnl.IFF_NOARP}


def _link(type: int, flags: int, words: str, header: Dict, attrs: Dict, tolerate: Iterable[int] = (),
          kind: Optional[str] = None) -> Request:
    return Request(type, flags, rtnl.LINK_BODY.encode((header, without_none(attrs))), words, frozenset(tolerate), kind)


def _checked(ifname: str, lladdr: Optional[str], mtu: Optional[int], group: Optional[int],
             what: str = "ifname") -> Dict:
    return {
        "ifname": values.ifname(ifname, what),
        "address": None if lladdr is None else values.lladdr(lladdr),
        "mtu": None if mtu is None else values.mtu(mtu),
        "group": number_or_none(group, 0, U32, "group"),
    }


def _queues(queues: Optional[int]) -> Dict:
    number_or_none(queues, 1, 4096, "queues")           # the kernel's own limit, rtnl_create_link()
    return {"num_tx_queues": queues, "num_rx_queues": queues}


def _header(index: int, **flags: Optional[bool]) -> Dict:
    """ifinfomsg, with the flags that are to change."""
    change = turned = 0
    for name, value in flags.items():
        if value is not None:
            change |= _FLAGS[name]
            turned |= bits((value, _FLAGS[name], name))
    turned ^= change & rtnl.IFF_NOARP                   # arp: the flag says the opposite
    return {"index": index, "flags": turned, "change": change}


def _place(fd: Optional[int], pid: Optional[int], netnsid: Optional[int], what: str) -> Dict:
    """Another namespace: by a descriptor, by a process, or by the number that this one knows it by."""
    if sum(value is not None for value in (fd, pid, netnsid)) > 1:      # rtnl_ensure_unique_netns(): EINVAL
        raise UsageError(f"{what}: expected one of netns, netns_pid and netnsid, no two of them")
    return {"net_ns_fd": number_or_none(fd, 0, 0x7FFFFFFF, "descriptor"),
            "net_ns_pid": number_or_none(pid, 1, 0x7FFFFFFF, "pid"), "target_netnsid": _netnsid(netnsid)}


def _netnsid(value: Optional[int], what: str = "netnsid") -> Optional[int]:
    return number_or_none(value, 0, 0x7FFFFFFF, what)


def add_link(kind: str, ifname: str, *, index: int = 0, link: int = 0, lladdr: Optional[str] = None,
             mtu: Optional[int] = None, group: Optional[int] = None, master: int = 0, up: Optional[bool] = None,
             txqlen: Optional[int] = None, queues: Optional[int] = None, netns_fd: Optional[int] = None,
             netns_pid: Optional[int] = None, netnsid: Optional[int] = None, link_netnsid: Optional[int] = None,
             options: Optional[Mapping] = None) -> Request:
    """RTM_NEWLINK of any kind. `link`: the lower link, an index in this namespace or in that of `link_netnsid`.
    `options`: rows of the kind's table in rtnl.
    """
    data = kind_options(kind, options or {})
    if (link or link_netnsid is not None) and kind in _WITHOUT_LOWER:
        raise UsageError(f"link of {kind} {ifname!r}: expected none, this kind has no lower link")
    if link_netnsid is not None and (netns_fd, netns_pid, netnsid) != (None,) * 3:      # get_net_ns_by_id(tgt_net, id)
        raise UsageError(f"{kind} {ifname!r}: expected no link_netnsid with netns, netns_pid or netnsid: it would be a "
                         "number of that namespace")
    lower = positive(link) if link else None
    if lower and kind in DATA.codecs and "link" in DATA.codecs[kind].table.rows:
        data["link"], lower = lower, None
    attrs = {
        **_checked(ifname, lladdr, mtu, group), "link": lower, "master": master or None,
        "txqlen": number_or_none(txqlen, 0, U32, "txqlen"), **_queues(queues),
        **_place(netns_fd, netns_pid, netnsid, f"{kind} {ifname!r}"),
        "link_netnsid": _netnsid(link_netnsid, "link_netnsid"),
        "linkinfo": {"kind": kind, "data": data} if data else {"kind": kind},
    }
    return _link(rtnl.RTM_NEWLINK, CREATE, f"add {kind} {ifname}", _header(index, up=up), attrs, (), kind)


def add_bridge(ifname: str, *, index: int = 0, lladdr: Optional[str] = None, mtu: Optional[int] = None,
               group: Optional[int] = None, up: Optional[bool] = None, options: Optional[Dict] = None) -> Request:
    """RTM_NEWLINK of kind bridge. `options`: rows of rtnl.BRIDGE (stp_state, ageing_time, ...)."""
    return add_link("bridge", ifname, index=index, lladdr=lladdr, mtu=mtu, group=group, up=up, options=options)


def add_veth(ifname: str, peer: str, *, index: int = 0, peer_index: int = 0, lladdr: Optional[str] = None,
             peer_lladdr: Optional[str] = None, mtu: Optional[int] = None, group: Optional[int] = None, master: int = 0,
             up: Optional[bool] = None, peer_netns_fd: Optional[int] = None, peer_netns_pid: Optional[int] = None,
             queues: Optional[int] = None, kind: str = "veth", options: Optional[Mapping] = None) -> Request:
    """RTM_NEWLINK of kind veth (or netkit) with its peer. `queues`: transmit and receive queues of each end.

    The group is given to both ends: the kernel makes no use of it in the peer's namespace. A peer cannot be born up
    (ENOTCONN), nor in a namespace that is known by a netnsid: rtnl_link_get_net_ifla() does not look at one.
    """
    if ifname == peer and peer_netns_fd is None and peer_netns_pid is None:
        raise UsageError(f"peer {peer!r}: expected another name than the link's own, in the same network namespace")
    if peer_netns_fd is not None and peer_netns_pid is not None:
        raise UsageError(f"peer {peer!r}: expected peer_netns or peer_netns_pid, not both")
    peer_attrs = {**_checked(peer, peer_lladdr, mtu, group, "peer"), **_queues(queues), "net_ns_fd": peer_netns_fd,
                  "net_ns_pid": number_or_none(peer_netns_pid, 1, 0x7FFFFFFF, "pid")}
    data = {"peer" if kind == "veth" else "peer_info": ({"index": peer_index}, without_none(peer_attrs)),
            **kind_options(kind, options or {}, ("peer", "peer_info"))}
    attrs = {
        **_checked(ifname, lladdr, mtu, group), **_queues(queues), "master": master or None,
        "linkinfo": {"kind": kind, "data": data},
    }
    return _link(rtnl.RTM_NEWLINK, CREATE, f"add {kind} {ifname} with peer {peer}", _header(index, up=up), attrs, (),
                 kind)


@remembered
def set_link(index: int, words: str, *, up: Optional[bool] = None, ifname: Optional[str] = None,
             lladdr: Optional[str] = None, mtu: Optional[int] = None, master: Optional[int] = None,
             group: Optional[int] = None, ifalias: Optional[str] = None, netns_fd: Optional[int] = None,
             netns_pid: Optional[int] = None, netnsid: Optional[int] = None, txqlen: Optional[int] = None,
             broadcast: Optional[str] = None, promisc: Optional[bool] = None, allmulticast: Optional[bool] = None,
             multicast: Optional[bool] = None, arp: Optional[bool] = None, tolerate: Iterable[int] = ()) -> Request:
    """RTM_SETLINK of a link of this namespace. `master` 0 detaches.

    IFLA_TARGET_NETNSID is no other link's namespace here, as it is in RTM_DELLINK, but where this link is moved.
    """
    if ifalias is not None and len(wire.string.encode(ifalias)) > 255:
        raise UsageError(f"ifalias {ifalias!r}: expected at most 255 bytes (IFALIASZ)")
    # The kernel would cut off what is longer.
    if broadcast is not None and (not isinstance(broadcast, str) or len(wire.lladdr.encode(broadcast)) != 6):
        raise UsageError(f"broadcast {broadcast!r}: expected six bytes such as ff:ff:ff:ff:ff:ff")
    attrs = without_none({
        "ifname": None if ifname is None else values.ifname(ifname),
        "address": None if lladdr is None else values.lladdr(lladdr), "broadcast": broadcast,
        "mtu": None if mtu is None else values.mtu(mtu), "txqlen": number_or_none(txqlen, 0, U32, "txqlen"),
        "master": number_or_none(master, 0, 0x7FFFFFFF, "master"), "group": number_or_none(group, 0, U32, "group"),
        "ifalias": ifalias, **_place(netns_fd, netns_pid, netnsid, f"set {words}")})
    header = _header(positive(index), up=up, promisc=promisc, allmulticast=allmulticast, multicast=multicast, arp=arp)
    if not attrs and not header["change"]:
        raise UsageError(f"set {words}: expected something to set")
    return _link(rtnl.RTM_SETLINK, 0, f"set {words}", header, attrs, tolerate)


def set_options(index: int, words: str, kind: str, options: Mapping) -> Request:
    """RTM_NEWLINK of a link that exists, with the options of its kind: RTM_SETLINK would ignore them."""
    data = kind_options(kind, options, FIXED_AT_BIRTH.get(kind_name(kind, KIND_BYTES, "link kind"), ()))
    if not data:
        raise UsageError(f"set {words}: expected an option of kind {kind}")
    return _link(rtnl.RTM_NEWLINK, 0, f"set {kind} {words}", {"index": positive(index)},
                 {"linkinfo": {"kind": kind, "data": data}})


def set_port(index: int, words: str, kind: str, options: Mapping) -> Request:
    """What the master of a link, of that kind, knows of it as a port.

    For a bridge RTM_SETLINK of family AF_BRIDGE, IFLA_PROTINFO, which only a bridge takes. For others
    IFLA_INFO_SLAVE_DATA, and the kernel does not look at the kind beside it (rtnl_newlink()): a master of another kind
    reads it as its own.
    """
    data = port_options(kind, options)
    if not data:
        raise UsageError(f"set port {words}: expected an option of a {kind} port")
    if kind == "bridge":
        return _link(rtnl.RTM_SETLINK, 0, f"set {kind} port {words}",
                     {"family": rtnl.AF_BRIDGE, "index": positive(index)}, {"protinfo": data})
    return _link(rtnl.RTM_NEWLINK, 0, f"set {kind} port {words}", {"index": positive(index)},
                 {"linkinfo": {"slave_kind": kind, "slave_data": data}})


def try_vlan_filtering() -> Request:
    """RTM_NEWLINK of a bridge that no kernel makes; by its refusal it says whether bridges know VLANs here.

    br_validate() looks at the protocol first, if VLAN filtering is built in: EPROTONOSUPPORT. If not, there is no
    namespace -1: EINVAL. Asked like this, and not by RTM_GETVLAN: that is from Linux 5.6, and its answer is the same of
    a kernel without VLAN filtering and of one whose bridge module nobody has needed yet, which this loads.
    """
    return _link(rtnl.RTM_NEWLINK, CREATE, "try VLAN filtering", {},
                 {"link_netnsid": -1, "linkinfo": {"kind": "bridge", "data": {"vlan_protocol": 0}}}, (), "bridge")


def set_conf(index: int, words: str, options: Mapping) -> Request:
    """RTM_SETLINK, IFLA_INET_CONF: settings of IPv4 for one link, a message of its own. inet_set_link_af()."""
    conf = ipv4_conf(options)
    if not conf:
        raise UsageError(f"set IPv4 of {words}: expected a setting")
    return _link(rtnl.RTM_SETLINK, 0, f"set IPv4 of {words}", {"index": positive(index)},
                 {"af_spec": {"inet": {"conf": conf}}})


@remembered
def set_addr_gen_mode(index: int, words: str, mode: int) -> Request:
    """RTM_SETLINK with IFLA_INET6_ADDR_GEN_MODE, a message of its own before the one that sets the link up.

    A kernel without IPv6, or with it disabled on the link, makes no link-local address either: EAFNOSUPPORT is fine.
    """
    return _link(rtnl.RTM_SETLINK, 0, f"set IPv6 address generation of {words}", {"index": positive(index)},
                 {"af_spec": {"inet6": {"addr_gen_mode": mode}}}, {errno.EAFNOSUPPORT})


def set_xdp(index: int, words: str, prog_fd: int, mode: str = "any") -> Request:
    """RTM_SETLINK, IFLA_XDP: attach a BPF program; `prog_fd` -1 detaches."""
    xdp = {"fd": number(prog_fd, -1, 0x7FFFFFFF, "program descriptor"), "flags": choice(mode, XDP_MODES, "XDP mode")}
    return _link(rtnl.RTM_SETLINK, 0, f"set XDP of {words}", {"index": positive(index)}, {"xdp": xdp})


def _altname(type: int, flags: int, verb: str, index: int, words: str, altname: str,
             tolerate: Iterable[int] = ()) -> Request:
    return _link(type, flags, f"{verb} altname {altname} of {words}", {"index": positive(index)},
                 {"prop_list": {"alt_ifname": [values.altname(altname)]}}, tolerate)


def add_altname(index: int, words: str, altname: str) -> Request:
    """RTM_NEWLINKPROP, IFLA_ALT_IFNAME: at most 127 bytes."""
    return _altname(rtnl.RTM_NEWLINKPROP, CREATE | rtnl.NLM_F_APPEND, "add", index, words, altname)


def del_altname(index: int, words: str, altname: str, missing_ok: bool = False) -> Request:
    """RTM_DELLINKPROP."""
    return _altname(rtnl.RTM_DELLINKPROP, 0, "delete", index, words, altname,
                    {errno.ENODEV, errno.ENOENT} if missing_ok else ())


def del_link(index: int, words: str, missing_ok: bool = False, netnsid: Optional[int] = None) -> Request:
    """RTM_DELLINK by ifindex: a name could match somebody's altname. `netnsid`: where the link is, if not here."""
    return _link(rtnl.RTM_DELLINK, 0, f"delete {words}", {"index": positive(index)},
                 {"target_netnsid": _netnsid(netnsid)}, GONE if missing_ok else ())


def del_group(group: int) -> Request:
    """RTM_DELLINK of every link of a group, in one go. Never group 0: that is every link."""
    return _link(rtnl.RTM_DELLINK, 0, f"delete group {group!r}", {}, {"group": number(group, 1, U32, "group")}, GONE)


def get_link(index: int = 0, ifname: Optional[str] = None, netnsid: Optional[int] = None) -> Request:
    """RTM_GETLINK of one link, by index or by name. `netnsid`: where it is, if not here."""
    what = index if ifname is None else ifname if str(ifname).isprintable() else repr(ifname)
    return _link(rtnl.RTM_GETLINK, 0, f"get link {what}", {"index": index},
                 {"ifname": ifname, "target_netnsid": _netnsid(netnsid)})


def list_links(*, kind: Optional[str] = None, master: int = 0, stats: bool = True,
               netnsid: Optional[int] = None) -> Request:
    """RTM_GETLINK, all, those of a kind, or the ports of a master: the kernel picks (rtnl_dump_ifinfo()). `netnsid`: of
    the namespace with that number; each then says so, in IFLA_TARGET_NETNSID.

    Of a kind that the kernel does not have it lists all: the reader must look again. Without `stats` the counters of
    IPv6 are left out, which are most of the answer; those of the link itself always come.
    """
    attrs = {"master": master or None,
             "linkinfo": None if kind is None else {"kind": kind_name(kind, KIND_BYTES, "link kind")},
             "ext_mask": None if stats else rtnl.RTEXT_FILTER_SKIP_STATS, "target_netnsid": _netnsid(netnsid)}
    return _link(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, "list links", {}, attrs)


# --- VLANs of a bridge: messages of family AF_BRIDGE ---


def _bridge_vlan(type: int, verb: str, index: int, words: str, vid: int, last: Optional[int], flags: int,
                 self_: bool) -> Request:
    number(vid, 1, 4094, "vid")
    info = [{"flags": flags, "vid": vid}]
    if last is not None:
        number(last, vid, 4094, "last vid")
        if flags & rtnl.BRIDGE_VLAN_INFO_PVID:
            raise UsageError(f"pvid {vid} to {last}: expected a single VLAN")
        info = [{"flags": flags | rtnl.BRIDGE_VLAN_INFO_RANGE_BEGIN, "vid": vid},
                {"flags": flags | rtnl.BRIDGE_VLAN_INFO_RANGE_END, "vid": last}]
    spec: Dict[str, Any] = {"vlan_info": info}
    if bits((self_, 1, "self_")):
        spec = {"flags": rtnl.BRIDGE_FLAGS_SELF, **spec}
    return _link(type, 0, f"{verb} VLAN {vid}{f' to {last}' if last else ''} of {words}",
                 {"family": rtnl.AF_BRIDGE, "index": positive(index)}, {"af_spec": spec})


def add_bridge_vlan(index: int, words: str, vid: int, *, last: Optional[int] = None, pvid: bool = False,
                    untagged: bool = False, self_: bool = False) -> Request:
    """RTM_SETLINK, IFLA_BRIDGE_VLAN_INFO. `self_`: of the bridge itself, not of a port."""
    flags = bits((pvid, rtnl.BRIDGE_VLAN_INFO_PVID, "pvid"), (untagged, rtnl.BRIDGE_VLAN_INFO_UNTAGGED, "untagged"))
    return _bridge_vlan(rtnl.RTM_SETLINK, "add", index, words, vid, last, flags, self_)


def del_bridge_vlan(index: int, words: str, vid: int, *, last: Optional[int] = None, self_: bool = False) -> Request:
    """RTM_DELLINK of family AF_BRIDGE, IFLA_BRIDGE_VLAN_INFO."""
    return _bridge_vlan(rtnl.RTM_DELLINK, "delete", index, words, vid, last, 0, self_)


def list_bridge_vlans() -> Request:
    """RTM_GETLINK of family AF_BRIDGE, with IFLA_BRIDGE_VLAN_INFO, ranges as such."""
    return _link(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, "list bridge VLANs", {"family": rtnl.AF_BRIDGE},
                 {"ext_mask": rtnl.RTEXT_FILTER_BRVLAN_COMPRESSED})
