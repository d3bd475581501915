"""Many attached at once, when something goes wrong in the middle of it: all of it is undone, with what there is to do it with."""

import errno
import resource
from contextlib import ExitStack, contextmanager

import pytest

import nsnet
from live_helpers import children, descriptors, links_of

LIFETIMES = ["process", "owner", "declared", "attachments"]
MANY = 80                           # more than one part (attaching.AT_ONCE)


@contextmanager
def namespaces(count):
    with ExitStack() as opened:
        yield [opened.enter_context(netns) for netns in nsnet.Netns.new_many(count)]


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
    with namespaces(MANY) as targets, network_on(host, lifetime=lifetime) as network:
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
    with namespaces(MANY) as targets, network_on(host, lifetime=lifetime,
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
