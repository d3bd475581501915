"""nsnet's requests beside iproute2's: captured once, see line 1 of each file in golden/.

Each request is held against the golden in both directions: the golden decodes to the values that are written here, and
what nsnet.requests builds is the golden, byte for byte, unless the two mean different messages; a comment says why.
"""

from typing import Any, Callable, Dict, NamedTuple, Optional

import pytest
from strategies import golden

from nsnet import requests, rtnl, values
from nsnet.exchange import Exchange, Request
from nsnet.explainer import explain
from nsnet.tables import Body
from nsnet.wire import messages

ADD = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
BRIDGE, V0, V1 = 2, 5, 4                    # the ifindexes in the captured namespace


class Golden(NamedTuple):
    """What a golden request means, and how nsnet says it.

    `build`: nsnet's request. `differs`: None, the two are the same bytes. Otherwise what nsnet's message has instead:
    of the fields of this tuple, of the header's fields ("header.type"), or of the attributes ("attrs.flags"; None: it
    has none). {} means the same values in another order.
    """

    type: int
    flags: int
    header: Dict[str, int]
    attrs: Dict[Any, Any]
    build: Callable[[], Request]
    differs: Optional[Dict[str, Any]] = None


def peer(**attrs):
    return {"peer": Body(rtnl.IFINFOMSG.tuple(), attrs)}


def set_link(header, attrs, **change):
    """iproute2 sets links with RTM_NEWLINK, without CREATE; nsnet with RTM_SETLINK, which cannot create by accident."""
    return Golden(rtnl.RTM_NEWLINK, 0, header, attrs,
                  lambda: requests.set_link(header["index"], "it", **change), {"type": rtnl.RTM_SETLINK})


def address(type, flags, header, ip, build, differs=None):
    return Golden(type, flags, {"index": BRIDGE, **header}, {"local": ip, "address": ip}, build, differs)


def route(header, attrs, differs=None, **change):
    full = {"family": rtnl.AF_INET, "table": 254, "protocol": rtnl.RTPROT_BOOT, "type": rtnl.RTN_UNICAST, **header}
    return Golden(rtnl.RTM_NEWROUTE, ADD, full, attrs, lambda: requests.add_route(**change), differs)


def del_route(header, attrs, **change):
    """Protocol and type are left open (0) and the scope is unknown (255): any route to there."""
    full = {"family": rtnl.AF_INET, "table": 254, "scope": rtnl.RT_SCOPE_NOWHERE, **header}
    return Golden(rtnl.RTM_DELROUTE, 0, full, attrs, lambda: requests.del_route(**change))


INET, INET6 = {"family": rtnl.AF_INET, "prefixlen": 24}, {"family": rtnl.AF_INET6, "prefixlen": 64}
FD1 = values.address("fd00::1/64")

REQUESTS = {
    "link_add_bridge": Golden(
        rtnl.RTM_NEWLINK, ADD, {}, {"ifname": "nsnet-br0", "linkinfo": {"kind": "bridge"}},
        lambda: requests.add_bridge("nsnet-br0")),
    "link_add_bridge_options": Golden(
        rtnl.RTM_NEWLINK, ADD, {},
        {"address": "02:00:00:00:00:10", "mtu": 1400, "group": 7, "ifname": "nsnet-br1",
         "linkinfo": {"kind": "bridge", "data": {"stp_state": 0, "ageing_time": 30000}}},
        lambda: requests.add_bridge("nsnet-br1", lladdr="02:00:00:00:00:10", mtu=1400, group=7,
                                    options={"stp_state": 0, "ageing_time": 30000}),
        {}),                                    # ip writes the attributes as they stand on its command line
    "link_add_veth": Golden(
        rtnl.RTM_NEWLINK, ADD, {}, {"ifname": "nsnet-v0",
            "linkinfo": {"kind": "veth", "data": peer(ifname="nsnet-v1")}},
        lambda: requests.add_veth("nsnet-v0", "nsnet-v1")),
    "link_add_veth_netns": Golden(
        rtnl.RTM_NEWLINK, ADD, {},
        {"ifname": "nsnet-v2", "linkinfo": {"kind": "veth", "data": peer(net_ns_fd=4, ifname="nsnet-v3")}},
        lambda: requests.add_veth("nsnet-v2", "nsnet-v3", peer_netns_fd=4),
        {}),                                    # ip writes the name last
    "link_add_veth_options": Golden(
        rtnl.RTM_NEWLINK, ADD, {},
        {"num_tx_queues": 1, "num_rx_queues": 1, "mtu": 1400, "group": 7, "master": BRIDGE, "ifname": "nsnet-v4",
         "linkinfo": {"kind": "veth", "data": peer(address="02:00:00:00:00:02", mtu=1400, group=7, num_tx_queues=1,
                                                   num_rx_queues=1, ifname="nsnet-v5")}},
        lambda: requests.add_veth("nsnet-v4", "nsnet-v5", mtu=1400, group=7, master=BRIDGE, queues=1,
                                  peer_lladdr="02:00:00:00:00:02"),
        {}),                                    # ip writes the attributes as they stand on its command line
    "link_set_up": set_link({"index": BRIDGE, "flags": 1, "change": 1}, {}, up=True),
    "link_set_down": set_link({"index": V0, "change": 1}, {}, up=False),
    "link_set_master": set_link({"index": V0}, {"master": BRIDGE}, master=BRIDGE),
    "link_set_nomaster": set_link({"index": V0}, {"master": 0}, master=0),
    "link_set_address": set_link({"index": V1}, {"address": "02:00:00:00:00:01"}, lladdr="02:00:00:00:00:01"),
    "link_set_mtu": set_link({"index": V1}, {"mtu": 1400}, mtu=1400),
    "link_set_group": set_link({"index": V1}, {"group": 7}, group=7),
    "link_set_alias": set_link({"index": V1}, {"ifalias": "nsnet:0123456789ab"}, ifalias="nsnet:0123456789ab"),
    "link_set_name": set_link({"index": V1}, {"ifname": "nsnet-v9"}, ifname="nsnet-v9"),
    "link_set_netns": set_link({"index": V1}, {"net_ns_fd": 4}, netns_fd=4),
    "link_set_addrgenmode": set_link({"index": V1}, {"af_spec": {"inet6": {"addr_gen_mode": 1}}})._replace(
        build=lambda: requests.set_addr_gen_mode(V1, "it", rtnl.IN6_ADDR_GEN_MODE_NONE)),
    "link_del": Golden(rtnl.RTM_DELLINK, 0, {"index": V0}, {}, lambda: requests.del_link(V0, "it")),
    "address_add_v4": address(rtnl.RTM_NEWADDR, ADD, INET, "10.0.0.1",
                              lambda: requests.add_address(BRIDGE, values.address("10.0.0.1/24"), "it")),
    "address_add_v6": address(rtnl.RTM_NEWADDR, ADD, INET6, "fd00::2",
                              lambda: requests.add_address(BRIDGE, values.address("fd00::2/64"), "it", nodad=False)),
    "address_add_v6_nodad": address(rtnl.RTM_NEWADDR, ADD, {**INET6, "flags": rtnl.IFA_F_NODAD}, "fd00::1",
                                    lambda: requests.add_address(BRIDGE, FD1, "it"),
                                    # ip has the flag in the old field of 8 bits, nsnet in IFA_FLAGS, which has 32
                                    {"header.flags": 0, "attrs.flags": rtnl.IFA_F_NODAD}),
    "address_del_v4": address(rtnl.RTM_DELADDR, 0, INET, "10.0.0.1",
                              lambda: requests.del_address(BRIDGE, values.address("10.0.0.1/24"), "it")),
    "address_del_v6": address(rtnl.RTM_DELADDR, 0, INET6, "fd00::1", lambda: requests.del_address(BRIDGE, FD1, "it")),
    "route_add_default": route({}, {"gateway": "10.0.0.9"}, dst="default", via="10.0.0.9"),
    "route_add_default_dev_metric": route(
        {}, {"gateway": "10.0.0.8", "priority": 5, "oif": BRIDGE},
        {},                                     # ip writes oif last
        dst="default", via="10.0.0.8", oif=BRIDGE, metric=5),
    "route_add_default_v6": route({"family": rtnl.AF_INET6}, {"gateway": "fd00::9", "oif": BRIDGE},
                                  dst="default", via="fd00::9", oif=BRIDGE),
    "route_add_network": route({"dst_len": 16}, {"dst": "10.1.0.0", "gateway": "10.0.0.9"},
                               dst="10.1.0.0/16", via="10.0.0.9"),
    "route_add_network_dev": route({"dst_len": 16, "scope": rtnl.RT_SCOPE_LINK}, {"dst": "10.2.0.0", "oif": BRIDGE},
                                   dst="10.2.0.0/16", oif=BRIDGE),
    "route_add_table": route({"dst_len": 16, "table": 0}, {"dst": "10.3.0.0", "gateway": "10.0.0.9", "table": 1000},
                             dst="10.3.0.0/16", via="10.0.0.9", table=1000),
    "route_add_network_v6": route({"family": rtnl.AF_INET6, "dst_len": 64}, {"dst": "fd01::", "gateway": "fd00::9"},
                                  dst="fd01::/64", via="fd00::9"),
    "route_del_network": del_route({"dst_len": 16}, {"dst": "10.1.0.0", "gateway": "10.0.0.9"},
                                   dst="10.1.0.0/16", via="10.0.0.9"),
    "route_del_default": del_route({}, {"gateway": "10.0.0.9"}, dst="default", via="10.0.0.9"),
    "link_get": Golden(rtnl.RTM_GETLINK, 0, {"index": V1}, {"ext_mask": 9}, lambda: requests.get_link(V1),
                       # ip asks for virtual functions, without their statistics; nsnet wants neither
                       {"attrs.ext_mask": None}),
    "link_dump": Golden(rtnl.RTM_GETLINK, rtnl.NLM_F_DUMP, {"family": 17}, {"ext_mask": 1}, requests.list_links,
                        # the same; and ip says AF_PACKET where the kernel takes no notice of it
                        {"header.family": 0, "attrs.ext_mask": None}),
    "address_dump": Golden(rtnl.RTM_GETADDR, rtnl.NLM_F_DUMP, {}, {}, requests.list_addresses),
    "route_dump": Golden(rtnl.RTM_GETROUTE, rtnl.NLM_F_DUMP, {"family": rtnl.AF_INET}, {"table": 254},
                         requests.list_routes,
                         # ip lists the main table of one family, nsnet all of both
                         {"header.family": 0, "attrs.table": None}),
    "neigh_dump": Golden(rtnl.RTM_GETNEIGH, rtnl.NLM_F_DUMP, {}, {}, requests.list_neighbours),
}

each_request = pytest.mark.parametrize("name", REQUESTS)


def decoded(data):
    """(type, flags without REQUEST and ACK, the header's fields that are not 0, attributes) of the one message."""
    (message,) = messages(data)
    body = rtnl.LAYOUTS[message.type].decode(message.payload)
    header = {name: value for name, value in body.header._asdict().items() if value}
    return message.type, message.flags & ~(rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK), header, body.attrs


def expected_of_nsnet(case):
    """The meaning of nsnet's message: the golden's, but for what differs."""
    parts = {"type": case.type, "flags": case.flags, "header": dict(case.header), "attrs": dict(case.attrs)}
    for where, value in (case.differs or {}).items():
        part, _, field = where.partition(".")
        if not field:
            parts[part] = value
        elif value is None or (part == "header" and not value):
            parts[part].pop(field, None)
        else:
            parts[part][field] = value
    return tuple(parts.values())


@each_request
def test_a_golden_request_means_what_is_written_here(name):
    case = REQUESTS[name]
    header = {name: value for name, value in case.header.items() if value}
    assert decoded(golden(name)) == (case.type, case.flags, header, case.attrs)
    (message,) = messages(golden(name))
    asked = rtnl.NLM_F_REQUEST if case.type % 4 == 2 else rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK
    assert message.flags & (rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK) == asked


@each_request
def test_nsnet_sends_what_iproute2_sends(name):
    case, theirs = REQUESTS[name], golden(name)
    (message,) = messages(theirs)
    ours = Exchange([case.build()], message.seq).data
    if case.differs is None:
        assert ours.hex() == theirs.hex()
    else:
        assert ours != theirs, "the reason given for a difference is not true any more"
        assert decoded(ours) == expected_of_nsnet(case)


@each_request
def test_a_golden_request_is_encoded_as_it_was_decoded(name):
    (message,) = messages(golden(name))
    layout = rtnl.LAYOUTS[message.type]
    assert message._replace(payload=layout.encode(layout.decode(message.payload))).encode() == golden(name)


@each_request
def test_a_golden_request_is_explained_without_a_complaint(name):
    text = explain(golden(name))
    assert text.startswith(rtnl.MESSAGE_NAMES[REQUESTS[name].type]) and "!" not in text
