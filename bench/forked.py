"""A child in new user and network namespaces, made the way a program makes one that has but os and ctypes.

Imports nothing of nsnet, and next to nothing at all: a fork costs what its parent's memory costs.
"""

import ctypes
import os
import signal
from typing import Optional

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
# Root inside is the caller. To be written after the namespace is there, when the ids are no longer to be had.
MAPS = (("setgroups", "deny"), ("uid_map", f"0 {os.geteuid()} 1"), ("gid_map", f"0 {os.getegid()} 1"))

_LIBC = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """In the child of a fork: new user and network namespaces, and the id maps."""
    if _LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in MAPS:
        fd = os.open("/proc/self/" + name, os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)


class Parked:
    """Such a child, which waits; it ends with its parent, or by `end()`. Raises OSError if it could not be made."""

    def __init__(self) -> None:
        self.pid: Optional[int] = None
        said, saying = os.pipe()
        waiting, self._hold = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._hold)
                enter()
                os.write(saying, b"1")
                os.read(waiting, 1)
            finally:
                os._exit(0)
        os.close(saying)
        os.close(waiting)
        ready = os.read(said, 1)
        os.close(said)
        if not ready:
            self.end()
            raise OSError("a child could not enter new namespaces")

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._hold)
