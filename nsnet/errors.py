"""The errors that nsnet raises, and which of them an errno from the kernel becomes.

Knows the hierarchy and how an error reads in one line. Imports nothing of the package and asks the kernel nothing.
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence


class NsnetError(Exception):
    """The base of everything that nsnet raises on purpose.

    `where`: of which declared attachment it is, "web0: site", where several could be meant; else None.
    """

    where: Optional[str] = None


class UsageError(NsnetError, ValueError):
    """A value that cannot be meant: said before any system call, naming the value and what was expected.

    `attribute`: the uapi constant of the attribute that it was for, where that is known.
    """

    attribute: Optional[str] = None

    def blame(self, attribute: str) -> None:
        """Name the attribute in the text as well."""
        self.attribute = attribute
        self.args = (f"{attribute} {self.args[0]}",)


class ProtocolError(NsnetError):
    """Bytes that are not the netlink messages they claim to be."""


class KernelError(NsnetError, OSError):
    """The kernel refused.

    `errno`: its number (errno(3)). `step`: what was being done ("clone3", "uid_map", "execve", ...). `hint`: what on this
    machine is known to cause it, or None.
    """

    def __init__(self, errno: int, step: str, detail: Optional[str] = None, hint: Optional[str] = None):
        super().__init__(errno, os.strerror(errno))
        self.step = step
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno, str(self.errno))
        text = f"{self.step}: {self.strerror} ({name})"
        if self.detail:
            text += f": {self.detail}"
        if self.hint:
            text += f"; {self.hint}"
        return text


class NetlinkError(KernelError):
    """The kernel refused a netlink request.

    `request`: the request in words. `extack`: the kernel's own sentence, or None. `attribute`: the path of the attribute
    it blames ("IFLA_LINKINFO.IFLA_INFO_KIND"), or None. `also`: the later errors of the same batch, for a batch is not a
    transaction and goes on after an error. `cookie`: what some kernels add for programs (NLMSGERR_ATTR_COOKIE), or None.
    """

    cookie: Optional[bytes] = None

    def __str__(self) -> str:
        text = super().__str__()
        if self.also:
            text += f"; and {len(self.also)} more of the same batch failed (.also)"
        return text

    def __init__(self, errno: int, request: str, extack: Optional[str] = None, attribute: Optional[str] = None,
                 also: Sequence["NetlinkError"] = ()):
        words: List[str] = []
        if extack:
            words.append(extack)
        if attribute:
            words.append(f"attribute {attribute}")
        super().__init__(errno, request, ", ".join(words) or None)
        self.request = request
        self.extack = extack
        self.attribute = attribute
        self.also = list(also)


class AlreadyExists(NetlinkError, FileExistsError):
    """EEXIST: a name, address or route that is there already."""


class NotPermitted(NetlinkError, PermissionError):
    """EPERM or EACCES: CAP_NET_ADMIN is missing over the user namespace that owns the network namespace."""


class NoSuchObject(NetlinkError):
    """ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL: the link, address or route that was named is not there."""


class NotSupported(NetlinkError):
    """EOPNOTSUPP, EAFNOSUPPORT, EPROTONOSUPPORT, or a kind that is not known: this kernel was built without it."""


class ListChanged(NetlinkError):
    """EINTR: the list kept changing while it was read. `partial`: what the last reading got, which may lack or repeat things."""

    partial: Sequence = ()


class OutcomeUnknown(KernelError):
    """The request was sent and its answer lost (ENOBUFS), or did not come in time (ETIMEDOUT): it may have been applied.

    Read the state again before anything else; asking again blindly could do it twice. `outcomes`: of the requests of a long
    batch that were answered before.
    """

    outcomes: Sequence = ()


class RollbackError(NsnetError):
    """Undoing a failed operation failed as well.

    `cause`: the error that made the undoing necessary. `left_behind`: the names of what is still there; `python -m nsnet
    gc` removes it.
    """

    def __init__(self, cause: BaseException, left_behind: Sequence[str], undoing: BaseException):
        super().__init__(f"{cause}; and undoing it failed: {undoing}; left behind: {', '.join(left_behind) or 'unknown'}"
                         " (python -m nsnet gc removes it)")
        self.cause = cause
        self.left_behind = list(left_behind)


class StillPending(NsnetError, TimeoutError):
    """What was to be removed is not gone yet: the kernel, or a process that was killed, did not end in time.

    `pending`: what it is, by name. It is still claimed: the same call again goes on, and so does `python -m nsnet gc`
    once its owner has ended.
    """

    def __init__(self, pending: Sequence[str], timeout: float):
        super().__init__(f"still pending after {timeout:g} s: {', '.join(pending)}"
                         " (down again, or python -m nsnet gc, goes on with it)")
        self.pending = list(pending)


class NoFreeAddress(NsnetError):
    """Every address that a subnet has to give is leased: the subnet, its ranges, how many they are, and how to see them."""


class LeaseTaken(NsnetError):
    """An address that was asked for by its number is another's.

    `address`: its text. `owner`: who has it, or None where the record of it makes no sense.
    """

    def __init__(self, address: str, owner: Optional[str], where: str):
        holder = "somebody: its record makes no sense" if owner is None else repr(owner)
        super().__init__(f"address {address}: leased to {holder} ({where})")
        self.address = address
        self.owner = owner


_NETLINK_CLASSES = {
    _errno.EEXIST: AlreadyExists,
    _errno.EPERM: NotPermitted,
    _errno.EACCES: NotPermitted,
    _errno.ENODEV: NoSuchObject,
    _errno.ENOENT: NoSuchObject,
    _errno.ESRCH: NoSuchObject,
    _errno.EADDRNOTAVAIL: NoSuchObject,
    _errno.EOPNOTSUPP: NotSupported,
    _errno.EAFNOSUPPORT: NotSupported,
    _errno.EPROTONOSUPPORT: NotSupported,
}


def netlink_error(errno: int, request: str, extack: Optional[str] = None, attribute: Optional[str] = None,
                  also: Sequence[NetlinkError] = ()) -> NetlinkError:
    """The error of the class that fits `errno`, with the kernel's words in it."""
    return _NETLINK_CLASSES.get(errno, NetlinkError)(errno, request, extack, attribute, also)
