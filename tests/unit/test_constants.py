"""Every number copied from the kernel's headers, compared with the headers: one C file, compiled and run once."""

import os
import re
import shutil
import struct
import subprocess

import pytest
from discovered import HEADERS, TABLES, fixed_letters

from nsnet import kernel, rtnl, values, wire

INCLUDES = """\
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/fib_rules.h>
#include <linux/gen_stats.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tunnel.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/neighbour.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/nexthop.h>
#include <linux/nsfs.h>
#include <linux/pidfd.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/snmp.h>
#include <linux/sockios.h>
#include <linux/veth.h>
"""

# Newer than Debian 12's headers (Linux 6.1), with the kernel that has them. Checked all the same where they are known.
MAY_BE_MISSING = {
    **dict.fromkeys(["IFLA_BRPORT_MAB", "IFLA_DEVLINK_PORT"], "6.2"),
    **dict.fromkeys(["IFLA_BRPORT_MCAST_MAX_GROUPS", "IFLA_BRPORT_MCAST_N_GROUPS", "IFLA_GRO_IPV4_MAX_SIZE",
                     "IFLA_GSO_IPV4_MAX_SIZE"], "6.3"),
    **dict.fromkeys(["IFLA_BRPORT_NEIGH_VLAN_SUPPRESS", "IFLA_MACVLAN_BC_CUTOFF"], "6.4"),
    "IFLA_VXLAN_LOCALBYPASS": "6.5",
    "IFLA_BRPORT_BACKUP_NHID": "6.6",
    **dict.fromkeys(["IFLA_BR_FDB_MAX_LEARNED", "IFLA_BR_FDB_N_LEARNED", "IFLA_DPLL_PIN", "IFLA_NETKIT_MODE",
                     "IFLA_NETKIT_PEER_INFO", "IFLA_NETKIT_PEER_POLICY", "IFLA_NETKIT_POLICY", "IFLA_NETKIT_PRIMARY",
                     "IFLA_VXLAN_LABEL_POLICY"], "6.7"),
    **dict.fromkeys(["IFLA_BOND_COUPLED_CONTROL", "NHA_GROUP_STATS", "NHA_HW_STATS_ENABLE", "NHA_HW_STATS_USED",
                     "NHA_OP_FLAGS"], "6.9"),
    "weight_high": "6.12",              # of struct nexthop_grp
    **dict.fromkeys(["FRA_DSCP", "IFLA_MAX_PACING_OFFLOAD_HORIZON", "IFLA_NETKIT_PEER_SCRUB", "IFLA_NETKIT_SCRUB"], "6.13"),
    **dict.fromkeys(["FRA_FLOWLABEL", "FRA_FLOWLABEL_MASK", "IFLA_NETKIT_HEADROOM", "IFLA_NETKIT_TAILROOM",
                     "IFLA_VXLAN_RESERVED_BITS", "RTA_FLOWLABEL"], "6.14"),
    **dict.fromkeys(["FRA_DPORT_MASK", "FRA_DSCP_MASK", "FRA_SPORT_MASK", "IFLA_NETNS_IMMUTABLE"], "6.15"),
    **dict.fromkeys(["DEVCONF_FORCE_FORWARDING", "IFLA_BOND_BROADCAST_NEIGH"], "6.17"),
    **dict.fromkeys(["IFLA_BOND_SLAVE_ACTOR_PORT_PRIO", "IFLA_HEADROOM", "IFLA_TAILROOM"], "6.18"),
}

# Arrays that are read as structs, for their places have names: what these begin with, and the number of the first.
ARRAYS = {"ipv4_devconf": ("IPV4_DEVCONF", 1), "ipv6_devconf": ("DEVCONF", 0), "icmp6_mib": ("ICMP6_MIB", 0)}
STRUCTS = {name: fixed for name, fixed in HEADERS.items() if name not in ARRAYS}

NOT_UAPI = {"LOOPBACK_IFINDEX"}         # include/net/net_namespace.h: kernel source only

# What the fields of a struct begin with in C; of the others, with nothing.
PREFIXES = {"ifinfomsg": "ifi_", "ifaddrmsg": "ifa_", "rtmsg": "rtm_", "ndmsg": "ndm_", "nhmsg": "nh_", "tcmsg": "tcm_",
            "rtgenmsg": "rtgen_", "rtnexthop": "rtnh_", "rta_cacheinfo": "rta_", "nda_cacheinfo": "ndm_"}
PADDED = {"rtgenmsg": 3}                # bytes behind a struct of one, for attributes begin at a multiple of four
# And those whose names are other ones there. In nlmsgerr a whole nlmsghdr stands.
OTHER_FIELDS = {
    **{("nlmsgerr", name): f"msg.nlmsg_{name}" for name in ("len", "type", "flags", "seq", "pid")},
    **{(name, field): field.replace("_", ".", 1) for name, fixed in HEADERS.items() for field in fixed.tuple._fields
       if field.startswith(("rate_", "peakrate_", "ceil_"))},                                     # struct tc_ratespec
    ("ifla_vlan_qos_mapping", "from_"): "from",                                 # a word of Python
}
BIG_STRUCTS = {HEADERS["ifla_vxlan_port_range"]}            # of __be16; the machine's order for all others
# of kernel.py, which has numbers of ours too
KERNELS_OWN = ("NETLINK_", "SIOC", "ETHTOOL_", "NS_", "SO_")
CLONE_NAMES = {"mnt": "CLONE_NEWNS"}


def module_constants(module):
    """{name in the header: number} of a module's own constants, those of other modules left out."""
    found = {}
    for name, value in vars(module).items():
        if re.fullmatch(r"_?[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", name) and type(value) is int and name not in NOT_UAPI:
            found[name.lstrip("_")] = value
    return found


def constants():
    """{name: number} of all that nsnet has copied."""
    found = module_constants(rtnl)
    found.update({name: number for number, name in rtnl.MESSAGE_NAMES.items()})
    for table in TABLES.values():
        found.update({table.constant(name): attr.number for name, attr in table.rows.items()})
    found.update({name: value for name, value in module_constants(kernel).items() if name.startswith(KERNELS_OWN)})
    found.update({CLONE_NAMES.get(kind, f"CLONE_NEW{kind.upper()}"): flag for kind, flag in kernel.CLONE_FLAGS.items()})
    found.update({f"CAP_{name.upper()}": number for number, name in enumerate(values.CAPABILITIES)})
    for name, (prefix, first) in ARRAYS.items():
        found.update({f"{prefix}_{field.upper()}": number
                      for number, field in enumerate(HEADERS[name].tuple._fields, first)})
    found.update({f"IF_OPER_{name.upper()}": number for number, name in enumerate(rtnl.OPERSTATES)})
    found.update({"NLA_F_NESTED": wire.NLA_F_NESTED, "NLA_F_NET_BYTEORDER": wire.NLA_F_NET_BYTEORDER})
    return found


def layouts():
    """{C expression: number}: sizes, and where each field stands."""
    found = {"sizeof(struct nlmsghdr)": wire.NLMSG_HEADER.size, "sizeof(struct nlattr)": wire.ATTR_HEADER.size,
             "sizeof(struct ifreq)": kernel._IFREQ.size, "offsetof(struct ifreq, ifr_ifindex)": 16,
             "sizeof(((struct ifreq *)0)->ifr_name)": 16}
    for name, fixed in STRUCTS.items():
        kind, letters, at = f"struct {name}", fixed_letters(fixed, padding=True), 0
        found[f"sizeof({kind})"] = fixed.size - PADDED.get(name, 0)
        fields = iter(fixed.tuple._fields)
        for letter in letters:
            if letter != "x":
                field = next(fields)
                member = OTHER_FIELDS.get((name, field), PREFIXES.get(name, "") + field)
                found[f"offsetof({kind}, {member})"] = at
                found[f"sizeof((({kind} *)0)->{member})"] = struct.calcsize("=" + letter)
                found[f"(__typeof__((({kind} *)0)->{member}))-1 < 0"] = letter.islower()
            at += struct.calcsize("=" + letter)
    return found


def compiled(directory, expressions, *options):
    """gcc's exit code and words for a program that prints each expression and its value."""
    source = directory / "constants.c"
    lines = "\n".join(f'\tprintf("%s=%lld\\n", "{text}", (long long)({text}));' for text in expressions)
    source.write_text(f"{INCLUDES}\nint main(void)\n{{\n{lines}\n\treturn 0;\n}}\n")
    done = subprocess.run(["gcc", "-std=gnu11", "-w", *options, str(source)], capture_output=True, text=True,
                          env={**os.environ, "LC_ALL": "C"}, cwd=directory)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def headers_say(tmp_path_factory):
    """(what the headers say of every expression, the names that they do not know)."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: the constants cannot be compared with the kernel's headers")
    directory = tmp_path_factory.mktemp("constants")
    wanted = [*constants(), *layouts()]
    _, words = compiled(directory, wanted, "-fsyntax-only")
    if "fatal error" in words:
        pytest.skip(f"no kernel headers: {words.splitlines()[0]}")
    missing = {one or other
               for one, other in re.findall(r"error: '(\w+)' undeclared|has no member named '(\w+)'", words)}
    known = [text for text in wanted if missing.isdisjoint(re.findall(r"\w+", text))]
    code, words = compiled(directory, known, "-o", "constants")
    assert code == 0, words
    printed = subprocess.run([str(directory / "constants")], capture_output=True, text=True, check=True).stdout
    return {text: int(number) for text, _, number in (line.rpartition("=") for line in printed.splitlines())}, missing


def test_every_constant_is_the_headers(headers_say):
    said, missing = headers_say
    ours = {**constants(), **layouts()}
    wrong = {name: (number, said[name]) for name, number in ours.items()
                    if name in said and said[name] != number}
    assert not wrong, "ours, the header's"
    assert {name for name in ours if name not in said} == {
        name for name in ours if not missing.isdisjoint(re.findall(r"\w+", name))}
    assert len(said) > 1200


def test_only_what_is_newer_than_the_headers_is_missing_there(headers_say):
    assert headers_say[1] <= set(MAY_BE_MISSING)


def test_the_list_of_what_may_be_missing_has_nothing_else():
    fields = {name for fixed in HEADERS.values() for name in fixed.tuple._fields}
    assert set(MAY_BE_MISSING) <= set(constants()) | fields


def test_every_field_of_every_struct_is_compared():
    assert len(STRUCTS) >= 35
    for name, fixed in STRUCTS.items():
        assert len(fixed_letters(fixed)) == len(fixed.tuple._fields), name
        assert f"sizeof(struct {name})" in layouts()


def test_an_array_with_names_has_one_number_a_place():
    for name in ARRAYS:
        assert len(set(fixed_letters(HEADERS[name]))) == 1, name
        assert len(fixed_letters(HEADERS[name], padding=True)) == len(HEADERS[name].tuple._fields), name


def test_the_mask_of_attribute_types_is_what_the_flags_leave():
    assert wire.NLA_TYPE_MASK == 0xFFFF & ~(wire.NLA_F_NESTED | wire.NLA_F_NET_BYTEORDER)


def test_no_two_rows_are_one_constant_but_where_a_level_has_several_tables():
    """And then it is one number."""
    again = {id(rtnl.BRIDGE_LINK), id(rtnl.INET6_LINK), id(rtnl.IP6TNL)}
    numbers = {}
    for table in TABLES.values():
        for name, attr in table.rows.items():
            numbers.setdefault(table.constant(name), []).append((attr.number, table))
    assert [name for name, found in numbers.items() if len({number for number, _ in found}) > 1] == []
    tables = {name: [table for _, table in found if id(table) not in again] for name, found in numbers.items()}
    twice = {name for name, found in tables.items() if len(found) > 1}
    # within IFLA_PROP_LIST, and beside it in a question; within IFLA_MACVLAN_MACADDR_DATA, and beside it for one
    assert twice == {"IFLA_ALT_IFNAME", "IFLA_MACVLAN_MACADDR"}


def test_network_byte_order_is_where_the_kernel_has_it():
    """nla_get_be16, nla_put_be32 and so on in the kernel; the rest is the machine's order."""
    big = {table.constant(name) for table in TABLES.values() for name, attr in table.rows.items()
           if attr.codec in (wire.be16, wire.be32, wire.be64) or getattr(attr.codec, "fixed", None) in BIG_STRUCTS}
    tunnel = ("ENCAP_SPORT", "ENCAP_DPORT", "FLOWINFO")
    assert big == {
        "IFLA_BR_VLAN_PROTOCOL", "IFLA_VLAN_PROTOCOL",                          # br_netlink.c, vlan_netlink.c
        "IFLA_VXLAN_PORT", "IFLA_VXLAN_PORT_RANGE", "IFLA_VXLAN_LABEL",         # vxlan_core.c
        *(f"IFLA_GRE_{name}" for name in ("IFLAGS", "OFLAGS", "IKEY", "OKEY", *tunnel)),     # ip_gre.c, ip6_gre.c
        *(f"IFLA_IPTUN_{name}" for name in tunnel),                             # ipip.c, sit.c, ip6_tunnel.c
        "RTA_SPORT", "RTA_DPORT", "RTA_FLOWLABEL",                              # route.c
        "FRA_TUN_ID", "FRA_FLOWLABEL", "FRA_FLOWLABEL_MASK",                    # fib_rules.c, fib6_rules.c
        "NDA_PORT"}                                                             # vxlan_core.c


def test_every_message_has_a_name():
    types = {name: value for name, value in module_constants(rtnl).items() if name.startswith(("RTM_", "NLMSG_"))}
    assert {number: name for name, number in types.items()} == rtnl.MESSAGE_NAMES
    assert set(rtnl.LAYOUTS) == {number for name, number in types.items() if name.startswith("RTM_")}


def test_rtnetlink_counts_in_fours():
    """NEW, DEL, GET, SET: exchange.Request.is_dump and explain's flags rely on it."""
    for number, name in rtnl.MESSAGE_NAMES.items():
        if name.startswith("RTM_"):
            assert ("NEW", "DEL", "GET", "SET")[number % 4] == name[4:7]


def test_the_struct_formats_have_no_hidden_padding():
    for fixed in HEADERS.values():
        big = fixed in BIG_STRUCTS
        assert fixed._struct.format[0] == "=!"[big], "native alignment would differ between machines"
