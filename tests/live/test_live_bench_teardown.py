"""The bench's teardown and its pool, and system calls, which a setup may not make more of than are allowed."""

import sys

import pytest

from bench_helpers import in_checkout, measured, sides
from live_helpers import TREE, needs

pytestmark = in_checkout


def figures(result, side):
    return [line for line in result["lines"] if line["side"] == side]


@needs("gcc")
def test_teardown_is_one_group_delete_beside_many(state):
    result = measured(state, "teardown", "--peers", "none")
    assert sides(result) == ({"floor", "nsnet"}, set()) and result["many"] == 10 and len(result["grace"]) == 2
    tasks = {line["task"] for line in result["lines"]}
    assert {"a bridge and 1 attached namespace", "a bridge and 10 attached namespaces",
            "a bridge and 10 attached namespaces: one by one"} < tasks and len(tasks) == 4
    assert len(result["must"]) == 3


def test_a_launch_out_of_the_pool_is_beside_a_cold_one(state):
    result = measured(state, "pool")
    assert [line["name"].partition(": ")[2] for line in figures(result, "nsnet")] == ["Pool.launch()", "Network.launch()"]
    assert sides(result)[0] | sides(result)[1] == {"floor", "nsnet"}
    (must,) = result["must"]
    assert must["wanted"] == "at most 0.25 × a cold launch"


# --- system calls ---

@pytest.fixture
def syscalls():
    sys.path[:0] = [str(TREE)]
    try:
        from bench import syscalls
        yield syscalls
    finally:
        sys.path.remove(str(TREE))


@needs("strace")
def test_system_calls_of_one_setup_are_no_more_than_allowed(syscalls):
    counted = syscalls.count_all(floors=False)
    assert counted, "strace is here, and has counted nothing"
    setup = counted[syscalls.OURS][syscalls.SETUP]
    assert setup.by_name["clone3"] == 1 and sum(setup.by_name.values()) == setup.all
    assert setup.by_name["sendto"] + setup.by_name.get("sendmsg", 0) >= 3       # bridge, veth, container
    assert setup.all <= syscalls.AT_MOST, setup.by_name


@needs("strace")
@needs("gcc")
def test_the_floors_system_calls_are_counted_too(syscalls):
    counted = syscalls.count_all()
    assert set(counted) == {syscalls.OURS, *syscalls.FLOORS}
    for name in syscalls.FLOORS:
        setup, teardown = counted[name][syscalls.SETUP], counted[name][syscalls.TEARDOWN]
        assert 15 < setup.parent < 35 and setup.children < 15 and teardown.by_name["sendto"] == 1
        assert setup.by_name["sendto"] == 3 and setup.by_name.get("clone3", 0) + setup.by_name.get("clone", 0) == 1
