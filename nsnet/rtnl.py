"""The rtnetlink protocol as data: numbers, fixed headers, attribute tables.

Data only: no function, no I/O. Each table names the uapi header its numbers come from; a row's uapi constant is the
table's prefix and the row's name in capitals, and a unit test compares every one with the headers. Types are those of the
policies in the kernel (ifla_policy in net/core/rtnetlink.c, br_policy in net/bridge/br_netlink.c, rtm_ipv4_policy in
net/ipv4/fib_frontend.c, ...).
"""

from nsnet.wire import (NLA_F_NESTED, Attr, Choice, Fixed, Layout, Table, be16, be32, flag, ip, lladdr, nested, raw, s32,
                        string, strz, u8, u16, u32, u64)

# --- message types and flags: <linux/netlink.h>, <linux/rtnetlink.h> ---

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4

NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_ECHO = 0x08
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP_FILTERED = 0x20
NLM_F_ROOT = 0x100          # with GET
NLM_F_MATCH = 0x200
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100       # with NEW
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100        # with NLMSG_ERROR
NLM_F_ACK_TLVS = 0x200

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

# --- numbers ---

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10           # <linux/socket.h>

IFF_UP = 0x1                                                    # <linux/if.h>
IFF_LOOPBACK = 0x8
IFF_RUNNING = 0x40
IFF_LOWER_UP = 0x10000
LOOPBACK_IFINDEX = 1                                            # include/net/net_namespace.h

OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")    # <linux/if.h>, IF_OPER_*

IN6_ADDR_GEN_MODE_EUI64 = 0                                     # <linux/if_link.h>
IN6_ADDR_GEN_MODE_NONE = 1

IFA_F_NODAD = 0x02                                              # <linux/if_addr.h>
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80

RT_TABLE_MAIN = 254                                             # <linux/rtnetlink.h>
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE = 0, 253, 254, 255
RTN_UNICAST = 1
RTNH_F_ONLINK = 4

NUD_PERMANENT = 0x80                                            # <linux/neighbour.h>

# --- fixed headers ---

IFINFOMSG = Fixed("ifinfomsg", "BxHiII", "family", "type", "index", "flags", "change")           # <linux/rtnetlink.h>
IFADDRMSG = Fixed("ifaddrmsg", "BBBBI", "family", "prefixlen", "flags", "scope", "index")       # <linux/if_addr.h>
RTMSG = Fixed("rtmsg", "BBBBBBBBI",                                                             # <linux/rtnetlink.h>
              "family", "dst_len", "src_len", "tos", "table", "protocol", "scope", "type", "flags")
NDMSG = Fixed("ndmsg", "BxxxiHBB", "family", "ifindex", "state", "flags", "type")               # <linux/neighbour.h>
NLMSGERR = Fixed("nlmsgerr", "iIHHII", "error", "len", "type", "flags", "seq", "pid")           # <linux/netlink.h>

# --- extended acknowledgement: <linux/netlink.h>, enum nlmsgerr_attrs ---

EXTACK = Table(
    "NLMSGERR_ATTR",
    msg=Attr(1, strz),
    offs=Attr(2, u32),              # from the beginning of the request's nlmsghdr
    cookie=Attr(3, raw),
    policy=Attr(4, raw),
    miss_type=Attr(5, u32),
    miss_nest=Attr(6, u32),
)

# --- links: <linux/if_link.h> ---

BRIDGE = Table(
    "IFLA_BR",
    forward_delay=Attr(1, u32),     # this and the following times in USER_HZ, 1/100 s
    hello_time=Attr(2, u32),
    max_age=Attr(3, u32),
    ageing_time=Attr(4, u32),
    stp_state=Attr(5, u32),
    priority=Attr(6, u16),
    vlan_filtering=Attr(7, u8),
    vlan_protocol=Attr(8, be16),
    group_fwd_mask=Attr(9, u16),
    root_id=Attr(10, raw),
    bridge_id=Attr(11, raw),
    root_port=Attr(12, u16),
    root_path_cost=Attr(13, u32),
    topology_change=Attr(14, u8),
    topology_change_detected=Attr(15, u8),
    hello_timer=Attr(16, u64),
    tcn_timer=Attr(17, u64),
    topology_change_timer=Attr(18, u64),
    gc_timer=Attr(19, u64),
    group_addr=Attr(20, lladdr),
    fdb_flush=Attr(21, flag),
    mcast_router=Attr(22, u8),
    mcast_snooping=Attr(23, u8),
    mcast_query_use_ifaddr=Attr(24, u8),
    mcast_querier=Attr(25, u8),
    mcast_hash_elasticity=Attr(26, u32),
    mcast_hash_max=Attr(27, u32),
    mcast_last_member_cnt=Attr(28, u32),
    mcast_startup_query_cnt=Attr(29, u32),
    mcast_last_member_intvl=Attr(30, u64),
    mcast_membership_intvl=Attr(31, u64),
    mcast_querier_intvl=Attr(32, u64),
    mcast_query_intvl=Attr(33, u64),
    mcast_query_response_intvl=Attr(34, u64),
    mcast_startup_query_intvl=Attr(35, u64),
    nf_call_iptables=Attr(36, u8),
    nf_call_ip6tables=Attr(37, u8),
    nf_call_arptables=Attr(38, u8),
    vlan_default_pvid=Attr(39, u16),
    vlan_stats_enabled=Attr(41, u8),
    mcast_stats_enabled=Attr(42, u8),
    mcast_igmp_version=Attr(43, u8),
    mcast_mld_version=Attr(44, u8),
    vlan_stats_per_port=Attr(45, u8),
    multi_boolopt=Attr(46, raw),
    mcast_querier_state=Attr(47, raw),
)

BRIDGE_PORT = Table(
    "IFLA_BRPORT",
    state=Attr(1, u8),
    priority=Attr(2, u16),
    cost=Attr(3, u32),
    mode=Attr(4, u8),               # hairpin
    guard=Attr(5, u8),
    protect=Attr(6, u8),
    fast_leave=Attr(7, u8),
    learning=Attr(8, u8),
    unicast_flood=Attr(9, u8),
    proxyarp=Attr(10, u8),
    learning_sync=Attr(11, u8),
    proxyarp_wifi=Attr(12, u8),
    root_id=Attr(13, raw),
    bridge_id=Attr(14, raw),
    designated_port=Attr(15, u16),
    designated_cost=Attr(16, u16),
    id=Attr(17, u16),
    no=Attr(18, u16),
    topology_change_ack=Attr(19, u8),
    config_pending=Attr(20, u8),
    message_age_timer=Attr(21, u64),
    forward_delay_timer=Attr(22, u64),
    hold_timer=Attr(23, u64),
    flush=Attr(24, flag),
    multicast_router=Attr(25, u8),
    mcast_flood=Attr(27, u8),
    mcast_to_ucast=Attr(28, u8),
    vlan_tunnel=Attr(29, u8),
    bcast_flood=Attr(30, u8),
    group_fwd_mask=Attr(31, u16),
    neigh_suppress=Attr(32, u8),
    isolated=Attr(33, u8),
    backup_port=Attr(34, u32),
    mrp_ring_open=Attr(35, u8),
    mrp_in_open=Attr(36, u8),
    mcast_eht_hosts_limit=Attr(37, u32),
    mcast_eht_hosts_cnt=Attr(38, u32),
    locked=Attr(39, u8),
)

PEER = Layout(IFINFOMSG, None)      # a whole RTM_NEWLINK body; its table is LINK, below

VETH = Table("VETH_INFO", peer=Attr(1, PEER))                   # <linux/veth.h>

LINKINFO = Table(
    "IFLA_INFO",
    kind=Attr(1, string),           # iproute2 sends it without the NUL
    data=Attr(2, Choice("kind", bridge=nested(BRIDGE), veth=nested(VETH))),
    xstats=Attr(3, raw),
    slave_kind=Attr(4, strz),
    slave_data=Attr(5, Choice("slave_kind", bridge=nested(BRIDGE_PORT))),
)

INET = Table("IFLA_INET", conf=Attr(1, raw))                    # when set: nested, when got: an array of u32
INET6 = Table(
    "IFLA_INET6",
    flags=Attr(1, u32),
    conf=Attr(2, raw),
    stats=Attr(3, raw),
    mcast=Attr(4, raw),
    cacheinfo=Attr(5, raw),
    icmp6stats=Attr(6, raw),
    token=Attr(7, ip),
    addr_gen_mode=Attr(8, u8),
    ra_mtu=Attr(9, u32),
)
AF_SPEC = Table("AF", inet=Attr(AF_INET, nested(INET)), inet6=Attr(AF_INET6, nested(INET6)))
PROP_LIST = Table("IFLA", alt_ifname=Attr(53, strz, many=True))

LINK = Table(
    "IFLA",
    address=Attr(1, lladdr),        # link layer; IP addresses are IFA_*
    broadcast=Attr(2, lladdr),
    ifname=Attr(3, strz),           # at most 15 bytes before the NUL
    mtu=Attr(4, u32),
    link=Attr(5, u32),              # ifindex of the lower link, or of the veth peer
    qdisc=Attr(6, strz),
    stats=Attr(7, raw),
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
    stats64=Attr(23, raw),
    vf_ports=Attr(24, raw),
    port_self=Attr(25, raw),
    af_spec=Attr(26, nested(AF_SPEC)),
    group=Attr(27, u32),
    net_ns_fd=Attr(28, u32),
    ext_mask=Attr(29, u32),
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
    xdp=Attr(43, raw),
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
)
PEER.table = LINK

# --- addresses: <linux/if_addr.h> ---

ADDR = Table(
    "IFA",
    address=Attr(1, ip),            # the peer's on a point-to-point link, else the same as local
    local=Attr(2, ip),
    label=Attr(3, strz),
    broadcast=Attr(4, ip),
    anycast=Attr(5, ip),
    cacheinfo=Attr(6, raw),
    multicast=Attr(7, ip),
    flags=Attr(8, u32),
    rt_priority=Attr(9, u32),
    target_netnsid=Attr(10, s32),
    proto=Attr(11, u8),
)

# --- routes: <linux/rtnetlink.h> ---

METRICS = Table(
    "RTAX",
    lock=Attr(1, u32),
    mtu=Attr(2, u32),
    window=Attr(3, u32),
    rtt=Attr(4, u32),
    rttvar=Attr(5, u32),
    ssthresh=Attr(6, u32),
    cwnd=Attr(7, u32),
    advmss=Attr(8, u32),
    reordering=Attr(9, u32),
    hoplimit=Attr(10, u32),
    initcwnd=Attr(11, u32),
    features=Attr(12, u32),
    rto_min=Attr(13, u32),
    initrwnd=Attr(14, u32),
    quickack=Attr(15, u32),
    cc_algo=Attr(16, strz),
    fastopen_no_cookie=Attr(17, u32),
)

ROUTE = Table(
    "RTA",
    dst=Attr(1, ip),
    src=Attr(2, ip),
    iif=Attr(3, u32),
    oif=Attr(4, u32),
    gateway=Attr(5, ip),
    priority=Attr(6, u32),
    prefsrc=Attr(7, ip),
    metrics=Attr(8, nested(METRICS)),
    multipath=Attr(9, raw),
    flow=Attr(11, u32),
    cacheinfo=Attr(12, raw),
    table=Attr(15, u32),
    mark=Attr(16, u32),
    mfc_stats=Attr(17, raw),
    via=Attr(18, raw),
    newdst=Attr(19, raw),
    pref=Attr(20, u8),
    encap_type=Attr(21, u16),
    encap=Attr(22, raw),
    expires=Attr(23, u32),
    uid=Attr(25, u32),
    ttl_propagate=Attr(26, u8),
    ip_proto=Attr(27, u8),
    sport=Attr(28, be16),
    dport=Attr(29, be16),
    nh_id=Attr(30, u32),
)

# --- neighbours and forwarding entries: <linux/neighbour.h> ---

NEIGH = Table(
    "NDA",
    dst=Attr(1, ip),
    lladdr=Attr(2, lladdr),
    cacheinfo=Attr(3, raw),
    probes=Attr(4, u32),
    vlan=Attr(5, u16),
    port=Attr(6, be16),
    vni=Attr(7, u32),
    ifindex=Attr(8, u32),
    master=Attr(9, u32),
    link_netnsid=Attr(10, s32),
    src_vni=Attr(11, be32),
    protocol=Attr(12, u8),
    nh_id=Attr(13, u32),
    fdb_ext_attrs=Attr(14, raw),
    flags_ext=Attr(15, u32),
    ndm_state_mask=Attr(16, u16),
    ndm_flags_mask=Attr(17, u8),
)

# --- which payload belongs to which message ---

LINK_BODY = Layout(IFINFOMSG, LINK)
ADDR_BODY = Layout(IFADDRMSG, ADDR)
ROUTE_BODY = Layout(RTMSG, ROUTE)
NEIGH_BODY = Layout(NDMSG, NEIGH)

LAYOUTS = {
    RTM_NEWLINK: LINK_BODY, RTM_DELLINK: LINK_BODY, RTM_GETLINK: LINK_BODY, RTM_SETLINK: LINK_BODY,
    RTM_NEWADDR: ADDR_BODY, RTM_DELADDR: ADDR_BODY, RTM_GETADDR: ADDR_BODY,
    RTM_NEWROUTE: ROUTE_BODY, RTM_DELROUTE: ROUTE_BODY, RTM_GETROUTE: ROUTE_BODY,
    RTM_NEWNEIGH: NEIGH_BODY, RTM_DELNEIGH: NEIGH_BODY, RTM_GETNEIGH: NEIGH_BODY,
}

MESSAGE_NAMES = {
    NLMSG_NOOP: "NLMSG_NOOP", NLMSG_ERROR: "NLMSG_ERROR", NLMSG_DONE: "NLMSG_DONE", NLMSG_OVERRUN: "NLMSG_OVERRUN",
    RTM_NEWLINK: "RTM_NEWLINK", RTM_DELLINK: "RTM_DELLINK", RTM_GETLINK: "RTM_GETLINK", RTM_SETLINK: "RTM_SETLINK",
    RTM_NEWADDR: "RTM_NEWADDR", RTM_DELADDR: "RTM_DELADDR", RTM_GETADDR: "RTM_GETADDR",
    RTM_NEWROUTE: "RTM_NEWROUTE", RTM_DELROUTE: "RTM_DELROUTE", RTM_GETROUTE: "RTM_GETROUTE",
    RTM_NEWNEIGH: "RTM_NEWNEIGH", RTM_DELNEIGH: "RTM_DELNEIGH", RTM_GETNEIGH: "RTM_GETNEIGH",
}
