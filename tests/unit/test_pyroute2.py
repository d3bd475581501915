"""A second oracle: pyroute2 builds the golden requests of iproute2 from their meaning, and gets our bytes.

It is given the values under its own names in the order that they stand in; each table of rtnl is walked once more for
that, so what is compared is the number and the encoding of every attribute, not how the two libraries are called.
"""

import pytest
from meanings import MEANINGS
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import cls_u32, sched_htb, sched_tbf, tcmsg
from strategies import golden
from test_golden import REQUESTS

from nsnet import rtnl
from nsnet.tables import Chain, Choice, Layout, Nested
from nsnet.wire import Record, encode_message, messages

THEIR_CLASS = {rtnl.LINK_BODY: ifinfmsg, rtnl.ADDR_BODY: ifaddrmsg, rtnl.ROUTE_BODY: rtmsg, rtnl.RULE_BODY: fibmsg,
               rtnl.NEIGH_BODY: ndmsg, rtnl.TC_BODY: tcmsg, rtnl.NSID_BODY: nsidmsg}
THEIR_FIELD = {("rtmsg", "protocol"): "proto", ("tcmsg", "ifindex"): "index", ("rtnexthop", "ifindex"): "oif",
               ("ifa_cacheinfo", "ifa_prefered"): "ifa_preferred"}

# What pyroute2 0.9.7 cannot say, or says differently; the golden bytes and the kernel's headers are the judges there.
CANNOT = {
    **dict.fromkeys(["link_add_macvlan", "link_add_macvtap", "link_add_ipvlan", "link_add_vxlan_external",
                     "link_add_erspan", "link_add_ip6gre", "link_add_sit", "link_add_ipip", "link_add_ip6tnl",
                     "link_set_bridge_all", "bridge_vlan_add_tunnel", "qdisc_replace_block", "route_add_nhid",
                     "route_get", "route_add_v6_src"],
                    "it has no names for some of the attributes, or no type"),
    "link_add_vlan": "it has no fields for struct ifla_vlan_qos_mapping",
    "link_add_vxlan_v6": "it writes IFLA_VXLAN_LABEL in the machine's byte order",
    "link_add_bond": "it writes IFLA_BOND_AD_ACTOR_SYSTEM as text",
    "link_add_bond_arp": "it counts IFLA_BOND_ARP_IP_TARGET from 1, and has no IFLA_BOND_NS_IP6_TARGET",
    "link_set_bridge_port": "it has no bridge_slave, which is no kind",
    "rule_add_ports": "it wants ranges as text",
    "nsid_set_auto": "its ids have no sign",
    **dict.fromkeys(["route_add_multipath_v6", "route_add_via_inet6"], "it wants the family of RTA_VIA besides"),
    **dict.fromkeys(["qdisc_add_tbf", "qdisc_add_tbf_fast", "class_add_htb", "class_add_htb_fast",
                     "filter_add_u32_police", "filter_add_u32", "filter_add_u32_all", "filter_add_bpf",
                     "filter_add_bpf_egress"], "it makes these from words, see below"),
}
COMPARED = sorted({name for name in (*MEANINGS, *REQUESTS) if name not in CANNOT and not name.startswith("nexthop_")})


def their_fields(header):
    return {THEIR_FIELD.get((type(header).__name__, field), field): value for field, value in header._asdict().items()}


def their_attributes(table, values):
    """[(constant, value), ...] as pyroute2 takes them."""
    found = []
    for name, value in values.items():
        attr = table.rows[name]
        codec = attr.codec.pick(values) if isinstance(attr.codec, Choice) else attr.codec
        for one in value if attr.many else [value]:
            if isinstance(codec, Nested):
                one = {"attrs": their_attributes(codec.table, one)}
            elif isinstance(codec, Layout):
                one = {**their_fields(one.header), "attrs": their_attributes(codec.table, one.attrs)}
            elif isinstance(codec, Chain):
                one = [{**their_fields(hop.header), "attrs": their_attributes(codec.table, hop.attrs)} for hop in one]
            elif isinstance(codec, Record):
                one = their_fields(one)
            found.append((table.constant(name), one))
    return found


def built(message, header, attrs):
    """pyroute2's bytes of a message."""
    theirs = THEIR_CLASS[rtnl.LAYOUTS[message.type]]()
    for field, value in their_fields(header).items():
        theirs[field] = value
    theirs["attrs"] = attrs
    theirs["header"].update(type=message.type, flags=message.flags, sequence_number=message.seq)
    theirs.encode()
    return bytes(theirs.data)


def same_meaning(data):
    """The message written by our tables: they write no NUL behind IFLA_INFO_KIND and the like, and padding of zeros.

    The attributes are copied: what was decoded keeps the flag bits that it came with, and pyroute2 sets none.
    """
    (message,) = messages(data)
    layout = rtnl.LAYOUTS[message.type]
    header, attrs = layout.decode(message.payload)
    return encode_message(message.type, message.flags, message.seq, layout.encode((header, {**attrs})))


@pytest.mark.parametrize("name", COMPARED)
def test_pyroute2_builds_the_same_bytes(name):
    (message,) = messages(golden(name))
    layout = rtnl.LAYOUTS[message.type]
    body = layout.decode(message.payload)
    table = layout.table_for(body.header.family)
    theirs = built(message, body.header, their_attributes(table, body.attrs))
    assert same_meaning(theirs) == golden(name)
    # pyroute2 ends every text with a NUL; iproute2 and nsnet do not end IFLA_INFO_KIND, IFLA_IFALIAS and RTAX_CC_ALGO.
    # And it never sets NLA_F_NESTED. The kernel takes either, in these messages.
    odd = {"linkinfo", "ifalias", "protinfo", "xdp"} & set(body.attrs) or "cc_algo" in body.attrs.get("metrics", {})
    if not odd:
        assert theirs == golden(name)


def options(name, kind, theirs=None):
    """TCA_OPTIONS of a golden request, or of the same message with pyroute2's options."""
    (message,) = messages(golden(name))
    body = rtnl.TC_BODY.decode(message.payload)
    if theirs is not None:
        (message,) = messages(built(message, body.header, [("TCA_KIND", kind), ("TCA_OPTIONS", theirs)]))
        body = rtnl.TC_BODY.decode(message.payload)
    return body.attrs["options"]


def test_pyroute2_makes_the_same_class_of_words():
    """It leaves out tc_ratespec.linklayer, which tc says is Ethernet, and takes no default for cburst from the rate."""
    words = {"rate": "10mbit", "ceil": "20mbit", "burst": 15360, "prio": 2, "quantum": 3000}
    ours = options("class_add_htb", "htb")
    theirs = options("class_add_htb", "htb", sched_htb.get_class_parameters(words))
    parms = theirs["parms"]._replace(rate_linklayer=1, ceil_linklayer=1, cbuffer=ours["parms"].cbuffer)
    assert {**theirs, "parms": parms} == ours


def test_pyroute2_makes_the_same_rate_of_words():
    words = {"rate": "10mbit", "burst": 32768, "limit": 65536}
    ours, theirs = options("qdisc_add_tbf", "tbf"), options("qdisc_add_tbf", "tbf", sched_tbf.get_parameters(words))
    assert theirs["rtab"] == ours["rtab"] and theirs["parms"].limit == 65536
    for field in ("rate_cell_log", "rate_cell_align", "rate_rate", "buffer"):
        assert getattr(theirs["parms"], field) == getattr(ours["parms"], field)


def test_pyroute2_makes_the_same_selector_of_words():
    """It compares a protocol as one byte, where tc compares two; and it has its keys in another order."""
    words = {"target": 0x10010, "keys": ["0x0a000000/0xffffff00+16", "0x00060000/0x00ff0000+8"]}
    ours, theirs = options("filter_add_u32", "u32"), options("filter_add_u32", "u32", cls_u32.get_parameters(words))
    assert theirs["classid"] == ours["classid"] and theirs["sel"][0] == ours["sel"][0]
    assert ours["sel"][1][0] in theirs["sel"][1]
