"""What each kind of link has of its own: IFLA_INFO_DATA, and IFLA_INFO_SLAVE_DATA of bridge and bond ports.

Data only. <linux/if_link.h>, <linux/if_tunnel.h>, <linux/if_bridge.h>; types are those of the policies in the drivers.
"""

from nsnet.tables import Attr, Table, listed, nested
from nsnet.wire import Fixed, be16, be32, flag, flag_or_byte, ip, lladdr, raw, record, s32, u8, u16, u32, u64

# br_policy, net/bridge/br_netlink.c
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
    multi_boolopt=Attr(46, record(Fixed("br_boolopt_multi", "II", "optval", "optmask"))),
    mcast_querier_state=Attr(47, raw),
    fdb_n_learned=Attr(48, u32),
    fdb_max_learned=Attr(49, u32),
)

# br_port_policy, net/bridge/br_netlink.c
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
    mab=Attr(40, u8),
    mcast_n_groups=Attr(41, u32),
    mcast_max_groups=Attr(42, u32),
    neigh_vlan_suppress=Attr(43, u8),
    backup_nhid=Attr(44, u32),
)

# vlan_policy, net/8021q/vlan_netlink.c
VLAN_QOS = Table("IFLA_VLAN_QOS", mapping=Attr(1, record(Fixed("ifla_vlan_qos_mapping", "II", "from_", "to")), many=True))
VLAN = Table(
    "IFLA_VLAN",
    id=Attr(1, u16),
    flags=Attr(2, record(Fixed("ifla_vlan_flags", "II", "flags", "mask"))),
    egress_qos=Attr(3, nested(VLAN_QOS)),
    ingress_qos=Attr(4, nested(VLAN_QOS)),
    protocol=Attr(5, be16),
)

# macvlan_policy, drivers/net/macvlan.c
MACVLAN_MACADDRS = Table("IFLA_MACVLAN", macaddr=Attr(4, lladdr, many=True))
MACVLAN = Table(
    "IFLA_MACVLAN",
    mode=Attr(1, u32),
    flags=Attr(2, u16),
    macaddr_mode=Attr(3, u32),
    macaddr=Attr(4, lladdr),
    macaddr_data=Attr(5, nested(MACVLAN_MACADDRS)),
    macaddr_count=Attr(6, u32),
    bc_queue_len=Attr(7, u32),
    bc_queue_len_used=Attr(8, u32),
    bc_cutoff=Attr(9, s32),
)

# ipvlan_nl_policy, drivers/net/ipvlan/ipvlan_main.c
IPVLAN = Table("IFLA_IPVLAN", mode=Attr(1, u16), flags=Attr(2, u16))

# vxlan_policy, drivers/net/vxlan/vxlan_core.c
VXLAN = Table(
    "IFLA_VXLAN",
    id=Attr(1, u32),
    group=Attr(2, ip),
    link=Attr(3, u32),
    local=Attr(4, ip),
    ttl=Attr(5, u8),
    tos=Attr(6, u8),
    learning=Attr(7, u8),
    ageing=Attr(8, u32),
    limit=Attr(9, u32),
    port_range=Attr(10, record(Fixed("ifla_vxlan_port_range", "!HH", "low", "high"))),
    proxy=Attr(11, u8),
    rsc=Attr(12, u8),
    l2miss=Attr(13, u8),
    l3miss=Attr(14, u8),
    port=Attr(15, be16),
    group6=Attr(16, ip),
    local6=Attr(17, ip),
    udp_csum=Attr(18, u8),
    udp_zero_csum6_tx=Attr(19, u8),
    udp_zero_csum6_rx=Attr(20, u8),
    remcsum_tx=Attr(21, u8),
    remcsum_rx=Attr(22, u8),
    gbp=Attr(23, flag),
    remcsum_nopartial=Attr(24, flag),
    collect_metadata=Attr(25, u8),
    label=Attr(26, be32),
    gpe=Attr(27, flag),
    ttl_inherit=Attr(28, flag_or_byte),
    df=Attr(29, u8),
    vnifilter=Attr(30, u8),
    localbypass=Attr(31, u8),
    label_policy=Attr(32, u32),
    reserved_bits=Attr(33, raw),
)

VRF = Table("IFLA_VRF", table=Attr(1, u32))                     # vrf_nl_policy, drivers/net/vrf.c

# bond_policy, bond_slave_policy, drivers/net/bonding/bond_netlink.c
BOND_AD_INFO = Table(
    "IFLA_BOND_AD_INFO",
    aggregator=Attr(1, u16),
    num_ports=Attr(2, u16),
    actor_key=Attr(3, u16),
    partner_key=Attr(4, u16),
    partner_mac=Attr(5, lladdr),
)
BOND = Table(
    "IFLA_BOND",
    mode=Attr(1, u8),
    active_slave=Attr(2, u32),
    miimon=Attr(3, u32),            # ms
    updelay=Attr(4, u32),
    downdelay=Attr(5, u32),
    use_carrier=Attr(6, u8),
    arp_interval=Attr(7, u32),
    arp_ip_target=Attr(8, listed(ip)),
    arp_validate=Attr(9, u32),
    arp_all_targets=Attr(10, u32),
    primary=Attr(11, u32),
    primary_reselect=Attr(12, u8),
    fail_over_mac=Attr(13, u8),
    xmit_hash_policy=Attr(14, u8),
    resend_igmp=Attr(15, u32),
    num_peer_notif=Attr(16, u8),
    all_slaves_active=Attr(17, u8),
    min_links=Attr(18, u32),
    lp_interval=Attr(19, u32),
    packets_per_slave=Attr(20, u32),
    ad_lacp_rate=Attr(21, u8),
    ad_select=Attr(22, u8),
    ad_info=Attr(23, nested(BOND_AD_INFO)),
    ad_actor_sys_prio=Attr(24, u16),
    ad_user_port_key=Attr(25, u16),
    ad_actor_system=Attr(26, lladdr),
    tlb_dynamic_lb=Attr(27, u8),
    peer_notif_delay=Attr(28, u32),
    ad_lacp_active=Attr(29, u8),
    missed_max=Attr(30, u8),
    ns_ip6_target=Attr(31, listed(ip)),
    coupled_control=Attr(32, u8),
    broadcast_neigh=Attr(33, u8),
)
BOND_PORT = Table(
    "IFLA_BOND_SLAVE",
    state=Attr(1, u8),
    mii_status=Attr(2, u8),
    link_failure_count=Attr(3, u32),
    perm_hwaddr=Attr(4, lladdr),
    queue_id=Attr(5, u16),
    ad_aggregator_id=Attr(6, u16),
    ad_actor_oper_port_state=Attr(7, u8),
    ad_partner_oper_port_state=Attr(8, u16),
    prio=Attr(9, s32),
    actor_port_prio=Attr(10, u16),
)

# ipgre_policy, net/ipv4/ip_gre.c; ip6gre_policy, net/ipv6/ip6_gre.c
GRE = Table(
    "IFLA_GRE",
    link=Attr(1, u32),
    iflags=Attr(2, be16),
    oflags=Attr(3, be16),
    ikey=Attr(4, be32),
    okey=Attr(5, be32),
    local=Attr(6, ip),
    remote=Attr(7, ip),
    ttl=Attr(8, u8),
    tos=Attr(9, u8),
    pmtudisc=Attr(10, u8),
    encap_limit=Attr(11, u8),
    flowinfo=Attr(12, be32),
    flags=Attr(13, u32),
    encap_type=Attr(14, u16),
    encap_flags=Attr(15, u16),
    encap_sport=Attr(16, be16),
    encap_dport=Attr(17, be16),
    collect_metadata=Attr(18, flag),
    ignore_df=Attr(19, u8),
    fwmark=Attr(20, u32),
    erspan_index=Attr(21, u32),
    erspan_ver=Attr(22, u8),
    erspan_dir=Attr(23, u8),
    erspan_hwid=Attr(24, u16),
)

# ipip_policy, net/ipv4/ipip.c; ipip6_policy, net/ipv6/sit.c; ip6_tnl_policy, net/ipv6/ip6_tunnel.c, has wider flags
_IPTUN = dict(
    link=Attr(1, u32),
    local=Attr(2, ip),
    remote=Attr(3, ip),
    ttl=Attr(4, u8),
    tos=Attr(5, u8),
    encap_limit=Attr(6, u8),
    flowinfo=Attr(7, be32),
    flags=Attr(8, u16),
    proto=Attr(9, u8),
    pmtudisc=Attr(10, u8),
    encap_type=Attr(15, u16),
    encap_flags=Attr(16, u16),
    encap_sport=Attr(17, be16),
    encap_dport=Attr(18, be16),
    collect_metadata=Attr(19, flag),
    fwmark=Attr(20, u32),
)
IPTUN = Table("IFLA_IPTUN", **_IPTUN, **{
    "6rd_prefix": Attr(11, ip),
    "6rd_relay_prefix": Attr(12, ip),
    "6rd_prefixlen": Attr(13, u16),
    "6rd_relay_prefixlen": Attr(14, u16),
})
IP6TNL = Table("IFLA_IPTUN", **{**_IPTUN, "flags": Attr(8, u32)})

# tun_fill_info, drivers/net/tun.c: read only
TUN = Table(
    "IFLA_TUN",
    owner=Attr(1, u32),
    group=Attr(2, u32),
    type=Attr(3, u8),
    pi=Attr(4, u8),
    vnet_hdr=Attr(5, u8),
    persist=Attr(6, u8),
    multi_queue=Attr(7, u8),
    num_queues=Attr(8, u32),
    num_disabled_queues=Attr(9, u32),
)

__all__ = [name for name in globals() if name.isupper() and not name.startswith("_")]
