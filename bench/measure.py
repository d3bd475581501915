"""Taking turns, statistics, and the table that a person reads.

Knows rounds, medians and quartiles, and how to put our figure beside the floor's. Refuses to know what is measured: a
contestant is a name and a function that does one round and returns what its steps took. All times are microseconds.
"""

import os
import platform
import statistics
import sys
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, TypeVar

Round = Dict[str, float]                # microseconds by step
TOTAL = "total"
BUSY = 1.0                              # load average of a minute
UNSTEADY = 1.6                          # upper by lower quartile; a quiet machine has 1.1 to 1.4
T = TypeVar("T")


class Plan(NamedTuple):
    """What was asked for: how many rounds, and for the scenarios that know them how many links, which peers, and how
    big (MiB) the programs are that launch, with huge pages or without.
    """

    rounds: int
    warm_up: int
    links: int
    peers: Sequence[str]
    sizes: Sequence[int]
    huge_pages: bool
    slots: int = 1000
    scale: Sequence[int] = (500, 1000, 2000, 4000)
    seconds: float = 30.0
    idle: int = 1000


class Spread(NamedTuple):
    """The quartiles of some rounds, in microseconds."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{brief(self.median)} ({brief(self.low)}-{brief(self.high)})"


class Row(NamedTuple):
    """One line of a table. `ours` and `floor` name steps, several of which are added up round by round; () for none."""

    name: str
    ours: Sequence[str]
    floor: Sequence[str]


class Line(NamedTuple):
    """One line, measured. A side is None where it has no such step, or was not there."""

    name: str
    ours: Optional[Spread]
    floor: Optional[Spread]

    @property
    def ratio(self) -> Optional[float]:
        return self.ours.median / self.floor.median if self.ours and self.floor and self.floor.median else None


class Result(NamedTuple):
    """One table, measured. `missing`: why there is no floor, None if there is one; `notes`: for below the table;
    `counts`: what is not a time; `rounds`: every round of each side.
    """

    title: str
    lines: List[Line]
    missing: Optional[str]
    notes: List[str]
    counts: Dict[str, Any]
    rounds: Dict[str, List[Round]]

    def as_json(self) -> Dict[str, Any]:
        lines = [{"name": line.name, "ratio": line.ratio, "nsnet": line.ours and line.ours._asdict(),
                  "floor": line.floor and line.floor._asdict()} for line in self.lines]
        return {"title": self.title, "unit": "microseconds", "lines": lines, "missing": self.missing,
                "notes": self.notes, **self.counts, "rounds": self.rounds}

    def as_text(self) -> str:
        return table(self)


def interleave(contestants: Mapping[str, Callable[[], T]], rounds: int, warm_up: int,
               progress: "Progress") -> Dict[str, List[T]]:
    """Let every contestant do one round after the other, `rounds` times; who begins changes from round to round.

    The first `warm_up` rounds are done and not counted. Returns all counted rounds by contestant.
    """
    names = list(contestants)
    taken: Dict[str, List[T]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        progress.show(number + warm_up, warm_up + rounds)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            one = contestants[name]()
            if number >= 0:
                taken[name].append(one)
    progress.end()
    return taken


def spread(rounds: Sequence[Round], steps: Sequence[str]) -> Optional[Spread]:
    """The quartiles of the sum of some steps; None if there were no rounds, or none had such a step."""
    sums = [sum(one.get(step, 0.0) for step in steps) for one in rounds if any(step in one for step in steps)]
    return quartiles(sums) if sums else None


def quartiles(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def disturbance(whole: Optional[Spread], whose: str = "the floor", busy: float = BUSY) -> List[str]:
    """A note if the figures are not ours alone: busy CPUs, or a floor that is itself unsteady, for all namespaces share
    one RTNL lock and any neighbour may hold it.

    `whole`: all of what the floor does, None if there is none. `busy`: a load that the rounds do not make themselves:
    setup and teardown sleep in between and make a half at most.
    """
    signs = []
    load = os.getloadavg()[0]
    if load > busy:
        signs.append(f"the load is {load:.1f}")
    if whole is not None and whole.high > UNSTEADY * whole.low:
        signs.append(f"the upper quartile of {whose} is {whole.high / whole.low:.1f} times its lower")
    return [f"disturbed: {' and '.join(signs)}; measure again on a quiet machine"] if signs else []


def lines(rows: Sequence[Row], ours: Sequence[Round], floor: Sequence[Round]) -> List[Line]:
    return [Line(row.name, spread(ours, row.ours), spread(floor, row.floor)) for row in rows]


class Progress:
    """How far it is, on standard error: one line that is written over on a terminal, else a line every tenth."""

    def __init__(self, what: str):
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._shown = -1

    def show(self, done: int, of: int) -> None:
        tenth = 10 * done // of
        if self._terminal:
            print(f"\r{self._what}: round {done + 1} of {of}", end="", file=sys.stderr, flush=True)
        elif tenth != self._shown:
            print(f"{self._what}: round {done + 1} of {of}", file=sys.stderr, flush=True)
        self._shown = tenth

    def end(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


# --- what is printed ---

def table(result: Result) -> str:
    """The ratio first, then ours and the floor's: medians with quartiles."""
    cells = [("ratio", "nsnet", "floor" if result.missing is None else f"floor ({result.missing})", "")]
    for line in result.lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        cells.append((ratio, str(line.ours or ""), str(line.floor or ""), line.name))
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    rows = ["  ".join([*(cell.rjust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in cells]
    count = len(next(iter(result.rounds.values())))
    return "\n".join([f"{result.title}: microseconds, median (quartiles) of {count} rounds", *rows,
                      *(f"  {note}" for note in result.notes)])


def brief(microseconds: float) -> str:
    return f"{microseconds:.1f}" if microseconds < 100 else f"{microseconds:.0f}"


def machine() -> Dict[str, Any]:
    """What the figures depend on."""
    system = os.uname()
    return {"kernel": f"{system.sysname} {system.release} {system.machine}", "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "uid": os.geteuid(), "load": round(os.getloadavg()[0], 2)}


def _cpu_model() -> str:
    """/proc/cpuinfo has no model name on every architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for text in file:
                if text.lower().startswith(("model name", "uarch", "cpu model")):
                    return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
