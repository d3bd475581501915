"""The queue of removals: what goes together, and what waits for whom. No kernel: sweep and clock are the test's."""

import threading
import time

import pytest

from nsnet import reaper
from nsnet.reaper import Reaper

PATIENCE = 20.0
LONG = 1000.0


class Clock:
    """Stands still, but when it is set."""

    now = 0.0

    def monotonic(self):
        return self.now


class Sweeper:
    """A reaper whose sweeps begin when they are let, take as long as they are told, and write down what they took."""

    def __init__(self, clock):
        self.reaper = Reaper(self.sweep)
        self.clock, self.taking = clock, 0.0
        self.swept, self.error = [], None
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def sweep(self):
        with self.reaper.taken() as items:
            self.began.release()
            assert self.go.acquire(timeout=PATIENCE)
            self.clock.now += self.taking
            if self.error is not None:
                raise self.error
            self.swept.append(items)

    def begin(self, *items):
        """Queue them, and see that the sweep of the first one is under way."""
        for item in items:
            self.reaper.add(item)
        assert self.began.acquire(timeout=PATIENCE)

    def end(self, taking=0.0):
        self.taking = taking
        self.go.release()

    def wait_until(self, condition):
        """Nothing tells when a thread begins to wait."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self.swept, self.reaper.pending)
            time.sleep(0)

    def is_waiting(self):
        return not self.reaper._under_way and len(self.reaper._changed._waiters) == 1

    def settle(self):
        """In a thread: a settle() that is never told would wait for ever, as the clock stands still."""
        said = []

        def settle():
            try:
                said.append(self.reaper.settle(PATIENCE))
            except OSError as error:
                said.append(error)
        thread = threading.Thread(target=settle, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert len(said) == 1, (self.swept, self.reaper.pending)
        return said[0]

    def pass_time(self, seconds):
        with self.reaper._changed:
            self.clock.now += seconds
            self.reaper._changed.notify_all()

    def close(self):
        """Bounded by the true clock."""
        self.error = None
        self.go.release(100)
        self.reaper.drop()
        thread = self.reaper._thread
        if thread is not None:
            thread.join(PATIENCE)


@pytest.fixture
def sweeper(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(reaper, "time", clock)
    monkeypatch.setattr(reaper, "COMPANY", LONG)
    made = Sweeper(clock)
    yield made
    made.close()
    assert made.reaper.settle(0) == [] and made.reaper._thread is None


def test_the_first_one_is_not_kept_waiting_and_what_comes_meanwhile_goes_together(sweeper):
    sweeper.begin("a")
    assert sweeper.reaper.pending == ["a"]
    for item in ("b", "c", "b"):
        sweeper.reaper.add(item)
    assert sweeper.reaper.pending == ["a", "b", "c"]
    sweeper.end()
    assert sweeper.began.acquire(timeout=PATIENCE)
    sweeper.end()
    assert sweeper.settle() == [] and sweeper.swept == [["a"], ["b", "c"]]


def test_the_next_one_waits_for_company_until_somebody_waits_for_it(sweeper):
    sweeper.begin("a")
    sweeper.reaper.add("b")
    sweeper.end(taking=LONG)
    sweeper.wait_until(sweeper.is_waiting)
    for item in ("c", "d"):
        sweeper.reaper.add(item)
    sweeper.go.release()
    assert sweeper.settle() == [] and sweeper.swept == [["a"], ["b", "c", "d"]]


def test_it_waits_no_longer_than_the_last_one_took(sweeper):
    sweeper.begin("a")
    sweeper.reaper.add("b")
    sweeper.end(taking=LONG)
    sweeper.wait_until(sweeper.is_waiting)
    sweeper.pass_time(LONG - 1)
    sweeper.reaper.add("c")
    sweeper.wait_until(sweeper.is_waiting)
    assert sweeper.swept == [["a"]]
    sweeper.reaper.add("d")
    sweeper.pass_time(1)
    assert sweeper.began.acquire(timeout=PATIENCE)
    sweeper.end(taking=1)
    sweeper.wait_until(lambda: sweeper.reaper._thread is None)
    assert sweeper.swept == [["a"], ["b", "c", "d"]]


def test_nor_longer_than_the_bound(sweeper, monkeypatch):
    monkeypatch.setattr(reaper, "COMPANY", 1.0)
    sweeper.begin("a")
    sweeper.reaper.add("b")
    sweeper.end(taking=LONG)
    sweeper.wait_until(sweeper.is_waiting)
    sweeper.reaper.add("c")
    sweeper.pass_time(1)
    assert sweeper.began.acquire(timeout=PATIENCE)
    sweeper.end()


@pytest.mark.parametrize("how", ["dropped", "taken"])
def test_what_goes_in_another_way_ends_the_waiting(sweeper, how):
    sweeper.begin("a")
    sweeper.reaper.add("b")
    sweeper.end(taking=LONG)
    sweeper.wait_until(sweeper.is_waiting)
    if how == "dropped":
        sweeper.reaper.drop()
    else:
        with sweeper.reaper.taken() as items:
            assert items == ["b"]
    sweeper.wait_until(lambda: sweeper.reaper._thread is None)
    assert sweeper.swept == [["a"]] and sweeper.reaper.pending == []


def test_two_at_once_do_not_forget_each_other_s(sweeper):
    sweeper.begin("a")
    sweeper.reaper.add("b")
    with sweeper.reaper.taken() as items:
        assert items == ["b"] and sweeper.reaper.pending == ["a", "b"]
        sweeper.end()
        sweeper.wait_until(lambda: sweeper.reaper.pending == ["b"])
    assert sweeper.reaper.pending == []


def test_settling_waits_for_what_others_have_taken(sweeper):
    sweeper.begin("a")
    sweeper.reaper.add("b")
    said = []
    settling = threading.Thread(target=lambda: said.append(sweeper.settle()))
    with sweeper.reaper.taken():
        sweeper.end()
        sweeper.wait_until(lambda: sweeper.reaper._thread is None)
        settling.start()
        sweeper.wait_until(lambda: sweeper.reaper._changed._waiters)
        assert said == []
    settling.join(PATIENCE)
    assert said == [[]]


def test_what_was_not_done_is_queued_again_and_whoever_settles_is_told(sweeper):
    sweeper.error = OSError("not now")
    sweeper.begin("a")
    sweeper.reaper.add("b")
    sweeper.end(taking=LONG)
    assert isinstance(sweeper.settle(), OSError)
    assert sweeper.reaper.pending == ["a", "b"] and sweeper.swept == []
    sweeper.error = None
    sweeper.begin("c")
    sweeper.end()
    assert sweeper.settle() == [] and sweeper.swept == [["a", "b", "c"]]


def test_settling_in_no_time_says_what_is_left(sweeper):
    sweeper.begin("a")
    sweeper.reaper.add("b")
    assert sweeper.reaper.settle(0) == ["a", "b"]
    sweeper.end(taking=LONG)
    sweeper.wait_until(sweeper.is_waiting)      # who has given up hurries nobody
    sweeper.go.release()
    assert sweeper.settle() == []


def test_a_process_that_ends_is_not_kept_waiting(sweeper, monkeypatch):
    """As threading sees it: the main thread has ended, and all others are joined."""
    sweeper.begin("a")
    sweeper.reaper.add("b")
    monkeypatch.setattr(threading, "main_thread", lambda: threading.Thread())
    sweeper.end(taking=LONG)
    assert sweeper.began.acquire(timeout=PATIENCE)
    sweeper.end()
    sweeper.wait_until(lambda: sweeper.reaper._thread is None)
    assert sweeper.swept == [["a"], ["b"]]
