"""`ShardedNetwork`: one network as several bridges, for more attachments than the 1023 ports that one bridge takes.

Knows how a subnet is cut into equal parts, to which of them an attachment goes, and that what spans several of them is done
whole or not at all. Each shard is a Network by itself, BRIDGE-0, BRIDGE-1 and so on, with its own claim: all that is made,
recorded, removed and collected is made so by it, and the commands know it by its name.

Traffic: attachments of one shard are neighbours on their bridge. Those of different shards reach each other through the
host alone, which routes between its bridges only if it forwards what comes in there: by default it does not. With `forward`
it does, for then each bridge forwards, to wherever the host has a route.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager, suppress

from nsnet import ranges, removal, values
from nsnet.attachments import Attachment, Container
from nsnet.digest import sha256
from nsnet.drift import Fault
from nsnet.errors import KernelError, NoFreeAddress, RollbackError, StillPending, UsageError
from nsnet.netns import Netns
from nsnet.network import Addresses, Network, _given
from nsnet.removal import Deadline
from nsnet.requests.common import number
from nsnet.values import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

MOST_PORTS = 1023                   # of a bridge: BR_MAX_PORTS in net/bridge/br_private.h, but for port 0
MOST_SHARDS = 256
THREADS = 2                         # that remove: while one waits for its grace period, the other may have the RTNL lock


def name_of(bridge: str, shard: int) -> str:
    return f"{bridge}-{shard}"


def parts(address: Address, shards: int) -> List[Address]:
    """The bridge's address in each of so many equal parts of its subnet: 2, 4, 8 ... parts, the first of which are used.

    Raises UsageError if a part has no room for a host, or if the address is not of the first part.
    """
    prefixlen = address.prefixlen + (shards - 1).bit_length()
    size = 1 << max(address.bits - prefixlen, 0)
    if prefixlen > address.bits or not ranges.pools([f"{address.with_host(1).ip}/{prefixlen}"])[0].size:
        raise UsageError(f"address '{address}': expected room for hosts in each of {shards} shards; a /{prefixlen} has none")
    if address.host >= size:
        first = address.with_host(0)._replace(prefixlen=prefixlen)
        raise UsageError(f"address '{address}': expected one in the first of {shards} parts, {first}, for each has it at"
                         " the same place")
    return [address.with_host(shard * size + address.host)._replace(prefixlen=prefixlen) for shard in range(shards)]


def part_of_ranges(items: Sequence[str], whole: Sequence[Address], part: Sequence[Address], what: str,
                   needed: bool) -> List[str]:
    """What of these ranges lies in a part; `needed`: where some lie in the whole, some have to lie there too."""
    found: List[str] = []
    for subnet, spans in zip(part, ranges.parse_ranges(items, whole, what)):
        first, last = (ranges.number_of(subnet.with_host(host)) for host in (0, subnet.broadcast))
        inside = [(max(span.first, first), min(span.last, last)) for span in spans]
        texts = ["-".join(_text(end, subnet) for end in ends) for ends in inside if ends[0] <= ends[1]]
        if needed and spans and not texts:
            raise UsageError(f"{what} {list(items)!r}: expected some of them in each shard; {subnet.with_host(0)} has none")
        found += texts
    return found


def _text(address: int, subnet: Address) -> str:
    return ranges.alone(address.to_bytes(len(subnet.packed), "big")).ip


class ShardedNetwork:
    """As many networks as `shards` says, used as one: BRIDGE-0, BRIDGE-1, ..., each with an equal part of the subnet.

    ShardedNetwork("br", address="10.0.0.1/16", shards=4) has 10.0.0.1/18, 10.0.64.1/18, 10.0.128.1/18 and 10.0.192.1/18;
    several addresses are cut likewise. `shards`: 1 to 256; each takes up to 1023 attachments. `options`: those of Network,
    but for `lladdr`; of `ranges` and `exclude` each shard has its part. `on_step` may be called by two threads.
    Declared `attachments` need names.

    An attachment with an address goes to the shard whose subnet has it. One with the address "auto" goes to the shard that
    has most room; with a `name`, to the one that its name is for, while that has room, so that it finds its address again.
    A shard that is not up is brought up by its first attachment.

    `shards`: the networks themselves; an attachment's `network` is one of them. Attachments of different shards reach each
    other only if the host routes between them: help(nsnet.network.sharded).
    """

    def __init__(self, bridge: str, *, address: Addresses, shards: int, netns: Optional[Netns] = None,
                 ranges: Sequence[str] = (), exclude: Sequence[str] = (),
                 attachments: Sequence[Mapping[str, Any]] = (), **options: Any):
        count = number(shards, 1, MOST_SHARDS, "shards")
        if options.get("lladdr") is not None:
            raise UsageError(f"lladdr {options['lladdr']!r}: expected none; each shard's bridge has one of its own")
        values.ifname(name_of(bridge, count - 1) if isinstance(bridge, str) else bridge, "bridge")
        whole = values.addresses(address)
        own = list(zip(*(parts(one, count) for one in whole)))
        self.bridge = bridge
        self._bridges = [name_of(bridge, shard) for shard in range(count)]
        self._subnets = [list(addresses) for addresses in own]
        given = [{"address": list(map(str, part)), "ranges": part_of_ranges(ranges, whole, part, "ranges", True),
                  "exclude": part_of_ranges(exclude, whole, part, "exclude", False)} for part in own]
        self._capacity = [_capacity(part, one["ranges"], one["exclude"]) for part, one in zip(own, given)]
        self.shards = tuple(Network(name, netns=netns, attachments=declared, **one, **options)
                            for name, declared, one in zip(self._bridges, self._declared(attachments), given))

    def __repr__(self) -> str:
        return f"<ShardedNetwork {self.bridge} of {len(self.shards)} {'up' if self.is_up else 'down'}>"

    # --- what there is ---

    @property
    def is_up(self) -> bool:
        """Whether all of its shards are."""
        return all(shard.is_up for shard in self.shards)

    @property
    def attachments(self) -> List[Attachment]:
        """What is attached by this object, one shard after another."""
        return [one for shard in self.shards for one in shard.attachments]

    def entries(self) -> List[Dict[str, Any]]:
        """What is attached, by whomever: as Network.entries(), each with "bridge", its shard's."""
        return [{**entry, "bridge": shard.bridge} for shard in self.shards for entry in shard.entries()]

    def faults(self) -> List[Fault]:
        """What is not as declared, one shard after another; nothing is changed."""
        return [fault for shard in self.shards for fault in shard.faults()]

    # --- up and down ---

    def up(self) -> List[Fault]:
        """Bring up all shards, as Network.up() one. The bridges that this call made are gone again if it fails."""
        with self._sessions():
            with self._undoing() as begin:
                return [fault for shard in self.shards for fault in begin(shard).up()]

    def down(self, *, wait: bool = True, timeout: float = removal.TIMEOUT) -> None:
        """Take down all shards, as Network.down() one. All are tried; raises what went wrong, StillPending of all of them.

        `timeout`: seconds for the whole.
        """
        deadline = Deadline(timeout)
        if not wait:
            for shard in self.shards:
                shard.down(wait=False)
            return
        self._each(self.shards, lambda shard: shard.down(timeout=deadline.left), timeout)

    def settle(self, timeout: float = removal.TIMEOUT) -> None:
        """Wait until all that was removed with wait=False is gone. Raises as Network.settle()."""
        deadline = Deadline(timeout)
        self._each(self.shards, lambda shard: shard.settle(deadline.left), timeout)

    def __enter__(self) -> "ShardedNetwork":
        self.up()
        return self

    def __exit__(self, *_: Any) -> None:
        self._each(self.shards, lambda shard: shard.__exit__(None, None, None), removal.TIMEOUT)

    # --- attaching ---

    def launch(self, argv: Sequence[str], *, hold: bool = False, **given: Any) -> Container:
        """Run a command in new namespaces, attached to a shard; arguments as for Network.launch()."""
        return self.launch_many([{"argv": argv, **_given(**given)}], hold=hold)[0]

    def attach(self, netns: Netns, **given: Any) -> Attachment:
        """Attach an existing network namespace to a shard; arguments as for Network.attach()."""
        return self.attach_many([{"netns": netns, **_given(**given)}])[0]

    def launch_many(self, wanted: Sequence[Mapping[str, Any]], *, hold: bool = False) -> List[Container]:
        """Launch several, as Network.launch_many(); in the order in which they were asked for. All or none."""
        return self._spread(wanted, lambda shard, some: shard.launch_many(some, hold=hold))

    def attach_many(self, wanted: Sequence[Mapping[str, Any]]) -> List[Attachment]:
        """Attach several, as Network.attach_many(); in the order in which they were asked for. All or none."""
        return self._spread(wanted, lambda shard, some: shard.attach_many(some))

    def detach_many(self, items: Sequence[Union[Attachment, Container, str]], *, wait: bool = True,
                    timeout: float = removal.TIMEOUT) -> None:
        """Undo attachments, of whatever shards, as Network.detach_many(). `timeout`: seconds for the whole."""
        deadline, of_shard = Deadline(timeout), {shard: [] for shard in self.shards}
        names = [item for item in items if isinstance(item, str)]
        for shard in self.shards if names else ():
            known = {name for entry in shard.entries() for name in (entry["name"], entry["host_ifname"])}
            of_shard[shard] += filter(known.__contains__, names)
        for item in items:
            if not isinstance(item, str):
                attachment = item.attachment if isinstance(item, Container) else item
                if not isinstance(attachment, Attachment) or attachment.network not in of_shard:
                    raise UsageError(f"detach {item!r}: expected an attachment of this network, or its name")
                of_shard[attachment.network].append(item)
        self._each([shard for shard, some in of_shard.items() if some],
                   lambda shard: shard.detach_many(of_shard[shard], wait=wait, timeout=deadline.left), timeout)

    def _spread(self, wanted: Sequence[Mapping[str, Any]], attach: Callable[[Network, List], List]) -> List:
        """Each to its shard, while nobody else changes any of them."""
        wanted = list(wanted)
        with self._sessions():
            for shard in self.shards:
                shard._reap_first()             # what waits for its removal has ports and names
            places = self._places(wanted)
            found: Dict[int, Any] = {}
            with self._undoing() as begin:
                for shard in sorted(set(places)):
                    which = [position for position, place in enumerate(places) if place == shard]
                    made = attach(begin(self.shards[shard]), [wanted[position] for position in which])
                    found.update(zip(which, made))
            return [found[position] for position in range(len(wanted))]

    # --- which shard ---

    def _places(self, wanted: Sequence[Mapping[str, Any]]) -> List[int]:
        """The shard of each. Raises UsageError for names that stand twice, KernelError and NoFreeAddress for want of room."""
        used = [shard.entries() for shard in self.shards]
        self._are_apart(wanted, [entry for entries in used for entry in entries])
        return self._shared_out(wanted, [len(entries) for entries in used])

    def _are_apart(self, wanted: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> None:
        """In one shard Network would say so."""
        for key, twice in (("name", "two attachments"), ("host_ifname", "two links")):
            names = Counter(entry[key] for entry in there)
            names.update(self._bridges if key == "host_ifname" else ())
            for given in wanted:
                name = given.get(key)
                if isinstance(name, str) and names[name]:
                    raise UsageError(f"{key} {name!r}: it stands for {twice}")
                if isinstance(name, str):
                    names[name] += 1

    def _shared_out(self, wanted: Sequence[Mapping[str, Any]], used: List[int]) -> List[int]:
        """`used`: how many ports each shard has already; it is counted on. Who asks for an address gets its place first."""
        places: Dict[int, int] = {}
        for is_auto in (False, True):
            for position, given in enumerate(wanted):
                address = given.get("address")
                if (address in (None, "auto")) is is_auto:
                    place = self._with_room(given.get("name"), used) if is_auto else self._with_address(address, used)
                    places[position] = place
                    used[place] += 1
        return [places[position] for position in range(len(wanted))]

    def _with_address(self, address: Addresses, used: Sequence[int]) -> int:
        asked = values.addresses(address)
        for shard, subnets in enumerate(self._subnets):
            if all(any(one in subnet for subnet in subnets) for one in asked):
                if used[shard] >= MOST_PORTS:
                    raise KernelError(errno.EXFULL, f"bridge {self._bridges[shard]}",
                                      f"it has {used[shard]} ports, and a bridge takes no more")
                return shard
        raise UsageError(f"address {', '.join(map(repr, map(str, asked)))}: expected the subnet of one shard, "
                         + " or ".join(", ".join(map(str, subnets)) for subnets in self._subnets))

    def _with_room(self, name: Optional[str], used: Sequence[int]) -> int:
        room = [min(MOST_PORTS, capacity) - ports for capacity, ports in zip(self._capacity, used)]
        if isinstance(name, str):
            own = int.from_bytes(sha256(name.encode(errors="replace")).digest()[:8], "big") % len(room)
            if room[own] > 0:
                return own
        if max(room) <= 0:
            raise NoFreeAddress(f"{self.bridge}: no room in any of its {len(room)} shards, which have {sum(used)} attachments"
                                f" together: a bridge takes {MOST_PORTS}, and the smallest part has {min(self._capacity)}"
                                " addresses to give")
        return room.index(max(room))

    def _declared(self, attachments: Sequence[Mapping[str, Any]]) -> List[List[Mapping[str, Any]]]:
        """The declared ones of each shard: the same each time, for what is there is looked at by its name."""
        of_shard: List[List[Mapping[str, Any]]] = [[] for _ in self._subnets]
        for index, given in enumerate(attachments):
            if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
                raise UsageError(f"attachments[{index}]: expected a name, by which it finds its shard again")
        self._are_apart(attachments, ())
        for given, place in zip(attachments, self._shared_out(attachments, [0] * len(self._subnets))):
            of_shard[place].append(given)
        return of_shard

    # --- all of them, or none ---

    @contextmanager
    def _sessions(self) -> Iterator[None]:
        """The right to change all shards. Always in this order, lest two wait for each other."""
        with ExitStack() as opened:
            for shard in self.shards:
                opened.enter_context(shard._session())
            yield

    @contextmanager
    def _undoing(self) -> Iterator[Callable[[Network], Network]]:
        """If what is done inside fails, each shard that it was begun with becomes as it was."""
        begun: List[Tuple[Network, bool, Tuple[str, ...]]] = []

        def begin(shard: Network) -> Network:
            begun.append((shard, shard.is_up, tuple(entry["host_ifname"] for entry in shard.entries())))
            return shard
        try:
            yield begin
        except BaseException as cause:
            errors = []
            for shard, was_up, before in reversed(begun):
                try:
                    _put_back(shard, was_up, before)
                except Exception as error:
                    errors.append((shard, error))
            if not errors:
                raise
            left = [name for shard, _ in errors for name in [shard.bridge, *(entry["host_ifname"] for entry in shard.entries())]
                    if shard.netns.find(name)]
            rollback = RollbackError(cause, left, errors[0][1])
            if isinstance(cause, Exception):
                raise rollback from cause
            raise cause from rollback           # Ctrl-C stays Ctrl-C

    @staticmethod
    def _each(shards: Iterable[Network], call: Callable[[Network], Any], timeout: float) -> None:
        """Call with each shard, two at a time; all are tried. Raises what the first of them raised."""
        todo, errors = deque(enumerate(shards)), {}

        def work() -> None:
            while True:
                try:
                    place, shard = todo.popleft()
                except IndexError:
                    return
                try:
                    call(shard)
                except Exception as error:      # noqa: B902  told below
                    errors[place] = error

        helpers: List[threading.Thread] = []
        try:
            with suppress(RuntimeError):        # there may be no thread to be had; one can do it alone
                for _ in range(min(THREADS, len(todo)) - 1):
                    helper = threading.Thread(target=work, name="nsnet-shards")
                    helper.start()
                    helpers.append(helper)
            work()
        except BaseException:
            todo.clear()
            raise
        finally:
            _join(helpers)
        pending = [name for place in sorted(errors) for name in getattr(errors[place], "pending", ())]
        for place in sorted(errors):
            if not isinstance(errors[place], StillPending):
                raise errors[place]
        if errors:
            raise StillPending(pending, timeout)


def _capacity(subnets: Sequence[Address], some: Sequence[str], none: Sequence[str]) -> int:
    """How many attachments may have an "auto" address, which is one of the first subnet of each family."""
    first: Dict[int, int] = {}
    for pool in ranges.pools(subnets, some, none):
        if pool.spans:
            first.setdefault(pool.subnet.version, pool.size)
    return min(first.values(), default=0)


def _put_back(shard: Network, was_up: bool, before: Sequence[str]) -> None:
    """Without what was attached meanwhile; down, if it was."""
    new = [entry["host_ifname"] for entry in shard.entries() if entry["host_ifname"] not in before]
    if not was_up:
        shard.down()
    elif new:
        shard._detach_now(new, Deadline(removal.TIMEOUT), repairing=True)       # it stays up, even without any


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for their end, whatever interrupts; it is raised then."""
    interrupt: Optional[BaseException] = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:      # noqa: B902  of a signal handler
                interrupt = error
    if interrupt is not None:
        raise interrupt
