"""The only door to the C extension: descriptors, sockets and processes, as Python values and exceptions.

The one importer of `nsnet._native`; clone.py, which launches, has it from here. Owns descriptors: what it opens it closes,
on every path. Turns -errno into KernelError with the step's name. Knows no attribute and no policy.
"""

from __future__ import annotations

import _signal                          # socket and signal make enums of numbers, which takes longer than all of this file
import _socket
import _thread as threading             # likewise: its locks
import errno
import fcntl
import functools
import math
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import contextmanager
from itertools import chain, starmap

from nsnet.errors import KernelError, NsnetError, OutcomeUnknown, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, Union

if not sys.platform.startswith("linux"):
    raise ImportError(f"nsnet needs Linux namespaces, and this is {sys.platform}")

try:
    from nsnet._native import __file__ as EXTENSION, ffi, lib
except ImportError as error:
    raise ImportError(f"nsnet's C extension is missing ({error}): "
                      "build it with `pip install .` in the checkout") from None

# <linux/sched.h>
CLONE_FLAGS = {
    "time": 0x00000080, "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}
AF_NETLINK, SOCK_RAW = _socket.AF_NETLINK, _socket.SOCK_RAW
NETLINK_ROUTE = 0                   # <linux/netlink.h>
SIOCGSKNS = 0x894C                  # <linux/sockios.h>: the netns of a socket, as a descriptor
SIOCGIFNAME = 0x8910
SIOCGIFINDEX = 0x8933
NS_GET_USERNS = 0xB701              # <linux/nsfs.h>
NS_GET_NSTYPE = 0xB703
SO_NETNS_COOKIE = 71                # <asm-generic/socket.h>, Linux 5.14

MAX_TIMEOUT = 1e6                   # seconds; longer is for ever
DEFAULT_TIMEOUT = 30.0              # seconds that one batch may take; a machine with a contended RTNL lock is slow

INDEXED_TYPES = 72                  # attribute types that index_attributes() looks at: more than any message has
IFNAME_BYTES = 15                   # of a name, before the NUL: IFNAMSIZ in <linux/if.h> is 16
ALTNAME_BYTES = 127                 # ALTIFNAMSIZ is 128
RECEIVE_BYTES = 1 << 20             # of a monitor's receive buffer, as for `ip monitor`; only what waits there takes memory
REPLY_BYTES = 1 << 17               # room for replies between two looks at them; at least two datagrams of 64 KiB

_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
_IFREQ = struct.Struct("16si20x")           # <linux/if.h>, struct ifreq


def step_name(step: int) -> str:
    """NSNET_STEP_UID_MAP as "uid_map"."""
    return ffi.typeof("enum nsnet_step").elements[step][len("NSNET_STEP_"):].lower()


def seconds(value: Any, what: str = "timeout") -> float:
    """A time, checked; of what is longer than MAX_TIMEOUT, that. Raises UsageError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:        # nor is NaN
        raise UsageError(f"{what} {value!r}: expected seconds, 0 or more")
    return min(value, MAX_TIMEOUT)


@contextmanager
def refused(step: str, detail: Optional[str] = None) -> Iterator[None]:
    """An OSError of Python's own calls inside becomes a KernelError of that step."""
    try:
        yield
    except KernelError:
        raise
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, step, detail) from None


class Descriptor:
    """A file descriptor with an owner: closed by close(), by `with`, or when the last reference goes."""

    __slots__ = ("_held", "__weakref__")

    def __init__(self, fd: int = -1):
        self._held = [fd] if fd >= 0 else []

    @classmethod
    def of(cls, call: Callable[..., int], *arguments: Any) -> "Descriptor":
        """The descriptor that a call returns, owned from the first moment.

        Calling and keeping are one step of list.extend(), with no bytecode in between: an exception that a signal handler
        raises comes before or after it, and cannot lose the number.
        """
        made = cls()
        made._held.extend(starmap(call, (arguments,)))
        return made

    @classmethod
    def open(cls, path: Union[str, bytes, os.PathLike], flags: int, mode: int = 0o600,
             dir_fd: Optional[int] = None) -> "Descriptor":
        """open(2), close on exec."""
        return cls.of(functools.partial(os.open, path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd))

    def fileno(self) -> int:
        if not self._held:
            raise UsageError("the descriptor is closed: expected one that is open")
        return self._held[0]

    @property
    def closed(self) -> bool:
        return not self._held

    def close(self) -> None:
        try:                                # likewise: taken out and closed in one step
            deque(map(os.close, filter((-1).__lt__, iter(self._held.pop, None))), maxlen=0)
        except IndexError:
            pass

    def detach(self) -> int:
        """Give the number away; somebody else closes it."""
        return self._held.pop() if self._held else -1

    def add(self, other: "Descriptor") -> int:
        """Own what another one owns as well, to be closed together; its number."""
        number = other.fileno()
        try:
            self._held.extend(iter(other._held.pop, None))
        except IndexError:                  # there is no more
            pass
        return number

    def add_pipe(self) -> Tuple[int, int]:
        """A new pipe, likewise: the ends for reading and writing (pipe2(2), close on exec)."""
        self._held.extend(chain.from_iterable(map(os.pipe2, (os.O_CLOEXEC,))))
        return self._held[-2], self._held[-1]

    def __enter__(self) -> "Descriptor":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_held", None):        # an interrupt may have come before there was one
            self.close()


def _release(turn: "threading.RLock") -> None:
    """Give up the turn, if there is one: an interrupt, or the end of the time, may have come before."""
    try:
        turn.release()
    except RuntimeError:
        pass


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
        self._identity: Optional[str] = None
        port = ffi.new("uint32_t *")
        error = lib.nsnet_nl_prepare(self._descriptor.fileno(), port)
        if error < 0:
            self._descriptor.close()
            raise KernelError(-error, "socket")
        self.port = port[0]

    @classmethod
    def open(cls) -> "RtnlSocket":
        """In the calling thread's network namespace."""
        made = Descriptor.of(lib.nsnet_nl_open, NETLINK_ROUTE)
        if made.fileno() < 0:
            raise KernelError(-made.detach(), "socket")
        return cls(made)

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
            try:
                turn.acquire()
                with self._use:
                    self._descriptor.close()
            finally:
                _release(turn)
        finally:                            # as in talk()
            if turn._is_owned():            # type: ignore[attr-defined]
                _release(turn)

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
            try:
                if not turn.acquire(False):
                    self._wait_for_turn(deadline)
                return self._talk(exchange_from, deadline)
            finally:
                _release(turn)
        finally:                            # before Python 3.11 an interrupt may come between `finally:` and the call
            if turn._is_owned():            # type: ignore[attr-defined]
                _release(turn)

    def _talk(self, exchange_from: Callable, deadline: int):
        fd = self.fileno()
        talk = ffi.new("struct nsnet_talk *")
        exchange, memory = self._begin(talk, exchange_from, deadline)
        buffer = _new_uncleared("uint8_t[]", REPLY_BYTES)
        talk.reply, talk.reply_size = buffer, REPLY_BYTES
        while True:
            result = lib.nsnet_nl_talk(fd, talk)
            if result == -errno.EINTR:
                continue                    # Python has run its signal handlers by now
            if result < 0:
                raise _broken(talk, -result)
            exchange.feed(bytes(ffi.buffer(buffer, talk.reply_len)))
            talk.reply_len = 0
            if result == lib.NSNET_TALK_DONE:
                break
        return self._end(exchange)

    def _begin(self, talk, exchange_from: Callable, deadline: int) -> Tuple[Any, Any]:
        """Say to C what is to be sent. The exchange, and the memory of what it sends, to be kept until then."""
        if self._interrupted:
            self._drain()
        exchange = exchange_from(self._next_seq)
        self._next_seq = (exchange.last_seq + 1) & 0xFFFFFFFF
        memory = ffi.from_buffer("uint8_t[]", exchange.data)
        talk.request, talk.request_len = memory, len(exchange.data)
        talk.port, talk.first_seq, talk.last_seq = self.port, exchange.first_seq, exchange.last_seq
        talk.deadline = deadline
        self._interrupted = True
        return exchange, memory

    def _end(self, exchange):
        if (exchange.last_seq + 1) & 0xFFFFFFFF == self._next_seq:     # else another talk has been begun since
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

    def netns_fd(self) -> Descriptor:
        """A descriptor of the socket's network namespace (SIOCGSKNS; CAP_NET_ADMIN over its owner)."""
        return self._with_fd(_netns_of)

    def may_administer(self) -> bool:
        """Whether the caller has CAP_NET_ADMIN over the namespace's owner. Asks without changing anything."""
        try:
            self.netns_fd().close()
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
        name = _ifname_bytes(ifname)
        found = self._with_fd(lib.nsnet_nl_carrier, name)
        if found < 0:
            raise KernelError(-found, f"carrier of {ifname}")
        return bool(found)

    def identity(self) -> str:
        """netns_identity() of this socket, which never leaves its namespace."""
        if self._identity is None:
            with refused("netns cookie"):
                number = self._with_fd(os.dup)
            view = _socket.socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, number)      # told, it asks nothing
            try:
                self._identity = netns_identity(view)
            finally:
                view.close()
        return self._identity


def talk_all(talks: Sequence[Tuple[RtnlSocket, Callable]], timeout: float = DEFAULT_TIMEOUT) -> List:
    """RtnlSocket.talk() on several sockets, one after the other, in one call to C; the exchanges in the order given.

    Raises what talk() raises; what stands behind the one that failed was not sent then.
    """
    deadline = time.monotonic_ns() + int(seconds(timeout) * 1e9)
    sockets = [one for one, _ in talks]
    for one in sockets:
        one._check_turn()
    try:
        try:
            for one in sorted(sockets, key=id):         # as everybody does it, so that nobody waits for each other
                if not one._turn.acquire(False):
                    one._wait_for_turn(deadline)
            return _talk_all(talks, deadline)
        finally:
            _release_all(sockets)
    finally:                                # as in talk()
        _release_all(sockets)


def _release_all(sockets: Sequence[RtnlSocket]) -> None:
    for one in sockets:
        if one._turn._is_owned():           # type: ignore[attr-defined]
            _release(one._turn)


def _talk_all(talks: Sequence[Tuple[RtnlSocket, Callable]], deadline: int) -> List:
    fds = ffi.new("int[]", [one.fileno() for one, _ in talks])
    table = ffi.new("struct nsnet_talk[]", len(talks))
    begun = [one._begin(talk, exchange_from, deadline) for talk, (one, exchange_from) in zip(table, talks)]
    buffer = _new_uncleared("uint8_t[]", REPLY_BYTES)
    table[0].reply, table[0].reply_size = buffer, REPLY_BYTES
    done, ended = ffi.new("size_t *"), 0
    while ended < len(talks):
        result = lib.nsnet_nl_talks(fds, table, len(talks), done)
        if result == -errno.EINTR:
            continue
        for position in range(ended, min(done[0] + 1, len(talks))):
            talk, exchange = table[position], begun[position][0]
            exchange.feed(bytes(ffi.buffer(talk.reply, talk.reply_len)))
            if position < done[0]:
                talks[position][0]._end(exchange)
        ended = done[0]
        if result < 0:
            raise _broken(table[ended], -result)
        if result == lib.NSNET_TALK_MORE_ROOM:
            table[ended].reply, table[ended].reply_size, table[ended].reply_len = buffer, REPLY_BYTES, 0
    return [exchange for exchange, _ in begun]


def _broken(talk, error: int) -> KernelError:
    """Why C gave up a talk."""
    if talk.sent and error in (errno.ENOBUFS, errno.ETIMEDOUT):
        return OutcomeUnknown(error, "netlink", "the outcome is unknown")
    return KernelError(error, "netlink", "the outcome is unknown" if talk.sent else None)


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


def _netns_of(fd: Union[int, _socket.socket]) -> Descriptor:
    try:
        return Descriptor.of(fcntl.ioctl, fd, SIOCGSKNS)
    except OSError as error:
        detail = "SIOCGSKNS needs CAP_NET_ADMIN there" if error.errno == errno.EPERM else None
        raise KernelError(error.errno, "netns descriptor", detail) from None


def netns_identity(view: _socket.socket) -> str:
    """Names a socket's namespace for as long as the machine runs: its cookie, which is never used again.

    Before Linux 5.14 there is no cookie: then its inode, which is unique only while the namespace lives.
    """
    try:
        return f"cookie:{struct.unpack('=Q', view.getsockopt(_socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]}"
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise KernelError(error.errno, "netns cookie") from None
    with _netns_of(view) as netns:
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
    """A file of /proc or /etc, to its end: a read gives no more than a page of some. Raises KernelError.

    For a small one a fifth of the time that open() takes.
    """
    parts = []
    with refused(f"read {path}"), Descriptor.open(path, os.O_RDONLY) as file:
        while True:
            parts.append(os.read(file.fileno(), 1 << 16))
            if not parts[-1]:
                return b"".join(parts).decode("utf-8", "surrogateescape")


def effective_capabilities() -> int:
    """The calling thread's effective capabilities in its own user namespace, bit n for capability n (capget(2))."""
    found = ffi.new("uint64_t *")
    error = lib.nsnet_capabilities(found)
    if error < 0:
        raise KernelError(-error, "capabilities")
    return found[0]


def proc_pid(pidfd: int) -> int:
    """The number that /proc knows a process by: that of the pid namespace /proc was mounted for, which need not be
    ours.

    0 if it is not visible there, -1 if it has been waited for (proc(5), /proc/PID/fdinfo).
    """
    for line in read_file(f"/proc/self/fdinfo/{pidfd}").splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return 0


def started(pid: int) -> Optional[int]:
    """When a process started, in clock ticks since boot (proc(5)); None if there is none. With the pid it names one."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def runs(pid: int, when: int) -> bool:
    """Whether the process that started then still runs. One that only waits for its parent to collect it does not: where
    init collects nobody, it waits for ever."""
    fields = _stat(pid)
    ended = fields and fields[0] in ("Z", "X") and int(fields[17]) <= 1     # more: its first thread has ended, others run
    return bool(fields) and not ended and int(fields[19]) == when


def _stat(pid: int) -> List[str]:
    """Of /proc/PID/stat what comes after its name; nothing if there is none."""
    path = f"/proc/{pid}/stat"
    try:
        with refused(f"read {path}"), Descriptor.open(path, os.O_RDONLY) as file:       # in one piece, below a page
            return os.read(file.fileno(), 1 << 12).decode("utf-8", "surrogateescape").rpartition(")")[2].split()
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return []
        raise


@contextmanager
def process(pid: int) -> Iterator[int]:
    """The pidfd of a running process that /proc here knows by this number. Raises KernelError with ESRCH if there is none."""
    with refused(f"process {pid}"):
        pidfd = Descriptor.of(os.pidfd_open, pid)
    with pidfd:
        if proc_pid(pidfd.fileno()) != pid:
            raise KernelError(errno.ESRCH, f"process {pid}", "/proc is of another pid namespace")
        yield pidfd.fileno()


def still_there(pidfd: int, pid: int) -> None:
    """After something was read under /proc/PID: raises KernelError if it may have been another process's."""
    if has_ended(pidfd):
        raise KernelError(errno.ESRCH, f"process {pid}")


def signal_process(pidfd: int, signal: int) -> None:
    """pidfd_send_signal(2). Says nothing if the process has ended."""
    try:
        _signal.pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        pass
    except OSError as error:
        raise KernelError(error.errno, f"signal {signal}") from None


def has_ended(pidfd: int, timeout: Optional[float] = 0) -> bool:
    """Whether a process has ended, waiting `timeout` seconds for it (None: for as long as it takes)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    with refused("wait for a process"):
        return bool(poll.poll(None if timeout is None else math.ceil(min(max(timeout, 0), MAX_TIMEOUT) * 1000)))


def owner_userns(netns_fd: int) -> Optional[Descriptor]:
    """The user namespace that owns a network namespace; None if it lies outside the caller's (EPERM)."""
    try:
        return Descriptor.of(fcntl.ioctl, netns_fd, NS_GET_USERNS)
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
        descriptor = Descriptor.open(name, os.O_RDONLY | os.O_NONBLOCK)         # it may be a FIFO
    try:
        check_namespace(descriptor.fileno(), kind, repr(name))
    except UsageError:
        descriptor.close()
        raise
    return descriptor


def check_namespace(fd: int, kind: str, what: str) -> None:
    """Raises UsageError if a descriptor is not that of a namespace of this kind."""
    if not is_namespace(fd, kind):
        raise UsageError(f"{what}: expected a file that is a {kind} namespace")


def is_namespace(fd: int, kind: str) -> bool:
    """Whether a descriptor is that of a namespace of this kind (NS_GET_NSTYPE, ioctl_ns(2))."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_FLAGS[kind]
    except OSError:
        return False


def mount(source: str, target: str, flags: int, step: str) -> None:
    """mount(2) without a file system type: a bind, or another propagation."""
    error = lib.nsnet_mount(os.fsencode(source), os.fsencode(target), flags)
    if error < 0:
        raise KernelError(-error, step)


def umount(target: str, step: str) -> None:
    """umount2(2), now and without following a link; users of the mount keep it."""
    error = lib.nsnet_umount(os.fsencode(target))
    if error < 0:
        raise KernelError(-error, step)
