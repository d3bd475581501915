"""Verbs for queueing disciplines, classes and filters on a real kernel, alone and in a batch.

Read back through nsnet and through tc(8); what the filters pick is counted by the kernel.
"""

import os
import socket

import pytest

import nsnet
from nsnet import rtnl
from verb_helpers import SCHED_CLS, act, load_program, pair, refused_by_kernel, tc, tc_classes    # noqa: F401

MBIT = 125000                           # bytes per second


def qdisc(netns, link, kind):
    """What tc(8) says of the one of that kind."""
    (row,) = [row for row in tc(netns, "qdisc", "show", "dev", link) if row["kind"] == kind]
    return row


def kinds(netns, link):
    return [one.kind for one in netns.qdiscs(link)]


@pytest.fixture
def shaped(playground, pair):
    """An HTB with a class for what is picked, 1:10, and one for the rest, 1:20."""
    playground.add_address("left", "10.0.0.1/24")
    for host in (2, 3):
        playground.add_neighbour("left", f"10.0.0.{host}", "02:00:00:00:00:09")
    playground.add_qdisc("left", "htb", handle="1:", default=0x20)
    for classid in ("1:10", "1:20"):
        playground.add_class("left", "htb", classid=classid, parent="1:", rate=100 * MBIT)
    return pair[0]


def send(netns, *hosts):
    """A datagram to each, which nobody takes."""
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        for host in hosts:
            here.sendto(b"x", (host, 7))


def packets(netns, link):
    """{classid: packets} as tc(8) counts them; and nsnet must agree."""
    counted = {classid: packets for classid, (_, packets) in tc_classes(netns, link).items()}
    assert counted == {f"{one.handle >> 16:x}:{one.handle & 0xFFFF:x}": one.stats["basic"].packets
                       for one in netns.classes(link)}
    return counted


# --- queueing disciplines ---

@pytest.mark.parametrize("first, second", [("tbf", "htb"), ("htb", "tbf"), ("tbf", "tbf")])
def test_one_of_another_kind_is_not_replaced_without_a_word(playground, pair, act, first, second):
    """As it would be by a request without a handle, with all its classes."""
    options = {"tbf": {"rate": MBIT, "burst": 10000, "latency": 0.05}, "htb": {"default": 0x20}}
    playground.add_qdisc("left", first, **options[first])
    if first == "htb":
        playground.add_class("left", "htb", classid="8001:10", parent="8001:", rate=MBIT)
    before = tc(playground, "qdisc", "show", "dev", "left"), tc_classes(playground, "left")
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_qdisc("left", second, **options[second])))
    assert (tc(playground, "qdisc", "show", "dev", "left"), tc_classes(playground, "left")) == before


def test_a_leaf_is_not_replaced_without_a_word(playground, shaped, act):
    act(lambda net: net.add_qdisc("left", "tbf", parent="1:10", rate=MBIT, burst=10000, latency=0.05))
    with pytest.raises(nsnet.AlreadyExists):
        act(lambda net: net.add_qdisc("left", "htb", parent="1:10"))
    assert sorted(kinds(playground, "left")) == ["htb", "tbf"]


def test_a_token_bucket_is_made_as_asked(playground, pair, act):
    act(lambda net: net.add_qdisc("left", "tbf", rate=MBIT, burst=10000, latency=0.05))
    seen = qdisc(playground, "left", "tbf")
    assert seen["root"] and seen["options"]["rate"] == MBIT and seen["options"]["burst"] == 10000
    assert 49000 <= seen["options"]["lat"] <= 50000         # microseconds
    (found,) = playground.qdiscs("left")
    assert (found.kind, found.parent) == ("tbf", rtnl.TC_H_ROOT)
    assert found.options["parms"].rate_rate == MBIT and found.options["parms"].limit == MBIT // 20 + 10000
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_qdisc(
        "left", "tbf", rate=MBIT, burst=10000, latency=0.05)))


def test_a_peak_rate_and_a_rate_beyond_32_bits_arrive(playground, pair, act):
    act(lambda net: net.add_qdisc("left", "tbf", handle="7:", rate=10**10, burst=10**6, limit=10**6,
                                  peakrate=2 * 10**10,
                                  mtu=2000))
    seen = qdisc(playground, "left", "tbf")
    assert seen["handle"] == "7:" and seen["options"]["rate"] == 10**10
    options = playground.qdiscs("left")[0].options              # the peak rate is not in every tc(8)'s JSON
    assert (options["rate64"], options["prate64"]) == (10**10, 2 * 10**10)


def test_a_token_bucket_is_ensured_before_and_after_it_drifts(playground, pair, act):
    for rate in (MBIT, MBIT, 2 * MBIT):
        act(lambda net: net.ensure_qdisc("left", "tbf", rate=rate, burst=10000, limit=10000))
        assert qdisc(playground, "left", "tbf")["options"]["rate"] == rate and kinds(playground, "left") == ["tbf"]


def test_an_htb_is_ensured_though_the_kernel_cannot_change_one(playground, pair, act):
    for _ in range(2):
        act(lambda net: net.ensure_qdisc("left", "htb", handle="1:", default=0x10))
    playground.add_class("left", "htb", classid="1:10", parent="1:", rate=MBIT)
    act(lambda net: net.ensure_qdisc("left", "htb", handle="1:", default=0x10))
    act(lambda net: net.ensure_qdisc("left", "htb", default=0x10))
    assert len(playground.classes("left")) == 1, "it is the one that was there"
    assert qdisc(playground, "left", "htb")["options"]["default"] == "0x10"
    error = refused_by_kernel(nsnet.NetlinkError,
                              lambda: act(lambda net: net.ensure_qdisc("left", "htb", default=0x20)))
    assert "Change operation not supported" in error.extack
    act(lambda net: net.ensure_qdisc("left", "htb", handle="2:", default=0x20))
    assert qdisc(playground, "left", "htb")["handle"] == "2:" and playground.classes("left") == []
    act(lambda net: net.ensure_qdisc("left", "tbf", rate=MBIT, burst=10000, limit=10000))
    act(lambda net: net.ensure_qdisc("left", "htb", handle="1:", default=0x10))
    assert kinds(playground, "left") == ["htb"]


@pytest.mark.parametrize("kind", ["ingress", "clsact"])
def test_a_place_for_filters_of_what_comes_in_is_made_once(playground, pair, act, kind):
    act(lambda net: net.add_qdisc("left", kind))
    for _ in range(2):
        act(lambda net: net.ensure_qdisc("left", kind))
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_qdisc("left", kind)))
    assert qdisc(playground, "left", kind)["parent"] == "ffff:fff1" and kind in kinds(playground, "left")
    act(lambda net: net.del_qdisc("left", parent=kind))
    assert kind not in kinds(playground, "left")
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_qdisc("left", parent="ingress")))
    act(lambda net: net.del_qdisc("left", parent="ingress", missing_ok=True))


def test_a_queueing_discipline_is_deleted_by_place_or_handle(playground, pair, act):
    act(lambda net: net.del_qdisc("left", missing_ok=True))
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_qdisc("left")))
    playground.add_qdisc("left", "htb", handle="1:")
    playground.add_class("left", "htb", classid="1:10", parent="1:", rate=MBIT)
    act(lambda net: net.add_qdisc("left", "tbf", parent="1:10", handle="10:", rate=MBIT, burst=10000, limit=10000))
    assert qdisc(playground, "left", "tbf")["parent"] == "1:10"
    act(lambda net: net.del_qdisc("left", handle="9:", missing_ok=True))
    assert refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net.del_qdisc("left", handle="9:"))).extack
    act(lambda net: net.del_qdisc("left", parent="1:10"))
    assert "tbf" not in kinds(playground, "left")
    act(lambda net: net.del_qdisc("left", handle="1:"))
    assert kinds(playground, "left") in ([], ["noqueue"])
    act(lambda net: net.del_qdisc("nobody", missing_ok=True))


@pytest.mark.parametrize("kind", ["netem", "fq_codel", "no-such-kind"])
def test_a_kind_is_there_or_not_supported(playground, pair, act, kind):
    try:
        act(lambda net: net.add_qdisc("left", kind))
    except nsnet.NotSupported as error:
        assert f"this kernel has no {kind!r}" in error.hint
    except nsnet.NetlinkError as error:                     # netem is there, and wants options
        assert kind == "netem" and "hint" not in str(error)
    else:
        assert kind != "no-such-kind" and kinds(playground, "left") == [kind]


def test_other_kinds_take_their_options_as_bytes(playground, pair, act):
    act(lambda net: net.add_qdisc("left", "pfifo",
                                  options=b"\x07\0\0\0" if os.sys.byteorder == "little" else b"\0\0\0\x07"))
    assert qdisc(playground, "left", "pfifo")["options"]["limit"] == 7


# --- classes ---

def test_a_class_is_made_as_asked(playground, pair, act):
    act(lambda net: net.add_qdisc("left", "htb", handle="1:", default=0x10))
    act(lambda net: net.add_class("left", "htb", classid="1:1", parent="1:", rate=10 * MBIT))
    act(lambda net: net.add_class("left", "htb", classid="1:10", parent="1:1", rate=MBIT, ceil=2 * MBIT, burst=5000,
                                  cburst=6000, prio=3, quantum=2000))
    seen = {classid: line for classid, (line, _) in tc_classes(playground, "left").items()}
    assert "1:1 root" in seen["1:1"] and "1:10 parent 1:1 " in seen["1:10"] and "prio 3 " in seen["1:10"]
    assert "rate 1Mbit ceil 2Mbit burst 5000b cburst 6000b" in seen["1:10"]
    found = {one.handle: one for one in playground.classes("left")}
    assert found[0x10010].parent == 0x10001 and found[0x10010].options["parms"].quantum == 2000
    refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net.del_class("left", classid="1:1")))      # in use


def test_a_class_is_ensured_before_and_after_it_drifts(playground, pair, act):
    playground.add_qdisc("left", "htb", handle="1:")
    for rate, said in ((MBIT, "1Mbit"), (MBIT, "1Mbit"), (2 * MBIT, "2Mbit"), (10**10, "80Gbit")):
        act(lambda net: net.ensure_class("left", "htb", classid="1:10", parent="1:", rate=rate))
        ((line, _),) = tc_classes(playground, "left").values()
        assert f"rate {said} " in line
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_class(
        "left", "htb", classid="1:10", parent="1:", rate=MBIT)))


def tree(netns, link):
    """{classid: its parent, or "root"} as tc(8) says."""
    said = {classid: line.split() for classid, (line, _) in tc_classes(netns, link).items()}
    return {classid: line[line.index("parent") + 1] if "parent" in line else "root" for classid, line in said.items()}


@pytest.mark.parametrize("parent", ["1:1", ":1", 0x10001])
@pytest.mark.parametrize("verb", ["add_class", "ensure_class"])
def test_a_parent_that_is_not_there_is_not_the_root(playground, pair, act, verb, parent):
    """The kernel would take it for that, without a word."""
    playground.add_qdisc("left", "htb", handle="1:")
    playground.add_class("left", "htb", classid="1:2", parent="root", rate=MBIT)
    error = refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: getattr(net, verb)(
        "left", "htb", classid="1:10", parent=parent, rate=MBIT)))
    assert str(parent) in str(error) and error.request.endswith("class 1:10 on left")
    assert tree(playground, "left") == {"1:2": "root"}
    playground.add_class("left", "htb", classid="1:1", parent="1:", rate=MBIT)
    act(lambda net: getattr(net, verb)("left", "htb", classid="1:10", parent=parent, rate=MBIT))
    assert tree(playground, "left") == {"1:2": "root", "1:1": "root", "1:10": "1:1"}
    assert {one.handle: one.parent for one in playground.classes("left")}[0x10010] == 0x10001


def test_a_parent_may_be_made_in_the_same_batch_and_before(playground, pair):
    with playground.batch() as net:
        net.add_qdisc("left", "htb", handle="1:")
        net.add_class("left", "htb", classid="1:1", parent="1:", rate=MBIT)
        net.add_class("left", "htb", classid="1:10", parent="1:1", rate=MBIT)
        net.ensure_class("left", "htb", classid="1:100", parent="1:10", rate=MBIT)
        with pytest.raises(nsnet.NoSuchObject):
            net.add_class("left", "htb", classid="1:20", parent="1:2", rate=MBIT)
        with pytest.raises(nsnet.NoSuchObject):         # of another link
            net.add_class("right", "htb", classid="1:10", parent="1:1", rate=MBIT)
        net.add_class("left", "htb", classid="1:2", parent="root", rate=MBIT)
    assert tree(playground, "left") == {"1:1": "root", "1:10": "1:1", "1:100": "1:10", "1:2": "root"}


def test_what_is_made_of_a_bucket_is_what_was_asked_for(playground, pair, act):
    """As far as a tick is: the kernel would make 0 of less than one."""
    playground.add_qdisc("left", "htb", handle="1:", rate2quantum=2**31 - 1)
    assert playground.qdiscs("left")[0].options["init"].rate2quantum == 2**31 - 1
    with pytest.raises(nsnet.UsageError, match="burst 31: expected at least 64"):
        act(lambda net: net.add_class("left", "htb", classid="1:10", parent="1:", rate=10**9, burst=31))
    act(lambda net: net.add_class("left", "htb", classid="1:10", parent="1:", rate=10**9, burst=64, cburst=6400))
    parms = playground.classes("left")[0].options["parms"]
    assert (parms.buffer, parms.cbuffer) == (1, 100)


def test_a_class_that_is_not_there_is_an_error_unless_that_is_fine(playground, pair, act):
    error = refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.add_class(
        "left", "htb", classid="1:10", parent="1:", rate=MBIT)))
    assert error.hint is None, "this kernel does have htb: the link has none"
    playground.add_qdisc("left", "htb", handle="1:")
    playground.add_class("left", "htb", classid="1:10", parent="1:", rate=MBIT)
    act(lambda net: net.del_class("left", classid="1:10"))
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_class("left", classid="1:10")))
    act(lambda net: net.del_class("left", classid="1:10", missing_ok=True))
    act(lambda net: net.del_class("nobody", classid="1:10", missing_ok=True))
    assert playground.classes("left") == []


# --- filters ---

@pytest.mark.parametrize("parent", ["1:", "root"])
def test_what_a_filter_matches_goes_to_its_class(playground, shaped, act, parent):
    act(lambda net: net.add_u32_filter("left", parent=parent, protocol="ip", priority=1, dst="10.0.0.2",
                                       classid="1:10"))
    before = packets(playground, "left")
    send(playground, "10.0.0.2", "10.0.0.2", "10.0.0.3")
    after = packets(playground, "left")
    assert {name: after[name] - before[name] for name in after} == {"1:10": 2, "1:20": 1}
    assert [one.kind for one in playground.filters("left")] == ["u32"] * len(playground.filters("left", "1:")) != []


def test_words_of_a_packet_may_be_matched(playground, shaped, act):
    """The destination port, in the word behind an IP header of 20 bytes."""
    act(lambda net: net.add_u32_filter("left", parent="1:", protocol="ip", priority=1, src="10.0.0.0/24",
                                       match=[(17 << 16, 0xFF << 16, 8), (7, 0xFFFF, 20)], classid="1:10"))
    before = packets(playground, "left")
    send(playground, "10.0.0.2")
    assert packets(playground, "left")["1:10"] - before["1:10"] == 1
    (rule,) = [one for one in playground.filters("left", "1:") if "sel" in one.options]
    head, keys = rule.options["sel"]
    assert head.nkeys == 3 and (rule.priority, rule.protocol) == (1, 0x0800)
    assert rule.options["classid"] == 0x10010


def test_a_filter_that_matches_all_is_the_last_resort(playground, shaped, act):
    act(lambda net: net.add_u32_filter("left", parent="1:", protocol="ip", priority=1, dst="10.0.0.3", classid="1:20"))
    act(lambda net: net.add_u32_filter("left", parent="1:", priority=2, classid="1:10"))
    before = packets(playground, "left")
    send(playground, "10.0.0.2", "10.0.0.3")
    after = packets(playground, "left")
    assert {name: after[name] - before[name] for name in after} == {"1:10": 1, "1:20": 1}


def test_filters_go_one_by_one_by_priority_or_all(playground, shaped, act):
    def priorities():
        return sorted({one.priority for one in playground.filters("left", "1:")})
    for priority in (1, 2, 3):
        for host in (2, 3):
            playground.add_u32_filter("left", parent="1:", protocol="ip", priority=priority, dst=f"10.0.0.{host}")
    one, other = [rule for rule in playground.filters("left", "1:") if rule.priority == 1 and "sel" in rule.options]
    act(lambda net: net.del_filter("left", parent="1:", protocol="ip", priority=1, kind="u32", handle=one.handle))
    assert [rule.handle for rule in playground.filters("left", "1:")
            if rule.priority == 1 and "sel" in rule.options] == [other.handle]
    act(lambda net: net.del_filter("left", parent="1:", priority=2))
    assert priorities() == [1, 3]
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_filter("left", parent="1:", priority=2)))
    for gone in ({"priority": 2}, {"parent": "7:"}, {"priority": 1, "kind": "bpf"}):
        act(lambda net: net.del_filter("left", **{"parent": "1:", "missing_ok": True, **gone}))
    act(lambda net: net.del_filter("nobody", parent="1:", missing_ok=True))
    assert priorities() == [1, 3]
    act(lambda net: net.del_filter("left", parent="1:"))
    assert playground.filters("left", "1:") == [] == tc(playground, "filter", "show", "dev", "left")


def test_filters_hang_on_what_comes_in_and_on_what_goes_out(playground, pair, act):
    act(lambda net: net.add_qdisc("left", "clsact"))
    act(lambda net: net.add_u32_filter("left", parent="ingress", priority=5))
    act(lambda net: net.add_u32_filter("left", parent="egress", priority=6))
    for parent, priority in (("ingress", 5), ("egress", 6)):
        assert {one.priority for one in playground.filters("left", parent)} == {priority}
        assert {row["pref"] for row in tc(playground, "filter", "show", "dev", "left", parent)} == {priority}
    act(lambda net: net.del_filter("left", parent="ingress"))
    assert playground.filters("left", "ingress") == [] != playground.filters("left", "egress")


def test_a_policer_drops_what_is_too_much_or_is_not_supported(playground, pair, act):
    playground.add_qdisc("left", "clsact")
    try:
        act(lambda net: net.add_u32_filter("left", parent="ingress", police={"rate": MBIT, "burst": 10000}))
    except nsnet.NotSupported as error:
        assert "this kernel has no such action" in error.hint and "TC action" in error.extack
        return
    (rule,) = [one for one in playground.filters("left", "ingress") if "police" in one.options]
    assert rule.options["police"]["tbf"].rate_rate == MBIT
    (row,) = [row for row in tc(playground, "filter", "show", "dev", "left", "ingress") if "options" in row
              and "actions" in row["options"]]
    assert row["options"]["actions"][0]["kind"] == "police"


def test_a_program_decides_about_packets(playground, pair, act):
    """It returns 2, TC_ACT_SHOT: nothing gets out any more."""
    program = load_program(SCHED_CLS)
    try:
        playground.add_address("left", "10.0.0.1/24")
        playground.add_neighbour("left", "10.0.0.2", "02:00:00:00:00:09")
        playground.add_qdisc("left", "clsact")
        act(lambda net: net.add_bpf_filter("left", parent="egress", prog_fd=program, name="drop all", priority=1))
        (row,) = [row for row in tc(playground, "filter", "show", "dev", "left", "egress") if "options" in row]
        assert row["kind"] == "bpf" and row["options"]["bpf_name"] == "drop all" and row["options"]["direct-action"]
        (rule,) = [one for one in playground.filters("left", "egress") if one.options]
        assert rule.options["name"] == "drop all" and rule.priority == 1
        before = playground.link("left").stats.tx_packets
        send(playground, "10.0.0.2", "10.0.0.2")
        assert playground.link("left").stats.tx_packets == before
        (place,) = [one for one in playground.qdiscs("left") if one.kind == "clsact"]
        assert place.stats["queue"].drops == qdisc(playground, "left", "clsact")["drops"] == 2
    finally:
        os.close(program)


def test_what_is_no_program_is_refused(playground, pair):
    playground.add_qdisc("left", "clsact")
    with open("/dev/null", "rb") as nothing:
        error = refused_by_kernel(nsnet.NetlinkError, lambda: playground.add_bpf_filter(
            "left", parent="egress", prog_fd=nothing.fileno(), name="a"))
        assert error.request == "add bpf filter on left"


def test_lists_are_of_the_link_that_was_asked_for(playground, pair):
    for link in ("left", "right"):
        playground.add_qdisc(link, "htb", handle="1:")
        playground.add_class(link, "htb", classid="1:10", parent="1:", rate=MBIT)
    assert {one.index for one in playground.qdiscs("left")} == {one.index for one in playground.classes("left")} == {
        pair[0].index}
    assert {one.index for one in playground.qdiscs()} >= {pair[0].index, pair[1].index}
    assert [one.handle for one in playground.qdiscs("right")] == [0x10000]


def test_a_filter_for_the_other_side_of_an_ingress_qdisc_is_refused(playground):
    """It would be installed on this side."""
    v0, _ = playground.add_veth("v0", peer="v1")
    playground.add_qdisc(v0, "ingress")
    with pytest.raises(nsnet.UsageError, match="clsact"):
        playground.add_u32_filter(v0, parent="egress", priority=1)
    assert playground.filters(v0, "ingress") == []
