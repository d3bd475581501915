"""Addresses, routes, rules, nexthop objects, neighbours, forwarding entries and netns ids.

Data only. <linux/if_addr.h>, <linux/rtnetlink.h>, <linux/fib_rules.h>, <linux/nexthop.h>, <linux/neighbour.h>,
<linux/net_namespace.h>; the policies in net/ipv4, net/ipv6 and net/core.
"""

from nsnet.tables import Attr, Chain, Layout, Table, nested
from nsnet.wire import (NLA_F_NESTED, Fixed, array, be16, be32, be64, flag, ip, lladdr, raw, record, s32, string, strz, u8,
                        u16, u32, u64, via)

# --- addresses: ifa_ipv4_policy, net/ipv4/devinet.c; ifa_ipv6_policy, net/ipv6/addrconf.c ---

IFADDRMSG = Fixed("ifaddrmsg", "BBBBI", "family", "prefixlen", "flags", "scope", "index")
IFA_CACHEINFO = Fixed("ifa_cacheinfo", "IIII", "ifa_prefered", "ifa_valid", "cstamp", "tstamp")     # s, s, 1/100 s, 1/100 s
ADDR = Table(
    "IFA",
    address=Attr(1, ip),            # the peer's on a point-to-point link, else the same as local
    local=Attr(2, ip),
    label=Attr(3, strz),
    broadcast=Attr(4, ip),
    anycast=Attr(5, ip),
    cacheinfo=Attr(6, record(IFA_CACHEINFO)),
    multicast=Attr(7, ip),
    flags=Attr(8, u32),
    rt_priority=Attr(9, u32),
    target_netnsid=Attr(10, s32),
    proto=Attr(11, u8),             # Linux 5.18
)
ADDR_BODY = Layout(IFADDRMSG, ADDR)

# --- routes: rtm_ipv4_policy, net/ipv4/fib_frontend.c; rtm_ipv6_policy, net/ipv6/route.c ---

RTMSG = Fixed("rtmsg", "BBBBBBBBI",
              "family", "dst_len", "src_len", "tos", "table", "protocol", "scope", "type", "flags")
RTNEXTHOP = Fixed("rtnexthop", "HBBi", "len", "flags", "hops", "ifindex")
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
    cc_algo=Attr(16, string),
    fastopen_no_cookie=Attr(17, u32),
)
NEXTHOPS = Chain(RTNEXTHOP, None)   # each with RTA_* of its own; its table is ROUTE, below
RTA_CACHEINFO = Fixed("rta_cacheinfo", "IIiIIIII", "clntref", "lastuse", "expires", "error", "used", "id", "ts", "tsage")
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
    multipath=Attr(9, NEXTHOPS),
    flow=Attr(11, u32),
    cacheinfo=Attr(12, record(RTA_CACHEINFO, grows=True)),
    table=Attr(15, u32),
    mark=Attr(16, u32),
    mfc_stats=Attr(17, raw),
    via=Attr(18, via),              # a gateway of another family
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
    flowlabel=Attr(31, be32),
)
NEXTHOPS.table = ROUTE
ROUTE_BODY = Layout(RTMSG, ROUTE)

# --- rules: fib_rule_policy, net/core/fib_rules.c ---

FIB_RULE_HDR = Fixed("fib_rule_hdr", "BBBBBxxBI", "family", "dst_len", "src_len", "tos", "table", "action", "flags")
_PORTS = Fixed("fib_rule_port_range", "HH", "start", "end")
RULE = Table(
    "FRA",
    dst=Attr(1, ip),
    src=Attr(2, ip),
    iifname=Attr(3, strz),
    goto=Attr(4, u32),
    priority=Attr(6, u32),
    fwmark=Attr(10, u32),
    flow=Attr(11, u32),
    tun_id=Attr(12, be64),
    suppress_ifgroup=Attr(13, u32),
    suppress_prefixlen=Attr(14, u32),
    table=Attr(15, u32),
    fwmask=Attr(16, u32),
    oifname=Attr(17, strz),
    l3mdev=Attr(19, u8),
    uid_range=Attr(20, record(Fixed("fib_rule_uid_range", "II", "start", "end"))),
    protocol=Attr(21, u8),
    ip_proto=Attr(22, u8),
    sport_range=Attr(23, record(_PORTS)),
    dport_range=Attr(24, record(_PORTS)),
    dscp=Attr(25, u8),
    flowlabel=Attr(26, be32),
    flowlabel_mask=Attr(27, be32),
    sport_mask=Attr(28, u16),
    dport_mask=Attr(29, u16),
    dscp_mask=Attr(30, u8),
)
RULE_BODY = Layout(FIB_RULE_HDR, RULE)

# --- nexthop objects: rtm_nh_policy_new, net/ipv4/nexthop.c ---

NHMSG = Fixed("nhmsg", "BBBxI", "family", "scope", "protocol", "flags")
NH_RES_GROUP = Table(
    "NHA_RES_GROUP",
    buckets=Attr(1, u16),
    idle_timer=Attr(2, u32),
    unbalanced_timer=Attr(3, u32),
    unbalanced_time=Attr(4, u64),
)
NH_RES_BUCKET = Table("NHA_RES_BUCKET", index=Attr(1, u16), idle_time=Attr(2, u64), nh_id=Attr(3, u32))
NEXTHOP = Table(
    "NHA",
    id=Attr(1, u32),
    group=Attr(2, array(Fixed("nexthop_grp", "IBBxx", "id", "weight", "weight_high"))),   # weight_high: Linux 6.12
    group_type=Attr(3, u16),
    blackhole=Attr(4, flag),
    oif=Attr(5, u32),
    gateway=Attr(6, ip),
    encap_type=Attr(7, u16),
    encap=Attr(8, raw),
    groups=Attr(9, flag),
    master=Attr(10, u32),
    fdb=Attr(11, flag),
    res_group=Attr(12, nested(NH_RES_GROUP, NLA_F_NESTED)),      # this message is checked strictly
    res_bucket=Attr(13, nested(NH_RES_BUCKET, NLA_F_NESTED)),
    op_flags=Attr(14, u32),
    group_stats=Attr(15, raw),
    hw_stats_enable=Attr(16, u32),
    hw_stats_used=Attr(17, u32),
)
NEXTHOP_BODY = Layout(NHMSG, NEXTHOP)

# --- neighbours and forwarding entries: nda_policy, net/core/neighbour.c ---

NDMSG = Fixed("ndmsg", "BxxxiHBB", "family", "ifindex", "state", "flags", "type")
NEIGH = Table(
    "NDA",
    dst=Attr(1, ip),
    lladdr=Attr(2, lladdr),
    cacheinfo=Attr(3, record(Fixed("nda_cacheinfo", "IIII", "confirmed", "used", "updated", "refcnt"))),
    probes=Attr(4, u32),
    vlan=Attr(5, u16),
    port=Attr(6, be16),
    vni=Attr(7, u32),
    ifindex=Attr(8, u32),
    master=Attr(9, u32),
    link_netnsid=Attr(10, s32),
    src_vni=Attr(11, u32),
    protocol=Attr(12, u8),
    nh_id=Attr(13, u32),
    fdb_ext_attrs=Attr(14, raw),
    flags_ext=Attr(15, u32),
    ndm_state_mask=Attr(16, u16),
    ndm_flags_mask=Attr(17, u8),
)
NEIGH_BODY = Layout(NDMSG, NEIGH)

# --- netns ids: rtnl_net_policy, net/core/net_namespace.c ---

RTGENMSG = Fixed("rtgenmsg", "Bxxx", "family")                  # padded: attributes begin at a multiple of four
NSID = Table(
    "NETNSA",
    nsid=Attr(1, s32),              # -1: none assigned
    pid=Attr(2, u32),
    fd=Attr(3, u32),
    target_nsid=Attr(4, s32),
    current_nsid=Attr(5, s32),
)
NSID_BODY = Layout(RTGENMSG, NSID)

__all__ = [name for name in globals() if name.isupper() and not name.startswith("_")]
