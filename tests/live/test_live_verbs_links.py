"""Verbs that make, change, delete and list links, on a real kernel, alone and in a batch; ip(8) is the witness."""

import os
import subprocess

import pytest

import nsnet
from live_helpers import PATIENCE, PYTHON, go_inside, ifnames, ip, ip_link
from nsnet import rtnl
from nsnet.exchange import Request
from verb_helpers import HOLDS_TUN, act, pair, refused_by_kernel, same    # noqa: F401

# Of each kind: how it is made on a lower link, and what ip(8) then says of it (IFLA_INFO_DATA, as `ip -d` names it).
KINDS = {
    "bridge": (lambda net, low: net.add_bridge("it0", ageing_time=1000, stp_state=0, priority=7),
               {"ageing_time": 1000, "stp_state": 0, "priority": 7}),
    "veth": (lambda net, low: net.add_veth("it0", peer="it1")[0], {}),
    "netkit": (lambda net, low: net.add_netkit("it0", peer="it1", mode="l2", policy="blackhole")[0],
               {"mode": "l2", "policy": "blackhole"}),
    "dummy": (lambda net, low: net.add_dummy("it0"), {}),
    "ifb": (lambda net, low: net.add_ifb("it0"), {}),
    "vlan": (lambda net, low: net.add_vlan("it0", low, 7, protocol="802.1ad"), {"protocol": "802.1ad", "id": 7}),
    "macvlan": (lambda net, low: net.add_macvlan("it0", low, mode="private"), {"mode": "private"}),
    "macvtap": (lambda net, low: net.add_macvlan("it0", low, tap=True, mode="vepa"), {"mode": "vepa"}),
    "ipvlan": (lambda net, low: net.add_ipvlan("it0", low, mode="l3"), {"mode": "l3"}),
    "vxlan": (lambda net, low: net.add_vxlan("it0", 42, local="10.0.0.1", dev=low, port=4790, learning=0),
              {"id": 42, "local": "10.0.0.1", "link": "left", "port": 4790, "learning": False}),
    "vrf": (lambda net, low: net.add_vrf("it0", 1000), {"table": 1000}),
    "bond": (lambda net, low: net.add_bond("it0", mode="active-backup", miimon=100),
             {"mode": "active-backup", "miimon": 100}),
    "wireguard": (lambda net, low: net.add_wireguard("it0"), {}),
    "gre": (lambda net, low: net.add_tunnel("it0", "gre", remote="10.0.0.9", local="10.0.0.1", dev=low, ttl=9),
            {"remote": "10.0.0.9", "local": "10.0.0.1", "ttl": 9, "link": "left"}),
    "gretap": (lambda net, low: net.add_tunnel("it0", "gretap", remote="10.0.0.9", local="10.0.0.1", ttl=9),
               {"remote": "10.0.0.9", "local": "10.0.0.1", "ttl": 9}),
    "ip6gre": (lambda net, low: net.add_tunnel("it0", "ip6gre", remote="fd00::9", local="fd00::1"),
               {"remote": "fd00::9", "local": "fd00::1"}),
    "ip6gretap": (lambda net, low: net.add_tunnel("it0", "ip6gretap", remote="fd00::9", local="fd00::1"),
                  {"remote": "fd00::9", "local": "fd00::1"}),
    "ipip": (lambda net, low: net.add_tunnel("it0", "ipip", remote="10.0.0.9", local="10.0.0.1", ttl=9),
             {"remote": "10.0.0.9", "local": "10.0.0.1", "ttl": 9}),
    "sit": (lambda net, low: net.add_tunnel("it0", "sit", remote="10.0.0.9", local="10.0.0.1", ttl=9),
            {"remote": "10.0.0.9", "local": "10.0.0.1", "ttl": 9}),
    "ip6tnl": (lambda net, low: net.add_tunnel("it0", "ip6tnl", remote="fd00::9", local="fd00::1"),
               {"remote": "fd00::9", "local": "fd00::1"}),
    "nlmon": (lambda net, low: net.add_link("nlmon", "it0"), {}),
}


# --- every kind ---

@pytest.mark.parametrize("kind", KINDS)
def test_a_link_of_each_kind_is_made_as_asked_or_is_not_supported(playground, pair, act, kind):
    make, said = KINDS[kind]
    try:
        made = act(lambda net: make(net, pair[0]))
    except nsnet.NotSupported as error:
        assert f"this kernel has no {kind!r}" in error.hint and str(error).endswith(error.hint)
        assert "it0" not in ifnames(playground)
        return
    found = playground.link(made)
    assert (found.ifname, found.kind, found.index) == ("it0", kind, made.index)
    seen = ip_link(playground, "it0")
    assert seen["ifindex"] == made.index and seen["linkinfo"]["info_kind"] == kind
    data = seen["linkinfo"].get("info_data", {})
    assert {name: data.get(name) for name in said} == said
    if kind in ("vlan", "macvlan", "macvtap", "ipvlan"):
        assert seen["link"] == "left" and found.peer_index == pair[0].index
    playground.del_link(made)
    assert "it0" not in ifnames(playground)


def test_a_link_is_born_with_all_that_it_is_given(playground, act):
    master = playground.add_bridge("br0")
    made = act(lambda net: net.add_ifb("it0", lladdr="02:00:00:00:00:07", mtu=1400, group=7, master=master, up=True,
                                       txqlen=50, queues=2))
    seen = ip_link(playground, "it0")
    assert (seen["address"], seen["mtu"], seen["group"], seen["master"], seen["txqlen"], seen["num_rx_queues"]) == (
        "02:00:00:00:00:07", 1400, "7", "br0", 50, 2)
    assert "UP" in seen["flags"] and playground.link(made).master == master.index


def test_a_link_is_born_in_another_namespace_where_its_master_is(playground, act):
    with nsnet.Netns.new(beside=playground) as other:
        master = other.add_bridge("br0")
        made = act(lambda net: net.add_ifb("it0", netns=other, master="br0"))
        assert "it0" not in ifnames(playground)
        assert other.link("it0").index == made.index and other.link(made).master == master.index
        assert ip_link(other, "it0")["master"] == "br0"


def test_the_index_of_a_link_that_is_born_elsewhere_is_free_here_too(playground, monkeypatch):
    """Kernels before 6.15 look for it here first, and would find somebody else's link."""
    taken = playground.add_ifb("it0").index
    with nsnet.Netns.new(beside=playground) as other:
        offered = iter([taken, taken + 50])
        monkeypatch.setattr(other, "free_index", lambda: next(offered))
        assert playground.add_ifb("it1", netns=other).index == other.link("it1").index == taken + 50


def test_a_pair_is_born_with_its_peer_elsewhere(playground, act):
    with nsnet.Netns.new(beside=playground) as other:
        here, there = act(lambda net: net.add_veth("a0", peer="b0", peer_netns=other, mtu=1400, up=True,
                                                   peer_lladdr="02:00:00:00:00:0b"))
        assert ip_link(playground, "a0")["link_index"] == there.index
        assert ip_link(other, "b0")["address"] == "02:00:00:00:00:0b" and other.link("b0").index == there.index
        assert playground.link(here).peer_index == there.index and playground.link(here).up


def test_a_vxlan_may_have_a_group_of_peers_and_be_in_a_group_of_links(playground, pair, act):
    made = act(lambda net: net.add_vxlan("it0", 7, group_address="239.0.0.1", dev=pair[0], group=9))
    seen = ip_link(playground, "it0")
    assert seen["linkinfo"]["info_data"]["group"] == "239.0.0.1" and seen["group"] == "9"
    assert playground.link(made).options["link"] == pair[0].index
    act(lambda net: net.add_vxlan("it1", 8, group_address="ff05::1", local="fd00::1", dev=pair[0]))
    assert ip_link(playground, "it1")["linkinfo"]["info_data"]["group6"] == "ff05::1"


@pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK),
                    reason="needs root: /dev/net/tun is not for others")
def test_a_tun_device_is_read_like_any_other_link(playground):
    with subprocess.Popen([*PYTHON, "-c", HOLDS_TUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          preexec_fn=go_inside(playground.fd)) as holder:
        assert holder.stdout.read(1) == b"!"
        found = playground.link("tun7")
        assert found.kind == "tun" and (found.options["type"], found.options["pi"]) == (1, 0)
        assert ip_link(playground, "tun7")["linkinfo"]["info_data"]["type"] == "tun"
        assert [link.ifname for link in playground.links(kind="tun")] == ["tun7"]
        playground.set_link("tun7", mtu=1400)
        assert ip_link(playground, "tun7")["mtu"] == 1400
        holder.communicate(timeout=PATIENCE)
    assert "tun7" not in ifnames(playground)


@pytest.mark.parametrize("provoke, named", [
    (lambda net: net.add_dummy("a0", mtuu=1), "'mtuu'"), (lambda net: net.add_bridge("a0", stp=1), "'stp'"),
    (lambda net: net.add_vxlan("a0", 7, remote="10.0.0.1"), "'remote'"),
    (lambda net: net.add_ifb("a0", kind="x"), "'kind'"),
    (lambda net: net.add_vlan("a0", 1, 7, id=8), "'id'"), (lambda net: net.add_ifb("a0", link=1), "'link'"),
    (lambda net: net.add_address(1, "10.0.0.1/8", nodda=False), "'nodda'"),
    (lambda net: net.ensure_address(1, "10.0.0.1/8", ensure=False), "'ensure'"),
    (lambda net: net.add_route("10.9.0.0/16", oif=1, mtuu=1), "'mtuu'"),
    (lambda net: net.ensure_route("10.9.0.0/16", oif=1, append=True), "'append'"),
    (lambda net: net.add_rule(pref=7), "'pref'"), (lambda net: net.add_rule(ensure=True, priority=7), "'ensure'"),
    (lambda net: net.del_rule(pref=7), "'pref'"), (lambda net: net.add_nexthop(7, oif=1, weight=1), "'weight'"),
    (lambda net: net.add_fdb(1, "02:00:00:00:00:01", foo=1), "'foo'"),
    (lambda net: net.del_fdb(1, "02:00:00:00:00:01", permanent=True), "'permanent'"),
    (lambda net: net.add_qdisc(1, "tbf", speed=1), "'speed'"), (lambda net: net.add_class(
        1, "htb", classid="1:1", parent="1:", rate=1, speed=1), "'speed'"),
    (lambda net: net.set_options(1, "bridge", stp=1), "'stp'"),
    (lambda net: net.set_port(1, isolation=1), "'isolation'"),
    (lambda net: net.set_link(1, master=0), "ifindex 0"),
    (lambda net: net.add_veth("a0", peer="b0", master=0), "ifindex 0"),
    (lambda net: net.set_link(1, netns_pid=1, master=1), "netns with master"),
    (lambda net: net.set_link(1, netns_pid=1, link_local=False), "no link_local"),
    (lambda net: net.set_link(1, link_local=False, mtu=1), "mtu 1"), (lambda net: net.ensure_bridge("a/b"), "'a/b'"),
    (lambda net: net.set_link(1, up="down"), "'down'"), (lambda net: net.set_link(True, up=True), "True"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_verb_does_not_have_is_refused_by_name_before_the_kernel_hears_of_it(playground, monkeypatch, provoke,
                                                                                    named):
    monkeypatch.setattr(nsnet.Netns, "perform", None)       # calling it would be a TypeError
    for net in (playground, nsnet.netns.Batch(playground)):
        with pytest.raises(nsnet.UsageError) as refused:
            provoke(net)
        assert named in str(refused.value) and "\n" not in str(refused.value)
        assert net is playground or net.requests == []
    monkeypatch.undo()


# --- changes ---

def test_a_link_is_changed_in_every_way(playground, pair, act):
    act(lambda net: net.set_link("left", ifname="other", lladdr="02:00:00:00:00:07", mtu=1400, group=7, ifalias="é b",
                                 txqlen=50, broadcast="ff:ff:ff:ff:ff:fe", promisc=True, allmulticast=True,
                                 multicast=False, arp=False))
    seen = ip_link(playground, "other")
    assert (seen["address"], seen["mtu"], seen["group"], seen["ifalias"], seen["txqlen"], seen["broadcast"]) == (
        "02:00:00:00:00:07", 1400, "7", "é b", 50, "ff:ff:ff:ff:ff:fe")
    assert {"PROMISC", "ALLMULTI", "NOARP", "UP"} <= set(seen["flags"]) and "MULTICAST" not in seen["flags"]
    found = playground.link(pair[0])
    assert (found.ifname, found.ifalias, found.group) == ("other", "é b", 7)
    act(lambda net: net.set_link("other", promisc=False, allmulticast=False, multicast=True, arp=True, up=False,
                                 ifalias=""))
    seen = ip_link(playground, "other")
    assert "MULTICAST" in seen["flags"] and not {"PROMISC", "ALLMULTI", "NOARP", "UP"} & set(seen["flags"])
    assert "ifalias" not in seen


def test_a_link_changes_its_master(playground, pair, act):
    master = playground.add_bridge("br0")
    act(lambda net: net.set_link(pair[0], master="br0"))
    assert ip_link(playground, "left")["master"] == "br0" and playground.link("left").master == master.index
    act(lambda net: net.set_link(pair[0], nomaster=True))
    assert "master" not in ip_link(playground, "left") and playground.link("left").master is None


def test_a_link_moves_to_a_master_in_another_namespace(playground, pair, act):
    with nsnet.Netns.new(beside=playground) as other:
        master = other.add_bridge("br0")
        act(lambda net: net.set_link(pair[0], netns=other, master="br0", up=True))
        assert "left" not in ifnames(playground)
        assert other.link("left").master == master.index and "UP" in ip_link(other, "left")["flags"]


def test_a_link_moves_to_the_namespace_of_a_process(playground, pair, act):
    with nsnet.Netns.new(beside=playground) as other:
        with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, preexec_fn=go_inside(other.fd)) as stay:
            act(lambda net: net.set_link(pair[0], netns_pid=stay.pid))
        assert "left" not in ifnames(playground) and "left" in ifnames(other)


def test_a_link_without_link_local_address_comes_up_silent(playground, act):
    playground.add_veth("a0", peer="b0")
    act(lambda net: net.set_link("a0", link_local=False, up=True))
    act(lambda net: net.set_link("b0", up=True))
    assert ip(playground, "-6", "address", "show", "a0") == []
    assert ip_link(playground, "a0")["inet6_addr_gen_mode"] == "none"
    act(lambda net: net.set_link("a0", link_local=True))
    assert ip_link(playground, "a0")["inet6_addr_gen_mode"] == "eui64"


# --- ends, and lists ---

def test_links_are_deleted_by_name_reference_and_group(playground, act):
    for number in range(4):
        playground.add_ifb(f"it{number}", group=77 if number > 1 else 0)
    act(lambda net: net.del_link("it0"))
    assert ifnames(playground) == sorted(set(ifnames(playground)) - {"it0"})
    act(lambda net: net.del_link("it0", missing_ok=True))
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_link(999999)))
    act(lambda net: net.del_link(999999, missing_ok=True))
    act(lambda net: net.del_group(77))
    act(lambda net: net.del_group(77))
    assert [name for name in ifnames(playground) if name.startswith("it")] == ["it1"]


def test_the_kernel_picks_the_links_that_were_asked_for(playground, pair):
    master = playground.add_bridge("br0", up=True)
    playground.set_link(pair[0], master=master)
    playground.add_ifb("it0")
    every = playground.links(stats=False)
    for kind in ("bridge", "veth", "ifb", "wireguard", "no-such-kind"):
        assert same(playground.links(kind=kind, stats=False), [link for link in every if link.kind == kind])
    assert same(playground.links(master="br0", stats=False), [link for link in every if link.master == master.index])
    assert [link.ifname for link in playground.links(master=master, kind="veth")] == ["left"]
    assert playground.links(master=master, kind="bridge") == []
    assert "stats" not in every[0].attrs["af_spec"]["inet6"], "the counters of IPv6 are most of an answer"
    assert "stats" in playground.links()[0].attrs["af_spec"]["inet6"] and every[0].stats.rx_packets >= 0


def test_a_name_from_elsewhere_is_told_in_one_line(playground):
    with pytest.raises(nsnet.NoSuchObject) as refused:
        playground.set_link("a\nb", up=True)
    assert "\n" not in str(refused.value) and r"'a\nb'" in str(refused.value)


@pytest.mark.parametrize("provoke, kind, path", [
    (lambda net: net.add_link("vxlan", "it0", id=2**24), nsnet.NetlinkError,
     "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_VXLAN_ID"),
    (lambda net: net._run(Request(rtnl.RTM_SETLINK, 0, rtnl.LINK_BODY.encode(({"index": 1}, {4: b"\1"})), "by hand")),
     nsnet.NetlinkError, "IFLA_MTU"),
], ids=["vxlan", "mtu"])
def test_the_kernel_blames_an_attribute_by_its_path(playground, act, provoke, kind, path):
    error = refused_by_kernel(kind, lambda: act(provoke))
    assert error.attribute == path and error.extack and path in str(error)


def test_a_batch_of_every_verb_for_links_costs_one_exchange(playground, monkeypatch):
    exchanges = []
    talk = nsnet.Netns._talk
    monkeypatch.setattr(nsnet.Netns, "_talk", lambda self, *rest: exchanges.append(1) or talk(self, *rest))
    with playground.batch() as net:
        master = net.add_bridge("br0", up=True)
        left, right = net.add_veth("left", peer="right", master=master, up=True)
        net.set_port(left, isolated=1)
        net.set_options(master, "bridge", ageing_time=1000)
        net.add_altname(left, "other")
        net.set_link(right, mtu=1400, up=True)
        net.add_macvlan("mv0", right, up=True)
    assert len(exchanges) == 1 and playground.link("mv0").mtu == 1400
    assert playground.link("left").port_options["isolated"] == 1


