"""Who calls: what of this process and of where it runs stays the same, so that the kernel is asked once.

Ids of its user namespace, when it started, whether /proc knows processes by the numbers that it knows them by. A child of
a fork asks anew, and so does a process that has moved to another namespace. Knows no policy.
"""

from __future__ import annotations

import functools
import os

from nsnet import idmap, kernel
from nsnet.errors import KernelError
from nsnet.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Tuple


class Ids(NamedTuple):
    """A user namespace: what its ids stand for in its parent, and whether setgroups(2) is allowed there."""

    uids: Tuple[idmap.Range, ...]
    gids: Tuple[idmap.Range, ...]
    setgroups: bool


_ids: Dict[str, Ids] = {}               # by namespace: when both maps are written, all of it is final (user_namespaces(7))
_proc: Dict[int, bool] = {}             # by st_dev of /proc


def ids() -> Ids:
    """Of the caller's user namespace."""
    with kernel.refused("user namespace"):
        namespace = os.readlink("/proc/self/ns/user")
    found = _ids.get(namespace)
    if found is None:
        uids, gids, setgroups = (kernel.read_file(f"/proc/self/{name}") for name in ("uid_map", "gid_map", "setgroups"))
        found = Ids(idmap.parse(uids), idmap.parse(gids), setgroups.strip() != "deny")
        if found.uids and found.gids:
            _ids[namespace] = found
    return found


@functools.lru_cache(maxsize=None)
def started() -> Optional[int]:
    """When this process started; see kernel.started()."""
    return kernel.started(os.getpid())


def proc_number(pidfd: int, pid: int) -> int:
    """kernel.proc_pid() of a process that the caller's pid namespace knows by the number `pid`."""
    try:
        mounted = os.stat("/proc").st_dev
    except OSError as error:
        raise KernelError(error.errno, "read /proc") from None
    if mounted not in _proc:
        _proc[mounted] = _has_our_numbers()
    return pid if _proc[mounted] else kernel.proc_pid(pidfd)


def _has_our_numbers() -> bool:
    """Whether /proc was mounted for our pid namespace: of one farther out we have several numbers, of another none."""
    with kernel.refused("pidfd"), kernel.Descriptor.of(os.pidfd_open, os.getpid()) as own:
        for line in kernel.read_file(f"/proc/self/fdinfo/{own.fileno()}").splitlines():
            if line.startswith("NSpid:"):
                return line.split()[1:] == [str(os.getpid())]
    return False


def _forget() -> None:
    started.cache_clear()
    _proc.clear()


os.register_at_fork(after_in_child=_forget)
