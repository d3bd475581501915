"""How the tests of the bench run it, and what holds for every result."""

import json
import subprocess
import sys

import pytest

from live_helpers import PATIENCE, TREE, environment

in_checkout = pytest.mark.skipif(not (TREE / "bench" / "__main__.py").exists(),
                                 reason="the bench is in a checkout only")


def bench(state, *words, **more):
    """(exit code, stdout, stderr) of `python -m bench WORDS`."""
    done = subprocess.run([sys.executable, "-m", "bench", *map(str, words)], cwd=TREE, env=environment(state, **more),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=3 * PATIENCE)
    return done.returncode, done.stdout, done.stderr


def measured(state, scenario, *words, **more):
    """The result of one scenario in two rounds, as --json gives it."""
    code, out, err = bench(state, scenario, "--quick", "--rounds", "2", *words, "--json", "-", **more)
    assert code == 0, err
    content = json.loads(out)
    assert content["machine"]["kernel"].startswith("Linux ") and f"bench {scenario} --quick" in content["command"]
    (result,) = content["results"].values()
    assert result["unit"] == "microseconds"
    assert all(0 < line["low"] <= line["median"] <= line["high"] for line in result["lines"])
    assert all(len(rounds) == 2 for rounds in result["rounds"].values())
    assert {f"{line['task']}: {line['name']}" for line in result["lines"]} == set(result["rounds"])
    for one in result.get("must", ()):
        assert one["what"] and one["wanted"] and one["measured"] and one["met"] in (True, False)
    return result


def sides(result):
    """Who took part, and who is said to be missing."""
    return {line["side"] for line in result["lines"]}, set(result["missing"])
