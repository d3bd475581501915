"""What an idle slot takes of memory: of the process that made it, and of the kernel.

Knows which processes are started for that (bench.idle), and what their figures can and cannot say. All figures are KiB
for one slot.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import Any, Dict, List, Mapping, Sequence

import nsnet
from bench import idle
from bench.bulk import Field
from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold
from bench.measure import Plan, Round
from bench.peers import roll_call
from bench.slots import PORTS, Parts, SlotsFloor, room_for, settle
from bench.stage import CHECKOUT, GaveWay, Stage, powers, run_inside

PROCESS = "the process that made it: growth of its resident memory"
KERNEL = "the kernel: objects of its slabs, memory of each CPU, stacks and page tables"
WAYS = (("attached", OURS, "new namespace, attached"), ("launched", OURS, "parked child, launched"),
        ("pyroute2", "pyroute2", "a NetNS kept open"))
FLOORED = "straight-line C, new namespace, attached"
FOOT = ("resident memory grows by pages and Python's heap by arenas, so heap and lines are from a run of its own, under"
        " tracemalloc",
        "the kernel's figures are the whole machine's, before and after: whoever else runs is in them. With more CPUs"
        " each slot has more. Pages that the kernel takes by themselves, not from slabs, are not in them")


def memory(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Each way is a new process in a new host, each round; the kernel has cleaned up before the next."""
    slots = min(room_for(plan.slots), PORTS - idle.FIRST)
    present, missing = roll_call([name for name in plan.peers if name == "pyroute2"])
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        field = Field(opened, stage)
        of_process: List[Entry] = []
        of_kernel: List[Entry] = []
        floor = field.floor()
        if floor is not None:
            parts = Parts(lambda: _of_floor(floor, slots))
            of_kernel.append(Entry(FLOOR, FLOORED, parts.turn(_kernel), _nothing))
        for way, side, how in WAYS:
            if side == OURS or side in present:
                parts = Parts(lambda way=way: _run(stage, way, slots))
                of_process.append(Entry(side, how, parts.turn(lambda taken: taken["process"]), _nothing))
                of_kernel.append(Entry(side, how, parts.turn(_kernel), _nothing))
        contest = hold(f"rss: {slots} idle slots, each of them", [Task(PROCESS, of_process), Task(KERNEL, of_kernel)],
                       plan._replace(warm_up=0), {**missing, **field.missing})
        held = {how: _run(stage, way, slots, "traced") for way, side, how in WAYS if side == OURS or side in present}
        notes = [*stage.describe(), *(_said(how, one) for how, one in held.items()), *FOOT]
    return {"rss": contest._replace(notes=notes, unit="KiB", counts={"slots": slots, "held": held})}


def _run(stage: Stage, way: str, slots: int, *words: str) -> Dict[str, Any]:
    settle(stage.host)
    with nsnet.Netns.new(beside=stage.host) as host:
        with run_inside(host, [sys.executable, "-m", "bench.idle", way, str(slots), *words], cwd=str(CHECKOUT),
                        capabilities=powers(host), stdout=subprocess.PIPE) as process:
            said = process.stdout.read()
            status = process.wait()
    if status:
        raise GaveWay(f"bench.idle {way}: exit status {status}")
    return json.loads(said)


def _of_floor(floor: SlotsFloor, slots: int) -> Round:
    """As idle.grown(). The program itself holds a number for each slot."""
    settle(floor.host)
    floor.up(idle.FIRST, 1)
    floor.down()
    settle(floor.host)
    before = idle.machine()
    floor.up(slots, 1)
    after = idle.machine()
    floor.down()
    return {"process": 0.0, "children": 0.0, **{name: (after[name] - before[name]) / slots for name in before}}


def _kernel(taken: Round) -> float:
    """As root, objects; else whole slabs, which is more when they are new and less when the last round left some."""
    slabs = taken.get(idle.OBJECTS, taken["Slab"])
    return slabs + sum(taken.get(name, 0.0) for name in ("Percpu", "KernelStack", "PageTables"))


def _nothing() -> None:
    """There is no answer to compare: slots.py's contests do."""


def _said(how: str, held: Mapping[str, Any]) -> str:
    classes = ", ".join(f"{count:.1f} {name}" for name, count in held["classes"].items())
    lines = ", ".join(f"{size:.0f} {place}" for place, size in held["lines"].items())
    return f"{how}: {held['heap'] / 1024:.2f} KiB of Python's heap: {classes}; bytes by line: {lines}"
