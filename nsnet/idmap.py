"""User and group id maps: lines of /proc/PID/uid_map, checked before the kernel sees them.

Pure. Knows user_namespaces(7): a map is at most 340 lines, written at once in less than 4096 bytes, and ids are 32 bits of
which the last is no id. The kernel takes numbers modulo 2**32, so "0 4294967296 1" would map container root to host root:
every number is checked here. Does not know who the caller is; process.py asks and chooses.
"""

import re
from typing import Iterable, Mapping, NamedTuple, Optional, Tuple, Union

from nsnet.errors import UsageError

MAX_ID = 2**32 - 2                  # 2**32 - 1 is (uid_t)-1, "no change"
MAX_LINES = 340                     # UID_GID_MAP_MAX_EXTENTS, include/linux/user_namespace.h
MAX_BYTES = 4095


class Range(NamedTuple):
    """`count` ids from `inside` in the new namespace are those from `outside` in its parent."""

    inside: int
    outside: int
    count: int


Maps = Union[Mapping[int, int], Iterable[Tuple[int, int, int]]]


def check(value: Maps, what: str = "uid_map") -> Tuple[Range, ...]:
    """A map as ranges: {inside: outside, ...} for single ids, or (inside, outside, count) tuples.

    Raises UsageError for a number outside 0 to 2**32 - 2, a range that wraps, ranges that overlap on either side, too many.
    """
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
        if len(words) != 3 or not all(re.fullmatch(r"[0-9]{1,10}", word) for word in words):
            raise UsageError(f"{what} {value!r}: expected INSIDE:OUTSIDE:COUNT, several separated by commas")
        rows.append(tuple(int(word) for word in words))
    return check(rows, what)
