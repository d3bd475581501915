"""Start-up: a new interpreter that imports something and ends, in milliseconds and in MiB, beside one that does not.

nsnet is run as a hook, once for each container, so what an import takes is part of what a container takes. The floor is
an interpreter with cffi's backend, which no cffi extension does without; what is beyond it is nsnet's own.
"""

import os
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Mapping, Sequence

from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold, timed
from bench.measure import Plan, disturbance, quartiles
from bench.peers import roll_call
from bench.stage import CHECKOUT

TASK = "a new interpreter, until it has ended"
BACKEND, BARE = "import _cffi_backend", "nothing imported"
PACKAGE, NETWORK, LIST = "import nsnet", "import nsnet; nsnet.Network", "python -m nsnet list"
MILLISECONDS, MIB = 8.0, 3.0                    # what `import nsnet` may take beyond the floor
BUSY = 1.5                                      # the load that the rounds make themselves is 1
SIZES = 5                                       # how often memory is read: it hardly differs
# Runs at the end of what is measured, if its memory is asked for, and not its time.
RESIDENT = """
with open("/proc/self/smaps_rollup") as file:
    print(next(line.split()[1] for line in file if line.startswith("Rss:")))
"""


def imports(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Interpreters take turns; their memory is read in runs of their own."""
    present, missing = roll_call(plan.peers, ("pyroute2",))
    codes = [(FLOOR, BACKEND, BACKEND), ("python", BARE, "pass"), (OURS, PACKAGE, PACKAGE),
             (OURS, "import nsnet; nsnet.Netns", None), (OURS, NETWORK, None)]
    if present:
        codes += [("pyroute2", "import pyroute2", None), ("pyroute2", "from pyroute2 import IPRoute", None)]
    with tempfile.TemporaryDirectory(prefix="nsnet-bench-") as directory:
        entries = [_entry(side, how, ("-c", code or how), directory) for side, how, code in codes]
        entries.append(_entry(OURS, LIST, ("-m", "nsnet", "list"), directory))
        contest = hold("import: start-up", [Task(TASK, entries)], plan, missing)
        sizes = {f"{side}: {how}": [_resident(code or how, directory) for _ in range(min(SIZES, plan.rounds))]
                 for side, how, code in codes}
    beyond = _beyond(contest, sizes)
    notes = [_said(label, figures) for label, figures in beyond.items()]
    counts = {"beyond": beyond, "resident_kib": sizes, "must": _musts(beyond)}
    return {"import": contest._replace(notes=notes + disturbance(contest.spread_of(FLOOR), busy=BUSY), counts=counts)}


def _entry(side: str, how: str, words: Sequence[str], directory: str) -> Entry:
    def run() -> int:
        return subprocess.call([sys.executable, *words], cwd=str(CHECKOUT), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, env=_environment(directory))
    return Entry(side, how, lambda: timed(run, 1), run)


def _environment(directory: str) -> Dict[str, str]:
    """`directory`: has nsnet's state, of which there is none, and everybody's bytecode, which the first run writes.

    Without bytecode the compiler would be measured: where nobody may write to the checkout, or in an environment with
    PYTHONDONTWRITEBYTECODE.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "NSNET_STATE_DIR": directory, "PYTHONPYCACHEPREFIX": os.path.join(directory, "bytecode")}


def _resident(code: str, directory: str) -> int:
    """KiB at the end of it."""
    return int(subprocess.check_output([sys.executable, "-c", code + "\n" + RESIDENT], cwd=str(CHECKOUT),
                                       env=_environment(directory)))


# --- what is said of it ---

def _beyond(contest: Contest, sizes: Mapping[str, Sequence[int]]) -> Dict[str, Dict[str, float]]:
    """By contestant: milliseconds and MiB beyond the floor, of the medians; no MiB of what ends by itself."""
    floor = f"{FLOOR}: {BACKEND}"
    found: Dict[str, Dict[str, float]] = {}
    for place in contest.places:
        figures = {"ms": (place.spread.median - contest.median(TASK, floor)) / 1000}
        if place.label in sizes:
            figures["MiB"] = (quartiles(sizes[place.label]).median - quartiles(sizes[floor]).median) / 1024
        if place.label != floor:
            found[place.label] = figures
    return found


def _said(label: str, figures: Mapping[str, float]) -> str:
    memory = f", {figures['MiB']:+.2f} MiB" if "MiB" in figures else ""
    return f"{label}: {figures['ms']:+.2f} ms{memory} beyond the floor"


def _musts(beyond: Mapping[str, Mapping[str, float]]) -> List[Dict[str, Any]]:
    figures, network = beyond[f"{OURS}: {PACKAGE}"], beyond[f"{OURS}: {NETWORK}"]
    return [{"what": f"`{PACKAGE}` beyond a bare interpreter with cffi's backend",
             "wanted": f"at most {MILLISECONDS:g} ms and {MIB:g} MiB",
             "measured": f"{figures['ms']:.1f} ms and {figures['MiB']:.1f} MiB (with nsnet.Network"
                         f" {network['ms']:.1f} ms and {network['MiB']:.1f} MiB)",
             "ratio": max(figures["ms"] / MILLISECONDS, figures["MiB"] / MIB),
             "met": figures["ms"] <= MILLISECONDS and figures["MiB"] <= MIB}]
