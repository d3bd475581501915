"""Fixtures of the live tests: a namespace for each test, which gives back every descriptor, child and thread."""

import gc
import os
import shutil
import sys

import pytest

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]

import live_helpers                                                                                     # noqa: E402

if any((live_helpers.TREE / "nsnet").glob("_native*.so")) and str(live_helpers.TREE) not in sys.path:
    sys.path[:0] = [str(live_helpers.TREE)]                 # a checkout is tested as it stands, without being installed

import nsnet.clone              # noqa: E402

nsnet.clone.image.fileno()      # it keeps the memory that children execute: made before anything is counted


@pytest.fixture(autouse=True)
def nothing_grows():
    """Descriptors, children and threads are the same after every test as before it."""
    before = live_helpers.census()
    yield
    if live_helpers.census() != before:
        gc.collect()                                        # an exception's traceback is a cycle: it is no leak
        assert live_helpers.census() == before


@pytest.fixture(autouse=True)
def state(nothing_grows, tmp_path, monkeypatch):
    """The state directory of this test alone; no claim is in it at the end."""
    directory = tmp_path / "state"
    monkeypatch.setenv("NSNET_STATE_DIR", str(directory))
    yield directory
    assert live_helpers.claims(directory) == []


@pytest.fixture
def host(nothing_grows):
    """A throw-away network namespace, lo up, that stands for the host: nothing of the machine is in reach.

    At the end it has the links that it began with.
    """
    import nsnet

    with nsnet.Netns.new() as netns:
        netns.set_link(netns.lo, up=True)
        before = live_helpers.links_of(netns)
        yield netns
        assert live_helpers.links_of(netns) == before


@pytest.fixture
def playground(nothing_grows):
    """Like `host`, for tests that leave links lying about: they go with the namespace."""
    import nsnet

    with nsnet.Netns.new() as netns:
        netns.set_link(netns.lo, up=True)
        yield netns


@pytest.fixture(scope="session", autouse=True)
def tidy_up():
    """Remove the copy of nsnet that was made for other users."""
    yield
    if live_helpers.public_copy.cache_info().currsize and live_helpers.public_copy() is not None:
        shutil.rmtree(live_helpers.public_copy()[1])
