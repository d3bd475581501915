"""What the bench makes of results: what nsnet must show, pictures where matplotlib is, a document; and start-up."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from bench_helpers import bench, in_checkout, measured, sides
from live_helpers import TREE

pytestmark = in_checkout

IMPORT = "import nsnet"


@pytest.fixture
def modules():
    """(contest, report) of the bench."""
    sys.path[:0] = [str(TREE)]
    try:
        from bench import contest, report
        yield contest, report
    finally:
        sys.path.remove(str(TREE))


def has_matplotlib():
    return importlib.util.find_spec("matplotlib") is not None


@pytest.fixture
def result():
    """A contest as JSON, with everything that one can have."""
    def line(task, name, median, floor, ours):
        return {"task": task, "name": name, "side": name.partition(":")[0], "ratio_to_floor": floor,
                "ratio_to_nsnet": ours, "low": median - 1.0, "median": median, "high": median + 1.0}
    return {"title": "bulk: of many", "unit": "microseconds", "missing": {"cni": "not | here"}, "notes": ["a note"],
            "lines": [line("one", "floor: C", 10.0, 1.0, 0.5), line("one", "nsnet: many", 20.0, 2.0, 1.0),
                      line("two", "nsnet: many", 30000.0, None, 1.0)],
            "rounds": {"one: floor: C": [9.0, 10.0, 11.0], "one: nsnet: many": [19.0, 20.0, 21.0],
                       "two: nsnet: many": [29999.0, 30000.0, 30001.0]},
            "steps": {"floor: C": {"veth": [4.0, 5.0, 6.0]}, "nsnet: many": {"claim": [1.0], "veth": [9.0]}},
            "stepwise": {"floor: C": {"route": [3.0]}},
            "growth": {"floor": {"500": [10.0, 11.0, 12.0], "4000": [20.0]}, "nsnet": {"500": [12.0, 13.0]}},
            "system_calls": {"nsnet": {"parent": 9, "children": 2, "by_name": {"sendto": 7, "read": 4}},
                             "floor": {"parent": 3, "children": 0, "by_name": {"sendto": 3}}},
            "slots": 1000,
            "must": [{"what": "bulk", "wanted": "at most 1.2 × C", "measured": "2.00", "ratio": 2.0, "met": False}]}


@pytest.fixture
def content(result):
    return {"command": "python -m bench bulk", "date": "today", "nsnet": "0.1", "machine": {"kernel": "Linux 6"},
            "results": {"bulk": result}, "failed": {"codec": "why"}, "seconds": {"bulk": 90.0, "codec": 31}}


# --- start-up ---

def test_import_is_beside_a_bare_interpreter_with_the_backend(state):
    result = measured(state, "import", "--peers", "none")
    assert sides(result) == ({"floor", "python", "nsnet"}, set())
    assert {line["task"] for line in result["lines"]} == {"a new interpreter, until it has ended"}
    beyond = result["beyond"]
    assert {f"nsnet: {IMPORT}", "nsnet: import nsnet; nsnet.Netns", "nsnet: import nsnet; nsnet.Network"} < set(beyond)
    assert "ms" in beyond["nsnet: python -m nsnet list"] and "MiB" not in beyond["nsnet: python -m nsnet list"]
    assert beyond["nsnet: import nsnet; nsnet.Network"]["MiB"] > beyond[f"nsnet: {IMPORT}"]["MiB"] > -1
    assert abs(beyond["python: nothing imported"]["MiB"]) < 2 and "floor: import _cffi_backend" not in beyond
    assert all(kib > 1000 for sizes in result["resident_kib"].values() for kib in sizes)
    (must,) = result["must"]
    assert IMPORT in must["what"] and must["wanted"] == "at most 8 ms and 3 MiB"


# --- one of several that cannot be measured ---

def test_the_others_are_measured_if_one_cannot_be(modules, monkeypatch):
    from bench import scenarios
    plan = modules[0].Plan(2, 0, 0, [], [], False)

    def breaks(wanted, plan):
        raise OSError("no room")
    monkeypatch.setattr(scenarios, "SCENARIOS", {"bad": breaks, "good": lambda wanted, plan: {"good": plan.rounds}})
    results = dict(scenarios.run(["bad", "good"], plan))
    assert str(results["bad"]) == "no room" and results["good"] == 2
    assert dict(scenarios.run(["good"], plan._replace(rounds=0))) == {"good": scenarios.OTHERS}
    with pytest.raises(OSError):
        list(scenarios.run(["bad"], plan))


# --- what nsnet must show ---

def test_what_must_be_shown_is_a_ratio_and_a_verdict(modules):
    contest, _ = modules
    assert contest.must("a", 1.2, 1.0, than="C", at_most=1.2) == {
        "what": "a", "wanted": "at most 1.2 × C", "measured": "1.20", "ratio": 1.2, "met": True}
    assert not contest.must("a", 1.3, 1.0, than="C", at_most=1.2)["met"]
    faster = contest.must("b", 2.0, 24.0, than="others", times_faster=12)
    assert faster["met"] and faster["measured"] == "12.0" and faster["wanted"] == "at least 12 times faster than others"
    assert not contest.must("b", 2.0, 23.9, than="others", times_faster=12)["met"]


def test_tables_of_several_lengths_are_one(modules):
    contest, _ = modules
    plan = contest.Plan(3, 0, 0, [], [], False)

    def table(name, rounds):
        task = contest.Task(name, [contest.Entry("floor", "C", lambda: 10.0, lambda: 1),
                                   contest.Entry("nsnet", "Python", lambda: 20.0, lambda: 1)])
        return contest.hold("title", [task], plan._replace(rounds=rounds), {name: "why"})
    both = contest.joined([table("one", 3), table("two", 2)])
    assert [place.to_floor for place in both.places] == [1, 2, 1, 2] and set(both.missing) == {"one", "two"}
    assert both.median("two", "nsnet: Python") == 20 and both.first_of("one", "floor") == 10
    assert both.first_of("three", "floor") is None and "of 2 or 3 rounds" in both.as_text()


def test_what_many_slots_must_show_is_read_off_their_tables(modules, result):
    from bench import shown
    slots = {key: value for key, value in result.items() if key != "must"}
    assert shown.lines({"codec": slots, "bulk": result}) == result["must"]      # who says it himself is believed
    slots["lines"].append({"task": "two", "name": "pyroute2: x", "side": "pyroute2", "median": 1e6})
    slots["lines"].append({"task": "two", "name": "floor: x", "side": "floor", "median": 29000.0})
    (bulk, gone) = shown.lines({"bulk": slots})
    assert bulk["measured"] == "2.00" and not bulk["met"] and "1000" in bulk["what"]
    assert gone["measured"] == "1.03" and gone["met"] and gone["wanted"].startswith("at most 1.1 ")
    slots["growth"]["nsnet"]["4000"] = [30.0]
    (most, growth) = shown.lines({"scale": slots})
    assert most["measured"] == "1.50" and not most["met"]                       # 30 beside 20
    assert growth["what"] == "one of 4000 slots" and growth["measured"] == "2.40" and growth["met"]
    (churn,) = shown.lines({"churn": {**slots, "lines": slots["lines"][2:4]}})
    assert churn["measured"] == "33.3" and churn["met"]
    (rss,) = shown.lines({"rss": slots})
    assert not rss["met"] and rss["measured"] == "20.0 KiB of the process, 30000 KiB of the kernel"


# --- the document ---

def test_a_document_has_all_of_a_result(modules, content):
    _, report = modules
    text = report.document(content, {"bulk": ["bulk-rounds.png"]}, "pictures")
    for part in ("| bulk | at most 1.2 × C | 2.00 | **no** |", "| kernel | Linux 6 |", "## bulk: of many",
                 "| 2.00 | 1.00 | 20.0 | 19.0–21.0 | nsnet: many |", "| veth | 5.0 | 9.0 |", "| claim |  | 1.0 |",
                 "| route | 3.0 |", "| 4000 | 20.0 (20.0-20.0) |  |", "Microseconds, medians of 3 rounds", "| `sendto` | 7 | 3 |", "| child's | 2 | 0 |",
                 "today, in 2 minutes.", "- **not measured**: codec: why", "- missing: cni: not | here", "- a note", "![bulk](pictures/bulk-rounds.png)", report.COMMAND):
        assert part in text, part
    for block in text.split("\n\n"):            # every row of a table has as many cells as its head
        rows = block.splitlines()
        if rows[0].startswith("| "):
            assert len({row.replace("\\|", "").count("|") for row in rows}) == 1, block


def test_a_document_of_little_has_no_empty_parts(modules, content, result):
    _, report = modules
    content["results"]["bulk"] = {key: result[key] for key in ("title", "unit", "lines", "rounds", "missing",
                                                               "notes", "slots")}
    text = report.document(content, {}, "pictures")
    assert "System calls" not in text and "step" not in text.replace("bench", "") and "\n\n\n" not in text


# --- pictures ---

def test_without_matplotlib_pictures_are_refused_in_a_line_before_anything_is_measured(state, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no pictures here')\n")
    for option in ("--plot", "--report"):
        code, out, err = bench(state, "codec", option, tmp_path / "there",
                               PYTHONPATH=f"{tmp_path}:{TREE}", PATH=os.environ.get("PATH", ""))
        assert code == 1 and out == "" and len(err.splitlines()) == 1
        assert "pip install '.[bench]'" in err and "no pictures here" in err
    assert not (tmp_path / "there").exists()


def test_pictures_are_drawn_of_rounds_steps_and_growth(content, tmp_path):
    """In a process of its own: matplotlib keeps descriptors and threads. Without it, it says so."""
    (tmp_path / "r.json").write_text(json.dumps(content))
    code = ("import json; from bench import plots; results = json.load(open('r.json'))['results']\n"
            "try: print(json.dumps(plots.draw(results, 'there')))\n"
            "except plots.NoPlots as error: print(json.dumps(str(error)))")
    made = json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path,
                                              env={**os.environ, "PYTHONPATH": str(TREE)}))
    if not has_matplotlib():
        assert "pip install '.[bench]'" in made
        return
    assert made == {"bulk": ["bulk-rounds.png", "bulk-steps.png", "bulk-growth.png"]}
    for name in made["bulk"]:
        picture = (tmp_path / "there" / name).read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 5000


def test_one_command_writes_json_pictures_and_a_document(state, tmp_path):
    """Without matplotlib it would be pictures that are missing: then nothing is measured."""
    code, out, err = bench(state, "codec", "--quick", "--rounds", "2", "--peers", "none", "--json", tmp_path / "r.json",
                           "--report", tmp_path / "RESULTS.md")
    assert code == (0 if has_matplotlib() else 1), err
    if code == 0:
        text = (tmp_path / "RESULTS.md").read_text()
        assert "## codec: one message" in text and "(results/codec-rounds.png)" in text and "codec --quick" in text
        assert (tmp_path / "results" / "codec-rounds.png").exists() and (tmp_path / "r.json").exists()
        assert "codec: one message" in out
