"""Verbs for what a kind of link, a bridge and its ports have of their own, for names, programs and VLANs.

On a real kernel, alone and in a batch; ip(8) and bridge(8) are the witnesses.
"""

import os

import pytest

import nsnet
from live_helpers import ifnames, ip_link
from nsnet import rtnl
from nsnet.exchange import Request
from nsnet.requests import links as tables
from verb_helpers import PASS, XDP, act, bridge, load_program, pair, refused_by_kernel    # noqa: F401


# --- options that are set are set ---

def other_values(name, value):
    """What one of them may be changed to; whole seconds if it is a time, for the kernel rounds to its ticks."""
    if name == "state":                 # a port that is blocked, the bridge unblocks at once if there is no STP
        return [0, 1, 2]
    return [value ^ 1] * (value < 2) + [value + 100, value + 500, value + 1, 2 * value + 3]


def settable(found, table, in_vain):
    """The rows of a table that a reading shows as numbers, and that are not known to be read only."""
    return {name: found[name] for name in table.rows
            if name not in in_vain and isinstance(found.get(name), int) and not isinstance(found[name], bool)}


@pytest.mark.parametrize("what", ["bridge", "port"])
def test_an_option_that_the_kernel_accepts_it_has_then(playground, pair, what):
    """Whatever is neither refused here nor there must be read back: nothing is set in vain."""
    master = playground.add_bridge("br0", up=True)
    playground.set_link(pair[0], master=master)
    def read():
        return playground.link("br0").options if what == "bridge" else playground.link("left").port_options

    table, in_vain = ((rtnl.BRIDGE, tables._IN_VAIN["bridge"]) if what == "bridge" else
                      (rtnl.BRIDGE_PORT, tables._PORT_IN_VAIN["bridge"]))
    taken = 0
    for name, before in settable(read(), table, in_vain).items():
        for value in other_values(name, before):
            try:
                if what == "bridge":
                    playground.set_options("br0", "bridge", **{name: value})
                else:
                    playground.set_port("left", **{name: value})
            except (nsnet.UsageError, nsnet.NetlinkError):
                continue
            assert read()[name] == value, name
            taken += 1
            break
        playground.set_options("br0", "bridge", stp_state=0)        # under STP the state of a port is not for us
    assert taken > (25 if what == "bridge" else 15)


def test_what_is_listed_as_set_in_vain_is_accepted_in_vain(playground, pair):
    """The list is as long as it must be: what the kernel refuses by itself need not be on it."""
    master = playground.add_bridge("br0", up=True)
    for name in ("root_path_cost", "hello_timer", "mcast_hash_elasticity"):
        before = playground.link(master).options[name]
        playground.perform([Request(rtnl.RTM_NEWLINK, 0, rtnl.LINK_BODY.encode(
            ({"index": master.index}, {"linkinfo": {"kind": "bridge", "data": {name: before + 7777}}})), name)])
        assert playground.link(master).options[name] != before + 7777


def test_the_options_of_a_kind_are_changed(playground, act):
    playground.add_bridge("br0")
    act(lambda net: net.set_options("br0", "bridge", ageing_time=1000, forward_delay=500,
                                    group_addr="01:80:c2:00:00:04"))
    seen = ip_link(playground, "br0")["linkinfo"]["info_data"]
    assert (seen["ageing_time"], seen["forward_delay"], seen["group_addr"]) == (1000, 500, "01:80:c2:00:00:04")
    assert playground.link("br0").options["ageing_time"] == 1000


def test_the_options_of_another_kind_are_not_supported(playground, pair, act):
    error = refused_by_kernel(nsnet.NotSupported,
                              lambda: act(lambda net: net.set_options("left", "bridge", ageing_time=5)))
    assert error.hint is None, "this kernel does have bridges"


def test_what_a_bridge_knows_of_its_port_is_changed(playground, pair, act):
    master = playground.add_bridge("br0")
    playground.set_link(pair[0], master=master)
    act(lambda net: net.set_port("left", isolated=1, learning=0, unicast_flood=0, mode=1, priority=7))
    (seen,) = [row for row in bridge(playground, "link", "show", "dev", "left")]
    assert (seen["isolated"], seen["learning"], seen["flood"], seen["hairpin"], seen["priority"]) == (
        True, False, False, True, 7)
    options = playground.link("left").port_options
    assert (options["isolated"], options["learning"]) == (1, 0)


def test_what_is_no_port_has_no_options_of_one(playground, pair, act):
    error = refused_by_kernel(nsnet.NotSupported, lambda: act(lambda net: net.set_port("right", isolated=1)))
    assert error.request == "set bridge port right"


def test_the_kernels_sentence_about_a_port_reaches_the_user(playground, pair):
    playground.set_link(pair[0], master=playground.add_bridge("br0"))
    error = refused_by_kernel(nsnet.NetlinkError, lambda: playground.set_port("left", mab=1))
    assert "MAB" in error.extack and "MAB" in str(error)


# --- a bridge that is to be there ---

def test_a_bridge_is_ensured_before_and_after_it_drifts(playground, act):
    wanted = {"lladdr": "02:00:00:00:00:07", "mtu": 1400, "group": 7, "up": True, "ageing_time": 1000}
    made = act(lambda net: net.ensure_bridge("br0", **wanted))
    assert act(lambda net: net.ensure_bridge("br0", **wanted)) == made
    playground.set_link("br0", lladdr="02:00:00:00:00:08", mtu=1500, group=0, up=False)
    playground.set_options("br0", "bridge", ageing_time=2000)
    assert act(lambda net: net.ensure_bridge("br0", **wanted)) == made
    seen = ip_link(playground, "br0")
    assert (seen["address"], seen["mtu"], seen["group"], seen["linkinfo"]["info_data"]["ageing_time"]) == (
        "02:00:00:00:00:07", 1400, "7", 1000)
    assert "UP" in seen["flags"] and act(lambda net: net.ensure_bridge("br0")) == made
    act(lambda net: net.ensure_bridge("br0", lladdr="02:00:00:00:00:09"))
    assert ip_link(playground, "br0")["address"] == "02:00:00:00:00:09"


def test_another_kind_of_that_name_is_no_bridge(playground, pair, act):
    error = refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.ensure_bridge("left")))
    assert "veth" in str(error)
    playground.add_altname("left", "br7")
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.ensure_bridge("br7")))


# --- names, programs, VLANs ---

def test_altnames_come_and_go(playground, pair, act):
    long = "n" * 127
    act(lambda net: net.add_altname("left", long))
    act(lambda net: net.add_altname("left", "short"))
    assert playground.link("left").altnames == (long, "short") == tuple(ip_link(playground, "left")["altnames"])
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_altname("right", "short")))
    refused_by_kernel(nsnet.NetlinkError, lambda: act(lambda net: net.del_altname("right", "short")))     # another's
    act(lambda net: net.del_altname("left", "short"))
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_altname("left", "short")))
    act(lambda net: net.del_altname("left", "short", missing_ok=True))
    assert playground.link("left").altnames == (long,)


def test_an_altname_does_not_stand_for_the_link(playground, pair):
    """Somebody inside may have given it: what is named is not deleted by another's name."""
    playground.add_altname("left", "target")
    with pytest.raises(nsnet.NoSuchObject):
        playground.del_link("target")
    playground.del_link("target", missing_ok=True)
    assert "left" in ifnames(playground)


def test_a_program_is_attached_to_a_link_and_taken_off(playground, pair, act):
    program = load_program(XDP)
    try:
        act(lambda net: net.set_xdp("left", program, mode="skb"))
        assert ip_link(playground, "left")["xdp"]["mode"] == 2         # XDP_ATTACHED_SKB
        assert playground.link("left").attrs["xdp"]["attached"] == PASS
        act(lambda net: net.set_xdp("left", None, mode="drv"))         # there is none in that mode: this one stays
        assert "xdp" in ip_link(playground, "left")
        act(lambda net: net.set_xdp("left", None, mode="skb"))
        assert "xdp" not in ip_link(playground, "left")
    finally:
        os.close(program)


def test_what_is_no_program_is_refused(playground, pair):
    with open("/dev/null", "rb") as nothing:
        error = refused_by_kernel(nsnet.NetlinkError, lambda: playground.set_xdp("left", nothing.fileno()))
        assert error.request == "set XDP of left"


def test_a_vlan_goes_through_a_port_or_is_not_supported(playground, pair, act):
    master = playground.add_bridge("br0", up=True)
    playground.set_link(pair[0], master=master)
    try:
        act(lambda net: net.add_bridge_vlan("left", 7, pvid=True, untagged=True))
    except nsnet.NotSupported as error:
        assert error.request == "add VLAN 7 of left" and playground.bridge_vlans() == []
        return
    act(lambda net: net.add_bridge_vlan("left", 10, last=12))
    act(lambda net: net.add_bridge_vlan("br0", 10, self_=True))
    found = [(vlan.index, vlan.vid, vlan.pvid, vlan.untagged) for vlan in playground.bridge_vlans() if vlan.vid > 1]
    left = pair[0].index
    assert sorted(found) == sorted([(left, 7, True, True), (left, 10, False, False), (left, 11, False, False),
                                    (left, 12, False, False), (master.index, 10, False, False)])
    seen = {row["ifname"]: row["vlans"] for row in bridge(playground, "vlan", "show")}
    assert {row["vlan"]: row.get("flags", []) for row in seen["left"]}[7] == ["PVID", "Egress Untagged"]
    act(lambda net: net.del_bridge_vlan("left", 10, last=12))
    act(lambda net: net.del_bridge_vlan("left", 99))
    act(lambda net: net.del_bridge_vlan("br0", 10, self_=True))
    assert {vlan.vid for vlan in playground.bridge_vlans()} <= {1, 7}


def test_the_options_of_another_masters_port_are_refused(playground):
    """The bridge would take a bond's numbers for its own: queue_id for BPDU guard."""
    br0 = playground.add_bridge("br0")
    v0, _ = playground.add_veth("v0", peer="v1", master=br0)
    with pytest.raises(nsnet.UsageError, match="kind 'bridge', its master is one"):
        playground.set_port(v0, "bond", queue_id=1)
    assert not playground.link(v0).port_options["guard"]
