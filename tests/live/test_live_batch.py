"""Batches and errors on a real kernel: what is applied, what is told, and who may answer."""

import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading

import pytest

import nsnet
from live_helpers import IS_ROOT, as_nobody, ifnames, ip_link
from nsnet import requests, rtnl
from nsnet.exchange import Request


def add_link(attrs, words="made by hand"):
    """A request that no verb would make, as a fault to be refused by the kernel."""
    return Request(rtnl.RTM_NEWLINK, rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL, rtnl.LINK_BODY.encode(({}, attrs)), words)


# --- a batch ---

def test_a_batch_sends_nothing_before_it_ends(host):
    with host.batch() as net:
        bridge = net.add_bridge("br0")
        net.set_link(bridge, up=True)
        assert "br0" not in ifnames(host)
    assert "br0" in ifnames(host) and host.link("br0").up
    host.del_link(bridge)


def test_a_batch_that_is_left_by_an_exception_sends_nothing(host):
    with pytest.raises(RuntimeError):
        with host.batch() as net:
            net.add_bridge("br0")
            raise RuntimeError
    assert "br0" not in ifnames(host)


def test_an_empty_batch_is_no_batch(host):
    with host.batch() as net:
        pass
    assert net.outcomes == []


def test_a_batch_may_name_what_it_makes(host):
    with host.batch() as net:
        bridge = net.add_bridge("br0")
        left, right = net.add_veth("left", peer="right", master=bridge)
        net.add_address(right, "10.0.0.2/24")
        net.set_link(left, up=True)
        net.set_link(right, up=True)
        net.add_route("10.1.0.0/16", via="10.0.0.1", oif=right)
    assert ip_link(host, "left")["master"] == "br0"
    assert [route.oif for route in host.routes() if route.dst == "10.1.0.0/16"] == [right.index]
    host.del_link(left)
    host.del_link(bridge)


def test_a_batch_is_not_a_transaction(host):
    """The kernel goes on after an error: what follows is applied, the first error is raised, the others are `also`."""
    first = host.add_bridge("taken")
    with pytest.raises(nsnet.AlreadyExists) as refused:
        with host.batch() as net:
            before = net.add_bridge("before")
            net.add_bridge("taken")
            net.set_link(999999, up=True)
            after = net.add_bridge("after")
            net.add_route("default", via="203.0.113.1")
    error = refused.value
    assert {"before", "after"} <= set(ifnames(host))
    assert error.request == "add bridge taken"
    assert [type(other) for other in error.also] == [nsnet.NoSuchObject, nsnet.NetlinkError]
    assert error.also[1].errno == errno.ENETUNREACH
    for link in (first, before, after):
        host.del_link(link)


def test_a_batch_that_fails_at_its_last_request_says_so(host):
    """The last request carries the acknowledgement: its error must not pass for the end of a good batch."""
    with pytest.raises(nsnet.NoSuchObject) as refused:
        with host.batch() as net:
            bridge = net.add_bridge("br0")
            net.set_link(999999, up=True)
    assert refused.value.also == [] and "br0" in ifnames(host)
    host.del_link(bridge)


def test_a_batch_of_300_verbs_is_applied_whole_and_in_order(playground):
    with playground.batch() as net:
        bridge = net.add_bridge("br0")
        for number in range(299):
            net.add_address(bridge, f"10.{number // 250}.{number % 250}.1/24")
    found = [item.address for item in playground.addresses() if item.index == bridge.index]
    assert found == [f"10.{number // 250}.{number % 250}.1/24" for number in range(299)]
    assert len(net.outcomes) == 300 and all(outcome.error is None for outcome in net.outcomes)


def test_errors_in_every_chunk_of_a_long_batch_are_told(playground):
    """300 failures: each is there, in order, although they come in several exchanges."""
    bridge = playground.add_bridge("br0")
    playground.add_address(bridge, "10.0.0.1/24")
    with pytest.raises(nsnet.AlreadyExists) as refused:
        with playground.batch() as net:
            for _ in range(450):
                net.add_address(bridge, "10.0.0.1/24")
    assert len(refused.value.also) == 449
    assert {type(error) for error in refused.value.also} == {nsnet.AlreadyExists}
    assert [item.address for item in playground.addresses() if item.index == bridge.index] == ["10.0.0.1/24"]


def test_a_list_within_a_batch_of_changes_sees_what_was_before_it(host):
    with host.batch() as net:
        bridge = net.add_bridge("br0")
        net.add(requests.list_links())
        net.set_link(bridge, up=True)
    names = [rtnl.LINK_BODY.decode(reply.payload).attrs["ifname"] for reply in net.outcomes[1].replies]
    assert "br0" in names and host.link(bridge).up
    host.del_link(bridge)


# --- the kernel's words ---

def test_the_kernels_sentence_reaches_the_user(host):
    bridge = host.add_bridge("br0", up=True)
    host.add_address(bridge, "10.0.0.1/24")
    cases = [
        (lambda: host.add_address(bridge, "10.0.0.1/24"), nsnet.AlreadyExists, "ipv4: Address already assigned"),
        (lambda: host.del_address(bridge, "10.0.0.9/24"), nsnet.NoSuchObject, "ipv4: Address not found"),
        (lambda: host.add_route("default", via="203.0.113.9"), nsnet.NetlinkError, "Nexthop has invalid gateway"),
        (lambda: host.set_link(bridge, master=bridge), nsnet.NetlinkError, "Can not enslave a bridge to a bridge"),
    ]
    for provoke, kind, sentence in cases:
        with pytest.raises(kind) as refused:
            provoke()
        assert refused.value.extack == sentence and sentence in str(refused.value)
        assert type(refused.value) is kind
    host.del_link(bridge)


@pytest.mark.parametrize("attrs, path", [
    ({"ifname": "bad0", 10: b"\1\2", "linkinfo": {"kind": "bridge"}}, "IFLA_MASTER"),
    ({"ifname": "bad0", 4: b"\1", "linkinfo": {"kind": "bridge"}}, "IFLA_MTU"),
    ({3: b"a-name-longer-than-16-bytes\0", "linkinfo": {"kind": "bridge"}}, "IFLA_IFNAME"),
    ({"ifname": "bad0", "linkinfo": {"kind": "bridge", "data": {5: b"\1"}}},
     "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_STP_STATE"),
    ({"ifname": "bad0", "linkinfo": {"kind": "bridge", "data": {1: b"\1\2"}}},
     "IFLA_LINKINFO.IFLA_INFO_DATA.IFLA_BR_FORWARD_DELAY"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_the_kernel_blames_an_attribute_by_its_path(host, attrs, path):
    """Offsets from the extended ACK (NLMSGERR_ATTR_OFFS), found again in the request that we sent."""
    with pytest.raises(nsnet.NetlinkError) as refused:
        with host.batch() as net:
            net.add(add_link(attrs))
    assert refused.value.attribute == path and path in str(refused.value)
    assert refused.value.extack
    assert "bad0" not in ifnames(host)


def test_blame_goes_to_the_right_request_of_a_batch(host):
    with pytest.raises(nsnet.NetlinkError) as refused:
        with host.batch() as net:
            bridge = net.add_bridge("br0")
            net.add(add_link({"ifname": "bad0", 10: b"\1\2", "linkinfo": {"kind": "bridge"}}, "the bad one"))
            net.set_link(bridge, up=True)
    assert (refused.value.request, refused.value.attribute) == ("the bad one", "IFLA_MASTER")
    assert refused.value.also == [] and host.link(bridge).up
    host.del_link(bridge)


# --- which error ---

def test_what_exists_already_is_a_file_exists_error(host):
    bridge = host.add_bridge("br0")
    for provoke in (lambda: host.add_bridge("br0"), lambda: host.add_veth("br0", peer="other"),
                    lambda: host.set_link(host.add_bridge("br1"), ifname="br0")):
        with pytest.raises(FileExistsError) as refused:
            provoke()
        assert isinstance(refused.value, nsnet.AlreadyExists) and refused.value.errno == errno.EEXIST
    host.del_link(bridge)
    host.del_link("br1")


def test_what_is_not_there_is_no_such_object(host):
    bridge = host.add_bridge("br0", up=True)
    for provoke in (lambda: host.link("nobody"), lambda: host.link(999999), lambda: host.set_link("nobody", up=True),
                    lambda: host.set_link(999999, up=True), lambda: host.del_link("nobody"),
                    lambda: host.del_link(999999),
                    lambda: host.del_address(bridge, "10.0.0.1/24"), lambda: host.del_route("10.9.0.0/16", oif=bridge),
                    lambda: host.add_veth("left", peer="right", master="nobody"),
                    lambda: host.add_address("nobody", "10.0.0.1/24"),
                    lambda: host.add_route("10.9.0.0/16", oif=999999)):
        with pytest.raises(nsnet.NoSuchObject):
            provoke()
    host.del_link("nobody", missing_ok=True)
    host.del_link(999999, missing_ok=True)
    host.del_link(bridge)


def test_a_namespace_of_somebody_more_powerful_is_not_permitted():
    """An ordinary user asks its machine's own namespace, where it may not; root asks as a user without power."""
    def ask():
        try:
            with nsnet.Netns.current() as here:
                here.add_bridge("nsnet-never")
        except nsnet.NotPermitted as error:
            return f"{errno.errorcode[error.errno]} {isinstance(error, PermissionError)} {error.request}"
        return "it was made"

    assert (as_nobody(ask) if IS_ROOT else ask()) == "EPERM True add bridge nsnet-never"


@pytest.mark.parametrize("verb, arguments, value", [
    ("add_bridge", {"ifname": "a-name-of-17-bytes"}, "a-name-of-17-bytes"), ("add_bridge", {"ifname": "a/b"}, "a/b"),
    ("add_bridge", {"ifname": "x%d"}, "x%d"), ("add_bridge", {"ifname": "br0", "mtu": 12}, "12"),
    ("add_bridge", {"ifname": "br0", "nonsense": 1}, "nonsense"),
    ("add_bridge", {"ifname": "br0", "lladdr": "01:00:00:00:00:00"}, "01:00:00:00:00:00"),
    ("add_veth", {"ifname": "same", "peer": "same"}, "same"),
    ("add_veth", {"ifname": "a", "peer": "b", "queues": 0}, "0"),
    ("set_link", {"link": 1}, "link 1"), ("set_link", {"link": 1, "ifalias": "x" * 256}, "xxx"),
    ("set_link", {"link": -4, "up": True}, "-4"),
    ("add_address", {"link": 1, "address": "10.0.0.1/33"}, "10.0.0.1/33"),
    ("add_address", {"link": 1, "address": "10.0.0.1"}, "10.0.0.1"),
    ("add_route", {"dst": "10.0.0.1/24", "via": "10.0.0.1"}, "10.0.0.1/24"),
    ("add_route", {"dst": "default"}, "default"),
    ("add_route", {"dst": "fd00::/64", "via": "10.0.0.1"}, "10.0.0.1"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_meant_is_refused_before_the_kernel_hears_of_it(host, monkeypatch, verb, arguments, value):
    monkeypatch.setattr(nsnet.Netns, "perform", None)       # calling it would be a TypeError
    with pytest.raises(nsnet.UsageError) as refused:
        getattr(host, verb)(**arguments)
    assert value in str(refused.value) and "\n" not in str(refused.value)
    monkeypatch.undo()


# --- who answers ---

def forged_ack(seq, port):
    """An acknowledgement as the kernel would send it: nlmsghdr, errno 0, the header of the request."""
    return struct.pack("=IHHIIi", 36, 2, 0, seq, port, 0) + struct.pack("=IHHII", 16, 16, 5, seq, port)


def test_a_forger_inside_the_namespace_is_refused_by_the_kernel(host):
    """Root of the namespace sends to our port: the socket is connected to the kernel, so nobody else's bytes get in."""
    with host.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as forger:
        with host.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as gullible:
            gullible.bind((0, 0))
            forger.sendto(forged_ack(1, gullible.getsockname()[0]), gullible.getsockname())
            assert gullible.recv(100) == forged_ack(1, gullible.getsockname()[0])       # the forger is able to
        for seq in range(40):
            with pytest.raises(ConnectionRefusedError):
                forger.sendto(forged_ack(seq, host.socket_of_rtnl.port), (host.socket_of_rtnl.port, 0))
    with pytest.raises(nsnet.NoSuchObject):
        host.set_link(999999, up=True)


def test_a_forger_does_not_disturb_a_talk_under_way(playground):
    """While somebody keeps forging, every question is answered by the kernel and truly."""
    stop = threading.Event()
    delivered = []
    port = playground.socket_of_rtnl.port
    with playground.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as forger:
        def forge():
            seq = 0
            while not stop.is_set():
                seq = (seq + 1) % 400
                try:
                    forger.sendto(forged_ack(seq, port), (port, 0))
                    delivered.append(seq)
                except ConnectionRefusedError:
                    pass

        thread = threading.Thread(target=forge)
        thread.start()
        try:
            for number in range(60):
                with pytest.raises(nsnet.NoSuchObject):
                    playground.set_link(999999, up=True)
                assert [link.ifname for link in playground.links() if link.index == 1] == ["lo"]
        finally:
            stop.set()
            thread.join()
    assert delivered == []


# --- interrupted ---

class Alarm(Exception):
    """Raised by a signal handler, in the middle of whatever it is."""


def test_a_talk_that_is_interrupted_leaves_the_socket_usable(playground):
    """KeyboardInterrupt may come at any bytecode of a talk; afterwards answers and questions still belong together."""
    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    names = [f"p{number}" for number in range(100)]
    with playground.batch() as net:
        for left, right in zip(names[::2], names[1::2]):
            net.add_veth(left, peer=right, queues=1)
    expected = sorted(link.ifname for link in playground.links())
    interrupted = 0
    try:
        for turn in range(150):
            try:
                signal.setitimer(signal.ITIMER_REAL, (turn % 50 + 1) * 0.00002)
                playground.links()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if turn % 5 == 0:
                assert sorted(link.ifname for link in playground.links()) == expected
                with pytest.raises(nsnet.NoSuchObject):
                    playground.set_link(999999, up=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0


def test_a_signal_handler_that_returns_does_not_end_a_talk(playground):
    """EINTR in the middle of a wait is not an error; the deadline still holds."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for number in range(30):
            bridge = playground.add_bridge(f"br{number}")
            assert playground.link(bridge).ifname == f"br{number}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rung


def test_a_talk_that_gets_no_answer_ends_at_its_deadline(host, monkeypatch):
    """A request without any acknowledgement: the kernel stays silent, and the caller is told that it cannot know."""
    monkeypatch.setattr(rtnl, "NLM_F_ACK", 0)
    with pytest.raises(nsnet.KernelError) as late:
        host.perform([requests.set_link(1, "lo", up=True)], timeout=0.05)
    assert late.value.errno == errno.ETIMEDOUT
    monkeypatch.undo()
    host.set_link("lo", up=True)
    assert host.link("lo").up


def test_another_hold_on_the_namespace_may_be_closed(host):
    again = nsnet.Netns.open(f"/proc/self/fd/{host.fd}")
    again.close()
    assert host.link("lo").up
    assert select.select([host.socket_of_rtnl], [], [], 0)[0] == []         # no stray answer waits


def test_a_batch_whose_block_has_ended_takes_no_more(playground):
    with playground.batch() as net:
        net.add_bridge("br0")
    with pytest.raises(nsnet.UsageError, match="another batch"):
        net.add_bridge("br1")
    late = playground.batch()
    late.add_bridge("br1")
    late.send()                                             # without `with`, as often as one likes
    late.add_bridge("br2")
    late.send()
    assert {link.ifname for link in playground.links(kind="bridge")} == {"br0", "br1", "br2"}


def test_a_batch_that_failed_tells_what_became_of_each_request(playground):
    playground.add_bridge("br0")
    net = playground.batch()
    with pytest.raises(nsnet.AlreadyExists):
        with net:
            net.add_bridge("br1")
            net.add_bridge("br0")
            net.add_bridge("br2")
    assert [outcome.error is None for outcome in net.outcomes] == [True, False, True]


def test_a_namespace_that_is_closed_before_the_batch_is_sent_is_still_the_one_that_was_meant(host):
    """By a descriptor that stays open; its number alone would by then be another namespace's."""
    one, other = nsnet.Netns.new(beside=host), nsnet.Netns.new(beside=host)
    with other, one, nsnet.Netns.open(f"/proc/self/fd/{one.fd}") as again:
        with host.batch() as net:
            net.add_veth("nsnet-a0", peer="nsnet-a1", peer_netns=again)
            again.close()
            others = [other.hold() for _ in range(3)]       # take the numbers that became free
        assert [link.ifname for link in one.links()] == ["lo", "nsnet-a1"]
        assert [link.ifname for link in other.links()] == ["lo"]
        for held in others:
            held.close()
        host.del_link("nsnet-a0")


def test_a_namespace_is_let_go_with_its_last_reference(host):
    """Without the garbage collector, which comes when it likes."""
    gc.disable()
    try:
        held = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            nsnet.Netns.new(beside=host).hold()
        assert len(os.listdir("/proc/self/fd")) == held
    finally:
        gc.enable()


def test_a_flag_cannot_be_set_to_false(playground):
    """To be there turns it on: so it must be left out."""
    with pytest.raises(nsnet.UsageError, match="expected True"):
        playground.add_vxlan("vx0", 5, gbp=False)


@pytest.mark.parametrize("name", ["\ud800", "", "x" * 128])
def test_a_name_that_no_link_can_have_is_refused(playground, name):
    with pytest.raises(nsnet.UsageError):
        playground.set_link(name, up=True)


def test_what_is_no_namespace_is_refused(playground):
    for verb in (lambda: playground.add_veth("v0", peer="v1", peer_netns="x"), lambda: playground.add_ifb("i0", netns="x"),
                 lambda: playground.set_nsid("x", 1), lambda: playground.set_link("lo", netns="x")):
        with pytest.raises(nsnet.UsageError, match="'x'.*expected a Netns"):
            verb()


def test_a_trace_that_cannot_be_written_changes_nothing(playground, monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setenv("NSNET_TRACE", "1")
    for number, stderr in enumerate((None, Full())):
        monkeypatch.setattr(sys, "stderr", stderr)
        playground.add_bridge(f"br{number}")
    monkeypatch.undo()
    assert len(playground.links(kind="bridge")) == 2
