"""Warm and cold launch: from the call until the command runs, out of a pool and from nothing, in turns.

The pool is full before each turn, and nothing is made in the background while the clock runs. The floor is a process
without namespaces, in C: what a launch costs when everything else is there already.
"""

import tempfile
import time
from contextlib import ExitStack
from typing import Callable, Dict, List, Sequence

import nsnet
from bench.bigparent import PROBE
from bench.containers import SETTLE
from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold, must, timed
from bench.measure import Plan, disturbance
from bench.stage import FloorMissing, LaunchFloor, Stage

TRUE = ("/bin/true",)
TASK = "/bin/true in new user and network namespaces on a bridge that is up, until it runs"
WARM, COLD = "Pool.launch()", "Network.launch()"
SIZE = 4
WARM_SHARE = 0.25               # of a cold launch, at most


def pool(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Both on networks of their own."""
    missing: Dict[str, str] = {}
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        entries: List[Entry] = []
        try:
            floor = LaunchFloor(opened.enter_context(tempfile.TemporaryDirectory(prefix="nsnet-bench-")), PROBE)
            opened.callback(floor.close)
            entries.append(Entry(FLOOR, "clone and execve, no namespaces", lambda: floor.ask("plain")["launched"],
                                 lambda: 0))
        except FloorMissing as error:
            missing[FLOOR] = str(error)
        warm, cold = (_network(opened, stage, name) for name in ("bench-warm", "bench-cold"))
        slots = opened.enter_context(nsnet.Pool(warm, size=SIZE, low=0))
        entries += [_entry(WARM, slots.fill, lambda: slots.launch(TRUE)),
                    _entry(COLD, lambda: None, lambda: cold.launch(TRUE))]
        contest = hold("pool: warm launch and cold", [Task(TASK, entries)], plan, missing)
        notes = [*stage.describe(), f"the pool has {SIZE} slots before each launch",
                 *disturbance(contest.spread_of(FLOOR))]
    ours, other = (contest.median(TASK, f"{OURS}: {how}") for how in (WARM, COLD))
    counts = {"must": [must("warm launch from the pool to exec", ours, other, than="a cold launch",
                            at_most=WARM_SHARE)]}
    return {"pool": contest._replace(notes=notes, counts=counts)}


def _network(opened: ExitStack, stage: Stage, name: str) -> nsnet.Network:
    host = opened.enter_context(nsnet.Netns.new(beside=stage.host))
    return opened.enter_context(nsnet.Network(name, address="10.0.0.1/24", netns=host))


def _entry(how: str, prepare: Callable[[], None], launch: Callable[[], nsnet.Container]) -> Entry:
    launched: List[nsnet.Container] = []

    def turn() -> float:
        prepare()
        time.sleep(SETTLE)
        taken = timed(lambda: launched.append(launch()), 1)
        _end(launched.pop())
        return taken

    def status() -> int:
        return _end(launch())
    return Entry(OURS, how, turn, status)


def _end(container: nsnet.Container) -> int:
    status = container.wait()
    container.remove()
    return status
