"""Those who go in our stead: children that become commands, visitors that open a socket or a sysctl somewhere else.

A `Child` is what C knows of one launch, from the moment of the call, whatever Python is doing; `visit` comes back with
a socket, `sysctls` with what was read. Knows the file that a child executes (csrc/image.c), and turns reports into
steps. Knows no policy: process.py does.
"""

from __future__ import annotations

import _thread as threading             # its locks
import errno
import fcntl
import os

from nsnet import caller
from nsnet.errors import KernelError, UsageError
from nsnet.kernel import EXTENSION, Descriptor, ffi, lib, refused, step_name
from nsnet.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence, Tuple, TypeAlias


_MFD_EXEC = 0x10                            # <linux/memfd.h>, Linux 6.3
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF        # <linux/fcntl.h>: against sealing, shrinking, growing and writing

SYSCTL_BYTES = 1 << 14                      # of one that is read; the kernel makes room for as much before it looks
MOST_THREADS = lib.NSNET_MOST_THREADS
VISIT_BYTES = 1 << 16                       # of what a visit is told: one message to a child, far below wmem_default

_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


class _Image:
    """What a child executes: the file of the C extension as it was when this module was loaded, in sealed memory.

    Not the file itself: whoever comes to see the child while it executes it, as root of a container may that the child joins,
    could open it for writing through /proc/PID/exe, and change what this machine runs (CVE-2019-5736). And its path may lead
    elsewhere by now (chroot). The descriptor is looked at before use and made anew if it is gone: a program that closes all of
    its descriptors may have given the number to another file. Without an image a child is a copy of this process's memory.

    Made for the first child, from the file that is held open since this module was loaded: a new version under its name, or
    a chroot, changes nothing. One that was written to meanwhile makes no image: its time says so, and then the code that is
    mapped from it is another too. Its content is kept from then on.
    """

    def __init__(self, path: str):
        self._path, self._content = path, b""
        self._file, self._stamp = Descriptor(), None
        self._descriptor, self._identity = Descriptor(), None
        self.renew_lock()
        if lib.nsnet_has_image():
            try:
                self._file = Descriptor.open(path, os.O_RDONLY)
                self._stamp = _stamp_of(self._file)
            except OSError:
                pass

    def renew_lock(self) -> None:
        """In the child of a fork: a thread that exists no more may have held it."""
        self._lock = threading.RLock()

    def fileno(self) -> int:
        """Its descriptor, which is not to be closed; -1 if there is none."""
        with self._lock:
            if not self._is_there():
                self._descriptor.detach()           # somebody closed it; the number may be another file's
                self._make()
            return -1 if self._descriptor.closed else self._descriptor.fileno()

    def _is_there(self) -> bool:
        try:
            return not self._descriptor.closed and _identity_of(self._descriptor) == self._identity
        except OSError:
            return False

    def _make(self) -> None:
        if not self._content and self._stamp is not None:
            self._content = self._read()
        if not self._content:
            return
        try:
            made = self._memory(_MFD_EXEC)
        except OSError as error:
            if error.errno != errno.EINVAL:         # before Linux 6.3 it is executable without being asked
                return
            made = self._memory(0)
        self._descriptor, self._identity = made, _identity_of(made)

    def _read(self) -> bytes:
        """The file's content, b"" if it is not the same any more."""
        try:
            ours = _stamp_of(self._file)[:2] == self._stamp[:2]
        except (OSError, UsageError):
            ours = False
        if not ours:                                # somebody closed it, likewise
            self._file.detach()
            try:
                self._file = Descriptor.open(self._path, os.O_RDONLY)
            except OSError:
                return b""
        with self._file, open(self._file.fileno(), "rb", closefd=False) as file:
            content = file.read()
            return content if _stamp_of(self._file) == self._stamp else b""

    def _memory(self, flags: int) -> Descriptor:
        made = Descriptor.of(os.memfd_create, "nsnet", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
        with open(made.fileno(), "wb", closefd=False) as file:
            file.write(self._content)
        fcntl.fcntl(made.fileno(), _F_ADD_SEALS, _ALL_SEALS)
        return made


def _identity_of(descriptor: Descriptor) -> Tuple[int, int]:
    found = os.fstat(descriptor.fileno())
    return found.st_dev, found.st_ino


def _stamp_of(descriptor: Descriptor) -> Tuple[int, ...]:
    """Which file it is, and whether it is as it was. Its ctime would change with a new version in its place, too."""
    found = os.fstat(descriptor.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


image = _Image(EXTENSION)
os.register_at_fork(after_in_child=lambda: image.renew_lock())


class Report(NamedTuple):
    """What a child says. `step` None: it has exec'd or ended. `error`: errno, 0 if it has come that far."""

    step: Optional[str]
    error: int


_WORDS = ("paths", "argv", "envp")
_STRINGS = ("cwd", "uid_map", "gid_map", "hostname", "oom_score_adj")
_ROWS = {"joins": "struct nsnet_ns_join[]", "moves": "struct nsnet_fd_move[]", "groups": "uint32_t[]"}


def _fill(struct: Any, spec: dict, keep: List[Any]) -> None:
    """Fields as Python has them; what their pointers point to is to be kept as long as the struct."""
    for name, value in spec.items():
        if name in _WORDS:
            keep.append([ffi.new("char[]", os.fsencode(word)) for word in value])
            room = name == "envp"               # for one in front
            array = ffi.new("char *[]", [ffi.NULL] * room + keep[-1] + [ffi.NULL])
            keep.append(array)
            if name == "paths":
                struct.n_paths = len(value)
            value = array + 1 if room else array
        elif name in _ROWS:
            setattr(struct, f"n_{name}", len(value))
            value = ffi.new(_ROWS[name], value or 1)
            keep.append(value)
        elif name in _STRINGS and value is not None:
            value = ffi.new("char[]", os.fsencode(value))
            keep.append(value)
        elif name == "stack_limit" and value is not None:
            value = ffi.new("struct nsnet_rlimit *", value)
            keep.append(value)
        setattr(struct, name, ffi.NULL if value is None else value)


class Child:
    """A process made by clone3, from the moment of the call.

    `spec`: the fields of struct nsnet_spawn, strings and lists as Python has them. Descriptors, pid and status are in the
    struct, where C writes them in one call: an exception raised by a signal handler loses nothing. When the struct goes, C ends a
    child that has not come to its command, and closes everything.
    """

    def __init__(self, spec: dict):
        self._keep: List[Any] = []
        job = self._job = ffi.gc(ffi.new("struct nsnet_spawn *", {
            "image_fd": image.fileno(), "pid": -1, "pidfd": -1, "channel": -1, "passed_fd": -1, "parent_fd": -1,
            "cgroup_fd": -1, "socket_family": -1, "command": {"umask": -1, "cwd_fd": -1}}), lib.nsnet_drop)
        self._report = ffi.new("struct nsnet_report *")
        _fill(job, {name: value for name, value in spec.items() if name != "command"}, self._keep)
        _fill(job.command, spec["command"], self._keep)

    @property
    def pid(self) -> int:
        return self._job.pid

    @property
    def pidfd(self) -> int:
        return self._job.pidfd

    @property
    def ours(self) -> bool:
        """Whether this process made it, and not one that it is a fork of."""
        return self._job.owner == os.getpid()

    @property
    def running(self) -> bool:
        """Whether it has come to its command (and may have ended since)."""
        return self._job.stage == lib.NSNET_STAGE_RUNNING

    def clone(self) -> None:
        error = lib.nsnet_spawn(self._job)
        if error < 0:
            raise KernelError(-error, step_name(self._job.step))
        self._keep.clear()                  # the child has it all; nobody looks where the struct points any more

    def write_maps(self, uid_map: str, gid_map: str, deny_setgroups: bool) -> None:
        step = ffi.new("int *")
        error = lib.nsnet_write_maps(self.number(), int(deny_setgroups), uid_map.encode(), gid_map.encode(), step)
        if error < 0:
            raise KernelError(-error, step_name(step[0]))

    def write_oom_score_adj(self, value: str) -> bool:
        """Of a slot, with the caller's power; False if that is not allowed: then the slot may try."""
        step = ffi.new("int *")
        error = lib.nsnet_write_oom_score_adj(self.number(), value.encode(), step)
        if error < 0 and error != -errno.EACCES:
            raise KernelError(-error, step_name(step[0]))
        return error == 0

    def give(self, spec: dict) -> bool:
        """Give a slot its command: `spec` is that of struct nsnet_command. False: it had ended before. go() says how it went;
        one that `waits` says before that it is ready.
        """
        keep: List[Any] = []
        command = ffi.new("struct nsnet_command *", {"umask": -1, "cwd_fd": -1})
        _fill(command, spec, keep)
        result = self._again(lib.nsnet_give, command)
        if result < 0 and result != -errno.ECHILD:
            raise self._broken(result, "handover")
        return result == 0

    @property
    def untouched(self) -> bool:
        """Whether it is a slot that has not been told anything."""
        return self._job.stage == lib.NSNET_STAGE_CHILD and not self._job.given

    def number(self) -> int:
        """What /proc here calls it. It is our own child, not waited for yet, so that is nobody else's number."""
        number = caller.proc_number(self.pidfd, self.pid)
        if number <= 0:
            raise KernelError(errno.ESRCH, "proc", "the child is not in /proc, which is of another pid namespace")
        return number

    def receive(self) -> Report:
        """The next report. `passed` has the descriptor that came with it."""
        result = self._again(lib.nsnet_receive, self._report)
        if result < 0:
            raise self._broken(result, "handover")
        return Report(step_name(self._report.step), self._report.error) if result else Report(None, 0)

    def passed(self) -> Descriptor:
        """A descriptor of what the child passed; the caller's."""
        with refused("handover"):
            return Descriptor.of(os.dup, self._job.passed_fd)

    def go(self) -> Optional[Report]:
        """Let it run its command; what failed, or None. Report(None, 0): it has ended before."""
        result = self._again(lib.nsnet_go, self._report)
        if result == -errno.ECHILD:
            return Report(None, 0)
        if result < 0:
            raise self._broken(result, "go")
        return Report(step_name(self._report.step), self._report.error) if result else None

    @staticmethod
    def _broken(result: int, step: str) -> KernelError:
        return KernelError(-result, step, "somebody has stopped the child" if result == -errno.ECANCELED else None)

    def _again(self, call: Callable, *more: Any) -> int:
        """Until no signal comes in between; handlers run there."""
        while True:
            result = call(self._job, *more)
            if result != -errno.EINTR:
                return result

    def collect(self) -> Optional[int]:
        """The exit status of one that has ended, negative for the signal that ended it.

        Raises KernelError with ECHILD if somebody else collected it and the kernel does not tell it again (before Linux 6.15).
        """
        if self.pidfd < 0 and not self._job.ended:
            raise KernelError(errno.ECHILD, "wait", "the process is closed")
        error = lib.nsnet_collect(self._job)
        if error < 0:
            raise KernelError(-error, "wait")
        if self._job.ended == 2:
            raise KernelError(errno.ECHILD, "wait", f"somebody else collected process {self.pid}; its status is lost")
        return self._job.status if self._job.ended else None

    def end(self) -> None:
        """Kill it if it runs, collect it, let go of everything; in a fork of the process that made it, let go.

        One that may not be killed (a setuid program) is let go as well.
        """
        self._again(lib.nsnet_end)

    def drop(self) -> None:
        """Let go of everything. A parked child ends; a command runs on, and nobody collects it."""
        lib.nsnet_drop(self._job)


def visit(family: int, type: int, protocol: int, *, netns_fd: int = -1, userns_fd: int = -1,
          maps: Optional[Tuple[str, str]] = None) -> Descriptor:
    """A socket made inside a network namespace, without moving the caller.

    `netns_fd`: the namespace; -1 makes a new one. `userns_fd`: the user namespace to enter first. `maps`: (uid_map,
    gid_map) of a new user namespace that is to own the new network namespace.
    """
    keep = [ffi.new("char[]", text.encode()) for text in maps] if maps else [ffi.NULL, ffi.NULL]
    job = ffi.new("struct nsnet_visit *", {
        "image_fd": image.fileno(), "userns_fd": userns_fd, "netns_fd": netns_fd, "new_userns": 1 if maps else 0,
        "uid_map": keep[0], "gid_map": keep[1], "family": family, "type": type, "protocol": protocol})
    made = Descriptor.of(lib.nsnet_visit, job)
    if made.fileno() < 0:
        raise KernelError(-made.detach(), step_name(job.step))
    return made


class Visits:
    """Sockets in as many new network namespaces, made one after another in the background: by threads, or by one child.

    `count`: 1 or more. `threads`: at most MOST_THREADS. `userns_fd`, `maps`: as above; then it is a child that makes them, all
    owned by the one user namespace. What take() has not given is closed with close(), or when the last reference goes.
    For one thread, which may do something else meanwhile: what is made is in the struct, where no exception can lose it.
    """

    def __init__(self, count: int, family: int, type: int, protocol: int, *, threads: int, userns_fd: int = -1,
                 maps: Optional[Tuple[str, str]] = None):
        keep = [ffi.new("char[]", text.encode()) for text in maps] if maps else [ffi.NULL, ffi.NULL]
        self._job = ffi.gc(ffi.new("struct nsnet_visits *", {
            "visit": {"image_fd": image.fileno(), "userns_fd": userns_fd, "netns_fd": -1, "new_userns": 1 if maps else 0,
                      "uid_map": keep[0], "gid_map": keep[1], "family": family, "type": type, "protocol": protocol},
            "count": count, "n_threads": min(threads, count)}), lib.nsnet_visits_drop)
        self.by_child = userns_fd >= 0 or maps is not None
        error = lib.nsnet_visits_begin(self._job)
        if error < 0:
            self.close()
            raise KernelError(-error, step_name(self._job.step))

    def take(self) -> Descriptor:
        """The next one, when it is there. Raises KernelError, for one that could not be made and for one more than there are."""
        while True:
            made = Descriptor.of(lib.nsnet_visits_take, self._job)
            if made.fileno() >= 0:
                return made
            error = -made.detach()
            if error != errno.EINTR:            # else handlers have run by now
                raise KernelError(error, step_name(self._job.step))

    def close(self) -> None:
        """Make no more of them, and close those that were not taken. May be called twice."""
        lib.nsnet_visits_drop(self._job)

    def __enter__(self) -> "Visits":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


Row: TypeAlias = "Tuple[str, Optional[str]]"


def sysctls(rows: Sequence[Row], *, netns_fd: int = -1, userns_fd: int = -1) -> List[Tuple[int, bytes]]:
    """Files of /proc/sys/net, read and written inside a network namespace, without moving the caller.

    `rows`: (path, what to write there or None to read it), done in this order and in one visit, unless they are very
    many. `netns_fd`, `userns_fd`: as above, but -1 is the calling thread's own namespace. Returns (errno or 0, what was
    read) for each; one that could not be written is the last. Raises KernelError if nobody can go there.
    """
    done: List[Tuple[int, bytes]] = []
    while len(done) < len(rows):
        part = _fitting(rows[len(done):])
        done += _sysctls(part, netns_fd, userns_fd)
        if done[-1][0] and rows[len(done) - 1][1] is not None:
            break
    return done


def _fitting(rows: Sequence[Row]) -> Sequence[Row]:
    """As many of the first ones as one visit takes."""
    left = VISIT_BYTES
    for count, (path, value) in enumerate(rows):
        left -= ffi.sizeof("struct nsnet_sysctl") + len(path) + len(value or "")
        if left < 0 and count:
            return rows[:count]
    return rows


def _sysctls(rows: Sequence[Row], netns_fd: int, userns_fd: int) -> List[Tuple[int, bytes]]:
    room = _new_uncleared("char[]", SYSCTL_BYTES * sum(value is None for _, value in rows))
    keep: List[Any] = []
    table = ffi.new("struct nsnet_sysctl[]", len(rows))
    free = room
    for row, (path, value) in zip(table, rows):
        keep.append(ffi.new("char[]", path.encode()))
        row.path = keep[-1]
        if value is None:
            row.room, row.size = free, SYSCTL_BYTES
            free += SYSCTL_BYTES
        else:
            keep.append(ffi.new("char[]", value.encode()))
            row.value = keep[-1]
    if netns_fd < 0:
        lib.nsnet_sysctls(table, len(rows))
    else:
        job = ffi.new("struct nsnet_visit *", {
            "image_fd": image.fileno(), "userns_fd": userns_fd, "netns_fd": netns_fd, "family": -1,
            "sysctls": table, "n_sysctls": len(rows)})
        error = lib.nsnet_visit(job)
        if error < 0:
            raise KernelError(-error, step_name(job.step))
    done: List[Tuple[int, bytes]] = []
    for row in table:
        done.append((max(-row.result, 0), ffi.unpack(row.room, row.result) if row.result > 0 else b""))
        if row.result < 0 and row.value:
            break
    return done
