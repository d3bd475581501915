"""How what a slot costs grows with their number: nsnet and C take turns at 500 to 4,000 slots on several bridges.

Knows sizes and bridges, and how many rounds there is time for. What a slot is, is slots.py's.
"""

from contextlib import ExitStack
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from bench.bulk import BUSY, Field, said_of_room
from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold
from bench.measure import Plan, disturbance, quartiles
from bench.slots import ATTACH, BRIDGES, DETACH, NAMESPACES, PORTS, Rounds, room_for
from bench.stage import Stage

SHARDS = 8              # bridges: 4,000 ports need 4 at least
UP, DOWN = (NAMESPACES, BRIDGES, ATTACH), (DETACH,)


def scale(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Every size in turns, in every round."""
    room = min(room_for(max(plan.scale)), SHARDS * PORTS)
    sizes = [slots for slots in plan.scale if slots <= room] or [max(SHARDS, room)]
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        field = Field(opened, stage)
        sides: List[Tuple[str, str, Any]] = [(FLOOR, "straight-line C", field.floor()),
                                             (OURS, "Netns.new_many(), ShardedNetwork", field.ours())]
        tasks = []
        for slots in sizes:
            up, down = [], []
            for side, how, made in sides:
                if made is not None:
                    rounds = Rounds(made, slots, SHARDS)
                    up.append(Entry(side, how, rounds.steps(*UP), rounds.state))
                    down.append(Entry(side, how, rounds.steps(*DOWN), rounds.state))
            tasks += [Task(f"one of {slots}: namespace, bridge, veth pair, port, address, route, carrier", up),
                      Task(f"one of {slots}: detached, names gone", down)]
        contest = hold(f"scale: up to {sizes[-1]} slots on {SHARDS} bridges, each of them", tasks,
                       plan._replace(warm_up=0), field.missing)
        notes = [*stage.describe(), *said_of_room(max(plan.scale), sizes[-1])]
    growth = {side: {str(slots): contest.rounds[f"{task.name}: {one.label}"]
                     for slots, task in zip(sizes, tasks[::2]) for one in task.entries if one.side == side}
              for side, _, made in sides if made is not None}
    notes += [*_said_of_growth(growth), *disturbance(contest.spread_of(FLOOR), busy=BUSY)]
    return {"scale": contest._replace(notes=notes, counts={"growth": growth, "bridges": SHARDS})}


def _said_of_growth(growth: Mapping[str, Mapping[str, Sequence[float]]]) -> List[str]:
    """What one costs among the most, beside one among the fewest."""
    said = []
    for side, by_size in growth.items():
        medians = [(slots, quartiles(taken).median) for slots, taken in by_size.items()]
        (fewest, least), (most, largest) = medians[0], medians[-1]
        if fewest != most:
            said.append(f"{side}: one of {most} costs {largest / least:.2f} times as much as one of {fewest}")
    return said
