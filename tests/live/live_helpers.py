"""What the live tests share: where to run, how to go inside a namespace without nsnet, and what to count there.

The witnesses here know nothing of nsnet: they enter namespaces with setns(2) through ctypes and read /proc, sockets and
`ip -j` from inside.
"""

import ctypes
import fcntl
import functools
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-I", "-S"]           # an interpreter that starts fast and reads nothing of ours
IS_ROOT = os.geteuid() == 0
PATIENCE = 20                                   # seconds that anything here may take on a busy machine

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
NS_GET_USERNS = 0xB701                          # <linux/nsfs.h>
LIBC = ctypes.CDLL(None, use_errno=True)

needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root of the machine: it takes privileges away one by one")


def needs(program):
    """Skip where a program that a test talks to is not installed."""
    return pytest.mark.skipif(which(program) is None, reason=f"{program} is not installed")


def which(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def check(result):
    """The result of a C call, or its errno as OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# --- going inside ---

def go_inside(netns_fd):
    """A preexec_fn that takes the child into a network namespace, by way of its user namespace if need be."""
    def enter():
        if LIBC.setns(netns_fd, CLONE_NEWNET) == 0:
            return
        owner = fcntl.ioctl(netns_fd, NS_GET_USERNS)
        check(LIBC.setns(owner, CLONE_NEWUSER))
        check(LIBC.setns(netns_fd, CLONE_NEWNET))
        os.close(owner)
    return enter


def inside(netns, argv, **options):
    """Run a program in a namespace and wait for it: subprocess.run, for Netns."""
    options.setdefault("timeout", PATIENCE)
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    options.setdefault("text", True)
    return subprocess.run([str(word) for word in argv], preexec_fn=go_inside(netns.fd), **options)


def read_inside(netns, path):
    """A file of /proc/net and the like, as a process in the namespace sees it."""
    return inside(netns, ["/bin/cat", path], check=True).stdout


def ip(netns, *words):
    """What iproute2 says, parsed: ip(host, "link", "show", "br0"). Skips the test where it is not installed."""
    if which("ip") is None:
        pytest.skip("ip (iproute2) is not installed")
    done = inside(netns, [which("ip"), "-j", "-details", *words])
    if done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr}")
    return [row for row in json.loads(done.stdout or "[]") if row]


def ip_link(netns, ifname):
    """One link as iproute2 sees it."""
    (link,) = ip(netns, "link", "show", ifname)
    return link


def ifnames(netns):
    """The names of a namespace's links, from /proc/net/dev."""
    return sorted(line.split(":")[0].strip() for line in read_inside(netns, "/proc/net/dev").splitlines()[2:])


def namespace_of(pid, kind):
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


# --- counting what must not grow ---

def descriptors():
    """{number: what it is} of this process."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:               # the descriptor of the listing itself
            pass
    return found


def children():
    """The pids of this process's children, the unreaped among them."""
    pids = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                pids.update(map(int, file.read().split()))
        except FileNotFoundError:               # the thread ended while we looked
            pass
    return pids


def threads():
    """How many threads this process has, without the ending ones: join() returns before the kernel is done."""
    alive = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/stat", "rb") as file:
                flags = int(file.read().rpartition(b")")[2].split()[6])
        except (FileNotFoundError, ProcessLookupError):
            continue
        alive += not flags & 4                              # PF_EXITING
    return alive


def census():
    """What a test may not change: descriptors, children, threads."""
    return {"descriptors": descriptors(), "children": children(), "threads": threads()}


def links_of(netns):
    """{ifname: ifindex}, by way of nsnet's list; the witnesses above confirm that list in test_live_netns.py."""
    return {link.ifname: link.index for link in netns.links()}


def is_gone(pid):
    """Whether a process has ended (a zombie that its new parent has not collected yet is no process any more)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def has_ended(pidfd, seconds=PATIENCE):
    """Wait for the end of a process by its pidfd."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def claims(directory):
    """The files of claims in a state directory; the leases stay behind, so that who comes back finds its address."""
    there = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(name for name in there if name not in ("leases", "forwarding.lock"))


# --- nsnet as a command ---

def environment(state, **more):
    """Little: what the command needs, and the state directory of this test."""
    env = {"PATH": os.environ.get("PATH", ""), "NSNET_STATE_DIR": str(state), "LC_ALL": "C.UTF-8"}
    if (TREE / "nsnet" / "__init__.py").exists():
        env["PYTHONPATH"] = str(TREE)
    env.update(more)
    return env


def nsnet_argv(*words):
    return [sys.executable, "-m", "nsnet", *map(str, words)]


def run_nsnet(netns, state, *words, env=None, **options):
    """`python -m nsnet WORDS` in a namespace, to its end."""
    return inside(netns, nsnet_argv(*words), env=environment(state, **(env or {})), stdin=subprocess.DEVNULL, **options)


class Running:
    """`python -m nsnet WORDS` in a namespace, while it runs: read line by line, never waited for without end.

    Its standard output is also that of the command it launches. At the end of the `with` block it is dead.
    """

    def __init__(self, netns, state, *words, preexec=None, argv=None, env=None, **options):
        self.errors = tempfile.TemporaryFile()
        self.popen = subprocess.Popen(
            list(map(str, argv or nsnet_argv(*words))), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0,
            stderr=self.errors, env=environment(state, **(env or {})),
            preexec_fn=preexec or (go_inside(netns.fd) if netns is not None else None), **options)
        self.pid = self.popen.pid
        self.read = b""                                     # all that it has said
        self._taken = 0                                     # bytes of it that line() has given out

    def line(self, seconds=PATIENCE):
        """Its next line; "" at the end of its output."""
        while b"\n" not in self.read[self._taken:]:
            if not self._more(time.monotonic() + seconds):
                break
        line = self.read[self._taken:].partition(b"\n")
        self._taken += len(line[0]) + len(line[1])
        return b"".join(line[:2]).decode()

    def until(self, text):
        """Read up to the line that has this in it, and return that line."""
        while True:
            line = self.line()
            assert line, f"it ended without saying {text!r}: {self.read.decode()} {self.complaint()}"
            if text in line:
                return line

    def _more(self, deadline):
        poll = select.poll()
        poll.register(self.popen.stdout, select.POLLIN | select.POLLHUP)
        assert poll.poll(max(deadline - time.monotonic(), 0) * 1000), f"it says nothing more: {self.read.decode()}"
        part = os.read(self.popen.stdout.fileno(), 65536)
        self.read += part
        return bool(part)

    def signal(self, number):
        self.popen.send_signal(number)

    def end(self):
        """(exit code, all of stdout, stderr) when it has ended, and what it launched too."""
        code = self.popen.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while self._more(deadline):
            pass
        return code, self.read.decode(), self.complaint()

    def complaint(self):
        self.errors.seek(0)
        return self.errors.read().decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self.popen.stdout.close()
        self.errors.close()


def in_parallel(function, items, workers=4):
    """[function(item)] with a few at a time: most of the time goes into waiting for the kernel to delete links."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


@functools.lru_cache(maxsize=None)
def public_copy():
    """(interpreter, directory with nsnet in it) that any user of this machine can reach; None if there is none.

    A checkout below /root, or an interpreter of pyenv there, cannot be run by anybody else. The copy is removed by
    conftest.py at the end of the session.
    """
    directory = tempfile.mkdtemp(prefix="nsnet-live-")
    os.chmod(directory, 0o755)
    import nsnet
    shutil.copytree(os.path.dirname(nsnet.__file__), os.path.join(directory, "nsnet"),
                    ignore=shutil.ignore_patterns("__pycache__"))
    for interpreter in (sys.executable, "/usr/bin/python3"):
        tried = subprocess.run([interpreter, "-c", "import nsnet.kernel"], cwd=directory, preexec_fn=become_nobody,
                               env={"PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if _runnable(interpreter) else None
        if tried is not None and tried.returncode == 0:
            return interpreter, directory
    return None


def _runnable(interpreter):
    """Whether uid 65534 may run it: subprocess itself raises if not."""
    probe = subprocess.run(["/bin/sh", "-c", 'test -x "$0"', interpreter], preexec_fn=become_nobody,
                           stdin=subprocess.DEVNULL)
    return probe.returncode == 0


def become_nobody():
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


def as_nobody(function, *arguments):
    """The string that a function returns in a child of uid 65534, without privilege."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become_nobody()
            answer = function(*arguments)
        except BaseException as error:                      # noqa: B902  told to the parent, which compares
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


class Worker:
    """A forked process that works beside us until the `with` block ends. `said`: what it has to say then.

    `work(channel)` runs in it, and sends one byte when it has begun; the end of the channel is the end of its work. What it
    returns, or {"failed": its traceback}, must be fit for JSON.
    """

    def __init__(self, work):
        self.said = None
        self._reader, writer = os.pipe()
        self._channel, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._channel.close()
                said = work(theirs)
            except BaseException:                           # noqa: B902  told to the parent, which compares
                said = {"failed": traceback.format_exc()}
            os.write(writer, json.dumps(said).encode())
            os._exit(0)
        os.close(writer)
        theirs.close()
        self._channel.settimeout(PATIENCE)
        self._channel.recv(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._channel.close()
        with open(self._reader, encoding="utf-8") as file:
            self.said = json.load(file)
        os.waitpid(self._pid, 0)


# --- programs that run inside ---

SERVER = """
import os, socket, sys
address, port, ready = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
    os.close(ready)
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(client.recv(100))
"""

CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    connection.sendall(sys.argv[3].encode())
    sys.stdout.write(connection.recv(100).decode())
"""


def wait_for_eof(fd, seconds=PATIENCE):
    """Wait until nobody holds the other end of a pipe any more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    if not poll.poll(seconds * 1000):
        raise AssertionError(f"nothing happened in {seconds} s")
    assert os.read(fd, 1) == b""


def kill_and_wait(process):
    """SIGKILL a Popen, and collect it and its pipes."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def ends_with_its_maker_though_a_fork_lives(script):
    """Run `script`, which makes a process, forks, and prints both numbers; kill it: the process ends, the fork is still there."""
    with subprocess.Popen([sys.executable, "-c", script], env=environment("/nonexistent"), stdout=subprocess.PIPE,
                          text=True) as maker:
        pid, worker = map(int, maker.stdout.readline().split())
        try:
            pidfd = os.pidfd_open(pid)
            maker.kill()
            assert has_ended(pidfd) and not is_gone(worker)
            os.close(pidfd)
        finally:
            os.kill(worker, signal.SIGKILL)
