"""Verbs for addresses and netns ids, and every question, on a real kernel, alone and in a batch; ip(8) is witness."""

import pytest

import nsnet
from live_helpers import ip
from nsnet import requests, rtnl
from nsnet.exchange import Request
from verb_helpers import act, pair, refused_by_kernel, same    # noqa: F401


def addresses(netns, link):
    """{address: what ip(8) says of it} of a link."""
    found = ip(netns, "address", "show", "dev", link)
    return {row["local"]: row for row in (found[0]["addr_info"] if found else [])}


def of_link(netns, link):
    return {one.address: one for one in netns.addresses(link)}


# --- addresses ---

def test_an_address_is_given_with_all_that_belongs_to_it(playground, pair, act):
    act(lambda net: net.add_address("left", "10.0.0.1/24", label="left:x", broadcast="10.0.0.255", scope="link",
                                    valid_lft=1000, preferred_lft=500, metric=7, proto=5))
    seen = addresses(playground, "left")["10.0.0.1"]
    assert (seen["prefixlen"], seen["label"], seen["broadcast"], seen["scope"], seen["metric"]) == (
        24, "left:x", "10.0.0.255", "link", 7)
    assert 990 <= seen["valid_life_time"] <= 1000 and 490 <= seen["preferred_life_time"] <= 500
    found = of_link(playground, "left")["10.0.0.1/24"]
    assert (found.label, found.broadcast, found.scope, found.metric) == ("left:x", "10.0.0.255", 253, 7)
    assert found.proto in (5, None), "before Linux 5.18 there is none"
    assert 990 <= found.valid_lft <= 1000 and 490 <= found.preferred_lft <= 500
    assert [route.metric for route in playground.routes(table=254) if route.dst == "10.0.0.0/24"] == [7]


def test_an_address_that_is_valid_for_ever_is_deprecated_or_preferred_for_ever(playground, pair, act):
    """Any other time IPv4 would not count: check_lifetime() leaves a permanent address alone."""
    with pytest.raises(nsnet.UsageError, match="preferred_lft 9: expected valid_lft"):
        act(lambda net: net.add_address("left", "10.0.0.1/24", preferred_lft=9))
    act(lambda net: net.add_address("left", "10.0.0.1/24", preferred_lft=0))
    assert addresses(playground, "left")["10.0.0.1"]["deprecated"] is True
    assert of_link(playground, "left")["10.0.0.1/24"].flags & rtnl.IFA_F_DEPRECATED
    act(lambda net: net.add_address("left", "fd00::1/64", preferred_lft=9))
    assert 5 <= of_link(playground, "left")["fd00::1/64"].preferred_lft <= 9


def test_an_ipv6_address_is_usable_at_once(playground, pair, act):
    act(lambda net: net.add_address("left", "fd00::1/64"))
    act(lambda net: net.add_address("left", "fd00::2/64", nodad=False, valid_lft=100, preferred_lft=0))
    seen = addresses(playground, "left")
    assert not seen["fd00::1"].get("tentative") and seen["fd00::2"].get("tentative")
    found = of_link(playground, "left")
    assert found["fd00::1/64"].valid_lft is None and found["fd00::2/64"].preferred_lft == 0


def test_a_point_to_point_address_has_a_peer(playground, pair, act):
    act(lambda net: net.add_address("left", "10.0.0.1/32", peer="10.9.0.2"))
    act(lambda net: net.add_address("left", "fd00::1/128", peer="fd00::9"))
    seen = addresses(playground, "left")
    assert seen["10.0.0.1"]["address"] == "10.9.0.2" and seen["fd00::1"]["address"] == "fd00::9"
    found = of_link(playground, "left")
    assert found["10.0.0.1/32"].peer == "10.9.0.2" and found["fd00::1/128"].peer == "fd00::9"
    assert "10.9.0.2/32" in [route.dst for route in playground.routes(table=254)]
    act(lambda net: net.del_address("left", "10.0.0.1/32", peer="10.9.0.2"))
    act(lambda net: net.del_address("left", "fd00::1/128", peer="fd00::9"))
    assert addresses(playground, "left") == {}


def test_the_route_to_the_prefix_may_be_left_out(playground, pair, act):
    act(lambda net: net.add_address("left", "10.0.0.1/24", prefix_route=False))
    act(lambda net: net.add_address("left", "fd00::1/64", prefix_route=False))
    assert not {"10.0.0.0/24", "fd00::/64"} & {route.dst for route in playground.routes(table=254)}
    assert all(seen["noprefixroute"] for seen in addresses(playground, "left").values())


def test_an_address_is_ensured_before_and_after_it_drifts(playground, pair, act):
    for address in ("10.0.0.1/24", "fd00::1/64"):
        for _ in range(2):
            act(lambda net: net.ensure_address("left", address, valid_lft=1000, metric=7))
        act(lambda net: net.ensure_address("left", address, valid_lft=5000, metric=9))
        found = of_link(playground, "left")[address]
        assert 4990 <= found.valid_lft <= 5000 and found.metric == 9
        act(lambda net: net.ensure_address("left", address))
        assert of_link(playground, "left")[address].valid_lft is None
    seen = addresses(playground, "left")
    assert len(seen) == 2 and seen["10.0.0.1"]["valid_life_time"] == 2**32 - 1


def test_an_address_that_is_there_or_gone_is_an_error_unless_that_is_fine(playground, pair, act):
    for address in ("10.0.0.1/24", "fd00::1/64"):
        act(lambda net: net.add_address("left", address))
        refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_address("left", address)))
        act(lambda net: net.del_address("left", address))
        refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_address("left", address)))
        act(lambda net: net.del_address("left", address, missing_ok=True))
        act(lambda net: net.del_address("nobody", address, missing_ok=True))
        act(lambda net: net.del_address(999999, address, missing_ok=True))
        with pytest.raises(nsnet.NoSuchObject):
            act(lambda net: net.del_address("nobody", address))
    playground.set_link("left", mtu=1000)                   # too little for IPv6: it leaves the link
    act(lambda net: net.del_address("left", "fd00::1/64", missing_ok=True))


def test_the_kernel_picks_the_addresses_that_were_asked_for(playground, pair):
    for link, host in (("left", 1), ("right", 2)):
        playground.add_address(link, f"10.0.0.{host}/24")
        playground.add_address(link, f"fd00::{host}/64")
    every = playground.addresses()
    for link in pair:
        for family, number in ((None, None), ("inet", 2), ("inet6", 10)):
            assert same(playground.addresses(link, family=family),
                        [one for one in every if one.index == link.index and number in (None, one.family)])
    assert same(playground.addresses(family="inet6"), [one for one in every if one.family == 10])
    assert len(playground.addresses("left")) == 2 < len(every)


# --- netns ids ---

def test_a_namespace_is_numbered_once(playground, act):
    with nsnet.Netns.new(beside=playground) as other, nsnet.Netns.new(beside=playground) as third:
        assert playground.nsid(other) is None and playground.nsids() == []
        act(lambda net: net.set_nsid(other, 7))
        assert playground.nsid(other) == 7 and [one.nsid for one in playground.nsids()] == [7]
        assert [row["nsid"] for row in ip(playground, "netns", "list-id")] == [7]
        error = refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.set_nsid(other, 8)))
        assert error.attribute == "NETNSA_FD" and "already has a nsid" in error.extack
        refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.set_nsid(third, 7)))
        assert other.nsid(playground) is None


# --- questions, to a kernel that checks them strictly ---

def test_what_an_older_kernel_would_overlook_is_refused_here(playground):
    """NETLINK_GET_STRICT_CHK is set: a filter that is none is an error, and not everything."""
    request = Request(rtnl.RTM_GETADDR, rtnl.NLM_F_DUMP, rtnl.ADDR_BODY.encode(({"prefixlen": 24}, {})), "by hand")
    error = refused_by_kernel(nsnet.NetlinkError, lambda: playground.perform([request]))
    assert "Invalid values in header" in error.extack


QUESTIONS = {
    "link": requests.get_link(1), "link by name": requests.get_link(ifname="lo"), "links": requests.list_links(),
    "some links": requests.list_links(kind="veth", master=1, stats=False), "vlans": requests.list_bridge_vlans(),
    "addresses": requests.list_addresses(), "some addresses": requests.list_addresses(index=1, family="inet6"),
    "neighbours": requests.list_neighbours(), "some neighbours": requests.list_neighbours(index=1, family="inet"),
    "proxies": requests.list_neighbours(index=1, proxy=True), "fdb": requests.list_fdb(),
    "some fdb": requests.list_fdb(index=1), "nsids": requests.list_nsids(), "routes": requests.list_routes(),
    "some routes": requests.list_routes(family="inet", table=255, oif=1, protocol=2, type="local"),
    "some IPv6 routes": requests.list_routes(family="inet6", table=1000, oif=1, protocol=2, type="local"),
    "route": requests.get_route("127.0.0.1", src="127.0.0.1", oif=1, mark=5), "IPv6 route": requests.get_route("::1"),
    "rules": requests.list_rules(), "IPv6 rules": requests.list_rules(family="inet6"),
    "nexthops": requests.list_nexthops(), "some nexthops": requests.list_nexthops(oif=1, groups=True, fdb=True),
    "qdiscs": requests.list_qdiscs(), "classes": requests.list_classes(1), "filters": requests.list_filters(1, "root"),
    "ingress filters": requests.list_filters(1, "ingress"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_is_answered_by_a_kernel_that_checks_strictly(playground, name):
    (outcome,) = playground.perform([QUESTIONS[name]])
    assert outcome.error is None


# --- the kernel's words ---

@pytest.mark.parametrize("type, layout, header, attrs, path", [
    (rtnl.RTM_NEWADDR, rtnl.ADDR_BODY, {"family": 2, "prefixlen": 24, "index": 1}, {2: b"\1\2"}, "IFA_LOCAL"),
    (rtnl.RTM_NEWNEIGH, rtnl.NEIGH_BODY, {"family": 2, "ifindex": 1, "state": 128},
     {"dst": "10.0.0.9", 8: b"\1\2"}, "NDA_IFINDEX"),
], ids=["address", "neighbour"])
def test_the_kernel_blames_an_attribute_by_its_path(playground, act, type, layout, header, attrs, path):
    request = Request(type, rtnl.NLM_F_CREATE, layout.encode((header, attrs)), "made by hand")
    error = refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net._run(request)))
    assert error.attribute == path and error.extack and path in str(error)


def test_a_lladdr_that_is_too_short_is_told_in_the_kernels_words(playground, pair):
    request = Request(rtnl.RTM_NEWNEIGH, rtnl.NLM_F_CREATE, rtnl.NEIGH_BODY.encode((
        {"family": 2, "ifindex": pair[0].index, "state": 128}, {"dst": "10.0.0.9", 2: b"\2\0\0\0\1"})), "by hand")
    error = refused_by_kernel(nsnet.NetlinkError, lambda: playground.perform([request]))
    assert error.extack == "Invalid link address"


def test_an_ipv6_address_with_another_prefix_is_not_ensured_in_silence(playground):
    v0, _ = playground.add_veth("v0", peer="v1")
    playground.add_address(v0, "fd00::1/64")
    playground.ensure_address(v0, "fd00::1/64")
    with pytest.raises(nsnet.AlreadyExists, match="it is there as fd00::1/64"):
        playground.ensure_address(v0, "fd00::1/80")


def test_duplicate_address_detection_is_no_matter_of_ipv4(playground):
    with pytest.raises(nsnet.UsageError, match="nodad"):
        playground.add_address("lo", "10.0.0.1/24", nodad=True)
