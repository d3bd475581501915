"""Commands as forks of a process that has all of nsnet loaded, each of which strace may disturb at one call.

So a command takes milliseconds, and all of its system calls are its own. What it leaves running becomes its runner's
child (PR_SET_CHILD_SUBREAPER): no process can be overlooked. The witnesses inside namespaces are run the same way.
"""

import contextlib
import errno
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile

import nsnet
import nsnet.cli
from live_helpers import LIBC, PATIENCE, check, go_inside, in_parallel, is_gone, which

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_PTRACER = 4, 36, 0x59616d61
OTHER_FD = 200                                  # of the namespace that is attached, in each command
WORKERS = 4


# --- witnesses, in a network namespace ---

def _look():
    with open("/proc/self/net/dev", encoding="ascii") as file:
        links = sorted(line.partition(":")[0].strip() for line in file.readlines()[2:])
    return {"links": links, "port_start": _setting("ip_unprivileged_port_start"),
            "forwarding": {name: _setting(f"conf/{name}/forwarding") for name in [*links, "all", "default"]}}


def _setting(name):
    try:
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:                               # a link that went meanwhile
        return None


def _reach(ip):
    """Whether packets go there and back: nobody listens, and that is told from there."""
    with socket.socket() as tried:
        tried.settimeout(5)
        return tried.connect_ex((ip, 7)) == errno.ECONNREFUSED


WITNESSES = {"look": _look, "reach": _reach}


# --- commands ---

class Runners:
    """A few, for in_parallel."""

    def __init__(self):
        self._all = [Runner() for _ in range(WORKERS)]
        self._idle = queue.Queue()
        for runner in self._all:
            self._idle.put(runner)

    @contextlib.contextmanager
    def one(self):
        runner = self._idle.get()
        try:
            yield runner
        finally:
            self._idle.put(runner)

    def each(self, function, items):
        return in_parallel(function, items, WORKERS)

    def close(self):
        for runner in reversed(self._all):                  # a later fork has the channels of those before it
            runner.close()


class Ended:
    """A command that has ended: its status (negative: the signal), what it said."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    def __repr__(self):
        return f"{self.status} {self.out!r} {self.err!r}"


class Runner:
    """Runs commands one after another in a fork of this process, and functions for the witnesses."""

    def __init__(self):
        self._channel, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._channel.settimeout(2 * PATIENCE)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._channel.close()
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def children(self):
        """Processes that any command made and that have not ended."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            return [pid for pid in map(int, file.read().split()) if not is_gone(pid)]

    def ask(self, *fds, **message):
        """A request, and the first answer to it; the second is the end of the process that it made."""
        socket.send_fds(self._channel, [json.dumps(message).encode()], list(fds))
        return self.answer()

    def answer(self):
        return json.loads(self._channel.recv(1 << 16))

    def witness(self, fd, what, *arguments):
        """What one of the functions below finds in a network namespace."""
        found = self.ask(fd, witness=what, arguments=arguments)
        self.answer()
        return found

    def close(self):
        self._channel.close()
        os.waitpid(self.pid, 0)


class Started:
    """A command that waits for its start."""

    def __init__(self, place, words, out=None):
        self._runner = place.runner
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        reader, self._go = os.pipe()
        try:
            self.pid = self._runner.ask(
                place.host.fd, self._out.fileno() if out is None else out, self._err.fileno(), reader, place.other.fd,
                state=str(place.state), words=list(map(str, words)))
        finally:
            os.close(reader)
            if out is not None:
                os.close(out)

    def go(self):
        os.write(self._go, b"\n")

    def end(self, strace=(), log=None):
        """Let it begin, and wait for its end."""
        tracer = None
        try:
            if strace:
                tracer = subprocess.Popen([which("strace"), "-p", str(self.pid), "-s", "200", "-o", str(log), *strace],
                                          text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
                assert "attached" in tracer.stderr.readline()
            self.go()
            return self.wait()
        finally:
            if tracer is not None:
                self._stop()
                tracer.communicate(timeout=PATIENCE)

    def wait(self):
        try:
            status = self._runner.answer()
        except socket.timeout:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"it hangs: {self.said()!r}") from None
        return Ended(status, *self.said())

    def said(self):
        found = []
        for file in (self._out, self._err):
            file.seek(0)
            found.append(file.read().decode())
        return found

    def _stop(self):
        """One that has not begun never will."""
        if self._go is not None:
            os.close(self._go)
            self._go = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()
        self._out.close()
        self._err.close()


def _serve(channel):
    """The runner: one request after another, until its test closes the channel."""
    from nsnet.cli import down, gc, up                      # noqa: F401  all is loaded before anything is counted
    check(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    while True:
        message, fds, _, _ = socket.recv_fds(channel, 1 << 16, 8)
        if not message:
            return
        request = json.loads(message)
        pid = os.fork()
        if pid == 0:
            (_witness if "witness" in request else _command)(channel, request, *fds)
        for fd in fds:
            os.close(fd)
        if "words" in request:
            channel.send(json.dumps(pid).encode())
        ended, status = os.waitpid(-1, 0)
        while ended != pid:                                 # orphans too, as init would
            ended, status = os.waitpid(-1, 0)
        channel.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def _witness(channel, request, netns):
    try:
        go_inside(netns)()
        answer = WITNESSES[request["witness"]](*request["arguments"])
    except BaseException as error:                          # noqa: B902  told to the test, which compares
        answer = repr(error)
    channel.send(json.dumps(answer).encode())
    os._exit(0)


def _command(channel, request, host, out, err, go, other):
    code = 99
    try:
        channel.close()
        go_inside(host)()
        check(LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))      # as after an execve, so that strace may attach
        LIBC.prctl(PR_SET_PTRACER, -1, 0, 0, 0)
        for fd, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2), (other, OTHER_FD)):
            os.dup2(fd, number)
            os.close(fd)
        os.close(host)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False)
                                             for number, mode in enumerate("rww"))
        os.environ["NSNET_STATE_DIR"] = request["state"]
        if os.read(go, 1):
            code = nsnet.cli.main(request["words"])
            sys.stdout.flush()
    except SystemExit as asked:
        code = asked.code
    except BaseException:                                   # noqa: B902  as python -m nsnet prints it
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)
