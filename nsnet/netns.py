"""A network namespace as a thing to hold and to talk to: `Netns`, and `Batch` for many verbs in one exchange.

A namespace is a socket, not a place to be: a `Netns` holds an rtnetlink socket that was opened inside, and the calling
thread never moves. Each verb is written once; a `Netns` runs it at once, a `Batch` keeps it until the `with` block
ends.

Knows links, addresses and routes of one namespace, and how a name becomes an index. Refuses to know who created what,
what belongs together, and what should be there: ownership.py and network.py do.
"""

from __future__ import annotations

import _socket                          # its numbers; socket itself is slow to import, see socket() below
import _thread as threading             # its locks, likewise
import errno
import os
import time
from contextlib import ExitStack

from nsnet import clone, kernel
from nsnet.errors import KernelError, NoSuchObject, ProtocolError, UsageError
from nsnet.exchange import Exchange, Outcome, Request, raise_errors
from nsnet.hints import why_refused         # at once: where no descriptor is left nothing can be imported
from nsnet.kernel import RECEIVE_BYTES
from nsnet.objects import Link
from nsnet.reading import Reading
from nsnet.requests.common import number, positive
from nsnet.verbs import LinkLike, LinkRef, Verbs, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, Union
    from nsnet.monitor import Monitor

CHUNK_BYTES = 1 << 16               # one send; far below net.core.wmem_default
CHUNK_REQUESTS = 200                # so that 200 errors fit the receive buffer
CHUNK_NETNS = 64                    # that are talked to in one call, in which no signal handler runs: some 20 ms
THREADS = 2                         # that make namespaces
_ROUTE = (_socket.AF_NETLINK, _socket.SOCK_RAW, kernel.NETLINK_ROUTE)


class Batch(Verbs):
    """Verbs collected and sent together, in order, when the `with` block ends; not sent if it ends by an exception.

    A name is looked up when the verb is called: for a link that is made in the same batch, use what its `add_` verb
    returned. Without `with`, send() sends what was collected so far. Reading is the Netns's alone.

    Not a transaction: the kernel applies what it can and goes on after an error. The first error is raised, the later
    ones are in its `also`; `outcomes` tells for each request. Undoing is the caller's.
    """

    def __init__(self, netns: "Netns"):
        self.netns = netns
        self.requests: List[Request] = []
        self.outcomes: List[Outcome] = []
        self._ended = False

    def _run(self, request: Request) -> None:
        if self._ended:
            raise UsageError(f"{request.words}: expected another batch, this one's block has ended")
        self.requests.append(request)

    def add(self, request: Request) -> None:
        """Append a request made by hand. Raises UsageError for anything else."""
        self._run(_request(request))

    def send(self) -> None:
        """Send what was collected. Raises the first error."""
        batch, self.requests = self.requests, []
        self.outcomes = []
        try:
            if batch:
                self.netns.perform(batch, outcomes=self.outcomes)
        finally:
            _let_go(batch)

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._ended = True
        if kind is None:
            self.send()
        else:
            _let_go(self.requests)


class Netns(Verbs, Reading):
    """A network namespace, held by an rtnetlink socket inside it; it lives at least as long as this object is open.

    Made by `current()`, `new()`, `open(path)`, `of_pid(pid)`, `host()`, or as the `netns` of a spawned process. Close
    it with `close()` or `with`. Safe from many threads.
    """

    def __init__(self, rtnl_socket: kernel.RtnlSocket, *, fresh: bool = False, here: bool = False,
                 fd: Optional[kernel.Descriptor] = None, userns: Optional[kernel.Descriptor] = None,
                 private: bool = False):
        self._rtnl = rtnl_socket
        self.private = private          # made by us: nothing but this process and what is attached holds it
        self._fd, self._userns = fd, userns
        self._here = here               # the namespace of the threads of this process
        self._next_index = 2 if fresh else 0
        self._lock = threading.RLock()

    @property
    def netns(self) -> "Netns":         # type: ignore[override]
        """Itself: what a verb looks names up in."""
        return self

    # --- where it comes from ---

    @classmethod
    def current(cls) -> "Netns":
        """The calling thread's network namespace. Needs no privilege to hold, CAP_NET_ADMIN to change."""
        return cls(kernel.RtnlSocket.open(), here=True)

    @classmethod
    def new(cls, *, beside: Optional["Netns"] = None) -> "Netns":
        """A new network namespace, without a process in it; it ends when nothing holds it any more.

        With CAP_SYS_ADMIN it is owned by the caller's user namespace, without by a new one in which the caller is root.
        `beside`: owned by the same user namespace as that one. Raises KernelError with step "clone3", "unshare" or
        "uid_map" where that is forbidden, UsageError if `beside` is no Netns.
        """
        try:
            return cls._new(beside)
        except KernelError as error:
            error.hint = why_refused(error.step, error.errno)
            raise

    @classmethod
    def _new(cls, beside: Optional["Netns"]) -> "Netns":
        if beside is not None and _a_netns(beside)._userns is not None:
            fd = clone.visit(*_ROUTE, userns_fd=beside._userns.fileno())
            return cls(kernel.RtnlSocket(fd), fresh=True, private=True, userns=_dup(beside._userns))
        try:
            return cls(kernel.RtnlSocket(clone.visit(*_ROUTE)), fresh=True, private=True)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
        fd = clone.visit(*_ROUTE, maps=_maps_of_caller())
        made = cls(kernel.RtnlSocket(fd), fresh=True, private=True)
        made._userns = made._owner()
        return made

    @classmethod
    def new_many(cls, count: int, *, beside: Optional["Netns"] = None, threads: Optional[int] = None) -> List["Netns"]:
        """So many new network namespaces, as by new() but at less cost; all or none.

        Without CAP_SYS_ADMIN one new user namespace owns all of them: who is root there may administer them all.
        `threads`: 1 to 16 that make them, by default 2: with locks of the kernel's in their way, more gain nothing.
        Without CAP_SYS_ADMIN, or beside one that was made without, it is one process. Each takes one descriptor, two if
        it has a user namespace. Raises as new(), EMFILE among it.
        """
        made: List[Netns] = []
        try:
            for netns in cls.making(count, beside=beside, threads=threads):
                made.append(netns)
        except BaseException:
            for netns in made:
                netns.close()
            raise
        return made

    @classmethod
    def making(cls, count: int, *, beside: Optional["Netns"] = None,
               threads: Optional[int] = None) -> Iterator["Netns"]:
        """The same, one after another: while one is used the next ones are being made.

        Close it if you leave it before its end. Those that it gave are yours to close, also if it raises for a later one.
        """
        count = number(count, 0, 1 << 20, "count")          # here, and not when the first is asked for
        threads = number(THREADS if threads is None else threads, 1, clone.MOST_THREADS, "threads")
        userns = None if beside is None else _a_netns(beside)._userns
        return cls._making(count, threads, userns) if count else iter(())

    @classmethod
    def _making(cls, count: int, threads: int, userns: Optional[kernel.Descriptor]) -> Iterator["Netns"]:
        try:
            with ExitStack() as opened:
                if userns is not None:
                    userns = opened.enter_context(_dup(userns))     # they may outlive the one that these are beside
                visits, taken = _visits(count, threads, userns)
                opened.enter_context(visits)
                for left in reversed(range(count)):
                    rtnl_socket = kernel.RtnlSocket(taken)
                    try:
                        if userns is None and visits.by_child:
                            with rtnl_socket.netns_fd() as first:
                                userns = opened.enter_context(kernel.owner_userns(first.fileno()))
                        made = cls(rtnl_socket, fresh=True, private=True,
                                   userns=None if userns is None else _dup(userns))
                    except BaseException:
                        rtnl_socket.close()
                        raise
                    yield made
                    if left:
                        taken = visits.take()
        except KernelError as error:
            error.hint = why_refused(error.step, error.errno)
            raise

    @classmethod
    def open(cls, path: Union[str, bytes, os.PathLike]) -> "Netns":
        """The namespace that a file stands for: /proc/PID/ns/net, /run/netns/NAME, or any bind mount of one.

        Raises UsageError if it is no path or the file is no network namespace, KernelError if it cannot be opened or
        entered.
        """
        return cls._visited(kernel.open_namespace(path, "net"))

    @classmethod
    def of_pid(cls, pid: int) -> "Netns":
        """The namespace of a running process. Raises KernelError with ESRCH if there is none, UsageError for no pid."""
        pid = number(pid, 1, 0x7FFFFFFF, "pid")
        with kernel.process(pid) as pidfd:
            found = kernel.open_namespace(f"/proc/{pid}/ns/net", "net")
            kernel.still_there(pidfd, pid)
        return cls._visited(found)

    @classmethod
    def host(cls) -> "Netns":
        """The caller's namespace if it has CAP_NET_ADMIN there, else a new one that stands in for it (then `private` is
        True).

        From a private host nothing outside is reachable, and nothing outside reaches it; `connect()` and `socket()` do.
        """
        here = cls.current()
        if here.may_administer():
            return here
        here.close()
        made = cls.new()
        made.set_link(made.lo, up=True)
        return made

    @classmethod
    def _visited(cls, netns_fd: kernel.Descriptor) -> "Netns":
        own = os.stat("/proc/thread-self/ns/net")
        there = os.fstat(netns_fd.fileno())
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
            return cls(kernel.RtnlSocket.open(), here=True, fd=netns_fd)
        try:
            return cls(kernel.RtnlSocket(clone.visit(*_ROUTE, netns_fd=netns_fd.fileno())), fd=netns_fd)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
        userns = kernel.owner_userns(netns_fd.fileno())
        if userns is None:
            raise KernelError(errno.EPERM, "setns",
                              "the network namespace belongs to a user namespace outside the caller's")
        fd = clone.visit(*_ROUTE, netns_fd=netns_fd.fileno(), userns_fd=userns.fileno())
        return cls(kernel.RtnlSocket(fd), fd=netns_fd, userns=userns)

    def _owner(self) -> Optional[kernel.Descriptor]:
        return kernel.owner_userns(self.fd)

    @property
    def socket_of_rtnl(self) -> kernel.RtnlSocket:
        """The socket that holds the namespace. In a child of a fork it is a new one: on one socket, two would take each
        other's answers. Raises KernelError if this process may not go there again.
        """
        held = self._rtnl
        if not held.inherited or held.closed:
            return held
        self._lock = threading.RLock()          # a thread that exists no more may have held it
        found = kernel.RtnlSocket.open() if self._here else None
        if found is None or found.identity() != held.identity():        # it may have left the namespace since
            made = Netns._visited(held.netns_fd())
            found, self._userns = made._rtnl, made._userns or self._userns
        self._rtnl = found
        held.close()
        return found

    # --- what it is ---

    @property
    def fd(self) -> int:
        """A descriptor of the namespace (nsfs), owned by this object; for setns, IFLA_NET_NS_FD, or pass_fds."""
        return self._own_fd().fileno()

    def _own_fd(self) -> kernel.Descriptor:
        rtnl_socket = self.socket_of_rtnl       # first: in a child of a fork this makes a new lock
        with self._lock:
            if self._fd is None or self._fd.closed:
                rtnl_socket.fileno()            # a closed one says so
                self._fd = rtnl_socket.netns_fd()
            return self._fd

    def hold(self) -> kernel.Descriptor:
        """Another descriptor of the namespace, the caller's own: it stays when this object is closed."""
        self.socket_of_rtnl                     # first, as above
        with self._lock, kernel.refused("network namespace"):
            return kernel.Descriptor.of(os.dup, self._own_fd().fileno())

    @property
    def userns_fd(self) -> Optional[int]:
        """A descriptor of the owning user namespace, if it had to be entered or made to get here; else None.

        A process whose links are to join this namespace must live in a user namespace below that one.
        """
        return None if self._userns is None else self._userns.fileno()

    @property
    def identity(self) -> str:
        """A name for the namespace that is not used twice while the machine runs (SO_NETNS_COOKIE)."""
        return self.socket_of_rtnl.identity()

    def pin(self, name: str) -> str:
        """Give the namespace a name under /run/netns, where `ip netns` finds it; the path. It stays until unpin().

        Raises UsageError for a bad name; KernelError with step "pin": EEXIST if it is taken, EPERM without CAP_SYS_ADMIN.
        """
        from nsnet import pins          # here and below: few namespaces have names

        return pins.pin(self.fd, name)

    @staticmethod
    def unpin(name: str, *, missing_ok: bool = False) -> None:
        """Take such a name away. Raises KernelError with step "unpin": ENOENT unless `missing_ok`."""
        from nsnet import pins

        pins.unpin(name, missing_ok=missing_ok)

    def may_administer(self) -> bool:
        """Whether the caller has CAP_NET_ADMIN over it."""
        return self.socket_of_rtnl.may_administer()

    def free_index(self) -> int:
        """An ifindex that no link has: counted up in a namespace made by us, random and checked elsewhere."""
        rtnl_socket = self.socket_of_rtnl       # first: in a child of a fork this makes a new lock
        if self._next_index:
            with self._lock:
                while rtnl_socket.index_taken(self._next_index):    # tunl0 and the like appear in every namespace
                    self._next_index += 1
                self._next_index += 1
                return self._next_index - 1
        return self._index_elsewhere()

    def find(self, ifname: str) -> int:
        """The ifindex of the link of that name, 0 if there is none. Asks without netlink (netdevice(7))."""
        return self.socket_of_rtnl.ifindex(ifname)

    def index_of(self, link: LinkLike) -> int:
        """The ifindex of a link. Raises NoSuchObject for a name that is not there, UsageError for what can be none.

        A name of up to 15 bytes is an ifname: the kernel would find a link by a short altname too, which somebody
        inside may have given so that another link is meant. What is longer, up to 127 bytes, can only be an altname
        (IFLA_ALT_IFNAME).
        """
        if isinstance(link, int) and not isinstance(link, bool):
            return positive(link)
        if isinstance(link, LinkRef):
            return link.index
        if isinstance(link, Link):
            there = link.attrs.get("target_netnsid")
            if there is not None:
                raise UsageError(f"link {words(link)}: expected a link of this namespace, not of that with netnsid {there}")
            return link.index
        if kernel.is_altname(link):
            return self.link(link).index
        index = self.find(link)
        if not index:
            raise NoSuchObject(errno.ENODEV, f"link {words(link)}")
        return index

    # --- talking ---

    def batch(self) -> Batch:
        """Collect verbs and send them together: `with netns.batch() as net: net.add_bridge(...); ...`."""
        return Batch(self)

    def perform(self, batch: Sequence[Request], timeout: Optional[float] = None,
                outcomes: Optional[List[Outcome]] = None) -> List[Outcome]:
        """Send requests in one exchange (a very long batch in several). Raises the first error, after the last answer.

        `timeout`: seconds for the whole call, the turns of other threads on the socket included; None: 30 for each
        exchange. Raises KernelError with ETIMEDOUT for what was not sent in time, OutcomeUnknown with ETIMEDOUT for
        what was sent and not answered in time, KernelError with EDEADLK in a signal handler that interrupted a call of
        this very namespace. `outcomes`: a list that gets what became of each request, also if there was an error.
        """
        deadline = None if timeout is None else time.monotonic() + kernel.seconds(timeout)
        outcomes = [] if outcomes is None else outcomes
        for position, chunk in enumerate(_chunks(batch)):
            left = kernel.DEFAULT_TIMEOUT if deadline is None else deadline - time.monotonic()
            try:
                if left <= 0 and position:      # the first is sent even so: nobody may be in its way
                    raise KernelError(errno.ETIMEDOUT, chunk[0].words, "it was not sent, nor what comes after it")
                outcomes += self._talk(chunk, max(left, 0)).outcomes
            except (KernelError, ProtocolError) as error:
                error.outcomes = outcomes       # of what was done before
                raise
        raise_errors(outcomes)
        return outcomes

    def _run(self, request: Request) -> None:
        try:
            self.perform([request])
        finally:
            _let_go([request])

    def _talk(self, chunk: Sequence[Request], timeout: float) -> Exchange:
        return self.socket_of_rtnl.talk(_exchange_of(chunk), timeout)

    # --- without netlink ---

    def sync_carrier(self, link: Union[LinkRef, Link, str]) -> bool:
        """Whether a link has carrier; on Linux 6.8 and newer it can also transmit when this returns True (SIOCETHTOOL).

        A link is known by its name here, of at most 15 bytes. Raises UsageError for anything else, KernelError with
        ENODEV.
        """
        return self.socket_of_rtnl.sync_carrier(link.ifname if isinstance(link, (LinkRef, Link)) else link)

    # --- what happens ---

    def monitor(self, *groups: Union[str, Sequence[str]], receive_bytes: int = RECEIVE_BYTES) -> Monitor:
        """The events from now on: of "link", "address", "route", "neighbour", "rule", "nexthop", "nsid", "tc"; of none:
        links.

        `for event in netns.monitor("link", "address")`, or `async for`; close it, or use `with`. `read(timeout)` takes
        one, or None when the time is up; in asyncio put a timeout around the loop. Bridge ports are among "link",
        forwarding entries among "neighbour". `receive_bytes`: of the receive buffer; when it runs over, an event with
        the action "overflow" says so.
        """
        from nsnet.monitor import Monitor       # here and below: who builds a network listens to nothing

        here = self.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, kernel.NETLINK_ROUTE)
        names = groups[0] if len(groups) == 1 and not isinstance(groups[0], str) else groups
        return Monitor(here, names or ("link",), receive_bytes=receive_bytes)

    def wait_link(self, link: LinkLike, *, up: Optional[bool] = None, carrier: Optional[bool] = None,
                  operstate: Optional[str] = None, gone: bool = False,
                  timeout: Optional[float] = None) -> Optional[Link]:
        """Wait, by events, until a link is there, is `up`, has `carrier`, is in an `operstate`, or is `gone`.

        `timeout` in seconds: then KernelError with ETIMEDOUT. Returns the Link, None for one that is gone. See
        nsnet.monitor.wait_link() for links that are renamed or made again.
        """
        from nsnet.monitor import wait_link

        return wait_link(self, link, up=up, carrier=carrier, operstate=operstate, gone=gone, timeout=timeout)

    # --- reaching what is inside ---

    def socket(self, family: int = _socket.AF_INET, type: int = _socket.SOCK_STREAM, proto: int = 0) -> _socket.socket:
        """A socket of this namespace: whatever the calling thread does with it happens here."""
        import socket as _socket        # here: what builds a network needs none

        rtnl_socket = self.socket_of_rtnl
        if self._here:
            made = _socket.socket(family, type, proto)
            try:
                if kernel.netns_identity(made) == rtnl_socket.identity():
                    return made
            except BaseException:
                made.close()
                raise
            made.close()                        # the calling thread has gone elsewhere
        return _socket.socket(family, type, proto, fileno=self._visit(clone.visit, family, type, proto).detach())

    def connect(self, address: Tuple[str, int], timeout: Optional[float] = None) -> _socket.socket:
        """A TCP connection from this namespace to (ip, port). `timeout`: seconds. Raises OSError as connect(2) does."""
        if timeout is not None:
            timeout = kernel.seconds(timeout)
        made = self.socket(_socket.AF_INET6 if ":" in address[0] else _socket.AF_INET)
        try:
            made.settimeout(timeout)
            made.connect(address)
        except BaseException:
            made.close()
            raise
        return made

    def proc_sys(self, rows: Sequence[clone.Row]) -> List[Tuple[int, bytes]]:
        """Files of /proc/sys/net as they are here, read and written in one visit: clone.sysctls().

        What nsnet.sysctls makes its calls from, which checks that they are such files.
        """
        rtnl_socket = self.socket_of_rtnl
        rtnl_socket.fileno()                    # a closed one says so
        if self._here:
            with kernel.refused("netns cookie"):
                looking = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, kernel.NETLINK_ROUTE)
            try:
                inside = kernel.netns_identity(looking) == rtnl_socket.identity()
            finally:
                looking.close()
            if inside:
                return clone.sysctls(rows)
        return self._visit(clone.sysctls, rows)

    def _visit(self, visit: Callable[..., Any], *arguments: Any) -> Any:
        """What a visitor brings back from here: `visit` is a function of clone.py that sends one."""
        if self._userns is None:
            try:
                return visit(*arguments, netns_fd=self.fd)
            except KernelError as error:
                if error.errno != errno.EPERM:
                    raise
            self._userns = self._owner()
            if self._userns is None:
                raise KernelError(errno.EPERM, "setns", "the network namespace's owner is not below the caller's")
        return visit(*arguments, netns_fd=self.fd, userns_fd=self._userns.fileno())

    # --- its end ---

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._rtnl.closed

    def close(self) -> None:
        """Let go. A namespace that nobody else holds ends, with everything in it."""
        self._rtnl.close()
        if self._rtnl.inherited:                # a thread that exists no more may have held the lock
            self._lock = threading.RLock()
        with self._lock:
            for held in (self._fd, self._userns):
                if held is not None:
                    held.close()

    def __enter__(self) -> "Netns":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def perform_all(batches: Sequence[Tuple[Netns, Sequence[Request]]]) -> List[List[Outcome]]:
    """Send a batch to each of several namespaces; what became of each request, errors among it, in the order given.

    Raises what Netns.perform() raises, but for the errors of requests.
    """
    found: List[List[Outcome]] = [[] for _ in batches]
    talks = [(place, netns, chunk) for place, (netns, batch) in enumerate(batches) for chunk in _chunks(batch)]
    for start in range(0, len(talks), CHUNK_NETNS):
        part = talks[start:start + CHUNK_NETNS]
        exchanges = kernel.talk_all([(netns.socket_of_rtnl, _exchange_of(chunk)) for _, netns, chunk in part])
        for (place, _, _), exchange in zip(part, exchanges):
            found[place] += exchange.outcomes
    return found


def _exchange_of(chunk: Sequence[Request]) -> Callable[[int], Exchange]:
    """What makes the exchange of a chunk, when the number of its first request is known."""
    level = kernel.tracing()
    if not level:
        return lambda first_seq: Exchange(chunk, first_seq)
    from nsnet.explainer import TracedExchange

    return lambda first_seq: TracedExchange(chunk, first_seq, kernel.trace, hex=level > 1)


def _maps_of_caller() -> Tuple[str, str]:
    """For a user namespace in which the caller is root."""
    return f"0 {os.geteuid()} 1\n", f"0 {os.getegid()} 1\n"


def _visits(count: int, threads: int, userns: Optional[kernel.Descriptor]) -> Tuple[clone.Visits, kernel.Descriptor]:
    """New namespaces on their way, and the first of them, which tells whether that is allowed."""
    if userns is not None:
        return _begun(clone.Visits(count, *_ROUTE, threads=threads, userns_fd=userns.fileno()))
    try:
        return _begun(clone.Visits(count, *_ROUTE, threads=threads))
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
    return _begun(clone.Visits(count, *_ROUTE, threads=threads, maps=_maps_of_caller()))


def _begun(visits: clone.Visits) -> Tuple[clone.Visits, kernel.Descriptor]:
    try:
        return visits, visits.take()
    except BaseException:
        visits.close()
        raise


def _dup(descriptor: kernel.Descriptor) -> kernel.Descriptor:
    with kernel.refused("network namespace"):
        return kernel.Descriptor.of(os.dup, descriptor.fileno())


def _a_netns(value: Any) -> "Netns":
    if not isinstance(value, Netns):
        raise UsageError(f"network namespace {value!r}: expected a Netns")
    return value


def _request(value: Any) -> Request:
    if not isinstance(value, Request):
        raise UsageError(f"request {value!r}: expected a Request, such as nsnet.requests makes")
    return value


def _let_go(batch: Sequence[Request]) -> None:
    """Close what requests held for their sending: an exception's traceback could keep it for long."""
    for request in batch:
        if request.held is not None:
            request.held.close()


def _chunks(batch: Sequence[Request]) -> List[List[Request]]:
    """A dump ends a chunk: its answer takes the socket."""
    chunks: List[List[Request]] = [[]]
    size = 0
    for request in batch:
        size += 20 + len(_request(request).payload)
        if chunks[-1] and (size > CHUNK_BYTES or len(chunks[-1]) == CHUNK_REQUESTS):
            chunks.append([])
            size = 20 + len(request.payload)
        chunks[-1].append(request)
        if request.is_dump:
            chunks.append([])
            size = 0
    return [chunk for chunk in chunks if chunk]
