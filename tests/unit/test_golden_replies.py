"""The kernel's replies: captured once, see line 1 of each file in golden/, and read as nsnet.objects."""

import errno
import sys

import pytest
from strategies import GOLDEN, fed, golden, one_line

from nsnet import kernel, requests, rtnl
from nsnet.errors import AlreadyExists, NetlinkError, NoSuchObject
from nsnet.exchange import Request, raise_errors
from nsnet.explainer import explain
from nsnet.objects import (Address, Filter, Hop, Link, Neighbour, Nexthop, NsId, Qdisc, Route, Rule, TrafficClass,
                           vlans)
from nsnet.wire import encode_attribute, encode_message, messages

ADD = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
ASKED = {Link: rtnl.RTM_GETLINK, Address: rtnl.RTM_GETADDR, Route: rtnl.RTM_GETROUTE, Neighbour: rtnl.RTM_GETNEIGH,
         Rule: rtnl.RTM_GETRULE, Nexthop: rtnl.RTM_GETNEXTHOP, NsId: rtnl.RTM_GETNSID, Qdisc: rtnl.RTM_GETQDISC,
         TrafficClass: rtnl.RTM_GETTCLASS, Filter: rtnl.RTM_GETTFILTER}
DUMPS = {
    "reply_links": Link, "reply_kinds": Link, "reply_bridge_links": Link, "reply_addresses": Address,
    "reply_addresses_more": Address, "reply_routes": Route, "reply_routes_more": Route, "reply_neighbours":
    Neighbour, "reply_neighbours_all": Neighbour, "reply_neighbour_proxies": Neighbour, "reply_fdb": Neighbour,
    "reply_rules": Rule, "reply_nexthops": Nexthop, "reply_nsids": NsId, "reply_qdiscs": Qdisc, "reply_classes":
    TrafficClass, "reply_filters": Filter, "reply_filters_ingress": Filter,
}


def listed(name):
    """The objects in a golden dump, their attributes read when they are asked for."""
    kind = DUMPS[name]
    request = Request(ASKED[kind], rtnl.NLM_F_DUMP, bytes(20), "list")
    exchange = fed([request], golden(name), first_seq=100)
    assert exchange.done and exchange.outcomes[0].error is None and not exchange.outcomes[0].interrupted
    return [rtnl.LAYOUTS[reply.type].view(reply.payload, 0, kernel.index_attributes, kind)
            for reply in exchange.outcomes[0].replies]


def fields(found):
    """The fields that say something; the others are None, False or empty."""
    return {name: value for name, value in found.as_dict().items() if value not in (None, ()) and value is not False}


def test_a_dump_of_links():
    lo, bridge, v1, v0 = listed("reply_links")
    common = {"mtu": 1500, "group": 0}
    # lo is down, and has a carrier attribute of 1 nevertheless: `carrier` is IFF_LOWER_UP, which is not set
    assert fields(lo) == {"index": 1, "ifname": "lo", "operstate": "down", "lladdr": "00:00:00:00:00:00", "mtu": 65536,
                          "group": 0}
    # the bridge's port had come up just before: link watch had not set its operstate yet
    assert fields(bridge) == {**common, "index": 2, "ifname": "nsnet-br0", "kind": "bridge", "up": True,
                              "carrier": True, "operstate": "down", "lladdr": "02:00:00:00:00:01", "group": 7,
                              "ifalias": "nsnet:0123456789ab"}
    assert fields(v1) == {**common, "index": 3, "ifname": "nsnet-v1", "kind": "veth", "up": True, "carrier": True,
                          "operstate": "up", "lladdr": "02:00:00:00:00:03", "peer_index": 4}
    assert fields(v0) == {**common, "index": 4, "ifname": "nsnet-v0", "kind": "veth", "up": True, "carrier": True,
                          "operstate": "up", "lladdr": "02:00:00:00:00:02", "peer_index": 3, "master": 2}


def test_what_a_dump_of_links_has_besides():
    lo, bridge, _, v0 = listed("reply_links")
    options = bridge.options
    assert (options["forward_delay"], options["stp_state"], options["group_addr"]) == (1500, 0, "01:80:c2:00:00:00")
    port = v0.port_options
    assert v0.attrs["linkinfo"]["slave_kind"] == "bridge"
    assert (port["state"], port["cost"], port["learning"], port["isolated"]) == (3, 2, 1, 0)
    assert lo.attrs["txqlen"] == 1000 and lo.qdisc == "noop" and lo.attrs["netns_immutable"] == 1
    assert lo.attrs["af_spec"]["inet6"]["token"] == "::" and lo.attrs["max_pacing_offload_horizon"] == 0
    assert lo.stats.rx_packets == 0 and lo.options == lo.port_options == {}


def test_a_dump_of_links_of_several_kinds():
    found = {link.ifname: link for link in listed("reply_kinds")}
    assert {name: link.kind for name, link in found.items()} == {
        "lo": None, "nsnet-br0": "bridge", "nsnet-v1": "veth", "nsnet-v0": "veth", "nsnet-m0": "macvlan",
        "nsnet-x0": "vxlan", "nsnet-i0": "ifb"}
    macvlan, vxlan, port = found["nsnet-m0"], found["nsnet-x0"], found["nsnet-v0"]
    assert (macvlan.peer_index, macvlan.options["mode"], macvlan.options["macaddr_count"]) == (3, 4, 0)
    options = vxlan.options
    asked = {"id": 42, "local": "10.0.0.1", "port": 4789, "link": 2, "learning": 0, "ttl_inherit": True, "gbp": True,
             "port_range": (0, 0)}
    assert {name: options[name] for name in asked} == asked
    assert "group" not in options and "gpe" not in options
    assert found["nsnet-v1"].altnames == ("nsnet-also", "nsnet-too") and found["nsnet-v1"].qdisc == "htb"
    port = port.port_options
    assert (port["isolated"], port["cost"], port["guard"], port["mcast_flood"], port["id"]) == (1, 7, 1, 0, 0x8001)
    assert found["nsnet-br0"].options["multi_boolopt"].optmask == 31
    assert found["nsnet-br0"].stats.tx_bytes > 0 and found["nsnet-i0"].attrs["broadcast"] == "ff:ff:ff:ff:ff:ff"


def test_a_dump_of_links_of_the_family_bridge():
    bridge, port = listed("reply_bridge_links")
    assert bridge.header.family == port.header.family == rtnl.AF_BRIDGE
    assert (bridge.index, bridge.master, port.index, port.master) == (2, 2, 4, 2)
    assert "protinfo" not in bridge.attrs
    options = port.attrs["protinfo"]
    assert (options["cost"], options["isolated"], options["guard"], options["mcast_flood"]) == (7, 1, 1, 0)
    assert vlans(port) == vlans(bridge) == []               # the kernel was built without VLAN filtering


def test_a_dump_of_addresses():
    v4, v6, *others = listed("reply_addresses")
    assert fields(v4) == {"index": 2, "address": "10.0.0.1/24", "label": "nsnet-br0", "scope": 0,
                          "flags": rtnl.IFA_F_PERMANENT}
    assert fields(v6) == {"index": 2, "address": "fd00::1/64", "scope": 0,
                          "flags": rtnl.IFA_F_PERMANENT | rtnl.IFA_F_NODAD}
    assert [(one.index, one.address, one.scope, one.flags & rtnl.IFA_F_TENTATIVE) for one in others] == [
        (3, "fe80::ff:fe00:3/64", 253, rtnl.IFA_F_TENTATIVE), (4, "fe80::ff:fe00:2/64", 253, rtnl.IFA_F_TENTATIVE)]


def test_a_dump_of_addresses_with_a_peer_and_with_lifetimes():
    plain, pointopoint, timed = listed("reply_addresses_more")
    assert (plain.peer, plain.valid_lft, plain.preferred_lft, plain.broadcast) == (None, None, None, None)
    assert (pointopoint.address, pointopoint.peer) == ("10.20.0.1/32", "10.20.0.2")
    assert fields(timed) == {"index": 2, "address": "10.21.0.1/24", "broadcast": "10.21.0.255", "label": "nsnet-br0:1",
                             "scope": 0, "flags": 0, "valid_lft": 600, "preferred_lft": 300, "metric": 50}


def test_a_dump_of_routes():
    found = listed("reply_routes")
    common = {"oif": 2, "protocol": 3, "scope": 0, "type": 1, "family": rtnl.AF_INET, "flags": 0}
    assert fields(found[0]) == {**common, "dst": "10.3.0.0/16", "via": "10.0.0.9", "metric": 5, "table": 1000}
    assert fields(found[1]) == {**common, "dst": "default", "via": "10.0.0.9", "table": 254}
    assert fields(found[2]) == {**common, "dst": "10.0.0.0/24", "prefsrc": "10.0.0.1", "table": 254, "protocol": 2,
                                "scope": 253}
    assert [one.dst for one in found if one.family == rtnl.AF_INET6] == [
        "fd00::/64", "fd01::/64", "fe80::/64", "fe80::/64", "fd00::1/128", "ff00::/8", "ff00::/8", "ff00::/8"]


def test_a_dump_of_routes_with_several_hops_and_of_other_types():
    found = {route.dst: route for route in listed("reply_routes_more")}
    assert found["10.5.0.0/16"].hops == (Hop("10.0.0.8", 2, 3, 0), Hop("fe80::1", 2, 1, 0))
    assert found["10.5.0.0/16"].via is None and found["10.5.0.0/16"].oif is None
    assert found["10.7.0.0/16"].metrics == {"lock": 1 << 2, "mtu": 1400, "advmss": 1300}
    group = found["10.9.0.0/16"]
    assert (group.nh_id, group.hops) == (10, (Hop("10.0.0.9", 2, 3, 0), Hop(None, 2, 7, 0)))
    assert (found["10.10.0.0/16"].type, found["10.10.0.0/16"].metric) == (rtnl.RTN_BLACKHOLE, 77)


def test_a_dump_of_rules():
    local, first, second, third, main, default = listed("reply_rules")
    assert [(rule.priority, rule.table) for rule in (local, main, default)] == [(0, 255), (32766, 254), (32767, 253)]
    common = {"family": rtnl.AF_INET, "protocol": 0, "table": 0}
    assert fields(first) == {**common, "priority": 500, "src": "10.1.0.0/16", "iif": "nsnet-br0", "fwmark": 16,
                             "fwmask": 255, "table": 1000, "action": rtnl.FR_ACT_TO_TBL, "protocol": rtnl.RTPROT_STATIC}
    assert fields(second) == {**common, "priority": 501, "action": rtnl.FR_ACT_GOTO, "goto": 502, "ip_proto": 6,
                              "sport": (100, 200), "dport": (80, 80), "uids": (1000, 2000), "inverted": True}
    assert fields(third) == {**common, "priority": 502, "dst": "10.2.0.0/16", "action": rtnl.FR_ACT_PROHIBIT}


def test_a_dump_of_nexthops():
    via, device, blackhole, group, fdb = listed("reply_nexthops")
    assert fields(via) == {"id": 5, "via": "10.0.0.9", "oif": 2, "scope": 253, "protocol": 0, "family": rtnl.AF_INET}
    assert fields(device) == {"id": 6, "oif": 2, "scope": 254, "protocol": 4, "family": rtnl.AF_INET}
    assert fields(blackhole) == {"id": 7, "blackhole": True, "scope": 0, "protocol": 0, "family": rtnl.AF_INET}
    assert fields(group) == {"id": 10, "group": ((5, 3), (6, 7)), "scope": 0, "protocol": 0, "family": 0}
    assert (fdb.id, fdb.via, fdb.fdb) == (12, "10.0.0.9", True)


def test_a_dump_of_neighbours():
    (one,) = listed("reply_neighbours")
    common = {"index": 2, "flags": 0, "family": rtnl.AF_INET, "state": rtnl.NUD_PERMANENT}
    assert fields(one) == {**common, "dst": "10.0.0.9", "lladdr": "02:00:00:00:00:09"}
    found = {neighbour.dst: neighbour for neighbour in listed("reply_neighbours_all")}
    assert fields(found["10.0.0.9"]) == fields(one)
    assert fields(found["fd00::9"]) == {"index": 2, "dst": "fd00::9", "lladdr": "02:00:00:00:00:0a",
                                        "state": rtnl.NUD_STALE, "flags": rtnl.NTF_ROUTER, "family": rtnl.AF_INET6}
    (proxy,) = listed("reply_neighbour_proxies")
    assert fields(proxy) == {**common, "dst": "10.0.0.10", "state": 0, "flags": rtnl.NTF_PROXY}


def test_a_dump_of_forwarding_entries():
    found = listed("reply_fdb")
    assert {entry.family for entry in found} == {rtnl.AF_BRIDGE}
    (static,) = [entry for entry in found if entry.lladdr == "02:00:00:00:00:aa"]
    assert (static.index, static.master, static.state, static.flags) == (4, 2, rtnl.NUD_NOARP, 0)
    (remote,) = [entry for entry in found if entry.dst]
    assert fields(remote) == {"index": 6, "dst": "10.0.0.9", "lladdr": "00:00:00:00:00:00", "vni": 43, "port": 4790,
                              "state": rtnl.NUD_NOARP | rtnl.NUD_PERMANENT, "flags": rtnl.NTF_SELF,
                              "family": rtnl.AF_BRIDGE}
    (learned,) = [entry for entry in found if entry.state == rtnl.NUD_REACHABLE]
    assert (learned.lladdr, learned.index) == ("02:00:00:00:00:03", 4)


def test_a_dump_of_netns_ids():
    (one,) = listed("reply_nsids")
    assert (one.nsid, one.current_nsid) == (5, None)


def test_a_dump_of_qdiscs():
    """Of all links: the kernel takes no notice of the one that was asked for."""
    found = {(qdisc.index, qdisc.kind): qdisc for qdisc in listed("reply_qdiscs")}
    assert set(found) == {(1, "noqueue"), (2, "noqueue"), (4, "noqueue"), (3, "htb"), (3, "tbf"), (3, "clsact")}
    htb, tbf, clsact = (found[3, kind] for kind in ("htb", "tbf", "clsact"))
    assert (htb.handle, htb.parent, htb.options["init"].defcls) == (0x10000, rtnl.TC_H_ROOT, 0x10)
    assert (tbf.handle, tbf.parent) == (0x100000, 0x10010)
    assert (tbf.options["parms"].rate_rate, tbf.options["parms"].limit) == (625000, 65536)
    assert clsact.parent == rtnl.TC_H_CLSACT and clsact.options == b""
    assert tbf.stats["basic"] == (0, 0) and tbf.stats["queue"].drops == 0


def test_a_dump_of_traffic_classes():
    htb, tbf = listed("reply_classes")
    assert (htb.kind, htb.handle, tbf.kind, tbf.parent) == ("htb", 0x10010, "tbf", 0x100000)
    assert (htb.options["parms"].rate_rate, htb.options["parms"].ceil_rate) == (1250000, 2500000)


def test_a_dump_of_filters():
    *_, u32 = listed("reply_filters")
    common = {"index": 3, "chain": 0}
    assert fields(u32) == {**common, "kind": "u32", "handle": 0x80000800, "parent": 0x10000, "priority": 5,
                           "protocol": 0x0800}
    (selector, (key,)), order = u32.options["sel"], sys.byteorder
    assert u32.options["classid"] == 0x10010 and selector.nkeys == 1 and key.off == 16
    assert key.mask.to_bytes(4, order) == bytes([255, 255, 255, 0])
    assert key.val.to_bytes(4, order) == bytes([10, 0, 0, 0])
    first, bpf = listed("reply_filters_ingress")
    assert fields(bpf) == {**common, "kind": "bpf", "handle": 1, "parent": 0xFFFFFFF2, "priority": 6,
                           "protocol": 0x0003}
    assert first.options == {} and bpf.options["ops"] == b"\x06\0\0\0\xff\xff\xff\xff"


# --- all of them ---

def test_every_dump_is_read():
    assert {file.stem for file in GOLDEN.glob("reply_*.hex")} - set(DUMPS) == {
        "reply_ack", "reply_batch", "reply_done_error", "reply_error_exists", "reply_error_extack",
        "reply_error_extack_capped", "reply_error_nested_offset", "reply_error_offset_capped"}


@pytest.mark.parametrize("name", DUMPS)
def test_every_object_of_a_dump_is_the_same_all_at_once_and_written_as_it_came(name):
    for message, found in zip(messages(golden(name)), listed(name)):
        layout = rtnl.LAYOUTS[message.type]
        whole = layout.decode(message.payload)
        assert found == whole and DUMPS[name].from_body(whole).as_dict() == found.as_dict()
        assert one_line(repr(found))
        assert encode_message(*message[:3], layout.encode(found), message.port) == message.encode()
        assert layout.decode(layout.encode(whole)) == whole         # NLA_F_NESTED is then as the table has it


@pytest.mark.parametrize("name", DUMPS)
def test_no_attribute_of_a_dump_is_unknown(name):
    """What a kernel of today sends to a container network has a row, and stays so until the kernel grows another."""
    for found in listed(name):
        assert [key for key in found.attrs if isinstance(key, int)] == []


@pytest.mark.parametrize("name", [file.stem for file in sorted(GOLDEN.glob("reply_*.hex"))])
def test_a_golden_reply_is_explained_without_a_complaint(name):
    """But for the request that was malformed on purpose, which stands in the reply."""
    lines = explain(golden(name)).split("\n")
    complaints = [line.split()[0] for line in lines if "!" in line]
    assert complaints == ["IFLA_BR_PRIORITY"] * (name == "reply_error_nested_offset")
    assert sum(not line.startswith(" ") for line in lines) == len(list(messages(golden(name))))


# --- errors ---

def bad_bridge(payload):
    """A hand-made RTM_NEWLINK, since nsnet does not build what the kernel refuses like that."""
    return Request(rtnl.RTM_NEWLINK, ADD, rtnl.IFINFOMSG.encode() + encode_attribute(3, b"nsnet-x\0") + payload,
                   "add it")


UNKNOWN_KIND = Request(rtnl.RTM_NEWLINK, ADD, rtnl.LINK_BODY.encode(
    ({}, {"ifname": "x", "linkinfo": {"kind": "y"}})), "add it")
ADDRESSES = requests.list_addresses()


@pytest.mark.parametrize("name, request_, number, extack, attribute", [
    ("reply_error_extack", UNKNOWN_KIND, errno.EOPNOTSUPP, "Unknown device type", None),
    ("reply_error_extack_capped", UNKNOWN_KIND, errno.EOPNOTSUPP, "Unknown device type", None),
    ("reply_error_exists", requests.add_bridge("nsnet-br0"), errno.EEXIST, None, None),
    ("reply_error_offset_capped", bad_bridge(encode_attribute(4, b"\5\0")), errno.ERANGE,
     "Attribute failed policy validation", "IFLA_MTU"),
    ("reply_error_nested_offset", bad_bridge(encode_attribute(18, encode_attribute(1, b"bridge") + encode_attribute(
        2, encode_attribute(5, bytes(4)) + encode_attribute(6, b"\0")))), errno.ERANGE,
     "Attribute failed policy validation", "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_PRIORITY"),
    ("reply_done_error", ADDRESSES, errno.EINVAL, "ipv4: Invalid values in header for address dump request", None),
])
def test_a_golden_error_is_raised_with_the_kernels_words(name, request_, number, extack, attribute):
    exchange = fed([request_], golden(name), first_seq=100)
    assert exchange.done
    with pytest.raises(NetlinkError) as caught:
        raise_errors(exchange.outcomes)
    assert (caught.value.errno, caught.value.extack, caught.value.attribute) == (number, extack, attribute)
    assert one_line(str(caught.value))


def test_a_golden_ack_is_success():
    exchange = fed([requests.add_bridge("nsnet-br0")], golden("reply_ack"), first_seq=100)
    assert exchange.done
    raise_errors(exchange.outcomes)


def test_a_golden_batch_goes_on_after_an_error():
    batch = [requests.add_bridge("nsnet-br0"), requests.set_link(2, "nsnet-br0", mtu=1400), requests.del_link(99, "it")]
    exchange = fed(batch, golden("reply_batch"), first_seq=100)
    assert exchange.done and [type(outcome.error) for outcome in exchange.outcomes] == [
        AlreadyExists, type(None), NoSuchObject]
