"""The state directory: what nsnet keeps on disk between processes, whole after a crash, and the locks around it.

$NSNET_STATE_DIR, else /run/nsnet for root, else $XDG_RUNTIME_DIR/nsnet, else /tmp/nsnet-UID; mode 0700, owner checked.

Every file is written beside its place, synced, and renamed: after a crash the old or the new one is there, never half
of one. A lock is flock(2) on a file of its own, which the kernel gives up when its holder dies. Knows files; does not
know what is in them.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
import time

from nsnet import caller, idmap, kernel
from nsnet.errors import KernelError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional

FIRST_PID_NAMESPACE = f"pid:[{0xEFFFFFFC}]"         # PROC_PID_INIT_INO, <linux/proc_ns.h>
MOST_BYTES = 1 << 24                # of one file; no honest one comes near
_RETRY = 0.002                      # seconds between looks at a lock that another process holds, growing to the next
_RETRY_MOST = 0.05


def directory() -> str:
    """The state directory, made if it is not there. Raises KernelError or UsageError if there is none to be had."""
    chosen = os.environ.get("NSNET_STATE_DIR")
    if chosen:
        return usable(os.path.abspath(chosen))
    candidates = ["/run/nsnet"] if os.geteuid() == 0 else []
    if os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(os.path.join(os.environ["XDG_RUNTIME_DIR"], "nsnet"))
    outside = idmap.outside_of(caller.ids().uids, os.geteuid())     # so that root of a user namespace and its owner agree
    candidates.append(f"/tmp/nsnet-{os.geteuid() if outside is None else outside}")
    problem: Optional[Exception] = None
    for path in candidates:
        try:
            return usable(path)
        except (KernelError, UsageError) as error:
            problem = error
    raise problem


def usable(path: str) -> str:
    """The path of a directory that is ours alone, made if it is not there."""
    try:
        seen = _lstat(path)
        if seen is None or not stat.S_ISDIR(seen.st_mode):
            os.makedirs(path, 0o700, exist_ok=True)
            seen = os.lstat(path)
    except OSError as error:
        raise KernelError(error.errno, f"state directory {path}") from None
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise UsageError(f"state directory {path!r}: expected a directory of uid {os.geteuid()} that only it may write")
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise KernelError(errno.EACCES, f"state directory {path}")
    return path


def _lstat(path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


@functools.lru_cache(maxsize=None)
def boot_id() -> str:
    """Changes with every boot (random(4)): what was written under another one is gone from the kernel."""
    return kernel.read_file("/proc/sys/kernel/random/boot_id").strip()


@functools.lru_cache(maxsize=None)
def machine_id() -> str:
    """The same on every boot (machine-id(5)), "" where there is none."""
    try:
        return kernel.read_file("/etc/machine-id").strip()
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return ""
        raise                           # what is derived from it would not be the same this time


def pid_namespace() -> str:
    """Names the caller's pid namespace: in another one a process has another number."""
    with kernel.refused("pid namespace"):
        return os.readlink("/proc/self/ns/pid")


def pid_namespace_lives(name: str) -> bool:
    """Whether another pid namespace than the caller's may still be there. One that has ended took its processes with it;
    its first may still wait to be collected."""
    if os.geteuid() != 0 or pid_namespace() != FIRST_PID_NAMESPACE:
        return True                     # from here not all are seen
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == name and kernel.runs(int(pid), kernel.started(int(pid))):
                return True
        except OSError:
            continue
    return False


# --- files ---

def read(path: str) -> bytes:
    """A whole file. Raises FileNotFoundError, OSError, and ValueError for one that is too long."""
    with kernel.Descriptor.open(path, os.O_RDONLY | os.O_NOFOLLOW) as file:
        with open(file.fileno(), "rb", closefd=False) as stream:
            content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    return content


def write(path: str, content: bytes, temporary: str) -> None:
    """Put a file in its place, synced; `temporary`: a path in the same directory that nobody else writes. Raises OSError."""
    write_beside({temporary: content})
    os.rename(temporary, path)
    sync_directory(os.path.dirname(path))


def write_beside(contents: Mapping[str, bytes]) -> None:
    """New files, by their paths, synced, but not in their places yet. Raises OSError; then some may be there."""
    several = len(contents) > 1
    for path, content in contents.items():
        with kernel.Descriptor.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600) as file:
            if os.write(file.fileno(), content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if several:                 # all are on their way before the first is waited for: one commit takes them
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                os.fsync(file.fileno())
    for path in contents if several else ():
        with kernel.Descriptor.open(path, os.O_WRONLY | os.O_NOFOLLOW) as file:
            os.fsync(file.fileno())


def sync_directory(path: str) -> None:
    """Make what was renamed, linked or removed in a directory last."""
    with kernel.Descriptor.open(path, os.O_RDONLY | os.O_DIRECTORY) as held:
        os.fsync(held.fileno())


def remove(path: str) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# --- locks ---

def lock(path: str, timeout: Optional[float] = 0, pause_most: float = _RETRY_MOST) -> Optional[kernel.Descriptor]:
    """Hold a lock file, made if it is not there; None if another holds it `timeout` seconds long (None: as it takes).

    The descriptor is the lock: it ends with it, or with the process and all of its forks. Who removes the file does so
    while it holds the lock; a waiter finds out, and makes a new one. Two descriptors of one process exclude each other
    too. `pause_most`: seconds between two looks at it, at most; where it is held for a moment, but by many in turn, who
    looks seldom never gets it. Raises OSError.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _RETRY
    while True:
        held = kernel.Descriptor.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(held.fileno(), fcntl.LOCK_EX | (0 if deadline is None else fcntl.LOCK_NB))
                    break
                except BlockingIOError:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        held.close()
                        return None
                    time.sleep(min(pause, left))        # flock(2) has no time limit
                    pause = min(pause * 2, pause_most)
            if _is_path_of(held.fileno(), path):
                return held
        except BaseException:
            held.close()
            raise
        held.close()                    # a collector saw it before it was locked, and removed it


def _is_path_of(fd: int, path: str) -> bool:
    there, here = _lstat(path), os.fstat(fd)
    return there is not None and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
