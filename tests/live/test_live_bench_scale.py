"""The bench of many slots in brief: bulk, scale, churn and rss run, check what they make, and leave nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from bench_helpers import bench, in_checkout, measured, sides
from live_helpers import PATIENCE, TREE, environment

pytestmark = in_checkout

LONG = os.environ.get("NSNET_HYPOTHESIS") == "long"
FLOORLESS = shutil.which("gcc") is None


def tasks(result):
    return list(dict.fromkeys(line["task"] for line in result["lines"]))


def links_here():
    with open("/proc/net/dev", encoding="ascii") as file:
        return [line.partition(":")[0].strip() for line in file.readlines()[2:]]


@pytest.fixture
def slots():
    """The module of the bench."""
    sys.path[:0] = [str(TREE)]
    try:
        from bench import slots
        yield slots
    finally:
        sys.path.remove(str(TREE))


def test_bulk_compares_all_who_are_there(state):
    before = links_here()
    result = measured(state, "bulk", "--slots", 10, "--peers", "pyroute2,ip")
    present, missing = sides(result)
    assert {"nsnet"} <= present and present | missing == {"nsnet", "floor", "pyroute2", "ip"}
    assert result["slots"] == 10 and result["slots_of_peers"] == 1 and len(tasks(result)) == 4
    assert ("floor" in missing) == FLOORLESS and links_here() == before
    detached = [line["side"] for line in result["lines"] if "detached" in line["task"]]
    assert set(detached) <= {"nsnet", "floor"}


def test_scale_has_a_point_for_every_size(state):
    result = measured(state, "scale", "--scale", "8,9")
    present, missing = sides(result)
    assert present | missing == {"nsnet", "floor"} and result["bridges"] == 8
    assert set(result["growth"]) == present
    for points in result["growth"].values():
        assert list(points) == ["8", "9"] and all(len(taken) == 2 for taken in points.values())
    assert len(tasks(result)) == 4


def test_churn_has_every_way_of_nsnet_in_its_time(state):
    result = measured(state, "churn", "--seconds", 1, "--peers", "none")
    present, missing = sides(result)
    assert present | missing == {"nsnet", "floor"} and result["seconds"] == 1
    ours = [line for line in result["lines"] if line["side"] == "nsnet"]
    assert len(ours) == 3 and sum("cycles a second: nsnet" in note for note in result["notes"]) == 3


def test_rss_says_who_holds_it(state):
    code, out, err = bench(state, "rss", "--quick", "--rounds", 1, "--slots", 20, "--peers", "none", "--json", "-")
    assert code == 0, err
    result = json.loads(out)["results"]["rss"]
    present, missing = sides(result)
    assert result["unit"] == "KiB" and present | missing == {"nsnet", "floor"} and result["slots"] == 20
    assert len(result["held"]) == 2
    for held in result["held"].values():
        assert held["heap"] > 0 and held["classes"]["nsnet.netns.Netns"] == 1.0 and held["lines"]


if LONG:                            # test_live_bench.py has the same of the dump
    def test_without_a_compiler_there_is_no_floor(state):
        result = measured(state, "bulk", "--slots", 4, "--peers", "ip", PATH="")
        assert sides(result) == ({"nsnet"}, {"floor", "ip"})


def test_a_limit_that_is_too_low_is_said(state):
    """A slot needs descriptors."""
    command = ["/bin/sh", "-c", f"ulimit -n 210; exec {sys.executable} -m bench bulk --quick --rounds 1 --slots 12"
               " --peers none --json -"]
    done = subprocess.run(command, cwd=TREE, env=environment(state), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["results"]["bulk"]
    assert result["slots"] == 5 and any(note.startswith("5 slots instead of 12") for note in result["notes"])


@pytest.mark.skipif(FLOORLESS, reason="needs gcc")
def test_all_make_the_same_and_a_slot_that_is_not_there_is_noticed(host, slots, tmp_path):
    import nsnet

    floor = slots.SlotsFloor(str(tmp_path))
    with nsnet.Netns.new(beside=host) as other:
        ours = slots.Ours(other)
        try:
            found = [slots.Rounds(side, 3, 1).state() for side in (floor, ours)]
            assert found[0] == found[1]
            assert found[0] == ([(True, slots.SAMPLE)], (True, "veth", True, True, ["16"], [True]))
            rounds = slots.Rounds(ours, 4, 2)
            assert rounds.steps("attach")() > 0
            ours.up(4, 2)
            other.set_link(next(link for link in other.links() if link.master), up=False)
            with pytest.raises(Exception, match="4 slots were made, and 3 ports forward"):
                rounds._check()
        finally:
            ours.close()
            floor.close()
        assert [link.ifname for link in other.links()] == ["lo"]


def test_what_has_ended_is_taken_apart_when_it_has_settled(host, slots):
    """The link goes with its peer's namespace, which nobody waits for."""
    import nsnet

    with nsnet.Netns.new(beside=host) as inside:
        host.add_veth("v0", peer="eth0", peer_netns=inside, queues=1)
    slots.settle(host)
    assert [link.ifname for link in host.links()] == ["lo"]


@pytest.mark.skipif(FLOORLESS, reason="needs gcc")
@pytest.mark.parametrize("scenario", ["bulk", "churn"] if LONG else ["bulk"])
def test_an_interrupt_leaves_no_process_and_no_claim(state, scenario):
    with subprocess.Popen([sys.executable, "-m", "bench", scenario, "--slots", "20", "--peers", "none"], cwd=TREE,
                          env=environment(state), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as running:
        assert "round 1 of" in running.stderr.readline()
        with open(f"/proc/{running.pid}/task/{running.pid}/children", encoding="ascii") as file:
            floors = file.read().split()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130 and "bench: interrupted" in err and "Traceback" not in err
    assert floors and not any(os.path.exists(f"/proc/{pid}") for pid in floors)
