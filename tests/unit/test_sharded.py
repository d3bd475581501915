"""A sharded network before any system call: how subnets and ranges are cut, where attachments go, what is refused."""

import ipaddress
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import refused

import nsnet
from nsnet import values
from nsnet.errors import KernelError, NoFreeAddress, UsageError
from nsnet.network import sharded
from nsnet.network.sharded import ShardedNetwork, parts

V4, V6 = "10.0.0.1/16", "fd00::1/64"


def told(network):
    return [", ".join(map(str, shard.addresses)) for shard in network.shards]


@pytest.mark.parametrize("address, shards, expected", [
    (V4, 4, ["10.0.0.1/18", "10.0.64.1/18", "10.0.128.1/18", "10.0.192.1/18"]),
    (V4, 1, ["10.0.0.1/16"]), (V4, 2, ["10.0.0.1/17", "10.0.128.1/17"]),
    (V4, 3, ["10.0.0.1/18", "10.0.64.1/18", "10.0.128.1/18"]),
    ("10.0.0.254/23", 2, ["10.0.0.254/24", "10.0.1.254/24"]), ("10.0.7.1/21", 1, ["10.0.7.1/21"]),
    (V6, 4, ["fd00::1/66", "fd00::4000:0:0:1/66", "fd00::8000:0:0:1/66", "fd00::c000:0:0:1/66"]),
    ([V4, V6], 2, ["10.0.0.1/17, fd00::1/65", "10.0.128.1/17, fd00::8000:0:0:1/65"]),
    ("10.0.0.1/29", 2, ["10.0.0.1/30", "10.0.0.5/30"]), ("10.0.0.1/30", 2, ["10.0.0.1/31", "10.0.0.3/31"])])
def test_a_subnet_is_cut_into_equal_parts(address, shards, expected):
    network = ShardedNetwork("br", address=address, shards=shards)
    assert told(network) == expected
    assert [shard.bridge for shard in network.shards] == [f"br-{number}" for number in range(shards)]


@given(st.integers(8, 24), st.integers(1, 40), st.integers(1, 200))
def test_parts_are_what_the_standard_library_says(prefixlen, shards, host):
    own = ipaddress.ip_network((0x0A000000, prefixlen))
    bits = (shards - 1).bit_length()
    try:
        found = parts(values.address(f"{own[host % own.num_addresses]}/{prefixlen}"), shards)
    except UsageError:
        assert prefixlen + bits > 31 or host >= 1 << (32 - prefixlen - bits)
        return
    subnets = list(own.subnets(prefixlen_diff=bits))[:shards]
    assert [str(one) for one in found] == [f"{subnet[host]}/{prefixlen + bits}" for subnet in subnets]


@pytest.mark.parametrize("address, shards, why", [
    ("10.0.0.1/32", 1, "room for hosts"), ("10.0.0.1/31", 2, "a /32 has none"), ("10.0.0.1/24", 256, "a /32 has none"),
    ("10.0.0.1/25", 256, "a /33 has none"), ("fd00::1/127", 2, "room for hosts"), ("fd00::1/121", 256, "a /129 has none"),
    ("10.0.200.1/16", 4, "the first of 4 parts, 10.0.0.0/18"), ("10.0.0.63/24", 4, "broadcast"),
    ("10.0.0.1", 2, "prefix"), ("x", 2, "x"), ([], 2, "at least one"), ([V4, V4], 2, "twice"), (None, 2, "None")])
def test_what_cannot_be_cut_is_refused(address, shards, why):
    assert why in refused(ShardedNetwork, "br", address=address, shards=shards)


@pytest.mark.parametrize("shards", [0, -1, 257, None, "2", 1.0, True], ids=repr)
def test_what_is_no_number_of_shards_is_refused(shards):
    assert refused(ShardedNetwork, "br", address=V4, shards=shards).startswith("shards")


@pytest.mark.parametrize("bridge, shards, fits", [("a" * 13, 10, True), ("a" * 13, 11, False), ("a" * 12, 11, True),
                                                  ("a" * 14, 1, False), ("", 1, False), ("a/b", 2, False), (None, 1, False),
                                                  ("é" * 7, 2, False)])
def test_every_name_has_to_fit(bridge, shards, fits):
    if fits:
        assert len(ShardedNetwork(bridge, address=V4, shards=shards).shards) == shards
    else:
        assert refused(ShardedNetwork, bridge, address=V4, shards=shards).startswith("bridge")


def test_each_shard_has_its_part_of_the_ranges():
    network = ShardedNetwork("br", address=[V4, V6], shards=2, ranges=["10.0.127.250-10.0.128.9", "10.0.200.0/24"],
                             exclude=["10.0.127.252", "fd00::8000:0:0:0/120"])
    assert [shard.spec.ranges for shard in network.shards] == [
        ("10.0.127.250-10.0.127.255",), ("10.0.128.0-10.0.128.9", "10.0.200.0-10.0.200.255")]
    assert [shard.spec.exclude for shard in network.shards] == [
        ("10.0.127.252-10.0.127.252",), ("fd00::8000:0:0:0-fd00::8000:0:0:ff",)]
    assert network._capacity == [4, 264]


@pytest.mark.parametrize("options, why", [
    ({"ranges": ["10.0.0.10-10.0.0.20"]}, "expected some of them in each shard; 10.0.128.0/17 has none"),
    ({"ranges": ["10.1.0.10"]}, "ranges"), ({"exclude": ["x"]}, "exclude"), ({"exclude": ["10.0.0.0/17"]}, "leave some"),
    ({"lladdr": "02:00:00:00:00:01"}, "lladdr"), ({"lifetime": "x"}, "lifetime"), ({"mtu": 1}, "mtu"),
    ({"attachments": [{"command": ["x"]}]}, "attachments[0]: expected a name"),
    ({"attachments": ["x"]}, "attachments[0]"),
    ({"attachments": [{"name": "a", "command": ["x"]}, {"name": "a", "command": ["x"], "address": "10.0.128.5/17"}]},
     "name 'a': it stands for two attachments"),
    ({"attachments": [{"name": "a", "command": ["x"], "address": "10.1.0.5/17"}]}, "expected the subnet of one shard"),
    ({"attachments": [{"name": "a", "command": ["x"], "host_ifname": "br-1"}]}, "stands for two links")])
def test_options_that_cannot_be_meant_are_refused(options, why):
    assert why in refused(ShardedNetwork, "br", address=V4, shards=2, **options)


def test_an_option_that_is_none_is_a_type_error():
    with pytest.raises(TypeError):
        ShardedNetwork("br", address=V4, shards=2, colour="red")


def test_nothing_is_asked_of_the_kernel(monkeypatch):
    monkeypatch.setattr(nsnet.Netns, "current", lambda: 1 // 0)
    ShardedNetwork("br", address=V4, shards=2, attachments=[{"name": "a", "command": ["x"]}])


# --- where attachments go ---

def placed(network, wanted, used=None):
    return network._shared_out(wanted, list(used or [0] * len(network.shards)))


def test_auto_goes_where_most_room_is():
    network = ShardedNetwork("br", address=V4, shards=3)
    assert placed(network, [{}] * 5) == [0, 1, 2, 0, 1]
    assert placed(network, [{"address": "auto"}, {"address": None}, {}], [5, 2, 4]) == [1, 1, 1]
    assert placed(network, [{}] * 3, [1023, 1022, 1023 - 2]) == [2, 1, 2]


def test_an_address_goes_to_its_subnet_and_is_counted_first():
    network = ShardedNetwork("br", address=[V4, V6], shards=2)
    assert placed(network, [{}, {"address": "10.0.0.9/17"}, {"address": ["10.0.0.7/17", "fd00::7/65"]}, {}]) == [1, 0, 0, 1]
    for address in ("10.1.0.5/17", ["10.0.0.5/17", "10.0.128.5/17"], ["10.0.0.5/17", "fd00::8000:0:0:5/65"]):
        assert "expected the subnet of one shard" in refused(placed, network, [{"address": address}])


def test_a_name_goes_to_the_same_shard_each_time_while_that_has_room():
    network = ShardedNetwork("br", address=V4, shards=4)
    names = [{"name": f"n{number}"} for number in range(200)]
    first = placed(network, names)
    assert placed(network, names[::-1]) == first[::-1] and set(first) == {0, 1, 2, 3}
    own = first[0]
    full = [1023 if shard == own else 5 for shard in range(4)]
    assert placed(network, [names[0]], full)[0] == (0 if own else 1)


def test_no_shard_gets_more_than_a_bridge_takes(monkeypatch):
    monkeypatch.setattr(sharded, "MOST_PORTS", 3)
    network = ShardedNetwork("br", address=V4, shards=2)
    assert placed(network, [{"name": f"n{number}"} for number in range(6)]).count(0) == 3
    with pytest.raises(NoFreeAddress, match="no room in any of its 2 shards, which have 6 attachments together"):
        placed(network, [{}] * 7)
    with pytest.raises(KernelError, match="bridge br-1: .*it has 3 ports") as caught:
        placed(network, [{"address": f"10.0.128.{host}/17"} for host in range(5, 9)])
    assert os.strerror(caught.value.errno) == "Exchange full"
    assert placed(network, [{}] * 3 + [{"address": "10.0.0.5/17"}] * 3) == [1, 1, 1, 0, 0, 0]


def test_a_shard_without_addresses_to_give_takes_none():
    network = ShardedNetwork("br", address="10.0.0.1/28", shards=2, ranges=["10.0.0.2-10.0.0.3", "10.0.0.10-10.0.0.13"])
    assert placed(network, [{}] * 6) == [1, 1, 0, 1, 0, 1]
    with pytest.raises(NoFreeAddress):
        placed(network, [{}] * 7)


def test_declared_attachments_find_their_shard():
    given = [{"name": f"n{number}", "command": ["x"]} for number in range(8)]
    given.append({"name": "fixed", "command": ["x"], "address": "10.0.128.9/17"})
    network = ShardedNetwork("br", address=V4, shards=2, attachments=given)
    found = {spec.name: shard.bridge for shard in network.shards for spec in shard.spec.attachments}
    assert len(found) == 9 and found["fixed"] == "br-1"
    again = ShardedNetwork("br", address=V4, shards=2, attachments=given[::-1])
    assert {spec.name: shard.bridge for shard in again.shards for spec in shard.spec.attachments} == found
