"""What the requests for routes, nexthop objects and rules ask; and what would be set in vain."""

import errno

import pytest
from hypothesis import given
from strategies import ANY_TEXT, refused

from nsnet import requests, rtnl
from nsnet.errors import UsageError

EXCL, REPLACE = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL, rtnl.NLM_F_CREATE | rtnl.NLM_F_REPLACE
APPEND = rtnl.NLM_F_CREATE | rtnl.NLM_F_APPEND


def body(request):
    return rtnl.LAYOUTS[request.type].decode(request.payload)


def route(dst="10.9.0.0/16", **options):
    return body(requests.add_route(dst, **options))


# --- routes ---

def test_a_route_is_asked_for_with_all_that_it_is_given():
    request = requests.add_route("10.9.0.0/16", via="10.0.0.9", oif=7, metric=5, table=1000, scope="site",
                                 prefsrc="10.0.0.1", protocol=4, metrics={"mtu": 1400, "cc_algo": "cubic"}, onlink=True,
                                 tos=4)
    header, attrs = body(request)
    assert header == (rtnl.AF_INET, 16, 0, 4, 0, 4, 200, rtnl.RTN_UNICAST, rtnl.RTNH_F_ONLINK)
    assert attrs == {"dst": "10.9.0.0", "gateway": "10.0.0.9", "oif": 7, "priority": 5, "table": 1000,
                     "prefsrc": "10.0.0.1", "metrics": {"mtu": 1400, "cc_algo": "cubic"}}
    assert (request.flags, request.words) == (EXCL, "add route to 10.9.0.0/16 via 10.0.0.9")


def test_a_route_takes_the_place_of_another_or_stands_beside_it():
    assert requests.add_route("default", oif=7, ensure=True).flags == REPLACE
    assert requests.add_route("default", oif=7, append=True).flags == APPEND
    assert "not both" in refused(requests.add_route, "default", oif=7, append=True, ensure=True)


@pytest.mark.parametrize("options, scope", [
    ({"oif": 7}, 253), ({"via": "10.0.0.9"}, 0), ({"oif": 7, "type": "local"}, 254), ({"type": "blackhole"}, 0),
    ({"hops": [{"oif": 7}]}, 0), ({"nh_id": 7}, 0), ({"oif": 7, "type": "multicast"}, 253),
    ({"oif": 7, "scope": 99}, None),
    ({"oif": 7, "scope": "host"}, 254)], ids=repr)
def test_the_scope_is_what_ip_route_takes_unless_it_is_given(options, scope):
    if scope is None:
        assert "scope 99" in refused(route, **options)
    else:
        assert route(**options).header.scope == scope


@pytest.mark.parametrize("type", ["blackhole", "unreachable", "prohibit", "throw"])
def test_a_route_to_nowhere_has_no_way_and_any_other_has_one(type):
    assert route(type=type).header.type == requests.routes.ROUTE_TYPES[type]
    for way in ({"via": "10.0.0.9"}, {"oif": 7}, {"hops": [{"oif": 7}]}, {"nh_id": 7}):
        assert f"for type {type}" in refused(route, type=type, **way)
    assert "expected via or oif" in refused(route, type="unicast", hops=[])
    assert "not both" in refused(route, oif=7, nh_id=7) and "not both" in refused(route, oif=7, hops=[{"oif": 7}])


def test_several_hops_each_have_their_own_way_and_weight():
    hops = route(hops=[{"via": "10.0.0.9", "weight": 256},
                       {"via": "fd00::9", "oif": 7, "onlink": True}]).attrs["multipath"]
    assert [(hop.header.hops, hop.header.ifindex, hop.header.flags, hop.attrs) for hop in hops] == [
        (255, 0, 0, {"gateway": "10.0.0.9"}), (0, 7, rtnl.RTNH_F_ONLINK, {"via": "fd00::9"})]


@pytest.mark.parametrize("hop",
                         [{}, {"weight": 1}, {"dev": 7}, {"oif": 7, "onlink": True}, {"via": "10.0.0.9", "mtu": 5},
                                 "10.0.0.9", None, 7, {"via": "a\nb"}], ids=repr)
def test_what_is_no_hop_is_refused(hop):
    assert repr(hop if not isinstance(hop, dict) or "via" not in hop or "mtu" in hop else hop["via"]) in refused(
        route, hops=[hop])
    assert "hop" in refused(route, hops=7)


@pytest.mark.parametrize("options, named", [
    ({"tos": 4}, "tos 4"), ({"scope": "link"}, "'link'"), ({"metric": 0}, "metric 0"), ({"onlink": True}, "onlink")],
    ids=repr)
def test_what_ipv6_does_not_look_at_is_refused(options, named):
    """ip6_route_add(): no scope, metric 0 becomes 1024, and onlink counts only with a gateway."""
    assert named in refused(requests.add_route, "fd00::/8", oif=7, **options)


def test_only_an_ipv6_route_is_for_some_sources():
    header, attrs = route("fd00::/8", oif=7, src="fd00:1::/32")
    assert (header.src_len, attrs["src"]) == (32, "fd00:1::")
    assert route("default", oif=7, src="fd00:1::/32").header.family == rtnl.AF_INET6
    for dst, options in (("10.9.0.0/16", {}), ("default", {"family": "inet"}), ("default", {"src": "10.0.0.0/8"})):
        assert "src" in refused(requests.add_route, dst, oif=7, **{"src": "fd00:1::/32", **options})


@pytest.mark.parametrize("metrics", [{"mtuu": 1}, {1: 2}, "mtu", {"mtu": 0}, {"mtu": 65521}, {"mtu": "1400"}], ids=repr)
def test_what_is_no_metric_is_refused(metrics):
    """ip_metrics_convert() cuts down what is too much, and takes 0 for "not set"."""
    odd = next(iter(metrics)) if isinstance(metrics, dict) else metrics
    assert str(odd) in refused(route, oif=7, metrics=metrics)


def test_an_ipv6_route_has_a_protocol():
    """Of none the kernel makes boot."""
    assert route(oif=7, protocol=0).header.protocol == 0
    assert "protocol 0: expected 1 to 255" in refused(route, "fd00::/8", oif=7, protocol=0)


def test_a_preferred_source_is_of_the_routes_family():
    assert "'fd00::1'" in refused(route, oif=7, prefsrc="fd00::1")
    assert "'10.0.0.1'" in refused(route, "fd00::/8", oif=7, prefsrc="10.0.0.1")
    assert "'all'" in refused(route, oif=7, prefsrc="all")


@pytest.mark.parametrize("options, family", [
    ({}, 2), ({"via": "fd00::9"}, 10), ({"family": "inet6"}, 10), ({"via": "fd00::9", "family": "inet"}, 2),
    ({"hops": [{"oif": 7}, {"via": "fd00::9"}]}, 10), ({"family": 10}, 10)], ids=repr)
def test_the_family_of_a_default_route_is_said_or_that_of_its_gateway(options, family):
    given = options if "hops" in options else {"oif": 7, **options}
    assert route("default", **given).header.family == family
    assert "family" in refused(route, oif=7, family="inet6")
    assert "'ipx'" in refused(route, "default", oif=7, family="ipx")


def test_a_route_is_deleted_by_what_it_was_added_with():
    header, attrs = body(requests.del_route("fd00::/8", oif=7, metric=5, table=300, src="fd00:1::/32"))
    assert (header.scope, header.type, header.src_len) == (rtnl.RT_SCOPE_NOWHERE, 0, 32)
    assert attrs == {"dst": "fd00::", "src": "fd00:1::", "oif": 7, "priority": 5, "table": 300}
    assert body(requests.del_route("10.9.0.0/16", tos=4)).header.tos == 4


def test_no_metric_and_metric_0_are_not_the_same_to_delete():
    """To the kernel they are: metric 0 would be any."""
    assert "metric 0" in refused(requests.del_route, "10.9.0.0/16", metric=0)
    assert route(oif=7, metric=0).attrs["priority"] == 0


def test_a_packets_route_comes_with_its_table():
    """IPv4 says "main" without the flag, whatever the table; IPv6 refuses the flag."""
    header, attrs = body(requests.get_route("10.9.0.1", src="10.0.0.1", oif=7, iif=8, mark=9))
    assert (header.family, header.dst_len, header.src_len, header.flags) == (rtnl.AF_INET, 32, 32, 0x1000)
    assert attrs == {"dst": "10.9.0.1", "src": "10.0.0.1", "oif": 7, "iif": 8, "mark": 9}
    assert body(requests.get_route("fd00::1")).header[:3] == (rtnl.AF_INET6, 128, 0)
    assert body(requests.get_route("fd00::1")).header.flags == 0
    assert "'fd00::1'" in refused(requests.get_route, "10.9.0.1", src="fd00::1")
    assert "'default'" in refused(requests.get_route, "default")


def test_routes_are_listed_as_the_kernel_picks_them():
    request = requests.list_routes(family="inet", table=1000, oif=7, protocol=4, type="blackhole")
    assert body(request).header == (rtnl.AF_INET, 0, 0, 0, 0, 4, 0, rtnl.RTN_BLACKHOLE, 0)
    assert body(request).attrs == {"table": 1000, "oif": 7}
    assert request.tolerate == {errno.ENOENT}, "a table that is not there has no routes"
    assert body(requests.list_routes(table=254)).header.table == 254 and not requests.list_routes().tolerate


@given(ANY_TEXT)
def test_any_text_as_an_address_of_a_route_is_a_request_or_a_refusal(text):
    for ask in (lambda: requests.add_route("10.9.0.0/16", via=text), lambda: requests.get_route(text),
                lambda: requests.add_route("10.9.0.0/16", oif=7, prefsrc=text),
                lambda: requests.add_route("10.9.0.0/16", hops=[{"via": text, "oif": 7}])):
        try:
            ask()
        except UsageError as error:
            assert repr(text) in str(error)


# --- nexthop objects ---

def test_a_nexthop_is_a_gateway_a_link_a_hole_or_a_group():
    assert body(requests.add_nexthop(7, via="10.0.0.9", oif=3, onlink=True)) == (
        (rtnl.AF_INET, 0, rtnl.RTPROT_BOOT, rtnl.RTNH_F_ONLINK), {"id": 7, "oif": 3, "gateway": "10.0.0.9"})
    assert body(requests.add_nexthop(7, oif=3, family="inet6")).header.family == rtnl.AF_INET6
    assert body(requests.add_nexthop(7, blackhole=True)).attrs == {"id": 7, "blackhole": True}
    assert body(requests.add_nexthop(7, via="10.0.0.9", fdb=True)).attrs == {"id": 7, "gateway": "10.0.0.9",
                                                                             "fdb": True}
    group = requests.add_nexthop(7, group=[(1, 1), (2, 256)], ensure=True)
    assert body(group).header.family == 0 and group.flags == REPLACE
    assert body(group).attrs == {"id": 7, "group": [(1, 0, 0), (2, 255, 0)]}


@pytest.mark.parametrize("options", [
    {}, {"group": []}, {"group": [1, 2]}, {"group": 7}, {"group": [(1, 1)], "oif": 3},
    {"group": [(1, 1)], "family": "inet"},
    {"group": [(1, 1)], "via": "10.0.0.9"}, {"blackhole": True, "oif": 3}, {"blackhole": True, "fdb": True},
    {"blackhole": True, "group": [(1, 1)]}, {"via": "10.0.0.9", "oif": 3, "fdb": True}, {"oif": 3, "onlink": True},
    {"via": "10.0.0.9", "family": "inet6"}, {"via": "all"}], ids=repr)
def test_what_is_no_nexthop_is_refused(options):
    message = refused(requests.add_nexthop, 7, **options)
    assert "nexthop 7: expected" in message or "group" in message or repr(options.get("via")) in message


def test_nexthops_are_listed_as_the_kernel_picks_them():
    assert body(requests.list_nexthops(oif=7, groups=True, fdb=True)).attrs == {"oif": 7, "groups": True, "fdb": True}
    assert body(requests.list_nexthops()).attrs == {}
    assert body(requests.get_nexthop(7)).attrs == body(requests.del_nexthop(7)).attrs == {"id": 7}


# --- rules ---

def test_a_rule_is_asked_for_with_all_that_it_is_given():
    request = requests.add_rule(priority=7, src="10.1.0.0/16", dst="10.2.0.1", iif="eth0", oif="eth1", fwmark=5,
                                fwmask=15,
                                table=1000, ip_proto=6, sport=7, dport=(80, 90), uids=(0, 9), tos=4, inverted=True,
                                protocol=4, suppress_prefixlen=0)
    header, attrs = body(request)
    assert header == (rtnl.AF_INET, 32, 16, 4, 0, rtnl.FR_ACT_TO_TBL, rtnl.FIB_RULE_INVERT)
    assert attrs == {"priority": 7, "src": "10.1.0.0", "dst": "10.2.0.1", "iifname": "eth0", "oifname": "eth1",
                     "fwmark": 5, "fwmask": 15, "table": 1000, "ip_proto": 6, "sport_range": (7, 7),
                     "dport_range": (80, 90), "uid_range": (0, 9), "protocol": 4, "suppress_prefixlen": 0}
    assert (request.flags, request.words) == (EXCL, "add rule 7")


def test_a_rule_goes_to_the_main_table_and_is_of_ipv4_unless_it_says_otherwise():
    header, attrs = body(requests.add_rule())
    assert (header.family, header.table, attrs["table"], attrs["protocol"]) == (rtnl.AF_INET, 254, 254,
                                                                                rtnl.RTPROT_BOOT)
    assert body(requests.add_rule(src="fd00::/8")).header.family == rtnl.AF_INET6
    assert "table" not in body(requests.add_rule(l3mdev=True)).attrs
    assert "table" not in body(requests.add_rule(action="prohibit")).attrs


def test_the_same_rule_is_no_error_where_it_is_to_be_there():
    assert requests.add_rule(ensure=True, priority=7).tolerate == {errno.EEXIST}
    assert not requests.add_rule(priority=7).tolerate


@pytest.mark.parametrize("fields, named", [
    ({"foo": 1}, "'foo'"), ({"fwmask": 1}, "fwmark with fwmask"), ({"fwmark": 0}, "fwmark 0"), ({"goto": 7}, "goto"),
    ({"action": "goto"}, "goto"), ({"action": "drop"}, "'drop'"), ({"table": 9, "l3mdev": True}, "not both"),
    ({"table": 9, "action": "blackhole"}, "no table"), ({"src": "10.0.0.1/8"}, "'10.0.0.1/8'"),
    ({"src": "::/0"}, "'::/0'"),
    ({"suppress_prefixlen": 0, "action": "prohibit"}, "no suppress_prefixlen"), ({"dst": "0.0.0.0/0"}, "'0.0.0.0/0'"),
    ({"src": "10.0.0.0/8", "dst": "fd00::/8"}, "one kind"), ({"src": "10.0.0.0/8", "family": "inet6"}, "one kind"),
    ({"iif": ""}, "''"), ({"oif": "x" * 16}, "x" * 16), ({"iif": 7}, "iif 7"), ({"sport": (9, 8)}, "sport 8"),
    ({"dport": 65535}, "dport 65535"), ({"uids": "all"}, "'all'")], ids=repr)
def test_what_is_no_rule_is_refused(fields, named):
    assert named in refused(requests.add_rule, **fields)


@pytest.mark.parametrize("fields", [
    {}, {"family": "inet"}, {"action": "table"}, {"tos": 0}, {"inverted": False}, {"l3mdev": False}], ids=repr)
def test_nothing_to_know_a_rule_by_deletes_none(fields):
    """The kernel would delete the first: that of the local table."""
    assert "expected something to know it by" in refused(requests.del_rule, **fields)


@pytest.mark.parametrize("fields", [
    {"priority": 7, "inverted": True}, {"priority": 7, "goto": 9}, {"action": "goto"}, {"src": "0.0.0.0/0"},
    {"priority": 7, "protocol": 0}, {"fwmark": 0, "priority": 7}], ids=repr)
def test_what_the_kernel_does_not_compare_is_refused_to_delete_by(fields):
    assert "expected" in refused(requests.del_rule, **fields)


def test_a_rule_is_deleted_by_what_is_given_and_nothing_else():
    """An action that was not given would be compared: a blackhole would not be found by its priority."""
    header, attrs = body(requests.del_rule(priority=7))
    assert (header.action, header.table, attrs) == (0, 0, {"priority": 7})
    assert body(requests.del_rule(action="blackhole")).header.action == rtnl.FR_ACT_BLACKHOLE
    assert body(requests.del_rule(tos=4)).header.tos == 4
    assert body(requests.del_rule(table=9, family="inet6")) == ((10, 0, 0, 0, 9, 0, 0), {"table": 9})


def test_rules_are_listed_by_family():
    assert body(requests.list_rules(family="inet6")).header.family == rtnl.AF_INET6
    assert requests.list_rules().is_dump
