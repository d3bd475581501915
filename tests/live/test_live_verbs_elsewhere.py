"""Verbs for links in a namespace that is known by a process, or by the number that this one has given it.

On a real kernel, alone and in a batch; ip(8) is the witness, here and there.
"""

import os
import subprocess

import pytest

import nsnet
from live_helpers import go_inside, ifnames, ip, ip_link
from nsnet import requests, rtnl
from nsnet.objects import Link
from verb_helpers import act, pair, refused_by_kernel    # noqa: F401

NSID = 7


@pytest.fixture
def other(playground):
    """A namespace beside the playground, which knows it as number 7."""
    with nsnet.Netns.new(beside=playground) as made:
        playground.set_nsid(made, NSID)
        yield made


@pytest.fixture
def stay(other):
    """A process in there."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, preexec_fn=go_inside(other.fd)) as process:
        yield process


def read(netns, request, kind):
    """What a request that only reads is answered with."""
    (outcome,) = netns.perform([request])
    layout = rtnl.LAYOUTS[outcome.replies[0].type]
    return [layout.view(reply.payload, kind=kind) for reply in outcome.replies]


# --- by a process ---

def test_a_link_is_born_in_the_namespace_of_a_process(playground, other, stay, act):
    made = act(lambda net: net.add_ifb("it0", netns_pid=stay.pid, mtu=1400, up=True))
    assert "it0" not in ifnames(playground) and other.link("it0").index == made.index and other.link(made).mtu == 1400
    assert ip_link(other, "it0")["ifindex"] == made.index and "UP" in ip_link(other, "it0")["flags"]


def test_a_kind_with_a_lower_link_leaves_that_where_it_is(playground, other, stay, pair, act):
    made = act(lambda net: net.add_macvlan("it0", "left", netns_pid=stay.pid))
    assert other.link(made).peer_index == pair[0].index and "it0" not in ifnames(playground)
    assert ip_link(other, "it0")["linkinfo"]["info_kind"] == "macvlan"


@pytest.mark.parametrize("kind", ["veth", "netkit"])
def test_a_peer_is_born_in_the_namespace_of_a_process(playground, other, stay, act, kind):
    def make(net):
        options = {"peer": "eth0", "peer_netns_pid": stay.pid, "mtu": 1400, "up": True}
        return net.add_veth("a0", peer_lladdr="02:00:00:00:00:0b", **options) if kind == "veth" else net.add_netkit(
            "a0", **options)
    try:
        here, there = act(make)
    except nsnet.NotSupported as error:
        assert kind == "netkit" and "this kernel has no 'netkit'" in error.hint
        return
    assert "eth0" not in ifnames(playground) and other.link("eth0").index == there.index
    assert playground.link(here).peer_index == there.index == ip_link(playground, "a0")["link_index"]
    assert kind == "netkit" or ip_link(other, "eth0")["address"] == "02:00:00:00:00:0b"
    assert ip_link(other, "eth0")["mtu"] == 1400


def test_an_end_may_have_its_peers_name_in_the_namespace_of_a_process(playground, other, stay, act):
    act(lambda net: net.add_veth("eth0", peer="eth0", peer_netns_pid=stay.pid))
    assert "eth0" in ifnames(playground) and "eth0" in ifnames(other)


def test_the_index_of_what_is_born_where_nobody_looks_is_hardly_taken(playground, other, stay, act):
    """Both namespaces count up from 2."""
    taken = {other.add_ifb(f"taken{number}").index for number in range(4)}
    assert playground.free_index() in taken
    made = [act(lambda net: net.add_ifb("it0", netns_pid=stay.pid)), act(lambda net: net.add_ifb("it1", netnsid=NSID)),
            act(lambda net: net.add_veth("a0", peer="b0", peer_netns_pid=stay.pid))[1]]
    assert [other.link(name).index for name in ("it0", "it1", "b0")] == [one.index for one in made]


def test_a_process_that_is_not_there_has_no_namespace(playground, act):
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    for make in (lambda net: net.add_ifb("it0", netns_pid=gone.pid),
                 lambda net: net.add_veth("it0", peer="it1", peer_netns_pid=gone.pid),
                 lambda net: net.set_link("lo", netns_pid=gone.pid)):
        refused_by_kernel(nsnet.NoSuchObject, lambda: act(make))
    assert not {"it0", "it1"} & set(ifnames(playground))


# --- by a number ---

def test_a_link_is_born_in_the_namespace_of_a_number_and_deleted_there(playground, other, act):
    made = act(lambda net: net.add_link("bridge", "it0", netnsid=NSID, ageing_time=1000))
    assert "it0" not in ifnames(playground) and other.link("it0").index == made.index
    assert ip_link(other, "it0")["linkinfo"]["info_data"]["ageing_time"] == 1000
    act(lambda net: net.del_link(made, netnsid=NSID))
    assert "it0" not in ifnames(other)
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.del_link(made, netnsid=NSID)))
    act(lambda net: net.del_link(made, netnsid=NSID, missing_ok=True))


def test_a_link_moves_to_the_namespace_of_a_number(playground, other, pair, act):
    act(lambda net: net.set_link("left", netnsid=NSID, mtu=1400, up=True))
    assert "left" not in ifnames(playground) and ip_link(other, "left")["mtu"] == 1400
    assert other.link("left").index == pair[0].index and "UP" in ip_link(other, "left")["flags"]


def test_a_name_counts_where_the_link_is(playground, other, act):
    """Both namespaces have a link of that name, and of that index."""
    here = playground.add_ifb("it0")
    there = other.add_link("ifb", "it0")
    act(lambda net: net.del_link("it0", netnsid=NSID))
    assert "it0" in ifnames(playground) and "it0" not in ifnames(other)
    for missing in ("it0", "it9"):
        with pytest.raises(nsnet.NoSuchObject):
            act(lambda net: net.del_link(missing, netnsid=NSID))
        act(lambda net: net.del_link(missing, netnsid=NSID, missing_ok=True))
    assert playground.link(here).ifname == "it0" and there.ifname == "it0"


def test_an_altname_stands_for_no_link_there_either(playground, other, act):
    other.add_ifb("it0")
    other.add_altname("it0", "target")
    with pytest.raises(nsnet.NoSuchObject):
        act(lambda net: net.del_link("target", netnsid=NSID))
    assert "it0" in ifnames(other)


def test_what_was_read_from_there_is_not_taken_for_what_is_here(playground, other, act):
    """Its index may be another link's."""
    other.add_ifb("it0")
    (found,) = [link for link in read(playground, requests.list_links(netnsid=NSID), Link) if link.ifname == "it0"]
    for odd in (lambda net: net.del_link(found), lambda net: net.del_link(found, netnsid=8),
                lambda net: net.set_link(found, up=True), lambda net: net.add_macvlan("it1", found),
                lambda net: net.add_address(found, "10.0.0.1/24"), lambda net: net.add_altname(found, "alt")):
        with pytest.raises(nsnet.UsageError, match="netnsid 7"):
            act(odd)
    act(lambda net: net.del_link(found, netnsid=NSID))
    assert "it0" not in ifnames(other)


@pytest.mark.parametrize("tunnel", [False, True], ids=["macvlan", "vxlan"])
@pytest.mark.parametrize("by_name", [False, True], ids=["by reference", "by name"])
def test_the_lower_link_may_be_in_the_namespace_of_a_number(playground, other, act, tunnel, by_name):
    low = other.add_ifb("low", up=True)
    below = "low" if by_name else low
    made = act(lambda net: net.add_vxlan("it0", 42, dev=below, link_netnsid=NSID) if tunnel else
               net.add_macvlan("it0", below, link_netnsid=NSID))
    found, seen = playground.link(made), ip_link(playground, "it0")
    assert "it0" not in ifnames(other) and found.peer_netnsid == NSID == seen["link_netnsid"]
    assert (found.options["link"] if tunnel else found.peer_index) == low.index
    assert seen["linkinfo"]["info_kind"] == ("vxlan" if tunnel else "macvlan")


def test_links_and_addresses_there_are_listed_from_here(playground, other):
    other.add_address(other.add_ifb("it0", up=True), "10.7.0.1/24")
    found = playground.links(netnsid=NSID, stats=False)
    assert sorted(link.ifname for link in found) == ifnames(other)
    assert {link.attrs["target_netnsid"] for link in found} == {NSID}
    assert [link.ifname for link in playground.links(netnsid=NSID, kind="ifb")] == ["it0"]
    index = other.link("it0").index
    for name in ("it0", index, found[0]._replace(header=found[0].header._replace(index=index))):
        one = playground.link(name, netnsid=NSID)
        assert (one.ifname, one.index) == ("it0", index)
    with pytest.raises(nsnet.NoSuchObject):
        playground.link("it1", netnsid=NSID)
    (address,) = playground.addresses("it0", netnsid=NSID, family="inet")
    assert address.address == "10.7.0.1/24" and address.attrs["target_netnsid"] == NSID
    assert ip(other, "address", "show", "dev", "it0")[0]["addr_info"][0]["local"] == "10.7.0.1"


def test_a_number_that_no_namespace_has_is_refused_by_the_kernel(playground, pair, act):
    for ask in (lambda net: net.add_ifb("it0", netnsid=99), lambda net: net.set_link("left", netnsid=99),
                lambda net: net.del_link(pair[0], netnsid=99),
                lambda net: net.add_macvlan("it0", pair[0], link_netnsid=99),
                lambda net: net.add_macvlan("it0", "left", link_netnsid=99)):
        error = refused_by_kernel(nsnet.NetlinkError, lambda: act(ask))
        assert error.errno == 22
    assert "it0" not in ifnames(playground) and "left" in ifnames(playground)


@pytest.mark.parametrize("provoke, named", [
    (lambda net, other: net.add_ifb("it0", netns=other, netnsid=7), "one of netns, netns_pid and netnsid"),
    (lambda net, other: net.add_ifb("it0", netns_pid=1, netnsid=7), "one of netns, netns_pid and netnsid"),
    (lambda net, other: net.set_link("lo", netns=other, netns_pid=1), "one of netns, netns_pid and netnsid"),
    (lambda net, other: net.set_link("lo", netns_pid=1, netnsid=7), "one of netns, netns_pid and netnsid"),
    (lambda net, other: net.add_veth("a0", peer="b0", peer_netns=other, peer_netns_pid=1), "peer_netns_pid, not both"),
    (lambda net, other: net.add_ifb("it0", netns_pid=1, master="lo"), "netns with master"),
    (lambda net, other: net.add_ifb("it0", netnsid=7, master=1), "netns with master"),
    (lambda net, other: net.set_link("lo", netnsid=7, master=1), "netns with master"),
    (lambda net, other: net.set_link("lo", netnsid=7, link_local=False), "no link_local"),
    (lambda net, other: net.add_ifb("it0", netns_pid=0), "pid 0"),
    (lambda net, other: net.add_ifb("it0", netnsid=-1), "netnsid -1"),
    (lambda net, other: net.add_ifb("it0", link_netnsid=7), "has no lower link"),
    (lambda net, other: net.add_link("bridge", "it0", link_netnsid=7), "has no lower link"),
    (lambda net, other: net.add_macvlan("it0", 1, link_netnsid=7, netnsid=7), "no link_netnsid with"),
    (lambda net, other: net.add_macvlan("it0", 1, link_netnsid=7, netns=other), "no link_netnsid with"),
    (lambda net, other: net.del_link("it0", netnsid=-1), "netnsid -1"),
    (lambda net, other: net.del_link("n" * 16, netnsid=7), "1 to 15"),
    (lambda net, other: net.del_link(True, netnsid=7), "True"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_meant_is_refused_before_the_kernel_hears_of_it(playground, other, monkeypatch, provoke, named):
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(nsnet.Netns, "perform", None)       # calling it would be a TypeError
    for net in (playground, nsnet.netns.Batch(playground)):
        with pytest.raises(nsnet.UsageError) as refused:
            provoke(net, other)
        assert named in str(refused.value) and "\n" not in str(refused.value)
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1, "other.fd, which stays"
    monkeypatch.undo()
