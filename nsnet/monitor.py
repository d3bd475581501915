"""Events of a network namespace: what the kernel says of links, addresses, routes and the rest when it changes them.

A `Monitor` is a socket of its own in multicast groups; `wait_link` waits by one instead of sleeping. The rules:

- Only the kernel is believed. Root of the namespace may multicast into these groups too, but not as the kernel: a
  datagram comes from the port of the socket that sent it, 0 is the kernel's, and no other socket ever gets that
  (netlink_autobind(), netlink_insert()). What came from another port is dropped and counted, and so is what the kernel
  itself sends to our port alone: NLM_F_ECHO from another namespace makes it do that (rtnl_notify()).
- What was lost is said, where it was lost: an "overflow" among the events.
- Who waits is woken: closing ends every wait, and no descriptor is closed while somebody waits on it.

Knows one socket and how a datagram becomes events. Keeps no state of the namespace, and no thread.

Sources: netlink(7), rtnetlink(7), net/netlink/af_netlink.c.
"""

from __future__ import annotations

import errno
import os
import select
import socket as _socket
import threading
import time
from collections import deque
from contextlib import contextmanager

from nsnet import kernel, rtnl
from nsnet.errors import KernelError, NoSuchObject, UsageError
from nsnet.explainer import Explainer
from nsnet.kernel import RECEIVE_BYTES
from nsnet.named import NamedTuple
from nsnet.objects import (Address, Filter, Link, Neighbour, Nexthop, NsId, Port, Qdisc, Route, Rule, TrafficClass)
from nsnet.tables import Body
from nsnet.wire import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Deque, Iterator, List, Optional, Sequence, Set, Union

GROUPS = {
    "link": (rtnl.RTNLGRP_LINK,),
    "address": (rtnl.RTNLGRP_IPV4_IFADDR, rtnl.RTNLGRP_IPV6_IFADDR),
    "route": (rtnl.RTNLGRP_IPV4_ROUTE, rtnl.RTNLGRP_IPV6_ROUTE),
    "neighbour": (rtnl.RTNLGRP_NEIGH,),
    "rule": (rtnl.RTNLGRP_IPV4_RULE, rtnl.RTNLGRP_IPV6_RULE),
    "nexthop": (rtnl.RTNLGRP_NEXTHOP,),
    "nsid": (rtnl.RTNLGRP_NSID,),
    "tc": (rtnl.RTNLGRP_TC,),
}

SOL_NETLINK = 270                   # <linux/socket.h>
NETLINK_ADD_MEMBERSHIP = 1          # <linux/netlink.h>
SO_RCVBUFFORCE = 33                 # <asm-generic/socket.h>

DATAGRAM_BYTES = 1 << 17            # one event: an attribute ends at 64 KiB, and no event has two that come near
REFUSED_AT_ONCE = 4096              # datagrams dropped before we look at the clock: more than the buffer holds

# ENOBUFS: the buffer was full. The others: the kernel could not make an event, and says so (rtnl_set_sk_err()).
_LOSSES = (errno.ENOBUFS, errno.ENOMEM, errno.EMSGSIZE)

_KINDS = {
    rtnl.RTM_NEWLINK: Link, rtnl.RTM_NEWADDR: Address, rtnl.RTM_NEWROUTE: Route, rtnl.RTM_NEWNEIGH: Neighbour,
    rtnl.RTM_NEWRULE: Rule, rtnl.RTM_NEWNEXTHOP: Nexthop, rtnl.RTM_NEWNSID: NsId, rtnl.RTM_NEWQDISC: Qdisc,
    rtnl.RTM_NEWTCLASS: TrafficClass, rtnl.RTM_NEWTFILTER: Filter,
}
_ACTIONS = ("new", "del")           # rtnetlink counts NEW, DEL, GET, SET; RTM_GETNEIGH is an event too, for arpd


class Event(NamedTuple):
    """One thing that happened.

    `action`: "new" (made or changed: the object is what it is now), "del" (gone: what it was), "overflow".
    `object`: a Link, Port, Address, Route, Neighbour (of family AF_BRIDGE: a forwarding entry), Rule, Nexthop, NsId,
    Qdisc, TrafficClass or Filter; None with "overflow". A link that moves to another namespace is "del" in the one and
    "new" in the other.

    "overflow": events are missing here. What was built from events must be read anew from the kernel, now; the events
    that come after this one are later than all that were lost.
    """

    action: str
    object: Optional[Body]


_OVERFLOW = Event("overflow", None)


def read_events(data: bytes) -> List[Event]:
    """The events in one datagram of the kernel's. Raises ProtocolError for bytes that are no messages.

    A message of a type or link family that is not known here is left out, never taken for something else.
    """
    found = []
    for message in messages(data):
        verb = message.type % 4
        kind: Any = _KINDS.get(message.type - verb)
        if kind is None or verb >= len(_ACTIONS):
            continue
        seen = rtnl.LAYOUTS[message.type].view(message.payload, 0, kernel.index_attributes, kind)
        if kind is Link and seen.header.family != rtnl.AF_UNSPEC:
            if seen.header.family != rtnl.AF_BRIDGE:        # AF_INET6: IPv6's parameters of a link
                continue
            seen = Port.from_body(seen)
        found.append(Event(_ACTIONS[verb], seen))
    return found


class _Closed(UsageError):
    """Whoever waited is told so by this; iteration ends."""


class Monitor:
    """The events of a network namespace that happen after it was made, from a NETLINK_ROUTE socket opened inside.

    `socket`: fresh, from `Netns.socket(AF_NETLINK, SOCK_RAW, 0)`; the monitor's from now on, and closed if it cannot be
    prepared. `groups`: names in GROUPS. `receive_bytes`: of the receive buffer (SO_RCVBUFFORCE; without CAP_NET_ADMIN
    over the host at most net.core.rmem_max).

    `for event in monitor` and `async for event in monitor` (asyncio) end when it is closed; `read(timeout)` takes one.
    `with` closes it at the end of the block, and so does `async with`, which waits for nothing: it is there so that
    `async with netns.monitor("link") as m: async for event in m: ...` reads as it does elsewhere in asyncio.
    Safe from many threads: each event goes to one of them. In an event loop one task at a time may wait. After a fork
    the child can only close its copy: it would take the parent's events. `refused` counts the datagrams that did not
    come from the kernel, to these groups: above 0, somebody means to mislead.

    Raises UsageError for an unknown group, KernelError with step "monitor".
    """

    def __init__(self, socket: _socket.socket, groups: Union[str, Sequence[str]], *,
                 receive_bytes: int = RECEIVE_BYTES):
        self._socket, self._epoll = socket, None
        self.refused = 0
        self._lock = threading.RLock()      # a signal handler may close what its thread is reading
        self._closed, self._users = False, 0
        self._pid = os.getpid()
        self._loops: Set = set()            # the event loops in which a task waits
        self._pending: Deque[Event] = deque()
        self._lost = False
        self._mask = 0                      # of the groups, as a sender's address names them
        try:
            self._prepare([groups] if isinstance(groups, str) else list(groups), receive_bytes)
        except BaseException:
            self.close()
            raise

    def _prepare(self, groups: Sequence[str], receive_bytes: int) -> None:
        for name in groups:
            if not isinstance(name, str) or name not in GROUPS:
                raise UsageError(f"group {name!r}: expected one of {', '.join(GROUPS)}")
        if not groups:
            raise UsageError(f"no groups: expected some of {', '.join(GROUPS)}")
        if not isinstance(receive_bytes, int) or not 0 < receive_bytes < 1 << 31:
            raise UsageError(f"receive_bytes {receive_bytes!r}: expected a number of bytes")
        with kernel.refused("monitor"):
            try:
                self._socket.setsockopt(_socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_bytes)
            except PermissionError:
                self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, receive_bytes)
            self._socket.setblocking(False)
            self._socket.bind((0, 0))
            self._socket.connect((0, 0))    # refuses the unicasts of others; their multicasts still come
            # One descriptor to wait on, for threads and event loops alike, that close() can make readable.
            self._epoll = select.epoll(1)
            self._epoll.register(self._socket.fileno(), select.EPOLLIN)
            for name in groups:
                for number in GROUPS[name]:
                    self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, number)
                    self._mask |= 1 << (number - 1)

    # --- taking ---

    def read(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event; None if there was none within `timeout` seconds (0: do not wait; None: for ever).

        Raises UsageError if the monitor is closed, before or during the wait, and for what is no time; KernelError with
        EMSGSIZE for an event that is too large.
        """
        deadline = None if timeout is None else time.monotonic() + kernel.seconds(timeout)
        with self._use():
            while True:
                event = self._take()
                if event is not None:
                    return event
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._epoll.poll(left, 1)   # goes on after a signal, for what is left of the time (PEP 475)
                if self._closed:
                    raise _Closed("the monitor is closed: expected one that is open")

    def _take(self) -> Optional[Event]:
        """The next event if it is here now."""
        for _ in range(REFUSED_AT_ONCE):
            try:
                return self._pending.popleft()
            except IndexError:
                pass
            try:
                data, _, flags, sender = self._socket.recvmsg(DATAGRAM_BYTES)
            except BlockingIOError:
                # After a loss the kernel drops all events until the queue has been empty (NETLINK_S_CONGESTED), and
                # does not say so again. Told any sooner, our caller would read the state too soon.
                lost, self._lost = self._lost, False
                return _OVERFLOW if lost else None
            except OSError as error:
                if error.errno not in _LOSSES:
                    raise KernelError(error.errno, "monitor") from None
                if self._lost:              # a second loss: the queue was empty in between
                    return _OVERFLOW
                self._lost = True           # what stands in the queue was before the loss
                continue
            if not sender or sender[0] != 0 or not sender[1] & self._mask:
                self.refused += 1
                continue
            if flags & _socket.MSG_TRUNC:
                raise KernelError(errno.EMSGSIZE, "monitor", f"an event of more than {DATAGRAM_BYTES} bytes")
            level = kernel.tracing()
            if level:
                kernel.trace(Explainer().text(data, "<- ", hex=level > 1) + "\n")
            self._pending.extend(read_events(data))
        return None

    def __iter__(self) -> "Monitor":
        return self

    def __next__(self) -> Event:
        try:
            return self.read()
        except _Closed:
            raise StopIteration from None

    def __aiter__(self) -> "Monitor":
        return self

    async def __anext__(self) -> Event:
        """An event is taken only when it is returned: to cancel a task that waits loses none."""
        import asyncio                      # slow to import, and most callers have none

        loop = asyncio.get_running_loop()
        try:
            with self._use():
                while True:
                    event = self._take()
                    if event is not None:
                        return event
                    await self._readable(loop)
                    if self._closed:
                        break
        except _Closed:
            pass
        raise StopAsyncIteration

    async def _readable(self, loop: Any) -> None:
        if loop in self._loops:             # add_reader() would take the other task's place, which then waits for ever
            raise UsageError("monitor: expected one waiting task in an event loop, and there is another already")
        self._loops.add(loop)
        try:
            future = loop.create_future()
            loop.add_reader(self._epoll.fileno(), lambda: future.done() or future.set_result(None))
            try:
                await future
            finally:
                loop.remove_reader(self._epoll.fileno())
        finally:
            self._loops.discard(loop)

    def fileno(self) -> int:
        """A descriptor for select, poll, epoll and event loops: readable when something came, or on close().

        Then call `read(0)` until it returns None; it may have been several events, or none.
        """
        self._check()
        return self._epoll.fileno()

    # --- its end ---

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """End it. Whoever waits, in any thread or event loop, is woken: iteration ends, read() raises UsageError."""
        if os.getpid() != self._pid:        # a forked child: the epoll is the parent's too, and the lock may be held
            self._closed = True
            self._let_go()
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                if self._users:             # it can always be written to: that wakes all of them, and stays so
                    self._epoll.modify(self._socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
            if not self._users:
                self._let_go()

    def _let_go(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
        self._socket.close()

    def _check(self) -> None:
        if self._closed:
            raise _Closed("the monitor is closed: expected one that is open")
        if os.getpid() != self._pid:
            raise UsageError(f"monitor of process {self._pid}: expected to be used there, not in a child; open another")

    @contextmanager
    def _use(self) -> Iterator[None]:
        """While somebody is in here, the descriptors stay open: the last one to leave a closed monitor closes them."""
        self._check()
        with self._lock:
            self._users += 1
        try:
            self._check()                   # again: now it cannot be closed under us
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._closed and not self._users:
                    self._let_go()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    async def __aenter__(self) -> "Monitor":
        return self

    async def __aexit__(self, *_: Any) -> None:
        """Close it: a task of this loop that waits for an event is woken, and its iteration ends."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_epoll"):         # nobody is left who could wait
            self._let_go()


def wait_link(netns: Any, link: Any, *, up: Optional[bool] = None, carrier: Optional[bool] = None,
              operstate: Optional[str] = None, gone: bool = False, timeout: Optional[float] = None) -> Optional[Link]:
    """Wait until a link is as asked: `up` (administratively), `carrier`, `operstate` ("up", "down", ...), or several.

    With no condition: until it is there. `gone`: until it is not; then returns None, otherwise the Link as it was at
    the end of the wait. `timeout` in seconds; None: for ever. A state that ends sooner than we can look may be missed.

    A name means whatever link has that name, an altname only if it is too long for another (Netns.index_of()): a link
    that comes later or is made again counts, and one that loses the name or leaves the namespace is gone. An ifindex, a
    Link or what an add verb returned means that one link: if it is deleted while something else is awaited, that is
    NoSuchObject. `netns`: a Netns.

    Raises KernelError with ETIMEDOUT, naming the link, the condition and what was seen last; UsageError for what is no
    link, no state or no time. RTM_NEWLINK, RTM_DELLINK, RTNLGRP_LINK <linux/rtnetlink.h>; rtnetlink(7).
    """
    for name, value in (("up", up), ("carrier", carrier)):
        if value is not None and not isinstance(value, bool):
            raise UsageError(f"{name} {value!r}: expected True or False")
    wanted = {name: value for name, value in (("up", up), ("carrier", carrier), ("operstate", operstate))
              if value is not None}
    if gone and wanted:
        raise UsageError(f"gone=True and {', '.join(wanted)}: expected the one or the other")
    if operstate is not None and operstate not in rtnl.OPERSTATES:
        raise UsageError(f"operstate {operstate!r}: expected one of {', '.join(rtnl.OPERSTATES)}")
    deadline = None if timeout is None else time.monotonic() + kernel.seconds(timeout)
    ifname = link if isinstance(link, str) else None
    index = netns.index_of(link) if ifname is None else 0       # a name is looked up once somebody listens
    if ifname is not None:
        kernel.is_altname(ifname)           # refuses what is no name
    target = index if ifname is None else ifname
    condition = "gone" if gone else ", ".join(f"{name}={value}" for name, value in wanted.items()) or "there"
    step = f"wait for link {getattr(link, 'ifname', link)} ({condition})"
    with Monitor(netns.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, kernel.NETLINK_ROUTE), "link") as monitor:
        first = found = _look(netns, target, deadline, step)
        while True:
            if gone and (found is None or found.index != first.index):
                return None
            if not gone and found is not None and all(getattr(found, key) == value for key, value in wanted.items()):
                return found
            if found is None and first is not None and ifname is None:
                raise NoSuchObject(errno.ENODEV, step, "it was deleted")
            if found is not None:
                index = found.index
            event = _next_about(monitor, index, ifname, deadline)
            if event is None:
                raise KernelError(errno.ETIMEDOUT, step, _state(found))
            if gone and event.action == "del" and event.object.index == first.index:
                return None                 # there may be one of the same index by now: that is another one
            # Anew: an event may be old by now, or hold half of the attributes (wext).
            found = _look(netns, target, deadline, step)
            first = first if first is not None else found


def _look(netns: Any, target: Union[int, str], deadline: Optional[float], step: str) -> Optional[Link]:
    """The link as it is now. Another thread's turn on the namespace's socket counts against the time, too."""
    left = None if deadline is None else max(deadline - time.monotonic(), 0)
    try:
        return netns.link(target, timeout=left)
    except NoSuchObject:
        return None
    except KernelError as error:
        if error.errno != errno.ETIMEDOUT or deadline is None:
            raise
        raise KernelError(errno.ETIMEDOUT, step, f"it could not be looked at in time: {error.detail}") from None


def _next_about(monitor: Monitor, index: int, ifname: Optional[str],
                deadline: Optional[float]) -> Optional[Event]:
    """The next event that may be about that link; None when the time is up."""
    while True:
        event = monitor.read(None if deadline is None else max(deadline - time.monotonic(), 0))
        if event is None or event.action == "overflow":
            return event
        seen = event.object
        if isinstance(seen, Link) and (seen.index == index or ifname in (seen.ifname, *seen.altnames)):
            return event


def _state(link: Optional[Link]) -> str:
    if link is None:
        return "it is not there"
    return f"it has up={link.up}, carrier={link.carrier}, operstate={link.operstate}"
