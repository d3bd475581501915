"""Slots that come and go: how many of them are made and gone in a second, by nsnet, C and pyroute2 in turns.

A cycle is a new network namespace, attached, detached and let go; at the end of each turn all names are gone, and that
is in its time. Knows who waits for each removal, who for many at once, and who only at the end. The kernel takes the
ended namespaces apart while others are made, as it does when containers come and go; what is left of that when a turn
is over is waited for, and in nobody's time.
"""

import gc
import time
from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import nsnet
from bench.bulk import Field
from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold
from bench.measure import Plan, brief, disturbance
from bench.peers import roll_call
from bench.slotrivals import WAYS
from bench.slots import room_for, settle
from bench.stage import GaveWay, Stage

CYCLE = "one slot that comes and goes: namespace, attached, detached, name gone"
MANY = 200              # at a time, where it is many
FEW = 5                 # cycles between two looks at the clock
PEERS = ("pyroute2",)
BUSY = 1.8              # the load that the rounds make themselves


class Stream:
    """nsnet's ways, on a network that is up."""

    def __init__(self, host: nsnet.Netns):
        self.host, self._number = host, 0
        self._network = nsnet.Network("bench-br0", address="10.0.0.1/16", netns=host)
        self._network.up()

    def _address(self) -> str:
        """Another one each time, for many cycles."""
        self._number = (self._number + 1) % 60000
        number = self._number + 256
        return f"10.0.{number >> 8}.{number & 255}/16"

    def one(self, count: int) -> None:
        for _ in range(count):
            with nsnet.Netns.new(beside=self.host) as netns:
                self._network.attach(netns, address=self._address()).detach()

    def unwaited(self, count: int) -> None:
        for _ in range(count):
            with nsnet.Netns.new(beside=self.host) as netns:
                self._network.attach(netns, address=self._address()).detach(wait=False)

    def many(self, count: int) -> None:
        slots = nsnet.Netns.new_many(count, beside=self.host)
        try:
            self._network.detach_many(self._network.attach_many(
                [{"netns": netns, "address": self._address()} for netns in slots]))
        finally:
            for netns in slots:
                netns.close()

    def finish(self) -> None:
        self._network.settle()

    def close(self) -> None:
        self._network.down()


class Answering:
    """The ways of a program that answers as slots.c does."""

    def __init__(self, program: Any):
        self.host, self._ask = program.host, program.ask
        self._ask("bridges 1")

    def one(self, count: int) -> None:
        self._ask(f"cycle {count}")

    def many(self, count: int) -> None:
        for words in (f"new {count}", "attach", "detach", "close"):
            self._ask(words)

    def finish(self) -> None:
        """Nothing is left."""


class Way(NamedTuple):
    """`work`: does so many cycles; `count`: how many between two looks at the clock."""

    side: str
    how: str
    stream: Any
    work: Callable[[int], None]
    count: int


def churn(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Each has the same time, in as many slices as there are rounds."""
    many = min(MANY, room_for(MANY))
    present, missing = roll_call([name for name in plan.peers if name in PEERS])
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        field = Field(opened, stage)
        ways = _ways(opened, field, stage, present, many)
        entries = [Entry(way.side, way.how, partial(_turn, way, plan.seconds / plan.rounds), partial(_once, way))
                   for way in ways]
        contest = hold("churn: slots that come and go, each of them", [Task(CYCLE, entries)],
                       plan._replace(warm_up=0), {**missing, **field.missing})
        notes = [*stage.describe(), *_in_a_second(contest), *disturbance(contest.spread_of(FLOOR), busy=BUSY)]
    return {"churn": contest._replace(notes=notes, counts={"seconds": plan.seconds})}


def _ways(opened: ExitStack, field: Field, stage: Stage, present: Sequence[str], many: int) -> List[Way]:
    ways = []
    floor = field.floor()
    if floor is not None:
        c = Answering(floor)
        ways += [Way(FLOOR, f"straight-line C, {many} at a time", c, c.many, many),
                 Way(FLOOR, "straight-line C, one at a time", c, c.one, FEW)]
    ours = Stream(opened.enter_context(nsnet.Netns.new(beside=stage.host)))
    opened.callback(ours.close)
    ways += [Way(OURS, f"attach_many(), detach_many(), {many} at a time", ours, ours.many, many),
             Way(OURS, "attach(), detach(wait=False), settle() at the end", ours, ours.unwaited, FEW),
             Way(OURS, "attach(), detach(), one at a time", ours, ours.one, FEW)]
    for name in present:
        peer = field.other(name)
        if peer is not None:
            theirs = Answering(peer)
            ways.append(Way(name, f"{WAYS[name][0]}; one at a time", theirs, theirs.one, FEW))
    return ways


def _turn(way: Way, seconds: float) -> float:
    """Microseconds for a cycle."""
    gc.collect()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        way.work(way.count)
        done += way.count
    way.stream.finish()
    taken = time.perf_counter() - started
    left = [link.ifname for link in way.stream.host.links(stats=False) if link.master]
    if left:
        raise GaveWay(f"{way.how}: {len(left)} names are not gone")
    settle(way.stream.host)
    return taken * 1e6 / done


def _once(way: Way) -> List[str]:
    """The kinds of links that are there after a few."""
    way.work(FEW)
    way.stream.finish()
    return sorted(link.kind or "" for link in way.stream.host.links(stats=False))


def _in_a_second(contest: Contest) -> List[str]:
    return [f"{brief(1e6 / place.spread.median)} cycles a second: {place.label}" for place in contest.places]
