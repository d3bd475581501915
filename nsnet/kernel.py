"""The only door to the C extension: descriptors, sockets, visits and children, as Python values and exceptions.

The one importer of `nsnet._native`. Owns descriptors: what it opens it closes, on every path. Turns -errno into
KernelError with the step's name. Knows no attribute and no policy.
"""

import errno
import fcntl
import math
import os
import select
import signal as _signal
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple, Union

from nsnet.errors import KernelError, NsnetError, OutcomeUnknown, UsageError

if not sys.platform.startswith("linux"):
    raise ImportError(f"nsnet needs Linux namespaces, and this is {sys.platform}")

try:
    from nsnet._native import ffi, lib
except ImportError as error:
    raise ImportError(f"nsnet's C extension is missing ({error}): "
                      "build it with `pip install .` in the checkout") from None

# <linux/sched.h>
CLONE_FLAGS = {
    "time": 0x00000080, "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}
NETLINK_ROUTE = 0                   # <linux/netlink.h>
SIOCGSKNS = 0x894C                  # <linux/sockios.h>: the netns of a socket, as a descriptor
SIOCGIFNAME = 0x8910
SIOCGIFINDEX = 0x8933
SIOCETHTOOL = 0x8946
ETHTOOL_GLINK = 0x0A                # <linux/ethtool.h>
NS_GET_USERNS = 0xB701              # <linux/nsfs.h>
NS_GET_NSTYPE = 0xB703
SO_NETNS_COOKIE = 71                # <asm-generic/socket.h>, Linux 5.14

MAX_TIMEOUT = 1e6                   # seconds; longer is for ever
DEFAULT_TIMEOUT = 30.0              # seconds that one batch may take; a machine with a contended RTNL lock is slow

INDEXED_TYPES = 72                  # attribute types that index_attributes() looks at: more than any message has
IFNAME_BYTES = 15                   # of a name, before the NUL: IFNAMSIZ in <linux/if.h> is 16
ALTNAME_BYTES = 127                 # ALTIFNAMSIZ is 128
REPLY_BYTES = 1 << 17               # room for replies between two looks at them; at least two datagrams of 64 KiB

_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
_IFREQ = struct.Struct("16si20x")           # <linux/if.h>, struct ifreq
_IFREQ_POINTER = struct.Struct("@16sP16x")
_PIDFD_INFO = struct.Struct("=Q52xi")       # <linux/pidfd.h>, struct pidfd_info: mask ... exit_code
_PIDFD_INFO_EXIT = 1 << 3                   # Linux 6.15
_PIDFD_GET_INFO = 0xC040FF0B                # _IOWR(0xFF, 11, 64 bytes)


def step_name(step: int) -> str:
    """NSNET_STEP_UID_MAP as "uid_map"."""
    return ffi.typeof("enum nsnet_step").elements[step][len("NSNET_STEP_"):].lower()


def seconds(value: Any, what: str = "timeout") -> float:
    """A time, checked; of what is longer than MAX_TIMEOUT, that. Raises UsageError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:        # nor is NaN
        raise UsageError(f"{what} {value!r}: expected seconds, 0 or more")
    return min(value, MAX_TIMEOUT)


@contextmanager
def refused(step: str) -> Iterator[None]:
    """An OSError of Python's own calls inside becomes a KernelError of that step."""
    try:
        yield
    except KernelError:
        raise
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, step) from None


class Descriptor:
    """A file descriptor with an owner: closed by close(), by `with`, or when the last reference goes."""

    __slots__ = ("_fd", "__weakref__")

    def __init__(self, fd: int):
        self._fd = fd

    def fileno(self) -> int:
        if self._fd < 0:
            raise UsageError("the descriptor is closed: expected one that is open")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def detach(self) -> int:
        """Give the number away; somebody else closes it."""
        fd, self._fd = self._fd, -1
        return fd

    def __enter__(self) -> "Descriptor":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:       # an interrupt may have come before there was one
            self.close()


class RtnlSocket:
    """A NETLINK_ROUTE socket, connected to the kernel: the hold on a network namespace.

    Safe from many threads: one talk at a time. Closing waits for the talk under way. A signal handler that interrupts a
    talk may not use the same socket, for it could never get its turn: KernelError with EDEADLK. A child of a fork may
    only close it: sharing one socket, it would take the parent's answers; talking there is EPERM.

    The turn is an RLock, acquired inside the `try` whose `finally` releases it: whether there is something to release
    is known by the lock alone, which refuses a thread that does not hold it. A local variable could not know, for an
    interrupt may come between acquire() and the assignment.
    """

    def __init__(self, fd: Union[int, Descriptor]):
        """Takes the descriptor over, and closes it if it cannot be prepared."""
        self._descriptor = fd if isinstance(fd, Descriptor) else Descriptor(fd)
        self._turn = threading.RLock()  # for a talk
        self._use = threading.RLock()   # for less: lest the number is closed, and another file's, before it is used
        self._pid = os.getpid()
        self._next_seq = 1
        self._interrupted = False       # a talk was sent and not heard to its end
        port = ffi.new("uint32_t *")
        error = lib.nsnet_nl_prepare(self._descriptor.fileno(), port)
        if error < 0:
            self._descriptor.close()
            raise KernelError(-error, "socket")
        self.port = port[0]

    @classmethod
    def open(cls) -> "RtnlSocket":
        """In the calling thread's network namespace."""
        fd = lib.nsnet_nl_open(NETLINK_ROUTE)
        if fd < 0:
            raise KernelError(-fd, "socket")
        return cls(fd)

    def fileno(self) -> int:
        if self._descriptor.closed:
            raise UsageError("the network namespace is closed: expected one that is open")
        return self._descriptor.fileno()

    @property
    def closed(self) -> bool:
        return self._descriptor.closed

    @property
    def inherited(self) -> bool:
        """Whether this is a child's copy of a socket that its parent process opened."""
        return os.getpid() != self._pid

    def close(self) -> None:
        if self.inherited:                  # the lock may have been held when the process was forked
            self._descriptor.close()
            return
        turn = self._turn
        self._check_turn()
        try:
            turn.acquire()
            with self._use:
                self._descriptor.close()
        finally:
            try:
                turn.release()
            except RuntimeError:            # an interrupt came before there was a turn
                pass

    def _check_turn(self) -> None:
        """Outside the `try`: what a handler's `finally` released would be the turn of the talk that it interrupted."""
        if self.inherited:
            raise KernelError(errno.EPERM, "netlink",
                              "the socket is the parent process's: open one of your own after a fork")
        if self._turn._is_owned():          # type: ignore[attr-defined]  what threading.Condition asks an RLock
            raise KernelError(errno.EDEADLK, "netlink", "called from a signal handler, in the middle of a call")

    def _wait_for_turn(self, deadline: int) -> None:
        left = deadline - time.monotonic_ns()
        if left <= 0 or not self._turn.acquire(timeout=left / 1e9):
            raise KernelError(errno.ETIMEDOUT, "netlink", "nothing was sent: another thread's call took all the time")

    def talk(self, exchange_from: Callable, timeout: float = DEFAULT_TIMEOUT):
        """Send one batch and gather its answers, within `timeout` seconds, the turns of other threads included.

        `exchange_from(first_seq)` makes the nsnet.exchange.Exchange. Returns it, fed and done. Raises UsageError for
        what is no time, KernelError with ETIMEDOUT if the turn did not come in time: then nothing was sent.
        OutcomeUnknown with ETIMEDOUT when the kernel has not answered in time, with ENOBUFS if answers were lost: the
        kernel may have applied the batch, so read the state again before anything else.
        """
        deadline = time.monotonic_ns() + int(seconds(timeout) * 1e9)
        turn = self._turn
        self._check_turn()
        try:
            if not turn.acquire(False):
                self._wait_for_turn(deadline)
            return self._talk(exchange_from, deadline)
        finally:
            try:
                turn.release()
            except RuntimeError:            # there was no turn
                pass

    def _talk(self, exchange_from: Callable, deadline: int):
        fd = self.fileno()
        if self._interrupted:
            self._drain()
        exchange = exchange_from(self._next_seq)
        self._next_seq = (exchange.last_seq + 1) & 0xFFFFFFFF
        request = exchange.data
        talk = ffi.new("struct nsnet_talk *")
        request_memory = ffi.from_buffer("uint8_t[]", request)
        talk.request, talk.request_len = request_memory, len(request)
        talk.port, talk.first_seq, talk.last_seq = self.port, exchange.first_seq, exchange.last_seq
        talk.deadline = deadline
        buffer = _new_uncleared("uint8_t[]", REPLY_BYTES)
        talk.reply, talk.reply_size = buffer, REPLY_BYTES
        self._interrupted = True
        while True:
            result = lib.nsnet_nl_talk(fd, talk)
            if result == -errno.EINTR:
                continue                    # Python has run its signal handlers by now
            if result < 0:
                if talk.sent and -result in (errno.ENOBUFS, errno.ETIMEDOUT):
                    raise OutcomeUnknown(-result, "netlink", "the outcome is unknown")
                raise KernelError(-result, "netlink", "the outcome is unknown" if talk.sent else None)
            exchange.feed(bytes(ffi.buffer(buffer, talk.reply_len)))
            talk.reply_len = 0
            if result == lib.NSNET_TALK_DONE:
                break
        self._interrupted = False
        if not exchange.done:
            raise NsnetError("netlink: the last answer of the batch did not parse as one")
        return exchange

    def _drain(self) -> None:
        error = lib.nsnet_nl_drain(self.fileno())
        if error < 0:
            raise KernelError(-error, "netlink")
        self._interrupted = False

    # What follows asks the socket about its namespace without netlink.

    def _ioctl(self, request: int, argument: Union[int, bytes]) -> Union[int, bytes]:
        return self._with_fd(fcntl.ioctl, request, argument)

    def _with_fd(self, call: Callable, *arguments):
        """A call with the descriptor, which nobody closes meanwhile."""
        if self.inherited:              # a thread that exists no more may have held the lock
            return call(self.fileno(), *arguments)
        with self._use:
            return call(self.fileno(), *arguments)

    def netns_fd(self) -> int:
        """A new descriptor of the socket's network namespace (SIOCGSKNS; CAP_NET_ADMIN over its owner)."""
        return self._with_fd(_netns_of)

    def may_administer(self) -> bool:
        """Whether the caller has CAP_NET_ADMIN over the namespace's owner. Asks without changing anything."""
        try:
            os.close(self.netns_fd())
        except KernelError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                return False
            raise
        return True

    def ifindex(self, ifname: str) -> int:
        """The index of a link, 0 if there is none of that name (netdevice(7)). An altname is no name."""
        name = _ifname_bytes(ifname)
        index = self._ifreq(SIOCGIFINDEX, name, 0)[1]
        return index if index and self._ifreq(SIOCGIFNAME, b"", index)[0].rstrip(b"\0") == name else 0

    def index_taken(self, index: int) -> bool:
        """Whether a link has that index."""
        return self._ifreq(SIOCGIFNAME, b"", index)[0] != b""

    def _ifreq(self, request: int, ifname: bytes, index: int) -> Tuple[bytes, int]:
        """(name, index) from an ioctl that takes the one for the other; (b"", 0) if there is no such link."""
        try:
            return _IFREQ.unpack(self._ioctl(request, _IFREQ.pack(ifname, index)))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return b"", 0
            raise KernelError(error.errno, f"link {os.fsdecode(ifname) or index}") from None

    def sync_carrier(self, ifname: str) -> bool:
        """Whether a link has carrier, and on Linux 6.8 and newer: make the kernel act on it now.

        A link that gets carrier can only transmit, and a bridge port only forward, when the kernel's link watch has
        run; a packet sent before is lost, and TCP and ARP try again after a second. ETHTOOL_GLINK waits for it
        (ethtool_op_get_link() calls linkwatch_sync_dev()). On older kernels it only asks.
        """
        value = ffi.new("uint32_t[2]", [ETHTOOL_GLINK, 0])
        request = _IFREQ_POINTER.pack(_ifname_bytes(ifname), int(ffi.cast("uintptr_t", value)))
        try:
            self._ioctl(SIOCETHTOOL, request)
        except OSError as error:
            raise KernelError(error.errno, f"carrier of {ifname}") from None
        return bool(value[1])

    def identity(self) -> str:
        """netns_identity() of this socket."""
        with refused("netns cookie"):
            number = self._with_fd(os.dup)
        with socket.socket(fileno=number) as view:
            return netns_identity(view)


def _name_bytes(link: Any) -> bytes:
    """Of a link's name; none for what is no text, or has a surrogate that stands for no byte."""
    try:
        return os.fsencode(link) if isinstance(link, str) and "\0" not in link else b""
    except UnicodeEncodeError:
        return b""


def is_altname(link: str) -> bool:
    """Whether a link's name is longer than any ifname. Raises UsageError for what is no name of a link."""
    length = len(_name_bytes(link))
    if not 1 <= length <= ALTNAME_BYTES:
        raise UsageError(f"link {link!r}: expected a Link, an ifindex or a name of 1 to {IFNAME_BYTES} bytes, "
                         f"or an altname of up to {ALTNAME_BYTES}")
    return length > IFNAME_BYTES


def _ifname_bytes(ifname: str) -> bytes:
    """What struct ifreq has room for; anything else would be cut off, and be another link's name."""
    name = _name_bytes(ifname)
    if not 1 <= len(name) <= IFNAME_BYTES:
        raise UsageError(f"link {ifname!r}: expected a name of 1 to {IFNAME_BYTES} bytes")
    return name


def _netns_of(fd: Union[int, socket.socket]) -> int:
    try:
        return fcntl.ioctl(fd, SIOCGSKNS)
    except OSError as error:
        raise KernelError(error.errno, "netns descriptor", "SIOCGSKNS needs CAP_NET_ADMIN there") from None


def netns_identity(view: socket.socket) -> str:
    """Names a socket's namespace for as long as the machine runs: its cookie, which is never used again.

    Before Linux 5.14 there is no cookie: then its inode, which is unique only while the namespace lives.
    """
    try:
        return f"cookie:{struct.unpack('=Q', view.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]}"
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise KernelError(error.errno, "netns cookie") from None
    with Descriptor(_netns_of(view)) as netns:
        return f"inode:{os.fstat(netns.fileno()).st_ino}"


def tracing() -> int:
    """What NSNET_TRACE asks for: 0 nothing ("", "0"), 1 every message in words, 2 its bytes in hex as well ("2")."""
    wanted = os.environ.get("NSNET_TRACE", "0")
    return 0 if wanted in ("", "0") else 2 if wanted == "2" else 1


def trace(text: str) -> None:
    """To stderr, if there is one: a trace that cannot be written changes nothing."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
    except (OSError, ValueError):
        pass


def index_attributes(data: bytes, start: int) -> Optional[Sequence[int]]:
    """Where the attributes of data[start:] have their payloads: offset << 16 | length by attribute type, 0 for none.

    None if the bytes make no sense, or are too many; for nsnet.tables.Attrs, which then looks for itself.
    """
    places = _new_uncleared("uint32_t[]", INDEXED_TYPES)
    return places if lib.nsnet_nl_index(data, len(data), start, places, INDEXED_TYPES) == 0 else None


def read_file(path: str) -> str:
    """A small file of /proc, in one read; a fifth of the time that open() takes. Raises KernelError."""
    with refused(f"read {path}"), Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as file:
        return os.read(file.fileno(), 1 << 16).decode("utf-8", "surrogateescape")


def effective_capabilities() -> int:
    """The calling thread's effective capabilities in its own user namespace, bit n for capability n (proc(5))."""
    for line in read_file("/proc/thread-self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise KernelError(errno.ENODATA, "capabilities", "/proc/thread-self/status has no CapEff")


def proc_pid(pidfd: int) -> int:
    """The number that /proc knows a process by: that of the pid namespace /proc was mounted for, which need not be
    ours.

    0 if it is not visible there, -1 if it has been waited for (proc(5), /proc/PID/fdinfo).
    """
    for line in read_file(f"/proc/self/fdinfo/{pidfd}").splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return 0


def signal_process(pidfd: int, signal: int) -> None:
    """pidfd_send_signal(2). Says nothing if the process has ended."""
    try:
        _signal.pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        pass
    except OSError as error:
        raise KernelError(error.errno, f"signal {signal}") from None


def reap(pidfd: int) -> Optional[int]:
    """Collect a process that has ended: its exit status, negative for the signal that ended it.

    None if somebody else collected it and the kernel does not tell any more (before Linux 6.15).
    """
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
    except ChildProcessError:
        pass
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, status = _PIDFD_INFO.unpack(info)
    if not mask & _PIDFD_INFO_EXIT:
        return None
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def has_ended(pidfd: int, timeout: Optional[float] = 0) -> bool:
    """Whether a process has ended, waiting `timeout` seconds for it (None: for as long as it takes)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else math.ceil(min(max(timeout, 0), MAX_TIMEOUT) * 1000)))


def owner_userns(netns_fd: int) -> Optional[int]:
    """A descriptor of the user namespace that owns a network namespace; None if it is outside the caller's (EPERM)."""
    try:
        return fcntl.ioctl(netns_fd, NS_GET_USERNS)
    except OSError as error:
        if error.errno == errno.EPERM:
            return None
        raise KernelError(error.errno, "owner of the netns") from None


def open_namespace(path: Union[str, bytes, os.PathLike], kind: str) -> Descriptor:
    """The descriptor of a namespace file; UsageError if it is anything else, or no path."""
    try:
        name = os.fsdecode(path)
        usable = name != "" and b"\0" not in os.fsencode(name)
    except (TypeError, UnicodeEncodeError):
        usable = False
    if not usable:
        raise UsageError(f"path {path!r}: expected the path of a file that is a {kind} namespace")
    with refused(f"open {name}"):
        descriptor = Descriptor(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))      # it may be a FIFO
    try:
        found = fcntl.ioctl(descriptor.fileno(), NS_GET_NSTYPE)
    except OSError:
        found = 0
    if found != CLONE_FLAGS[kind]:
        descriptor.close()
        raise UsageError(f"{name!r}: expected a file that is a {kind} namespace")
    return descriptor


def visit(family: int, type: int, protocol: int, *, netns_fd: int = -1, userns_fd: int = -1,
          maps: Optional[Tuple[str, str]] = None) -> int:
    """The descriptor of a socket made inside a network namespace, without moving the caller.

    `netns_fd`: the namespace; -1 makes a new one. `userns_fd`: the user namespace to enter first. `maps`: (uid_map,
    gid_map) of a new user namespace that is to own the new network namespace.
    """
    keep = [ffi.new("char[]", text.encode()) for text in maps] if maps else [ffi.NULL, ffi.NULL]
    job = ffi.new("struct nsnet_visit *", {
        "userns_fd": userns_fd, "netns_fd": netns_fd, "new_userns": 1 if maps else 0, "uid_map": keep[0],
        "gid_map": keep[1], "family": family, "type": type, "protocol": protocol})
    fd = lib.nsnet_visit(job)
    if fd < 0:
        raise KernelError(-fd, step_name(job.step))
    return fd


class Child:
    """A process made by clone3, from the moment of the call: what C reports lands here, whatever Python is doing.

    `spec`: the fields of struct nsnet_spawn, strings and lists as Python has them. The object keeps the memory alive.
    """

    _STRINGS = ("cwd", "uid_map", "gid_map")

    def __init__(self, spec: dict):
        self._keep = []
        self._passed = ffi.new("int *", -1)     # written by C, so that no interrupt can lose it
        job = self._job = ffi.new("struct nsnet_spawn *", {"pid": -1, "pidfd": -1, "channel": -1, "cgroup_fd": -1})
        spec = dict(spec)
        for name in ("paths", "argv", "envp"):
            self._words(name, spec.pop(name))
        job.n_paths = len(self._keep[0]) - 1
        for name in ("joins", "moves", "rlimits"):
            rows = spec.pop(name)
            kind = {"joins": "ns_join", "moves": "fd_move", "rlimits": "rlimit"}[name]
            array = ffi.new(f"struct nsnet_{kind}[]", rows or 1)
            self._keep.append(array)
            setattr(job, name, array)
            setattr(job, f"n_{name}", len(rows))
        for name, value in spec.items():
            if name in self._STRINGS:
                value = ffi.NULL if value is None else ffi.new("char[]", os.fsencode(value))
                self._keep.append(value)
            setattr(job, name, value)

    def _words(self, name: str, words) -> None:
        strings = [ffi.new("char[]", os.fsencode(word)) for word in words]
        array = ffi.new("char *[]", strings + [ffi.NULL])
        self._keep += [array] if name == "paths" else [strings, array]
        if name == "paths":
            self._keep.append(strings)
        setattr(self._job, name, array)

    @property
    def pid(self) -> int:
        return self._job.pid

    @property
    def pidfd(self) -> int:
        return self._job.pidfd

    def clone(self) -> None:
        error = lib.nsnet_spawn(self._job)
        if error < 0:
            raise KernelError(-error, "clone3")

    def write_maps(self, uid_map: str, gid_map: str, deny_setgroups: bool) -> None:
        step = ffi.new("int *")
        number = proc_pid(self.pidfd)
        if number <= 0:
            raise KernelError(errno.ESRCH, "proc", "the child is not in /proc, which is of another pid namespace")
        error = lib.nsnet_write_maps(number, int(deny_setgroups), uid_map.encode(), gid_map.encode(), step)
        if error < 0:
            raise KernelError(-error, step_name(step[0]))

    def receive(self) -> Tuple[Optional[str], int]:
        """(step, errno) of the next report; (None, 0) at end of file. `take_passed` has the descriptor with it."""
        report = ffi.new("struct nsnet_report *")
        while True:
            result = lib.nsnet_receive_report(self._job.channel, report, self._passed)
            if result == -errno.EINTR:
                continue
            if result < 0:
                raise KernelError(-result, "handover")
            if result == 0:
                return None, 0
            return step_name(report.step), report.error

    def take_passed(self) -> Descriptor:
        """The descriptor that the child passed; the caller's from now on."""
        taken = Descriptor(self._passed[0])
        self._passed[0] = -1
        return taken

    def say_go(self) -> None:
        error = lib.nsnet_say_go(self._job.channel)
        if error < 0:
            raise KernelError(-error, "go")

    def close_channel(self) -> None:
        """Let go of the channel, which ends a parked child, and of a descriptor that nobody took."""
        fd, self._job.channel = self._job.channel, -1
        if fd >= 0:
            os.close(fd)
        if self._passed[0] >= 0:
            self.take_passed().close()

    def close_pidfd(self) -> None:
        """Let go of the process; it is not collected by that."""
        fd, self._job.pidfd = self._job.pidfd, -1
        if fd >= 0:
            os.close(fd)
