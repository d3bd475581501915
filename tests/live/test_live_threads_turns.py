"""The turn on a namespace's socket: who waits for it, for how long, who may not, and that it is always given back."""

import errno
import select
import signal
import sys
import threading
import time
from contextlib import contextmanager

import pytest

import nsnet
from live_helpers import PATIENCE
from nsnet import kernel, requests
from nsnet.monitor import wait_link
from test_live_threads import Library, in_a_fork


@contextmanager
def somebody_else_talks(netns, monkeypatch):
    """A thread that has the turn until the block ends; calls of other threads reach the kernel as ever."""
    entered, go_on, answers = threading.Event(), threading.Event(), []

    def talk(real, fd, talk):
        if threading.current_thread() is thread:
            entered.set()
            assert go_on.wait(PATIENCE)
        return real(fd, talk)

    thread = threading.Thread(target=lambda: answers.append(netns.link("lo").index))
    monkeypatch.setattr(kernel, "lib", Library("nsnet_nl_talk", talk))
    thread.start()
    try:
        assert entered.wait(PATIENCE)
        yield go_on
    finally:
        go_on.set()
        thread.join()
    assert answers == [1]


def is_free(netns):
    """Whether another thread gets the turn at once."""
    turn, got = netns.socket_of_rtnl._turn, []

    def take():
        got.append(turn.acquire(blocking=False))
        if got[0]:
            turn.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return got[0]


# --- a turn that does not come ---

@pytest.mark.parametrize("timeout", [0, 0.1])
def test_a_turn_that_does_not_come_in_time_is_said_and_nothing_was_sent(playground, monkeypatch, timeout):
    calls = (lambda: playground.perform([requests.set_link(1, "lo", mtu=60000)], timeout=timeout),
             lambda: playground.link("lo", timeout=timeout))
    with somebody_else_talks(playground, monkeypatch):
        for call in calls:
            began = time.monotonic()
            with pytest.raises(nsnet.KernelError) as late:
                call()
            assert timeout <= time.monotonic() - began < timeout + 5
            assert late.value.errno == errno.ETIMEDOUT and not isinstance(late.value, nsnet.OutcomeUnknown)
            assert "nothing was sent" in str(late.value)
    assert playground.link("lo").mtu == 65536 and is_free(playground)


def test_waiting_for_a_link_ends_in_time_though_somebody_else_has_the_turn(playground, monkeypatch):
    with somebody_else_talks(playground, monkeypatch):
        for link in ("lo", 1, "an altname of more than 15 bytes"):
            began = time.monotonic()
            with pytest.raises(nsnet.KernelError) as late:
                wait_link(playground, link, up=True, timeout=0.1)
            assert 0.1 <= time.monotonic() - began < 5
            assert late.value.errno == errno.ETIMEDOUT and not isinstance(late.value, nsnet.OutcomeUnknown)
            said = str(late.value)
            assert said.startswith(f"wait for link {link} (up=True): ") and "nothing was sent" in said


def test_the_wait_for_a_turn_and_the_wait_for_an_answer_have_one_deadline(playground, monkeypatch):
    deadlines, released, socket_of_rtnl = [], [], playground.socket_of_rtnl
    with somebody_else_talks(playground, monkeypatch) as go_on:
        real, wait = kernel.lib, socket_of_rtnl._wait_for_turn

        def wait_until_it_is_let_go(deadline):
            time.sleep(0.01)
            released.append(time.monotonic_ns())
            go_on.set()
            wait(deadline)

        monkeypatch.setattr(socket_of_rtnl, "_wait_for_turn", wait_until_it_is_let_go)
        monkeypatch.setattr(kernel, "lib", Library("nsnet_nl_talk", lambda talk, fd, job: (
            deadlines.append(job.deadline), talk(fd, job))[1]))
        began = time.monotonic_ns()
        playground.perform([requests.get_link(index=1)], timeout=15)
        monkeypatch.setattr(kernel, "lib", real)
    (deadline,), (let_go,) = deadlines, released
    assert began - 1e6 <= deadline - 15e9 < let_go          # it runs from the call, not from the turn


def test_closing_waits_for_as_long_as_the_talk_takes(playground, monkeypatch):
    again = nsnet.Netns.open(f"/proc/self/fd/{playground.fd}")
    closed = threading.Event()
    closer = threading.Thread(target=lambda: (again.close(), closed.set()))
    with somebody_else_talks(again, monkeypatch):
        closer.start()
        assert not closed.wait(0.1) and not again.closed
    closer.join(PATIENCE)
    assert closed.is_set() and again.closed


def test_of_a_long_batch_the_time_is_that_of_all_its_exchanges(playground, monkeypatch):
    """What comes when the time is up is not sent, and what became of the rest is told."""
    calls = []

    class Clock:
        """It jumps ahead after the second exchange."""

        @staticmethod
        def monotonic():
            return time.monotonic() + (PATIENCE if len(calls) >= 2 else 0)

    def talk(real, fd, talk):
        calls.append(talk.deadline)
        return real(fd, talk)

    batch = [requests.set_link(1, "lo", mtu=1000 + number) for number in range(700)]
    with monkeypatch.context() as patched:
        patched.setattr(kernel, "lib", Library("nsnet_nl_talk", talk))
        patched.setattr("nsnet.netns.time", Clock)
        with pytest.raises(nsnet.KernelError) as late:
            playground.perform(batch, timeout=PATIENCE)
    assert late.value.errno == errno.ETIMEDOUT and not isinstance(late.value, nsnet.OutcomeUnknown)
    assert "not sent" in str(late.value) and len(late.value.outcomes) == 400 and len(calls) == 2
    assert abs(calls[1] - calls[0]) < 1e9 and playground.link("lo").mtu == 1399
    assert len(playground.perform(batch)) == 700            # without a time, each exchange has its own


# --- from a signal handler ---

@contextmanager
def on_alarm(handler):
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_interrupts_a_call_may_not_use_the_same_namespace(playground, monkeypatch):
    """It could never get its turn, and its question may not stand in the middle of another."""
    refusals, found = [], []

    def ask():
        for call in (playground.links, lambda: playground.link("lo", timeout=5), playground.close,
                     lambda: playground.set_link(1, mtu=1000), lambda: playground.batch().add_bridge("br0")):
            try:
                call()
            except nsnet.KernelError as error:
                refusals.append((error.errno, "signal handler" in str(error)))
        found.append(playground.find("lo"))                 # asks without netlink

    def talk(real, fd, talk):
        if not found:
            signal.raise_signal(signal.SIGALRM)
        return real(fd, talk)

    with monkeypatch.context() as patched, on_alarm(ask):
        patched.setattr(kernel, "lib", Library("nsnet_nl_talk", talk))
        assert [link.ifname for link in playground.links()] == ["lo"]
    assert refusals == [(errno.EDEADLK, True)] * 4 and found == [1]
    assert playground.link("lo").mtu == 65536 and is_free(playground)


@pytest.mark.parametrize("name", ["_check_turn", "_wait_for_turn"])
def test_a_handler_that_comes_before_the_turn_gets_one_of_its_own(playground, monkeypatch, name):
    """Between the question whether this thread has the turn and the taking of it, and while another thread has it."""
    found, socket_of_rtnl = [], playground.socket_of_rtnl
    real = getattr(socket_of_rtnl, name)

    def around(*arguments):
        real(*arguments) if name == "_check_turn" else None
        if not found:
            found.append(None)
            signal.raise_signal(signal.SIGALRM)
        if name != "_check_turn":
            real(*arguments)

    def ask():
        found[0] = playground.link("lo").index

    monkeypatch.setattr(socket_of_rtnl, name, around)
    with on_alarm(ask):
        if name == "_check_turn":
            playground.set_link(1, mtu=1000)
        else:
            with somebody_else_talks(playground, monkeypatch) as go_on:
                threading.Timer(0.1, go_on.set).start()
                playground.set_link(1, mtu=1000)
    assert found == [1] and playground.link("lo").mtu == 1000 and is_free(playground)


# --- interrupted anywhere ---

class Stop(BaseException):
    """As KeyboardInterrupt, which the runner of the tests would take for its own."""


def interrupted_after(count, call):
    """Make a call, and raise Stop in it when `count` functions of C have returned or of Python been entered, where
    Python looks for signals. Returns whether there were so many.
    """
    left = [count]

    def profile(frame, event, argument):
        if event in ("call", "c_return") and frame.f_code.co_filename == kernel.__file__:
            left[0] -= 1
            if left[0] < 0:
                sys.setprofile(None)
                raise Stop

    try:
        sys.setprofile(profile)
        call()
    except Stop:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_a_call_that_is_interrupted_anywhere_gives_its_turn_back(playground):
    count = 0
    while interrupted_after(count, lambda: playground.link("lo")):
        assert is_free(playground), f"after {count}"
        assert playground.link("lo").index == 1
        count += 1
    assert count > 20


def test_a_wait_for_the_turn_that_is_interrupted_anywhere_leaves_it_to_others(playground, monkeypatch):
    with somebody_else_talks(playground, monkeypatch):
        for count in range(4):
            with pytest.raises(nsnet.KernelError):
                if interrupted_after(count, lambda: playground.perform([requests.get_link(index=1)], timeout=0.01)):
                    raise nsnet.KernelError(errno.EINTR, "interrupted")
            assert not is_free(playground)
    assert is_free(playground)


def test_closing_that_is_interrupted_anywhere_gives_its_turn_back(playground):
    count = 0
    while True:
        again = nsnet.Netns.open(f"/proc/self/fd/{playground.fd}")
        interrupted = interrupted_after(count, again.close)
        assert is_free(playground) and (again._rtnl.closed or is_free(again))
        again.close()
        if not interrupted:
            break
        count += 1
    assert count > 4


def test_a_storm_of_interrupts_while_others_talk_leaves_everybody_with_the_own_answers(playground):
    """One thread is interrupted at any point of its calls, two others go on asking, each with a time of its own."""
    ended, answered, interrupted = threading.Event(), [], 0

    def ask(name, index):
        while not ended.is_set():
            assert playground.link(name, timeout=PATIENCE).index == index
            answered.append(name)

    def stop():
        raise Stop

    made = playground.add_veth("left", peer="right")
    threads = [threading.Thread(target=ask, args=one, daemon=True) for one in made]
    for thread in threads:
        thread.start()
    try:
        with on_alarm(stop):
            for turn in range(300):
                try:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, (turn % 60 + 1) * 0.00002)
                        for _ in range(20):
                            playground.link("lo", timeout=PATIENCE)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except Stop:
                    interrupted += 1
                assert playground.link("lo", timeout=PATIENCE).index == 1
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads) and {"left", "right"} <= set(answered)
    assert interrupted > 20 and is_free(playground)
    assert select.select([playground.socket_of_rtnl], [], [], 0)[0] == []


# --- forks ---

def test_a_fork_while_threads_wait_for_their_turns_has_turns_of_its_own(playground, monkeypatch):
    def child():
        assert playground.link("lo", timeout=5).index == 1 and is_free(playground)
        playground.close()

    late = []

    def wait():
        with pytest.raises(nsnet.KernelError) as error:
            playground.link("lo", timeout=0.3)
        late.append(error.value.errno)

    with somebody_else_talks(playground, monkeypatch):
        waiting = [threading.Thread(target=wait) for _ in range(3)]
        for thread in waiting:
            thread.start()
        assert in_a_fork(child) == "right"
        for thread in waiting:
            thread.join()
    assert late == [errno.ETIMEDOUT] * 3 and playground.link("lo").index == 1
