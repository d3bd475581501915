"""Collection of what nobody owns any more: owners that were killed, machines that were restarted, processes that ended.

Goes through the claims whose lock is free, and then through the links whose own alias says whose they are. Safe to
repeat, to run twice at once, and to kill: a claim goes last, after all that it names.

Knows who lives and where a network namespace is; how things are removed is removal.py's.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

from nsnet import kernel, ownership, removal, state
from nsnet.errors import KernelError, NsnetError, UsageError
from nsnet.named import NamedTuple
from nsnet.netns import Netns
from nsnet.ownership import Claim, Mark
from nsnet.removal import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Sequence, Set


class Collected(NamedTuple):
    """What `collect` did. `removed`: names of links and processes that are gone now. `alive`: networks whose owner lives.
    `kept`: those that were declared to stay. `elsewhere`: of another network namespace, with a place where it is found.
    `failed`: what could not be removed, and why.
    """

    removed: List[str]
    alive: List[str]
    kept: List[str]
    elsewhere: List[str]
    failed: List[str]


def collect(netns: Netns, *, gone: Sequence[str] = ()) -> Collected:
    """Remove what networks without a living owner left in `netns`. Safe to repeat, to run twice at once, and to kill.

    `gone`: keys of claims whose network namespace the caller knows to be gone, where that cannot be found out from here:
    what they launched is killed, and they are forgotten. Raises UsageError for a key that no claim has.
    """
    result = Collected([], [], [], [], [])
    directory = state.directory()
    there = ownership.keys(directory)
    for key in gone:
        if key not in there:
            raise UsageError(f"gone {key!r}: expected the key of a claim, of {', '.join(there) or 'none'}")
    for key in there:
        _with_lock(netns, directory, key, result, key in gone)
    _collect_leases(directory, result)
    _collect_marks(netns, result)
    return result


def _with_lock(netns: Netns, directory: str, key: str, result: Collected, gone: bool) -> None:
    try:
        held = ownership.lock(directory, key)
        if held is None:
            result.alive.append(_describe(directory, key))
            return
        with held:
            _collect_one(netns, directory, key, result, gone)
    except KernelError as error:
        result.failed.append(f"{os.path.join(directory, key)}.lock: {error}")


def _describe(directory: str, key: str) -> str:
    try:
        return str(Claim.load(directory, key))
    except (OSError, ValueError, KernelError):
        return key


def _collect_one(netns: Netns, directory: str, key: str, result: Collected, gone: bool) -> None:
    try:
        claim = Claim.load(directory, key)
    except FileNotFoundError:           # killed before the claim was on disk: nothing was created yet
        ownership.forget(directory, key)
        return
    except (OSError, ValueError) as error:
        result.failed.append(f"{os.path.join(directory, key)}.json: {error}")
        return
    try:
        if not claim.is_of_this_boot():
            ownership.forget(directory, key)
        elif claim.lifetime == "process" and claim.owner_process().runs():      # somebody removed its lock file
            result.alive.append(str(claim))
        elif gone and claim.netns != netns.identity:
            _remove(None, claim, result)
        elif claim.is_kept():
            _collect_parts(netns, claim, result)
        else:
            _collect_all(netns, claim, result)
    except (NsnetError, OSError) as error:
        result.failed.append(f"{claim}: {error}")


def _collect_all(netns: Netns, claim: Claim, result: Collected) -> None:
    launched = [claim.process_of(name) for name, entry in claim.attachments.items() if entry.get("launched")]
    if claim.netns == netns.identity:
        place: Optional[Netns] = netns
    elif _is_elsewhere(claim, result):
        return
    else:
        place = None
    if any(process.runs() is None for process in launched if process is not None):
        result.elsewhere.append(f"{claim}: its processes are in {claim.pid_namespace}")
        return
    _remove(place, claim, result)


def _remove(place: Optional[Netns], claim: Claim, result: Collected) -> None:
    removal.everything(place, claim, result.removed)
    ownership.forget(claim.directory, claim.key)


def _collect_parts(netns: Netns, claim: Claim, result: Collected) -> None:
    """Of a network that stays: attachments whose process or namespace is gone, or that came to no end."""
    if claim.netns != netns.identity:
        if _is_elsewhere(claim, result):
            return
        _remove(None, claim, result)
        return
    dead = [name for name in claim.attachments if _is_dead(netns, claim, name)]
    deadline = Deadline(removal.TIMEOUT)
    for name in dead:
        process = claim.process_of(name) if claim.attachments[name].get("launched") else None
        if process is not None and removal.process(process, deadline):
            result.removed.append(f"process {process.pid}")
    if dead:
        places = [claim.attachments[name].get("index") or name for name in dead]
        there = removal.several(netns, claim, places, deadline)
        result.removed.extend(name for name, deleted in zip(dead, there) if deleted)
        removal.drop(claim, dead, removal.leases_of(claim))
        claim.write()
    if claim.lifetime == "attachments" and not claim.attachments and claim.owner_process().runs() is False:
        _remove(netns, claim, result)
    else:
        result.kept.append(str(claim))


def _is_dead(netns: Netns, claim: Claim, name: str) -> bool:
    entry = claim.attachments[name]
    if not entry.get("ready"):
        return True
    process = claim.process_of(name)
    if process is not None:
        return process.runs() is False
    return removal.find(netns, claim, entry.get("index") or name) is None       # the kernel took it, with its namespace


# --- where a network namespace is ---

def _is_elsewhere(claim: Claim, result: Collected) -> bool:
    """Whether it may still be there, in a network namespace that is not this one; then that is said."""
    place = find_netns(claim.inode)
    if place is None and (claim.private or _sees_all()) and not _has_an_end(claim):
        return False                    # a private host ends with its owner: nothing but the owner's sockets held it
    result.elsewhere.append(f"{claim}: {place or claim.netns}")
    return True


def _has_an_end(claim: Claim) -> bool:
    """Whether a process of it still has its end of a veth pair: then the other end, and its namespace, are still there,
    though only somebody's socket may hold that."""
    for host_ifname, entry in claim.attachments.items():
        process = claim.process_of(host_ifname)
        if process is not None and process.runs():
            try:
                with Netns.of_pid(process.pid) as there:
                    if there.link(entry["ifname"]).kind == "veth":
                        return True
            except NsnetError:
                continue
    return False


def find_netns(inode: int) -> Optional[str]:
    """The path of a network namespace that a process is in, has a descriptor of, or that has a name; None for none."""
    for pid in _pids():
        for path in (f"/proc/{pid}/ns/net", *_descriptors(pid)):
            try:
                if _inode(path) == inode:
                    return path
            except OSError:
                continue
    seen: Set[str] = set()
    for pid in _pids():
        try:
            place = os.readlink(f"/proc/{pid}/ns/mnt")
            if place not in seen:
                seen.add(place)
                path = _mount_of(kernel.read_file(f"/proc/{pid}/mountinfo"), inode)
                if path is not None:
                    return f"/proc/{pid}/root{path}"
        except (OSError, KernelError):
            continue
    return None


def _pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit())


def _descriptors(pid: str) -> Iterator[str]:
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            yield f"/proc/{pid}/fd/{number}"
    except OSError:
        return


def _inode(path: str) -> Optional[int]:
    """Of a link of /proc that is a network namespace."""
    import re                           # here: few come this far

    found = re.fullmatch(r"net:\[([0-9]+)\]", os.readlink(path))
    return int(found.group(1)) if found else None


def _mount_of(mountinfo: str, inode: int) -> Optional[str]:
    """Where a network namespace is mounted (proc(5), mountinfo): an octal escape stands for a blank."""
    import re

    for line in mountinfo.splitlines():
        fields = line.split()
        if fields[3] == f"net:[{inode}]":
            return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), fields[4])
    return None


def _sees_all() -> bool:
    """Whether /proc shows every process of this machine, and lets us look at its namespaces: else it may be there."""
    try:
        return (os.geteuid() == 0 and os.readlink("/proc/1/ns/pid") == state.pid_namespace() == state.FIRST_PID_NAMESPACE
                and _inode("/proc/1/ns/net") is not None)
    except OSError:
        return False


# --- what is not in a claim ---

def _collect_leases(directory: str, result: Collected) -> None:
    """Those that were taken for an attachment which then was not claimed any more, or not yet."""
    place = os.path.join(directory, "leases")
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return
    except OSError as error:
        result.failed.append(f"{place}: {error.strerror}")
        return
    for name in names:
        key = name.rpartition("-")[2]
        try:
            held = ownership.lock(directory, key)
            if held is None:
                continue
            with held:
                _collect_book(directory, key, os.path.join(place, name))
        except (NsnetError, OSError) as error:
            result.failed.append(f"{os.path.join(place, name)}: {error}")


def _collect_book(directory: str, key: str, path: str) -> None:
    try:
        claim: Optional[Claim] = Claim.load(directory, key)
    except FileNotFoundError:
        claim = None
    except ValueError:
        return                          # told already
    held: Set[str] = set() if claim is None else {entry["name"] for entry in claim.attachments.values()}
    from nsnet.leases import disk       # here: where no network has leases, nobody reads any

    there = disk.read_records(path)
    if any(lease.owner not in held for lease in there):
        disk.Leases(path, [there[0].address]).collect(held.__contains__)
    if claim is None:
        ownership.forget(directory, key)


def _collect_marks(netns: Netns, result: Collected) -> None:
    """Links of networks that keep nothing on disk, and whose owner's socket is gone."""
    found: Dict[Mark, List[Any]] = {}
    for link in netns.links(stats=False):
        mark = Mark.parse(link.ifalias)
        if mark is not None and mark.group == link.group:
            found.setdefault(mark._replace(process=None), []).append(link)
    for mark, links in found.items():
        try:
            held = ownership.hold_name(netns, mark)
            if held is None and ownership.is_held_by_us(netns, mark):
                result.alive.append(f"{', '.join(link.ifname for link in links)} ({mark.id})")
                continue
            with held or nullcontext():
                _collect_marked(netns, mark, result)
        except (NsnetError, OSError) as error:
            result.failed.append(f"{mark}: {error}")


def _is_trusted(netns: Netns) -> bool:
    """Whether who may write aliases there may do all that we may, so that the processes that they name may be killed: root
    of a container may not. A private host is ours, whatever user namespace it took to make it."""
    owner = None if netns.private else kernel.owner_userns(netns.fd)
    if owner is None:                   # or it lies above us
        return True
    with owner:
        return os.path.samestat(os.fstat(owner.fileno()), os.stat("/proc/thread-self/ns/user"))


def _collect_marked(netns: Netns, mark: Mark, result: Collected) -> None:
    deadline = Deadline(removal.TIMEOUT)
    links = [(link, Mark.parse(link.ifalias)) for link in netns.links(stats=False) if link.group == mark.group]
    ours = [(link, own) for link, own in links if own is not None and own._replace(process=None) == mark]
    trusted = _is_trusted(netns)
    for link, own in ours:
        process = own.process
        if process is None:
            continue
        if not trusted:                 # who administers that namespace, but not ours, may have named any process
            result.elsewhere.append(f"{link.ifname} ({mark.id}): its network namespace is another user namespace's")
            return
        if process.runs() is None:
            result.elsewhere.append(f"{link.ifname} ({mark.id}): its process is in {process.pid_namespace}")
            return
        if removal.process(process, deadline):
            result.removed.append(f"process {process.pid}")
    result.removed.extend(removal.marked(netns, [link for link, _ in ours], len(ours) == len(links), deadline))
