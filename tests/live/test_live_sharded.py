"""A network of several bridges: attached, undone and removed as one, whatever its lifetime, and whoever stands in its way."""

import errno
import os
import resource
import signal
import threading
from contextlib import ExitStack, contextmanager

import pytest

import nsnet
import nsnet.network
from live_helpers import PATIENCE, claims, ifnames, is_gone, links_of, run_nsnet
from network_helpers import SLEEP, leased, reaches
from nsnet.errors import AlreadyExists, KernelError, NoFreeAddress, NetlinkError, RollbackError, StillPending, UsageError
from nsnet.network import sharded

LIFETIMES = ["process", "declared", "attachments", "owner"]
LONG = os.environ.get("NSNET_HYPOTHESIS") == "long"
V4, BOTH = "10.0.0.1/16", ["10.0.0.1/16", "fd00::1/64"]


@contextmanager
def network_on(host, shards=2, **options):
    """A sharded network, down at the end."""
    options.setdefault("address", V4)
    network = nsnet.ShardedNetwork("br", shards=shards, netns=host, **options)
    try:
        yield network
    finally:
        network.down()


@pytest.fixture
def boxes(host):
    """Namespaces to be attached."""
    with ExitStack() as opened:
        yield [opened.enter_context(netns) for netns in nsnet.Netns.new_many(6, beside=host)]


def strays(host):
    return sorted(name for name in links_of(host) if name != "lo")


def whole(network, state):
    """All that can be known of it from outside."""
    entries = [(entry["name"], entry["bridge"], *entry["addresses"]) for entry in network.entries()]
    return sorted(entries), strays(network.shards[0].netns), leased(state)


# --- up, down, and in between ---

@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_from_up_to_down(host, boxes, state, lifetime):
    with network_on(host, shards=3, address=BOTH, lifetime=lifetime) as network:
        assert not network.is_up and [str(fault) for fault in network.up()] == [
            str(fault) for shard in network.shards for fault in [nsnet.Fault(shard.bridge, "no bridge")]]
        assert network.is_up and strays(host) == ["br-0", "br-1", "br-2"] and network.up() == [] == network.faults()
        made = network.attach_many([{"netns": box} for box in boxes[:5]] + [{"netns": boxes[5], "address": "10.0.64.99/18"}])
        assert [one.network.bridge for one in made] == ["br-0", "br-2", "br-0", "br-1", "br-2", "br-1"]
        assert made[5].addresses == ("10.0.64.99/18",) and made[3].addresses == ("10.0.64.2/18", "fd00::4000:0:0:2/66")
        for one, box in zip(made, boxes):
            assert one.netns is box and host.link(one.host_ifname).master == host.link(one.network.bridge).index
        assert sorted(one.name for one in network.attachments) == sorted(entry["name"] for entry in network.entries())
        assert {(entry["name"], entry["bridge"]) for entry in network.entries()} == {
            (one.name, one.network.bridge) for one in made}
        assert reaches(boxes[0], boxes[2], made[2].address.partition("/")[0])
        network.detach_many([made[0], made[3].name, "nobody"])
        assert len(network.entries()) == 4 and made[0].host_ifname not in strays(host)
    assert strays(host) == [] == claims(state) and leased(state) == [] and not network.is_up and network.entries() == []


@pytest.mark.parametrize("lifetime", ["declared", "attachments"])
def test_another_object_finds_all_of_it(host, boxes, lifetime):
    with network_on(host, lifetime=lifetime) as network:
        network.attach_many([{"netns": box, "name": f"n{number}"} for number, box in enumerate(boxes)])
        other = nsnet.ShardedNetwork("br", address=V4, shards=2, netns=host, lifetime=lifetime)
        assert other.is_up and other.entries() == network.entries() and other.attachments == []
        other.detach_many(["n0", "n5"])
        assert {entry["name"] for entry in network.entries()} == {"n1", "n2", "n3", "n4"}
        other.down()
        assert strays(host) == [] and not network.is_up


def test_with_leaves_as_a_network_does(host, boxes):
    with nsnet.ShardedNetwork("br", address=V4, shards=2, netns=host) as network:
        container = network.launch(SLEEP)
        network.attach(boxes[0], address="10.0.128.7/17", name="fixed")
    assert strays(host) == [] and is_gone(container.pid)
    with network_on(host, lifetime="declared") as network:
        with network:
            network.attach_many([{"netns": box} for box in boxes])
        assert strays(host) == ["br-0", "br-1"] and network.entries() == []


def test_what_is_declared_is_attached(host, boxes):
    given = [{"name": f"n{number}", "command": SLEEP, "uid_map": "0:0:1", "gid_map": "0:0:1"} for number in range(4)]
    with network_on(host, lifetime="declared", attachments=given) as network:
        assert len(network.up()) == 6
        before = network.entries()
        assert {entry["name"] for entry in before} == {"n0", "n1", "n2", "n3"} and network.up() == []
        host.del_link(before[0]["host_ifname"])
        assert len(network.faults()) == 1 and len(network.up()) == 1 and network.faults() == []


def test_a_name_finds_its_address_again(host, boxes):
    with network_on(host, shards=3, lifetime="declared") as network:
        wanted = [{"netns": box, "name": f"n{number}"} for number, box in enumerate(boxes)]
        before = {one.name: one.addresses for one in network.attach_many(wanted)}
        network.detach_many(network.attachments)
        assert {one.name: one.addresses for one in network.attach_many(wanted[::-1])} == before
        network.down()
        assert {one.name: one.addresses for one in network.attach_many(wanted[1:4])}.items() <= before.items()


def test_nobody_waits_if_nobody_wants_to(host, boxes):
    with network_on(host) as network:
        made = network.attach_many([{"netns": box} for box in boxes])
        network.detach_many(made[:3], wait=False)
        network.settle()
        assert len(network.entries()) == 3
        network.detach_many(made, wait=False)
        again = network.attach_many([{"netns": box} for box in boxes])          # in the way of nobody
        network.settle()
        assert sorted(entry["name"] for entry in network.entries()) == sorted(one.name for one in again)
        network.down(wait=False)
        network.settle()
        assert strays(host) == []


def test_the_commands_know_each_shard(host, state, boxes):
    with network_on(host, lifetime="declared") as network:
        network.attach_many([{"netns": box} for box in boxes])
        said = run_nsnet(host, state, "list", check=True).stdout
        assert "br-0" in said and "br-1" in said
        assert nsnet.network.take_down("br-0", netns=host) and not network.is_up
        assert {entry["bridge"] for entry in network.entries()} == {"br-1"}


# --- all or none ---

@pytest.mark.parametrize("lifetime", LIFETIMES)
@pytest.mark.parametrize("began", ["up", "down"])
def test_what_fails_in_a_later_shard_is_undone_in_the_earlier(host, boxes, state, lifetime, began):
    host.add_bridge("squat")
    try:
        with network_on(host, shards=3, lifetime=lifetime) as network:
            if began == "up":
                network.up()
                network.attach(boxes[5], name="before")
            before = whole(network, state)
            wanted = [{"netns": box, "address": f"10.0.{64 * (number % 3)}.9/18", "name": f"n{number}"}
                      for number, box in enumerate(boxes[:2])]
            with pytest.raises(AlreadyExists):
                network.attach_many(wanted + [{"netns": boxes[2], "address": "10.0.128.9/18", "host_ifname": "squat"}])
            assert whole(network, state) == before and network.is_up is (began == "up")
            made = network.attach_many(wanted)
            assert [one.address for one in made] == ["10.0.0.9/18", "10.0.64.9/18"]
        assert strays(host) == ["squat"]
    finally:
        host.del_link("squat")


def test_processes_of_the_earlier_shards_are_ended(host):
    host.add_bridge("squat")
    begun = []
    try:
        with network_on(host, on_step=lambda step: begun.append(step)) as network:
            with pytest.raises(AlreadyExists):
                network.launch_many([{"argv": SLEEP, "address": "10.0.0.9/17"}, {"argv": SLEEP, "address": "10.0.128.9/17"},
                                     {"argv": SLEEP, "address": "10.0.128.8/17", "host_ifname": "squat"}])
            assert strays(host) == ["squat"] and not network.is_up
            assert sum(step.name == "execve" for step in begun) == 1        # children are counted by the fixture
            network.launch_many([{"argv": SLEEP}] * 4, hold=True)[3].go()
    finally:
        host.del_link("squat")


@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_a_bridge_that_is_not_ours_keeps_all_shards_down(host, state, lifetime):
    host.add_bridge("br-2")
    try:
        with network_on(host, shards=3, lifetime=lifetime) as network:
            with pytest.raises(AlreadyExists):
                network.up()
            assert strays(host) == ["br-2"] and claims(state) == [] and not network.is_up
    finally:
        host.del_link("br-2")


def test_shards_that_were_up_stay_up_if_another_fails(host):
    with network_on(host, lifetime="declared") as network:
        network.up()
        network.shards[1].down()
        host.add_bridge("br-1")
        with pytest.raises(AlreadyExists):
            network.up()
        assert strays(host) == ["br-0", "br-1"]
        host.del_link("br-1")
        assert [fault.where for fault in network.up()] == ["br-1"]


class Stop(BaseException):
    pass


@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_interrupted_after_any_step_it_is_as_before(host, boxes, state, lifetime):
    """By what a signal handler may raise."""
    left = [1 << 30]

    def on_step(step):
        left[0] -= 1
        if left[0] < 0:
            left[0] = 1 << 30                   # once
            raise Stop

    with network_on(host, lifetime=lifetime, on_step=on_step) as network:
        wanted = [{"netns": box} for box in boxes[:4]]
        for steps in range(100):
            before = whole(network, state)
            left[0] = steps
            try:
                network.attach_many(wanted)
                break
            except Stop:
                assert whole(network, state) == before == ([], [], [])
        left[0] = 1 << 30
        assert steps > 5 and len(network.entries()) == 4


def test_where_undoing_fails_too_it_is_said_what_is_left(host, boxes, monkeypatch):
    host.add_bridge("squat")
    try:
        with network_on(host) as network:
            network.up()
            monkeypatch.setattr(nsnet.Network, "_detach_now", lambda *_: 1 // 0)
            with pytest.raises(RollbackError) as caught:
                network.attach_many([{"netns": boxes[0], "address": "10.0.0.9/17", "host_ifname": "left"},
                                     {"netns": boxes[1], "address": "10.0.128.9/17", "host_ifname": "squat"}])
            monkeypatch.undo()
            assert set(caught.value.left_behind) == {"br-0", "left"} and isinstance(caught.value.cause, AlreadyExists)
    finally:
        host.del_link("squat")


# --- what is refused, before anything is done ---

def test_a_name_stands_for_one_attachment_of_all_shards(host, boxes, state):
    with network_on(host) as network:
        network.attach(boxes[0], address="10.0.0.9/17", name="a", host_ifname="va")
        before = whole(network, state)
        for given, why in (({"name": "a"}, "name 'a': it stands for two attachments"),
                           ({"host_ifname": "va"}, "host_ifname 'va': it stands for two links"),
                           ({"host_ifname": "br-0"}, "host_ifname 'br-0': it stands for two links")):
            with pytest.raises(UsageError, match=why):
                network.attach(boxes[1], address="10.0.128.9/17", **given)
        with pytest.raises(UsageError, match="name 'b': it stands for two attachments"):
            network.attach_many([{"netns": boxes[1], "address": "10.0.0.8/17", "name": "b"},
                                 {"netns": boxes[2], "address": "10.0.128.8/17", "name": "b"}])
        with pytest.raises(UsageError, match="expected the subnet of one shard"):
            network.attach(boxes[1], address="10.1.0.9/17")
        assert whole(network, state) == before


def test_no_bridge_gets_more_ports_than_it_may(host, boxes, state, monkeypatch):
    monkeypatch.setattr(sharded, "MOST_PORTS", 2)
    with network_on(host) as network:
        made = network.attach_many([{"netns": box} for box in boxes[:4]])
        assert sorted(one.network.bridge for one in made) == ["br-0", "br-0", "br-1", "br-1"]
        before = whole(network, state)
        with pytest.raises(NoFreeAddress):
            network.attach(boxes[4])
        with pytest.raises(KernelError, match="bridge br-1") as caught:
            network.attach(boxes[4], address="10.0.128.9/17")
        assert caught.value.errno == errno.EXFULL and whole(network, state) == before
        network.detach_many([made[1]], wait=False)                      # its port is free by then
        assert network.attach(boxes[4]).network is made[1].network


def test_what_is_not_of_this_network_is_not_detached(host, boxes):
    with network_on(host) as network, nsnet.Network("other", address="10.9.0.1/24", netns=host) as other:
        for item in (other.attach(boxes[0]), None, 5):
            with pytest.raises(UsageError, match="expected an attachment of this network"):
                network.detach_many([item])


# --- its end ---

def test_all_shards_are_tried_and_the_first_error_is_raised(host, boxes, monkeypatch):
    with network_on(host, shards=3) as network:
        network.attach_many([{"netns": box} for box in boxes])
        real = nsnet.Network.down

        def down(self, **options):
            if self.bridge != "br-2":
                raise StillPending([self.bridge], options["timeout"])
            real(self, **options)
        monkeypatch.setattr(nsnet.Network, "down", down)
        with pytest.raises(StillPending) as caught:
            network.down(timeout=9)
        assert caught.value.pending == ["br-0", "br-1"] and "br-2" not in strays(host) and "after 9 s" in str(caught.value)
        monkeypatch.setattr(nsnet.Network, "down", lambda self, **_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            network.down()
        monkeypatch.undo()
        assert threading.active_count() == 1


def test_an_interrupt_leaves_no_thread(host, monkeypatch):
    """It comes while the other thread is at work: what that one has begun is finished, nothing else is begun."""
    begun = []

    def down(self, **_):
        begun.append(self.bridge)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        real(self)

    def handler(*_):
        raise Stop

    with network_on(host, shards=8) as network:
        network.up()
        real = nsnet.Network.down
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            monkeypatch.setattr(nsnet.Network, "down", down)
            with pytest.raises(Stop):
                network.down()
        finally:
            monkeypatch.undo()
            signal.signal(signal.SIGUSR1, before)
        assert threading.active_count() == 1 and 2 <= len(begun) < 8


def test_a_fork_takes_nothing_away(host, boxes):
    with network_on(host) as network:
        with network:
            network.attach_many([{"netns": box} for box in boxes[:2]])
            pid = os.fork()
            if pid == 0:
                signal.alarm(PATIENCE)
                try:
                    network.__exit__(None, None, None)
                    network.down()
                    try:
                        network.attach(boxes[3])
                    except UsageError:
                        os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0
            assert len(network.entries()) == 2 and len(strays(host)) == 4 and network.faults() == []
        assert strays(host) == []


# --- traffic ---

def test_shards_reach_each_other_only_if_the_host_forwards(host, boxes):
    one, other = {"netns": boxes[0], "address": "10.0.0.9/17"}, {"netns": boxes[1], "address": "10.0.128.9/17"}
    with network_on(host) as network:
        network.attach_many([one, other])
        with boxes[0].socket() as client:
            client.settimeout(0.2)
            with pytest.raises(OSError):
                client.connect(("10.0.128.9", 7))
    host.add_bridge("up0")
    try:
        with network_on(host, forward=["up0"]) as network:
            network.attach_many([one, other])
            assert reaches(boxes[0], boxes[1], "10.0.128.9")
    finally:
        host.del_link("up0")


# --- as many as there are for ---

@contextmanager
def descriptors_for(wanted):
    """So many may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs a limit of {wanted} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


if LONG:                            # a bridge with all of its ports
    def test_more_than_one_bridge_takes(host, state):
        with descriptors_for(5000), ExitStack() as opened:
            made = [opened.enter_context(netns) for netns in nsnet.Netns.new_many(1026, beside=host)]
            with nsnet.Network("one", address=V4, netns=host) as network:
                with pytest.raises(NetlinkError) as caught:
                    network.attach_many([{"netns": netns} for netns in made[:1024]])
                assert caught.value.errno == errno.EXFULL
            with network_on(host) as network:
                network.attach_many([{"netns": netns} for netns in made])
                counts = [len(shard.entries()) for shard in network.shards]
                assert sum(counts) == 1026 and network.faults() == [] and ifnames(made[1025]) == ["eth0", "lo"]
                assert len({entry["addresses"][0] for entry in network.entries()}) == 1026
                network.detach_many(network.attachments)
                full = network.attach_many([{"netns": netns, "address": f"10.0.{1 + number // 250}.{number % 250}/17"}
                                            for number, netns in enumerate(made[:1023])])
                assert {one.network.bridge for one in full} == {"br-0"}
                with pytest.raises(KernelError, match="bridge br-0") as caught:
                    network.attach(made[1023], address="10.0.100.9/17")
                assert caught.value.errno == errno.EXFULL and network.attach(made[1023]).network.bridge == "br-1"
        assert claims(state) == []
