"""How many system calls one setup and one teardown take, counted by strace, and how many nsnet may take.

`count` runs a program under strace -f and counts from mark to mark; a mark names what it ends. Ours is an access(2)
that nobody else makes (traced.py), the floor's is the answer that it writes. Times are worth nothing under strace, so
none is taken.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from bench.stage import CHECKOUT, FloorMissing, compiled

AT_MOST = 204                           # of one setup, parent's and child's: what a test asserts
SETUP, TEARDOWN = "up", "down"          # names of stretches
OURS = "nsnet"
FLOORS = {"pipelined C": ("pipelined.c", "up"), "straight-line C": ("straight.c", "up"),
          "straight-line C, default queues, setns": ("straight.c", "up default")}
MARK = "/nsnet-bench-mark/"             # looked for with access(2), never there
_CALL = re.compile(r"(\d+) +([a-z_0-9]+)\(")
_MARKED = re.compile(f'{MARK}(\\w+)|write\\(1, "(?:bridge|clone|links)=')
_ANSWERS = {'write(1, "bridge=': SETUP, 'write(1, "clone=': SETUP, 'write(1, "links=': TEARDOWN}
TIMEOUT = 60.0                          # seconds for a program under strace


class Calls(NamedTuple):
    """Of one stretch: `parent`'s calls and its `children`'s, and how often which was made by either."""

    parent: int
    children: int
    by_name: Dict[str, int]

    @property
    def all(self) -> int:
        return self.parent + self.children


Counted = Mapping[str, Mapping[str, Calls]]         # by side and stretch


def count_all(floors: bool = True) -> Counted:
    """Of nsnet and the floors; a side that cannot be counted here is not in it."""
    counted = {OURS: count([sys.executable, "-m", "bench.traced"], cwd=str(CHECKOUT))}
    if floors and counted[OURS]:
        with tempfile.TemporaryDirectory(prefix="nsnet-bench-") as directory:
            for name, (source, first) in FLOORS.items():
                try:
                    program = compiled(directory, source)
                except FloorMissing:
                    break
                counted[name] = count([program], text=f"{first}\ndown\n{first}\ndown\n".encode())
    return {side: stretches for side, stretches in counted.items() if stretches}


def say(counted: Counted, stretch: str) -> List[str]:
    """For below a table."""
    if not counted:
        return ["system calls: not counted, strace is missing or may not trace here"]
    found = {side: stretches[stretch] for side, stretches in counted.items()}
    return ["system calls: " + "; ".join(f"{side} {calls.parent} and its child {calls.children}"
                                         for side, calls in found.items())]


def as_json(counted: Counted, stretch: str) -> Dict[str, Any]:
    return {side: stretches[stretch]._asdict() for side, stretches in counted.items()}


def must(counted: Counted) -> List[Dict[str, Any]]:
    """The line of what nsnet must show, as contest.must() has it."""
    if OURS not in counted:
        return []
    calls = counted[OURS][SETUP].all
    return [{"what": "system calls of one setup, counted by strace", "wanted": f"at most {AT_MOST}, asserted in a test",
             "measured": f"{calls}", "ratio": calls / AT_MOST, "met": calls <= AT_MOST}]


def count(argv: Sequence[str], *, text: bytes = b"", cwd: Optional[str] = None) -> Dict[str, Calls]:
    """Run `argv` under strace, `text` as its input. The calls of each stretch by name, of the last one of that name.

    {} if strace is not installed or cannot trace here.
    """
    strace = shutil.which("strace")
    if strace is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="nsnet-bench-") as directory:
        log = os.path.join(directory, "strace")
        try:
            subprocess.run([strace, "-f", "-qq", "-s", "64", "-o", log, "--", *argv], input=text, cwd=cwd,
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=TIMEOUT)
            with open(log, encoding="utf-8", errors="replace") as file:
                return _stretches(file)
        except (OSError, subprocess.SubprocessError):
            return {}


def _stretches(log: Iterable[str]) -> Dict[str, Calls]:
    """In the log of strace -f a line begins with the pid, and the first pid is the program's own. A call that was under
    way when another process made one is "resumed" on a later line, and counted where it began."""
    found: Dict[str, Calls] = {}
    calls: List[Tuple[str, str]] = []
    parent = ""
    for line in log:
        match = _CALL.match(line)
        if match is None:
            continue
        pid, name = match.groups()
        parent = parent or pid
        ended = _MARKED.search(line) if pid == parent else None
        if ended is None:
            calls.append((pid, name))
            continue
        mine = sum(caller == parent for caller, _ in calls)
        by_name = dict(Counter(name for _, name in calls))
        found[_ANSWERS.get(ended[0], ended[1])] = Calls(mine, len(calls) - mine, by_name)
        calls = []
    return found


def mark(ended: str) -> None:
    os.access(MARK + ended, os.F_OK)
