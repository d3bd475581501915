"""What the kernel answered, as values: Link, Address, Route, Neighbour.

Frozen, and made from a decoded reply alone: no lookups, no I/O. `attrs` holds every attribute of the message under its
rtnl.py name, those without a field here too.
"""

from typing import Any, Dict, NamedTuple, Optional, Tuple

from nsnet import rtnl
from nsnet.wire import Body


def _brief(value: Tuple) -> str:
    """A repr without the raw attributes, which would fill a screen."""
    fields = ", ".join(f"{name}={item!r}" for name, item in zip(value._fields[:-1], value))
    return f"{type(value).__name__}({fields})"


class Link(NamedTuple):
    """A network interface (RTM_NEWLINK)."""

    index: int
    ifname: str
    kind: Optional[str]             # "bridge", "veth", ...; None for hardware and lo
    up: bool                        # administratively (IFF_UP)
    carrier: bool                   # IFF_LOWER_UP
    operstate: str                  # "up", "down", "unknown", ... (RFC 2863)
    lladdr: Optional[str]
    mtu: int                        # bytes
    master: Optional[int]           # ifindex of the bridge it is a port of
    group: int
    ifalias: Optional[str]
    peer_index: Optional[int]       # IFLA_LINK: the veth peer or the lower link, in the namespace peer_netnsid
    peer_netnsid: Optional[int]     # None: this namespace
    attrs: Dict[Any, Any]

    __repr__ = _brief

    @classmethod
    def from_body(cls, body: Body) -> "Link":
        """From a decoded message."""
        header, attrs = body
        state = attrs.get("operstate", 0)
        return cls(
            header.index, attrs.get("ifname", ""), attrs.get("linkinfo", {}).get("kind"), bool(header.flags & rtnl.IFF_UP),
            bool(header.flags & rtnl.IFF_LOWER_UP),
            rtnl.OPERSTATES[state] if state < len(rtnl.OPERSTATES) else str(state),
            attrs.get("address"), attrs.get("mtu", 0), attrs.get("master"), attrs.get("group", 0), attrs.get("ifalias"),
            attrs.get("link"), attrs.get("link_netnsid"), attrs)


class Address(NamedTuple):
    """An IP address of a link (RTM_NEWADDR)."""

    index: int                      # of the link
    address: str                    # with prefix: "10.0.0.2/24"
    label: Optional[str]
    scope: int                      # RT_SCOPE_*
    flags: int                      # IFA_F_*
    attrs: Dict[Any, Any]

    __repr__ = _brief

    @classmethod
    def from_body(cls, body: Body) -> "Address":
        """From a decoded message."""
        header, attrs = body
        ip = attrs.get("local") or attrs.get("address") or ""
        return cls(header.index, f"{ip}/{header.prefixlen}", attrs.get("label"), header.scope,
                   attrs.get("flags", header.flags), attrs)


class Route(NamedTuple):
    """A route (RTM_NEWROUTE)."""

    dst: str                        # "default" or a network with prefix
    via: Optional[str]              # the gateway
    oif: Optional[int]              # ifindex
    metric: Optional[int]
    prefsrc: Optional[str]
    table: int
    protocol: int                   # RTPROT_*
    scope: int                      # RT_SCOPE_*
    type: int                       # RTN_*
    family: int                     # AF_INET or AF_INET6
    attrs: Dict[Any, Any]

    __repr__ = _brief

    @classmethod
    def from_body(cls, body: Body) -> "Route":
        """From a decoded message."""
        header, attrs = body
        dst = f"{attrs['dst']}/{header.dst_len}" if "dst" in attrs else "default"
        return cls(dst, attrs.get("gateway"), attrs.get("oif"), attrs.get("priority"), attrs.get("prefsrc"),
                   attrs.get("table", header.table), header.protocol, header.scope, header.type, header.family, attrs)


class Neighbour(NamedTuple):
    """A neighbour entry: who has which link-layer address (RTM_NEWNEIGH)."""

    index: int                      # of the link
    dst: Optional[str]
    lladdr: Optional[str]
    state: int                      # NUD_*
    flags: int                      # NTF_*
    family: int
    attrs: Dict[Any, Any]

    __repr__ = _brief

    @classmethod
    def from_body(cls, body: Body) -> "Neighbour":
        """From a decoded message."""
        header, attrs = body
        return cls(header.ifindex, attrs.get("dst"), attrs.get("lladdr"), header.state, header.flags, header.family, attrs)
