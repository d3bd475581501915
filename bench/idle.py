"""A process that makes idle slots, and says for each of them what it has grown by and what the machine has less of.

Run by the bench inside a throw-away host, as `python -m bench.idle WAY SLOTS [traced]`; one line of JSON. Knows where
the kernel says how much memory there is. Refuses to know what the figures are compared with.
"""

import gc
import json
import os
import sys
import tracemalloc
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any, Callable, Dict, List

FIRST = 16              # slots before anything is read: what is made once is no slot's
SHOWN = 14              # kinds of objects, and lines of code, that hold the most
BRIDGE = "10.0.0.1/16"
PARKED = ("/bin/true",)                             # never run
MACHINE = ("MemAvailable", "MemFree", "Slab", "Percpu", "KernelStack", "PageTables")        # of /proc/meminfo
SLABS = "/proc/slabinfo"                            # root's alone
OBJECTS = "objects"                                 # of the kernel, of all of its slabs: what is in use of "Slab"
Make = Callable[[range], Any]                       # makes those, and returns what holds them


def address(number: int) -> str:
    return f"10.0.{1 + (number >> 8)}.{number & 255}"


def attached(opened: ExitStack) -> Make:
    """Network namespaces without a process, held by their Netns, attached."""
    import nsnet
    network = opened.enter_context(nsnet.Network("bench-br0", address=BRIDGE))

    def make(numbers: range) -> Any:
        slots = [opened.enter_context(nsnet.Netns.new()) for _ in numbers]
        return slots, network.attach_many([{"netns": netns, "address": address(number) + "/16"}
                                           for number, netns in zip(numbers, slots)])
    return make


def launched(opened: ExitStack) -> Make:
    """Parked children."""
    import nsnet
    network = opened.enter_context(nsnet.Network("bench-br0", address=BRIDGE))
    return lambda numbers: network.launch_many([{"argv": PARKED, "address": address(number) + "/16"}
                                                for number in numbers], hold=True)


def pyroute2(opened: ExitStack) -> Make:
    """A NetNS kept open for each."""
    from bench import slotrivals
    slotrivals.own_directory()
    rival = slotrivals.Pyroute2()
    rival.up(1)
    return lambda numbers: [opened.enter_context(rival.make(number, 0, address(number), "10.0.0.1"))
                            for number in numbers]


WAYS: Dict[str, Callable[[ExitStack], Make]] = {"attached": attached, "launched": launched, "pyroute2": pyroute2}


# --- what there is ---

def fields(path: str) -> Dict[str, int]:
    """Of /proc/meminfo and the like, in KiB."""
    with open(path, encoding="ascii") as file:
        rows = [line.split() for line in file]
    return {row[0].rstrip(":"): int(row[1]) for row in rows if row[-1] == "kB" and len(row) == 3}


def children() -> List[str]:
    with open("/proc/thread-self/children", encoding="ascii") as file:
        return file.read().split()


def private(pid: str) -> int:
    """KiB of a process that nobody shares; 0 of one that we may not look at."""
    with suppress(OSError):
        found = fields(f"/proc/{pid}/smaps_rollup")
        return found["Private_Clean"] + found["Private_Dirty"]
    return 0


def machine() -> Dict[str, float]:
    """What there is of it, in KiB."""
    found = fields("/proc/meminfo")
    return {**objects(), **{name: found[name] for name in MACHINE if name in found}}


def objects() -> Dict[str, float]:
    """KiB of those that are in use; nothing where that may not be known."""
    try:
        with open(SLABS, encoding="ascii") as file:
            rows = [line.split() for line in file.readlines()[2:]]
    except OSError:
        return {}
    return {OBJECTS: sum(int(row[1]) * int(row[3]) for row in rows) / 1024}


def memory() -> Dict[str, float]:
    """KiB of this process, its children's own, and the machine's; and how many descriptors are open."""
    gc.collect()
    return {"process": fields("/proc/self/smaps_rollup")["Rss"], "children": sum(map(private, children())),
            "descriptors": len(os.listdir("/proc/self/fd")), **machine()}


def kinds() -> Counter:
    """How many objects of each class there are; of what the collector knows."""
    return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


def traced(make: Make, slots: int) -> Dict[str, Any]:
    """Bytes of Python's heap for each slot, and who holds them: by line of code, and by class."""
    gc.collect()
    classes = kinds()
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    held = make(range(FIRST, FIRST + slots))
    gc.collect()
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    lines = [one for one in after.compare_to(before, "lineno")
             if one.size_diff > 0 and one.traceback[0].filename not in (tracemalloc.__file__, __file__)]
    more = kinds()
    more.subtract(classes)
    del held
    return {"heap": sum(one.size_diff for one in lines) / slots,
            "lines": {f"{_place(one.traceback[0])}": one.size_diff / slots for one in lines[:SHOWN]},
            "classes": {name: count / slots for name, count in more.most_common(SHOWN) if count / slots > 0.1}}


def _place(frame: Any) -> str:
    directory, _, name = frame.filename.rpartition("/")
    return f"{directory.rpartition('/')[2]}/{name}:{frame.lineno}"


def grown(make: Make, slots: int) -> Dict[str, Any]:
    """What each of them takes, in KiB. What the machine has less of is the whole, the process's growth included."""
    before = memory()
    held = make(range(FIRST, FIRST + slots))
    after = memory()
    del held
    return {name: (after[name] - before[name]) / slots for name in before}


def main() -> int:
    way, slots = sys.argv[1], int(sys.argv[2])
    with ExitStack() as opened:
        make = WAYS[way](opened)
        first = make(range(FIRST))
        found = (traced if sys.argv[3:] == ["traced"] else grown)(make, slots)
        del first
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
