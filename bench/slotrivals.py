"""How others make many slots: programs that wait in the throw-away host, and do it when they are asked.

Run by the bench inside that host, as `python -m bench.slotrivals NAME`; answers as slots.c does: "new N", "bridges B",
"attach", "cycle N", "close" by what they took, "show last" by a path. Namespaces have names, as these programs know
them: /run/netns is theirs alone, in a mount namespace of their own. Links are left for the bench to delete. Knows each
one's words for the same end state; imports nothing of nsnet.
"""

import ctypes
import gc
import os
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Tuple

from bench.rivals import serve

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
DIRECTORY = "/run/netns"
_LIBC = ctypes.CDLL(None, use_errno=True)


def own_directory() -> None:
    """An empty /run/netns that nobody else sees."""
    for call, *arguments in ((_LIBC.unshare, CLONE_NEWNS),
                             (_LIBC.mount, b"none", b"/", None, MS_REC | MS_PRIVATE, None),
                             (_LIBC.mount, b"run", b"/run", b"tmpfs", 0, None)):
        if call(*arguments) < 0:
            raise OSError(ctypes.get_errno(), "a mount namespace of its own")
    os.mkdir(DIRECTORY)


class Rival:
    """Slots are numbered; the n-th is at bridge n % bridges."""

    def __init__(self) -> None:
        self.slots = self.bridges = 0

    def places(self) -> List[Tuple[int, int, str, str]]:
        """(number, bridge, its address, the bridge's) of each slot."""
        found = []
        for number in range(self.slots):
            bridge, host = number % self.bridges, 2 + number // self.bridges
            found.append((number, bridge, f"10.{bridge}.{host >> 8}.{host & 255}", f"10.{bridge}.0.1"))
        return found

    def new(self, slots: int) -> None:
        self.slots = slots
        self.make_namespaces()

    def up(self, bridges: int) -> None:
        self.bridges = bridges
        self.make_bridges()

    def make_namespaces(self) -> None:
        raise NotImplementedError

    def make_bridges(self) -> None:
        raise NotImplementedError

    def attach(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def cycle(self, count: int) -> None:
        raise NotImplementedError


class Pyroute2(Rival):
    """One IPRoute of the host, open all the time; for each container a NetNS, as its documentation has it."""

    def __init__(self) -> None:
        super().__init__()
        from pyroute2 import IPRoute, NetNS, netns
        self._host, self._inside, self._netns = IPRoute(), NetNS, netns
        self._indexes: List[int] = []

    def make_namespaces(self) -> None:
        for number in range(self.slots):
            self._netns.create(f"bench{number}")

    def make_bridges(self) -> None:
        self._indexes = []
        for number in range(self.bridges):
            self._host.link("add", ifname=f"bench-br{number}", kind="bridge")
            (index,) = self._host.link_lookup(ifname=f"bench-br{number}")
            self._host.addr("add", index=index, address=f"10.{number}.0.1", prefixlen=16)
            self._host.link("set", index=index, state="up")
            self._indexes.append(index)

    def attach(self) -> None:
        for place in self.places():
            self._attach(*place).close()

    def _attach(self, number: int, bridge: int, address: str, gateway: str) -> Any:
        """What it talks to the inside through; to be closed."""
        self._host.link("add", ifname=f"bench-veth{number}", kind="veth", master=self._indexes[bridge], state="up",
                        peer={"ifname": "eth0", "net_ns_fd": f"bench{number}"})
        inside = self._inside(f"bench{number}")
        inside.link("set", index=1, state="up")
        (end,) = inside.link_lookup(ifname="eth0")
        inside.addr("add", index=end, address=address, prefixlen=16)
        inside.link("set", index=end, state="up")
        inside.route("add", dst="default", gateway=gateway)
        return inside

    def make(self, number: int, bridge: int, address: str, gateway: str) -> Any:
        """A slot, with its namespace."""
        self._netns.create(f"bench{number}")
        return self._attach(number, bridge, address, gateway)

    def cycle(self, count: int) -> None:
        """One slot at the first bridge made and gone, so many times."""
        for _ in range(count):
            self.make(0, 0, "10.0.0.2", "10.0.0.1").close()
            (index,) = self._host.link_lookup(ifname="bench-veth0")
            self._host.link("del", index=index)
            self._netns.remove("bench0")

    def close(self) -> None:
        for number in range(self.slots):
            self._netns.remove(f"bench{number}")


class Ip(Rival):
    """One batch for all that is on the host, and one for each container: a batch cannot change its namespace."""

    def _run(self, lines: List[str], *where: str) -> None:
        done = subprocess.run(("ip", *where, "-batch", "-"), input="\n".join(lines) + "\n", stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, universal_newlines=True)
        if done.returncode:
            raise OSError(f"ip -batch: {(done.stderr.strip() or 'without a word').splitlines()[0]}")

    def make_namespaces(self) -> None:
        self._run([f"netns add bench{number}" for number in range(self.slots)])

    def make_bridges(self) -> None:
        for number in range(self.bridges):
            self._run([f"link add bench-br{number} type bridge", f"addr add 10.{number}.0.1/16 dev bench-br{number}",
                       f"link set bench-br{number} up"])

    def attach(self) -> None:
        self._run([line for number, bridge, _, _ in self.places() for line in (
            f"link add bench-veth{number} type veth peer name eth0 netns bench{number}",
            f"link set bench-veth{number} master bench-br{bridge} up")])
        for number, _, address, gateway in self.places():
            self._run(["link set lo up", f"addr add {address}/16 dev eth0", "link set eth0 up",
                       f"route add default via {gateway}"], "-n", f"bench{number}")

    def close(self) -> None:
        self._run([f"netns del bench{number}" for number in range(self.slots)])


WAYS: Dict[str, Tuple[str, Callable[[], Rival]]] = {
    "pyroute2": ("netns.create(), IPRoute, NetNS", Pyroute2),
    "ip": ("ip -batch: netns add, the links, and one inside each", Ip),
}


def answer(rival: Rival, verb: str, *words: str) -> str:
    if verb == "show":
        return f"{DIRECTORY}/bench{rival.slots - 1}\n"
    calls: Dict[str, Callable[..., Any]] = {"new": rival.new, "bridges": rival.up, "attach": rival.attach,
                                            "close": rival.close, "cycle": rival.cycle}
    arguments = [int(word) for word in words]
    gc.collect()
    began = time.perf_counter_ns()
    calls[verb](*arguments)
    return f"{verb}={time.perf_counter_ns() - began}"


def main() -> int:
    def make() -> Any:
        own_directory()
        return WAYS[sys.argv[1]][1]()
    return serve(make, lambda rival, line: answer(rival, *line.split()))


if __name__ == "__main__":
    sys.exit(main())
