"""The path to a byte, and a message as text: of any message, of any bytes, with the numbers of the tables alone."""

import re

import pytest
from discovered import LAYOUTS, TABLES
from hypothesis import given
from hypothesis import strategies as st
from strategies import datagrams, deep_link, fed, of_many, payload_bytes, value_of, value_or_protocol_error

from nsnet import rtnl
from nsnet.errors import ProtocolError
from nsnet.exchange import Request
from nsnet.explainer import explain
from nsnet.tables import locate
from nsnet.wire import encode_attribute, encode_message, messages

each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
TYPES = {name: number for number, name in rtnl.MESSAGE_NAMES.items() if number in rtnl.LAYOUTS}


def every_path(layout, payload):
    """{offset: path} over a payload."""
    return {offset: locate(layout, payload, offset) for offset in range(-20, len(payload) + 20)}


# --- the path to a byte ---

def test_a_byte_of_the_header_or_outside_belongs_to_no_attribute():
    payload = rtnl.LINK_BODY.encode(({}, {"ifname": "eth0"}))
    paths = every_path(rtnl.LINK_BODY, payload)
    assert {offset for offset, path in paths.items() if path} == set(range(16, 16 + 4 + 5))    # its padding is nobody's
    assert set(paths.values()) == {None, "IFLA_IFNAME"}


def test_a_byte_belongs_to_the_innermost_attribute_that_covers_it():
    peer = {"ifname": "eth0", "linkinfo": {"kind": "bridge", "data": {"priority": 1}}}
    payload = rtnl.LINK_BODY.encode(({}, {"mtu": 1500, "linkinfo": {"kind": "veth", "data": {"peer": ({}, peer)}}}))
    within = "IFLA_LINKINFO.IFLA_INFO_DATA.VETH_INFO_PEER"
    found = list(dict.fromkeys(path for path in every_path(rtnl.LINK_BODY, payload).values() if path))
    assert found == [
        "IFLA_MTU", "IFLA_LINKINFO", "IFLA_LINKINFO.IFLA_INFO_KIND", "IFLA_LINKINFO.IFLA_INFO_DATA", within,
        f"{within}.IFLA_IFNAME", f"{within}.IFLA_LINKINFO", f"{within}.IFLA_LINKINFO.IFLA_INFO_KIND",
        f"{within}.IFLA_LINKINFO.IFLA_INFO_DATA", f"{within}.IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"]


def test_a_path_leads_into_each_of_several_next_hops():
    hops = [({"ifindex": 2}, {"gateway": "10.0.0.1"}), ({"ifindex": 3}, {"oif": 3, "via": "fd00::1"})]
    payload = rtnl.ROUTE_BODY.encode(({}, {"dst": "10.1.0.0", "multipath": hops}))
    found = list(dict.fromkeys(path for path in every_path(rtnl.ROUTE_BODY, payload).values() if path))
    assert found == ["RTA_DST", "RTA_MULTIPATH", "RTA_MULTIPATH.RTA_GATEWAY", "RTA_MULTIPATH.RTA_OIF",
                     "RTA_MULTIPATH.RTA_VIA"]


def test_a_path_is_that_of_the_family():
    """IFLA_PROTINFO and IFLA_AF_SPEC hold something else for a bridge."""
    for family, attrs, last in ((rtnl.AF_BRIDGE, {"af_spec": {"vlan_info": [(0, 5)]}},
                                 "IFLA_AF_SPEC.IFLA_BRIDGE_VLAN_INFO"),
                                (0, {"af_spec": {"inet6": {"addr_gen_mode": 1}}},
                                 "IFLA_AF_SPEC.AF_INET6.IFLA_INET6_ADDR_GEN_MODE"),
                                (rtnl.AF_INET6, {"protinfo": {"flags": 1}}, "IFLA_PROTINFO.IFLA_INET6_FLAGS")):
        payload = rtnl.LINK_BODY.encode(({"family": family}, attrs))
        assert locate(rtnl.LINK_BODY, payload, len(payload) - 4) == last
        assert last.split(".")[-1] in explain(encode_message(rtnl.RTM_SETLINK, 0, 1, payload))


def test_an_attribute_without_a_row_is_named_by_its_number():
    payload = rtnl.LINK_BODY.encode(({}, {9999: b"x"}))
    assert locate(rtnl.LINK_BODY, payload, 16) == "IFLA(9999)"


def test_the_path_reaches_an_attribute_whose_own_value_is_malformed():
    """Which is when the kernel blames one. IFLA_INFO_KIND decides how IFLA_INFO_DATA is read; nothing else does."""
    bad = encode_attribute(18, encode_attribute(1, b"bridge") + encode_attribute(2, encode_attribute(6, b"\0")))
    payload = rtnl.IFINFOMSG.encode() + bad
    assert locate(rtnl.LINK_BODY, payload, len(payload) - 5) == "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"
    assert "IFLA_BR_PRIORITY 00 !" in explain(encode_message(rtnl.RTM_NEWLINK, 0, 1, payload))


@each_layout
@of_many
@given(data=st.data())
def test_every_path_names_rows_of_the_tables(layout, data):
    body = data.draw(value_of(layout))
    names = {table.constant(name) for table in TABLES.values() for name in table.rows}
    for path in set(every_path(layout, layout.encode(body)).values()) - {None}:
        assert all(part in names or part.endswith(")") for part in path.split("."))


@each_layout
@of_many
@given(data=st.data(), offset=st.integers(-20, 120))
def test_any_offset_into_any_bytes_is_a_path_or_none_or_a_protocol_error(layout, data, offset):
    path = value_or_protocol_error(locate, layout, data.draw(payload_bytes(layout)), offset)
    assert path is None or path.startswith(layout.table.prefix)


# --- as text ---

@given(datagrams())
def test_any_bytes_are_explained(data):
    lines = explain(data).split("\n")
    assert all(line.isprintable() for line in lines)
    try:
        count = len(list(messages(data)))
    except ProtocolError:
        assert lines[-1].startswith("! ")
    else:
        assert sum(1 for line in lines if line and not line.startswith(" ")) == count


@pytest.mark.parametrize("type", TYPES.values(), ids=TYPES)
@of_many
@given(data=st.data())
def test_any_payload_of_any_message_is_explained(type, data):
    layout = rtnl.LAYOUTS[type]
    text = explain(encode_message(type, 0, 1, data.draw(payload_bytes(layout))))
    assert text.startswith(rtnl.MESSAGE_NAMES[type] + " ") and text.replace("\n", "").isprintable()


@each_layout
@of_many
@given(data=st.data())
def test_what_makes_sense_is_explained_without_a_complaint_and_names_every_attribute(layout, data):
    type = next((number for number, other in rtnl.LAYOUTS.items() if other is layout), rtnl.RTM_NEWLINK)
    body = data.draw(value_of(layout))
    if layout is rtnl.PEER:                     # the same message, without the tables of some families
        body = body._replace(header=body.header._replace(family=0))
    table = layout.table_for(body.header.family)
    lines = explain(encode_message(type, 0, 1, layout.encode(body))).split("\n")
    assert not [line for line in lines if line.lstrip().startswith("! ") or " ! " in line]
    shown = {line.split()[0] for line in lines if line.startswith("  ")}
    assert {table.constant(name) for name in body.attrs if isinstance(name, str)} <= shown


@pytest.mark.parametrize("levels", [6, 17, 400, 1800])
def test_nesting_without_end_is_explained(levels):
    payload = deep_link(levels)
    assert value_or_protocol_error(locate, rtnl.LINK_BODY, payload, len(payload) - 1).startswith("IFLA_LINKINFO.")
    assert "IFLA_LINKINFO" in explain(encode_message(rtnl.RTM_NEWLINK, 0, 1, payload))
    fed([Request(rtnl.RTM_GETLINK, 0, bytes(16), "ask")], encode_message(rtnl.RTM_NEWLINK, 0, 1, payload))


@pytest.mark.parametrize("type, attrs, lines", [
    (rtnl.RTM_NEWROUTE, {"multipath": [({"ifindex": 2, "hops": 4}, {"gateway": "10.0.0.1"})], "metrics": {"mtu": 1400}},
     ["RTA_MULTIPATH", "  rtnexthop len=16 hops=4 ifindex=2", "  RTA_GATEWAY 10.0.0.1", "RTA_METRICS",
      "  RTAX_MTU 1400"]),
    (rtnl.RTM_NEWNEXTHOP, {"group": [(1, 2, 0), (5, 0, 0)], "blackhole": True},
     ["NHA_GROUP id=1 weight=2 id=5", "NHA_BLACKHOLE"]),
    (rtnl.RTM_NEWTFILTER, {"kind": "bpf", "options": {"fd": 5, "name": "x"}},
     ["TCA_KIND bpf", "TCA_OPTIONS", "  TCA_BPF_FD 5", "  TCA_BPF_NAME x"]),
    (rtnl.RTM_NEWLINK, {"linkinfo": {"kind": "bond", "data": {"arp_ip_target": ["10.0.0.1", "::1"]}}},
     ["IFLA_LINKINFO", "  IFLA_INFO_KIND bond", "  IFLA_INFO_DATA", "    IFLA_BOND_ARP_IP_TARGET 10.0.0.1 ::1"]),
], ids=["multipath", "group", "choice", "list"])
def test_compound_values_are_explained_field_by_field(type, attrs, lines):
    """Each line in its place; of what stands in it, the words in their order."""
    text = explain(encode_message(type, 0, 1, rtnl.LAYOUTS[type].encode(({}, attrs)))).split("\n")[2:]
    assert len(text) == len(lines)
    for shown, expected in zip(text, lines):
        assert len(shown) - len(shown.lstrip()) == 2 + len(expected) - len(expected.lstrip())
        words = iter(re.findall(r"[\w=.:]+", shown))
        assert all(word in words for word in expected.split()), shown
