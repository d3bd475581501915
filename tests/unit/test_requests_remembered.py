"""Requests that are the same for each container are made once: and are what they would be if they were made anew."""

import inspect
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsnet import requests
from nsnet.errors import UsageError

REMEMBERED = {name: getattr(requests, name) for name in requests.__all__ if hasattr(getattr(requests, name), "__wrapped__")}
VALUES = st.sampled_from([None, 0, 1, 1.0, True, False, 2, 68, 1500, -1, 2**31, "eth0", "lo", "", "10.0.0.1", "02:00:00:00:00:01",
                          "unicast", [1], {"mtu": 1500}, (), b"x"])


def outcome(make, args, options):
    try:
        return make(*args, **options)
    except Exception as error:                  # noqa: B902  whatever it is, it is the same
        return type(error), str(error)


def test_they_are_those_of_a_container():
    assert set(REMEMBERED) == {"set_link", "set_addr_gen_mode", "add_route"}


def test_the_same_is_made_once():
    assert requests.set_link(2, "eth0", up=True) is requests.set_link(2, "eth0", up=True)
    assert requests.add_route("default", via="10.0.0.1", oif=2) is requests.add_route("default", via="10.0.0.1", oif=2)
    assert requests.set_link(2, "eth0", up=True) is not requests.set_link(3, "eth0", up=True)


@pytest.mark.parametrize("make", [lambda one: requests.set_link(one, "lo", up=True), lambda one: requests.set_link(1, "lo", group=one),
                                  lambda one: requests.set_addr_gen_mode(one, "lo", 1),
                                  lambda one: requests.add_route("default", via="10.0.0.1", oif=2, metric=one)])
def test_what_is_equal_and_no_number_is_refused_behind_one_that_is(make):
    assert make(1).payload
    for other in (True, 1.0):
        with pytest.raises(UsageError):
            make(other)


@pytest.mark.parametrize("name", REMEMBERED)
@given(data=st.data())
def test_whatever_is_given_it_is_as_if_nothing_was_remembered(name, data):
    make = REMEMBERED[name]
    parameters = inspect.signature(make).parameters.values()
    args = [data.draw(VALUES) for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    options = {one.name: data.draw(VALUES) for one in parameters if one.kind is one.KEYWORD_ONLY and data.draw(st.booleans())}
    for _ in range(2):
        assert outcome(make, args, options) == outcome(make.__wrapped__, args, options)


def test_what_has_no_hash_is_made_anew_or_refused():
    several = [{"via": "10.0.0.1"}, {"via": "10.0.0.2"}]
    first = requests.add_route("10.1.0.0/16", hops=several)
    several.pop()
    assert requests.add_route("10.1.0.0/16", hops=several).payload != first.payload
    with pytest.raises(UsageError, match="ifname"):
        requests.set_link(2, "eth0", ifname=["eth1"])


def test_threads_that_ask_at_once_get_equal_ones():
    found, start = [], threading.Barrier(8)

    def ask():
        start.wait(30)
        found.extend(requests.set_link(2, "eth0", mtu=1000 + place) for place in range(400))
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3200 and len({one.payload for one in found}) == 400
