"""What nsnet must show, of all that was measured: each line with its figure, and whether that is good enough.

Most scenarios say their own lines ("must" of a contest's counts). Those of many slots are made here of their tables:
the first entry of a side stands for it, and the first task is the making, the last one the undoing. Made of the JSON
that `--json` writes.
"""

from typing import Any, Callable, Dict, List, Mapping, Optional

from bench.contest import FLOOR, OURS, must
from bench.measure import quartiles

Lines = List[Dict[str, Any]]
Result = Mapping[str, Any]
PEER = "pyroute2"
PROCESS_KIB = 8             # of an idle slot


def lines(results: Mapping[str, Result]) -> Lines:
    """In the order of the scenarios that were measured."""
    found: Lines = []
    for name, result in results.items():
        found += [*result.get("must", ()), *(OTHERS[name](result) if name in OTHERS and "must" not in result else ())]
    return found


def _first(result: Result, side: str, task: int = 0) -> Optional[float]:
    """The median of a side's first entry at the first task, or at the last one (-1)."""
    tasks = list(dict.fromkeys(line["task"] for line in result["lines"]))
    return next((line["median"] for line in result["lines"]
                 if (line["task"], line["side"]) == (tasks[task], side)), None)


def _bulk(result: Result) -> Lines:
    found = []
    floor, peer = _first(result, FLOOR), _first(result, PEER)
    ours, gone, floor_gone = _first(result, OURS), _first(result, OURS, -1), _first(result, FLOOR, -1)
    what = f"attach_many of {result['slots']} with new namespaces"
    if floor:
        found.append(must(what, ours, floor, than="the C floor", at_most=1.2))
    if peer:
        found.append(must(what, ours, peer, than=PEER, times_faster=15))
    if floor_gone:
        found.append(must(f"{result['slots']} detached, names gone", gone, floor_gone, than="the C floor", at_most=1.1))
    return found


def _scale(result: Result) -> Lines:
    medians = {side: {int(slots): quartiles(taken).median for slots, taken in points.items()}
               for side, points in result["growth"].items()}
    ours = medians[OURS]
    fewest, most = min(ours), max(ours)
    found = []
    if most in medians.get(FLOOR, {}):
        found.append(must(f"{most} slots", ours[most], medians[FLOOR][most], than="the C floor", at_most=1.2))
    if fewest != most:
        found.append(must(f"one of {most} slots", ours[most], ours[fewest], than=f"one of {fewest}", at_most=2.5))
    return found


def _churn(result: Result) -> Lines:
    peer = _first(result, PEER)
    way = next(line["name"] for line in result["lines"] if line["side"] == OURS)
    what = f"churn: create and destroy, names gone ({way.rpartition(', ')[2]}, {PEER} one at a time)"
    return [must(what, _first(result, OURS), peer, than=PEER, times_faster=30)] if peer else []


def _rss(result: Result) -> Lines:
    process, kernel = _first(result, OURS), _first(result, OURS, -1)
    return [{"what": "memory of an idle slot", "wanted": f"the process's at most {PROCESS_KIB} KiB",
             "measured": f"{process:.1f} KiB of the process, {kernel:.0f} KiB of the kernel",
             "ratio": process / PROCESS_KIB, "met": process <= PROCESS_KIB}]


OTHERS: Dict[str, Callable[[Result], Lines]] = {"bulk": _bulk, "scale": _scale, "churn": _churn, "rss": _rss}
