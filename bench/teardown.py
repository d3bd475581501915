"""Teardown: a bridge and what is on it, gone, by one group delete or one by one, in turns.

A delete waits for RCU grace periods, so that what is compared is mostly how often a side lets the kernel wait. All is
set up again before each turn, off the clock.
"""

import subprocess
import tempfile
import time
from contextlib import ExitStack
from socket import AF_NETLINK, SOCK_DGRAM
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import nsnet
from bench import syscalls
from bench.containers import SETTLE, Cycle, Ours, PipelinedFloor
from bench.contest import FLOOR, OURS, Contest, Entry, Task, hold, joined, must
from bench.measure import TOTAL, Plan, Round, disturbance, quartiles
from bench.peers import roll_call
from bench.stage import PIPES, Floor, FloorMissing, Stage

MANY, QUICK_MANY = 100, 10
NETLINK_ROUTE = 0
SLOW = 6                # one round of what takes long for so many of the others
LAUNCHED = "a bridge and one parked container, its process with it"
GROUP, SINGLY = "one group delete", "one by one, the bridge last"


def attached(count: int) -> str:
    return f"a bridge and {count} attached namespace{'s' * (count > 1)}"


class TeardownFloor(Floor):
    SOURCE = "teardown.c"

    def __init__(self, directory: str):
        super().__init__(directory, lambda path: subprocess.Popen([path], **PIPES))

    def warm(self) -> None:
        for what in ("make 1", "group", "make 1", "singly", "grace"):
            self.ask(what)

    def links(self) -> int:
        ((process,),) = self.show()
        with nsnet.Netns.of_pid(int(process)) as host:
            return count_links(host)


class Many:
    """One side with a bridge and `count` pairs: `make`, and `delete`, which is timed. `links` counts what is there."""

    def __init__(self, make: Callable[[], Any], delete: Callable[[], Round], links: Callable[[], int]):
        self._make, self._delete, self._links = make, delete, links

    def turn(self) -> float:
        self._make()
        taken = self._delete()[TOTAL]
        time.sleep(SETTLE)
        return taken

    def gone(self) -> Tuple[int, int]:
        self._make()
        before = self._links()
        self._delete()
        return before, self._links()


def count_links(host: nsnet.Netns) -> int:
    return sum(link.kind in ("bridge", "veth") for link in host.links())


class OursMany(Ours):
    """A network with as many namespaces as are in `inside`."""

    def __init__(self, host: nsnet.Netns, inside: Sequence[nsnet.Netns]):
        super().__init__(host)
        self._wanted = [{"netns": netns, "address": f"10.0.{number >> 8}.{2 + number % 250}/16"}
                        for number, netns in enumerate(inside)]

    ADDRESS = "10.0.0.1/16"

    def make(self) -> None:
        self.declare()
        self.network.attach_many(self._wanted)

    def delete(self) -> Round:
        return self._timed(self.take_down)


class Pyroute2Many:
    """The links are nsnet's, the deletes are its own, by numbers that it knows."""

    def __init__(self, host: nsnet.Netns, inside: Sequence[nsnet.Netns]):
        from pyroute2 import IPRoute
        self.host, self._inside = host, inside
        self._ipr = IPRoute(fileno=host.socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE).detach())

    def make(self) -> None:
        with self.host.batch() as net:
            bridge = net.add_bridge("bench-bridge")
            net.set_link(bridge, up=True)
            ends = [net.add_veth(f"bench-{number}", peer="eth0", peer_netns=netns, master=bridge, up=True, queues=1)
                    for number, netns in enumerate(self._inside)]
        self._indexes = [*(host_end.index for host_end, _ in ends), bridge.index]
        for netns, (_, end) in zip(self._inside, ends):
            netns.set_link(end, up=True)

    def delete(self) -> Round:
        started = time.perf_counter()
        for index in self._indexes:
            self._ipr.link("del", index=index)
        return {TOTAL: (time.perf_counter() - started) * 1e6}

    def close(self) -> None:
        self._ipr.close()


def teardown(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """One container with its process; one and many namespaces; and many one by one, in fewer rounds."""
    many = QUICK_MANY if plan.quick else MANY
    with ExitStack() as opened:
        stage = opened.enter_context(Stage())
        present, missing = roll_call(plan.peers, ("pyroute2",))
        floor: Optional[TeardownFloor] = None
        tasks, slow = [_launched(opened, stage, missing)], []
        if FLOOR not in missing:
            try:
                floor = TeardownFloor(_directory(opened))
                opened.callback(floor.close)
            except FloorMissing as error:
                missing[FLOOR] = str(error)
        for count in (1, many):
            group, singly = _entries(opened, stage, floor, count, bool(present))
            tasks.append(Task(attached(count), group))
            if count > 1 and len(singly) > len(group):
                slow.append(Task(f"{attached(count)}: one by one", singly))
            elif count == 1:
                tasks[-1] = Task(attached(1), singly)
        parts = [hold("teardown: links, gone", tasks, plan, missing)]
        if slow:
            less = plan._replace(rounds=max(2, plan.rounds // SLOW), warm_up=1)
            parts.append(hold(f"teardown of {many} one by one", slow, less, {}))
        contest = joined(parts)
        graces = [] if floor is None else [floor.ask("grace")[TOTAL] for _ in range(plan.rounds)]
        counted = syscalls.count_all()
        notes = [*stage.describe(), *syscalls.say(counted, syscalls.TEARDOWN), *_waits(contest, graces),
                 *disturbance(contest.spread_of(FLOOR))]
    counts = {"must": _musts(contest, many), "grace": graces, "many": many,
              "system_calls": syscalls.as_json(counted, syscalls.TEARDOWN)}
    return {"teardown": contest._replace(notes=notes, counts=counts)}


def _directory(opened: ExitStack) -> str:
    return opened.enter_context(tempfile.TemporaryDirectory(prefix="nsnet-bench-"))


def _launched(opened: ExitStack, stage: Stage, missing: Dict[str, str]) -> Task:
    """Whoever has no compiler is told so here."""
    entries = []
    try:
        floor = PipelinedFloor(_directory(opened))
        opened.callback(floor.close)
        entries.append(_goes(FLOOR, f"{GROUP}, then the child's end", floor))
    except FloorMissing as error:
        missing[FLOOR] = str(error)
    cycle = Cycle(opened.enter_context(nsnet.Netns.new(beside=stage.host)))
    opened.callback(cycle.take_down)
    entries.append(_goes(OURS, "Network.down()", cycle))
    return Task(LAUNCHED, entries)


def _goes(side: str, how: str, one: Any) -> Entry:
    def turn() -> float:
        one.up()
        taken = one.down()[TOTAL]
        time.sleep(SETTLE)
        return taken

    def state() -> List[Tuple]:
        one.up()
        try:
            return one.state()
        finally:
            one.down()
    return Entry(side, how, turn, state)


def _entries(opened: ExitStack, stage: Stage, floor: Optional[TeardownFloor], count: int, with_pyroute2: bool
             ) -> Tuple[List[Entry], List[Entry]]:
    """Those that delete at once, and these with those that delete one by one."""
    def host() -> nsnet.Netns:
        return opened.enter_context(nsnet.Netns.new(beside=stage.host))

    def entry(side: str, how: str, one: Many) -> Entry:
        return Entry(side, how, one.turn, one.gone)
    group, singly = [], []
    if floor is not None:
        group.append(entry(FLOOR, GROUP, _floor(floor, count, "group")))
        singly.append(entry(FLOOR, SINGLY, _floor(floor, count, "singly")))
    inside = [host() for _ in range(count)]
    ours = OursMany(host(), inside)
    opened.callback(ours.take_down)
    group.append(entry(OURS, "Network.down()", Many(ours.make, ours.delete, lambda: count_links(ours.host))))
    if with_pyroute2:
        theirs = Pyroute2Many(host(), inside)
        opened.callback(theirs.close)
        singly.append(entry("pyroute2", 'link("del") one by one, the bridge last',
                            Many(theirs.make, theirs.delete, lambda: count_links(theirs.host))))
    return group, group + singly


def _floor(floor: TeardownFloor, count: int, way: str) -> Many:
    return Many(lambda: floor.ask(f"make {count}"), lambda: floor.ask(way), floor.links)


# --- what is said of it ---

def _waits(contest: Contest, graces: Sequence[float]) -> List[str]:
    whole = contest.median(attached(1), f"{FLOOR}: {GROUP}")
    if not graces or not whole:
        return []
    one = quartiles(graces).median
    return [f"RCU: one grace period, by membarrier(2), takes {one / 1000:.1f} ms; the group delete of a bridge and one"
            f" pair {whole / one:.1f} times as long"]


def _musts(contest: Contest, many: int) -> List[Dict[str, Any]]:
    found = []
    for count in (1, many):
        floor = contest.median(attached(count), f"{FLOOR}: {GROUP}")
        ours = contest.median(attached(count), f"{OURS}: Network.down()")
        if floor:
            found.append(must(f"teardown of bridge + {count}", ours, floor, than="one C group delete", at_most=1.05))
    task = f"{attached(many)}: one by one"
    ours, singly = contest.median(task, f"{OURS}: Network.down()"), contest.median(task, f"{FLOOR}: {SINGLY}")
    if singly:
        found.append(must(f"teardown of bridge + {many}", ours, singly, than="one by one in C", times_faster=20))
    return found
