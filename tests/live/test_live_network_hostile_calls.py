"""Calls that come in an awkward order, at an awkward moment, or fail half way: what a network owes whoever makes them.

Each test is a way in which one once lost, changed, or gave away what it was not to.
"""

import os
import signal
import sys
import threading
import time

import pytest

import nsnet
from hostile_helpers import (CONTAINER, SILENT, SLEEP, claim_of, declaration_file, declared, entries_of, process_in,
                             resident, script, words)
from live_helpers import (PATIENCE, claims, has_ended, inside, ip_link, is_gone, links_of, needs, read_inside,
                          run_nsnet)
from nsnet.network.base import Base


def process_network(host, **options):
    """Of the lifetime of this process."""
    return nsnet.Network("br0", address="10.0.0.1/24", netns=host, **options)


# --- repair ---

def test_killed_while_it_attaches_anew_the_next_up_finishes(host, state):
    """The new veth has the name, the claim had the old one's index."""
    with resident(host) as (there, pid):
        one = {"name": "a", "pid": pid, "address": "10.0.0.2/24", "host_ifname": "va"}
        network = declared(host, one)
        network.up()
        host.del_link("va")

        def die(step):
            if step.name == "veth":
                os._exit(9)
        child = os.fork()
        if child == 0:
            try:
                declared(host, one, on_step=die).up()
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        found = declared(host, one).up()
        assert words(found) == ["a: it was not attached to the end"]
        assert list(entries_of(state)) == ["a"] and declared(host, one).faults() == []
        assert "10.0.0.2" in read_inside(there, "/proc/net/fib_trie")
        network.down()


def test_an_attachment_of_another_process_whose_namespace_ended_is_dropped(host, state):
    """It was attached by a call, so that nobody else knows where its namespace was; its veth went with it."""
    network = declared(host)
    network.up()
    with nsnet.Netns.new(beside=host) as box:
        script(host, state, """
box = nsnet.Netns.open(f"/proc/self/fd/{sys.argv[1]}")
nsnet.Network("br0", address="10.0.0.1/24", lifetime="declared").attach(box, name="a", host_ifname="va")
os._exit(0)
""", str(box.fd), pass_fds=[box.fd])
    if "va" in links_of(host):                              # the kernel is late
        host.del_link("va", missing_ok=True)
    assert [(fault.where, fault.kind) for fault in network.up()] == [("a", "detach")]
    assert network.up() == [] and entries_of(state) == {}
    network.down()


def test_the_last_attachment_that_is_not_declared_any_more_takes_nothing_with_it(host, state):
    """Lifetime "attachments" ends with a detach, not in the middle of a repair."""
    with resident(host) as (_, pid):
        network = declared(host, {"name": "a", "pid": pid, "address": "10.0.0.2/24"}, lifetime="attachments")
        network.up()
        index = links_of(host)["br0"]
        assert words(declared(host, lifetime="attachments").up()) == ["a: it is not declared any more"]
        assert links_of(host)["br0"] == index and claim_of(state)[1]["state"] == "up"
        network.down()


def test_an_only_attachment_that_is_declared_differently_leaves_the_bridge(host, state):
    with resident(host) as (_, pid):
        one = {"name": "a", "pid": pid, "address": "10.0.0.2/24"}
        network = declared(host, one, lifetime="attachments")
        network.up()
        index = links_of(host)["br0"]
        changed = declared(host, {**one, "address": "10.0.0.3/24"}, lifetime="attachments")
        assert words(changed.up()) == ["a: it was declared differently"]
        assert links_of(host)["br0"] == index and entries_of(state)["a"]["addresses"] == ["10.0.0.3/24"]
        network.down()


# --- addresses ---

def test_who_asks_for_an_address_gets_it_before_one_is_found(host, state):
    with resident(host) as (_, first), resident(host) as (_, second):
        network = declared(host, {"name": "a", "pid": first}, {"name": "b", "pid": second, "address": "10.0.0.2/24"})
        network.up()
        assert entries_of(state)["b"]["addresses"] == ["10.0.0.2/24"]
        assert entries_of(state)["a"]["addresses"] != ["10.0.0.2/24"] and network.up() == []
        network.down()


def test_a_network_whose_every_address_is_fixed_still_comes_down(host, state):
    network = declared(host, address="10.0.0.1/30")
    network.up()
    with nsnet.Netns.new(beside=host) as box:
        network.attach(box, name="a").detach()              # there are leases from now on
        network.attach(box, name="b", address="10.0.0.2/30").detach()
        network.attach(box, name="b", address="10.0.0.2/30")
        with pytest.raises(nsnet.NoFreeAddress):
            network.attach(box, name="c", ifname="eth1")
        network.down()
    assert claims(state) == []


# --- forwarding ---

def forwards(host, ifname):
    return read_inside(host, f"/proc/sys/net/ipv4/conf/{ifname}/forwarding").strip()


@pytest.fixture
def uplinks(playground):
    """A host with two links that do not forward."""
    for ifname in ("u0", "u1"):
        link = playground.add_bridge(ifname)
        playground.set_conf(link.index, forwarding=0)
    return playground


def test_an_uplink_that_two_share_forwards_until_the_last_of_them_goes(uplinks):
    first = declared(uplinks, bridge="bra", address="10.1.0.1/24", forward=["u0"])
    second = declared(uplinks, bridge="brb", address="10.2.0.1/24", forward=["u0"])
    first.up()
    second.up()
    first.down()
    assert forwards(uplinks, "u0") == "1" and not [one for one in second.faults() if one.kind == "forwarding"]
    second.down()
    assert forwards(uplinks, "u0") == "0"


def test_an_undone_repair_leaves_forwarding_as_it_was_found(uplinks, state):
    """Only what the repair switched on goes off again, and what was there first of all is not forgotten."""
    given = {"bridge": "bra", "address": "10.1.0.1/24", "forward": ["u0", "u1"]}
    network = declared(uplinks, **given)
    network.up()
    uplinks.set_conf("u1", forwarding=0)
    before = claim_of(state)[1]["forwarding"]
    with pytest.raises(nsnet.KernelError):
        declared(uplinks, {"name": "x", "netns": "/nowhere/at/all", "address": "10.1.0.2/24"}, **given).up()
    assert [forwards(uplinks, one) for one in ("bra", "u0", "u1")] == ["1", "1", "0"]
    assert claim_of(state)[1]["forwarding"] == before and before["u0"]["earlier"] == {"4": "0"}
    network.down()
    assert [forwards(uplinks, one) for one in ("u0", "u1")] == ["0", "0"]


def test_an_uplink_that_is_not_declared_any_more_is_put_back(uplinks):
    declared(uplinks, bridge="bra", address="10.1.0.1/24", forward=["u0", "u1"]).up()
    network = declared(uplinks, bridge="bra", address="10.1.0.1/24", forward=["u1"])
    assert "bra: forwarding on u0, which is not declared any more" in words(network.up())
    assert [forwards(uplinks, one) for one in ("u0", "u1")] == ["0", "1"]
    network.down()
    assert [forwards(uplinks, one) for one in ("u0", "u1")] == ["0", "0"]


# --- threads and forks ---

@pytest.mark.parametrize("lifetime", ["process", "declared"])
def test_up_after_a_down_that_nobody_waits_for_is_the_last_word(host, monkeypatch, lifetime):
    """Though the reaper had it in its hands already, and only waited for its turn."""
    begun, sweep = threading.Event(), nsnet.Network._sweep
    monkeypatch.setattr(nsnet.Network, "_sweep", lambda self, *items: (begun.set(), sweep(self, *items)))
    network = process_network(host, lifetime=lifetime)
    network.up()
    with network._lock:                                     # what any other thread's call holds
        network.down(wait=False)
        assert begun.wait(PATIENCE)
        network.up()
        container = network.launch(SLEEP, address="10.0.0.2/24", **SILENT)
    network.settle()
    assert network.is_up and "br0" in links_of(host) and container.poll() is None
    network.down()


def test_a_fork_in_the_middle_of_a_threads_session_waits_for_nobody_who_is_not_there(host):
    """The lock that the thread held is copied locked; the thread is not copied."""
    network = declared(host)
    network.up()
    inside_it, leave = threading.Event(), threading.Event()

    def work():
        with network._session():
            inside_it.set()
            leave.wait(PATIENCE)
    thread = threading.Thread(target=work)
    thread.start()
    assert inside_it.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        try:
            os._exit(7 if network.is_up and network.faults() == [] else 1)
        finally:
            os._exit(2)
    leave.set()
    thread.join()
    pidfd = os.pidfd_open(child)
    try:
        ended = has_ended(pidfd)
        if not ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    finally:
        os.close(pidfd)
    assert ended and os.waitstatus_to_exitcode(status) == 7
    assert network.is_up and network.faults() == []         # the parent's lock was the parent's to give up
    network.down()


def test_a_thread_that_cannot_be_started_is_tried_again(host, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")
    network = process_network(host)
    network.up()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            network.down(wait=False)
    network.down(wait=False)
    network.settle()
    assert not network.is_up and "br0" not in links_of(host)


@pytest.mark.parametrize("lifetime", ["process", "owner"])
def test_interrupted_anywhere_between_the_lock_and_the_claim_it_can_be_used_again(host, state, lifetime):
    """Ctrl-C before each line of _begin()."""
    interrupted = []
    for number in range(1, 40):
        left = [number]

        def each_line(frame, event, _):
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    interrupted.append(frame.f_lineno)
                    raise KeyboardInterrupt
            return each_line
        network, before = process_network(host, lifetime=lifetime), sys.gettrace()
        sys.settrace(lambda frame, *_: each_line if frame.f_code is Base._begin.__code__ else None)
        try:
            network.up()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        struck = left[0] <= 0
        if struck:
            assert not network.is_up and "br0" not in links_of(host)
            with process_network(host, lifetime=lifetime):  # another object has it as if nothing had been
                pass
        network.up()                                        # and this one too
        network.down()
        assert claims(state) == []
        if not struck:
            break
    assert len(set(interrupted)) >= 5, interrupted


# --- two at once ---

def test_up_in_the_foreground_that_fails_takes_down_only_what_it_made(host, state, tmp_path):
    first, third = {"bridge": "br0", "address": "10.1.0.1/24"}, {"bridge": "br9", "address": "10.9.0.1/24"}
    container = {**CONTAINER, "address": "10.1.0.2/24"}
    file = declaration_file(tmp_path, {**first, "attachments": [container]},
                            {"bridge": "br1", "address": "10.2.0.1/24"},
                            {"bridge": "br2", "address": "10.3.0.1/24", "forward": ["nosuch"]}, third)
    networks = declared(host, container, **first), declared(host, **third)
    for network in networks:
        network.up()
    before = links_of(host)
    pid = networks[0].entries()[0]["pid"]
    done = run_nsnet(host, state, "up", "--foreground", file)
    assert (done.returncode, done.stdout) == (1, "") and "nosuch" in done.stderr
    assert links_of(host) == before and not is_gone(pid)
    for network in networks:
        network.down()


def test_of_two_ups_at_once_the_one_that_fails_leaves_what_the_other_made(host, state, tmp_path):
    """The other one is quicker by a moment."""
    file = declaration_file(tmp_path, {"bridge": "br0", "address": "10.1.0.1/24"},
                            {"bridge": "br1", "address": "10.2.0.1/24", "forward": ["nosuch"]})
    said = script(host, state, """
from nsnet.cli import main, up as command
real = nsnet.Network.up
def up(self):
    if self.bridge == "br0":
        real(nsnet.Network("br0", address="10.1.0.1/24", lifetime="declared"))
    return real(self)
command.Network.up = up
print(main(["up", sys.argv[1]]))
""", str(file))
    assert said == "1\n" and "br0" in links_of(host) and "br1" not in links_of(host)
    assert run_nsnet(host, state, "down", "br0").returncode == 0


def test_who_has_it_up_for_life_is_not_waited_for(host, monkeypatch):
    """It may be up for years."""
    with process_network(host):
        def wait(seconds):
            raise AssertionError("it waits")
        monkeypatch.setattr(time, "sleep", wait)
        other = declared(host)
        for call in (other.up, other.faults, other.preview, process_network(host).up,
                     lambda: nsnet.network.take_down("br0", netns=host)):
            with pytest.raises(nsnet.AlreadyExists, match=f"process {os.getpid()} has it up"):
                call()
        monkeypatch.undo()


# --- whose is the rest ---

@needs("ip")
def test_an_adopted_bridge_keeps_its_mac(playground):
    """A bridge that was given none takes the lowest of its ports'."""
    bridge = playground.add_bridge("br0")
    playground.add_address(bridge, "10.0.0.1/24")
    playground.add_veth("p0", peer="p1", master=bridge, lladdr="fa:00:00:00:00:01")
    playground.set_link(bridge, up=True)
    before = ip_link(playground, "br0")["address"]
    assert before == "fa:00:00:00:00:01"
    with nsnet.Netns.new(beside=playground) as box, process_network(playground, adopt=True) as network:
        for number in range(2, 5):
            network.attach(box, address=f"10.0.0.{number}/24", ifname=f"eth{number}", default_route=False)
            assert ip_link(playground, "br0")["address"] == before
    assert ip_link(playground, "br0")["address"] == before


def test_exec_finds_what_is_attached_by_its_process(host, state):
    with resident(host) as (there, pid):
        with process_in(there) as second:
            network = declared(host, {"name": "a", "pid": pid, "address": "10.0.0.2/24", "host_ifname": "va"},
                               {"name": "b", "pid": second.pid, "address": "10.0.0.3/24", "host_ifname": "vb",
                                "ifname": "eth1", "default_route": False})
            network.up()
            done = run_nsnet(host, state, "exec", "a", "--", "/bin/readlink", "/proc/self/ns/net")
            assert (done.returncode, done.stdout) == (0, inside(there, ["/bin/readlink", "/proc/self/ns/net"]).stdout)
            done = run_nsnet(host, state, "exec", "nosuch", "--", "/bin/true")
            assert done.returncode == 1 and "va on br0" in done.stderr and "vb on br0" in done.stderr
        done = run_nsnet(host, state, "exec", "nosuch", "--", "/bin/true")      # one has ended
        assert "va on br0" in done.stderr and "vb" not in done.stderr
        network.down()
