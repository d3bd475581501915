"""Several exchanges in one call: kernel.talk_all(), and netns.perform_all() which cuts batches into them."""

import errno

import pytest

import nsnet
from nsnet import kernel, netns, requests
from test_live_threads import Library, in_threads
from test_live_threads_turns import interrupted_after, is_free, somebody_else_talks

ADDRESSES = (0, 600, 1800)          # of each place: a list that fits into the room, but not twice; one that never does


@pytest.fixture
def places():
    made = nsnet.Netns.new_many(len(ADDRESSES))
    try:
        for one, count in zip(made, ADDRESSES):
            with one.batch() as net:
                for number in range(count):
                    net.add_address("lo", f"10.0.{number // 200}.{number % 200 + 1}/32")
        yield made
    finally:
        for one in made:
            one.close()


def addresses_of(outcomes):
    return len(outcomes[0].replies)


def asks():
    return [requests.list_addresses(family=2)]


def test_lists_that_are_longer_than_the_room_come_whole_and_each_to_its_own(places):
    order = (1, 0, 2, 1, 2, 1, 1, 0)
    found = netns.perform_all([(places[place], asks()) for place in order])
    assert [addresses_of(outcomes) for outcomes in found] == [ADDRESSES[place] for place in order]


def test_of_nothing_comes_nothing(places):
    assert netns.perform_all([]) == []
    assert netns.perform_all([(places[0], []), (places[0], [requests.get_link(index=1)])])[0] == []


def test_a_refusal_is_told_in_its_place_and_the_others_are_done(places):
    found = netns.perform_all([(one, [requests.get_link(index=index)]) for one, index in zip(places, (1, 999, 1))])
    assert [outcomes[0].error and outcomes[0].error.errno for outcomes in found] == [None, errno.ENODEV, None]


def test_a_long_batch_and_others_keep_their_places(places):
    many = netns.CHUNK_REQUESTS + 3
    found = netns.perform_all([(places[0], [requests.set_link(1, "lo", up=True)] * many), (places[1], asks()),
                               (places[0], [requests.get_link(index=999)])])
    assert [len(outcomes) for outcomes in found] == [many, 1, 1]
    assert all(outcome.error is None for outcome in found[0]) and found[2][0].error is not None


def test_a_closed_one_is_refused_before_anything_is_sent(places):
    places[2].close()
    with pytest.raises(nsnet.UsageError, match="closed"):
        netns.perform_all([(places[0], [requests.set_link(1, "lo", up=True)]), (places[2], asks())])
    assert not places[0].link("lo").up and is_free(places[0])


class Stop(Exception):
    pass


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("order", [(1, 1), (0, 1, 1), (1, 2), (1, 0, 1, 2)])
def test_a_list_that_breaks_off_is_in_nobodys_way(places, monkeypatch, order, when):
    """The kernel refuses another list on a socket as long as one is under way there (EBUSY)."""
    left = [when]

    def talks(real, *arguments):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "lib", Library("nsnet_nl_talks", talks))
        try:
            netns.perform_all([(places[place], asks()) for place in order])
        except Stop:
            pass
    assert all(map(is_free, places))
    assert [len(one.addresses()) for one in places] == list(ADDRESSES)


def test_interrupted_anywhere_all_turns_are_given_back(places):
    count = 0
    while interrupted_after(count, lambda: netns.perform_all([(one, [requests.get_link(index=1)]) for one in
                                                              (places[0], places[1], places[0])])):
        assert all(map(is_free, places)), f"after {count}"
        count += 1
    assert count > 20 and all(one.link("lo").index == 1 for one in places)


def test_threads_whose_sets_overlap_wait_for_each_other_in_one_order(places):
    def many(order):
        for _ in range(60):
            found = netns.perform_all([(places[place], [requests.get_link(index=1)]) for place in order])
            assert all(outcomes[0].error is None for outcomes in found)

    in_threads([lambda order=order: many(order) for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0), (1, 0, 1))])


def test_a_turn_that_does_not_come_sends_nothing_and_keeps_none(places, monkeypatch):
    with somebody_else_talks(places[1], monkeypatch):
        with pytest.raises(nsnet.KernelError) as caught:
            kernel.talk_all([(one.socket_of_rtnl, netns._exchange_of([requests.set_link(1, "lo", up=True)]))
                             for one in places], timeout=0.05)
        assert caught.value.errno == errno.ETIMEDOUT and is_free(places[0]) and is_free(places[2])
    assert not any(one.link("lo").up for one in places)


def test_a_handler_that_interrupts_it_is_refused_on_each_of_them(places, monkeypatch):
    refused = []

    def talks(real, *arguments):
        for one in places[:2]:
            with pytest.raises(nsnet.KernelError) as caught:
                netns.perform_all([(places[2], asks()), (one, asks())])
            refused.append(caught.value.errno)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "lib", Library("nsnet_nl_talks", talks))
        netns.perform_all([(one, [requests.get_link(index=1)]) for one in places[:2]])
    assert refused == [errno.EDEADLK] * 2 and all(map(is_free, places))
