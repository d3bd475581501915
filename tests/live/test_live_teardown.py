"""Taken down from every partial state: by its owner, by name, by gc. What is ours goes, what is not stays, twice is as once."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nsnet
from live_helpers import (IS_ROOT, PATIENCE, PYTHON, claims, environment, go_inside, has_ended, ifnames, inside, ip,
                          is_gone, links_of, needs, needs_root, run_nsnet, which)
from nsnet import ownership, rtnl
from nsnet.network import take_down

SLEEP = ["/bin/sleep", "1000"]
OWN = {"uid_map": {0: 0}, "gid_map": {0: 0}} if IS_ROOT else {}          # who may run this interpreter
LONG = os.environ.get("NSNET_HYPOTHESIS") == "long"
pytestmark = needs("ip")                                    # the damage is done by others than nsnet


def run_ip(netns, *words):
    inside(netns, [which("ip"), *words], check=True)


def look(netns, names):
    """What iproute2 says of these links, but for what follows from there being no port, or no bridge, any more."""
    keys = ("ifindex", "ifname", "group", "ifalias", "altnames", "mtu", "addr_info")
    return [({key: link.get(key) for key in keys}, "UP" in link["flags"])
            for name in sorted(names) for link in ip(netns, "address", "show", name)]


def wait_until_gone(netns, name):
    with netns.monitor("link") as monitor:
        while name in links_of(netns):
            assert monitor.read(timeout=PATIENCE) is not None


class Built:
    """A network with three attachments: v0 of a process, v1 and v2 of namespaces; and who will take it down.

    `how`: "down": by the object that made it; "take_down": by name; "gc": its owner was killed.
    """

    def __init__(self, host, state, how, lifetime):
        self.host, self.state, self.how, self.lifetime = host, state, how, lifetime
        self.others = [nsnet.Netns.new(beside=host) for _ in range(2)]
        self.network = nsnet.Network("br0", address="10.0.0.1/24", netns=host, lifetime=lifetime)
        if how == "gc":
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.write(writer, str(self.build()).encode())
                finally:
                    os.kill(os.getpid(), signal.SIGKILL)
            os.close(writer)
            with open(reader, encoding="ascii") as file:
                self.pid = int(file.read())
            os.waitpid(pid, 0)
            self.network = None
        else:
            self.pid = self.build()
        self.pidfd = os.pidfd_open(self.pid)
        self.group = ip(host, "link", "show", "v1")[0]["group"]
        self.alias = ip(host, "link", "show", "v1")[0]["ifalias"]

    def build(self):
        self.network.up()
        container = self.network.launch(SLEEP, host_ifname="v0", stdin=nsnet.DEVNULL)
        for number, other in enumerate(self.others, 1):
            self.network.attach(other, host_ifname=f"v{number}")
        return container.pid

    def take_down(self):
        """What it could not remove, in words."""
        try:
            if self.how == "gc":
                return nsnet.collect(self.host).failed
            if self.how == "take_down":
                take_down("br0", netns=self.host)
            else:
                self.network.down()
        except nsnet.NsnetError as error:
            return [str(error)]
        return []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for other in self.others:
            other.close()
        if not has_ended(self.pidfd, 0):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        has_ended(self.pidfd)
        os.close(self.pidfd)
        if self.network is not None:
            for container in self.network._containers.values():
                container._abandon()


# --- damage: each returns the links that are to be there in the end, but for lo ---

def nothing(built):
    return set()


def process_gone(built):
    signal.pidfd_send_signal(built.pidfd, signal.SIGKILL)
    assert has_ended(built.pidfd)
    return set()


def netns_gone(built):
    built.others[0].close()
    wait_until_gone(built.host, "v1")
    return set()


def netns_going(built):
    """The kernel is taking it apart while we come, or has not begun, or is done."""
    for other in built.others:
        other.close()
    return set()


def veth_gone(built):
    run_ip(built.host, "link", "delete", "v1")
    return set()


def veth_of_the_process_gone(built):
    run_ip(built.host, "link", "delete", "v0")
    return set()


def bridge_gone(built):
    run_ip(built.host, "link", "delete", "br0")
    return set()


def all_links_gone(built):
    for name in ("v0", "v1", "v2", "br0"):
        run_ip(built.host, "link", "delete", name)
    return set()


def veth_renamed(built):
    run_ip(built.host, "link", "set", "v1", "down")
    run_ip(built.host, "link", "set", "v1", "name", "x1")
    return set()


def veth_of_another_bridge(built):
    run_ip(built.host, "link", "add", "theirs", "type", "bridge")
    run_ip(built.host, "link", "set", "v1", "master", "theirs")
    return {"theirs"}


def veth_of_no_bridge(built):
    run_ip(built.host, "link", "set", "v1", "nomaster")
    return set()


def bridge_renamed(built):
    run_ip(built.host, "link", "set", "br0", "down")
    run_ip(built.host, "link", "set", "br0", "name", "brx")
    return set()


def name_taken_after_the_bridge_was_renamed(built):
    bridge_renamed(built)
    run_ip(built.host, "link", "add", "br0", "type", "bridge")
    return {"br0"}


def end_renamed(built):
    run_ip(built.others[0], "link", "set", "eth0", "down")
    run_ip(built.others[0], "link", "set", "eth0", "name", "lan0")
    return set()


def end_moved(built):
    fd = built.others[1].fd
    run_ip(built.others[0], "link", "set", "eth0", "down")
    inside(built.others[0], [which("ip"), "link", "set", "eth0", "name", "lan0", "netns", f"/proc/self/fd/{fd}"],
           check=True, pass_fds=[fd])
    return set()


def end_moved_to_the_host(built):
    fd = built.host.fd
    run_ip(built.others[0], "link", "set", "eth0", "down")
    inside(built.others[0], [which("ip"), "link", "set", "eth0", "netns", f"/proc/self/fd/{fd}"], check=True, pass_fds=[fd])
    return set()


def veth_moved_away(built):
    """Into its own container: it is out of the host, and out of reach."""
    fd = built.others[0].fd
    inside(built.host, [which("ip"), "link", "set", "v1", "netns", f"/proc/self/fd/{fd}"], check=True, pass_fds=[fd])
    return set()


def out_of_our_group(built):
    """Group, mark and claim do not agree any more: it is not removed."""
    run_ip(built.host, "link", "set", "v1", "group", "0")
    return {"v1"}


def alias_gone(built):
    run_ip(built.host, "link", "set", "v1", "alias", "")
    return {"v1"} if (built.how, built.lifetime) == ("gc", "owner") else set()      # nothing but the alias says whose


def foreign_in_our_group(built):
    run_ip(built.host, "link", "add", "theirs", "type", "bridge")
    run_ip(built.host, "link", "set", "theirs", "group", built.group)
    return {"theirs"}


def foreign_with_our_alias(built):
    run_ip(built.host, "link", "add", "theirs", "type", "bridge")
    run_ip(built.host, "link", "set", "theirs", "alias", built.alias)
    return {"theirs"}


def foreign_with_our_name(built):
    run_ip(built.host, "link", "delete", "v1")
    run_ip(built.host, "link", "add", "v1", "type", "bridge")
    return {"v1"}


def foreign_with_our_name_and_alias(built):
    foreign_with_our_name(built)
    run_ip(built.host, "link", "set", "v1", "alias", built.alias)
    return {"v1"}


def foreign_with_our_altname(built):
    run_ip(built.host, "link", "delete", "br0")
    run_ip(built.host, "link", "delete", "v1")
    run_ip(built.host, "link", "add", "theirs", "type", "bridge")
    run_ip(built.host, "link", "property", "add", "dev", "theirs", "altname", "br0", "altname", "v1")
    return {"theirs"}


def foreign_with_our_prefix(built):
    run_ip(built.host, "link", "add", "br0-theirs", "type", "bridge")
    run_ip(built.host, "address", "add", "10.0.0.1/24", "dev", "br0-theirs")
    return {"br0-theirs"}


def foreign_port(built):
    """Of our bridge; the bridge goes, the port stays."""
    run_ip(built.host, "link", "add", "theirs", "type", "veth", "peer", "name", "theirs1")
    run_ip(built.host, "link", "set", "theirs", "master", "br0")
    return {"theirs", "theirs1"}


DAMAGE = [nothing, process_gone, netns_gone, netns_going, veth_gone, veth_of_the_process_gone, bridge_gone, all_links_gone,
          veth_renamed, veth_of_another_bridge, veth_of_no_bridge, bridge_renamed, name_taken_after_the_bridge_was_renamed,
          end_renamed, end_moved, end_moved_to_the_host, veth_moved_away, out_of_our_group, alias_gone, foreign_in_our_group,
          foreign_with_our_alias, foreign_with_our_name, foreign_with_our_name_and_alias, foreign_with_our_altname,
          foreign_with_our_prefix, foreign_port]
WAYS = [("down", "process"), ("down", "owner"), ("down", "declared"), ("take_down", "declared"), ("gc", "process"),
        ("gc", "owner")]


# Each state by one of those who have a claim, by turns; and what bears marks by gc without one, which has nothing else to
# go by. In the long profile each by every one.
MARKED = [damage for damage in DAMAGE if {"foreign", "group", "alias", "renamed"} & set(damage.__name__.split("_"))]
TURNS = ([(damage, *way) for damage in DAMAGE for way in WAYS] if LONG else
         [(damage, *WAYS[number % 5]) for number, damage in enumerate(DAMAGE)] + [(damage, *WAYS[5]) for damage in MARKED])


@pytest.mark.parametrize("damage, how, lifetime", TURNS, ids=[f"{turn[0].__name__} {turn[1]} {turn[2]}" for turn in TURNS])
def test_from_any_state(playground, state, damage, how, lifetime):
    with Built(playground, state, how, lifetime) as built:
        stay = damage(built)
        before = look(playground, stay)
        assert built.take_down() == []
        assert set(ifnames(playground)) == {"lo"} | stay
        assert look(playground, stay) == before and claims(state) == []
        # Without a claim, the process is known by the mark of its link alone
        unknown = (how, lifetime) == ("gc", "owner") and damage in (veth_of_the_process_gone, all_links_gone)
        assert unknown or is_gone(built.pid)
        there = links_of(playground)
        assert built.take_down() == [] and links_of(playground) == there and claims(state) == []


# --- what is doubtful, and what says nothing any more ---

@pytest.mark.parametrize("how, lifetime", [way for way in WAYS if way != ("gc", "owner")])
def test_a_link_that_was_ours_and_has_another_alias_is_for_a_person_to_judge(playground, state, how, lifetime):
    with Built(playground, state, how, lifetime) as built:
        run_ip(playground, "link", "set", "v1", "alias", "mine now")
        before = look(playground, ["v1"])
        for _ in range(2):
            (problem,) = built.take_down()
            assert "v1" in problem and "mine now" in problem and "\n" not in problem
            assert set(ifnames(playground)) == {"lo", "v1"} and look(playground, ["v1"]) == before and is_gone(built.pid)
        assert lifetime == "owner" or len(claims(state)) == 2           # it still says what is to be done
        run_ip(playground, "link", "delete", "v1")
        assert built.take_down() == [] and claims(state) == []


@pytest.mark.parametrize("lifetime", ["process", "owner", "declared"])
def test_what_is_asked_for_by_name_or_index_must_be_ours_too(playground, state, lifetime):
    """One link alone: to be detached, to be repaired. It has our name and our mark, and not our group."""
    with Built(playground, state, "down", lifetime) as built:
        foreign_with_our_name_and_alias(built)
        run_ip(playground, "link", "set", "v2", "group", "0")
        run_ip(playground, "link", "delete", "br0")
        run_ip(playground, "link", "add", "br0", "type", "bridge")
        run_ip(playground, "link", "set", "br0", "alias", built.alias)
        stay = {"br0", "v1", "v2"}
        before = look(playground, stay)
        for name in ("v1", "v2"):
            built.network.detach_many([name])
        for attempt in (built.network.up, built.network.faults):
            with pytest.raises(nsnet.AlreadyExists):
                attempt()
        assert built.take_down() == [] and set(ifnames(playground)) == {"lo"} | stay and look(playground, stay) == before


def test_without_its_claim_a_declared_network_is_nobodys(playground, state):
    """The links stay, and who would build there is told; nothing is removed on the evidence of names and marks."""
    with Built(playground, state, "take_down", "declared") as built:
        for path in state.glob("*.json"):
            path.unlink()
        before = look(playground, ["br0", "v0", "v1", "v2"])
        with pytest.raises(nsnet.AlreadyExists, match="no such claim here"):
            take_down("br0", netns=playground)
        assert claims(state) == []
        nsnet.Network("br0", address="10.0.0.1/24", netns=playground, lifetime="declared").down()
        assert nsnet.collect(playground) == ([], [], [], [], [])
        assert run_nsnet(playground, state, "list").stdout == "no networks\n"
        for lifetime in ("declared", "process"):
            other = nsnet.Network("br0", address="10.0.0.1/24", netns=playground, lifetime=lifetime)
            with pytest.raises(nsnet.AlreadyExists) as failed:
                other.up()
            assert "no such claim here" in str(failed.value) and "\n" not in str(failed.value)
            del failed
        assert look(playground, ["br0", "v0", "v1", "v2"]) == before and not is_gone(built.pid) and claims(state) == []


def test_without_its_claim_its_owner_still_knows(playground, state):
    with Built(playground, state, "down", "process") as built:
        for path in state.glob("*.json"):
            path.unlink()
        assert built.take_down() == [] and ifnames(playground) == ["lo"] and is_gone(built.pid) and claims(state) == []


def test_the_socket_of_an_owner_says_that_it_lives_whoever_has_it(playground, state):
    with Built(playground, state, "gc", "owner") as built:
        with ownership.hold_name(playground, ownership.Mark.parse(built.alias)):
            before = links_of(playground)
            found = nsnet.collect(playground)
            assert found.removed == [] and len(found.alive) == 1 and "br0" in found.alive[0], found
            assert links_of(playground) == before and not is_gone(built.pid)
        assert built.take_down() == [] and ifnames(playground) == ["lo"] and is_gone(built.pid)


# --- a claim that is damaged ---

JSON = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
                    max_leaves=3)


def places(value, path=()):
    """Of all values in it."""
    yield path
    if isinstance(value, (dict, list)):
        for key in (value if isinstance(value, dict) else range(len(value))):
            yield from places(value[key], (*path, key))


def with_another(value, path, other):
    if not path:
        return other
    copied = dict(value) if isinstance(value, dict) else list(value)
    if other is Ellipsis and len(path) == 1:
        del copied[path[0]]
    else:
        copied[path[0]] = with_another(value[path[0]], path[1:], other)
    return copied


def test_a_damaged_claim_is_told_in_one_line_and_nothing_is_removed(playground, state):
    """Any bytes; half of it; a byte changed; a value changed or missing, which may still make sense: then it is done."""
    with Built(playground, state, "take_down", "declared") as built:
        (path,) = state.glob("*.json")
        real = path.read_bytes()
        claim = json.loads(real)
        there = links_of(playground)
        known = list(places(claim))[1:]
        seen = {"refused": 0, "read": 0}
        changed = st.tuples(st.sampled_from(known), JSON | st.just(...)).map(
            lambda one: json.dumps(with_another(claim, *one)).encode())
        flipped = st.tuples(st.integers(0, len(real) - 1), st.integers(1, 255)).map(
            lambda one: real[:one[0]] + bytes([real[one[0]] ^ one[1]]) + real[one[0] + 1:])
        halves = st.integers(0, len(real) - 1).map(lambda length: real[:length])

        @settings(max_examples=3000 if LONG else 50, deadline=None, database=None, derandomize=not LONG,
                  suppress_health_check=list(HealthCheck))
        @given(st.binary(max_size=40) | halves | flipped | changed | changed)
        def check(content):
            path.write_bytes(content)
            try:
                ownership.Claim.load(str(state), path.stem)
            except ValueError:
                seen["refused"] += 1
            else:
                seen["read"] += 1
                return
            for attempt in (lambda: take_down("br0", netns=playground), built.network.up, built.network.down,
                            built.network.faults):
                with pytest.raises(nsnet.KernelError) as failed:
                    attempt()
                assert str(path) in str(failed.value) and len(str(failed.value).splitlines()) == 1
                del failed
            (problem,) = nsnet.collect(playground).failed
            assert str(path) in problem and len(problem.splitlines()) == 1
            assert links_of(playground) == there and path.read_bytes() == content
        check()
        assert not is_gone(built.pid) and seen["refused"] > 20, seen
        path.write_bytes(real)
        assert built.take_down() == [] and is_gone(built.pid)


def test_a_claim_that_is_read_though_something_of_it_is_wrong_never_breaks_gc(playground, state):
    """Where none of its links are, but its leases; whatever it says, it is done or it is told, in one line."""
    with nsnet.Netns.open(f"/proc/self/fd/{playground.fd}") as here, Built(here, state, "take_down", "declared") as built:
        (path,) = state.glob("*.json")
        claim = json.loads(path.read_bytes())
        claim["attachments"]["v0"].update(launched=False, pid=None)
        assert built.take_down() == [] and os.listdir(state / "leases")
        known = list(places(claim))[1:]

        @settings(max_examples=3000 if LONG else 50, deadline=None, database=None, derandomize=not LONG,
                  suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(known), JSON | st.just(...))
        def check(place, value):
            for attempt in (lambda: nsnet.collect(here).failed, built.take_down):
                path.write_text(json.dumps(with_another(claim, place, value)))
                assert all(len(problem.splitlines()) == 1 for problem in attempt())
            for word in ("removing", "building"):
                path.write_text(json.dumps({**with_another(claim, place, value), "state": word}))
                assert all(len(problem.splitlines()) == 1 for problem in nsnet.collect(here).failed)
        check()
    for name in claims(state):
        (state / name).unlink()


# --- a namespace that is gone ---

ENDED = """
import os, sys, nsnet, nsnet.state
nsnet.state.FIRST_PID_NAMESPACE = os.readlink("/proc/self/ns/pid")      # from which all is seen
host = nsnet.Netns.current()
elsewhere = nsnet.Netns.new()
with nsnet.Netns.open(f"/proc/self/fd/{elsewhere.fd}") as there:        # not private: anybody may have made it
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=there, lifetime="declared")
    network.up()
    with nsnet.Netns.new() as other:
        network.attach(other, host_ifname="v0")
    first = nsnet.collect(host)
    if sys.argv[1:]:
        print("there", flush=True)
        sys.stdin.read()
        os._exit(0)
elsewhere.close()
second = nsnet.collect(host)
print(len(first.elsewhere), len(second.elsewhere), first.removed + first.failed + second.removed + second.failed,
      sorted(os.listdir(os.environ["NSNET_STATE_DIR"])), tuple(nsnet.collect(host)))
"""


def in_a_pid_namespace(*argv):
    """All of whose processes a program there may look at, which is not so of the machine's first one everywhere."""
    return [which("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, *argv]


@needs_root
@needs("unshare")
def test_of_a_namespace_that_ended_gc_forgets_the_claim(host, state):
    """As long as it is there, it is said where; then it is gone, with all that was in it, and nobody complains for ever."""
    done = inside(host, in_a_pid_namespace("-c", ENDED), env=environment(state))
    assert (done.stdout, done.stderr) == ("1 0 [] [] ([], [], [], [], [])\n", ""), done


@needs_root
@needs("unshare")
def test_who_does_not_see_the_processes_of_its_owner_does_not_say_that_a_namespace_ended(host, state):
    with subprocess.Popen(in_a_pid_namespace("-c", ENDED, "stay"), env=environment(state), preexec_fn=go_inside(host.fd),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"there\n"
        (path,) = state.glob("*.json")
        done = inside(host, in_a_pid_namespace("-m", "nsnet", "gc"), env=environment(state))
        assert done.returncode == 0 and "it is in another namespace" in done.stdout and path.exists(), done
        owner.communicate(timeout=PATIENCE)
    for name in claims(state):
        (state / name).unlink()


# --- nobody waits ---

def counting(monkeypatch, kinds):
    """[name of the thread and number of the link deletes] of each exchange of these kinds, from now on."""
    exchanges, perform = [], nsnet.Netns.perform

    def count(self, batch, *arguments, **options):
        deletes = sum(request.type in kinds for request in batch)
        if deletes:
            exchanges.append((threading.current_thread().name, deletes))
        return perform(self, batch, *arguments, **options)
    monkeypatch.setattr(nsnet.Netns, "perform", count)
    return exchanges


HUNDRED = 100


def hundred(network, other):
    return network.attach_many([{"netns": other, "ifname": f"eth{number}", "default_route": False}
                                for number in range(HUNDRED)])


@pytest.mark.parametrize("lifetime", ["process", "attachments"] if LONG else ["attachments"])
def test_a_hundred_detached_without_waiting_take_a_few_deletes(host, state, monkeypatch, lifetime):
    with nsnet.Netns.new(beside=host) as other:
        network = nsnet.Network("br0", address="10.0.0.1/24", netns=host, lifetime=lifetime)
        attached = hundred(network, other)
        assert len(links_of(host)) == HUNDRED + 2
        exchanges = counting(monkeypatch, [rtnl.RTM_DELLINK])
        for one in attached:
            one.detach(wait=False)
        network.settle()
        # What was queued while one is under way goes with the next, by one group delete
        assert {name for name, _ in exchanges} == {"nsnet-reaper"}, exchanges
        assert sum(number for _, number in exchanges) <= 10, exchanges
        gone = lifetime == "attachments"
        assert set(links_of(host)) == ({"lo"} if gone else {"lo", "br0"}) and links_of(other).keys() == {"lo"}
        assert network.entries() == network.attachments == [] and network.is_up is not gone
        assert (claims(state) == []) is gone
        network.settle()                                    # nothing is under way
        network.down()


EXITING = """
import os, signal, sys, nsnet
network = nsnet.Network("br0", address="10.0.0.1/24", lifetime=sys.argv[1])
other = nsnet.Netns.open(sys.argv[2])
network.launch(["/bin/sleep", "1000"], stdin=nsnet.DEVNULL, stdout=nsnet.DEVNULL, stderr=nsnet.DEVNULL)
attached = network.attach_many([{"netns": other, "ifname": f"eth{number}", "default_route": False}
                                for number in range(20)])
for one in attached:
    one.detach(wait=False)
if sys.argv[3] == "down":
    network.down(wait=False)
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("lifetime, how", [
    (lifetime, how) for lifetime in ("process", "attachments", "owner") for how in ("down", "detach", "killed")
    if LONG or (lifetime, how) in (("process", "down"), ("attachments", "detach"), ("owner", "killed"), ("process", "killed"))])
def test_what_is_pending_when_the_process_ends(host, state, lifetime, how):
    """An interpreter that exits does it first; of one that is killed, gc does it."""
    with nsnet.Netns.new(beside=host) as other:
        popen = subprocess.Popen([sys.executable, "-c", EXITING, lifetime, f"/proc/self/fd/{other.fd}", how],
                                 env=environment(state), pass_fds=[other.fd], preexec_fn=go_inside(host.fd),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        errors = popen.communicate(timeout=PATIENCE)[1]
        assert (popen.returncode, errors) == (-signal.SIGKILL if how == "killed" else 0, b"")
        if how == "down":
            assert ifnames(host) == ["lo"] and claims(state) == []
        elif how == "detach":
            assert len(ifnames(host)) == 3 and ifnames(other) == ["lo"]         # the bridge, and the container's
        done = run_nsnet(host, state, "gc")
        assert (done.returncode, done.stderr) == (0, "")
        if lifetime == "attachments" and how != "down":     # its container runs on, and keeps it
            assert len(ifnames(host)) == (3 if how == "detach" else len(ifnames(other)) + 2)
            take_down("br0", netns=host)
        assert ifnames(host) == ["lo"] and claims(state) == [] and ifnames(other) == ["lo"]


# --- not in time ---

FAT = "import sys\nheld = bytearray(b'x') * (96 << 20)\nprint(flush=True)\nsys.stdin.read()"


@pytest.mark.parametrize("lifetime, what", [("process", "down"), ("owner", "remove"), ("declared", "down"),
                                            ("declared", "remove")])
def test_a_process_that_ends_too_late_is_pending(host, state, lifetime, what):
    """The kernel needs some time to take its memory apart."""
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host, lifetime=lifetime)
    network.up()
    container = network.launch([*PYTHON, "-c", FAT], host_ifname="v0", stdin=nsnet.PIPE, stdout=nsnet.PIPE, **OWN)
    container.stdout.readline()
    with pytest.raises(nsnet.StillPending) as failed:
        network.down(timeout=0) if what == "down" else network.detach_many([container], timeout=0)
    assert failed.value.pending == [f"process {container.pid}"] and "br0" in ifnames(host)
    assert isinstance(failed.value, TimeoutError) and len(str(failed.value).splitlines()) == 1
    del failed
    if what == "remove":
        container.remove()
        assert "v0" not in ifnames(host) and is_gone(container.pid)
    network.down()
    assert ifnames(host) == ["lo"] and is_gone(container.pid) and claims(state) == []


@pytest.mark.parametrize("lifetime", ["process", "owner", "declared"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_links_whose_removal_is_not_answered_in_time_are_pending(host, state, monkeypatch, when, lifetime):
    """The kernel deletes while we send, so that it answers late only if it is stopped: here somebody stands in for that."""
    perform = nsnet.Netns.perform

    def late(self, batch, *arguments, **options):
        deletes = any(request.type == rtnl.RTM_DELLINK for request in batch)
        outcomes = perform(self, batch, *arguments, **options) if not deletes or when == "after" else None
        if deletes:
            raise (nsnet.OutcomeUnknown if when == "after" else nsnet.KernelError)(errno.ETIMEDOUT, "delete")
        return outcomes
    with nsnet.Netns.new(beside=host) as other:
        network = nsnet.Network("br0", address="10.0.0.1/24", netns=host, lifetime=lifetime)
        network.up()
        one = network.attach(other, host_ifname="v0")
        monkeypatch.setattr(nsnet.Netns, "perform", late)
        for call, names in ((one.detach, ["v0"]), (network.down, ["v0", "br0"])):
            with pytest.raises(nsnet.StillPending) as failed:
                call()
            assert failed.value.pending == (names if when == "before" else names[-1:])
            del failed
        one.detach(wait=False)
        if when == "before" and lifetime != "declared":     # which goes on with the removal that has begun
            with pytest.raises(nsnet.StillPending) as failed:
                network.settle()
            assert failed.value.pending == ["v0"] and network._reaper.pending == [one]
            del failed
        monkeypatch.setattr(nsnet.Netns, "perform", perform)
        network.down()
        network.settle()
        assert ifnames(host) == ["lo"] and claims(state) == [] and not network.is_up


def test_the_lock_of_all_links_is_another_s_for_a_while(host, state):
    """It deletes 600 of them, in another namespace; whether down() is done in its 10 ms or not, again it completes."""
    with nsnet.Netns.new(beside=host) as busy:
        for first in range(0, 600, 100):
            with busy.batch() as net:
                for number in range(first, first + 100):
                    net.add_veth(f"a{number}", peer=f"b{number}", group=7, queues=1)
        network = nsnet.Network("br0", address="10.0.0.1/24", netns=host)
        network.up()
        began = threading.Event()

        def remove_them():
            began.set()
            with busy.batch() as net:
                net.del_group(7)
        other = threading.Thread(target=remove_them)
        other.start()
        began.wait(PATIENCE)
        try:
            network.down(timeout=0.01)
        except nsnet.StillPending as error:
            assert error.pending == ["br0"]
        network.down()
        other.join(PATIENCE)
        assert ifnames(host) == ["lo"] and claims(state) == []


# --- repaired when nothing is left of it ---

@pytest.mark.parametrize("lifetime", ["attachments", "declared"])
def test_up_when_all_that_was_attached_is_dead(playground, state, lifetime):
    """Its owner was killed, its container ended, its namespaces are gone: it is up, and empty."""
    with Built(playground, state, "gc", lifetime) as built:
        netns_going(built)
        process_gone(built)
        for name in ("v0", "v1", "v2"):
            wait_until_gone(playground, name)
        network = nsnet.Network("br0", address="10.0.0.1/24", netns=playground, lifetime=lifetime)
        assert len(network.faults()) == 3
        network.up()
        assert network.is_up and network.entries() == [] and network.faults() == [] and network.up() == []
        assert ifnames(playground) == ["br0", "lo"]
        network.down()
        assert claims(state) == [] and ifnames(playground) == ["lo"]


@pytest.mark.parametrize("lifetime", ["process", "declared", "owner"])
def test_up_after_a_down_that_nobody_waits_for_is_up(host, state, lifetime):
    """And so is what is attached by a name that is about to be free."""
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host, lifetime=lifetime)
    with nsnet.Netns.new(beside=host) as other:
        for _ in range(20 if LONG else 2):
            network.up()
            index = links_of(host)["br0"]
            network.down(wait=False)
            network.up()
            network.settle()
            assert network.is_up and links_of(host)["br0"] != index
            one = network.attach(other, name="one", host_ifname="v0")
            one.detach(wait=False)
            two = network.attach(other, name="one", host_ifname="v0")
            network.settle()
            assert network.attachments == [two] and "v0" in links_of(host)
        network.down()
    assert claims(state) == []


@pytest.mark.parametrize("lifetime", ["attachments", "declared"])
def test_a_process_that_nobody_collects_has_ended(host, state, lifetime):
    """Its parent, or an init that collects nobody, lets it wait: for gc, and for up(), it is dead."""
    network = nsnet.Network("br0", address="10.0.0.1/24", netns=host, lifetime=lifetime)
    reader, writer = os.pipe()
    done_reader, done = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.close(done)
            network.up()
            kept = network.launch(SLEEP, name="kept", stdin=nsnet.DEVNULL)
            dead = [network.launch(SLEEP, stdin=nsnet.DEVNULL) for _ in range(2)]
            os.write(writer, json.dumps([kept.pid, *(one.pid for one in dead)]).encode())
            os.close(writer)
            os.read(done_reader, 1)
        finally:
            os._exit(0)
    os.close(writer)
    os.close(done_reader)
    with open(reader, encoding="ascii") as file:
        pids = json.load(file)
    try:
        for pid in pids[1:]:
            pidfd = os.pidfd_open(pid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert has_ended(pidfd)
            os.close(pidfd)
            with open(f"/proc/{pid}/stat", "rb") as file:
                assert file.read().rpartition(b")")[2].split()[0] == b"Z"
        assert sum("has ended" in fault.what for fault in network.faults()) == 2
        found = nsnet.collect(host)
        assert found.failed == [] and [entry["name"] for entry in network.entries()] == ["kept"] and network.faults() == []
        assert len(links_of(host)) == 3 and not is_gone(pids[0])
    finally:
        network.down()
        os.close(done)
        os.waitpid(parent, 0)
