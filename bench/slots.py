"""Many slots at once: who makes N network namespaces on B bridges, how it is seen that they are there, and their end.

A slot is a network namespace without a process: a veth pair, one end a port that is up, inside lo, eth0, an address
and a default route. Knows nsnet's way, the C floor's and other programs', which answer to the same words, and that the
kernel takes namespaces apart long after they are gone. Refuses to know what is compared with what.
"""

import gc
import resource
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import nsnet
from bench.measure import TOTAL, Round
from bench.stage import CHECKOUT, PIPES, Floor, GaveWay, Program, powers, run_inside

NAMESPACES, BRIDGES, ATTACH, DETACH = "namespaces", "bridges", "attach", "detach"
PARTS = ("veth", "container", "port", "carrier")        # of what C calls attach
PORTS = 1023                        # of one bridge: BR_MAX_PORTS less port 0
FORWARDING = 3                      # BR_STATE_FORWARDING <linux/if_bridge.h>
SPARE = 200                         # descriptors that a process needs for other things
PER_SLOT = 2                        # the socket inside, and the namespace's own
CLEANED = 120.0                     # seconds in which the kernel has taken thousands of namespaces apart
SAMPLE = 8                          # slots that are looked at before a clock is started
SWEPT = 4711                        # the group of what is deleted for another


# --- room ---

def room_for(slots: int) -> int:
    """How many slots there are descriptors for, at most so many; the soft limit goes up to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return slots
    return max(1, min(slots, (hard - SPARE) // PER_SLOT))


def settle(host: nsnet.Netns) -> None:
    """Wait until the kernel has taken apart every namespace that has ended so far; else the next one pays for it.

    It takes apart what has ended together, one lot after the other (cleanup_net() in net/core/net_namespace.c): when a
    link goes because its peer's namespace has ended, the lots before that one are done.
    """
    for number in range(2):
        ifname = f"bench-last{number}"
        with nsnet.Netns.new(beside=host) as last:
            host.add_veth(ifname, peer="eth0", peer_netns=last, queues=1)
        host.wait_link(ifname, gone=True, timeout=CLEANED)


# --- what is there ---

class State(NamedTuple):
    """`bridges`: of bridges_of(); `slot`: of the last one, what is in it."""

    bridges: List[Tuple[bool, int]]
    slot: Tuple[Any, ...]


def bridges_of(host: nsnet.Netns) -> List[Tuple[bool, int]]:
    """Whether each is up and has carrier, and how many of its ports forward."""
    links = host.links(stats=False)
    ports: Dict[int, int] = {}
    for link in links:
        if link.master:
            ports[link.master] = ports.get(link.master, 0) + (link.port_options.get("state") == FORWARDING)
    return sorted((link.up and link.carrier, ports.get(link.index, 0)) for link in links if link.kind == "bridge")


def look(host: nsnet.Netns, last: nsnet.Netns) -> State:
    """From outside."""
    eth0 = last.link("eth0")
    addresses = [one.address.partition("/")[2] for one in last.addresses("eth0", family="inet")]
    default = [route.oif == eth0.index for route in last.routes(family="inet") if route.dst == "default"]
    return State(bridges_of(host), (last.link("lo").up, eth0.kind, eth0.up, eth0.carrier, addresses, default))


States = Dict[int, State]           # what a side made when it was looked at, by the number of bridges


# --- who does it ---

class Ours:
    """nsnet: a Network, or a ShardedNetwork for several bridges, in a host that nobody else uses."""

    def __init__(self, host: nsnet.Netns):
        self.host = host
        self._slots: List[nsnet.Netns] = []
        self._network: Any = None
        self._attached: Sequence[nsnet.Attachment] = ()
        self.states: States = {}

    def up(self, slots: int, bridges: int) -> Round:
        """`bridges`: a power of two."""
        taken: Round = {}
        with _timed(taken, NAMESPACES):
            self._slots = nsnet.Netns.new_many(slots, beside=self.host)
        with _timed(taken, BRIDGES):
            if bridges == 1:
                self._network = nsnet.Network("bench-br", address="10.0.0.1/16", netns=self.host)
            else:
                subnet = f"10.0.0.1/{16 - bridges.bit_length() + 1}"        # of which each has a /16
                self._network = nsnet.ShardedNetwork("bench-br", address=subnet, shards=bridges, netns=self.host)
            self._network.up()
        with _timed(taken, ATTACH):
            wanted = []
            for number, netns in enumerate(self._slots):
                place = 2 + number // bridges
                wanted.append({"netns": netns, "address": f"10.{number % bridges}.{place >> 8}.{place & 255}/16"})
            self._attached = self._network.attach_many(wanted)
        return taken

    @contextmanager
    def last(self) -> Iterator[nsnet.Netns]:
        yield self._slots[-1]

    def down(self) -> Round:
        taken: Round = {}
        with _timed(taken, DETACH):
            self._network.detach_many(self._attached)
        self.close()
        return taken

    def close(self) -> None:
        """All that is there, whatever it is."""
        if self._network is not None:
            self._network.down()
        for netns in self._slots:
            netns.close()
        self._slots, self._network, self._attached = [], None, ()


@contextmanager
def _timed(taken: Round, step: str) -> Iterator[None]:
    gc.collect()
    started = time.perf_counter()
    yield
    taken[step] = (time.perf_counter() - started) * 1e6


class SlotsFloor(Floor):
    """slots.c, in a network namespace of its own. `words`: its arguments."""

    SOURCE = "slots.c"

    def __init__(self, directory: str, *words: str):
        self._host: Optional[nsnet.Netns] = None
        self.states: States = {}
        super().__init__(directory, lambda path: subprocess.Popen([path, *words], **PIPES))

    def warm(self) -> None:
        self.up(2, 1)
        self.down()

    @property
    def host(self) -> nsnet.Netns:
        """Its namespace, as it is seen from here."""
        if self._host is None:
            self._host = nsnet.Netns.of_pid(self._process.pid)
        return self._host

    def up(self, slots: int, bridges: int) -> Round:
        taken = {NAMESPACES: self.ask(f"new {slots}")[TOTAL], BRIDGES: self.ask(f"bridges {bridges}")[TOTAL]}
        parts = self.ask("attach")
        return {**taken, ATTACH: parts[TOTAL], **{part: parts[part] for part in PARTS}}

    @contextmanager
    def last(self) -> Iterator[nsnet.Netns]:
        ((number,),) = self.show("last")
        with nsnet.Netns.open(f"/proc/{self._process.pid}/fd/{number}") as netns:
            yield netns

    def down(self) -> Round:
        taken = {DETACH: self.ask("detach")[TOTAL]}
        self.ask("down")
        self.ask("close")
        return taken

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
        super().close()


class Other(Program):
    """A peer's program (bench.slotrivals), in a host that nobody else uses. Raises GaveWay."""

    def __init__(self, name: str, host: nsnet.Netns):
        self.host = host
        self.states: States = {}
        argv = [sys.executable, "-m", "bench.slotrivals", name]
        super().__init__(name, run_inside(host, argv, cwd=str(CHECKOUT), capabilities=powers(host), **PIPES))

    def up(self, slots: int, bridges: int) -> Round:
        taken = {NAMESPACES: self.ask(f"new {slots}")[TOTAL], BRIDGES: self.ask(f"bridges {bridges}")[TOTAL],
                 ATTACH: self.ask("attach")[TOTAL]}
        for link in self.host.links(stats=False):           # who does not wait for carrier has it a little later
            self.host.sync_carrier(link)
        return taken

    @contextmanager
    def last(self) -> Iterator[nsnet.Netns]:
        ((path,),) = self.show("last")
        with nsnet.Netns.open(f"/proc/{self._process.pid}/root{path}") as netns:
            yield netns

    def down(self) -> Round:
        """Its links are swept away for it: one by one it takes a second for 40."""
        left = [link for link in self.host.links(stats=False) if link.master or link.kind == "bridge"]
        with self.host.batch() as net:
            for link in left:
                net.set_link(link, group=SWEPT)
            net.del_group(SWEPT)
        self.ask("close")
        return {}


# --- rounds ---

class Parts:
    """Rounds that several tasks are read from: each takes its part of the next round that it has not seen."""

    def __init__(self, one: Callable[[], Round]):
        self._one = one
        self._tasks: List[Tuple[Callable[[Round], float], Deque[float]]] = []

    def turn(self, read: Callable[[Round], float]) -> Callable[[], float]:
        """A turn of Entry."""
        unseen: Deque[float] = deque()
        self._tasks.append((read, unseen))

        def take() -> float:
            if not unseen:
                taken = self._one()
                for part, queue in self._tasks:
                    queue.append(part(taken))
            return unseen.popleft()
        return take


class Rounds(Parts):
    """Of one side that makes many slots, and takes them down again."""

    def __init__(self, side: Any, slots: int, bridges: int):
        super().__init__(self._up_and_down)
        self._side, self._slots, self._bridges = side, slots, bridges

    def steps(self, *names: str) -> Callable[[], float]:
        """A turn of Entry: microseconds for one slot."""
        return self.turn(lambda taken: sum(taken[name] for name in names) / self._slots)

    def _up_and_down(self) -> Round:
        up = self._side.up(self._slots, self._bridges)
        self._check()
        down = self._side.down()
        settle(self._side.host)
        return {**up, **down}

    def _check(self) -> None:
        """Whether all of them are there: every port forwards."""
        forwarding = sum(ports for _, ports in bridges_of(self._side.host))
        if forwarding != self._slots:
            raise GaveWay(f"{self._slots} slots were made, and {forwarding} ports forward")

    def state(self) -> State:
        """What is there, of a few of them. Looked at once."""
        states = self._side.states
        if self._bridges not in states:
            self._side.up(SAMPLE, min(self._bridges, SAMPLE))
            try:
                with self._side.last() as last:
                    states[self._bridges] = look(self._side.host, last)
            finally:
                self._side.down()
                settle(self._side.host)
        return states[self._bridges]
