"""A process in namespaces of its own: `spawn`, and the `Process` that it returns.

Knows how a child is taken from its clone to its command; signals, streams, and reaping by pidfd. What it is given is job.py's;
csrc/child.c knows the order of steps inside. Nothing here knows about bridges or addresses.
"""

from __future__ import annotations

import _signal as signal                # its numbers; signal itself makes enums of them
import _thread as threading             # its locks
import errno
import os
import resource
import select
import sys
import time
from contextlib import suppress

from nsnet import clone, idmap, kernel, subids
from nsnet.errors import KernelError, UsageError
from nsnet.hints import why_refused
from nsnet.job import DEVNULL, PIPE, STDOUT, Command, Job, Joinable, own_maps
from nsnet.netns import Netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, IO, Iterable, List, Mapping, Optional, Sequence, Set, Tuple, Union

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Process", "launch", "namespaces", "own_maps", "spawn"]

_READ_BYTES = 1 << 16
_left: Set[Tuple[int, Optional[int]]] = set()       # (pid, when it started) of commands that run on with nobody to wait for them


class Process:
    """A process made by `spawn`, whose options these are.

    `args`: its command. `pid`, `pidfd`: the descriptor belongs to this object. `netns`: its new network namespace, None
    if it got none. `returncode`: None while it runs, then the exit status, or minus the signal that ended it. `stdin`,
    `stdout`, `stderr`: binary files where PIPE was asked for. As a context manager it waits for the process at the end,
    or kills it if the block ends by an exception.
    """

    def __init__(self, argv: Sequence[str], **options: Any):
        self.returncode: Optional[int] = None
        self.stdin: Optional[IO[bytes]] = None
        self.stdout: Optional[IO[bytes]] = None
        self.stderr: Optional[IO[bytes]] = None
        self.netns: Optional[Netns] = None
        self._child: Optional[clone.Child] = None
        self._userns: Optional[kernel.Descriptor] = None
        self._reaping = threading.RLock()           # a signal handler may ask while its thread does
        self._telling = threading.RLock()           # whoever speaks with a parked child; before _reaping
        self._parked = False
        self._slot = False                          # parked without a command
        self._where: Optional[Tuple[int, int]] = None       # a slot's directory; None: not known
        self._cwd: Optional[str] = None
        self._talk: Optional[_Talk] = None
        self._job: Optional[Job] = None
        job = Job(argv, **options)
        _collect_left()
        try:
            self.args, self._slot = job.argv, job.command is None
            self._child = clone.Child(job.spec)
            here = _here() if self._slot else None
            with _explained():
                self._child.clone()
            if self._slot:
                self._where = here if here == _here() else None
            else:
                self._own(job.command)
            self._job = job
        except BaseException:
            if job.command is not None:
                job.command.close_files()
            self._abandon()
            raise
        finally:
            job.close()

    def prepare(self) -> None:
        """Write the id maps and wait until the child is parked in its namespaces. `spawn` does this; again it does nothing."""
        job, self._job = self._job, None
        if job is None:
            return
        try:
            with _explained():
                self._wait_until_parked(job)
                self._parked = True
                self._set_limits(job.command)
                if job.place.wants_netns:
                    self.netns = Netns(kernel.RtnlSocket(self._child.passed()), fresh=True)
        except BaseException:
            self._abandon()
            raise

    def _wait_until_parked(self, job: Job) -> None:
        while True:
            step, error = self._child.receive()
            if step == "userns" and not error and job.place.maps is not None:
                (uids, gids), deny = job.place.maps
                if job.place.by_program:
                    subids.write_maps(self._child.number(), uids, gids, deny_setgroups=deny)
                else:
                    self._child.write_maps(idmap.text(uids), idmap.text(gids), deny)
            elif step == "ready" and not error:
                return
            else:
                self._failed(step, error)

    def _own(self, command: Command) -> None:
        """The ends of its pipes are this object's."""
        self._cwd = command.spec["cwd"]
        for name, file in command.files.items():
            setattr(self, name, file)

    def _set_limits(self, command: Optional[Command]) -> None:
        for limit in () if command is None else command.rlimits:
            self._set_limit(limit["resource"], _signed(limit["soft"]), _signed(limit["hard"]))

    def _set_limit(self, number: int, soft: int, hard: int) -> None:
        try:
            resource.prlimit(self.pid, number, (soft, hard))
        except (OSError, ValueError) as error:              # ValueError: a hard limit above one's own, or below the soft one
            reason = error.errno if isinstance(error, OSError) and error.errno else (
                errno.EPERM if "not allowed" in str(error) else errno.EINVAL)
            raise KernelError(reason, "rlimit", f"resource {number}: {soft}, {hard}") from None

    def go(self) -> None:
        """Let a held process run its command; returns when execve has succeeded.

        Raises KernelError with the step that failed in the child ("execve", "capabilities", "chdir", ...); the process
        is gone then.
        """
        with self._telling:
            self._go()

    def _go(self) -> None:
        if not self._parked or self._slot:
            raise UsageError(f"process {self.pid}: " + ("it has no command yet" if self._slot else "it has gone already"))
        if self.returncode is not None:
            raise KernelError(errno.ECHILD, "go", f"process {self.pid} has ended: {_end_of(self.returncode)}")
        try:
            failed = self._child.go()
            if failed is not None:
                self._failed(*failed)
        except KernelError:
            self._abandon()
            raise
        self._parked = False

    def take(self, command: Command, hold: bool = False) -> bool:
        """For one made with slot=True: give it its command, which runs when this returns (`hold`: is parked again, for go()).

        False if the child had ended before: nothing has happened then. Raises KernelError as go() does. The caller closes
        the command.
        """
        if not self._slot:
            raise UsageError(f"process {self.pid}: expected a slot that has no command yet")
        with self._telling:
            return self._take(command, hold)

    def _take(self, command: Command, hold: bool) -> bool:
        waits = hold or bool(command.rlimits)       # else it would be off before they are set
        spec = {**command.spec, "waits": int(waits)}
        try:
            if command.oom_score_adj is not None:
                if self.poll() is not None or self.pidfd < 0:
                    return False
                self._slot = False                  # from here on it is nobody else's
                if not self._child.write_oom_score_adj(command.oom_score_adj):
                    spec["oom_score_adj"] = command.oom_score_adj
            if self._where != _here():
                spec.update(command.from_here())
            with self._reaping:                     # lest its channel is closed, and another file's, in between
                if self.pidfd < 0 or not self._child.give(spec):
                    return False
            self._slot = False
            self.args, self._cwd = command.argv, command.spec["cwd"]
            if waits:
                step, error = self._child.receive()
                if step != "ready" or error:
                    self._failed(step, error)
                self._set_limits(command)
        except KernelError:
            if not self.is_slot:
                self._abandon()
            raise
        if not hold:
            self.go()
        self._own(command)                          # last: who fails may give the same command to another
        return True

    @property
    def is_slot(self) -> bool:
        """Whether it is parked without a command."""
        return self._slot and self._child.untouched

    def _failed(self, step: Optional[str], error: int) -> None:
        if step is None:                # it ended without a word: killed, or out of memory
            kernel.has_ended(self.pidfd, None)
            self._collect_if_possible()
            raise KernelError(errno.ECHILD, "handover", f"the child ended before execve: {_end_of(self.returncode)}")
        detail = {"execve": self.args[0], "chdir": self._cwd}.get(step)
        raise KernelError(error, step, None if detail is None else repr(os.fsdecode(detail)))

    @property
    def pid(self) -> int:
        """The process id in the caller's pid namespace; -1 before there is one."""
        return -1 if self._child is None else self._child.pid

    @property
    def pidfd(self) -> int:
        """The process as a descriptor (pidfd_open(2)), for poll and pidfd_send_signal; -1 after close()."""
        return -1 if self._child is None else self._child.pidfd

    @property
    def moves(self) -> bool:
        """Whether it gets another pid and pidfd in prepare(): only a second clone goes to another pid namespace."""
        return self._job is not None and self._job.place.moves

    @property
    def held(self) -> bool:
        """Whether it is parked and waits for go()."""
        return self._parked and self.returncode is None

    @property
    def userns(self) -> kernel.Descriptor:
        """Its user namespace, as a descriptor (nsfs) that belongs to this object: for `join`, setns(2) or ioctl_ns(2).

        Raises KernelError if the process has ended and nothing else tells, or if the caller may not look (ptrace(2)).
        """
        if self._userns is None or self._userns.closed:
            found = None if self.netns is None else kernel.owner_userns(self.netns.fd)
            self._userns = namespaces_file(self, "user") if found is None else found
        return self._userns

    def poll(self) -> Optional[int]:
        """The returncode if it has ended, else None."""
        with self._reaping:
            if self.returncode is None and self.pidfd >= 0 and kernel.has_ended(self.pidfd):
                self._collect()
            return self.returncode

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait for the end, at most `timeout` seconds, and return the returncode.

        Raises TimeoutError, and KernelError (ECHILD) if another part of the program collected the status and this
        kernel does not tell it twice.
        """
        watched = self._watched()
        if watched is not None:
            with watched:
                if not kernel.has_ended(watched.fileno(), timeout):
                    raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            self._collect()
        return self.returncode

    def _watched(self) -> Optional[kernel.Descriptor]:
        """A pidfd of one's own to wait by, for another thread may close ours meanwhile; None if the returncode is known."""
        with self._reaping:
            if self.returncode is not None:
                return None
            if self.pidfd < 0:
                raise KernelError(errno.ECHILD, "wait", "the process is closed")
            return kernel.Descriptor.of(os.dup, self.pidfd)

    def _collect(self) -> None:
        with self._reaping:             # of two threads that see its end one collects it
            if self.returncode is None:
                self.returncode = self._child.collect()

    async def wait_async(self) -> int:
        """The same for asyncio: `await process.wait_async()`. Cancel it as you like; it takes nothing from others that wait."""
        import asyncio                      # here: it takes longer to import than all of nsnet

        watched = self._watched()                   # its own: a loop knows one reader for each descriptor
        if watched is not None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            with watched:
                loop.add_reader(watched.fileno(), ended.set)
                try:
                    await ended.wait()
                finally:
                    loop.remove_reader(watched.fileno())
            self._collect()
        return self.returncode

    def communicate(self, input: Optional[bytes] = None, timeout: Optional[float] = None
                    ) -> Tuple[Optional[bytes], Optional[bytes]]:
        """Write `input` to stdin and close it, read stdout and stderr to their ends, wait; (stdout, stderr), None for one that
        is no PIPE.

        `timeout` in seconds: TimeoutError then, and what was read is kept for the next call, which takes no input.
        """
        if self._talk is None:
            if input is not None and self.stdin is None:
                raise UsageError("input: expected stdin=PIPE")
            if not isinstance(input, (bytes, bytearray, memoryview, type(None))):
                raise UsageError(f"input {input!r:.80}: expected bytes")
            self._talk = _Talk(self.stdin, self.stdout, self.stderr, input or b"")
        elif input is not None:
            raise UsageError("input: expected none, the first call has written it")
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._talk.run(deadline):
            raise TimeoutError(f"process {self.pid} still writes or reads after {timeout} s")
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return self._talk.of(self.stdout), self._talk.of(self.stderr)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended. The pidfd makes sure that nobody else gets it."""
        with self._reaping:                         # lest the descriptor is closed, and another process's, in between
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
            if self._userns is not None:
                self._userns.close()
            self._parked = False
            if self._child is not None:
                self._leave()
                self._child.drop()

    def _leave(self) -> bool:
        """A command that runs on is collected by a later spawn, as subprocess does; whether it does run on."""
        if not self._child.running or self.returncode is not None or self.pidfd < 0 or not self._child.ours:
            return False
        if kernel.has_ended(self.pidfd):
            return False
        _left.add((self.pid, kernel.started(self.pid)))
        return True

    def __del__(self) -> None:
        if getattr(self, "_child", None) is not None and not sys.is_finalizing() and self._leave():
            import warnings

            warnings.warn(f"process {self.pid} still runs, and nobody waits for it", ResourceWarning, source=self)

    def _abandon(self) -> None:
        """Kill, collect, close: nothing of it stays. In a fork of the process that made it, only close."""
        if self.pidfd < 0:
            return
        speaking = self._telling if self._child.ours else self._reaping     # a fork does not wait for a thread that it has not
        if self._parked and self._child.ours:
            with suppress(KernelError):     # whom we may not kill is let go
                self.kill()                 # then whoever speaks with it, in another thread, is done at once
        with speaking, self._reaping:       # and whoever waits there finds the returncode
            try:
                self._child.end()
                self._collect_if_possible()
            finally:
                self.close()

    def _collect_if_possible(self) -> None:
        """Its status may be lost to somebody who waits for every child; here nobody asks for it."""
        try:
            self._collect()
        except KernelError:
            pass

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if self._child is None or not self._child.ours:
                self.close()            # a fork of who made it: the command is not its own
                return
            if kind is not None or self._parked:
                self.kill()
            for file in (self.stdout, self.stderr, self.stdin):     # who still writes learns that nobody reads
                if file is not None:
                    file.close()
            self.wait()
            self.close()
        except BaseException:
            self._abandon()
            raise

    def __repr__(self) -> str:
        state = f"returned {self.returncode}" if self.returncode is not None else "held" if self._parked else "running"
        return f"<{type(self).__name__} {self.pid} {os.fsdecode(self.args[0])!r} {state}>"


def spawn(argv: Sequence[str], *, new: Iterable[str] = (), join: Optional[Mapping[str, Joinable]] = None,
          uid_map: Optional[idmap.Maps] = None, gid_map: Optional[idmap.Maps] = None, setgroups: Optional[bool] = None,
          user: Union[None, int, str] = None, group: Union[None, int, str] = None,
          groups: Optional[Iterable[Union[int, str]]] = None, capabilities: Iterable[str] = (), no_new_privs: bool = True,
          hold: bool = False, env: Optional[Mapping] = None, cwd: Union[None, str, os.PathLike] = None,
          stdin: Any = None, stdout: Any = None, stderr: Any = None, pass_fds: Iterable[int] = (), pdeathsig: int = 0,
          cgroup: Union[None, int, str, os.PathLike] = None, rlimits: Optional[Mapping[int, Tuple[int, int]]] = None,
          umask: Optional[int] = None, oom_score_adj: Optional[int] = None, hostname: Optional[str] = None,
          new_session: bool = True, new_keyring: bool = True, proc: bool = False, loopback: bool = True) -> Process:
    """Run a command in new namespaces, in existing ones, or both; like subprocess.Popen, fail closed.

    `new`: of "user", "net", "pid", "mnt", "uts", "ipc", "cgroup", "time". `join`: {kind: path, descriptor, or Netns},
    entered first; a Netns under "user" means the user namespace that owns it. `hold`: return with the child parked before
    execve; `go()` lets it run.

    Who it is: `uid_map`, `gid_map`: {inside: outside} or (inside, outside, count) tuples; without them container root is
    nobody (if the caller is root) or the caller. More than its own ids a caller without CAP_SETUID and CAP_SETGID gets from
    newuidmap(1), which is run for it: rootless_maps() has its ranges. `setgroups`: whether setgroups(2) stays allowed
    inside; None: where the kernel lets it. `user`, `group`, `groups`: ids inside, or names that the caller's passwd(5) and group(5) know; without
    them root in a new or joined user namespace, and else the caller. `capabilities`: names from capabilities(7), exactly
    these in all five sets. `no_new_privs`.

    What it gets: `env` (None: the caller's, as subprocess has it), `cwd`, `stdin`, `stdout`, `stderr` (None: the caller's; a
    descriptor, a file, PIPE, DEVNULL, STDOUT), `pass_fds`: the only other descriptors. `rlimits`: {resource.RLIMIT_*:
    (soft, hard)}. `umask` (None: the caller's). `oom_score_adj`: -1000 to 1000. `cgroup`: directory of a cgroup v2.
    `pdeathsig`: sent to it when the calling *thread* ends. `new_session`: no controlling terminal. `new_keyring`: a session
    keyring of its own; the kernel lets an ordinary user have 200. `hostname`: in a new
    "uts". `proc`: a fresh /proc, in new "pid" and "mnt". `loopback`: lo is up in a new "net".

    Costs the same whatever the caller's size. Raises UsageError before any system call; KernelError with `.step`
    otherwise, and then nothing is left. clone(2), user_namespaces(7), network_namespaces(7).
    """
    options = dict(locals())
    del options["argv"], options["hold"]
    return launch(Process(argv, **options), hold)


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


# --- namespaces of a process ---

def namespaces_file(process: Process, kind: str) -> kernel.Descriptor:
    """A namespace of a process that we made and have not waited for."""
    if process.returncode is not None or process.pidfd < 0:
        raise KernelError(errno.ESRCH, f"process {process.pid}")
    return kernel.open_namespace(f"/proc/{kernel.proc_pid(process.pidfd)}/ns/{kind}", kind)


def namespaces(pid: int) -> Dict[str, kernel.Descriptor]:
    """The namespaces of a running process that are not the caller's, by kind: what `join` takes. The caller closes them.

    Raises KernelError: ESRCH if there is no such process, EACCES if the caller may not look (ptrace(2)).
    """
    found: Dict[str, kernel.Descriptor] = {}
    if isinstance(pid, bool) or not isinstance(pid, int) or not 0 < pid < 2**31:
        raise UsageError(f"pid {pid!r}: expected the number of a process")
    try:
        with kernel.process(pid) as pidfd:
            kernel.still_there(pidfd, pid)
            for kind in kernel.CLONE_FLAGS:
                path = f"/proc/{pid}/ns/{kind}"
                if os.path.exists(f"/proc/self/ns/{kind}"):
                    descriptor = kernel.open_namespace(path, kind)
                    if os.path.samestat(os.fstat(descriptor.fileno()), os.stat(f"/proc/thread-self/ns/{kind}")):
                        descriptor.close()
                    else:
                        found[kind] = descriptor
            kernel.still_there(pidfd, pid)
    except BaseException:
        for descriptor in found.values():
            descriptor.close()
        raise
    return found


# --- odds and ends ---

def _collect_left() -> None:
    """Those that were let go while they ran, and have ended since. By now their number may be another child's."""
    for pid, when in list(_left):
        try:
            if kernel.started(pid) == when and os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        except ChildProcessError:           # somebody else collected it
            pass
        _left.discard((pid, when))


def _here() -> Optional[Tuple[int, int]]:
    """Which directory the caller is in; None if it may not look."""
    try:
        found = os.stat(".")
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _explained:
    """What the kernel refuses in here says why, where this machine is known to."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if isinstance(error, KernelError):
            error.hint = error.hint or why_refused(error.step, error.errno)


def _signed(limit: int) -> int:
    """As resource.prlimit() has RLIM_INFINITY."""
    return limit if limit < 2**63 else limit - 2**64


def _end_of(returncode: Optional[int]) -> str:
    if returncode is None:
        return "how is not known"
    if returncode >= 0:
        return f"status {returncode}"
    import signal                       # here: for the name

    try:
        return signal.Signals(-returncode).name
    except ValueError:                  # a real-time signal
        return f"signal {-returncode}"


class _Talk:
    """The streams of one communicate(), which may take several calls."""

    def __init__(self, stdin: Optional[IO[bytes]], stdout: Optional[IO[bytes]], stderr: Optional[IO[bytes]], data: bytes):
        self._stdin, self._data = stdin, memoryview(data)
        self._read: Dict[IO[bytes], List[bytes]] = {file: [] for file in (stdout, stderr) if file is not None}
        self._open = [file for file in (stdin, *self._read) if file is not None and not file.closed]

    def run(self, deadline: Optional[float]) -> bool:
        """Whether all streams have come to their ends before the deadline."""
        import selectors                # here: of those who launch something, few talk to it

        with selectors.DefaultSelector() as ready:
            for file in self._open:
                ready.register(file, selectors.EVENT_WRITE if file is self._stdin else selectors.EVENT_READ)
            while self._open:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                for key, _ in ready.select(left):
                    if self._step(key.fileobj):
                        ready.unregister(key.fileobj)
                        self._end(key.fileobj)
        return True

    def _step(self, file: Any) -> bool:
        """Write or read once; whether that was the last time."""
        if file is self._stdin:
            try:
                written = os.write(file.fileno(), self._data[:select.PIPE_BUF]) if self._data else 0
            except BrokenPipeError:                     # as subprocess: who does not read does not want it
                written = len(self._data)
            self._data = self._data[written:]
            return not self._data
        data = os.read(file.fileno(), _READ_BYTES)
        self._read[file].append(data)
        return not data

    def _end(self, file: IO[bytes]) -> None:
        self._open.remove(file)
        file.close()

    def of(self, file: Optional[IO[bytes]]) -> Optional[bytes]:
        return None if file is None else b"".join(self._read[file])
