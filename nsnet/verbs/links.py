"""Verbs for links, bridge ports, bridge VLANs and alternative names; as ip-link(8) and bridge(8) have them."""

from __future__ import annotations

import errno

from nsnet import requests, rtnl, values
from nsnet.errors import AlreadyExists, NetlinkError, NotSupported, UsageError
from nsnet.exchange import Request
from nsnet.requests.common import bits, choice, ip_bytes, number, number_or_none, without_none
from nsnet.requests.options import (BOND_MODES, IPVLAN_MODES, MACVLAN_MODES, NETKIT_MODES, NETKIT_POLICIES,
                                    VLAN_OPTIONS, VLAN_PROTOCOLS)
from nsnet.verbs.base import LinkLike, LinkRef, VerbBase, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Optional, Tuple, Union
    from nsnet.netns import Netns

# What a link of any kind may be born with; a row of that name in the kind's table is something else (IFLA_VXLAN_GROUP).
_COMMON = ("lladdr", "mtu", "group", "master", "up", "txqlen", "queues", "netns", "netns_pid", "netnsid",
           "link_netnsid")
_TUNNELS = ("gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl")


class LinkVerbs(VerbBase):
    """Links: every kind, their options, their ports, their names."""

    def add_link(self, kind: str, ifname: str, *, link: Optional[LinkLike] = None, lladdr: Optional[str] = None,
                 mtu: Optional[int] = None, group: Optional[int] = None, master: Optional[LinkLike] = None,
                 up: Optional[bool] = None, txqlen: Optional[int] = None, queues: Optional[int] = None,
                 netns: Optional["Netns"] = None, netns_pid: Optional[int] = None, netnsid: Optional[int] = None,
                 link_netnsid: Optional[int] = None, **options: Any) -> LinkRef:
        """Create a link of any kind ("dummy", "vlan", "vxlan", ...); most kinds have a verb of their own.

        `link`: the lower link. `mtu` in bytes, `txqlen` in packets. `netns`: where it is born, and where its `master`
        is; or `netns_pid`: the namespace of a process; or `netnsid`: the one that this namespace knows by that number
        (set_nsid(); ip-netns(8)): then there is no `master`, and what is returned is its name and index there.
        `link_netnsid`: `link` is in the namespace of that number, where a name of it is looked up at once, and an
        ifindex or a reference must be from; for a tunnel, packets leave there. Not with a birthplace elsewhere, whose
        number it would be. `options`: the rows of the kind's table in nsnet.rtnl, in lower case.
        Raises AlreadyExists if the name is taken, NotSupported if this kernel lacks the kind, UsageError for an option
        that the kind does not have, which the kernel would ignore; NetlinkError with EINVAL for a number that no
        namespace has, NoSuchObject for a pid that no process has. RTM_NEWLINK, IFLA_NET_NS_PID, IFLA_TARGET_NETNSID,
        IFLA_LINK_NETNSID <linux/if_link.h>; ip-link(8).
        """
        return self._create(kind, ifname, options, link=link, lladdr=lladdr, mtu=mtu, group=group, master=master, up=up,
                            txqlen=txqlen, queues=queues, netns=netns, netns_pid=netns_pid, netnsid=netnsid,
                            link_netnsid=link_netnsid)

    def _create(self, kind: str, ifname: str, options: Mapping, *, link: Optional[LinkLike] = None,
                master: Optional[LinkLike] = None, netns: Optional["Netns"] = None, netns_pid: Optional[int] = None,
                netnsid: Optional[int] = None, link_netnsid: Optional[int] = None, **common: Any) -> LinkRef:
        blind = netns_pid is not None or netnsid is not None
        if blind and master is not None:
            raise UsageError(f"{kind} {ifname!r}: expected netns with master, or no master: it is looked for there")
        there = self._other(netns)
        index = self._index_elsewhere() if blind else self._free_index(there)
        lower, above = self._index_in(link, link_netnsid), there._index(master)

        def make(fd: Optional[int]) -> Request:
            request = requests.add_link(
                kind, ifname, index=index, link=lower, master=above, netns_fd=fd, netns_pid=netns_pid, netnsid=netnsid,
                link_netnsid=link_netnsid, options=options, **common)
            self._check_vlan_filtering(kind, options, request.words)
            return request
        self._run(self._holding(make, netns))
        return LinkRef(ifname, index)

    def _check_vlan_filtering(self, kind: str, options: Mapping, what: str) -> None:
        """A kernel without it takes most of the options of a bridge's VLANs, and makes nothing of them."""
        names = [name for name in options if name in VLAN_OPTIONS] if kind == "bridge" else []
        if not names:
            return
        try:
            self.netns.perform([requests.try_vlan_filtering()])
        except NetlinkError as error:           # whatever else it says, it will say again of what was meant
            if error.errno == errno.EINVAL:
                lack = NotSupported(errno.EOPNOTSUPP, what)
                lack.hint = (f"{names[0]}: this kernel's bridges know no VLANs, it is built without "
                             "CONFIG_BRIDGE_VLAN_FILTERING")
                raise lack from None

    def _free_index(self, there: "Netns") -> int:
        """An ifindex for a link that is born in a namespace and asked for in this one.

        Kernels before 6.15 look for the index here, and find somebody else's link (__rtnl_newlink()).
        """
        index = there.free_index()
        while there is not self.netns and self.netns.socket_of_rtnl.index_taken(index):
            index = there.free_index()
        return index

    def add_bridge(self, ifname: str, *, lladdr: Optional[str] = None, mtu: Optional[int] = None,
                   group: Optional[int] = None, up: Optional[bool] = None, **options: Any) -> LinkRef:
        """Create a bridge. `mtu` in bytes; `options`: rows of IFLA_BR_* in lower case, times in 1/100 s
        (ageing_time=30000 is 300 s).

        An `mtu` holds until the first port comes: then the bridge takes the smallest of its ports'
        (br_mtu_auto_adjust()); one that is set by set_link() stays. Raises AlreadyExists if the name is taken,
        UsageError for an option that a bridge does not have, or a number that the kernel would change (a query interval
        is at least a second, 100); but a kernel of 250 ticks a second (CONFIG_HZ) makes an odd number one less.
        NotSupported for a vlan_ option on a kernel without CONFIG_BRIDGE_VLAN_FILTERING: that is asked at once, also in
        a batch, by a request that creates nothing.
        RTM_NEWLINK, IFLA_INFO_KIND "bridge" <linux/if_link.h>; ip-link(8).
        """
        return self.add_link("bridge", ifname, lladdr=lladdr, mtu=mtu, group=group, up=up, **options)

    def ensure_bridge(self, ifname: str, *, lladdr: Optional[str] = None, mtu: Optional[int] = None,
                      group: Optional[int] = None, up: Optional[bool] = None, **options: Any) -> LinkRef:
        """A bridge of that name, with all of this: the one that is there, or a new one.

        Whose bridge it is is not asked: see Network for bridges that have an owner. Looks at once, also in a batch.
        Raises AlreadyExists if the name is another kind of link's, or somebody was quicker.
        """
        values.ifname(ifname)
        index = self.netns.find(ifname)
        if not index:
            return self.add_bridge(ifname, lladdr=lladdr, mtu=mtu, group=group, up=up, **options)
        found = self.netns.link(index)
        if found.kind != "bridge":
            raise AlreadyExists(errno.EEXIST, f"ensure bridge {ifname}", f"a link of kind {found.kind} has that name")
        wanted = []
        if options:
            wanted.append(requests.set_options(index, ifname, "bridge", options))
            self._check_vlan_filtering("bridge", options, wanted[-1].words)
        if (lladdr, mtu, group, up) != (None,) * 4:
            wanted.append(requests.set_link(index, ifname, lladdr=lladdr, mtu=mtu, group=group, up=up))
        for request in wanted:
            self._run(request)
        return LinkRef(ifname, index)

    def add_veth(self, ifname: str, *, peer: str, peer_netns: Optional["Netns"] = None,
                 peer_netns_pid: Optional[int] = None, lladdr: Optional[str] = None, peer_lladdr: Optional[str] = None,
                 mtu: Optional[int] = None, group: Optional[int] = None, master: Optional[LinkLike] = None,
                 up: Optional[bool] = None, queues: Optional[int] = None) -> Tuple[LinkRef, LinkRef]:
        """Create a veth pair; the peer is born in `peer_netns`, or in the namespace of the process `peer_netns_pid`.
        Returns both ends. (A peer takes no netnsid: rtnl_link_get_net_ifla().)

        `queues`: of each end; the kernel's default is one a CPU, and one is faster to make. `mtu` in bytes, `group` and
        `queues` are given to both ends. Raises AlreadyExists if a name is taken. RTM_NEWLINK, VETH_INFO_PEER
        <linux/veth.h>; veth(4).
        """
        return self._add_pair("veth", ifname, peer, peer_netns, peer_netns_pid, lladdr, peer_lladdr, mtu, group, master,
                              up, queues, None)

    def add_netkit(self, ifname: str, *, peer: str, peer_netns: Optional["Netns"] = None,
                   peer_netns_pid: Optional[int] = None, mode: Union[str, int] = "l3",
                   policy: Union[str, int] = "forward", peer_policy: Union[str, int] = "forward",
                   mtu: Optional[int] = None, group: Optional[int] = None,
                   up: Optional[bool] = None) -> Tuple[LinkRef, LinkRef]:
        """Create a netkit pair (Linux 6.7): `mode` "l2" or "l3", the policies "forward" or "blackhole".

        Raises NotSupported on older kernels. IFLA_NETKIT_* <linux/if_link.h>.
        """
        options = {"mode": choice(mode, NETKIT_MODES, "mode"), "policy": choice(policy, NETKIT_POLICIES, "policy"),
                   "peer_policy": choice(peer_policy, NETKIT_POLICIES, "peer_policy")}
        return self._add_pair("netkit", ifname, peer, peer_netns, peer_netns_pid, None, None, mtu, group, None, up,
                              None, options)

    def _add_pair(self, kind: str, ifname: str, peer: str, peer_netns: Optional["Netns"],
                  peer_netns_pid: Optional[int], lladdr: Optional[str], peer_lladdr: Optional[str], mtu: Optional[int],
                  group: Optional[int], master: Optional[LinkLike], up: Optional[bool], queues: Optional[int],
                  options: Optional[Mapping]) -> Tuple[LinkRef, LinkRef]:
        there = self._other(peer_netns)
        index = self.netns.free_index()
        peer_index = there.free_index() if peer_netns_pid is None else self._index_elsewhere()
        above = self._index(master)
        self._run(self._holding(lambda fd: requests.add_veth(
            ifname, peer, index=index, peer_index=peer_index, lladdr=lladdr, peer_lladdr=peer_lladdr, mtu=mtu,
            group=group, master=above, up=up, queues=queues, peer_netns_fd=fd, peer_netns_pid=peer_netns_pid, kind=kind,
            options=options), peer_netns))
        return LinkRef(ifname, index), LinkRef(peer, peer_index)

    # Of the verbs that follow, `common` is what add_link() takes: lladdr, mtu, group, master, up, txqlen, queues,
    # netns, netns_pid, netnsid, link_netnsid, and more options of the kind.

    def add_dummy(self, ifname: str, **common: Any) -> LinkRef:
        """Create a dummy link. `common`: as add_link()."""
        return self._add_kind("dummy", ifname, common)

    def add_ifb(self, ifname: str, **common: Any) -> LinkRef:
        """Create an intermediate functional block: incoming traffic that is redirected there can be shaped.

        `common`: as add_link().
        """
        return self._add_kind("ifb", ifname, common)

    def add_vlan(self, ifname: str, link: LinkLike, vid: int, *, protocol: Union[str, int] = "802.1q",
                 **common: Any) -> LinkRef:
        """Create a VLAN on a link. `vid`: 1 to 4094; `protocol`: "802.1q" or "802.1ad".

        IFLA_VLAN_* <linux/if_link.h>.
        """
        return self._add_kind("vlan", ifname, common, link=link, id=number(vid, 1, 4094, "vid"),
                              protocol=choice(protocol, VLAN_PROTOCOLS, "protocol"))

    def add_macvlan(self, ifname: str, link: LinkLike, *, mode: Union[str, int] = "bridge", tap: bool = False,
                    **common: Any) -> LinkRef:
        """Create a macvlan on a link: `mode` "private", "vepa", "bridge", "passthru" or "source".

        `tap`: a macvtap instead. IFLA_MACVLAN_* <linux/if_link.h>.
        """
        return self._add_kind("macvtap" if tap else "macvlan", ifname, common, link=link,
                              mode=choice(mode, MACVLAN_MODES, "mode"))

    def add_ipvlan(self, ifname: str, link: LinkLike, *, mode: Union[str, int] = "l2", **common: Any) -> LinkRef:
        """Create an ipvlan on a link: `mode` "l2", "l3" or "l3s"; option `flags`: 1 private, 2 vepa.

        IFLA_IPVLAN_* <linux/if_link.h>.
        """
        return self._add_kind("ipvlan", ifname, common, link=link, mode=choice(mode, IPVLAN_MODES, "mode"))

    def add_vxlan(self, ifname: str, vni: int, *, local: Optional[str] = None, group_address: Optional[str] = None,
                  dev: Optional[LinkLike] = None, port: int = 4789, **common: Any) -> LinkRef:
        """Create a VXLAN. `vni`: 0 to 2^24 - 1; `group_address`: of the multicast group or the one peer.

        `dev`: the link below, needed for a group. `port`: UDP; the kernel's own default, 8472, is from before RFC 7348.
        An `mtu` that `dev` is too small for is a UsageError, for the kernel would take a smaller one; this looks at
        once, also in a batch. IFLA_VXLAN_* <linux/if_link.h>.
        """
        addresses = {name + ("" if len(ip_bytes(text, what)) == 4 else "6"): text for name, what, text in (
            ("local", "local", local), ("group", "group_address", group_address)) if text is not None}
        if len({name.endswith("6") for name in addresses}) > 1:
            raise UsageError(f"local {local!r}: expected an address of the family of group_address {group_address!r}")
        self._check_room(ifname, dev, common, any(name.endswith("6") for name in {**addresses, **common}))
        return self._add_kind("vxlan", ifname, common, link=dev, id=number(vni, 0, 0xFFFFFF, "vni"),
                              port=number(port, 1, 65535, "port"), **addresses)

    def _check_room(self, ifname: str, dev: Optional[LinkLike], common: Mapping, version6: bool) -> None:
        """vxlan_config_apply() cuts the MTU down to what the headers leave of the lower link's."""
        mtu = common.get("mtu")
        if dev is None or type(mtu) is not int or "link_netnsid" in common:
            return
        below = self._look(dev)
        room = None if below is None else below.mtu - (70 if version6 else 50) + (14 if common.get("gpe") else 0)
        if room is not None and mtu > max(room, 68):
            raise UsageError(f"mtu {mtu} of vxlan {ifname!r}: expected at most {max(room, 68)}, what {words(dev)} has "
                             "room for")

    def add_vrf(self, ifname: str, table: int, **common: Any) -> LinkRef:
        """Create a VRF whose ports use a routing table. IFLA_VRF_TABLE <linux/if_link.h>."""
        return self._add_kind("vrf", ifname, common, table=number(table, 1, 0xFFFFFFFF, "table"))

    def add_bond(self, ifname: str, *, mode: Union[str, int] = "balance-rr", **common: Any) -> LinkRef:
        """Create a bond. `mode`: "active-backup", "802.3ad", ... IFLA_BOND_* <linux/if_link.h>."""
        return self._add_kind("bond", ifname, common, mode=choice(mode, BOND_MODES, "mode"))

    def add_wireguard(self, ifname: str, **common: Any) -> LinkRef:
        """Create a WireGuard link; keys and peers are set by wg(8), over generic netlink."""
        return self._add_kind("wireguard", ifname, common)

    def add_tunnel(self, ifname: str, kind: str, *, remote: Optional[str] = None, local: Optional[str] = None,
                   dev: Optional[LinkLike] = None, ttl: Optional[int] = None, **common: Any) -> LinkRef:
        """Create a tunnel: `kind` "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit" or "ip6tnl".

        `dev`: the link below; `ttl`: 0 to 255. More options (ikey, okey, iflags, ...): rows of rtnl.GRE or rtnl.IPTUN;
        a key counts only with its flag. <linux/if_tunnel.h>.
        """
        if kind not in _TUNNELS:
            raise UsageError(f"kind {kind!r}: expected one of {', '.join(_TUNNELS)}")
        size = 16 if kind.startswith("ip6") else 4
        for what, text in (("remote", remote), ("local", local)):
            if text is not None and len(ip_bytes(text, what)) != size:
                raise UsageError(f"{what} {text!r}: expected an IPv{6 if size == 16 else 4} address for kind {kind}")
        return self._add_kind(kind, ifname, common, link=dev, remote=remote, local=local,
                              ttl=number_or_none(ttl, 0, 255, "ttl"))

    def _add_kind(self, kind: str, ifname: str, common: Dict, link: Optional[LinkLike] = None,
                  **own: Any) -> LinkRef:
        """`common`: what every link has, and more options; `own`: the rows of the kind that the verb itself sets."""
        of_any = {name: value for name, value in common.items() if name in _COMMON}
        more = {name: value for name, value in common.items() if name not in _COMMON}
        for name in more:
            if name in own or name in ("kind", "ifname", "link"):
                raise UsageError(f"{kind} option {name!r}: expected it once, where the verb takes it")
        return self._create(kind, ifname, {**without_none(own), **more}, link=link, **of_any)

    def set_link(self, link: LinkLike, *, up: Optional[bool] = None, ifname: Optional[str] = None,
                 lladdr: Optional[str] = None, mtu: Optional[int] = None, master: Optional[LinkLike] = None,
                 nomaster: bool = False, group: Optional[int] = None, ifalias: Optional[str] = None,
                 netns: Optional["Netns"] = None, netns_pid: Optional[int] = None, netnsid: Optional[int] = None,
                 link_local: Optional[bool] = None, txqlen: Optional[int] = None, broadcast: Optional[str] = None,
                 promisc: Optional[bool] = None, allmulticast: Optional[bool] = None, multicast: Optional[bool] = None,
                 arp: Optional[bool] = None) -> None:
        """Change a link.

        `link_local=False`: no IPv6 link-local address when it comes up; then nothing is flooded either.
        `mtu` in bytes, `txqlen` in packets; `ifalias`: at most 255 bytes, "" for none; `group`: 0 to 2^32 - 1. `netns`
        or `netns_pid`, or `netnsid`, the number that this namespace knows the other by: move it there, where `master`
        is then looked for; it gets another ifindex if its own is taken.
        The booleans are flags of netdevice(7). Raises NoSuchObject if there is no such link. RTM_SETLINK; ip-link(8).
        """
        index, named = self._index_in(link, None), words(link)
        if nomaster and master is not None:
            raise UsageError(f"set {named}: expected master or nomaster, not both")
        blind = netns_pid is not None or netnsid is not None
        if blind and master is not None:
            raise UsageError(f"set {named}: expected netns with master, or else no master: it is looked for there")
        if link_local is not None and (netns is not None or blind):     # addrconf_ifdown(), then anew
            raise UsageError(f"set {named}: expected no link_local with another namespace: it is lost on the way")
        there = self._other(netns)
        others = (up, ifname, lladdr, mtu, master, group, ifalias, netns, netns_pid, netnsid, txqlen, broadcast,
                  promisc, allmulticast, multicast, arp)
        wanted = []
        if link_local is not None:      # first, and alone: within one message the flags would be applied before it
            none = not bits((link_local, 1, "link_local"))
            wanted.append(requests.set_addr_gen_mode(
                index, named, rtnl.IN6_ADDR_GEN_MODE_NONE if none else rtnl.IN6_ADDR_GEN_MODE_EUI64))
        if not wanted or nomaster or any(value is not None for value in others):
            above = 0 if nomaster else None if master is None else there._index(master)
            wanted.append(self._holding(lambda fd: requests.set_link(
                index, named, up=up, ifname=ifname, lladdr=lladdr, mtu=mtu, master=above, group=group, ifalias=ifalias,
                netns_fd=fd, netns_pid=netns_pid, netnsid=netnsid, txqlen=txqlen, broadcast=broadcast, promisc=promisc,
                allmulticast=allmulticast, multicast=multicast, arp=arp), netns))
        for request in wanted:
            self._run(request)

    def set_options(self, link: LinkLike, kind: str, **options: Any) -> None:
        """Change what the kind of a link has of its own: set_options(br0, "bridge", ageing_time=1000).

        Raises NotSupported if the link is of another kind, or the kind cannot be changed, and for a bridge's vlan_
        options as add_bridge(); UsageError for an option that the kernel would ignore, a number that it would change.
        RTM_NEWLINK without NLM_F_CREATE, IFLA_INFO_DATA.
        """
        request = requests.set_options(self.netns.index_of(link), words(link), kind, options)
        self._check_vlan_filtering(kind, options, request.words)
        self._run(request)

    def set_conf(self, link: LinkLike, **settings: Any) -> None:
        """Change what IPv4 does on one link: set_conf(eth0, forwarding=True, rp_filter=2, arp_notify=1).

        The names are those of /proc/sys/net/ipv4/conf/IF (Documentation/networking/ip-sysctl.rst), which is not needed;
        numbers from 0 to 2^31 - 1, True and False for 1 and 0, medium_id also -1. Of some, what counts is the larger or
        the or of this and "all", which is no link. Nothing but the number changes: a forwarding link keeps its LRO. A
        message of its own, after the one that makes the link. Read back as link.attrs["af_spec"]["inet"]["conf"].
        Raises UsageError for another name, NetlinkError with EINVAL for one that is newer than this kernel,
        NotSupported for a link without IPv4 (an MTU below 68). RTM_SETLINK, IFLA_INET_CONF <linux/if_link.h>,
        IPV4_DEVCONF_* <linux/ip.h>.
        """
        self._run(requests.set_conf(self.netns.index_of(link), words(link), settings))

    def set_port(self, link: LinkLike, kind: str = "bridge", **options: Any) -> None:
        """Change what the master of a link knows of it as a port: set_port(veth0, isolated=1, learning=0).

        `kind`: the master's, "bridge" or "bond"; the options are rows of rtnl.BRIDGE_PORT or rtnl.BOND_PORT. `state` of
        a bridge's port: "disabled", "listening", "learning", "forwarding", "blocking", or BR_STATE_*; without STP the
        bridge takes a blocked one up again at once. Raises NotSupported if the link is no port of a bridge, UsageError
        if its master is of another kind: that would take the numbers for its own. RTM_SETLINK of family AF_BRIDGE,
        IFLA_PROTINFO, or IFLA_INFO_SLAVE_DATA; bridge(8).
        """
        found = self._look(link) if kind != "bridge" else None         # a bridge is asked by a message of its own
        above = found and found.attrs.get("linkinfo", {}).get("slave_kind")
        if above is not None and above != kind:
            raise UsageError(f"set {kind} port {words(link)}: expected kind {above!r}, its master is one")
        self._run(requests.set_port(self.netns.index_of(link), words(link), kind, options))

    def set_xdp(self, link: LinkLike, prog_fd: Optional[int], *, mode: str = "any") -> None:
        """Attach a BPF program (bpf(2)) to a link, in the place of one that is there; None takes it off.

        `mode`: "any", "skb", "drv" or "hw"; taking off goes by it too. RTM_SETLINK, IFLA_XDP <linux/if_link.h>.
        """
        self._run(requests.set_xdp(self.netns.index_of(link), words(link), -1 if prog_fd is None else prog_fd, mode))

    def add_altname(self, link: LinkLike, altname: str) -> None:
        """Give a link another name, of up to 127 bytes. Verbs take one of 16 bytes or more for the link; a shorter one is for
        `ip` and others, and is never taken for an ifname.

        Raises AlreadyExists. RTM_NEWLINKPROP; ip-link(8).
        """
        self._run(requests.add_altname(self.netns.index_of(link), words(link), altname))

    def del_altname(self, link: LinkLike, altname: str, *, missing_ok: bool = False) -> None:
        """Take it away. Raises NoSuchObject unless `missing_ok`; EINVAL if it is another link's. RTM_DELLINKPROP."""
        self._delete(link, missing_ok, lambda index: requests.del_altname(index, words(link), altname, missing_ok))

    def del_link(self, link: LinkLike, *, netnsid: Optional[int] = None, missing_ok: bool = False) -> None:
        """Delete a link (for a veth, both ends). Raises NoSuchObject unless `missing_ok`.

        `netnsid`: the link is in the namespace that this one knows by that number. A name is then looked up there, at
        once; an ifindex or a reference must be from there, and for one from here that is somebody else's link.
        RTM_DELLINK, IFLA_TARGET_NETNSID.
        """
        self._delete(link, missing_ok, lambda index: requests.del_link(index, words(link), missing_ok, netnsid),
                     netnsid)

    def del_group(self, group: int) -> None:
        """Delete all links of a group at once: one wait for the kernel instead of one a link. None there is no error.

        `group`: 1 to 2^32 - 1. RTM_DELLINK, IFLA_GROUP.
        """
        self._run(requests.del_group(group))

    def add_bridge_vlan(self, link: LinkLike, vid: int, *, last: Optional[int] = None, pvid: bool = False,
                        untagged: bool = False, self_: bool = False) -> None:
        """Let a VLAN (or those from `vid` to `last`) through a bridge port; `self_`: the bridge itself.

        Raises NotSupported if this kernel's bridges know no VLANs. RTM_SETLINK, IFLA_BRIDGE_VLAN_INFO; bridge(8).
        """
        self._run(requests.add_bridge_vlan(self.netns.index_of(link), words(link), vid, last=last, pvid=pvid,
                                           untagged=untagged, self_=self_))

    def del_bridge_vlan(self, link: LinkLike, vid: int, *, last: Optional[int] = None, self_: bool = False) -> None:
        """Take a VLAN, or those from `vid` to `last`, from a bridge port; `self_`: the bridge itself.

        One that is not there is no error (br_vlan_info()). RTM_DELLINK of family AF_BRIDGE; bridge(8).
        """
        self._run(requests.del_bridge_vlan(self.netns.index_of(link), words(link), vid, last=last, self_=self_))
