"""What is refused before the kernel is asked, and what a verb asks beyond the bytes that test_golden.py compares."""

import errno
import sys

import pytest
from hypothesis import given
from strategies import ANY_TEXT, attributes_of, refused

from nsnet import requests, rtnl, values
from nsnet.errors import UsageError

ADDRESS = values.address("10.0.0.1/24")
BAD_NAMES = ["", "a" * 16, "a/b", "a b", "x%d", "-rf", "all", "default", "a\0", "é", "\ud800", None, 7]
BAD_MACS = ["", "02:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "zz:00:00:00:00:01"]
BAD_MTUS = [0, 67, 65536, -1, True, "1500"]
BAD_GROUPS = [-1, 2**32, 2**70]


def attrs(request):
    """The attributes of a link request."""
    return rtnl.LINK_BODY.decode(request.payload).attrs


def header(request):
    return rtnl.LAYOUTS[request.type].decode(request.payload).header


# --- names, addresses, sizes ---

@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_bad_name_is_refused_wherever_a_link_is_made_or_renamed(name):
    assert repr(name) in refused(requests.add_bridge, name)
    assert repr(name) in refused(requests.add_veth, name, "b")
    assert repr(name) in refused(requests.add_veth, "a", name)
    if name is not None:
        assert repr(name) in refused(requests.set_link, 2, "it", ifname=name)


@pytest.mark.parametrize("lladdr", BAD_MACS, ids=repr)
def test_a_bad_mac_is_refused_wherever_one_is_given(lladdr):
    for function, arguments, name in [(requests.add_bridge, ("a",), "lladdr"),
                                      (requests.add_veth, ("a", "b"), "lladdr"),
                                      (requests.add_veth, ("a", "b"), "peer_lladdr"),
                                      (requests.set_link, (2, "it"), "lladdr")]:
        assert repr(lladdr) in refused(function, *arguments, **{name: lladdr})


@pytest.mark.parametrize("mtu", BAD_MTUS, ids=repr)
def test_a_bad_mtu_is_refused_wherever_one_is_given(mtu):
    for function, arguments in [(requests.add_bridge, ("a",)), (requests.add_veth, ("a", "b")),
                                (requests.set_link, (2, "it"))]:
        assert repr(mtu) in refused(function, *arguments, mtu=mtu)


@pytest.mark.parametrize("group", BAD_GROUPS)
def test_a_bad_group_is_refused_wherever_one_is_given(group):
    for function, arguments in [(requests.add_bridge, ("a",)), (requests.add_veth, ("a", "b")),
                                (requests.set_link, (2, "it")),
                                (requests.del_group, ())]:
        assert str(group) in refused(lambda: function(*arguments, group=group))


@pytest.mark.parametrize("index", [0, -1, 2**31, 2**70])
def test_a_bad_ifindex_is_refused_wherever_one_link_is_meant(index):
    """Index 0 would be "whichever has that name" to the kernel, and a negative one whatever it makes of it."""
    for ask in [lambda: requests.set_link(index, "it", up=True), lambda: requests.del_link(index, "it"),
                lambda: requests.set_addr_gen_mode(index, "it", 1), lambda: requests.add_address(index, ADDRESS, "it"),
                lambda: requests.del_address(index, ADDRESS, "it")]:
        assert str(index) in refused(ask)


@pytest.mark.parametrize("number", [2**31, 2**32, 2**70, -2**31 - 1])
def test_no_number_is_cut_off_to_fit_its_field(number):
    for ask in [lambda: requests.add_bridge("a", index=number), lambda: requests.add_veth("a", "b", index=number),
                lambda: requests.add_veth("a", "b", peer_index=number), lambda: requests.get_link(number)]:
        assert str(number) in refused(ask)
    for ask in [lambda: requests.set_link(2, "it", master=2 * number),
                lambda: requests.set_link(2, "it", netns_fd=2 * number),
                lambda: requests.add_veth("a", "b", peer_netns_fd=2 * number),
                lambda: requests.add_veth("a", "b", master=2 * number),
                lambda: requests.add_route("default", oif=2 * number),
                lambda: requests.add_route("default", oif=2, metric=2 * number),
                lambda: requests.add_route("default", oif=2, table=2 * number)]:
        assert str(2 * number) in refused(ask)


def test_no_negative_number_stands_for_a_link_or_a_descriptor():
    for ask in [lambda: requests.set_link(2, "it", master=-1), lambda: requests.set_link(2, "it", netns_fd=-1),
                lambda: requests.add_veth("a", "b", peer_netns_fd=-1), lambda: requests.add_veth("a", "b", master=-1),
                lambda: requests.add_route("default", oif=-1), lambda: requests.add_route("default", oif=2, metric=-1),
                lambda: requests.add_route("default", oif=2, table=-1)]:
        assert "-1" in refused(ask)


@given(ANY_TEXT)
def test_any_text_as_a_name_is_a_request_or_a_usage_error(text):
    for ask in (requests.add_bridge, lambda name: requests.add_veth(name, "peer0", peer_netns_fd=3),
                lambda name: requests.set_link(2, "it", ifname=name)):
        try:
            assert attrs(ask(text))["ifname"] == text
        except UsageError as error:
            assert repr(text) in str(error)


@given(ANY_TEXT)
def test_any_text_as_a_route_is_a_request_or_a_usage_error(text):
    for ask in (lambda: requests.add_route(text, oif=2), lambda: requests.add_route("default", via=text)):
        try:
            ask()
        except UsageError as error:
            assert repr(text) in str(error)


# --- bridges ---

def test_a_bridge_option_that_is_none_is_refused():
    assert "'stp'" in refused(requests.add_bridge, "br0", options={"stp": 1})
    assert "stp_state" in refused(requests.add_bridge, "br0", options={"stp": 1})


@pytest.mark.parametrize("options", [{"priority": 65536}, {"stp_state": -1}, {"ageing_time": 2**32},
                                     {"stp_state": "on"},
                                     {"group_addr": "zz"}], ids=repr)
def test_a_bridge_option_that_does_not_fit_is_refused(options):
    assert repr(*options.values()) in refused(requests.add_bridge, "br0", options=options)


def test_a_bridge_without_options_sends_none():
    assert attrs(requests.add_bridge("br0")) == {"ifname": "br0", "linkinfo": {"kind": "bridge"}}


def test_every_link_is_created_exclusively():
    """CREATE alone would adopt a stranger's link of that name."""
    for request in (requests.add_bridge("a"), requests.add_veth("a", "b"), requests.add_address(2, ADDRESS, "a"),
                    requests.add_route("default", oif=2)):
        assert request.flags == rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL and not request.tolerate


@pytest.mark.parametrize("up, expected", [(None, (0, 0)), (True, (1, 1)), (False, (0, 1))])
def test_up_changes_the_one_flag_and_only_if_asked(up, expected):
    for request in (requests.add_bridge("a", up=up), requests.add_veth("a", "b", up=up),
                    requests.set_link(2, "a", up=up, mtu=1500)):
        assert (header(request).flags, header(request).change) == expected


# --- veth pairs ---

def test_a_pair_of_one_name_is_refused_in_one_namespace():
    assert "'a'" in refused(requests.add_veth, "a", "a")
    assert attrs(requests.add_veth("a", "a", peer_netns_fd=3))["ifname"] == "a"


@pytest.mark.parametrize("queues", [0, -1, 4097])
def test_a_bad_number_of_queues_is_refused(queues):
    assert str(queues) in refused(requests.add_veth, "a", "b", queues=queues)


def test_both_ends_get_mtu_group_and_queues_and_each_its_own_mac_and_index():
    request = requests.add_veth("a", "b", index=7, peer_index=8, lladdr="02:00:00:00:00:0A",
                                peer_lladdr="02:00:00:00:00:0b",
                                mtu=1400, group=9, queues=2, peer_netns_fd=3, up=True)
    here = attrs(request)
    there = here.pop("linkinfo")["data"]["peer"]
    both = {"mtu": 1400, "group": 9, "num_tx_queues": 2, "num_rx_queues": 2}
    assert here == {"ifname": "a", "address": "02:00:00:00:00:0a", **both}
    assert there.attrs == {"ifname": "b", "address": "02:00:00:00:00:0b", "net_ns_fd": 3, **both}
    assert (header(request).index, there.header.index) == (7, 8)
    assert there.header.flags == there.header.change == 0, "a peer cannot be born up"


def test_group_zero_is_a_group_and_descriptor_zero_a_descriptor():
    there = attrs(requests.add_veth("a", "b", group=0, peer_netns_fd=0))["linkinfo"]["data"]["peer"].attrs
    assert there["group"] == 0 and there["net_ns_fd"] == 0


# --- changes ---

def test_nothing_to_set_is_refused():
    assert "set it" in refused(requests.set_link, 2, "it")


def test_master_zero_detaches_and_is_not_nothing():
    assert attrs(requests.set_link(2, "it", master=0)) == {"master": 0}


def test_an_ifalias_has_at_most_255_bytes():
    """Bytes as the kernel counts them, and the NUL is none of them: nla_len of 256 is ERANGE."""
    longest = requests.set_link(2, "it", ifalias="é" * 127 + "a")
    assert attrs(longest)["ifalias"] == "é" * 127 + "a"
    assert len(longest.payload) == 16 + 4 + 255 + 1     # 255 bytes and one of padding, which is the NUL
    assert "255" in refused(requests.set_link, 2, "it", ifalias="é" * 128)
    nla_len = int.from_bytes(longest.payload[16:18], sys.byteorder)
    assert nla_len - 4 <= 255, "IFALIASZ is 256, and dev_set_alias() refuses a length that reaches it"


@pytest.mark.parametrize("ifalias", ["a\0b", "\ud800"], ids=ascii)
def test_an_ifalias_that_is_no_text_is_refused(ifalias):
    assert repr(ifalias) in refused(requests.set_link, 2, "it", ifalias=ifalias)


def test_an_ifalias_may_be_what_the_kernel_gave():
    """Any bytes come back as surrogateescape'd text, and are taken as such."""
    assert attrs(requests.set_link(2, "it", ifalias="\udcff"))["ifalias"] == "\udcff"


def test_any_name_may_be_asked_for():
    assert attrs(requests.get_link(ifname="\udcff")) == {"ifname": "\udcff"}
    assert attrs(requests.get_link(7)) == {} and header(requests.get_link(7)).index == 7


def test_only_what_may_be_gone_already_is_tolerated():
    assert not requests.del_link(2, "it").tolerate
    assert requests.del_link(2, "it", missing_ok=True).tolerate == {errno.ENODEV}
    assert requests.del_group(7).tolerate == {errno.ENODEV}
    assert requests.set_addr_gen_mode(2, "it", 1).tolerate == {errno.EAFNOSUPPORT}
    assert not requests.set_link(2, "it", up=True).tolerate
    assert requests.set_link(2, "it", up=False, tolerate=requests.GONE).tolerate == {errno.ENODEV}


def test_group_zero_is_never_deleted():
    """That is every link there is."""
    assert "0" in refused(requests.del_group, 0)
    assert attrs(requests.del_group(7)) == {"group": 7} and header(requests.del_group(7)).index == 0


# --- routes ---

@pytest.mark.parametrize("ask", [requests.add_route, requests.del_route], ids=["add", "del"])
class TestRoutes:
    @pytest.mark.parametrize("dst", ["10.0.0.1/24", "fd00::1/64", "10.0.0", "all", "", "10.0.0.0/33", "\ud800"],
                             ids=ascii)
    def test_what_is_no_network_is_refused(self, ask, dst):
        assert repr(dst) in refused(ask, dst, oif=2)

    @pytest.mark.parametrize("via", ["10.0.0.1/24", "gateway", "", "10.0.0", "fe80::1%eth0", "\ud800"], ids=ascii)
    def test_what_is_no_gateway_is_refused(self, ask, via):
        assert repr(via) in refused(ask, "default", via=via)

    def test_an_address_without_prefix_is_that_address_alone(self, ask):
        assert ask("10.0.0.1", oif=2).payload == ask("10.0.0.1/32", oif=2).payload
        assert ask("fd00::1", oif=2).payload == ask("fd00::1/128", oif=2).payload

    def test_an_ipv4_gateway_of_an_ipv6_route_is_refused(self, ask):
        message = refused(ask, "fd00::/8", via="10.0.0.1")
        assert "fd00::/8" in message and "10.0.0.1" in message

    def test_an_ipv6_gateway_of_an_ipv4_route_has_its_family_with_it(self, ask):
        body = rtnl.ROUTE_BODY.decode(ask("10.0.0.0/8", via="fd00::1").payload)
        assert body.header.family == rtnl.AF_INET and body.attrs == {"dst": "10.0.0.0", "via": "fd00::1"}

    def test_the_family_is_the_destinations_or_the_gateways(self, ask):
        for dst, via, family in [("default", None, rtnl.AF_INET), ("default", "10.0.0.1", rtnl.AF_INET),
                                 ("default", "fd00::1", rtnl.AF_INET6), ("fd00::/8", None, rtnl.AF_INET6)]:
            assert header(ask(dst, via=via, oif=2)).family == family

    def test_a_table_beyond_eight_bits_is_an_attribute(self, ask):
        for table, field, attribute in [(254, 254, None), (255, 255, None), (256, 0, 256), (2**32 - 1, 0, 2**32 - 1)]:
            body = rtnl.ROUTE_BODY.decode(ask("default", oif=2, table=table).payload)
            assert (body.header.table, body.attrs.get("table")) == (field, attribute)


def test_a_route_to_nowhere_is_refused():
    assert "via or oif" in refused(requests.add_route, "default")


# --- what an error message will say ---

@pytest.mark.parametrize("request_, words", [
    (requests.add_bridge("br0"), "add bridge br0"), (requests.add_veth("a", "b"), "add veth a with peer b"),
    (requests.set_link(2, "br0", up=True), "set br0"), (requests.del_link(2, "br0"), "delete br0"),
    (requests.add_address(2, ADDRESS, "br0"), "add address 10.0.0.1/24 on br0"),
    (requests.del_address(2, ADDRESS, "br0"), "delete address 10.0.0.1/24 on br0"),
    (requests.add_route("default", via="10.0.0.1"), "add route to default via 10.0.0.1"),
    (requests.del_route("10.0.0.0/8", oif=2), "delete route to 10.0.0.0/8"), (requests.get_link(7), "get link 7"),
    (requests.get_link(ifname="br0"), "get link br0"), (requests.list_links(), "list links"),
    (requests.list_routes(), "list routes")], ids=lambda value: value if isinstance(value, str) else "")
def test_a_request_says_what_it_asks(request_, words):
    assert request_.words == words


@given(attributes_of(rtnl.BRIDGE))
def test_options_arrive_in_the_bridge_or_are_refused_by_name(options):
    try:
        data = attrs(requests.add_bridge("br0", options=options))["linkinfo"].get("data", {})
    except UsageError as error:
        assert any(repr(name) in str(error) for name in options)
    else:
        assert data == options


def test_what_a_bridge_only_reports_is_refused():
    for name in ("root_id", "bridge_id", "topology_change", "gc_timer"):
        assert repr(name) in refused(requests.add_bridge, "br0", options={name: 1})
