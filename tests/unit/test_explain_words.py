"""What explain says: names for numbers, the mark at the attribute that is blamed, values for JSON; and how fast."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import given
from strategies import ack, datagrams, done, golden, one_line

from nsnet import names, rtnl
from nsnet.errors import UsageError
from nsnet.exchange import Request
from nsnet.explainer import REMEMBERED, Explainer, TracedExchange, explain
from nsnet.wire import encode_attribute, encode_message, messages

ADD = rtnl.NLM_F_REQUEST | rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
REFUSED = "Attribute failed policy validation"


def words_of(type, layout, header, attrs=None, flags=0):
    """The lines of one message, without their margins."""
    text = explain(encode_message(type, flags, 1, layout.encode((header, attrs or {}))))
    return [line.strip() for line in text.split("\n")]


def new_link(seq=1, **attrs):
    return encode_message(rtnl.RTM_NEWLINK, ADD, seq, rtnl.LINK_BODY.encode(({}, attrs)))


def after(*data):
    """What is said of the last message, the others having gone before."""
    explainer = Explainer()
    return [explainer.text(one) for one in data][-1]


def capped(request, error=34, **words):
    (asked,) = messages(request)
    return ack(asked.seq, error, request, rtnl.NLM_F_CAPPED, words)


# --- names for numbers ---

@pytest.mark.parametrize("type, layout, header, line", [
    (16, rtnl.LINK_BODY, dict(type=1, index=2, flags=0x11043, change=0xFFFFFFFF),
     "ifinfomsg family=UNSPEC type=ETHER index=2 flags=UP|BROADCAST|RUNNING|MULTICAST|LOWER_UP change=~0"),
    (16, rtnl.LINK_BODY, dict(family=7, type=4, flags=0x80000001), "ifinfomsg family=BRIDGE type=4 index=0 "
                                                                    "flags=UP|0x80000000 change=0"),
    (20, rtnl.ADDR_BODY, dict(family=10, prefixlen=64, flags=0x82, scope=253, index=3),
     "ifaddrmsg family=INET6 prefixlen=64 flags=NODAD|PERMANENT scope=LINK index=3"),
    (24, rtnl.ROUTE_BODY, dict(family=2, table=254, protocol=3, scope=0, type=1, flags=0x204),
     "rtmsg family=INET dst_len=0 src_len=0 tos=0 table=MAIN protocol=BOOT scope=UNIVERSE type=UNICAST "
     "flags=ONLINK|CLONED"),
    (24, rtnl.ROUTE_BODY, dict(table=100, protocol=186, scope=7, type=6),
     "rtmsg family=UNSPEC dst_len=0 src_len=0 tos=0 table=100 protocol=BGP scope=7 type=BLACKHOLE flags=0"),
    (28, rtnl.NEIGH_BODY, dict(family=2, ifindex=2, state=0x82, flags=0x12, type=1),
     "ndmsg family=INET ifindex=2 state=REACHABLE|PERMANENT flags=SELF|EXT_LEARNED type=UNICAST"),
    (28, rtnl.NEIGH_BODY, {}, "ndmsg family=UNSPEC ifindex=0 state=NONE flags=0 type=UNSPEC"),
    (32, rtnl.RULE_BODY, dict(family=2, table=255, action=1, flags=2),
     "fib_rule_hdr family=INET dst_len=0 src_len=0 tos=0 table=LOCAL action=TO_TBL flags=INVERT"),
    (36, rtnl.TC_BODY, dict(handle=0x80010000, parent=0xFFFFFFFF),
     "tcmsg family=UNSPEC ifindex=0 handle=8001: parent=ROOT info=0"),
    (36, rtnl.TC_BODY, dict(handle=0x1000A, parent=0xFFFFFFF1),
     "tcmsg family=UNSPEC ifindex=0 handle=1:a parent=INGRESS info=0"),
], ids=lambda value: value.split()[0] if isinstance(value, str) else "")
def test_the_numbers_of_a_header_have_the_names_of_the_uapi_headers(type, layout, header, line):
    assert words_of(type, layout, header)[1] == line


@pytest.mark.parametrize("type, flags, names", [
    (rtnl.RTM_NEWLINK, 0x605, "REQUEST|ACK|EXCL|CREATE"), (rtnl.RTM_SETLINK, 0x105, "REQUEST|ACK|REPLACE"),
    (rtnl.RTM_GETLINK, 0x301, "REQUEST|DUMP"), (rtnl.RTM_GETLINK, 0x101, "REQUEST|ROOT"),
    (rtnl.RTM_DELLINK, 0x301, "REQUEST|NONREC|BULK"), (rtnl.RTM_NEWADDR, 0x32, "MULTI|DUMP_INTR|DUMP_FILTERED"),
    (rtnl.NLMSG_DONE, 0x202, "MULTI|ACK_TLVS"), (rtnl.RTM_NEWROUTE, 0x8C08, "ECHO|CREATE|APPEND|0x8000"),
    (rtnl.RTM_DELRULE, 0, "0")])
def test_what_the_flags_mean_depends_on_what_is_asked(type, flags, names):
    assert explain(encode_message(type, flags, 1, b"")).split()[1] == names


@pytest.mark.parametrize("type, name", [(80, "RTM_NEWNETCONF"), (86, "RTM_GETMDB"), (1, "NLMSG_NOOP"),
                                        (4, "NLMSG_OVERRUN"), (9, "type 9"), (999, "type 999")])
def test_a_message_without_a_table_has_a_name_and_its_bytes(type, name):
    assert explain(encode_message(type, 0, 5, b"\1\2")) == f"{name} 0 seq 5 port 0 length 18\n  0102"


@pytest.mark.parametrize("type, layout, attrs, line", [
    (16, rtnl.LINK_BODY, {"operstate": 6}, "IFLA_OPERSTATE UP"),
    (16, rtnl.LINK_BODY, {"ifalias": "a\n\udcff"}, "IFLA_IFALIAS 'a\\n\\udcff'"),
    (16, rtnl.LINK_BODY, {"address": "02:00:00:00:00:01"}, "IFLA_ADDRESS 02:00:00:00:00:01"),
    (18, rtnl.LINK_BODY, {"ext_mask": 9}, "IFLA_EXT_MASK VF|SKIP_STATS"),
    (20, rtnl.ADDR_BODY, {"flags": 0x280}, "IFA_FLAGS PERMANENT|NOPREFIXROUTE"),
    (20, rtnl.ADDR_BODY, {"cacheinfo": {"ifa_valid": 9}}, "IFA_CACHEINFO ifa_prefered=0 ifa_valid=9 cstamp=0 tstamp=0"),
    (28, rtnl.NEIGH_BODY, {"flags_ext": 0x13}, "NDA_FLAGS_EXT MANAGED|LOCKED|0x10"),
    (24, rtnl.ROUTE_BODY, {"table": 255}, "RTA_TABLE LOCAL"),
    (24, rtnl.ROUTE_BODY, {"table": 1000}, "RTA_TABLE 1000"),
    (16, rtnl.LINK_BODY, {"stats64": {"rx_packets": 8, "tx_bytes": 616}},
     "IFLA_STATS64 rx_packets=8 tx_bytes=616, else 0"),
    (16, rtnl.LINK_BODY, {"stats64": {}}, "IFLA_STATS64 all 0"),
    (16, rtnl.LINK_BODY, {9999: b""}, "IFLA(9999) empty"),
    (16, rtnl.LINK_BODY, {0x8000 | 9999: b"\1\2\3"}, "IFLA(9999) NESTED 010203"),
])
def test_a_value_is_one_that_a_person_reads(type, layout, attrs, line):
    assert words_of(type, layout, {}, attrs)[2] == line


def test_what_is_nested_without_a_table_is_walked_by_number():
    inner = encode_attribute(0x8002, encode_attribute(7, b"\1\2"))
    lines = words_of(16, rtnl.LINK_BODY, {}, {0x8000 | 300: inner, 301: inner})
    assert lines[2:] == ["IFLA(300)", "(2)", "(7) 0102", f"IFLA(301) {inner.hex()}"]


def test_long_bytes_are_shown_in_lines_of_32():
    lines = explain(new_link(phys_port_id=bytes(range(70)))).split("\n")
    assert lines[2] == "  IFLA_PHYS_PORT_ID 70 bytes"
    assert [len(bytes.fromhex(line)) for line in lines[3:]] == [32, 32, 6]
    assert bytes.fromhex("".join(lines[3:])) == bytes(range(70))


INCLUDES = ("sys/socket.h", "linux/fib_rules.h", "linux/if.h", "linux/if_addr.h", "linux/if_arp.h", "linux/if_bridge.h",
            "linux/if_ether.h", "linux/if_link.h", "linux/neighbour.h", "linux/netlink.h", "linux/rtnetlink.h")
# Newer than Debian 12's headers (Linux 6.1), with the kernel that has them.
MAY_BE_MISSING = {"NL_ATTR_TYPE_SINT": "6.7", "NL_ATTR_TYPE_UINT": "6.7", "NTF_EXT_LOCKED": "6.2"}


def test_the_constants_that_only_explain_needs_are_the_headers(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: the constants cannot be compared with the kernel's headers")
    ours = {name: value for name, value in names.CONSTANTS.items() if not hasattr(rtnl, name)}

    def complaints(constants):
        source = tmp_path / "constants.c"
        source.write_text("".join(f"#include <{name}>\n" for name in INCLUDES) + "".join(
            f'_Static_assert({name} == {value}, "{name}");\n' for name, value in constants.items()))
        return subprocess.run(["gcc", "-std=gnu11", "-w", "-fsyntax-only", str(source)], capture_output=True, text=True,
                              env={**os.environ, "LC_ALL": "C"}).stderr

    words = complaints(ours)
    if "fatal error" in words:
        pytest.skip(f"no kernel headers: {words.splitlines()[0]}")
    missing = set(re.findall(r"error: '(\w+)' undeclared", words))
    assert missing <= set(MAY_BE_MISSING) <= set(ours)
    assert complaints({name: value for name, value in ours.items() if name not in missing}) == ""
    assert "NL_ATTR_TYPE_FLAG" in complaints({"NL_ATTR_TYPE_FLAG": 2}), "or the test proves nothing"


# --- what the kernel blames ---

def test_the_blamed_attribute_of_a_request_that_was_seen_is_marked():
    """golden/reply_error_offset_capped holds no request, only where in it the kernel points."""
    request = encode_message(rtnl.RTM_NEWLINK, ADD | rtnl.NLM_F_ACK, 100, rtnl.IFINFOMSG.encode()
                             + encode_attribute(3, b"nsnet-x\0") + encode_attribute(4, b"\5\0")
                             + encode_attribute(18, encode_attribute(1, b"bridge")))
    assert after(request, golden("reply_error_offset_capped")) == """\
NLMSG_ERROR CAPPED|ACK_TLVS seq 100 port 7325 length 120
  error 34 ERANGE of RTM_NEWLINK REQUEST|ACK|EXCL|CREATE seq 100 port 0 length 68
  NLMSGERR_ATTR_MSG 'Attribute failed policy validation'
  NLMSGERR_ATTR_OFFS 44 IFLA_MTU
  NLMSGERR_ATTR_POLICY
    NL_POLICY_TYPE_ATTR_MIN_VALUE_U 0
    NL_POLICY_TYPE_ATTR_MAX_VALUE_U 4294967295
    NL_POLICY_TYPE_ATTR_TYPE U32
  the request:
    ifinfomsg family=UNSPEC type=0 index=0 flags=0 change=0
    IFLA_IFNAME 'nsnet-x'
    IFLA_MTU 0500 ! u32 of 2 bytes
    ^^^^^^^^ Attribute failed policy validation; it wants U32 0..4294967295
    IFLA_LINKINFO
      IFLA_INFO_KIND 'bridge'"""


def test_the_blamed_attribute_of_a_request_in_the_answer_is_marked():
    lines = explain(golden("reply_error_nested_offset")).split("\n")
    assert lines[-2:] == [8 * " " + "IFLA_BR_PRIORITY 00 ! u16 of 1 bytes",
                          8 * " " + f"^^^^^^^^^^^^^^^^ {REFUSED}; it wants U16 0..65535"]


@pytest.mark.parametrize("layers, name", [(0, "IFLA_LINKINFO"), (4, "IFLA_INFO_KIND"), (12, "IFLA_INFO_DATA"),
                                          (16, "VETH_INFO_PEER"), (36, "IFLA_IFNAME")])
def test_the_mark_is_at_the_innermost_attribute_that_begins_there(layers, name):
    request = new_link(linkinfo={"kind": "veth", "data": {"peer": ({}, {"ifname": "v1"})}})
    lines = after(request, capped(request, msg="no", offs=32 + layers)).split("\n")
    (at,) = [number for number, line in enumerate(lines) if "^" in line]
    assert lines[at].strip() == f"{'^' * len(name)} no"
    assert lines[at - 1].split()[0] == name and lines[at].index("^") == lines[at - 1].index(name)


def test_a_missing_attribute_is_marked_where_it_is_missing():
    request = new_link(linkinfo={"kind": "vxlan", "data": {"ttl": 1}})
    lines = after(request, capped(request, 22, msg="VXLAN needs an id", miss_type=1, miss_nest=48)).split("\n")
    assert lines[3:5] == ["  NLMSGERR_ATTR_MISS_TYPE 1 IFLA_VXLAN_ID",
                          "  NLMSGERR_ATTR_MISS_NEST 48 IFLA_LINKINFO.IFLA_INFO_DATA"]
    assert lines[-3:] == [6 * " " + "IFLA_INFO_DATA",
                          6 * " " + "^^^^^^^^^^^^^^ IFLA_VXLAN_ID is missing in here: VXLAN needs an id",
                          8 * " " + "IFLA_VXLAN_TTL 1"]


@pytest.mark.parametrize("words, line", [
    ({"msg": "no kind", "miss_type": 3}, "    ^ IFLA_IFNAME is missing in here: no kind"),
    ({"miss_type": 4000}, "    ^ IFLA(4000) is missing in here: error 22 EINVAL"),
    ({"msg": "no", "offs": 20}, "    ^ byte 20, which is in no attribute: no"),
    ({"msg": "no", "offs": 4000}, "    ^ byte 4000, which is in no attribute: no"),
])
def test_what_no_attribute_can_be_blamed_for_is_marked_at_the_end(words, line):
    request = new_link(mtu=1)
    assert after(request, capped(request, 22, **words)).split("\n")[-2:] == ["    IFLA_MTU 1", line]


def test_two_blames_are_two_marks():
    request = new_link(linkinfo={"kind": "vxlan"})
    lines = after(request, capped(request, 22, msg="no", offs=32, miss_type=2, miss_nest=32)).split("\n")
    assert lines[-4:] == ["    IFLA_LINKINFO", "    ^^^^^^^^^^^^^ no",
                          "    ^^^^^^^^^^^^^ IFLA_INFO_DATA is missing in here: no", "      IFLA_INFO_KIND 'vxlan'"]


def test_a_dump_that_is_refused_is_marked():
    request = encode_message(rtnl.RTM_GETROUTE, rtnl.NLM_F_REQUEST | rtnl.NLM_F_DUMP, 8, rtnl.ROUTE_BODY.encode(
        ({"family": 2}, {"table": 254, "oif": 7})))
    lines = after(request, done(8, -19, {"msg": "no such device", "offs": 36})).split("\n")
    assert lines[1] == "  error 19 ENODEV of RTM_GETROUTE REQUEST|DUMP seq 8 port 0 length 44"
    assert lines[-2:] == ["    RTA_OIF 7", "    ^^^^^^^ no such device"]


@pytest.mark.parametrize("words, wants", [
    ({"type": 4}, "U32"), ({"type": 8, "min_value_s": -5, "max_value_s": 5}, "S32 -5..5"),
    ({"type": 3, "mask": 7}, "U16 bits 0x7"), ({"type": 11, "max_length": 15}, "STRING of at most 15 bytes"),
    ({"type": 99}, "99"),
    ({"type": 10, "min_length": 4, "max_length": 6}, "BINARY of at least 4 and at most 6 bytes"),
    ({"type": 13, "policy_idx": 2, "policy_maxtype": 9}, "NESTED"),
])
def test_a_policy_is_said_in_words(words, wants):
    request = new_link(mtu=1)
    text = after(request, capped(request, msg=REFUSED, offs=32, policy=words))
    assert text.split("\n")[-1] == f"    ^^^^^^^^ {REFUSED}; it wants {wants}"


def test_a_request_of_which_nothing_is_blamed_is_shown_only_if_it_was_not_seen():
    echo = golden("reply_error_extack")
    request = echo[20:20 + 64]                          # behind the answer's header and the errno
    assert explain(echo).split("\n")[-1] == "      IFLA_INFO_KIND 'nosuchkind'"
    assert after(request, echo).split("\n")[-1] == "  NLMSGERR_ATTR_MSG 'Unknown device type'"


@pytest.mark.parametrize("change", [{"seq": 2}, {"type": rtnl.RTM_SETLINK}, {"flags": ADD}, {"port": 5},
                                    {"payload": b""}], ids=str)
def test_another_request_is_not_taken_for_the_one_that_is_answered(change):
    request = encode_message(rtnl.RTM_NEWLINK, ADD | rtnl.NLM_F_ACK, 1, rtnl.LINK_BODY.encode(({}, {"mtu": 1})))
    (asked,) = messages(request)
    other = asked._replace(**change).encode()
    assert "^" in after(request, capped(request, msg="no", offs=32))
    assert "^" not in after(other, capped(request, msg="no", offs=32))


def test_the_request_of_a_number_that_was_used_again_is_the_later():
    request = new_link(mtu=2)
    assert "IFLA_MTU 2\n    ^^^^^^^^ no" in after(new_link(mtu=1), request, capped(request, msg="no", offs=32))


def test_a_request_is_remembered_until_it_is_answered_or_too_many_others_came():
    request = new_link(seq=1, mtu=1)
    refusal = capped(request, msg="no", offs=32)
    assert "^" not in after(request, refusal, refusal) and "^" not in after(request, capped(request, 0), refusal)
    others = [new_link(seq=seq) for seq in range(2, REMEMBERED + 2)]
    assert "^" in after(request, *others[1:], refusal) and "^" not in after(request, *others, refusal)


def test_a_message_of_the_other_byte_order_is_told():
    swapped = struct.pack("<IHHII" if sys.byteorder == "big" else ">IHHII", 32, 16, 1, 5, 0) + bytes(16)
    assert explain(swapped).startswith("! netlink message at byte 0: length 536870912, of 32 there"
                                       " (it is in the other byte order): ")


# --- as it happens ---

def test_a_traced_exchange_says_what_it_sends_and_receives_in_that_order():
    said = []
    requests = [Request(rtnl.RTM_NEWLINK, ADD, rtnl.LINK_BODY.encode(({}, {"mtu": 1})), "make it"),
                Request(rtnl.RTM_GETLINK, 0, rtnl.IFINFOMSG.encode(index=5), "get it")]
    exchange = TracedExchange(requests, 7, said.append)
    assert said == ["-> RTM_NEWLINK REQUEST|EXCL|CREATE seq 7 port 0 length 40\n"
                    "     ifinfomsg family=UNSPEC type=0 index=0 flags=0 change=0\n     IFLA_MTU 1\n"
                    "-> RTM_GETLINK REQUEST|ACK seq 8 port 0 length 32\n"
                    "     ifinfomsg family=UNSPEC type=0 index=5 flags=0 change=0\n"]
    first, second = [message.encode() for message in messages(exchange.data)]
    exchange.feed(capped(first, 22, msg="no", offs=32))
    exchange.feed(encode_message(rtnl.RTM_NEWLINK, 0, 8, rtnl.IFINFOMSG.encode(index=5)) + capped(second, 0))
    refused, found = exchange.outcomes
    assert exchange.done and refused.error.attribute == "IFLA_MTU" and len(found.replies) == 1
    assert said[1].startswith("<- NLMSG_ERROR CAPPED|ACK_TLVS seq 7 ") and said[1].endswith(
        "     the request:\n       ifinfomsg family=UNSPEC type=0 index=0 flags=0 change=0\n"
        "       IFLA_MTU 1\n       ^^^^^^^^ no\n")
    assert re.findall(r"^\S.*?(?= 0| CAPPED)", said[2], re.MULTILINE) == ["<- RTM_NEWLINK", "<- NLMSG_ERROR"]


def test_the_bytes_stand_below_each_message_if_they_are_asked_for():
    request = encode_message(rtnl.RTM_GETLINK, 5, 8, rtnl.IFINFOMSG.encode(index=5) + bytes(16))
    body = ("     ifinfomsg family=UNSPEC type=0 index=5 flags=0 change=0\n     ! attribute 0: length 0, of 16 there\n"
            f"     {bytes(16).hex()}\n")
    first = f"     {request[:32].hex()}\n     {request[32:].hex()}"
    assert Explainer().text(request + b"\1", "-> ", hex=True) == (
        f"-> RTM_GETLINK REQUEST|ACK seq 8 port 0 length 48\n{body}{first}\n"
        "-> ! 1 bytes behind the last netlink message: 01")
    said = []
    exchange = TracedExchange([Request(rtnl.RTM_GETLINK, 0, rtnl.IFINFOMSG.encode(index=5), "get it")], 8, said.append,
                              hex=True)
    assert said[0].endswith(f"change=0\n     {exchange.data.hex()}\n")
    answer = capped(exchange.data, 0)
    exchange.feed(answer)
    assert said[1].endswith(f"\n     {answer[:32].hex()}\n" + (f"     {answer[32:].hex()}\n" if answer[32:] else ""))


@pytest.mark.parametrize("data", ["20000000", 5, True, None, [1, 2], 1.5, object], ids=repr)
def test_what_is_no_bytes_is_refused(data):
    with pytest.raises(UsageError) as refused:
        explain(data)
    assert str(refused.value) == f"{data!r}: expected bytes, such as bytes.fromhex() makes of hex"
    said = str(pytest.raises(UsageError, explain, "0" * 9000).value)
    assert one_line(said) and len(said) < 130


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_has_the_buffer_of_bytes_is_explained(kind):
    assert explain(kind(encode_message(rtnl.RTM_GETLINK, 0, 1, b""))).startswith("RTM_GETLINK 0 seq 1")
    assert explain(kind(b"")) == ""


# --- as values ---

@given(datagrams())
def test_any_bytes_are_objects(data):
    found = Explainer().objects(data)
    assert json.loads(json.dumps(found)) == found
    assert len(found) == sum(1 for line in explain(data).split("\n") if line and not line.startswith(" "))


def test_an_object_has_what_the_tables_read():
    hops = [({"ifindex": 2}, {"gateway": "10.0.0.1"})]
    request = encode_message(rtnl.RTM_NEWROUTE, ADD, 3, rtnl.ROUTE_BODY.encode(({"family": 2, "table": 254}, {
        "dst": "10.1.0.0", "metrics": {"mtu": 1400}, 999: b"\1", "multipath": hops})))
    assert json.loads(json.dumps(Explainer().objects(request))) == [{
        "type": "RTM_NEWROUTE", "flags": ["REQUEST", "EXCL", "CREATE"], "seq": 3, "port": 0, "length": len(request),
        "header": {**dict.fromkeys(rtnl.RTMSG.tuple._fields, 0), "family": 2, "table": 254},
        "attributes": {
            "RTA_DST": "10.1.0.0", "RTA_METRICS": {"RTAX_MTU": 1400}, "RTA(999)": "01",
            "RTA_MULTIPATH": [{"header": {"len": 16, "flags": 0, "hops": 0, "ifindex": 2},
                               "attributes": {"RTA_GATEWAY": "10.0.0.1"}}]}}]


def test_an_object_of_what_stands_several_times_is_a_list():
    twice = encode_message(16, 0, 1, rtnl.IFINFOMSG.encode() + 2 * encode_attribute(300, b"\1")
                           + encode_attribute(52, encode_attribute(53, b"alt\0")))
    (one,) = Explainer().objects(twice)
    assert one["attributes"] == {"IFLA(300)": ["01", "01"], "IFLA_PROP_LIST": {"IFLA_ALT_IFNAME": ["alt"]}}


def test_an_object_says_where_the_sense_ends():
    broken = encode_message(16, 0, 1, rtnl.IFINFOMSG.encode() + encode_attribute(4, b"\5\0") + b"\1\0\2")
    one, end = Explainer().objects(broken + b"\0\0\0")
    assert one["attributes"] == {"IFLA_MTU": {"!": "u32 of 2 bytes", "rest": "0500"}}
    assert (one["!"], one["rest"]) == ("3 bytes behind the last attribute", "010002")
    assert end == {"!": "3 bytes behind the last netlink message: 000000"}
    assert Explainer().objects(encode_message(16, 0, 1, b"\1"))[0]["rest"] == "01"


def test_an_object_of_a_refusal_says_what_is_blamed():
    request = new_link(linkinfo={"kind": "vxlan", "data": {"ttl": 1}})
    explainer = Explainer()
    explainer.objects(request)
    (refusal,) = explainer.objects(capped(request, 22, msg="no", miss_type=1, miss_nest=48, offs=56))
    assert refusal["error"] == 22 and refusal["attributes"]["NLMSGERR_ATTR_MSG"] == "no"
    assert refusal["blames"] == ["IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_VXLAN_TTL",
                                 "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_VXLAN_ID (missing)"]
    assert refusal["request"]["type"] == "RTM_NEWLINK"
    assert refusal["request"]["attributes"]["IFLA_LINKINFO"]["IFLA_INFO_DATA"] == {"IFLA_VXLAN_TTL": 1}
    assert explainer.objects(done(5))[0]["status"] == 0


# --- bytes that are meant to hurt ---

def nested_often(payload, times):
    for _ in range(times):
        payload = encode_attribute(0x8000 | 300, payload)
    return payload


def refusals(request, size):
    """The same refusal over and over, up to a size."""
    one = capped(request, 22, msg="no", offs=32)
    return one * (size // len(one))


EVIL = {
    "unknown": rtnl.IFINFOMSG.encode() + encode_attribute(300, b"") * 16_000,
    "known": rtnl.IFINFOMSG.encode() + encode_attribute(4, bytes(4)) * 8_000,
    "choice": rtnl.IFINFOMSG.encode() + encode_attribute(18, encode_attribute(2, b"") * 16_000),
    "nested": rtnl.IFINFOMSG.encode() + nested_often(encode_attribute(5, b"") * 15_000, 14),
    "broken inside": rtnl.IFINFOMSG.encode() + nested_often(b"\1" + bytes(60_000), 200),
    "peers": rtnl.IFINFOMSG.encode() + encode_attribute(18, encode_attribute(1, b"veth") + encode_attribute(
        2, encode_attribute(1, rtnl.IFINFOMSG.encode()) * 3_000)),
}


@pytest.mark.parametrize("payload", EVIL.values(), ids=EVIL)
def test_64_kib_of_anything_take_a_fraction_of_a_second(payload):
    data = encode_message(rtnl.RTM_NEWLINK, 1, 1, payload)
    started = time.process_time()
    assert len(explain(data)) < 100 * len(data) and Explainer().objects(data)
    assert time.process_time() - started < 1


def test_next_hops_without_end_take_a_fraction_of_a_second():
    hops = struct.pack("=HBBi", 8, 0, 0, 1) * 8_000
    data = encode_message(rtnl.RTM_NEWROUTE, 0, 1, rtnl.RTMSG.encode() + encode_attribute(9, hops))
    started = time.process_time()
    assert explain(data).count("rtnexthop") == 8_000
    assert time.process_time() - started < 1


def test_a_long_request_that_is_refused_over_and_over_is_shown_once():
    request = encode_message(rtnl.RTM_NEWLINK, ADD, 1, rtnl.IFINFOMSG.encode() + encode_attribute(300, b"") * 8_000)
    started = time.process_time()
    text = explain(request + refusals(request, 32_000))
    assert text.count("the request:") == 1 and time.process_time() - started < 1
