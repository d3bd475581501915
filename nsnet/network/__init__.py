"""`Network`: a bridge on the host, and the processes and namespaces that are attached to it.

Knows the order in which a bridge, a veth pair and a container's end are made and undone, who may do it when, and that
every failure undoes what its call did. Says nothing to a person: whoever wants to show the steps passes `on_step`.

The pipeline: `launch` clones first; while the child makes its network namespace on another CPU, the bridge is built; then
the child's id maps are written and its own rtnetlink socket comes up, through which its end is configured; the bridge's port
comes up last. Four exchanges in all, and no setns.

Lifetimes. "process": until down(), or until gc finds that the process which brought it up has died; the lock on its
claim is held meanwhile. "declared": until down(), by whatever process; "attachments": the same, but it goes with its
last attachment. These two are shared by all processes with the same state directory: the lock is held for one call, and
what is there is what the claim says. "owner": nothing on disk, only the kernel knows, by the marks of its links; what the
owner holds by descriptors ends with it, and gc collects the rest.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from nsnet import declaration, drift, job, ownership, plan, removal, state, values
from nsnet.attachments import Attachment, Container
from nsnet.declaration import AttachmentSpec, NetworkSpec
from nsnet.drift import Fault
from nsnet.errors import AlreadyExists, StillPending, UsageError
from nsnet.netns import Netns
from nsnet.network.base import Step, busy, has_living_owner, take_lock
from nsnet.network.jobs import Job
from nsnet.network.repair import Repairing, alone
from nsnet.ownership import Claim
from nsnet.removal import Deadline
from nsnet.values import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, TypeAlias, Union

__all__ = ["Network", "Step", "inspect", "take_down"]

Addresses: TypeAlias = "Union[str, Address, Iterable[Union[str, Address]]]"
_PLACE = ("address", "ifname", "host_ifname", "lladdr", "name", "mtu", "queues", "routes", "sysctls", "default_route")


class Network(Repairing):
    """A bridge of our own on the host, with an address, to which processes and namespaces are attached.

    `bridge`: the name, 1 to 15 bytes; a link of that name must not exist. `address`: the bridge's, with prefix, which is
    the subnet; several for v4 and v6. `netns`: the host, by default the caller's namespace; `Netns.host()` gives a private
    one where the caller may not administer its own. `lladdr`: the bridge's MAC, which then never changes; by default made
    of the machine's and the bridge's names, and so the same each time. `mtu`: bytes, of all links. `stp`: whether it
    speaks the spanning tree protocol; `ageing_time`: seconds for which it remembers a MAC.

    `lifetime`: "process", "declared", "attachments" or "owner": help(nsnet.network) says how long each lives. `adopt`:
    attach to a bridge of that name that is the user's, has these addresses and is up; it is never deleted, and no verb
    changes it (but the kernel gives a bridge the lowest MTU of its ports, unless it was set one, and `forward` is also of
    it). `forward`: names of links to which, and from which, packets of the bridge are forwarded. `ranges`, `exclude`:
    what the address "auto" may be, and may not: "10.0.0.10-10.0.0.20", "10.0.0.64/26" or an address. `attachments`: what
    up() attaches, each a dict with the keys of README, "Declaring networks" (schema() of nsnet.declaration has them
    too). `on_step`: called with a `Step` after each stage.

    As a context manager it is up inside the block; a shared one stays up after it, without what was attached in it. Raises
    UsageError here, before any system call, for what cannot be meant.
    """

    def __init__(self, bridge: str, *, address: Addresses, netns: Optional[Netns] = None, lladdr: Optional[str] = None,
                 mtu: Optional[int] = None, stp: Optional[bool] = None, ageing_time: Optional[float] = None,
                 lifetime: str = "process", adopt: bool = False, forward: Sequence[str] = (), ranges: Sequence[str] = (),
                 exclude: Sequence[str] = (), attachments: Sequence[Mapping[str, Any]] = (),
                 on_step: Optional[Callable[[Step], None]] = None):
        given = {"bridge": bridge, "address": address, "lladdr": lladdr, "mtu": mtu, "stp": stp,
                 "ageing_time": ageing_time, "lifetime": lifetime, "adopt": adopt, "forward": forward, "ranges": ranges,
                 "exclude": exclude, "attachments": attachments}
        self._begin_with(declaration.network({key: value for key, value in given.items() if value is not None}), netns,
                         on_step)

    @classmethod
    def from_spec(cls, spec: NetworkSpec, *, netns: Optional[Netns] = None,
                  on_step: Optional[Callable[[Step], None]] = None) -> "Network":
        """From a declaration that is checked already."""
        made = cls.__new__(cls)
        made._begin_with(spec, netns, on_step)
        return made

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], **options: Any) -> "Network":
        """From a dict with the keys of the arguments above. `options`: netns, on_step."""
        return cls.from_spec(declaration.network(given), **options)

    @classmethod
    def from_file(cls, path: str, **options: Any) -> "List[Network]":
        """All that a JSON or TOML file declares. Raises UsageError that names the key, and the file's line or path."""
        return [cls.from_spec(spec, **options) for spec in declaration.load(path)]

    def __repr__(self) -> str:
        return f"<Network {self.bridge} {', '.join(map(str, self.addresses))} {'up' if self.is_up else 'down'}>"

    @property
    def attachments(self) -> List[Attachment]:
        """What is attached by this object, in the order of attaching."""
        with self._lock:
            return list(self._attachments.values())

    def entries(self) -> List[Dict[str, Any]]:
        """What is attached, by whomever: {"name", "host_ifname", "ifname", "addresses", "pid", "declared"} each."""
        with self._lock:
            claim = self._claim or (self._peek() if self._is_shared else None)
            return [] if claim is None else [drift.entry_of(claim, host_ifname) for host_ifname in claim.attachments]

    # --- up and down ---

    def up(self) -> List[Fault]:
        """Bring it up as it was declared: the bridge, its addresses, forwarding, and what is declared to be attached.

        What is up already is looked at and repaired (see `faults()`); nothing is sent if nothing is wrong. Returns what
        was not as declared, and is now. A shared network that was declared differently is changed to be like this. Raises
        AlreadyExists if a link of that name exists and is not this network's, NotPermitted without CAP_NET_ADMIN; what
        this call did is undone then, but for what was ended because it is declared differently, or not any more.
        """
        with self._session():
            self._reap_first()
            self.created = False
            self._check_is_mine()
            if self._claim is None:
                self._add([Job(spec, declaration.as_dict(spec)) for spec in self.spec.attachments])
                return [Fault(self.bridge, "no bridge"),
                        *(Fault(spec.name, "it is not attached", "attach") for spec in self.spec.attachments)]
            return [alone(fault) for fault in self._repair()]

    def down(self, *, wait: bool = True, timeout: float = removal.TIMEOUT) -> None:
        """Kill the launched processes, delete the veth pairs, disable and delete the bridge: whatever of it still exists.

        Never touches what this network did not create. Does nothing if it is down. `wait=False`: returns at once, and
        settle() waits. Raises StillPending for what is not gone after `timeout` seconds; then it may be called again.
        """
        if not wait:
            if self._is_shared or self._claim is not None and self._is_mine:
                self._reaper.add(self)
            return
        with self._session():
            self._reaper.drop()
            self._down(timeout)

    def settle(self, timeout: float = removal.TIMEOUT) -> None:
        """Wait until all that was removed with wait=False is gone. Raises StillPending, and what went wrong on the way."""
        left = self._reaper.settle(timeout)
        if left:
            raise StillPending([self.bridge if one is self else getattr(one, "name", one) for one in left], timeout)

    def __enter__(self) -> "Network":
        self.up()
        return self

    def __exit__(self, *_: Any) -> None:
        if os.getpid() != self._home:
            return
        if not self._is_shared:
            self.down()
            return
        with self._session():
            self.detach_many(self.attachments)

    # --- attaching ---

    def launch(self, argv: Sequence[str], *, address: Addresses = "auto", ifname: str = "eth0",
               host_ifname: Optional[str] = None, lladdr: Optional[str] = None, name: Optional[str] = None,
               mtu: Optional[int] = None, queues: int = 1, routes: Sequence[Mapping[str, Any]] = (),
               sysctls: Mapping[str, Any] = {}, default_route: bool = True, capabilities: Iterable[str] = (),
               hold: bool = False, new: Iterable[str] = ("user", "net"), **options: Any) -> Container:
        """Run a command in new user and network namespaces, attached to the bridge (which is brought up if it is not).

        `address`: with prefix, in the bridge's subnet; several for v4 and v6; "auto": one of each family that nobody has,
        the same again for the same `name`. `ifname`, `host_ifname`: the veth's ends; the host's is random by default.
        `lladdr`: the container end's MAC; the kernel's choice, or for one with a `name` the same each time. `mtu`: bytes.
        `queues`: of each end of the veth pair; one is the fastest to make, more serve as many CPUs at once.
        `routes`: {"dst": network, "via": ip, "metric": number} each. `sysctls`: below net, such as
        {"net.ipv4.ip_unprivileged_port_start": 0}; set before its link is up.
        `capabilities`: exactly those it has. `hold`: return with the network ready and the child parked before execve.
        `default_route`: via the bridge.
        `options`: those of `spawn`; but without `env` the command gets only PATH, TERM, LANG and TZ of the caller's, for what is
        in a container need not know the caller's secrets; pass env=os.environ for all.

        Raises UsageError before anything is done; NoFreeAddress; KernelError if a step fails, and then everything that this
        call did is undone.
        """
        given = _given(address=address, ifname=ifname, host_ifname=host_ifname, lladdr=lladdr, name=name, mtu=mtu,
                       queues=queues, routes=routes, sysctls=sysctls, default_route=default_route)
        return self.launch_many([{"argv": argv, "new": new, "capabilities": capabilities, **options, **given}],
                                hold=hold)[0]

    def attach(self, netns: Netns, *, address: Addresses = "auto", ifname: str = "eth0",
               host_ifname: Optional[str] = None, lladdr: Optional[str] = None, name: Optional[str] = None,
               mtu: Optional[int] = None, queues: int = 1, routes: Sequence[Mapping[str, Any]] = (),
               sysctls: Mapping[str, Any] = {}, default_route: bool = True) -> Attachment:
        """Attach an existing network namespace; arguments as for `launch`. Undoes what it did if a step fails."""
        given = _given(address=address, ifname=ifname, host_ifname=host_ifname, lladdr=lladdr, name=name, mtu=mtu,
                       queues=queues, routes=routes, sysctls=sysctls, default_route=default_route)
        return self.attach_many([{"netns": netns, **given}])[0]

    def launch_many(self, wanted: Sequence[Mapping[str, Any]], *, hold: bool = False) -> List[Container]:
        """Launch several: [{"argv": [...], "address": "10.0.0.3/24", ...}, ...], as `launch` one. All or none."""
        jobs = []
        for given in wanted:
            place = {key: given[key] for key in _PLACE if key in given}
            options = {key: value for key, value in given.items() if key not in _PLACE and key != "argv"}
            options["new"] = set(options.get("new", ("user", "net")))
            options["capabilities"] = tuple(options.get("capabilities", ()))
            if options.get("env") is None:
                options["env"] = job.small_environment()
            if "net" not in options["new"]:
                raise UsageError(f"new {sorted(options['new'])!r}: expected 'net' among them")
            jobs.append(Job(self._spec_of(place), argv=given.get("argv", ()), options=options))
        with self._session():
            self._add(jobs, hold)
            return [one.container for one in jobs]

    def attach_many(self, wanted: Sequence[Mapping[str, Any]]) -> List[Attachment]:
        """Attach several namespaces: [{"netns": netns, "address": "10.0.0.3/24", ...}, ...], as `attach` one. All or none."""
        jobs = []
        for number, given in enumerate(wanted):
            netns = given.get("netns")
            if not isinstance(netns, Netns):
                raise UsageError(f"netns {netns!r}: expected a Netns")
            jobs.append(Job(self._spec_of({key: value for key, value in given.items() if key != "netns"}), netns=netns))
        with self._session():
            self._add(jobs)
            return [self._attachments[job.spec.host_ifname] for job in jobs]

    def detach_many(self, items: Sequence[Union[Attachment, Container, str]], *, wait: bool = True,
                    timeout: float = removal.TIMEOUT) -> None:
        """Undo attachments: kill those that were launched, delete the veth pairs, by one group delete if there are several.

        `items`: attachments, containers, or the names of attachments, whoever made them. What is gone already is no error.
        `wait=False`: returns at once; settle() waits. Raises StillPending for what is not gone after `timeout` seconds.
        """
        ours = [one.attachment if isinstance(one, Container) else one for one in items]
        for one in ours:
            if not isinstance(one, (Attachment, str)) or isinstance(one, Attachment) and one.network is not self:
                raise UsageError(f"detach {one!r}: expected an attachment of this network, or its name")
        if not wait:
            for one in items:
                if isinstance(one, Container) and self._is_mine_to_end():
                    one.kill()
            for attachment in ours:
                self._reaper.add(attachment)
            return
        with self._session():
            self._detach_now(self._names_of(ours), Deadline(timeout))

    def _is_mine_to_end(self) -> bool:
        return self._is_shared or self._is_mine

    def check(self, **given: Any) -> None:
        """Raise UsageError for an attachment that cannot be meant; arguments as for `attach`. Asks the kernel nothing."""
        with self._lock:
            self._taken_by_none(self._spec_of(given))

    def _spec_of(self, given: Mapping[str, Any]) -> AttachmentSpec:
        """Of an attachment that is not declared. Raises UsageError."""
        given = {key: value for key, value in given.items() if value is not None}
        if self._declared is None:
            self._declared = declaration.Taken(self.spec)
        spec = declaration.attachment({"address": "auto", **given}, self.spec, needs_target=False, taken=self._declared)
        if spec.host_ifname is None:
            spec = spec._replace(host_ifname=f"veth{os.urandom(4).hex()}")
            if "name" not in given:
                spec = spec._replace(name=spec.host_ifname)
        return spec


def _given(**arguments: Any) -> Dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in arguments.items() if value is not None}


# --- by name ---

def inspect(netns: Netns, claim: Claim, opened: ExitStack) -> List[Fault]:
    """What of a network is not as its claim declares it, whosever it is. Nothing is changed, no lock asked for."""
    spec = declaration.network(claim.declaration)
    return [alone(fault) for fault in drift.look(
        netns, spec, claim, plan.lladdr_of_bridge(spec, claim.netns),
        lambda one: plan.lladdr_of(one, spec, claim.netns),
        lambda host_ifname, one: drift.inside(claim, host_ifname, opened))]


def take_down(bridge: str, *, netns: Optional[Netns] = None, timeout: float = removal.TIMEOUT,
              removed: Optional[List[str]] = None) -> List[str]:
    """Take down the network of that name, by its claim alone, whatever of it is there; the names of what was.

    `netns`: where; the caller's namespace by default. `removed`: a list that gets the names, also if it fails. Nothing if
    there is no such network. Raises AlreadyExists if it belongs to a process that lives, StillPending.
    """
    values.ifname(bridge, "bridge")
    removed = [] if removed is None else removed
    with ExitStack() as opened:
        netns = opened.enter_context(Netns.current()) if netns is None else netns
        directory, key = state.directory(), ownership.key_of(netns.identity, bridge)
        with take_lock(directory, key, bridge):
            claim = ownership.load(directory, key)
            if claim is not None and claim.is_of_this_boot():
                if has_living_owner(claim):
                    raise busy(directory, key, bridge)
                removal.everything(netns, claim, removed, deadline=Deadline(timeout))
            ownership.forget(directory, key)
        if claim is None:
            _check_stranger(netns, bridge)
    return removed


def _check_stranger(netns: Netns, bridge: str) -> None:
    """Raise AlreadyExists for a bridge that nsnet made, though no claim here says so."""
    index = netns.find(bridge)
    link = netns.link(index) if index else None
    if link is not None and (link.ifalias or "").startswith("nsnet:"):
        raise AlreadyExists(errno.EEXIST, f"bridge {bridge}", drift.whose(link))
