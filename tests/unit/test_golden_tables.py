"""iproute2's requests through the tables of rtnl, there and back; and that golden/ has one of every message and kind.

Captured once, see line 1 of each file in golden/. What they mean is written in meanings.py.
"""

import pytest
from meanings import MEANINGS
from strategies import GOLDEN, golden
from test_golden import REQUESTS

from nsnet import rtnl
from nsnet.explainer import explain
from nsnet.wire import encode_message, messages

each_request = pytest.mark.parametrize("name", MEANINGS)

# One byte of padding is not zero: ip wrote a struct rtvia of 18 bytes over what was in its buffer before.
ODD_PADDING = {"route_add_multipath_v6": -2}


def brief(value):
    """A value as meanings.py has it: long bytes as their length."""
    if isinstance(value, dict):
        return {name: brief(one) for name, one in value.items()}
    return f"{len(value)} bytes" if isinstance(value, bytes) and len(value) > 64 else value


def decoded(name):
    (message,) = messages(golden(name))
    return message, rtnl.LAYOUTS[message.type].decode(message.payload)


@each_request
def test_a_golden_request_means_what_is_written(name):
    message, body = decoded(name)
    header = {field: value for field, value in body.header._asdict().items() if value}
    flags = message.flags & ~(rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK)
    assert (message.type, flags, header, brief(body.attrs)) == MEANINGS[name]
    assert list(body.attrs) == list(MEANINGS[name].attrs)           # and in the order that is written


@each_request
def test_what_was_decoded_is_encoded_to_the_same_bytes(name):
    message, body = decoded(name)
    expected = bytearray(golden(name))
    if name in ODD_PADDING:
        assert expected[ODD_PADDING[name]] != 0
        expected[ODD_PADDING[name]] = 0
    payload = rtnl.LAYOUTS[message.type].encode((body.header._asdict(), body.attrs))
    assert encode_message(message.type, message.flags, message.seq, payload) == expected


@each_request
def test_a_view_of_a_golden_request_is_the_same(name):
    message, body = decoded(name)
    assert rtnl.LAYOUTS[message.type].view(message.payload) == body


@each_request
def test_a_golden_request_is_explained_without_a_complaint(name):
    text = explain(golden(name))
    assert text.startswith(rtnl.MESSAGE_NAMES[MEANINGS[name].type]) and "!" not in text


def test_options_of_a_port_are_those_of_its_masters_kind():
    """ip names the kind of a port (bridge_slave) where the kernel names the link's own: hence they are read by hand."""
    data = decoded("link_set_bridge_port")[1].attrs["linkinfo"]["slave_data"]
    options = {"state": 3, "priority": 10, "cost": 5, "guard": 1, "mode": 1, "fast_leave": 1, "protect": 1,
               "learning": 0, "unicast_flood": 0, "proxyarp": 1,
               "proxyarp_wifi": 1, "multicast_router": 2, "mcast_flood": 0,
               "bcast_flood": 0, "mcast_to_ucast": 1, "neigh_suppress": 1, "isolated": 1, "locked": 1, "vlan_tunnel": 1,
               "group_fwd_mask": 8, "backup_port": 3, "flush": True}
    assert list(rtnl.BRIDGE_PORT.decode(data).items()) == list(options.items())
    assert rtnl.BRIDGE_PORT.encode(options) == data
    assert rtnl.BOND_PORT.decode(decoded("link_set_bond_port")[1].attrs["linkinfo"]["slave_data"]) == {"queue_id": 3}


# --- what golden/ has ---

# The kernel has no such request: a list of altnames is part of the link, and an id goes with its netns.
NO_REQUEST = {"RTM_GETLINKPROP", "RTM_DELNSID"}
# `ip` makes no tun device over rtnetlink; ip6gretap is ip6gre to its table.
NO_KIND = {"tun", "ip6gretap"}


def test_every_message_type_has_a_golden_request():
    types = {next(messages(golden(name))).type for name in [*MEANINGS, *REQUESTS]}
    assert {rtnl.MESSAGE_NAMES[number] for number in set(rtnl.LAYOUTS) - types} == NO_REQUEST


@pytest.mark.parametrize("codec, layout, nest, name", [
    (rtnl.LINKINFO.rows["data"].codec, rtnl.LINK_BODY, "linkinfo", "kind"),
    (rtnl.TC.rows["options"].codec, rtnl.TC_BODY, None, "kind")], ids=["links", "qdiscs"])
def test_every_kind_has_a_golden_request(codec, layout, nest, name):
    found = set()
    for one in [*MEANINGS, *REQUESTS]:
        message, body = decoded(one)
        if rtnl.LAYOUTS[message.type] is layout:
            found.add((body.attrs.get(nest, {}) if nest else body.attrs).get(name))
    assert set(codec.codecs) - found <= NO_KIND


def test_every_golden_file_is_used_and_says_where_it_comes_from():
    files = {file.stem: file.read_text() for file in GOLDEN.iterdir()}
    received = {name for name in files if name.startswith(("reply_", "pcap_"))}
    assert set(files) - received == set(REQUESTS) | set(MEANINGS)
    assert not set(REQUESTS) & set(MEANINGS)
    for name, text in files.items():
        first = text.splitlines()[0]
        assert first.startswith("# ") and "Linux 6.18" in first, name
        assert name in received or any(f": {program} " in first for program in ("ip", "bridge", "tc")), name
