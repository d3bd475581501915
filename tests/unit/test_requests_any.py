"""Any value in any argument of any request: it arrives as it is, or is refused in one line that names it."""

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import ANY_TEXT, one_line, refused

from nsnet import requests, rtnl, values
from nsnet.errors import UsageError
from nsnet.exchange import Request

V4, V6 = values.address("10.0.0.1/24"), values.address("fd00::1/64")
MAC = "02:00:00:00:00:01"
FUNCTIONS = {name: getattr(requests, name) for name in requests.__all__ if callable(getattr(requests, name))}
U16, U32, INT = 2**16 - 1, 2**32 - 1, 2**31 - 1


def body(request):
    return rtnl.LAYOUTS[request.type].decode(request.payload)


def attr(*path):
    """Where a number is found again: a path through the attributes, fields of structs among them."""
    def find(request):
        found = body(request).attrs
        for step in path:
            found = getattr(found, step) if isinstance(step, str) and hasattr(found, step) else found[step]
        return found
    return find


def field(name, of=lambda number: number):
    return lambda request: of(getattr(body(request).header, name))


def route(**options):
    return requests.add_route("10.9.0.0/16", oif=2, **options)


def rule(**fields):
    return requests.add_rule(**{"table": 9, **fields})


# What it is called: the request with that number, the range, and where the number arrives.
NUMBERS = {
    "group": (lambda n: requests.add_bridge("a", group=n), 0, U32, attr("group")),
    "mtu": (lambda n: requests.add_bridge("a", mtu=n), 68, 65535, attr("mtu")),
    "txqlen": (lambda n: requests.add_link("dummy", "a", txqlen=n), 0, U32, attr("txqlen")),
    "queues": (lambda n: requests.add_link("dummy", "a", queues=n), 1, 4096, attr("num_rx_queues")),
    "master": (lambda n: requests.set_link(2, "it", master=n), 0, INT, attr("master")),
    "ifindex": (lambda n: requests.set_link(n, "it", up=True), 1, INT, field("index")),
    "netns": (lambda n: requests.set_link(2, "it", netns_fd=n), 0, INT, attr("net_ns_fd")),
    "netns_pid": (lambda n: requests.set_link(2, "it", netns_pid=n), 1, INT, attr("net_ns_pid")),
    "netnsid": (lambda n: requests.set_link(2, "it", netnsid=n), 0, INT, attr("target_netnsid")),
    "netns_pid of a new one": (lambda n: requests.add_link("ifb", "a", netns_pid=n), 1, INT, attr("net_ns_pid")),
    "netnsid of a new one": (lambda n: requests.add_link("ifb", "a", netnsid=n), 0, INT, attr("target_netnsid")),
    "link_netnsid": (lambda n: requests.add_link("vxlan", "a", link_netnsid=n), 0, INT, attr("link_netnsid")),
    "netnsid of one to delete": (lambda n: requests.del_link(2, "it", netnsid=n), 0, INT, attr("target_netnsid")),
    "netnsid of one to read": (lambda n: requests.get_link(2, netnsid=n), 0, INT, attr("target_netnsid")),
    "netnsid of a list": (lambda n: requests.list_links(netnsid=n), 0, INT, attr("target_netnsid")),
    "netnsid of addresses": (lambda n: requests.list_addresses(netnsid=n), 0, INT, attr("target_netnsid")),
    "peer_netns_pid": (lambda n: requests.add_veth("a", "b", peer_netns_pid=n), 1, INT, lambda made: body(made).attrs[
        "linkinfo"]["data"]["peer"].attrs["net_ns_pid"]),
    "mcast_query_intvl": (lambda n: requests.set_options(2, "it", "bridge", {"mcast_query_intvl": n}), 100, 8640000,
                          attr("linkinfo", "data", "mcast_query_intvl")),
    "rate2quantum": (lambda n: requests.add_qdisc(2, "it", "htb", options={"rate2quantum": n}), 1, INT,
                     attr("options", "init", "rate2quantum")),
    "label of a vxlan": (lambda n: requests.add_link("vxlan", "a", options={"label": n}), 0, 2**20 - 1,
                         attr("linkinfo", "data", "label")),
    "del_group": (requests.del_group, 1, U32, attr("group")),
    "lower link": (lambda n: requests.add_link("vlan", "a", link=n or -1), 1, INT, attr("link")),
    "lower link of a vxlan": (lambda n: requests.add_link("vxlan", "a", link=n or -1), 1, INT,
                              attr("linkinfo", "data", "link")),
    "xdp": (lambda n: requests.set_xdp(2, "it", n), -1, INT, attr("xdp", "fd")),
    "vid": (lambda n: requests.add_bridge_vlan(2, "it", n), 1, 4094, attr("af_spec", "vlan_info", 0, "vid")),
    "last vid": (lambda n: requests.add_bridge_vlan(2, "it", 7, last=n), 7, 4094,
                 attr("af_spec", "vlan_info", 1, "vid")),
    "valid_lft": (lambda n: requests.add_address(2, V4, "it", valid_lft=n), 1, U32 - 1, attr("cacheinfo", "ifa_valid")),
    "preferred_lft": (lambda n: requests.add_address(2, V6, "it", preferred_lft=n), 0, U32 - 1,
                      attr("cacheinfo", "ifa_prefered")),
    "metric of an address": (lambda n: requests.add_address(2, V4, "it", metric=n), 0, U32, attr("rt_priority")),
    "proto": (lambda n: requests.add_address(2, V4, "it", proto=n), 0, 255, attr("proto")),
    "vlan": (lambda n: requests.add_fdb(2, MAC, "it", vlan=n), 1, 4094, attr("vlan")),
    "preferred_lft of IPv4": (lambda n: requests.add_address(2, V4, "it", valid_lft=U32 - 1, preferred_lft=n), 0,
                              U32 - 1, attr("cacheinfo", "ifa_prefered")),
    "vni": (lambda n: requests.add_fdb(2, MAC, "it", self_=True, vni=n), 0, 2**24 - 1, attr("vni")),
    "port": (lambda n: requests.add_fdb(2, MAC, "it", self_=True, port=n), 1, U16, attr("port")),
    "via of an fdb": (lambda n: requests.add_fdb(2, MAC, "it", self_=True, via=n or -1), 1, INT, attr("ifindex")),
    "nsid": (lambda n: requests.set_nsid(3, n), 0, INT, attr("nsid")),
    "metric": (lambda n: route(metric=n), 0, U32, attr("priority")),
    "metric of IPv6": (lambda n: requests.add_route("fd00::/8", oif=2, metric=n), 1, U32, attr("priority")),
    "metric to delete": (lambda n: requests.del_route("10.9.0.0/16", metric=n), 1, U32, attr("priority")),
    "table": (lambda n: route(table=n), 1, U32, lambda made: body(made).attrs.get("table") or body(made).header.table),
    "tos": (lambda n: route(tos=n), 0, 255, field("tos")),
    "protocol": (lambda n: route(protocol=n), 0, 255, field("protocol")),
    "nh_id": (lambda n: requests.add_route("10.9.0.0/16", nh_id=n), 1, U32, attr("nh_id")),
    "weight": (lambda n: requests.add_route("10.9.0.0/16", hops=[{"via": "10.0.0.1", "weight": n}]), 1, 256,
               lambda made: body(made).attrs["multipath"][0].header.hops + 1),
    "mtu of a route": (lambda n: route(metrics={"mtu": n}), 1, 65520, attr("metrics", "mtu")),
    "advmss": (lambda n: route(metrics={"advmss": n}), 1, 65495, attr("metrics", "advmss")),
    "hoplimit": (lambda n: route(metrics={"hoplimit": n}), 1, 255, attr("metrics", "hoplimit")),
    "window": (lambda n: route(metrics={"window": n}), 1, U32, attr("metrics", "window")),
    "mark": (lambda n: requests.get_route("10.9.0.1", mark=n), 0, U32, attr("mark")),
    "listed table": (lambda n: requests.list_routes(table=n), 1, U32, attr("table")),
    "listed protocol": (lambda n: requests.list_routes(protocol=n), 1, 255, field("protocol")),
    "priority": (lambda n: rule(priority=n), 0, U32, attr("priority")),
    "fwmark": (lambda n: rule(fwmark=n), 1, U32, attr("fwmark")),
    "fwmask": (lambda n: rule(fwmark=0, fwmask=n), 1, U32, attr("fwmask")),
    "goto": (lambda n: requests.add_rule(action="goto", goto=n), 1, U32, attr("goto")),
    "ip_proto": (lambda n: rule(ip_proto=n), 1, 255, attr("ip_proto")),
    "dport": (lambda n: rule(dport=n), 1, 65534, attr("dport_range", "end")),
    "last sport": (lambda n: rule(sport=(7, n)), 7, 65534, attr("sport_range", "end")),
    "uids": (lambda n: rule(uids=(n, n)), 0, U32 - 1, attr("uid_range", "start")),
    "suppress_prefixlen": (lambda n: rule(suppress_prefixlen=n), 0, 32, attr("suppress_prefixlen")),
    "suppress_prefixlen of IPv6": (lambda n: rule(suppress_prefixlen=n, family="inet6"), 0, 128,
                                   attr("suppress_prefixlen")),
    "protocol of a rule": (lambda n: rule(protocol=n), 1, 255, attr("protocol")),
    "nexthop": (lambda n: requests.add_nexthop(n, oif=2), 1, U32, attr("id")),
    "member": (lambda n: requests.add_nexthop(9, group=[(n, 1)]), 1, U32, attr("group", 0, "id")),
    "weight of a member": (lambda n: requests.add_nexthop(9, group=[(1, n)]), 1, 256,
                           lambda made: body(made).attrs["group"][0].weight + 1),
    "limit": (lambda n: requests.add_qdisc(2, "it", "tbf", options={"rate": 1000, "burst": 1000, "limit": n}), 1, U32,
              attr("options", "parms", "limit")),
    "default": (lambda n: requests.add_qdisc(2, "it", "htb", options={"default": n}), 0, U16,
                attr("options", "init", "defcls")),
    "prio": (lambda n: requests.add_class(2, "it", "htb", classid="1:1", parent="1:",
                                          options={"rate": 1000, "prio": n}), 0, 7, attr("options", "parms", "prio")),
    "quantum": (lambda n: requests.add_class(2, "it", "htb", classid="1:1", parent="1:",
                                             options={"rate": 1000, "quantum": n}), 0, U32,
                attr("options", "parms", "quantum")),
    "handle": (lambda n: requests.del_qdisc(2, "it", handle_=n), 0, U32, field("handle")),
    "filter priority": (lambda n: requests.add_u32_filter(2, "it", parent="root", priority=n), 0, U16,
                        field("info", lambda info: info >> 16)),
    "program descriptor": (lambda n: requests.add_bpf_filter(2, "it", parent="root", prog_fd=n, name="a"), 0, INT,
                           attr("options", "fd")),
}
HOSTILE = [-1, 0, 1, 255, 256, 257, U16, U16 + 1, INT, INT + 1, U32, U32 + 1, 2**63, 2**64, 2**70, -2**31 - 1]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_arrives_as_it_is_or_is_refused_by_name(name):
    """At both ends of its range and one beyond, and where fields of the kernel's end."""
    ask, low, high, where = NUMBERS[name]
    for number in {low, high, low - 1, high + 1, *HOSTILE}:
        if low <= number <= high:
            assert where(ask(number)) == number
        elif not (number == 0 and name.startswith(("lower", "via"))):       # no link at all
            assert str(number) in refused(ask, number)


@given(st.sampled_from(sorted(NUMBERS)), st.integers(-2**33, 2**65))
def test_any_number_arrives_as_it_is_or_is_refused_by_name(name, number):
    ask, low, high, where = NUMBERS[name]
    if low <= number <= high:
        assert where(ask(number)) == number
    elif number:
        assert str(number) in refused(ask, number)


class Numeral:
    """What numpy's and ctypes' relatives are: no int, but it stands for one."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused(name):
    """True would be 1, and 1.0 is what somebody computed; text is what somebody forgot to convert."""
    ask = NUMBERS[name][0]
    for odd in (True, 7.0, "7", b"7", [7], float("nan")):
        assert repr(odd).strip("[]'b") in refused(ask, odd)


@pytest.mark.parametrize("name", NUMBERS)
def test_what_stands_for_a_number_is_one(name):
    ask, low, high, where = NUMBERS[name]
    assert where(ask(Numeral(high))) == high
    with pytest.raises(UsageError):
        ask(Numeral(high + 1))


FLAGS = {
    "up": lambda value: requests.set_link(2, "it", up=value),
    "arp": lambda value: requests.set_link(2, "it", arp=value),
    "promisc": lambda value: requests.set_link(2, "it", promisc=value),
    "pvid": lambda value: requests.add_bridge_vlan(2, "it", 7, pvid=value),
    "self_": lambda value: requests.add_bridge_vlan(2, "it", 7, self_=value),
    "self_ of an fdb": lambda value: requests.add_fdb(2, MAC, "it", self_=value),
    "nodad": lambda value: requests.add_address(2, V6, "it", nodad=value),
    "prefix_route": lambda value: requests.add_address(2, V4, "it", prefix_route=value),
    "proxy": lambda value: requests.del_neighbour(2, "10.0.0.1", "it", proxy=value),
    "permanent": lambda value: requests.add_fdb(2, MAC, "it", permanent=value),
    "onlink": lambda value: requests.add_route("default", via="10.0.0.1", oif=2, onlink=value),
    "append": lambda value: route(append=value), "inverted": lambda value: rule(inverted=value, priority=7),
    "blackhole": lambda value: requests.add_nexthop(7, blackhole=value, **({} if value is True else {"oif": 2})),
    "direct_action": lambda value: requests.add_bpf_filter(2, "it", parent="root", prog_fd=3, name="a",
                                                           direct_action=value),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_true_or_false_and_nothing_else(name):
    """`up="down"` would be true."""
    ask = FLAGS[name]
    assert ask(True).payload != ask(False).payload or ask(True).flags != ask(False).flags
    for odd in ("down", "", 2, -1, 1.0, [], b"1"):
        assert f"{name.split()[0]} {odd!r}: expected True or False" in refused(ask, odd)


# --- whatever it is ---

ODD = st.one_of(
    st.none(), st.booleans(), st.sampled_from(HOSTILE), st.floats(), ANY_TEXT, st.binary(max_size=4), st.sampled_from([
        "default", "10.0.0.1", "10.0.0.0/24", "fd00::1", "fd00::/64", "::/0", "eth0", MAC, "00:00:00:00:00:00", "1:",
        "1:10", "root", "ingress", "permanent", "inet6", "goto", "blackhole", "bridge", "htb", "tbf", "vxlan", "gre",
        (1, 2), [(1, 2)], [(1, 2, 4)], [{"via": "10.0.0.1"}], [{"oif": 3, "weight": 4}], {"mtu": 5},
        {"rate": 1000, "burst": 5000}, [], {}, [None], V4, V6, object]))
# What the floor above always gives: the link in words, checked addresses, options by name.
NAMES = ["stp_state", "rate", "burst", "mode", "id", "local", "options", "x"]
GIVEN = {"words": st.just("it"), "address": st.sampled_from([V4, V6]), "tolerate": st.just(()),
         "index": st.one_of(st.just(7), ODD), "options": st.dictionaries(st.sampled_from(NAMES), ODD, max_size=3)}
FIELDS = ["priority", "src", "dst", "table", "action", "goto", "fwmark", "fwmask", "iif", "uids", "sport", "x"]


@settings(max_examples=300)
@given(st.data())
def test_a_request_or_a_refusal_comes_of_anything_and_never_another_error(data):
    name = data.draw(st.sampled_from(sorted(FUNCTIONS)))
    arguments, options = [], {}
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        strategy = GIVEN.get(parameter.name, ODD)
        if parameter.kind is parameter.VAR_KEYWORD:
            options.update(data.draw(st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=3)))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty or not data.draw(st.integers(0, 3)):
                options[parameter.name] = data.draw(strategy)
        else:
            arguments.append(data.draw(strategy))
    try:
        made = FUNCTIONS[name](*arguments, **options)
    except UsageError as error:
        assert one_line(str(error)), str(error)
    else:
        assert isinstance(made, Request) and one_line(made.words)
        assert body(made).header is not None            # it is what its table can read
