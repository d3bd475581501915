"""What is there in a network namespace: lists of links, addresses, routes and the rest, and one of each.

`Reading` makes a request, has it performed, and reads what came back; what the kernel can pick, it picks. Reading
changes nothing, so an answer that was lost, or a list that changed meanwhile, is asked for again. Knows no socket.
"""

from __future__ import annotations

import errno
import time

from nsnet import kernel, objects, requests, rtnl
from nsnet.errors import ListChanged, NoSuchObject, OutcomeUnknown, UsageError
from nsnet.exchange import Outcome, Request
from nsnet.objects import (Address, Filter, Link, Neighbour, Nexthop, NsId, Qdisc, Route, Rule, TrafficClass, Vlan)
from nsnet.requests.common import positive
from nsnet.verbs import LinkLike, words
from nsnet.verbs.base import VerbBase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence, Union
    from nsnet.netns import Netns

DUMP_TRIES = 5                      # a dump that the kernel flags as inconsistent is asked for again this often


class Reading(VerbBase):
    """What a Netns can be asked. Raises ListChanged, for every list, if it kept changing while it was read."""

    def perform(self, batch: Sequence[Request], timeout: Optional[float] = None,
                outcomes: Optional[List[Outcome]] = None) -> List[Outcome]:
        """Send requests and gather their answers."""
        raise NotImplementedError

    def index_of(self, link: LinkLike) -> int:
        """The ifindex of a link."""
        raise NotImplementedError

    def links(self, *, kind: Optional[str] = None, master: Optional[LinkLike] = None, stats: bool = True,
              netnsid: Optional[int] = None) -> List[Link]:
        """All links, those of a kind, or the ports of a master; the kernel picks. `stats`: with the counters of IPv6.

        `netnsid`: those of the namespace that has this number here (nsids()); IFLA_TARGET_NETNSID. Raises ListChanged, as
        all lists do, if the list kept changing while it was read.
        """
        found = self._list(requests.list_links(kind=kind, master=self._index_in(master, netnsid), stats=stats,
                                               netnsid=netnsid), Link)
        return [link for link in found if kind in (None, link.kind)]    # of a kind it lacks, the kernel lists all

    def link(self, link: LinkLike, *, netnsid: Optional[int] = None, timeout: Optional[float] = None) -> Link:
        """One link, read anew, by name, index or reference; a name as index_of() takes it. `timeout`: as of perform().

        `netnsid`: in the namespace that has this number here. Raises NoSuchObject, UsageError for what can be no link. RTM_GETLINK; IFLA_IFNAME, IFLA_ALT_IFNAME
        <linux/if_link.h>.
        """
        if not isinstance(link, str):
            index = self.index_of(link) if netnsid is None else positive(self._index_in(link, netnsid))
            return self._get(requests.get_link(index=index, netnsid=netnsid), Link, timeout)
        if kernel.is_altname(link):
            where = {} if netnsid is None else {"target_netnsid": netnsid}
            payload = rtnl.LINK_BODY.encode(({}, {"alt_ifname": link, **where}))
            return self._get(Request(rtnl.RTM_GETLINK, 0, payload, f"get link {words(link)}"), Link, timeout)
        request = requests.get_link(ifname=link, netnsid=netnsid)
        found = self._get(request, Link, timeout)
        if found.ifname != link:            # the kernel looks at altnames too
            raise NoSuchObject(errno.ENODEV, request.words)
        return found

    def bridge_vlans(self) -> List[Vlan]:
        """The VLANs of every bridge and bridge port."""
        return [vlan for port in self._list(requests.list_bridge_vlans(), objects.Body) for vlan in objects.vlans(port)]

    def addresses(self, link: Optional[LinkLike] = None, *, family: Union[None, int, str] = None,
                  netnsid: Optional[int] = None) -> List[Address]:
        """All IP addresses, or those of a link or family ("inet", "inet6"); the kernel picks. `netnsid`: as for links()."""
        index = self._index_in(link, netnsid)
        return self._list(requests.list_addresses(index=index, family=family, netnsid=netnsid), Address)

    def routes(self, *, family: Union[None, int, str] = None, table: Optional[int] = None,
               oif: Optional[LinkLike] = None, protocol: Optional[int] = None,
               type: Union[None, str, int] = None) -> List[Route]:
        """All routes, of all tables and both families, or those that the kernel picks."""
        return self._list(requests.list_routes(family=family, table=table, oif=self._index(oif), protocol=protocol,
                                               type=type), Route)

    def route(self, dst: str, *, src: Optional[str] = None, oif: Optional[LinkLike] = None,
              iif: Optional[LinkLike] = None, mark: Optional[int] = None) -> Route:
        """The route that a packet to `dst` would take. Raises NetlinkError (ENETUNREACH, EHOSTUNREACH, ...) if none."""
        return self._get(requests.get_route(dst, src=src, oif=self._index(oif), iif=self._index(iif), mark=mark), Route)

    def rules(self, *, family: Union[None, int, str] = None) -> List[Rule]:
        """The routing rules."""
        return self._list(requests.list_rules(family=family), Rule)

    def nexthops(self, *, oif: Optional[LinkLike] = None, groups: bool = False, fdb: bool = False) -> List[Nexthop]:
        """The nexthop objects: all, those of a link, the groups, or those of forwarding entries."""
        found = self._list(requests.list_nexthops(oif=self._index(oif), groups=groups, fdb=fdb), Nexthop)
        return [one for one in found if one.fdb or not fdb]     # the kernel reads that filter, and lists all

    def nexthop(self, id: int) -> Nexthop:
        """One of them. Raises NoSuchObject."""
        return self._get(requests.get_nexthop(id), Nexthop)

    def neighbours(self, link: Optional[LinkLike] = None, *, family: Union[None, int, str] = None,
                   proxy: bool = False) -> List[Neighbour]:
        """The neighbour tables (ARP and NDP), or a link's part. `proxy`: whom is answered for."""
        return self._list(requests.list_neighbours(index=self._index(link), family=family, proxy=proxy), Neighbour)

    def neighbour(self, link: LinkLike, dst: str) -> Neighbour:
        """One of them. Raises NoSuchObject."""
        return self._get(requests.get_neighbour(self.index_of(link), dst, words(link)), Neighbour)

    def fdb(self, link: Optional[LinkLike] = None, *, master: Optional[LinkLike] = None) -> List[Neighbour]:
        """The forwarding entries: all, of a link, or of a bridge."""
        return self._list(requests.list_fdb(index=self._index(link), master=self._index(master)), Neighbour)

    def nsid(self, netns: "Netns") -> Optional[int]:
        """The number by which this namespace knows another; None if it has none. Raises UsageError for no Netns."""
        if not hasattr(netns, "hold"):
            raise UsageError(f"network namespace {netns!r}: expected a Netns")
        with netns.hold() as held:
            number = self._get(requests.get_nsid(held.fileno()), NsId).nsid
        return None if number < 0 else number

    def nsids(self) -> List[NsId]:
        """All numbers that this namespace has given to others."""
        return self._list(requests.list_nsids(), NsId)

    def qdiscs(self, link: Optional[LinkLike] = None) -> List[Qdisc]:
        """The queueing disciplines, of all links or of one."""
        index = self._index(link)
        return [one for one in self._list(requests.list_qdiscs(), Qdisc) if not index or one.index == index]

    def classes(self, link: LinkLike) -> List[TrafficClass]:
        """The classes of a link's queueing disciplines."""
        return self._list(requests.list_classes(self.index_of(link)), TrafficClass)

    def filters(self, link: LinkLike, parent: Union[int, str] = "root") -> List[Filter]:
        """The filters of a link's queueing discipline ("root", "ingress", "egress", "1:")."""
        return self._list(requests.list_filters(self.index_of(link), parent), Filter)

    def _get(self, request: Request, kind: type, timeout: Optional[float] = None) -> Any:
        """One object."""
        found = self._read(self._ask(request, timeout), kind)
        if not found:
            raise NoSuchObject(errno.ENOENT, request.words)
        return found[0]

    def _list(self, request: Request, kind: type) -> List:
        for _ in range(DUMP_TRIES):
            outcome = self._ask(request)
            found = self._read(outcome, kind)
            if not outcome.interrupted:
                return found
        error = ListChanged(errno.EINTR, request.words, f"the list changed during each of {DUMP_TRIES} readings")
        error.partial = found
        raise error

    def _ask(self, request: Request, timeout: Optional[float] = None) -> Outcome:
        """Reading changes nothing, so a lost answer is asked for again. `timeout`: for all of it."""
        deadline = None if timeout is None else time.monotonic() + kernel.seconds(timeout)
        tries_left = DUMP_TRIES
        while True:
            tries_left -= 1
            try:
                (outcome,) = self.perform([request], None if deadline is None else max(deadline - time.monotonic(), 0))
                return outcome
            except OutcomeUnknown as error:
                if error.errno != errno.ENOBUFS or not tries_left:
                    raise

    @staticmethod
    def _read(outcome: Outcome, kind: type) -> List:
        replies = outcome.replies
        layout = rtnl.LAYOUTS.get(replies[0].type) if replies else None
        if layout is None:
            return []
        return layout.views([reply.payload for reply in replies], kernel.index_attributes, kind)
