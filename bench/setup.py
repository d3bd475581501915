"""Setup: from nothing to a container that could execute its command, by everyone who does it, in turns.

Knows who stands beside whom, and what nsnet must show. How each of them does it is containers.py's, rivals.py's and the
floors'. What has been set up is taken down again before the next one's turn, off the clock.
"""

import subprocess
import tempfile
import time
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import nsnet
from bench import rivals, syscalls
from bench.bigparent import PROBE
from bench.containers import (SETTLE, AttachedMore, Cycle, LaunchedMore, Other, PipelinedFloor, StraightFloor,
                              in_common)
from bench.contest import FLOOR, OURS, Contest, Disagreement, Entry, Task, hold, must, timed
from bench.measure import TOTAL, Plan, Round, disturbance
from bench.peers import roll_call
from bench.stage import FloorMissing, GaveWay, LaunchFloor, Stage

WHOLE = "a new bridge and one container on it, from address to default route, its child parked"
LAUNCH = "one more container on a bridge that is up, the child parked"
ATTACH = "a new network namespace without a process, attached to a bridge that is up"
NAMESPACES = "new user and network namespaces with id maps alone, until /bin/true has ended"
PIPELINED, STRAIGHT = "pipelined C", "straight-line C, one queue"
DEFAULT = "straight-line C, default queues, setns"
STEPWISE = "straight-line C, one request at a time"
LAUNCHED = "Network.launch(hold=True)"
TRUE = ("/bin/true",)


class Side:
    """One contestant that goes up and down, as what containers.py has can. Keeps the steps of each round.

    `warmed`: each turn begins with one that is not counted: it finds the caches as another program left them.
    """

    def __init__(self, one: Any, warmed: bool):
        self._one, self._warmed = one, warmed
        self.rounds: List[Round] = []

    def turn(self) -> float:
        if self._warmed:
            self._cycle()
        steps = self._cycle()
        self.rounds.append(steps)
        return steps[TOTAL]

    def _cycle(self) -> Round:
        steps = self._one.up()
        self._one.down()
        time.sleep(SETTLE)
        return steps

    def state(self) -> List[Tuple]:
        self._one.up()
        try:
            return self._one.state()
        finally:
            self._one.down()
            time.sleep(SETTLE)


class Field:
    """All contestants, started one after the other; what each needs is closed with `opened`."""

    def __init__(self, opened: ExitStack, stage: Stage, warmed: bool):
        self.opened, self._stage, self.warmed = opened, stage, warmed
        self.missing: Dict[str, str] = {}
        self.sides: Dict[Tuple[str, str], Side] = {}
        self.entries: Dict[str, List[Entry]] = {}

    def directory(self) -> str:
        return self.opened.enter_context(tempfile.TemporaryDirectory(prefix="nsnet-bench-"))

    def host(self) -> nsnet.Netns:
        return self.opened.enter_context(nsnet.Netns.new(beside=self._stage.host))

    def enter(self, task: str, side: str, how: str, one: Any) -> None:
        made = Side(one, self.warmed)
        entry = Entry(side, how, made.turn, made.state)
        self.entries.setdefault(task, []).append(entry)
        self.sides[task, entry.label] = made

    def floor(self, task: str, how: str, make: Callable[[], Any]) -> None:
        """A C program, or the reason why it is missing."""
        try:
            one = make()
        except FloorMissing as error:
            self.missing[FLOOR] = str(error)
            return
        self.opened.callback(one.close)
        self.enter(task, FLOOR, how, one)

    def ours(self, task: str, how: str, one: Any) -> None:
        self.opened.callback(one.take_down)
        self.enter(task, OURS, how, one)

    def peer(self, task: str, name: str, expected: List[Tuple]) -> None:
        """A peer whose end state is the same, or the reason why it is left out."""
        host, one = self.host(), None
        try:
            one = Other(name, host, self.directory())
            state = Side(one, False).state()
            if state != expected:
                raise Disagreement(f"it ends in another state: {[(a, b) for a, b in zip(state, expected) if a != b]}")
        except (GaveWay, Disagreement, OSError, ValueError, nsnet.NsnetError) as error:
            self.missing[name] = str(error)
            if one is not None:
                one.close()
            return
        self.opened.callback(one.close)
        self.enter(task, name, rivals.WAYS[name].how, one)


def setup(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Everybody is started, checked, and takes turns."""
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        field = Field(opened, stage, warmed=not plan.quick)
        present, missing = roll_call(plan.peers, (*rivals.WAYS, "unshare"))
        _enter_all(field, present)
        _enter_namespaces(field, "unshare" in present)
        tasks = [Task(name, entries) for name, entries in field.entries.items()]
        contest = hold("setup: one container", tasks, plan, {**missing, **field.missing})
        counted = syscalls.count_all()
        notes = [*stage.describe(), *["each turn begins with one that is not counted"] * field.warmed,
                 *syscalls.say(counted, syscalls.SETUP), *_ratios(contest), *disturbance(contest.spread_of(FLOOR))]
    floors = [f"{FLOOR}: {how}" for how in (PIPELINED, STRAIGHT, DEFAULT)]
    together = _steps(field.sides, plan.rounds, [*floors, f"{OURS}: {LAUNCHED}"], in_common)
    alone = _steps(field.sides, plan.rounds, [f"{FLOOR}: {STEPWISE}"], lambda steps: steps)
    counts = {"steps": together, "stepwise": alone, "must": _musts(contest, counted),
              "system_calls": syscalls.as_json(counted, syscalls.SETUP)}
    return {"setup": contest._replace(notes=notes, counts=counts)}


def _enter_all(field: Field, present: Sequence[str]) -> None:
    """The floor first, then nsnet, then peers."""
    field.floor(WHOLE, PIPELINED, lambda: PipelinedFloor(field.directory()))
    field.floor(WHOLE, STRAIGHT, lambda: StraightFloor(field.directory()))
    field.floor(WHOLE, DEFAULT, lambda: StraightFloor(field.directory(), "up default"))
    field.floor(WHOLE, STEPWISE, lambda: StraightFloor(field.directory(), "up steps"))
    cycle = Cycle(field.host())
    field.ours(WHOLE, LAUNCHED, cycle)
    expected = Side(cycle, False).state()
    for name in present:
        if name in rivals.WAYS:
            field.peer(WHOLE, name, expected)
    field.floor(LAUNCH, PIPELINED, lambda: PipelinedFloor(field.directory(), "attach up", "detach", "bridge"))
    field.ours(LAUNCH, LAUNCHED, LaunchedMore(field.host()))
    field.floor(ATTACH, "straight-line C", lambda: PipelinedFloor(field.directory(), "netns", "detach", "bridge"))
    field.ours(ATTACH, "Netns.new(), Network.attach()", AttachedMore(field.host()))


def _enter_namespaces(field: Field, with_unshare: bool) -> None:
    field.floor(NAMESPACES, "clone, maps, execve, waitpid", lambda: Launched(LaunchFloor(field.directory(), PROBE)))
    field.enter(NAMESPACES, OURS, 'spawn(["/bin/true"], new={"user", "net"})', Once(_spawn))
    if with_unshare:
        argv = [rivals.which("unshare"), "-Urn", *TRUE]
        field.enter(NAMESPACES, "unshare", "-U -r -n /bin/true", Once(lambda: subprocess.check_call(argv)))


class Once:
    """What leaves nothing to be taken down. `work` raises if it fails."""

    def __init__(self, work: Callable[[], Any]):
        self._work = work

    def up(self) -> Round:
        return {TOTAL: timed(self._work, 1)}

    def down(self) -> None:
        pass

    def state(self) -> List[Tuple]:
        return []


class Launched(Once):
    """The floor's, which measures itself."""

    def __init__(self, floor: LaunchFloor):
        super().__init__(lambda: floor.ask("new"))
        self.close = floor.close

    def up(self) -> Round:
        return self._work()


def _spawn() -> None:
    with nsnet.spawn(TRUE, new={"user", "net"}) as process:
        if process.wait():
            raise OSError(f"{TRUE[0]} ended with status {process.returncode}")


# --- what is said of it ---

def _steps(sides: Mapping[Tuple[str, str], Side], rounds: int, labels: Sequence[str], named: Callable[[Round], Round]
           ) -> Dict[str, Dict[str, List[float]]]:
    """Of the whole setup, by contestant and step. `named`: gives the steps of a round its names."""
    found = {}
    for label in labels:
        if (WHOLE, label) in sides:
            taken = [named(steps) for steps in sides[WHOLE, label].rounds[-rounds:]]
            names = dict.fromkeys(name for steps in taken for name in steps if name != TOTAL)
            found[label] = {name: [steps.get(name, 0.0) for steps in taken] for name in names}
    return found


def _ratios(contest: Contest) -> List[str]:
    """nsnet beside each floor of the whole setup: only the first has a column."""
    ours = contest.median(WHOLE, f"{OURS}: {LAUNCHED}")
    beside = [(how, contest.median(WHOLE, f"{FLOOR}: {how}")) for how in (PIPELINED, STRAIGHT, DEFAULT)]
    said = [f"{ours / floor:.2f} of {how}" for how, floor in beside if floor]
    return [f"nsnet's whole setup: {', '.join(said)}"] if said else []


def _musts(contest: Contest, counted: syscalls.Counted) -> List[Dict[str, Any]]:
    ours = contest.first_of(WHOLE, OURS)
    found = []
    for how, limit in ((DEFAULT, 0.85), (PIPELINED, 1.15)):
        floor = contest.median(WHOLE, f"{FLOOR}: {how}")
        if floor:
            found.append(must("whole setup", ours, floor, than=how, at_most=limit))
    for name, times, than in (("pyroute2", 12, "pyroute2"), ("hooks", 25, "the seed's shell hooks")):
        peer = contest.first_of(WHOLE, name)
        if peer:
            found.append(must("whole setup", ours, peer, than=than, times_faster=times))
    for task, what in ((LAUNCH, "launch on a network that is up"), (ATTACH, "Netns.new() and attach")):
        floor = contest.first_of(task, FLOOR)
        if floor:
            found.append(must(what, contest.first_of(task, OURS), floor, than="the C floor", at_most=1.15))
    return found + syscalls.must(counted)
