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
    from typing import Callable, ContextManager, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple, Union

LOCK_TIMEOUT = 10.0                 # seconds to wait for another process or thread that changes something
MOST_REMEMBERED = 4096              # released addresses: each take lists them


def owner_key(value: str, what: str = "owner") -> str:
    """The name of an owner: 1 to 128 printable characters. Raises UsageError."""
    if not isinstance(value, str) or not 1 <= len(value) <= 128 or not value.isprintable():
        raise UsageError(f"{what} {value!r}: expected 1 to 128 printable characters")
    return value


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
    def had_by(self, owner: str) -> List[bytes]:
        """What that owner has or is remembered to have had, the last released first."""

    def held_by(self, owner: str, had: Optional[Iterable[bytes]] = None) -> List[Record]:
        """The leases of that owner, in the order in which they were taken. `had`: of had_by(), where that is known."""
        records = map(self.at, map(ranges.alone, dict.fromkeys(self.had_by(owner) if had is None else had)))
        return sorted((record for record in records if record is not None and record.owner == owner),
                      key=lambda record: record.number)

    @abstractmethod
    def known(self, version: int) -> Set[int]:
        """What is leased or remembered, as numbers. put() adds to it."""

    @abstractmethod
    def released(self, version: int) -> Iterable[bytes]:
        """What is remembered, the longest released first."""

    @abstractmethod
    def put(self, address: Address, owner: str, number: int) -> bool:
        """Lease it, and forget who had it; False if it is leased."""

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
        owner, pool = owner_key(owner), self._pool(version, subnet)
        with self._changing() as store:
            return self._take(store, pool, owner)

    def take_all(self, owner: str) -> Tuple[Address, ...]:
        """One address of the first subnet of each version that has any to give, or none at all. Raises as take()."""
        owner = owner_key(owner)
        chosen: Dict[int, Pool] = {}
        for pool in self.pools:
            if pool.spans:
                chosen.setdefault(pool.subnet.version, pool)
        with self._changing() as store:
            before = {record.address.packed for record in store.held_by(owner)}
            try:
                return tuple(self._take(store, pool, owner) for pool in chosen.values() or self.pools[:1])
            except BaseException:
                store.release([record for record in store.held_by(owner) if record.address.packed not in before])
                raise

    def claim(self, owner: str, address: Union[str, Address]) -> Address:
        """Take exactly this address: of one of the subnets, in the ranges or not, excluded or not.

        `address`: alone, or with its subnet's prefix. Returns it with the prefix. Raises LeaseTaken, naming whose it
        is; UsageError for what no host of these subnets may have; KernelError as take().
        """
        owner, address = owner_key(owner), ranges.claimable(address, self.pools)
        with self._changing() as store:
            there = store.at(address)
            if there is None:
                held = store.held_by(owner)
                if store.put(address, owner, held[-1].number + 1 if held else 0):
                    return address
                there = store.at(address)
            if there is None or there.owner != owner:
                raise LeaseTaken(address.ip, there.owner if there else None, self._where)
            return address

    def release(self, owner: str) -> List[Lease]:
        """End all leases of that owner; those that it had, in the order in which it took them. Again, it had none."""
        owner = owner_key(owner)
        with self._changing() as store:
            held = store.held_by(owner)
            store.release(held[::-1])
            return self._shown(held)

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

    def _take(self, store: Store, pool: Pool, owner: str) -> Address:
        had = store.had_by(owner)
        held = store.held_by(owner, had)
        for record in held:
            if record.address in pool.subnet:
                return pool.address(ranges.number_of(record.address))
        number = held[-1].number + 1 if held else 0
        for address in self._candidates(store, pool, had):
            if store.put(address, owner, number):
                return address
        raise NoFreeAddress(f"no free address in {pool}: all {pool.size} are leased; {self._where} shows them")

    @staticmethod
    def _candidates(store: Store, pool: Pool, had: Sequence[bytes]) -> Iterator[Address]:
        def of_this_pool(many: Iterable[bytes]) -> Iterator[Address]:
            for packed in many:
                if len(packed) == len(pool.subnet.packed):
                    address = pool.address(int.from_bytes(packed, "big"))
                    if address in pool:
                        yield address

        yield from of_this_pool(had)
        yield from pool.unused(store.known(pool.subnet.version))
        yield from of_this_pool(store.released(pool.subnet.version))

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


def by_address(lease: Lease) -> Tuple[int, bytes]:
    return lease.address.version, lease.address.packed


def last_first(record: Record) -> Tuple[int, bytes]:
    """What an owner took first is released last: it is what comes back."""
    return -record.number, record.address.packed
