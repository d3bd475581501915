"""What of a network is not as it was declared, and how it becomes so again; undone if it fails on the way."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from functools import partial
from itertools import groupby

from nsnet import declaration, drift, forwarding, plan, removal, sysctls
from nsnet.declaration import AttachmentSpec
from nsnet.drift import Fault
from nsnet.errors import AlreadyExists, KernelError, NoSuchObject
from nsnet.exchange import Request
from nsnet.netns import Netns
from nsnet.network.attaching import Attaching
from nsnet.network.jobs import Job
from nsnet.ownership import Claim
from nsnet.removal import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Set, Tuple


class Repairing(Attaching):
    """Looking, and mending."""

    def faults(self) -> List[Fault]:
        """What is not as it was declared, in the order in which up() mends it; nothing is changed.

        For a network that is not up everything is missing. Raises AlreadyExists if the bridge's name is somebody else's.
        """
        with self._session(look=True), ExitStack() as opened:
            return [alone(fault) for fault in self._faults(opened)]

    def preview(self) -> List[Tuple[Fault, List[Request]]]:
        """The same, each with the requests that up() would send; those for a container that is not there yet, with a
        descriptor of the host's namespace where its own will be."""
        with self._session(look=True), ExitStack() as opened:
            claim = self._claim or self._new_claim()
            return [(alone(fault), requests)
                    for fault, requests in drift.preview(self.netns, self.spec, claim, self._faults(opened, claim),
                                                         plan.wants_ipv6(self.spec), self._lladdr_of)]

    def _faults(self, opened: ExitStack, claim: Optional[Claim] = None) -> List[Fault]:
        claim = claim or self._claim or self._new_claim()

        def inside(host_ifname: str, spec: AttachmentSpec) -> Optional[Netns]:
            attachment = self._attachments.get(host_ifname)
            if attachment is not None and attachment.netns is not None:
                return attachment.netns
            return drift.inside(claim, host_ifname, opened)
        return drift.look(self.netns, self.spec, claim, self._bridge_lladdr(), self._lladdr_of, inside)

    def _repair(self) -> List[Fault]:
        """Mend what is not as declared; what this call did is undone if it fails."""
        claim, undoing, jobs = self._claim, [], []
        if claim.adopted != self.spec.adopt:
            raise AlreadyExists(errno.EEXIST, f"bridge {self.bridge}", "it is up, and was "
                                + ("adopted" if claim.adopted else "not adopted") + " then: take it down first")
        with ExitStack() as opened:
            faults = self._faults(opened)
            beyond = [fault.what for fault in faults if fault.kind == "beyond"]
            if beyond:
                raise NoSuchObject(errno.ENODEV, f"bridge {self.bridge}", "; ".join(beyond))
            before = claim.lifetime, claim.declaration
            specs = {host_ifname: entry["spec"] for host_ifname, entry in claim.attachments.items()}
            try:
                self._mend(faults, undoing, jobs)
                self._finish(jobs)
            except BaseException as error:
                def undo() -> None:
                    claim.lifetime, claim.declaration = before
                    for host_ifname, entry in claim.attachments.items():
                        entry["spec"] = specs.get(host_ifname, entry["spec"])
                    self._forget_failed(jobs, False)
                    while undoing:
                        undoing[-1]()
                        undoing.pop()
                self._undo(error, undo)
                raise
            finally:
                for one in jobs:
                    one.close()
            return faults

    def _mend(self, faults: "List[Fault]", undoing: List[Callable[[], None]], jobs: "List[Job]") -> None:
        by_verbs = [fault for fault in faults if fault.kind == "verbs"]
        if by_verbs and isinstance(by_verbs[0].settings, drift.Bridge):
            self._mend_by_verbs(self.netns, by_verbs[:1], undoing)
            del by_verbs[:1]
            self._deafen(self._find_bridge())
        for netns, some in groupby(by_verbs, key=lambda fault: fault.netns):
            self._mend_by_verbs(netns, list(some), undoing)
        self._ref = self._find_bridge()
        for fault in faults:
            if fault.kind == "sysctls":
                undoing.append(partial(sysctls.write, fault.netns, {key: before for key, (before, _)
                                                                   in fault.settings.items() if before is not None}))
                with self._step("repair", str(fault)):
                    sysctls.write(fault.netns, {key: wanted for key, (_, wanted) in fault.settings.items()})
            elif fault.kind == "forwarding":
                from copy import deepcopy

                before, claim = deepcopy(self._claim.forwarding), self._claim
                with self._step("repair", str(fault)):
                    off = forwarding.enable(self.netns, claim, self.spec)
                    undoing.append(partial(forwarding.undo, self.netns, claim, off, before))
        self._declare({fault.entry for fault in faults if fault.kind in ("attach", "detach")})
        for fault in faults:
            if fault.kind == "detach" or fault.kind == "attach" and fault.entry is not None:
                self._detach_now([fault.entry], Deadline(removal.TIMEOUT), repairing=True)
        jobs += [Job(fault.spec, declaration.as_dict(fault.spec)) for fault in faults if fault.kind == "attach"]
        for fault in faults:
            if fault.kind == "reattach":
                jobs.append(self._again(fault))
        if jobs:
            self._make(jobs, False)
        unwanted = forwarding.unwanted(self.spec, self._claim)
        if unwanted:                            # last: it is not undone
            forwarding.restore(self.netns, self._claim, only=unwanted)

    def _declare(self, going: Set[Optional[str]]) -> None:
        """What is there is now as this network declares it; what it does not any more has been taken away.

        `going`: entries that will be detached.
        """
        claim, before = self._claim, declaration.network(self._claim.declaration)
        for host_ifname, entry in claim.attachments.items():
            if host_ifname not in going:
                entry["spec"] = declaration.as_dict(drift.fitted(entry, before, self.spec))
        claim.lifetime, claim.declaration = self.spec.lifetime, declaration.as_dict(self.spec)

    def _again(self, fault: Fault) -> "Job":
        """Another veth pair for what is still there."""
        host_ifname, entry = fault.entry, self._claim.attachments[fault.entry]
        attachment = self._attachments.get(host_ifname)
        one = Job(fault.spec, entry=entry, again=True)
        if attachment is not None and attachment.netns is not None:
            one.netns = attachment.netns
        else:
            one.netns = drift.inside(self._claim, host_ifname, one.opened)
        if one.netns is None:
            raise KernelError(errno.ENOENT, f"attach {fault.where}", "its network namespace is known to another process only")
        self._is_elsewhere(one)
        entry["ready"] = False                  # killed on the way, the new one is found by name, and is not whole
        for which in {entry.pop("index", host_ifname), host_ifname}:
            removal.link(self.netns, self._claim, which, Deadline(removal.TIMEOUT))
        return one

    def _mend_by_verbs(self, netns: Netns, faults: List[Fault], undoing: List[Callable[[], None]]) -> None:
        """One batch. Only what was done is undone: a batch goes on after an error."""
        sent: List[Tuple[Fault, int]] = []
        net = netns.batch()
        for fault in faults:
            fault.change.do(net)
            sent.append((fault, len(net.requests)))

        def undo() -> None:
            back, start = netns.batch(), 0
            for fault, end in sent:
                if fault.change.undo is not None and any(outcome.error is None for outcome in net.outcomes[start:end]):
                    fault.change.undo(back)
                start = end
            back.send()
        with self._step("repair", *map(str, faults)):
            undoing.append(undo)
            net.send()


def alone(fault: Fault) -> Fault:
    """Without what belongs to the call that found it."""
    return fault._replace(netns=None, change=None, settings=None)
