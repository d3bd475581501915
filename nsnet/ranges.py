"""What a subnet has to give to its hosts, and how a person restricts it: "10.0.0.10-10.0.0.20", "10.0.0.32/28".

Pure. Addresses are numbers here, and many of them are a span: a subnet of 2**120 addresses costs what one of 16 does.
Does not know which of them are taken.
"""

from __future__ import annotations

from itertools import chain

from nsnet import values
from nsnet.errors import UsageError
from nsnet.named import NamedTuple
from nsnet.values import Address
from nsnet.wire import decode_ip, encode_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, List, Sequence, Set, Tuple, Union

_NEVER = {                          # in no subnet: "this network" and multicast; unspecified, loopback and multicast
    4: ((0, 0x00FFFFFF), (0xE0000000, 0xFFFFFFFF)),
    6: ((0, 1), (0xFF << 120, (1 << 128) - 1)),
}


class Span(NamedTuple):
    """Addresses as numbers, from the first to the last."""

    first: int
    last: int


class Pool(NamedTuple):
    """What one subnet has to give: `subnet` is the gateway's address with its prefix, `spans` are sorted and apart."""

    subnet: Address
    spans: Tuple[Span, ...]

    @property
    def size(self) -> int:
        return sum(span.last - span.first + 1 for span in self.spans)

    def __contains__(self, address: object) -> bool:
        """Whether it may give that address."""
        from bisect import bisect_right     # here: only leases come this far

        if not isinstance(address, Address) or address.version != self.subnet.version:
            return False
        number = number_of(address)
        at = bisect_right(self.spans, (number, 1 << 128)) - 1
        return at >= 0 and number <= self.spans[at].last

    def address(self, number: int) -> Address:
        packed = number.to_bytes(len(self.subnet.packed), "big")
        return Address(decode_ip(packed), self.subnet.prefixlen, packed)

    def unused(self, known: Set[int]) -> Iterator[Address]:
        """What is not known, the lowest first. `known` may grow meanwhile."""
        for number, last in self.spans:
            while number <= last:
                if number not in known:
                    yield self.address(number)
                number += 1

    def __str__(self) -> str:
        ends = [tuple(self.address(number).ip for number in span) for span in self.spans[:4]]
        ranges = ", ".join(first if first == last else f"{first}-{last}" for first, last in ends)
        return f"{self.subnet.with_host(0)} ({ranges or 'nothing but its gateway'}{', ...' if self.spans[4:] else ''})"


def pools(subnets: Sequence, ranges: Sequence = (), exclude: Sequence = ()) -> Tuple[Pool, ...]:
    """What each subnet has to give; the arguments of Leases, checked. Raises UsageError."""
    subnets = values.addresses(subnets, "subnets")
    wanted, unwanted = parse_ranges(ranges, subnets, "ranges"), parse_ranges(exclude, subnets, "exclude")
    result = []
    for subnet, some, none in zip(subnets, wanted, unwanted):
        whole = Span(number_of(subnet.with_host(0)), number_of(subnet.with_host(subnet.broadcast)))
        pool = Pool(subnet, without(some or (whole,), chain(none, reserved(subnet, subnets))))
        if not pool.spans and (some or none):
            raise UsageError(f"ranges {ranges!r}, exclude {exclude!r}: expected to leave some address of "
                             f"{subnet.with_host(0)} that is not a gateway, the network or broadcast address")
        result.append(pool)
    return tuple(result)


def parse_ranges(items: Sequence, subnets: Sequence, what: str = "ranges") -> Tuple[Tuple[Span, ...], ...]:
    """For each subnet the addresses that are named in it, sorted and apart; () where none is.

    `items`: "10.0.0.10-10.0.0.20", "10.0.0.32/28", "10.0.0.5"; each within one of the subnets. Raises UsageError that
    names the item, and `what` it was for.
    """
    subnets = values.addresses(subnets, "subnets")
    if isinstance(items, (str, Address)):
        items = (items,)
    if not hasattr(items, "__iter__"):
        raise UsageError(f"{what} {items!r}: expected a list of ranges such as 10.0.0.10-10.0.0.20")
    found: List[List[Span]] = [[] for _ in subnets]
    for item in items:
        first, last = _parse_range(item, what)
        places = [place for place, subnet in enumerate(subnets) if first in subnet and last in subnet]
        if not places:
            raise UsageError(f"{what} {str(item)!r}: expected addresses within one of "
                             f"{', '.join(str(subnet.with_host(0)) for subnet in subnets)}")
        for place in places:
            found[place].append(Span(number_of(first), number_of(last)))
    return tuple(without(spans, ()) for spans in found)


def _parse_range(item: Any, what: str) -> Tuple[Address, Address]:
    text = str(item) if isinstance(item, (str, Address)) else ""
    if "/" in text:
        network = values.network(text, what)
        return network, network.with_host(network.broadcast)
    first, dash, last = text.partition("-")
    try:
        ends = [encode_ip(first), encode_ip(last if dash else first)]
    except UsageError:
        ends = []
    if not ends or len(ends[0]) != len(ends[1]) or ends[0] > ends[1]:
        raise UsageError(f"{what} {text or item!r}: expected a range such as 10.0.0.10-10.0.0.20, the lower one first, "
                         "a network such as 10.0.0.32/28, or an address")
    return alone(ends[0]), alone(ends[1])


def text(item: str, what: str = "ranges") -> str:
    """An item in one form: "10.0.0.10-10.0.0.20", "10.0.0.32/28" or "10.0.0.5". Raises UsageError."""
    first, last = _parse_range(item, what)
    if "/" in item:
        return str(first)
    return f"{first.ip}-{last.ip}" if "-" in item else first.ip


def alone(packed: bytes) -> Address:
    return Address(decode_ip(packed), 8 * len(packed), packed)


def number_of(address: Address) -> int:
    return int.from_bytes(address.packed, "big")


def without(spans: Iterable, holes: Iterable) -> Tuple[Span, ...]:
    """The spans, sorted and merged, without the holes."""
    merged: List[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1].last + 1:
            first, last = merged[-1].first, max(last, merged.pop().last)
        merged.append(Span(first, last))
    for low, high in holes:
        parts = chain.from_iterable((Span(first, min(last, low - 1)), Span(max(first, high + 1), last))
                                    for first, last in merged)
        merged = [part for part in parts if part.first <= part.last]
    return tuple(merged)


def reserved(subnet: Address, subnets: Iterable[Address]) -> Iterator[Tuple[int, int]]:
    """What no host of a subnet may have: gateways, the network and broadcast address, v6's subnet-router anycast."""
    yield from _NEVER[subnet.version]
    own = [number_of(gateway) for gateway in subnets if gateway.version == subnet.version]
    if subnet.bits - subnet.prefixlen > 1:      # RFC 3021 and RFC 6164: both addresses of /31 and /127 are hosts
        own.append(number_of(subnet.with_host(0)))
        if subnet.version == 4:
            own.append(number_of(subnet.with_host(subnet.broadcast)))
    yield from ((number, number) for number in own)


def claimable(value: Union[str, Address], many: Sequence[Pool]) -> Address:
    """An address that some host in one of the subnets may have, in their ranges or not; with the subnet's prefix.

    `value`: alone, or with that prefix. Raises UsageError.
    """
    ip, subnets = alone(packed(value)), [pool.subnet for pool in many]
    for pool in many:
        if ip in pool.subnet:
            address = pool.address(number_of(ip))
            if "/" in str(value) and str(value).partition("/")[2] != str(address.prefixlen):
                raise UsageError(f"address '{value}': expected the prefix of its subnet, {address}")
            if without([(number_of(ip),) * 2], reserved(pool.subnet, subnets)):
                return address
            raise UsageError(f"address '{value}': expected the address of one host; it is a gateway, the network "
                             "itself, or a broadcast, multicast or anycast address")
    raise UsageError(f"address '{value}': expected an address in "
                     f"{', '.join(str(subnet.with_host(0)) for subnet in subnets)}")


def packed(value: Union[str, Address], what: str = "address") -> bytes:
    """An address, with a prefix or without, as 4 or 16 bytes."""
    return (values.address(value, what) if "/" in str(value) else values.network(value, what)).packed
