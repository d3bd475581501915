"""Lists under churn: the kernel flags what changed while it was read, and no flagged list is returned as a good one."""

import errno

import pytest

import nsnet
from live_helpers import Worker, links_of

PAIRS = 500                         # so that a list takes many parts, between which things can happen
CHURNED = 8                         # links that come and go
GROUP = 77
ROUNDS = 60
MOST_ROUNDS = 1500                  # of the whole experiment, until it has been seen to work


class Churn(Worker):
    """A process that makes, renames and deletes links until the `with` block ends. `said`: how often it did so."""

    def __init__(self, netns):
        super().__init__(lambda channel: churn(netns.fd, channel))


def churn(netns_fd, channel):
    channel.setblocking(False)
    with nsnet.Netns.open(f"/proc/self/fd/{netns_fd}") as netns:
        for rounds in range(1, 10 ** 6):
            for number in range(0, CHURNED, 2):
                netns.add_veth(f"t{number}", peer=f"t{number + 1}", group=GROUP, queues=1)
                netns.set_link(f"t{number}", ifname=f"renamed{number}")
            if rounds == 1:
                channel.send(b"1")
            netns.del_group(GROUP)
            try:
                if not channel.recv(1):
                    return rounds
            except BlockingIOError:
                pass
    return 0


class Watch:
    """Counts the lists that the kernel gave, and of which it said that they may be wrong."""

    def __init__(self, netns):
        self.flags = []
        self._talk = netns.socket_of_rtnl.talk
        netns.socket_of_rtnl.talk = self

    def __call__(self, *arguments):
        exchange = self._talk(*arguments)
        self.flags += [outcome.interrupted for request, outcome in zip(exchange.requests, exchange.outcomes)
                       if request.is_dump]
        return exchange


def check(found, untouched):
    """That a list is one of some moment: what nobody touched is there, once, and the rest is what somebody makes."""
    assert len({link.index for link in found}) == len({link.ifname for link in found}) == len(found)
    assert {link.ifname: link.index for link in found if link.group != GROUP} == untouched
    strangers = {link.ifname for link in found if link.group == GROUP}
    possible = {f"t{number}" for number in range(CHURNED)} | {f"renamed{number}" for number in range(CHURNED)}
    assert strangers <= possible and len(strangers) <= CHURNED


@pytest.fixture
def crowd(playground):
    """A namespace of 1001 links, and what they are."""
    for first in range(0, PAIRS, 100):
        with playground.batch() as net:
            for number in range(first, first + 100):
                net.add_veth(f"a{number}", peer=f"b{number}", queues=1)
    untouched = links_of(playground)
    assert len(untouched) == 2 * PAIRS + 1
    return playground, untouched


def test_no_list_that_the_kernel_flags_is_returned_as_a_good_one(crowd):
    netns, untouched = crowd
    watch, lists, errors = Watch(netns), 0, 0
    with Churn(netns) as somebody:
        for number in range(MOST_ROUNDS):
            before = len(watch.flags)
            try:
                found = netns.links()
            except nsnet.NetlinkError as error:
                assert error.errno == errno.EINTR and len(error.partial) > PAIRS
                assert watch.flags[before:] and all(watch.flags[before:])
                errors += 1
            else:
                assert watch.flags[before:-1] == [True] * (len(watch.flags) - before - 1) and not watch.flags[-1]
                check(found, untouched)
                lists += 1
            if number >= ROUNDS and any(watch.flags) and lists:
                break
    assert isinstance(somebody.said, int), somebody.said
    figures = (f"{sum(watch.flags)} of {len(watch.flags)} flagged; {lists} lists, {errors} errors; "
               f"{somebody.said} rounds of churn")
    assert lists > 0 and any(watch.flags), figures
    print(figures)
    check(netns.links(), untouched)


def test_a_list_that_changes_at_every_reading_is_an_error_with_what_was_got(crowd, monkeypatch):
    netns, untouched = crowd
    watch = Watch(netns)
    monkeypatch.setattr("nsnet.reading.DUMP_TRIES", 1)
    with Churn(netns) as somebody:
        for _ in range(MOST_ROUNDS):
            try:
                netns.links()
            except nsnet.NetlinkError as error:
                refused = error
                break
        else:
            raise AssertionError(f"no list of {len(watch.flags)} was flagged")
    assert refused.errno == errno.EINTR and refused.request == "list links" and watch.flags[-1]
    names = {link.ifname for link in refused.partial}
    assert len(names & set(untouched)) > PAIRS, "most of what nobody touched"
    assert isinstance(somebody.said, int), somebody.said


def test_one_link_can_always_be_asked_for_under_churn(crowd):
    netns, untouched = crowd
    with Churn(netns) as somebody:
        for number in range(500):
            name = f"a{number % PAIRS}"
            assert netns.link(name).index == untouched[name]
            assert netns.link(untouched[name]).ifname == name
    assert isinstance(somebody.said, int), somebody.said
