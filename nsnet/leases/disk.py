"""Leases in a directory; nsnet.leases says what is in it. Knows files and the order in which they must be written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from contextlib import contextmanager, suppress

from nsnet import kernel, state, values
from nsnet.digest import sha256
from nsnet.errors import KernelError, UsageError
from nsnet.leases import book
from nsnet.leases.book import Lease, Record, Store, Verbs
from nsnet.ranges import alone, number_of, pools
from nsnet.values import Address
from nsnet.wire import decode_ip, encode_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, ContextManager, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

VERSION = 1
LOCK_PAUSE = 0.002                  # seconds between two looks at the lock: it is held for about as long
MOST_BYTES = 4096                   # of a lease; the longest has less than 1024
_TAG = re.compile(r"[0-9a-f]{32}\.([0-9a-f]{8}|[0-9a-f]{32})(\.[0-9]{1,18})?", re.ASCII)


def parse_lease(content: bytes, ip: str) -> Optional[Tuple[Address, str, str, int]]:
    """(address, owner, boot_id, number) of the file of an address, or None if it makes no sense. Pure."""
    try:
        found = json.loads(content) if len(content) <= MOST_BYTES else None
        if not isinstance(found, dict) or type(found["version"]) is not int or found["version"] != VERSION:
            return None
        address, owner, boot_id, number = (found[name] for name in ("address", "owner", "boot_id", "number"))
        if type(number) is not int or not 0 <= number < 1 << 32 or not isinstance(address, str):
            return None
        address = values.address(address)
        book.owner_key(boot_id)
        return (address, book.owner_key(owner), boot_id, number) if address.ip == ip else None
    except (ValueError, KeyError, RecursionError):      # UsageError and UnicodeDecodeError are ValueErrors
        return None


def _hash(owner: str) -> str:
    return sha256(owner.encode()).hexdigest()[:32]


def _tag(owner: str, packed: bytes) -> str:
    return f"{_hash(owner)}.{packed.hex()}"


class _New:
    """A lease on its way to its place."""

    def __init__(self, directory: str, record: Record, beside: str):
        self.record, self.beside = record, beside
        self.tag = _tag(record.owner, record.address.packed)
        self.place = os.path.join(directory, record.address.ip)
        self.named = os.path.join(directory, "owners", self.tag)

    def content(self, boot_id: str) -> bytes:
        return json.dumps({"version": VERSION, "address": str(self.record.address), "owner": self.record.owner,
                           "boot_id": boot_id, "number": self.record.number}).encode() + b"\n"

    def link(self) -> bool:
        """Put it there; False if something is there, of who ignores the lock."""
        try:
            os.link(self.named, self.place)
        except FileExistsError:
            os.unlink(self.named)
            return False
        return True

    def undo(self) -> None:
        """Take it away, however far it came. What is in its place may be another's."""
        with suppress(OSError):
            if os.path.samefile(self.named, self.place):
                os.unlink(self.place)
        with suppress(OSError):
            os.unlink(self.named)


class _Files(Store):
    """A directory of leases. Only used while its lock is held: between open() and close().

    Listing owners/ is what takes time, so the list is kept for as long as the lock file says that nobody else changed
    anything: who is about to writes 16 random bytes into it first.
    """

    def __init__(self, directory: str):
        self._directory = directory
        self._owners = os.path.join(directory, "owners")
        self._stamp = b""               # of the lock file when _names was right; empty: it is not
        self._next_stamp = b""
        self._lock_fd = -1
        self._boot_id = ""
        self._names: Set[str] = set()   # in owners/
        self._known: Dict[int, Set[int]] = {}

    def open(self, lock_fd: int) -> None:
        self._lock_fd, self._boot_id = lock_fd, state.boot_id()
        with self._refused():
            stamp = os.pread(lock_fd, 16, 0)
            self._next_stamp = stamp
            if not stamp or stamp != self._stamp:
                self._list()
            self._stamp = b""
            self.ended = self._end_of_boot()

    def close(self) -> None:
        """All went well: what is known is right."""
        self._stamp = self._next_stamp

    def _refused(self) -> ContextManager[None]:
        return kernel.refused(f"leases {self._directory}")

    def _list(self) -> None:
        self._names = set(os.listdir(self._owners))
        self._known = {}
        while min(self._names, default="0") < "0":              # it begins with a dot: who wrote it was killed
            name = min(self._names)
            state.remove(os.path.join(self._owners, name))
            self._names.remove(name)

    def _change(self) -> None:
        """Say that the lists of others are not right any more."""
        self._next_stamp = os.urandom(16)
        os.pwrite(self._lock_fd, self._next_stamp, 0)

    def _end_of_boot(self) -> List[Record]:
        """Release the leases of other boots, once in each."""
        path, boot_id = os.path.join(self._directory, "boot"), f"{self._boot_id}\n".encode()
        with suppress(FileNotFoundError, ValueError):
            if state.read(path) == boot_id:
                return []
        old = [record for record in self.all() if record.owner is not None and record.boot_id != self._boot_id]
        self.release(sorted(old, key=book.last_first))
        state.write(path, boot_id, os.path.join(self._directory, ".boot"))
        return old

    def _tags(self, version: int) -> List[str]:
        """The names in owners/ that are of addresses of that version."""
        end = 41 if version == 4 else 65
        return [name for name in self._names if len(name) == end or name[end:end + 1] == "."]

    def _sane(self, reader: Callable[[], Any]) -> Any:
        """Read the names; those that are none of ours are dropped only when they turn up, for to look takes longer."""
        try:
            return reader()
        except (ValueError, IndexError):
            self._names = set(filter(_TAG.fullmatch, self._names))
            return reader()

    def all(self) -> List[Record]:
        return read_records(self._directory)

    def at(self, address: Address) -> Optional[Record]:
        with self._refused():
            return _read(self._directory, address)

    def had_by(self, owners: Iterable[str]) -> Dict[str, List[bytes]]:
        keys = {owner: _hash(owner) for owner in owners}
        tags: Dict[str, List[str]] = {key: [] for key in keys.values()}
        for name in self._names:
            if name[:32] in tags and _TAG.fullmatch(name):
                tags[name[:32]].append(name)
        return {owner: [bytes.fromhex(name.split(".")[1]) for name in sorted(tags[key], key=_released, reverse=True)]
                for owner, key in keys.items()}

    def known(self, version: int) -> Set[int]:
        if version not in self._known:
            end = 41 if version == 4 else 65
            self._known[version] = self._sane(lambda: {int(name[33:end], 16) for name in self._names
                                                       if len(name) == end or name[end:end + 1] == "."})
        return self._known[version]

    def released(self, version: int) -> Iterator[bytes]:
        tags = self._sane(lambda: sorted((name for name in self._tags(version) if name.count(".") == 2), key=_released))
        yield from (bytes.fromhex(name.split(".")[1]) for name in tags)
        with self._refused():           # what is left are leases, and what who was killed never had, or another removed
            leased = set(os.listdir(self._directory))
        rest = [bytes.fromhex(name.split(".")[1]) for name in self._tags(version) if name.count(".") == 1]
        yield from (packed for packed in rest if decode_ip(packed) not in leased)

    def put(self, records: Sequence[Record]) -> Set[bytes]:
        refused: Set[bytes] = set()
        new: List[_New] = []
        fresh = os.path.join(self._owners, f".{os.getpid()}.{os.urandom(4).hex()}")
        with self._refused():
            for record in records:
                one = _New(self._directory, record, f"{fresh}.{len(new)}")
                if os.path.lexists(one.place):
                    refused.add(record.address.packed)
                else:
                    new.append(one)
            named: List[_New] = []
            try:
                self._change()
                state.write_beside({one.beside: one.content(self._boot_id) for one in new})
                for one in new:
                    named.append(one)
                    os.rename(one.beside, one.named)
                    if not one.link():
                        self._names.discard(one.tag)
                        refused.add(one.record.address.packed)
                state.sync_directory(self._directory)
                self._remember([one for one in new if one.record.address.packed not in refused])
            except BaseException:
                for one in named:
                    one.undo()
                for one in new:
                    with suppress(OSError):
                        os.unlink(one.beside)
                raise
            if refused:
                self._learn()
        return refused

    def _remember(self, new: Iterable["_New"]) -> None:
        """They are leased, and it is forgotten who had them."""
        had_before: Dict[str, str] = {}
        for one in new:
            address = one.record.address
            known, number = self.known(address.version), number_of(address)
            if number in known:
                had_before[address.packed.hex()] = one.tag
            known.add(number)
            self._names.add(one.tag)
        if had_before:
            self._keep(had_before)

    def release(self, records: Sequence[Record]) -> None:
        if not records:
            return
        last = self._sane(lambda: max(map(_released, self._names), default=-1))
        kept: Dict[str, str] = {}
        with self._refused():
            self._change()
            for record in records:
                place = os.path.join(self._directory, record.address.ip)
                if record.owner is None:
                    self._put_away(place)
                    continue
                last += 1
                tag = f"{_tag(record.owner, record.address.packed)}.{last}"
                os.rename(place, os.path.join(self._owners, tag))
                kept[record.address.packed.hex()] = tag
            self._keep(kept)
            state.sync_directory(self._directory)
            self._forget_oldest()

    def _put_away(self, place: str) -> None:
        """Remove what stands in the place of a lease."""
        try:
            os.unlink(place)
        except IsADirectoryError:
            os.rmdir(place)             # not what is in it: somebody has to look at that

    def _forget_oldest(self) -> None:
        if len(self._names) > book.MOST_REMEMBERED:
            tags = sorted((name for name in self._names if name.count(".") == 2), key=_released)
            for name in tags[:max(0, len(tags) - book.MOST_REMEMBERED)]:
                state.remove(os.path.join(self._owners, name))
                self._names.remove(name)
            self._known = {}

    def _keep(self, tags: Dict[str, str]) -> None:
        """Of these addresses keep these names alone. If another cannot be removed, a lease is a lease all the same."""
        for name in [name for name in self._names if name[33:].partition(".")[0] in tags]:
            with suppress(OSError):
                if name != tags[name[33:].partition(".")[0]]:
                    state.remove(os.path.join(self._owners, name))
                    self._names.remove(name)
        self._names.update(tags.values())

    def _learn(self) -> None:
        """Somebody has leases of which owners/ knows nothing: look at the leases themselves."""
        for address in _addresses(self._directory):
            self.known(address.version).add(number_of(address))


def _released(tag: str) -> int:
    parts = tag.split(".")
    return int(parts[2]) if len(parts) == 3 else -1


def _addresses(directory: str) -> Iterator[Address]:
    """The addresses that have a file."""
    for name in os.listdir(directory):
        with suppress(UsageError):
            packed = encode_ip(name)
            if decode_ip(packed) == name:
                yield alone(packed)


def read_records(directory: str) -> List[Record]:
    """All leases in a directory, without the lock."""
    with kernel.refused(f"leases {directory}"):
        found = (_read(directory, address) for address in _addresses(directory))
        return [record for record in found if record is not None]


def _read(directory: str, address: Address) -> Optional[Record]:
    try:
        found = parse_lease(state.read(os.path.join(directory, address.ip)), address.ip)
    except FileNotFoundError:
        return None
    except ValueError:                  # too long
        found = None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        found = None                    # a symbolic link or a directory: not ours
    return Record(address, None) if found is None else Record(*found)


class Leases(Verbs):
    """Leases on disk, shared by all processes that name the same directory; the module says what is in it."""

    def __init__(self, directory: str, subnets: Sequence, *, ranges: Sequence = (), exclude: Sequence = ()):
        """`directory`: an absolute path, made if it is not there, of the caller alone.

        `subnets`: addresses with a prefix ("10.0.0.1/24"): each is a subnet, and its gateway, which is never given.
        `ranges`: what is given, where a subnet is to give less than all: "10.0.0.10-10.0.0.20", "10.0.0.32/28",
        "10.0.0.5". `exclude`: likewise, what is never given. Both are of take(); claim() may go beyond.
        Raises UsageError, KernelError.
        """
        super().__init__(pools(subnets, ranges, exclude))
        if not isinstance(directory, str) or not os.path.isabs(directory) or "\0" in directory:
            raise UsageError(f"directory {directory!r}: expected an absolute path")
        self.directory = state.usable(directory)
        state.usable(os.path.join(directory, "owners"))
        self._files = _Files(directory)

    @property
    def _where(self) -> str:
        return f"ls {self.directory}"

    @contextmanager
    def _changing(self) -> Iterator[Store]:
        step = f"leases {self.directory}"
        with kernel.refused(step):
            held = state.lock(os.path.join(self.directory, "lock"), book.LOCK_TIMEOUT, pause_most=LOCK_PAUSE)
        if held is None:
            raise KernelError(errno.ETIMEDOUT, step, f"another process has held the lock for {book.LOCK_TIMEOUT:g} s")
        try:
            self._files.open(held.fileno())
            yield self._files
            self._files.close()
        finally:
            with suppress(OSError):
                fcntl.flock(held.fileno(), fcntl.LOCK_UN)       # a child that a thread forked meanwhile has it open too
            held.close()

    def leases(self) -> List[Lease]:
        """All leases, sorted by address; also of subnets declared no more, and of other boots. Takes no lock."""
        return sorted(self._shown(read_records(self.directory)), key=book.by_address)

    def _shown(self, records: Iterable[Record]) -> List[Lease]:
        today = state.boot_id()
        return [self._lease(record, today) for record in records]
