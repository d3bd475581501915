"""Network namespaces with a name: the /run/netns convention of ip-netns(8), so that `ip netns` sees ours and we see its.

A pin is a file in /run/netns on which a namespace is bind-mounted; it holds the namespace until it is unpinned, or until the
machine restarts. The directory is a shared mount, so that a pin made in one mount namespace is seen in the others, and one that
is taken away does not live on there. Knows files and mounts; what is in a namespace is netns.py's.

Every path is a descriptor's: nothing is followed, and what lies between a look and its use cannot be exchanged.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress

from nsnet import kernel, values
from nsnet.errors import KernelError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List

DIRECTORY = "/run/netns"            # /var/run/netns of older iproute2 is the same by a symbolic link
_MS_BIND, _MS_REC, _MS_SHARED = 4096, 16384, 1 << 20        # <linux/mount.h>
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK         # it may be a FIFO


def pin(netns_fd: int, name: str, directory: str = DIRECTORY) -> str:
    """Give a network namespace a name; the path. The namespace stays until unpin(), whoever closes what.

    `name`: 1 to 255 bytes of A-Z a-z 0-9 _ . - beginning with a letter or digit. Needs CAP_SYS_ADMIN over the caller's mount
    namespace. Raises KernelError with step "pin": EEXIST for a name that is taken, EPERM without the privilege.
    """
    name = values.pin_name(name)
    with _opened(directory, create=True) as place:
        with kernel.refused("pin", name):
            file = kernel.Descriptor.open(name, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0, dir_fd=place)
        with file:
            try:
                kernel.mount(f"/proc/self/fd/{netns_fd}", f"/proc/self/fd/{file.fileno()}", _MS_BIND, "pin")
            except BaseException as error:
                if not isinstance(error, KernelError):      # an interrupt may have come behind the mount
                    with suppress(KernelError):
                        kernel.umount(f"/proc/self/fd/{place}/{name}", "pin")
                os.unlink(name, dir_fd=place)
                raise
    return f"{directory}/{name}"


def unpin(name: str, *, missing_ok: bool = False, directory: str = DIRECTORY) -> None:
    """Take the name away. The namespace ends when nothing else holds it.

    Raises KernelError with step "unpin": ENOENT unless `missing_ok`; EINVAL if there is something else under that name, which is
    left alone (a file that a killed pin() left behind is removed).
    """
    name = values.pin_name(name)
    try:
        with _opened(directory, create=False) as place:
            with kernel.refused("unpin", name), kernel.Descriptor.open(name, _LOOK, dir_fd=place) as file:
                pinned = kernel.is_namespace(file.fileno(), "net")
                found = os.fstat(file.fileno())
            if pinned:
                kernel.umount(f"/proc/self/fd/{place}/{name}", "unpin")
            elif found.st_size or not stat.S_ISREG(found.st_mode):
                raise KernelError(errno.EINVAL, "unpin", f"{directory}/{name} is no network namespace")
            with kernel.refused("unpin"):
                os.unlink(name, dir_fd=place)
    except KernelError as error:
        if error.errno != errno.ENOENT or not missing_ok:
            raise


def pinned(directory: str = DIRECTORY) -> List[str]:
    """The names of all pins, sorted; what else is in the directory is left out."""
    try:
        with _opened(directory, create=False) as place:
            return sorted(name for name in os.listdir(place) if _is_pin(place, name))
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return []


def _is_pin(place: int, name: str) -> bool:
    try:
        with kernel.Descriptor.open(name, _LOOK, dir_fd=place) as file:
            return kernel.is_namespace(file.fileno(), "net")
    except OSError:
        return False


@contextmanager
def _opened(directory: str, create: bool) -> Iterator[int]:
    """The directory, locked as `ip netns` locks it, and a shared mount of its own if it is ours to make."""
    with kernel.refused("pin" if create else "unpin"):
        if create:
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                pass
        place = kernel.Descriptor.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with place:
        found = os.fstat(place.fileno())
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise UsageError(f"{directory}: expected a directory that only its owner, root or the caller, can write to")
        with kernel.refused("pin" if create else "unpin"):
            fcntl.flock(place.fileno(), fcntl.LOCK_EX)
        with _shared(directory, place) if create else _again(directory, place) as mounted:
            yield mounted.fileno()


def _shared(directory: str, place: kernel.Descriptor) -> kernel.Descriptor:
    """The directory as a mount point whose mounts go to and come from the other mount namespaces (iproute2 does the same)."""
    mounted = _again(directory, place)          # somebody may have mounted it while we waited for the lock
    try:
        _propagate(mounted)
        return mounted
    except KernelError as error:
        path = f"/proc/self/fd/{mounted.fileno()}"
        if error.errno != errno.EINVAL:         # EINVAL: it is no mount point yet
            raise
        kernel.mount(path, path, _MS_BIND | _MS_REC, "pin")
    mounted = _again(directory, place)          # what we have open lies under the new mount
    _propagate(mounted)
    return mounted


def _propagate(mounted: kernel.Descriptor) -> None:
    kernel.mount("", f"/proc/self/fd/{mounted.fileno()}", _MS_SHARED | _MS_REC, "pin")


def _again(directory: str, place: kernel.Descriptor) -> kernel.Descriptor:
    """The directory as it is seen now; the lock is the inode's, whatever is mounted where."""
    with kernel.refused("pin"):
        found = kernel.Descriptor.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if not os.path.samestat(os.fstat(found.fileno()), os.fstat(place.fileno())):
        raise KernelError(errno.ESTALE, "pin", f"{directory} was exchanged meanwhile")
    return found
