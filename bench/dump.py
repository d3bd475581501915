"""Reading links: nsnet, the floor, pyroute2 and `ip` take turns at the same namespace full of veth pairs.

Knows how each of them is asked for a list, and for five fields of every link in it. That is all the same five, and what
they say must agree before they are timed. pyroute2 has its socket inside from the beginning, as nsnet has; `ip` is a
process each time, for it is nothing else.
"""

import json
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from socket import AF_NETLINK, SOCK_DGRAM
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import nsnet
from bench.contest import FLOOR, OURS, Contest, Entry, Task, entry, hold
from bench.measure import TOTAL, Plan, disturbance
from bench.peers import roll_call
from bench.stage import FloorMissing, ListFloor, Stage, run_inside

PORTS = 250             # of a bridge; the kernel's limit is 1023
CALLS = 50              # of a short reading, in a row: a round
LISTS = 3               # of a whole list: the first after somebody else's turn finds every cache cold
BUSY = 1.5              # the load that the rounds make themselves is 1
NETLINK_ROUTE = 0
SKIP_STATS = 1 << 3     # RTEXT_FILTER_SKIP_STATS
STATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")        # RFC 2863


class Fields(NamedTuple):
    """What is read of each link, as it is compared. `master` an ifindex, 0 for none."""

    index: int
    ifname: str
    operstate: str
    lladdr: str
    master: int


# --- the contestants ---

class Ours:
    def __init__(self, host: nsnet.Netns):
        self.host = host

    def links(self, **options: Any) -> List[tuple]:
        return [(link.index, link.ifname, link.operstate, link.lladdr, link.master)
                for link in self.host.links(**options)]

    def link(self, index: int) -> List[tuple]:
        link = self.host.link(index)
        return [(link.index, link.ifname, link.operstate, link.lladdr, link.master)]


class Pyroute2:
    def __init__(self, host: nsnet.Netns):
        from pyroute2 import IPRoute
        self.ipr = IPRoute(fileno=host.socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE).detach())

    def links(self, *index: int, **options: Any) -> List[tuple]:
        return [(link["index"], link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_OPERSTATE"),
                 link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_MASTER"))
                for link in self.ipr.get_links(*index, **options)]

    def close(self) -> None:
        self.ipr.close()


class Ip:
    """`ip -j link` in the namespace. It reads names for the masters' numbers: `numbers` are those of all links."""

    def __init__(self, host: nsnet.Netns):
        self.host, self.path = host, shutil.which("ip")
        self.numbers = {link.ifname: link.index for link in host.links()}

    def run(self, *words: str) -> bytes:
        with run_inside(self.host, [self.path, "-j", "link", *words], stdout=subprocess.PIPE) as process:
            return process.stdout.read()

    def parsed(self, *words: str) -> List[Dict[str, Any]]:
        return json.loads(self.run(*words))

    def plain(self, links: List[Dict[str, Any]]) -> List[Fields]:
        return _plain([(link["ifindex"], link["ifname"], link["operstate"], link["address"],
                        self.numbers[link["master"]] if "master" in link else 0) for link in links])


def _plain(links: Sequence[Sequence]) -> List[Fields]:
    return sorted(Fields(int(index), ifname, state.upper(), lladdr, int(master or 0))
                  for index, ifname, state, lladdr, master in links)


# --- the contest ---

def dump(wanted: Sequence[str], plan: Plan) -> Dict[str, Contest]:
    """Links are made, read in turns, and gone with their namespace."""
    present, missing = roll_call(plan.peers, ("pyroute2", "ip"))
    with ExitStack() as stack:
        stage = stack.enter_context(Stage())
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="nsnet-bench-"))
        populate(stage.host, plan.links)
        floor: Optional[ListFloor] = None
        try:
            floor = ListFloor(directory, stage.host)
            stack.callback(floor.close)
        except FloorMissing as error:
            missing[FLOOR] = str(error)
        pyroute2 = None
        if "pyroute2" in present:
            pyroute2 = Pyroute2(stage.host)
            stack.callback(pyroute2.close)
        tasks = _tasks(Ours(stage.host), floor, pyroute2, Ip(stage.host) if "ip" in present else None)
        contest = hold(f"dump: {plan.links} veth links", tasks, plan, missing)
        notes = [*stage.describe()[:1], "the floor's time is its own, without the pipe that it is asked through",
                 *disturbance(contest.spread_of(FLOOR), busy=BUSY)]
    return {"dump": contest._replace(notes=notes, counts={"links": plan.links})}


def populate(host: nsnet.Netns, links: int) -> None:
    """Veth pairs, down, one end of each in a bridge."""
    with host.batch() as batch:
        for pair in range((links + 1) // 2):
            if pair % PORTS == 0:
                bridge = batch.add_bridge(f"bench-br{pair // PORTS}")
            batch.add_veth(f"bench-a{pair}", peer=f"bench-b{pair}", master=bridge, queues=1)


def _tasks(ours: Ours, floor: Optional[ListFloor], pyroute2: Optional[Pyroute2], ip: Optional[Ip]) -> List[Task]:
    some = max(link.index for link in ours.host.links() if link.master)
    name = ours.host.link(some).ifname
    whole = [*_floor(floor, "list"), entry(OURS, "links()", ours.links, LISTS, _plain)]
    lean = [*_floor(floor, "lean"), entry(OURS, "links(stats=False)", lambda: ours.links(stats=False), LISTS, _plain)]
    one = [*_floor(floor, f"one {some}"), entry(OURS, "link(index)", lambda: ours.link(some), CALLS, _plain)]
    if pyroute2 is not None:
        whole.append(entry("pyroute2", "get_links(), get_attr()", pyroute2.links, LISTS, _plain))
        lean.append(entry("pyroute2", "get_links(ext_mask=8)", lambda: pyroute2.links(ext_mask=SKIP_STATS),
                          LISTS, _plain))
        one.append(entry("pyroute2", "get_links(index)", lambda: pyroute2.links(some), CALLS, _plain))
    if ip is not None:
        whole += [entry("ip", "-j link, output thrown away", ip.run, LISTS, lambda out: ip.plain(json.loads(out))),
                  entry("ip", "-j link, json.loads", ip.parsed, LISTS, ip.plain)]
        one.append(entry("ip", "-j link show dev NAME, json.loads", lambda: ip.parsed("show", "dev", name),
                         plain=ip.plain))
    return [Task("every link, five fields of each", whole), Task("the same without counters", lean),
            Task("one of the links, by its index", one)]


def _floor(floor: Optional[ListFloor], what: str) -> List[Entry]:
    if floor is None:
        return []

    def turn() -> float:
        return sum(floor.ask(what)[TOTAL] for _ in range(LISTS)) / LISTS
    return [Entry(FLOOR, "straight C", turn, lambda: _plain(map(_named, floor.show(what))))]


def _named(row: List[str]) -> tuple:
    index, ifname, operstate, master, lladdr = row
    return index, ifname, STATES[int(operstate)], lladdr, master
