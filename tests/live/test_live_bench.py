"""`python -m bench` in brief: its scenarios run, and what they print and write is what it says it is."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from bench_helpers import bench, in_checkout, measured, sides
from live_helpers import PATIENCE, TREE, environment

pytestmark = in_checkout

PEERS = {"pyroute2", "ip"}


def test_codec_compares_with_pyroute2_where_it_is_installed(state):
    result = measured(state, "codec")
    present, missing = sides(result)
    assert "nsnet" in present and present | missing == {"nsnet", "pyroute2"}
    assert not any("it is not known why" in note for note in result["notes"])
    tasks = [line["task"] for line in result["lines"]]
    assert sum(task.startswith("encode veth") for task in tasks) >= 2 and any("everything" in task for task in tasks)


def test_dump_compares_with_whoever_is_there(state):
    result = measured(state, "dump", "--links", "20")
    present, missing = sides(result)
    assert result["links"] == 20 and "nsnet" in present and present | missing == {"nsnet", "floor", *PEERS}
    assert ("ip" in missing) == (shutil.which("ip") is None) and ("floor" in missing) == (shutil.which("gcc") is None)
    ours = [line for line in result["lines"] if line["side"] == "nsnet"]
    assert all(line["ratio_to_nsnet"] == 1 for line in ours)
    if "floor" in present:
        assert all(line["ratio_to_floor"] for line in result["lines"])


def test_launch_takes_turns_at_every_size_and_says_the_ratios(state):
    """8 MiB is less than a Python program has: what it really has is said. No time is judged here."""
    result = measured(state, "launch", "--sizes", "32,8")
    present, missing = sides(result)
    assert {"nsnet", "os.fork", "subprocess"} <= present
    assert present | missing == {"nsnet", "os.fork", "subprocess", "unshare", "floor"}
    assert ("unshare" in missing) == (shutil.which("unshare") is None)
    tasks = {line["task"] for line in result["lines"]}
    assert {task.partition(",")[0] for task in tasks} == {"8 MiB", "32 MiB"} and len(tasks) == 6
    assert result["parents"]["32 MiB"]["VmRSS"] >= 31 << 10 and result["parents"]["8 MiB"]["VmPTE"] > 0
    for ratios in (result["ratios"], result["ratios_of_quickest"]):
        assert set(ratios) == {"growth", "fork_to_nsnet"} and all(ratio > 0 for ratio in ratios.values())
    assert any(note.startswith("nsnet's launch at 32 MiB / at 8 MiB: ") for note in result["notes"])


def test_a_parent_that_does_not_fit_is_left_out(state):
    result = measured(state, "launch", "--sizes", f"8,{1 << 30}")
    assert f"{1 << 20} GiB" in result["missing"] and set(result["parents"]) == {"8 MiB"}
    assert set(result["ratios"]) == {"fork_to_nsnet"}
    code, _, err = bench(state, "launch", "--sizes", str(1 << 30))
    assert code == 1 and "no parent fits" in err and "Traceback" not in err


def test_an_interrupted_launch_leaves_no_process(state):
    """The parents are programs of their own, and the interrupt reaches the bench alone."""
    with subprocess.Popen([sys.executable, "-m", "bench", "launch", "--sizes", "8,32"], cwd=TREE,
                          env=environment(state), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as running:
        assert "round 1 of" in running.stderr.readline()
        parents = children(running.pid)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130 and "microseconds" not in out
    assert "bench: interrupted" in err and "Traceback" not in err
    assert len(parents) >= 2 and not any(os.path.exists(f"/proc/{pid}") for pid in parents)


def test_what_is_missing_is_named_and_no_error(state):
    """An empty PATH: neither `ip` nor a compiler."""
    result = measured(state, "dump", "--links", "4", "--peers", "ip", PATH="")
    assert sides(result) == ({"nsnet"}, {"floor", "ip"})
    code, out, err = bench(state, "dump", "--quick", "--rounds", "1", "--links", "4", "--peers", "ip", PATH="")
    assert code == 0 and "ip: not in PATH" in out, err


def test_peers_may_be_left_out(state):
    assert sides(measured(state, "codec", "--peers", "none")) == ({"nsnet"}, set())
    code, _, err = bench(state, "codec", "--peers", "brctl")
    assert code == 2 and "'brctl'" in err and "expected one or more of pyroute2, ip, " in err


@pytest.mark.parametrize("words, said", [
    ([], "scenario"), (["setups"], "'setups'"), (["pool", "--rounds", "0"], "'0'"), (["pool", "--rounds", "x"], "'x'"),
    (["launch", "--sizes", "8,none"], "'none'"), (["scale", "--scale", "4"], "'4': expected a number from 8 "),
    (["churn", "--seconds", "0.5"], "'0.5'"), (["dump", "--links", "9999999"], "'9999999'"),
    (["pool", "--peers", ""], "expected one or more of"), (["codec", "--json", "/nowhere/file"], "/nowhere/file"),
    (["codec", "--json", "/proc"], "/proc"), (["codec", "--report", "/nowhere/file"], "/nowhere/file"),
    (["codec", "--plot", "/nowhere/directory"], "/nowhere/directory"), (["codec", "--plot", os.devnull], os.devnull)])
def test_what_cannot_be_meant_is_one_line_before_anything_is_measured(state, words, said):
    code, out, err = bench(state, *words)
    (line,) = err.splitlines()
    assert code == 2 and not out and line.startswith("bench: ") and said in line


def test_an_import_is_measured_with_bytecode_wherever_the_checkout_lies(state, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TREE))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    from bench import imports
    subprocess.run([sys.executable, "-c", "import nsnet; nsnet.UsageError"], cwd=TREE, check=True,
                   env=imports._environment(str(tmp_path)))
    assert any(path.name.startswith("errors.") for path in tmp_path.rglob("nsnet/*.pyc"))


def test_a_table_says_what_it_is_about_and_no_link_is_left(state):
    before = links_here()
    code, out, err = bench(state, "dump", "--quick", "--rounds", "1", "--links", "4", "--peers", "none")
    assert code == 0, err
    heading, table = out.split("\n\n")
    title, *rows = table.splitlines()
    said = dict(line.split(": ", 1) for line in heading.splitlines())
    assert {"kernel", "cpu", "cores", "load", "python", "uid", "limits", "sysctls"} <= set(said)
    assert said["kernel"].startswith("Linux ") and said["uid"].startswith(f"{os.geteuid()}, ")
    assert title.startswith("dump: 4 veth links: microseconds")
    assert any("every link, five fields of each" in row for row in rows)
    assert links_here() == before


def links_here():
    with open("/proc/net/dev", encoding="ascii") as file:
        return [line.partition(":")[0].strip() for line in file.readlines()[2:]]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return file.read().split()
