"""Verbs for addresses, routes, rules, nexthop objects, neighbours, forwarding entries and netns ids."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from nsnet import requests, rtnl, values
from nsnet.errors import AlreadyExists, NoSuchObject, UsageError
from nsnet.exchange import Request
from nsnet.objects import Neighbour
from nsnet.requests.common import call
from nsnet.requests.inet import ANY_LLADDR, adds_fdb, has_peer
from nsnet.verbs.base import LinkLike, VerbBase, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Sequence, Union
    from nsnet.netns import Netns


class InetVerbs(VerbBase):
    """What lies on links. ip-address(8), ip-route(8), ip-rule(8), ip-nexthop(8), ip-neighbour(8), bridge(8).

    An option that a verb does not have is a UsageError that names it.
    """

    # --- addresses ---

    def add_address(self, link: LinkLike, address: str, **options: Any) -> None:
        """Give a link an address with prefix ("10.0.0.1/24").

        Options: `nodad` (True): IPv6 without duplicate address detection; `peer`: the other end of a point-to-point
        link; `broadcast`, `label` (1 to 15 bytes), `scope` ("global", "link", "host"): IPv4 only; `prefix_route`
        (True): add the route to the prefix; `valid_lft` and `preferred_lft`: seconds (for IPv4 the second is refused
        without the first, for it would not be counted, but for 0: deprecated); `metric`: of the prefix route;
        `proto`: 0 to 255, Linux 5.18. Raises AlreadyExists if the link has it, NoSuchObject if there is no such link.
        RTM_NEWADDR <linux/if_addr.h>; ip-address(8).
        """
        self._address(link, address, options, ensure=False)

    def ensure_address(self, link: LinkLike, address: str, **options: Any) -> None:
        """The same for a link that may have it: then it gets these lifetimes and this metric and proto. NLM_F_REPLACE.

        `broadcast`, `label`, `scope`, and for IPv4 `prefix_route` are refused: the kernel changes none of them. So is an
        IPv6 address that is there with another prefix length, with AlreadyExists: it would keep that one.
        """
        wanted = values.host_address(address)
        index = self._index(link)
        for found in self.netns.addresses(index, family="inet6") if index and wanted.version == 6 else ():
            if found.address.partition("/")[0] == wanted.ip and found.address != str(wanted):
                raise AlreadyExists(errno.EEXIST, f"ensure address {wanted} on {words(link)}", f"it is there as {found.address}")
        self._address(link, address, options, ensure=True)

    def _address(self, link: LinkLike, address: str, options: Dict, ensure: bool) -> None:
        self._run(call(requests.add_address, "address", options, self.netns.index_of(link),
                       values.host_address(address), words(link), ensure=ensure))

    def del_address(self, link: LinkLike, address: str, *, peer: Optional[str] = None,
                    missing_ok: bool = False) -> None:
        """Take an address from a link. Raises NoSuchObject if it is not there, unless `missing_ok`. RTM_DELADDR."""
        self._delete(link, missing_ok, lambda index: requests.del_address(
            index, values.address(address), words(link), peer=peer, missing_ok=missing_ok))

    # --- routes ---

    def add_route(self, dst: str, *, via: Optional[str] = None, oif: Optional[LinkLike] = None,
                  metric: Optional[int] = None, table: int = rtnl.RT_TABLE_MAIN, append: bool = False,
                  hops: Optional[Sequence[Mapping]] = None, **options: Any) -> None:
        """Add a route to `dst` ("default" or a network with prefix), via a gateway, out of a link, or both.

        `hops`: several ways, each {"via": ip, "oif": link, "weight": 1 to 256, "onlink": bool}. `append`: beside one
        that is there. `metric`: the lowest goes first; without one IPv6 takes 1024. Options: `type` ("unicast",
        "blackhole", "unreachable", "prohibit", "throw", "local", ...), `scope` (IPv4), `prefsrc`, `protocol` (RTPROT_*,
        3 is boot), `metrics` (rtnl.METRICS: {"mtu": 1400, ...}), `onlink`, `nh_id` (of a nexthop object), `src` (IPv6),
        `tos` (IPv4), `family` ("inet", "inet6": for a default route that names no address). Raises AlreadyExists, and
        NetlinkError with ENETUNREACH for a gateway that no link leads to (a link must be up). RTM_NEWROUTE
        <linux/rtnetlink.h>; ip-route(8).
        """
        self._route(dst, via, oif, hops, options, metric=metric, table=table, append=append, ensure=False)

    def ensure_route(self, dst: str, *, via: Optional[str] = None, oif: Optional[LinkLike] = None,
                     metric: Optional[int] = None, table: int = rtnl.RT_TABLE_MAIN,
                     hops: Optional[Sequence[Mapping]] = None, **options: Any) -> None:
        """The same, in the place of a route to `dst` of that metric and table, if there is one. NLM_F_REPLACE."""
        self._route(dst, via, oif, hops, options, metric=metric, table=table, append=False, ensure=True)

    def _route(self, dst: str, via: Optional[str], oif: Optional[LinkLike], hops: Optional[Sequence[Mapping]],
               options: Dict, **fixed: Any) -> None:
        if isinstance(hops, (list, tuple)):
            hops = [{**hop, "oif": self._index(hop.get("oif"))} if isinstance(hop, Mapping) else hop for hop in hops]
        self._run(call(requests.add_route, "route", options, dst, via=via, oif=self._index(oif), hops=hops, **fixed))

    def del_route(self, dst: str, *, via: Optional[str] = None, oif: Optional[LinkLike] = None,
                  metric: Optional[int] = None, table: int = rtnl.RT_TABLE_MAIN, src: Optional[str] = None,
                  tos: int = 0, family: Union[None, int, str] = None, missing_ok: bool = False) -> None:
        """Remove the first route that has all of these, of whatever type and protocol; `src` and `tos` as it was added.

        Raises NoSuchObject unless `missing_ok`. RTM_DELROUTE.
        """
        def request(index: int) -> Request:
            return requests.del_route(dst, via=via, oif=index, metric=metric, table=table, src=src, tos=tos,
                                      family=family, missing_ok=missing_ok)
        if oif is None:
            self._run(request(0))
        else:
            self._delete(oif, missing_ok, request)

    # --- rules ---

    def add_rule(self, **fields: Any) -> None:
        """Add a routing rule.

        Fields: `priority` (without one, before those that are there), `src`, `dst` (networks), `iif`, `oif` (links; by
        name, they need not be there), `fwmark`, `fwmask`, `tos`, `ip_proto`, `sport`, `dport` (a port or (first, last),
        1 to 65534), `uids` ((first, last)), `inverted`; and what it does: `table` (254), or `action` "blackhole",
        "unreachable", "prohibit", "nop", or "goto" with `goto`, a priority; `l3mdev`, `suppress_prefixlen`, `protocol`
        (RTPROT_*), `family` ("inet" where no address says it). Raises AlreadyExists if there is the same. RTM_NEWRULE
        <linux/fib_rules.h>; ip-rule(8).
        """
        self._run(requests.add_rule(**_names(fields)))

    def ensure_rule(self, **fields: Any) -> None:
        """The same, and no error if there is the same rule. One that differs stays: the kernel replaces no rule."""
        self._run(requests.add_rule(ensure=True, **_names(fields)))

    def del_rule(self, *, missing_ok: bool = False, **fields: Any) -> None:
        """Remove the first rule that has all the fields (not `inverted`, `goto`: the kernel does not compare them).

        Raises NoSuchObject unless `missing_ok`. RTM_DELRULE.
        """
        self._run(requests.del_rule(missing_ok=missing_ok, **_names(fields)))

    # --- nexthop objects ---

    def add_nexthop(self, id: int, *, oif: Optional[LinkLike] = None, **options: Any) -> None:
        """Add a nexthop object, for routes to refer to by `nh_id`.

        Options: `via`: a gateway, with or without `oif`; or `blackhole`; or `group`: [(id, weight), ...], weight 1 to
        256; `fdb`: for forwarding entries; `onlink`, `protocol` (RTPROT_*), `family` ("inet" where no address says it).
        Raises AlreadyExists; ENETDOWN for a link that is down. RTM_NEWNEXTHOP <linux/nexthop.h>; ip-nexthop(8).
        """
        self._run(call(requests.add_nexthop, "nexthop", options, id, oif=self._index(oif), ensure=False))

    def ensure_nexthop(self, id: int, *, oif: Optional[LinkLike] = None, **options: Any) -> None:
        """The same, in the place of the one that has the id: a hop for a hop, a group for a group. NLM_F_REPLACE."""
        self._run(call(requests.add_nexthop, "nexthop", options, id, oif=self._index(oif), ensure=True))

    def del_nexthop(self, id: int, *, missing_ok: bool = False) -> None:
        """Remove a nexthop object, and the routes that refer to it. Raises NoSuchObject unless `missing_ok`.

        RTM_DELNEXTHOP.
        """
        self._run(requests.del_nexthop(id, missing_ok=missing_ok))

    # --- neighbours and forwarding entries ---

    def add_neighbour(self, link: LinkLike, dst: str, lladdr: Optional[str] = None, *,
                      state: Union[None, str, int] = None, proxy: bool = False, router: bool = False) -> None:
        """Say who has which link-layer address (ARP, NDP). `proxy`: answer for `dst` on this link; then no lladdr.

        `state`: "permanent" if it is not given, "noarp", "reachable", "stale", "delay" or "probe". `router`: IPv6 only.
        Raises AlreadyExists, but not for a proxy entry. RTM_NEWNEIGH <linux/neighbour.h>; ip-neighbour(8).
        """
        self._run(requests.add_neighbour(self.netns.index_of(link), dst, words(link), lladdr=lladdr, state=state,
                                         proxy=proxy, router=router))

    def ensure_neighbour(self, link: LinkLike, dst: str, lladdr: Optional[str] = None, *,
                         state: Union[None, str, int] = None, proxy: bool = False, router: bool = False) -> None:
        """The same, in the place of an entry that is there. NLM_F_REPLACE."""
        self._run(requests.add_neighbour(self.netns.index_of(link), dst, words(link), lladdr=lladdr, state=state,
                                         proxy=proxy, router=router, ensure=True))

    def del_neighbour(self, link: LinkLike, dst: str, *, proxy: bool = False, missing_ok: bool = False) -> None:
        """Remove a neighbour entry. Raises NoSuchObject unless `missing_ok`. RTM_DELNEIGH."""
        self._delete(link, missing_ok, lambda index: requests.del_neighbour(
            index, dst, words(link), proxy=proxy, missing_ok=missing_ok))

    def add_fdb(self, link: LinkLike, lladdr: str, *, via: Optional[LinkLike] = None, self_: bool = False,
                **options: Any) -> None:
        """Add a forwarding entry: frames to `lladdr` leave a bridge by this port, or with `self_` a VXLAN to `dst`.

        Options: `vlan`; `permanent`: the bridge's own address; `extern_learn`; with self_, for a VXLAN: `dst`, `vni`,
        `port` (UDP), `via` (a link), and `append`: one more peer for 00:00:00:00:00:00, where everything else goes.
        Raises AlreadyExists, NotSupported for a link that is no port of a bridge. RTM_NEWNEIGH of family AF_BRIDGE;
        bridge(8).
        """
        self._fdb(link, lladdr, via, self_, options, ensure=False)

    def ensure_fdb(self, link: LinkLike, lladdr: str, *, via: Optional[LinkLike] = None, self_: bool = False,
                   **options: Any) -> None:
        """The same, in the place of an entry that is there; for 00:00:00:00:00:00 beside it. NLM_F_REPLACE."""
        self._fdb(link, lladdr, via, self_, options, ensure=True)

    def _fdb(self, link: LinkLike, lladdr: str, via: Optional[LinkLike], self_: bool, options: Dict,
             ensure: bool) -> None:
        of_vxlan = [name for name in ("dst", "vni", "port") if options.get(name) is not None] + ["via"] * (via is not None)
        found = self._look(link) if self_ and of_vxlan else None
        if found is not None and found.kind != "vxlan":         # ndo_dflt_fdb_add() looks at none of them
            raise UsageError(f"forwarding entry {lladdr} on {words(link)}: expected no {of_vxlan[0]}, it is no VXLAN")
        self._run(call(requests.add_fdb, "forwarding entry", options, self.netns.index_of(link), lladdr, words(link),
                       via=self._index(via), self_=self_, ensure=ensure))

    def del_fdb(self, link: LinkLike, lladdr: str, *, via: Optional[LinkLike] = None, self_: bool = False,
                missing_ok: bool = False, **options: Any) -> None:
        """Remove a forwarding entry. Options: `vlan`; with self_: `dst`, and `vni`, `port` and `via` as it was added.

        Of a VXLAN: that one peer; without `dst` all peers of the lladdr. Raises NoSuchObject unless `missing_ok`. A
        VXLAN that has the lladdr with other peers only would say nothing, and keep them (vxlan_fdb_delete()): so with
        `dst` this looks at once, also in a batch, unless that adds an entry of the lladdr before. A peer that goes
        between the look and the deletion is no error. RTM_DELNEIGH of family AF_BRIDGE.
        """
        def request(index: int) -> Request:
            return call(requests.del_fdb, "forwarding entry", options, index, lladdr, words(link), via=self._index(via),
                        self_=self_, missing_ok=missing_ok)

        if self_ and options.get("dst") is not None and not self._has_peer(link, lladdr, request, missing_ok):
            return
        self._delete(link, missing_ok, request)

    def _has_peer(self, link: LinkLike, lladdr: str, request: Callable[[int], Request], missing_ok: bool) -> bool:
        """Whether a VXLAN has the peer that is to be deleted; True if only the kernel can tell. Raises NoSuchObject."""
        found = self._look(link)
        if found is None:
            return True
        wanted = request(found.index)
        if found.kind != "vxlan":               # ndo_dflt_fdb_del() looks at no peer
            raise UsageError(f"{wanted.words}: expected no dst, it is no VXLAN")
        if any(adds_fdb(before, wanted) for before in self.requests):
            return True
        try:
            there = self.netns.fdb(found.index) if lladdr == ANY_LLADDR else [
                self.netns._get(requests.get_fdb(found.index, lladdr, words(link)), Neighbour)]
        except NoSuchObject:
            there = []
        if has_peer(wanted, there, found.options):
            return True
        if not missing_ok:
            raise NoSuchObject(errno.ENOENT, wanted.words)
        return False

    # --- netns ids ---

    def set_nsid(self, netns: "Netns", nsid: int) -> None:
        """Number another namespace, as seen from this one.

        Raises AlreadyExists if it has a number, or another has this one. RTM_NEWNSID; ip-netns(8).
        """
        self._run(self._holding(lambda fd: requests.set_nsid(fd, nsid), self._other(netns)))


def _names(fields: Dict) -> Dict:
    """Links that are given by reference, by their names: that is how rules know them."""
    if "ensure" in fields:
        raise UsageError("rule option 'ensure': expected none, ensure_rule() is its own verb")
    return {name: getattr(value, "ifname", value) if name in ("iif", "oif") else value
            for name, value in fields.items()}
