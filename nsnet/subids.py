"""Range maps for a caller without privilege: /etc/subuid, /etc/subgid, and the setuid programs newuidmap and newgidmap.

The kernel lets the unprivileged write their own single id and nothing else, so somebody with CAP_SETUID must look up
what belongs to whom and write: shadow's two programs, the only ones that this package ever runs. Knows where the ranges
are written, which of the programs can work on this machine, and how they say no. Checks every number before either is
run. Knows nothing of how the child was made. idmap.py reads the lines; newuidmap(1), newgidmap(1), subuid(5).
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from nsnet import idmap, kernel
from nsnet.errors import KernelError, UsageError
from nsnet.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import FrozenSet, Iterable, Optional, Tuple, TypeAlias

NSSWITCH = "/etc/nsswitch.conf"
TIMEOUT = 10.0                      # seconds for each program, which may ask a directory service who the caller is
USUAL_PLACES = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin")
MAX_WORDS = 300                     # characters of what a program says that an exception quotes

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}     # C: its words are to be found below
_ALONE = "without that, only the caller's own single id can be mapped"
_FILE_CAPABILITIES = struct.Struct("<II")       # struct vfs_cap_data: magic_etc, data[0].permitted


class Kind(NamedTuple):
    """User ids or group ids. `step`: the file in /proc/PID; `path`: who owns which; `power`: `capability` as a bit."""

    step: str
    program: str
    path: str
    capability: str
    power: int


UID = Kind("uid_map", "newuidmap", "/etc/subuid", "cap_setuid", 1 << 7)     # <linux/capability.h>
GID = Kind("gid_map", "newgidmap", "/etc/subgid", "cap_setgid", 1 << 6)

Ranges: TypeAlias = "Tuple[idmap.Range, ...]"


def needed(uid_map: Iterable[idmap.Range], gid_map: Iterable[idmap.Range], *, uid: int, gid: int,
           capabilities: int) -> bool:
    """Whether only the programs can write these maps for that caller. Pure.

    `uid`, `gid`: its effective ids; `capabilities`: its effective ones over its own user namespace, bit n for number n
    (kernel.effective_capabilities()). For the caller's own single id the kernel wants no privilege.
    """
    return any(not capabilities & kind.power and idmap.beyond_own(ranges, own)
               for kind, ranges, own in ((UID, uid_map, uid), (GID, gid_map, gid)))


def source(path: str = NSSWITCH) -> str:
    """Who knows the subordinate ids here: "files", or what nsswitch.conf(5) says after "subid:", as "sss"."""
    return idmap.subid_source(_read(path))


def subordinate(kind: Kind, path: Optional[str] = None) -> Tuple[idmap.Subordinate, ...]:
    """The caller's (real uid's) ranges of one kind, in the order of the file; empty if it has none.

    `path`: another file than /etc/subuid or /etc/subgid. Both go by the user, also for group ids. Raises KernelError
    with step "uid_map" or "gid_map": EOPNOTSUPP where nsswitch.conf names another source, which only programs can ask.
    """
    elsewhere = source()
    if elsewhere != "files":
        raise KernelError(errno.EOPNOTSUPP, kind.step,
                          f"{NSSWITCH} says subid: {elsewhere}, so {kind.path} does not count",
                          "getsubids(1) lists the ranges; name them in a map")
    entries = idmap.parse_subids(_read(path or kind.path))
    uid = os.getuid()
    return idmap.subids_of(entries, _owners(uid, entries))


def rootless_maps() -> Tuple[Ranges, Ranges]:
    """(uid_map, gid_map) as rootless engines have them: 0 is the caller, 1 and on its subordinate ids (idmap.rootless).

    Raises KernelError with step "uid_map" or "gid_map": ENOENT if it has no ranges, EOPNOTSUPP as subordinate() does.
    """
    maps = []
    for kind, own in ((UID, os.getuid()), (GID, os.getgid())):
        given = subordinate(kind)
        if not given:
            raise KernelError(errno.ENOENT, kind.step, f"{kind.path} has no range for {_who()}",
                              f"usermod --add-sub{kind.step[:3]}s 100000-165535 adds one, if these are free")
        maps.append(idmap.rootless(own, given, kind.step))
    return maps[0], maps[1]


def write_maps(pid: int, uid_map: idmap.Maps, gid_map: idmap.Maps, *, deny_setgroups: bool = False,
               timeout: float = TIMEOUT) -> None:
    """Have newuidmap and newgidmap write the maps of a child in its new user namespace, and read them back.

    `pid`: its number in /proc; it waits and is not reaped, so that nobody else can have the number. It must still have
    the caller's uid and gid. `deny_setgroups`: forbid setgroups(2) inside before. `timeout`: seconds for each program.

    Whether setgroups stays allowed: newgidmap writes "deny" if no line of the gid map lies in /etc/subgid, that is, for
    the caller's own gid alone, and otherwise leaves the file as it is (write_setgroups() in shadow's src/newgidmap.c).

    Raises UsageError, before anything runs, for numbers that no map may have and ids that are not the caller's;
    KernelError with step "uid_map", "gid_map" or "setgroups_deny": ENOENT without the program, EPERM if it cannot work
    here or says no (its words are in `detail`), ETIMEDOUT.
    """
    if isinstance(pid, bool) or not isinstance(pid, int) or pid < 1:
        raise UsageError(f"pid {pid!r}: expected the number of a process")
    wanted = ((UID, idmap.check(uid_map, "uid_map"), os.getuid()),
              (GID, idmap.check(gid_map, "gid_map"), os.getgid()))
    if _login_name() is None:           # "Cannot determine your user name", only said by the program
        raise KernelError(errno.EPERM, "uid_map", f"uid {os.getuid()} has no passwd entry, by which newuidmap goes",
                          _ALONE)
    if source() == "files":             # whatever else it is, only the programs can ask it
        for kind, ranges, own in wanted:
            idmap.check_allowed(ranges, own, subordinate(kind), kind.step)
    programs = [find_program(kind) for kind, _, _ in wanted]
    for (kind, ranges, _), program in zip(wanted, programs):
        if kind is GID and deny_setgroups:
            _deny_setgroups(pid)
        _run(kind, program, pid, ranges, timeout)


def find_program(kind: Kind) -> str:
    """The path of newuidmap or newgidmap, from PATH or where distributions put it: one that has the privilege it needs.

    Raises KernelError with step "uid_map" or "gid_map": ENOENT if there is none, EPERM if what is there is neither
    setuid root nor has the file capability, or this process may not gain privilege by it.
    """
    places = [place for place in os.get_exec_path() if os.path.isabs(place)]
    reason = None
    for place in dict.fromkeys([*places, *USUAL_PLACES]):
        path = os.path.join(place, kind.program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            wrong = _powerless(path, kind)
            if wrong is None:
                return path
            reason = reason or wrong
    if reason is None:
        raise KernelError(errno.ENOENT, kind.step, f"no {kind.program} in PATH or {', '.join(USUAL_PLACES)}",
                          "the package is uidmap (Debian), shadow-utils (Fedora), shadow-uidmap (Alpine)")
    raise KernelError(errno.EPERM, kind.step, reason, _ALONE)


def _powerless(path: str, kind: Kind) -> Optional[str]:
    """Why a program would run without privilege (execve(2), capabilities(7)); None if it would have it."""
    with kernel.refused(kind.step):
        status = os.stat(path)
        mount = os.statvfs(path)
    setuid_root = status.st_uid == 0 and status.st_mode & stat.S_ISUID
    if not setuid_root and not _file_capabilities(path) & kind.power:
        return f"{path} is neither setuid root nor has the file capability {kind.capability}"
    if mount.f_flag & os.ST_NOSUID:
        return f"{path} is on a file system that is mounted nosuid"
    thread = dict(line.split(":\t", 1) for line in _read("/proc/thread-self/status").splitlines() if ":\t" in line)
    if os.getuid() != 0 and thread.get("NoNewPrivs") == "1":
        return f"{path} would gain no privilege: no_new_privs is set here"
    if not int(thread.get("CapBnd", "-1"), 16) & kind.power:
        return f"{path} would gain no privilege: {kind.capability} is not in the bounding set here"
    return None


def _file_capabilities(path: str) -> int:
    """The lower 32 bits of a file's permitted capabilities; 0 if it has none, or its file system knows none."""
    try:
        value = os.getxattr(path, "security.capability")
    except OSError:
        return 0
    return _FILE_CAPABILITIES.unpack_from(value)[1] if len(value) >= _FILE_CAPABILITIES.size else 0


def _run(kind: Kind, program: str, pid: int, ranges: Ranges, timeout: float) -> None:
    import subprocess                   # here: few callers come this far, and it is slow to import

    numbers = [str(number) for item in ranges for number in item]
    try:
        done = subprocess.run([program, str(pid), *numbers], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, env=_ENVIRONMENT, cwd="/", timeout=timeout)
    except subprocess.TimeoutExpired:   # it is dead: its real uid is the caller's, who may send it SIGKILL
        raise KernelError(errno.ETIMEDOUT, kind.step, f"{program} did not end within {timeout:g} s") from None
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, kind.step, f"{program} could not be run") from None
    words = _one_line(done.stderr)
    if done.returncode < 0:
        raise KernelError(errno.EIO, kind.step, f"signal {-done.returncode} ended {program}: {words}")
    # Where somebody else collects every child its status is lost, which subprocess calls 0; the map itself tells.
    if done.returncode != 0 or _written(kind, pid) != sorted(ranges):
        raise KernelError(errno.EPERM, kind.step, words or f"{program} failed without a word", _why(kind, pid, words))


def _written(kind: Kind, pid: int) -> Optional[list]:
    """The map that a process has, sorted as the kernel sorts one of more than five lines; None if it is gone."""
    try:                                # a map is more than one read(2) gives: /proc gives at most a page
        return sorted(idmap.parse(_read(f"/proc/{pid}/{kind.step}")))
    except KernelError:
        return None


def _deny_setgroups(pid: int) -> None:
    """Before gid_map, or never: user_namespaces(7). The owner of a user namespace needs nobody's help for it."""
    with kernel.refused("setgroups_deny"):
        with open(f"/proc/{pid}/setgroups", "w", encoding="ascii") as file:
            file.write("deny")


def _why(kind: Kind, pid: int, words: str) -> Optional[str]:
    """What is known to make the programs say no, when every range is the caller's."""
    import pwd                          # here and below: few callers come this far

    elsewhere = source()
    if elsewhere != "files":
        return f"{NSSWITCH} says subid: {elsewhere}: it decides which ranges are the caller's"
    try:                                # programs that keep root for it can, the others cannot
        if "Permission denied" in words and os.stat(f"/proc/{pid}/{kind.step}").st_uid != os.geteuid():
            return ("the child's files in /proc are not the caller's: it has another uid already, or the caller changed"
                    " its own and is not dumpable any more, PR_SET_DUMPABLE in prctl(2)")
        if pwd.getpwuid(os.getuid()).pw_gid != os.getgid():
            return (f"the caller's gid {os.getgid()} is not the one of its passwd entry: newgrp(1), or"
                    " GRANT_AUX_GROUP_SUBIDS in /etc/login.defs")
    except (OSError, KeyError):
        return None
    if "Operation not permitted" in words:
        return "ids that this user namespace does not have, see /proc/self/uid_map, cannot be mapped further"
    return f"see {kind.path} and {kind.program}(1)"


def _owners(uid: int, entries: Iterable[idmap.Subordinate]) -> FrozenSet[str]:
    """What may stand before the first ":" for a user: its name, its number, or, failing these, a name of that number.

    find_range() in shadow's lib/subordinateio.c, which asks for each name in the file as well.
    """
    names = {str(uid)}
    name = _login_name()
    if name is not None:
        names.add(name)
    if not idmap.subids_of(entries, names):
        names.update(owner for owner in {entry.owner for entry in entries} if _uid_of(owner) == uid)
    return frozenset(names)


def _login_name() -> Optional[str]:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def _uid_of(name: str) -> Optional[int]:
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):      # ValueError: a name that no C string can hold
        return None


def _who() -> str:
    return f"uid {os.getuid()} ({_login_name() or 'without a passwd entry'})"


def _read(path: str) -> str:
    """A file of /etc or /proc, as it is; empty if there is none."""
    try:
        return kernel.read_file(path)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return ""


def _one_line(words: bytes) -> str:
    """What a program said, fit for one line of an error."""
    text = " ".join(words.decode("utf-8", "replace").split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:MAX_WORDS]
