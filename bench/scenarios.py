"""Which scenarios there are, in how many rounds, and which measurement gives which; each family is its own file."""

from typing import Any, Callable, Dict, Iterator, Sequence, Tuple

import nsnet
from bench.bulk import bulk
from bench.churn import churn
from bench.codec import codec
from bench.contest import Disagreement
from bench.dump import dump
from bench.imports import imports
from bench.launch import launch
from bench.measure import Plan
from bench.memory import memory
from bench.pool import pool
from bench.scale import scale
from bench.setup import setup
from bench.stage import GaveWay
from bench.teardown import teardown

# A measurement takes the names that are wanted of it, and gives a contest.Contest for each. The dump comes last: taking
# a namespace of a thousand links apart keeps the kernel busy after the end.
SCENARIOS: Dict[str, Callable[[Sequence[str], Plan], Dict[str, Any]]] = {
    "setup": setup, "teardown": teardown, "pool": pool, "import": imports, "codec": codec, "launch": launch,
    "rss": memory, "bulk": bulk, "churn": churn, "scale": scale, "dump": dump,
}
# Rounds, where nobody says how many: what a round takes differs a hundredfold, and all of them are to take minutes. Of
# churn it is slices of each contestant's time.
ROUNDS = {"setup": 20, "teardown": 24, "import": 30, "codec": 20, "launch": 10, "rss": 5, "bulk": 7, "churn": 5,
          "scale": 3, "dump": 20}
OTHERS = 40
QUICK_ROUNDS = 10                       # at most
FAILURES = (nsnet.NsnetError, OSError, Disagreement, GaveWay)


def run(wanted: Sequence[str], plan: Plan) -> Iterator[Tuple[str, Any]]:
    """The results of the scenarios by name, each when it is there; what one measurement gives is measured together.

    A plan of no rounds gets as many as are usual, and a quick one fewer. If there are others to come, an error is
    yielded in a result's place.
    """
    measurements = list(dict.fromkeys(SCENARIOS[name] for name in wanted))
    for measurement in measurements:
        names = [name for name in wanted if SCENARIOS[name] is measurement]
        usual = max(ROUNDS.get(name, OTHERS) for name in names)
        rounds = plan.rounds or (min(usual, QUICK_ROUNDS) if plan.quick else usual)
        try:
            yield from measurement(names, plan._replace(rounds=rounds)).items()
        except FAILURES as error:
            if len(measurements) == 1:
                raise
            yield from ((name, error) for name in names)
