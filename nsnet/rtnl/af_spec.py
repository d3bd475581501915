"""What IPv4 and IPv6 say of a link, and what may be set there: IFLA_AF_SPEC.

Data, but for one codec: what IPv4 tells has another form than what it takes. <linux/if_link.h>, <linux/ip.h>,
<linux/ipv6.h>, <linux/snmp.h>; inet_fill_link_af() in net/ipv4/devinet.c, inet6_fill_ifla6_attrs() in
net/ipv6/addrconf.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from nsnet.errors import UsageError
from nsnet.rtnl.numbers import AF_INET, AF_INET6
from nsnet.tables import Attr, Table, nested
from nsnet.wire import ATTR_HEADER, Codec, Fixed, Plain, Record, ip, raw, record, u8, u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IPV4 = ("forwarding", "mc_forwarding", "proxy_arp", "accept_redirects", "secure_redirects", "send_redirects",
         "shared_media", "rp_filter", "accept_source_route", "bootp_relay", "log_martians", "tag", "arpfilter",
         "medium_id", "noxfrm", "nopolicy", "force_igmp_version", "arp_announce", "arp_ignore", "promote_secondaries",
         "arp_accept", "arp_notify", "accept_local", "src_vmark", "proxy_arp_pvlan", "route_localnet",
         "igmpv2_unsolicited_report_interval", "igmpv3_unsolicited_report_interval", "ignore_routes_with_linkdown",
         "drop_unicast_in_l2_multicast", "drop_gratuitous_arp", "bc_forwarding", "arp_evict_nocarrier")
_IPV6 = ("forwarding", "hoplimit", "mtu6", "accept_ra", "accept_redirects", "autoconf", "dad_transmits",
         "rtr_solicits", "rtr_solicit_interval", "rtr_solicit_delay", "use_tempaddr", "temp_valid_lft",
         "temp_prefered_lft", "regen_max_retry", "max_desync_factor", "max_addresses", "force_mld_version",
         "accept_ra_defrtr", "accept_ra_pinfo", "accept_ra_rtr_pref", "rtr_probe_interval",
         "accept_ra_rt_info_max_plen", "proxy_ndp", "optimistic_dad", "accept_source_route", "mc_forwarding",
         "disable_ipv6", "accept_dad", "force_tllao", "ndisc_notify", "mldv1_unsolicited_report_interval",
         "mldv2_unsolicited_report_interval", "suppress_frag_ndisc", "accept_ra_from_local", "use_optimistic",
         "accept_ra_mtu", "stable_secret", "use_oif_addrs_only", "accept_ra_min_hop_limit",
         "ignore_routes_with_linkdown", "drop_unicast_in_l2_multicast", "drop_unsolicited_na", "keep_addr_on_down",
         "rtr_solicit_max_interval", "seg6_enabled", "seg6_require_hmac", "enhanced_dad", "addr_gen_mode",
         "disable_policy", "accept_ra_rt_info_min_plen", "ndisc_tclass", "rpl_seg_enabled", "ra_defrtr_metric",
         "ioam6_enabled", "ioam6_id", "ioam6_id_wide", "ndisc_evict_nocarrier", "accept_untracked_na",
         "accept_ra_min_lft", "force_forwarding")

# IPV4_DEVCONF_* count from 1; what the kernel tells is an array that begins with the first of them.
IPV4_DEVCONF = Table("IPV4_DEVCONF", **{name: Attr(number, u32) for number, name in enumerate(_IPV4, 1)})


class DeviceConf(Codec):
    """IFLA_INET_CONF: the kernel tells all numbers as an array, a named tuple here; it takes those that are to change
    as attributes, a mapping here. Either is written as it was read.
    """

    def __init__(self, array: Record, table: Table):
        self.array, self.table, self.name = array, table, array.name

    def encode(self, value: Any) -> bytes:
        return (self.table if isinstance(value, Mapping) else self.array).encode(value)

    def decode(self, data: bytes, depth: int = 0) -> Any:
        return (self.table if self._are_attributes(data) else self.array).decode(data, depth)

    def _are_attributes(self, data: bytes) -> bool:
        """Each of a number that is known, none twice: as an array, that would say some 65544 of the first setting."""
        if len(data) % 8:
            return False
        headers = [ATTR_HEADER.unpack_from(data, at) for at in range(0, len(data), 8)]
        kinds = {kind for length, kind in headers if length == 8 and kind in self.table.by_number}
        return len(kinds) == len(headers)


def _pack_counters(value: Any) -> bytes:
    try:
        return struct.pack(f"={len(value)}Q", *value)
    except struct.error:
        raise UsageError(f"{value!r}: expected numbers that fit u64") from None


def _unpack_counters(data: bytes) -> Any:
    if len(data) % 8:
        raise ValueError("expected a multiple of 8")
    return struct.unpack(f"={len(data) // 8}Q", data)


COUNTERS = Plain("u64[]", _pack_counters, _unpack_counters)

_ARRAY = record(Fixed("ipv4_devconf", "33I", *_IPV4), grows=True)
INET = Table("IFLA_INET", conf=Attr(1, DeviceConf(_ARRAY, IPV4_DEVCONF)))
INET6 = Table(
    "IFLA_INET6",
    flags=Attr(1, u32),
    conf=Attr(2, record(Fixed("ipv6_devconf", "60i", *_IPV6), grows=True)),                 # by DEVCONF_*
    # By IPSTATS_MIB_*; the first says how many there are. No names: the order is another since Linux 6.15.
    stats=Attr(3, COUNTERS),
    mcast=Attr(4, raw),
    cacheinfo=Attr(5, record(Fixed("ifla_cacheinfo", "IIII", "max_reasm_len", "tstamp", "reachable_time",
                                   "retrans_time"))),
    icmp6stats=Attr(6, record(Fixed("icmp6_mib", "7Q", "num", "inmsgs", "inerrors", "outmsgs", "outerrors",
                                    "csumerrors", "ratelimithost"), grows=True)),           # by ICMP6_MIB_*
    token=Attr(7, ip),
    addr_gen_mode=Attr(8, u8),
    ra_mtu=Attr(9, u32),
)
AF_SPEC = Table("AF", inet=Attr(AF_INET, nested(INET)), inet6=Attr(AF_INET6, nested(INET6)))

__all__ = [name for name in globals() if name.isupper() and not name.startswith("_")]
