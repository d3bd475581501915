"""What a relay promises: in order, one ahead, and nothing under way when it raises."""

import signal
import threading

import pytest

from nsnet.network.relay import relay


def test_all_parts_are_made_and_sent_in_order():
    said = []
    relay([1, 2, 3], lambda part: said.append(("made", part)), lambda part: said.append(("sent", part)))
    assert [one for one in said if one[0] == "made"] == [("made", part) for part in (1, 2, 3)]
    assert [one for one in said if one[0] == "sent"] == [("sent", part) for part in (1, 2, 3)]
    assert all(said.index(("made", part)) < said.index(("sent", part)) for part in (1, 2, 3))


def test_the_next_one_is_made_while_one_is_sent():
    made = {part: threading.Event() for part in (1, 2)}

    def send(part):
        if part == 1:
            assert made[2].wait(20)         # else this would wait for ever
    relay([1, 2], lambda part: made[part].set(), send)


def test_two_are_never_sent_at_once():
    under_way, most = [], []

    def send(part):
        under_way.append(part)
        most.append(len(under_way))
        under_way.remove(part)
    relay(list(range(50)), lambda part: None, send)
    assert most == [1] * 50


def test_nothing_is_no_error():
    relay([], None, None)


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_an_error_of_sending_ends_it(bad):
    sent = []

    def send(part):
        sent.append(part)
        if part == bad:
            raise OSError(f"part {part}")
    with pytest.raises(OSError, match=f"part {bad}"):
        relay([1, 2, 3], lambda part: None, send)
    assert sent == list(range(1, bad + 1)) and threading.active_count() == 1


def test_an_error_of_making_waits_for_what_is_under_way():
    going, sent = threading.Event(), []

    def make(part):
        if part == 2:
            going.set()
            raise ValueError("no second")

    def send(part):
        assert going.wait(20)
        sent.append(part)
    with pytest.raises(ValueError, match="no second"):
        relay([1, 2, 3], make, send)
    assert sent == [1]


def test_an_interrupt_comes_when_nothing_is_under_way():
    class Alarm(BaseException):
        pass

    def ring(*_):
        raise Alarm
    waiting, sent = threading.Event(), []

    def send(part):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        waiting.wait(0.2)                   # nobody sets it: the alarm has rung by then
        sent.append(part)
    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with pytest.raises(Alarm):
            relay([1, 2], lambda part: None, send)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sent == [1]


def test_where_no_thread_can_be_started_it_is_sent_here(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    sent = []
    relay([1, 2], lambda part: None, sent.append)
    assert sent == [1, 2]


@pytest.mark.parametrize("started", [False, True])
def test_an_interrupt_while_a_thread_starts_waits_for_none_that_never_does(monkeypatch, started):
    sent = []

    class Interrupted(threading.Thread):
        def start(self):
            if started:
                super().start()
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        relay([1, 2], lambda part: None, sent.append)
    monkeypatch.undo()
    before = list(sent)
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(20)
    assert sent == before and sent in ([], [1]), "it was sent after relay() had raised"
