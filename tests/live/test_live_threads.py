"""One namespace, many users: threads, closers, forks; and talks whose answers are lost, late, many or long."""

import ctypes
import errno
import ipaddress
import os
import select
import signal
import socket
import threading
import time

import pytest

import nsnet
from live_helpers import PATIENCE, links_of, read_inside
from nsnet import kernel, requests

THREADS = 16
OPERATIONS = 10_000                 # of all threads together
PATIENT = 3 * PATIENCE              # seconds after which threads that should have ended are held to be deadlocked
MOMENT = 0.05                       # seconds in which what must not happen would have happened
LATE = "closed"


class Library:
    """The C extension with one function replaced: `replace(real, *arguments)` is called in its place."""

    def __init__(self, name, replace):
        self._real, self._name, self._replace = kernel.lib, name, replace

    def __getattr__(self, name):
        real = getattr(self._real, name)
        return (lambda *arguments: self._replace(real, *arguments)) if name == self._name else real


def in_threads(functions):
    """Run them at the same time to their end; the first exception of one of them is raised. Never waits for ever."""
    failed, start = [], threading.Barrier(len(functions))

    def run(function):
        try:
            start.wait()
            function()
        except BaseException as error:                      # noqa: B902  raised below
            failed.append(error)

    running = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in running:
        thread.start()
    deadline = time.monotonic() + PATIENT
    for thread in running:
        thread.join(max(deadline - time.monotonic(), 0))
    assert not any(thread.is_alive() for thread in running), "deadlock"
    if failed:
        raise failed[0]


def in_a_fork(function):
    """What a child made by fork says, "right" if the function returned. It is killed if it hangs."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            answer = "right"
        except BaseException as error:                      # noqa: B902  told to the parent, which compares
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    answer = b"it hangs"
    try:
        if select.select([reader], [], [], PATIENCE)[0]:
            answer = os.read(reader, 4096)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return answer.decode()


# --- many threads ---

def work(netns, me, operations):
    """What one thread does with links of its own; each result is known, whatever the others do."""
    mine, other = f"a{me}", f"b{me}"
    index = netns.index_of(mine)
    for number in range(operations):
        kind = number % 8
        if number % 125 == 124:                             # slow: the kernel waits before it deletes
            made, _ = netns.add_veth(f"c{me}", peer=f"d{me}", queues=1)
            assert netns.link(made).ifname == f"c{me}"
            netns.del_link(made)
            with pytest.raises(nsnet.NoSuchObject):
                netns.link(made.index)
        if kind == 0:
            assert (netns.link(mine).index, netns.link(index).ifname) == (index, mine)
        elif kind == 1:
            found = {link.ifname: link.index for link in netns.links()}
            assert found[mine] == index and {f"a{one}" for one in range(THREADS)} <= set(found)
        elif kind == 2:
            netns.set_link(mine, mtu=1000 + number % 400)
            assert netns.link(index).mtu == 1000 + number % 400
        elif kind == 3:
            address = f"10.{me}.0.{number % 200 + 1}/24"
            netns.add_address(mine, address)
            assert [one.address for one in netns.addresses() if one.index == index] == [address]
        elif kind == 4:
            netns.del_address(index, f"10.{me}.0.{(number - 1) % 200 + 1}/24")
            assert [one for one in netns.addresses() if one.index == index] == []
        elif kind == 5:
            with netns.batch() as net:
                net.set_link(other, group=me + 1)
                net.add_address(other, f"10.{me}.1.1/24")
                net.set_link(index, ifalias=f"{me} {number}")
            assert netns.link(mine).ifalias == f"{me} {number}"
        elif kind == 6:
            with pytest.raises(nsnet.AlreadyExists) as refused:
                netns.add_address(other, f"10.{me}.1.1/24")
            assert refused.value.request == f"add address 10.{me}.1.1/24 on {other}"
        else:
            with pytest.raises(nsnet.NoSuchObject) as refused:
                with netns.batch() as net:
                    net.del_address(other, f"10.{me}.1.1/24")
                    net.del_address(other, f"10.{me}.9.9/24")
            assert refused.value.also == [] and f"10.{me}.9.9/24" in refused.value.request


def test_sixteen_threads_on_one_namespace_each_get_their_own_answers(playground):
    with playground.batch() as net:
        for me in range(THREADS):
            net.add_veth(f"a{me}", peer=f"b{me}", queues=1)
    before = links_of(playground)
    started = time.monotonic()
    in_threads([lambda me=me: work(playground, me, OPERATIONS // THREADS) for me in range(THREADS)])
    print(f"{OPERATIONS / (time.monotonic() - started):.0f} operations a second")
    assert links_of(playground) == before and playground.routes(table=254) == []
    assert select.select([playground.socket_of_rtnl], [], [], 0)[0] == []


# --- closing ---

def closes_only_after(netns, during, monkeypatch_it):
    """That close() by another thread waits for `during`, in which `monkeypatch_it(inside)` makes a call of inside()."""
    results, closed, entered = [], threading.Event(), threading.Event()

    def close():
        assert entered.wait(PATIENCE)
        netns.close()
        closed.set()

    def inside():
        if not entered.is_set():
            entered.set()
            assert not closed.wait(MOMENT) and not netns.closed, "it was closed in the middle"

    monkeypatch_it(inside)
    in_threads([lambda: results.append(during()), close])
    assert closed.is_set() and netns.closed
    return results[0]


def test_closing_waits_for_the_talk_under_way(monkeypatch):
    netns = nsnet.Netns.new()

    def replace(inside):
        def talk(real, fd, talk):
            inside()
            return real(fd, talk)
        monkeypatch.setattr(kernel, "lib", Library("nsnet_nl_talk", talk))

    assert [link.ifname for link in closes_only_after(netns, netns.links, replace)] == ["lo"]


def test_closing_waits_for_a_question_without_netlink(monkeypatch):
    """Else the number may be another file's, or another namespace's socket, when the ioctl gets there."""
    netns = nsnet.Netns.new()

    def replace(inside):
        real = kernel.fcntl.ioctl

        class Fcntl:
            @staticmethod
            def ioctl(*arguments):
                inside()
                return real(*arguments)
        monkeypatch.setattr(kernel, "fcntl", Fcntl)

    assert closes_only_after(netns, lambda: netns.socket_of_rtnl.index_taken(1), replace)


def test_what_is_closed_says_so_whatever_is_asked(host):
    netns = nsnet.Netns.open(f"/proc/self/fd/{host.fd}")
    netns.close()
    netns.close()
    for ask in (netns.links, lambda: netns.link("lo"), lambda: netns.link(1), lambda: netns.set_link("lo", up=True),
                lambda: netns.set_link(1, up=True), lambda: netns.add_bridge("br0"), netns.addresses,
                lambda: netns.find("lo"), netns.may_administer, lambda: netns.sync_carrier("lo"),
                lambda: netns.identity):
        with pytest.raises(nsnet.UsageError, match=LATE):
            ask()


def test_whoever_is_late_gets_one_clear_error_and_never_another_files_answer(playground):
    """Threads that go on asking while the namespace is closed, and while others take every number that becomes free."""
    right, late, stop = [], [], threading.Event()

    def ask(netns, number):
        try:
            for _ in range(100_000):
                if number % 2:
                    assert netns.find("lo") == 1 and netns.find("mark") == 0
                else:
                    assert [link.ifname for link in netns.links()] == ["lo"]
                right.append(1)
        except nsnet.UsageError as error:
            assert LATE in str(error)
            late.append(1)

    def take_numbers():
        """Sockets of a namespace in which `mark` exists: an answer from there would be noticed."""
        while not stop.is_set():
            for _ in range(8):
                playground.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE).close()

    playground.add_bridge("mark")
    for _ in range(25):
        netns = nsnet.Netns.new()
        begun, stop = len(right), threading.Event()

        def close():
            while len(right) < begun + 20:                  # in the midst of it
                os.sched_yield()
            netns.close()
            stop.set()

        in_threads([lambda number=number: ask(netns, number) for number in range(4)] + [close, take_numbers])
    assert len(late) == 100 and len(right) >= 500


# --- forks ---

def test_a_fork_and_its_parent_ask_at_the_same_time_and_each_gets_its_own_answers(playground):
    """A child opens a socket of its own when it first asks: on one socket, two take each other's answers."""
    with playground.batch() as net:
        for number in range(40):
            net.add_veth(f"a{number}", peer=f"b{number}", queues=1)
    expected = links_of(playground)
    port = playground.socket_of_rtnl.port

    def ask(name):
        for number in range(300):
            assert playground.link(f"{name}{number % 40}").index == expected[f"{name}{number % 40}"]
            if number % 10 == 0:
                assert links_of(playground) == expected
            playground.set_link(f"{name}0", mtu=1000 + number)
            with pytest.raises(nsnet.NoSuchObject):
                playground.set_link(999999, up=True)

    def child():
        ask("b")
        assert playground.socket_of_rtnl.port != port
        playground.close()

    answers = []
    begun = threading.Event()
    thread = threading.Thread(target=lambda: (begun.set(), answers.append(in_a_fork(child))))
    thread.start()
    begun.wait()
    ask("a")
    thread.join()
    ask("a")
    assert answers == ["right"] and playground.socket_of_rtnl.port == port
    assert playground.link("b0").mtu == 1299


def test_a_fork_in_the_middle_of_anothers_talk_does_not_wait_for_it(playground, monkeypatch):
    """The thread that holds the lock does not exist in the child, and will never let go of it there."""
    entered, go_on, answers = threading.Event(), threading.Event(), []

    def talk(real, fd, talk):
        if threading.current_thread() is not threading.main_thread() and not go_on.is_set():
            entered.set()
            assert go_on.wait(PATIENCE)
        return real(fd, talk)

    def child():
        assert [link.ifname for link in playground.links()] == ["lo"]
        assert playground.find("lo") == 1
        playground.close()

    monkeypatch.setattr(kernel, "lib", Library("nsnet_nl_talk", talk))
    thread = threading.Thread(target=lambda: answers.append(playground.link("lo").index))
    thread.start()
    try:
        assert entered.wait(PATIENCE)
        assert in_a_fork(child) == "right"
    finally:
        go_on.set()
        thread.join()
    assert answers == [1] and playground.link("lo").index == 1


def test_the_socket_itself_is_refused_in_a_fork_except_for_closing(host):
    def child():
        with pytest.raises(nsnet.KernelError) as refused:
            inherited.talk(lambda first_seq: None)
        assert refused.value.errno == errno.EPERM and "fork" in str(refused.value)
        inherited.close()
        assert inherited.closed

    inherited = host.socket_of_rtnl
    assert in_a_fork(child) == "right"
    assert host.link("lo").index == 1


# --- answers that are lost or late ---

def receive_buffer(netns, size):
    """Set the socket's SO_RCVBUF in bytes, of which the kernel takes twice as many."""
    with socket.socket(fileno=os.dup(netns.socket_of_rtnl.fileno())) as view:
        view.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def test_when_answers_are_lost_the_outcome_is_unknown_and_the_kernel_has_applied_what_it_could(playground):
    bridge = playground.add_bridge("br0")
    other = nsnet.Netns.open(f"/proc/self/fd/{playground.fd}")
    receive_buffer(playground, 8192)
    for turn in range(5):
        with pytest.raises(nsnet.KernelError) as lost:
            with playground.batch() as net:
                for number in range(100):                   # every second one fails, and each failure is an answer
                    net.add_address(bridge, f"10.{turn}.{number}.1/24")
                    net.set_link(999999, up=True)
        assert lost.value.errno == errno.ENOBUFS and "unknown" in str(lost.value)
        assert not isinstance(lost.value, nsnet.NetlinkError), "it is no request's error"
        assert playground.link("br0").index == bridge.index     # the very next operation, on the same socket
        with pytest.raises(nsnet.NoSuchObject):
            playground.set_link(999998, up=True)
        with pytest.raises(nsnet.AlreadyExists):
            playground.add_address(bridge, f"10.{turn}.7.1/24")
        expected = [f"10.{one}.{number}.1/24" for one in range(turn + 1) for number in range(100)]
        assert [one.address for one in playground.addresses(bridge)] == expected
        assert [one.address for one in other.addresses(bridge)] == expected
    receive_buffer(playground, 212992)
    with pytest.raises(nsnet.NoSuchObject) as told:
        with playground.batch() as net:
            for _ in range(100):
                net.set_link(999999, up=True)
    assert len(told.value.also) == 99
    other.close()


def test_answers_that_come_after_the_deadline_are_not_taken_for_those_of_the_next_question(playground, monkeypatch):
    """Sent, and given up before a word was heard: errors, acknowledgements and parts of a list are left behind."""
    late = []

    def talk(real, fd, talk):
        if late:
            late.pop()
            os.write(fd, bytes(kernel.ffi.buffer(talk.request, talk.request_len)))
            talk.sent = 1
            return -errno.ETIMEDOUT
        return real(fd, talk)

    monkeypatch.setattr(kernel, "lib", Library("nsnet_nl_talk", talk))
    with playground.batch() as net:
        for number in range(60):
            net.add_veth(f"a{number}", peer=f"b{number}", queues=1)
    expected = links_of(playground)
    questions = [[requests.list_links()], [requests.get_link(ifname="a7")], [requests.set_link(1, "lo", mtu=60000)],
                 [requests.set_link(999999, "nobody", up=True) for _ in range(150)]]
    for question in questions * 3:
        late.append(1)
        with pytest.raises(nsnet.KernelError) as error:
            playground.perform(question)
        assert error.value.errno == errno.ETIMEDOUT and "unknown" in str(error.value)
        assert playground.link("b3").index == expected["b3"]
        assert links_of(playground) == expected
    assert playground.link("lo").mtu == 60000               # it was applied


@pytest.mark.parametrize("timeout", [0, 1e-9, 1e-6])
def test_a_tiny_timeout_gives_the_answer_or_one_clear_error(host, timeout):
    for number in range(200):
        try:
            outcome, = host.perform([requests.get_link(ifname="lo")], timeout=timeout)
            assert len(outcome.replies) == 1
        except nsnet.KernelError as error:
            assert error.errno == errno.ETIMEDOUT
        assert host.link("lo").index == 1


# --- of any size ---

def test_five_thousand_routes_are_listed_each_once(playground):
    bridge = playground.add_bridge("br0", up=True)
    networks = [str(network) for network in ipaddress.ip_network("10.0.0.0/11").subnets(new_prefix=24)][:5500]
    talks = []
    real = playground.socket_of_rtnl.talk
    playground.socket_of_rtnl.talk = lambda *arguments: talks.append(real(*arguments)) or talks[-1]
    with playground.batch() as net:
        for network in networks:
            net.add_route(network, oif=bridge)
    assert len(net.outcomes) == 5500 and sum(len(talk.data) for talk in talks) > 1 << 16
    assert max(len(talk.data) for talk in talks) <= 1 << 16 and max(len(talk.requests) for talk in talks) <= 200
    del talks[:]
    found = [route.dst for route in playground.routes() if route.table == 254 and route.family == socket.AF_INET]
    assert len(talks) == 1 and sorted(found) == sorted(networks)
    assert len(read_inside(playground, "/proc/net/route").splitlines()) - 1 == 5500         # the kernel's other list


def test_three_thousand_addresses_are_listed_each_once(playground):
    bridge = playground.add_bridge("br0")
    four = [f"10.{number // 250}.{number % 250}.1/24" for number in range(1500)]
    six = [f"fd00::{number:x}/64" for number in range(1, 1501)]
    with playground.batch() as net:
        for address in four + six:
            net.add_address(bridge, address)
    found = [one.address for one in playground.addresses() if one.index == bridge.index]
    assert sorted(found) == sorted(four + six)
    rows = [line.split() for line in read_inside(playground, "/proc/net/if_inet6").splitlines()]
    assert sum(row[5] == "br0" for row in rows) == 1500


def test_a_batch_of_more_than_64_kib_is_applied_whole_and_in_order(playground):
    """In chunks by size: each request is large, and the last of each link counts."""
    bridge = playground.add_bridge("br0")
    talks = []
    real = playground.socket_of_rtnl.talk
    playground.socket_of_rtnl.talk = lambda *arguments: talks.append(real(*arguments)) or talks[-1]
    with playground.batch() as net:
        for number in range(450):
            net.set_link(bridge, ifalias=f"{number:04d}".ljust(255, "x"), group=number, lladdr="02:00:00:00:00:01")
    assert len(net.outcomes) == 450 and len(talks) >= 3
    assert all(len(talk.data) <= 1 << 16 and len(talk.requests) <= 200 for talk in talks)
    assert sum(len(talk.data) for talk in talks) > 2 << 16
    link = playground.link(bridge)
    assert (link.ifalias[:4], link.group) == ("0449", 449)


def test_a_child_of_a_fork_does_not_wait_for_a_thread_that_it_does_not_have(playground):
    """A thread of the parent's holds the lock of the free index nearly always, hence also while we fork."""
    ended = threading.Event()

    def count():
        while not ended.is_set():
            playground.free_index()

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)                            # a child that hangs is ended, and counts as one
                try:
                    playground.free_index()
                    os._exit(0)
                except BaseException:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        ended.set()
        thread.join()


def test_sockets_and_events_are_of_the_namespace_that_is_held_wherever_the_thread_went(host):
    """The thread that asks has gone to another namespace by setns; only root of both may."""
    with nsnet.Netns.new(beside=host) as other:
        found = {}

        def elsewhere():
            if other.userns_fd is not None:
                found["skip"] = True
                return
            libc = ctypes.CDLL(None, use_errno=True)
            held = nsnet.Netns.current()
            assert libc.setns(other.fd, 0x40000000) == 0    # CLONE_NEWNET, of this thread alone
            with held, held.monitor("link") as monitor:
                made = held.add_bridge("nsnet-here")
                event = monitor.read(PATIENCE)
                held.del_link(made)
                found["event"] = event.object.ifname

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert found in ({"event": "nsnet-here"}, {"skip": True})
