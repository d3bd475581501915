"""Leases that are kept nowhere: dictionaries in the order in which things happened."""

from __future__ import annotations

import errno
import threading
from contextlib import contextmanager, suppress
from itertools import chain

from nsnet.errors import KernelError
from nsnet.leases import book
from nsnet.leases.book import Record, Store, Verbs
from nsnet.ranges import pools
from nsnet.values import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set


class _Memory(Store):
    def __init__(self) -> None:
        self._leases: Dict[bytes, Record] = {}
        self._owners: Dict[str, Dict[bytes, None]] = {}         # what each has or had, the last released last
        self._released: Dict[bytes, str] = {}                   # the longest released first

    def all(self) -> List[Record]:
        return list(self._leases.values())

    def at(self, address: Address) -> Optional[Record]:
        return self._leases.get(address.packed)

    def had_by(self, owners: Iterable[str]) -> Dict[str, List[bytes]]:
        return {owner: list(self._owners.get(owner, ()))[::-1] for owner in owners}

    def known(self, version: int) -> Set[int]:
        return {int.from_bytes(packed, "big") for packed in chain(self._leases, self._released)
                if len(packed) == (4 if version == 4 else 16)}

    def released(self, version: int) -> List[bytes]:
        return list(self._released)

    def put(self, records: Sequence[Record]) -> Set[bytes]:
        refused = {record.address.packed for record in records if record.address.packed in self._leases}
        for record in records:
            packed = record.address.packed
            if packed not in refused:
                self._forget(packed)
                self._owners.setdefault(record.owner, {})[packed] = None
                self._leases[packed] = record
        return refused

    def release(self, records: Sequence[Record]) -> None:
        for record in records:
            packed, owner = record.address.packed, record.owner or ""
            self._leases.pop(packed)
            self._released[packed] = owner
            self._owners[owner][packed] = self._owners[owner].pop(packed)
        while len(self._released) > book.MOST_REMEMBERED:
            self._forget(next(iter(self._released)))

    def _forget(self, packed: bytes) -> None:
        owner = self._released.pop(packed, None)
        if owner is not None:
            del self._owners[owner][packed]
            if not self._owners[owner]:
                del self._owners[owner]


class MemoryLeases(Verbs):
    """Leases that end with this object: the same verbs, for a network that keeps nothing on disk. Safe in threads."""

    _where = "leases()"

    def __init__(self, subnets: Sequence, *, ranges: Sequence = (), exclude: Sequence = ()):
        """`subnets`, `ranges`, `exclude`: as for Leases. Raises UsageError."""
        super().__init__(pools(subnets, ranges, exclude))
        self._turn = threading.RLock()          # of which an interrupt cannot lose sight: it knows who holds it
        self._store = _Memory()

    @contextmanager
    def _changing(self) -> Iterator[Store]:
        if self._turn._is_owned():              # type: ignore[attr-defined]  what threading.Condition asks an RLock
            raise KernelError(errno.EDEADLK, "leases", "called by what collect() asks, or by a signal handler")
        try:
            if not self._turn.acquire(timeout=book.LOCK_TIMEOUT):
                raise KernelError(errno.ETIMEDOUT, "leases", f"another thread held them for {book.LOCK_TIMEOUT:g} s")
            yield self._store
        finally:
            with suppress(RuntimeError):        # the turn never came
                self._turn.release()
