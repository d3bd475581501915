"""What a caller said to `spawn`, checked, as C wants it: the fields of struct nsnet_spawn, and what is open for them.

Knows defaults: what a command is given and what it must not inherit. Asks the kernel who the caller is and opens files; starts
nothing. process.py starts it.
"""

from __future__ import annotations

import _signal as signal                # its numbers; signal itself makes enums of them
import errno
import fcntl
import io
import os
import resource
from collections.abc import Mapping

from nsnet import caller, idmap, kernel, subids, values
from nsnet.errors import KernelError, UsageError
from nsnet.netns import Netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, IO, Iterable, List, Optional, Sequence, Tuple, TypeAlias, Union

PIPE, STDOUT, DEVNULL = -1, -2, -3          # as in subprocess
NOBODY = 65534                              # /proc/sys/kernel/overflowuid: the id that owns nothing
_CAP_SETGID, _CAP_SETUID, _CAP_SETPCAP = (1 << values.CAPABILITIES.index(name) for name in ("setgid", "setuid", "setpcap"))
_JOIN_ORDER = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
_MAX_GROUPS = 32768                         # what one message to the child has room for; NGROUPS_MAX is 65536

Joinable: TypeAlias = "Union[Netns, str, int, os.PathLike, kernel.Descriptor]"
Maps: TypeAlias = "Tuple[Tuple[idmap.Range, ...], Tuple[idmap.Range, ...]]"


def find_command(argv: Sequence[str], env: Optional[Mapping] = None, cwd: Optional[str] = None) -> Tuple[str, ...]:
    """The files that execve should try for argv[0], as execvp searches PATH (the empty entries left out).

    Raises KernelError with step "execve": ENOENT if no such file is there, EACCES if none of them may be run.
    """
    name = os.fsdecode(values.command(argv)[0])
    if "/" in name:
        paths = (name,)
    else:
        paths = tuple(os.path.join(directory, name) for directory in os.get_exec_path(env) if directory)
    seen = [path if cwd is None else os.path.join(cwd, path) for path in paths]
    if any(os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True) for path in seen):
        return paths
    there = any(os.path.exists(path) for path in seen)
    raise KernelError(errno.EACCES if there else errno.ENOENT, "execve", f"{name!r}")


def default_maps() -> Maps:
    """(uid_map, gid_map) for a caller that names none: container root is an id without power on the host.

    For root that is nobody (65534). Where that cannot be mapped it is the caller itself if that is another than the host's
    root; UsageError if it is that. For anybody else the caller's own ids, the only ones that the kernel allows.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        powers = kernel.effective_capabilities()
        here = caller.ids()
        if powers & _CAP_SETUID and powers & _CAP_SETGID and all(
                idmap.outside_of(ids, NOBODY) is not None for ids in (here.uids, here.gids)):
            uid = gid = NOBODY
        elif idmap.outside_of(here.uids, 0) == 0:
            raise UsageError(f"uid_map: expected one, for {NOBODY} cannot be mapped here, and root would be root of the host;"
                             " own_maps() says that it may be")
    return (idmap.Range(0, uid, 1),), (idmap.Range(0, gid, 1),)


def own_maps() -> Maps:
    """(uid_map, gid_map) that make container root the caller itself, without its capabilities. For root, think twice."""
    return (idmap.Range(0, os.geteuid(), 1),), (idmap.Range(0, os.getegid(), 1),)


def small_environment() -> Dict[str, str]:
    """What of the caller's environment a container gets: where programs are, the terminal, the language, the time zone."""
    return {name: os.environ[name] for name in ("PATH", "TERM", "LANG", "TZ") if name in os.environ}


class Place:
    """The namespaces of a launch as they were asked for: the fields of struct nsnet_spawn that say which, and what a command
    may be inside. `maps`: ((uid_map, gid_map), deny setgroups) for the parent to write, or None; `by_program`: whether only
    newuidmap and newgidmap can. `join`: {kind: what is joined}, to be opened.
    """

    def __init__(self, *, new: Iterable[str] = (), join: Optional[Mapping[str, Joinable]] = None,
                 uid_map: Optional[idmap.Maps] = None, gid_map: Optional[idmap.Maps] = None, setgroups: Optional[bool] = None,
                 hostname: Optional[str] = None, proc: bool = False, loopback: bool = True):
        self.new, self.join = _kinds(new), _joins_by_kind(join)
        self.maps: Optional[Tuple[Maps, bool]] = None
        self.by_program = False
        self.joins_user = "user" in self.join
        self.has_foreign_root = "mnt" in self.new or "mnt" in self.join         # only from inside one sees what is there
        self.wants_netns = "net" in self.new
        self.moves = bool({"pid", "time"} & set(self.new)) or "pid" in self.join    # its pid is known when it is parked
        self._check_namespaces(hostname, proc)
        self.spec: Dict[str, Any] = {
            "moves_pid": int(self.moves), "hostname": _hostname(hostname),
            "new_flags": sum(kernel.CLONE_FLAGS[kind] for kind in self.new),
            "private_mounts": int("mnt" in self.new), "mount_proc": int(proc),
        }
        if self.wants_netns:
            self.spec.update(socket_family=kernel.AF_NETLINK, socket_type=kernel.SOCK_RAW,
                             socket_protocol=kernel.NETLINK_ROUTE, loopback=int(loopback))
        if "user" in self.new:
            self._map(uid_map, gid_map, setgroups)
        elif uid_map is not None or gid_map is not None:
            raise UsageError("uid_map, gid_map: expected 'user' in new; there is no user namespace to map")

    def _check_namespaces(self, hostname: Optional[str], proc: bool) -> None:
        for kind in self.join:
            if kind in self.new and kind not in ("user", "pid", "cgroup"):
                raise UsageError(f"join {kind!r}: expected it in join or in new, not in both")
        if hostname is not None and "uts" not in self.new:
            raise UsageError(f"hostname {hostname!r}: expected 'uts' in new; else the name of this machine would change")
        if proc and not {"pid", "mnt"} <= set(self.new):
            raise UsageError("proc True: expected 'pid' and 'mnt' in new")

    def _map(self, uid_map: Optional[idmap.Maps], gid_map: Optional[idmap.Maps], setgroups: Optional[bool]) -> None:
        powers = kernel.effective_capabilities()
        uids = gids = (idmap.Range(0, 0, 1),)       # below a namespace that is joined, its root is ours
        if not self.joins_user and (uid_map is None or gid_map is None):
            uids, gids = default_maps()
        uids = uids if uid_map is None else idmap.check(uid_map, "uid_map")
        gids = gids if gid_map is None else idmap.check(gid_map, "gid_map")
        if not self.joins_user:
            self.by_program = subids.needed(uids, gids, uid=os.geteuid(), gid=os.getegid(), capabilities=powers)
        if setgroups is None:           # denied for an unprivileged gid_map, and below a namespace that denies it
            setgroups = ((bool(powers & _CAP_SETGID) or (self.by_program and idmap.beyond_own(gids, os.getegid())))
                         and caller.ids().setgroups)
        elif setgroups and self.by_program and not idmap.beyond_own(gids, os.getegid()):
            raise UsageError("setgroups True: expected more than one's own gid in gid_map, newgidmap(1) denies it then")
        self._uids, self._gids, self._deny = uids, gids, not setgroups or self.joins_user
        if self.joins_user:             # its parent is not our namespace: only the child itself may write them
            self.spec.update(uid_map=idmap.text(uids), gid_map=idmap.text(gids))
        else:
            self.maps = (uids, gids), self._deny

    def identity(self, user: Union[None, int, str], group: Union[None, int, str], groups: Optional[Iterable],
                 no_new_privs: bool) -> Dict[str, Any]:
        """The fields of struct nsnet_command that say who a command is in there."""
        uid, gid = _ids(user, group)
        several = None if groups is None else _groups(groups)
        if "user" not in self.new:
            if self.joins_user:         # root of that namespace, not an outsider that its root may take over
                return {"set_ids": 1, "uid": uid or 0, "gid": gid or 0, "drop_bounding": 1,
                        "set_groups": int(several is not None), "groups": several or []}
            powers = kernel.effective_capabilities()
            drop = bool(powers & _CAP_SETPCAP)
            if not drop and not no_new_privs and os.geteuid() == 0:
                raise UsageError("no_new_privs False: expected CAP_SETPCAP, without which root regains what is dropped here")
            spec: Dict[str, Any] = {"set_ids": int(uid is not None or gid is not None), "drop_bounding": int(drop),
                                    "uid": os.geteuid() if uid is None else uid,
                                    "gid": os.getegid() if gid is None else gid}
            if several is None and spec["set_ids"] and powers & _CAP_SETGID:
                several = []            # the caller's groups are not the user's
            return {**spec, "set_groups": int(several is not None), "groups": several or []}
        if several and self._deny:
            raise UsageError(f"groups {several}: expected none, setgroups(2) is denied in this user namespace")
        for one in several or ():
            _inside(self._gids, one, "groups")
        return {"set_ids": 1, "uid": _inside(self._uids, uid, "user"), "gid": _inside(self._gids, gid, "group"),
                "drop_bounding": 1, "set_groups": int(not self._deny), "groups": several or []}


class Command:
    """What is run in a place, as it was asked for. `spec`: struct nsnet_command for clone.Child; `oom_score_adj`: as /proc has
    it, or None; `rlimits`: those that the parent sets, whose power a higher hard limit takes. `files`: the parent's ends of its
    pipes, by stream. close() when the child has its descriptors, or gets none.
    """

    def __init__(self, place: Place, argv: Sequence[str], *, user: Union[None, int, str] = None,
                 group: Union[None, int, str] = None, groups: Optional[Iterable[Union[int, str]]] = None,
                 capabilities: Iterable[str] = (), no_new_privs: bool = True,
                 env: Optional[Mapping] = None, cwd: Union[None, str, os.PathLike] = None, stdin: Any = None,
                 stdout: Any = None, stderr: Any = None, pass_fds: Iterable[int] = (), pdeathsig: int = 0,
                 rlimits: Optional[Mapping[int, Tuple[int, int]]] = None, umask: Optional[int] = None,
                 oom_score_adj: Optional[int] = None, new_session: bool = True, new_keyring: bool = True):
        self.argv = values.command(argv)
        self.files: Dict[str, IO[bytes]] = {}
        self._opened = kernel.Descriptor()          # a bundle of them
        score = _number(oom_score_adj, -1000, 1000, "oom_score_adj")
        self.oom_score_adj = None if score is None else str(score)
        self.rlimits = _rlimits(rlimits)
        self.spec: Dict[str, Any] = {
            "argv": self.argv, "envp": _environment(env), "cwd": _directory(cwd),
            "no_new_privs": int(no_new_privs), "capabilities": values.capabilities(capabilities),
            "pdeathsig": _death_signal(pdeathsig), "new_session": int(new_session), "new_keyring": int(new_keyring),
            "umask": -1 if umask is None else _number(umask, 0, 0o777, "umask"),
            **place.identity(user, group, groups, no_new_privs),
        }
        self._is_anywhere = place.has_foreign_root or self.spec["cwd"] is not None and os.path.isabs(self.spec["cwd"])
        self.spec["paths"] = _candidates(self.argv, env, cwd, place.has_foreign_root)
        try:
            self.spec["moves"] = _descriptors({"stdin": stdin, "stdout": stdout, "stderr": stderr}, pass_fds, self._opened,
                                              self.files)
        except BaseException:
            self.close()
            self.close_files()
            raise

    def close(self) -> None:
        """Close what was opened for the child."""
        self._opened.close()

    def from_here(self) -> Dict[str, int]:
        """For a slot that was made in another directory than the caller's, if the command is to be in that, or near it."""
        if self._is_anywhere:
            return {}
        with kernel.refused("chdir"):
            return {"cwd_fd": self._opened.add(kernel.Descriptor.open(".", os.O_PATH | os.O_DIRECTORY))}

    def close_files(self) -> None:
        """Close the parent's ends of its pipes, which nobody is to have."""
        for file in self.files.values():
            file.close()


class Job:
    """One launch as it was asked for: a place and a command. `spec`: for clone.Child. close() when the child is made, or was
    not. `slot`: the command comes later; then there is none, and no option says anything of it.
    """

    def __init__(self, argv: Sequence[str], *, new: Iterable[str] = (), join: Optional[Mapping[str, Joinable]] = None,
                 uid_map: Optional[idmap.Maps] = None, gid_map: Optional[idmap.Maps] = None, setgroups: Optional[bool] = None,
                 hostname: Optional[str] = None, proc: bool = False, loopback: bool = True,
                 cgroup: Union[None, int, str, os.PathLike] = None, slot: bool = False, **options: Any):
        self._opened = kernel.Descriptor()
        self.command: Optional[Command] = None
        self.place = Place(new=new, join=join, uid_map=uid_map, gid_map=gid_map, setgroups=setgroups, hostname=hostname,
                           proc=proc, loopback=loopback)
        self.spec = dict(self.place.spec)
        if slot:
            self.argv = values.command(argv)
            self.spec.update(slot=1, command={"argv": self.argv, "envp": [], "moves": []})
        else:
            self.command = Command(self.place, argv, **options)
            self.argv = self.command.argv
            limits = self.command.rlimits
            self.spec.update(command=self.command.spec, oom_score_adj=self.command.oom_score_adj,
                             stack_limit=next((one for one in limits if one["resource"] == resource.RLIMIT_STACK), None))
        try:
            self.spec["joins"] = _joins(self.place.join, self._opened)
            self.spec["cgroup_fd"] = -1 if cgroup is None else _open_cgroup(cgroup, self._opened)
        except BaseException:
            self.close()
            if self.command is not None:
                self.command.close_files()
            raise

    def close(self) -> None:
        """Close what was opened for the child."""
        self._opened.close()
        if self.command is not None:
            self.command.close()


# --- who ---

def _ids(user: Union[None, int, str], group: Union[None, int, str]) -> Tuple[Optional[int], Optional[int]]:
    """(uid, gid), as subprocess takes them: numbers, or names that the caller's databases know. A name brings its group."""
    uid, gid = user, group
    if isinstance(user, str):
        import pwd                      # here and below: who gives numbers needs no databases

        try:
            found = pwd.getpwnam(user)
        except (KeyError, ValueError):
            raise UsageError(f"user {user!r}: expected a number, or a name that passwd(5) has") from None
        uid, gid = found.pw_uid, found.pw_gid if group is None else group
    return _id(uid, "user"), _id(gid, "group")


def _id(value: Union[None, int, str], what: str) -> Optional[int]:
    if isinstance(value, str):
        import grp

        try:
            value = grp.getgrnam(value).gr_gid
        except (KeyError, ValueError):
            raise UsageError(f"{what} {value!r}: expected a number, or a name that group(5) has") from None
    return _number(value, 0, idmap.MAX_ID, what)


def _groups(groups: Iterable[Union[int, str]]) -> List[int]:
    if isinstance(groups, (str, int)):
        raise UsageError(f"groups {groups!r}: expected a list of numbers or names")
    found = [_id(one, "groups") for one in groups]
    if None in found or len(found) > _MAX_GROUPS:
        raise UsageError(f"groups of {len(found)}: expected at most {_MAX_GROUPS} numbers or names")
    return found


def _inside(ranges: Tuple[idmap.Range, ...], wanted: Optional[int], what: str) -> int:
    """An id that is mapped; if none is wanted, root where there is one."""
    if wanted is None:
        return 0 if idmap.outside_of(ranges, 0) is not None else ranges[0].inside
    if idmap.outside_of(ranges, wanted) is None:
        raise UsageError(f"{what} {wanted}: expected an id that is mapped, inside: {idmap.text(ranges).strip()!r}")
    return wanted


def _number(value: Optional[int], low: int, high: int, what: str) -> Optional[int]:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{what} {value!r}: expected a number from {low} to {high}")
    return value


# --- what it gets ---

def _kinds(new: Iterable[str], what: str = "new") -> Tuple[str, ...]:
    if isinstance(new, str):
        raise UsageError(f"{what} {new!r}: expected a set of namespace kinds")
    for kind in new:
        if kind not in kernel.CLONE_FLAGS:
            raise UsageError(f"{what} {kind!r}: expected one of {', '.join(sorted(kernel.CLONE_FLAGS))}")
    return tuple(sorted(set(new)))


def _candidates(argv: Tuple, env: Optional[Mapping], cwd: Optional[str], foreign_root: bool) -> Tuple[str, ...]:
    if foreign_root:
        name = os.fsdecode(argv[0])
        return (name,) if "/" in name else tuple(os.path.join(path, name) for path in os.get_exec_path(env) if path)
    return find_command(argv, env, cwd)


def _environment(env: Optional[Mapping]) -> List[bytes]:
    if env is None:                     # these were entries of an environment before
        return [key + b"=" + value for key, value in os.environb.items()]
    result = []
    for key, value in env.items():
        try:
            entry = os.fsencode(key) + b"=" + os.fsencode(value)
        except (TypeError, UnicodeEncodeError):
            raise UsageError(f"env {key!r}: expected text for names and values") from None
        if b"\0" in entry or b"=" in os.fsencode(key):
            raise UsageError(f"env {key!r}: expected no NUL, and no = in a name")
        result.append(entry)
    return result


def _directory(cwd: Union[None, str, os.PathLike]) -> Optional[str]:
    try:
        path = None if cwd is None else os.fsdecode(cwd)
    except TypeError:
        raise UsageError(f"cwd {cwd!r}: expected a path") from None
    if path is not None and "\0" in path:
        raise UsageError(f"cwd {cwd!r}: expected no NUL")
    return path


def _hostname(hostname: Optional[str]) -> Optional[str]:
    if hostname is not None and (not isinstance(hostname, str) or "\0" in hostname
                                 or not 1 <= len(hostname.encode("utf-8", "replace")) <= 64):
        raise UsageError(f"hostname {hostname!r}: expected 1 to 64 bytes")
    return hostname


def _death_signal(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or (number and number not in signal.valid_signals()):
        raise UsageError(f"pdeathsig {number!r}: expected a signal's number, or 0 for none")
    return int(number)


def _joins_by_kind(join: Optional[Mapping[str, Joinable]]) -> Dict[str, Joinable]:
    if join is not None and not isinstance(join, Mapping):
        raise UsageError(f"join {join!r}: expected {{kind: Netns, path or descriptor}}")
    _kinds(join or (), "join")
    return dict(join or {})


def _joins(join: Mapping[str, Joinable], opened: kernel.Descriptor) -> List[Dict[str, int]]:
    """The user namespace first, as C expects it."""
    rows = []
    for kind in sorted(join, key=_JOIN_ORDER.index):
        fd = _namespace_fd(kind, join[kind], opened)
        kernel.check_namespace(fd, kind, f"join {kind!r}: {join[kind]!r}")
        rows.append({"fd": fd, "type": kernel.CLONE_FLAGS[kind]})
    return rows


def _namespace_fd(kind: str, target: Joinable, opened: kernel.Descriptor) -> int:
    if isinstance(target, Netns) and kind == "net":
        return target.fd
    if isinstance(target, Netns) and kind == "user":
        found = kernel.owner_userns(target.fd)
        if found is None:
            raise KernelError(errno.EPERM, "setns", "the network namespace belongs to a user namespace outside the caller's")
        return opened.add(found)
    if isinstance(target, (str, bytes, os.PathLike)):
        return opened.add(kernel.open_namespace(os.fsdecode(target), kind))
    return values.descriptor(target, f"join {kind!r}:")


def _open_cgroup(cgroup: Union[int, str, os.PathLike], opened: kernel.Descriptor) -> int:
    if not isinstance(cgroup, (str, bytes, os.PathLike)):
        return values.descriptor(cgroup, "cgroup")
    with kernel.refused(f"open cgroup {os.fsdecode(cgroup)}"):
        return opened.add(kernel.Descriptor.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))


def _rlimits(rlimits: Optional[Mapping[int, Tuple[int, int]]]) -> List[Dict[str, int]]:
    found = []
    for number, limits in (rlimits or {}).items():
        try:
            soft, hard = limits
            rows = [_number(value, -1, 2**64 - 1, f"rlimits {number!r}:") for value in (soft, hard)]
        except (TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"rlimits {number!r}: {limits!r}: expected (soft, hard)") from None
        if not isinstance(number, int):
            raise UsageError(f"rlimits {number!r}: expected one of resource.RLIMIT_NOFILE and the like")
        found.append({"resource": _number(number, 0, 15, "rlimits"), "soft": rows[0] % 2**64, "hard": rows[1] % 2**64})
    return found


def _descriptors(streams: Mapping[str, Any], pass_fds: Iterable[int], opened: kernel.Descriptor,
                 files: Dict[str, IO[bytes]]) -> List[Dict[str, int]]:
    """(source, target) of every descriptor that the command gets, sorted by target."""
    sources: Dict[int, int] = {}
    for target, (name, stream) in enumerate(streams.items()):
        if stream is None:
            # Only what is meant to be inherited: where the caller closed a standard stream, its number may by now be a
            # descriptor of ours, and the command must not get that.
            if _is_open(target) and os.get_inheritable(target):
                sources[target] = target
            else:
                sources[target] = _devnull(opened)
        elif stream == PIPE:
            with kernel.refused("pipe"):
                read, write = opened.add_pipe()
            sources[target], ours = (read, write) if target == 0 else (write, read)
            made: List[IO[bytes]] = []
            # From a copy, in one step: now the file owns it, and nothing else.
            mode, size = ("wb", 0) if target == 0 else ("rb", -1)
            made.extend(map(io.open, map(os.dup, (ours,)), (mode,), (size,)))
            files[name] = made[0]
        elif stream == DEVNULL:
            sources[target] = _devnull(opened)
        elif stream == STDOUT:
            if target != 2 or 1 not in sources:
                raise UsageError(f"{name} STDOUT: expected it for stderr only, with a stdout to follow")
            sources[target] = sources[1]
        else:
            sources[target] = values.descriptor(stream, name)
            if not _is_open(sources[target]):
                raise UsageError(f"{name} {stream!r}: expected an open descriptor")
    for fd in pass_fds:
        if isinstance(fd, bool) or not isinstance(fd, int) or fd < 3 or not _is_open(fd):
            raise UsageError(f"pass_fds {fd!r}: expected open descriptors from 3 on")
        sources[fd] = fd
    return [{"source": source, "target": target} for target, source in sorted(sources.items())]


def _devnull(opened: kernel.Descriptor) -> int:
    with kernel.refused(f"open {os.devnull}"):
        return opened.add(kernel.Descriptor.open(os.devnull, os.O_RDWR))


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except (OSError, OverflowError):
        return False
    return True
