"""The verbs of leases, over any store: which address an owner gets, and what becomes of the one it had.

Knows pools, owners and the order of candidates. Does not know where anything is kept, nor how it is kept apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain

from nsnet import ranges
from nsnet.errors import LeaseTaken, NoFreeAddress, UsageError
from nsnet.named import NamedTuple
from nsnet.ranges import Pool
from nsnet.values import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import (Callable, ContextManager, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple,
                        Union)

LOCK_TIMEOUT = 10.0                 # seconds to wait for another process or thread that changes something
MOST_REMEMBERED = 4096              # released addresses: each take lists them


def owner_key(value: str, what: str = "owner") -> str:
    """The name of an owner: 1 to 128 printable characters. Raises UsageError."""
    if not isinstance(value, str) or not 1 <= len(value) <= 128 or not value.isprintable():
        raise UsageError(f"{what} {value!r}: expected 1 to 128 printable characters")
    return value


def owner_keys(values: Sequence[str]) -> List[str]:
    """Of several. Raises UsageError."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise UsageError(f"owners {values!r}: expected a list of them")
    return [owner_key(value) for value in values]


class Lease(NamedTuple):
    """`address`: with its prefix. `owner`: None where the file makes no sense. `boot_id`: under which it was taken, or
    None, likewise and in memory. `current`: whether it counts: it is not of another boot."""

    address: Address
    owner: Optional[str]
    boot_id: Optional[str] = None
    current: bool = True


class Record(NamedTuple):
    """A lease as it is kept. `number`: the owner's leases in the order in which they were taken."""

    address: Address
    owner: Optional[str]
    boot_id: Optional[str] = None
    number: int = 0


class Store(ABC):
    """What is kept of leases, while nobody else changes it."""

    ended: Sequence[Record] = ()        # leases of another boot that were found, and released

    @abstractmethod
    def all(self) -> List[Record]:
        """All leases."""

    @abstractmethod
    def at(self, address: Address) -> Optional[Record]:
        """The lease of that address."""

    @abstractmethod
    def had_by(self, owners: Iterable[str]) -> Dict[str, List[bytes]]:
        """What each of these owners has or is remembered to have had, the last released first."""

    def held_by(self, owner: str, had: Iterable[bytes]) -> List[Record]:
        """The leases of that owner, in the order in which they were taken. `had`: what had_by() says of it."""
        records = map(self.at, map(ranges.alone, dict.fromkeys(had)))
        return sorted((record for record in records if record is not None and record.owner == owner),
                      key=lambda record: record.number)

    def held_by_all(self, owners: Iterable[str]) -> Dict[str, List[Record]]:
        """Likewise, of each of these."""
        return {owner: self.held_by(owner, had) for owner, had in self.had_by(owners).items()}

    @abstractmethod
    def known(self, version: int) -> Set[int]:
        """What is leased or remembered, as numbers. put() adds to it."""

    @abstractmethod
    def released(self, version: int) -> Iterable[bytes]:
        """What is remembered, the longest released first."""

    @abstractmethod
    def put(self, records: Sequence[Record]) -> Set[bytes]:
        """Lease them, and forget who had them: all, or none if it raises. Those that are leased already are left out; they
        are returned."""

    @abstractmethod
    def release(self, records: Sequence[Record]) -> None:
        """End these leases, and remember them in this order."""


class Verbs(ABC):
    """The verbs, over any store."""

    def __init__(self, pools: Sequence[Pool]):
        self.pools = tuple(pools)

    @abstractmethod
    def _changing(self) -> ContextManager[Store]:
        """The store, while no other process or thread may change it."""

    @property
    @abstractmethod
    def _where(self) -> str:
        """How to see the leases, for errors."""

    def take(self, owner: str, version: Optional[int] = None, *, subnet: Optional[int] = None) -> Address:
        """An address for that owner, with its subnet's prefix: the same one however often it is called.

        `version`: 4 or 6, of the first such subnet; or `subnet`: its index; else of the first one. Raises
        NoFreeAddress, KernelError: then nothing was taken, unless undoing it failed too. If so, or if the caller is
        killed, the next take() of that owner, or collect(), finds the lease.
        """
        return self._take([owner], [self._pool(version, subnet)])[0][0]

    def take_all(self, owner: str) -> Tuple[Address, ...]:
        """One address of the first subnet of each version that has any to give, or none at all. Raises as take()."""
        return self.take_many([owner])[0]

    def take_many(self, owners: Sequence[str]) -> List[Tuple[Address, ...]]:
        """What take_all() gives each of these owners, in this order, and at once: all of it or nothing. Raises as take()."""
        chosen: Dict[int, Pool] = {}
        for pool in self.pools:
            if pool.spans:
                chosen.setdefault(pool.subnet.version, pool)
        return self._take(owners, list(chosen.values()) or self.pools[:1])

    def claim(self, owner: str, address: Union[str, Address]) -> Address:
        """Take exactly this address: of one of the subnets, in the ranges or not, excluded or not.

        `address`: alone, or with its subnet's prefix. Returns it with the prefix. Raises LeaseTaken, naming whose it
        is; UsageError for what no host of these subnets may have; KernelError as take().
        """
        owner, address = owner_key(owner), ranges.claimable(address, self.pools)
        with self._changing() as store:
            there = store.at(address)
            if there is None:
                held = store.held_by_all([owner])[owner]
                if not store.put([Record(address, owner, None, next_number(held))]):
                    return address
                there = store.at(address)
            if there is None or there.owner != owner:
                raise LeaseTaken(address.ip, there.owner if there else None, self._where)
            return address

    def release(self, owner: str) -> List[Lease]:
        """End all leases of that owner; those that it had, in the order in which it took them. Again, it had none."""
        return self.release_many([owner])

    def release_many(self, owners: Sequence[str]) -> List[Lease]:
        """As release() for each, in this order, and at once. If it raises, some may have ended; again, it ends the rest."""
        owners = owner_keys(owners)
        with self._changing() as store:
            held = list(store.held_by_all(owners).values())
            store.release([record for records in held for record in records[::-1]])
            return self._shown(chain.from_iterable(held))

    def release_address(self, address: Union[str, Address]) -> Optional[Lease]:
        """End the lease of that address, whosever it is, and whether its file makes sense; the lease, or None."""
        packed = ranges.packed(address)
        with self._changing() as store:
            there = store.at(ranges.alone(packed))
            if there is None:
                return None
            store.release([there])
            return self._shown([there])[0]

    def leases(self) -> List[Lease]:
        """All leases, sorted by address; also of subnets that are declared no more, and of another boot."""
        with self._changing() as store:
            return sorted(self._shown(store.all()), key=by_address)

    def collect(self, alive: Callable[[str], bool]) -> List[Lease]:
        """End the leases of owners that are not alive; these, and the ones of other boots if nobody looked before.

        `alive` is asked once for each owner, under the lock, lest a new one of the same name comes between the answer
        and the release: let it be quick, and not use these leases. What it raises passes through, nothing is released.
        Leases whose file makes no sense come along, with owner None, and stay: release_address() ends them.
        """
        with self._changing() as store:
            records = store.all()
            dead = {owner for owner in {record.owner for record in records} if owner is not None and not alive(owner)}
            gone = [record for record in records if record.owner in dead]
            store.release(sorted(gone, key=last_first))
            found = chain(store.ended, gone, (record for record in records if record.owner is None))
            return sorted(self._shown(found), key=by_address)

    def _take(self, owners: Sequence[str], pools: Sequence[Pool]) -> List[Tuple[Address, ...]]:
        """An address of each pool for each owner. What is leased though it was not known to be is chosen anew."""
        owners = owner_keys(owners)
        with self._changing() as store:
            had = store.had_by(owners)
            held = {owner: store.held_by(owner, had[owner]) for owner in had}
            before = {record.address.packed for records in held.values() for record in records}
            choices = [_Choice(store, pool, self._where) for pool in pools]
            try:
                wanted = _missing(held, choices, had)
                while wanted:
                    refused = store.put(wanted)
                    for record in wanted:
                        if record.address.packed not in refused:
                            held[record.owner].append(record)
                    wanted = _missing(held, choices, had) if refused else []
            except BaseException:
                store.release([record for records in store.held_by_all(owners).values() for record in records
                               if record.address.packed not in before])
                raise
            return [tuple(choice.of_these(held[owner]) for choice in choices) for owner in owners]

    def _pool(self, version: Optional[int], subnet: Optional[int]) -> Pool:
        if version is None and subnet is None:
            return self.pools[0]
        if subnet is not None:
            if version is None and type(subnet) is int and 0 <= subnet < len(self.pools):
                return self.pools[subnet]
            raise UsageError(f"subnet {subnet!r}: expected an index, 0 to {len(self.pools) - 1}, and no version")
        for pool in self.pools:
            if pool.subnet.version == version:
                return pool
        raise UsageError(f"version {version!r}: expected one of {sorted({pool.subnet.version for pool in self.pools})}")

    def _shown(self, records: Iterable[Record]) -> List[Lease]:
        return [self._lease(record, None) for record in records]

    def _lease(self, record: Record, boot_id: Optional[str]) -> Lease:
        """`boot_id`: of today, for a lease that has one."""
        subnet = next((pool.subnet for pool in self.pools if record.address in pool.subnet), record.address)
        address = record.address._replace(prefixlen=subnet.prefixlen)
        return Lease(address, record.owner, record.boot_id, record.boot_id in (None, boot_id))


class _Choice:
    """What one pool gives, to one owner after another, in the order that nsnet.leases promises."""

    def __init__(self, store: Store, pool: Pool, where: str):
        self._pool, self._where = pool, where
        self._others = chain(pool.unused(store.known(pool.subnet.version)),
                             self._of_this(store.released(pool.subnet.version)))
        self._chosen: Set[bytes] = set()

    def of_these(self, held: Iterable[Record]) -> Optional[Address]:
        """The first of these that is of the subnet, with its prefix."""
        for record in held:
            if record.address in self._pool.subnet:
                return self._pool.address(ranges.number_of(record.address))
        return None

    def another(self, had: Sequence[bytes]) -> Address:
        """One that nobody was given yet. Raises NoFreeAddress."""
        for address in chain(self._of_this(had), self._others):
            if address.packed not in self._chosen:
                self._chosen.add(address.packed)
                return address
        raise NoFreeAddress(f"no free address in {self._pool}: all {self._pool.size} are leased; {self._where} shows them")

    def _of_this(self, many: Iterable[bytes]) -> Iterator[Address]:
        for packed in many:
            if len(packed) == len(self._pool.subnet.packed):
                address = self._pool.address(int.from_bytes(packed, "big"))
                if address in self._pool:
                    yield address


def _missing(held: Mapping[str, List[Record]], choices: Sequence[_Choice],
             had: Mapping[str, Sequence[bytes]]) -> List[Record]:
    """What each owner is to be given so that it has an address of every choice."""
    wanted = []
    for owner, records in held.items():
        number = next_number(records)
        for choice in choices:
            if choice.of_these(records) is None:
                wanted.append(Record(choice.another(had[owner]), owner, None, number))
                number += 1
    return wanted


def next_number(held: Sequence[Record]) -> int:
    return held[-1].number + 1 if held else 0


def by_address(lease: Lease) -> Tuple[int, bytes]:
    return lease.address.version, lease.address.packed


def last_first(record: Record) -> Tuple[int, bytes]:
    """What an owner took first is released last: it is what comes back."""
    return -record.number, record.address.packed
