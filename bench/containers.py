"""Setup and teardown of a container: nsnet and the floor take turns, and rows are read from their rounds.

Knows nsnet's steps and the floor's, and which of the one stand beside which of the other. Where they run is stage.py's,
statistics are measure.py's, printing is __main__.py's choice.
"""

import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import nsnet
from bench import syscalls
from bench.measure import TOTAL, Plan, Progress, Result, Round, Row, disturbance, interleave, lines, spread
from bench.stage import CHECKOUT, CycleFloor, FloorMissing, Stage

SETTLE = 0.1            # seconds behind each teardown: the kernel takes the ended namespace apart in its own time, and
                        # the locks that it holds meanwhile would be measured in the next round


class Cycle:
    """nsnet's side of setup and teardown: one network with one parked container, up and down again."""

    ADDRESS, CONTAINER = "10.0.0.1/24", "10.0.0.2/24"
    ARGV = (sys.executable or "/bin/true",)                 # never run: it stays parked

    def __init__(self, host: nsnet.Netns):
        self._host = host
        self._steps: Round = {}
        self._network: Optional[nsnet.Network] = None

    def declare(self) -> None:
        """What a program does before the work begins: no system call in it."""
        self._network = nsnet.Network("bench-bridge", address=self.ADDRESS, netns=self._host, on_step=self._took)

    def launch(self) -> None:
        self._network.launch(self.ARGV, address=self.CONTAINER, host_ifname="bench-veth0", hold=True)

    def take_down(self) -> None:
        if self._network is not None:
            self._network.down()

    def up(self) -> Round:
        self.declare()
        return self._timed(self.launch)

    def down(self) -> Round:
        return self._timed(self.take_down)

    def _took(self, step: nsnet.Step) -> None:
        self._steps[step.name] = self._steps.get(step.name, 0.0) + step.seconds * 1e6

    def _timed(self, work: Callable[[], None]) -> Round:
        """The steps, what lies between them as "rest", and the whole."""
        self._steps = {}
        started = time.perf_counter()
        work()
        total = (time.perf_counter() - started) * 1e6
        return {**self._steps, "rest": total - sum(self._steps.values()), TOTAL: total}


SETUP = (
    Row("whole setup: bridge to default route, child parked", (TOTAL,), (TOTAL,)),
    Row("clone3, id maps, network namespace and its socket", ("clone", "namespaces"), ("clone", "maps", "socket")),
    Row("bridge: create, address, up", ("bridge",), ("bridge",)),
    Row("veth pair, peer inside, master, up", ("veth",), ("veth",)),
    Row("container: lo, eth0, address, default route, carrier", ("container",), ("container", "carrier")),
    Row("claim: the journal entry", ("claim",), ()),
    Row("between the steps", ("rest",), ()),
)
TEARDOWN = (
    Row("whole teardown: bridge, veth pair, parked child", (TOTAL,), (TOTAL,)),
    Row("links: one group delete", ("bridge",), ("links",)),
    Row("child and journal entry", ("rest",), ("process",)),
)
VIEWS = (           # of a round, in its order: name, title, rows, and what the stretch of system calls is called
    ("setup", "setup of one container on a new bridge", SETUP, "up"),
    ("teardown", "teardown of the bridge and one container", TEARDOWN, "down"),
)


def setup_and_teardown(wanted: Sequence[str], plan: Plan) -> Dict[str, Result]:
    """One measurement, for what goes up must come down; the results of `wanted` ("setup", "teardown") by name."""
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="nsnet-bench-") as directory:
        cycle, notes, missing = Cycle(stage.host), stage.describe(), None
        turns: Dict[str, Callable[[], Tuple[Round, Round]]] = {"nsnet": lambda: _up_and_down(cycle)}
        floor: Optional[CycleFloor] = None
        try:
            try:
                floor = CycleFloor(directory)
                turns["floor"] = lambda: _up_and_down(floor)
            except FloorMissing as error:
                missing = str(error)
            taken = interleave(turns, plan.rounds, plan.warm_up, Progress(" and ".join(wanted)))
            counted = _count_calls(None if floor is None else floor.path)
        finally:
            if floor is not None:
                floor.close()
            cycle.take_down()
    results = {}
    for position, (name, title, rows, stretch) in enumerate(VIEWS):
        ours, theirs = ([pair[position] for pair in taken.get(side, ())] for side in ("nsnet", "floor"))
        calls = {side: counts[stretch]._asdict() for side, counts in counted.items() if stretch in counts}
        foot = notes + _say(calls) + disturbance(spread(theirs, (TOTAL,)))
        results[name] = Result(title, lines(rows, ours, theirs), missing, foot,
                               {"system_calls": calls}, {"nsnet": ours, "floor": theirs})
    return {name: results[name] for name in wanted}


def _up_and_down(side: Any) -> Tuple[Round, Round]:
    up = side.up()
    down = side.down()
    time.sleep(SETTLE)
    return up, down


def _count_calls(floor: Optional[str]) -> Dict[str, Dict[str, syscalls.Calls]]:
    """By side and stretch; {} where strace is missing or may not trace."""
    counted = {"nsnet": syscalls.count([sys.executable, "-m", "bench.traced"], cwd=str(CHECKOUT))}
    if floor is not None:
        counted["floor"] = syscalls.count([floor], text=b"up\ndown\nup\ndown\n")
    return counted


def _say(calls: Mapping[str, Mapping[str, Any]]) -> List[str]:
    if not calls:
        return ["system calls: not counted, strace is missing or may not trace here"]
    return ["system calls: " + "; ".join(f"{side} {counts['parent']} and its child {counts['children']}"
                                         for side, counts in calls.items())]
