"""One batch of requests and what became of each, without a socket.

Pure state: `data` is what to send, `feed` takes what came back, `outcomes` says for every request what it got. Knows
sequence numbers, acknowledgements, dumps and extended ACKs. Refuses to know what a request is for; where an extended
ACK blames a byte, the path to it is found with the layouts that the caller hands in.

A batch is not a transaction: the kernel goes on after an error. Only the last message asks for an acknowledgement, so a
batch that succeeds costs one datagram each way; errors come back unasked.

Sources: netlink(7); netlink_rcv_skb() and netlink_ack() in net/netlink/af_netlink.c.
"""

from __future__ import annotations

import errno as _errno
import struct

from nsnet import rtnl
from nsnet.errors import NetlinkError, NotSupported, ProtocolError, UsageError, netlink_error
from nsnet.named import NamedTuple
from nsnet.tables import Layout, locate, missing
from nsnet.wire import Message, encode_message, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence

_INT = struct.Struct("=i")


class Request(NamedTuple):
    """One message to be sent.

    `words`: what it asks, for error messages. `tolerate`: errnos that are as good as success ("already gone"). `kind`:
    of the link, qdisc, class or filter, if the request is one that a kernel without that kind refuses. `held`: what
    must not be closed before the request is sent.
    """

    type: int
    flags: int
    payload: bytes
    words: str
    tolerate: FrozenSet[int] = frozenset()
    kind: Optional[str] = None
    held: Any = None

    @property
    def is_dump(self) -> bool:
        """Whether it asks for a list: the same bits mean something else in NEW messages (rtnetlink counts in fours)."""
        return self.type % 4 == 2 and self.flags & rtnl.NLM_F_DUMP == rtnl.NLM_F_DUMP


class Outcome:
    """What became of one request: the messages it was answered with, and its error if there was one."""

    __slots__ = ("replies", "error", "interrupted", "tolerated", "cookie", "warning")

    def __init__(self) -> None:
        self.replies: List[Message] = []
        self.error: Optional[NetlinkError] = None
        self.interrupted = False                # a dump that the kernel says may be inconsistent
        self.tolerated = 0                      # the errno that was taken for success
        self.cookie: Optional[bytes] = None     # NLMSGERR_ATTR_COOKIE, from kernels that say more with an answer
        self.warning: Optional[str] = None      # what the kernel says of a request that it did, all the same

    def __repr__(self) -> str:
        said = f"error={self.error}" if self.error else f"{len(self.replies)} replies"
        return f"<Outcome: {said}{', warning ' + repr(self.warning) if self.warning else ''}>"


def raise_errors(outcomes: Sequence[Outcome]) -> None:
    """Raise the first error of a batch, the later ones in its `also`."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        errors[0].also = errors[1:]
        raise errors[0]


# How the kernel says that it does not know a kind: of a link with EOPNOTSUPP, of the others with ENOENT.
_UNKNOWN_KIND = ("unknown device type", "kind is unknown", "classifier not found", "failed to load")


def _lack(errno: int, said: str, kind: str) -> Optional[str]:
    """What the kernel lacks, as a hint, if it refused because it does not know a kind."""
    if errno in (_errno.EOPNOTSUPP, _errno.ENOENT) and any(sign in said.lower() for sign in _UNKNOWN_KIND):
        what = "such action" if "action" in said else repr(kind)
        return f"this kernel has no {what}: it is not built in, and no module of it is found"
    if errno == _errno.EOPNOTSUPP and not said:
        return f"this kernel lacks {kind!r}, or something that was asked of it"
    return None


class Exchange:
    """A batch in flight. `first_seq`: of the first request; the others count on from there, modulo 2**32."""

    def __init__(self, requests: Sequence[Request], first_seq: int, layouts: Mapping[int, Layout] = rtnl.LAYOUTS):
        if not requests:
            raise UsageError("a batch: expected at least one request")
        self.requests = list(requests)
        self.outcomes = [Outcome() for _ in requests]
        self.first_seq = first_seq
        self.last_seq = (first_seq + len(requests) - 1) & 0xFFFFFFFF
        self.done = False
        self._layouts = layouts
        self._by_seq: Dict[int, int] = {}
        parts = []
        last = len(self.requests) - 1
        for position, request in enumerate(self.requests):
            seq = (first_seq + position) & 0xFFFFFFFF
            flags = request.flags | rtnl.NLM_F_REQUEST
            if position == last and not request.is_dump:
                flags |= rtnl.NLM_F_ACK
            self._by_seq[seq] = position
            parts.append(encode_message(request.type, flags, seq, request.payload))
        self.data = b"".join(parts)

    def feed(self, data: bytes) -> None:
        """Take received bytes, whole messages. Raises ProtocolError for what is not netlink."""
        position_of, interrupted = self._by_seq.get, rtnl.NLM_F_DUMP_INTR
        for message in messages(data):
            type, flags, seq, _, _ = message
            position = position_of(seq)
            if position is None:
                continue                        # of an earlier, interrupted talk
            outcome = self.outcomes[position]
            if flags & interrupted:
                outcome.interrupted = True
            if type >= 16:                      # NLMSG_MIN_TYPE: below are the control messages
                outcome.replies.append(message)
            elif type == rtnl.NLMSG_ERROR:
                self._acknowledged(position, message)
                self.done = self.done or seq == self.last_seq
            elif type == rtnl.NLMSG_DONE:
                self._dump_ended(position, message)
                self.done = self.done or seq == self.last_seq
            elif type == rtnl.NLMSG_OVERRUN:
                raise ProtocolError("NLMSG_OVERRUN: data was lost")

    def _acknowledged(self, position: int, message: Message) -> None:
        header = rtnl.NLMSGERR.decode(message.payload)
        # Behind the errno stands the request's header, and its payload too unless the reply is capped (or is no error);
        # then attributes.
        start = rtnl.NLMSGERR.size
        if header.error and not message.flags & rtnl.NLM_F_CAPPED:
            start += (max(header.len, 16) - 16 + 3) & ~3
        attrs = {}
        if message.flags & rtnl.NLM_F_ACK_TLVS and start <= len(message.payload):
            attrs = rtnl.EXTACK.decode(message.payload, 0, start)
        self.outcomes[position].cookie = attrs.get("cookie")
        if not header.error:
            self.outcomes[position].warning = attrs.get("msg") or None
        else:
            self._failed(position, -header.error, attrs)

    def _dump_ended(self, position: int, message: Message) -> None:
        if len(message.payload) < 4:
            return                              # kernels have sent DONE without a status
        (status,) = _INT.unpack_from(message.payload)
        if status < 0:
            attrs = {}
            if message.flags & rtnl.NLM_F_ACK_TLVS:
                attrs = rtnl.EXTACK.decode(message.payload, 0, 4)
            self._failed(position, -status, attrs)

    def _failed(self, position: int, errno: int, attrs: Dict) -> None:
        request, outcome = self.requests[position], self.outcomes[position]
        if not 0 < errno < 4096:
            raise ProtocolError(f"an acknowledgement with errno {errno}")
        if errno in request.tolerate:
            outcome.tolerated = errno
            return
        said = attrs.get("msg", "")
        hint = None if request.kind is None else _lack(errno, said, request.kind)
        make = netlink_error if hint is None else NotSupported
        outcome.error = make(errno, request.words, said or None, self._blamed(request, attrs))
        outcome.error.cookie, outcome.error.hint = attrs.get("cookie"), hint

    def _blamed(self, request: Request, attrs: Dict) -> Optional[str]:
        layout = self._layouts.get(request.type)
        if layout is None:
            return None
        try:
            path = locate(layout, request.payload, attrs["offs"] - 16) if "offs" in attrs else None
            if "miss_type" in attrs:
                nest = attrs["miss_nest"] - 16 if "miss_nest" in attrs else None
                path = missing(layout, request.payload, attrs["miss_type"], nest)
        except ProtocolError:                   # a request made by hand, which no table understands
            return None
        return path
