"""Those who go in our stead: the children that become commands, and the visitors that open a socket somewhere else.

A `Child` is what C knows of one launch, from the moment of the call, whatever Python is doing; `visit` comes back with a
socket. Knows the file that a child executes (csrc/image.c), and turns reports into steps. Knows no policy: process.py does.
"""

import errno
import os
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from nsnet.errors import KernelError
from nsnet.kernel import EXTENSION, Descriptor, ffi, lib, proc_pid, step_name


class _Image:
    """The file of the C extension, as it was when this module was loaded: a child executes it.

    By then its path may lead elsewhere (chroot), and a program that closes all its descriptors may have given the number to
    another file; so it is held open, and looked at before use. Without it a child is a copy of this process's memory.
    """

    def __init__(self, path: str):
        self._fd, self._identity = -1, None
        if lib.nsnet_has_image():
            try:
                self._fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                self._identity = self._look()
            except OSError:
                pass

    def _look(self) -> Tuple[int, int]:
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino

    def fileno(self) -> int:
        """Its descriptor, which is not to be closed; -1 if there is none."""
        try:
            return self._fd if self._fd >= 0 and self._look() == self._identity else -1
        except OSError:
            return -1


image = _Image(EXTENSION)


class Report(NamedTuple):
    """What a child says. `step` None: it has exec'd or ended. `error`: errno, 0 if it has come that far."""

    step: Optional[str]
    error: int


class Child:
    """A process made by clone3, from the moment of the call.

    `spec`: the fields of struct nsnet_spawn, strings and lists as Python has them. Descriptors, pid and status are in the
    struct, where C writes them in one call: an exception raised by a signal handler loses nothing. When the struct goes, C ends a
    child that has not come to its command, and closes everything.
    """

    _STRINGS = ("cwd", "uid_map", "gid_map", "hostname")
    _ROWS = {"joins": "struct nsnet_ns_join[]", "moves": "struct nsnet_fd_move[]", "rlimits": "struct nsnet_rlimit[]",
             "groups": "uint32_t[]"}

    def __init__(self, spec: dict):
        self._keep: List[Any] = []
        job = self._job = ffi.gc(ffi.new("struct nsnet_spawn *", {
            "image_fd": image.fileno(), "pid": -1, "pidfd": -1, "channel": -1, "passed_fd": -1, "cgroup_fd": -1,
            "socket_family": -1, "umask": -1}), lib.nsnet_drop)
        self._report = ffi.new("struct nsnet_report *")
        for name, value in spec.items():
            if name in ("paths", "argv", "envp"):
                value = self._words(value, room=name == "envp")
            elif name in self._ROWS:
                setattr(job, f"n_{name}", len(value))
                value = self._kept(ffi.new(self._ROWS[name], value or 1))
            elif name in self._STRINGS:
                value = ffi.NULL if value is None else self._kept(ffi.new("char[]", os.fsencode(value)))
            setattr(job, name, value)
        job.n_paths = len(spec["paths"])

    def _kept(self, value: Any) -> Any:
        self._keep.append(value)
        return value

    def _words(self, words: Sequence, room: bool) -> Any:
        """A NULL-terminated array of strings. `room`: with place for one in front."""
        strings = self._kept([ffi.new("char[]", os.fsencode(word)) for word in words])
        array = self._kept(ffi.new("char *[]", [ffi.NULL] * room + strings + [ffi.NULL]))
        return array + 1 if room else array

    @property
    def pid(self) -> int:
        return self._job.pid

    @property
    def pidfd(self) -> int:
        return self._job.pidfd

    @property
    def running(self) -> bool:
        """Whether it has come to its command (and may have ended since)."""
        return self._job.stage == lib.NSNET_STAGE_RUNNING

    def clone(self) -> None:
        error = lib.nsnet_spawn(self._job)
        if error < 0:
            raise KernelError(-error, step_name(self._job.step))

    def write_maps(self, uid_map: str, gid_map: str, deny_setgroups: bool) -> None:
        step = ffi.new("int *")
        error = lib.nsnet_write_maps(self.number(), int(deny_setgroups), uid_map.encode(), gid_map.encode(), step)
        if error < 0:
            raise KernelError(-error, step_name(step[0]))

    def number(self) -> int:
        """What /proc here calls it. It is our own child, not waited for yet, so that is nobody else's number."""
        number = proc_pid(self.pidfd)
        if number <= 0:
            raise KernelError(errno.ESRCH, "proc", "the child is not in /proc, which is of another pid namespace")
        return number

    def receive(self) -> Report:
        """The next report. `passed` has the descriptor that came with it."""
        result = self._again(lib.nsnet_receive)
        if result < 0:
            raise KernelError(-result, "handover")
        return Report(step_name(self._report.step), self._report.error) if result else Report(None, 0)

    def passed(self) -> Descriptor:
        """A descriptor of what the child passed; the caller's."""
        return Descriptor.of(os.dup, self._job.passed_fd)

    def go(self) -> Optional[Report]:
        """Let it run its command; what failed, or None. Report(None, 0): it has ended before."""
        result = self._again(lib.nsnet_go)
        if result == -errno.ECHILD:
            return Report(None, 0)
        if result < 0:
            raise KernelError(-result, "go")
        return Report(step_name(self._report.step), self._report.error) if result else None

    def _again(self, call: Callable) -> int:
        """Until no signal comes in between; handlers run there."""
        while True:
            result = call(self._job, self._report)
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
        """Kill it if it runs, collect it, let go of everything; in a fork of the process that made it, let go."""
        lib.nsnet_end(self._job)

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
