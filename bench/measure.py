"""Taking turns, and statistics.

Knows rounds, medians and quartiles. Refuses to know what is measured: a contestant is a name and a function that does
one round and returns what it took. All times are microseconds.
"""

import os
import statistics
import sys
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, TypeVar

Round = Dict[str, float]                # microseconds by step
TOTAL = "total"
BUSY = 1.0                              # load average of a minute
UNSTEADY = 1.6                          # upper by lower quartile; a quiet machine has 1.1 to 1.4
T = TypeVar("T")


class Plan(NamedTuple):
    """What was asked for: how many rounds, and for the scenarios that know them how many links, which peers, and how
    big (MiB) the programs are that launch, with huge pages or without. `quick`: for a first look, with less of all.
    `slots`: at once, in bulk and idle; `scale`: how many, one after the other; `seconds`: of churn, for each side.
    """

    rounds: int
    warm_up: int
    links: int
    peers: Sequence[str]
    sizes: Sequence[int]
    huge_pages: bool
    quick: bool = False
    slots: int = 1000
    scale: Sequence[int] = (500, 1000, 2000, 4000)
    seconds: float = 30.0


class Spread(NamedTuple):
    """The quartiles of some rounds, in microseconds."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{brief(self.median)} ({brief(self.low)}-{brief(self.high)})"


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


def brief(microseconds: float) -> str:
    return f"{microseconds:.1f}" if microseconds < 100 else f"{microseconds:.0f}"
