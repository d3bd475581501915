"""`nsnet demo`: the main job, step by step, and its undoing.

An echo listener (or any command) in new user and network namespaces, on a bridge of its own; a message there and back;
everything taken down, and the proof that nothing was left. All of it is done by calls that a user of the library has.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import socket
import sys
import time

from nsnet import job, idmap, process, values
from nsnet.cli.signals import Interrupted, Stop, stoppable
from nsnet.errors import UsageError
from nsnet.netns import Netns
from nsnet.attachments import Container
from nsnet.network import Network, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

ECHO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "echo.py")
LISTEN_TIMEOUT = 10.0               # seconds until something must listen
ANSWER_TIMEOUT = 5.0                # seconds until the answer must have come
RETRY = 0.01                        # seconds between attempts to connect to a command that cannot say it is ready


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "nsnet demo [options] [-- COMMAND ...]"
    parser.epilog = "COMMAND is run instead of the echo listener: demo -- nc -l -p 80"
    add = parser.add_argument
    add("--bridge", default="nsnet-ex-bridge", metavar="IFNAME", help="the bridge to create (%(default)s)")
    add("--subnet", default="10.0.0.0/24", metavar="NETWORK", help="its first address is the bridge's, its second the"
        " container's (%(default)s)")
    add("--gateway", metavar="ADDRESS", help="the bridge's address, with prefix (the subnet's first)")
    add("--address", metavar="ADDRESS", help="the container's address, with prefix (the subnet's second)")
    add("--host-ifname", default="nsnet-ex-veth0", metavar="IFNAME", help="the host's end of the veth pair (%(default)s)")
    add("--ifname", default="nsnet-ex-veth1", metavar="IFNAME", help="the container's end (%(default)s)")
    add("--lladdr", default="00:00:6c:00:00:00", metavar="MAC", help="the container's MAC (%(default)s)")
    add("--mtu", type=int, metavar="BYTES", help="of the bridge and both ends (the kernel's default)")
    add("--port", default="80", metavar="PORT", help="where the listener listens (%(default)s)")
    add("--capabilities", default="net_bind_service", metavar="NAMES", help="separated by commas; what the command may do"
        " inside (%(default)s)")
    add("--uid-map", metavar="IN:OUT:COUNT", help="user ids (0 inside is the caller)")
    add("--gid-map", metavar="IN:OUT:COUNT", help="group ids (0 inside is the caller's)")
    add("--message", default="hello", metavar="TEXT", help="what is sent, a newline after it (%(default)s)")
    add("--keep", action="store_true", help="leave it running until the command ends or Ctrl-C")
    add("--json", action="store_true", help="print one object and nothing else")


def run(options: argparse.Namespace) -> int:
    """Exit 0 if the answer came and nothing was left behind, 1 otherwise."""
    demo = Demo(options)
    with stoppable() as stop:
        return demo.run(stop)


class Demo:
    """One run: checked options, what is shown as it happens, and the report for --json."""

    def __init__(self, options: argparse.Namespace):
        if options.trailing is not None:
            self.argv: Optional[Tuple[str, ...]] = values.command(options.trailing, "command behind --")
            job.find_command(self.argv)             # before anything is created
        else:
            self.argv = None
            if not sys.executable:
                raise UsageError("the echo listener needs an interpreter, and sys.executable is empty; expected -- COMMAND")
        self.port = values.port(options.port, "--port")
        self.gateway, self.address = _addresses(options.subnet, options.gateway, options.address)
        self.capabilities = [name for name in options.capabilities.split(",") if name]
        values.capabilities(self.capabilities, "--capabilities")
        self.host_ifname = options.host_ifname
        self.end = {"address": self.address, "ifname": values.ifname(options.ifname, "--ifname"),
                    "host_ifname": values.ifname(options.host_ifname, "--host-ifname"),
                    "lladdr": values.lladdr(options.lladdr, "--lladdr")}
        self.mtu = None if options.mtu is None else values.mtu(options.mtu, "--mtu")
        self.maps: Dict[str, Any] = {}
        if options.uid_map is not None:
            self.maps["uid_map"] = idmap.parse_option(options.uid_map, "--uid-map")
        if options.gid_map is not None:
            self.maps["gid_map"] = idmap.parse_option(options.gid_map, "--gid-map")
        self.message = options.message.encode(errors="surrogateescape") + b"\n"
        self.keep, self.json = options.keep, options.json
        self.bridge = values.ifname(options.bridge, "--bridge")
        if self.bridge == self.host_ifname:
            raise UsageError(f"--bridge and --host-ifname: both are {self.bridge!r}")
        self.make_network(None).check(**self.end)
        self.steps: List[Step] = []
        self.sent = self.received = b""
        self.setup = self.teardown = 0.0
        self.left: List[str] = []
        self.deaf = self.undone = False
        self.container: Optional[Container] = None
        self.ready_fd = -1

    # --- what a person sees ---

    def say(self, text: str = "") -> None:
        if self.json or self.deaf:
            return
        try:
            print(text, flush=True)
        except OSError:                 # nobody reads any more; what was begun is finished all the same
            self.deaf = True
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())

    def show(self, step: Step) -> None:
        """One step, as it is done."""
        self.steps.append(step)
        for number, what in enumerate(step.what):
            took = f"{_us(step.seconds):8} us" if number == len(step.what) - 1 else ""
            self.say(f"  {step.name if number == 0 else '':<11}{what:<76}{took}".rstrip())

    # --- the run ---

    def make_network(self, netns: Optional[Netns]) -> Network:
        return Network(self.bridge, address=self.gateway, netns=netns, mtu=self.mtu, on_step=self.show)

    def run(self, stop: Stop) -> int:
        with Netns.host() as host:
            self.host = host
            mode = "private" if host.private else "root" if os.geteuid() == 0 else "net_admin"
            self.say({
                "private": "No CAP_NET_ADMIN over this network namespace: on a private \"host\", in user and network namespaces"
                           " of its own.",
                "root": "On this host, as root"
                        + ("." if self.maps else ". So is the container's, without capabilities here; --uid-map changes that."),
                "net_admin": "On this host, with CAP_NET_ADMIN.",
            }[mode])
            self.before = self.ours()
            self.network = self.make_network(host)
            # A signal may come at any moment, the first one between two statements of the undoing too: then once more.
            try:
                try:
                    result = self.work()
                finally:
                    with stop.shielded():
                        self.undo()
            except Interrupted:
                with stop.shielded():
                    self.undo()
                raise
            if self.json:
                print(json.dumps({
                    "mode": mode, "steps": [{"name": step.name, "us": _us(step.seconds)} for step in self.steps],
                    "sent": self.sent.decode(errors="replace"), "received": self.received.decode(errors="replace"),
                    "setup_us": _us(self.setup), "teardown_us": _us(self.teardown), "left_behind": self.left}))
            if stop.received is not None:
                raise Interrupted(stop.received)
            return 1 if self.left or self.deaf else result

    def work(self) -> int:
        """Up, and in use."""
        self.say("Setting up:")
        started = time.perf_counter()
        self.launch(self.network)
        self.setup = time.perf_counter() - started
        self.say(f"  up in {_us(self.setup)} us")
        return self.use(self.host)

    def undo(self) -> None:
        """Down, and the proof. May be called again, if a signal came in between; then it does what was not done."""
        if self.undone:
            return
        if self.network.is_up:
            self.say("Taking down:")
        started = time.perf_counter()
        if self.container is not None:
            self.container.remove()
        self.network.down()
        self.teardown = time.perf_counter() - started
        if self.steps:
            self.left = self.left_behind()
            self.say("Left behind: " + (", ".join(self.left) or "nothing"))
        self.undone = True

    def launch(self, network: Network) -> None:
        own_uids, own_gids = process.own_maps()         # as the seed's config does; the interpreter may be ours alone
        maps = {"uid_map": own_uids, "gid_map": own_gids, **self.maps}
        if network.netns.userns_fd is not None and not self.maps:
            maps = {}                                   # below the user namespace of a private host its root is ours
        keep = dict(capabilities=self.capabilities, stdout=sys.stderr.fileno() if self.json else None, **self.end, **maps)
        if self.argv is not None:
            self.container = network.launch(self.argv, **keep)
            return
        self.ready_fd, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            argv = [sys.executable, "-I", "-S", ECHO, self.address.ip, str(self.port), str(theirs)]
            self.container = network.launch(argv, stdin=process.DEVNULL, pass_fds=[theirs], **keep)
        finally:
            os.close(theirs)

    def use(self, host: Netns) -> int:
        """Talk to what was launched; with --keep, then wait for its end or ours."""
        result = 0
        if self.argv is None or not self.keep:
            result = self.exchange(host)
        if self.keep:
            if self.container.poll() is None:
                self.say(self.how_to_reach(host))
            status = self.container.wait()
            self.say(f"  the command returned {status}")
            result = result or (0 if status == 0 else 1)
        return result

    def exchange(self, host: Netns) -> int:
        """The message there and back. 0 if it is well."""
        connection = self.connect(host)
        if connection is None:
            status = self.container.poll()
            if status is None:
                print(f"nsnet: nothing listens on {self.address.ip} port {self.port} after {LISTEN_TIMEOUT:.0f} s",
                      file=sys.stderr)
                return 1
            self.say(f"  the command returned {status} without listening on port {self.port}")
            return 0 if status == 0 else 1
        with connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.sendall(self.message)
            self.sent = self.message
            connection.shutdown(socket.SHUT_WR)
            self.received = self.answer(connection)
        self.say(f"Talking to {self.address.ip} port {self.port}:")
        silent = "" if self.received or self.argv is None else " (the command sends nothing back)"
        self.say(f"  sent       {self.sent!r}\n  received   {self.received!r}{silent}")
        if self.argv is None and self.received != self.sent:
            print(f"nsnet: sent {self.sent!r}, received {self.received!r}", file=sys.stderr)
            return 1
        return 0

    @staticmethod
    def answer(connection: socket.socket) -> bytes:
        """What comes until the other side closes; a command of the user's may never do that."""
        parts = []
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while True:
            try:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                part = connection.recv(65536)
            except (TimeoutError, socket.timeout, ConnectionResetError):
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)

    def connect(self, host: Netns) -> Optional[socket.socket]:
        """A connection to the listener; None if it ended first, or nothing listened in time.

        The echo listener says when it is ready. Another command cannot, so it is tried until it answers.
        """
        deadline = time.monotonic() + LISTEN_TIMEOUT
        if self.argv is None:
            select.select([self.ready_fd], [], [], LISTEN_TIMEOUT)      # readable at its end of file
            os.close(self.ready_fd)
        while time.monotonic() < deadline:
            try:
                return host.connect((self.address.ip, self.port), max(deadline - time.monotonic(), 0.001))
            except (ConnectionRefusedError, socket.timeout, TimeoutError):
                pass
            try:
                self.container.wait(RETRY)
                return None
            except TimeoutError:
                continue
        return None

    def how_to_reach(self, host: Netns) -> str:
        """For a person at another terminal."""
        enter = ""
        if host.private:
            own = f"/proc/{os.getpid()}/fd"
            enter = f"nsenter --preserve-credentials --user={own}/{host.userns_fd} --net={own}/{host.fd} "
        return (f"Running as process {self.container.pid}. Reach it with:\n"
                f"  echo {shlex.quote(self.message[:-1].decode(errors='replace'))} | {enter}nc -q 1 {self.address.ip} {self.port}\n"
                f"Take it down with Ctrl-C, or from elsewhere with: kill {os.getpid()}")

    def ours(self) -> Dict[str, int]:
        """The links that are there under our names, with their indexes."""
        indexes = {name: self.host.find(name) for name in (self.bridge, self.host_ifname)}
        return {name: index for name, index in indexes.items() if index}

    def left_behind(self) -> List[str]:
        """What is there and was not before: links by name, the process by number."""
        left = [name for name, index in self.ours().items() if self.before.get(name) != index]
        if self.container is not None and self.container.returncode is None:
            left.append(f"process {self.container.pid}")
        return left


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _addresses(subnet: str, gateway: Optional[str], address: Optional[str]) -> Tuple[values.Address, values.Address]:
    """(the bridge's, the container's), from the options."""
    network = values.address(subnet, "--subnet")
    if network.host:
        raise UsageError(f"--subnet {subnet!r}: expected a network; bits behind the prefix are set")
    if network.broadcast < 3 and (gateway is None or address is None):
        raise UsageError(f"--subnet {subnet!r}: expected room for two hosts, /{network.bits - 2} at most")
    try:
        values.host_address(network.with_host(1))
    except UsageError:
        raise UsageError(f"--subnet {subnet!r}: expected unicast addresses") from None
    bridge = network.with_host(1) if gateway is None else values.host_address(gateway, "--gateway")
    container = network.with_host(2) if address is None else values.host_address(address, "--address")
    for item, what in ((bridge, "--gateway"), (container, "--address")):
        if item not in network or item.prefixlen != network.prefixlen:
            raise UsageError(f"{what} '{item}': expected an address in the subnet, {network}")
    return bridge, container
