"""A network namespace as a thing to hold and to talk to: `Netns`, and `Batch` for many verbs in one exchange.

A namespace is a socket, not a place to be: a `Netns` holds an rtnetlink socket that was opened inside, and the calling
thread never moves. Each verb is written once; a `Netns` runs it at once, a `Batch` keeps it until the `with` block ends.

Knows links, addresses and routes of one namespace, and how a name becomes an index. Refuses to know who created what,
what belongs together, and what should be there: ownership.py and network.py do.
"""

import errno
import os
import socket as _socket
import sys
import threading
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, Union

from nsnet import kernel, requests, rtnl, values
from nsnet.errors import KernelError, NetlinkError, NoSuchObject, UsageError
from nsnet.exchange import Exchange, Outcome, Request, raise_errors
from nsnet.explain import explain
from nsnet.hints import why_refused
from nsnet.objects import Address, Link, Neighbour, Route

DUMP_TRIES = 5                      # a dump that the kernel flags as inconsistent is asked for again this often
CHUNK_BYTES = 1 << 16               # one send; far below net.core.wmem_default
CHUNK_REQUESTS = 200                # so that 200 errors fit the receive buffer
_FIRST_INDEX = 1 << 24              # indexes we choose on a host: far above those the kernel counts up to


class LinkRef(NamedTuple):
    """A link by name and index: what the add verbs return, before the kernel has been asked in a batch."""

    ifname: str
    index: int


LinkLike = Union[LinkRef, Link, int, str]


class Verbs:
    """The verbs of a namespace. A link may be given as what an add verb returned, a Link, an ifindex or a name."""

    netns: "Netns"
    lo = LinkRef("lo", rtnl.LOOPBACK_IFINDEX)

    def _run(self, request: Request) -> None:
        raise NotImplementedError

    def add_bridge(self, ifname: str, *, lladdr: Optional[str] = None, mtu: Optional[int] = None,
                   group: Optional[int] = None, up: Optional[bool] = None, **options: Any) -> LinkRef:
        """Create a bridge. `mtu` in bytes; `options`: rows of IFLA_BR_* in lower case (stp_state=0, ageing_time=30000).

        Raises AlreadyExists if the name is taken. RTM_NEWLINK, IFLA_INFO_KIND "bridge" <linux/if_link.h>; ip-link(8).
        """
        index = self.netns.free_index()
        self._run(requests.add_bridge(ifname, index=index, lladdr=lladdr, mtu=mtu, group=group, up=up,
                                      options=options or None))
        return LinkRef(ifname, index)

    def add_veth(self, ifname: str, *, peer: str, peer_netns: Optional["Netns"] = None, lladdr: Optional[str] = None,
                 peer_lladdr: Optional[str] = None, mtu: Optional[int] = None, group: Optional[int] = None,
                 master: Optional[LinkLike] = None, up: Optional[bool] = None,
                 queues: Optional[int] = None) -> Tuple[LinkRef, LinkRef]:
        """Create a veth pair; the peer is born in `peer_netns`. Returns both ends.

        `queues`: of each end; the kernel's default is one a CPU, and one is faster to make. `mtu` in bytes, `group` and
        `queues` are given to both ends. Raises AlreadyExists if a name is taken. RTM_NEWLINK, VETH_INFO_PEER
        <linux/veth.h>; veth(4).
        """
        there = peer_netns if peer_netns is not None else self.netns
        index, peer_index = self.netns.free_index(), there.free_index()
        self._run(requests.add_veth(
            ifname, peer, index=index, peer_index=peer_index, lladdr=lladdr, peer_lladdr=peer_lladdr, mtu=mtu,
            group=group, master=0 if master is None else self.netns.index_of(master), up=up, queues=queues,
            peer_netns_fd=None if peer_netns is None else peer_netns.fd))
        return LinkRef(ifname, index), LinkRef(peer, peer_index)

    def set_link(self, link: LinkLike, *, up: Optional[bool] = None, ifname: Optional[str] = None,
                 lladdr: Optional[str] = None, mtu: Optional[int] = None, master: Optional[LinkLike] = None,
                 nomaster: bool = False, group: Optional[int] = None, ifalias: Optional[str] = None,
                 netns: Optional["Netns"] = None, link_local: Optional[bool] = None) -> None:
        """Change a link. `link_local=False`: no IPv6 link-local address when it comes up; then nothing is flooded either.

        Raises NoSuchObject if there is no such link. RTM_SETLINK; ip-link(8).
        """
        index, words = self.netns.index_of(link), _words(link)
        if link_local is not None:      # first, and alone: within one message the flags would be applied before it
            mode = rtnl.IN6_ADDR_GEN_MODE_EUI64 if link_local else rtnl.IN6_ADDR_GEN_MODE_NONE
            self._run(requests.set_addr_gen_mode(index, words, mode))
        if link_local is not None and all(value is None for value in (up, ifname, lladdr, mtu, master, group, ifalias,
                                                                      netns)) and not nomaster:
            return
        self._run(requests.set_link(
            index, words, up=up, ifname=ifname, lladdr=lladdr, mtu=mtu,
            master=0 if nomaster else None if master is None else self.netns.index_of(master), group=group,
            ifalias=ifalias, netns_fd=None if netns is None else netns.fd))

    def del_link(self, link: LinkLike, *, missing_ok: bool = False) -> None:
        """Delete a link (for a veth, both ends). Raises NoSuchObject unless `missing_ok`. RTM_DELLINK."""
        try:
            index = self.netns.index_of(link)
        except NoSuchObject:
            if missing_ok:
                return
            raise
        self._run(requests.del_link(index, _words(link), missing_ok))

    def del_group(self, group: int) -> None:
        """Delete all links of a group at once: one wait for the kernel instead of one a link. RTM_DELLINK, IFLA_GROUP."""
        self._run(requests.del_group(group))

    def add_address(self, link: LinkLike, address: str, *, nodad: bool = True) -> None:
        """Give a link an address with prefix ("10.0.0.1/24"). `nodad`: IPv6 without duplicate address detection.

        Raises AlreadyExists if the link has it. RTM_NEWADDR <linux/if_addr.h>; ip-address(8).
        """
        self._run(requests.add_address(self.netns.index_of(link), values.host_address(address), _words(link), nodad=nodad))

    def del_address(self, link: LinkLike, address: str) -> None:
        """Take an address from a link. Raises NoSuchObject if the link does not have it. RTM_DELADDR."""
        self._run(requests.del_address(self.netns.index_of(link), values.address(address), _words(link)))

    def add_route(self, dst: str, *, via: Optional[str] = None, oif: Optional[LinkLike] = None,
                  metric: Optional[int] = None, table: int = rtnl.RT_TABLE_MAIN) -> None:
        """Add a route to `dst` ("default" or a network with prefix), via a gateway, out of a link, or both.

        Raises AlreadyExists, and NetlinkError with ENETUNREACH for a gateway that no link leads to (a link must be up).
        RTM_NEWROUTE <linux/rtnetlink.h>; ip-route(8).
        """
        self._run(requests.add_route(dst, via=via, oif=0 if oif is None else self.netns.index_of(oif), metric=metric,
                                     table=table))

    def del_route(self, dst: str, *, via: Optional[str] = None, oif: Optional[LinkLike] = None,
                  metric: Optional[int] = None, table: int = rtnl.RT_TABLE_MAIN) -> None:
        """Remove a route. Raises NoSuchObject. RTM_DELROUTE."""
        self._run(requests.del_route(dst, via=via, oif=0 if oif is None else self.netns.index_of(oif), metric=metric,
                                     table=table))


class Batch(Verbs):
    """Verbs collected and sent together, in order, when the `with` block ends; not sent if it ends by an exception.

    Not a transaction: the kernel applies what it can and goes on after an error. The first error is raised, the later
    ones are in its `also`; `outcomes` tells for each request. Undoing is the caller's.
    """

    def __init__(self, netns: "Netns"):
        self.netns = netns
        self.requests: List[Request] = []
        self.outcomes: List[Outcome] = []

    def _run(self, request: Request) -> None:
        self.requests.append(request)

    def add(self, request: Request) -> None:
        """Append a request made by hand."""
        self.requests.append(request)

    def send(self) -> None:
        """Send what was collected. Raises the first error."""
        batch, self.requests = self.requests, []
        if batch:
            self.outcomes = self.netns.perform(batch)

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.send()


class Netns(Verbs):
    """A network namespace, held by an rtnetlink socket inside it; it lives at least as long as this object is open.

    Made by `current()`, `new()`, `open(path)`, `of_pid(pid)`, `host()`, or as the `netns` of a spawned process. Close it
    with `close()` or `with`. Safe from many threads.
    """

    def __init__(self, rtnl_socket: kernel.RtnlSocket, *, fresh: bool = False, here: bool = False,
                 fd: Optional[kernel.Descriptor] = None, userns: Optional[kernel.Descriptor] = None,
                 private: bool = False):
        self.netns = self
        self.socket_of_rtnl = rtnl_socket
        self.private = private          # made by us: nothing but this process and what is attached holds it
        self._fd, self._userns = fd, userns
        self._here = here               # the namespace of the threads of this process
        self._next_index = 2 if fresh else 0
        self._lock = threading.RLock()

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
        "uid_map" where that is forbidden.
        """
        try:
            return cls._new(beside)
        except KernelError as error:
            error.hint = why_refused(error.step, error.errno)
            raise

    @classmethod
    def _new(cls, beside: Optional["Netns"]) -> "Netns":
        route = (_socket.AF_NETLINK, _socket.SOCK_RAW, kernel.NETLINK_ROUTE)
        if beside is not None and beside._userns is not None:
            fd = kernel.visit(*route, userns_fd=beside._userns.fileno())
            return cls(kernel.RtnlSocket(fd), fresh=True, private=True,
                       userns=kernel.Descriptor(os.dup(beside._userns.fileno())))
        try:
            return cls(kernel.RtnlSocket(kernel.visit(*route)), fresh=True, private=True)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
        fd = kernel.visit(*route, maps=(f"0 {os.geteuid()} 1\n", f"0 {os.getegid()} 1\n"))
        made = cls(kernel.RtnlSocket(fd), fresh=True, private=True)
        made._userns = made._owner()
        return made

    @classmethod
    def open(cls, path: str) -> "Netns":
        """The namespace that a file stands for: /proc/PID/ns/net, /run/netns/NAME, or any bind mount of one.

        Raises UsageError if the file is no network namespace, KernelError if it cannot be opened or entered.
        """
        return cls._visited(kernel.open_namespace(os.fspath(path), "net"))

    @classmethod
    def of_pid(cls, pid: int) -> "Netns":
        """The namespace of a running process. Raises KernelError with ESRCH if there is none."""
        try:
            pidfd = kernel.Descriptor(os.pidfd_open(pid))
        except OSError as error:
            raise KernelError(error.errno, f"process {pid}") from None
        with pidfd:
            if kernel.proc_pid(pidfd.fileno()) != pid:
                raise KernelError(errno.ESRCH, f"process {pid}", "/proc is of another pid namespace")
            found = kernel.open_namespace(f"/proc/{pid}/ns/net", "net")
            if kernel.has_ended(pidfd.fileno()):       # then the pid may have been another process's
                found.close()
                raise KernelError(errno.ESRCH, f"process {pid}")
        return cls._visited(found)

    @classmethod
    def host(cls) -> "Netns":
        """The caller's namespace if it has CAP_NET_ADMIN there, else a new one that stands in for it (then `private` is True).

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
        route = (_socket.AF_NETLINK, _socket.SOCK_RAW, kernel.NETLINK_ROUTE)
        own = os.stat("/proc/thread-self/ns/net")
        there = os.fstat(netns_fd.fileno())
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
            return cls(kernel.RtnlSocket.open(), here=True, fd=netns_fd)
        try:
            return cls(kernel.RtnlSocket(kernel.visit(*route, netns_fd=netns_fd.fileno())), fd=netns_fd)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
        userns = kernel.owner_userns(netns_fd.fileno())
        if userns is None:
            raise KernelError(errno.EPERM, "setns", "the network namespace belongs to a user namespace outside the caller's")
        held = kernel.Descriptor(userns)
        fd = kernel.visit(*route, netns_fd=netns_fd.fileno(), userns_fd=userns)
        return cls(kernel.RtnlSocket(fd), fd=netns_fd, userns=held)

    def _owner(self) -> Optional[kernel.Descriptor]:
        found = kernel.owner_userns(self.fd)
        return None if found is None else kernel.Descriptor(found)

    # --- what it is ---

    @property
    def fd(self) -> int:
        """A descriptor of the namespace (nsfs), owned by this object; for setns, IFLA_NET_NS_FD, or pass_fds."""
        with self._lock:
            if self._fd is None:
                self._fd = kernel.Descriptor(self.socket_of_rtnl.netns_fd())
            return self._fd.fileno()

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

    def may_administer(self) -> bool:
        """Whether the caller has CAP_NET_ADMIN over it."""
        return self.socket_of_rtnl.may_administer()

    def free_index(self) -> int:
        """An ifindex that no link has: counted up in a namespace made by us, random and checked elsewhere."""
        if self._next_index:
            with self._lock:
                while self.socket_of_rtnl.index_taken(self._next_index):    # tunl0 and the like appear in every namespace
                    self._next_index += 1
                self._next_index += 1
                return self._next_index - 1
        while True:
            index = _FIRST_INDEX + int.from_bytes(os.urandom(4), "little") % (0x7FFFFFFF - _FIRST_INDEX)
            if not self.socket_of_rtnl.index_taken(index):
                return index

    def find(self, ifname: str) -> int:
        """The ifindex of the link of that name, 0 if there is none. Asks without netlink (netdevice(7))."""
        return self.socket_of_rtnl.ifindex(ifname)

    def index_of(self, link: LinkLike) -> int:
        """The ifindex of a link. Raises NoSuchObject for a name that is not there."""
        if isinstance(link, int) and not isinstance(link, bool):
            return link
        if isinstance(link, (LinkRef, Link)):
            return link.index
        if not isinstance(link, str) or not 1 <= len(os.fsencode(link)) <= 15:
            raise UsageError(f"link {link!r}: expected a Link, an ifindex or a name of 1 to 15 bytes")
        index = self.find(link)
        if not index:
            raise NoSuchObject(errno.ENODEV, f"link {link}")
        return index

    # --- talking ---

    def batch(self) -> Batch:
        """Collect verbs and send them together: `with netns.batch() as net: net.add_bridge(...); ...`."""
        return Batch(self)

    def perform(self, batch: Sequence[Request], timeout: float = kernel.DEFAULT_TIMEOUT) -> List[Outcome]:
        """Send requests in one exchange (a very long batch in several). Raises the first error, after the last answer."""
        outcomes: List[Outcome] = []
        for chunk in _chunks(batch):
            outcomes += self._talk(chunk, timeout).outcomes
        raise_errors(outcomes)
        return outcomes

    def _run(self, request: Request) -> None:
        self.perform([request])

    def _talk(self, chunk: Sequence[Request], timeout: float) -> Exchange:
        exchange = self.socket_of_rtnl.talk(lambda first_seq: Exchange(chunk, first_seq), timeout)
        if os.environ.get("NSNET_TRACE", "0") not in ("", "0"):
            sent = explain(exchange.data)
            got = [explain(reply.encode()) for outcome in exchange.outcomes for reply in outcome.replies]
            errors = [f"  error: {outcome.error}" for outcome in exchange.outcomes if outcome.error is not None]
            sys.stderr.write("\n".join(["-> " + sent.replace("\nRTM", "\n-> RTM"), *("<- " + text for text in got),
                                        *errors, ""]))
        return exchange

    # --- what is there ---

    def links(self) -> List[Link]:
        """All links. Raises NetlinkError (EINTR) if the list kept changing while it was read."""
        return self._list(requests.list_links(), Link.from_body)

    def link(self, link: LinkLike) -> Link:
        """One link, read anew, by name, index or reference. Raises NoSuchObject."""
        by_name = isinstance(link, str)
        request = requests.get_link(ifname=link) if by_name else requests.get_link(index=self.index_of(link))
        (outcome,) = self.perform([request])
        found = self._read(outcome, Link.from_body)[0]
        if by_name and found.ifname != link:            # the kernel looks at altnames too
            raise NoSuchObject(errno.ENODEV, request.words)
        return found

    def sync_carrier(self, link: Union[LinkRef, Link, str]) -> bool:
        """Whether a link has carrier; on Linux 6.8 and newer it can also transmit when this returns True (SIOCETHTOOL)."""
        return self.socket_of_rtnl.sync_carrier(link if isinstance(link, str) else link.ifname)

    def addresses(self) -> List[Address]:
        """All IP addresses."""
        return self._list(requests.list_addresses(), Address.from_body)

    def routes(self) -> List[Route]:
        """All routes, of all tables and both families."""
        return self._list(requests.list_routes(), Route.from_body)

    def neighbours(self) -> List[Neighbour]:
        """The neighbour tables (ARP and NDP)."""
        return self._list(requests.list_neighbours(), Neighbour.from_body)

    def _list(self, request: Request, make: Callable) -> List:
        for _ in range(DUMP_TRIES):
            (outcome,) = self.perform([request])
            found = self._read(outcome, make)
            if not outcome.interrupted:
                return found
        error = NetlinkError(errno.EINTR, request.words, f"the list changed during each of {DUMP_TRIES} readings")
        error.partial = found
        raise error

    @staticmethod
    def _read(outcome: Outcome, make: Callable) -> List:
        return [make(rtnl.LAYOUTS[reply.type].decode(reply.payload)) for reply in outcome.replies
                if reply.type in rtnl.LAYOUTS]

    # --- reaching what is inside ---

    def socket(self, family: int = _socket.AF_INET, type: int = _socket.SOCK_STREAM, proto: int = 0) -> _socket.socket:
        """A socket of this namespace: whatever the calling thread does with it happens here."""
        if self._here:
            return _socket.socket(family, type, proto)
        fd = self._visit(family, type, proto)
        return _socket.socket(family, type, proto, fileno=fd)

    def connect(self, address: Tuple[str, int], timeout: Optional[float] = None) -> _socket.socket:
        """A TCP connection from this namespace to (ip, port). `timeout` in seconds. Raises OSError as connect(2) does."""
        made = self.socket(_socket.AF_INET6 if ":" in address[0] else _socket.AF_INET)
        try:
            made.settimeout(timeout)
            made.connect(address)
        except BaseException:
            made.close()
            raise
        return made

    def _visit(self, family: int, type: int, proto: int) -> int:
        if self._userns is None:
            try:
                return kernel.visit(family, type, proto, netns_fd=self.fd)
            except KernelError as error:
                if error.errno != errno.EPERM:
                    raise
            self._userns = self._owner()
            if self._userns is None:
                raise KernelError(errno.EPERM, "setns", "the network namespace's owner is not below the caller's")
        return kernel.visit(family, type, proto, netns_fd=self.fd, userns_fd=self._userns.fileno())

    # --- its end ---

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self.socket_of_rtnl.closed

    def close(self) -> None:
        """Let go. A namespace that nobody else holds ends, with everything in it."""
        self.socket_of_rtnl.close()
        for held in (self._fd, self._userns):
            if held is not None:
                held.close()

    def __enter__(self) -> "Netns":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _words(link: LinkLike) -> str:
    return link if isinstance(link, str) else f"link {link}" if isinstance(link, int) else link.ifname


def _chunks(batch: Sequence[Request]) -> List[List[Request]]:
    """A dump ends a chunk: its answer takes the socket."""
    chunks: List[List[Request]] = [[]]
    size = 0
    for request in batch:
        size += 20 + len(request.payload)
        if chunks[-1] and (size > CHUNK_BYTES or len(chunks[-1]) == CHUNK_REQUESTS):
            chunks.append([])
            size = 20 + len(request.payload)
        chunks[-1].append(request)
        if request.is_dump:
            chunks.append([])
            size = 0
    return [chunk for chunk in chunks if chunk]
