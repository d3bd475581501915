"""A fault at every step of what a network with declared attachments does: up, repair, several at once; each lifetime.

The saboteur of test_live_network_faults.py makes each call into the kernel, and each that writes to disk, fail in turn.
After each fault nothing of that call is left: no link, process, descriptor, claim or lease.
"""

import gc
import os

import pytest

import nsnet
from live_helpers import children, claims, descriptors, links_of, needs
from network_helpers import BOTH, SLEEP, declared, fd_path, leased, sh
from nsnet import clone, kernel, ownership, state, sysctls
from nsnet.leases import book
from test_live_network_faults import Saboteur, refused

LONG = os.environ.get("NSNET_HYPOTHESIS") == "long"
PLACES = [(nsnet.Netns, "perform"), (clone.Child, "clone"), (clone.Child, "write_maps"), (clone.Child, "go"),
          (kernel.RtnlSocket, "sync_carrier"), (ownership.Claim, "write"), (state, "sync_directory"),
          (sysctls, "write"), (book.Verbs, "take_all")]
MOST = 90                                                   # no call here has more steps
LIFETIMES = ["process", "declared", "owner"]
# A refusal before the step, an interrupt right after it was done; the long profile has all of them in every lifetime.
STRIKES = [(lifetime, error, when) for lifetime in LIFETIMES for error in (refused, KeyboardInterrupt)
           for when in ("before", "after")] if LONG else [
    ("process", KeyboardInterrupt, "after"), ("declared", refused, "before"), ("owner", KeyboardInterrupt, "after")]
STEPS = range(1, MOST, 1 if LONG else 2)


class Striker(Saboteur):
    """Its own failure of a call (there is no such link) is no fault of ours: then the next one is struck."""

    def wrap(self, function, name):
        def call(*arguments, **options):
            strike = self.left == 1
            self.left = max(self.left - 1, 0)
            if strike and self.when == "before":
                self.strike(name)
            try:
                result = function(*arguments, **options)
            except BaseException:
                self.left = 1 if strike else self.left
                raise
            if strike:
                self.strike(name)
            return result
        return call


class Place:
    """A host, two namespaces to be attached, and a network with an attachment of each kind."""

    def __init__(self, host, one, two, state, lifetime):
        self.host, self.one, self.two, self.state = host, one, two, state
        self.shared = lifetime == "declared"
        self.network = declared(
            host, {"name": "box", "command": SLEEP, "host_ifname": "v0"},
            {"name": "one", "netns": fd_path(one), "host_ifname": "v1", "address": ["10.0.0.77/24", "fd00::77/64"],
             "sysctls": {"net.ipv4.conf.eth0.rp_filter": 1}}, address=BOTH, lifetime=lifetime)

    def snapshot(self):
        links = {netns: {name: link for name, link in links_of(netns).items() if name not in ("v0", "v1", "br0")}
                 for netns in (self.host, self.one, self.two)}
        there = {name for name in ("v0", "v1", "br0") if name in links_of(self.host)}
        entries = [(one["name"], one["host_ifname"], one["addresses"]) for one in self.network.entries()]
        return (links, there, children(), descriptors(), len(claims(self.state)), leased(self.state), entries,
                self.network.is_up, [one.name for one in self.network.attachments])


@pytest.fixture
def place(request, host, state):
    with nsnet.Netns.new(beside=host) as one, nsnet.Netns.new(beside=host) as two:
        for netns in (host, one, two):
            netns.fd                                        # opened on first use, and kept
        yield Place(host, one, two, state, request.param)


def sabotage(place, monkeypatch, error, when, action, least, again=lambda: None):
    """Call `action` with a fault at its first step, then at its second, ... until there is none left."""
    struck = []
    with monkeypatch.context() as patch:
        saboteur = Striker(patch, error, when, places=PLACES)
        for number in STEPS:
            again()
            before = place.snapshot()
            saboteur.arm(number)
            try:
                action()
            except (nsnet.KernelError, KeyboardInterrupt) as raised:
                assert saboteur.struck, f"call {number}: {raised!r} is not the saboteur's"
                struck.append(saboteur.struck)
                saboteur.disarm()
                del raised
            else:
                assert saboteur.struck is None, f"call {number}: {saboteur.struck} failed, and nobody was told"
                saboteur.disarm()
                break
            if place.snapshot() != before:
                gc.collect()                                # an exception's traceback is a cycle: it is no leak
            assert place.snapshot() == before, f"call {number}, {struck[-1]}"
        else:
            raise AssertionError("it never came to its end")
    assert len(struck) >= least // STEPS.step, struck
    return struck


sabotaged = pytest.mark.parametrize("place, error, when", STRIKES, indirect=["place"],
                                    ids=lambda value: getattr(value, "__name__", value))
in_every_lifetime = pytest.mark.parametrize("place", LIFETIMES, indirect=True)


@sabotaged
def test_up_with_what_is_declared(place, monkeypatch, error, when):
    struck = sabotage(place, monkeypatch, error, when, place.network.up, 12)
    assert STEPS.step > 1 or {"perform", "clone", "write_maps", "go", "take_all"} <= set(struck), struck
    assert place.network.faults() == []
    place.network.down()


@needs("ip")
@sabotaged
def test_repairing_by_verbs_is_undone_too(place, monkeypatch, error, when):
    """After a fault all is as broken as before, and no worse."""
    def broken():
        return [str(fault) for fault in place.network.faults()]
    place.network.up()
    for command in ("address delete 10.0.0.1/24 dev br0", "link set v0 nomaster", "link set v1 down"):
        sh(place.host, command)
    sh(place.one, "link set lo down")
    sysctls.write(place.one, {"net.ipv4.conf.eth0.rp_filter": 0})
    faults, looks = broken(), []
    assert len(faults) == 5, faults
    sabotage(place, monkeypatch, error, when, place.network.up, 3, again=lambda: looks.append(broken()))
    assert looks and all(look == faults for look in looks)
    assert broken() == []
    place.network.down()


@needs("ip")
@sabotaged
def test_repairing_with_another_pair(place, monkeypatch, error, when):
    """What is gone stays gone after a fault, and what is there stays; the next up() makes it good."""
    network = place.network
    network.up()
    struck = 0
    with monkeypatch.context() as patch:
        saboteur = Striker(patch, error, when, places=PLACES)
        for number in STEPS:
            sh(place.one, "link delete eth0")
            before = children(), descriptors(), len(claims(place.state))
            saboteur.arm(number)
            try:
                network.up()
            except (nsnet.KernelError, KeyboardInterrupt):
                struck += 1
            hit = saboteur.struck
            saboteur.disarm()
            if descriptors() != before[1]:
                gc.collect()                                # an exception's traceback is a cycle: it is no leak
            assert (children(), descriptors(), len(claims(place.state))) == before
            assert network.is_up and {"br0", "v0"} <= set(links_of(place.host))
            if hit is None:
                break
            assert "v1" not in links_of(place.host) and "eth0" not in links_of(place.one)
            network.up()
            assert network.faults() == []
    assert struck >= 2 and network.faults() == []
    network.down()
    assert leased(place.state) == []


@sabotaged
def test_attaching_several(place, monkeypatch, error, when):
    place.network.up()
    sabotage(place, monkeypatch, error, when, lambda: place.network.attach_many([
        {"netns": place.two, "ifname": "a", "host_ifname": "va"},
        {"netns": place.two, "ifname": "b", "host_ifname": "vb", "default_route": False,
         "address": "10.0.0.88/24"}]), 6)
    assert {"a", "b"} <= set(links_of(place.two))
    place.network.down()


@sabotaged
def test_launching_several(place, monkeypatch, error, when):
    place.network.up()
    struck = sabotage(place, monkeypatch, error, when, lambda: place.network.launch_many([
        {"argv": SLEEP, "host_ifname": f"v{name}", "name": name} for name in "ab"]), 12)
    assert STEPS.step > 1 or struck.count("clone") == 2
    assert len(children()) == 3
    place.network.down()


@sabotaged
def test_detaching_several_can_be_repeated(place, monkeypatch, error, when):
    """It does not come back; the same call again makes an end of it."""
    network = place.network
    network.up()
    struck = 0
    before = place.snapshot()
    with monkeypatch.context() as patch:
        saboteur = Striker(patch, error, when, places=PLACES)
        for number in STEPS:
            network.attach(place.two, ifname="a", host_ifname="va", name="a")
            network.launch(SLEEP, host_ifname="vb", name="b")
            saboteur.arm(number)
            try:
                network.detach_many(["a", "b"])
            except (nsnet.KernelError, KeyboardInterrupt):
                struck += 1
            hit = saboteur.struck
            saboteur.disarm()
            network.detach_many(["a", "b"])
            assert place.snapshot() == before
            if hit is None:
                break
    assert struck >= 1 and network.faults() == []
    network.down()


@sabotaged
def test_taking_down_can_be_repeated(place, monkeypatch, error, when):
    network, struck, before = place.network, 0, place.snapshot()
    with monkeypatch.context() as patch:
        saboteur = Striker(patch, error, when, places=PLACES)
        for number in STEPS:
            network.up()
            saboteur.arm(number)
            try:
                network.down()
            except (nsnet.KernelError, KeyboardInterrupt):
                struck += 1
            hit = saboteur.struck
            saboteur.disarm()
            network.down()
            assert place.snapshot() == before
            if hit is None:
                break
    assert struck >= 1


@pytest.mark.parametrize("action", ["up", "attach_many", "launch_many"])
@in_every_lifetime
def test_an_undoing_that_fails_too_says_what_is_left(place, monkeypatch, action):
    """From the veths' exchange on the kernel refuses everything."""
    network = place.network
    if action != "up":
        network.up()
    call, left = {
        "up": (network.up, {"br0", "v0", "v1"}),
        "attach_many": (lambda: network.attach_many([{"netns": place.two, "host_ifname": "va"}]), {"va"}),
        "launch_many": (lambda: network.launch_many([{"argv": SLEEP, "host_ifname": "va"}]), {"va"}),
    }[action]
    processes = children()
    with monkeypatch.context() as patch:
        perform, began = nsnet.Netns.perform, []

        def refuse(netns, requests, *arguments, **options):
            if not began:
                began.extend(request for request in requests if request.kind == "veth")
                done = perform(netns, requests, *arguments, **options)
                if not began:
                    return done
            raise refused()
        patch.setattr(nsnet.Netns, "perform", refuse)
        with pytest.raises(nsnet.RollbackError) as failed:
            call()
    assert failed.value.cause.step == "sabotage" and left <= set(failed.value.left_behind)
    assert set(failed.value.left_behind) <= set(links_of(place.host))
    assert children() == processes                          # processes are gone in any case
    del failed
    network.down()
    assert {"br0", "v0", "v1", "va"} & set(links_of(place.host)) == set() and children() == set()
    assert leased(place.state) == [] and claims(place.state) == []
