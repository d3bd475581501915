"""Sysctls of any network namespace: what sysctl(8) does, for a `Netns`, and the calling thread stays where it is.

/proc/sys/net shows the network namespace of whoever looks, and who has CAP_NET_ADMIN over its owner may change it. So a
visitor goes there, who opens, reads, writes and closes all that one call asks for (csrc/visit.c).

Knows how a key is written, which file it is, and what the kernel may mean by refusing. Refuses to know any setting:
what there is, what it takes and what it does is Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Iterable, Mapping

from nsnet.clone import SYSCTL_BYTES
from nsnet.errors import KernelError, UsageError
from nsnet.netns import Netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

ROOT = "/proc/sys"
KEY_BYTES = 512
NAME_BYTES = 255                    # of one name in a key; a link's has at most 15
VALUE_BYTES = 4094                  # the kernel takes a page less one of a list of numbers, a newline among it

_MISSING = (errno.ENOENT, errno.ENOTDIR)


def path(key: str, what: str = "sysctl") -> str:
    """The file of a sysctl below net: of "net.ipv4.conf.eth0.rp_filter", or "net/ipv4/conf/eth0.100/rp_filter".

    As sysctl(8) and sysctl.d(5) have it: if the first separator is a slash, dots belong to names; if it is a dot, a
    slash stands for a dot in a name. Raises UsageError, also for what is not a network namespace's.
    """
    names = _names(key) if isinstance(key, str) and key.isprintable() and " " not in key else []
    if (len(names) < 2 or names[0] != "net" or len(key.encode()) > KEY_BYTES
            or any(name in ("", ".", "..") or len(name.encode()) > NAME_BYTES for name in names)):
        raise UsageError(f"{what} {_short(key)}: expected a key below net, such as net.ipv4.ip_forward or "
                         "net/ipv4/conf/eth0.100/forwarding")
    return "/".join([ROOT, *names])


def _names(key: str) -> list:
    if "." not in key.partition("/")[0]:
        return key.split("/")
    return [name.replace("/", ".") for name in key.split(".")]


def value(wanted: Any, what: str = "value") -> str:
    """What is to be written: an int, a bool as 1 or 0, or one line of text. Raises UsageError."""
    if isinstance(wanted, str):
        if wanted.replace("\t", "").isprintable() and len(wanted.encode()) <= VALUE_BYTES:
            return "".join(wanted)                  # of a str that is an Enum as well, its value
    elif isinstance(wanted, bool):
        return str(int(wanted))
    else:
        try:
            number = int(operator.index(wanted))        # of an IntEnum, which says its name, the number
        except TypeError:
            number = 1 << 64
        if -1 << 63 <= number < 1 << 64:
            return str(number)
    raise UsageError(f"{what} {_short(wanted)}: expected an int of 64 bits, a bool, or one line of text of at most "
                     f"{VALUE_BYTES} bytes")


def _short(given: Any) -> str:
    """For a message: it may be of any length."""
    try:
        text = repr(given)
    except ValueError:                  # an int with more digits than Python writes
        text = f"of type {type(given).__name__}"
    return text if len(text) <= 100 else text[:97] + "..."


def read(netns: Netns, keys: Iterable[str]) -> Dict[str, Optional[str]]:
    """The values of sysctls in a network namespace, by key: text without a newline, with one space between fields.

    None for one that is not there: this kernel does not have it, it is the machine's and not a namespace's, or the link
    does not exist. One visit for all. Group ids (net.ipv4.ping_group_range) are those of the namespace's owner if its
    user namespace has to be entered, else the caller's. Raises UsageError for what is no key of such a sysctl;
    KernelError if one may not be read, or the namespace not be entered.
    """
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise UsageError(f"sysctls {_short(keys)}: expected several keys, such as ['net.ipv4.ip_forward']")
    paths = {key: path(key) for key in keys}
    found: Dict[str, Optional[str]] = {}
    for key, (error, text) in zip(paths, _checked(netns).proc_sys([(name, None) for name in paths.values()])):
        if error in _MISSING:
            _check_proc(key)
        elif error:
            raise _refused(key, error)
        found[key] = None if error else b" ".join(text.split()).decode("utf-8", "surrogateescape")
    return found


def write(netns: Netns, values: Mapping[str, Any]) -> None:
    """Change sysctls in a network namespace, in the order given, in one visit: {key: int, bool or text}.

    Ends at the first that the kernel refuses; those before it stay written. Raises UsageError before any is written;
    KernelError with the step "sysctl KEY" and the kernel's errno: EINVAL for a value that it does not take, ENOENT for
    a setting that is not there, EACCES or EPERM without CAP_NET_ADMIN there and for one that is only to be read, EROFS
    where /proc/sys is, EIO if it took a part of a value and ignored the rest. With another step nobody could go there,
    or came back ("handover": some may have been written). Ids are as read() has them.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"sysctls {_short(values)}: expected a dict, such as {{'net.ipv4.ip_forward': 1}}")
    rows = [(key, path(key), value(wanted, f"sysctl {key}: value")) for key, wanted in values.items()]
    done = _checked(netns).proc_sys([(name, f"{text}\n") for _, name, text in rows])
    for (key, _, text), (error, _) in zip(rows, done):
        if error:
            raise _refused(key, error, text)


def _checked(netns: Any) -> Netns:
    if not isinstance(netns, Netns):
        raise UsageError(f"network namespace {_short(netns)}: expected a Netns")
    return netns


def _check_proc(key: str) -> None:
    """A setting is missing: because all of them are?"""
    if not os.path.isdir(f"{ROOT}/net"):
        raise KernelError(errno.ENOENT, f"sysctl {key}", f"{ROOT}/net is missing",
                          "procfs is not mounted here, or without it (subset=pid)")


def _refused(key: str, error: int, text: Optional[str] = None) -> KernelError:
    if error in _MISSING:
        _check_proc(key)
    return KernelError(error, f"sysctl {key}", None if text is None else f"value {_short(text)}",
                       _why(error, text is not None))


def _why(error: int, writing: bool) -> Optional[str]:
    if error in _MISSING:
        return "this kernel has no such setting, or not in every network namespace, or the link is not there"
    if error in (errno.EPERM, errno.EACCES):
        return ("it needs CAP_NET_ADMIN over the user namespace that owns the network namespace, or is only to be "
                + ("read" if writing else "written"))
    if error == errno.EROFS:
        return f"{ROOT} is mounted read-only here, as container engines do"
    if error == errno.EXDEV:
        return f"something that is not procfs is mounted below {ROOT}"
    if error == errno.EIO and writing:
        return "the kernel took only a part of the value"
    if error == errno.EOVERFLOW and not writing:
        return f"it is longer than {SYSCTL_BYTES - 1} bytes"
    return None
