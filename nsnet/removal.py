"""Removal of exactly what a claim names: links, processes, leases, changed sysctls.

Each step may be repeated, from whatever state it finds; none waits for ever. A link goes only if it is the claim's
(ownership.py); with all of a network in one group delete the kernel is waited for once, however many there are.

Knows how things are taken away; whether they should be is the caller's to know, who holds the claim's lock.
"""

from __future__ import annotations

import _signal as signal                # its numbers; signal itself makes enums of them
import errno
import os
import time
from contextlib import suppress

from nsnet import declaration, forwarding, kernel, leases, requests, state, values
from nsnet.errors import (KernelError, ListChanged, NoFreeAddress, NoSuchObject, OutcomeUnknown, StillPending,
                          UsageError)
from nsnet.netns import Netns
from nsnet.objects import Link
from nsnet.ownership import Claim, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, List, Optional, Sequence, Union

TIMEOUT = 30.0                      # seconds for all of one removal; then what is left is reported as pending


class Deadline:
    """When a removal is to be over."""

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds, never less than none."""
        return max(0.0, self._end - time.monotonic())


# --- links ---

def links(netns: Netns, claim: Claim, deadline: Deadline) -> List[str]:
    """Delete all links of a claim; bridges are set down first. Returns the names of those that were there, bridges last.

    Raises StillPending if the kernel does not answer in time; KernelError (EBUSY), after removing the others, for a link
    that has our group and a claimed name but somebody else's alias: it was ours, and whose it is now is for a person to
    say.
    """
    members, whole = _members(netns, claim)
    ours = sorted(filter(claim.is_ours, members), key=lambda link: link.kind == "bridge")
    _delete_at_once(netns, claim, ours, members, whole, deadline)
    doubtful = [link for link in members if not claim.is_ours(link) and link.ifname in claim.names]
    if doubtful:
        raise KernelError(errno.EBUSY, f"delete {doubtful[0].ifname}",
                          f"its alias is {doubtful[0].ifalias!r}, expected {claim.mark!r}; delete it by hand if it is not"
                          " needed")
    return [link.ifname for link in ours]


def several(netns: Netns, claim: Claim, which: Sequence[Union[int, str]], deadline: Deadline) -> List[bool]:
    """Delete those of the indexes and names that are there and ours; which these were."""
    if len(which) == 1:
        return [link(netns, claim, which[0], deadline)]
    members, whole = _members(netns, claim)
    wanted = set(which)
    ours = [found for found in members if (found.index in wanted or found.ifname in wanted) and claim.is_ours(found)]
    _delete_at_once(netns, claim, ours, members, whole, deadline)
    there = {found.index for found in ours} | {found.ifname for found in ours}
    return [one in there for one in which]


def _delete_at_once(netns: Netns, claim: Claim, ours: List[Link], members: List[Link], whole: bool,
                    deadline: Deadline) -> None:
    """One group delete, which waits once for the kernel, however many they are.

    Of a group that nothing was in until now, which they join in the same exchange: whoever puts a link of his own into
    ours, meanwhile or before, keeps it. One by one if the list may not be whole, or there is a stranger even so.
    """
    if not whole or any(link.group == claim.doomed and not claim.is_ours(link) for link in members):
        _delete(netns, ours, (), deadline)
        return
    net = netns.batch()
    for found in ours:
        net.add(requests.set_link(found.index, found.ifname, group=claim.doomed,
                                  up=False if found.kind == "bridge" else None, tolerate=requests.GONE))
    if ours:
        net.del_group(claim.doomed)
        _perform(netns, net.requests, [found.ifname for found in ours], deadline)


def link(netns: Netns, claim: Claim, which: Union[int, str], deadline: Deadline) -> bool:
    """Delete the link of that index or name if it is there and ours. Returns whether it was."""
    found = find(netns, claim, which)
    if found is None:
        return False
    _delete(netns, [found], (), deadline)
    return True


def marked(netns: Netns, ours: List[Link], whole: bool, deadline: Deadline) -> List[str]:
    """Delete links by what their own marks say; `whole`: they are all of their group. Their names."""
    groups = {link.group for link in ours} if whole else set()
    _delete(netns, ours, groups, deadline)
    return [link.ifname for link in ours]


def find(netns: Netns, claim: Claim, which: Union[int, str]) -> Optional[Link]:
    """The link of that index or name, if it is there and the claim's."""
    try:
        found = netns.link(which)
    except NoSuchObject:
        return None
    return found if claim.is_ours(found) else None


def _members(netns: Netns, claim: Claim) -> Any:
    """(links of the claim's groups, whether these are all). A list that changed while it was read is no evidence."""
    try:
        return [link for link in netns.links(stats=False) if link.group in claim.groups], True
    except ListChanged:
        found = (_by_name(netns, name) for name in claim.names)
        return [link for link in found if link is not None and link.group in claim.groups], False


def _by_name(netns: Netns, name: str) -> Optional[Link]:
    try:
        return netns.link(name)
    except NoSuchObject:
        return None


def _delete(netns: Netns, ours: List[Link], groups: Iterable[int], deadline: Deadline) -> None:
    if not ours:
        return
    net = netns.batch()
    for link in ours:
        if link.kind == "bridge":
            net.add(requests.set_link(link.index, link.ifname, up=False, tolerate=requests.GONE))
    for group in groups:
        net.del_group(group)
    for link in ours:
        if link.group not in groups:
            net.del_link(link, missing_ok=True)
    _perform(netns, net.requests, [link.ifname for link in ours], deadline)


def _perform(netns: Netns, batch: List, names: List[str], deadline: Deadline) -> None:
    try:
        netns.perform(batch, timeout=deadline.left)
    except OutcomeUnknown as error:
        if error.errno != errno.ETIMEDOUT:          # ENOBUFS: it was done, and the answer was lost
            left = [name for name in names if netns.find(name)]
            if not left:
                return
            raise StillPending(left, deadline.timeout) from None
        raise StillPending(names, deadline.timeout) from None
    except KernelError as error:
        if error.errno != errno.ETIMEDOUT:
            raise
        raise StillPending(names, deadline.timeout) from None


# --- processes ---

def process(which: Process, deadline: Deadline) -> bool:
    """End a process if it is still the one that is meant. Whether it was there.

    Raises StillPending; KernelError (ESRCH) if it is of another pid namespace, where we cannot look.
    """
    runs = which.runs()
    if runs is None:
        raise KernelError(errno.ESRCH, f"process {which.pid}", f"it is of another pid namespace, {which.pid_namespace}")
    if not runs:
        return False
    try:
        pidfd = kernel.Descriptor.of(os.pidfd_open, which.pid)
    except ProcessLookupError:
        return False
    except OSError as error:            # it may well be there
        raise KernelError(error.errno, f"process {which.pid}") from None
    with pidfd:
        if kernel.proc_pid(pidfd.fileno()) != which.pid:
            raise KernelError(errno.ESRCH, f"process {which.pid}", "/proc is of another pid namespace")
        if not which.runs():
            return False
        kernel.signal_process(pidfd.fileno(), signal.SIGKILL)
        if not kernel.has_ended(pidfd.fileno(), deadline.left):
            raise StillPending([f"process {which.pid}"], deadline.timeout)
    return True


# --- what is known of it ---

def drop(claim: Claim, names: Iterable[str], book: Optional[Any]) -> None:
    """Of attachments that are gone: their addresses are free, and the claim, which is not written here, has them no more."""
    names = list(names)
    leased = [claim.attachments[name]["name"] for name in names if claim.attachments.get(name, {}).get("leased")]
    if leased and book is not None:
        book.release_many(leased)
    for name in names:
        claim.erase(name)                       # last: if its lease stays, so does what names it


# --- all of it ---

def everything(netns: Optional[Netns], claim: Claim, removed: List[str], book: Optional[Any] = None,
               deadline: Optional[Deadline] = None) -> None:
    """Take down all that a claim names, and the claim itself, last. `removed` gets the names of what was there.

    `netns`: where it is; None if that is gone, with all that was in it. `book`: its leases; None: those on disk.
    """
    deadline = deadline or Deadline(TIMEOUT)
    if claim.state != "removing" and claim.lifetime != "process":   # of such a one, nothing stays in any case
        claim.state = "removing"
        claim.write()
    for host_ifname, entry in claim.attachments.items():
        one = claim.process_of(host_ifname) if entry.get("launched") else None
        if one is not None and process(one, deadline):
            removed.append(f"process {one.pid}")
    if netns is not None:
        forwarding.restore(netns, claim, removed)
        removed += links(netns, claim, deadline)
    if book is None and claim.directory is not None:
        book = leases_of(claim)
    if book is not None:
        book.collect(lambda owner: False)
    if claim.directory is not None and (claim.private or netns is None) and os.path.lexists(lease_directory(claim)):
        import shutil                   # here: with its packers it is slow to import

        shutil.rmtree(lease_directory(claim), ignore_errors=True)               # its namespace does not come again
        with suppress(OSError):
            os.rmdir(os.path.dirname(lease_directory(claim)))
    claim.forget()


def lease_directory(claim: Claim) -> str:
    """Where the leases of a network are; they stay when it is down, so that who comes back finds its address."""
    return os.path.join(claim.directory, "leases", f"{claim.bridge}-{claim.key}")


def leases_of(claim: Claim, *, create: bool = False) -> Optional[leases.Leases]:
    """The leases of a network; None if it never had any. `create`: to take from; who has an address without one keeps it."""
    path = lease_directory(claim)
    if not create:
        with kernel.refused(f"leases {path}"):
            try:
                os.stat(path)
            except FileNotFoundError:
                return None
    if create:
        state.usable(os.path.dirname(path))
    spec = declaration.network(claim.declaration)
    fixed = [address.partition("/")[0] for entry in claim.attachments.values() if create and not entry.get("leased")
             for address in entry["addresses"] if any(values.address(address) in own for own in spec.addresses)]
    try:
        return leases.Leases(path, spec.addresses, ranges=spec.ranges, exclude=(*spec.exclude, *fixed))
    except UsageError:
        if not fixed:
            raise
        raise NoFreeAddress(f"{claim.bridge}: every address that it has to give is that of an attachment") from None
