"""What every part of a network stands on: who may change it now, and what there is of it.

A session is the right to change a network, and its claim as it is then. Of one that lives no longer than a process the
lock is kept as long as it is up; of a shared one it is held for a call, and what is there is what is on disk.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager, nullcontext

from nsnet import declaration, forwarding, kernel, ownership, plan, removal, state, sysctls
from nsnet.attachments import Attachment, Container
from nsnet.declaration import AttachmentSpec, NetworkSpec
from nsnet.drift import own_bridge
from nsnet.errors import (AlreadyExists, KernelError, NoSuchObject, NotPermitted, NsnetError, RollbackError, StillPending,
                          UsageError)
from nsnet.named import NamedTuple
from nsnet.netns import Netns
from nsnet.ownership import SHARED, Claim
from nsnet.reaper import Reaper
from nsnet.removal import Deadline
from nsnet.verbs import LinkRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple, Union
    from nsnet.leases import Leases, MemoryLeases

_LOOK = 0.1                         # seconds between looks at why another has the lock


class Step(NamedTuple):
    """One stage of building or undoing, when it is done: for `on_step`.

    `name`: "clone", "claim", "bridge", "namespaces", "veth", "container", "execve", "sysctls", "forwarding", "repair";
    "process", "veth", "bridge" when undoing.
    `what`: what it did, in words, one string for each of its parts. `seconds`: how long it took.
    """

    name: str
    what: Tuple[str, ...]
    seconds: float


class Base:
    """The state of a network, and its bridge."""

    def _begin_with(self, spec: NetworkSpec, netns: Optional[Netns], on_step: Optional[Callable[[Step], None]]) -> None:
        self.spec = spec
        self._given_netns, self._netns = netns, None
        self._on_step = on_step
        self._turn, self._turn_of = threading.RLock(), os.getpid()
        self._home = os.getpid()                    # a fork that leaves a `with` block takes nothing away
        self._made_by = 0                           # the pid of who holds the claim: a fork of it owns nothing
        self._held: Union[None, kernel.Descriptor, socket.socket] = None
        self._claim: Optional[Claim] = None
        self._declared: Optional[declaration.Taken] = None      # by what is declared
        self._ref: Optional[LinkRef] = None
        self._attachments: Dict[str, Attachment] = {}
        self._containers: Dict[str, Container] = {}     # by the host's end, too
        self._memory: Optional[MemoryLeases] = None
        self._reaper = Reaper(self._sweep)
        self.created = False                        # whether it was down before the call that brought it up last

    def _sweep(self) -> None:
        raise NotImplementedError

    bridge = property(lambda self: self.spec.bridge, doc="Its name.")

    addresses = property(lambda self: self.spec.addresses, doc="The bridge's, with prefix.")

    lifetime = property(lambda self: self.spec.lifetime)

    @property
    def address(self) -> str:
        """The bridge's first address, with prefix."""
        return str(self.spec.addresses[0])

    @property
    def _lock(self) -> "threading.RLock":
        """Of the threads of this process. One that a fork left behind may have held it, in the middle of a session."""
        if self._turn_of != os.getpid():
            self._turn, self._turn_of, self._reaper = threading.RLock(), os.getpid(), Reaper(self._sweep)
            self._attachments, self._containers = {}, {}    # they are the parent's
            if self._is_shared and self._held is not None:
                self._held.close()                  # the parent's lock stays: it has it open too
                self._held = self._claim = self._ref = None
        return self._turn

    @property
    def netns(self) -> Netns:
        """The host's network namespace."""
        if self._netns is None or self._netns.closed:
            self._netns = Netns.current() if self._given_netns is None else self._given_netns
        return self._netns

    @property
    def is_up(self) -> bool:
        """Whether this object has built the bridge and not taken it down; of a shared one, whether it is up by its claim."""
        if self._is_shared and (self._held is None or self._turn_of != os.getpid()):
            found = self._peek()
            return found is not None and found.is_kept() and found.is_of_this_boot()
        return self._ref is not None

    @property
    def _is_shared(self) -> bool:
        return self.spec.lifetime in SHARED

    @property
    def _is_mine(self) -> bool:
        return self._made_by == os.getpid()         # a fork of who made it owns nothing, though it inherits the lock

    def _check_is_mine(self) -> None:
        if self._claim is not None and not self._is_mine:
            raise UsageError(f"network {self.bridge}: expected process {self._made_by}, which brought it up; this is a fork")

    # --- the right to change it ---

    @contextmanager
    def _session(self, look: bool = False) -> Iterator[None]:
        """Inside, nobody else changes the network: self._claim is what there is of it, None if there is nothing.

        `look`: what a dead owner left is not removed; AlreadyExists says so.
        """
        with self._lock:
            if self._held is not None or not self._is_shared:
                yield
                return
            key, directory = self._key(), state.directory()
            held, known = take_lock(directory, key, self.bridge), False
            try:
                self._held, self._made_by = held, os.getpid()
                self._claim = self._inherit(directory, key, look)
                known = True
                if self._claim is not None:
                    self._ref = self._find_bridge()
                yield
            finally:
                try:
                    if known and self._claim is None:       # else it is there, and was not understood, or not removed
                        ownership.forget(directory, key)
                finally:
                    self._held = self._claim = self._ref = None
                    held.close()

    def _key(self) -> str:
        return ownership.key_of(self.netns.identity, self.bridge)

    def _peek(self) -> Optional[Claim]:
        try:
            return ownership.load(state.directory(), self._key())
        except KernelError:
            return None

    def _inherit(self, directory: str, key: str, look: bool = False) -> Optional[Claim]:
        """What is on disk, when we have the lock. What a dead owner left is removed first."""
        claim = ownership.load(directory, key)
        if claim is None:
            return None
        if not claim.is_of_this_boot():
            claim.forget()
            return None
        if claim.is_kept():
            return claim
        if has_living_owner(claim):
            raise busy(directory, key, self.bridge)
        if look:
            raise AlreadyExists(errno.EEXIST, f"bridge {self.bridge}",
                                "a network that has ended left it; up, or gc, removes it")
        removal.everything(self.netns, claim, [])
        return None

    def _begin(self) -> None:
        """Have a claim, which is not on disk yet if it is new."""
        if self._claim is not None:
            return
        claim = self._new_claim()
        if self.spec.lifetime == "owner":
            self._held = ownership.hold_name(self.netns, ownership.Mark.parse(claim.mark))
            from nsnet.leases import MemoryLeases       # here: not every network gives addresses

            self._memory = MemoryLeases(self.spec.addresses, ranges=self.spec.ranges, exclude=self.spec.exclude)
        elif not self._is_shared:
            self._held = self._take_lock(claim.directory, claim.key)
        self._made_by = os.getpid()
        self._claim = claim

    def _new_claim(self) -> Claim:
        try:
            return Claim.new(self.netns, self.bridge, self.lifetime, declaration.as_dict(self.spec),
                             adopted=self.spec.adopt, directory=None if self.lifetime == "owner" else state.directory())
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
            raise NotPermitted(errno.EPERM, f"bridge {self.bridge}") from None      # of the descriptor of its namespace

    def _take_lock(self, directory: str, key: str) -> kernel.Descriptor:
        """For as long as the network is up."""
        held = take_lock(directory, key, self.bridge)
        try:
            found = self._inherit(directory, key)
            if found is not None:
                raise AlreadyExists(errno.EEXIST, f"bridge {self.bridge}",
                                    f"it is up, with lifetime {found.lifetime!r}, which only such a network shares")
        except BaseException:
            held.close()
            raise
        return held

    # --- the bridge ---

    def _build(self) -> LinkRef:
        """The bridge, or the one that is adopted."""
        claim, there = self._claim, None
        if self.spec.adopt or self.netns.find(self.bridge):
            there = own_bridge(self.netns, self.spec, self._claim)
        forwarding.check(self.netns, self.spec)
        if self.spec.adopt:
            faults = ["it is not there"] if there is None else plan.adopted_faults(self.netns, there, self.spec)
            if faults:
                raise NoSuchObject(errno.ENODEV, f"adopt bridge {self.bridge}", "; ".join(faults))
            return LinkRef(there.ifname, there.index)
        with self._step("bridge", f"create bridge {self.bridge}",
                        *(f"assign {address} to it" for address in self.addresses), "enable it"):
            with self.netns.batch() as net:
                bridge = plan.make_bridge(net, self.spec, claim, self._bridge_lladdr())
        self._deafen(bridge)
        return bridge

    def _deafen(self, bridge: LinkRef) -> None:
        """Before it has a port: from then on a container may send. On a private host there is no route to lose."""
        if self.netns.private:
            return
        try:
            sysctls.write(self.netns, {plan.accept_ra_of(bridge.ifname): "0"})
        except KernelError as error:
            if error.errno != errno.ENOENT:         # a kernel without IPv6
                raise

    def _find_bridge(self) -> Optional[LinkRef]:
        """Of a shared network; None if it is gone."""
        index = self.netns.find(self.bridge)
        found = index and (self._claim.adopted or removal.find(self.netns, self._claim, index) is not None)
        return LinkRef(self.bridge, index) if found else None

    def _forward(self) -> None:
        if self.spec.forward:
            with self._step("forwarding", f"forward between {self.bridge} and {', '.join(self.spec.forward)}"):
                forwarding.enable(self.netns, self._claim, self.spec)

    def _bridge_lladdr(self) -> str:
        return plan.lladdr_of_bridge(self.spec, self.netns.identity)

    def _lladdr_of(self, spec: AttachmentSpec) -> Optional[str]:
        return plan.lladdr_of(spec, self.spec, self.netns.identity)

    def _leases(self, create: bool = False) -> Union[None, Leases, MemoryLeases]:
        return self._memory if self._claim.directory is None else removal.leases_of(self._claim, create=create)

    # --- its end ---

    def _down(self, timeout: float = removal.TIMEOUT) -> None:
        claim, deadline = self._claim, Deadline(timeout)
        if claim is not None and not self._is_mine:
            return
        with self._ended(list(self._containers.values()), deadline):
            if claim is None:                   # another process has taken it down
                self._forget()
                return
            removed: List[str] = []
            with self._step("bridge") as what:
                removal.everything(self.netns, claim, removed, self._leases(), deadline)
                for name in removed:
                    what += [f"disable {name}", f"delete {name}"] if name == self.bridge else [f"delete {name}"]
                self._forget()
        if self._given_netns is None:
            self.netns.close()

    def _forget(self) -> None:
        """It is gone."""
        claim = self._claim
        self._claim = self._ref = self._memory = None
        self._attachments.clear()
        self._containers.clear()
        if not self._is_shared:             # else it is the session's
            held, self._held = self._held, None
            if held is not None:
                try:
                    if claim is not None and claim.directory is not None:
                        ownership.forget(claim.directory, claim.key)
                finally:
                    held.close()

    @contextmanager
    def _ended(self, containers: List[Container], deadline: Deadline) -> Iterator[None]:
        """Kill them, and wait no longer than that for it; inside, they have ended. They are let go of afterwards: a
        namespace that nobody holds is taken apart by the kernel, and whoever deletes links would wait for it.
        """
        for container in containers:
            container.kill()
        for container in containers:
            with self._step("process", f"end process {container.pid}"):
                if container.returncode is None and container.pidfd >= 0 and not kernel.has_ended(container.pidfd,
                                                                                                  deadline.left):
                    raise StillPending([f"process {container.pid}"], deadline.timeout)
        try:
            yield
        finally:
            for container in containers:
                container._abandon()

    def _undo(self, cause: BaseException, undo: Callable, *arguments: Any) -> None:
        names = self._claim.names if self._claim is not None else []
        try:
            undo(*arguments)
        except Exception as error:
            rollback = RollbackError(cause, [name for name in names if self.netns.find(name)], error)
            if isinstance(cause, Exception):
                raise rollback from cause
            raise cause from rollback           # Ctrl-C stays Ctrl-C

    def _step(self, name: str, *what: str) -> ContextManager[List[str]]:
        """Times a stage. What it yields may be added to, where only the kernel's answer tells what was done."""
        return nullcontext([]) if self._on_step is None else self._timed_step(name, list(what))

    @contextmanager
    def _timed_step(self, name: str, words: List[str]) -> Iterator[List[str]]:
        started = time.perf_counter()
        yield words
        if words:
            self._on_step(Step(name, tuple(words), time.perf_counter() - started))


def take_lock(directory: str, key: str, bridge: str) -> kernel.Descriptor:
    """The right to change a network. Who has it up is not waited for; whoever builds or removes it now, gc too, is."""
    deadline = Deadline(ownership.LOCK_TIMEOUT)
    held = ownership.lock(directory, key)
    while held is None:
        error = busy(directory, key, bridge)
        if isinstance(error, AlreadyExists) or not deadline.left:
            raise error
        held = ownership.lock(directory, key, min(deadline.left, _LOOK))
    return held


def has_living_owner(claim: Claim) -> bool:
    """Whether another process has it up, though the lock was free: somebody removed its file."""
    return claim.lifetime == "process" and claim.owner["pid"] != os.getpid() and claim.owner_process().runs() is not False


def busy(directory: str, key: str, bridge: str) -> NsnetError:
    """Why another has the lock."""
    try:
        claim = ownership.load(directory, key)
    except KernelError:
        claim = None
    if claim is not None and claim.lifetime == "process" and claim.owner_process().runs() is not False:
        return AlreadyExists(errno.EEXIST, f"bridge {bridge}", f"process {claim.owner['pid']} has it up"
                             + (" (this one)" if claim.owner["pid"] == os.getpid() else ""))
    return KernelError(errno.EBUSY, f"bridge {bridge}", "another process is working on it")
