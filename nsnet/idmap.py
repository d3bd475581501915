"""User and group id maps: lines of /proc/PID/uid_map, checked before the kernel sees them; the ranges of /etc/subuid.

Pure. Knows user_namespaces(7): a map is at most 340 lines, written at once in less than 4096 bytes, and ids are 32 bits
of which the last is no id. The kernel takes numbers modulo 2**32, so "0 4294967296 1" would map container root to host
root: every number is checked here. Knows subuid(5), read as shadow's newuidmap reads it. Does not know who the caller
is; process.py and subids.py ask and choose.
"""

from __future__ import annotations

from collections.abc import Mapping

from nsnet.errors import UsageError
from nsnet.named import NamedTuple
from nsnet.values import is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Optional, Tuple, TypeAlias, Union

MAX_ID = 2**32 - 2                  # 2**32 - 1 is (uid_t)-1, "no change"
MAX_LINES = 340                     # UID_GID_MAP_MAX_EXTENTS, include/linux/user_namespace.h
MAX_BYTES = 4095


class Range(NamedTuple):
    """`count` ids from `inside` in the new namespace are those from `outside` in its parent."""

    inside: int
    outside: int
    count: int


Maps: TypeAlias = "Union[Mapping[int, int], Iterable[Tuple[int, int, int]]]"


def check(value: Maps, what: str = "uid_map") -> Tuple[Range, ...]:
    """A map as ranges: {inside: outside, ...} for single ids, or (inside, outside, count) tuples.

    Raises UsageError for a number outside 0 to 2**32 - 2, a range that wraps, ranges that overlap on either side,
    too many.
    """
    if isinstance(value, (str, bytes)):
        raise UsageError(f"{what} {value!r}: expected {{inside: outside}} or (inside, outside, count) tuples")
    try:
        rows = ([(inside, outside, 1) for inside, outside in value.items()] if isinstance(value, Mapping)
                else [tuple(row) for row in value])
    except TypeError:
        raise UsageError(f"{what} {value!r}: expected {{inside: outside}} or (inside, outside, count) tuples") from None
    ranges = []
    for row in rows:
        if len(row) != 3:
            raise UsageError(f"{what} {row!r}: expected (inside, outside, count)")
        for number in row:
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_ID + 1:
                raise UsageError(f"{what} {row!r}: expected whole numbers from 0 to {MAX_ID}, not {number!r}")
        inside, outside, count = row
        if count < 1 or max(inside, outside) + count - 1 > MAX_ID:
            raise UsageError(f"{what} {row!r}: expected a count of at least 1 that ends at {MAX_ID} at the latest")
        ranges.append(Range(inside, outside, count))
    if not 1 <= len(ranges) <= MAX_LINES:
        raise UsageError(f"{what}: expected 1 to {MAX_LINES} lines, not {len(ranges)}")
    for side in (0, 1):
        ordered = sorted(ranges, key=lambda item: item[side])
        for before, after in zip(ordered, ordered[1:]):
            if before[side] + before.count > after[side]:
                raise UsageError(f"{what}: {tuple(before)} and {tuple(after)} overlap")
    if len(text(ranges)) > MAX_BYTES:
        raise UsageError(f"{what}: expected at most {MAX_BYTES} bytes in /proc's format")
    return tuple(ranges)


def text(ranges: Iterable[Range]) -> str:
    """The format of /proc/PID/uid_map."""
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)


def parse(content: str) -> Tuple[Range, ...]:
    """What /proc/PID/uid_map says."""
    return tuple(Range(*map(int, line.split())) for line in content.splitlines() if line.strip())


def outside_of(ranges: Iterable[Range], inside: int) -> Optional[int]:
    """The id outside that `inside` stands for; None if it is not mapped."""
    for item in ranges:
        if item.inside <= inside < item.inside + item.count:
            return item.outside + inside - item.inside
    return None


def parse_option(value: str, what: str) -> Tuple[Range, ...]:
    """INSIDE:OUTSIDE:COUNT[,...] of a command line."""
    rows = []
    for part in value.split(","):
        words = part.split(":")
        if len(words) != 3 or not all(is_number(word, 10) for word in words):
            raise UsageError(f"{what} {value!r}: expected INSIDE:OUTSIDE:COUNT, several separated by commas")
        rows.append(tuple(int(word) for word in words))
    return check(rows, what)


# --- subordinate ids: what /etc/subuid gives to a user ---

SUBID_LINE = 1023                   # bytes of a line that shadow looks at: rangebuf[] in lib/subordinateio.c

# strtoul() with base 0, as lib/subordinateio.c calls it. It would take "-1" too, and wrap; that is no id, and left out.
_NUMBER = r"[ \t\v\f\r]*\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<octal>[0-7]*)|(?P<decimal>[1-9][0-9]*))"


class Subordinate(NamedTuple):
    """`count` ids from `start`, of the user with that login name or number: a line of /etc/subuid or subgid."""

    owner: str
    start: int
    count: int


def parse_subids(content: str) -> Tuple[Subordinate, ...]:
    """The lines of /etc/subuid or /etc/subgid, in their order. What is no OWNER:START:COUNT is passed over.

    shadow, subordinate_parse() in lib/subordinateio.c: there is no comment and no space around a name; a number may be
    octal or hexadecimal; what comes after a third ":" counts for nothing; a line of 1024 bytes, or with + or - in
    front (NIS), gives nobody anything. Nor does a range without ids.
    """
    found = []
    for line in content.split("\n"):
        fields = line.split(":")
        if len(line.encode("utf-8", "surrogatepass")) > SUBID_LINE or len(fields) < 3 or "\0" in line:
            continue
        start, count = _number(fields[1]), _number(fields[2])
        if fields[0] and fields[0][0] not in "+-" and start is not None and count:
            found.append(Subordinate(fields[0], start, count))
    return tuple(found)


def _number(text: str) -> Optional[int]:
    import re                           # here: only who wants a range of ids comes this far

    match = re.fullmatch(_NUMBER, text)
    if match is None:
        return None
    if match["decimal"]:
        number = int(match["decimal"])
    else:
        number = int(match["hex"], 16) if match["hex"] else int(match["octal"] or "0", 8)
    return number if number < 2**64 else None       # ERANGE of strtoul()


def subid_source(content: str) -> str:
    """Who knows the subordinate ids, from the text of /etc/nsswitch.conf: "files", or the name of a plugin ("sss").

    shadow, nss_init() in lib/nss.c: the first line that begins with "subid:" and goes on, and of that the first word.
    """
    for line in content.split("\n"):
        if line[:6].lower() == "subid:" and line[6:].split():
            return line[6:].split()[0]
    return "files"


def subids_of(entries: Iterable[Subordinate], owners: Iterable[str]) -> Tuple[Subordinate, ...]:
    """The ranges of one user, in the order of the file. `owners`: its login names, and its uid in decimal."""
    owners = frozenset(owners)
    return tuple(entry for entry in entries if entry.owner in owners)


def beyond_own(ranges: Iterable[Range], own: int) -> bool:
    """Whether a map is more than the caller's own single id, all that the kernel lets the unprivileged write.

    new_idmap_permitted() in kernel/user_namespace.c. `own`: the caller's effective id. For a gid_map the kernel wants
    setgroups denied before.
    """
    return [(item.outside, item.count) for item in ranges] != [(own, 1)]


def check_allowed(ranges: Iterable[Range], own: int, subordinate: Iterable[Subordinate], what: str = "uid_map") -> None:
    """Refuse what newuidmap or newgidmap would: ids outside that are not the caller's.

    Each line must lie wholly in the subordinate ranges, which may touch or overlap, or be the caller's own id with a
    count of 1 (verify_range() in shadow's src/newuidmap.c). Raises UsageError with the first line that does not.
    """
    subordinate = sorted(subordinate, key=lambda entry: entry.start)
    for item in ranges:
        if item.count == 1 and item.outside == own:
            continue
        at = item.outside               # the ids before it are covered
        for entry in subordinate:
            if entry.start <= at:
                at = max(at, entry.start + entry.count)
        if at < item.outside + item.count:
            given = ", ".join(f"{entry.start}-{entry.start + entry.count - 1}" for entry in subordinate[:8])
            more = ", ..." if len(subordinate) > 8 else ""
            raise UsageError(f"{what} {tuple(item)!r}: {at} is neither the caller's own id {own} (count 1) nor one of"
                             f" its subordinate ids, which are {given + more or 'none'}")


def rootless(own: int, subordinate: Iterable[Subordinate], what: str = "uid_map") -> Tuple[Range, ...]:
    """The usual map of rootless engines: 0 is the caller, 1 and on are its subordinate ids, in the order of the file.

    An id that is there twice is taken once, one beyond 2**32 - 2 never. What would not fit into a map (340 lines, 4095
    bytes) is left out. Without subordinate ids it is the caller's own id alone. Raises UsageError if `own` is no id.
    """
    ranges = list(check([(0, own, 1)], what))
    size = len(text(ranges))
    for entry in subordinate:
        for start, end in _without(ranges, max(entry.start, 0), min(entry.start + entry.count, MAX_ID + 1)):
            piece = Range(ranges[-1].inside + ranges[-1].count, start, end - start)
            size += len(text([piece]))
            if len(ranges) == MAX_LINES or size > MAX_BYTES:
                return check(ranges, what)
            ranges.append(piece)
    return check(ranges, what)


def _without(taken: Iterable[Range], start: int, end: int) -> List[Tuple[int, int]]:
    """The pieces of start ... end - 1 that no range has outside."""
    pieces = []
    for item in sorted(taken, key=lambda item: item.outside):
        if item.outside + item.count <= start or end <= item.outside:
            continue
        if start < item.outside:
            pieces.append((start, item.outside))
        start = item.outside + item.count
    if start < end:
        pieces.append((start, end))
    return pieces
