"""Links: struct ifinfomsg and its attributes, for the family AF_UNSPEC and for AF_BRIDGE.

Data only. <linux/if_link.h>, <linux/rtnetlink.h>, <linux/if_bridge.h>, <linux/veth.h>; ifla_policy in
net/core/rtnetlink.c, br_fill_ifinfo in net/bridge/br_netlink.c.
"""

from nsnet.rtnl.af_spec import AF_SPEC, INET6
from nsnet.rtnl.kinds import (BOND, BOND_PORT, BRIDGE, BRIDGE_PORT, GRE, IP6TNL, IPTUN, IPVLAN, MACVLAN, TUN, VLAN, VRF,
                              VXLAN)
from nsnet.rtnl.numbers import AF_BRIDGE, AF_INET6
from nsnet.tables import Attr, Choice, Layout, Table, nested
from nsnet.wire import NLA_F_NESTED, Fixed, lladdr, raw, record, s32, string, strz, u8, u16, u32, uint

IFINFOMSG = Fixed("ifinfomsg", "BxHiII", "family", "type", "index", "flags", "change")

PEER = Layout(IFINFOMSG, None)      # a whole RTM_NEWLINK body; its table is LINK, below

VETH = Table("VETH_INFO", peer=Attr(1, PEER))
NETKIT = Table(                     # ifla_netkit_policy, drivers/net/netkit.c, Linux 6.7
    "IFLA_NETKIT",
    peer_info=Attr(1, PEER),
    primary=Attr(2, u8),
    policy=Attr(3, u32),
    peer_policy=Attr(4, u32),
    mode=Attr(5, u32),
    scrub=Attr(6, u32),
    peer_scrub=Attr(7, u32),
    headroom=Attr(8, u16),
    tailroom=Attr(9, u16),
)

LINKINFO = Table(
    "IFLA_INFO",
    kind=Attr(1, string),           # iproute2 sends it without the NUL
    data=Attr(2, Choice(
        "kind", bond=nested(BOND), bridge=nested(BRIDGE), erspan=nested(GRE), gre=nested(GRE), gretap=nested(GRE),
        ip6gre=nested(GRE), ip6gretap=nested(GRE), ip6tnl=nested(IP6TNL), ipip=nested(IPTUN), ipvlan=nested(IPVLAN),
        macvlan=nested(MACVLAN), macvtap=nested(MACVLAN), netkit=nested(NETKIT), sit=nested(IPTUN), tun=nested(TUN),
        veth=nested(VETH), vlan=nested(VLAN), vrf=nested(VRF), vxlan=nested(VXLAN))),
    xstats=Attr(3, raw),
    slave_kind=Attr(4, strz),
    slave_data=Attr(5, Choice("slave_kind", bond=nested(BOND_PORT), bridge=nested(BRIDGE_PORT), vrf=nested(
        Table("IFLA_VRF_PORT", table=Attr(1, u32))))),
)

PROP_LIST = Table("IFLA", alt_ifname=Attr(53, strz, many=True))
XDP = Table(
    "IFLA_XDP",
    fd=Attr(1, s32),
    attached=Attr(2, u8),
    flags=Attr(3, u32),
    prog_id=Attr(4, u32),
    drv_prog_id=Attr(5, u32),
    skb_prog_id=Attr(6, u32),
    hw_prog_id=Attr(7, u32),
    expected_fd=Attr(8, s32),
)

_COUNTERS = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
             "multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors",
             "rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
             "tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed", "rx_nohandler")
STATS = Fixed("rtnl_link_stats", "24I", *_COUNTERS)
STATS64 = Fixed("rtnl_link_stats64", "25Q", *_COUNTERS, "rx_otherhost_dropped")     # 24 before Linux 5.19

_ROWS = dict(
    address=Attr(1, lladdr),        # link layer; IP addresses are IFA_*
    broadcast=Attr(2, lladdr),
    ifname=Attr(3, strz),           # at most 15 bytes before the NUL
    mtu=Attr(4, u32),
    link=Attr(5, u32),              # ifindex of the lower link, or of the veth peer
    qdisc=Attr(6, strz),
    stats=Attr(7, record(STATS, grows=True)),
    cost=Attr(8, raw),
    priority=Attr(9, raw),
    master=Attr(10, u32),           # ifindex; 0 detaches
    wireless=Attr(11, raw),
    protinfo=Attr(12, raw),
    txqlen=Attr(13, u32),
    map=Attr(14, raw),
    weight=Attr(15, u32),
    operstate=Attr(16, u8),
    linkmode=Attr(17, u8),
    linkinfo=Attr(18, nested(LINKINFO)),
    net_ns_pid=Attr(19, u32),
    ifalias=Attr(20, string),       # at most 255 bytes, the NUL not needed; ignored when a link is created
    num_vf=Attr(21, u32),
    vfinfo_list=Attr(22, raw),
    stats64=Attr(23, record(STATS64, grows=True)),
    vf_ports=Attr(24, raw),
    port_self=Attr(25, raw),
    af_spec=Attr(26, nested(AF_SPEC)),
    group=Attr(27, u32),
    net_ns_fd=Attr(28, u32),
    ext_mask=Attr(29, u32),         # RTEXT_FILTER_*
    promiscuity=Attr(30, u32),
    num_tx_queues=Attr(31, u32),
    num_rx_queues=Attr(32, u32),
    carrier=Attr(33, u8),
    phys_port_id=Attr(34, raw),
    carrier_changes=Attr(35, u32),
    phys_switch_id=Attr(36, raw),
    link_netnsid=Attr(37, s32),
    phys_port_name=Attr(38, strz),
    proto_down=Attr(39, u8),
    gso_max_segs=Attr(40, u32),
    gso_max_size=Attr(41, u32),
    xdp=Attr(43, nested(XDP)),
    event=Attr(44, u32),
    new_netnsid=Attr(45, s32),
    target_netnsid=Attr(46, s32),
    carrier_up_count=Attr(47, u32),
    carrier_down_count=Attr(48, u32),
    new_ifindex=Attr(49, s32),
    min_mtu=Attr(50, u32),
    max_mtu=Attr(51, u32),
    prop_list=Attr(52, nested(PROP_LIST, NLA_F_NESTED)),
    alt_ifname=Attr(53, strz),
    perm_address=Attr(54, lladdr),
    proto_down_reason=Attr(55, raw),
    parent_dev_name=Attr(56, strz),
    parent_dev_bus_name=Attr(57, strz),
    gro_max_size=Attr(58, u32),
    tso_max_size=Attr(59, u32),
    tso_max_segs=Attr(60, u32),
    allmulti=Attr(61, u32),
    devlink_port=Attr(62, raw),
    gso_ipv4_max_size=Attr(63, u32),
    gro_ipv4_max_size=Attr(64, u32),
    dpll_pin=Attr(65, raw),
    max_pacing_offload_horizon=Attr(66, uint),
    netns_immutable=Attr(67, u8),
    headroom=Attr(68, u16),
    tailroom=Attr(69, u16),
)
LINK = Table("IFLA", **_ROWS)
PEER.table = LINK

# The same message for AF_BRIDGE says what the bridge knows of its port.
BRIDGE_AF_SPEC = Table(
    "IFLA_BRIDGE",
    flags=Attr(0, u16),
    mode=Attr(1, u16),
    vlan_info=Attr(2, record(Fixed("bridge_vlan_info", "HH", "flags", "vid")), many=True),
    vlan_tunnel_info=Attr(3, raw, many=True),
)
BRIDGE_LINK = Table("IFLA", **{**_ROWS, "protinfo": Attr(12, nested(BRIDGE_PORT, NLA_F_NESTED)),
                               "af_spec": Attr(26, nested(BRIDGE_AF_SPEC))})

# And for AF_INET6 what IPv6 knows of the link.
INET6_LINK = Table("IFLA", **{**_ROWS, "protinfo": Attr(12, nested(INET6))})

LINK_BODY = Layout(IFINFOMSG, LINK, by_family={AF_BRIDGE: BRIDGE_LINK, AF_INET6: INET6_LINK})

__all__ = [name for name in globals() if name.isupper() and not name.startswith("_")]
