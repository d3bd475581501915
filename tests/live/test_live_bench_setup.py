"""The bench's setup: who takes part, and that all of them end in the same state before a clock is started."""

import os

import pytest

from bench_helpers import in_checkout, measured, sides
from live_helpers import needs, which

pytestmark = in_checkout

FLOORS = {"pipelined C", "straight-line C, one queue", "straight-line C, default queues, setns",
          "straight-line C, one request at a time"}
PEERS = {"pyroute2", "ip", "hooks", "cni", "netavark", "unshare"}


def figures(result, side):
    return [line for line in result["lines"] if line["side"] == side]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """Two rounds of everybody, beside an `ip` that forgets the default route in its batches."""
    directory = tmp_path_factory.mktemp("bench")
    path = os.environ.get("PATH", "")
    if which("ip") is not None:
        fake = directory / "ip"
        fake.write_text("#!/bin/sh\n"
                        f'[ "$1" = -batch ] || exec {which("ip")} "$@"\n'
                        f'sed "/^route add default/d" | exec {which("ip")} "$@"\n')
        fake.chmod(0o755)
        path = f"{directory}:{path}"
    return measured(directory / "state", "setup", "--peers", "all", PATH=path)


def test_everybody_takes_part_in_setup_or_is_said_to_be_missing(setup):
    """None of them is compared before it has ended in nsnet's state."""
    present, missing = sides(setup)
    assert present | missing == {"floor", "nsnet", *PEERS} and not present & missing
    assert all(setup["missing"].values())
    assert ("unshare" in missing) == (which("unshare") is None) and ("floor" in missing) == (which("gcc") is None)
    assert ("hooks" in missing) == (which("ip") is None), setup["missing"]
    whole = setup["lines"][0]["task"]
    assert all(line["task"] == whole for peer in present & PEERS - {"unshare"} for line in figures(setup, peer))


@needs("ip")
def test_a_peer_that_ends_in_another_state_is_left_out(setup):
    assert "another state" in setup["missing"]["ip"] and "default via" in setup["missing"]["ip"]


@needs("gcc")
def test_setup_stands_beside_its_floors_step_by_step(setup):
    tasks = list(dict.fromkeys(line["task"] for line in setup["lines"]))
    assert len(tasks) == 4 and tasks[0].startswith("a new bridge and one container on it")
    whole = [line for line in setup["lines"] if line["task"] == tasks[0]]
    assert {line["name"].partition(": ")[2] for line in whole if line["side"] == "floor"} == FLOORS
    assert whole[0]["ratio_to_floor"] == 1 and figures(setup, "nsnet")[0]["ratio_to_nsnet"] == 1
    ours = setup["steps"]["nsnet: Network.launch(hold=True)"]
    assert {"clone", "bridge", "id maps and netns", "veth", "container"} <= set(ours)
    for label, steps in {**setup["steps"], **setup["stepwise"]}.items():
        rounds = setup["rounds"][f"{tasks[0]}: {label}"]
        assert [sum(one) for one in zip(*steps.values())] == pytest.approx(rounds)
    (alone,) = setup["stepwise"].values()
    assert {"clone", "maps", "netns", "bridge", "veth", "enslave", "address", "route", "carrier"} <= set(alone)
    wanted = [one["wanted"] for one in setup["must"]]
    assert any("0.85 × straight-line C, default queues" in one for one in wanted)
    assert any("1.15 × pipelined C" in one for one in wanted)


def test_setup_without_a_compiler_has_no_floor(state):
    result = measured(state, "setup", "--peers", "ip", PATH="")
    assert sides(result) == ({"nsnet"}, {"floor", "ip"}) and not any("×" in one["wanted"] for one in result["must"])
    assert all(line["ratio_to_floor"] is None for line in result["lines"])
