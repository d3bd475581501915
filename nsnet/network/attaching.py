"""How namespaces and processes are attached to a network, many at once or one, and detached; all or none.

The pipeline: all that is launched is cloned first; while the children make their network namespaces on another CPU, the
claim is written, the bridge is built, and all requests are made; then their id maps are written and their own rtnetlink
sockets come up, through which their ends are configured. No setns.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext

from nsnet import declaration, plan, removal, sysctls
from nsnet.attachments import Attachment, Container
from nsnet.declaration import AttachmentSpec
from nsnet.errors import NotPermitted, NsnetError, UsageError
from nsnet.exchange import raise_errors
from nsnet.netns import perform_all
from nsnet.network.base import Base
from nsnet.network.jobs import Job
from nsnet.network.relay import relay
from nsnet.removal import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, List, Sequence, Tuple, Union


AT_ONCE = 64                        # attachments whose requests are made before any is sent: each holds a descriptor


class Attaching(Base):
    """What is attached: from what was asked for to what is there, and back."""

    def _add(self, jobs: "List[Job]", hold: bool = False) -> None:
        """Attach all of them, and bring the network up if it is not; or leave everything as it was."""
        self._reap_first()
        began = self.created = self._claim is None
        try:
            self._make(jobs, began, hold)
            self._finish(jobs)
        except BaseException as error:
            for one in jobs:                    # undoing may need the descriptors, if there are no others left
                one.close()
            if isinstance(error, NotPermitted) and began:
                error.hint = ("no CAP_NET_ADMIN over this network namespace; netns=nsnet.Netns.host() makes a private"
                              " host")
            self._undo(error, self._forget_failed, jobs, began)
            self.created = False
            raise
        finally:
            for one in jobs:
                one.close()

    def _make(self, jobs: "List[Job]", began: bool, hold: bool = False) -> None:
        """What goes wrong here is undone by the caller."""
        self._check_is_mine()
        for one in jobs:
            with self._saying_of(one):
                if one.declared is not None and not one.again:
                    one.aim()
                if one.argv is not None:
                    self._clone(one)
        self._begin()
        new = [one for one in jobs if not one.again]
        for one in new:
            with self._saying_of(one):
                self._resolve(one)
        self._find_addresses([one for one in new if one.spec.auto])
        for one in jobs:
            if one.netns is not None:
                with self._saying_of(one):
                    self._is_elsewhere(one)
        self._record(jobs, began)
        if self._ref is None:
            self._ref = self._build()
            self._forward()
        if len(jobs) <= AT_ONCE:                # else they are made while those before them are sent
            for one in jobs:
                self._make_requests(one)
        for one in jobs:
            if one.container is not None:
                with self._saying_of(one), self._step("namespaces", "write uid_map and gid_map",
                                                      "take the rtnetlink socket from its new netns"):
                    one.container.prepare()
                    if not one.arrived():
                        self._make_requests(one)
        self._attach(jobs)
        for one in jobs:
            if one.container is not None and not hold:
                with self._saying_of(one):
                    self._start(one)

    @contextmanager
    def _saying_of(self, one: "Job") -> Iterator[None]:
        """An error in here says of which attachment it is, if it is one of those that are declared."""
        try:
            yield
        except NsnetError as error:
            if one.declared is not None and error.where is None:
                error.where = f"{self.bridge}: {one.spec.name}"
            raise

    def _resolve(self, one: "Job") -> None:
        """Everything that was left open: the target, names, addresses. Refuses what another attachment has."""
        spec = one.spec
        if spec.host_ifname is None:
            spec = spec._replace(host_ifname=declaration.derived_ifname(self._claim.key, spec.name))
        if spec.mtu is None:
            spec = spec._replace(mtu=self.spec.mtu)
        one.spec = spec
        self._taken_by_none(spec)
        if self._memory is not None and not spec.auto:
            one.leased = True
            for address in spec.addresses:
                self._memory.claim(spec.name, address)
        self._claim.enter(spec.host_ifname, one.entry())

    def _find_addresses(self, jobs: "List[Job]") -> None:
        """For those that have no address yet; when all that are asked for are known, so that none of these is found."""
        if not jobs:
            return
        book = self._leases(create=True)
        for one in jobs:
            one.leased = True
        with self._saying_of(jobs[0]) if len(jobs) == 1 else nullcontext():
            found = book.take_many([one.spec.name for one in jobs])
        for one, addresses in zip(jobs, found):
            one.spec = one.spec._replace(addresses=addresses)
            self._claim.enter(one.spec.host_ifname, one.entry())

    def _is_elsewhere(self, one: "Job") -> None:
        """Raise UsageError for the bridge's own namespace: it would be given a default route, and settings."""
        if one.netns.identity == self.netns.identity:
            raise UsageError(f"attach {one.spec.name}: expected another network namespace than that of {self.bridge}")

    def _taken_by_none(self, spec: AttachmentSpec) -> None:
        """Raise UsageError for a name or an address that another attachment has."""
        claim = self._claim
        if spec.host_ifname == self.bridge or claim is not None and spec.host_ifname in claim.attachments:
            raise UsageError(f"host_ifname {spec.host_ifname!r}: it stands for two links")
        if claim is None:
            return
        for address in spec.addresses:
            holder = claim.holder_of(str(address))
            if holder is not None:
                raise UsageError(f"address '{address}': {holder} has it")
        if claim.holder_of_name(spec.name) is not None:
            raise UsageError(f"name {spec.name!r}: it stands for two attachments")

    def _clone(self, one: "Job") -> None:
        options = dict(one.options)
        if self.netns.userns_fd is not None:    # links of that host may only be handed to namespaces below its owner's
            options["join"] = {"user": self.netns.userns_fd, **(options.get("join") or {})}
        with self._step("clone", "clone3 into new namespaces: " + ", ".join(sorted(options["new"]))):
            one.container = Container(one.argv, **options)
            if one.container.moves:
                one.container.prepare()

    def _record(self, jobs: "List[Job]", began: bool) -> None:
        """On disk, synced, before the kernel is asked for any of it."""
        what = "what is about to be created" if began else ", ".join(one.spec.host_ifname for one in jobs)
        with self._step("claim", f"record {what}, for gc"):
            self._claim.write()

    def _make_requests(self, one: "Job") -> None:
        with self._saying_of(one):
            one.make_requests(self.netns, self._claim, self._ref, self._lladdr_of(one.spec), plan.wants_ipv6(self.spec))

    def _attach(self, jobs: "List[Job]") -> None:
        if not jobs:
            return
        for one in jobs:
            self._attachments[one.spec.host_ifname] = Attachment(self, one.spec, one.netns, one.id)
        if len(jobs) <= AT_ONCE:
            with self._step("veth", *(words for one in jobs for words in self._words_of_pair(one))):
                self._send_pairs(jobs)
            with self._step("container", *(words for one in jobs for words in self._words_of_end(one))):
                self._send_rest(jobs)
                self._sync_carriers(jobs)
            return
        with self._step("container", *(words for one in jobs for words in (*self._words_of_pair(one),
                                                                           *self._words_of_end(one)))):
            relay([jobs[start:start + AT_ONCE] for start in range(0, len(jobs), AT_ONCE)],
                  lambda part: [self._make_requests(one) for one in part], self._send_all)
            self._sync_carriers(jobs)

    def _send_all(self, jobs: "List[Job]") -> None:
        self._send_pairs(jobs)
        self._send_rest(jobs)

    def _send_pairs(self, jobs: "List[Job]") -> None:
        try:
            self.netns.perform([request for one in jobs for request in one.pair])
        finally:
            for one in jobs:
                one.sent()
        for one in jobs:
            self._claim.attachments[one.spec.host_ifname]["index"] = one.host_end.index

    def _send_rest(self, jobs: "List[Job]") -> None:
        with_sysctls = [one for one in jobs if one.spec.sysctls]
        self._configure(with_sysctls, 0)
        for one in with_sysctls:                # they hold from the first packet on
            with self._saying_of(one):
                sysctls.write(one.netns, dict(one.spec.sysctls))
        self._configure(jobs, -1)
        self.netns.perform([request for one in jobs for request in one.port])

    def _sync_carriers(self, jobs: "List[Job]") -> None:
        """Both ends got carrier just now; the bridge gets it from its port. In this order, or the first packet is lost."""
        for one in jobs:
            with self._saying_of(one):
                one.netns.sync_carrier(one.end)
                self.netns.sync_carrier(one.host_end)
        self.netns.sync_carrier(self._ref)

    def _configure(self, jobs: "List[Job]", part: int) -> None:
        """Send to each one's namespace that part of its requests."""
        for one, outcomes in zip(jobs, perform_all([(one.netns, one.inside[part]) for one in jobs])):
            with self._saying_of(one):
                raise_errors(outcomes)

    def _words_of_pair(self, one: "Job") -> Tuple[str, ...]:
        if self._on_step is None:
            return ()
        spec = one.spec
        return (f"create veth pair {spec.host_ifname}, {spec.ifname}",
                f"set {spec.host_ifname}'s master to {self.bridge}",
                f"{spec.ifname} is born in the container's netns" + (f" as {spec.lladdr}" if spec.lladdr else ""))

    def _words_of_end(self, one: "Job") -> Tuple[str, ...]:
        if self._on_step is None:
            return ()
        spec = one.spec
        return ("enable lo", *(f"assign {address} to {spec.ifname}" for address in spec.addresses),
                f"enable {spec.ifname}", *(f"default route via {via}" for via in spec.gateways),
                f"enable {spec.host_ifname}")

    def _start(self, one: "Job") -> None:
        with self._step("execve", f"run {os.fsdecode(one.container.args[0])} with capabilities: "
                        + (", ".join(sorted(one.options.get("capabilities", ()))) or "none")):
            one.container.go()

    def _finish(self, jobs: "List[Job]") -> None:
        """All of it is there: in a shared network, who comes next may rely on it."""
        for one in jobs:
            self._claim.attachments[one.spec.host_ifname]["ready"] = True
            if one.container is not None:
                one.container.attachment = self._attachments[one.spec.host_ifname]
                self._containers[one.spec.host_ifname] = one.container
        if self._is_shared:
            self._claim.state = "up"
            self._claim.write()

    # --- and back ---

    def _names_of(self, items: Iterable[Union[Attachment, str]]) -> List[str]:
        """The host's ends of those that are still there."""
        entries = {} if self._claim is None or not self._is_mine else self._claim.attachments
        found = []
        for one in items:
            if isinstance(one, str):
                found += [name for name in (one, self._claim and self._claim.holder_of_name(one)) if name in entries]
            elif entries.get(one.host_ifname, {}).get("id") == one.id:
                found.append(one.host_ifname)
            else:                               # somebody else was quicker
                if self._attachments.get(one.host_ifname) is one:
                    del self._attachments[one.host_ifname]
                    self._containers.pop(one.host_ifname, None)
        return list(dict.fromkeys(found))

    def _detach_now(self, names: Sequence[str], deadline: Deadline, repairing: bool = False) -> None:
        claim = self._claim
        if not names:
            return
        with self._ended([self._containers[name] for name in names if name in self._containers], deadline):
            for name in names:
                process = claim.process_of(name)
                if name not in self._containers and process is not None and claim.attachments[name].get("launched"):
                    with self._step("process", f"end process {process.pid}"):
                        removal.process(process, deadline)
            with self._step("veth") as what:
                there = removal.several(self.netns, claim,
                                        [claim.attachments[name].get("index") or name for name in names], deadline)
                what += [f"delete {name}" if deleted else f"{name} is gone already" for name, deleted in zip(names, there)]
            self._drop(names)
        if self.spec.lifetime == "attachments" and not claim.attachments and not repairing:
            self._down(deadline.left)

    def _drop(self, names: Iterable[str]) -> None:
        """They are gone: their addresses are free, and the claim forgets them."""
        names = list(names)
        removal.drop(self._claim, names, self._leases())
        for name in names:
            self._attachments.pop(name, None)
            self._containers.pop(name, None)
        self._claim.write()

    def _sweep(self) -> None:
        """For the reaper: all that is waiting, in one go."""
        with self._session():
            self._reap_first()

    def _reap_first(self) -> None:
        """What waits for its removal may have the name or the address that is wanted now."""
        with self._reaper.taken() as items:
            if self in items:
                self._down()
            elif items:
                self._detach_now(self._names_of(items), Deadline(removal.TIMEOUT))

    def _forget_failed(self, jobs: "List[Job]", began: bool) -> None:
        """Undo what was begun: the processes, the veths that were reached, and the bridge if this call made it."""
        for one in jobs:
            if one.container is not None:
                one.container._abandon()
        if self._claim is None:
            self._forget()                      # it may have got the lock, and no further
            return
        for one in jobs:
            if one.container is not None and self._containers.get(one.spec.host_ifname) is one.container:
                del self._containers[one.spec.host_ifname]
        if began:
            self._down()
            return
        entries = self._claim.attachments
        ours = [one for one in jobs if entries.get(one.spec.host_ifname, {}).get("id") == one.id]
        if ours:
            removal.several(self.netns, self._claim, [entries[one.spec.host_ifname].get("index") or one.spec.host_ifname
                                                      for one in ours], Deadline(removal.TIMEOUT))
        names = [one.spec.host_ifname for one in ours if not one.again]      # else it is what was there before
        if names:
            self._drop(names)
        book = self._leases()
        leased = [one.spec.name for one in jobs if one.leased]      # also those that did not come as far as to be claimed
        if leased and book is not None:
            book.release_many(leased)
