"""What a launch costs, by the size of the program that launches: nsnet, the floor and peers, from small to big.

Knows which contestants stand side by side, how many parents there is memory for, and the two ratios that a launch is
judged by. Every parent lives from the beginning to the end, so that all sizes take turns in the same rounds. How a
contestant launches is bigparent.py's.
"""

import errno
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from bench.bigparent import PROBE
from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold
from bench.measure import TOTAL, Plan, brief, disturbance
from bench.stage import CHECKOUT, PIPES, FloorMissing, LaunchFloor, Program
from nsnet import clone

SETTLE = 0.02           # seconds before each launch that counts, for the kernel takes namespaces apart in its own time
SHARE = 0.7             # of the memory that is available
BUSY = 1.5              # the load that the rounds make themselves is 1
RUNS, REAPED = "launched", TOTAL
GROWTH, LEAD = 1.3, 20  # what is aimed at: from the smallest parent to the largest, and a fork's lead over nsnet there


class Rival(NamedTuple):
    """One contestant: its side and what it does, and how its program is asked for it."""

    side: str
    how: str
    key: str


SPAWN = Rival(OURS, 'spawn(new={"user", "net"})', "nsnet")
COPIED = Rival(OURS, "the same, the child a copy of memory", "nsnet-copied")
FORK = Rival("os.fork", "unshare, maps, execve", "fork")
PREEXEC = Rival("subprocess", "Popen(preexec_fn=unshare and maps)", "preexec")
UNSHARE = Rival("unshare", "Popen([unshare, -Urn, ...])", "unshare")
PLAIN = Rival(OURS, "spawn(new=())", "nsnet-plain")
POPEN = Rival("subprocess", "Popen", "popen-plain")


class Race(NamedTuple):
    """One task at every size. `figure`: of a launch's steps; `floor`: how the floor is asked.

    Of unshare(1) nobody outside knows when its command runs.
    """

    name: str
    figure: str
    floor: str
    rivals: Sequence[Rival]


RACES = (
    Race("new user and net namespaces, until the command runs", RUNS, "new", (SPAWN, COPIED, FORK, PREEXEC)),
    Race("the same until /bin/true was waited for", REAPED, "new", (SPAWN, COPIED, FORK, PREEXEC, UNSHARE)),
    Race("no namespaces, until the command runs", RUNS, "plain", (PLAIN, POPEN)),
)


def launch(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Parents are started and grown, launch in turns, and end."""
    sizes, missing = affordable(plan.sizes)
    rivals = {rival for race in RACES for rival in race.rivals}
    notes: List[str] = []
    if clone.image.fileno() < 0:
        rivals.remove(COPIED)
        notes.append("nsnet's child is a copy of memory: its extension cannot be executed here")
    if shutil.which("unshare") is None:
        rivals.remove(UNSHARE)
        missing["unshare"] = "not in PATH"
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="nsnet-bench-"))
        floor: Optional[LaunchFloor] = None
        try:
            floor = LaunchFloor(directory, PROBE)
            stack.callback(floor.close)
        except FloorMissing as error:
            missing[FLOOR] = str(error)
        parents = {}
        for mib in sizes:
            parents[named(mib)] = parent = Parent(mib, plan.huge_pages)
            stack.callback(parent.close)
        measures = {size: parent.size() for size, parent in parents.items()}
        contest = hold("launch: from parents of several sizes", _tasks(parents, floor, rivals), plan, missing)
    medians, quickest = (_ratios(contest, list(parents), of) for of in (statistics.median, min))
    notes += [*_said(medians, quickest, list(parents)), *map(_sized, measures, measures.values()),
              "the floor is a small program at every size, and does no more than namespaces, maps and execve",
              *disturbance(contest.spread_of(FLOOR), busy=BUSY)]
    counts = {"parents": measures, "ratios": medians, "ratios_of_quickest": quickest}
    return {"launch": contest._replace(notes=notes, counts=counts)}


def affordable(sizes: Sequence[int]) -> Tuple[List[int], Dict[str, str]]:
    """The sizes, in MiB, that there is memory for, all at once and from the smallest on; and why the others are not."""
    budget, taken = int(SHARE * available()), []
    missing = {}
    for mib in sorted(set(sizes)):
        if sum(taken) + mib <= budget:
            taken.append(mib)
        else:
            missing[named(mib)] = (f"left out: the parents may have {budget} MiB together,"
                                   f" {SHARE:.0%} of what is available")
    if not taken:
        raise OSError(errno.ENOMEM, f"no parent fits in {budget} MiB")
    return taken, missing


def available() -> int:
    """MiB that programs can have without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        (kib,) = [line.split()[1] for line in file if line.startswith("MemAvailable:")]
    return int(kib) >> 10


def named(mib: int) -> str:
    return f"{mib >> 10} GiB" if mib and mib % 1024 == 0 else f"{mib} MiB"


class Parent(Program):
    """A program of `mib` MiB that launches. In a session of its own: an interrupt from the terminal is the bench's,
    which then ends it.
    """

    def __init__(self, mib: int, huge_pages: bool):
        argv = [sys.executable, "-m", "bench.bigparent", str(mib), "huge" if huge_pages else "small"]
        super().__init__(f"the parent of {named(mib)}",
                         subprocess.Popen(argv, cwd=CHECKOUT, start_new_session=True, **PIPES))

    def size(self) -> Dict[str, int]:
        """In KiB, by the kernel's names. Waits until it has grown."""
        return {name.rstrip(":"): int(kib) for name, kib, _ in self.show("size")}


# --- the contest ---

def _tasks(parents: Mapping[str, Parent], floor: Optional[LaunchFloor], rivals: Any) -> List[Task]:
    tasks, launches = [], {}
    for race in RACES:
        for size, parent in parents.items():
            sides = [] if floor is None else [(floor, Rival(FLOOR, "straight C", race.floor))]
            sides += [(parent, rival) for rival in race.rivals if rival in rivals]
            entries = []
            for program, rival in sides:
                launched = launches.setdefault((size, rival.key), Launches(program, rival.key))
                entries.append(Entry(rival.side, rival.how, partial(launched.turn, race.figure), launched.whereabouts))
            tasks.append(Task(f"{size}, {race.name}", entries))
    return tasks


class Launches:
    """Those of one contestant at one size. Each gives both figures; one is kept until its own task's turn."""

    def __init__(self, program: Program, key: str):
        self._program, self._key = program, key
        self._kept: Dict[str, List[float]] = {RUNS: [], REAPED: []}

    def turn(self, figure: str) -> float:
        kept = self._kept[figure]
        if not kept:
            # The first is not counted: it finds the caches as another program left them, and after a fork every page
            # of this one's heap write-protected, which would be its neighbour's cost.
            self._program.ask(self._key)
            time.sleep(SETTLE)
            steps = self._program.ask(self._key)
            for name, values in self._kept.items():
                values[:] = [steps[name]]
        return kept.pop()

    def whereabouts(self) -> Tuple[str, bool, bool]:
        """The user id inside, and whether the user and network namespaces are others than ours."""
        (uid,), (user,), (net,) = self._program.show(self._key)
        return uid, user != os.readlink("/proc/self/ns/user"), net != os.readlink("/proc/self/ns/net")


# --- what is said of it ---

def _ratios(contest: Contest, sizes: Sequence[str], of: Callable[[Sequence[float]], float]) -> Dict[str, float]:
    """Of the medians, or of the quickest rounds, which a busy machine disturbs least. One size has no growth."""
    def figure(size: str, rival: Rival) -> float:
        return of(contest.rounds[f"{size}, {RACES[0].name}: {rival.side}: {rival.how}"])
    smallest, largest = sizes[0], sizes[-1]
    ratios = {"fork_to_nsnet": figure(largest, FORK) / figure(largest, SPAWN)}
    if smallest != largest:
        ratios["growth"] = figure(largest, SPAWN) / figure(smallest, SPAWN)
    return ratios


def _said(medians: Mapping[str, float], quickest: Mapping[str, float], sizes: Sequence[str]) -> List[str]:
    said = []
    if "growth" in medians:
        said.append(f"nsnet's launch at {sizes[-1]} / at {sizes[0]}: {medians['growth']:.2f}, of the quickest rounds"
                    f" {quickest['growth']:.2f} (aim: at most {GROWTH})")
    said.append(f"os.fork and unshare at {sizes[-1]} / nsnet's launch there: {brief(medians['fork_to_nsnet'])}, of the"
                f" quickest rounds {brief(quickest['fork_to_nsnet'])} (aim at 4 GiB: at least {LEAD})")
    return said


def _sized(size: str, measures: Mapping[str, int]) -> str:
    return (f"the parent of {size}: {measures['VmRSS'] >> 10} MiB resident,"
            f" {measures.get('AnonHugePages', 0) >> 10} of it in huge pages, {measures['VmPTE']} KiB of page tables")
