"""Verbs for routing rules on a real kernel, alone and in a batch; ip(8) is the witness."""

import errno

import pytest

import nsnet
from live_helpers import ip
from nsnet import rtnl
from nsnet.exchange import Request
from verb_helpers import act, pair, refused_by_kernel, same, wired    # noqa: F401


def rules(netns, priority, *words):
    return [row for row in ip(netns, *words, "rule", "show") if row["priority"] == priority]


FIELDS = {"priority": 100, "src": "10.1.0.0/16", "dst": "10.2.0.1", "iif": "left", "oif": "nobody", "fwmark": 5,
          "fwmask": 15,
          "table": 1000, "ip_proto": 6, "sport": 7, "dport": (80, 90), "uids": (0, 9), "tos": 4, "inverted": True,
          "protocol": 4, "suppress_prefixlen": 8}


def test_a_rule_is_added_with_all_that_belongs_to_it(playground, pair, act):
    fields = dict(FIELDS)
    try:
        act(lambda net: net.add_rule(**fields))
    except nsnet.NotPermitted:          # uids are for whoever owns the user namespace of the network namespace
        del fields["uids"]
        act(lambda net: net.add_rule(**fields))
    (row,) = rules(playground, 100)
    assert (row["src"], row["srclen"], row["dst"], row["iif"], row["oif"], row["table"]) == (
        "10.1.0.0", 16, "10.2.0.1", "left", "nobody", "1000")
    assert (row["fwmark"], row["fwmask"], row["ipproto"], row["sport"], row["dport_start"], row["dport_end"]) == (
        "0x5", "0xf", "tcp", 7, 80, 90)
    assert "not" in row and row["suppress_prefixlen"] == 8 and row["protocol"] == "static"
    (rule,) = [one for one in playground.rules() if one.priority == 100]
    assert (rule.src, rule.dst, rule.iif, rule.oif, rule.fwmark, rule.fwmask, rule.table, rule.ip_proto, rule.tos) == (
        "10.1.0.0/16", "10.2.0.1/32", "left", "nobody", 5, 15, 1000, 6, 4)
    assert (rule.sport, rule.dport, rule.inverted, rule.protocol) == ((7, 7), (80, 90), True, 4)
    assert rule.uids == fields.get("uids")
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_rule(**fields)))
    for _ in range(2):
        act(lambda net: net.ensure_rule(**fields))
    assert len(rules(playground, 100)) == 1
    del fields["inverted"]
    act(lambda net: net.del_rule(**fields))
    assert rules(playground, 100) == []


@pytest.mark.parametrize("action", ["blackhole", "unreachable", "prohibit", "nop", "goto"])
def test_a_rule_may_do_something_else_than_look_up(playground, act, action):
    more = {"goto": 200} if action == "goto" else {}
    act(lambda net: net.add_rule(priority=100, action=action, **more))
    (rule,) = [one for one in playground.rules() if one.priority == 100]
    assert rule.action == getattr(rtnl, f"FR_ACT_{action.upper()}") and rule.goto == more.get("goto")
    (row,) = rules(playground, 100)
    assert row.get("action", action) == action and row.get("goto") == more.get("goto")
    act(lambda net: net.del_rule(priority=100))
    assert rules(playground, 100) == []


# Another value than that of FIELDS, of every field that a rule may be deleted by.
OTHERS = {"priority": 101, "src": "10.1.0.0/17", "dst": "10.2.0.2", "iif": "right", "oif": "somebody", "fwmark": 6,
          "fwmask": 7, "table": 1001, "ip_proto": 17, "sport": 8, "dport": (80, 91), "tos": 8, "protocol": 5,
          "suppress_prefixlen": 9, "action": "prohibit"}


@pytest.mark.parametrize("field", OTHERS)
def test_a_rule_that_differs_in_one_field_is_not_the_one_to_delete(playground, pair, field):
    """What the kernel would not compare is refused before; all the rest it does compare."""
    fields = {name: value for name, value in FIELDS.items() if name not in ("uids", "inverted")}
    playground.add_rule(**fields)
    other = {**fields, field: OTHERS[field]}
    if field == "action":
        del other["table"], other["suppress_prefixlen"]
    refused_by_kernel(nsnet.NoSuchObject, lambda: playground.del_rule(**other))
    assert len(rules(playground, 100)) == 1
    playground.del_rule(**fields)
    assert rules(playground, 100) == []


def test_links_are_known_to_rules_by_their_names(playground, pair, act):
    act(lambda net: net.add_rule(priority=100, iif=pair[0], oif=playground.link("right"), family="inet6", table=1000))
    (rule,) = [one for one in playground.rules(family="inet6") if one.priority == 100]
    assert (rule.iif, rule.oif, rule.family) == ("left", "right", 10) and rules(playground, 100) == []
    act(lambda net: net.del_rule(priority=100, iif="left", family="inet6"))
    assert rules(playground, 100, "-6") == []


def test_a_rule_that_is_not_there_is_an_error_unless_that_is_fine(playground, act):
    before = playground.rules()
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_rule(priority=100)))
    act(lambda net: net.del_rule(priority=100, missing_ok=True))
    assert same(playground.rules(), before)


def test_a_rule_decides_which_table_is_looked_at(playground, wired, act):
    playground.add_route("10.9.0.0/16", via="10.0.0.9", table=1000)
    act(lambda net: net.add_rule(dst="10.9.0.0/16", table=1000))
    assert playground.route("10.9.1.1").table == 1000
    act(lambda net: net.add_rule(dst="10.9.0.0/16", action="prohibit", priority=1))
    error = refused_by_kernel(nsnet.NotPermitted, lambda: playground.route("10.9.1.1"))
    assert error.errno == errno.EACCES


def test_rules_are_listed_by_family(playground):
    every = playground.rules()
    for family, number in (("inet", 2), ("inet6", 10)):
        assert same(playground.rules(family=family), [one for one in every if one.family == number])


def test_the_kernel_blames_an_attribute_by_its_path(playground, act):
    request = Request(rtnl.RTM_NEWRULE, rtnl.NLM_F_CREATE, rtnl.RULE_BODY.encode(({"family": 2}, {6: b"\1\2"})),
                      "by hand")
    error = refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net._run(request)))
    assert error.attribute == "FRA_PRIORITY" and error.extack and error.attribute in str(error)
