"""Every number copied from the kernel's headers, compared with the headers: one C file, compiled and run once."""

import os
import re
import shutil
import struct
import subprocess

import pytest
from strategies import HEADERS, TABLES, fixed_letters

from nsnet import kernel, rtnl, values, wire

INCLUDES = """\
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <linux/pidfd.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <linux/veth.h>
"""

# Newer than Debian 12's headers (Linux 6.1), with the kernel that has them. Checked all the same where they are known.
MAY_BE_MISSING = {
    "PIDFD_GET_INFO": "6.13",
    "PIDFD_INFO_EXIT": "6.15",
}

NOT_UAPI = {"LOOPBACK_IFINDEX"}         # include/net/net_namespace.h: kernel source only

# Fixed headers: struct, and what its fields begin with. In nlmsgerr a whole nlmsghdr stands.
STRUCTS = {"IFINFOMSG": "ifi_", "IFADDRMSG": "ifa_", "RTMSG": "rtm_", "NDMSG": "ndm_", "NLMSGERR": ""}
OTHER_FIELDS = {
    ("NLMSGERR", "len"): "msg.nlmsg_len", ("NLMSGERR", "type"): "msg.nlmsg_type",
    ("NLMSGERR", "flags"): "msg.nlmsg_flags",
    ("NLMSGERR", "seq"): "msg.nlmsg_seq", ("NLMSGERR", "pid"): "msg.nlmsg_pid",
}
# of kernel.py, which has numbers of ours too
KERNELS_OWN = ("NETLINK_", "SIOC", "ETHTOOL_", "NS_", "SO_", "PIDFD_")
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
    found.update({f"IF_OPER_{name.upper()}": number for number, name in enumerate(rtnl.OPERSTATES)})
    found.update({"NLA_F_NESTED": wire.NLA_F_NESTED, "NLA_F_NET_BYTEORDER": wire.NLA_F_NET_BYTEORDER})
    return found


def layouts():
    """{C expression: number}: sizes, and where each field stands."""
    found = {"sizeof(struct nlmsghdr)": wire.NLMSG_HEADER.size, "sizeof(struct nlattr)": wire.ATTR_HEADER.size,
             "sizeof(struct ifreq)": kernel._IFREQ.size, "offsetof(struct ifreq, ifr_ifindex)": 16,
             "sizeof(((struct ifreq *)0)->ifr_name)": 16}
    for name, prefix in STRUCTS.items():
        fixed = rtnl.__dict__[name]
        kind = f"struct {fixed.name}"
        found[f"sizeof({kind})"] = fixed.size
        fields = iter(fixed.tuple._fields)
        for at, letter in enumerate(fixed._struct.format.lstrip("=")):
            if letter == "x":
                continue
            field = next(fields)
            member = OTHER_FIELDS.get((name, field), prefix + field)
            found[f"offsetof({kind}, {member})"] = struct.calcsize("=" + fixed._struct.format.lstrip("=")[:at])
            found[f"sizeof((({kind} *)0)->{member})"] = struct.calcsize("=" + letter)
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
    missing = set(re.findall(r"error: '(\w+)' undeclared", words))
    code, words = compiled(directory, [text for text in wanted if text not in missing], "-o", "constants")
    assert code == 0, words
    printed = subprocess.run([str(directory / "constants")], capture_output=True, text=True, check=True).stdout
    return {text: int(number) for text, _, number in (line.rpartition("=") for line in printed.splitlines())}, missing


def test_every_constant_is_the_headers(headers_say):
    said, missing = headers_say
    ours = {**constants(), **layouts()}
    wrong = {name: (number, said[name]) for name, number in ours.items()
                    if name not in missing and said[name] != number}
    assert not wrong, "ours, the header's"
    assert len(said) > 400


def test_only_what_is_newer_than_the_headers_is_missing_there(headers_say):
    assert headers_say[1] <= set(MAY_BE_MISSING)


def test_the_list_of_what_may_be_missing_has_nothing_else():
    assert set(MAY_BE_MISSING) <= set(constants())


def test_every_fixed_header_is_compared():
    assert set(STRUCTS) == set(HEADERS)
    for name, fixed in HEADERS.items():
        assert len(fixed_letters(fixed)) == len(fixed.tuple._fields), name


def test_the_mask_of_attribute_types_is_what_the_flags_leave():
    assert wire.NLA_TYPE_MASK == 0xFFFF & ~(wire.NLA_F_NESTED | wire.NLA_F_NET_BYTEORDER)


def test_no_two_rows_are_one_constant():
    names = [table.constant(name) for table in TABLES.values() for name in table.rows]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"IFLA_ALT_IFNAME"}         # in IFLA_PROP_LIST, and beside it when one is asked for


def test_network_byte_order_is_where_the_kernel_has_it():
    """nla_put_be16 and nla_put_be32 in net/bridge, net/ipv4 and drivers/net/vxlan; the rest is the machine's order."""
    big = {table.constant(name) for table in TABLES.values() for name, attr in table.rows.items()
           if attr.codec in (wire.be16, wire.be32)}
    assert big == {"IFLA_BR_VLAN_PROTOCOL", "RTA_SPORT", "RTA_DPORT", "NDA_PORT", "NDA_SRC_VNI"}


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
        assert fixed._struct.format.startswith("="), "native alignment would differ between machines"
