"""Several contestants at the same tasks: each one's time, beside the floor's and beside nsnet's.

Knows how contestants take turns, that their answers must agree before a clock is started, and the table that comes of
it. Refuses to know what the tasks are. All times are microseconds for one call.
"""

import gc
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from bench.measure import Plan, Progress, Spread, brief, interleave, quartiles

FLOOR, OURS = "floor", "nsnet"


class Disagreement(Exception):
    """Two contestants do not give the same answer: then their times may not stand side by side."""


class Entry(NamedTuple):
    """One contestant at one task.

    `side`: FLOOR, OURS or a peer's name; `how`: what it calls. `turn` does a round and returns microseconds for one
    call, `answer` does it once and returns what must be equal among all entries of the task.
    """

    side: str
    how: str
    turn: Callable[[], float]
    answer: Callable[[], Any]

    @property
    def label(self) -> str:
        return f"{self.side}: {self.how}"


class Task(NamedTuple):
    """What is to be done. Peers are set beside the first entry of OURS."""

    name: str
    entries: List[Entry]


class Place(NamedTuple):
    """One entry, measured."""

    task: str
    label: str
    side: str
    spread: Spread
    to_floor: Optional[float]
    to_nsnet: Optional[float]


class Contest(NamedTuple):
    """A table, measured. `missing`: who is not there, and why; `notes`: for below the table.

    `counts`: what else was measured, by name. The table, the plots and the report know these: "steps" and "stepwise",
    {contestant: {step: [microseconds, one each round]}}; "growth", {side: {str(n): [microseconds for one of n, ...]}};
    "must", a list of what must() gives; "system_calls", of syscalls.as_json().
    """

    title: str
    places: List[Place]
    missing: Dict[str, str]
    notes: List[str]
    counts: Dict[str, Any]
    rounds: Dict[str, List[float]]
    unit: str = "microseconds"

    def as_json(self) -> Dict[str, Any]:
        lines = [{"task": place.task, "name": place.label, "side": place.side, "ratio_to_floor": place.to_floor,
                  "ratio_to_nsnet": place.to_nsnet, **place.spread._asdict()} for place in self.places]
        return {"title": self.title, "unit": self.unit, "lines": lines, "missing": self.missing,
                "notes": self.notes, **self.counts, "rounds": self.rounds}

    def as_text(self) -> str:
        """The ratios first, then the median with quartiles; tasks one under the other."""
        floored = any(place.to_floor is not None for place in self.places)
        cells = [("to floor" if floored else "", f"to {OURS}", "", "")]
        task = None
        for place in self.places:
            if place.task != task:
                task = place.task
                cells.append(("", "", "", f"{task}:"))
            cells.append((_ratio(place.to_floor), _ratio(place.to_nsnet), str(place.spread), "  " + place.label))
        cells += [("", "", "missing", f"  {name}: {why}") for name, why in self.missing.items()]
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        shown = [column for column in range(3) if widths[column]]
        rows = ["  ".join([*(row[column].rjust(widths[column]) for column in shown), row[3]]).rstrip() for row in cells]
        counts = sorted({len(rounds) for rounds in self.rounds.values()})
        count = " or ".join(map(str, counts))
        musts = [f"  {'met' if one['met'] else 'MISSED'}: {one['what']}: {one['measured']} (wanted: {one['wanted']})"
                 for one in self.counts.get("must", ())]
        return "\n".join([f"{self.title}: {self.unit}, median (quartiles) of {count} rounds", *rows,
                          *_steps_table(self.counts.get("steps", {})), *musts, *(f"  {note}" for note in self.notes)])

    def median(self, task: str, label: str) -> Optional[float]:
        """Of one contestant; None if it is not there."""
        return next((place.spread.median for place in self.places if (place.task, place.label) == (task, label)), None)

    def first_of(self, task: str, side: str) -> Optional[float]:
        """The median of a side's first entry at a task."""
        return next((place.spread.median for place in self.places if (place.task, place.side) == (task, side)), None)

    def spread_of(self, side: str) -> Optional[Spread]:
        """The first entry of a side, for what is said of a table as a whole."""
        return next((place.spread for place in self.places if place.side == side), None)


def joined(contests: Sequence[Contest]) -> Contest:
    """Several tables as one, of the first one's title: of tasks that take too long for as many rounds as the others."""
    first = contests[0]
    return first._replace(places=[place for one in contests for place in one.places],
                          missing={name: why for one in contests for name, why in one.missing.items()},
                          rounds={name: rounds for one in contests for name, rounds in one.rounds.items()})


def must(what: str, ours: float, other: float, *, than: str, at_most: Optional[float] = None,
         times_faster: Optional[float] = None) -> Dict[str, Any]:
    """A line of what nsnet must show: its figure beside another's, named `than`, and whether that is good enough."""
    if at_most is not None:
        ratio = ours / other
        return {"what": what, "wanted": f"at most {at_most:g} × {than}", "measured": f"{ratio:.2f}", "ratio": ratio,
                "met": ratio <= at_most}
    ratio = other / ours
    return {"what": what, "wanted": f"at least {times_faster:g} times faster than {than}", "measured": f"{ratio:.1f}",
            "ratio": ratio, "met": ratio >= times_faster}


def entry(side: str, how: str, work: Callable[[], Any], calls: int = 1,
          plain: Callable[[Any], Any] = lambda answer: answer) -> Entry:
    """A contestant that is a function. `calls` of it are a round; `plain` makes its answer comparable, untimed."""
    return Entry(side, how, lambda: timed(work, calls), lambda: plain(work()))


def timed(work: Callable[[], Any], calls: int) -> float:
    """Microseconds for one call, the freeing of its answer included.

    The garbage collector runs before, for whoever makes cycles would slow whoever comes next. It may run within, too:
    what a contestant's own garbage costs is its own.
    """
    gc.collect()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - started) * 1e6 / calls


def hold(title: str, tasks: Sequence[Task], plan: Plan, missing: Mapping[str, str]) -> Contest:
    """Compare the answers, then the times. Raises Disagreement."""
    for task in tasks:
        _agree(task)
    turns = {(task.name, one.label): one.turn for task in tasks for one in task.entries}
    with _quiet_heap():
        taken: Dict[Tuple[str, str], List[float]] = interleave(turns, plan.rounds, plan.warm_up,
                                                               Progress(title.partition(":")[0]))
    places = []
    for task in tasks:
        spreads = [quartiles(taken[task.name, one.label]) for one in task.entries]
        floor, ours = (next((spread.median for one, spread in zip(task.entries, spreads) if one.side == side), None)
                       for side in (FLOOR, OURS))
        for one, spread in zip(task.entries, spreads):
            places.append(Place(task.name, one.label, one.side, spread, floor and spread.median / floor,
                                ours and spread.median / ours))
    return Contest(title, places, dict(missing), [], {},
                   {f"{task}: {label}": rounds for (task, label), rounds in taken.items()})


def _agree(task: Task) -> None:
    first = next(one for one in task.entries if one.side == OURS)
    expected = first.answer()
    for one in task.entries:
        answer = one.answer()
        if answer != expected:
            raise Disagreement(f"{task.name}: {one.label} and {first.label} differ: {_difference(answer, expected)}")


def _difference(answer: Any, expected: Any) -> str:
    """The first of two lists' items that differ, or both answers."""
    if isinstance(answer, list) and isinstance(expected, list):
        if len(answer) != len(expected):
            return f"{len(answer)} items and {len(expected)}"
        answer, expected = next(pair for pair in zip(answer, expected) if pair[0] != pair[1])
    return f"{answer!r} and {expected!r}"


@contextmanager
def _quiet_heap() -> Iterator[None]:
    """The garbage collector looks at nothing that is alive now: the heap of the bench is nobody's cost."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _steps_table(steps: Mapping[str, Mapping[str, Sequence[float]]]) -> List[str]:
    """The medians of each contestant's steps, a column each."""
    if not steps:
        return []
    longest_first = sorted(steps.values(), key=len, reverse=True)
    names = list(dict.fromkeys(name for taken in longest_first for name in taken))
    rows = [[*(brief(quartiles(taken[name]).median) if name in taken else "" for taken in steps.values()), name]
            for name in names]
    columns = "abcdefghij"[:len(steps)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    lines = ["  ".join([*(cell.rjust(width) for cell, width in zip(row, widths)), row[-1]])
             for row in [[*columns, ""], *rows]]
    return ["steps:", *(f"  {line}".rstrip() for line in lines),
            *(f"  {letter}: {label}" for letter, label in zip(columns, steps))]


def _ratio(ratio: Optional[float]) -> str:
    return "" if ratio is None else brief(ratio) if ratio >= 10 else f"{ratio:.2f}"
