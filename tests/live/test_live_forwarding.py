"""Forwarding to an uplink: packets of a remote host, and that every sysctl is as it was before, whoever ended how.

Three namespaces: `remote`, the host, and one that is attached. The uplink is a veth pair between the first two.
"""

import sys

import pytest

import nsnet
from live_helpers import IS_ROOT, Running, claims, inside, links_of, needs, run_nsnet
from network_helpers import declared, fd_path, reaches, sh, strays, sysctl
from nsnet import collection, sysctls

pytestmark = needs("ip")
ADDRESSES = ["10.0.0.1/24", "fd00::1/64"]
LISTENER = ("10.0.0.2", "fd00::2")
SWITCHES = ["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv4/conf/default/forwarding",
            "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding", "net/ipv6/conf/all/force_forwarding",
            "net/ipv6/conf/default/force_forwarding"]
CONF = """
import os, sys
for place in ("/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"):
    for ifname in sorted(os.listdir(place)):
        for key in sorted(os.listdir(os.path.join(place, ifname))):
            path = os.path.join(place, ifname, key)
            try:
                with open(path) as file:
                    print(path, file.read().strip())
            except OSError as error:
                print(path, error.errno)
print("ip_forward", open("/proc/sys/net/ipv4/ip_forward").read().strip())
"""


def conf(netns):
    """{path: value} of all that is below net.ipv4.conf and net.ipv6.conf there, and net.ipv4.ip_forward."""
    lines = inside(netns, [sys.executable, "-I", "-S", "-c", CONF], check=True).stdout.splitlines()
    return dict(line.partition(" ")[::2] for line in lines)


def switches(netns):
    """The global ones."""
    return {key: value for key, value in sysctls.read(netns, SWITCHES).items() if value is not None}


@pytest.fixture
def remote(host):
    """Beyond the uplink up0 of the host."""
    if "force_forwarding" not in inside(host, ["/bin/ls", "/proc/sys/net/ipv6/conf/lo"]).stdout:
        pytest.skip("IPv6 forwards by the global switch only, before Linux 6.17")
    with nsnet.Netns.new(beside=host) as beyond:
        host.add_veth("up0", peer="eth0", peer_netns=beyond)
        for netns, ifname, last in ((host, "up0", 1), (beyond, "eth0", 2)):
            netns.set_link("lo", up=True)
            netns.add_address(ifname, f"192.0.2.{last}/24")
            netns.add_address(ifname, f"2001:db8::{last}/64", nodad=True)
            netns.set_link(ifname, up=True, link_local=False)
        for netns, ifname in ((host, "up0"), (beyond, "eth0")):
            netns.sync_carrier(ifname)
        yield beyond
        host.del_link("up0", missing_ok=True)


@pytest.fixture
def inner(host):
    with nsnet.Netns.new(beside=host) as netns:
        yield netns


def network(host, inner=None, bridge="br0", address=ADDRESSES, forward=("up0",), lifetime="declared"):
    attached = {} if inner is None else {"name": "a", "netns": fd_path(inner), "address": ["10.0.0.2/24", "fd00::2/64"]}
    return declared(host, *([attached] if attached else []), bridge=bridge, address=address, forward=list(forward), lifetime=lifetime)


def shown_routes(host, state, bridge="br0"):
    """The commands that `nsnet show` has for a remote host."""
    done = run_nsnet(host, state, "show", bridge)
    # Who has entered a user namespace to be there may not look at our descriptors.
    assert done.stderr == "" and (done.returncode == 0 or not IS_ROOT), done.stdout
    return [line.partition("ip route add ")[2] for line in done.stdout.splitlines() if "ip route add" in line]


def unreachable(source, address):
    with pytest.raises(OSError):
        source.connect((address, 7), 0.3)
    return True


def of_uplink(host, ifname="up0"):
    return sysctl(host, f"net/ipv4/conf/{ifname}/forwarding"), sysctl(host, f"net/ipv6/conf/{ifname}/force_forwarding")


@pytest.mark.parametrize("lifetime", ["process", "declared"])
def test_a_remote_host_reaches_the_container_and_afterwards_does_not(host, remote, inner, state, lifetime):
    before = conf(host), conf(remote)
    assert unreachable(remote, "10.0.0.2")
    one = network(host, inner, lifetime=lifetime)
    one.up()
    routes = shown_routes(host, state)
    assert routes == ["10.0.0.0/24 via 192.0.2.1", "fd00::/64 via 2001:db8::1"]
    for route in routes:
        sh(remote, f"route add {route}")
    assert reaches(remote, inner, *LISTENER) and reaches(inner, remote, "192.0.2.2", "2001:db8::2")
    after = conf(host)
    assert {path for path in before[0] if after[path] != before[0][path]} == {
        "/proc/sys/net/ipv4/conf/up0/forwarding", "/proc/sys/net/ipv6/conf/up0/force_forwarding"}
    assert one.faults() == [] == one.up()
    one.down()
    assert unreachable(remote, "10.0.0.2") and unreachable(remote, "fd00::2")
    assert (conf(host), conf(remote)) == before and claims(state) == []


def test_without_forward_nothing_is_forwarded(host, remote, inner):
    before = conf(host)
    one = network(host, inner, forward=())
    one.up()
    sh(remote, "route add 10.0.0.0/24 via 192.0.2.1")
    sh(remote, "route add fd00::/64 via 2001:db8::1")
    assert unreachable(remote, "10.0.0.2") and unreachable(remote, "fd00::2")
    after = conf(host)
    assert {path: after[path] for path in before} == before
    one.down()


def test_the_global_switches_never_change(host, remote, inner, monkeypatch):
    """Looked at after each message and each sysctl, not only at the end."""
    before, seen = switches(host), []
    perform, write = nsnet.Netns.perform, sysctls.write

    def performing(netns, *arguments, **options):
        done = perform(netns, *arguments, **options)
        seen.append(switches(host))
        return done

    def writing(netns, values):
        write(netns, values)
        seen.append(switches(host))
    with monkeypatch.context() as patch:
        patch.setattr(nsnet.Netns, "perform", performing)
        patch.setattr(sysctls, "write", writing)
        one = network(host, inner)
        one.up()
        one.down()
    assert len(seen) >= 10 and all(look == before for look in seen)
    assert "0" in before.values()


@pytest.mark.parametrize("first", [0, 1])
def test_two_networks_share_an_uplink_and_the_last_one_puts_it_back(host, remote, first):
    before = conf(host)
    networks = [network(host), network(host, bridge="br1", address=["10.1.0.1/24", "fd01::1/64"])]
    for one in networks:
        one.up()
    assert of_uplink(host) == ("1", "1")
    networks[first].down()
    assert of_uplink(host) == ("1", "1") and networks[1 - first].faults() == []
    networks[1 - first].down()
    assert conf(host) == before


OWNER = """
import signal, nsnet
network = nsnet.Network("br7", address=["10.7.0.1/24", "fd07::1/64"], forward=["up0"])
network.up()
print("up", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("order", ["killed first", "killed last", "alone"])
def test_the_owner_of_one_was_killed_and_gc_puts_it_back(host, remote, state, order):
    before = conf(host)
    other = network(host)
    if order == "killed last":
        other.up()
    with Running(host, state, argv=[sys.executable, "-c", OWNER]) as owner:
        assert owner.line() == "up\n"
        if order == "killed first":
            other.up()
        assert of_uplink(host) == ("1", "1")
        owner.popen.kill()
        owner.popen.wait()
    assert of_uplink(host) == ("1", "1")
    if order == "killed last":
        other.down()
        assert of_uplink(host) == ("1", "1")                # what the dead one found is in its claim
    found = collection.collect(host)
    assert found.failed == [] and "br7" in found.removed
    if order == "killed first":
        assert of_uplink(host) == ("1", "1")
        other.down()
    assert conf(host) == before


def test_what_somebody_else_changed_meanwhile_stays(host, remote):
    one = network(host)
    one.up()
    sysctls.write(host, {"net.ipv4.conf.up0.forwarding": 0})
    one.down()
    assert of_uplink(host) == ("0", "0")
    one.up()
    sysctls.write(host, {"net.ipv4.conf.up0.rp_filter": 2, "net.ipv4.conf.all.rp_filter": 2})
    one.down()
    assert of_uplink(host) == ("0", "0") and sysctl(host, "net/ipv4/conf/up0/rp_filter") == "2"
    one.up()
    sysctls.write(host, {"net.ipv4.conf.up0.forwarding": 2})
    one.down()
    assert of_uplink(host) == ("2", "0")


def test_an_uplink_that_forwards_already_goes_on(host, remote):
    sysctls.write(host, {"net.ipv4.conf.up0.forwarding": 1, "net.ipv6.conf.up0.force_forwarding": 1})
    before = conf(host)
    one = network(host)
    one.up()
    one.down()
    assert conf(host) == before and of_uplink(host) == ("1", "1")


def test_an_uplink_deleted_meanwhile(host, remote, state):
    one = network(host)
    one.up()
    host.del_link("up0")
    assert [str(fault) for fault in one.faults()] == ["br0: no uplink up0"]
    done = run_nsnet(host, state, "show", "br0")
    assert done.returncode == 1 and "not so      br0: no uplink up0\n" in done.stdout and done.stderr == ""
    with pytest.raises(nsnet.NoSuchObject) as failed:
        one.up()
    assert "up0" in str(failed.value)
    del failed
    one.down()
    assert strays(host) == [] and claims(state) == []


def test_another_link_of_the_uplinks_name(host, remote, state):
    """It is not the one that was changed: it stays as it is, but for what up() asks of it now."""
    one = network(host)
    one.up()
    host.del_link("up0")
    host.add_veth("up0", peer="up1")
    assert of_uplink(host) == ("0", "0")
    assert len(one.faults()) == 1
    one.up()
    assert of_uplink(host) == ("1", "1") and one.faults() == []
    one.down()
    assert of_uplink(host) == ("0", "0")
    one.up()
    host.del_link("up0")
    host.add_veth("up0", peer="up1")
    sysctls.write(host, {"net.ipv4.conf.up0.forwarding": 1})
    one.down()
    assert of_uplink(host) == ("1", "0")


@pytest.mark.parametrize("lifetime", ["process", "declared", "attachments"])
def test_an_uplink_that_is_not_there(host, inner, state, lifetime):
    before = conf(host), links_of(host), links_of(inner)
    one = network(host, inner, forward=["up9"], lifetime=lifetime)
    with pytest.raises(nsnet.NoSuchObject) as failed:
        one.up()
    assert "up9" in str(failed.value)
    del failed
    assert (conf(host), links_of(host), links_of(inner)) == before and claims(state) == [] and not one.is_up


def test_forwarding_is_undone_with_the_repair_that_failed(host, remote, state, monkeypatch):
    """As it was found then: the rest of the network goes on forwarding."""
    one = network(host)
    one.up()
    sysctls.write(host, {"net.ipv4.conf.up0.forwarding": 0})

    def fail(*_):
        raise nsnet.KernelError(5, "sabotage")
    with monkeypatch.context() as patch:
        patch.setattr(type(one), "_finish", fail)
        with pytest.raises(nsnet.KernelError):
            one.up()
    assert of_uplink(host) == ("0", "1") and sysctl(host, "net/ipv4/conf/br0/forwarding") == "1"
    one.up()
    assert of_uplink(host) == ("1", "1") and one.faults() == []
    one.down()
    assert of_uplink(host) == ("0", "0")


def test_several_uplinks_and_an_adopted_bridge(host, remote, state):
    host.add_veth("up2", peer="up3")
    sh(host, "link add br0 type bridge")
    for address in ADDRESSES:
        sh(host, f"address add {address} dev br0")
    sh(host, "link set br0 up")
    before = conf(host)
    one = nsnet.Network("br0", address=ADDRESSES, forward=["up0", "up2"], adopt=True, lifetime="declared", netns=host)
    one.up()
    assert {of_uplink(host, name) for name in ("up0", "up2", "br0")} == {("1", "1")}
    one.down()
    assert conf(host) == before
    sh(host, "link delete br0")
    sh(host, "link delete up2")


def test_ipv4_alone_leaves_ipv6_alone(host, remote):
    one = network(host, address="10.0.0.1/24")
    one.up()
    assert of_uplink(host) == ("1", "0")
    one.down()
    assert of_uplink(host) == ("0", "0")
