"""A thousand slots at once, and their end: nsnet, C and others take turns.

Knows who stands beside whom. What a slot is, and how each one makes many, is slots.py's.
"""

import tempfile
from contextlib import ExitStack
from typing import Any, Dict, List, Optional, Sequence, Tuple

import nsnet
from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold
from bench.measure import Plan, disturbance
from bench.peers import roll_call
from bench.slotrivals import WAYS
from bench.slots import ATTACH, DETACH, NAMESPACES, PER_SLOT, PORTS, Other, Ours, Rounds, SlotsFloor, room_for
from bench.stage import FloorMissing, GaveWay, Stage

BOTH = "one slot of many: a new network namespace, attached"
ALONE = "the same without the namespace: veth pair, port, address, default route, carrier"
NEW = "the namespace alone"
GONE = "one slot detached: names gone, the namespace is still there"
STEPS = {BOTH: (NAMESPACES, ATTACH), ALONE: (ATTACH,), NEW: (NAMESPACES,), GONE: (DETACH,)}
FEWER = 10              # a peer makes a tenth of the slots: it takes that much longer
BUSY = 1.8              # the load that the rounds make themselves


class Field:
    """All sides, each in a host of its own; closed with `opened`. `missing`: who is not there, and why."""

    def __init__(self, opened: ExitStack, stage: Stage):
        self._opened, self._stage = opened, stage
        self.missing: Dict[str, str] = {}

    def _host(self) -> nsnet.Netns:
        return self._opened.enter_context(nsnet.Netns.new(beside=self._stage.host))

    def floor(self, *words: str) -> Optional[SlotsFloor]:
        try:
            made = SlotsFloor(self._opened.enter_context(tempfile.TemporaryDirectory(prefix="nsnet-bench-")), *words)
        except FloorMissing as error:
            self.missing[FLOOR] = str(error)
            return None
        self._opened.callback(made.close)
        return made

    def ours(self) -> Ours:
        made = Ours(self._host())
        self._opened.callback(made.close)
        return made

    def other(self, name: str) -> Optional[Other]:
        made = Other(name, self._host())
        try:
            made.up(1, 1)
            made.down()
        except (GaveWay, OSError, nsnet.NsnetError) as error:
            made.close()
            self.missing[name] = str(error)
            return None
        self._opened.callback(made.close)
        return made


def bulk(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Each side makes all of them and deletes them again, in turns; the kernel has cleaned up before the next."""
    slots = min(room_for(plan.slots), PORTS)
    fewer = max(1, slots // FEWER)
    present, missing = roll_call([name for name in plan.peers if name in WAYS])
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        field = Field(opened, stage)
        sides: List[Tuple[str, str, Any, int]] = [
            (FLOOR, "straight-line C", field.floor(), slots),
            (FLOOR, "the same, ports up before their peers", field.floor("ports-first"), slots),
            (OURS, "Netns.new_many(), attach_many(), detach_many()", field.ours(), slots),
            *((name, WAYS[name][0], field.other(name), fewer) for name in present)]
        entries: Dict[str, List[Entry]] = {task: [] for task in STEPS}
        for side, how, made, many in sides:
            if made is None:
                continue
            rounds = Rounds(made, many, 1)
            for task, steps in STEPS.items():
                if task != GONE or side in (FLOOR, OURS):
                    entries[task].append(Entry(side, how, rounds.steps(*steps), rounds.state))
        contest = hold(f"bulk: {slots} slots on one bridge, each of them", [Task(*item) for item in entries.items()],
                       plan._replace(warm_up=1), {**missing, **field.missing})
        notes = [*stage.describe(), *said_of_room(plan.slots, slots)]
    if any(side not in (FLOOR, OURS) and made for side, _, made, _ in sides):
        notes.append(f"peers: {fewer} slots a round, on a bridge without others; their links are deleted for them")
    notes += disturbance(contest.spread_of(FLOOR), busy=BUSY)
    return {"bulk": contest._replace(notes=notes, counts={"slots": slots, "slots_of_peers": fewer})}


def said_of_room(asked: int, slots: int) -> List[str]:
    """A note if it was fewer than were asked for."""
    if slots == asked:
        return []
    return [f"{slots} slots instead of {asked}: a bridge has {PORTS} ports, and a slot needs {PER_SLOT} descriptors, of"
            " which the hard limit allows too few (ulimit -Hn)"]
