"""Verbs for neighbours and forwarding entries on a real kernel, alone and in a batch; witnesses: ip(8), bridge(8)."""

import pytest

import nsnet
from live_helpers import ip
from nsnet import rtnl
from verb_helpers import act, bridge, pair, refused_by_kernel, same    # noqa: F401

MAC, OTHER_MAC, ANY_MAC = "02:00:00:00:00:09", "02:00:00:00:00:0a", "00:00:00:00:00:00"


# --- neighbours ---

def neighbours(netns, *words):
    return {row["dst"]: row for row in ip(netns, "neighbour", "show", *words)}


def test_a_neighbour_is_known_before_it_is_asked(playground, pair, act):
    act(lambda net: net.add_neighbour("left", "10.0.0.9", MAC))
    act(lambda net: net.add_neighbour("left", "fd00::9", MAC, state="stale", router=True))
    seen = neighbours(playground, "dev", "left")
    assert (seen["10.0.0.9"]["lladdr"], seen["10.0.0.9"]["state"]) == (MAC, ["PERMANENT"])
    assert (seen["fd00::9"]["state"], "router" in seen["fd00::9"]) == (["STALE"], True)
    found = playground.neighbour("left", "10.0.0.9")
    assert (found.lladdr, found.state, found.index) == (MAC, rtnl.NUD_PERMANENT, pair[0].index)
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_neighbour("left", "10.0.0.9", OTHER_MAC)))


def test_a_neighbour_is_ensured_before_and_after_it_drifts(playground, pair, act):
    for lladdr in (MAC, MAC, OTHER_MAC, MAC):
        act(lambda net: net.ensure_neighbour("left", "10.0.0.9", lladdr))
        assert neighbours(playground)["10.0.0.9"]["lladdr"] == lladdr
    act(lambda net: net.ensure_neighbour("left", "10.0.0.9", MAC, state="noarp"))
    assert playground.neighbour("left", "10.0.0.9").state == rtnl.NUD_NOARP


def test_a_neighbour_is_forgotten(playground, pair, act):
    act(lambda net: net.add_neighbour("left", "10.0.0.9", MAC))
    act(lambda net: net.del_neighbour("left", "10.0.0.9"))
    assert neighbours(playground) == {}
    refused_by_kernel(nsnet.NoSuchObject, lambda: playground.neighbour("left", "10.0.0.9"))
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_neighbour("left", "10.0.0.9")))
    act(lambda net: net.del_neighbour("left", "10.0.0.9", missing_ok=True))
    act(lambda net: net.del_neighbour("nobody", "10.0.0.9", missing_ok=True))


def test_a_link_answers_for_others(playground, pair, act):
    for _ in range(2):
        act(lambda net: net.add_neighbour("left", "10.0.0.77", proxy=True))
        act(lambda net: net.ensure_neighbour("left", "fd00::77", proxy=True))
    assert set(neighbours(playground, "proxy")) == {"10.0.0.77", "fd00::77"}
    assert sorted(one.dst for one in playground.neighbours(proxy=True)) == ["10.0.0.77", "fd00::77"]
    assert not {"10.0.0.77", "fd00::77"} & {one.dst for one in playground.neighbours()}
    act(lambda net: net.del_neighbour("left", "10.0.0.77", proxy=True))
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_neighbour("left", "10.0.0.77", proxy=True)))
    act(lambda net: net.del_neighbour("left", "10.0.0.77", proxy=True, missing_ok=True))
    assert [one.dst for one in playground.neighbours(proxy=True)] == ["fd00::77"]


def test_the_kernel_picks_the_neighbours_that_were_asked_for(playground, pair):
    for link in pair:
        for dst in ("10.0.0.9", "fd00::9"):
            playground.add_neighbour(link, dst, MAC)
    every = playground.neighbours()
    assert len(every) == 4
    for family, number in ((None, None), ("inet", 2), ("inet6", 10)):
        assert same(playground.neighbours("left", family=family),
                    [one for one in every if one.index == pair[0].index and number in (None, one.family)])


# --- forwarding entries ---

@pytest.fixture
def port(playground, pair):
    """The left end as a port of br0."""
    playground.set_link(pair[0], master=playground.add_bridge("br0", up=True))
    return pair[0]


def entries(netns, link, lladdr):
    return [row for row in bridge(netns, "fdb", "show", "dev", link) if row["mac"] == lladdr]


def test_a_bridge_is_told_where_somebody_is(playground, port, act):
    act(lambda net: net.add_fdb(port, MAC))
    act(lambda net: net.add_fdb(port, OTHER_MAC, permanent=True))
    (seen,) = entries(playground, "left", MAC)
    assert (seen["master"], seen["state"]) == ("br0", "static")
    assert entries(playground, "left", OTHER_MAC)[0]["state"] == "permanent"
    refused_by_kernel(nsnet.AlreadyExists, lambda: act(lambda net: net.add_fdb(port, MAC)))
    for _ in range(2):
        act(lambda net: net.ensure_fdb(port, MAC))
    act(lambda net: net.ensure_fdb(port, OTHER_MAC, extern_learn=True))
    found = {one.lladdr: one for one in playground.fdb(master="br0")}
    assert found[MAC].state == rtnl.NUD_NOARP and found[OTHER_MAC].flags & rtnl.NTF_EXT_LEARNED
    act(lambda net: net.del_fdb(port, MAC))
    assert entries(playground, "left", MAC) == []
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_fdb(port, MAC)))
    act(lambda net: net.del_fdb(port, MAC, missing_ok=True))
    act(lambda net: net.del_fdb("nobody", MAC, missing_ok=True))


def test_only_a_port_has_entries_of_a_bridge(playground, pair, act):
    error = refused_by_kernel(nsnet.NotSupported, lambda: act(lambda net: net.add_fdb("right", MAC)))
    assert error.request == f"add forwarding entry {MAC} on right" and error.hint is None


def test_a_link_of_its_own_takes_in_frames_for_others(playground, pair, act):
    act(lambda net: net.add_fdb("left", MAC, self_=True))
    assert entries(playground, "left", MAC)[0]["flags"] == ["self"]
    act(lambda net: net.del_fdb("left", MAC, self_=True))
    assert entries(playground, "left", MAC) == []
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_fdb("left", MAC, self_=True)))


def test_a_vxlan_is_told_which_peer_has_what(playground, pair, act):
    playground.add_vxlan("vx0", 42, local="10.0.0.1", dev=pair[0])
    act(lambda net: net.add_fdb("vx0", MAC, self_=True, dst="10.0.0.9", vni=7, port=4790, via="right"))
    (seen,) = entries(playground, "vx0", MAC)
    assert (seen["dst"], seen["vni"], seen["port"], seen["viaIf"]) == ("10.0.0.9", 7, 4790, "right")
    act(lambda net: net.ensure_fdb("vx0", MAC, self_=True, dst="10.0.0.8"))
    (found,) = [one for one in playground.fdb("vx0") if one.lladdr == MAC]
    assert (found.dst, found.vni, found.port) == ("10.0.0.8", None, None)
    act(lambda net: net.del_fdb("vx0", MAC, self_=True, dst="10.0.0.8"))
    assert entries(playground, "vx0", MAC) == []
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_fdb("vx0", MAC, self_=True)))


def test_everything_else_goes_to_several_peers_of_a_vxlan(playground, pair, act):
    playground.add_vxlan("vx0", 42, local="10.0.0.1", dev=pair[0])
    act(lambda net: net.add_fdb("vx0", ANY_MAC, self_=True, dst="10.0.0.7"))
    refused_by_kernel(nsnet.AlreadyExists,
                      lambda: act(lambda net: net.add_fdb("vx0", ANY_MAC, self_=True, dst="10.0.0.8")))
    act(lambda net: net.add_fdb("vx0", ANY_MAC, self_=True, dst="10.0.0.8", append=True))
    for _ in range(2):
        act(lambda net: net.ensure_fdb("vx0", ANY_MAC, self_=True, dst="10.0.0.9"))
    assert sorted(row["dst"] for row in entries(playground, "vx0", ANY_MAC)) == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]
    act(lambda net: net.del_fdb("vx0", ANY_MAC, self_=True, dst="10.0.0.8"))
    assert sorted(one.dst for one in playground.fdb("vx0")) == ["10.0.0.7", "10.0.0.9"]


def test_a_peer_that_is_not_there_is_not_deleted_in_silence(playground, pair, act):
    """The kernel would say that it was done, and keep what there is."""
    playground.add_vxlan("vx0", 42, local="10.0.0.1", dev=pair[0])
    playground.add_fdb("vx0", MAC, self_=True, dst="10.0.0.9", vni=7)
    for options in ({"dst": "10.0.0.8", "vni": 7}, {"dst": "10.0.0.9"}, {"dst": "10.0.0.9", "vni": 7, "port": 99},
                    {"dst": "10.0.0.9", "vni": 7, "via": "right"}, {"dst": "fd00::9", "vni": 7}):
        refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_fdb("vx0", MAC, self_=True, **options)))
        act(lambda net: net.del_fdb("vx0", MAC, self_=True, missing_ok=True, **options))
    assert [row["dst"] for row in entries(playground, "vx0", MAC)] == ["10.0.0.9"]
    act(lambda net: net.del_fdb("vx0", MAC, self_=True, dst="10.0.0.9", vni=7, port=4789))
    assert entries(playground, "vx0", MAC) == [] == playground.fdb("vx0")
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_fdb("vx0", MAC, self_=True, dst="10.0.0.9")))
    act(lambda net: net.del_fdb("nobody", MAC, self_=True, dst="10.0.0.9", missing_ok=True))


def test_one_of_several_peers_goes_or_all_of_them(playground, pair, act):
    playground.add_vxlan("vx0", 42, local="10.0.0.1", dev=pair[0])
    for host in (7, 8, 9):
        playground.add_fdb("vx0", ANY_MAC, self_=True, dst=f"10.0.0.{host}", append=True)
    refused_by_kernel(nsnet.NoSuchObject,
                      lambda: act(lambda net: net.del_fdb("vx0", ANY_MAC, self_=True, dst="10.0.0.5")))
    act(lambda net: net.del_fdb("vx0", ANY_MAC, self_=True, dst="10.0.0.8"))
    assert sorted(row["dst"] for row in entries(playground, "vx0", ANY_MAC)) == ["10.0.0.7", "10.0.0.9"]
    with pytest.raises(nsnet.UsageError, match="expected dst with vni, port or via"):       # or all would go
        act(lambda net: net.del_fdb("vx0", ANY_MAC, self_=True, port=4790))
    act(lambda net: net.del_fdb("vx0", ANY_MAC, self_=True))
    assert entries(playground, "vx0", ANY_MAC) == []


def test_a_peer_may_be_added_and_deleted_in_one_batch(playground, pair):
    playground.add_vxlan("vx0", 42, local="10.0.0.1", dev=pair[0])
    with playground.batch() as net:
        net.add_fdb("vx0", MAC, self_=True, dst="10.0.0.9")
        net.del_fdb("vx0", MAC, self_=True, dst="10.0.0.9")
        made = net.add_vxlan("vx1", 43, local="10.0.0.1", dev=pair[0])
        net.add_fdb(made, MAC, self_=True, dst="10.0.0.9")
        net.del_fdb(made, MAC, self_=True, dst="10.0.0.9")
    assert playground.fdb("vx0") == [] == playground.fdb("vx1")


def test_what_is_no_vxlan_has_no_peer_to_delete(playground, pair, act):
    playground.add_fdb("left", MAC, self_=True)
    with pytest.raises(nsnet.UsageError, match="expected no dst, it is no VXLAN"):
        act(lambda net: net.del_fdb("left", MAC, self_=True, dst="10.0.0.9"))
    assert MAC in [row["mac"] for row in bridge(playground, "fdb", "show", "dev", "left")]


def test_the_kernel_picks_the_entries_that_were_asked_for(playground, port):
    playground.add_fdb(port, MAC)
    playground.add_vxlan("vx0", 42, local="10.0.0.1")
    playground.add_fdb("vx0", MAC, self_=True, dst="10.0.0.9")
    def named(found):
        return sorted((one.index, one.lladdr, one.master or 0) for one in found)
    every, master = playground.fdb(), playground.link("br0").index
    assert named(playground.fdb("vx0")) == named(one for one in every if one.index == playground.link("vx0").index)
    of_bridge = playground.fdb(master="br0")
    assert MAC in [one.lladdr for one in of_bridge] and {one.master for one in of_bridge} <= {master, None}
    assert [one.lladdr for one in playground.fdb(port, master="br0") if one.state == rtnl.NUD_NOARP] == [MAC]
    assert {(one["ifname"], one["mac"]) for one in bridge(playground, "fdb", "show")} == {
        (playground.link(one.index).ifname, one.lladdr) for one in every}


def test_what_only_a_vxlan_has_is_refused_for_others(playground):
    """The kernel would take the entry and leave the peer out."""
    v0, _ = playground.add_veth("v0", peer="v1")
    for option in ({"dst": "10.0.0.9"}, {"vni": 4}, {"port": 99}):
        with pytest.raises(nsnet.UsageError, match=f"no {next(iter(option))}, it is no VXLAN"):
            playground.add_fdb(v0, "02:00:00:00:00:07", self_=True, **option)


def test_lo_has_no_neighbours(playground):
    with pytest.raises(nsnet.UsageError, match="another link than lo"):
        playground.add_neighbour("lo", "10.0.0.56", "02:00:00:00:00:07")
