"""Numbers at both ends of what the verbs accept, on a real kernel: it has them then, neither cut off nor rounded.

Those of bridges, their ports and other kinds of links are in test_live_verbs_options.py.
"""

import pytest

from nsnet import rtnl
from verb_helpers import pair, tc, wired    # noqa: F401

U8, U16, U32, INT = 2**8 - 1, 2**16 - 1, 2**32 - 1, 2**31 - 1
TICK = 64e-9                            # seconds, of a queueing discipline
MAC = "02:00:00:00:00:09"


def route_of(netns, dst):
    (found,) = [route for route in netns.routes() if route.dst == dst]
    return found


def address_of(netns, address):
    (found,) = [one for one in netns.addresses("left") if one.address == address]
    return found


def a_route(dst, read, **options):
    """How a route with a number is made and read; "?" stands for the number."""
    def put(net, number):
        filled = {name: number if value == "?" else {key: number for key in value} if isinstance(value, set) else value
                  for name, value in options.items()}
        net.add_route(dst, oif="left", **filled)
    return put, lambda net: read(route_of(net, dst))


def an_address(address, read, **options):
    def put(net, number):
        net.add_address("left", address, **{name: number if value == "?" else value for name, value in options.items()})
    return put, lambda net: read(address_of(net, address))


def a_rule(family, read, **fields):
    def put(net, number):
        net.add_rule(family=family, priority=77, table=9, **{name: number if value == "?" else value
                                                              for name, value in fields.items()})
    return put, lambda net: read(next(rule for rule in net.rules(family=family) if rule.priority == 77))


def a_bucket(read, **options):
    def put(net, number):
        net.ensure_qdisc("left", "tbf", **{"rate": 1000, "burst": 2000, "limit": 3000, **{
            name: number if value == "?" else value for name, value in options.items()}})
    return put, lambda net: read(net.qdiscs("left")[0].options)


def a_class(read, **options):
    def put(net, number):
        net.ensure_qdisc("left", "htb", handle="1:")
        net.ensure_class("left", "htb", classid="1:10", parent="1:", **{"rate": 10**6, **{
            name: number if value == "?" else value for name, value in options.items()}})
    return put, lambda net: read(net.classes("left")[0].options)


def lasting(name):
    return lambda one: getattr(one.attrs["cacheinfo"], name)


# What it is called: how it is set and read, and numbers that are accepted.
NUMBERS = {
    "valid_lft": (*an_address("10.0.0.9/32", lasting("ifa_valid"), valid_lft="?"), [100, INT, U32 - 1]),
    "valid_lft of IPv6": (*an_address("fd00::9/64", lasting("ifa_valid"), valid_lft="?"), [100, INT, U32 - 1]),
    "preferred_lft": (*an_address("10.0.0.9/32", lasting("ifa_prefered"), valid_lft=U32 - 1, preferred_lft="?"),
                      [0, 100, U32 - 1]),
    "preferred_lft of IPv6": (*an_address("fd00::9/64", lasting("ifa_prefered"), preferred_lft="?"), [0, 100, U32 - 1]),
    "metric of an address": (*an_address("10.0.0.9/32", lambda one: one.metric, metric="?"), [1, U32]),
    "metric of an address of IPv6": (*an_address("fd00::9/64", lambda one: one.metric, metric="?"), [1, U32]),
    "metric": (*a_route("10.9.0.0/16", lambda one: one.metric, metric="?"), [1, U32]),
    "metric of IPv6": (*a_route("fd09::/16", lambda one: one.metric, metric="?"), [1, U32]),
    "table": (*a_route("10.9.0.0/16", lambda one: one.table, table="?"), [1, 256, U32]),
    "table of IPv6": (*a_route("fd09::/16", lambda one: one.table, table="?"), [1, 256, U32]),
    "protocol": (*a_route("10.9.0.0/16", lambda one: one.protocol, protocol="?"), [0, 1, U8]),
    "protocol of IPv6": (*a_route("fd09::/16", lambda one: one.protocol, protocol="?"), [1, U8]),
    "tos": (*a_route("10.9.0.0/16", lambda one: one.header.tos, tos="?"), [4, 0xFC]),
    **{f"{name}{of}": (*a_route(dst, lambda one, name=name: one.metrics[name], metrics={name}), ends)
       for of, dst in (("", "10.9.0.0/16"), (" of IPv6", "fd09::/16"))
       for name, ends in {**{row: [1, U32] for row in rtnl.METRICS.rows if row not in ("cc_algo", "features")},
                          "mtu": [1, 65520], "advmss": [1, 65495], "hoplimit": [1, 255]}.items()},
    "fwmark": (*a_rule("inet", lambda one: one.attrs["fwmark"], fwmark="?"), [1, U32]),
    "fwmask": (*a_rule("inet6", lambda one: one.attrs["fwmask"], fwmark=0, fwmask="?"), [1, U32]),
    "ip_proto": (*a_rule("inet", lambda one: one.attrs["ip_proto"], ip_proto="?"), [1, U8]),
    "sport": (*a_rule("inet6", lambda one: one.attrs["sport_range"].end, ip_proto=6, sport="?"), [1, U16 - 1]),
    "suppress_prefixlen": (*a_rule("inet", lambda one: one.attrs["suppress_prefixlen"], suppress_prefixlen="?"),
                           [0, 32]),
    "suppress_prefixlen of IPv6": (
        *a_rule("inet6", lambda one: one.attrs["suppress_prefixlen"], suppress_prefixlen="?"), [0, 128]),
    "protocol of a rule": (*a_rule("inet", lambda one: one.attrs["protocol"], protocol="?"), [1, U8]),
    "rate": (*a_bucket(lambda of: of.get("rate64", of["parms"].rate_rate), rate="?"), [100, U32, U32 + 1, 2**64 - 1]),
    "burst": (*a_bucket(lambda of: round(of["parms"].buffer * TICK * 10**6), rate=10**6, burst="?"), [1, 1500, 2**27]),
    "limit": (*a_bucket(lambda of: of["parms"].limit, limit="?"), [1, U32]),
    "peakrate": (*a_bucket(lambda of: of.get("prate64", of["parms"].peakrate_rate), peakrate="?", mtu=2000),
                 [1001, U32, U32 + 1, 2**64 - 1]),
    "rate of a class": (*a_class(lambda of: of.get("rate64", of["parms"].rate_rate), rate="?"), [1, U32, 2**64 - 1]),
    "ceil of a class": (*a_class(lambda of: of.get("ceil64", of["parms"].ceil_rate), ceil="?"), [10**6, 2**64 - 1]),
    "burst of a class": (*a_class(lambda of: round(of["parms"].buffer * TICK * 10**6), burst="?"), [1, 1500, 2**27]),
    "quantum": (*a_class(lambda of: of["parms"].quantum, quantum="?"), [1, U32]),
    "prio": (*a_class(lambda of: of["parms"].prio, prio="?"), [0, 7]),
}


def clean(netns):
    """Away with what was made for the number before."""
    for route in netns.routes():
        if route.dst in ("10.9.0.0/16", "fd09::/16"):
            netns.del_route(route.dst, table=route.table, tos=route.header.tos)
    for address in ("10.0.0.9/32", "fd00::9/64"):
        netns.del_address("left", address, missing_ok=True)
    for family in ("inet", "inet6"):
        netns.del_rule(family=family, priority=77, missing_ok=True)
    netns.del_qdisc("left", missing_ok=True)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_in_the_kernel_as_it_was_set(playground, wired, name):
    put, read, numbers = NUMBERS[name]
    for number in numbers:
        put(playground, number)
        assert read(playground) == number
        clean(playground)


@pytest.mark.parametrize("state, number", [("reachable", 2), ("stale", 4), ("noarp", 64), ("permanent", 128)])
def test_the_state_of_a_neighbour_is_what_it_was_set_to(playground, wired, state, number):
    """The other two do not last: what is delayed is probed, and what is probed fails."""
    for dst in ("10.0.0.77", "fd00::77"):
        playground.add_neighbour("left", dst, MAC, state=state)
        assert playground.neighbour("left", dst).state == number


def test_the_witness_sees_the_same_ends(playground, wired):
    playground.add_qdisc("left", "tbf", rate=2**40, burst=10**6, limit=2**32 - 1)
    (seen,) = [row for row in tc(playground, "qdisc", "show", "dev", "left") if row["kind"] == "tbf"]
    assert seen["options"]["rate"] == 2**40
