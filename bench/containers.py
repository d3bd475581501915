"""One container, set up and taken down: by nsnet, by C, and by the programs of rivals.py; and what must be there then.

Knows each side's steps, under the names that they have in common, and how to look at what a side has made: all of them
must end in the same state, read by nsnet from outside, before a clock is started. Refuses to know who is compared with
whom; that is setup.py's and teardown.py's.
"""

import gc
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any, Callable, List, Optional, Tuple

import nsnet
from bench.measure import TOTAL, Round
from bench.stage import CHECKOUT, PIPES, Floor, Program, powers, run_inside

SETTLE = 0.1            # seconds behind each teardown: the kernel takes the ended namespace apart in its own time, and
                        # the locks that it holds meanwhile would be measured in the next round
CARRIER = 5.0           # seconds that a link may take to get it
SWEPT = 4712            # the group of what is deleted for a peer
ARGV = (sys.executable or "/bin/true",)                     # never run: it stays parked

# What a side calls its steps, and what they are called side by side. A step that only one has keeps its name.
CLONE, CLAIM, BRIDGE, NETNS, VETH, INSIDE, REST = (
    "clone", "claim on disk", "bridge", "id maps and netns", "veth", "container", "between")
COMMON = {"clone": CLONE, "claim": CLAIM, "bridge": BRIDGE, "maps": NETNS, "socket": NETNS, "netns": NETNS,
          "namespaces": NETNS, "veth": VETH, "container": INSIDE, "carrier": INSIDE, "rest": REST}
ORDER = (CLONE, CLAIM, BRIDGE, NETNS, VETH, INSIDE, REST)


def in_common(steps: Round) -> Round:
    """The steps of one round, under common names and in their order, without the total."""
    found: Round = {}
    for name, taken in steps.items():
        if name != TOTAL:
            shared = COMMON.get(name, name)
            found[shared] = found.get(shared, 0.0) + taken
    return {name: found[name] for name in (*ORDER, *found) if name in found}


# --- the end state ---

def end_state(host: nsnet.Netns, inside: nsnet.Netns) -> List[Tuple]:
    """What both namespaces have, in words that do not depend on names. Waits for carrier."""
    bridge, port = _bridge_and_port(host)
    inside.wait_link("eth0", carrier=True, timeout=CARRIER)
    host.wait_link(port.index, carrier=True, timeout=CARRIER)
    end, lo = inside.link("eth0"), inside.link("lo")
    default = [route.via for route in inside.routes() if route.dst == "default" and ":" not in (route.via or "")]
    return [("bridge", bridge.up, _ipv4(host, bridge)), ("port", port.kind, port.up), ("lo", lo.up),
            ("eth0", end.kind, end.up, _ipv4(inside, end)), ("default via", default),
            ("namespaces are two", host.identity != inside.identity)]


def _bridge_and_port(host: nsnet.Netns) -> Tuple[Any, Any]:
    ports = [link for link in host.links() if link.master]
    if len(ports) != 1:
        raise OSError(f"expected one port of a bridge, and there are {len(ports)}")
    return host.link(ports[0].master), ports[0]


def _ipv4(netns: nsnet.Netns, link: Any) -> List[str]:
    return [one.address for one in netns.addresses(link.index) if ":" not in one.address]


# --- nsnet's side ---

class Ours:
    """nsnet, on a host of its own. Each `up` gives its steps."""

    ADDRESS, CONTAINER, HOST_END = "10.0.0.1/24", "10.0.0.2/24", "bench-veth0"

    def __init__(self, host: nsnet.Netns):
        self.host = host
        self._steps: Round = {}
        self.network: Optional[nsnet.Network] = None

    def declare(self) -> None:
        """What a program does before the work begins: no system call in it."""
        self.network = nsnet.Network("bench-bridge", address=self.ADDRESS, netns=self.host, on_step=self._took)

    def _took(self, step: nsnet.Step) -> None:
        self._steps[step.name] = self._steps.get(step.name, 0.0) + step.seconds * 1e6

    def _timed(self, work: Callable[[], None]) -> Round:
        """The steps, what lies between them as "rest", and the whole."""
        self._steps = {}
        gc.collect()                    # what was made before is nobody's cost
        started = time.perf_counter()
        work()
        total = (time.perf_counter() - started) * 1e6
        return {**self._steps, "rest": total - sum(self._steps.values()), TOTAL: total}

    def take_down(self) -> None:
        if self.network is not None:
            self.network.down()


class Cycle(Ours):
    """A network with one parked container, up and down again."""

    def launch(self) -> None:
        self.container = self.network.launch(ARGV, address=self.CONTAINER, host_ifname=self.HOST_END, hold=True)

    def up(self) -> Round:
        self.declare()
        return self._timed(self.launch)

    def down(self) -> Round:
        return self._timed(self.take_down)

    def state(self) -> List[Tuple]:
        return end_state(self.host, self.container.netns)


class LaunchedMore(Cycle):
    """One more container on a network that is up."""

    def __init__(self, host: nsnet.Netns):
        super().__init__(host)
        self.declare()
        self.network.up()

    def up(self) -> Round:
        return self._timed(self.launch)

    def down(self) -> Round:
        return self._timed(lambda: self.container.remove())


class AttachedMore(Ours):
    """A network namespace without a process, made and attached to a network that is up."""

    def __init__(self, host: nsnet.Netns):
        super().__init__(host)
        self.declare()
        self.network.up()

    def up(self) -> Round:
        return self._timed(self._attach)

    def _attach(self) -> None:
        self.netns = nsnet.Netns.new(beside=self.host)
        self.attachment = self.network.attach(self.netns, address=self.CONTAINER, host_ifname=self.HOST_END)

    def down(self) -> Round:
        return self._timed(self._detach)

    def _detach(self) -> None:
        self.attachment.detach()
        self.netns.close()

    def state(self) -> List[Tuple]:
        return end_state(self.host, self.netns)


# --- the floors, which move to network namespaces of their own ---

class ContainerFloor(Floor):
    """A program that sets a container up when it is told `first`, and takes it down when it is told `last`."""

    def __init__(self, directory: str, first: str = "up", last: str = "down", before: str = ""):
        self._first, self._last, self._before = first, last, before
        super().__init__(directory, lambda path: subprocess.Popen([path], **PIPES))

    def warm(self) -> None:
        if self._before:
            self.ask(self._before)
        self.up()
        self.down()

    def up(self) -> Round:
        return self.ask(self._first)

    def down(self) -> Round:
        return self.ask(self._last)

    def state(self) -> List[Tuple]:
        ((host, process, *held),) = self.show()
        path = f"/proc/{process}/" + (f"fd/{held[1]}" if held else "ns/net")
        with ExitStack() as opened:
            return end_state(opened.enter_context(nsnet.Netns.of_pid(int(host))),
                             opened.enter_context(nsnet.Netns.open(path)))


class StraightFloor(ContainerFloor):
    SOURCE = "straight.c"


class PipelinedFloor(ContainerFloor):
    SOURCE = "pipelined.c"


# --- the others ---

class Other(Program):
    """A peer's program in a host that is shared with nobody. Raises GaveWay if it cannot do it, and why."""

    def __init__(self, name: str, host: nsnet.Netns, directory: str):
        self.host = host
        argv = [sys.executable, "-m", "bench.rivals", name, directory]
        super().__init__(name, run_inside(host, argv, cwd=str(CHECKOUT), capabilities=powers(host), **PIPES))

    def up(self) -> Round:
        return self.ask("up")

    def down(self) -> Round:
        taken = self.ask("down")
        sweep(self.host)                # before the child's end, which takes links away at any time after it
        self.ask("end")
        return taken

    def state(self) -> List[Tuple]:
        ((process,),) = self.show()
        with nsnet.Netns.of_pid(int(process)) as inside:
            return end_state(self.host, inside)


def sweep(host: nsnet.Netns) -> None:
    """Delete what a peer made, in one go: veth pairs and bridges."""
    left = [link for link in host.links() if link.kind in ("veth", "bridge")]
    if left:
        with host.batch() as net:
            for link in left:
                net.set_link(link, group=SWEPT)
            net.del_group(SWEPT)
