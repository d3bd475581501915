"""Verbs for routes and nexthop objects on a real kernel, alone and in a batch; ip(8) is the witness."""

import errno

import pytest

import nsnet
from live_helpers import ip
from nsnet import rtnl
from nsnet.exchange import Request
from verb_helpers import act, pair, refused_by_kernel, same, wired    # noqa: F401


def seen(netns, dst, *words):
    """The routes to `dst` as ip(8) sees them."""
    six = ["-6"] if ":" in dst or "-6" in words else []
    return ip(netns, *six, "route", "show", "exact" if dst != "default" else "to",
              dst if dst != "default" else "default",
              *(word for word in words if word != "-6"))


def found(netns, dst, **options):
    return [route for route in netns.routes(**options) if route.dst == dst]


# --- routes ---

def test_a_route_is_added_with_all_that_belongs_to_it(playground, wired, act):
    act(lambda net: net.add_route("10.9.0.0/16", via="10.0.0.9", oif="left", metric=5, scope="global",
                                  prefsrc="10.0.0.1",
                                  protocol=4, metrics={"mtu": 1400, "advmss": 1300, "cc_algo": "reno"}, tos=4))
    (row,) = seen(playground, "10.9.0.0/16")
    assert (row["gateway"], row["dev"], row["metric"], row["prefsrc"], row["protocol"]) == (
        "10.0.0.9", "left", 5, "10.0.0.1", "static")
    assert row["metrics"][0]["mtu"] == 1400 and row["metrics"][0]["advmss"] == 1300
    (route,) = found(playground, "10.9.0.0/16")
    assert (route.via, route.oif, route.metric, route.prefsrc, route.protocol, route.tos) == (
        "10.0.0.9", wired[0].index, 5, "10.0.0.1", 4, 4)
    assert (route.metrics["mtu"], route.metrics["cc_algo"]) == (1400, "reno")
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_route("10.9.0.0/16")))
    act(lambda net: net.del_route("10.9.0.0/16", tos=4, metric=5, oif="left", via="10.0.0.9"))
    assert found(playground, "10.9.0.0/16") == []


@pytest.mark.parametrize("dst, via", [("10.9.0.0/16", "10.0.0.9"), ("fd09::/64", "fd00::9")])
def test_a_route_is_ensured_before_and_after_it_drifts(playground, wired, act, dst, via):
    other = via[:-1] + "8"
    for gateway in (via, via, other, via):
        act(lambda net: net.ensure_route(dst, via=gateway))
        assert [row["gateway"] for row in seen(playground, dst)] == [gateway]
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_route(dst, via=other)))
    act(lambda net: net.ensure_route(dst, type="unreachable"))
    assert [row["type"] for row in seen(playground, dst)] == ["unreachable"]
    act(lambda net: net.ensure_route(dst, hops=[{"via": via}, {"via": other, "weight": 3}]))
    assert [hop.weight for hop in found(playground, dst)[0].hops] == [1, 3]


def test_a_route_of_another_metric_stands_beside_it(playground, wired, act):
    act(lambda net: net.add_route("10.9.0.0/16", via="10.0.0.9"))
    act(lambda net: net.ensure_route("10.9.0.0/16", via="10.0.0.8", metric=7))
    act(lambda net: net.add_route("10.9.0.0/16", via="10.0.0.7", append=True))
    assert sorted(row["gateway"] for row in seen(playground, "10.9.0.0/16")) == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]
    act(lambda net: net.del_route("10.9.0.0/16", metric=7))
    assert sorted(route.via for route in found(playground, "10.9.0.0/16")) == ["10.0.0.7", "10.0.0.9"]


@pytest.mark.parametrize("type", ["blackhole", "unreachable", "prohibit", "throw"])
@pytest.mark.parametrize("dst", ["10.9.0.0/16", "fd09::/64"])
def test_a_route_may_lead_nowhere(playground, wired, act, type, dst):
    act(lambda net: net.add_route(dst, type=type))
    (row,) = seen(playground, dst)
    assert row["type"] == type and found(playground, dst, type=type)[0].type == getattr(rtnl, f"RTN_{type.upper()}")
    act(lambda net: net.del_route(dst))
    assert found(playground, dst) == []


def test_a_route_may_be_local(playground, act):
    act(lambda net: net.add_route("10.9.0.0/16", type="local", oif="lo", table=255))
    (row,) = seen(playground, "10.9.0.0/16", "table", "local")
    assert (row["type"], row["dev"], row["scope"]) == ("local", "lo", "host")
    assert playground.route("10.9.1.1").type == rtnl.RTN_LOCAL


def test_an_ipv4_route_may_go_through_an_ipv6_gateway(playground, wired, act):
    act(lambda net: net.add_route("10.9.0.0/16", via="fd00::9", oif="left"))
    (row,) = seen(playground, "10.9.0.0/16")
    assert row["via"] == {"family": "inet6", "host": "fd00::9"} and found(playground, "10.9.0.0/16")[0].via == "fd00::9"
    act(lambda net: net.add_route("default", via="fd00::9", oif="left", family="inet"))
    assert [route.family for route in found(playground, "default", table=254)] == [2]
    act(lambda net: net.del_route("default", via="fd00::9", family="inet"))
    act(lambda net: net.del_route("10.9.0.0/16", via="fd00::9", oif="left"))
    assert found(playground, "10.9.0.0/16") == found(playground, "default") == []


def test_a_gateway_may_be_on_the_link_by_word_alone(playground, wired, act):
    refused_by_kernel(nsnet.NetlinkError,
                      lambda: act(lambda net: net.add_route("10.9.0.0/16", via="10.5.0.1", oif="left")))
    act(lambda net: net.add_route("10.9.0.0/16", via="10.5.0.1", oif="left", onlink=True))
    (row,) = seen(playground, "10.9.0.0/16")
    assert row["gateway"] == "10.5.0.1" and "onlink" in row["flags"]


def test_a_route_has_several_hops(playground, wired, act):
    playground.add_address("right", "10.1.0.1/24")
    act(lambda net: net.add_route("10.9.0.0/16",
                                  hops=[{"via": "10.0.0.9", "weight": 5}, {"via": "10.1.0.9", "oif": "right"}]))
    (row,) = seen(playground, "10.9.0.0/16")
    assert [(hop["gateway"], hop["dev"], hop["weight"]) for hop in row["nexthops"]] == [
        ("10.0.0.9", "left", 5), ("10.1.0.9", "right", 1)]
    assert [(hop.via, hop.oif, hop.weight) for hop in found(playground, "10.9.0.0/16")[0].hops] == [
        ("10.0.0.9", wired[0].index, 5), ("10.1.0.9", wired[1].index, 1)]
    act(lambda net: net.add_route("fd09::/64", hops=[{"via": "fd00::8"}, {"via": "fd00::9", "weight": 2}]))
    assert [(hop.via, hop.weight) for hop in found(playground, "fd09::/64")[0].hops] == [("fd00::8", 1), ("fd00::9", 2)]


@pytest.mark.parametrize("table", [100, 254, 255, 256, 2**32 - 1])
def test_a_route_is_in_its_table(playground, wired, act, table):
    act(lambda net: net.add_route("10.9.0.0/16", via="10.0.0.9", table=table))
    act(lambda net: net.add_route("default", via="fd00::9", table=table))
    for family, dst in (("inet", "10.9.0.0/16"), ("inet6", "default")):
        assert [route.table for route in found(playground, dst, table=table, family=family)] == [table]
        assert [route.table for route in found(playground, dst)] == [table]
    assert seen(playground, "10.9.0.0/16", "table", table)[0]["gateway"] == "10.0.0.9"
    act(lambda net: net.del_route("10.9.0.0/16", table=table))
    act(lambda net: net.del_route("default", table=table, family="inet6"))
    assert found(playground, "10.9.0.0/16") == found(playground, "default") == []


def test_an_ipv6_route_may_be_for_some_sources(playground, wired, act):
    """Where the kernel has CONFIG_IPV6_SUBTREES; elsewhere it says so in its own words."""
    try:
        act(lambda net: net.add_route("fd09::/64", via="fd00::9", src="fd01::/64"))
    except nsnet.NetlinkError as error:
        assert "SUBTREES" in error.extack
        return
    assert found(playground, "fd09::/64")[0].src == "fd01::/64" and seen(playground,
                                                                         "fd09::/64")[0]["from"] == "fd01::/64"
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_route("fd09::/64")))
    act(lambda net: net.del_route("fd09::/64", src="fd01::/64"))
    assert found(playground, "fd09::/64") == []


def test_a_route_that_is_not_there_is_an_error_unless_that_is_fine(playground, wired, act):
    for dst in ("10.9.0.0/16", "fd09::/64", "default"):
        refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_route(dst)))
        act(lambda net: net.del_route(dst, missing_ok=True))
        act(lambda net: net.del_route(dst, oif="nobody", missing_ok=True))
        act(lambda net: net.del_route(dst, table=77777, missing_ok=True))


def test_the_route_of_a_packet_is_known(playground, wired):
    playground.add_route("10.9.0.0/16", via="10.0.0.9", table=1000)
    playground.add_rule(fwmark=7, table=1000, priority=5)
    route = playground.route("10.9.1.1", mark=7)
    assert (route.via, route.oif, route.prefsrc, route.table) == ("10.0.0.9", wired[0].index, "10.0.0.1", 1000)
    (row,) = ip(playground, "route", "get", "10.9.1.1", "mark", "7")
    assert (row["gateway"], row["prefsrc"], row["table"]) == ("10.0.0.9", "10.0.0.1", "1000")
    assert playground.route("10.0.0.1").table == rtnl.RT_TABLE_LOCAL
    assert playground.route("fd00::1").table == rtnl.RT_TABLE_LOCAL
    assert playground.route("fd00::9", src="fd00::1", oif="left").oif == wired[0].index
    assert playground.route("10.0.0.1", src="10.0.0.9", iif="left").type == rtnl.RTN_LOCAL
    for dst in ("10.9.1.1", "fd09::1"):
        error = refused_by_kernel(nsnet.NetlinkError, lambda: playground.route(dst))
        assert error.errno == errno.ENETUNREACH and error.request == f"route to {dst}"


def test_the_kernel_picks_the_routes_that_were_asked_for(playground, wired):
    playground.add_route("10.9.0.0/16", via="10.0.0.9", table=1000, protocol=99)
    playground.add_route("fd09::/64", via="fd00::9", table=1000)
    playground.add_route("10.8.0.0/16", type="blackhole")
    every = playground.routes()
    tests = [({"family": "inet"}, lambda one: one.family == 2), ({"table": 1000}, lambda one: one.table == 1000),
             ({"oif": "left"}, lambda one: one.oif == wired[0].index),
             ({"protocol": 99}, lambda one: one.protocol == 99),
             ({"type": "blackhole"}, lambda one: one.type == rtnl.RTN_BLACKHOLE), ({"table": 4711}, lambda one: False),
             ({"family": "inet", "table": 4711}, lambda one: False), ({"table": 255}, lambda one: one.table == 255),
             ({"table": 1000, "family": "inet6", "oif": "left"}, lambda one: one.table == 1000 and one.family == 10)]
    for options, picks in tests:
        assert same(playground.routes(**options), filter(picks, every)), options


def test_the_kernels_sentence_about_a_route_reaches_the_user(playground, wired, act):
    for options, sentence in [({"via": "203.0.113.9"}, "Nexthop has invalid gateway"),
                              ({"via": "10.0.0.9", "prefsrc": "10.7.7.7"}, "Invalid prefsrc address"),
                              ({"nh_id": 77}, "Nexthop id does not exist"),
                              ({"via": "10.0.0.9", "metrics": {"cc_algo": "none-such"}},
                               "Unknown tcp congestion algorithm")]:
        error = refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net.add_route("10.9.0.0/16", **options)))
        assert error.extack == sentence and sentence in str(error)


# --- nexthop objects ---

def test_nexthops_are_hops_holes_and_groups_of_them(playground, wired, act):
    act(lambda net: net.add_nexthop(1, via="10.0.0.9", oif="left", protocol=4))
    act(lambda net: net.add_nexthop(2, via="10.0.0.8", oif="left"))
    act(lambda net: net.add_nexthop(3, group=[(1, 1), (2, 5)]))
    act(lambda net: net.add_nexthop(4, blackhole=True))
    act(lambda net: net.add_nexthop(5, via="fd00::9", oif="left", onlink=True))
    act(lambda net: net.add_nexthop(6, via="10.0.0.7", fdb=True))
    rows = {row["id"]: row for row in ip(playground, "nexthop", "show")}
    assert (rows[1]["gateway"], rows[1]["dev"], rows[1]["protocol"]) == ("10.0.0.9", "left", "static")
    assert [(one["id"], one.get("weight", 1)) for one in rows[3]["group"]] == [(1, 1), (2, 5)]
    assert "blackhole" in rows[4] and "onlink" in rows[5]["flags"] and "fdb" in rows[6]
    every = {one.id: one for one in playground.nexthops()}
    assert every[3].group == ((1, 1), (2, 5)) and every[4].blackhole and every[6].fdb
    assert (playground.nexthop(1).via, playground.nexthop(1).oif) == ("10.0.0.9", wired[0].index)
    assert same(playground.nexthops(groups=True), [every[3]]) and same(playground.nexthops(fdb=True), [every[6]])
    assert same(playground.nexthops(oif="left"),
                [every[1], every[2], every[5]]) and playground.nexthops(oif="right") == []


def test_a_route_goes_where_its_nexthop_goes(playground, wired, act):
    act(lambda net: net.add_nexthop(1, via="10.0.0.9", oif="left"))
    act(lambda net: net.add_route("10.9.0.0/16", nh_id=1))
    assert seen(playground, "10.9.0.0/16")[0]["nhid"] == 1 and found(playground, "10.9.0.0/16")[0].nh_id == 1
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_nexthop(1, via="10.0.0.8", oif="left")))
    for _ in range(2):
        act(lambda net: net.ensure_nexthop(1, via="10.0.0.8", oif="left"))
    assert playground.route("10.9.1.1").via == "10.0.0.8"
    act(lambda net: net.del_nexthop(1))
    assert found(playground, "10.9.0.0/16") == [], "the routes go with it"
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_nexthop(1)))
    act(lambda net: net.del_nexthop(1, missing_ok=True))
    refused_by_kernel(nsnet.NoSuchObject, lambda: playground.nexthop(1))


def test_a_nexthop_of_a_link_that_is_down_is_refused_in_the_kernels_words(playground, act):
    playground.add_ifb("it0")
    error = refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net.add_nexthop(1, oif="it0")))
    assert (error.errno, error.extack) == (errno.ENETDOWN, "Nexthop device is not up")


# --- the kernel's words ---

@pytest.mark.parametrize("type, layout, header, attrs, path", [
    (rtnl.RTM_NEWROUTE, rtnl.ROUTE_BODY, {"family": 2, "dst_len": 16, "table": 254, "type": 1},
     {"dst": "10.9.0.0", 5: b"\1\2"}, "RTA_GATEWAY"),
    (rtnl.RTM_NEWROUTE, rtnl.ROUTE_BODY, {"family": 10, "dst_len": 16, "table": 254, "type": 1},
     {"dst": "fd09::", 6: b"\1\2"}, "RTA_PRIORITY"),
    (rtnl.RTM_NEWNEXTHOP, rtnl.NEXTHOP_BODY, {"family": 2}, {"id": 9, 5: b"\1\2"}, "NHA_OIF"),
], ids=["gateway", "metric", "nexthop"])
def test_the_kernel_blames_an_attribute_by_its_path(playground, act, type, layout, header, attrs, path):
    request = Request(type, rtnl.NLM_F_CREATE, layout.encode((header, attrs)), "made by hand")
    error = refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net._run(request)))
    assert error.attribute == path and error.extack and path in str(error)
