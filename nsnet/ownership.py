"""What is ours: marks in the kernel, claims on disk, and removal of exactly that.

Every link that nsnet creates carries its network's group from birth and an ifalias from the next message on. Before the
first of them is created, a claim is written and synced to the state directory; the owner holds a lock on it while it
lives, so a claim whose lock is free belongs to nobody any more, and `collect` removes what it names. A link is removed
only if group, mark and claim agree.

The state directory: $NSNET_STATE_DIR, else /run/nsnet for root, else $XDG_RUNTIME_DIR/nsnet, else /tmp/nsnet-UID; mode
0700, owner checked. In it, for each network: ID.lock (held with flock by the owner) and ID.json (the claim).

Knows names, groups and processes; does not know what a network looks like.
"""

import errno
import fcntl
import json
import os
import re
import signal
import stat
from types import MappingProxyType
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Union

from nsnet import idmap, kernel, requests
from nsnet.errors import KernelError, NetlinkError, NoSuchObject, UsageError
from nsnet.netns import Netns
from nsnet.objects import Link

VERSION = 1
_ENTRY = re.compile(r"([0-9a-f]{12})\.(lock|json|tmp)")       # other files in the state directory are not ours
KILL_TIMEOUT = 10.0                 # seconds that a killed process may take to end; then it is reported


def state_directory() -> str:
    """The state directory, made if it is not there. Raises KernelError or UsageError if there is none to be had."""
    chosen = os.environ.get("NSNET_STATE_DIR")
    if chosen:
        return _usable(os.path.abspath(chosen))
    candidates = ["/run/nsnet"] if os.geteuid() == 0 else []
    if os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(os.path.join(os.environ["XDG_RUNTIME_DIR"], "nsnet"))
    maps = idmap.parse(kernel.read_file("/proc/self/uid_map"))     # so that root of a user namespace and its owner agree
    outside = idmap.outside_of(maps, os.geteuid())
    candidates.append(f"/tmp/nsnet-{os.geteuid() if outside is None else outside}")
    problem: Optional[Exception] = None
    for path in candidates:
        try:
            return _usable(path)
        except (KernelError, UsageError) as error:
            problem = error
    raise problem


def _usable(path: str) -> str:
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        seen = os.lstat(path)
    except OSError as error:
        raise KernelError(error.errno, f"state directory {path}") from None
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise UsageError(f"state directory {path!r}: expected a directory of uid {os.geteuid()} that only it may write")
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise KernelError(errno.EACCES, f"state directory {path}")
    return path


def _pid_namespace() -> str:
    with kernel.refused("pid namespace"):
        return os.readlink("/proc/self/ns/pid")


def boot_id() -> str:
    """Changes with every boot (random(4)): what was claimed under another one is gone from the kernel."""
    return kernel.read_file("/proc/sys/kernel/random/boot_id").strip()


def _process(pid: Optional[int]) -> Dict[str, Any]:
    return {} if pid is None else {"pid": pid, "started": kernel.started(pid)}


class Claim:
    """One network's entry in the state directory, locked by this process.

    `id`: 12 hex digits. `group`: of all its links. `mark`: their ifalias. `names`: of all links on the host that were
    meant to exist at any time.
    """

    def __init__(self, bridge: str, netns: Netns, attachments: Mapping[str, Optional[int]] = MappingProxyType({})):
        """`attachments`: {host_ifname: pid or None} of those that are about to be made with the bridge."""
        self.id = os.urandom(6).hex()
        self.group = int.from_bytes(os.urandom(4), "little") % 0x7FFFFFFF + 1
        self.mark = f"nsnet:{self.id}"
        self.bridge = bridge
        self.attachments = {host_ifname: _process(pid) for host_ifname, pid in attachments.items()}
        self.directory = state_directory()
        self._owner = os.getpid()
        self._fixed = {"version": VERSION, "id": self.id, "bridge": bridge, "group": self.group, "mark": self.mark,
                       "netns": netns.identity, "private": netns.private, "boot_id": boot_id(), "owner": self._owner,
                       "pid_namespace": _pid_namespace()}
        self._lock: Optional[kernel.Descriptor] = None

    def take(self) -> None:
        """Lock it and put it on disk. `release` undoes that, however far it came."""
        with kernel.refused(f"journal {self._path('json')}"):
            self._lock = self._take_lock()
            self.write()

    @property
    def is_mine(self) -> bool:
        """Whether this process took it: a fork of the owner owns nothing, though it inherits the lock."""
        return os.getpid() == self._owner

    @property
    def names(self) -> List[str]:
        return [self.bridge, *self.attachments]

    def _path(self, suffix: str) -> str:
        return os.path.join(self.directory, f"{self.id}.{suffix}")

    def _take_lock(self) -> kernel.Descriptor:
        while True:
            lock = kernel.Descriptor.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
            if _is_path_of(lock.fileno(), self._path("lock")):
                return lock
            lock.close()                # a collector saw it before it was locked, and removed it

    def add(self, host_ifname: str, pid: Optional[int] = None) -> None:
        """Claim one more link, and the process at its other end, before either can be forgotten."""
        self.attachments[host_ifname] = _process(pid)
        self.write()

    def drop(self, host_ifname: str) -> None:
        """The link is gone."""
        if self.attachments.pop(host_ifname, None) is not None:
            self.write()

    def write(self) -> None:
        """Put the claim on disk, synced: after a crash the old or the new one is there, whole."""
        temporary = self._path("tmp")
        content = json.dumps({**self._fixed, "attachments": self.attachments}).encode()
        with kernel.refused(f"journal {self._path('json')}"):
            with kernel.Descriptor.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600) as file:
                if os.write(file.fileno(), content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            os.rename(temporary, self._path("json"))
            _sync_directory(self.directory)

    def release(self) -> None:
        """Everything it named is gone: remove the entry, the lock last."""
        _forget(self.directory, self.id)
        if self._lock is not None:
            self._lock.close()


def _sync_directory(path: str) -> None:
    with kernel.Descriptor.open(path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        os.fsync(directory.fileno())


def _is_path_of(fd: int, path: str) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _forget(directory: str, name: str) -> None:
    for suffix in ("tmp", "json", "lock"):
        try:
            os.unlink(os.path.join(directory, f"{name}.{suffix}"))
        except FileNotFoundError:
            pass


# --- removing links ---

def is_ours(link: Link, group: int, mark: str, names: Iterable[str]) -> bool:
    """Whether a link was made under a claim: its group, and its mark or (killed before it was marked) its name."""
    return link.group == group and (link.ifalias == mark or (not link.ifalias and link.ifname in names))


def remove_link(netns: Netns, link: Union[int, str], group: int, mark: str, names: Iterable[str]) -> bool:
    """Delete the link of that index or name if it is there and ours. Returns whether it was."""
    try:
        link = netns.link(link)
    except NoSuchObject:
        return False
    if not is_ours(link, group, mark, names):
        return False
    netns.del_link(link, missing_ok=True)
    return True


def remove_links(netns: Netns, group: int, mark: str, names: Iterable[str]) -> List[str]:
    """Delete all links of a claim; bridges are set down first. Returns the names of those that were there, bridges last.

    One group delete, which waits once for the kernel, unless somebody else's link is in the group: then one by one.
    Raises KernelError (EBUSY), after removing the others, for a link that has our group and a claimed name but somebody
    else's alias: it was ours, and whose it is now is for a person to say.
    """
    names = set(names)
    members = [link for link in netns.links() if link.group == group]
    ours = sorted((link for link in members if is_ours(link, group, mark, names)), key=lambda link: link.kind == "bridge")
    if ours:
        with netns.batch() as net:
            for link in ours:
                if link.kind == "bridge":
                    net.add(requests.set_link(link.index, link.ifname, up=False, tolerate=requests.GONE))
            if len(ours) == len(members):
                net.del_group(group)
            else:
                for link in ours:
                    net.del_link(link, missing_ok=True)
    doubtful = [link for link in members if link not in ours and link.ifname in names]
    if doubtful:
        raise KernelError(errno.EBUSY, f"delete {doubtful[0].ifname}",
                          f"its alias is {doubtful[0].ifalias!r}, expected {mark!r}; delete it by hand if it is not needed")
    return [link.ifname for link in ours]


# --- collecting what nobody owns ---

class Collected(NamedTuple):
    """What `collect` found. `removed`: names of links and processes that are gone now. `alive`: networks whose owner lives.
    `elsewhere`: abandoned networks of other network namespaces, to be collected there. `failed`: what could not be removed.
    """

    removed: List[str]
    alive: List[str]
    elsewhere: List[str]
    failed: List[str]


def collect(netns: Netns) -> Collected:
    """Remove what networks without a living owner left in `netns`. Safe to repeat, to run twice at once, and to kill."""
    result = Collected([], [], [], [])
    directory = state_directory()
    with kernel.refused(f"list {directory}"):
        entries = [_ENTRY.fullmatch(file) for file in os.listdir(directory)]
    for name in sorted({entry.group(1) for entry in entries if entry}):
        path = os.path.join(directory, f"{name}.lock")
        try:
            with kernel.Descriptor.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600) as lock:
                try:
                    fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    result.alive.append(_describe(directory, name))
                    continue
                if _is_path_of(lock.fileno(), path):
                    _collect_one(netns, directory, name, result)
        except OSError as error:
            result.failed.append(f"{path}: {error.strerror or error}")
    return result


def _describe(directory: str, name: str) -> str:
    try:
        return f"{_load(directory, name)['bridge']} ({name})"
    except (OSError, ValueError, KeyError):
        return name


def _load(directory: str, name: str) -> Dict[str, Any]:
    with open(os.path.join(directory, f"{name}.json"), "rb") as file:
        content = json.loads(file.read(1 << 24))
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"not a claim of version {VERSION}")
    group = content["group"]
    if content["mark"] != f"nsnet:{name}" or not isinstance(group, int) or not 1 <= group <= 0x7FFFFFFF:
        raise ValueError("its mark or group is none that nsnet gives")
    return content


def _collect_one(netns: Netns, directory: str, name: str, result: Collected) -> None:
    try:
        claim = _load(directory, name)
        attachments = claim["attachments"]
        if claim["boot_id"] == boot_id():
            if any("pid" in entry for entry in attachments.values()) and claim["pid_namespace"] != _pid_namespace():
                result.elsewhere.append(f"{claim['bridge']} ({name}, {claim['pid_namespace']})")
                return
            for entry in attachments.values():
                _kill(entry, result)
            # A private host ends with its owner, since nothing but the owner's sockets held it.
            if not claim["private"]:
                if claim["netns"] != netns.identity:
                    result.elsewhere.append(f"{claim['bridge']} ({name}, {claim['netns']})")
                    return
                result.removed.extend(remove_links(netns, claim["group"], claim["mark"], [claim["bridge"], *attachments]))
    except FileNotFoundError:
        pass                            # killed before the claim was on disk: nothing was created yet
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        result.failed.append(f"{os.path.join(directory, name)}.json: {error}")
        return
    except (NetlinkError, KernelError, TimeoutError) as error:
        result.failed.append(f"{_describe(directory, name)}: {error}")
        return
    _forget(directory, name)


def _kill(entry: Dict[str, Any], result: Collected) -> None:
    """End a process that outlived its owner, if it is still the one that was claimed."""
    pid, when = entry.get("pid"), entry.get("started")
    if pid is None or when is None:
        return
    try:
        pidfd = kernel.Descriptor.of(os.pidfd_open, pid)
    except OSError:
        return
    with pidfd:
        if kernel.proc_pid(pidfd.fileno()) != pid:
            raise KernelError(errno.ESRCH, f"process {pid}", "/proc is of another pid namespace")
        if kernel.started(pid) != when:
            return
        kernel.signal_process(pidfd.fileno(), signal.SIGKILL)
        if not kernel.has_ended(pidfd.fileno(), KILL_TIMEOUT):
            raise TimeoutError(f"process {pid} has not ended {KILL_TIMEOUT} s after SIGKILL")
        result.removed.append(f"process {pid}")
