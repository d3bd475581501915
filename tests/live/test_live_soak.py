"""No leaks over time: networks go up and down for a long time, and everything that can be counted stays as it was."""

import json
import os
import subprocess
import sys

from live_helpers import environment

SOAK = os.environ.get("NSNET_HYPOTHESIS") == "long"         # the long profile of the other long tests
CYCLES = 10_000 if SOAK else 150
WARM_UP = 40                # cycles: until every lifetime's code was run, and the allocators have what they need
SAMPLES = 5
FLAT = ("links", "descriptors", "mounts", "children", "threads", "files")

# A page more for each cycle would be 600 KiB in the short run; the allocators of glibc and CPython, which get blocks of
# 128 KiB and 256 KiB, come and go by two or three of them. In the long run it is less than 210 bytes a cycle.
RSS_KIB = 2048 if SOAK else 512
# Other programs of this machine make network namespaces too, and the kernel takes them apart when it comes to it. Each
# cycle makes two: a leak of one of them is CYCLES.
NAMESPACES = CYCLES // 2

# A process with nothing of pytest in it.
SCRIPT = """
import json, os, select, sys
import nsnet
sys.path.insert(0, sys.argv.pop(1))
from live_helpers import children, descriptors, threads

cycles, warm_up, samples = map(int, sys.argv[1:])
LIFETIMES = ["process", "declared", "attachments", "owner"]

def lines(path):
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()

def namespaces():
    "Of the machine, by the kernel's own books; None where only root may read them. Settled: it falls no more."
    least, looks = None, 0
    while looks < 5:
        try:
            now = next(int(line.split()[1]) for line in lines("/proc/slabinfo") if line.startswith("net_namespace "))
        except (OSError, StopIteration):
            return None
        least, looks = (now, 0) if least is None or now < least else (least, looks + 1)
        select.select([], [], [], 0.02)
    return least

def sample(host, number):
    for _ in range(500):                # join() returns before the kernel is done with a thread
        if threads() == 1:
            break
        select.select([], [], [], 0.01)
    print(json.dumps({
        "cycle": number, "links": len(host.links()), "descriptors": len(descriptors()),
        "mounts": len(lines("/proc/self/mountinfo")), "threads": threads(), "children": len(children()),
        "files": sum(len(names) for _, _, names in os.walk(os.environ["NSNET_STATE_DIR"])),
        # not statm, whose figures are summed up now and then only
        "rss": sum(int(line.split()[1]) for line in lines("/proc/self/smaps_rollup") if line.startswith("Rss:")),
        "namespaces": namespaces()}), flush=True)

def cycle(host, number):
    with nsnet.Netns.new(beside=host) as other:
        network = nsnet.Network("br0", address="10.0.0.1/28", netns=host, lifetime=LIFETIMES[number % 4])
        network.up()
        network.launch(["/bin/cat"], stdin=nsnet.PIPE, stdout=nsnet.PIPE)
        network.attach(other, name="fixed" if number % 3 else None)
        if number % 5:
            network.down()
        else:
            network.down(wait=False)
            network.settle()

with nsnet.Netns.new() as host:
    host.set_link(host.lo, up=True)
    for number in range(warm_up):
        cycle(host, number)
    sample(host, 0)
    for number in range(1, cycles + 1):
        cycle(host, number)
        if number % (cycles // samples) == 0:
            sample(host, number)
"""


def test_networks_go_up_and_down_and_nothing_grows(state):
    """Links, descriptors, mounts, children, threads, files, memory, and the kernel's network namespaces."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, os.path.dirname(os.path.abspath(__file__)), str(CYCLES),
                           str(WARM_UP), str(SAMPLES)], env=environment(state), stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120 + CYCLES * 0.5)
    assert done.returncode == 0, done.stderr[-2000:]
    first, *rest = map(json.loads, done.stdout.splitlines())
    print(done.stdout)                                      # the figures: pytest -s shows them
    assert len(rest) == SAMPLES and rest[-1]["cycle"] == CYCLES
    for now in rest:
        assert {name: now[name] for name in FLAT} == {name: first[name] for name in FLAT}, done.stdout
    assert rest[-1]["rss"] - first["rss"] <= RSS_KIB, done.stdout
    if first["namespaces"] is not None:
        assert rest[-1]["namespaces"] - first["namespaces"] <= NAMESPACES, done.stdout
