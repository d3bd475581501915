"""What the requests for links of every kind, their ports, names and VLANs ask; and what would be set in vain."""

import pytest
from strategies import refused

from nsnet import requests, rtnl
from nsnet.errors import UsageError
from nsnet.requests import options as tables

EXCL = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL


def body(request):
    return rtnl.LAYOUTS[request.type].decode(request.payload)


def data(request):
    return body(request).attrs["linkinfo"]["data"]


# --- any kind ---

def test_a_link_of_any_kind_is_asked_for_with_all_that_it_is_given():
    request = requests.add_link("vlan", "v7", index=9, link=2, lladdr="02:00:00:00:00:0A", mtu=1400, group=5, master=3,
                                up=True, txqlen=50, queues=2, netns_fd=4, options={"id": 7, "protocol": 0x8100})
    assert (request.type, request.flags, request.kind) == (rtnl.RTM_NEWLINK, EXCL, "vlan")
    header, attrs = body(request)
    assert (header.index, header.flags, header.change) == (9, rtnl.IFF_UP, rtnl.IFF_UP)
    assert attrs == {"ifname": "v7", "address": "02:00:00:00:00:0a", "mtu": 1400, "group": 5, "link": 2, "master": 3,
                     "txqlen": 50, "num_tx_queues": 2, "num_rx_queues": 2, "net_ns_fd": 4,
                     "linkinfo": {"kind": "vlan", "data": {"id": 7, "protocol": 0x8100}}}


@pytest.mark.parametrize("kind", ["vxlan", "gre", "gretap", "ip6gre", "ipip", "sit", "ip6tnl"])
def test_the_lower_link_of_a_tunnel_is_an_option_of_its_kind(kind):
    """IFLA_LINK says nothing to it, and the tunnel would be without one."""
    request = requests.add_link(kind, "t0", link=7)
    assert data(request) == {"link": 7} and "link" not in body(request).attrs


@pytest.mark.parametrize("kind", ["bond", "bridge", "dummy", "ifb", "netkit", "veth", "vrf", "wireguard"])
def test_a_lower_link_is_refused_for_kinds_that_have_none(kind):
    assert f"link of {kind} 'a0': expected none" in refused(requests.add_link, kind, "a0", link=7)


@pytest.mark.parametrize("kind", ["vlan", "macvlan", "macvtap", "ipvlan", "geneve-of-tomorrow"])
def test_other_kinds_lie_on_their_lower_link(kind):
    assert body(requests.add_link(kind, "a0", link=7)).attrs["link"] == 7


@pytest.mark.parametrize("kind", ["", "a b", "a\nb", "-x", "é", "x" * 56, None, 7], ids=ascii)
def test_what_cannot_be_a_kind_is_refused(kind):
    assert repr(kind) in refused(requests.add_link, kind, "a0")
    assert repr(kind) in refused(requests.set_options, 2, "it", kind, {"mode": 1})
    assert repr(kind) in refused(requests.set_port, 2, "it", kind, {"mode": 1})
    if kind is not None:
        assert repr(kind) in refused(requests.list_links, kind=kind)


def test_a_tun_device_is_not_made_by_netlink():
    assert "/dev/net/tun" in refused(requests.add_link, "tun", "tun0")


# --- what would be set in vain ---

@pytest.mark.parametrize("kind, option", [(kind, option) for kind, rows in tables.IN_VAIN.items() for option in rows])
def test_an_option_that_the_kernel_does_not_look_at_is_refused(kind, option):
    codec = rtnl.LINKINFO.rows["data"].codec.codecs[kind]
    assert option in codec.table.rows, "not even a row: the list has a name too many"
    message = refused(requests.add_link, kind, "a0", options={option: 1})
    assert message.startswith(f"{kind} option {option!r}: expected one of ")
    assert f" {option}," not in message.partition("expected")[2]
    assert repr(option) in refused(requests.set_options, 2, "it", kind, {option: 1})


@pytest.mark.parametrize("kind, option",
                         [(kind, option) for kind, rows in tables.PORT_IN_VAIN.items() for option in rows])
def test_what_is_only_reported_of_a_port_is_refused(kind, option):
    assert option in rtnl.LINKINFO.rows["slave_data"].codec.codecs[kind].table.rows
    assert refused(requests.set_port, 2, "it", kind,
                   {option: 1}).startswith(f"{kind} port option {option!r}: expected ")


@pytest.mark.parametrize("option", ["id", "protocol"])
def test_a_vlan_keeps_the_number_it_was_born_with(option):
    assert repr(option) in refused(requests.set_options, 2, "it", "vlan", {option: 7})
    assert data(requests.add_link("vlan", "a0", options={option: 7})) == {option: 7}


@pytest.mark.parametrize("kind, option, needs", [
    ("macvlan", "macaddr", "macaddr_mode"), ("macvtap", "macaddr_data", "macaddr_mode"), ("gre", "ikey", "iflags"),
    ("ip6gre", "okey", "oflags"), ("gretap", "encap_dport", "encap_type"), ("sit", "encap_flags", "encap_type")])
def test_an_option_that_counts_only_with_another_is_refused_alone(kind, option, needs):
    value = {"macaddr": "02:00:00:00:00:01", "macaddr_data": {"macaddr": ["02:00:00:00:00:01"]}}.get(option, 1)
    assert f"{kind} option {option!r}: expected {needs} with it" in refused(
        requests.add_link, kind, "a0", options={option: value})
    assert data(requests.add_link(kind, "a0", options={option: value, needs: 1})) == {option: value, needs: 1}


@pytest.mark.parametrize("option", ["group", "local"])
def test_a_vxlan_has_one_address_of_a_sort(option):
    both = {option: "10.0.0.1", option + "6": "fd00::1"}
    assert f"'{option}6': expected no {option}" in refused(requests.add_link, "vxlan", "a0", options=both)


@pytest.mark.parametrize("kind", ["dummy", "ifb", "wireguard", "nobody-knows"])
def test_a_kind_without_options_takes_none(kind):
    assert "'mode'" in refused(requests.add_link, kind, "a0", options={"mode": 1})
    assert body(requests.add_link(kind, "a0")).attrs["linkinfo"] == {"kind": kind}


@pytest.mark.parametrize("kind, option",
                         [(kind, option) for kind, rows in tables.SWITCHES.items() for option in sorted(rows)])
def test_what_is_on_or_off_is_no_other_number(kind, option):
    """The kernel would make it 1."""
    assert option in rtnl.LINKINFO.rows["data"].codec.codecs[kind].table.rows
    for value in (0, 1, True, False):
        assert data(requests.set_options(2, "it", kind, {option: value})) == {option: value}
    for odd in (2, 255, -1, "on", None):
        assert f"{kind} option {option!r} {odd!r}: expected 0 to 1" in refused(
            requests.add_link, kind, "a0", options={option: odd})


@pytest.mark.parametrize("option", sorted(tables.PORT_SWITCHES["bridge"]))
def test_what_is_on_or_off_of_a_port_is_no_other_number(option):
    assert body(requests.set_port(2, "it", "bridge", {option: True})).attrs["protinfo"] == {option: 1}
    assert f"{option!r} 2: expected 0 to 1" in refused(requests.set_port, 2, "it", "bridge", {option: 2})


@pytest.mark.parametrize("kind, option", [(kind, option) for kind, rows in tables.RANGES.items() for option in rows])
def test_a_number_that_the_kernel_would_change_is_refused_with_the_range(kind, option):
    low, high, unit = tables.RANGES[kind][option]
    for value in (low, high):
        assert data(requests.set_options(2, "it", kind, {option: value})) == {option: value}
    for value in (low - 1, high + 1):
        assert refused(requests.set_options, 2, "it", kind, {option: value}) == (
            f"{kind} option {option!r} {value}: expected {low} to {high} {unit}".rstrip())


@pytest.mark.parametrize("kind, option", sorted(tables._MASKED))
def test_bits_that_the_mask_leaves_out_are_refused(kind, option):
    assert data(requests.set_options(2, "it", kind, {option: (2, 3)})) == {option: (2, 3)}
    for odd in ((1, 2), (0, 0), (3, 1)):
        assert f"{odd!r}: expected a mask" in refused(requests.set_options, 2, "it", kind, {option: odd})


def test_the_state_of_a_port_is_a_word_or_its_number():
    for number, word in enumerate(("disabled", "listening", "learning", "forwarding", "blocking")):
        for state in (word, number):
            assert body(requests.set_port(2, "it", "bridge", {"state": state})).attrs["protinfo"] == {"state": number}
    for odd in ("up", 5, -1, None, True):
        assert "expected one of disabled, listening" in refused(requests.set_port, 2, "it", "bridge", {"state": odd})


def test_what_asks_for_vlan_filtering_can_create_nothing():
    """Were it ever taken, there would be no namespace -1."""
    request = requests.try_vlan_filtering()
    assert (request.type, request.flags) == (rtnl.RTM_NEWLINK, EXCL)
    assert body(request).attrs == {"link_netnsid": -1, "linkinfo": {"kind": "bridge", "data": {"vlan_protocol": 0}}}


# --- settings of IPv4 ---

def settings(**options):
    return body(requests.set_conf(2, "it", options)).attrs["af_spec"]["inet"]["conf"]


def test_settings_go_by_the_names_of_their_sysctls():
    request = requests.set_conf(2, "it", {"forwarding": True})
    assert (request.type, request.flags, request.words) == (rtnl.RTM_SETLINK, 0, "set IPv4 of it")
    assert settings(forwarding=True, rp_filter=2, proxy_arp=False) == {"forwarding": 1, "rp_filter": 2, "proxy_arp": 0}
    assert settings(arp_filter=1, disable_xfrm=1, disable_policy=1, src_valid_mark=1) == {
        "arpfilter": 1, "noxfrm": 1, "nopolicy": 1, "src_vmark": 1}
    assert settings(medium_id=-1) == {"medium_id": 2**32 - 1}


@pytest.mark.parametrize("name", ["rp_filtre", "arpfilter", "noxfrm", "mc_forwarding", "forwarding "])
def test_a_setting_of_another_name_is_refused_with_those_that_there_are(name):
    message = refused(requests.set_conf, 2, "it", {name: 1})
    assert message.startswith(f"setting {name!r}: expected one of forwarding, proxy_arp, ") and "arp_filter" in message


def test_a_setting_is_a_number_that_an_int_holds():
    for odd in (-1, 2**31, "1", None, 1.0):
        assert repr(odd) in refused(requests.set_conf, 2, "it", {"rp_filter": odd})
    assert "-2" in refused(requests.set_conf, 2, "it", {"medium_id": -2})
    assert "expected a setting" in refused(requests.set_conf, 2, "it", {})


# --- other namespaces ---

PLACES = {"netns_fd": 7, "netns_pid": 8, "netnsid": 9}


@pytest.mark.parametrize("one", PLACES)
@pytest.mark.parametrize("other", PLACES)
def test_a_link_is_born_or_moved_to_one_place(one, other):
    if one == other:
        row = {"netns_fd": "net_ns_fd", "netns_pid": "net_ns_pid", "netnsid": "target_netnsid"}[one]
        for request in (requests.add_link("ifb", "a0", **{one: 7}), requests.set_link(2, "it", **{one: 7})):
            assert body(request).attrs[row] == 7
        return
    places = {name: PLACES[name] for name in (one, other)}
    assert "ifb 'a0': expected one of netns" in refused(requests.add_link, "ifb", "a0", **places)
    assert "set it: expected one of netns" in refused(requests.set_link, 2, "it", **places)


def test_a_peer_is_born_in_one_place():
    made = requests.add_veth("a0", "a0", peer_netns_pid=7)
    assert data(made)["peer"].attrs == {"ifname": "a0", "net_ns_pid": 7} and "net_ns_pid" not in body(made).attrs
    assert "peer_netns or peer_netns_pid" in refused(requests.add_veth, "a0", "b0", peer_netns_fd=3, peer_netns_pid=7)


def test_the_lower_link_may_be_in_a_namespace_that_has_a_number():
    assert body(requests.add_link("macvlan", "a0", link=7, link_netnsid=4)).attrs == {
        "ifname": "a0", "link": 7, "link_netnsid": 4, "linkinfo": {"kind": "macvlan"}}
    tunnel = requests.add_link("vxlan", "a0", link=7, link_netnsid=4)
    assert data(tunnel) == {"link": 7} and body(tunnel).attrs["link_netnsid"] == 4
    assert "bridge 'a0': expected none" in refused(requests.add_link, "bridge", "a0", link_netnsid=4)


def test_what_is_read_or_deleted_may_be_in_a_namespace_that_has_a_number():
    for request in (requests.get_link(2, netnsid=0), requests.list_links(netnsid=0), requests.list_addresses(netnsid=0),
                    requests.del_link(2, "it", netnsid=0)):
        assert body(request).attrs == {"target_netnsid": 0}


# --- pairs ---

def test_a_netkit_has_its_peer_and_its_policies():
    request = requests.add_veth("a0", "b0", index=7, peer_index=8, kind="netkit", options={"mode": 1, "policy": 2})
    found = data(request)
    assert (found["mode"], found["policy"], found["peer_info"].attrs["ifname"]) == (1, 2, "b0")
    assert request.kind == "netkit" and request.words == "add netkit a0 with peer b0"
    assert "'peer_info'" in refused(requests.add_veth, "a0", "b0", kind="netkit", options={"peer_info": {}})


# --- changes ---

@pytest.mark.parametrize("name, bit", [("up", 1), ("promisc", 0x100), ("allmulticast", 0x200), ("multicast", 0x1000)])
def test_a_flag_changes_that_bit_alone(name, bit):
    for value, expected in ((True, (bit, bit)), (False, (0, bit))):
        header = body(requests.set_link(2, "it", **{name: value})).header
        assert (header.flags, header.change) == expected


def test_arp_is_the_opposite_of_its_flag():
    for value, expected in ((True, (0, rtnl.IFF_NOARP)), (False, (rtnl.IFF_NOARP, rtnl.IFF_NOARP))):
        header = body(requests.set_link(2, "it", arp=value)).header
        assert (header.flags, header.change) == expected
    header = body(requests.set_link(2, "it", arp=False, up=True, promisc=False)).header
    assert (header.flags, header.change) == (rtnl.IFF_NOARP | 1, rtnl.IFF_NOARP | 1 | 0x100)


@pytest.mark.parametrize("broadcast", ["ff:ff:ff:ff:ff", "ff:ff:ff:ff:ff:ff:ff", "", "10.0.0.1", 7, b"x"], ids=repr)
def test_a_broadcast_address_is_six_bytes(broadcast):
    """The kernel would cut off what is longer."""
    assert repr(broadcast) in refused(requests.set_link, 2, "it", broadcast=broadcast)
    assert body(requests.set_link(2, "it", broadcast="ff:ff:ff:ff:ff:fe")).attrs == {"broadcast": "ff:ff:ff:ff:ff:fe"}


def test_options_of_a_link_that_is_there_create_nothing():
    request = requests.set_options(2, "br0", "bridge", {"ageing_time": 1000})
    assert (request.type, request.flags) == (rtnl.RTM_NEWLINK, 0)
    assert body(request).attrs == {"linkinfo": {"kind": "bridge", "data": {"ageing_time": 1000}}}
    assert request.kind is None, "a link of another kind must not pass for a kernel without this one"
    assert "bridge" in refused(requests.set_options, 2, "br0", "bridge", {})


def test_a_bridge_port_is_asked_in_the_bridges_own_words():
    """Only a bridge takes them: what is sent as IFLA_INFO_SLAVE_DATA, any master takes for its own."""
    request = requests.set_port(2, "v0", "bridge", {"isolated": 1, "learning": 0})
    assert (request.type, body(request).header.family) == (rtnl.RTM_SETLINK, rtnl.AF_BRIDGE)
    assert body(request).attrs == {"protinfo": {"isolated": 1, "learning": 0}}


def test_a_bond_port_is_asked_as_such():
    request = requests.set_port(2, "v0", "bond", {"queue_id": 7})
    assert (request.type, request.flags) == (rtnl.RTM_NEWLINK, 0)
    assert body(request).attrs == {"linkinfo": {"slave_kind": "bond", "slave_data": {"queue_id": 7}}}


def test_a_port_of_something_else_has_no_options():
    assert "'vrf'" in refused(requests.set_port, 2, "v0", "vrf", {"table": 7})
    assert "set port v0" in refused(requests.set_port, 2, "v0", "bridge", {})
    assert "'isolation'" in refused(requests.set_port, 2, "v0", "bridge", {"isolation": 1})


@pytest.mark.parametrize("mode, flags", [("any", 0), ("skb", 2), ("drv", 4), ("hw", 8), (4, 4)])
def test_a_program_is_attached_in_a_mode(mode, flags):
    assert body(requests.set_xdp(2, "it", 5, mode)).attrs == {"xdp": {"fd": 5, "flags": flags}}


def test_there_is_no_other_mode_for_a_program():
    assert "'native'" in refused(requests.set_xdp, 2, "it", 5, "native")
    assert body(requests.set_xdp(2, "it", -1)).attrs == {"xdp": {"fd": -1, "flags": 0}}


# --- names ---

def test_an_altname_is_longer_than_a_name():
    for request, type, flags in ((requests.add_altname(2, "it", "n" * 127), rtnl.RTM_NEWLINKPROP, EXCL | 0x800),
                                 (requests.del_altname(2, "it", "n" * 127), rtnl.RTM_DELLINKPROP, 0)):
        assert (request.type, request.flags) == (type, flags)
        assert body(request).attrs == {"prop_list": {"alt_ifname": ["n" * 127]}}
    for bad in ("n" * 128, "a/b", "a\nb", "", "all", None):
        assert repr(bad) in refused(requests.add_altname, 2, "it", bad)
        assert repr(bad) in refused(requests.del_altname, 2, "it", bad)


# --- VLANs of a bridge ---

def test_vlans_are_asked_for_one_by_one_or_as_a_range():
    one = requests.add_bridge_vlan(2, "v0", 7, pvid=True, untagged=True)
    assert (one.type, body(one).header.family) == (rtnl.RTM_SETLINK, rtnl.AF_BRIDGE)
    assert body(one).attrs["af_spec"] == {"vlan_info": [(6, 7)]}
    assert body(requests.add_bridge_vlan(2, "v0", 7, last=9)).attrs["af_spec"] == {"vlan_info": [(8, 7), (16, 9)]}
    gone = requests.del_bridge_vlan(2, "br0", 7, self_=True)
    assert gone.type == rtnl.RTM_DELLINK
    assert body(gone).attrs["af_spec"] == {"flags": rtnl.BRIDGE_FLAGS_SELF, "vlan_info": [(0, 7)]}


def test_only_one_vlan_is_that_of_untagged_frames():
    assert "pvid 7 to 9" in refused(requests.add_bridge_vlan, 2, "v0", 7, last=9, pvid=True)


# --- lists ---

def test_the_kernel_is_asked_to_pick():
    assert body(requests.list_links()).attrs == {}
    assert body(requests.list_links(kind="veth", master=7, stats=False)).attrs == {
        "master": 7, "linkinfo": {"kind": "veth"}, "ext_mask": rtnl.RTEXT_FILTER_SKIP_STATS}
    assert body(requests.list_bridge_vlans()).header.family == rtnl.AF_BRIDGE
    for request in (requests.list_links(), requests.list_bridge_vlans()):
        assert request.is_dump


def test_a_name_that_is_no_line_is_quoted_in_words():
    assert requests.get_link(ifname="a\nb").words == r"get link 'a\nb'"
    assert requests.get_link(ifname="eth0").words == "get link eth0"


def test_options_that_no_table_can_write_are_refused_by_name():
    with pytest.raises(UsageError) as error:
        requests.add_link("vxlan", "a0", options={"local": "10.0.0"})
    assert "IFLA_VXLAN_LOCAL" in str(error.value)
