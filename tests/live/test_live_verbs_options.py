"""Verbs for what a kind of link, a bridge and its ports have of their own, for names, programs and VLANs.

On a real kernel, alone and in a batch; ip(8) and bridge(8) are the witnesses.
"""

import errno
import os
import socket

import pytest

import nsnet
from live_helpers import PATIENCE, ifnames, inside, ip, ip_link, read_inside
from nsnet import requests, rtnl
from nsnet.exchange import Request
from nsnet.requests import options as tables
from nsnet.wire import Scalar
from verb_helpers import PASS, XDP, act, bridge, load_program, pair, refused_by_kernel    # noqa: F401


# --- options that are set are set ---

# Numbers at which the kernel may begin to think otherwise: ends of fields, of what fits in a second, a day, a nibble.
NUMBERS = sorted({0, 1, 2, 3, 5, 7, 10, 15, 16, 31, 32, 63, 64, 99, 100, 101, 127, 128, 200, 255, 256, 300, 1000, 1001,
                  3000, 4094, 4095, 4096, 8640000, 8640001, 2**64 - 1,
                  *(2**bits + more for bits in (16, 20, 24, 31, 32, 40, 63) for more in (-1, 0))})
FEW = [0, 1, 2, 255, 65535, 2**20 - 1, 2**20, 2**24 - 1, 2**31, 2**32 - 1]      # where each is a link that must go
# What a bridge keeps in ticks of its clock: where CONFIG_HZ is 250, an odd number of 1/100 s is read as one less.
TIMES = {"forward_delay", "hello_time", "max_age", "ageing_time", *(
    name for name in rtnl.BRIDGE.rows if name.startswith("mcast_") and name.endswith("_intvl"))}
# These are read as nothing while they are what they are without being set; and macaddr_mode is a command.
UNSAID = {("vxlan", "vnifilter"): 0, ("macvlan", "bc_cutoff"): 1, ("port", "backup_port"): 0,
          ("port", "backup_nhid"): 0}
# What some kinds can be given at birth only, beside what they need for it.
BORN = {"vxlan": {"id": 7, "port": 4789, "learning": 0}, "macvlan": {}}


def kinds_to_set(net, low):
    """{what: (its table, rows that are not set, how one option is set, how it is read)}"""
    bridge = net.add_bridge("br0", up=True)
    net.set_link(low, master=bridge)
    mv0 = net.add_macvlan("mv0", "right")

    def born(kind):
        def make(**option):
            net.del_link("it0", missing_ok=True)
            own = {**BORN[kind], **option}
            if {"vnifilter"} & set(option):
                own = {"collect_metadata": 1, "port": 4789, **option}
            elif {"label", "udp_zero_csum6_tx", "udp_zero_csum6_rx"} & set(option):
                own["local6"] = "fd00::1"
            elif "collect_metadata" in option:
                del own["id"]
            net.add_link(kind, "it0", link="right", **own)
        return make
    return {
        "bridge": (rtnl.BRIDGE, tables.IN_VAIN["bridge"], lambda **option: net.set_options(bridge, "bridge", **option),
                   lambda: net.link(bridge).options),
        "port": (rtnl.BRIDGE_PORT, tables.PORT_IN_VAIN["bridge"], lambda **option: net.set_port(low, **option),
                 lambda: net.link(low).port_options),
        "macvlan": (rtnl.MACVLAN, tables.IN_VAIN["macvlan"] | {"macaddr_mode"}, lambda **option: net.set_options(
            mv0, "macvlan", **option), lambda: net.link(mv0).options),
        "new macvlan": (rtnl.MACVLAN, tables.IN_VAIN["macvlan"] | {"macaddr_mode"}, born("macvlan"),
                        lambda: net.link("it0").options),
        "new vxlan": (rtnl.VXLAN, {"link"}, born("vxlan"), lambda: net.link("it0").options),
    }


@pytest.mark.parametrize("what, least", [("bridge", 25), ("port", 20), ("macvlan", 3), ("new macvlan", 3),
                                         ("new vxlan", 20)])
def test_an_option_that_the_kernel_accepts_it_has_then(playground, pair, what, least):
    """At the ends of what it accepts, too: what is neither refused here nor there is read back as it was set."""
    playground.set_link(pair[1], up=False)      # or what is born upon it would come and go with noise
    table, in_vain, put, read = kinds_to_set(playground, pair[0])[what]
    wrong, taken = {}, set()
    for name, row in table.rows.items():
        if not isinstance(row.codec, Scalar) or name in in_vain:
            continue
        for value in NUMBERS if "new" not in what else FEW:
            try:
                put(**{name: value})
            except (nsnet.UsageError, nsnet.NetlinkError):
                continue
            found = read().get(name, UNSAID.get((what.split()[-1], name)))
            if found != value and not (name in TIMES and found == value - value % 2):
                wrong.setdefault(name, []).append((value, found))
            taken.add(name)
        if what == "port":
            playground.set_options("br0", "bridge", stp_state=0)        # under STP the state of a port is not for us
    assert wrong == {}, "what was set, and what it is then"
    assert len(taken) >= least, sorted(taken)


@pytest.mark.parametrize("kind, options", [
    ("bridge", {"mcast_query_intvl": 99}), ("bridge", {"mcast_startup_query_intvl": 8640001}),
    ("bridge", {"stp_state": 2}), ("vxlan", {"ageing": 0, "id": 7}), ("vxlan", {"id": 7, "port": 0}),
    ("vxlan", {"label": 1 << 20, "id": 7, "local6": "fd00::1"}), ("vxlan", {"learning": 2, "id": 7})], ids=repr)
def test_what_the_kernel_would_change_without_a_word_is_refused(playground, act, kind, options):
    name, value = next((name, value) for name, value in options.items() if name != "id")
    with pytest.raises(nsnet.UsageError, match=f"{kind} option '{name}' {value}: expected"):
        act(lambda net: net.add_link(kind, "it0", **options))
    playground.perform([Request(rtnl.RTM_NEWLINK, rtnl.NLM_F_CREATE, rtnl.LINK_BODY.encode(
        ({}, {"ifname": "it0", "linkinfo": {"kind": kind, "data": options}})), "by hand")])
    assert playground.link("it0").options[name] != value


def test_a_query_every_second_is_the_most_a_bridge_is_asked_for(playground, act):
    for value in (100, 8640000):
        act(lambda net: net.ensure_bridge("br0", mcast_query_intvl=value, mcast_startup_query_intvl=value))
        seen = ip_link(playground, "br0")["linkinfo"]["info_data"]
        assert (seen["mcast_query_intvl"], seen["mcast_startup_query_intvl"]) == (value, value)


def test_only_bits_of_the_mask_are_changed(playground, act):
    playground.add_bridge("br0")
    for odd in ((1, 0), (3, 1)):
        with pytest.raises(nsnet.UsageError, match="expected a mask"):
            act(lambda net: net.set_options("br0", "bridge", multi_boolopt=odd))
    act(lambda net: net.set_options("br0", "bridge", multi_boolopt=(1, 1)))
    assert playground.link("br0").options["multi_boolopt"].optval & 1
    assert ip_link(playground, "br0")["linkinfo"]["info_data"]["no_linklocal_learn"] == 1


VLAN = {"vlan_filtering": 1, "vlan_protocol": 0x88A8, "vlan_default_pvid": 5, "vlan_stats_enabled": 1,
        "vlan_stats_per_port": 1}


@pytest.mark.parametrize("option", VLAN)
def test_what_a_bridge_does_with_vlans_is_done_or_not_supported(playground, act, option):
    """Without CONFIG_BRIDGE_VLAN_FILTERING the kernel would take most of them, and do nothing."""
    playground.add_bridge("br0")
    before = ifnames(playground)
    for ask, name in ((lambda net: net.add_bridge("br1", **{option: VLAN[option]}), "br1"),
                      (lambda net: net.set_options("br0", "bridge", **{option: VLAN[option]}), "br0"),
                      (lambda net: net.ensure_bridge("br0", **{option: VLAN[option]}), "br0"),
                      (lambda net: net.ensure_bridge("br2", **{option: VLAN[option]}), "br2")):
        try:
            act(ask)
        except nsnet.NotSupported as error:
            assert option in error.hint and "CONFIG_BRIDGE_VLAN_FILTERING" in error.hint and option in str(error)
            assert not playground.link("br0").options.get(option) and ifnames(playground) == before
        else:
            assert playground.link(name).options[option] == VLAN[option]
            assert "vlan_filtering" in ip_link(playground, name)["linkinfo"]["info_data"]


def test_a_bridge_is_validated_before_its_namespaces_are_looked_for(playground):
    """What try_vlan_filtering() relies on: br_validate() speaks first, here of an address, there of a protocol."""
    body = rtnl.LINK_BODY.encode(
        ({}, {"address": "01:00:00:00:00:00", "link_netnsid": -1, "linkinfo": {"kind": "bridge"}}))
    error = refused_by_kernel(nsnet.NoSuchObject, lambda: playground.perform(
        [Request(rtnl.RTM_NEWLINK, rtnl.NLM_F_CREATE, body, "by hand")]))
    assert error.errno == errno.EADDRNOTAVAIL
    before = ifnames(playground)
    with pytest.raises(nsnet.NetlinkError) as refused:
        playground.perform([requests.try_vlan_filtering()])
    assert refused.value.errno in (errno.EINVAL, errno.EPROTONOSUPPORT) and ifnames(playground) == before


def test_a_bridge_without_vlan_options_asks_nothing_more(playground, monkeypatch):
    sent = []
    perform = nsnet.Netns.perform
    monkeypatch.setattr(nsnet.Netns, "perform", lambda self, batch, *rest, **more: sent.extend(batch) or perform(
        self, batch, *rest, **more))
    playground.add_bridge("br0", ageing_time=1000)
    playground.set_options("br0", "bridge", ageing_time=2000)
    assert len(sent) == 2


def test_the_state_of_a_port_is_set_in_words(playground, pair, act):
    playground.set_link(pair[0], master=playground.add_bridge("br0", up=True))
    playground.wait_link("left", carrier=True, timeout=PATIENCE)
    for number, word in ((0, "disabled"), (1, "listening"), (2, "learning"), (3, "forwarding")):
        act(lambda net: net.set_port("left", state=word))
        (seen,) = [row for row in bridge(playground, "link", "show", "dev", "left")]
        assert seen["state"] == word and playground.link("left").port_options["state"] == number
    act(lambda net: net.set_port("left", state="blocking"))         # without STP the bridge takes it up again at once
    with pytest.raises(nsnet.UsageError, match="'up': expected one of disabled, listening"):
        act(lambda net: net.set_port("left", state="up"))


@pytest.mark.parametrize("local, headers", [("10.0.0.1", 50), ("fd00::1", 70)])
def test_a_vxlan_is_no_larger_than_what_is_below_it(playground, pair, act, local, headers):
    """The kernel would make it smaller than asked."""
    most = 1500 - headers
    with pytest.raises(nsnet.UsageError, match=f"mtu {most + 1} of vxlan 'it0': expected at most {most}"):
        act(lambda net: net.add_vxlan("it0", 7, local=local, dev=pair[0], mtu=most + 1))
    act(lambda net: net.add_vxlan("it0", 7, local=local, dev=pair[0], mtu=most))
    assert playground.link("it0").mtu == most == ip_link(playground, "it0")["mtu"]
    act(lambda net: net.add_vxlan("it1", 8, local=local, mtu=9000))
    assert playground.link("it1").mtu == 9000


def test_what_is_below_a_vxlan_may_be_made_in_the_same_batch(playground):
    with playground.batch() as net:
        low = net.add_ifb("low", mtu=1400)
        net.add_vxlan("it0", 7, dev=low, mtu=1300)
    assert playground.link("it0").mtu == 1300


# --- settings of IPv4 ---

def conf(netns, link):
    """{name: number} of /proc/sys/net/ipv4/conf, as a process inside sees it."""
    said = inside(netns, ["/bin/sh", "-c", f"cd /proc/sys/net/ipv4/conf/{link} && grep -H . *"], check=True).stdout
    return {name: int(value) for name, _, value in (line.partition(":") for line in said.splitlines())}


def told(netns, link):
    """The same, as the kernel tells it over netlink."""
    found = netns.link(link).attrs["af_spec"]["inet"]["conf"]
    return {name: getattr(found, row) for name, row in tables.IPV4_CONF.items()}


def test_every_setting_of_ipv4_is_read_and_set_by_its_name(playground, pair, act):
    """Those of the witness, which is /proc: the kernel may have more or fewer than the table."""
    there = conf(playground, "left")
    known = [name for name in tables.IPV4_CONF if name in there]
    assert set(there) - set(known) <= {"mc_forwarding"} and len(known) >= 30
    assert {name: told(playground, "left")[name] for name in known} == {name: there[name] for name in known}
    wanted = {name: there[name] + 2 for name in known}
    act(lambda net: net.set_conf("left", **wanted))
    there = conf(playground, "left")
    assert {name: there[name] for name in known} == wanted
    assert {name: told(playground, "left")[name] for name in known} == wanted
    assert conf(playground, "right")["rp_filter"] != wanted["rp_filter"] or wanted["rp_filter"] == 2


def test_forwarding_is_turned_on_for_one_link(playground, pair, act):
    act(lambda net: net.set_conf("left", forwarding=True, rp_filter=2, arp_notify=1, proxy_arp=True, medium_id=-1))
    there = conf(playground, "left")
    assert (there["forwarding"], there["rp_filter"], there["arp_notify"], there["proxy_arp"], there["medium_id"]) == (
        1, 2, 1, 1, -1)
    assert conf(playground, "right")["forwarding"] == conf(playground, "all")["forwarding"] == 0
    (seen,) = [row for row in ip(playground, "netconf", "show", "dev", "left") if row["family"] == "inet"]
    assert seen["forwarding"] is True and seen["rp_filter"] == "loose"
    act(lambda net: net.set_conf("left", forwarding=False))
    assert conf(playground, "left")["forwarding"] == 0 and conf(playground, "left")["rp_filter"] == 2


def test_a_setting_follows_the_link_that_is_made_before_it(playground):
    with playground.batch() as net:
        made = net.add_ifb("it0")
        net.set_conf(made, rp_filter=1)
        net.set_link(made, up=True)
    assert conf(playground, "it0")["rp_filter"] == 1


def test_a_setting_that_there_is_not_is_refused_by_name(playground, pair, act):
    with pytest.raises(nsnet.UsageError, match="setting 'rp_filtre': expected one of forwarding, "):
        act(lambda net: net.set_conf("left", rp_filtre=1))
    refused_by_kernel(nsnet.NoSuchObject, lambda: act(lambda net: net.set_conf(999999, rp_filter=1)))


def test_what_ipv6_says_of_a_link_has_names_as_far_as_the_kernels_agree(playground, pair):
    with playground.socket(socket.AF_INET6, socket.SOCK_DGRAM) as here:
        for _ in range(3):
            here.sendto(b"x", ("::1", 9))
    found = playground.link("lo").attrs["af_spec"]["inet6"]
    counted = dict(line.split() for line in read_inside(playground, "/proc/net/dev_snmp6/lo").splitlines())
    stats, icmp6 = found["stats"], found["icmp6stats"]
    counted = {name: int(number, 0) for name, number in counted.items()}
    assert stats[:4] == (len(stats), counted["Ip6InReceives"], counted["Ip6InOctets"], counted["Ip6InDelivers"])
    assert stats[1] >= 6 and (icmp6.inmsgs, icmp6.outmsgs) == (counted["Icmp6InMsgs"], counted["Icmp6OutMsgs"])
    settings = found["conf"]
    for row, name in (("hoplimit", "hop_limit"), ("mtu6", "mtu"), ("accept_ra", "accept_ra"),
                      ("accept_dad", "accept_dad"), ("disable_ipv6", "disable_ipv6")):
        assert getattr(settings, row) == int(read_inside(playground, f"/proc/sys/net/ipv6/conf/lo/{name}")), name


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
