"""What the kernel answered, as values: Link, Address, Route, Rule, Nexthop, Neighbour, Vlan, NsId, Qdisc, ...

Each is a decoded message, `header` (the fixed struct) and `attrs` (every attribute under its name in rtnl, unknown ones
under their number), with the fields that people ask for as properties. Frozen; no lookups, no I/O. An attribute is read
when it is asked for: that costs what is looked at, and bytes that make no sense raise ProtocolError where they are
looked at.
"""

from __future__ import annotations

import sys

from nsnet import rtnl
from nsnet.errors import ProtocolError
from nsnet.named import NamedTuple
from nsnet.tables import Body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Tuple

_NOTHING: Mapping = {}
FOREVER = 0xFFFFFFFF                # INFINITY_LIFE_TIME, include/net/addrconf.h


class _Object(Body):
    """A message's header and attributes. `FIELDS`: the properties that make up its repr and as_dict().

    Equal if header and attributes are; so may be used in sets and as keys, though the attributes have no hash. The repr
    has the kernel's names where the properties are its numbers: Route(dst='default', table=MAIN, ...).
    """

    __slots__ = ()
    FIELDS: Tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.header)            # of the attributes only what is looked at is read

    @classmethod
    def from_body(cls, body: Body):
        """From a decoded message."""
        return cls(*body)

    def as_dict(self) -> Dict[str, Any]:
        """The fields by name, for JSON."""
        return {name: getattr(self, name) for name in self.FIELDS}

    def __repr__(self) -> str:
        parts, words = [], self._words()
        for name in self.FIELDS:
            try:
                value = getattr(self, name)
            except ProtocolError as error:
                parts.append(f"{name}=<{error}>")
            else:
                if value is not None:
                    parts.append(f"{name}={words[name](value) if name in words else repr(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _words(self) -> Mapping:
        """How to say a field's number, by the field's name; a class derived from Route has what Route has."""
        from nsnet.names import OBJECTS         # here: nothing but a repr needs words

        return next((OBJECTS[kind.__name__] for kind in type(self).__mro__ if kind.__name__ in OBJECTS), _NOTHING)


class Link(_Object):
    """A network interface (RTM_NEWLINK)."""

    __slots__ = ()
    FIELDS = ("index", "ifname", "kind", "up", "carrier", "operstate", "lladdr", "mtu", "master", "group", "ifalias",
              "peer_index", "peer_netnsid", "altnames")

    index = property(lambda self: self.header.index)
    ifname = property(lambda self: self.attrs.get("ifname", ""))
    flags = property(lambda self: self.header.flags, doc="IFF_* (netdevice(7))")
    up = property(lambda self: bool(self.header.flags & rtnl.IFF_UP), doc="administratively (IFF_UP)")
    carrier = property(lambda self: bool(self.header.flags & rtnl.IFF_LOWER_UP), doc="IFF_LOWER_UP")
    lladdr = property(lambda self: self.attrs.get("address"))
    mtu = property(lambda self: self.attrs.get("mtu", 0), doc="bytes")
    master = property(lambda self: self.attrs.get("master"), doc="ifindex of the bridge, bond or vrf it is a port of")
    group = property(lambda self: self.attrs.get("group", 0))
    ifalias = property(lambda self: self.attrs.get("ifalias"))
    qdisc = property(lambda self: self.attrs.get("qdisc"))
    peer_index = property(lambda self: self.attrs.get("link"),
                          doc="IFLA_LINK: the veth peer or the lower link, in the namespace peer_netnsid")
    peer_netnsid = property(lambda self: self.attrs.get("link_netnsid"), doc="None: this namespace")
    stats = property(lambda self: self.attrs.get("stats64"), doc="struct rtnl_link_stats64, where it was asked for")

    @property
    def operstate(self) -> str:
        """"up", "down", "unknown", ... (RFC 2863); a number that is not known, as text."""
        state = self.attrs.get("operstate", 0)
        return rtnl.OPERSTATES[state] if state < len(rtnl.OPERSTATES) else str(state)

    @property
    def kind(self) -> Optional[str]:
        """"bridge", "veth", ...; None for hardware and lo."""
        return self.attrs.get("linkinfo", _NOTHING).get("kind")

    @property
    def options(self) -> Mapping:
        """What its kind has of its own (rtnl.BRIDGE for a bridge, ...), by name; bytes for a kind that is not known."""
        return self.attrs.get("linkinfo", _NOTHING).get("data", _NOTHING)

    @property
    def port_options(self) -> Mapping:
        """What its master knows of it as a port (rtnl.BRIDGE_PORT for a bridge's), by name."""
        return self.attrs.get("linkinfo", _NOTHING).get("slave_data", _NOTHING)

    @property
    def altnames(self) -> Tuple[str, ...]:
        """Other names that it answers to."""
        return tuple(self.attrs.get("prop_list", _NOTHING).get("alt_ifname", ()))


class Port(_Object):
    """What a bridge knows of a port, or of itself: RTM_NEWLINK of family AF_BRIDGE, br_fill_ifinfo().

    Not the state of the link, although it is a message of links in their group: "del" of a Port says that a link has
    left its bridge, not that it is gone. vlans() reads its VLANs.
    """

    __slots__ = ()
    FIELDS = ("index", "ifname", "master", "state")

    index = property(lambda self: self.header.index, doc="ifindex of the link that is the port")
    ifname = property(lambda self: self.attrs.get("ifname", ""))
    master = property(lambda self: self.attrs.get("master"), doc="ifindex of the bridge; None: this is a bridge")
    options = property(lambda self: self.attrs.get("protinfo", _NOTHING),
                       doc="rtnl.BRIDGE_PORT by name; empty with \"del\"")
    state = property(lambda self: self.options.get("state"), doc="BR_STATE_* <linux/if_bridge.h>; None with \"del\"")


class Address(_Object):
    """An IP address of a link (RTM_NEWADDR)."""

    __slots__ = ()
    FIELDS = ("index", "address", "peer", "broadcast", "label", "scope", "flags", "valid_lft", "preferred_lft",
              "metric", "proto")

    index = property(lambda self: self.header.index, doc="of the link")
    family = property(lambda self: self.header.family)
    scope = property(lambda self: self.header.scope, doc="RT_SCOPE_*")
    flags = property(lambda self: self.attrs.get("flags", self.header.flags), doc="IFA_F_*")
    label = property(lambda self: self.attrs.get("label"))
    broadcast = property(lambda self: self.attrs.get("broadcast"))
    metric = property(lambda self: self.attrs.get("rt_priority"), doc="of the prefix route")
    proto = property(lambda self: self.attrs.get("proto"), doc="IFAPROT_*; Linux 5.18")
    valid_lft = property(lambda self: self._lifetime("ifa_valid"), doc="seconds; None: for ever")
    preferred_lft = property(lambda self: self._lifetime("ifa_prefered"), doc="seconds; None: for ever")

    @property
    def address(self) -> str:
        """With prefix: "10.0.0.2/24"."""
        ip = self.attrs.get("local") or self.attrs.get("address") or ""
        return f"{ip}/{self.header.prefixlen}"

    @property
    def peer(self) -> Optional[str]:
        """The other end's address on a point-to-point link."""
        local, address = self.attrs.get("local"), self.attrs.get("address")
        return address if local is not None and address != local else None

    def _lifetime(self, field: str) -> Optional[int]:
        info = self.attrs.get("cacheinfo")
        seconds = FOREVER if info is None else getattr(info, field)
        return None if seconds == FOREVER else seconds


class Hop(NamedTuple):
    """One of several next hops of a route."""

    via: Optional[str]
    oif: Optional[int]              # ifindex
    weight: int                     # 1 to 256
    flags: int                      # RTNH_F_*


class Route(_Object):
    """A route (RTM_NEWROUTE)."""

    __slots__ = ()
    FIELDS = ("dst", "via", "oif", "metric", "prefsrc", "table", "protocol", "scope", "type", "family", "src", "hops",
              "nh_id", "flags")

    via = property(lambda self: self.attrs.get("gateway") or self.attrs.get("via"), doc="the gateway, of either family")
    oif = property(lambda self: self.attrs.get("oif"), doc="ifindex")
    metric = property(lambda self: self.attrs.get("priority"))
    prefsrc = property(lambda self: self.attrs.get("prefsrc"))
    table = property(lambda self: self.attrs.get("table", self.header.table))
    protocol = property(lambda self: self.header.protocol, doc="RTPROT_*")
    scope = property(lambda self: self.header.scope, doc="RT_SCOPE_*")
    type = property(lambda self: self.header.type, doc="RTN_*")
    family = property(lambda self: self.header.family, doc="AF_INET or AF_INET6")
    tos = property(lambda self: self.header.tos)
    flags = property(lambda self: self.header.flags, doc="RTNH_F_*, RTM_F_*")
    nh_id = property(lambda self: self.attrs.get("nh_id"), doc="of a nexthop object")
    metrics = property(lambda self: self.attrs.get("metrics", _NOTHING), doc="rtnl.METRICS: mtu, advmss, ...")

    @property
    def dst(self) -> str:
        """"default" or a network with prefix."""
        dst = self.attrs.get("dst")
        return "default" if dst is None else f"{dst}/{self.header.dst_len}"

    @property
    def src(self) -> Optional[str]:
        """The sources that it is for, a network with prefix (IPv6)."""
        src = self.attrs.get("src")
        return None if src is None else f"{src}/{self.header.src_len}"

    @property
    def hops(self) -> Tuple[Hop, ...]:
        """The next hops of a multipath route; empty for one that has a single one."""
        return tuple(Hop(attrs.get("gateway") or attrs.get("via"), header.ifindex or None, header.hops + 1,
                         header.flags)
                     for header, attrs in self.attrs.get("multipath", ()))


class Rule(_Object):
    """A routing rule (RTM_NEWRULE)."""

    __slots__ = ()
    FIELDS = ("priority", "family", "src", "dst", "iif", "oif", "fwmark", "fwmask", "table", "action", "goto",
              "ip_proto", "sport", "dport", "uids", "protocol", "l3mdev", "inverted")

    family = property(lambda self: self.header.family)
    priority = property(lambda self: self.attrs.get("priority", 0))
    iif = property(lambda self: self.attrs.get("iifname"))
    oif = property(lambda self: self.attrs.get("oifname"))
    fwmark = property(lambda self: self.attrs.get("fwmark"))
    fwmask = property(lambda self: self.attrs.get("fwmask"))
    table = property(lambda self: self.attrs.get("table", self.header.table))
    action = property(lambda self: self.header.action, doc="FR_ACT_*")
    goto = property(lambda self: self.attrs.get("goto"))
    tos = property(lambda self: self.header.tos)
    ip_proto = property(lambda self: self.attrs.get("ip_proto"))
    protocol = property(lambda self: self.attrs.get("protocol"), doc="RTPROT_*: who made it")
    l3mdev = property(lambda self: bool(self.attrs.get("l3mdev", 0)))
    inverted = property(lambda self: bool(self.header.flags & rtnl.FIB_RULE_INVERT), doc="not")

    sport = property(lambda self: self._range("sport_range"), doc="(first, last)")
    dport = property(lambda self: self._range("dport_range"), doc="(first, last)")
    uids = property(lambda self: self._range("uid_range"), doc="(first, last)")

    @property
    def src(self) -> Optional[str]:
        """A network with prefix; None for any."""
        src = self.attrs.get("src")
        return None if src is None else f"{src}/{self.header.src_len}"

    @property
    def dst(self) -> Optional[str]:
        """A network with prefix; None for any."""
        dst = self.attrs.get("dst")
        return None if dst is None else f"{dst}/{self.header.dst_len}"

    def _range(self, name: str) -> Optional[Tuple[int, int]]:
        found = self.attrs.get(name)
        return None if found is None else tuple(found)


class Nexthop(_Object):
    """A nexthop object, or a group of them (RTM_NEWNEXTHOP)."""

    __slots__ = ()
    FIELDS = ("id", "via", "oif", "blackhole", "fdb", "group", "scope", "protocol", "family")

    id = property(lambda self: self.attrs.get("id", 0))
    via = property(lambda self: self.attrs.get("gateway"))
    oif = property(lambda self: self.attrs.get("oif"))
    blackhole = property(lambda self: "blackhole" in self.attrs)
    fdb = property(lambda self: "fdb" in self.attrs)
    scope = property(lambda self: self.header.scope)
    protocol = property(lambda self: self.header.protocol)
    family = property(lambda self: self.header.family)

    @property
    def group(self) -> Tuple[Tuple[int, int], ...]:
        """(id, weight) of each member; weight 1 to 256, or to 65536 on Linux 6.12 and newer."""
        return tuple((one.id, (one.weight_high << 8 | one.weight) + 1) for one in self.attrs.get("group", ()))


class Neighbour(_Object):
    """Who has which link-layer address (RTM_NEWNEIGH); of family AF_BRIDGE, a forwarding entry (FDB)."""

    __slots__ = ()
    FIELDS = ("index", "dst", "lladdr", "state", "flags", "family", "vlan", "vni", "port", "master")

    index = property(lambda self: self.header.ifindex, doc="of the link")
    dst = property(lambda self: self.attrs.get("dst"))
    lladdr = property(lambda self: self.attrs.get("lladdr"))
    state = property(lambda self: self.header.state, doc="NUD_*")
    flags = property(lambda self: self.header.flags, doc="NTF_*")
    family = property(lambda self: self.header.family)
    vlan = property(lambda self: self.attrs.get("vlan"))
    vni = property(lambda self: self.attrs.get("vni"))
    port = property(lambda self: self.attrs.get("port"), doc="UDP, of a VXLAN peer")
    master = property(lambda self: self.attrs.get("master"), doc="ifindex of the bridge")


class Vlan(NamedTuple):
    """A VLAN of a bridge or bridge port."""

    index: int                      # of the bridge or port
    vid: int
    pvid: bool                      # what comes untagged belongs to it
    untagged: bool                  # goes out untagged


def vlans(body: Body) -> List[Vlan]:
    """The VLANs that a link of family AF_BRIDGE reports; ranges are written out."""
    found, begin = [], None
    for info in body.attrs.get("af_spec", _NOTHING).get("vlan_info", ()):
        if info.flags & rtnl.BRIDGE_VLAN_INFO_RANGE_BEGIN:
            begin = info.vid
            continue
        first = begin if begin is not None and info.flags & rtnl.BRIDGE_VLAN_INFO_RANGE_END else info.vid
        begin = None
        found += [Vlan(body.header.index, vid, bool(info.flags & rtnl.BRIDGE_VLAN_INFO_PVID),
                       bool(info.flags & rtnl.BRIDGE_VLAN_INFO_UNTAGGED)) for vid in range(first, info.vid + 1)]
    return found


class NsId(_Object):
    """The number by which one network namespace knows another (RTM_NEWNSID)."""

    __slots__ = ()
    FIELDS = ("nsid", "current_nsid")

    nsid = property(lambda self: self.attrs.get("nsid", -1), doc="-1: none assigned")
    current_nsid = property(lambda self: self.attrs.get("current_nsid"))


class _TrafficControl(_Object):
    __slots__ = ()

    index = property(lambda self: self.header.ifindex, doc="of the link")
    kind = property(lambda self: self.attrs.get("kind", ""))
    handle = property(lambda self: self.header.handle, doc="major << 16 | minor")
    parent = property(lambda self: self.header.parent)
    options = property(lambda self: self.attrs.get("options", _NOTHING),
                       doc="what its kind has of its own (rtnl.TBF, ...); bytes for a kind that is not known")
    stats = property(lambda self: self.attrs.get("stats2", _NOTHING), doc="rtnl.STATS2")


class Qdisc(_TrafficControl):
    """A queueing discipline (RTM_NEWQDISC)."""

    __slots__ = ()
    FIELDS = ("index", "kind", "handle", "parent")


class TrafficClass(_TrafficControl):
    """A class of a queueing discipline (RTM_NEWTCLASS)."""

    __slots__ = ()
    FIELDS = ("index", "kind", "handle", "parent")


class Filter(_TrafficControl):
    """A traffic filter (RTM_NEWTFILTER)."""

    __slots__ = ()
    FIELDS = ("index", "kind", "handle", "parent", "priority", "protocol", "chain")

    priority = property(lambda self: self.header.info >> 16)
    chain = property(lambda self: self.attrs.get("chain", 0))

    @property
    def protocol(self) -> int:
        """ETH_P_*."""
        return int.from_bytes((self.header.info & 0xFFFF).to_bytes(2, sys.byteorder), "big")
