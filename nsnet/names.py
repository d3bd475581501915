"""Names for the numbers in messages: flags, states, scopes, types, as a person writes them.

Data, and the few functions that look it up: for explain.py and for the repr of objects, which say the same words. The
protocol itself needs none of it.
"""

from __future__ import annotations

from nsnet import rtnl
from nsnet.wire import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Tuple

# Constants that nothing but a reader needs, by uapi header; rtnl has the others.
CONSTANTS = {name: value for name, value in vars(rtnl).items() if type(value) is int}
CONSTANTS.update(
    # <linux/netlink.h>
    NLM_F_NONREC=0x100, NLM_F_BULK=0x200, NL_ATTR_TYPE_FLAG=1, NL_ATTR_TYPE_U8=2, NL_ATTR_TYPE_U16=3,
    NL_ATTR_TYPE_U32=4, NL_ATTR_TYPE_U64=5, NL_ATTR_TYPE_S8=6, NL_ATTR_TYPE_S16=7, NL_ATTR_TYPE_S32=8,
    NL_ATTR_TYPE_S64=9, NL_ATTR_TYPE_BINARY=10, NL_ATTR_TYPE_STRING=11, NL_ATTR_TYPE_NUL_STRING=12,
    NL_ATTR_TYPE_NESTED=13, NL_ATTR_TYPE_NESTED_ARRAY=14, NL_ATTR_TYPE_BITFIELD32=15, NL_ATTR_TYPE_SINT=16,
    NL_ATTR_TYPE_UINT=17,
    # <linux/rtnetlink.h>
    RTM_NEWPREFIX=52, RTM_GETMULTICAST=58, RTM_GETANYCAST=62, RTM_NEWNEIGHTBL=64, RTM_GETNEIGHTBL=66,
    RTM_SETNEIGHTBL=67, RTM_NEWNDUSEROPT=68, RTM_NEWADDRLABEL=72, RTM_DELADDRLABEL=73, RTM_GETADDRLABEL=74,
    RTM_GETDCB=78, RTM_SETDCB=79, RTM_NEWNETCONF=80, RTM_DELNETCONF=81, RTM_GETNETCONF=82, RTM_NEWMDB=84,
    RTM_DELMDB=85, RTM_GETMDB=86, RTM_NEWSTATS=92, RTM_GETSTATS=94, RTM_SETSTATS=95, RTM_NEWCACHEREPORT=96,
    RTM_NEWCHAIN=100, RTM_DELCHAIN=101, RTM_GETCHAIN=102, RTM_NEWVLAN=112, RTM_DELVLAN=113, RTM_GETVLAN=114,
    RTM_NEWNEXTHOPBUCKET=116, RTM_DELNEXTHOPBUCKET=117, RTM_GETNEXTHOPBUCKET=118, RTM_NEWTUNNEL=120,
    RTM_DELTUNNEL=121, RTM_GETTUNNEL=122, RTM_F_NOTIFY=0x100, RTM_F_CLONED=0x200, RTM_F_PREFIX=0x800,
    RTM_F_LOOKUP_TABLE=0x1000, RTM_F_FIB_MATCH=0x2000, RTM_F_OFFLOAD=0x4000, RTM_F_TRAP=0x8000,
    RTM_F_OFFLOAD_FAILED=0x20000000, RTNH_F_PERVASIVE=2, RTNH_F_OFFLOAD=8, RTNH_F_UNRESOLVED=32, RTNH_F_TRAP=64,
    RTPROT_GATED=8, RTPROT_RA=9, RTPROT_MRT=10, RTPROT_ZEBRA=11, RTPROT_BIRD=12, RTPROT_DNROUTED=13, RTPROT_XORP=14,
    RTPROT_NTK=15, RTPROT_DHCP=16, RTPROT_MROUTED=17, RTPROT_KEEPALIVED=18, RTPROT_BABEL=42, RTPROT_OPENR=99,
    RTPROT_BGP=186, RTPROT_ISIS=187, RTPROT_OSPF=188, RTPROT_RIP=189, RTPROT_EIGRP=192, RTN_NAT=10, RTN_XRESOLVE=11,
    RT_TABLE_COMPAT=252, RTEXT_FILTER_MRP=0x10, RTEXT_FILTER_CFM_CONFIG=0x20, RTEXT_FILTER_CFM_STATUS=0x40,
    RTEXT_FILTER_MST=0x80,
    # <linux/socket.h>, sys/socket.h
    AF_UNIX=1, AF_NETLINK=16, AF_PACKET=17, AF_MPLS=28, AF_CAN=29, RTNL_FAMILY_IPMR=128, RTNL_FAMILY_IP6MR=129,
    # <linux/if.h>
    IFF_BROADCAST=0x2, IFF_DEBUG=0x4, IFF_POINTOPOINT=0x10, IFF_NOTRAILERS=0x20, IFF_NOARP=0x80, IFF_PROMISC=0x100,
    IFF_ALLMULTI=0x200, IFF_MASTER=0x400, IFF_SLAVE=0x800, IFF_MULTICAST=0x1000, IFF_PORTSEL=0x2000,
    IFF_AUTOMEDIA=0x4000, IFF_DYNAMIC=0x8000, IFF_DORMANT=0x20000, IFF_ECHO=0x40000, IF_OPER_UNKNOWN=0,
    IF_OPER_NOTPRESENT=1, IF_OPER_DOWN=2, IF_OPER_LOWERLAYERDOWN=3, IF_OPER_TESTING=4, IF_OPER_DORMANT=5,
    IF_OPER_UP=6, IF_LINK_MODE_DEFAULT=0, IF_LINK_MODE_DORMANT=1, IF_LINK_MODE_TESTING=2,
    # <linux/if_arp.h>
    ARPHRD_ETHER=1, ARPHRD_INFINIBAND=32, ARPHRD_CAN=280, ARPHRD_PPP=512, ARPHRD_RAWIP=519,
    ARPHRD_TUNNEL=768, ARPHRD_TUNNEL6=769, ARPHRD_LOOPBACK=772, ARPHRD_SIT=776, ARPHRD_IPGRE=778,
    ARPHRD_IEEE80211=801, ARPHRD_IP6GRE=823, ARPHRD_NETLINK=824, ARPHRD_6LOWPAN=825, ARPHRD_NONE=0xFFFE,
    ARPHRD_VOID=0xFFFF,
    # <linux/if_link.h>, <linux/if_bridge.h>, <linux/if_ether.h>
    IN6_ADDR_GEN_MODE_STABLE_PRIVACY=2, IN6_ADDR_GEN_MODE_RANDOM=3, MACVLAN_MODE_PRIVATE=1, MACVLAN_MODE_VEPA=2,
    MACVLAN_MODE_BRIDGE=4, MACVLAN_MODE_PASSTHRU=8, MACVLAN_MODE_SOURCE=16, IPVLAN_MODE_L2=0, IPVLAN_MODE_L3=1,
    IPVLAN_MODE_L3S=2, BR_STATE_DISABLED=0, BR_STATE_LISTENING=1, BR_STATE_LEARNING=2, BR_STATE_FORWARDING=3,
    BR_STATE_BLOCKING=4, BRIDGE_MODE_VEB=0, BRIDGE_MODE_VEPA=1, BRIDGE_VLAN_INFO_BRENTRY=32, ETH_P_ALL=3,
    ETH_P_IP=0x0800, ETH_P_ARP=0x0806, ETH_P_8021Q=0x8100, ETH_P_IPV6=0x86DD, ETH_P_8021AD=0x88A8,
    # <linux/if_addr.h>, <linux/neighbour.h>, <linux/fib_rules.h>
    IFA_F_SECONDARY=0x1, IFA_F_OPTIMISTIC=0x4, IFA_F_DADFAILED=0x8, IFA_F_HOMEADDRESS=0x10,
    IFA_F_MANAGETEMPADDR=0x100, IFA_F_MCAUTOJOIN=0x400, IFA_F_STABLE_PRIVACY=0x800, IFAPROT_UNSPEC=0,
    IFAPROT_KERNEL_LO=1, IFAPROT_KERNEL_RA=2, IFAPROT_KERNEL_LL=3, NUD_NONE=0, NTF_OFFLOADED=32, NTF_STICKY=64,
    NTF_EXT_MANAGED=1, NTF_EXT_LOCKED=2, FIB_RULE_PERMANENT=1, FIB_RULE_UNRESOLVED=4, FIB_RULE_IIF_DETACHED=8,
    FIB_RULE_OIF_DETACHED=16,
)


def _named(*prefixes: str, but: Tuple[str, ...] = ()) -> Dict[int, str]:
    """{number: the rest of the name} of the constants with a prefix; of two with one number, the first."""
    found: Dict[int, str] = {}
    for prefix in prefixes:
        for name, number in CONSTANTS.items():
            if name.startswith(prefix) and not name.startswith(but):
                found.setdefault(number, name[len(prefix):])
    return dict(sorted(found.items()))


def _one(*prefixes: str) -> Callable[[int], str]:
    """How a number that is one of those constants is shown."""
    names = _named(*prefixes)
    return lambda value: names.get(value) or str(value)


def _bits(*prefixes: str, but: Tuple[str, ...] = ()) -> Callable[[int], str]:
    """How a number that is made of those bits is shown."""
    names = _named(*prefixes, but=but)
    return lambda value: "|".join(_bit_names(value, names)) or names.get(0, "0")


def _bit_names(value: int, names: Dict[int, str]) -> List[str]:
    """Names of bits, and what they leave as a number; a mask of everything is ~0."""
    if value == 0xFFFFFFFF:
        return ["~0"]
    found = []
    for bits, name in names.items():
        if bits and value & bits == bits:
            found.append(name)
            value &= ~bits
    return found + ([hex(value)] if value else [])


def _handle(value: int) -> str:
    """A tc handle, as tc writes it."""
    known = {0: "0", rtnl.TC_H_ROOT: "ROOT", rtnl.TC_H_INGRESS: "INGRESS"}.get(value)
    return known or f"{value >> 16:x}:" + (f"{value & 0xFFFF:x}" if value & 0xFFFF else "")


_FAMILY, _SCOPE, _TABLE, _PROTOCOL, _TYPE = (
    _one("AF_", "RTNL_FAMILY_"), _one("RT_SCOPE_"), _one("RT_TABLE_"), _one("RTPROT_"), _one("RTN_"))
_NTF_EXT = ("NTF_EXT_MANAGED", "NTF_EXT_LOCKED")                # of NDA_FLAGS_EXT; NTF_EXT_LEARNED is not
_NUD, _NTF, _IFA_F, _IFF = _bits("NUD_"), _bits("NTF_", but=_NTF_EXT), _bits("IFA_F_"), _bits("IFF_")
_RTM_F, _ETH_P, _IFAPROT, _FR_ACT, _BR_STATE = (
    _bits("RTM_F_", "RTNH_F_"), _one("ETH_P_"), _one("IFAPROT_"), _one("FR_ACT_"), _one("BR_STATE_"))

STRUCTS = {                            # fields of C structs
    "ifinfomsg": dict(family=_FAMILY, type=_one("ARPHRD_"), flags=_IFF, change=_IFF),
    "ifaddrmsg": dict(family=_FAMILY, flags=_IFA_F, scope=_SCOPE),
    "rtmsg": dict(family=_FAMILY, table=_TABLE, protocol=_PROTOCOL, scope=_SCOPE, type=_TYPE,
                  flags=_RTM_F),
    "rtnexthop": dict(flags=_bits("RTNH_F_")),
    "nhmsg": dict(family=_FAMILY, scope=_SCOPE, protocol=_PROTOCOL, flags=_bits("RTNH_F_")),
    "ndmsg": dict(family=_FAMILY, state=_NUD, flags=_NTF, type=_TYPE),
    "fib_rule_hdr": dict(family=_FAMILY, table=_TABLE, action=_FR_ACT, flags=_bits("FIB_RULE_")),
    "rtgenmsg": dict(family=_FAMILY),
    "tcmsg": dict(family=_FAMILY, handle=_handle, parent=_handle),
    "bridge_vlan_info": dict(flags=_bits("BRIDGE_VLAN_INFO_")),
}
ATTRIBUTES = {                         # attributes of one number
    **dict.fromkeys(("IFLA_VRF_TABLE", "IFLA_VRF_PORT_TABLE", "RTA_TABLE", "FRA_TABLE"), _TABLE),
    **dict.fromkeys(("FRA_PROTOCOL", "NDA_PROTOCOL"), _PROTOCOL),
    **dict.fromkeys(("IFLA_VLAN_PROTOCOL", "IFLA_BR_VLAN_PROTOCOL"), _ETH_P),
    **dict.fromkeys(("TCA_U32_CLASSID", "TCA_BPF_CLASSID"), _handle),
    "IFLA_OPERSTATE": _one("IF_OPER_"),
    "IFLA_LINKMODE": _one("IF_LINK_MODE_"),
    "IFLA_EXT_MASK": _bits("RTEXT_FILTER_"),
    "IFLA_INET6_ADDR_GEN_MODE": _one("IN6_ADDR_GEN_MODE_"),
    "IFLA_MACVLAN_MODE": _one("MACVLAN_MODE_"),
    "IFLA_IPVLAN_MODE": _one("IPVLAN_MODE_"),
    "IFLA_BRPORT_STATE": _BR_STATE,
    "IFLA_BRIDGE_FLAGS": _bits("BRIDGE_FLAGS_"),
    "IFLA_BRIDGE_MODE": _one("BRIDGE_MODE_"),
    "IFA_FLAGS": _IFA_F,
    "IFA_PROTO": _IFAPROT,
    "NDA_NDM_STATE_MASK": _NUD,
    "NDA_NDM_FLAGS_MASK": _NTF,
    "NDA_FLAGS_EXT": _bits("NTF_EXT_", but=("NTF_EXT_LEARNED",)),
    "NL_POLICY_TYPE_ATTR_TYPE": _one("NL_ATTR_TYPE_"),
}

_TC = dict(handle=_handle, parent=_handle)
OBJECTS = {                            # fields of nsnet.objects, by class
    "Port": dict(state=_BR_STATE),
    "Address": dict(scope=_SCOPE, flags=_IFA_F, proto=_IFAPROT),
    "Route": dict(table=_TABLE, protocol=_PROTOCOL, scope=_SCOPE, type=_TYPE, family=_FAMILY, flags=_RTM_F),
    "Rule": dict(family=_FAMILY, table=_TABLE, action=_FR_ACT, protocol=_PROTOCOL),
    "Nexthop": dict(scope=_SCOPE, protocol=_PROTOCOL, family=_FAMILY),
    "Neighbour": dict(state=_NUD, flags=_NTF, family=_FAMILY),
    "Qdisc": _TC, "TrafficClass": _TC, "Filter": dict(_TC, protocol=_ETH_P),
}

_MESSAGES = {**_named("NLMSG_"), **_named("RTM_", but=("RTM_F_",))}
_PLAIN_FLAGS = ("REQUEST", "MULTI", "ACK", "ECHO", "DUMP_INTR", "DUMP_FILTERED")
_FLAGS = {                              # what the bits from 0x100 on mean depends on what is asked
    kind: {CONSTANTS[f"NLM_F_{name}"]: name for name in (*_PLAIN_FLAGS, *names)}
    for kind, names in dict(control=("CAPPED", "ACK_TLVS"), get=("DUMP", "ROOT", "MATCH"), delete=("NONREC", "BULK"),
                            new=("REPLACE", "EXCL", "CREATE", "APPEND")).items()
}


def message_name(message: Message) -> str:
    name = _MESSAGES.get(message.type)
    return (f"RTM_{name}" if message.type >= 16 else f"NLMSG_{name}") if name else f"type {message.type}"


def flag_names(message: Message) -> List[str]:
    """rtnetlink counts NEW, DEL, GET, SET in fours."""
    kind = "control" if message.type < 16 else ("new", "delete", "get", "new")[message.type % 4]
    return _bit_names(message.flags, _FLAGS[kind])
