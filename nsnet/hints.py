"""Why this machine may have refused, and the very file that says so.

Reads a few files under /proc, changes nothing. Knows the switches by which distributions and administrators restrict
namespaces: user_namespaces(7), Documentation/admin-guide/sysctl, Debian's and Ubuntu's kernels.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

_NAMESPACE_STEPS = {"clone3", "unshare", "uid_map", "gid_map", "setgroups_deny"}


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def why_refused(step: str, error: int) -> Optional[str]:
    """What is known to cause `error` (errno) at `step`: one line with the file or sysctl, or None."""
    if step not in _NAMESPACE_STEPS:
        return None
    if step == "clone3" and error == errno.EBADF:
        return "cgroup: expected a directory of a cgroup v2 hierarchy"
    if error in (errno.ENOSPC, errno.EUSERS):
        for kind in ("user", "net"):
            path = f"/proc/sys/user/max_{kind}_namespaces"
            if _read(path) == "0":
                return f"{path} is 0: {kind} namespaces are forbidden here"
        return "a limit of /proc/sys/user/max_user_namespaces or /proc/sys/user/max_net_namespaces is reached"
    if error == errno.EINVAL:
        for kind, option in (("user", "CONFIG_USER_NS"), ("net", "CONFIG_NET_NS")):
            if not os.path.exists(f"/proc/self/ns/{kind}"):
                return f"/proc/self/ns/{kind} is missing: this kernel is built without {option}"
        return None
    if error == errno.ENOSYS:
        return "a seccomp filter (an older container engine's, say) hides clone3 from this process: see /proc/self/status"
    if error not in (errno.EPERM, errno.EACCES):
        return None
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "/proc/sys/kernel/unprivileged_userns_clone is 0: only root may make user namespaces"
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns is 1: an AppArmor profile must allow this program"
                " user namespaces")
    if "Seccomp:\t2" in (_read("/proc/self/status") or ""):
        return "/proc/self/status says Seccomp 2: a seccomp filter (a container's, say) forbids new namespaces"
    if step in ("uid_map", "gid_map"):
        return ("ids beyond the caller's own need CAP_SETUID and CAP_SETGID, id 0 needs CAP_SETFCAP; see /proc/self/uid_map for"
                " those that exist here")
    return None
