"""Which scenarios there are, and which measurement gives which; each family is a file of its own."""

from typing import Any, Callable, Dict, Sequence

from bench.bulk import bulk
from bench.churn import churn
from bench.codec import codec
from bench.containers import setup_and_teardown
from bench.dump import dump
from bench.launch import launch
from bench.measure import Plan
from bench.memory import memory
from bench.scale import scale

# A measurement takes the names that are wanted of it, and gives a measure.Result or a contest.Contest for each. The
# dump comes last: taking a namespace of a thousand links apart keeps the kernel busy after the end.
SCENARIOS: Dict[str, Callable[[Sequence[str], Plan], Dict[str, Any]]] = {
    "setup": setup_and_teardown, "teardown": setup_and_teardown, "codec": codec,
    "launch": launch, "dump": dump,
    "bulk": bulk,
    "scale": scale,
    "churn": churn,
    "rss": memory,
}


def run(wanted: Sequence[str], plan: Plan) -> Dict[str, Any]:
    """The results of the scenarios by name; those that one measurement gives are measured together."""
    results: Dict[str, Any] = {}
    for measurement in dict.fromkeys(SCENARIOS[name] for name in wanted):
        results.update(measurement([name for name in wanted if SCENARIOS[name] is measurement], plan))
    return results
