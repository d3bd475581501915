"""Replies come from the kernel alone: root of a container forges all others, and none is taken for an answer.

Three ways lead to a socket that somebody else's root can see. Sending to its port: refused, since the socket is
connected to the kernel. Sending before it is connected: thrown away when it is. And having the kernel send: a change of
a link with NLM_F_ECHO is reported to a port number in the link's namespace, whoever has it there; the socket's filter
drops that.
"""

import errno
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading

import pyroute2
import pytest

import nsnet
from live_helpers import (CLONE_NEWNET, CLONE_NEWUSER, LIBC, NS_GET_USERNS, PATIENCE, Worker, check, inside,
                          links_of)
from nsnet import kernel, requests, rtnl

HEADER = struct.Struct("=IHHII")                # struct nlmsghdr
IFINFO = struct.Struct("=BxHiII")               # struct ifinfomsg
WINDOW = struct.Struct("=II")                   # the first and last sequence number of the talk under way
PAIRS = 150                                     # so many veth pairs make a dump of many parts
SWEEP = 2048                                    # sequence numbers from 0 that are forged whatever the talk is
NETLINK = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def message(type, flags, seq, port, payload=b""):
    return HEADER.pack(HEADER.size + len(payload), type, flags, seq, port) + payload


def false_link(flags, seq, port):
    """A link that is not there, as the kernel would list it."""
    name = struct.pack("=HH8s", 12, 3, b"forged0\0")
    return message(rtnl.RTM_NEWLINK, flags, seq, port, IFINFO.pack(0, 1, 4242, rtnl.IFF_UP, 0) + name)


def forgeries(seq, port):
    """Every kind of message that could pass for an answer to `seq`, alone and together."""
    multi = rtnl.NLM_F_MULTI
    request = HEADER.pack(16, rtnl.RTM_GETLINK, 5, seq, port)
    done = message(rtnl.NLMSG_DONE, multi, seq, port, bytes(4))
    return (
        false_link(multi, seq, port) + done,
        false_link(0, seq, port),
        false_link(multi | rtnl.NLM_F_DUMP_INTR, seq, port),
        message(rtnl.NLMSG_ERROR, 0, seq, port, struct.pack("=i", 0) + request),
        message(rtnl.NLMSG_ERROR, 0, seq, port, struct.pack("=i", -errno.EPERM) + request),
        done,
        message(rtnl.NLMSG_OVERRUN, 0, seq, port),
    )


def route_ports():
    """The ports of the NETLINK_ROUTE sockets in this namespace, the kernel's own (0) left out."""
    with open("/proc/net/netlink", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return {int(row[2]) for row in rows if row[1] == "0" and row[2] != "0"}


class Forger(Worker):
    """A process that is root of the container, and nothing more, and sends forgeries until the `with` block ends.

    It finds the ports by itself. `told` is the sequence numbers of the talk under way, which a real forger must guess.
    At the end `said` is what it counted: {"ports": [...], "rounds": n, "delivered": n, "ECONNREFUSED": n, ...}.
    """

    def __init__(self, netns, groups=0):
        self.told = mmap.mmap(-1, mmap.PAGESIZE)            # shared with the child

        def work(channel):
            owner = fcntl.ioctl(netns.fd, NS_GET_USERNS)
            check(LIBC.setns(owner, CLONE_NEWUSER))         # also for root of the machine: this one has no power there
            check(LIBC.setns(netns.fd, CLONE_NEWNET))
            return forge(self.told, channel, groups)

        super().__init__(work)

    def watch(self, netns):
        """Tell it of each talk of this namespace, before the talk begins."""
        real = netns.socket_of_rtnl.talk

        def talk(exchange_from, *options):
            def make(first_seq):
                exchange = exchange_from(first_seq)
                WINDOW.pack_into(self.told, 0, exchange.first_seq, exchange.last_seq)
                return exchange
            return real(make, *options)

        netns.socket_of_rtnl.talk = talk

    def __exit__(self, *details):
        super().__exit__(*details)
        self.told.close()


def forge(told, channel, groups):
    """The forger's whole life: every kind for 0, the numbers near the one in use, and the sweep, again and again."""
    count = {"ports": [], "rounds": 0, "delivered": 0}
    sweep = 0
    with socket.socket(*NETLINK) as forger:
        forger.setblocking(False)
        forger.bind((0, 0))
        own = forger.getsockname()[0]
        while not select.select([channel], [], [], 0)[0] or count["rounds"] == 0:
            ports = route_ports() - {own}
            count["ports"] = sorted(ports.union(count["ports"]))
            for _ in range(8):
                first, last = WINDOW.unpack_from(told)
                near = range(first, min(last, first + 64) + 3)
                for seq in {0, *near, *range(sweep, sweep + 64)}:
                    for port in ports:
                        for forged in forgeries(seq, port):
                            try:
                                forger.sendto(forged, (0 if groups else port, groups))
                                count["delivered"] += 1
                            except OSError as error:
                                name = errno.errorcode[error.errno]
                                count[name] = count.get(name, 0) + 1
                sweep = (sweep + 64) % SWEEP
            if count["rounds"] == 0:
                channel.send(b"1")
            count["rounds"] += 1
    return count


@pytest.fixture
def box(nothing_grows):
    """A container, in its namespace several hundred links of known names and indexes."""
    with nsnet.spawn(["/bin/cat"], new={"user", "net"}, loopback=False, stdin=nsnet.PIPE) as container:
        with container.netns.batch() as net:
            for number in range(PAIRS):
                net.add_veth(f"a{number}", peer=f"b{number}", queues=1)
        yield container
        container.kill()
        container.wait(PATIENCE)


def use(netns, rounds):
    """Operations of every kind, each with its exact result known. Returns how many there were."""
    expected = links_of(netns)
    assert len(expected) >= 2 * PAIRS + 1
    operations = 0
    for number in range(rounds):
        name = f"a{number % PAIRS}"
        assert links_of(netns) == expected
        link = netns.link(name)
        assert (link.ifname, link.index) == (name, expected[name])
        assert netns.link(expected[name]).ifname == name
        netns.set_link(name, mtu=1000 + number)
        assert netns.link(link).mtu == 1000 + number
        with pytest.raises(nsnet.NoSuchObject):             # a forged acknowledgement would say that it went well
            netns.set_link(999999, up=True)
        netns.add_address(name, "10.0.0.1/24")
        assert [item.address for item in netns.addresses() if item.index == link.index] == ["10.0.0.1/24"]
        with pytest.raises(nsnet.AlreadyExists) as refused:
            with netns.batch() as net:
                net.add_address(link, "10.0.0.1/24")
                net.add_address(link, "10.0.1.1/24")
                net.del_address(link, "10.0.1.1/24")
        assert refused.value.also == []
        netns.del_address(link, "10.0.0.1/24")
        operations += 10
    assert netns.addresses() == []
    return operations


# --- sending to our port ---

def test_no_forgery_of_container_root_reaches_us_and_no_operation_fails(box):
    with Forger(box.netns) as forger:
        forger.watch(box.netns)
        operations = use(box.netns, 60)
    said = forger.said
    assert box.netns.socket_of_rtnl.port in said["ports"], said
    assert operations == 600 and said["rounds"] > 1
    assert set(said) == {"ports", "rounds", "delivered", "ECONNREFUSED"}, said
    assert said["delivered"] == 0 and said["ECONNREFUSED"] > SWEEP, said
    assert select.select([box.netns.socket_of_rtnl], [], [], 0)[0] == []


PYROUTE2 = """
import json, signal, sys, pyroute2
true = int(sys.argv[1])
count = {"right": 0, "forged": 0, "short": 0, "failed": 0}
def late(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, late)
for _ in range(200):
    signal.setitimer(signal.ITIMER_REAL, 0.5)       # it may have lost the answer, and waits for ever
    try:
        with pyroute2.IPRoute() as ipr:
            names = [link.get_attr("IFLA_IFNAME") for link in ipr.get_links()]
            count["forged" if "forged0" in names else "short" if len(names) != true else "right"] += 1
    except Exception:
        count["failed"] += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    if count["forged"]:
        break
print(json.dumps(count))
"""


def test_the_same_forger_in_the_same_place_deceives_a_library_that_does_not_connect(box):
    """So the forger above is a real one: pyroute2 0.9 lists the link that it made up."""
    site = os.path.dirname(os.path.dirname(pyroute2.__file__))
    with Forger(box.netns) as forger:
        WINDOW.pack_into(forger.told, 0, 0xFF, 0xFF + 8)                    # where pyroute2 begins to count
        done = inside(box.netns, [sys.executable, "-c", PYROUTE2, 2 * PAIRS + 1], env={"PYTHONPATH": site})
        operations = use(box.netns, 2)                                      # and we are not, meanwhile
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["forged"] > 0, (done.stdout, forger.said)
    assert forger.said["delivered"] > 0 and operations == 20


def test_what_a_forger_multicasts_does_not_reach_us(box):
    """Who listens to the group gets it; we listen to none."""
    with box.netns.socket(*NETLINK) as listener:
        listener.bind((0, 1))                                               # RTMGRP_LINK
        listener.settimeout(PATIENCE)
        with Forger(box.netns, groups=1) as forger:
            forger.watch(box.netns)
            assert use(box.netns, 5) == 50
        with pytest.raises(OSError) as overrun:                             # it was far too much for one queue
            listener.recv(1 << 16)
        heard = {HEADER.unpack_from(listener.recv(1 << 16))[1] for _ in range(50)}
    assert overrun.value.errno == errno.ENOBUFS and {rtnl.NLMSG_ERROR, rtnl.NLMSG_DONE, rtnl.RTM_NEWLINK} <= heard
    assert set(forger.said) == {"ports", "rounds", "delivered"} and forger.said["delivered"] > SWEEP
    assert select.select([box.netns.socket_of_rtnl], [], [], 0)[0] == []


# --- sending before it is connected ---

def test_what_was_sent_before_the_socket_was_connected_is_thrown_away(playground):
    """Between getting a port and being connected a socket takes anything; full, it would lose the kernel's answers.

    That is a moment within one system call. Here it lasts, and the queue is full: the worst that can have happened.
    """
    early = playground.socket(*NETLINK)
    early.bind((0, 0))
    port = early.getsockname()[0]
    stuffed = 0
    with playground.socket(*NETLINK) as forger:
        forger.setblocking(False)
        for seq in range(10000):
            try:
                for forged in forgeries(seq % 10, port):
                    forger.sendto(forged, (port, 0))
                    stuffed += 1
            except BlockingIOError:                                         # the queue is full
                break
        assert stuffed > 70, "sequence numbers that the first talks will use"
        with nsnet.Netns(kernel.RtnlSocket(early.detach())) as netns:
            assert select.select([netns.socket_of_rtnl], [], [], 0)[0] == []
            with pytest.raises(ConnectionRefusedError):
                forger.sendto(forgeries(1, port)[0], (port, 0))
            assert netns.socket_of_rtnl.port == port
            assert links_of(netns) == links_of(playground)
            with pytest.raises(nsnet.NoSuchObject):
                netns.set_link(999999, up=True)


def test_a_forger_that_waits_for_the_port_to_appear_gains_nothing(playground):
    """The port is the process id where that is free: a forger can send to it before it exists."""
    stop, delivered, refused = threading.Event(), [], []
    with playground.socket(*NETLINK) as forger:
        forger.bind((1, 0))                                                 # lest it gets that port itself
        forged = forgeries(1, os.getpid())[0]
        playground.fd
        playground.socket_of_rtnl.close()                                   # so that its port is free again

        def forge_on():
            while not stop.is_set():
                try:
                    forger.sendto(forged, (os.getpid(), 0))
                    delivered.append(1)
                except OSError as error:
                    refused.append(error.errno)

        thread = threading.Thread(target=forge_on)
        thread.start()
        try:
            for _ in range(300):
                with playground.socket(*NETLINK) as made:
                    netns_socket = kernel.RtnlSocket(made.detach())
                with nsnet.Netns(netns_socket) as netns:
                    assert netns.socket_of_rtnl.port == os.getpid()
                    with pytest.raises(nsnet.NoSuchObject):
                        netns.set_link(999999, up=True)
        finally:
            stop.set()
            thread.join()
    assert set(refused) == {errno.ECONNREFUSED}


# --- having the kernel send ---

class Echo:
    """Changes links of a namespace from another, and has the kernel report it to a port number of its choice there."""

    def __init__(self, victim, port):
        self.victim = victim
        with nsnet.Netns.new(beside=victim) as lair:
            lair.fd
            lair.socket_of_rtnl.close()                                     # in a new namespace it may have that port
            self.socket = lair.socket(*NETLINK)
        self.socket.bind((port, 0))
        self.socket.settimeout(PATIENCE)

    def add_link(self, ifname, seq):
        attrs = {"ifname": ifname, "net_ns_fd": self.victim.fd, "linkinfo": {"kind": "bridge"}}
        self.ask(rtnl.RTM_NEWLINK, rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL, seq, rtnl.LINK_BODY.encode(({}, attrs)))

    def ask(self, type, flags, seq, payload):
        self.socket.send(message(type, flags | rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK | rtnl.NLM_F_ECHO, seq, 0, payload))
        while True:
            answer = self.socket.recv(1 << 16)
            if HEADER.unpack_from(answer)[1] == rtnl.NLMSG_ERROR:
                assert struct.unpack_from("=i", answer, 16) == (0,)
                return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@pytest.fixture
def trusting(playground):
    """A socket that is connected to the kernel and has no filter, and that the kernel can be made to deceive."""
    with playground.socket(*NETLINK) as made:
        made.connect((0, 0))
        with Echo(playground, made.getsockname()[0]) as echo:
            echo.add_link("proof", 77)
            if not select.select([made], [], [], 0)[0]:
                pytest.skip("this kernel does not echo changes of links (before Linux 6.2)")
            got, sender = made.recvfrom(1 << 16)
            assert sender[0] == 0 and HEADER.unpack_from(got)[1:4:2] == (rtnl.RTM_NEWLINK, 77)
        playground.del_link("proof")
    return playground


def test_a_notification_that_container_root_has_the_kernel_send_is_no_answer(trusting):
    """It comes from the kernel, with the sequence number of our question; only it is about another link."""
    with Echo(trusting, trusting.socket_of_rtnl.port) as echo:
        for number, question in enumerate((lambda: trusting.link("lo").ifname, lambda: trusting.link(1).ifname,
                                           lambda: [name for name in links_of(trusting) if name == "lo"][0])):
            for seq in range(number * 4, number * 4 + 8):
                echo.add_link(f"evil{number}.{seq}", seq)
            assert question() == "lo"
        found = trusting.links()
        assert len({link.index for link in found}) == len(found) == 25
        for link in found[1:]:
            echo.ask(rtnl.RTM_DELLINK, 0, 1, IFINFO.pack(0, 0, link.index, 0, 0)
                     + rtnl.LINK.encode({"target_netnsid": nsid_of(echo, trusting)}))
    assert [link.ifname for link in trusting.links()] == ["lo"]
    assert select.select([trusting.socket_of_rtnl], [], [], 0)[0] == []


def nsid_of(echo, netns):
    """The number by which the echo's namespace knows another, given if there is none."""
    payload = rtnl.NSID_BODY.encode(({}, {"fd": netns.fd}))
    give = rtnl.NSID_BODY.encode(({}, {"fd": netns.fd, "nsid": 7}))
    echo.socket.send(message(rtnl.RTM_NEWNSID, rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK, 1, 0, give))
    echo.socket.recv(1 << 16)
    echo.socket.send(message(rtnl.RTM_GETNSID, rtnl.NLM_F_REQUEST, 2, 0, payload))
    return rtnl.NSID_BODY.decode(echo.socket.recv(1 << 16)[16:]).attrs["nsid"]


def test_notifications_of_the_kernel_do_not_fill_the_queue(trusting):
    """Full, it would lose the answer to what we ask next (ENOBUFS)."""
    with Echo(trusting, trusting.socket_of_rtnl.port) as echo:
        for number in range(150):
            echo.add_link(f"evil{number}", 0)
    trusting.set_link("lo", mtu=60000)
    assert len(trusting.links()) == 151 and trusting.link("lo").mtu == 60000


def test_a_container_that_deletes_its_end_of_a_veth_does_not_answer_for_the_host(trusting):
    """The far end's notification goes to the host, with port and number chosen in the container."""
    with nsnet.Netns.new(beside=trusting) as container:
        bridge = trusting.add_bridge("br0")
        pairs = [trusting.add_veth(f"host{number}", peer=f"eth{number}", peer_netns=container) for number in range(2)]
        container.fd
        container.socket_of_rtnl.close()
        with container.socket(*NETLINK) as forger:
            forger.bind((trusting.socket_of_rtnl.port, 0))
            with trusting.socket(*NETLINK) as listener:
                listener.bind((0, 1))
                for seq, (_, eth) in enumerate(pairs, trusting.socket_of_rtnl._next_seq):
                    forger.send(message(rtnl.RTM_DELLINK, rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK | rtnl.NLM_F_ECHO, seq, 0,
                                        IFINFO.pack(0, 0, eth.index, 0, 0)))
                assert HEADER.unpack_from(listener.recv(1 << 16))[1] == rtnl.RTM_DELLINK    # it is gone from the host
        assert trusting.link("br0").index == bridge.index
        assert trusting.link(bridge.index).ifname == "br0"
        assert sorted(links_of(trusting)) == ["br0", "lo"]


def test_notifications_during_a_dump_are_not_part_of_it(trusting):
    """Somebody makes and deletes links here all the time, and each time the kernel tells us so by our number."""
    with trusting.batch() as net:
        for number in range(PAIRS):
            net.add_veth(f"a{number}", peer=f"b{number}", queues=1)
    expected = links_of(trusting)
    stop, made, failed = threading.Event(), [], []
    listed = requests.list_links()
    other = nsnet.Netns.open(f"/proc/self/fd/{trusting.fd}")
    with other, Echo(trusting, trusting.socket_of_rtnl.port) as echo:
        def forge_on():
            try:
                while not stop.is_set():
                    echo.add_link("evil", trusting.socket_of_rtnl._next_seq - 1)
                    other.del_link("evil")
                    made.append(1)
            except BaseException as error:                  # noqa: B902  told to the test
                failed.append(error)

        thread = threading.Thread(target=forge_on)
        thread.start()
        try:
            for number in range(2000):
                outcome, = trusting.perform([listed])
                names = [rtnl.LINK_BODY.view(reply.payload).attrs["ifname"] for reply in outcome.replies]
                assert {(reply.type, reply.flags & rtnl.NLM_F_MULTI) for reply in outcome.replies} == {
                    (rtnl.RTM_NEWLINK, rtnl.NLM_F_MULTI)}
                assert names.count("evil") <= 1 and len(expected) <= len(names) <= len(expected) + 1
                assert trusting.link("a7").index == expected["a7"]
                assert trusting.link(expected["a7"]).ifname == "a7"
                if number >= 50 and len(made) >= 60:
                    break
        finally:
            stop.set()
            thread.join()
    assert not failed and len(made) >= 60
