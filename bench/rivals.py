"""How others set one container up: programs that wait in the throw-away host, and do it when they are asked.

Run by the bench inside that host, as `python -m bench.rivals NAME DIRECTORY`; answers as the floors do (stage.Program):
"up" by what it took, "down" and "end" likewise, "show" by the pid of the container. Knows each one's words for the same
end state: a bridge with 10.0.0.1/24, up; a veth pair, one end of it a port; in the container lo, eth0, 10.0.0.2/24 and
a default route. Imports nothing of nsnet.

pyroute2 makes its namespaces itself. The others are given a child that is in its namespaces already, before their clock
starts, for none of them makes one; what else is not on their clock is said in WAYS. Links are left for the bench to
delete, between "down" and "end".
"""

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any, Callable, Dict, NamedTuple, Optional

from bench.forked import Parked

BRIDGE, HOST_END, MAC = "bench-bridge", "bench-veth0", "00:00:6c:00:00:00"
HOOKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hooks.sh")
CNI_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
NETAVARK = ("/usr/lib/podman/netavark", "/usr/libexec/podman/netavark")
BEYOND = "/usr/sbin:/sbin:/usr/bin:/bin"            # for those whose PATH has no sbin


def which(program: str) -> Optional[str]:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":" + BEYOND) if os.environ.get("PATH") else None


def cni() -> Optional[str]:
    """The directory that has the plugins."""
    return next((path for path in CNI_DIRECTORIES if os.access(os.path.join(path, "bridge"), os.X_OK)), None)


def netavark() -> Optional[str]:
    return which("netavark") or next((path for path in NETAVARK if os.access(path, os.X_OK)), None)


def run(argv: Any, text: str = "", **env: str) -> str:
    """Raises OSError with the last words of a program that failed. Its output."""
    paths = {"PATH": os.environ.get("PATH", "") + ":" + BEYOND}
    done = subprocess.run(argv, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          env={**os.environ, **paths, **env})
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "without a word").splitlines()[-1]
        raise OSError(f"{os.path.basename(argv[0])}: exit status {done.returncode}: {said}")
    return done.stdout


class Rival:
    """`prepare` is not on the clock, `up` is."""

    def __init__(self, directory: str):
        self.directory = directory
        self.child: Optional[Parked] = None

    def prepare(self) -> None:
        self.child = Parked()

    def up(self) -> None:
        raise NotImplementedError

    def down(self) -> None:
        """What the bench cannot undo by deleting links and ending the child."""

    @property
    def netns(self) -> str:
        return f"/proc/{self.child.pid}/ns/net"

    def inside(self, *argv: str) -> Any:
        return ("nsenter", "-t", str(self.child.pid), "-U", "--preserve-credentials", "-n", *argv)


class Pyroute2(Rival):
    """One IPRoute of the host, open all the time; one of the container, opened in its namespace."""

    def __init__(self, directory: str):
        super().__init__(directory)
        from pyroute2 import IPRoute, NetNS
        self._host, self._netns = IPRoute(), NetNS

    def prepare(self) -> None:
        pass

    def up(self) -> None:
        self.child = Parked()
        host = self._host
        host.link("add", ifname=BRIDGE, kind="bridge")
        (bridge,) = host.link_lookup(ifname=BRIDGE)
        host.addr("add", index=bridge, address="10.0.0.1", prefixlen=24)
        host.link("set", index=bridge, state="up")
        host.link("add", ifname=HOST_END, kind="veth", peer={"ifname": "eth0", "net_ns_pid": self.child.pid})
        (host_end,) = host.link_lookup(ifname=HOST_END)
        host.link("set", index=host_end, master=bridge, state="up")
        with self._netns(self.netns) as inside:
            inside.link("set", index=1, state="up")
            (end,) = inside.link_lookup(ifname="eth0")
            inside.addr("add", index=end, address="10.0.0.2", prefixlen=24)
            inside.link("set", index=end, state="up")
            inside.route("add", dst="default", gateway="10.0.0.1")


class Ip(Rival):
    def up(self) -> None:
        run(("ip", "-batch", "-"), f"""link add {BRIDGE} type bridge
addr add 10.0.0.1/24 dev {BRIDGE}
link set {BRIDGE} up
link add {HOST_END} type veth peer name eth0 netns {self.child.pid}
link set {HOST_END} master {BRIDGE} up
""")
        run(self.inside("ip", "-batch", "-"), """link set lo up
addr add 10.0.0.2/24 dev eth0
link set eth0 up
route add default via 10.0.0.1
""")


class Hooks(Rival):
    """The seed's, step by step: hooks.sh."""

    def up(self) -> None:
        run(("/bin/sh", HOOKS, str(self.child.pid), BRIDGE, HOST_END, "eth0", MAC))


class Cni(Rival):
    """lo is the loopback plugin's, which has its turn before the clock starts."""

    def __init__(self, directory: str):
        super().__init__(directory)
        self.leases = os.path.join(directory, "leases")
        config = {"cniVersion": "0.4.0", "name": "bench", "bridge": BRIDGE, "isDefaultGateway": True,
                  "ipam": {"type": "host-local", "dataDir": self.leases, "subnet": "10.0.0.0/24",
                           "rangeStart": "10.0.0.2", "gateway": "10.0.0.1"}}
        self._config = json.dumps({**config, "type": "bridge"})
        self._loopback = json.dumps({"cniVersion": "0.4.0", "name": "lo", "type": "loopback"})

    def _add(self, plugin: str, config: str, ifname: str) -> None:
        run((os.path.join(cni(), plugin),), config, CNI_COMMAND="ADD", CNI_CONTAINERID="bench", CNI_NETNS=self.netns,
            CNI_IFNAME=ifname, CNI_PATH=cni())

    def prepare(self) -> None:
        super().prepare()
        self._add("loopback", self._loopback, "lo")

    def up(self) -> None:
        self._add("bridge", self._config, "eth0")

    def down(self) -> None:
        shutil.rmtree(self.leases, ignore_errors=True)


class Netavark(Rival):
    """It has no way to leave its firewall's rules out."""

    NETWORK = {"name": "bench", "id": "b" * 64, "driver": "bridge", "network_interface": BRIDGE, "internal": False,
               "subnets": [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}], "ipv6_enabled": False,
               "dns_enabled": False, "ipam_options": {"driver": "host-local"}}
    CONFIG = json.dumps({"container_id": "c" * 64, "container_name": "bench", "network_info": {"bench": NETWORK},
                         "networks": {"bench": {"static_ips": ["10.0.0.2"], "interface_name": "eth0"}}})

    def _call(self, what: str) -> None:
        run((netavark(), "--config", self.directory, what, self.netns), self.CONFIG, NETAVARK_FW="iptables",
            XTABLES_LOCKFILE=os.path.join(self.directory, "xtables.lock"))

    def up(self) -> None:
        self._call("setup")

    def down(self) -> None:
        self._call("teardown")


class Way(NamedTuple):
    """`how`: what is on the clock, for the table."""

    how: str
    make: Callable[[str], Rival]


_BRCTL = "brctl" if which("brctl") else "(no brctl here)"
WAYS: Dict[str, Way] = {
    "pyroute2": Way("fork, unshare, IPRoute and NetNS", Pyroute2),
    "ip": Way("two ip -batch, without the clone", Ip),
    "hooks": Way(f"{_BRCTL}, ip, nsenter in a shell, without the clone", Hooks),
    "cni": Way("bridge ADD, without the clone and lo", Cni),
    "netavark": Way("setup, iptables too, without the clone", Netavark),
}


def answer(rival: Rival, what: str) -> str:
    if what == "show":
        return f"{rival.child.pid}\n"
    gc.collect()
    if what == "up":
        rival.prepare()
        began = time.perf_counter_ns()
        rival.up()
        return f"up={time.perf_counter_ns() - began}"
    began = time.perf_counter_ns()
    if what == "down":
        rival.down()
    else:
        rival.child.end()
    return f"{what}={time.perf_counter_ns() - began}"


def serve(make: Callable[[], Any], answer: Callable[[Any, str], str]) -> int:
    """Answers each line for the rival that is made; ends at the end of its input. Exit 1, with a word on standard error, if it
    cannot go on.
    """
    try:
        rival = make()
        gc.freeze()
        for line in sys.stdin:
            print(answer(rival, line.strip()), flush=True)
    except Exception as error:          # noqa: B902  a peer may raise what it likes: it is then left out, and why
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return 1
    return 0


def main() -> int:
    name, directory = sys.argv[1:]
    return serve(lambda: WAYS[name].make(directory), answer)


if __name__ == "__main__":
    sys.exit(main())
