"""What the requests for addresses, neighbours, forwarding entries and netns ids ask; and what would be set in vain."""

import errno

import pytest
from hypothesis import given
from strategies import ANY_TEXT, refused

from nsnet import requests, rtnl, values
from nsnet.errors import UsageError
from nsnet.requests import inet

V4, V6 = values.address("10.0.0.1/24"), values.address("fd00::1/64")
HOST4, HOST6 = values.address("10.0.0.1/32"), values.address("fd00::1/128")
MAC, ANY_MAC = "02:00:00:00:00:01", "00:00:00:00:00:00"
EXCL, REPLACE = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL, rtnl.NLM_F_CREATE | rtnl.NLM_F_REPLACE
APPEND = rtnl.NLM_F_CREATE | rtnl.NLM_F_APPEND
GONE = {errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO}


def body(request):
    return rtnl.LAYOUTS[request.type].decode(request.payload)


# --- addresses ---

def test_an_address_is_asked_for_with_all_that_it_is_given():
    request = requests.add_address(7, V4, "eth0", broadcast="10.0.0.255", label="eth0:x", scope="link", valid_lft=100,
                                   preferred_lft=50, metric=9, proto=5, prefix_route=False)
    header, attrs = body(request)
    assert header == (rtnl.AF_INET, 24, 0, 253, 7)
    lifetimes = attrs.pop("cacheinfo")
    assert (lifetimes.ifa_prefered, lifetimes.ifa_valid) == (50, 100)
    assert attrs == {"local": "10.0.0.1", "address": "10.0.0.1", "broadcast": "10.0.0.255", "label": "eth0:x",
                     "flags": rtnl.IFA_F_NOPREFIXROUTE, "rt_priority": 9, "proto": 5}
    assert (request.flags, request.words) == (EXCL, "add address 10.0.0.1/24 on eth0")


def test_an_ipv6_address_is_usable_at_once_unless_it_is_to_be_asked_about():
    assert body(requests.add_address(7, V6, "it")).attrs["flags"] == rtnl.IFA_F_NODAD
    assert "flags" not in body(requests.add_address(7, V6, "it", nodad=False)).attrs
    assert "flags" not in body(requests.add_address(7, V4, "it")).attrs, "IPv4 knows no such flag"


@pytest.mark.parametrize("option", ["broadcast", "label", "scope"])
def test_what_only_ipv4_has_is_refused_for_ipv6(option):
    """inet6_rtm_newaddr() looks at none of them."""
    value = {"broadcast": "10.0.0.255", "label": "eth0", "scope": "host"}[option]
    assert f"{option} {value!r}: expected none for the IPv6 address 'fd00::1/64'" == refused(
        requests.add_address, 7, V6, "it", **{option: value})


@pytest.mark.parametrize("option", ["broadcast", "label", "scope", "prefix_route"])
def test_what_an_address_keeps_is_refused_where_it_may_be_there_already(option):
    """inet_rtm_newaddr() with NLM_F_REPLACE changes lifetimes, metric and protocol, and nothing else."""
    value = {"broadcast": "10.0.0.255", "label": "eth0", "scope": "host", "prefix_route": False}[option]
    assert option in refused(requests.add_address, 7, V4, "it", ensure=True, **{option: value})
    request = requests.add_address(7, V4, "it", ensure=True, valid_lft=7, metric=8, proto=9)
    assert (request.flags, request.words) == (REPLACE, "ensure address 10.0.0.1/24 on it")


def test_an_ipv6_address_changes_its_prefix_route():
    request = requests.add_address(7, V6, "it", ensure=True, prefix_route=False)
    assert body(request).attrs["flags"] == rtnl.IFA_F_NODAD | rtnl.IFA_F_NOPREFIXROUTE


def test_the_prefix_of_a_point_to_point_address_is_the_peers():
    for address, peer, length in ((HOST4, "10.0.0.2", 32), (HOST4, "10.9.0.0/16", 16), (HOST6, "fd00::2/64", 64)):
        header, attrs = body(requests.add_address(7, address, "it", peer=peer))
        assert (attrs["local"], attrs["address"], header.prefixlen) == (address.ip, peer.partition("/")[0], length)
        assert body(requests.del_address(7, address, "it", peer=peer)).attrs["address"] == attrs["address"]
    assert "expected /32" in refused(requests.add_address, 7, V4, "it", peer="10.0.0.2")
    assert "'fd00::2'" in refused(requests.add_address, 7, HOST4, "it", peer="fd00::2")


@pytest.mark.parametrize("options, named", [
    ({"valid_lft": 10, "preferred_lft": 11}, "preferred_lft 11"), ({"label": ""}, "''"),
    ({"label": "x" * 16}, "x" * 16),
    ({"label": "a\0"}, r"'a\x00'"), ({"broadcast": "fd00::1"}, "'fd00::1'"), ({"broadcast": "all"}, "'all'"),
    ({"scope": "world"}, "'world'"), ({"peer": "nobody"}, "'nobody'"), ({"valid_lft": 0}, "valid_lft 0")], ids=repr)
def test_an_option_that_does_not_fit_an_address_is_refused(options, named):
    assert named in refused(requests.add_address, 7, HOST4, "it", **options)


def test_a_lifetime_is_for_ever_where_none_is_given():
    assert "cacheinfo" not in body(requests.add_address(7, V4, "it")).attrs
    lifetimes = body(requests.add_address(7, V4, "it", valid_lft=9)).attrs["cacheinfo"]
    assert (lifetimes.ifa_prefered, lifetimes.ifa_valid) == (9, 9)
    lifetimes = body(requests.add_address(7, V4, "it", preferred_lft=0)).attrs["cacheinfo"]
    assert (lifetimes.ifa_prefered, lifetimes.ifa_valid) == (0, 2**32 - 1)


def test_ipv4_prefers_no_address_for_a_time_that_is_valid_for_ever():
    """The kernel would take it for ever then, but for 0; IPv6 does as it is told."""
    assert "preferred_lft 9: expected valid_lft" in refused(requests.add_address, 7, V4, "it", preferred_lft=9)
    assert body(requests.add_address(7, V6, "it", preferred_lft=9)).attrs["cacheinfo"].ifa_prefered == 9


def test_addresses_are_listed_as_the_kernel_picks_them():
    assert body(requests.list_addresses(index=7, family="inet6")).header == (rtnl.AF_INET6, 0, 0, 0, 7)
    assert body(requests.list_addresses()).header == (0, 0, 0, 0, 0)
    assert "'ipx'" in refused(requests.list_addresses, family="ipx")


@pytest.mark.parametrize("ask", [
    lambda missing_ok: requests.del_address(7, V4, "it", missing_ok=missing_ok),
    lambda missing_ok: requests.del_neighbour(7, "10.0.0.1", "it", missing_ok=missing_ok),
    lambda missing_ok: requests.del_fdb(7, MAC, "it", missing_ok=missing_ok),
    lambda missing_ok: requests.del_route("10.9.0.0/16", missing_ok=missing_ok),
    lambda missing_ok: requests.del_rule(priority=7, missing_ok=missing_ok),
    lambda missing_ok: requests.del_nexthop(7, missing_ok=missing_ok),
    lambda missing_ok: requests.del_class(7, "it", classid="1:1", missing_ok=missing_ok),
    lambda missing_ok: requests.del_qdisc(7, "it", missing_ok=missing_ok)],
    ids=["address", "neighbour", "fdb", "route", "rule", "nexthop", "class", "qdisc"])
def test_what_is_gone_already_is_an_error_unless_that_is_fine(ask):
    assert ask(False).tolerate == frozenset() and ask(True).tolerate == GONE


# --- neighbours ---

def test_a_neighbour_is_permanent_unless_another_state_is_given():
    header, attrs = body(requests.add_neighbour(7, "10.0.0.9", "it", lladdr="02:00:00:00:00:0A"))
    assert (header.family, header.ifindex, header.state, header.flags) == (rtnl.AF_INET, 7, rtnl.NUD_PERMANENT, 0)
    assert attrs == {"dst": "10.0.0.9", "lladdr": "02:00:00:00:00:0a"}
    request = requests.add_neighbour(7, "fd00::9", "it", lladdr=MAC, state="stale", router=True, ensure=True)
    assert (body(request).header.state, body(request).header.flags) == (rtnl.NUD_STALE, rtnl.NTF_ROUTER)
    assert request.flags == REPLACE


@pytest.mark.parametrize("state", ["incomplete", "failed", "none", 1, 32, 3, True])
def test_a_state_in_which_the_lladdr_is_forgotten_is_refused(state):
    assert repr(state) in refused(requests.add_neighbour, 7, "10.0.0.9", "it", lladdr=MAC, state=state)


def test_a_proxy_entry_has_neither_lladdr_nor_state():
    request = requests.add_neighbour(7, "10.0.0.9", "it", proxy=True)
    assert (body(request).header.flags, body(request).header.state) == (rtnl.NTF_PROXY, 0)
    assert body(request).attrs == {"dst": "10.0.0.9"}
    assert request.flags == REPLACE, "the proxy table knows no EXCL: what it cannot keep is not promised"
    for options in ({"lladdr": MAC}, {"state": "permanent"}):
        assert "proxy" in refused(requests.add_neighbour, 7, "10.0.0.9", "it", proxy=True, **options)
    assert "lladdr" in refused(requests.add_neighbour, 7, "10.0.0.9", "it")


def test_a_router_is_an_ipv6_neighbour():
    assert "10.0.0.9" in refused(requests.add_neighbour, 7, "10.0.0.9", "it", lladdr=MAC, router=True)


@given(ANY_TEXT)
def test_any_text_as_a_neighbour_is_a_request_or_a_refusal(text):
    for ask in (lambda: requests.add_neighbour(7, text, "it", lladdr=MAC),
                lambda: requests.del_neighbour(7, text, "it"),
                lambda: requests.get_neighbour(7, text, "it")):
        try:
            request = ask()
        except UsageError as error:
            assert repr(text) in str(error)
        else:
            assert body(request).attrs["dst"]


def test_neighbours_are_listed_as_the_kernel_picks_them():
    request = requests.list_neighbours(index=7, family="inet", proxy=True)
    assert (body(request).header.family, body(request).header.flags) == (rtnl.AF_INET, rtnl.NTF_PROXY)
    assert body(request).attrs == {"ifindex": 7}
    assert body(requests.get_neighbour(7, "10.0.0.9", "it")).attrs == {"dst": "10.0.0.9"}


# --- forwarding entries ---

def test_an_entry_is_the_bridges_unless_it_is_the_links_own():
    request = requests.add_fdb(7, MAC, "v0", vlan=9, extern_learn=True)
    assert body(request).header[:4] == (rtnl.AF_BRIDGE, 7, rtnl.NUD_NOARP, rtnl.NTF_MASTER | rtnl.NTF_EXT_LEARNED)
    assert body(request).attrs == {"lladdr": MAC, "vlan": 9}
    assert body(requests.add_fdb(7, MAC, "v0", permanent=True)).header.state == rtnl.NUD_PERMANENT
    own = requests.add_fdb(7, MAC, "vx", self_=True, dst="10.0.0.9", vni=5, port=7, via=3)
    assert body(own).header[:4] == (rtnl.AF_BRIDGE, 7, rtnl.NUD_PERMANENT, rtnl.NTF_SELF)
    assert body(own).attrs == {"lladdr": MAC, "dst": "10.0.0.9", "vni": 5, "port": 7, "ifindex": 3}
    gone = requests.del_fdb(7, MAC, "vx", self_=True, dst="10.0.0.9", vni=5, port=7, via=3)
    assert body(gone).attrs == body(own).attrs
    assert body(gone).header.state == rtnl.NUD_PERMANENT, "or ndo_dflt_fdb_del() says EINVAL"


@pytest.mark.parametrize("options", [{"dst": "10.0.0.9"}, {"vni": 5}, {"port": 7}, {"via": 3}], ids=repr)
@pytest.mark.parametrize("ask", [requests.add_fdb, requests.del_fdb])
def test_what_only_a_vxlan_has_is_refused_for_a_bridge_port_and_with_a_vlan(ask, options):
    assert "expected self_" in refused(ask, 7, MAC, "it", **options)
    assert "expected no vlan" in refused(ask, 7, MAC, "it", self_=True, vlan=9, **options)


def test_a_peer_to_delete_is_named_by_its_address():
    """Without one a VXLAN would look at nothing else, and forget them all."""
    for options in ({"vni": 5}, {"port": 7}, {"via": 3}):
        assert "expected dst with" in refused(requests.del_fdb, 7, MAC, "vx", self_=True, **options)
    for nobody in ("0.0.0.0", "::"):
        assert repr(nobody) in refused(requests.del_fdb, 7, MAC, "vx", self_=True, dst=nobody)


def test_a_peer_is_known_by_all_that_an_entry_says_or_leaves_to_the_vxlan():
    def there(**attrs):
        return body(requests.add_fdb(7, **{"lladdr": MAC, "words": "vx", "self_": True, "dst": "10.0.0.9", **attrs}))

    def found(entry, **options):
        wanted = requests.del_fdb(7, MAC, "vx", self_=True, **{"dst": "10.0.0.9", **options})
        return inet.has_peer(wanted, [entry], {"id": 42, "port": 4789})
    assert found(there()) and found(there(), vni=42) and found(there(), port=4789) and found(there(via=3), via=3)
    assert found(there(vni=5, port=7), vni=5, port=7) and found(there(dst="fd00::9"), dst="fd00:0::9")
    for entry, options in ((there(), {"dst": "10.0.0.8"}), (there(), {"vni": 5}), (there(), {"port": 7}),
                           (there(), {"via": 3}), (there(vni=5), {}), (there(port=7), {}), (there(via=3), {}),
                           (there(lladdr="02:00:00:00:00:99"), {})):
        assert not found(entry, **options)
    other = body(requests.add_fdb(7, MAC, "vx", self_=True))
    assert not found(other), "it goes to no peer"


def test_a_request_that_adds_the_entry_is_known():
    wanted = requests.del_fdb(7, MAC, "vx", self_=True, dst="10.0.0.9")
    assert inet.adds_fdb(requests.add_fdb(7, MAC, "vx", self_=True, dst="10.0.0.9"), wanted)
    for other in (requests.add_fdb(8, MAC, "vx", self_=True), requests.add_fdb(7, ANY_MAC, "vx", self_=True), wanted,
                  requests.add_neighbour(7, "10.0.0.9", "vx", lladdr=MAC), requests.list_links()):
        assert not inet.adds_fdb(other, wanted)


@pytest.mark.parametrize("lladdr", ["", "02:00:00:00:00", "02:00:00:00:00:01:02", ANY_MAC, "a\nb", None, 7], ids=repr)
def test_what_is_no_lladdr_is_refused_in_an_entry(lladdr):
    assert repr(lladdr) in refused(requests.add_fdb, 7, lladdr, "it")
    assert repr(lladdr) in refused(requests.del_fdb, 7, lladdr, "it")


def test_a_vxlan_may_have_several_peers_for_everything_else():
    def flags(**options):
        return requests.add_fdb(7, ANY_MAC, "vx", self_=True, dst="10.0.0.9", **options).flags
    assert flags() == EXCL and flags(append=True) == APPEND
    assert flags(ensure=True) == APPEND, "the kernel refuses to replace it, and appends no peer twice"
    assert requests.add_fdb(7, MAC, "vx", self_=True, dst="10.0.0.9", ensure=True).flags == REPLACE
    assert "append" in refused(requests.add_fdb, 7, MAC, "vx", self_=True, dst="10.0.0.9", append=True)


def test_entries_are_listed_as_the_kernel_picks_them():
    request = requests.list_fdb(index=7, master=9)
    assert body(request).header[:2] == (rtnl.AF_BRIDGE, 7) and body(request).attrs == {"master": 9}


# --- netns ids ---

def test_a_namespace_is_numbered_by_its_descriptor():
    assert body(requests.set_nsid(3, 7)).attrs == {"nsid": 7, "fd": 3}
    assert body(requests.get_nsid(3)).attrs == {"fd": 3} and body(requests.list_nsids()).attrs == {}
    assert requests.list_nsids().is_dump and not requests.get_nsid(3).is_dump
