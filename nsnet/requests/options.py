"""What a kind of link has of its own, and what its master knows of a port: options by name, and their numbers.

Pure. An option is a row of the kind's table in rtnl. What the kernel would ignore, cut off or change without a word is
refused here: each entry below was found by setting it and reading it back, or in the function that is named beside it.
"""

from __future__ import annotations

from functools import lru_cache

from nsnet import rtnl, wire
from nsnet.errors import UsageError
from nsnet.requests.common import U32, choice, kind_name, number
from nsnet.tables import Choice, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, Iterable, Mapping, Optional, Tuple

DATA: Choice = rtnl.LINKINFO.rows["data"].codec
PORT_DATA: Choice = rtnl.LINKINFO.rows["slave_data"].codec
KIND_BYTES = 55                     # MODULE_NAME_LEN, include/linux/module.h, is 56

# Rows that are set in vain: the kernel only reports them, or has dropped them, or they are of a sibling kind that has
# the same table. br_changelink() and br_setport() in net/bridge/br_netlink.c; the *_netlink_parms() of the tunnels.
_ENCAP = {"encap_flags", "encap_sport", "encap_dport"}
_ERSPAN = {"erspan_index", "erspan_ver", "erspan_dir", "erspan_hwid"}
_6RD = {"6rd_prefix", "6rd_relay_prefix", "6rd_prefixlen", "6rd_relay_prefixlen"}
_GRE = {"flowinfo", "flags", "encap_limit"}
_GRE6 = {"tos", "pmtudisc", "ignore_df"} | _ERSPAN
IN_VAIN = {
    "bridge": {"root_id", "bridge_id", "root_port", "root_path_cost", "topology_change", "topology_change_detected",
               "hello_timer", "tcn_timer", "topology_change_timer", "gc_timer", "mcast_querier_state", "fdb_n_learned",
               "mcast_hash_elasticity"},
    "bond": {"ad_info"},
    "macvlan": {"macaddr_count", "bc_queue_len_used"},
    "macvtap": {"macaddr_count", "bc_queue_len_used"},
    "erspan": _GRE, "gre": _GRE | _ERSPAN, "gretap": _GRE | _ERSPAN, "ip6gre": _GRE6, "ip6gretap": _GRE6,
    "ipip": {"encap_limit", "flowinfo", "flags"} | _6RD,
    "sit": {"encap_limit", "flowinfo", "collect_metadata"},
    "ip6tnl": {"tos", "pmtudisc"},
}
PORT_IN_VAIN = {
    "bridge": {"root_id", "bridge_id", "designated_port", "designated_cost", "id", "no", "topology_change_ack",
               "config_pending", "message_age_timer", "forward_delay_timer", "hold_timer", "mrp_ring_open",
               "mrp_in_open", "mcast_eht_hosts_cnt", "mcast_n_groups", "learning_sync"},
    "bond": {"state", "mii_status", "link_failure_count", "perm_hwaddr", "ad_aggregator_id", "ad_actor_oper_port_state",
             "ad_partner_oper_port_state"},
}
FIXED_AT_BIRTH = {"vlan": {"id", "protocol"}}       # vlan_changelink() looks at neither
# Rows that are looked at only where another one is set.
_NEEDS = {"macaddr": "macaddr_mode", "macaddr_data": "macaddr_mode", "ikey": "iflags", "okey": "oflags",
          **dict.fromkeys(_ENCAP, "encap_type")}
_EITHER = {"group6": "group", "local6": "local"}    # vxlan_nl2conf() takes the one and forgets the other
# Of these any number that is not 0 is 1 to the kernel.
SWITCHES = {
    "bridge": {"stp_state", "vlan_filtering", "vlan_stats_enabled", "vlan_stats_per_port", "mcast_snooping",
               "mcast_query_use_ifaddr", "mcast_querier", "mcast_stats_enabled", "nf_call_iptables",
               "nf_call_ip6tables", "nf_call_arptables"},
    "vxlan": {"learning", "proxy", "rsc", "l2miss", "l3miss", "udp_csum", "udp_zero_csum6_tx", "udp_zero_csum6_rx",
              "remcsum_tx", "remcsum_rx", "collect_metadata", "vnifilter", "localbypass"},
    **dict.fromkeys(("gre", "gretap", "erspan"), {"pmtudisc", "ignore_df"}),        # ipgre_netlink_parms()
    **dict.fromkeys(("ipip", "sit"), {"pmtudisc"}),                                 # ipip_netlink_parms()
}
PORT_SWITCHES = {
    "bridge": {"mode", "guard", "protect", "fast_leave", "learning", "unicast_flood", "proxyarp", "proxyarp_wifi",
               "mcast_flood", "mcast_to_ucast", "vlan_tunnel", "bcast_flood", "neigh_suppress", "isolated", "locked",
               "mab", "neigh_vlan_suppress"},
}
# (least, most, unit) where the kernel takes more than it then has.
_DAY = 8_640_000                                    # 1/100 s
_CLOCK = (0, 1 << 40, "hundredths of a second")     # far beyond, the kernel's conversion to its ticks is cut off
RANGES: Dict[str, Dict[str, Tuple[int, int, str]]] = {
    "bridge": {
        # BR_MULTICAST_QUERY_INTVL_MIN and _MAX, BR_MULTICAST_STARTUP_QUERY_INTVL_*, net/bridge/br_private.h
        "mcast_query_intvl": (100, _DAY, "hundredths of a second"),
        "mcast_startup_query_intvl": (100, _DAY, "hundredths of a second"),
        **dict.fromkeys(("mcast_last_member_intvl", "mcast_membership_intvl", "mcast_querier_intvl",
                         "mcast_query_response_intvl"), _CLOCK),
    },
    "vxlan": {
        "ageing": (1, U32, "seconds"),              # 0 is taken for the default, 300
        "port": (1, 65535, ""),                     # and 0 for 8472
        "label": (0, 0xFFFFF, ""),                  # of 20 bits
        "link": (1, 0x7FFFFFFF, ""),                # 0 changes nothing
    },
}
_MASKED = {("bridge", "multi_boolopt"), ("vlan", "flags")}      # bits, and a mask of those that are to change
# Where VLAN filtering is not built in, br_changelink() has not even the lines that would look at them.
VLAN_OPTIONS = frozenset({"vlan_filtering", "vlan_protocol", "vlan_default_pvid", "vlan_stats_enabled",
                          "vlan_stats_per_port"})
PORT_STATES = {"disabled": rtnl.BR_STATE_DISABLED, "listening": rtnl.BR_STATE_LISTENING,
               "learning": rtnl.BR_STATE_LEARNING, "forwarding": rtnl.BR_STATE_FORWARDING,
               "blocking": rtnl.BR_STATE_BLOCKING}

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8, "source": 16}             # enum macvlan_mode
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}                                                     # enum ipvlan_mode
BOND_MODES = {"balance-rr": 0, "active-backup": 1, "balance-xor": 2, "broadcast": 3, "802.3ad": 4, "balance-tlb": 5,
              "balance-alb": 6}                                                                 # <linux/if_bonding.h>
NETKIT_MODES = {"l2": 0, "l3": 1}                                                               # enum netkit_mode
NETKIT_POLICIES = {"forward": 0, "blackhole": 2}                                                # enum netkit_action
VLAN_PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}                                          # <linux/if_ether.h>

# The settings of IPv4 by their names in /proc/sys/net/ipv4/conf; the four that the uapi header calls otherwise.
# mc_forwarding is for the multicast routing daemon's socket alone to change, and there it cannot be written either.
_OTHER_NAMES = {"arpfilter": "arp_filter", "noxfrm": "disable_xfrm", "nopolicy": "disable_policy",
                "src_vmark": "src_valid_mark"}
IPV4_CONF = {_OTHER_NAMES.get(row, row): row for row in rtnl.IPV4_DEVCONF.rows if row != "mc_forwarding"}

_NOTHING: FrozenSet[str] = frozenset()


@lru_cache(maxsize=256)
def _allowed(kind: str, port: bool, but: FrozenSet[str]) -> Tuple[Optional[Table], Dict[str, None]]:
    """The table of a kind, and those of its rows that may be set, in their order."""
    of, in_vain = (PORT_DATA, PORT_IN_VAIN) if port else (DATA, IN_VAIN)
    table = of.codecs[kind].table if kind in of.codecs else None
    vain = but | in_vain.get(kind, _NOTHING)
    return table, dict.fromkeys(row for row in table.rows if row not in vain) if table else {}


def _options(kind: str, options: Mapping, port: bool, but: Iterable[str], what: str) -> Dict:
    """Options by name, checked against the kind's table: the kernel ignores what it does not know."""
    table, allowed = _allowed(kind, port, frozenset(but))
    switches = (PORT_SWITCHES if port else SWITCHES).get(kind, _NOTHING)
    ranges: Mapping = {} if port else RANGES.get(kind, {})
    for name, value in options.items():
        if table is None or name not in allowed:
            raise UsageError(f"{what} option {name!r}: expected one of {', '.join(allowed)}" if allowed else
                             f"{what} option {name!r}: expected none, no option of this kind is known")
        if _NEEDS.get(name) in allowed and _NEEDS[name] not in options:
            raise UsageError(f"{what} option {name!r}: expected {_NEEDS[name]} with it")
        if table.rows[name].codec in (wire.flag, wire.flag_or_byte) and value is not True:
            raise UsageError(f"{what} option {name!r}: expected True, or that it is left out: to be there turns it on")
        if _EITHER.get(name) in options:
            raise UsageError(f"{what} option {name!r}: expected no {_EITHER[name]} with it")
        if name in switches and value is not True and value is not False:
            number(value, 0, 1, f"{what} option {name!r}")
        if name in ranges:
            _in_range(value, *ranges[name], f"{what} option {name!r}")
        if (kind, name) in _MASKED:
            _masked(table.rows[name].codec, value, f"{what} option {name!r}")
    return dict(options)


def _in_range(value: Any, low: int, high: int, unit: str, what: str) -> None:
    try:
        number(value, low, high, what)
    except UsageError as error:
        raise UsageError(f"{error} {unit}".rstrip()) from None


def _masked(codec: Any, value: Any, what: str) -> None:
    """Bits that the mask leaves out would be ignored."""
    bits, mask = codec.decode(codec.encode(value))
    if not mask or bits & ~mask:
        raise UsageError(f"{what} {value!r}: expected a mask that is not 0, and no bit outside it")


def kind_options(kind: str, options: Mapping, but: Iterable[str] = ()) -> Dict:
    """The IFLA_INFO_DATA of a kind, checked. `but`: rows that are set otherwise."""
    if kind == "tun":
        raise UsageError("link kind 'tun': expected another; a tun device is made by opening /dev/net/tun")
    kind_name(kind, KIND_BYTES, "link kind")
    return _options(kind, options, False, but, kind) if options else {}


def port_options(kind: str, options: Mapping) -> Dict:
    """What the master of a link, of that kind, may be told of it as a port, checked."""
    if kind_name(kind, KIND_BYTES, "kind of port") not in PORT_IN_VAIN:
        raise UsageError(f"kind of port {kind!r}: expected one of {', '.join(PORT_IN_VAIN)}")
    data = _options(kind, options, True, (), f"{kind} port")
    if kind == "bridge" and "state" in data:
        data["state"] = choice(data["state"], PORT_STATES, "bridge port option 'state'")
    return data


def ipv4_conf(options: Mapping) -> Dict:
    """Settings of IPv4 by the names of their sysctls, as rows of rtnl.IPV4_DEVCONF. On and off: True and False."""
    found = {}
    for name, value in options.items():
        if name not in IPV4_CONF:
            raise UsageError(f"setting {name!r}: expected one of {', '.join(IPV4_CONF)}")
        if value is not True and value is not False:        # medium_id -1: a proxy for all media
            number(value, -1 if name == "medium_id" else 0, 0x7FFFFFFF, f"setting {name!r}")
        found[IPV4_CONF[name]] = int(value.__index__()) & U32
    return found
