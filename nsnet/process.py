"""A process in namespaces of its own: `spawn`, and the `Process` that it returns.

Knows what a command is given by default and what it must not inherit; how a parked child is told to go; signals, and
reaping by pidfd. csrc/spawn.c knows the order of steps inside the child. Nothing here knows about bridges or addresses.
"""

import errno
import os
import signal
import threading
from typing import Any, Dict, IO, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from nsnet import idmap, kernel, values
from nsnet.errors import KernelError, UsageError
from nsnet.hints import why_refused
from nsnet.netns import Netns

PIPE, STDOUT, DEVNULL = -1, -2, -3          # as in subprocess
NOBODY = 65534                              # /proc/sys/kernel/overflowuid: the id that owns nothing
_CAP_SETGID, _CAP_SETUID, _CAP_SETPCAP = (1 << values.CAPABILITIES.index(name) for name in ("setgid", "setuid", "setpcap"))
_DROPPED_TIMEOUT = 1.0                      # seconds that a dropped, parked child may take to end
_JOIN_ORDER = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")

Joinable = Union[Netns, str, int, os.PathLike]


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


def default_maps() -> Tuple[Tuple[idmap.Range, ...], Tuple[idmap.Range, ...]]:
    """(uid_map, gid_map) for a caller that names none: container root is an id without power on the host.

    For root that is nobody (65534), wherever root has the capabilities to map it and it exists; for anybody else the
    caller's own ids, the only ones that the kernel allows.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        powers = kernel.effective_capabilities()
        if powers & _CAP_SETUID and powers & _CAP_SETGID and all(
                idmap.outside_of(idmap.parse(kernel.read_file(path)), NOBODY) is not None
                for path in ("/proc/self/uid_map", "/proc/self/gid_map")):
            uid = gid = NOBODY
    return (idmap.Range(0, uid, 1),), (idmap.Range(0, gid, 1),)


def own_maps() -> Tuple[Tuple[idmap.Range, ...], Tuple[idmap.Range, ...]]:
    """(uid_map, gid_map) that make container root the caller itself, without its capabilities. For root, think twice."""
    return (idmap.Range(0, os.geteuid(), 1),), (idmap.Range(0, os.getegid(), 1),)


class Process:
    """A process made by `spawn`.

    `args`: its command. `pid`, `pidfd`: the descriptor belongs to this object. `netns`: its new network namespace, None
    if it got none. `returncode`: None while it runs, then the exit status, or minus the signal that ended it. `stdin`,
    `stdout`, `stderr`: binary files where PIPE was asked for. As a context manager it waits for the process at the end,
    or kills it if the block ends by an exception.
    """

    def __init__(self, argv: Sequence[str], *, new: Iterable[str] = (), join: Optional[Mapping[str, Joinable]] = None,
                 uid_map: Optional[idmap.Maps] = None, gid_map: Optional[idmap.Maps] = None,
                 setgroups: Optional[bool] = None, capabilities: Iterable[str] = (), no_new_privs: bool = True,
                 env: Optional[Mapping] = None, cwd: Optional[str] = None, stdin: Any = None, stdout: Any = None,
                 stderr: Any = None, pass_fds: Iterable[int] = (), pdeathsig: int = 0,
                 cgroup: Union[None, int, str, os.PathLike] = None,
                 rlimits: Optional[Mapping[int, Tuple[int, int]]] = None, new_session: bool = True):
        self.args = values.command(argv)
        self.returncode: Optional[int] = None
        self.stdin: Optional[IO[bytes]] = None
        self.stdout: Optional[IO[bytes]] = None
        self.stderr: Optional[IO[bytes]] = None
        self.netns: Optional[Netns] = None
        self._child: Optional[kernel.Child] = None
        self._owner = os.getpid()
        self._reaping = threading.Lock()
        self._parked = False
        self._rtnl_expected = False
        self._written_maps: Optional[Tuple[str, str, bool]] = None

        new, join = _kinds(new), dict(join or {})
        opened: List[int] = []          # ours until the clone
        pipes: Dict[str, int] = {}      # the parent's ends
        try:
            spec: Dict[str, Any] = {
                "argv": self.args, "envp": _environment(env), "cwd": cwd, "no_new_privs": int(no_new_privs),
                "capabilities": values.capabilities(capabilities), "pdeathsig": int(pdeathsig),
                "new_session": int(new_session), "new_keyring": 1, "rlimits": _rlimits(rlimits),
            }
            spec["paths"] = _candidates(self.args, env, cwd, foreign_root="mnt" in new or "mnt" in join)
            spec["joins"] = _joins(join, opened)
            spec.update(self._namespaces(new, bool(join)))
            spec.update(self._identity(new, "user" in join, uid_map, gid_map, setgroups, no_new_privs))
            spec["cgroup_fd"] = -1 if cgroup is None else _open_cgroup(cgroup, opened)
            spec["moves"] = _descriptors({"stdin": stdin, "stdout": stdout, "stderr": stderr}, pass_fds, opened, pipes)
            self._child = kernel.Child(spec)
            try:
                self._child.clone()
            except KernelError as error:
                error.hint = why_refused(error.step, error.errno)
                raise
            for name, fd in pipes.items():
                setattr(self, name, open(fd, "wb" if name == "stdin" else "rb", buffering=0 if name == "stdin" else -1))
            pipes = {}
        except BaseException:
            self._abandon()
            raise
        finally:
            for fd in [*opened, *pipes.values()]:
                os.close(fd)

    def _namespaces(self, new: Tuple[str, ...], joining: bool) -> Dict[str, Any]:
        """Which namespaces clone3 makes and which the child makes itself, while the parent works on."""
        if joining and "pid" in new:
            raise UsageError("new 'pid': expected no join beside it; the child itself would stay outside")
        if joining and "time" in new:
            raise UsageError("new 'time': expected no join beside it; the child itself would stay outside")
        late = new if joining else tuple(kind for kind in new if kind == "net")
        flags = {kind: kernel.CLONE_FLAGS[kind] for kind in new}
        self._rtnl_expected = "net" in new
        return {
            "clone_flags": sum(flag for kind, flag in flags.items() if kind not in late),
            "unshare_flags": sum(flag for kind, flag in flags.items() if kind in late),
            "hand_over_rtnl": int(self._rtnl_expected),
        }

    def _identity(self, new: Tuple[str, ...], joining_user: bool, uid_map: Optional[idmap.Maps],
                  gid_map: Optional[idmap.Maps], setgroups: Optional[bool], no_new_privs: bool) -> Dict[str, Any]:
        powers = kernel.effective_capabilities()
        if "user" not in new:
            if uid_map is not None or gid_map is not None:
                raise UsageError("uid_map, gid_map: expected 'user' in new; there is no user namespace to map")
            if joining_user:            # root of that namespace, not an outsider that its root may take over
                return {"set_ids": 1, "uid": 0, "gid": 0, "drop_groups": 0, "drop_bounding": 1}
            drop = bool(powers & _CAP_SETPCAP)
            if not drop and not no_new_privs and os.geteuid() == 0:
                raise UsageError("no_new_privs False: expected CAP_SETPCAP, without which root regains what is dropped here")
            return {"set_ids": 0, "drop_bounding": int(drop)}
        uids = gids = (idmap.Range(0, 0, 1),)       # below a namespace that is joined, its root is ours
        if not joining_user and (uid_map is None or gid_map is None):
            uids, gids = default_maps()
        uids = uids if uid_map is None else idmap.check(uid_map, "uid_map")
        gids = gids if gid_map is None else idmap.check(gid_map, "gid_map")
        if setgroups is None:           # denied for an unprivileged gid_map, and below a namespace that denies it
            setgroups = bool(powers & _CAP_SETGID) and kernel.read_file("/proc/self/setgroups").strip() != "deny"
        deny = not setgroups
        spec = {"set_ids": 1, "uid": _first(uids), "gid": _first(gids), "drop_bounding": 1, "drop_groups": int(not deny)}
        if joining_user:                # its parent is not our namespace: only the child itself may write them
            spec.update(uid_map=idmap.text(uids), gid_map=idmap.text(gids), drop_groups=0)
        else:
            self._written_maps = idmap.text(uids), idmap.text(gids), deny
        return spec

    def prepare(self) -> None:
        """Write the id maps and wait until the child is parked in its namespaces. `spawn` does this; once."""
        try:
            if self._written_maps is not None:
                self._child.write_maps(*self._written_maps)
                self._written_maps = None
            self._parked = True
            step, error = self._child.receive()
            if step != "ready":
                self._failed(step, error)
            if self._rtnl_expected:
                self.netns = Netns(kernel.RtnlSocket(self._child.take_passed()), fresh=True)
        except BaseException as error:
            if isinstance(error, KernelError):
                error.hint = error.hint or why_refused(error.step, error.errno)
            self._abandon()
            raise

    def go(self) -> None:
        """Let a held process run its command; returns when execve has succeeded.

        Raises KernelError with the step that failed in the child ("execve", "capabilities", "chdir", ...); the process
        is gone then.
        """
        if not self._parked:
            raise UsageError(f"process {self.pid}: it has gone already")
        try:
            self._child.say_go()
            step, error = self._child.receive()
            if step is not None:
                self._failed(step, error)
        except KernelError:
            self._abandon()
            raise
        self._parked = False
        self._child.close_channel()

    def _failed(self, step: Optional[str], error: int) -> None:
        if step is None:                # it ended without a word: killed, or out of memory
            raise KernelError(errno.ECHILD, "handover", "the child ended before it was ready")
        detail = repr(os.fsdecode(self.args[0])) if step == "execve" else None
        raise KernelError(error, step, detail)

    @property
    def pid(self) -> int:
        """The process id in the caller's pid namespace; -1 before there is one."""
        return -1 if self._child is None else self._child.pid

    @property
    def pidfd(self) -> int:
        """The process as a descriptor (pidfd_open(2)), for poll and pidfd_send_signal; -1 after close()."""
        return -1 if self._child is None else self._child.pidfd

    @property
    def held(self) -> bool:
        """Whether it is parked and waits for go()."""
        return self._parked

    def poll(self) -> Optional[int]:
        """The returncode if it has ended, else None."""
        if self.returncode is None and self.pidfd >= 0 and kernel.has_ended(self.pidfd):
            self._collect()
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait for the end, at most `timeout` seconds, and return the returncode.

        Raises TimeoutError, and KernelError (ECHILD) if another part of the program collected the status and this
        kernel does not tell it twice.
        """
        if self.returncode is None:
            if self.pidfd < 0:
                raise KernelError(errno.ECHILD, "wait", "the process is closed")
            if not kernel.has_ended(self.pidfd, timeout):
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            self._collect()
        return self.returncode

    def _collect(self) -> None:
        with self._reaping:             # of two threads that see its end one collects it
            if self.returncode is not None:
                return
            if self.pidfd < 0:
                raise KernelError(errno.ECHILD, "wait", "the process is closed")
            status = kernel.reap(self.pidfd)
            if status is None:
                raise KernelError(errno.ECHILD, "wait", f"somebody else collected process {self.pid}; its status is lost")
            self.returncode = status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended. The pidfd makes sure that nobody else gets it."""
        if self.returncode is None and self.pidfd >= 0:
            kernel.signal_process(self.pidfd, number)

    def terminate(self) -> None:
        """SIGTERM. A parked child takes no signal but SIGKILL."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of pidfd, netns and pipes. A parked child ends; a running one runs on, and nobody collects it."""
        with self._reaping:
            for file in (self.stdin, self.stdout, self.stderr):
                if file is not None:
                    file.close()
            if self.netns is not None:
                self.netns.close()
            self._parked = False
            if self._child is not None:
                self._child.close_channel()
                self._child.close_pidfd()

    def _abandon(self) -> None:
        """Kill, collect, close: nothing of it stays. In a fork of the process that made it, only close."""
        if self.pidfd < 0:
            return
        try:
            if self._owner == os.getpid():
                self.kill()
                kernel.has_ended(self.pidfd, None)
                self._collect_if_possible()
        finally:
            self.close()

    def _collect_if_possible(self) -> None:
        """Its status may be lost to somebody who waits for every child; here nobody asks for it."""
        try:
            self._collect()
        except KernelError:
            pass

    def __del__(self) -> None:
        if getattr(self, "_child", None) is None or self.pidfd < 0:
            return
        if self._owner == os.getpid():
            if self._parked or self._written_maps is not None:      # nobody can tell it to go any more
                self.kill()
            if kernel.has_ended(self.pidfd, _DROPPED_TIMEOUT if self._parked else 0):
                self._collect_if_possible()
        self.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is not None or self._parked:
                self.kill()
            if self.stdin is not None:
                self.stdin.close()
            self.wait()
            self.close()
        except BaseException:
            self._abandon()
            raise

    def __repr__(self) -> str:
        state = "held" if self._parked else "running" if self.returncode is None else f"returned {self.returncode}"
        return f"<{type(self).__name__} {self.pid} {os.fsdecode(self.args[0])!r} {state}>"


def spawn(argv: Sequence[str], *, new: Iterable[str] = (), join: Optional[Mapping[str, Joinable]] = None,
          hold: bool = False, **options: Any) -> Process:
    """Run a command in new namespaces, in existing ones, or both; like subprocess.Popen, fail closed.

    `new`: of "user", "net", "pid", "mnt", "uts", "ipc", "cgroup", "time". `join`: {kind: Netns, path or descriptor},
    entered first. `hold`: return with the child parked before execve; `go()` lets it run. `uid_map`, `gid_map`:
    {inside: outside} or (inside, outside, count) tuples; without them container root is nobody (if the caller is root)
    or the caller. `setgroups`: whether setgroups(2) stays allowed inside; None: where the kernel lets it.
    `capabilities`: names from capabilities(7), exactly these in all five sets. `no_new_privs`, `env` (None: the
    caller's), `cwd`, `stdin`, `stdout`, `stderr` (None: the caller's; a descriptor, a file, PIPE, DEVNULL, STDOUT),
    `pass_fds`: the only other descriptors it gets. `pdeathsig`: sent to it when the calling *thread* ends. `cgroup`:
    directory of a cgroup v2. `rlimits`: {resource.RLIMIT_*: (soft, hard)}. `new_session`: no controlling terminal.

    Raises UsageError before any system call; KernelError with `.step` otherwise, and then nothing is left.
    clone(2), user_namespaces(7), network_namespaces(7).
    """
    process = Process(argv, new=new, join=join, **options)
    return launch(process, hold)


def launch(process: Process, hold: bool) -> Process:
    """Take a fresh Process to where the caller wants it. Nothing is left of it on an error."""
    process.prepare()
    if not hold:
        try:
            process.go()
        except BaseException:
            process._abandon()
            raise
    return process


# --- what the caller said, as C wants it ---

def _first(ranges: Tuple[idmap.Range, ...]) -> int:
    """Who it is inside: root if there is one."""
    return 0 if idmap.outside_of(ranges, 0) is not None else ranges[0].inside


def _kinds(new: Iterable[str]) -> Tuple[str, ...]:
    if isinstance(new, str):
        raise UsageError(f"new {new!r}: expected a set of namespace kinds")
    for kind in new:
        if kind not in kernel.CLONE_FLAGS:
            raise UsageError(f"new {kind!r}: expected one of {', '.join(sorted(kernel.CLONE_FLAGS))}")
    return tuple(sorted(set(new)))


def _candidates(argv: Tuple, env: Optional[Mapping], cwd: Optional[str], foreign_root: bool) -> Tuple[str, ...]:
    if foreign_root:                    # what is there can only be seen from inside
        name = os.fsdecode(argv[0])
        return (name,) if "/" in name else tuple(os.path.join(path, name) for path in os.get_exec_path(env) if path)
    return find_command(argv, env, cwd)


def _environment(env: Optional[Mapping]) -> List[bytes]:
    items = os.environb.items() if env is None else env.items()
    result = []
    for key, value in items:
        entry = os.fsencode(key) + b"=" + os.fsencode(value)
        if b"\0" in entry or b"=" in os.fsencode(key):
            raise UsageError(f"env {key!r}: expected no NUL, and no = in a name")
        result.append(entry)
    return result


def _joins(join: Mapping[str, Joinable], opened: List[int]) -> List[Dict[str, int]]:
    rows = []
    for kind in _kinds(join):
        target = join[kind]
        if isinstance(target, Netns):
            fd = target.fd
        elif isinstance(target, int) and not isinstance(target, bool):
            fd = target
        else:
            fd = kernel.open_namespace(os.fspath(target), kind).detach()
            opened.append(fd)
        rows.append((_JOIN_ORDER.index(kind), {"fd": fd, "type": kernel.CLONE_FLAGS[kind]}))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def _open_cgroup(cgroup: Union[int, str, os.PathLike], opened: List[int]) -> int:
    if isinstance(cgroup, int):
        return cgroup
    with kernel.refused(f"open cgroup {os.fspath(cgroup)}"):
        fd = os.open(os.fspath(cgroup), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.append(fd)
    return fd


def _rlimits(rlimits: Optional[Mapping[int, Tuple[int, int]]]) -> List[Dict[str, int]]:
    return [{"resource": int(resource), "soft": soft % 2**64, "hard": hard % 2**64}
            for resource, (soft, hard) in (rlimits or {}).items()]


def _descriptors(streams: Mapping[str, Any], pass_fds: Iterable[int], opened: List[int],
                 pipes: Dict[str, int]) -> List[Dict[str, int]]:
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
                read, write = os.pipe2(os.O_CLOEXEC)
            theirs, ours = (read, write) if target == 0 else (write, read)
            opened.append(theirs)
            pipes[name] = ours
            sources[target] = theirs
        elif stream == DEVNULL:
            sources[target] = _devnull(opened)
        elif stream == STDOUT:
            if target != 2 or 1 not in sources:
                raise UsageError(f"{name} STDOUT: expected it for stderr only, with a stdout to follow")
            sources[target] = sources[1]
        else:
            sources[target] = stream if isinstance(stream, int) else stream.fileno()
    for fd in pass_fds:
        if fd < 3 or not _is_open(fd):
            raise UsageError(f"pass_fds {fd!r}: expected open descriptors from 3 on")
        sources[fd] = fd
    return [{"source": source, "target": target} for target, source in sorted(sources.items())]


def _devnull(opened: List[int]) -> int:
    with kernel.refused(f"open {os.devnull}"):
        opened.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    return opened[-1]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
