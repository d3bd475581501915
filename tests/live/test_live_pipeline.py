"""Many attached at once, when something goes wrong in the middle: all is undone, with what there is to do it with."""

import errno
import os
import resource
from contextlib import ExitStack, contextmanager

import pytest

import nsnet
from live_helpers import PATIENCE, children, descriptors, links_of
from nsnet import kernel
from nsnet.network.jobs import Awaited

LIFETIMES = ["process", "owner", "declared", "attachments"]
MANY = 80                           # more than one part (attaching.AT_ONCE)


@contextmanager
def namespaces(host, count):
    with ExitStack() as opened:
        yield [opened.enter_context(netns) for netns in nsnet.Netns.new_many(count, beside=host)]


@contextmanager
def room_for(count):
    """So many descriptors more than are open now."""
    limits, taken = resource.getrlimit(resource.RLIMIT_NOFILE), descriptors()
    free = [number for number in range(len(taken) + count) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count - 1] + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def network_on(host, **options):
    network = nsnet.Network("br0", address="10.0.0.1/16", netns=host, **options)
    try:
        yield network
    finally:
        network.down()


def requests_for(targets, **more):
    return [{"netns": netns, "name": f"c{place}", "address": f"10.0.1.{place + 1}/16", **more}
            for place, netns in enumerate(targets)]


@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_where_descriptors_run_out_what_was_begun_is_undone_without_any(host, lifetime):
    with namespaces(host, MANY) as targets, network_on(host, lifetime=lifetime) as network:
        network.attach(targets[0], address="10.0.0.2/16")
        before = links_of(host)
        with room_for(MANY // 2), pytest.raises(nsnet.KernelError) as caught:
            network.attach_many(requests_for(targets[1:]))
        assert caught.value.errno == errno.EMFILE and not isinstance(caught.value, nsnet.RollbackError)
        assert links_of(host) == before
        network.attach_many(requests_for(targets[1:]))                      # names and addresses are free again


@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("lifetime", LIFETIMES)
@pytest.mark.parametrize("more", [{}, {"sysctls": {"net.ipv4.ip_forward": "1"}}])
def test_an_error_in_the_last_part_undoes_all(host, lifetime, more, said):
    steps = []
    with namespaces(host, MANY) as targets, network_on(host, lifetime=lifetime,
                                                 on_step=steps.append if said else None) as network:
        network.attach(targets[0], address="10.0.0.2/16")
        before, names = links_of(host), [one["name"] for one in network.entries()]
        targets[-1].add_bridge("eth0")
        with pytest.raises(nsnet.AlreadyExists):
            network.attach_many(requests_for(targets[1:], ifname="eth0", **more))
        assert links_of(host) == before and [one["name"] for one in network.entries()] == names
        assert all(list(links_of(netns)) == ["lo"] for netns in targets[1:-1])
        targets[-1].del_link("eth0")
        network.attach_many(requests_for(targets[1:], ifname="eth0", **more))


def test_what_is_launched_is_no_more_if_there_is_no_claim_to_be_had(host, monkeypatch, tmp_path):
    """It is cloned before."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("NSNET_STATE_DIR", str(tmp_path / "file"))
    before = children(), descriptors()
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
    with pytest.raises(nsnet.NsnetError, match="state directory"):
        network.launch_many([{"argv": ["/bin/true"], "address": f"10.0.0.{place}/24"} for place in range(2, 8)])
    assert (children(), descriptors()) == before and not network.is_up
    monkeypatch.undo()


# --- a namespace that is awaited ---

def test_where_a_kernel_puts_links_into_every_namespace_requests_are_made_again(host, monkeypatch):
    """tunl0 and the like have the index that was taken for free."""
    real = kernel.RtnlSocket.index_taken
    monkeypatch.setattr(kernel.RtnlSocket, "index_taken", lambda self, index: index == 2 or real(self, index))
    with network_on(host) as network:
        launched = network.launch_many([{"argv": ["/bin/cat"], "address": f"10.0.0.{place}/16", "stdin": nsnet.PIPE}
                                        for place in (2, 3)])
        for one in launched:
            end = one.netns.link("eth0")
            assert end.index > 2 and end.up and links_of(one.netns) == {"lo": 1, "eth0": end.index}
            assert any(address.index == end.index for address in one.netns.addresses())
            assert any(route.via == "10.0.0.1" and route.oif == end.index for route in one.netns.routes())
            one.stdin.close()
            assert one.wait(PATIENCE) == 0


def test_what_has_arrived_is_what_the_descriptor_stands_for(host):
    awaited = Awaited()
    try:
        held, indexes = awaited.hold(), [awaited.free_index() for _ in range(2)]
        with nsnet.Netns.new() as there:
            assert awaited.arrive(there)
            assert os.path.samestat(os.fstat(held.fileno()), os.fstat(there.fd)) and indexes == [2, 3]
            assert not os.get_inheritable(held.fileno())
            assert there.free_index() == 4
    finally:
        awaited.close()


def test_what_is_closed_does_not_arrive(host):
    awaited, there = Awaited(), nsnet.Netns.new()
    there.close()
    with pytest.raises(nsnet.UsageError, match="closed"):
        awaited.arrive(there)
    awaited.close()
    assert awaited.hold().closed


def test_a_carrier_that_is_gone_says_of_which_attachment(host, monkeypatch):
    """Somebody inside may take the link away in this moment."""
    real = kernel.RtnlSocket.sync_carrier

    def sync_carrier(self, ifname):
        if ifname == "eth7":
            raise nsnet.KernelError(errno.ENODEV, f"carrier of {ifname}")
        return real(self, ifname)

    monkeypatch.setattr(kernel.RtnlSocket, "sync_carrier", sync_carrier)
    network = nsnet.Network.from_dict({"bridge": "br0", "address": "10.0.0.1/24", "attachments": [
        {"name": name, "address": address, "ifname": ifname, "command": ["/bin/sleep", "1000"]}
        for name, address, ifname in (("one", "10.0.0.2/24", "eth0"), ("two", "10.0.0.3/24", "eth7"))]}, netns=host)
    with pytest.raises(nsnet.KernelError) as caught:
        network.up()
    assert caught.value.where == "br0: two"
