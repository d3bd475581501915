"""What is ours: marks in the kernel, and claims on disk that say what they are of.

Every link that nsnet creates carries its network's group from birth and an ifalias from the next message on. Before the
first of them is created a claim is written and synced to the state directory. A link is removed only if group, mark
and claim agree: a group, a name, an alias or a prefix alone is anybody's.

In the state directory there are, for each bridge of a network namespace, KEY.json (the claim) and KEY.lock, where KEY is
made of both names. Whoever changes anything of a network holds the lock; the owner of one that lives no longer than a
process holds it as long as the network is up, so that a lock that is free says that nobody owns it any more.

A network that keeps nothing on disk has its claim in its links' aliases (Mark), and holds, in its network namespace, an
abstract unix socket with the name of its mark: the kernel gives that up with the process.

Knows names, groups and processes; does not know what a network looks like, and removes nothing.
"""

from __future__ import annotations

import errno
import os
import struct

from nsnet import caller, declaration, kernel, state
from nsnet.digest import sha256
from nsnet.errors import KernelError, UsageError
from nsnet.named import NamedTuple
from nsnet.netns import Netns
from nsnet.objects import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

VERSION = 2
SHARED = ("declared", "attachments")        # lifetimes of networks that all processes with a state directory share
STATES = ("building", "up", "removing")
_ENTRY = r"([0-9a-f]{12})\.(lock|json|tmp)"       # other files in the state directory are not ours
LOCK_TIMEOUT = 30.0                 # seconds that another process may work on a network before we say so


# --- marks ---

def random_group() -> int:
    """A link group that hopefully nobody else has; whether that is so is looked at before a delete."""
    return int.from_bytes(os.urandom(4), "little") % 0x7FFFFFFF + 1


class Process(NamedTuple):
    """One that is named by its number and by when it started: numbers come again. `pid_namespace`: whose number."""

    pid: int
    started: Optional[int]
    pid_namespace: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        return cls(pid, kernel.started(pid), state.pid_namespace())

    def runs(self) -> Optional[bool]:
        """Whether it still runs; None if it is of another pid namespace, where we cannot look."""
        if self.pid_namespace != state.pid_namespace():
            return None if state.pid_namespace_lives(self.pid_namespace) else False
        return self.started is not None and kernel.runs(self.pid, self.started)


class Mark(NamedTuple):
    """The ifalias of a link of ours.

    "nsnet:ID" for one with a claim on disk; without, "nsnet:ID:GROUP" for the bridge, and with the process at the other
    end "nsnet:ID:GROUP:PID:STARTED:PIDNS" for a veth.
    """

    id: str
    group: int = 0
    process: Optional[Process] = None

    def __str__(self) -> str:
        text = f"nsnet:{self.id}" + (f":{self.group}" if self.group else "")
        if self.process is not None:
            text += f":{self.process.pid}:{self.process.started or 0}:{self.process.pid_namespace}"
        return text

    @classmethod
    def parse(cls, ifalias: Optional[str]) -> Optional["Mark"]:
        """Of a link whose network keeps nothing on disk; None for any other alias."""
        import re                       # here: importing what makes a network needs none

        found = re.fullmatch(r"nsnet:([0-9a-f]{12}):([0-9]{1,10})(?::([0-9]{1,10}):([0-9]{1,20}):(pid:\[[0-9]+\]))?",
                             ifalias or "", re.ASCII)
        if found is None:
            return None
        pid, when, namespace = found.group(3, 4, 5)
        return cls(found.group(1), int(found.group(2)),
                   None if pid is None else Process(int(pid), int(when), namespace))


def hold_name(netns: Netns, mark: Mark) -> Optional[socket.socket]:
    """The socket that says, in that namespace, that the owner of `mark` lives; None if another has the name."""
    import socket

    made = netns.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(_name_of(mark))
        made.listen(8)                  # so that whoever connects is told whose it is; nothing is ever accepted
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise KernelError(error.errno, "claim", f"unix socket of nsnet:{mark.id}") from None
    except BaseException:
        made.close()
        raise
    return made


def is_held_by_us(netns: Netns, mark: Mark) -> bool:
    """Whether who has the name of `mark` is of our user (SO_PEERCRED, unix(7)): anybody may take one that is free."""
    import socket

    with netns.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.setblocking(False)
        try:
            made.connect(_name_of(mark))
        except BlockingIOError:         # many have asked; it does not say whose it is
            return True
        except OSError:                 # it is gone, or does not listen as we do
            return False
        _, uid, _ = struct.unpack("3i", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return uid == os.geteuid()


def _name_of(mark: Mark) -> str:
    return f"\0nsnet:{mark.id}"


# --- claims ---

def key_of(netns: str, bridge: str) -> str:
    """The name of a claim's files: there is one network for each bridge of a network namespace."""
    return sha256(f"{netns}\0{bridge}".encode()).hexdigest()[:12]


class Claim:
    """What one network has on the host, and what it was declared to be: its entry in the state directory.

    `lifetime`: one of declaration.LIFETIMES. `state`: "building" until it was up for the first time, "removing" once its
    removal has begun. `group`: of all its links; `doomed`: of those that are about to be removed; `mark`: their ifalias.
    `attachments`: {host_ifname: what is known of it}: "pid", "started" of the process at its other end; "ready": it has
    come to its end; the rest is network/attaching.py's. `forwarding`: what forwarding.py changed, and what it was.
    """

    def __init__(self, content: Mapping[str, Any], directory: Optional[str]):
        self.directory = directory
        self.key, self.bridge, self.netns = content["key"], content["bridge"], content["netns"]
        self.inode, self.private = content["inode"], content["private"]
        self.boot_id, self.pid_namespace = content["boot_id"], content["pid_namespace"]
        self.lifetime, self.state, self.adopted = content["lifetime"], content["state"], content["adopted"]
        self.group, self.doomed, self.mark = content["group"], content["doomed"], content["mark"]
        self.owner: Dict[str, Any] = content["owner"]
        self.declaration: Dict[str, Any] = content["declaration"]
        self.attachments: Dict[str, Dict[str, Any]] = content["attachments"]
        self.forwarding: Dict[str, Dict[str, Any]] = content["forwarding"]
        self._written: Optional[bytes] = None
        self._holders: Optional[Tuple[Dict[str, str], Dict[str, str]]] = None

    @classmethod
    def new(cls, netns: Netns, bridge: str, lifetime: str, declaration: Mapping[str, Any], *, adopted: bool = False,
            directory: Optional[str] = None) -> "Claim":
        """One that is not on disk yet; without a directory it never will be."""
        identity, own = netns.identity, os.getpid()
        mark, group = Mark(os.urandom(6).hex()), random_group()
        return cls({
            "key": key_of(identity, bridge), "bridge": bridge, "netns": identity, "inode": os.fstat(netns.fd).st_ino,
            "private": netns.private, "boot_id": state.boot_id(), "pid_namespace": state.pid_namespace(),
            "lifetime": lifetime, "state": "building", "adopted": adopted, "group": group, "doomed": random_group(),
            "mark": str(mark if directory is not None else mark._replace(group=group)),
            "owner": {"pid": own, "started": caller.started()}, "declaration": dict(declaration),
            "attachments": {}, "forwarding": {}}, directory)

    @classmethod
    def load(cls, directory: str, key: str) -> "Claim":
        """From disk. Raises FileNotFoundError if there is none, ValueError for what makes no sense."""
        import json                     # here, as it takes 3 ms to import, with re

        content = state.read(os.path.join(directory, f"{key}.json"))
        try:
            found = json.loads(content)
            if not isinstance(found, dict) or found.get("version") != VERSION:
                raise ValueError(f"not a claim of version {VERSION}")
            claim = cls(found, directory)
            claim._check(key)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a claim: {error!r}") from None
        claim._written = content
        return claim

    def _check(self, key: str) -> None:
        import re

        if self.key != key or key_of(self.netns, self.bridge) != key:
            raise ValueError("its name is not that of its network")
        if not re.fullmatch(r"nsnet:[0-9a-f]{12}", self.mark, re.ASCII) or not all(
                type(group) is int and 1 <= group <= 0x7FFFFFFF for group in (self.group, self.doomed)):
            raise ValueError("its mark or group is none that nsnet gives")
        if self.lifetime not in declaration.LIFETIMES or self.state not in STATES:
            raise ValueError(f"expected a lifetime of {', '.join(declaration.LIFETIMES)}, a state of {', '.join(STATES)}")
        _typed(vars(self), _CLAIM, "it")
        _typed(self.owner, _OWNER, "its owner")
        for host_ifname, entry in self.attachments.items():
            _typed(entry, _ATTACHMENT, f"attachment {host_ifname!r}")
            if entry.get("pid") is not None and not 0 < entry["pid"] < 2**31:
                raise ValueError(f"pid {entry['pid']!r}: expected a number")
            if not all(isinstance(address, str) for address in entry["addresses"]):
                raise ValueError(f"attachment {host_ifname!r}: expected addresses")
        try:
            declaration.network(self.declaration)
        except UsageError as error:
            raise ValueError(f"its declaration: {error}") from None
        for changed in self.forwarding.values():
            _typed(changed, _FORWARDING, "what it forwards")
            if not all(version in ("4", "6") and value in ("0", "1") for version, value in changed["earlier"].items()):
                raise ValueError("what it forwards makes no sense")

    @property
    def names(self) -> List[str]:
        """Of all links on the host that were meant to exist at any time; an adopted bridge is none of them."""
        return [*([] if self.adopted else [self.bridge]), *self.attachments]

    # --- what is attached ---

    def enter(self, host_ifname: str, entry: Dict[str, Any]) -> None:
        """Know of an attachment, in the place of one of that name."""
        self.erase(host_ifname)
        self.attachments[host_ifname] = entry
        if self._holders is not None:
            self._hold(host_ifname, entry)

    def erase(self, host_ifname: str) -> None:
        """Know of it no more."""
        entry = self.attachments.pop(host_ifname, None)
        if entry is not None and self._holders is not None:
            names, addresses = self._holders
            names.pop(entry["name"], None)
            for address in entry["addresses"]:
                addresses.pop(address, None)

    def holder_of_name(self, name: str) -> Optional[str]:
        """The host's end of the attachment of that name; None if there is none."""
        return self._lookup()[0].get(name)

    def holder_of(self, address: str) -> Optional[str]:
        """The host's end of the attachment that has an address, which is written with its prefix."""
        return self._lookup()[1].get(address)

    def _lookup(self) -> Tuple[Dict[str, str], Dict[str, str]]:
        if self._holders is None:
            self._holders = {}, {}
            for host_ifname, entry in self.attachments.items():
                self._hold(host_ifname, entry)
        return self._holders

    def _hold(self, host_ifname: str, entry: Mapping[str, Any]) -> None:
        names, addresses = self._holders
        names[entry["name"]] = host_ifname
        for address in entry["addresses"]:
            addresses[address] = host_ifname

    # --- whose a link is ---

    @property
    def groups(self) -> Tuple[int, int]:
        return self.group, self.doomed

    def is_of_this_boot(self) -> bool:
        return self.boot_id == state.boot_id()

    def is_kept(self) -> bool:
        """Whether it stays, though nobody has its lock: until somebody takes it down."""
        return self.lifetime in SHARED and self.state == "up"

    def owner_process(self) -> Process:
        return Process(self.owner["pid"], self.owner["started"], self.pid_namespace)

    def process_of(self, host_ifname: str) -> Optional[Process]:
        """The process at the other end of an attachment, if it is known."""
        entry = self.attachments.get(host_ifname, {})
        return None if entry.get("pid") is None else Process(entry["pid"], entry.get("started"), self.pid_namespace)

    def mark_of(self, host_ifname: Optional[str] = None) -> str:
        """The ifalias for a link of it."""
        if self.directory is not None or host_ifname is None:
            return self.mark
        launched = self.attachments[host_ifname].get("launched")
        return str(Mark.parse(self.mark)._replace(process=self.process_of(host_ifname) if launched else None))

    def is_ours(self, link: Link) -> bool:
        """Whether a link was made under this claim: its group, and its mark or (killed before it was marked) its name."""
        return link.group in self.groups and (self._has_mark(link) or (not link.ifalias and link.ifname in self.names))

    def _has_mark(self, link: Link) -> bool:
        alias = link.ifalias or ""
        return alias == self.mark or (self.directory is None and alias.startswith(f"{self.mark}:"))

    def content(self) -> Dict[str, Any]:
        """What is on disk."""
        return {"version": VERSION, "key": self.key, "bridge": self.bridge, "netns": self.netns, "inode": self.inode,
                "private": self.private, "boot_id": self.boot_id, "pid_namespace": self.pid_namespace,
                "lifetime": self.lifetime, "state": self.state, "adopted": self.adopted, "group": self.group,
                "doomed": self.doomed, "mark": self.mark, "owner": self.owner, "declaration": self.declaration,
                "attachments": self.attachments, "forwarding": self.forwarding}

    def write(self) -> None:
        """Put it on disk, synced, unless it is there as it is. After a crash the old or the new one is there, whole."""
        import json

        if self.directory is None:
            return
        content = json.dumps(self.content()).encode()
        if content == self._written:
            return
        path = os.path.join(self.directory, f"{self.key}.json")
        self._written = None                # if it fails, nobody knows which of them is there
        with kernel.refused(f"journal {path}"):
            state.write(path, content, os.path.join(self.directory, f"{self.key}.tmp"))
        self._written = content

    def forget(self) -> None:
        """Everything that it named is gone: remove the entry. The caller keeps its lock, and calls forget() at its end."""
        self._written = None
        if self.directory is not None:
            _remove(self.directory, self.key, "tmp", "json")

    def __str__(self) -> str:
        return f"{self.bridge} ({self.key})"


# What a claim is made of. Who removes things by it must not stumble half way.
_NONE = type(None)
_CLAIM = {"inode": (int,), "private": (bool,), "boot_id": (str,), "pid_namespace": (str,), "adopted": (bool,),
          "owner": (dict,), "declaration": (dict,), "attachments": (dict,), "forwarding": (dict,)}
_OWNER = {"pid": (int,), "started": (int,)}
_ATTACHMENT = {"id": (str,), "name": (str,), "ifname": (str,), "addresses": (list,), "spec": (dict,), "leased": (bool,),
               "declared": (dict, _NONE), "launched": (bool,), "ready": (bool,), "pid": (int, _NONE),
               "started": (int, _NONE), "index": (int, _NONE)}
_FORWARDING = {"index": (int,), "earlier": (dict,)}


def _typed(given: Any, types: Mapping[str, Tuple[type, ...]], what: str) -> None:
    """Exactly these, a bool is no int. Raises ValueError."""
    if type(given) is not dict:
        raise ValueError(f"{what}: expected an object")
    for name, kinds in types.items():
        if type(given.get(name)) not in kinds:
            raise ValueError(f"{what}: {name} is {given.get(name)!r}")


def load(directory: str, key: str) -> Optional[Claim]:
    """The claim of that key; None if there is none. Raises KernelError for one that makes no sense."""
    try:
        return Claim.load(directory, key)
    except FileNotFoundError:
        return None
    except KernelError:
        raise
    except OSError as error:
        raise KernelError(error.errno, f"journal {os.path.join(directory, key)}.json") from None
    except ValueError as error:
        raise KernelError(errno.EINVAL, f"journal {os.path.join(directory, key)}.json",
                          f"{error}; remove it, if nothing of that network is needed") from None


def forget(directory: str, key: str) -> None:
    """Remove what is left of a claim; the lock last, which the caller holds, and lets go now: it excludes nobody any more."""
    _remove(directory, key, "tmp", "json", "lock")


def _remove(directory: str, key: str, *suffixes: str) -> None:
    for suffix in suffixes:
        state.remove(os.path.join(directory, f"{key}.{suffix}"))


def keys(directory: str) -> List[str]:
    """Of all claims in a state directory, those that are locked before they are written among them."""
    import re

    with kernel.refused(f"list {directory}"):
        return sorted({entry.group(1) for entry in map(re.compile(_ENTRY).fullmatch, os.listdir(directory)) if entry})


def claims(directory: str) -> Iterable[Claim]:
    """All that can be read, as they are now: nobody's lock is asked for. gc says more of the others."""
    for key in keys(directory):
        try:
            yield Claim.load(directory, key)
        except (OSError, ValueError, KernelError):
            continue


def lock(directory: str, key: str, timeout: Optional[float] = 0) -> Optional[kernel.Descriptor]:
    """The right to change a network; None if another has it for `timeout` seconds."""
    path = os.path.join(directory, f"{key}.lock")
    with kernel.refused(f"lock {path}"):
        return state.lock(path, timeout)
