"""What a network is made of, in verbs, and what of that is missing or different now.

The same few functions build a bridge and both ends of a veth pair, whether all of it is new, one of it is to be
repaired, or it is only shown what would be sent. Whatever is there beyond what was declared is left alone.

Knows links, addresses, routes and their declarations; whose they are, and what is undone when, is network/'s.
"""

from __future__ import annotations

import _socket as socket               # its numbers; socket itself is slow to import

from nsnet import declaration, state, sysctls, values
from nsnet.declaration import AttachmentSpec, NetworkSpec, RouteSpec
from nsnet.errors import NoSuchObject
from nsnet.named import NamedTuple
from nsnet.netns import Netns
from nsnet.objects import Address, Link, Route
from nsnet.ownership import Claim
from nsnet.verbs import LinkRef, Verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, TypeAlias

Verb: TypeAlias = "Callable[[Verbs], Any]"
Settings: TypeAlias = "Dict[str, Tuple[Optional[str], str]]"         # sysctls: what each is (None: not there), and what it is to be
_MAIN = 254                         # RT_TABLE_MAIN
_BRIDGE_MTU, _OTHER_MTU = 1500, 1499    # ETH_DATA_LEN: of a bridge that was given none
_IP6_METRIC = 1024                  # IP6_RT_PRIO_USER <linux/ipv6_route.h>: of a route that was given none


class Change(NamedTuple):
    """One thing that is not as declared. `do`: the verbs that make it so; `undo`: those that make it what it was."""

    what: str
    do: Verb
    undo: Optional[Verb] = None


# --- building ---

def lladdr_of_bridge(spec: NetworkSpec, netns: str) -> str:
    """The bridge's MAC, the same each time on this machine. `netns`: the identity of the host's namespace."""
    return spec.lladdr or declaration.derived_lladdr(state.machine_id(), netns, spec.bridge)


def lladdr_of(spec: AttachmentSpec, network: NetworkSpec, netns: str) -> Optional[str]:
    """The same each time for one with a name of its own; None: the kernel's choice."""
    if spec.lladdr is not None or spec.name == spec.host_ifname:
        return spec.lladdr
    return declaration.derived_lladdr(state.machine_id(), netns, network.bridge, spec.name)


def wants_ipv6(spec: NetworkSpec) -> Optional[bool]:
    """For set_link(link_local=...). None: leave the kernel's way. False: no link-local addresses, so that nothing is
    flooded for a protocol that nobody asked for."""
    return None if any(address.version == 6 for address in spec.addresses) else False


def deaf_to_routers(link: Link) -> Settings:
    """What a bridge of ours still needs so that no container can make itself the host's IPv6 router by a router
    advertisement (CVE-2020-10749); netlink can read it, and not change it."""
    conf = link.attrs.get("af_spec", {}).get("inet6", {}).get("conf")
    now = getattr(conf, "accept_ra", 0)
    return {accept_ra_of(link.ifname): (str(now), "0")} if now else {}


def accept_ra_of(bridge: str) -> str:
    """The key of that sysctl."""
    return f"net/ipv6/conf/{bridge}/accept_ra"


def bridge_options(spec: NetworkSpec) -> Dict[str, int]:
    """As add_bridge() takes them: times in 1/100 s."""
    options: Dict[str, int] = {}
    if spec.stp is not None:
        options["stp_state"] = int(spec.stp)
    if spec.ageing_time is not None:
        options["ageing_time"] = round(spec.ageing_time * 100)
    return options


def make_bridge(net: Verbs, spec: NetworkSpec, claim: Claim, lladdr: str) -> LinkRef:
    """The bridge, with its addresses, up."""
    # Only an MTU that is changed stays: br_change_mtu(); one that it was born with becomes that of its smallest port.
    bridge = net.add_bridge(spec.bridge, lladdr=lladdr, mtu=_OTHER_MTU if spec.mtu == _BRIDGE_MTU else None,
                            group=claim.group, **bridge_options(spec))
    net.set_link(bridge, ifalias=claim.mark_of(), mtu=spec.mtu, link_local=wants_ipv6(spec))
    for address in spec.addresses:
        add_address(net, bridge, address)
    net.set_link(bridge, up=True)
    return bridge


def make_pair(net: Verbs, spec: AttachmentSpec, claim: Claim, bridge: LinkRef, netns: Any,
              lladdr: Optional[str]) -> Tuple[LinkRef, LinkRef]:
    """The veth pair: the host's end is a port of the bridge, the other is born in `netns`.

    A port needs no address of its own, IPv6 would give it one, and the kernel a route to it.
    """
    host_end, end = net.add_veth(spec.host_ifname, peer=spec.ifname, peer_netns=netns, peer_lladdr=lladdr, mtu=spec.mtu,
                                 group=claim.group, master=bridge, queues=spec.queues,
                                 lladdr=_lladdr_of_port(spec.host_ifname) if claim.adopted else None)
    net.set_link(host_end, ifalias=claim.mark_of(spec.host_ifname), link_local=False)
    return host_end, end


def enable_port(net: Verbs, host_end: LinkRef) -> None:
    """Last, when the other end is up: then the bridge changes the state of its port once, and not for a carrier again,
    and each time it looks at all of its ports."""
    net.set_link(host_end, up=True)


def _lladdr_of_port(host_ifname: str) -> str:
    """A high one: a bridge without one of its own takes the lowest of its ports' (br_stp_recalculate_bridge_id())."""
    return "fe" + declaration.derived_lladdr(host_ifname)[2:]


def make_end(net: Verbs, end: LinkRef, link_local: Optional[bool]) -> None:
    """What comes first in the container: before its link is up."""
    net.set_link(net.lo, up=True)
    net.set_link(end, group=0, link_local=link_local)


def enable_end(net: Verbs, end: LinkRef, spec: AttachmentSpec) -> None:
    """The container's link: its addresses, up, its routes."""
    for address in spec.addresses:
        add_address(net, end, address)
    net.set_link(end, up=True)
    for route in routes(spec):
        add_route(net, end, route)


def routes(spec: AttachmentSpec) -> Tuple[RouteSpec, ...]:
    """All that a container is to have; the default routes last, as they may lead over another."""
    return (*spec.routes, *(RouteSpec("default", via, None) for via in spec.gateways))


def add_address(net: Verbs, link: LinkRef, address: values.Address) -> None:
    """IPv6 at once: nobody else has it, and for a second or two nothing could use it."""
    net.add_address(link, address, **({"nodad": True} if address.version == 6 else {}))


def add_route(net: Verbs, link: LinkRef, route: RouteSpec) -> None:
    net.add_route(str(route.dst), via=route.via, oif=link, metric=route.metric)


def del_route(net: Verbs, link: LinkRef, route: RouteSpec) -> None:
    net.del_route(str(route.dst), via=route.via, oif=link, metric=route.metric, missing_ok=True,
                  **({} if route.via or str(route.dst) != "default" else {"family": "inet"}))


# --- comparing ---

def bridge_changes(netns: Netns, link: Link, spec: NetworkSpec, lladdr: str, before: Optional[NetworkSpec] = None
                   ) -> List[Change]:
    """Of a bridge of ours that is there. `before`: what was declared, if it was something else: what it alone has goes."""
    ref, changes = LinkRef(link.ifname, link.index), []
    changes += _link_changes(link, ref, lladdr, spec.mtu)
    options = {name: value for name, value in bridge_options(spec).items() if link.options.get(name) != value}
    if options:
        was = {name: link.options.get(name) for name in options}
        changes.append(Change(f"{', '.join(f'{name} {was[name]}' for name in options)}, expected "
                              + ", ".join(map(str, options.values())),
                              lambda net: net.set_options(ref, "bridge", **options),
                              lambda net: net.set_options(ref, "bridge", **was)))
    old = [] if before is None else [address for address in before.addresses if address not in spec.addresses]
    changes += _address_changes(ref, netns.addresses(link.index), spec.addresses, old)
    if not link.up:
        changes.append(_set_up(ref))
    return changes


def adopted_faults(netns: Netns, link: Link, spec: NetworkSpec) -> List[str]:
    """What a bridge of the user's lacks: it is not ours to change."""
    there = {one.address for one in netns.addresses(link.index)}
    faults = [f"it has no address {address}" for address in spec.addresses if str(address) not in there]
    return faults + ([] if link.up else ["it is down"])


def port_changes(link: Link, bridge: Callable[[], LinkRef], index: int, spec: AttachmentSpec) -> List[Change]:
    """Of the host's end of a veth pair. `bridge`: asked when it is there; `index`: its ifindex now, 0 if it is not."""
    ref = LinkRef(link.ifname, link.index)
    changes = []
    if link.ifname != spec.host_ifname:
        changes.append(Change(f"its name is {link.ifname}, expected {spec.host_ifname}",
                              lambda net: net.set_link(ref, ifname=spec.host_ifname),
                              lambda net: net.set_link(ref, ifname=link.ifname)))
    if not index or link.master != index:
        was = link.master
        changes.append(Change("no port of the bridge", lambda net: net.set_link(ref, master=bridge()),
                              lambda net: net.set_link(ref, nomaster=True) if not was else net.set_link(ref, master=was)))
    changes += _link_changes(link, ref, None, spec.mtu)
    if not link.up:
        changes.append(_set_up(ref))
    return changes


def lo_changes(netns: Netns) -> List[Change]:
    """Of a container's lo."""
    lo = netns.link("lo")
    return [] if lo.up else [_set_up(LinkRef("lo", lo.index))]


def end_changes(netns: Netns, link: Link, spec: AttachmentSpec, lladdr: Optional[str], before: AttachmentSpec
                ) -> List[Change]:
    """Of the container's end. `before`: as it was declared: routes that it alone has go."""
    ref, changes = LinkRef(link.ifname, link.index), []
    changes += _link_changes(link, ref, lladdr, spec.mtu)
    changes += _address_changes(ref, netns.addresses(link.index), spec.addresses, ())
    if not link.up:
        changes.append(_set_up(ref))
    there = netns.routes(table=_MAIN)
    for route in routes(before):
        if route not in routes(spec) and any(_is_route(one, route, link.index) for one in there):
            changes.append(Change(f"route to {_words(route)}, which is not declared any more",
                                  lambda net, route=route: del_route(net, ref, route),
                                  lambda net, route=route: add_route(net, ref, route)))
    for route in routes(spec):
        if any(_is_route(one, route, link.index) for one in there):
            continue
        other = next((one for one in there if _is_route(one, route)), None)
        if other is None:
            changes.append(Change(f"no route to {_words(route)}",
                                  lambda net, route=route: add_route(net, ref, route),
                                  lambda net, route=route: del_route(net, ref, route)))
        else:
            was = RouteSpec(route.dst, other.via, other.metric)
            changes.append(Change(f"route to {_words(was)}, expected {_words(route)}",
                                  lambda net, route=route: _put_route(net, ref.index, route),
                                  lambda net, was=was, oif=other.oif: _put_route(net, oif, was)))
    return changes


def find_end(netns: Netns, host_end: Link, ifname: str) -> Optional[Link]:
    """The other end of a veth pair in a container's namespace; None if what has that name there is another link."""
    try:
        link = netns.link(ifname)
    except NoSuchObject:
        return None
    return link if link.kind == "veth" and link.index == host_end.peer_index else None


def sysctl_faults(netns: Netns, spec: AttachmentSpec) -> Settings:
    """Those that are not as declared."""
    wanted = dict(spec.sysctls)
    return {key: (now, wanted[key]) for key, now in sysctls.read(netns, wanted).items()
            if now != " ".join(sysctls.value(wanted[key]).split())}


def _link_changes(link: Link, ref: LinkRef, lladdr: Optional[str], mtu: Optional[int]) -> List[Change]:
    changes = []
    if lladdr is not None and link.lladdr != lladdr:
        was = link.lladdr
        changes.append(Change(f"MAC {was}, expected {lladdr}", lambda net: net.set_link(ref, lladdr=lladdr),
                              lambda net: net.set_link(ref, lladdr=was)))
    if mtu is not None and link.mtu != mtu:
        old = link.mtu
        changes.append(Change(f"MTU {old}, expected {mtu}", lambda net: net.set_link(ref, mtu=mtu),
                              lambda net: net.set_link(ref, mtu=old)))
    return changes


def _address_changes(ref: LinkRef, there: Sequence[Address], wanted: Sequence[values.Address],
                     unwanted: Sequence[values.Address]) -> List[Change]:
    found = {one.address for one in there}
    stay = [address for address in wanted if str(address) in found]

    def remove(net: Verbs, address: values.Address) -> None:
        net.del_address(ref, str(address), missing_ok=True)
        for other in stay:              # with the first of a subnet the kernel takes the others: __inet_del_ifa()
            if address.version == 4 and other in address:
                net.del_address(ref, str(other), missing_ok=True)
                add_address(net, ref, other)
    changes = [Change(f"address {address}, which is not declared any more",
                      lambda net, address=address: remove(net, address),
                      lambda net, address=address: add_address(net, ref, address))
               for address in unwanted if str(address) in found]
    changes += [Change(f"no address {address}", lambda net, address=address: add_address(net, ref, address),
                       lambda net, address=address: net.del_address(ref, str(address), missing_ok=True))
                for address in wanted if str(address) not in found]
    return changes


def _set_up(ref: LinkRef) -> Change:
    return Change("down", lambda net: net.set_link(ref, up=True), lambda net: net.set_link(ref, up=False))


def _words(route: RouteSpec) -> str:
    return str(route.dst) + (f" via {route.via}" if route.via else "")


def _put_route(net: Verbs, oif: Optional[int], route: RouteSpec) -> None:
    """In the place of what is there."""
    net.ensure_route(str(route.dst), via=route.via, oif=oif, metric=route.metric)


def _is_route(there: Route, wanted: RouteSpec, oif: Optional[int] = None) -> bool:
    """Whether it stands in the place of that route: of each destination and metric there is one. With `oif`, whether it is it.
    """
    version6 = ":" in (wanted.via or str(wanted.dst))
    if str(wanted.dst) == "default":
        same = there.dst == "default" and (there.family == socket.AF_INET6) == version6
    else:
        same = there.dst == str(wanted.dst)
    metric = wanted.metric if wanted.metric is not None or not version6 else _IP6_METRIC
    same = same and (there.metric or None) == (metric or None)
    return same and (oif is None or there.via == wanted.via and there.oif == oif)
