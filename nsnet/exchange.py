"""One batch of requests and what became of each, without a socket.

Pure state: `data` is what to send, `feed` takes what came back, `outcomes` says for every request what it got. Knows
sequence numbers, acknowledgements, dumps and extended ACKs. Refuses to know what a request is for; where an extended ACK
blames a byte, the path to it is found with the layouts that the caller hands in.

A batch is not a transaction: the kernel goes on after an error. Only the last message asks for an acknowledgement, so a
batch that succeeds costs one datagram each way; errors come back unasked.

Sources: netlink(7); netlink_rcv_skb() and netlink_ack() in net/netlink/af_netlink.c.
"""

import struct
from typing import Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence

from nsnet import rtnl
from nsnet.errors import NetlinkError, ProtocolError, UsageError, netlink_error
from nsnet.wire import Layout, Message, encode_message, locate, messages

_INT = struct.Struct("=i")


class Request(NamedTuple):
    """One message to be sent.

    `words`: what it asks, for error messages. `tolerate`: errnos that are as good as success ("already gone").
    """

    type: int
    flags: int
    payload: bytes
    words: str
    tolerate: FrozenSet[int] = frozenset()

    @property
    def is_dump(self) -> bool:
        """Whether it asks for a list: the same bits mean something else in the NEW messages (rtnetlink counts in fours)."""
        return self.type % 4 == 2 and self.flags & rtnl.NLM_F_DUMP == rtnl.NLM_F_DUMP


class Outcome:
    """What became of one request: the messages it was answered with, and its error if there was one."""

    __slots__ = ("replies", "error", "interrupted", "tolerated")

    def __init__(self) -> None:
        self.replies: List[Message] = []
        self.error: Optional[NetlinkError] = None
        self.interrupted = False                # a dump that the kernel says may be inconsistent
        self.tolerated = 0                      # the errno that was taken for success


def raise_errors(outcomes: Sequence[Outcome]) -> None:
    """Raise the first error of a batch, the later ones in its `also`."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        errors[0].also = errors[1:]
        raise errors[0]


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
        for message in messages(data):
            position = self._by_seq.get(message.seq)
            if position is None:
                continue                        # of an earlier, interrupted talk
            outcome = self.outcomes[position]
            if message.flags & rtnl.NLM_F_DUMP_INTR:
                outcome.interrupted = True
            if message.type == rtnl.NLMSG_ERROR:
                self._acknowledged(position, message)
                self.done = self.done or message.seq == self.last_seq
            elif message.type == rtnl.NLMSG_DONE:
                self._dump_ended(position, message)
                self.done = self.done or message.seq == self.last_seq
            elif message.type == rtnl.NLMSG_OVERRUN:
                raise ProtocolError("NLMSG_OVERRUN: data was lost")
            elif message.type != rtnl.NLMSG_NOOP:
                outcome.replies.append(message)

    def _acknowledged(self, position: int, message: Message) -> None:
        header = rtnl.NLMSGERR.decode(message.payload)
        if header.error == 0:
            return
        # Behind the errno stands the request's header, and its payload too unless the reply is capped; then attributes.
        start = rtnl.NLMSGERR.size
        if not message.flags & rtnl.NLM_F_CAPPED:
            start += (max(header.len, 16) - 16 + 3) & ~3
        attrs = {}
        if message.flags & rtnl.NLM_F_ACK_TLVS and start <= len(message.payload):
            attrs = rtnl.EXTACK.decode(message.payload, 0, start)
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
        outcome.error = netlink_error(errno, request.words, attrs.get("msg") or None, self._blamed(request, attrs))

    def _blamed(self, request: Request, attrs: Dict) -> Optional[str]:
        layout = self._layouts.get(request.type)
        if layout is None:
            return None
        path = None
        if "offs" in attrs:
            path = locate(layout, request.payload, attrs["offs"] - 16)
        if "miss_type" in attrs:
            missing = f"type {attrs['miss_type']} (missing)"
            nest = locate(layout, request.payload, attrs["miss_nest"] - 16) if "miss_nest" in attrs else None
            if nest is None:
                row = layout.table.by_number.get(attrs["miss_type"])
                missing = f"{layout.table.constant(row[0])} (missing)" if row else missing
            path = f"{nest}.{missing}" if nest else missing
        return path
