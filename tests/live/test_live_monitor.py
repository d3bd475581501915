"""Events on a real kernel: what a Monitor hears, whom it believes, what it says of what it lost, and how it ends."""

import asyncio
import errno
import gc
import os
import select
import signal
import socket
import threading
import time
import warnings
from contextlib import contextmanager

import pytest

import nsnet
from live_helpers import PATIENCE, PYTHON, inside, ip, needs, which
from nsnet import monitor as monitor_module
from nsnet import objects, requests, rtnl, wire
from nsnet.monitor import GROUPS, Event, Monitor, read_events, wait_link
from nsnet.objects import Port

NETLINK = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def listen(netns, *groups, **options):
    return Monitor(netns.socket(*NETLINK), groups or ["link"], **options)


def until(monitor, wanted, seconds=PATIENCE):
    """The first event that is wanted; what came before it is other people's business."""
    deadline = time.monotonic() + seconds
    passed = []
    while True:
        event = monitor.read(max(deadline - time.monotonic(), 0))
        assert event is not None, f"it never came; instead: {passed}"
        if wanted(event):
            return event
        passed.append(event)


def about(action, kind, /, **fields):
    def wanted(event):
        return event.action == action and type(event.object) is kind and all(
            getattr(event.object, name) == value for name, value in fields.items())
    return wanted


def drain(monitor):
    """All that is there now."""
    return list(iter(lambda: monitor.read(0), None))


@pytest.fixture
def pair(playground):
    """(left, right): a veth pair, both ends up, the left one with an address."""
    left, right = playground.add_veth("left", peer="right", queues=1)
    for link in (left, right):
        playground.set_link(link, link_local=False)
        playground.set_link(link, up=True)
    playground.add_address(left, "10.0.0.1/24")
    wait_link(playground, left, operstate="up", timeout=PATIENCE)
    return left, right


# --- what is heard ---

CHANGES = {     # group: (kind, fields, iproute2's words to do it, and to undo it, how nsnet does it, and undoes it)
    "address": (objects.Address, {"address": "10.1.0.1/24"},
                "ip address add 10.1.0.1/24 dev left", "ip address del 10.1.0.1/24 dev left",
                lambda net, left: net.add_address(left, "10.1.0.1/24"),
                lambda net, left: net.del_address(left, "10.1.0.1/24")),
    "address6": (objects.Address, {"address": "fd00::1/64"},
                 "ip address add fd00::1/64 dev left nodad", "ip address del fd00::1/64 dev left",
                 lambda net, left: net.add_address(left, "fd00::1/64"),
                 lambda net, left: net.del_address(left, "fd00::1/64")),
    "route": (objects.Route, {"dst": "10.9.0.0/16", "via": "10.0.0.2"},
              "ip route add 10.9.0.0/16 via 10.0.0.2", "ip route del 10.9.0.0/16",
              lambda net, left: net.add_route("10.9.0.0/16", via="10.0.0.2"),
              lambda net, left: net.del_route("10.9.0.0/16")),
    "route6": (objects.Route, {"dst": "fd09::/16"},
               "ip route add fd09::/16 dev left", "ip route del fd09::/16 dev left",
               lambda net, left: net.add_route("fd09::/16", oif=left),
               lambda net, left: net.del_route("fd09::/16", oif=left)),
    "neighbour": (objects.Neighbour, {"dst": "10.0.0.9", "family": socket.AF_INET},
                  "ip neighbour add 10.0.0.9 lladdr 02:00:00:00:00:09 dev left", "ip neighbour del 10.0.0.9 dev left",
                  lambda net, left: net.perform([requests.add_neighbour(left.index, "10.0.0.9", "left",
                                                                        lladdr="02:00:00:00:00:09")]),
                  lambda net, left: net.perform([requests.del_neighbour(left.index, "10.0.0.9", "left")])),
    "rule": (objects.Rule, {"src": "10.8.0.0/16", "priority": 77},
             "ip rule add from 10.8.0.0/16 table 9 priority 77", "ip rule del priority 77",
             lambda net, left: net.perform([requests.add_rule(src="10.8.0.0/16", table=9, priority=77)]),
             lambda net, left: net.perform([requests.del_rule(priority=77)])),
    "rule6": (objects.Rule, {"src": "fd08::/16", "priority": 78},
              "ip -6 rule add from fd08::/16 table 9 priority 78", "ip -6 rule del priority 78",
              lambda net, left: net.perform([requests.add_rule(src="fd08::/16", table=9, priority=78)]),
              lambda net, left: net.perform([requests.del_rule(priority=78, family=socket.AF_INET6)])),
    "nexthop": (objects.Nexthop, {"id": 7, "via": "10.0.0.2"},
                "ip nexthop add id 7 via 10.0.0.2 dev left", "ip nexthop del id 7",
                lambda net, left: net.perform([requests.add_nexthop(7, via="10.0.0.2", oif=left.index)]),
                lambda net, left: net.perform([requests.del_nexthop(7)])),
}


def iproute2(netns, words):
    done = inside(netns, [which(words.split()[0]), *words.split()[1:]])
    assert done.returncode == 0, f"{words}: {done.stderr}"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_made_through_nsnet_is_heard(playground, pair, name):
    kind, fields, _, _, do, undo = CHANGES[name]
    with listen(playground, name.rstrip("6")) as monitor:
        do(playground, pair[0])
        until(monitor, about("new", kind, **fields))
        undo(playground, pair[0])
        until(monitor, about("del", kind, **fields))
        assert monitor.refused == 0


@needs("ip")
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_made_through_ip_is_heard(playground, pair, name):
    kind, fields, do, undo, _, _ = CHANGES[name]
    with listen(playground, name.rstrip("6")) as monitor:
        iproute2(playground, do)
        until(monitor, about("new", kind, **fields))
        iproute2(playground, undo)
        until(monitor, about("del", kind, **fields))
        assert monitor.refused == 0


@needs("ip")
def test_a_link_is_heard_from_its_making_to_its_end(playground):
    with listen(playground) as monitor:
        made = playground.add_bridge("br0", mtu=1400)
        event = until(monitor, about("new", objects.Link, index=made.index))
        assert (event.object.ifname, event.object.kind, event.object.mtu) == ("br0", "bridge", 1400)
        playground.set_link(made, up=True)
        until(monitor, about("new", objects.Link, index=made.index, up=True))
        iproute2(playground, "ip link set br0 down")
        until(monitor, about("new", objects.Link, index=made.index, up=False))
        iproute2(playground, "ip link set br0 name br1")
        until(monitor, about("new", objects.Link, index=made.index, ifname="br1"))
        iproute2(playground, "ip link del br1")
        until(monitor, about("del", objects.Link, index=made.index, ifname="br1"))


def test_a_link_that_moves_goes_here_and_comes_there(playground):
    playground.add_veth("left", peer="right", queues=1)
    with nsnet.Netns.new(beside=playground) as other, listen(playground) as here, listen(other) as there:
        playground.set_link("right", netns=other)
        until(here, about("del", objects.Link, ifname="right"))
        until(there, about("new", objects.Link, ifname="right"))


def test_what_a_bridge_says_of_its_port_is_not_the_links_own_event(playground, pair):
    """RTM_DELLINK of family AF_BRIDGE: the link left its bridge, and is still there."""
    left, _ = pair
    bridge = playground.add_bridge("br0", up=True)
    with listen(playground) as monitor:
        playground.set_link(left, master=bridge)
        joined = until(monitor, about("new", Port, index=left.index, state=3)).object       # BR_STATE_FORWARDING
        assert (joined.ifname, joined.master, joined.options["learning"]) == ("left", bridge.index, 1)
        assert not isinstance(joined, objects.Link) and "state=FORWARDING" in repr(joined)
        playground.set_link(left, nomaster=True)
        gone = until(monitor, about("del", Port, index=left.index)).object
        assert gone.ifname == "left" and gone.state is None
        until(monitor, about("new", objects.Link, index=left.index, master=None))
        assert not [event for event in drain(monitor) if about("del", objects.Link)(event)]
        assert playground.link(left).up


def test_a_forwarding_entry_is_a_neighbour_of_the_bridge_family(playground, pair):
    bridge = playground.add_bridge("br0", up=True)
    playground.set_link(pair[0], master=bridge)
    with listen(playground, "neighbour") as monitor:
        playground.perform([requests.add_fdb(pair[0].index, "02:00:00:00:00:77", "left")])
        entry = until(monitor, about("new", objects.Neighbour, lladdr="02:00:00:00:00:77")).object
        assert (entry.family, entry.index, entry.master) == (rtnl.AF_BRIDGE, pair[0].index, bridge.index)


@needs("ip")
def test_numbers_of_other_namespaces_are_heard(playground):
    with nsnet.Netns.new(beside=playground) as other, listen(playground, "nsid") as monitor:
        playground.perform([requests.set_nsid(other.fd, 5)])
        until(monitor, about("new", objects.NsId, nsid=5))
        assert [row["nsid"] for row in ip(playground, "netns", "list-id")] == [5]
        other.close()
        until(monitor, about("del", objects.NsId, nsid=5))


@needs("tc")
def test_queueing_is_heard(playground, pair):
    index = pair[0].index
    with listen(playground, "tc") as monitor:
        playground.perform([requests.add_qdisc(index, "left", "htb", handle_="1:")])
        until(monitor, about("new", objects.Qdisc, index=index, kind="htb", handle=0x10000))
        iproute2(playground, "tc class add dev left parent 1: classid 1:1 htb rate 1mbit")
        until(monitor, about("new", objects.TrafficClass, index=index, handle=0x10001))
        iproute2(playground, "tc filter add dev left parent 1: protocol ip prio 5 u32 match u32 0 0 flowid 1:1")
        until(monitor, about("new", objects.Filter, index=index, priority=5, protocol=0x0800))
        iproute2(playground, "tc filter del dev left parent 1: prio 5")
        until(monitor, about("del", objects.Filter, index=index, priority=5))
        iproute2(playground, "tc class del dev left classid 1:1")
        until(monitor, about("del", objects.TrafficClass, index=index, handle=0x10001))
        playground.perform([requests.del_qdisc(index, "left")])
        until(monitor, about("del", objects.Qdisc, index=index, kind="htb"))


def test_two_events_in_one_datagram_come_in_order(playground, pair):
    """To replace a qdisc is a "del" and a "new" in one datagram (qdisc_notify())."""
    index = pair[0].index
    playground.perform([requests.add_qdisc(index, "left", "htb", handle_="1:")])
    with listen(playground, "tc") as monitor:
        playground.perform([requests.add_qdisc(index, "left", "htb", handle_="2:", ensure=True)])
        handles = [(event.action, event.object.handle) for event in drain(monitor) if event.object.kind == "htb"]
        assert handles == [("del", 0x10000), ("new", 0x20000)]


def test_one_monitor_hears_several_groups_and_nothing_of_the_others(playground, pair):
    with listen(playground, "address", "rule") as monitor:
        playground.add_bridge("br0")
        playground.add_address(pair[0], "10.1.0.1/24")
        playground.perform([requests.add_rule(table=9, priority=77)])
        kinds = [type(event.object) for event in drain(monitor)]
        assert kinds == [objects.Address, objects.Rule]


def test_every_group_is_joined(playground):
    """The kernel's own list of what the socket hears (proc(5), /proc/net/netlink): port, groups 1 to 32 as a mask."""
    with listen(playground, *GROUPS) as monitor:
        port = monitor._socket.getsockname()[0]
        rows = [line.split() for line in inside(playground, ["/bin/cat", "/proc/net/netlink"]).stdout.splitlines()[1:]]
        (mask,) = [int(row[3], 16) for row in rows if int(row[2]) == port and int(row[1]) == 0]
        assert mask == sum(1 << number - 1 for numbers in GROUPS.values() for number in numbers)


@pytest.mark.parametrize("groups, words", [
    (["links"], "'links'.*link, address"), ("links", "'links'"), ([], "no groups"), ([3], "3")])
def test_an_unknown_group_is_named_and_nothing_stays_open(playground, groups, words):
    opened = playground.socket(*NETLINK)
    with pytest.raises(nsnet.UsageError, match=words):
        Monitor(opened, groups)
    assert opened.fileno() == -1


@pytest.mark.parametrize("receive_bytes", [0, -1, 1 << 31, "many"])
def test_a_buffer_size_that_cannot_be_meant_is_refused(playground, receive_bytes):
    with pytest.raises(nsnet.UsageError, match="receive_bytes"):
        listen(playground, receive_bytes=receive_bytes)


def test_a_socket_that_cannot_be_prepared_is_closed(playground):
    opened = playground.socket(*NETLINK)
    opened.bind((0, 0))
    with pytest.raises(nsnet.KernelError) as refused:
        Monitor(opened, "link")                             # it has a port already: not fresh
    assert refused.value.errno == errno.EINVAL and refused.value.step == "monitor" and opened.fileno() == -1


def test_the_receive_buffer_is_as_asked_or_the_most_that_is_allowed(playground):
    with open("/proc/sys/net/core/rmem_max", encoding="ascii") as file:
        most = int(file.read())
    with listen(playground, receive_bytes=4 * most) as monitor:
        found = monitor._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert found in (2 * 4 * most, 2 * most)            # the kernel doubles it (socket(7))


# --- messages that are no events ---

def link_message(type, family):
    body = rtnl.LINK_BODY.encode(({"family": family, "index": 5}, {"ifname": "left"}))
    return wire.encode_message(type, 0, 0, body)


def test_a_message_of_another_family_or_verb_is_left_out_and_garbage_is_an_error():
    assert [event.action for event in read_events(link_message(rtnl.RTM_DELLINK, rtnl.AF_UNSPEC))] == ["del"]
    assert read_events(link_message(rtnl.RTM_DELLINK, rtnl.AF_INET6)) == []
    assert type(read_events(link_message(rtnl.RTM_DELLINK, rtnl.AF_BRIDGE))[0].object) is Port
    assert read_events(link_message(rtnl.RTM_GETLINK, 0) + link_message(rtnl.RTM_SETLINK, 0)) == []
    assert read_events(wire.encode_message(rtnl.RTM_GETNEIGH, 0, 0, bytes(12))) == []
    assert read_events(wire.encode_message(rtnl.NLMSG_OVERRUN, 0, 0, b"")) == []
    assert read_events(wire.encode_message(60000, 0, 0, b"")) == []
    for garbage in (b"x", bytes(16), wire.encode_message(rtnl.RTM_NEWLINK, 0, 0, b"short")):
        with pytest.raises(nsnet.ProtocolError):
            read_events(garbage)


# --- whom it believes ---

FORGER = """
import errno, json, socket, struct, sys
port = int(sys.stdin.readline())
liar = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
liar.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
liar.bind((0, 0))
def message(type, payload, port=0):
    return struct.pack("=IHHII", 16 + len(payload), type, 0, 0, port) + payload
name = struct.pack("=HH8s", 12, 3, b"forged0\\0")
links = [struct.pack("=BxHiII", family, 1, 4242, 1, 0) + name for family in (0, 7, 10)]
lies = [message(type, link) for type in (16, 17) for link in links]
lies += [message(20, struct.pack("=BBBBi", 2, 24, 0, 0, 4242)), message(4, b""), message(2, bytes(20)), b"x"]
sent = 0
for group in json.loads(sys.argv[1]):
    for lie in lies:
        liar.sendto(lie, (0, 1 << group - 1))
        sent += 1
liar.sendto(message(16, bytes(150000)), (0, 1 << 7))        # RTNLGRP_IPV4_RULE; more than fits what it is read into
sent += 1
try:
    liar.sendto(lies[0], (port, 0))
    answer = "taken"
except OSError as error:
    answer = errno.errorcode[error.errno]
print(sent, answer, liar.getsockname()[0])
"""


def test_what_root_of_the_container_multicasts_is_dropped_and_the_genuine_comes():
    """Every sort of lie, from a process that is root of the namespace; the true change behind them is what is heard."""
    groups = [number for numbers in GROUPS.values() for number in numbers]
    with nsnet.spawn([*PYTHON, "-c", FORGER, str(groups)], new={"user", "net"}, uid_map={0: os.geteuid()},
                     gid_map={0: os.getegid()}, capabilities={"net_admin"}, hold=True, stdin=nsnet.PIPE,
                     stdout=nsnet.PIPE) as box:
        with listen(box.netns, *GROUPS) as monitor, listen(box.netns, "rule") as calm:
            box.go()
            box.stdin.write(f"{monitor._socket.getsockname()[0]}\n".encode())
            box.stdin.flush()
            sent, unicast, port = box.stdout.read().split()
            assert box.wait(PATIENCE) == 0
            assert int(sent) > 9 * len(groups) and int(port) != 0
            assert unicast == b"ECONNREFUSED"               # nobody but the kernel reaches its port
            box.netns.perform([requests.add_rule(table=9, priority=77)])
            assert calm.read(PATIENCE).object.priority == 77 and calm.read(0) is None
            assert calm.refused == int(sent) // len(groups) * 2 + 1
            assert [event.object.priority for event in drain(monitor)] == [77]
            assert monitor.refused == int(sent)


def test_a_flood_of_lies_holds_nobody_beyond_the_time_given(playground):
    """Each time there is a lie to be read, and never an event: read() must look at the clock all the same."""
    with listen(playground) as monitor, playground.socket(*NETLINK) as liar:
        real = monitor._socket
        lie = link_message(rtnl.RTM_NEWLINK, 0)

        class Flooded:
            """The monitor's socket, with one more lie behind each that is read."""

            def __getattr__(self, name):
                return getattr(real, name)

            def recvmsg(self, size):
                liar.sendto(lie, (0, 1))
                return real.recvmsg(size)

        monitor._socket = Flooded()
        try:
            began = time.monotonic()
            assert monitor.read(0.05) is None
            assert 0.05 <= time.monotonic() - began < PATIENCE / 2
            with pytest.raises(asyncio.TimeoutError):       # and an event loop gets its turn
                asyncio.run(asyncio.wait_for(monitor.__anext__(), 0.05))
            assert monitor.refused > monitor_module.REFUSED_AT_ONCE
        finally:
            monitor._socket = real


def test_what_the_kernel_is_made_to_send_to_our_port_alone_is_dropped(playground):
    """A link made from another namespace with NLM_F_ECHO is reported to a port number of this one, whoever has it."""
    with nsnet.Netns.new(beside=playground) as other, listen(playground, "route") as monitor, \
            other.socket(*NETLINK) as asker:
        asker.bind((monitor._socket.getsockname()[0], 0))
        asker.settimeout(PATIENCE)
        flags = rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK | rtnl.NLM_F_ECHO | rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
        attrs = {"ifname": "br7", "net_ns_fd": playground.fd, "linkinfo": {"kind": "bridge"}}
        asker.send(wire.encode_message(rtnl.RTM_NEWLINK, flags, 1, rtnl.LINK_BODY.encode(({}, attrs))))
        (answer,) = wire.messages(asker.recv(65536))
        assert answer.type == rtnl.NLMSG_ERROR and rtnl.NLMSGERR.decode(answer.payload).error == 0
        assert playground.link("br7").kind == "bridge"
        assert drain(monitor) == []
        if not monitor.refused:
            pytest.skip("this kernel does not echo changes of links (before Linux 6.2)")
        assert monitor.refused == 1


def test_an_event_that_does_not_fit_is_an_error_and_never_half_an_event(playground, monkeypatch):
    monkeypatch.setattr(monitor_module, "DATAGRAM_BYTES", 128)
    with listen(playground, "link", "rule") as monitor:
        playground.add_bridge("br0")
        with pytest.raises(nsnet.KernelError, match="128 bytes") as cut:
            monitor.read(PATIENCE)
        assert cut.value.errno == errno.EMSGSIZE
        monkeypatch.undo()
        playground.perform([requests.add_rule(table=9, priority=77)])
        until(monitor, about("new", objects.Rule, priority=77))


# --- what it lost ---

def churn(netns, count, first=0):
    """Rules: `count` events, each a datagram, and nothing else."""
    for number in range(first, first + count):
        netns.perform([requests.add_rule(table=9, priority=1000 + number)])


def test_a_loss_is_said_where_it_was_and_later_events_come(playground):
    with listen(playground, "rule", receive_bytes=1) as monitor:
        churn(playground, 50)
        heard = drain(monitor)
        assert heard[-1] == Event("overflow", None)
        before = [event.object.priority for event in heard[:-1]]
        assert before == list(range(1000, 1000 + len(before))) and len(before) < 50
        churn(playground, 1, first=50)
        assert monitor.read(PATIENCE).object.priority == 1050 and monitor.read(0) is None


def test_after_an_overflow_nothing_is_missed_that_was_not_there_to_be_read(playground):
    """The kernel goes on dropping until the queue has been empty, and says so only once: hence overflow comes last.

    Whoever reads the state at once when told, and then goes by events, must know all there is.
    """
    with listen(playground, "rule", receive_bytes=5000) as monitor:
        churn(playground, 50)
        known = set()
        number = 50
        for event in iter(lambda: monitor.read(0), None):
            if event.action == "overflow":
                (outcome,) = playground.perform([requests.list_rules(family=socket.AF_INET)])
                known = {read_events(reply.encode())[0].object.priority for reply in outcome.replies}
            else:
                known.add(event.object.priority)
            if number < 100:                                # the world does not stand still while we read
                churn(playground, 1, first=number)
                number += 1
        assert known >= set(range(1000, 1100))


def test_two_losses_are_two_overflows(playground):
    with listen(playground, "rule", receive_bytes=1) as monitor:
        for turn in range(2):
            churn(playground, 30, first=30 * turn)
            assert [event.action for event in drain(monitor)].count("overflow") == 1
        assert monitor.read(0) is None


def test_a_second_loss_before_the_first_was_told_is_told_too(playground):
    with listen(playground, "rule", receive_bytes=1) as monitor:
        churn(playground, 30)
        assert monitor.read(0).action == "new"              # the loss is known, and stands behind this one
        kernel_says = monitor._socket.recvmsg
        while True:                                         # somebody empties the queue, and it overflows again
            try:
                kernel_says(1 << 16)
            except BlockingIOError:
                break
        churn(playground, 30, first=30)
        actions = [event.action for event in drain(monitor)]
        assert actions[0] == actions[-1] == "overflow" and actions.count("overflow") == 2


# --- waiting and ending ---

def test_reading_ends_with_its_time(playground):
    with listen(playground) as monitor:
        assert monitor.read(0) is None
        began = time.monotonic()
        assert monitor.read(0.05) is None
        assert 0.05 <= time.monotonic() - began < PATIENCE


@contextmanager
def alarms(seconds, handler):
    """SIGALRM again and again, beginning in `seconds`."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signals_do_not_prolong_or_end_a_wait(playground):
    rung = []
    with listen(playground) as monitor, alarms(0.01, lambda *_: rung.append(1)):
        began = time.monotonic()
        assert monitor.read(0.2) is None
        assert 0.2 <= time.monotonic() - began < PATIENCE and len(rung) > 2


def test_an_interrupt_ends_a_wait(playground):
    def interrupt(*_):
        raise KeyboardInterrupt

    with listen(playground) as monitor:
        with pytest.raises(KeyboardInterrupt), alarms(0.02, interrupt):
            monitor.read(PATIENCE)
        made = playground.add_bridge("br0")
        until(monitor, about("new", objects.Link, index=made.index))


def test_a_signal_handler_may_close_what_its_thread_waits_for(playground):
    monitor = listen(playground)
    with alarms(0.02, lambda *_: monitor.close()), pytest.raises(ValueError, match="closed"):
        monitor.read(PATIENCE)
    assert monitor._socket.fileno() == -1


def test_a_signal_handler_may_close_it_at_any_other_point(playground):
    """Also where its thread holds the lock."""
    def give_up(*_):
        raise AssertionError("it hangs")

    monitor = listen(playground)
    with alarms(PATIENCE, give_up), monitor._lock:
        monitor.close()
    assert monitor._socket.fileno() == -1


def test_closing_twice_and_reading_afterwards(playground):
    monitor = listen(playground)
    assert not monitor.closed
    monitor.close()
    monitor.close()
    assert monitor.closed and list(monitor) == []
    for use in (monitor.read, monitor.fileno):
        with pytest.raises(ValueError, match="closed"):
            use()

    async def everything():
        return [event async for event in monitor]

    assert asyncio.run(everything()) == []


def test_a_monitor_that_is_forgotten_closes_its_descriptors(playground):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        listen(playground)                                  # the count at the end of the test is what is asserted
        gc.collect()
    assert said == []


def test_closing_ends_the_iteration_of_every_thread_and_steals_nothing(playground):
    """Each round with threads in it at whatever point they are; the numbers that get free are taken at once."""
    for turn in range(30):
        monitor = listen(playground)
        gate = threading.Barrier(4)
        heard, errors = [], []

        def work(monitor=monitor, gate=gate, heard=heard, errors=errors):
            try:
                gate.wait(PATIENCE)
                for event in monitor:
                    heard.append(event)
            except BaseException as error:                  # noqa: B902  reported by the main thread
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        gate.wait(PATIENCE)
        monitor.close()
        with listen(playground, "rule") as next_one:
            churn(playground, 1, first=turn)
            assert next_one.read(PATIENCE).object.priority == 1000 + turn
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        assert (heard, errors) == ([], [])
        assert monitor._socket.fileno() == -1


class Waiting:
    """A monitor's epoll that says when somebody goes to wait, and lets him when told."""

    def __init__(self, monitor):
        self.real, self.there, self.go = monitor._epoll, threading.Semaphore(0), threading.Event()
        monitor._epoll = self

    def poll(self, *arguments):
        self.there.release()
        assert self.go.wait(PATIENCE)
        return self.real.poll(*arguments)

    def __getattr__(self, name):
        return getattr(self.real, name)


def test_no_descriptor_is_closed_before_the_last_reader_has_left(playground):
    monitor = listen(playground)
    waiting = Waiting(monitor)
    ends = []

    def work():
        try:
            monitor.read()
        except ValueError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
        assert waiting.there.acquire(timeout=PATIENCE)
    monitor.close()
    assert monitor.closed and monitor._socket.fileno() >= 0 and not waiting.real.closed
    waiting.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert ends == ["the monitor is closed: expected one that is open"] * 3
    assert monitor._socket.fileno() == -1 and waiting.real.closed


def test_threads_share_the_events(playground):
    """Each event goes to one of them, none twice, none lost."""
    heard = []
    with listen(playground, "rule") as monitor:
        ends = []
        threads = [threading.Thread(target=_share, args=(monitor, heard, ends)) for _ in range(4)]
        for thread in threads:
            thread.start()
        churn(playground, 200)
        playground.perform([requests.add_rule(table=9, priority=5000)])
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(heard) == list(range(1000, 1200)) and len(ends) == 1


def _share(monitor, heard, ends):
    for event in monitor:
        if event.object.priority == 5000:                   # the last one: whoever has it tells the others
            ends.append(event)
            monitor.close()
        else:
            heard.append(event.object.priority)


def test_a_forked_child_takes_no_events_and_ends_nothing(playground):
    with listen(playground) as monitor:
        made = playground.add_bridge("br0")
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = []
            try:
                for use in (monitor.read, monitor.fileno, lambda: next(monitor)):
                    try:
                        said.append(f"took {use()}")
                    except nsnet.UsageError as error:
                        said.append(str(error))
                monitor.close()
                said.append(str(monitor._socket.fileno()))
            finally:
                os.write(writer, "\n".join(said).encode())
                os._exit(0)
        os.close(writer)
        with open(reader, encoding="utf-8") as file:
            said = file.read().split("\n")
        os.waitpid(pid, 0)
        assert len(said) == 4 and said[3] == "-1"
        assert all(f"process {os.getpid()}" in line and "child" in line for line in said[:3]), said
        until(monitor, about("new", objects.Link, index=made.index))
        assert not [event for event in drain(monitor) if event.action == "overflow"]
        assert monitor.read(0) is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")       # Python 3.12: that is the point
def test_a_forked_child_that_closes_wakes_nobody(playground):
    """Also while a thread of the parent is in it: what epoll knows belongs to both."""
    monitor = listen(playground)
    waiting = Waiting(monitor)
    ends = []
    thread = threading.Thread(target=lambda: ends.extend(monitor))
    thread.start()
    assert waiting.there.acquire(timeout=PATIENCE)
    pid = os.fork()
    if pid == 0:
        try:
            monitor.close()
            os._exit(0 if monitor._socket.fileno() == -1 else 2)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert waiting.real.poll(0) == []
    waiting.go.set()
    monitor.close()
    thread.join(PATIENCE)
    assert ends == [] and not thread.is_alive()


def test_its_descriptor_is_readable_when_something_came_and_when_it_ends(playground):
    with listen(playground, "rule") as monitor:
        poll = select.poll()
        poll.register(monitor, select.POLLIN)
        assert poll.poll(0) == []
        churn(playground, 1)
        assert poll.poll(PATIENCE * 1000)
        assert len(drain(monitor)) == 1 and poll.poll(0) == []
        waiting = Waiting(monitor)
        thread = threading.Thread(target=lambda: list(monitor))
        thread.start()
        assert waiting.there.acquire(timeout=PATIENCE)
        monitor.close()
        assert poll.poll(PATIENCE * 1000)                   # as long as somebody is in it, the descriptor is open
        waiting.go.set()
        thread.join(PATIENCE)


# --- in an event loop ---

def in_loop(main):
    """Run a coroutine function, bounded in time."""
    return asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_block_of_an_event_loop_closes_it(playground):
    async def main():
        async with playground.monitor("link") as monitor:
            assert isinstance(monitor, nsnet.Monitor) and not monitor.closed
            made = playground.add_bridge("br0")
            async for event in monitor:
                if about("new", objects.Link, index=made.index)(event):
                    break
        assert monitor.closed and monitor._socket.fileno() == -1 and [one async for one in monitor] == []
        with pytest.raises(ZeroDivisionError):
            async with playground.monitor() as monitor:
                1 / 0
        assert monitor.closed

    in_loop(main)


def test_the_end_of_an_event_loops_block_ends_another_tasks_iteration(playground):
    async def everything(monitor):
        return [event async for event in monitor]

    async def main():
        async with playground.monitor("link") as monitor:
            task = asyncio.ensure_future(everything(monitor))
            await asyncio.sleep(0)
        assert await task == []

    in_loop(main)


def test_events_come_to_a_task(playground):
    async def main():
        with listen(playground) as monitor:
            async for event in monitor:
                if about("del", objects.Link, ifname="br0")(event):
                    return
                if about("new", objects.Link, ifname="br0")(event) and not deleted:
                    deleted.append(playground.del_link("br0"))

    deleted = []
    made = threading.Thread(target=playground.add_bridge, args=("br0",))

    async def both():
        asyncio.get_running_loop().call_soon(made.start)
        await main()

    in_loop(both)
    made.join()
    assert deleted


def test_two_monitors_in_one_loop(playground):
    async def first(monitor):
        async for event in monitor:
            return event

    async def main():
        with nsnet.Netns.new(beside=playground) as other:
            with listen(playground, "rule") as here, listen(other, "rule") as there:
                tasks = [asyncio.ensure_future(first(monitor)) for monitor in (here, there)]
                await asyncio.sleep(0)                      # both go to wait
                churn(other, 1, first=1)
                assert (await tasks[1]).object.priority == 1001 and not tasks[0].done()
                churn(playground, 1, first=2)
                assert (await tasks[0]).object.priority == 1002

    in_loop(main)


def test_a_task_that_is_cancelled_takes_no_event_with_it(playground):
    async def main():
        with listen(playground, "rule") as monitor:
            for turn in range(20):
                task = asyncio.ensure_future(monitor.__anext__())
                await asyncio.sleep(0)
                churn(playground, 1, first=turn)            # it is readable, and cancelled before the loop has looked
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not asyncio.get_running_loop().remove_reader(monitor.fileno())       # it left none there
                assert (await monitor.__anext__()).object.priority == 1000 + turn
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(monitor.__anext__(), 0.02)
            assert not monitor._loops and monitor._users == 0

    in_loop(main)


def test_a_second_task_is_refused_and_the_first_goes_on(playground):
    async def main():
        with listen(playground, "rule") as monitor:
            task = asyncio.ensure_future(monitor.__anext__())
            await asyncio.sleep(0)
            with pytest.raises(nsnet.UsageError, match="one waiting task"):
                await monitor.__anext__()
            churn(playground, 1)
            assert (await task).object.priority == 1000

    in_loop(main)


@pytest.mark.parametrize("by", ["task", "thread"])
def test_closing_ends_the_iteration_of_a_task(playground, by):
    async def everything(monitor):
        return [event async for event in monitor]

    async def main():
        monitor = listen(playground)
        task = asyncio.ensure_future(everything(monitor))
        await asyncio.sleep(0)
        if by == "task":
            monitor.close()
        else:
            thread = threading.Thread(target=monitor.close)
            thread.start()
            thread.join()
        assert await task == []
        assert monitor._socket.fileno() == -1

    in_loop(main)


def test_a_loop_and_a_thread_may_wait_for_the_same_monitor(playground):
    ends = []
    monitor = listen(playground, "rule")
    thread = threading.Thread(target=lambda: ends.append(list(monitor)))

    async def main():
        task = asyncio.ensure_future(monitor.__anext__())
        await asyncio.sleep(0)
        thread.start()
        monitor.close()
        with pytest.raises(StopAsyncIteration):
            await task

    in_loop(main)
    thread.join(PATIENCE)
    assert ends == [[]]


def test_tasks_that_are_left_when_the_loop_ends_leave_nothing(playground):
    """asyncio.run() cancels them; the count at the end of the test is what is asserted."""
    async def main():
        monitor = listen(playground)
        asyncio.ensure_future(monitor.__anext__())
        await asyncio.sleep(0)
        return monitor

    in_loop(main).close()


# --- waiting for a link ---

class Around:
    """A Netns in which things happen before anybody listens, before the state is first read, or after each reading."""

    def __init__(self, netns, *after, early=None, before=None):
        self.netns, self.early, self.before, self.after, self.looks = netns, early, before, list(after), 0
        self.index_of, self.sockets = netns.index_of, 0

    def socket(self, *arguments):
        self.sockets += 1
        if self.early:
            self.early()
        return self.netns.socket(*arguments)

    def link(self, link, *, timeout):
        assert self.sockets == 1                            # it listens first
        self.looks += 1
        if self.before and self.looks == 1:
            self.before()
        try:
            return self.netns.link(link, timeout=timeout)
        finally:
            if self.after:
                self.after.pop(0)()


@pytest.fixture
def veth(playground):
    """(left, right) of a pair: left is up without carrier, since right is down; all is quiet."""
    left, right = playground.add_veth("left", peer="right", queues=1, up=True)
    wait_link(playground, left, operstate="lowerlayerdown", timeout=PATIENCE)  # the last event of its making
    return left, right


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("named", ["name", "reference", "index", "link"])
def test_carrier_that_comes_just_before_or_after_the_first_look_is_seen(playground, veth, when, named):
    left, right = veth
    link = {"name": "left", "reference": left, "index": left.index, "link": playground.link(left)}[named]
    def bring():
        playground.set_link(right, up=True)

    around = Around(playground, before=bring) if when == "before" else Around(playground, bring)
    found = wait_link(around, link, carrier=True, operstate="up", timeout=PATIENCE)
    assert isinstance(found, objects.Link) and found.index == left.index and found.carrier and found.operstate == "up"


def test_carrier_that_a_thread_brings_is_awaited(playground, veth):
    left, right = veth
    begun = threading.Event()

    def bring():
        begun.wait(PATIENCE)
        playground.set_link(right, up=True)

    thread = threading.Thread(target=bring)
    thread.start()
    found = wait_link(Around(playground, begun.set), left, carrier=True, timeout=PATIENCE)
    thread.join()
    assert found.carrier and playground.link(left).carrier


def test_what_is_so_already_is_not_awaited(playground, veth):
    left, _ = veth
    assert wait_link(playground, left, up=True, carrier=False, timeout=0).index == left.index
    assert wait_link(playground, "lo", timeout=0).index == 1
    assert wait_link(playground, "left", operstate="lowerlayerdown", timeout=PATIENCE).up
    assert wait_link(playground, "nowhere", gone=True, timeout=0) is None
    assert wait_link(playground, 424242, gone=True, timeout=0) is None


def test_losing_carrier_and_going_down_are_awaited(playground, pair):
    left, right = pair
    down = Around(playground, lambda: playground.set_link(right, up=False))
    assert not wait_link(down, "left", carrier=False, timeout=PATIENCE).carrier
    down = Around(playground, lambda: playground.set_link(left, up=False))
    assert not wait_link(down, left, up=False, timeout=PATIENCE).up


def test_a_link_that_does_not_exist_yet_is_awaited(playground):
    around = Around(playground, lambda: playground.add_bridge("br0"))
    assert wait_link(around, "br0", timeout=PATIENCE).kind == "bridge"
    around = Around(playground, lambda: playground.set_link("br0", ifname="br1"))
    assert wait_link(around, "br1", timeout=PATIENCE).kind == "bridge"         # by a rename
    index = playground.free_index()
    around = Around(playground, lambda: playground.perform([requests.add_bridge("br2", index=index)]))
    assert wait_link(around, index, timeout=PATIENCE).ifname == "br2"


def test_a_link_that_comes_from_another_namespace_is_awaited(playground):
    with nsnet.Netns.new(beside=playground) as other:
        other.add_veth("left", peer="right", queues=1)
        around = Around(playground, lambda: other.set_link("right", netns=playground))
        assert wait_link(around, "right", timeout=PATIENCE).kind == "veth"


def leave(playground, other, left, how):
    {"deleted": lambda: playground.del_link(left), "moved": lambda: playground.set_link(left, netns=other),
     "renamed": lambda: (playground.set_link(left, up=False), playground.set_link(left, ifname="elsewhere")),
     "recreated": lambda: (playground.del_link(left), playground.add_bridge("left")),
     "recreated with its index": lambda: (playground.del_link(left), playground.perform(
         [requests.add_bridge("left", index=left.index)])),
     "replaced": lambda: (playground.set_link(left, up=False), playground.set_link(left, ifname="elsewhere"),
                          playground.add_bridge("left"))}[how]()


@pytest.mark.parametrize("how", ["deleted", "moved", "renamed", "recreated", "recreated with its index", "replaced"])
def test_gone_is_deleted_moved_or_under_another_name(playground, veth, how):
    with nsnet.Netns.new(beside=playground) as other:
        around = Around(playground, lambda: leave(playground, other, veth[0], how))
        assert wait_link(around, "left", gone=True, timeout=PATIENCE) is None


@pytest.mark.parametrize("how", ["deleted", "moved", "recreated", "recreated with its index"])
def test_gone_by_index(playground, veth, how):
    with nsnet.Netns.new(beside=playground) as other:
        around = Around(playground, lambda: leave(playground, other, veth[0], how))
        assert wait_link(around, veth[0], gone=True, timeout=PATIENCE) is None


def test_the_link_that_is_awaited_to_go_is_the_one_that_was_read(playground, veth):
    """It is another one already when the wait begins to listen."""
    def recreate():
        playground.del_link(veth[0])
        playground.add_bridge("left")

    around = Around(playground, lambda: playground.set_link("left", ifname="elsewhere"), early=recreate)
    assert wait_link(around, "left", gone=True, timeout=PATIENCE) is None


def test_a_link_that_is_renamed_is_not_gone_by_its_index(playground, veth):
    with nsnet.Netns.new(beside=playground) as other:
        around = Around(playground, lambda: leave(playground, other, veth[0], "renamed"))
        with pytest.raises(nsnet.KernelError, match="left.*gone") as late:
            wait_link(around, veth[0], gone=True, timeout=0.05)
        assert late.value.errno == errno.ETIMEDOUT


def test_leaving_a_bridge_is_not_being_gone(playground, pair):
    bridge = playground.add_bridge("br0", up=True)
    playground.set_link(pair[0], master=bridge)
    around = Around(playground, lambda: playground.set_link(pair[0], nomaster=True))
    with pytest.raises(nsnet.KernelError) as late:
        wait_link(around, "left", gone=True, timeout=0.05)
    assert late.value.errno == errno.ETIMEDOUT and around.looks > 1


def test_a_link_that_is_made_again_under_its_name_counts(playground, veth):
    def again():
        playground.del_link(veth[0])
        left, right = playground.add_veth("left", peer="right", queues=1, up=True)
        playground.set_link(right, up=True)
        made.append(left.index)

    made = []
    assert wait_link(Around(playground, again), "left", carrier=True, timeout=PATIENCE).index == made[0]


def test_a_link_by_its_index_that_is_deleted_cannot_come_any_more(playground, veth):
    around = Around(playground, lambda: playground.del_link(veth[0]))
    with pytest.raises(nsnet.NoSuchObject, match=r"wait for link left \(carrier=True\): .*deleted"):
        wait_link(around, veth[0], carrier=True, timeout=PATIENCE)
    index = playground.free_index()
    around = Around(playground, lambda: playground.perform([requests.add_bridge("br0", index=index)]),
                    lambda: playground.del_link("br0"))
    with pytest.raises(nsnet.NoSuchObject, match=f"link {index} .*deleted"):
        wait_link(around, index, up=True, timeout=PATIENCE)         # not there, there, deleted


def test_the_state_is_read_anew_after_an_overflow(playground, veth, monkeypatch):
    """So little room that what matters is lost for certain: only the overflow tells."""
    monkeypatch.setattr(Monitor.__init__, "__kwdefaults__", {"receive_bytes": 1})

    def storm():
        for number in range(50):
            playground.set_link("lo", ifalias=f"storm {number}")
        playground.del_link(veth[0])

    assert wait_link(Around(playground, storm), "left", gone=True, timeout=PATIENCE) is None


def test_events_of_other_links_make_nobody_look(playground, veth):
    def others():
        playground.add_bridge("br0", up=True)
        playground.set_link("lo", ifalias="not me")

    around = Around(playground, others)
    with pytest.raises(nsnet.KernelError):
        wait_link(around, "nowhere", timeout=0.05)
    assert around.looks == 1


@needs("ip")
def test_a_name_is_no_altname(playground, veth):
    iproute2(playground, "ip link property add dev left altname another")
    with pytest.raises(nsnet.KernelError) as late:
        wait_link(playground, "another", timeout=0)
    assert late.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("first", ["there", "later"])
def test_an_altname_that_is_too_long_for_a_name_is_waited_for(playground, veth, first):
    """It comes, its link comes up, and it goes though the link stays."""
    altname, (left, right) = "a name of its own, left", veth
    altname = altname.replace(" ", "-").replace(",", "")

    def give():
        playground.add_altname(left, altname)

    give() if first == "there" else threading.Timer(0.05, give).start()
    assert wait_link(playground, altname, timeout=PATIENCE).index == left.index
    threading.Timer(0.05, lambda: playground.set_link(right, up=True)).start()
    assert wait_link(playground, altname, carrier=True, timeout=PATIENCE).altnames == (altname,)
    threading.Timer(0.05, lambda: playground.del_altname(left, altname)).start()
    assert wait_link(playground, altname, gone=True, timeout=PATIENCE) is None
    assert playground.link(left).altnames == ()


@pytest.mark.parametrize("link, condition, words", [
    ("left", {"carrier": True, "operstate": "up"}, "wait for link left (carrier=True, operstate=up): Connection timed"
     " out (ETIMEDOUT): it has up=True, carrier=False, operstate="),
    ("nowhere", {}, "wait for link nowhere (there): Connection timed out (ETIMEDOUT): it is not there"),
    ("lo", {"gone": True}, "wait for link lo (gone): Connection timed out (ETIMEDOUT): it has up=True")])
def test_time_that_is_up_is_said_in_one_line(playground, veth, link, condition, words):
    began = time.monotonic()
    with pytest.raises(nsnet.KernelError) as late:
        wait_link(playground, link, timeout=0.03, **condition)
    assert time.monotonic() - began >= 0.03
    assert late.value.errno == errno.ETIMEDOUT and str(late.value).startswith(words) and "\n" not in str(late.value)


@pytest.mark.parametrize("link, condition, words", [
    ("lo", {"gone": True, "up": True}, "gone=True and up"), ("lo", {"operstate": "upp"}, "'upp'.*lowerlayerdown"),
    ("x" * 128, {}, "x" * 128), (None, {}, "None"), ("", {}, "''")])
def test_a_wait_that_cannot_be_meant_is_refused(playground, link, condition, words):
    with pytest.raises(nsnet.UsageError, match=words):
        wait_link(playground, link, timeout=0, **condition)


def test_a_wait_can_be_interrupted(playground):
    def interrupt(*_):
        raise KeyboardInterrupt

    def ring():                             # not before: of a socket under way nobody holds the number yet
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    with pytest.raises(KeyboardInterrupt), alarms(PATIENCE, interrupt):
        wait_link(Around(playground, ring), "nowhere", timeout=PATIENCE)


def test_a_trace_shows_events_too(playground, monkeypatch, capsys):
    with playground.monitor("link") as monitor:
        playground.add_bridge("br0")
        monkeypatch.setenv("NSNET_TRACE", "1")
        assert monitor.read(PATIENCE).object.ifname == "br0"
    said = capsys.readouterr().err
    assert said.startswith("<- RTM_NEWLINK") and "IFLA_IFNAME 'br0'" in said
