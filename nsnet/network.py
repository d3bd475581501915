"""`Network`: a bridge on the host, and the processes and namespaces that are attached to it.

Knows the order in which a bridge, a veth pair and a container's end are made and undone, and that every failure undoes
what its call did. Says nothing to a person: whoever wants to show the steps passes `on_step`.

The pipeline: `launch` clones first; while the child makes its network namespace on another CPU, the bridge is built; then
the child's id maps are written and its own rtnetlink socket comes up, through which its end is configured. Three
exchanges in all, and no setns.
"""

import os
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from nsnet import job, ownership, values
from nsnet.errors import NotPermitted, RollbackError, UsageError
from nsnet.netns import Netns
from nsnet.ownership import Claim
from nsnet.process import Process
from nsnet.values import Address
from nsnet.verbs import LinkRef

Addresses = Union[str, Address, Iterable[Union[str, Address]]]


class Step(NamedTuple):
    """One stage of building or undoing, when it is done: for `on_step`.

    `name`: "clone", "claim", "bridge", "namespaces", "veth", "container", "execve"; "process", "veth", "bridge" when
    undoing.
    `what`: what it did, in words, one string for each of its parts. `seconds`: how long it took.
    """

    name: str
    what: Tuple[str, ...]
    seconds: float


class Plan(NamedTuple):
    """A container's end, checked."""

    addresses: Tuple[Address, ...]
    gateways: Tuple[str, ...]           # of the default routes
    ifname: str
    host_ifname: str
    lladdr: Optional[str]
    mtu: Optional[int]


class Attachment:
    """A network namespace attached to a network. `host_ifname` and `ifname`: the two ends of the veth pair."""

    def __init__(self, network: "Network", plan: Plan):
        self.network = network
        self.host_ifname, self.ifname = plan.host_ifname, plan.ifname
        self.addresses = tuple(str(address) for address in plan.addresses)
        self._packed = {address.packed for address in plan.addresses}
        self._index = 0

    @property
    def address(self) -> str:
        """The first address, with its prefix."""
        return self.addresses[0]

    def detach(self) -> None:
        """Delete the veth pair if it still exists; no complaint if it does not. Raises KernelError if it cannot."""
        self.network._detach(self)


class Container(Process):
    """A launched process, attached to its network. `attachment` is its link to it; `remove()` ends both."""

    attachment: Optional[Attachment] = None

    @property
    def address(self) -> str:
        """Its first address, with prefix."""
        return self.attachment.address

    def remove(self) -> None:
        """Kill the process if it still runs, and delete its veth pair if it still exists. May be called twice."""
        self.attachment.network._remove(self)

    def __exit__(self, *_: Any) -> None:
        self.remove()


class Network:
    """A bridge of our own on the host, with an address, to which processes and namespaces are attached.

    `bridge`: the name, 1 to 15 bytes; a link of that name must not exist. `address`: the bridge's, with prefix, which is
    the subnet; several for v4 and v6. `netns`: the host, by default the caller's namespace; `Netns.host()` gives a private
    one where the caller may not administer its own. `lladdr`: the bridge's MAC, which then never changes; by default
    random. `mtu`: bytes, of all links. `on_step`: called with a `Step` after each stage.

    As a context manager it is up inside the block. Raises UsageError here, before any system call, for what cannot be
    meant.
    """

    def __init__(self, bridge: str, *, address: Addresses, netns: Optional[Netns] = None, lladdr: Optional[str] = None,
                 mtu: Optional[int] = None, on_step: Optional[Callable[[Step], None]] = None):
        self.bridge = values.ifname(bridge, "bridge")
        self.addresses = values.addresses(address, "bridge address")
        self._lladdr = _random_lladdr() if lladdr is None else values.lladdr(lladdr)
        self._mtu = None if mtu is None else values.mtu(mtu)
        self._given_netns = netns
        self._on_step = on_step
        self._lock = threading.RLock()
        self._netns: Optional[Netns] = None
        self._claim: Optional[Claim] = None
        self._ref: Optional[LinkRef] = None
        self._attachments: Dict[str, Attachment] = {}
        self._containers: List[Container] = []

    @property
    def address(self) -> str:
        """The bridge's first address, with prefix."""
        return str(self.addresses[0])

    @property
    def netns(self) -> Netns:
        """The host's network namespace."""
        if self._netns is None or self._netns.closed:
            self._netns = Netns.current() if self._given_netns is None else self._given_netns
        return self._netns

    @property
    def is_up(self) -> bool:
        """Whether this object has built the bridge and not taken it down."""
        return self._ref is not None

    @property
    def attachments(self) -> List[Attachment]:
        """What is attached, in the order of attaching."""
        with self._lock:
            return list(self._attachments.values())

    # --- up and down ---

    def up(self) -> None:
        """Create the bridge, assign its address, enable it: one exchange. Does nothing if it is up.

        Raises AlreadyExists if a link of that name exists, NotPermitted without CAP_NET_ADMIN; nothing is left then.
        """
        self._up({})

    def _up(self, attachments: Dict[str, Optional[int]]) -> None:
        """`attachments`: {host_ifname: pid} of what is attached next; claimed along with the bridge if it is not up yet."""
        with self._lock:
            if self.is_up:
                return
            try:
                with self._step("claim", "record what is about to be created, for gc"):
                    self._claim = Claim(self.bridge, self.netns, attachments)
                    self._claim.take()
                with self._step("bridge", f"create bridge {self.bridge}",
                                *(f"assign {address} to it" for address in self.addresses), "enable it"):
                    self._ref = self._build()
            except BaseException as error:
                if isinstance(error, NotPermitted):
                    error.hint = ("no CAP_NET_ADMIN over this network namespace; netns=nsnet.Netns.host() makes a private"
                                  " host")
                self._undo(error, self.down)
                raise

    def _build(self) -> LinkRef:
        claim = self._claim
        with self.netns.batch() as net:
            bridge = net.add_bridge(self.bridge, lladdr=self._lladdr, mtu=self._mtu, group=claim.group)
            net.set_link(bridge, ifalias=claim.mark, link_local=self._wants_ipv6)
            for address in self.addresses:
                net.add_address(bridge, address)
            net.set_link(bridge, up=True)
        return bridge

    @property
    def _wants_ipv6(self) -> Optional[bool]:
        """None: leave the kernel's way. False: no link-local addresses, so that nothing is flooded for a protocol that
        nobody asked for."""
        return None if any(address.version == 6 for address in self.addresses) else False

    def down(self) -> None:
        """Kill the launched processes, delete the veth pairs, disable and delete the bridge: whatever of it still exists.

        Never touches what this network did not create. Does nothing if it is down.
        """
        with self._lock:
            claim = self._claim
            if claim is None or not claim.is_mine:      # a fork of the owner owns nothing
                return
            for container in self._containers:
                container._abandon()
            with self._step("bridge") as what:
                for name in ownership.remove_links(self.netns, claim.group, claim.mark, claim.names):
                    what += [f"disable {name}", f"delete {name}"] if name == self.bridge else [f"delete {name}"]
                claim.release()
                self._claim = self._ref = None
                self._attachments.clear()
                self._containers.clear()
                if self._given_netns is None:
                    self.netns.close()

    def __enter__(self) -> "Network":
        self.up()
        return self

    def __exit__(self, *_: Any) -> None:
        self.down()

    # --- attaching ---

    def launch(self, argv: Sequence[str], *, address: Addresses, ifname: str = "eth0", host_ifname: Optional[str] = None,
               lladdr: Optional[str] = None, capabilities: Iterable[str] = (), hold: bool = False,
               default_route: bool = True, new: Iterable[str] = ("user", "net"), **options: Any) -> Container:
        """Run a command in new user and network namespaces, attached to the bridge (which is brought up if it is not).

        `address`: with prefix, in the bridge's subnet; several for v4 and v6. `ifname`, `host_ifname`: the veth's ends;
        the host's is random by default. `lladdr`: the container end's MAC. `capabilities`: exactly those it has.
        `hold`: return with the network ready and the child parked before execve. `default_route`: via the bridge.
        `options`: those of `spawn`; but without `env` the command gets only PATH, TERM, LANG and TZ of the caller's, for what is
        in a container need not know the caller's secrets; pass env=os.environ for all.

        Raises UsageError before anything is done; KernelError if a step fails, and then everything that this call did is undone.
        """
        new, capabilities = set(new), tuple(capabilities)
        if options.get("env") is None:
            options["env"] = job.small_environment()
        if "net" not in new:
            raise UsageError(f"new {sorted(new)!r}: expected 'net' among them")
        with self._lock:
            plan = self._plan(address, ifname, host_ifname, lladdr, default_route)
            was_up, host = self.is_up, self.netns
            if host.userns_fd is not None:          # links of that host may only be handed to namespaces below its owner's
                options["join"] = {"user": host.userns_fd, **(options.get("join") or {})}
            container: Optional[Container] = None
            try:
                with self._step("clone", "clone3 into new namespaces: " + ", ".join(sorted(new))):
                    container = Container(argv, new=new, capabilities=capabilities, **options)
                    if container.moves:
                        container.prepare()
                self._up({plan.host_ifname: container.pid})
                with self._step("namespaces", "write uid_map and gid_map",
                                "take the rtnetlink socket from its new netns"):
                    container.prepare()
                container.attachment = self._attach(container.netns, plan, container.pid)
                self._containers.append(container)
                if not hold:
                    with self._step("execve", f"run {os.fsdecode(container.args[0])} with capabilities: "
                                    + (", ".join(sorted(capabilities)) or "none")):
                        container.go()
            except BaseException as error:
                try:
                    if container is not None:
                        container._abandon()
                finally:
                    self._undo(error, self._forget_failed, container, plan, was_up)
                raise
            return container

    def attach(self, netns: Netns, *, address: Addresses, ifname: str = "eth0", host_ifname: Optional[str] = None,
               lladdr: Optional[str] = None, default_route: bool = True) -> Attachment:
        """Attach an existing network namespace; arguments as for `launch`. Undoes what it did if a step fails."""
        with self._lock:
            plan = self._plan(address, ifname, host_ifname, lladdr, default_route)
            was_up = self.is_up
            try:
                self._up({plan.host_ifname: None})
                return self._attach(netns, plan, None)
            except BaseException as error:
                self._undo(error, self._forget_failed, None, plan, was_up)
                raise

    def check(self, *, address: Addresses, ifname: str = "eth0", host_ifname: Optional[str] = None,
              lladdr: Optional[str] = None, default_route: bool = True) -> None:
        """Raise UsageError for an attachment that cannot be meant; arguments as for `launch`. Asks the kernel nothing."""
        with self._lock:
            self._plan(address, ifname, host_ifname, lladdr, default_route)

    def _plan(self, address: Addresses, ifname: str, host_ifname: Optional[str], lladdr: Optional[str],
              default_route: bool) -> Plan:
        addresses = values.addresses(address)
        taken = {packed: name for name, attachment in self._attachments.items() for packed in attachment._packed}
        gateways: Dict[int, str] = {}
        for item in addresses:
            gateway = next((own for own in self.addresses if item in own), None)
            if gateway is None:
                raise UsageError(f"address '{item}': expected one in the subnet of the bridge, "
                                 + " or ".join(str(own) for own in self.addresses))
            if item.prefixlen != gateway.prefixlen:
                raise UsageError(f"address '{item}': expected the subnet's prefix, /{gateway.prefixlen}")
            if any(item.packed == own.packed for own in self.addresses):
                raise UsageError(f"address '{item}': it is the bridge's own")
            if item.packed in taken:
                raise UsageError(f"address '{item}': {taken[item.packed]} has it")
            gateways.setdefault(item.version, gateway.ip)
        host_ifname = f"veth{os.urandom(4).hex()}" if host_ifname is None else values.ifname(host_ifname, "host_ifname")
        if host_ifname == self.bridge or host_ifname in self._attachments:
            raise UsageError(f"host_ifname {host_ifname!r}: it stands for two links")
        return Plan(addresses, tuple(gateways.values()) if default_route else (), values.ifname(ifname), host_ifname,
                    None if lladdr is None else values.lladdr(lladdr), self._mtu)

    def _attach(self, netns: Netns, plan: Plan, pid: Optional[int]) -> Attachment:
        claim = self._claim
        if plan.host_ifname not in claim.attachments:
            with self._step("claim", f"record {plan.host_ifname}, for gc"):
                claim.add(plan.host_ifname, pid)
        attachment = self._attachments[plan.host_ifname] = Attachment(self, plan)
        with self._step("veth", f"create veth pair {plan.host_ifname}, {plan.ifname}",
                        f"set {plan.host_ifname}'s master to {self.bridge} and enable it",
                        f"{plan.ifname} is born in the container's netns" + (f" as {plan.lladdr}" if plan.lladdr else "")):
            with self.netns.batch() as net:
                host_end, end = net.add_veth(plan.host_ifname, peer=plan.ifname, peer_netns=netns, peer_lladdr=plan.lladdr,
                                             mtu=plan.mtu, group=claim.group, master=self._ref, up=True, queues=1)
                net.set_link(host_end, ifalias=claim.mark)
        attachment._index = host_end.index
        with self._step("container", "enable lo", *(f"assign {address} to {plan.ifname}" for address in plan.addresses),
                        f"enable {plan.ifname}", *(f"default route via {via}" for via in plan.gateways)):
            with netns.batch() as net:
                net.set_link(net.lo, up=True)
                net.set_link(end, group=0, link_local=self._wants_ipv6)
                for address in plan.addresses:
                    net.add_address(end, address)
                net.set_link(end, up=True)
                for via in plan.gateways:
                    net.add_route("default", via=via, oif=end)
            # Both ends got carrier just now; the bridge gets it from its port. In this order, or the first packet is lost.
            netns.sync_carrier(end)
            self.netns.sync_carrier(host_end)
            self.netns.sync_carrier(self._ref)
        return attachment

    # --- undoing ---

    def _detach(self, attachment: Attachment) -> None:
        with self._lock:
            if self._attachments.get(attachment.host_ifname) is not attachment or not self._claim.is_mine:
                return
            with self._step("veth") as what:
                deleted = self._delete_veth(attachment.host_ifname)
                what.append(f"delete {attachment.host_ifname}" if deleted else f"{attachment.host_ifname} is gone already")

    def _delete_veth(self, host_ifname: str) -> bool:
        claim, attachment = self._claim, self._attachments.get(host_ifname)
        # By its index, if it got that far: somebody may have renamed it.
        link = attachment._index if attachment is not None and attachment._index else host_ifname
        deleted = ownership.remove_link(self.netns, link, claim.group, claim.mark, (host_ifname,))
        claim.drop(host_ifname)
        self._attachments.pop(host_ifname, None)
        return deleted

    def _remove(self, container: Container) -> None:
        with self._lock:
            with self._step("process", f"end process {container.pid}"):
                container._abandon()
            self._detach(container.attachment)
            if container in self._containers:
                self._containers.remove(container)

    def _forget_failed(self, container: Optional[Container], plan: Plan, was_up: bool) -> None:
        """Undo a launch or attach: the veth if it was reached, the bridge if this call made it."""
        if container in self._containers:
            self._containers.remove(container)
        if self._claim is None:
            return
        if not was_up:
            self.down()
        elif plan.host_ifname in self._claim.attachments:
            self._delete_veth(plan.host_ifname)

    def _undo(self, cause: BaseException, undo: Callable, *arguments: Any) -> None:
        names = self._claim.names if self._claim is not None else []
        try:
            undo(*arguments)
        except Exception as error:
            rollback = RollbackError(cause, [name for name in names if self.netns.find(name)], error)
            if isinstance(cause, Exception):
                raise rollback from cause
            raise cause from rollback           # Ctrl-C stays Ctrl-C

    @contextmanager
    def _step(self, name: str, *what: str) -> Iterator[List[str]]:
        """Times a stage. What it yields may be added to, where only the kernel's answer tells what was done."""
        words = list(what)
        started = time.perf_counter()
        yield words
        if self._on_step is not None and words:
            self._on_step(Step(name, tuple(words), time.perf_counter() - started))


def _random_lladdr() -> str:
    """Locally administered, unicast."""
    return (b"\x02" + os.urandom(5)).hex(":")
